"""A worklist from end to end: a JSON line a case, an exit code that tells whether all went well, and a way to go on."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeVar

from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, Transform

from .config import check_settings, config_sha256
from .data.files import find_cases
from .data.worklist import Study, Worklist, share, suffix_of
from .errors import as_flag_or_exit, case_warnings_noted, exits_on_mistake
from .inferers import AnyScaleInferer, PlaneInferer, PlaneSegmenter
from .io.dicom.derived import Provenance
from .io.transforms import CaseSaveImaged
from .journal import append_line, log_name
from .magnification import Magnification, as_magnification
from .memory import peak_mb
from .pipeline import run_stages
from .processes import rank_and_world, waiting_for_all
from .progress import Progress
from .resume import Earlier, discard, end
from .stages import Job, Stages, attempt, now
from .transforms.focus import FocusOnLesiond
from .transforms.grid import RESIDUAL

SHOWN = 5  # reasons why files were skipped; the JSON lines have them all
INTERRUPTED = 130  # exit code of what Ctrl-C ends
logger = logging.getLogger("common.run")
T = TypeVar("T", bound=Transform)
append_or_exit = exits_on_mistake(append_line)
plane_inferer_or_exit = exits_on_mistake(PlaneInferer)
any_scale_inferer_or_exit = exits_on_mistake(AnyScaleInferer)
magnification_or_exit = exits_on_mistake(Magnification)
plane_segmenter_or_exit = exits_on_mistake(PlaneSegmenter)


def run_cases(
    evaluator: SupervisedEvaluator,
    postprocessing: Transform,
    dataset_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    scale: float | Sequence[float] | Magnification,
    weights_sha256: str,
    image_key: str = "image",
    pred_key: str = "pred",
    images: object = None,
    method: str = "unknown",
    version: str = "unknown",
    resume: bool = False,
    read_ahead: bool = False,
) -> list[dict[str, Any]]:
    """Run every case of ``evaluator`` by an evaluator of its own; write one line each to ``output_dir/cases.jsonl``.

    Of several processes that torchrun started, each takes its share and writes ``cases.rank<N>.jsonl``.

    Args:
        evaluator: holds the network, the inferer and a data loader over a dataset of paths.
        postprocessing: its postprocessing, which ends in saving the result.
        dataset_dir: where the cases were looked for.
        output_dir: folder of results and of the JSON lines; made where it is missing.
        scale, weights_sha256: recorded.
        image_key, pred_key: of the input and of the result.
        images: what the cases were made of; of a :class:`Worklist`, what it skipped is reported.
        method, version: of the bundle; written into the header of a result that has a place for it.
        resume: leave out what an earlier run finished; else a result that exists is an error.
        read_ahead: read the next case and write the last one while the network is at work.

    Returns:
        What the JSON lines say that this process wrote.

    Raises:
        SystemExit: there is no case, the folder cannot be written, or a case failed; the message names it and why.
    """
    exits_on_mistake(check_settings)()
    resume, read_ahead = as_flag_or_exit(resume, "resume"), as_flag_or_exit(read_ahead, "read_ahead")
    rank, world = rank_and_world()
    folder = writable(output_dir, log_name(rank, world))
    cases = evaluator.data_loader.dataset.data  # type: ignore[union-attr]
    skipped = images.skipped if isinstance(images, Worklist) else ()
    if not cases:
        _refuse_nothing(dataset_dir, output_dir, skipped)
    asked = as_magnification(scale)
    common: dict[str, Any] = asked.describe() | {"weights_sha256": weights_sha256, "config_sha256": config_sha256()}
    common["device"] = str(evaluator.state.device)
    focus = _step(evaluator.data_loader.dataset.transform, FocusOnLesiond)  # type: ignore[union-attr]
    if focus is not None and focus.enabled:
        common["detector_sha256"] = focus.detector_sha256
    saver = _step(postprocessing, CaseSaveImaged)
    if saver is not None:
        saver.provenance = Provenance(method, version, asked.label, weights_sha256, common["config_sha256"] or "")
    jobs = _jobs(cases, image_key, saver, common)
    whose = f" of process {rank}" if world > 1 else ""
    run = _Run(Stages(evaluator, postprocessing, image_key, pred_key), folder / log_name(rank, world), whose)
    try:
        with waiting_for_all(world, [job.line["input"] for job in jobs]), case_warnings_noted():
            lines = run.skip(skipped) if rank == 0 else []
            lines += run.do(run.left_of(share(jobs, rank, world), resume), read_ahead)
    except KeyboardInterrupt:
        logger.warning("stopped; the same command with --resume true goes on where this run was")
        raise SystemExit(INTERRUPTED) from None
    _refuse_failures([line for line in lines if "skipped" not in line])
    return lines


def _step(transform: Transform, kind: type[T]) -> T | None:
    """The first step of a transform that is of this kind."""
    steps = transform.flatten().transforms if isinstance(transform, Compose) else (transform,)
    return next((step for step in steps if isinstance(step, kind)), None)


def _jobs(
    cases: Sequence[Mapping[str, Any]], image_key: str, saver: CaseSaveImaged | None, common: Mapping[str, Any]
) -> list[Job]:
    """A job a case; one whose result would be that of another one before it has failed already."""
    jobs, first = [], dict[Path, Job]()
    for case in cases:
        source = case[image_key]
        suffix = suffix_of(source)
        output = None if saver is None or suffix is None else saver.path_of(source, suffix)
        line = {"time": now(), "input": os.path.abspath(source), "input_sha256": None, **common}
        if isinstance(source, Study):
            line |= {"name": str(source), "files": len(source.files)}
        jobs.append(Job(case, source, output, line))
        other = jobs[-1] if output is None else first.setdefault(output, jobs[-1])
        if other is not jobs[-1]:
            line["error"] = f"{source}: its result would replace that of {other.source}; rename one of the two"
    return jobs


class _Run:
    """What one process does, and its lines in the file ``log``."""

    def __init__(self, stages: Stages, log: Path, whose: str) -> None:
        self.stages, self.log, self.whose = stages, log, whose
        self.device = stages.evaluator.state.device
        self.progress = Progress(0, 0)

    def skip(self, skipped: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Report what the worklist left out."""
        lines = [{"time": now(), "input": os.path.abspath(path), "skipped": reason} for path, reason in skipped]
        for line in lines:
            append_or_exit(self.log, line)
            logger.info("skipped %s: %s", line["input"], line["skipped"])
        return lines

    def left_of(self, jobs: Sequence[Job], resume: bool) -> list[Job]:
        """``jobs`` without those that an earlier run finished; those whose result must not be replaced have failed."""
        earlier = Earlier(self.log.parent, resume)

        def plan(job: Job) -> None:
            job.finished = job.output is not None and earlier.has_finished(job.output, job.line, job.source)

        left = [job for job in jobs if not attempt(plan, job).finished]
        for job in left:
            job.refused = "error" in job.line
        self.progress = Progress(len(left), sum(not job.refused for job in left), self.whose)
        if resume:
            logger.info("%d of %d%s were finished before", len(jobs) - len(left), len(jobs), self.whose)
        return left

    def do(self, jobs: Sequence[Job], read_ahead: bool) -> list[dict[str, Any]]:
        """All stages of ``jobs``; their lines."""
        read, compute = partial(attempt, self.stages.read), partial(attempt, self.stages.compute)
        return [job.line for job in run_stages(jobs, read, compute, self._conclude, read_ahead)]

    def _conclude(self, job: Job) -> Job:
        attempt(self.stages.write, job)
        job.line["seconds"] = round(job.seconds, 3)
        job.line.setdefault("peak_memory_mb", round(peak_mb(self.device), 1))
        job.line["warnings"] = job.notes
        self._record(job)
        logger.info("%s\n    %s", _summary(job.line), self.progress.after(not job.refused))
        return job

    @exits_on_mistake
    def _record(self, job: Job) -> None:
        """The line is on disk before the mark goes, and a case with an error leaves no result."""
        if job.begun and "error" in job.line:
            discard(job.begun)
        append_line(self.log, job.line)
        if job.begun:
            end(job.begun)


