"""Dice of predicted labels: while a U-Net is trained, on its test patients, and of super-resolved images.

Zhu, dissertation, section 5.3.2, equations 5.13 and 5.16. Over all planes of an image at once; a region that is not in
the labels has no Dice (it would be 0 or 1 by the choice of a constant) and is left out of the means and counted.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.metrics import compute_dice

from .data.items import Item, paths_of
from .data.labels import LabelScheme, read_labels
from .errors import exits_on_mistake
from .frozen import load_unet
from .inferers import PlaneSegmenter, infer_planes
from .io.archive import sha256
from .io.case import Case
from .io.whole import write_whole
from .protocol import Pair
from .tables import SEGMENTATION, cell, mean, spread, write_csv


class OneHotVolumes:
    """``output_transform`` of MONAI's ``MeanDice``: the planes of a batch are one volume.

    Args:
        classes: the background among them.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def __call__(self, output: Mapping[str, Any]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Logits ``(N, classes, H, W)`` and labels ``(N, 1, H, W)`` to one volume ``(classes, N, H, W)`` each."""
        return [self._one_hot(output["pred"].argmax(1))], [self._one_hot(output["label"][:, 0])]

    def _one_hot(self, labels: torch.Tensor) -> torch.Tensor:
        return F.one_hot(labels.long(), self.classes).movedim(-1, 0).float()


def region_dice(prediction: torch.Tensor, truth: torch.Tensor, scheme: LabelScheme) -> dict[str, float | None]:
    """Dice (equation 5.13, by MONAI) of each region of ``scheme``; None for one that is not in ``truth``.

    Args:
        prediction, truth: labels of one shape, whole numbers.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction: must have the shape of the labels, {tuple(truth.shape)}, got {tuple(prediction.shape)}; "
            "compare images on one grid"
        )
    pairs = zip(scheme.names, scheme.masks(prediction), scheme.masks(truth), strict=True)
    scores = {name: float(compute_dice(a.flatten()[None, None], b.flatten()[None, None])) for name, a, b in pairs}
    return {name: None if score != score else score for name, score in scores.items()}  # NaN differs from itself


@dataclass(frozen=True)
class Finding:
    """Dice of one image by one method; None for a region that is not in the labels."""

    method: str
    patient: str
    image: str
    dice: Mapping[str, float | None]


class SegmentationJudge:
    """Dice of what a frozen U-Net predicts on HR, bicubic and SR (equation 5.16), as tables 5.1 to 5.4.

    Args:
        unet: trained, on ``device``.
        scheme: of the labels, which the items name.
        weights_sha256: of the U-Net; recorded.
        inferer: that planes go through; by default 8 at once, whole.
        device: of the U-Net.
    """

    def __init__(
        self,
        unet: nn.Module,
        scheme: LabelScheme,
        weights_sha256: str,
        inferer: PlaneSegmenter | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.unet, self.scheme, self.sha256 = unet.eval(), scheme, weights_sha256
        self.inferer, self.device = inferer or PlaneSegmenter(), torch.device(device)

    def begin(self, item: Item, pair: Pair) -> Callable[[str, torch.Tensor], Finding]:
        """See :class:`common.judges.Judge`; the labels are read here."""
        truth = pair.cut(read_labels(item, pair.case, pair.size, self.scheme))[:, 0]
        return lambda method, planes: Finding(
            method, item["patient"], paths_of(item)[0], region_dice(self.predict(planes, pair.case), truth, self.scheme)
        )

    def predict(self, planes: torch.Tensor, case: Case) -> torch.Tensor:
        """Labels ``(N, H, W)`` of planes ``(N, C, H, W)`` of an image with this record."""
        return infer_planes(self.inferer, self.unet, planes, case, self.device)[:, 0]

    def conclude(self, findings: Sequence[Finding], folder: Path) -> tuple[dict[str, Any], str]:
        """See :class:`common.judges.Judge`; writes ``segmentation_patients.csv``."""
        patients = dice_by_patient(findings, self.scheme.names)
        write_whole(folder / SEGMENTATION, lambda path: write_csv(path, patients))
        scores = {
            method: {
                name: spread([row[name] for row in patients if row["method"] == method]) for name in self.scheme.names
            }
            for method in dict.fromkeys(finding.method for finding in findings)
        }
        missing = {name: sum(row[name] is None for row in patients) // len(scores) for name in self.scheme.names}
        summary = {"dice": scores, "dice_undefined": missing, "unet_sha256": self.sha256}
        return summary, dice_table(scores, missing)


def dice_by_patient(findings: Sequence[Finding], names: Sequence[str]) -> list[dict[str, Any]]:
    """Mean over the images of a patient where a region is: a row for each method and patient."""
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.method, finding.patient].append(finding)
    return [
        {"method": method, "patient": patient} | {name: mean([found.dice[name] for found in group]) for name in names}
        for (method, patient), group in groups.items()
    ]


def dice_table(scores: Mapping[str, Mapping[str, Any]], missing: Mapping[str, int]) -> str:
    """Mean ± SD over patients in Markdown, and how many patients have not got a region."""
    names = list(missing)
    lines = [f"| Dice | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for method, columns in scores.items():
        lines.append(f"| {method} | {' | '.join(cell(columns[name], '.4f') for name in names)} |")
    counted = [f"{name}: {count} patients" for name, count in missing.items() if count]
    note = f"\nWithout the region, and left out: {', '.join(counted)}.\n" if counted else ""
    return "\n".join(lines) + "\n" + note


def segmentation_judge(
    unet_path: str | os.PathLike[str] | None,
    scheme: LabelScheme,
    in_channels: int = 1,
    batch_size: int = 8,
    device: str | torch.device = "cpu",
) -> SegmentationJudge:
    """:class:`SegmentationJudge` with the U-Net in a file; raises as :func:`common.frozen.load_unet` does."""
    unet = load_unet(unet_path, in_channels, 1 + len(scheme.classes)).to(device)
    return SegmentationJudge(unet, scheme, sha256(Path(str(unet_path))), PlaneSegmenter(batch_size), device)


segmentation_judge_or_exit = exits_on_mistake(segmentation_judge)
