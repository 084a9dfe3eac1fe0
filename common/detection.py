"""How well a detector finds lesions: the part of a lesion that its region holds.

Zhu, dissertation, section 3.4.2 with table 3.2 and figure 3.12: perfect (all of it), acceptable (more than 95 %), bad.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ignite.metrics import Average

from .tables import cell, mean, spread
from .transforms.centre import label_centre, mask_centres
from .transforms.lesion import check_region, region_box

PERFECT, ACCEPTABLE, BAD = "perfect", "acceptable", "bad"
LEVELS = (PERFECT, ACCEPTABLE, BAD)
ENOUGH = 0.95


def coverage(mask: torch.Tensor, corner: Sequence[int], size: Sequence[int]) -> float:
    """The part of the pixels in ``mask`` (1, H, W) that the region of ``size`` from ``corner`` on holds.

    Raises:
        ValueError: the mask is empty.
    """
    there = mask[0] > 0
    total = int(there.sum())
    if total == 0:
        raise ValueError("mask: must have a labelled pixel, got none; leave out planes without a lesion")
    top, left = corner
    return int(there[top : top + size[0], left : left + size[1]].sum()) / total


def level_of(covered: float) -> str:
    """``"perfect"``, ``"acceptable"`` or ``"bad"``, of :func:`coverage`."""
    return PERFECT if covered == 1 else ACCEPTABLE if covered > ENOUGH else BAD


class DetectionRate(Average):
    """Metric of ignite: the part of all planes whose detection reaches a level, 0 to 1.

    The output of the engine holds ``pred``, centres (B, 2), and ``label``, masks (B, 1, H, W), none of them empty.

    Args:
        region_size: height and width in HR pixels.
        level: ``"perfect"``, or ``"acceptable"``, which counts the perfect too.
        tie: weight of the mean distance between predicted and true centre, as a part of the sides, which is taken off:
            of two detectors that reach the level as often, the nearer is better. # not in the paper
    """

    def __init__(self, region_size: Sequence[int], level: str = PERFECT, tie: float = 0.0) -> None:
        if level not in (PERFECT, ACCEPTABLE):
            raise ValueError(f"level: must be {PERFECT} or {ACCEPTABLE}, got {level}; choose one")
        self.region_size, self.reaching = check_region(region_size, 1), LEVELS[: LEVELS.index(level) + 1]
        self.tie = tie
        super().__init__(output_transform=self.score)

    def score(self, output: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """1 or 0 for each plane, less its ``tie``, ``(B, 1)``; NaN where the centre is."""
        masks = output["label"].cpu()
        distances = (output["pred"].double().cpu() - mask_centres(masks)).norm(dim=1)
        hits = [self._reaches(mask, centre) for mask, centre in zip(masks, output["pred"].tolist(), strict=True)]
        return (torch.tensor(hits, dtype=torch.float64) - self.tie * distances)[:, None]

    def _reaches(self, mask: torch.Tensor, centre: Sequence[float]) -> float:
        if not all(map(math.isfinite, centre)):
            return math.nan
        covered = coverage(mask, region_box(centre, mask.shape[1:], self.region_size), self.region_size)
        return float(level_of(covered) in self.reaching)

    def compute(self) -> float:
        return float(super().compute())


@dataclass(frozen=True)
class Detection:
    """What a detector found in one plane; lengths in HR pixels.

    Attributes:
        images: what it looked at: ``"HR"``, or ``"LR x4"`` for LR of scale 4.
        patient, image, plane: whose, its (first) file, and the index along the slice axis.
        row, column: the centre that it says.
        true_row, true_column: the mean place of all labelled pixels.
        distance: between both.
        top, left: of the region.
        covered: part of the labelled pixels that the region holds.
        level: see :func:`level_of`.
    """

    images: str
    patient: str
    image: str
    plane: int
    row: float
    column: float
    true_row: float
    true_column: float
    distance: float
    top: int
    left: int
    covered: float
    level: str


def judge_plane(
    mask: torch.Tensor,
    centre: Sequence[float],
    region_size: Sequence[int],
    multiple: int,
    about: Mapping[str, Any],
    name: str,
) -> Detection:
    """What to say of a detector's ``centre``.

    Args:
        mask: of the lesion, ``(1, H, W)`` in HR pixels.
        centre: row and column as parts of the sides.
        region_size: height and width in HR pixels.
        multiple: HR pixels of which top and left are multiples.
        about: ``images``, ``patient``, ``image`` and ``plane`` of the detection.
        name: of the plane, for errors.

    Raises:
        ValueError: the mask is empty, or the region larger than the plane.
    """
    size = mask.shape[1:]
    corner = region_box(centre, size, region_size, multiple, name)
    (row, column), (true_row, true_column) = (
        [part * n for part, n in zip(place, size, strict=True)] for place in (centre, label_centre(mask, name))
    )
    covered = coverage(mask, corner, region_size)
    distance = math.hypot(row - true_row, column - true_column)
    return Detection(
        **about, row=row, column=column, true_row=true_row, true_column=true_column, distance=distance, top=corner[0],
        left=corner[1], covered=covered, level=level_of(covered),
    )  # fmt: skip


def count_levels(rows: Sequence[Detection]) -> dict[str, Any]:
    """Of what was looked at (HR, LR of each scale), planes and patients: how many there are of each level.

    The distance is the mean over the planes of a patient, with mean and SD over patients.
    """
    patients = by_patient(rows)
    counts = {}
    for images in dict.fromkeys(row.images for row in rows):
        own = [row for row in patients if row["images"] == images]
        total = {name: sum(row[name] for row in own) for name in ("planes", *LEVELS)}
        counts[images] = {"patients": len(own), **total, "distance": spread([row["distance"] for row in own])}
    return counts


def by_patient(rows: Sequence[Detection]) -> list[dict[str, Any]]:
    """A row for what was looked at and each patient: planes, how many of each level, mean distance."""
    groups: dict[tuple[str, str], list[Detection]] = defaultdict(list)
    for row in rows:
        groups[row.images, row.patient].append(row)
    return [
        {"images": images, "patient": patient, "planes": len(group)}
        | {name: sum(row.level == name for row in group) for name in LEVELS}
        | {"distance": mean([row.distance for row in group])}
        for (images, patient), group in groups.items()
    ]


def detection_tables(rows: Sequence[Detection], region_size: Sequence[int]) -> str:
    """Markdown: table 3.2, over all planes, and the same of each patient."""
    height, width = region_size
    headings = ("perfect (100 %)", "acceptable (> 95 %)", "bad", "distance (HR pixels)")
    lines = [f"| region {height} × {width} | planes | {' | '.join(headings)} |", "|---" * 6 + "|"]
    for images, counts in count_levels(rows).items():
        lines.append(f"| {images} | {_parts(counts)} | {cell(counts['distance'], '.2f')} |")
    lines += ["", f"| images | patient | planes | {' | '.join(headings)} |", "|---" * 7 + "|"]
    for row in by_patient(rows):
        lines.append(f"| {row['images']} | {row['patient']} | {_parts(row)} | {row['distance']:.2f} |")
    note = "The distance is that of the predicted centre from the labels': mean over planes, mean ± SD over patients."
    return "\n".join([*lines, "", note]) + "\n"


def _parts(counts: Mapping[str, Any]) -> str:
    """Planes, then each level as a number and a part of them."""
    cells = [f"{counts[name]} ({counts[name] / counts['planes']:.1%})" for name in LEVELS]
    return " | ".join([str(counts["planes"]), *cells])