def _refuse_nothing(
    dataset_dir: str | os.PathLike[str], output_dir: str | os.PathLike[str], skipped: Sequence[tuple[str, str]]
) -> None:
    if not skipped:
        exits_on_mistake(find_cases)(dataset_dir, output_dir)
        raise SystemExit(f"error: {dataset_dir}: the worklist is empty; check --dataset_dir")
    reasons = [f"  {path}: {reason}" for path, reason in skipped[:SHOWN]]
    more = [f"  and {len(skipped) - SHOWN} more"] if len(skipped) > SHOWN else []
    text = "\n".join(reasons + more)
    raise SystemExit(f"error: {dataset_dir}: nothing to do, all {len(skipped)} files were skipped:\n{text}")


def _refuse_failures(lines: Sequence[Mapping[str, Any]]) -> None:
    failed = [line for line in lines if "error" in line]
    if failed:
        reasons = "\n".join(f"  {line['error']}" for line in failed)
        others = ", the others are done" if len(failed) < len(lines) else ""
        raise SystemExit(f"error: {len(failed)} of {len(lines)} images failed{others}:\n{reasons}")


def _summary(line: Mapping[str, Any]) -> str:
    if "error" in line:
        return f"FAILED {line['error']}"
    old, new = ("x".join(f"{v:.3g}" for v in line[key]) for key in ("spacing", "sr_spacing"))
    region = "" if line["region"] is None else f"region of voxels {line['region']['voxels']}, "
    residual = "" if line[RESIDUAL] is None else f"consistency residual {line[RESIDUAL]:.2e} of the range, "
    notes = "".join(f"\n    warning: {text}" for text in line["warnings"])
    return (
        f"{line['output']}\n    spacing {old} -> {new} {line['units']}, {region}{residual}{line['seconds']:.1f} s, "
        f"peak memory {line['peak_memory_mb']:.0f} MB{notes}"
    )


def writable(output_dir: str | os.PathLike[str], log: str = "") -> Path:
    """The folder, made where it is missing; ``SystemExit`` where neither ``log`` nor any file can be written in it."""
    folder = Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / log, "ab") if log else TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise SystemExit(f"error: {folder}: cannot be written ({error}); choose another --output_dir") from error
