"""Paired comparison of variants of a method, each trained with one or more seeds and evaluated on the same patients.

Scores are averaged over the seeds of a variant, in each patient; what is compared are the differences of these means
from those of the first variant, patient by patient.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .io.whole import write_whole
from .seeds import Seed, Variant, read_variant
from .tables import COLUMNS

LOWER_IS_BETTER = ("consistency",)  # of every other score higher is better
CONFIDENCE = 0.95
LEGEND = (
    "Means are over patients, of scores averaged over seeds; the SD is of the seeds' means over patients. The interval "
    "is the two-sided 95 % Student t interval of the mean paired difference over patients (n − 1 degrees of freedom): "
    "it tells what other patients would change, not what other seeds would. ↑ higher is better, ↓ lower is better."
)


@dataclass(frozen=True)
class Difference:
    """Mean over patients of paired differences, and its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """One metric of all variants.

    Attributes:
        metric: name of the column.
        values: for each variant, for each of its seeds, the score of each patient.
        left_out: patients without a score somewhere, who count nowhere.
        references: what bicubic and HR have of it over the other patients, which no variant changes.
    """

    metric: str
    values: list[list[list[float]]]
    left_out: list[str]
    references: dict[str, float]


def compare(base: str, *others: str, metrics: str | Sequence[str] | None = None, out: str | None = None) -> str:
    """Compare trained variants over the same patients: a table of means, paired differences and their intervals.

    Args:
        base: ``name=GLOB``, for example ``l1='runs/l1_*/scores'``: output folders of evaluations, one a seed.
        others: the same, of the variants that are compared with it.
        metrics: columns of patients.csv and segmentation_patients.csv, with commas; by default all that hold numbers.
        out: file for the table, in Markdown.

    Raises:
        ValueError: a glob matches nothing, a table or column is missing, patients differ, or there are fewer than two.
    """
    variants = [read_variant(argument) for argument in (base, *others)]
    _check_names([variant.name for variant in variants])
    seeds = [seed for variant in variants for seed in variant.seeds]
    _check_conditions(seeds)
    every = list(dict.fromkeys(column for seed in seeds for column in seed.columns))
    asked = _words(metrics) if metrics is not None else [c for c in every if any(s.has_numbers(c) for s in seeds)]
    if not asked:
        raise ValueError(f"metrics: must name at least one column, got none; choose among {', '.join(every)}")
    unused = [] if metrics is not None else [column for column in every if column not in asked]
    text = _markdown([variant.name for variant in variants], [_gather(m, variants) for m in asked], unused)
    if out is not None:
        write_whole(out, lambda path: Path(path).write_text(text, encoding="utf-8"))
    return text


def paired_difference(base: Sequence[float], other: Sequence[float]) -> Difference:
    """Mean of ``other - base`` and its two-sided 95 % Student t interval; the pairs are at the same places.

    Raises:
        ValueError: fewer than two pairs, or SciPy is not installed.
    """
    if len(base) < 2:
        raise ValueError(f"paired_difference: must have at least 2 patients, got {len(base)}; evaluate more")
    try:
        from scipy.special import stdtrit  # here: bundles run without SciPy
    except ImportError as error:
        raise ValueError('scipy: must be installed for the interval; run pip install -e ".[compare]"') from error
    differences = [b - a for a, b in zip(base, other, strict=True)]
    middle = statistics.fmean(differences)
    quantile = float(stdtrit(len(differences) - 1, 0.5 + CONFIDENCE / 2))
    half = quantile * statistics.stdev(differences) / math.sqrt(len(differences))
    return Difference(middle, middle - half, middle + half)


def _check_names(names: Sequence[str]) -> None:
    if len(names) < 2:
        raise ValueError(f"variants: must be at least two, got {names[0]} alone; add another name=GLOB")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice}: must name one variant, got two of this name; rename one")


def _words(metrics: str | Sequence[str]) -> list[str]:
    """The command line gives ``a,b`` as a tuple, and ``a`` as a string."""
    words = metrics.split(",") if isinstance(metrics, str) else map(str, metrics)
    return list(dict.fromkeys(word.strip() for word in words if word.strip()))


