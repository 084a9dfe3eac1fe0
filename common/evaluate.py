"""Evaluation: the degradation and the inferer of everywhere else on held-out images, scored beside bicubic.

An image at a time: read, degraded, super-resolved, scored, forgotten. The three slices that are drawn are made again.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from monai.inferers import Inferer

from .baselines import further_baselines
from .blocks.upsample import Bicubic
from .config import check_settings, config_sha256
from .data.items import Item, paths_of
from .errors import CaseWarning, as_flag, exits_on_mistake, explain
from .inferers import AnyScaleInferer, PlaneInferer, infer_planes
from .io.case import Case
from .io.whole import write_whole
from .judges import Judge
from .metrics import METRICS, consistency, score, to_unit
from .picture import draw_comparison
from .protocol import Pair, Preprocessing, Protocol, make_pair, told_planes
from .run import writable
from .tables import (
    BICUBIC,
    COLUMNS,
    HR,
    REFERENCES,
    REGION_PATIENTS,
    REGION_SLICES,
    SEGMENTATION,
    Row,
    by_patient,
    markdown,
    mean,
    summarise,
    write_tables,
)

logger = logging.getLogger("common.evaluate")
R = TypeVar("R")


@dataclass(frozen=True)
class Method:
    """A name in the tables, a network, and the inferer that it goes through; on ``device``."""

    name: str
    network: torch.nn.Module
    inferer: Inferer
    device: torch.device

    def __call__(self, low: torch.Tensor, case: Case) -> torch.Tensor:
        """LR planes ``(N, C, H, W)`` to SR planes, as one volume stacked along the slice axis of ``case``."""
        return infer_planes(self.inferer, self.network, low, case, self.device)


@dataclass
class Result:
    """What became of one image: rows and what each judge found, or the error that it ended in; warnings on the way."""

    rows: list[Row] = field(default_factory=list)
    findings: list[list[Any]] = field(default_factory=list)
    error: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """Bicubic, perhaps other baselines, and one other method on a list of images.

    Attributes:
        items: of :func:`common.data.items.read_splits`.
        preprocessing: from the path under ``image`` to a normalised image with its record.
        protocol: how images become scores.
        methods: bicubic first, the one that is judged last; none where judges alone look at HR.
        judges: look at HR and at the results beside the metrics.
    """

    items: Sequence[Item]
    preprocessing: Preprocessing
    protocol: Protocol
    methods: tuple[Method, ...]
    judges: Sequence[Judge] = ()

    def run(self, rank: int = 0, world: int = 1) -> dict[int, Result]:
        """Results of every ``world``-th image from number ``rank`` on; an image that fails does not cost the others."""
        return {number: self._run_item(number) for number in range(rank, len(self.items), world)}

    def _run_item(self, number: int) -> Result:
        item, started = self.items[number], time.perf_counter()
        name = paths_of(item)[0]
        found, error, notes = attempt(name, lambda: self.score(item))
        rows, findings = found or ([], [])
        text = f"FAILED {error}" if error else f"{name}: {self.told(rows)}"
        logger.info("%d of %d: %s, %.1f s", number + 1, len(self.items), text, time.perf_counter() - started)
        return Result(rows, findings, error, notes)

    def told(self, rows: Sequence[Row]) -> str:
        """Mean PSNR of each method over the slices of an image, for the log."""
        if not rows:
            return "done"
        parts = []
        for method in self.methods:
            values = [row.psnr for row in rows if row.method == method.name]
            parts.append(f"{method.name} {mean(values):.2f} dB")
        return f"{', '.join(parts)} over {len(rows) // len(self.methods)} slices"

    def score(self, item: Item) -> tuple[list[Row], list[list[Any]]]:
        """Read and degrade an image, and :meth:`score_pair`."""
        return self.score_pair(item, make_pair(item, self.preprocessing, self.protocol))

    def score_pair(self, item: Item, pair: Pair) -> tuple[list[Row], list[list[Any]]]:
        """Rows of all planes of an image by all methods, and what each judge found on HR and on theirs.

        One method's volume is in memory at a time.
        """
        rows = []
        looks = [judge.begin(item, pair) for judge in self.judges]
        findings = [[look(HR, pair.high)] for look in looks]
        for method in self.methods:
            volume = method(pair.low, pair.case)
            for number, sr in enumerate(volume):
                scores = self._score_plane(sr, pair, number)
                rows.append(Row(method.name, item["patient"], paths_of(item)[0], pair.planes[number], **scores))
            for look, found in zip(looks, findings, strict=True):
                found.append(look(method.name, volume))
        return rows, findings

    def _score_plane(self, sr: torch.Tensor, pair: Pair, number: int) -> dict[str, float | None]:
        protocol, limits = self.protocol, pair.limits
        scores = score(to_unit(sr, limits), to_unit(pair.high[number], limits), protocol.margin)
        left = consistency(sr, pair.low[number], protocol.degradation, protocol.factors, limits)
        return {**scores, "consistency": left}

    def draw(self, rows: Sequence[Row], folder: Path) -> None:
        """``worst.png``, ``median.png`` and ``best.png``: the slices of least, middle and highest PSNR.

        Each is super-resolved alone; a consistency bound then refers to the range of that slice, not of its volume.
        """
        name = self.methods[-1].name
        ranked = sorted((row for row in rows if row.method == name), key=lambda row: row.psnr or 0.0)
        for case, place in (("worst", 0), ("median", (len(ranked) - 1) // 2), ("best", -1)):
            row = ranked[place]
            base = next(r for r in rows if (r.method, r.image, r.plane) == (BICUBIC, row.image, row.plane))
            self._draw_plane(case, row, base, folder)

    def _draw_plane(self, case: str, row: Row, base: Row, folder: Path) -> None:
        item = next(item for item in self.items if paths_of(item)[0] == row.image)
        pair = make_pair(item, self.preprocessing, self.protocol)
        number = pair.planes.index(row.plane)
        low = pair.low[number : number + 1]
        bicubic, sr = (method(low, pair.case)[0] for method in (self.methods[0], self.methods[-1]))
        images = low[0], bicubic, sr, pair.high[number]
        titles = [
            f"{case} slice by PSNR of {row.method}: {row.patient}, {Path(row.image).name}, plane {row.plane}",
            f"LR, scale {self.protocol.scale}",
            f"bicubic, {base.psnr:.2f} dB",
            f"{row.method}, {row.psnr:.2f} dB",
            "HR",
        ]
        sheet = draw_comparison([to_unit(image, pair.limits)[0] for image in images], titles, pair.case)
        write_whole(folder / f"{case}.png", sheet.save)


def evaluate(
    network: torch.nn.Module,
    inferer: PlaneInferer,
    items: Sequence[Item],
    preprocessing: Preprocessing,
    protocol: Protocol,
    output_dir: str,
    method: str = "SR",
    device: str | torch.device = "cpu",
    pictures: bool = True,
    weights_sha256: str | None = None,
    judges: Sequence[Judge] = (),
    baselines: Sequence[str] = (),
) -> dict[str, Any]:
    """Score ``network`` and bicubic on all ``items``; write tables and pictures into ``output_dir``.

    The files are ``slices.csv``, ``patients.csv``, ``summary.json``, ``summary.md`` (for a model card), ``worst.png``,
    ``median.png`` and ``best.png``. Where torch.distributed is initialised, each process takes its part of the items,
    and the first one writes.

    Args:
        network, inferer: of the bundle's inference; bicubic goes through a plain inferer of the same class.
        items, preprocessing, protocol: see :class:`Evaluation`.
        output_dir: folder; made where it is missing. Earlier results in it are replaced.
        method: name of the network in the tables.
        device: of the network.
        pictures: whether to draw the three slices.
        weights_sha256: recorded.
        judges: see :mod:`common.judges`; each adds its tables.
        baselines: further rows, by their names in :data:`common.baselines.BASELINES`.

    Returns:
        What ``summary.json`` says; in other processes than the first, nothing.

    Raises:
        ValueError: an argument is wrong, or what a baseline needs is not installed.
        SystemExit: the folder cannot be written, or an image failed; the message names it and why. The others are done.
    """
    check_settings()
    check_method(method, inferer)
    pictures = as_flag(pictures, "pictures")
    others = further_baselines(baselines, protocol.scale)
    folder, device = writable(output_dir), torch.device(device)
    bicubic = baseline(protocol, inferer, device)
    further = (replace(bicubic, name=name, network=other) for name, other in others.items())
    methods = bicubic, *further, Method(method, network, inferer, device)
    evaluation = Evaluation(items, preprocessing, protocol, methods, judges)
    results = run_all(evaluation.run)
    if results is None:
        return {}
    about = {"weights_sha256": weights_sha256, "config_sha256": config_sha256()}
    return _conclude(evaluation, results, folder, about, pictures)


def check_method(method: str, inferer: PlaneInferer) -> None:
    """Raise ``ValueError`` where the network has the name of a baseline, or a spacing would say how large it is."""
    if method in REFERENCES:
        raise ValueError(f"method: must not be {method}, which is the name of a baseline; choose another")
    asked = inferer.magnification.target_spacing if isinstance(inferer, AnyScaleInferer) else None
    if asked is not None:
        raise ValueError(
            f"target_spacing: must be none in an evaluation, which makes LR by a factor, got {asked}; pass --scale"
        )


def baseline(protocol: Protocol, inferer: PlaneInferer, device: torch.device) -> Method:
    """Bicubic at the scale of ``protocol``, as many planes at once as by ``inferer``."""
    bicubic = Bicubic(protocol.scale, protocol.degradation.antialias)  # the kernel that made LR also enlarges it
    return Method(BICUBIC, bicubic, PlaneInferer(protocol.scale, inferer.batch_size), device)


def attempt(name: str, work: Callable[[], R]) -> tuple[R | None, str | None, list[str]]:
    """What ``work`` on the image ``name`` gives, or None and why; and the warnings on the way.

    Whatever is wrong with one image must not cost the others.
    """
    found, failure = None, None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CaseWarning)
        try:
            found = work()
        except Exception as error:
            failure = explain(error, name)
            logger.debug("%s", failure, exc_info=True)
    texts = dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, CaseWarning))
    return found, failure, [f"{name}: {text}" for text in texts]


def run_all(run: Callable[[int, int], dict[int, R]]) -> list[R] | None:
    """Results of all processes, in the order of the items; None in other processes than the first.

    Args:
        run: takes the number of a process and how many there are; gives the results of its items by their numbers.
    """
    distributed = dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    part = run(rank, world)
    parts: list[Any] = [part] * world
    if world > 1:
        dist.all_gather_object(parts, part)
    if rank > 0:
        return None
    return [result for _, result in sorted({n: r for p in parts for n, r in p.items()}.items())]


def hear(judge: Judge, number: int, results: Sequence[Result], folder: Path) -> tuple[dict[str, Any], str]:
    """What ``judge``, the one of this number, concludes of all images that did not fail."""
    return judge.conclude([found for r in results if r.findings for found in r.findings[number]], folder)


def refuse_failed(failed: Sequence[str], count: int, folder: Path) -> None:
    """``SystemExit`` that names the images that failed, of ``count``, and why."""
    if failed:
        others = f", the tables in {folder} are of the others" if len(failed) < count else ""
        reasons = "\n".join(f"  {reason}" for reason in failed)
        raise SystemExit(f"error: {len(failed)} of {count} images failed{others}:\n{reasons}")


def _conclude(
    evaluation: Evaluation, results: Sequence[Result], folder: Path, about: dict[str, Any], pictures: bool
) -> dict[str, Any]:
    rows, failed = [row for r in results for row in r.rows], [r.error for r in results if r.error]
    items, protocol, method = evaluation.items, evaluation.protocol, evaluation.methods[-1].name
    summary = protocol.describe(items) | about
    if rows:
        summary |= summarise(rows, method)
        summary["notes"] = _blanks(rows) + [note for r in results for note in r.notes]
        summary["failed"] = failed
        text = markdown(by_patient(rows), method, f"×{protocol.scale}, {protocol.name}{told_planes(protocol.every)}")
        text += (
            f"\nData range: {summary['data_range']}. {' '.join(f'{note}.' for note in _blanks(rows))}".rstrip() + "\n"
        )
        for name in (SEGMENTATION, REGION_SLICES, REGION_PATIENTS):  # of an earlier evaluation
            (folder / name).unlink(missing_ok=True)
        for number, judge in enumerate(evaluation.judges):
            more, table = hear(judge, number, results, folder)
            summary |= more
            text += f"\n{table}"
        write_tables(folder, rows, summary, text)
        logger.info("mean ± SD over patients (%d, with %d slices)\n\n%s", summary["patients"], summary["slices"], text)
        for note in summary["notes"]:
            logger.warning("%s", note)
        if pictures:
            evaluation.draw(rows, folder)
    refuse_failed(failed, len(items), folder)
    return summary


def _blanks(rows: Sequence[Row]) -> list[str]:
    """A note for each metric that some slices are too small for."""
    notes = []
    for name, (_, side) in METRICS.items():
        count = len({(row.image, row.plane) for row in rows if getattr(row, name) is None})
        if count:
            text = f"{COLUMNS[name][0]} is blank for {count} slices: it needs sides of {side} pixels inside the border"
            notes.append(text)
    return notes


evaluate_or_exit = exits_on_mistake(evaluate)
