"""Where a lesion is: the mean place of its labels, or what a detector says of an image.

Zhu, dissertation, section 3.2.2 with equations 3.8 and 3.9, and section 3.3.1. A centre is a pair, row and column, as
parts of the image's sides: 0 and 1 are its edges, pixel ``i`` of ``n`` lies at ``(i + 0.5) / n``. Written from the
paper.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from monai.data import MetaTensor

from ..errors import CaseWarning
from .labelled import LabelledBatch


def mask_centres(masks: torch.Tensor) -> torch.Tensor:
    """Mean place ``(B, 2)`` of all pixels in masks ``(B, 1, H, W)``, each by its weight; NaN where there are none."""
    weights = masks[:, 0].double()
    total = weights.sum((1, 2))
    places = []
    for axis, other in ((1, 2), (2, 1)):
        n = weights.shape[axis]
        middles = (torch.arange(n, device=masks.device, dtype=torch.float64) + 0.5) / n
        places.append((weights.sum(other) * middles).sum(1) / total)
    return torch.stack(places, dim=1)


def label_centre(mask: torch.Tensor, name: str = "image") -> tuple[float, float]:
    """The mean place of all pixels above 0 in ``mask`` (1, H, W).

    Raises:
        ValueError: there are none.
    """
    if not bool((mask > 0).any()):
        raise ValueError(
            f"{name}: must have a labelled pixel, as labels say where the region is, got none; leave the plane out, "
            "or find the region by a detector"
        )
    row, column = mask_centres((mask > 0)[None])[0].tolist()
    return row, column


def plain_tensor(image: torch.Tensor) -> torch.Tensor:
    """``image`` without what a ``MetaTensor`` adds."""
    return image.as_tensor() if isinstance(image, MetaTensor) else image


def predict_centres(detector: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What a detector says of images ``(B, C, H, W)``: ``(B, 2)``, float64 on the CPU; see :func:`placed_inside`."""
    device = next(detector.parameters(), images).device
    with torch.no_grad():
        return detector(images.to(device).float()).double().cpu()


def placed_inside(centre: Sequence[float], name: str = "image") -> tuple[float, float]:
    """A detector's centre, moved to the edge with a :class:`CaseWarning` where it is outside the image.

    Raises:
        ValueError: it is not finite.
    """
    row, column = (float(part) for part in centre)
    if not (math.isfinite(row) and math.isfinite(column)):
        raise ValueError(
            f"{name}: the detector's centre must be finite, got {row}, {column}; look at image and weights"
        )
    inside = min(max(row, 0.0), 1.0), min(max(column, 0.0), 1.0)
    if inside != (row, column):
        text = (
            f"{name}: the detector's centre is outside the image, at {row:.3f} of its height and {column:.3f} of its "
            "width; moved to the edge"
        )
        warnings.warn(text, CaseWarning, stacklevel=2)
    return inside


class CentreBatch(LabelledBatch):
    """``prepare_batch`` of a detector's trainer: planes with a mask of the lesion to images and centres.

    The mask is the last channel. Arguments are those of :class:`LabelledBatch`, which moves it along. A plane that
    would lose its lesion stays as it is.
    """

    def __call__(
        self, batchdata: Mapping[str, torch.Tensor], device: str | torch.device, non_blocking: bool, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images ``(B, C, H, W)`` and centres ``(B, 2)``, both float32."""
        image, mask = super().__call__(batchdata, device, non_blocking)
        both = batchdata[self.key].to(image)
        lost = (mask.sum((1, 2, 3)) <= 0).view(-1, 1, 1, 1)
        return torch.where(lost, both[:, :-1], image), mask_centres(torch.where(lost, both[:, -1:], mask)).float()
