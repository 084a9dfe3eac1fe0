"""One case at a time: a fresh evaluator each, a JSON line each, and an exit code that tells whether all went well.

MONAI's evaluator stops at the first bad file, loses those after it, and does not name it.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.engines import Evaluator, SupervisedEvaluator
from monai.transforms import Transform

from .data.files import find_cases
from .errors import CaseWarning, causes, exits_on_mistake, find_mistake
from .geometry import spacing
from .inferers import PlaneInferer
from .io.case import Case
from .io.dicom.derived import Provenance
from .io.dicom.series import Series
from .io.transforms import CaseSaveImaged
from .memory import peak_mb
from .transforms.grid import RESIDUAL

LOG = "cases.jsonl"
PLACES = ("dataset_dir", "output_dir", "bundle_root", "ckpt_path", "_meta_")  # say where, not how
logger = logging.getLogger("common.run")
plane_inferer_or_exit = exits_on_mistake(PlaneInferer)


def list_cases(path: str | os.PathLike[str], output_dir: str | os.PathLike[str]) -> list[str | Series]:
    """:func:`find_cases` for a config: empty where there is none, so that hosts without data can parse the config."""
    try:
        return find_cases(path, output_dir)[0]
    except ValueError:  # run_cases says why
        return []


def run_cases(
    evaluator: SupervisedEvaluator,
    postprocessing: Transform,
    dataset_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    scale: float,
    weights_sha256: str,
    image_key: str = "image",
    pred_key: str = "pred",
) -> list[dict[str, Any]]:
    """Run every case of ``evaluator`` by an evaluator of its own; write one line each to ``output_dir/cases.jsonl``.

    Args:
        evaluator: holds the network, the inferer and a data loader over a dataset of paths.
        postprocessing: its postprocessing, which ends in saving the result.
        dataset_dir: where the cases were looked for.
        output_dir: folder of results and of the JSON lines; made where it is missing.
        scale, weights_sha256: recorded.
        image_key, pred_key: of the input and of the result.

    Returns:
        What the JSON lines say.

    Raises:
        SystemExit: there is no case, the folder cannot be written, or a case failed; the message names it and why.
    """
    exits_on_mistake(check_settings)()
    folder = writable(output_dir, LOG)
    common = {"scale": scale, "weights_sha256": weights_sha256, "config_sha256": config_sha256()}
    cases = evaluator.data_loader.dataset.data  # type: ignore[union-attr]
    if not cases:
        exits_on_mistake(find_cases)(dataset_dir, output_dir)
    _hand_provenance(
        postprocessing, Provenance("rdst", "0.1.0", scale, weights_sha256 or "", common["config_sha256"] or "")
    )
    lines = []
    for number, case in enumerate(cases, start=1):
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        line = {"time": started, "input": os.path.abspath(case[image_key]), **common}
        line["device"] = str(evaluator.state.device)
        line |= _run_case(evaluator, postprocessing, case, image_key, pred_key)
        with open(folder / LOG, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        logger.info("%d of %d: %s", number, len(cases), _summary(line))
        lines.append(line)
    failed = [line for line in lines if "error" in line]
    if failed:
        reasons = "\n".join(f"  {line['error']}" for line in failed)
        others = ", the others are done" if len(failed) < len(lines) else ""
        raise SystemExit(f"error: {len(failed)} of {len(lines)} images failed{others}:\n{reasons}")
    return lines


def _hand_provenance(postprocessing: Transform, provenance: Provenance) -> None:
    for transform in getattr(postprocessing, "transforms", []):
        if isinstance(transform, CaseSaveImaged):
            transform.provenance = provenance


def _run_case(
    evaluator: SupervisedEvaluator, postprocessing: Transform, case: Mapping[str, Any], image_key: str, pred_key: str
) -> dict[str, Any]:
    device, started = evaluator.state.device, time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    line: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CaseWarning)
        try:
            output = _fresh(evaluator, postprocessing, case)
            line |= _describe(output[image_key], output[pred_key])
        except Exception as error:  # whatever is wrong with one image must not cost the others
            line["error"] = explain(error, str(case[image_key]))
            logger.debug("%s", line["error"], exc_info=True)
    line["seconds"] = round(time.perf_counter() - started, 3)
    line["peak_memory_mb"] = round(peak_mb(device), 1)
    line["warnings"] = list(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, CaseWarning)))
    return line


def _fresh(evaluator: SupervisedEvaluator, postprocessing: Transform, case: Mapping[str, Any]) -> Mapping[str, Any]:
    dataset = Dataset([case], transform=evaluator.data_loader.dataset.transform)  # type: ignore[union-attr]
    one: Evaluator = type(evaluator)(
        device=evaluator.state.device,
        val_data_loader=DataLoader(dataset, batch_size=1),
        network=evaluator.network,
        inferer=evaluator.inferer,
        prepare_batch=evaluator.prepare_batch,
        postprocessing=postprocessing,
    )
    one.logger.setLevel(logging.CRITICAL)  # what goes wrong is reported once, with the file's name
    one.run()
    return one.state.output[0]


def _describe(low: Any, high: Any) -> dict[str, Any]:
    case = Case.from_meta(low.meta)
    saved = high.meta.get("saved_to")
    return {
        "output": os.path.abspath(saved) if saved else None,
        "volume": case.volume if case else None,
        "slice_axis": case.slice_axis if case else None,
        "units": case.units if case else "unknown",
        "spacing": [round(v, 6) for v in spacing(low.affine.cpu().numpy())],
        "sr_spacing": [round(v, 6) for v in spacing(high.affine.cpu().numpy())],
        "sr_shape": list(high.shape[1:]),
        RESIDUAL: high.meta.get(RESIDUAL),
    }


def explain(error: BaseException, name: str) -> str:
    """One sentence with the file's name and the remedy, out of whatever went wrong with it."""
    chain = list(causes(error))
    if any(_is_out_of_memory(cause) for cause in chain):
        return f"{name}: out of memory; pass a smaller --memory_mb, or run where there is more"
    cause = find_mistake(error) or chain[-1]
    text = " ".join(str(cause).split())
    if find_mistake(error) is None:
        text = f"unexpected {type(cause).__name__}: {text}; please report it with the file's header"
    return text if name in text else f"{name}: {text}"


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def writable(output_dir: str | os.PathLike[str], log: str = "") -> Path:
    """The folder, made where it is missing; ``SystemExit`` where neither ``log`` nor any file can be written in it."""
    folder = Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / log, "ab") if log else TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise SystemExit(f"error: {folder}: cannot be written ({error}); choose another --output_dir") from error


