"""A case on its way: read and prepared, through the network by a MONAI evaluator of its own, finished and written."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import Dataset, list_data_collate
from monai.engines import Evaluator, SupervisedEvaluator
from monai.engines.utils import engine_apply_transform
from monai.transforms import Transform

from .data.worklist import Source, sha256_of
from .errors import explain, noting
from .geometry import spacing
from .io.case import Case
from .magnification import MILLIMETRES
from .memory import peak_mb
from .resume import begin
from .transforms.grid import RESIDUAL

logger = logging.getLogger("common.run")


@dataclass
class Job:
    """A case and what became of it so far.

    Attributes:
        case: item of the dataset.
        source: its image.
        output: where its result will be; None where nobody knows before it is written.
        line: its JSON line; with ``"error"`` the stages that are left pass it by.
        notes: texts of its warnings.
        seconds: of work.
        finished: whether an earlier run did it.
        refused: whether it failed before any work.
        begun: ``output`` while it bears our mark.
        data: what a stage hands to the next.
    """

    case: Mapping[str, Any]
    source: Source
    output: Path | None
    line: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    finished: bool = False
    refused: bool = False
    begun: Path | None = None
    data: Any = None


def attempt(step: Callable[[Job], None], job: Job) -> Job:
    """``step(job)``; whatever is wrong with one image is noted in its line and costs the others nothing."""
    if "error" in job.line:
        return job
    started = time.perf_counter()
    with noting(job.notes):
        try:
            step(job)
        except Exception as error:
            job.line["error"], job.data = explain(error, str(job.source)), None
            logger.debug("%s", job.line["error"], exc_info=True)
    job.seconds += time.perf_counter() - started
    return job


class Stages:
    """What ``evaluator`` and ``postprocessing`` do to an image, in three stages that may overlap between images.

    MONAI's evaluator does all in one, stops at the first bad file, loses those after it, and does not name it.
    """

    def __init__(
        self, evaluator: SupervisedEvaluator, postprocessing: Transform, image_key: str, pred_key: str
    ) -> None:
        self.evaluator, self.postprocessing = evaluator, postprocessing
        self.image_key, self.pred_key = image_key, pred_key

    def read(self, job: Job) -> None:
        """Hash, read and prepare; leaves a batch of one."""
        job.line["time"] = now()
        job.line["input_sha256"] = job.line["input_sha256"] or sha256_of(job.source)
        dataset = Dataset([job.case], transform=self.evaluator.data_loader.dataset.transform)  # type: ignore[union-attr]
        job.data = list_data_collate([dataset[0]])

    def compute(self, job: Job) -> None:
        """Batch to network; leaves what went in and what came out, on the CPU."""
        device, loader = self.evaluator.state.device, [job.data]
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        job.data = None
        one: Evaluator = type(self.evaluator)(
            device=device,
            val_data_loader=loader,
            network=self.evaluator.network,
            inferer=self.evaluator.inferer,
            prepare_batch=self.evaluator.prepare_batch,
        )
        one.logger.setLevel(logging.CRITICAL)  # what goes wrong is reported once, with the file's name
        one.run()
        (batch,), (output,) = one.state.batch, one.state.output
        loader.clear()
        one.state.batch = one.state.output = None  # an engine lives until the garbage is collected
        job.data = batch, {key: _on_cpu(value) for key, value in output.items()}
        if device.type == "cuda":
            job.line["peak_memory_mb"] = round(peak_mb(device), 1)

    def write(self, job: Job) -> None:
        """Postprocess, which saves the result, and describe it."""
        if job.output is not None:
            begin(job.output)
            job.begun = job.output
        (batch, output), job.data = job.data, None
        _, output = engine_apply_transform(batch, output, self.postprocessing)
        job.line |= _describe(output[self.image_key], output[self.pred_key])


def now() -> str:
    """The time as JSON lines have it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, torch.Tensor) else value


def _describe(low: Any, high: Any) -> dict[str, Any]:
    case = Case.from_meta(low.meta)
    low_affine, high_affine = low.affine.cpu().numpy(), high.affine.cpu().numpy()
    saved = high.meta.get("saved_to")
    return {
        "output": os.path.abspath(saved) if saved else None,
        "volume": case.volume if case else None,
        "slice_axis": case.slice_axis if case else None,
        "units": case.units if case else "unknown",
        "spacing": [round(v, 6) for v in spacing(low_affine)],
        "sr_spacing": [round(v, 6) for v in spacing(high_affine)],
        "sr_shape": list(high.shape[1:]),
        "factors": [round(a / b, 6) for a, b in zip(spacing(low_affine), spacing(high_affine), strict=True)],
        RESIDUAL: high.meta.get(RESIDUAL),
        "region": None if case is None or case.box is None else _describe_region(case, low.shape[1:], low_affine),
    }


def _describe_region(case: Case, size: Sequence[int], affine: np.ndarray) -> dict[str, Any]:
    """Where the region lies: its first and after last LR voxel along X, Y and Z, and its centre (RAS, mm)."""
    middle = np.asarray(affine, dtype=np.float64) @ [*((n - 1) / 2 for n in size), 1.0]
    unit = 1.0 if case.units == "unknown" else MILLIMETRES.get(case.units)  # None: pixels without a size
    centre = None if unit is None else [round(unit * float(v), 4) for v in middle[:3]]
    return {"voxels": case.box, "centre_mm": centre}
