"""Lesion focus: crops of LR and HR at the same place, around the centre of a lesion.

Zhu, dissertation, section 3.2.2 with equation 3.7: both crops show one region, of a size that is set beforehand.
Centres are those of :mod:`common.transforms.centre`. Written from the paper.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
import torch.nn as nn
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, SpatialCrop

from .centre import label_centre, placed_inside, plain_tensor, predict_centres

MODES = ("detector", "labels", "off")


def region_box(
    centre: Sequence[float],
    image_size: Sequence[int],
    region_size: Sequence[int],
    multiple: int = 1,
    name: str = "image",
) -> tuple[int, int]:
    """Top and left of the region around ``centre``, shifted to stay inside the image.

    Args:
        centre: parts of the sides of the image; one outside gives the region at that edge.
        image_size, region_size: heights and widths, in HR pixels.
        multiple: of which top and left are; the nearest place is taken.
        name: of the image, for the error.

    Raises:
        ValueError: the region is larger than the image.
    """
    if any(n < size for n, size in zip(image_size, region_size, strict=True)):
        raise ValueError(
            f"{name}: the region of {region_size[0]} x {region_size[1]} HR pixels must fit into the image, got "
            f"{image_size[0]} x {image_size[1]}; pass a smaller --region_size, or leave the image out"
        )
    corner = []
    for part, n, size in zip(centre, image_size, region_size, strict=True):
        wanted = math.floor((part * n - size / 2) / multiple + 0.5)
        corner.append(min(max(wanted, 0), (n - size) // multiple) * multiple)
    return corner[0], corner[1]


def whole_pixels(scale: float) -> tuple[int, int]:
    """The fewest HR pixels that are a whole number of LR pixels, and that number: 4 and 1, or 5 and 2 at scale 2.5.

    Raises:
        ValueError: the scale is below 1, or no fraction of numbers up to some hundreds.
    """
    ratio = Fraction(scale).limit_denominator(100) if math.isfinite(scale) else Fraction(0)
    if scale < 1 or abs(float(ratio) - scale) > 1e-6:
        raise ValueError(
            f"scale: must be at least 1 and a fraction, as 2.5 is 5 / 2, got {scale}; others have no HR and LR pixels "
            "that share their edges"
        )
    return ratio.numerator, ratio.denominator


def check_region(size: Sequence[int], scale: float, name: str = "region_size") -> tuple[int, int]:
    """``size`` as height and width; raises ``ValueError`` where they are no two whole numbers of LR pixels."""
    multiple, _ = whole_pixels(scale)
    numbers = size if isinstance(size, (list, tuple)) else ()
    if len(numbers) != 2 or any(not isinstance(n, int) or n < multiple or n % multiple for n in numbers):
        raise ValueError(
            f"{name}: must be height and width in HR pixels, multiples of {multiple} at scale {scale:g}, got {size}; "
            f"pass it as --{name} [80,80]"
        )
    return numbers[0], numbers[1]


class CropToLesiond(MapTransform):
    """Crop an LR image ``(C, h, w)``, and HR images ``(C, scale · h, scale · w)`` of the same field, to one region.

    The crops share their edges: the region begins at a pixel of both grids. A ``MetaTensor`` keeps its pixels at their
    place in the world. Top, left, height and width in HR pixels are noted under ``"region"``.

    Args:
        keys: the LR image, then those on the HR grid, such as the HR image and a mask; LR alone will do.
        size: height and width of the region in HR pixels, whole numbers of LR pixels.
        scale: HR pixels per LR pixel, whole or a fraction.
        mode: who says where the region is: ``"detector"``, which looks at the LR image (section 3.2.2), ``"labels"``,
            or ``"off"``, which leaves all as it is.
        detector: in eval mode, see :func:`common.frozen.load_detector`; for that mode.
        label_key: of a mask ``(1, H, W)`` of the lesion on either grid, for the mode labels.
        allow_missing_keys: pass by HR images that are not there.

    Raises:
        ValueError: an argument is out of range, or there is no detector for its mode. When called: the region is larger
            than the image, the images are not of one field, or the mask is missing or empty.
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "label"),
        size: Sequence[int] = (80, 80),
        scale: float = 4,
        mode: str = "detector",
        detector: nn.Module | None = None,
        label_key: str = "mask",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        check_mode(mode, detector)
        self.size = check_region(size, scale, "size")
        self.ratio = whole_pixels(scale)
        self.mode, self.detector, self.label_key = mode, detector, label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if self.mode == "off":
            return d
        low = d[self.keys[0]]
        name = str(low.meta.get("filename_or_obj", self.keys[0])) if isinstance(low, MetaTensor) else str(self.keys[0])
        more, fewer = self.ratio
        top, left = region_box(
            self._centre(d, low, name), [n * more // fewer for n in low.shape[1:]], self.size, more, name
        )
        for key in self.key_iterator(d):
            if key == self.keys[0]:
                d[key] = _cropped(d[key], *(n * fewer // more for n in (top, left, *self.size)))
                continue
            if [n * fewer for n in d[key].shape[1:]] != [n * more for n in low.shape[1:]]:
                raise ValueError(
                    f"{name}: {key} must have {more / fewer:g} times the pixels of {self.keys[0]}, got "
                    f"{tuple(d[key].shape[1:])} and {tuple(low.shape[1:])}; cut off what does not fill an LR pixel"
                )
            d[key] = _cropped(d[key], top, left, *self.size)
        return {**d, "region": (top, left, *self.size)}

    def _centre(self, d: Mapping[Hashable, Any], low: torch.Tensor, name: str) -> tuple[float, float]:
        if self.detector is not None and self.mode == "detector":
            return placed_inside(predict_centres(self.detector, plain_tensor(low)[None])[0].tolist(), name)
        if self.label_key not in d:
            raise ValueError(
                f"{name}: must have labels under {self.label_key}, which say where the region is, got none; add them, "
                "or find the region by a detector"
            )
        return label_centre(plain_tensor(d[self.label_key]), name)


def check_mode(mode: str, detector: nn.Module | None) -> None:
    """Raise ``ValueError`` where there is no such mode, or no detector for its own."""
    if mode not in MODES:
        raise ValueError(f"mode: must be one of {', '.join(MODES)}, got {mode}; choose one")
    if mode == "detector" and detector is None:
        raise ValueError("mode: detector must come with a trained one, got none; pass --detector_path FILE")


def _cropped(image: torch.Tensor, top: int, left: int, height: int, width: int) -> torch.Tensor:
    cut = SpatialCrop(roi_start=(top, left), roi_end=(top + height, left + width))(image)
    return cut if isinstance(image, MetaTensor) else plain_tensor(cut)  # MONAI makes one of a tensor
