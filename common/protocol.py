"""How a held-out image becomes pairs of LR and HR planes, and what is stated about it.

Two protocols are in use, both settings of one :class:`Protocol`: ``clean`` (antialiased bicubic, whole planes, a stated
data range) and ``paper`` (as a paper did it).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import CenterSpatialCrop

from .data.items import Item, paths_of
from .data.planes import case_of, foreground_threshold, is_filled, unstack
from .errors import exits_on_mistake
from .geometry import both_factors, fitting_sizes
from .io.case import Case
from .metrics import data_range
from .transforms.degradation import CLEAN, Degradation

Preprocessing = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Protocol:
    """How images become scores.

    Attributes:
        scale: HR pixels per LR pixel, one factor or two (one for each axis of a plane).
        name: ``"clean"`` or ``"paper"``; recorded, it sets nothing.
        degradation: how LR follows from HR; its noise is drawn from a seed that is the image's own.
        crop: size of the planes, cut from their centre; None for the ``crop`` of the item, or else the whole plane.
        border: HR pixels left out on every side of the metrics; ``"scale"`` for as many as the scale, rounded up, as
            the dissertation's code does.
        range_quantile: see :func:`common.metrics.data_range`; it is taken from the whole volume, before the crop.
        min_foreground: planes with less of foreground are left out, as in validation.
        every: of the planes that are left, every such one counts, from the first on; 1 for all.
    """

    scale: float | Sequence[float]
    name: str = "clean"
    degradation: Degradation = CLEAN
    crop: Sequence[int] | None = None
    border: int | str = 0
    range_quantile: float = 0.999
    min_foreground: float = 0.1
    every: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.border, int) and self.border != "scale":
            raise ValueError(f'border: must be a number of pixels or "scale", got {self.border}; pass --border 0')
        if not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"every: must be a whole number of at least 1, got {self.every}; 1 takes all planes")

    @property
    def factors(self) -> tuple[float, float]:
        """HR pixels per LR pixel of the two axes of a plane."""
        return both_factors(self.scale)

    @property
    def margin(self) -> int:
        """HR pixels left out on every side of the metrics."""
        return self.border if isinstance(self.border, int) else math.ceil(max(self.factors))

    def describe(self, items: Sequence[Item]) -> dict[str, Any]:
        """What the summary of ``items`` says of it."""
        top = "maximum" if self.range_quantile == 1 else f"{self.range_quantile:g} quantile"
        return {
            "protocol": self.name,
            "scale": self.scale,
            "degradation": asdict(self.degradation),
            "data_range": f"minimum to {top} of each HR volume, each channel; HR and predictions are clipped to it",
            "crop": self.crop or next((item["crop"] for item in items if "crop" in item), None),
            "border": self.margin,
            "min_foreground": self.min_foreground,
            "every": self.every,
        }


@dataclass(frozen=True)
class Pair:
    """LR and HR planes of one image.

    Attributes:
        low, high: ``(N, C, H, W)`` and ``(N, C, scale · H, scale · W)``, rounded, normalised.
        planes: their N indices along the slice axis.
        limits: data range, ``(C, 2)``.
        case: record of the HR image.
        size: X, Y, Z of the HR volume.
        crop: what was cut from the centre of each plane, or None.
        factors: HR pixels per LR pixel of both axes.
    """

    low: torch.Tensor
    high: torch.Tensor
    planes: list[int]
    limits: torch.Tensor
    case: Case
    size: tuple[int, ...]
    crop: Sequence[int] | None
    factors: tuple[float, float]

    def cut(self, volume: MetaTensor) -> torch.Tensor:
        """What these planes are of another volume on the HR grid."""
        return _cut(unstack(volume)[self.planes], self.crop, self.factors)


@dataclass(frozen=True)
class Truth:
    """HR planes of one image that have something in them, whole: they serve any scale.

    Attributes:
        item: whose.
        high: ``(N, C, H, W)``, normalised.
        planes, limits, case, size: see :class:`Pair`.
    """

    item: Item
    high: torch.Tensor
    planes: list[int]
    limits: torch.Tensor
    case: Case
    size: tuple[int, ...]

    def cut(self, protocol: Protocol) -> torch.Tensor:
        """The planes without what does not fill an LR pixel, at the end of both axes.

        Raises:
            ValueError: they are below one LR pixel.
        """
        high = _cut(self.high, protocol.crop or self.item.get("crop"), protocol.factors)
        if min(high.shape) < 1:
            name = paths_of(self.item)[0]
            raise ValueError(f"{name}: planes must be at least {protocol.scale} pixels wide; leave the image out")
        return high

    def pair(self, protocol: Protocol) -> Pair:
        """HR planes at the scale of ``protocol``, and LR planes that follow from them; errors are those of ``cut``."""
        high = self.cut(protocol)
        name = f"{self.item['patient']}/{Path(paths_of(self.item)[0]).name}"
        draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        low = protocol.degradation.with_noise(protocol.degradation(high, protocol.factors), draw)
        crop = protocol.crop or self.item.get("crop")
        return Pair(low, high, self.planes, self.limits, self.case, self.size, crop, protocol.factors)


def told_planes(every: int) -> str:
    """For tables and pictures: which planes count, where not all of them do."""
    return "" if every == 1 else f", one plane in {every}"


def make_pair(item: Item, preprocessing: Preprocessing, protocol: Protocol) -> Pair:
    """Read an image, normalise it, choose the planes with something in them, cut and degrade them.

    Normalisation, data range and choice see the whole volume. What does not fill an LR pixel is cut off at the end of
    the two axes of a plane, less than ``scale`` HR pixels.

    Raises:
        ValueError: see :func:`read_truth`; or the planes are below one LR pixel.
    """
    return read_truth(item, preprocessing, protocol).pair(protocol)


def read_truth(item: Item, preprocessing: Preprocessing, protocol: Protocol) -> Truth:
    """Read an image, normalise it and choose the planes with something in them; nothing depends on the scale.

    Raises:
        ValueError: intensities are not finite, or no plane has enough foreground.
    """
    name = paths_of(item)[0]
    image = preprocessing({"image": item["image"]})["image"]
    case, volume = case_of(image), unstack(image)
    if not torch.isfinite(volume).all():
        raise ValueError(f"{name}: intensities must be finite; replace those voxels and run again")
    limits = data_range(image.as_tensor(), protocol.range_quantile)
    threshold = foreground_threshold(image.as_tensor())
    planes = [i for i, plane in enumerate(volume) if is_filled(plane, threshold, protocol.min_foreground)]
    if not planes:
        raise ValueError(f"{name}: no plane has {protocol.min_foreground:.0%} of foreground; lower min_foreground")
    planes = planes[:: protocol.every]
    return Truth(item, volume[planes], planes, limits, case, tuple(image.shape[1:]))


def _cut(planes: torch.Tensor, crop: Sequence[int] | None, factors: Sequence[float]) -> torch.Tensor:
    if crop:
        planes = CenterSpatialCrop([-1, *crop])(planes)  # the second axis holds channels
    height, width = (fitting_sizes(n, factor)[1] for n, factor in zip(planes.shape[2:], factors, strict=True))
    return torch.as_tensor(planes)[:, :, :height, :width]


protocol_or_exit = exits_on_mistake(Protocol)
