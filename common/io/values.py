"""Stored integers and the float32 that a network takes: what fits, and what is clipped."""

from __future__ import annotations

import os

import numpy as np


def to_float32(path: str | os.PathLike[str], stored: np.ndarray) -> np.ndarray:
    """``stored`` as float32.

    Raises:
        ValueError: a value does not fit in float32; the message names ``path``.
    """
    with np.errstate(over="ignore"):  # what overflows is refused below
        values = stored.astype(np.float32)
    if stored.dtype.itemsize > 2 and stored.dtype.newbyteorder("=") != np.float32:
        with np.errstate(invalid="ignore", over="ignore"):
            same = (values.astype(stored.dtype) == stored) | (stored != stored)
        if not same.all():
            raise ValueError(
                f"{path}: every {stored.dtype.name} value must fit in float32, got {stored[~same].flat[0]}; "
                "convert the file to float32 or a 16-bit type if that loss is acceptable"
            )
    return values


def float32_limits(dtype: np.dtype) -> tuple[float, float]:
    """Least and largest float32 that ``dtype`` can hold; infinite for float types."""
    if dtype.kind == "f":
        return -np.inf, np.inf
    info = np.iinfo(dtype)
    low, high = np.float32(info.min), np.float32(info.max)
    high = high if int(high) <= info.max else np.nextafter(high, np.float32(0))  # 2**31 - 1 itself is no float32
    return float(low), float(high)


def round_and_clip(array: np.ndarray, low: float, high: float) -> int:
    """Round ``array`` (C, X, Y, Z) in place and clip it to ``low`` to ``high``; never wrap.

    Returns:
        How many values had to be clipped.
    """
    clipped = 0
    for place in np.ndindex(array.shape[:2]):  # a plane at a time: a volume is large enough once
        rounded = np.rint(array[place])
        clipped += int(np.count_nonzero((rounded < low) | (rounded > high)))
        array[place] = np.clip(rounded, low, high)
    return clipped
