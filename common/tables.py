"""Tables of an evaluation: a row a slice, a row a patient; mean, standard deviation and gain over bicubic.

Patients count the same however many slices they have: the mean is taken over slices, then over patients.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .io.whole import write_whole

BICUBIC, HR = "bicubic", "HR"  # as methods: the baseline and the ceiling
BILINEAR, BILINEAR_NLM = "bilinear", "bilinear + NLM"  # further baselines, where they are asked for
REFERENCES = (BICUBIC, HR, BILINEAR, BILINEAR_NLM)  # names that no network may have
PATIENTS, SEGMENTATION = "patients.csv", "segmentation_patients.csv"
REGION_SLICES, REGION_PATIENTS = "region_slices.csv", "region_patients.csv"
COLUMNS = {  # name: heading, digits
    "psnr": ("PSNR (dB)", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "ms_ssim": ("MS-SSIM", ".4f"),
    "consistency": ("consistency residual", ".2e"),
}


@dataclass(frozen=True)
class Row:
    """Scores of one slice by one method.

    Attributes:
        method: ``"bicubic"``, another baseline, or the bundle's name.
        patient, image: whose, and its (first) file.
        plane: index along the slice axis of the file.
        psnr, ssim, ms_ssim: None where the plane is too small for the metric.
        consistency: residual as a fraction of the data range.
    """

    method: str
    patient: str
    image: str
    plane: int
    psnr: float | None
    ssim: float | None
    ms_ssim: float | None
    consistency: float | None


def by_patient(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Mean over all slices of a patient, whichever image they are from: a row for each method and patient."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.method, row.patient].append(row)
    return [
        {"method": method, "patient": patient, "slices": len(group)}
        | {name: mean([getattr(row, name) for row in group]) for name in COLUMNS}
        for (method, patient), group in groups.items()
    ]


def over_patients(patients: Sequence[dict[str, Any]], method: str) -> dict[str, Any]:
    """Mean and SD over patients of each method, and of the gain of ``method`` over bicubic, from :func:`by_patient`."""
    tables: dict[str, dict[str, Any]] = {name: {} for name in _in_order(patients, method)}
    for row in patients:
        tables[row["method"]][row["patient"]] = row
    gain = [
        {name: _difference(row[name], tables[BICUBIC][patient][name]) for name in COLUMNS}
        for patient, row in tables[method].items()
    ]
    groups = {name: list(table.values()) for name, table in tables.items()} | {"gain": gain}
    columns = {group: {name: [row[name] for row in rows] for name in COLUMNS} for group, rows in groups.items()}
    return {group: {name: spread(values) for name, values in column.items()} for group, column in columns.items()}


def _in_order(patients: Sequence[dict[str, Any]], method: str) -> list[str]:
    """Methods of a table: bicubic, further baselines, and ``method`` as the last."""
    return [*dict.fromkeys(name for name in (BICUBIC, *(row["method"] for row in patients)) if name != method), method]


def summarise(rows: Sequence[Row], method: str) -> dict[str, Any]:
    """How many patients and slices there are, and :func:`over_patients`."""
    patients = by_patient(rows)
    own = [row for row in patients if row["method"] == method]
    counts = {"patients": len(own), "slices": sum(row["slices"] for row in own)}
    return counts | over_patients(patients, method)


def spread(values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean and SD of those that are there."""
    return {"mean": mean(values), "sd": deviation(values)}


def mean(values: Sequence[float | None]) -> float | None:
    """Of those that are there; infinite where one is, None where none is there."""
    there = [value for value in values if value is not None]
    return math.fsum(there) / len(there) if there else None


def deviation(values: Sequence[float | None]) -> float | None:
    """Sample standard deviation (n - 1); None for fewer than two values, or where one is infinite."""
    there = [value for value in values if value is not None]
    return statistics.stdev(there) if len(there) > 1 and all(map(math.isfinite, there)) else None


def markdown(patients: Sequence[dict[str, Any]], method: str, title: str) -> str:
    """Two tables for a model card: mean ± SD over patients, and the gain of ``method`` in every patient."""
    scores = over_patients(patients, method)
    lines = [f"| {title} | {' | '.join(heading for heading, _ in COLUMNS.values())} |", "|---" * 5 + "|"]
    for name in (*_in_order(patients, method), "gain"):
        cells = (cell(scores[name][column], form) for column, (_, form) in COLUMNS.items())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"| patient | slices | bicubic PSNR (dB) | {method} PSNR (dB) | gain (dB) |", "|---" * 5 + "|"]
    base = {row["patient"]: row["psnr"] for row in patients if row["method"] == BICUBIC}
    for row in (row for row in patients if row["method"] == method):
        numbers = base[row["patient"]], row["psnr"], _difference(row["psnr"], base[row["patient"]])
        lines.append(f"| {row['patient']} | {row['slices']} | {' | '.join(number(n, '.2f') for n in numbers)} |")
    return "\n".join(lines) + "\n"


def write_tables(folder: Path, rows: Sequence[Row], summary: dict[str, Any], text: str) -> None:
    """``slices.csv`` and ``patients.csv``, and what :func:`write_summary` writes."""
    write_whole(folder / "slices.csv", lambda path: write_csv(path, [asdict(row) for row in rows]))
    write_whole(folder / PATIENTS, lambda path: write_csv(path, by_patient(rows)))
    write_summary(folder, summary, text)


def write_summary(folder: Path, summary: dict[str, Any], text: str, name: str = "summary") -> None:
    """``summary.json`` and ``summary.md``, or files of another ``name``; JSON has the word "inf" for infinity."""
    content = json.dumps(_plain(summary), indent=4, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(folder / f"{name}.json", lambda path: path.write_text(content, encoding="utf-8"))
    write_whole(folder / f"{name}.md", lambda path: path.write_text(text, encoding="utf-8"))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of equal keys, with a heading."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _difference(a: float | None, b: float | None) -> float | None:
    """``a - b``; None where one is missing, or both are infinite."""
    difference = None if a is None or b is None else a - b
    return None if difference is None or math.isnan(difference) else difference


def number(value: float | None, form: str) -> str:
    """A number in a cell, a dash where there is none."""
    return "–" if value is None else format(value, form)


def cell(score: Mapping[str, float | None], form: str) -> str:
    """``mean ± sd`` of a score."""
    spread = "" if score["sd"] is None else f" ± {score['sd']:{form}}"
    return number(score["mean"], form) + spread


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
