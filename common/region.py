"""Scores in the region around a lesion, and sharpness, of HR, bicubic and SR.

Zhu, dissertation, sections 3.2.2 and 3.3.1: the region is a box of a preset size around the mean place of all labelled
pixels; figure 3.17 and table 3.5 score there alone. Planes without a lesion are left out, and counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .data.items import Item, paths_of
from .data.labels import LabelScheme, read_labels
from .data.lesions import lesion_numbers
from .errors import exits_on_mistake
from .io.whole import write_whole
from .metrics import score, sharpness, to_unit
from .protocol import Pair
from .tables import COLUMNS, HR, REGION_PATIENTS, REGION_SLICES, cell, mean, spread, write_csv
from .transforms.centre import label_centre
from .transforms.lesion import check_region, region_box

SCORES = {  # name: heading, digits
    "psnr": COLUMNS["psnr"],
    "ssim": COLUMNS["ssim"],
    "sharpness": ("sharpness", ".4f"),
    "plane_sharpness": ("sharpness of the plane", ".4f"),
}


@dataclass(frozen=True)
class RegionRow:
    """Scores of one slice by one method; PSNR and SSIM are None of HR itself, or where the region is too small.

    Attributes:
        method, patient, image, plane: see :class:`common.tables.Row`.
        top, left: of the region in the plane as it was cut for the evaluation, in HR pixels.
        psnr, ssim, sharpness: in the region.
        plane_sharpness: of the whole plane.
    """

    method: str
    patient: str
    image: str
    plane: int
    top: int
    left: int
    psnr: float | None
    ssim: float | None
    sharpness: float | None
    plane_sharpness: float | None


@dataclass(frozen=True)
class Found:
    """Rows of one image by one method, and how many of its planes have no lesion."""

    method: str
    rows: tuple[RegionRow, ...]
    without: int


class RegionJudge:
    """PSNR, SSIM and sharpness (:func:`common.metrics.sharpness`) in the region around the lesion.

    Args:
        scheme: of the labels, which the items name.
        size: height and width of the region in HR pixels.
        lesion: names of the classes that count; None for all.

    Raises:
        ValueError: the size is no two numbers of pixels, or there is no such class.
    """

    def __init__(self, scheme: LabelScheme, size: Sequence[int], lesion: Sequence[str] | None = None) -> None:
        self.scheme, self.size = scheme, check_region(size, 1)
        self.numbers = torch.tensor(lesion_numbers(scheme, lesion))
        self.names = [scheme.classes[number - 1] for number in self.numbers.tolist()]

    def begin(self, item: Item, pair: Pair) -> Callable[[str, torch.Tensor], Found]:
        """See :class:`common.judges.Judge`; the labels are read here."""
        masks = torch.isin(pair.cut(read_labels(item, pair.case, pair.size, self.scheme)), self.numbers)
        name = paths_of(item)[0]
        boxes = {
            number: region_box(label_centre(mask, name), mask.shape[1:], self.size, 1, name)
            for number, mask in enumerate(masks)
            if mask.any()
        }

        def look(method: str, planes: torch.Tensor) -> Found:
            rows = (
                RegionRow(
                    *(method, item["patient"], name, pair.planes[number], *box),
                    *self._scores(method, planes[number], pair.high[number], pair.limits, box),
                )
                for number, box in boxes.items()
            )
            return Found(method, tuple(rows), len(masks) - len(boxes))

        return look

    def _scores(
        self, method: str, plane: torch.Tensor, truth: torch.Tensor, limits: torch.Tensor, box: tuple[int, int]
    ) -> tuple[float | None, ...]:
        """PSNR, SSIM and sharpness in the box, and sharpness of the whole plane."""
        (top, left), (height, width) = box, self.size
        whole = to_unit(plane, limits)
        here, true = (x[:, top : top + height, left : left + width] for x in (whole, to_unit(truth, limits)))
        own = {} if method == HR else score(here, true)
        return own.get("psnr"), own.get("ssim"), sharpness(here), sharpness(whole)

    def conclude(self, findings: Sequence[Found], folder: Path) -> tuple[dict[str, Any], str]:
        """See :class:`common.judges.Judge`; writes ``region_slices.csv`` and ``region_patients.csv``."""
        rows = [row for found in findings for row in found.rows]
        without = sum(found.without for found in findings if found.method == HR)
        note = f"{without} planes without {' or '.join(self.names)} are left out"
        size = " x ".join(map(str, self.size))
        summary: dict[str, Any] = {"size": self.size, "lesion": self.names, "left_out": without, "scores": {}}
        if not rows:
            return {"region": summary}, f"Region of {size} pixels: nothing to score, {note}.\n"
        patients = region_by_patient(rows)
        write_whole(folder / REGION_SLICES, lambda path: write_csv(path, [asdict(row) for row in rows]))
        write_whole(folder / REGION_PATIENTS, lambda path: write_csv(path, patients))
        for method in dict.fromkeys(row.method for row in rows):
            own = [row for row in patients if row["method"] == method]
            summary["scores"][method] = {name: spread([row[name] for row in own]) for name in SCORES}
        summary |= {"patients": len({row.patient for row in rows}), "slices": sum(row.method == HR for row in rows)}
        lines = [f"| region of {size} | {' | '.join(heading for heading, _ in SCORES.values())} |", "|---" * 5 + "|"]
        for method, scores in summary["scores"].items():
            lines.append(f"| {method} | {' | '.join(cell(scores[name], form) for name, (_, form) in SCORES.items())} |")
        about = "Sharpness: mean magnitude of Sobel's gradient, in the data range per pixel."
        return {"region": summary}, "\n".join([*lines, "", f"{about} {note}."]) + "\n"


def region_by_patient(rows: Sequence[RegionRow]) -> list[dict[str, Any]]:
    """Mean over all slices of a patient that have a lesion: a row for each method and patient."""
    groups: dict[tuple[str, str], list[RegionRow]] = defaultdict(list)
    for row in rows:
        groups[row.method, row.patient].append(row)
    return [
        {"method": method, "patient": patient, "slices": len(group)}
        | {name: mean([getattr(row, name) for row in group]) for name in SCORES}
        for (method, patient), group in groups.items()
    ]


def region_judge(scheme: LabelScheme, region_size: Sequence[int], lesion: Sequence[str] | None = None) -> RegionJudge:
    """:class:`RegionJudge`, by the names that the settings have."""
    return RegionJudge(scheme, region_size, lesion)


region_judge_or_exit = exits_on_mistake(region_judge)
