"""Evaluation over scales: scores beside bicubic at each magnification, as tables and curves.

Zhu, dissertation, figures 4.4 and 4.5, tables 4.1 and 4.2. Each image is read once and serves every scale.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from .config import check_settings, config_sha256
from .curves import draw_scales, need_matplotlib
from .data.items import Item, paths_of
from .errors import as_flag, exits_on_mistake
from .evaluate import Evaluation, Method, Result, attempt, baseline, check_method, hear, refuse_failed, run_all
from .features import FeatureJudge
from .inferers import PlaneInferer
from .judges import Judge
from .metrics import METRICS
from .progress import Progress
from .protocol import Preprocessing, Protocol, read_truth
from .run import writable
from .scale_tables import blank_notes, features_over_scales, over_scales, scales_below, write_scales
from .scales import TASKS, check_tasks, choose_scales, meaning, method_at, served_scale
from .tables import by_patient, summarise

CURVES = "scales.png"
logger = logging.getLogger("common.evaluate")


@dataclass(frozen=True)
class Point:
    """One scale of one task, which is the scale of the protocol of its evaluation."""

    task: str
    scale: float
    evaluation: Evaluation


@dataclass(frozen=True)
class Scored:
    """What became of one image: a result for each point, or the error that it ended in; warnings on the way."""

    results: list[Result] = field(default_factory=list)
    error: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ScaleEvaluation:
    """Bicubic and one other method on a list of images, at several scales.

    Attributes:
        items, preprocessing, protocol: see :class:`common.evaluate.Evaluation`; the scale is the largest.
        points: tasks and scales.
    """

    items: Sequence[Item]
    preprocessing: Preprocessing
    protocol: Protocol
    points: Sequence[Point]

    def run(self, rank: int = 0, world: int = 1) -> dict[int, Scored]:
        """Results of every ``world``-th image from number ``rank`` on; an image that fails does not cost the others."""
        numbers = range(rank, len(self.items), world)
        total = len(numbers) * len(self.points)
        progress = Progress(total, total)
        return {number: self._run_item(self.items[number], progress) for number in numbers}

    def _run_item(self, item: Item, progress: Progress) -> Scored:
        end = progress.done + len(self.points)
        results, error, notes = attempt(paths_of(item)[0], lambda: self._score(item, progress))
        if error:
            logger.info("FAILED %s", error)
            progress.to_work_on -= end - progress.done  # what is left of this image takes no time
            progress.done = end
        return Scored(results or [], error, notes)

    def _score(self, item: Item, progress: Progress) -> list[Result]:
        """A result for each point; the image is read once."""
        truth, largest = read_truth(item, self.preprocessing, self.protocol), max(self.protocol.factors)
        truth.cut(self.protocol)  # an image too small for the largest scale fails now, not after all the others
        results = []
        for point in self.points:
            pair = TASKS[point.task](truth, point.evaluation.protocol, largest)
            rows, findings = point.evaluation.score_pair(item, pair)
            results.append(Result(rows, findings))
            where = f"{paths_of(item)[0]}, {point.task} x{point.scale:g}"
            logger.info("%s: %s, %s", progress.after(True), where, point.evaluation.told(rows))
        return results


def evaluate_scales(
    network: torch.nn.Module,
    inferer: PlaneInferer,
    items: Sequence[Item],
    preprocessing: Preprocessing,
    protocol: Protocol,
    output_dir: str,
    method: str = "SR",
    device: str | torch.device = "cpu",
    scales: Sequence[float] | None = None,
    tasks: Sequence[str] = tuple(TASKS),
    curves: bool = True,
    weights_sha256: str | None = None,
    judges: Sequence[Judge] = (),
    baselines: Sequence[str] = (),
) -> dict[str, Any]:
    """Score ``network`` and bicubic on all ``items`` at all ``scales``; write tables and curves into ``output_dir``.

    The files are ``scales.csv``, ``scales_patients.csv``, ``scales.json``, ``scales.md`` (for a model card) and
    ``scales.png``. Processes share the items as in :func:`common.evaluate.evaluate`.

    Args:
        network, inferer: of the bundle's inference. A network of any scale states ``any_scale``. One of scale n serves
            scales above n - 1 up to n, and is called reduced in every table.
        items, preprocessing, protocol: see :class:`common.evaluate.Evaluation`; the scale of ``protocol`` counts for
            nothing here.
        output_dir: folder; made where it is missing. Earlier results in it are replaced.
        method: name of the network in the tables.
        device: of the network.
        scales: HR pixels per LR pixel, each at least 1; None for those of 1.1, 1.2 … 4.0 that the network serves.
        tasks: some of ``TASKS``.
        curves: whether to draw ``scales.png``, which needs matplotlib.
        weights_sha256: recorded.
        judges: see :mod:`common.judges`; of features alone, as labels would not fit a truth that is reduced.
        baselines: none but bicubic here.

    Returns:
        What ``scales.json`` says; in other processes than the first, nothing.

    Raises:
        ValueError: an argument is wrong, or matplotlib is not installed.
        SystemExit: the folder cannot be written, or an image failed; the message names it and why. The others are done.
    """
    check_settings()
    check_method(method, inferer)
    _check_judges(judges)
    if baselines:
        raise ValueError(f"baselines: must be none over scales, got {list(baselines)}; leave them out")
    tasks, curves = check_tasks(tasks), as_flag(curves, "curves")
    if curves:
        need_matplotlib()
    serves = served_scale(network, inferer)
    chosen, folder = choose_scales(scales, serves), writable(output_dir)
    name = method if serves is None else f"{method} x{serves}, reduced"
    logger.info("%s at scales %s; tasks: %s", name, ", ".join(f"{s:g}" for s in chosen), ", ".join(tasks))
    own = Method(name, network, inferer, torch.device(device))
    whole = Evaluation(items, preprocessing, replace(protocol, scale=chosen[-1]), (own,), judges)
    evaluation = ScaleEvaluation(items, preprocessing, whole.protocol, _points(whole, inferer, tasks, chosen))
    scored = run_all(evaluation.run)
    if scored is None:
        return {}
    about = {
        "method": name,
        "reduced_from": serves,
        "scales": chosen,
        "tasks": {task: meaning(task, chosen[-1]) for task in tasks},
        "weights_sha256": weights_sha256,
        "config_sha256": config_sha256(),
    }
    return _conclude(evaluation, scored, about, folder, curves)


def _points(whole: Evaluation, inferer: PlaneInferer, tasks: Sequence[str], scales: Sequence[float]) -> list[Point]:
    """A point for each task and scale, at which the method of ``whole`` stands beside bicubic."""
    points, own = [], whole.methods[0]
    for task in tasks:
        for scale in scales:
            here = replace(whole.protocol, scale=scale)
            methods = baseline(here, inferer, own.device), method_at(here, own)
            points.append(Point(task, scale, replace(whole, protocol=here, methods=methods)))
    return points


def _check_judges(judges: Sequence[Judge]) -> None:
    for judge in judges:
        if not isinstance(judge, FeatureJudge):
            raise ValueError(
                f"judges: must be of features, got {type(judge).__name__}; leave the overlay that needs labels out"
            )


def _conclude(
    evaluation: ScaleEvaluation, scored: Sequence[Scored], about: dict[str, Any], folder: Path, curves: bool
) -> dict[str, Any]:
    done, failed = [one for one in scored if not one.error], [one.error for one in scored if one.error]
    described = evaluation.protocol.describe(evaluation.items)
    summary = {key: value for key, value in described.items() if key not in ("scale", "border")} | about
    if done:
        patients = _add_scores(summary, evaluation, done, folder)
        summary["notes"] += [note for one in scored for note in one.notes]
        summary["failed"] = failed
        text = write_scales(folder, summary, patients)
        logger.info("\n\n%s", text)
        for note in summary["notes"]:
            logger.warning("%s", note)
        (folder / CURVES).unlink(missing_ok=True)  # of an earlier evaluation
        if curves:
            draw_scales(folder / CURVES, summary)
    refuse_failed(failed, len(evaluation.items), folder)
    return summary


def _add_scores(
    summary: dict[str, Any], evaluation: ScaleEvaluation, done: Sequence[Scored], folder: Path
) -> list[dict[str, Any]]:
    """Put the scores of each point and over all into ``summary``; returns the rows of the patients."""
    method, patients = summary["method"], []
    summary |= {"points": [], "mean_over_scales": {}, "below_bicubic": {}, "notes": []}
    for number, point in enumerate(evaluation.points):
        entry, rows = _entry(point, [one.results[number] for one in done], method, folder)
        summary["points"].append(entry)
        patients += rows
    summary["patients"], summary["slices"] = (summary["points"][0][name] for name in ("patients", "slices"))
    for task in summary["tasks"]:
        entries = [entry for entry in summary["points"] if entry["task"] == task]
        over_all = over_scales([row for row in patients if row["task"] == task], method)
        summary["mean_over_scales"][task] = over_all | features_over_scales(entries, method)
        summary["below_bicubic"][task] = scales_below(entries)
        summary["notes"] += blank_notes(task, entries)
    return patients


def _entry(
    point: Point, results: Sequence[Result], method: str, folder: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What ``scales.json`` says of a point, and a row for each method and patient."""
    rows, place = [row for result in results for row in result.rows], {"task": point.task, "scale": point.scale}
    entry = place | {"border": point.evaluation.protocol.margin} | summarise(rows, method)
    blank = {name: sum(row.method == method and getattr(row, name) is None for row in rows) for name in METRICS}
    entry["blank"] = {name: count for name, count in blank.items() if count}
    for number, judge in enumerate(point.evaluation.judges):
        entry |= hear(judge, number, results, folder)[0]
    return entry, [place | row for row in by_patient(rows)]


evaluate_scales_or_exit = exits_on_mistake(evaluate_scales)
