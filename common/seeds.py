"""Scores of a variant that was trained with several seeds, from the folders that its evaluations left, one a seed."""

from __future__ import annotations

import csv
import glob
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .metadata import read_json
from .tables import BICUBIC, HR, PATIENTS, REFERENCES, SEGMENTATION

# of a comparison
CONDITIONS = ("protocol", "scale", "crop", "border", "min_foreground", "every", "degradation", "unet_sha256")
KEYS = ("method", "patient", "slices")  # the columns that hold no score


Columns = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Seed:
    """One evaluation.

    Attributes:
        folder: what it left.
        columns: name of a column to patient to the text of the cell, of the one method beside the references.
        references: the same of bicubic and HR, by method.
        conditions: what its ``summary.json`` says of how it was evaluated.
    """

    folder: Path
    columns: Columns
    references: Mapping[str, Columns]
    conditions: Mapping[str, Any]

    def has_numbers(self, column: str) -> bool:
        """Whether a cell of ``column`` is a number, and none is another text."""
        cells = [cell for cell in self.columns.get(column, {}).values() if cell]
        return bool(cells) and all(_is_number(cell) for cell in cells)

    def numbers(self, column: str) -> dict[str, float | None]:
        """Patient to score; None where the cell is blank, infinite or not a number (NaN).

        Raises:
            ValueError: there is no such column, or a cell holds other text.
        """
        if column not in self.columns:
            raise ValueError(
                f"{self.folder}: {PATIENTS} or {SEGMENTATION} must have the column {column}, got "
                f"{', '.join(self.columns) or 'none'}; evaluate again, or choose others by --metrics"
            )
        found: dict[str, float | None] = {}
        for patient, cell in self.columns[column].items():
            if cell and not _is_number(cell):
                raise ValueError(
                    f"{self.folder}: {column} of {patient} must be a number or blank, got {cell}; "
                    "evaluate again, or choose others by --metrics"
                )
            found[patient] = float(cell) if cell and math.isfinite(float(cell)) else None
        return found


@dataclass(frozen=True)
class Variant:
    """A name and the evaluations of its seeds, at least one."""

    name: str
    seeds: tuple[Seed, ...]


def read_variant(argument: str) -> Variant:
    """Read what ``name=GLOB`` stands for; each folder that the glob matches is one seed.

    Raises:
        ValueError: the argument has another form, no folder matches, or a table in one cannot be read.
    """
    name, _, pattern = str(argument).partition("=")
    if not name or not pattern:
        raise ValueError(f"{argument}: must be name=GLOB; write for example l1='runs/l1_*/scores'")
    found = sorted(path for path in glob.glob(os.path.expanduser(pattern), recursive=True) if os.path.isdir(path))
    if not found:
        raise ValueError(f"{name}: must match output folders of evaluations, got none for {pattern}; check the glob")
    return Variant(name, tuple(read_seed(Path(path)) for path in found))


def read_seed(folder: Path) -> Seed:
    """Columns of ``patients.csv``, and of ``segmentation_patients.csv`` where there is one.

    Raises:
        ValueError: a file is no such table, or holds several methods, or a patient twice.
    """
    tables = _read(folder / PATIENTS)
    if (folder / SEGMENTATION).exists():
        for method, columns in _read(folder / SEGMENTATION).items():
            tables.setdefault(method, {}).update(columns)
    own = next(method for method in tables if method not in REFERENCES)
    references = {method: tables[method] for method in REFERENCES if method in tables}
    summary = read_json(folder / "summary.json")
    return Seed(folder, tables[own], references, {name: summary.get(name) for name in CONDITIONS})


def _read(path: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Method, the one that is no reference first, to column to patient to cell."""
    names, rows = _rows(path)
    for key in ("method", "patient"):
        if key not in names:
            raise ValueError(f"{path}: must have the column {key}, got {', '.join(names) or 'none'}; evaluate again")
    methods = sorted({row["method"] for row in rows} - set(REFERENCES))
    if len(methods) != 1:
        raise ValueError(
            f"{path}: must hold one method beside {BICUBIC} and {HR}, got {', '.join(methods) or 'none'}; "
            "evaluate each into a folder of its own"
        )
    patients = [row["patient"] for row in rows if row["method"] == methods[0]]
    twice = next((patient for patient in patients if patients.count(patient) > 1), None)
    if twice is not None:
        raise ValueError(f"{path}: must hold a patient once, got {twice} several times; evaluate again")
    columns = [name for name in names if name not in KEYS]
    return {
        method: {
            name: {row["patient"]: (row[name] or "").strip() for row in rows if row["method"] == method}
            for name in columns
        }
        for method in dict.fromkeys([*methods, *(row["method"] for row in rows)])
    }


def _rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Names of the columns, and the rows."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or []), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: must be a table of an evaluation, got {error}; evaluate into this folder") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