def running_config() -> dict[str, Any] | None:
    """The configuration that MONAI's runner is executing, overlays and overrides included; None where there is none.

    An expression of a config cannot see its own config, but the parser that evaluates it is up the stack.
    """
    frame = inspect.currentframe()
    while frame is not None:
        parser = frame.f_locals.get("self")
        if isinstance(parser, ConfigParser):
            return dict(parser.get())
        frame = frame.f_back
    return None


def config_sha256() -> str | None:
    """SHA-256 of :func:`running_config` without the paths, which say where, not how."""
    config = running_config()
    if config is None:
        return None
    settings = {key: value for key, value in config.items() if key not in PLACES}
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def check_settings() -> None:
    """Refuse a setting that nothing in the running config refers to and that looks like a misspelt one.

    MONAI accepts any ``--name value``, so that ``--slice_axs 0`` would do nothing, in silence. What refers to another
    setting comes from a file, which may serve training as well as evaluation.
    """
    config = running_config() or {}
    text = json.dumps({key: value for key, value in config.items() if key != "_meta_"}, default=str)
    used = set(re.findall(r"@(\w+)", text))
    for name, value in config.items():
        refers = isinstance(value, str) and value.startswith(("@", "$"))
        similar = difflib.get_close_matches(name, used - {name}, n=1, cutoff=0.8)
        if name not in used and not refers and similar and similar[0] in config:
            raise ValueError(f"--{name}: there is no such setting; did you mean --{similar[0]}?")


def _summary(line: Mapping[str, Any]) -> str:
    if "error" in line:
        return f"FAILED {line['error']}"
    before, after = ("x".join(f"{v:.3g}" for v in line[key]) for key in ("spacing", "sr_spacing"))
    notes = "".join(f"\n    warning: {text}" for text in line["warnings"])
    return (
        f"{line['output']}\n    spacing {before} -> {after} {line['units']}, consistency residual {line[RESIDUAL]:.2e} "
        f"of the range, {line['seconds']:.1f} s, peak memory {line['peak_memory_mb']:.0f} MB{notes}"
    )
