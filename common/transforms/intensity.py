"""What the network sees of the intensities: an exactly invertible map of the stored values into the unit range."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..errors import CaseWarning

OFFSET, FACTOR = "intensity_offset", "intensity_factor"


def exact_unit_map(values: torch.Tensor) -> tuple[float, float]:
    """Offset and power of two that bring ``values`` near the unit range, and back without losing a bit.

    (values - offset) / factor puts 99.9 % of the voxels into [0, 1], or [-1, 1] where the offset is 0; a few hot
    voxels may lie above, so that they do not press all others into the dark. A factor that is a power of two costs no
    bit. The offset is the minimum where float32 arithmetic returns from it exactly (all integers of up to 16 bits,
    and images that start at 0), else 0.
    not in the paper: exactness and the quantile; its own map is min-max (section 5.3.1). Values more than 2^126 times
    smaller than the largest cannot be kept beside it.
    """
    low = float(values.min())
    factor = _power_of_two(_bright(values - low))
    if low != 0 and torch.equal((values - low) / factor * factor + low, values):
        return low, factor
    return 0.0, factor if low == 0 else _power_of_two(_bright(values.abs()))


def sampled_quantile(values: torch.Tensor, quantile: float) -> float:
    """Quantile of evenly spaced values, one to two million at most: PyTorch's takes no more than 16 million."""
    flat = values.flatten()
    return float(torch.quantile(flat[:: max(1, flat.numel() // 1_000_000)], quantile))


def _bright(values: torch.Tensor) -> float:
    """The 99.9th percentile, or the maximum of an almost empty image."""
    bright = sampled_quantile(values, 0.999)
    return bright if bright > 0 else float(values.max())


def _power_of_two(span: float) -> float:
    if span <= 0:
        return 1.0
    return 2.0 ** min(max(math.ceil(math.log2(min(span, 2.0**127))), -126), 127)


class NormalizeIntensityExactlyd(MapTransform):
    """Map each channel of an image ``(C, *spatial)`` by :func:`exact_unit_map`, and note the map in its meta data.

    The image may be of any type, as a host gives it, and becomes float32.

    Raises:
        ValueError: the image holds NaN, infinite values, or integers that do not fit in float32.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            image = d[key]
            meta = dict(image.meta) if isinstance(image, MetaTensor) else {}
            plain = _as_float32(image, str(meta.get("filename_or_obj", key)))
            maps = [exact_unit_map(channel) for channel in plain]
            mapped = torch.stack([(x - offset) / factor for x, (offset, factor) in zip(plain, maps, strict=True)])
            if any(not torch.equal(y * f + o, x) for x, y, (o, f) in zip(plain, mapped, maps, strict=True)):
                text = "values near 0 are too small beside the largest to be kept to the last bit"
                warnings.warn(text, CaseWarning, stacklevel=2)
            meta[OFFSET], meta[FACTOR] = torch.tensor(maps, dtype=torch.float64).unbind(1)
            d[key] = MetaTensor(mapped, meta=meta)
        return d


def _as_float32(image: torch.Tensor | np.ndarray, name: str) -> torch.Tensor:
    """The values of ``image``, float32; raises ``ValueError`` where one is not finite, or an integer does not fit."""
    given = image.as_tensor() if isinstance(image, MetaTensor) else torch.as_tensor(image)
    plain = given.float()
    if not torch.isfinite(plain).all():
        raise ValueError(
            f"{name}: intensities must be finite, got NaN or infinity; replace those voxels (for example by 0) and run "
            "again"
        )
    if not given.is_floating_point() and not torch.equal(plain.double(), given.double()):
        raise ValueError(
            f"{name}: every {given.dtype} value must fit in float32, got some that do not; "
            "convert the image to float32 or a 16-bit type if that loss is acceptable"
        )
    return plain


class RestoreIntensityd(MapTransform):
    """Undo :class:`NormalizeIntensityExactlyd` for ``keys``, by the map noted in the meta data of ``ref_key``."""

    def __init__(self, keys: KeysCollection, ref_key: str = "image") -> None:
        super().__init__(keys)
        self.ref_key = ref_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        meta = d[self.ref_key].meta
        for key in self.key_iterator(d):
            for channel, offset, factor in zip(d[key], meta[OFFSET].tolist(), meta[FACTOR].tolist(), strict=True):
                channel *= factor
                if offset != 0:  # adding 0 would turn -0 into 0
                    channel += offset
        return d
