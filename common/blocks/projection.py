"""Location projection: where the pixels of a magnified image lie on its LR grid, in whole numbers and so exactly.

Hu et al., "Meta-SR", CVPR 2019; Zhu, dissertation, equations 2.28 and 2.29. Written from the papers.

In floating point 33 / 2.2 is just below 15, and pixel 33 would read other LR pixels than those around 15.
"""

import math
from typing import NamedTuple

import torch


class Axis(NamedTuple):
    """Output pixels of one axis: number i lies at the LR coordinate (step · i + start) / parts."""

    pixels: int
    step: int
    start: int
    parts: int


class Run(NamedTuple):
    """Output pixels ``first`` to before ``last``: those at the LR pixel ``before``, or between it and the next."""

    first: int
    last: int
    before: int


def as_fraction(value: float) -> tuple[int, int]:
    """First continued fraction within 1e-12 of ``value``, relatively: 23 / 10 for 2.3, which no float is exactly."""
    p, q, last_p, last_q = math.floor(value), 1, 1, 0
    rest = value
    while abs(p / q - value) > 1e-12 * value:
        rest = 1 / (rest - math.floor(rest))
        digit = math.floor(rest)
        p, q, last_p, last_q = digit * p + last_p, digit * q + last_q, p, q
    return p, q


def centred_axis(size: int, pixels: int) -> Axis:
    """Edges shared, at the true ratio of the sizes: pixel i at (i + 0.5) · size / pixels - 0.5."""
    return Axis(pixels, 2 * size, size - pixels, 2 * pixels)


def spaced_axis(size: int, pixels: int, factor: float) -> Axis:
    """Centres shared, at the nominal factor: pixel i at (i - (pixels - 1) / 2) / factor + (size - 1) / 2."""
    p, q = as_fraction(factor)
    return Axis(pixels, 2 * q, q * (1 - pixels) + p * (size - 1), 2 * p)


def cornered_axis(pixels: int, factor: float) -> Axis:
    """First pixels on each other, at the nominal factor, equation 2.28: pixel i at i / factor."""
    p, q = as_fraction(factor)
    return Axis(pixels, q, 0, p)


def period(axis: Axis) -> tuple[int, int]:
    """After how many output pixels (all, where they never do) the offsets repeat, and after how many LR pixels."""
    common = math.gcd(axis.step, axis.parts)
    return min(axis.parts // common, axis.pixels), axis.step // common


def find_runs(axis: Axis, pixels: int) -> list[Run]:
    """The first ``pixels`` output pixels by the LR pixel before them: -1 in the outer half of the first LR pixel."""
    runs: list[Run] = []
    first, before = 0, axis.start // axis.parts
    for i in range(1, pixels + 1):
        now = (axis.step * i + axis.start) // axis.parts
        if i == pixels or now != before:
            runs.append(Run(first, i, before))
            first, before = i, now
    return runs


def longest(runs: list[Run]) -> int:
    """Output pixels of the longest run."""
    return max([run.last - run.first for run in runs])


def offset_table(axis: Axis, runs: list[Run], like: torch.Tensor) -> torch.Tensor:
    """Offsets past the LR pixel of each run's pixels, ``(runs, longest)``; shorter runs go on beyond their last."""
    table: list[float] = []
    length = longest(runs)
    for run in runs:
        for i in range(run.first, run.first + length):
            table.append((axis.step * i + axis.start - axis.parts * run.before) / axis.parts)
    return torch.tensor(table, dtype=like.dtype, device=like.device).view(len(runs), length)


def drop_beyond(image: torch.Tensor, dim: int, runs: list[Run]) -> torch.Tensor:
    """Of an image in which every run is as long as the longest, the pixels that are the run's own."""
    kept: list[int] = []
    length = longest(runs)
    for number, run in enumerate(runs):
        kept += [number * length + i for i in range(run.last - run.first)]
    return image.index_select(dim, torch.tensor(kept, device=image.device))


def check_factors(scale: int | float | list[float] | tuple[float, float]) -> list[float]:
    """``scale`` as two factors, for height and width.

    Raises:
        ValueError: it is not one number or two, or one is below 1 or not finite.
    """
    if isinstance(scale, (int, float)):
        factors = [float(scale), float(scale)]
    elif isinstance(scale, tuple):  # apart from the list for TorchScript, which gives every branch one type
        factors = [float(factor) for factor in scale]
    else:
        factors = [float(factor) for factor in scale]
    if len(factors) != 2:
        raise ValueError(f"scale: must be one factor or two, got {factors}; name height and width only")
    for factor in factors:
        if not (factor >= 1 and math.isfinite(factor)):
            raise ValueError(f"scale: must be finite and >= 1, got {factors}; to reduce an image, interpolate it")
    return factors


def check_size(size: list[int], lr_size: list[int], factors: list[float]) -> None:
    """Refuse a size that its factor does not give, to within one LR pixel, so that no axis shrinks.

    Raises:
        ValueError: such a size, or not two.
    """
    if len(size) != 2:
        raise ValueError(f"size: must be height and width, got {size}; name two numbers")
    for axis in range(2):
        if not abs(size[axis] / factors[axis] - lr_size[axis]) < 1:
            raise ValueError(
                f"size: must be {lr_size} times the scale {factors}, to within one LR pixel, got {size}; "
                "give the scale that belongs to the size"
            )