def _gather(metric: str, variants: Sequence[Variant]) -> Scores:
    tables = [[seed.numbers(metric) for seed in variant.seeds] for variant in variants]
    first, patients = variants[0].seeds[0], tables[0][0]
    for variant, found in zip(variants, tables, strict=True):
        for seed, table in zip(variant.seeds, found, strict=True):
            _check_patients(seed, set(table), first, set(patients))
    scored = [[{p: v for p, v in table.items() if v is not None} for table in found] for found in tables]
    kept = [p for p in patients if all(p in table for found in scored for table in found)]
    if len(kept) < 2:
        raise ValueError(
            f"{first.folder}: must have at least 2 patients with {metric} in all seeds, got {len(kept)}; "
            "evaluate more patients, or choose others by --metrics"
        )
    values = [[[table[p] for p in kept] for table in found] for found in scored]
    return Scores(
        metric, values, [patient for patient in patients if patient not in kept], _references(metric, first, kept)
    )


def _references(metric: str, seed: Seed, patients: Sequence[str]) -> dict[str, float]:
    found = {}
    for method, columns in seed.references.items():
        cells = [columns.get(metric, {}).get(patient, "") for patient in patients]
        if all(cells):
            found[method] = statistics.fmean(map(float, cells))
    return found


def _check_conditions(seeds: Sequence[Seed]) -> None:
    """All were evaluated alike; bicubic is the same in all, or the images were others."""
    first = seeds[0]
    for seed in seeds[1:]:
        for name, value in first.conditions.items():
            if seed.conditions.get(name) != value:
                raise ValueError(
                    f"{seed.folder}: {name} must be that of {first.folder}, {value}, got {seed.conditions.get(name)}; "
                    "evaluate both alike"
                )


def _check_patients(seed: Seed, own: set[str], first: Seed, expected: set[str]) -> None:
    if own != expected:
        parts = {"without": sorted(expected - own), "besides": sorted(own - expected)}
        got = " and ".join(f"{word} {', '.join(names)}" for word, names in parts.items() if names)
        raise ValueError(
            f"{seed.folder}: must have the patients of {first.folder}, got them {got}; evaluate both on the same ones"
        )


def _markdown(names: Sequence[str], scores: Sequence[Scores], unused: Sequence[str]) -> str:
    headings = ["metric", "variant", "seeds", "patients", "mean", "SD between seeds"]
    headings += [f"difference from {names[0]}", "95 % interval", "better in"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for score in scores:
        form, arrow = COLUMNS.get(score.metric, ("", ".4f"))[1], _arrow(score.metric)
        for name, value in score.references.items():
            cells = [f"{_heading(score.metric)} {arrow}", name, "–", str(len(score.values[0][0])), format(value, form)]
            lines.append(f"| {' | '.join(cells + ['–'] * 4)} |")
        lines += [f"| {' | '.join(_cells(score, n, name))} |" for n, name in enumerate(names)]
    notes = [LEGEND]
    for score in scores:
        if score.left_out:
            count = f"{len(score.left_out)} of {len(score.left_out) + len(score.values[0][0])} patients"
            why = f"({', '.join(score.left_out)}), blank or infinite in at least one seed"
            notes.append(f"{_heading(score.metric)} leaves out {count} {why}.")
    if unused:
        notes.append(f"Columns without numbers are left out: {', '.join(unused)}.")
    return "\n".join([*lines, "", *notes]) + "\n"


def _cells(scores: Scores, number: int, name: str) -> list[str]:
    base, own = (_over_seeds(scores.values[n]) for n in (0, number))
    form = COLUMNS.get(scores.metric, ("", ".4f"))[1]
    lower, seeds = scores.metric in LOWER_IS_BETTER, scores.values[number]
    spread = statistics.stdev(map(statistics.fmean, seeds)) if len(seeds) > 1 else None
    cells = [f"{_heading(scores.metric)} {_arrow(scores.metric)}", name, str(len(seeds)), str(len(own))]
    cells += [format(statistics.fmean(own), form), "–" if spread is None else format(spread, form)]
    if number == 0:
        return [*cells, "–", "–", "–"]
    found = paired_difference(base, own)
    better = sum(b < a if lower else b > a for a, b in zip(base, own, strict=True))
    finer = f"+.{int(form[1]) + 1}{form[2]}"  # differences are small beside the scores
    interval = f"{found.low:{finer}} to {found.high:{finer}}"
    return [*cells, format(found.mean, finer), interval, f"{better} of {len(own)}"]


def _arrow(metric: str) -> str:
    return "↓" if metric in LOWER_IS_BETTER else "↑"


def _over_seeds(seeds: Sequence[Sequence[float]]) -> list[float]:
    """Mean over seeds in each patient."""
    return [statistics.fmean(values) for values in zip(*seeds, strict=True)]


def _heading(metric: str) -> str:
    return COLUMNS.get(metric, (metric, ""))[0]
