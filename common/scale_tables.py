"""Tables of an evaluation over scales: a row for each scale and method, and for each patient; a table for a model card.

As in :mod:`common.tables`, the mean is taken over slices and then over patients; over scales it is taken for each
patient first, as the means of the dissertation's table 4.1 are over all scales.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .io.whole import write_whole
from .metrics import METRICS
from .protocol import told_planes
from .tables import BICUBIC, COLUMNS, cell, mean, number, over_patients, write_csv, write_summary

SHOWN = {"psnr": "PSNR", "ssim": "SSIM"}  # on the card and as curves
MANY = 10  # scales; of more, a card has every 0.5
FRECHET, DISTANCE = "frechet", "distance"
DIGITS = 4  # after the point: a smaller loss is none

Entry = Mapping[str, Any]  # of one task and scale


def over_scales(patients: Sequence[Mapping[str, Any]], method: str) -> dict[str, Any]:
    """Mean over the scales of each patient, then :func:`common.tables.over_patients`.

    Args:
        patients: rows of :func:`common.tables.by_patient` at every scale of one task.
        method: beside bicubic.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in patients:
        groups[row["method"], row["patient"]].append(row)
    means = [
        {"method": name, "patient": patient} | {column: mean([row[column] for row in rows]) for column in COLUMNS}
        for (name, patient), rows in groups.items()
    ]
    return over_patients(means, method)


def features_over_scales(entries: Sequence[Entry], method: str) -> dict[str, Any]:
    """Mean over scales of what :class:`common.features.FeatureJudge` found; nothing where there was none."""
    there = [entry["features"] for entry in entries if "features" in entry]
    means = {
        name: {key: mean([found[name][key] for found in there]) for key in (FRECHET, DISTANCE)}
        for name in (BICUBIC, method)
    }
    return {"features": {"network": there[0]["network"]} | means} if there else {}


def scales_below(entries: Sequence[Entry]) -> dict[str, list[float]]:
    """For each metric of ``SHOWN`` the scales at which the method has a smaller mean than bicubic."""
    gains = [(entry["scale"], entry["gain"]) for entry in entries]
    return {name: [scale for scale, gain in gains if round(gain[name]["mean"] or 0, DIGITS) < 0] for name in SHOWN}


def blank_notes(task: str, entries: Sequence[Entry]) -> list[str]:
    """A note for each metric that planes of some scales are too small for."""
    notes = []
    for name, (_, side) in METRICS.items():
        scales = [entry["scale"] for entry in entries if name in entry["blank"]]
        if scales:
            why = f"it needs sides of {side} pixels inside the border"
            notes.append(f"{task}: {COLUMNS[name][0]} is blank for planes at {named(scales)}: {why}")
    return notes


def named(scales: Sequence[float]) -> str:
    """Scales in words."""
    return ", ".join(f"×{scale:g}" for scale in scales)


def scales_markdown(summary: Mapping[str, Any]) -> str:
    """For a model card: a table a task with bicubic, method and gain at each scale, or every 0.5 of many, and over all.

    Args:
        summary: what ``scales.json`` says.
    """
    lines = []
    for task, about in summary["tasks"].items():
        entries = [entry for entry in summary["points"] if entry["task"] == task]
        lines += [*_table(summary, task, entries), "", f"`{task}`: {about}. {_below(summary, task)}", ""]
    if summary["reduced_from"] is not None:
        lines.append(f"The network magnifies by {summary['reduced_from']}; bicubic interpolation reduces its images.")
    features = summary["points"][0].get("features")
    if features:
        lines.append(f"Fréchet distance in features of {features['network']}.")
        lines += [f"{features['note']}."] if features["note"] else []
    part = told_planes(summary["every"])
    lines.append(f"Mean ± SD over {summary['patients']} patients{part}. Data range: {summary['data_range']}.")
    return "\n".join(lines) + "\n"


def _table(summary: Mapping[str, Any], task: str, entries: Sequence[Entry]) -> list[str]:
    method, over_all = summary["method"], summary["mean_over_scales"][task]
    heads = [f"{name} {COLUMNS[column][0]}" for column in SHOWN for name in (BICUBIC, method, "gain in")]
    heads += [f"{name} Fréchet distance" for name in (BICUBIC, method) if "features" in over_all]
    lines = [f"| `{task}`, protocol {summary['protocol']} | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    halves = [entry for entry in entries if (2 * entry["scale"]).is_integer()]
    for entry in halves if len(entries) > MANY and halves else entries:
        lines.append(f"| ×{entry['scale']:g} | {' | '.join(_cells(entry, method))} |")
    return [*lines, f"| mean of {len(entries)} scales | {' | '.join(_cells(over_all, method))} |"]


def _cells(scores: Mapping[str, Any], method: str) -> list[str]:
    groups = BICUBIC, method, "gain"
    cells = [cell(scores[group][column], COLUMNS[column][1]) for column in SHOWN for group in groups]
    features = scores.get("features")
    return cells + [number(features[name][FRECHET], ".4g") for name in (BICUBIC, method) if features]


def _below(summary: Mapping[str, Any], task: str) -> str:
    """A sentence that names each scale at which the method lies below bicubic."""
    below = summary["below_bicubic"][task]
    found = [f"in {SHOWN[name]} at {named(scales)}" for name, scales in below.items() if scales]
    return f"{summary['method']} lies below bicubic {' and '.join(found) or 'at no scale'}."


def write_scales(folder: Path, summary: dict[str, Any], patients: Sequence[Mapping[str, Any]]) -> str:
    """``scales.csv``, ``scales_patients.csv``, ``scales.json`` and ``scales.md``, whose text is returned.

    Args:
        folder: for them.
        summary: what ``scales.json`` says.
        patients: rows of ``scales_patients.csv``.
    """
    text, names = scales_markdown(summary), (BICUBIC, summary["method"])
    rows = [_row(entry, name) for entry in summary["points"] for name in names]
    write_whole(folder / "scales.csv", lambda path: write_csv(path, rows))
    write_whole(folder / "scales_patients.csv", lambda path: write_csv(path, patients))
    write_summary(folder, summary, text, "scales")
    return text


def _row(entry: Entry, method: str) -> dict[str, Any]:
    row = {"task": entry["task"], "scale": entry["scale"], "method": method}
    row |= {name: entry[name] for name in ("patients", "slices")}
    row |= {f"{name}_{key}": entry[method][name][key] for name in COLUMNS for key in ("mean", "sd")}
    features = entry.get("features")
    return row | ({"frechet": features[method][FRECHET], "features": features["network"]} if features else {})
