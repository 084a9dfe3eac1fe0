"""The table of a sweep: mean and SD over test patients of each variant, beside bicubic and HR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .io.whole import write_whole
from .metadata import read_json
from .region import SCORES
from .tables import BICUBIC, COLUMNS, HR, cell, write_csv, write_summary

NAME = "sweep"
WHOLE = {name: COLUMNS[name] for name in ("psnr", "ssim", "consistency")} | {"sharpness": SCORES["sharpness"]}
REGION = {f"region_{name}": (f"{SCORES[name][0]}, region", SCORES[name][1]) for name in ("psnr", "ssim", "sharpness")}
NONE: dict[str, float | None] = {"mean": None, "sd": None}
Scores = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Variant:
    """One row: its name, title, steps in all and those of its pre-training, and why it failed, where it did."""

    name: str
    title: str
    steps: int | None = None
    pretraining: int | None = None
    failed: str | None = None

    @property
    def told_steps(self) -> str:
        """Steps in a cell, those of the pre-training first."""
        if self.steps is None:
            return "–"
        return f"{self.pretraining} + {self.steps - self.pretraining}" if self.pretraining else str(self.steps)


def write_sweep(folder: Path, variants: Sequence[Variant], method: str) -> str:
    """Write ``sweep.csv``, ``sweep.json`` and ``sweep.md`` out of the scores of each variant; the last one's text.

    Args:
        folder: has ``scores/summary.json`` in a folder for each variant that did not fail.
        variants: in the order of the table.
        method: name of the network in those summaries.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = [variant for variant in variants if not variant.failed]
    summaries = [read_json(folder / variant.name / "scores" / "summary.json") for variant in there]
    rows: list[tuple[Variant, Scores]] = []
    if summaries:  # the references are the same in all
        rows = [(Variant(name, name), scores_of(summaries[0], name)) for name in (BICUBIC, HR)]
        rows += [(one, scores_of(summary, method)) for one, summary in zip(there, summaries, strict=True)]
    columns = {key: about for key, about in (WHOLE | REGION).items() if any(own[key] != NONE for _, own in rows)}
    text = _markdown(rows, columns)
    if any(variant.pretraining for variant in there):
        text += "\nSteps: those of the pre-training without a critic, and those against it; equal in all.\n"
    for about in summaries[:1]:
        text += f"\nMean ± SD over {about['patients']} patients, {about['slices']} slices; {about['protocol']}.\n"
    text += "".join(f"\nFailed: {variant.failed}\n" for variant in variants if variant.failed)
    scores = {variant.name: own for variant, own in rows}
    told = [asdict(variant) | {"scores": scores.get(variant.name)} for variant in variants]
    content = {"variants": told, "references": {name: scores.get(name) for name in (BICUBIC, HR)}}
    write_summary(folder, content, text, NAME)
    (folder / f"{NAME}.csv").unlink(missing_ok=True)
    if rows:
        write_whole(folder / f"{NAME}.csv", lambda path: write_csv(path, [_flat(*row, columns) for row in rows]))
    return text


def scores_of(summary: Mapping[str, Any], method: str) -> Scores:
    """Mean and SD of each score of a method; :data:`NONE` where the evaluation has it not."""
    region = summary.get("region", {}).get("scores", {}).get(method, {})
    found = {name: summary.get(method, {}).get(name, NONE) for name in ("psnr", "ssim", "consistency")}
    found["sharpness"] = summary.get("sharpness", {}).get(method) or region.get("plane_sharpness", NONE)
    return found | {name: region.get(name.removeprefix("region_"), NONE) for name in REGION}


def _flat(variant: Variant, scores: Scores, columns: Mapping[str, Any]) -> dict[str, Any]:
    told = {"variant": variant.name, "title": variant.title}
    flat: dict[str, Any] = told | {"steps": variant.steps, "pretraining": variant.pretraining}
    for column in columns:
        flat |= {column: scores[column]["mean"], f"{column}_sd": scores[column]["sd"]}
    return flat


def _markdown(rows: Sequence[tuple[Variant, Scores]], columns: Mapping[str, tuple[str, str]]) -> str:
    headings = " | ".join(["variant", "steps", *(heading for heading, _ in columns.values())])
    lines = [f"| {headings} |", "|---" * (len(columns) + 2) + "|"]
    for variant, scores in rows:
        cells = (cell(scores[column], form) for column, (_, form) in columns.items())
        lines.append(f"| {' | '.join([variant.title, variant.told_steps, *cells])} |")
    return "\n".join(lines) + "\n"
