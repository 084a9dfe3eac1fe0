"""What the header of a PNG or TIFF file says about its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RasterHeader:
    """Bit depth, colours and resolution of a raster image, as stored.

    Attributes:
        dtype: of a sample, in native byte order.
        shape: rows, columns, samples of a pixel; the last sample is alpha where their number is even.
        white_is_zero: whether the least value is the brightest.
        spacing: distance in mm between neighbouring columns and rows, or None where the file does not say.
        by_pillow: whether Pillow decodes these pixels to the last bit; SimpleITK does so with all others.
        kept: what the result repeats: chunks of a PNG, tags of a TIFF.
    """

    dtype: np.dtype
    shape: tuple[int, int, int]
    white_is_zero: bool
    spacing: tuple[float, float] | None
    by_pillow: bool
    kept: Any

    @property
    def has_alpha(self) -> bool:
        return self.shape[2] % 2 == 0

    @property
    def colours(self) -> int:
        return self.shape[2] - self.has_alpha
