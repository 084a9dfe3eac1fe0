"""Sharpness of HR, bicubic and SR over whole planes, for evaluations without labels.

Zhu, dissertation, section 3.4: networks that score high by PSNR may only have smoothed. The measure is that of
:func:`common.metrics.sharpness`; :mod:`common.region` has it beside the scores of a region.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .data.items import Item
from .metrics import sharpness, to_unit
from .protocol import Pair
from .tables import cell, mean, spread

Found = tuple[str, str, list[float | None]]  # method, patient, a number for each plane


class SharpnessJudge:
    """Mean over planes, then over patients; see :class:`common.judges.Judge`."""

    def begin(self, item: Item, pair: Pair) -> Callable[[str, torch.Tensor], Found]:
        """What looks at the planes of one image."""
        return lambda method, planes: (
            *(method, item["patient"]),
            [sharpness(to_unit(plane, pair.limits)) for plane in planes],
        )

    def conclude(self, findings: Sequence[Found], folder: Path) -> tuple[dict[str, Any], str]:
        """``sharpness`` of each method, and a table."""
        values: dict[str, dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
        for method, patient, numbers in findings:
            values[method][patient] += numbers
        scores = {
            method: spread([mean(numbers) for numbers in patients.values()]) for method, patients in values.items()
        }
        lines = ["| | sharpness of the planes |", "|---|---|"]
        lines += [f"| {method} | {cell(score, '.4f')} |" for method, score in scores.items()]
        return {"sharpness": scores}, "\n".join(lines) + "\n"
