"""What magnification is asked for, and the SR grid of an image that follows from it.

By factors, both grids share their edges, so that the field of view stays, and sampling follows the true ratio of the
sizes. By a target spacing, that spacing is exact and both grids share their centre, so that the field of view stays to
within one SR pixel.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.data import MetaTensor

from .errors import CaseWarning
from .geometry import both_factors, scaled_size, slice_axis_of, spacing
from .io.case import Case

MILLIMETRES = {"mm": 1.0, "micron": 1e-3, "meter": 1e3}
EXAMPLES = {"scale": "2.5 or [2.0,3.3]", "target_spacing": "0.5 or [0.5,0.6]"}
SAME = 1e-3  # a spacing that is met to one in a thousand is left alone
STEPS = "sr_steps"  # in the meta data of an SR image: LR voxels per SR voxel along each axis


@dataclass(frozen=True)
class PlaneGrid:
    """SR grid over a plane of LR pixels.

    Attributes:
        size: SR pixels of both axes.
        factors: SR pixels per LR pixel, as asked for.
        exact: whether the spacing follows from ``factors`` alone and the centres are shared; else the edges are.
    """

    size: tuple[int, int]
    factors: tuple[float, float]
    exact: bool = False

    @classmethod
    def of(cls, lr_size: Sequence[int], factors: tuple[float, float], exact: bool = False) -> PlaneGrid:
        """The grid over ``lr_size`` pixels."""
        height, width = (scaled_size(n, factor) for n, factor in zip(lr_size, factors, strict=True))
        return cls((height, width), factors, exact)

    def transposed(self) -> PlaneGrid:
        """The grid over the transposed plane."""
        return PlaneGrid(self.size[::-1], self.factors[::-1], self.exact)

    def steps(self, lr_size: Sequence[int]) -> tuple[float, float]:
        """LR pixels per SR pixel along both axes of a plane of ``lr_size``."""
        if self.exact:
            return 1 / self.factors[0], 1 / self.factors[1]
        return lr_size[0] / self.size[0], lr_size[1] / self.size[1]


@dataclass(frozen=True)
class Magnification:
    """How much finer the planes of an image become.

    Attributes:
        scale: SR pixels per LR pixel: one factor, or one for each axis of a plane, in the order of the image's axes.
        target_spacing: in mm, one or one for each axis of a plane; where given, the factors follow from it and from the
            header, and ``scale`` counts for nothing. An axis that has this spacing already is left alone.
        trained: least and largest factor that the network was trained with; beyond, results come with a warning.

    Raises:
        ValueError: a factor is below 1 or not finite, a spacing is not above 0, or there are not one or two of them.
    """

    scale: float | Sequence[float] = 2.0
    target_spacing: float | Sequence[float] | None = None
    trained: Sequence[float] = (1.0, 4.0)

    def __post_init__(self) -> None:
        if not all(math.isfinite(factor) and factor >= 1 for factor in _numbers(self.scale, "scale")):
            raise ValueError(f"scale: must be finite and at least 1, got {self.scale}; 2 doubles the pixels of an axis")
        if self.target_spacing is not None:
            steps = _numbers(self.target_spacing, "target_spacing")
            if not all(math.isfinite(step) and step > 0 for step in steps):
                raise ValueError(
                    f"target_spacing: must be above 0 mm, got {self.target_spacing}; such as 0.5, half a mm"
                )

    @property
    def label(self) -> str:
        """For file names and headers: ``x4``, ``x2.5``, ``x2x3.3``, ``0.5mm``, ``0.5x0.6mm``."""
        given = self.scale if self.target_spacing is None else self.target_spacing
        text = "x".join(f"{value:g}" for value in dict.fromkeys(_numbers(given, "scale")))
        return f"x{text}" if self.target_spacing is None else f"{text}mm"

    def describe(self) -> dict[str, Any]:
        """What a JSON line says of it: the scale, or the target spacing in mm."""
        if self.target_spacing is None:
            return {"scale": self.scale}
        return {"scale": None, "target_spacing": self.target_spacing}

    def grid_of(self, image: torch.Tensor) -> PlaneGrid:
        """The SR grid of the planes of an image ``(C, X, Y, Z)``, or of a batch of one.

        Raises:
            ValueError: with a target spacing: the header has no usable spacing, or the target is coarser than it.
        """
        axis = slice_axis_of(image)
        size = [n for number, n in enumerate(image.shape[-3:]) if number != axis]
        if self.target_spacing is None:
            grid = PlaneGrid.of(size, both_factors(_plain(self.scale)))
        else:
            grid = PlaneGrid.of(size, self._factors_to_target(image, axis), exact=True)
        outside = [f"{f:g}" for f in grid.factors if f != 1 and not self.trained[0] <= f <= self.trained[1]]
        if outside:
            low, high = self.trained
            text = f"magnified by {' and '.join(dict.fromkeys(outside))}; trained were {low:g} to {high:g}"
            warnings.warn(text, CaseWarning, stacklevel=2)
        return grid

    def steps_of(self, image: torch.Tensor) -> tuple[float, float, float]:
        """LR voxels per SR voxel along the three axes of an image ``(C, X, Y, Z)``."""
        axis = slice_axis_of(image)
        size = [n for number, n in enumerate(image.shape[-3:]) if number != axis]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CaseWarning)  # the inferer has said it
            steps = list(self.grid_of(image).steps(size))
        steps.insert(axis, 1.0)
        return steps[0], steps[1], steps[2]

    def _factors_to_target(self, image: torch.Tensor, axis: int) -> tuple[float, float]:
        assert isinstance(image, MetaTensor) and self.target_spacing is not None
        name, unit = str(_first(image.meta.get("filename_or_obj", "image"))), _millimetres(image)
        steps = [unit * step for step in spacing(image.affine.reshape(-1, 4, 4)[0].cpu().numpy())]
        targets = both_factors(_plain(self.target_spacing))
        factors = []
        for step, target in zip((s for n, s in enumerate(steps) if n != axis), targets, strict=True):
            if target > step * (1 + SAME):
                raise ValueError(
                    f"{name}: the target spacing must not be coarser than the image's, got {target:g} mm for an axis "
                    f"of {step:g} mm; pass a finer --target_spacing, or resample the image"
                )
            factors.append(1.0 if abs(step / target - 1) <= SAME else step / target)
        return factors[0], factors[1]


def as_magnification(scale: float | Sequence[float] | Magnification) -> Magnification:
    """``scale`` where it is a magnification already, else that of these factors."""
    return scale if isinstance(scale, Magnification) else Magnification(scale)


def _millimetres(image: MetaTensor) -> float:
    """What one unit of the image's affine is in mm; a host that keeps no unit means mm.

    Raises:
        ValueError: the record says that the image has no spacing.
    """
    case = Case.from_meta(image.meta)
    if case is None:
        return 1.0
    if case.units == "unknown":
        warnings.warn("the header names no unit of length; mm is assumed", CaseWarning, stacklevel=4)
        return 1.0
    if case.units not in MILLIMETRES:
        raise ValueError(
            f"{case.source}: a target spacing needs the spacing of the image, but its header has none; pass --scale "
            "instead, or write the spacing into the header"
        )
    return MILLIMETRES[case.units]


def _numbers(value: Any, name: str) -> list[float]:
    plain = _plain(value)
    try:
        numbers = [float(v) for v in (plain if isinstance(plain, list) else [plain])]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in (1, 2):
        raise ValueError(
            f"{name}: must be one number or two, one for each axis of a plane, got {value}; such as {EXAMPLES[name]}"
        )
    return numbers


def _plain(value: Any) -> Any:
    """A list of its own for whatever sequence of numbers; one of a single number is that number."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value) if len(value) != 1 else value[0]
    return value


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, (list, tuple)) else value
