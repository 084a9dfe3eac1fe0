"""Geometry of the super-resolution grid: sizes, affines, spacing, and the axis across which planes are stacked.

A grid keeps its field of view: edges are shared, so that the first voxel of the fine grid lies half a coarse voxel
minus half a fine one before the first voxel of the coarse grid. Sampling positions and affine both use the true ratio
of the two sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms.utils import scale_affine
from nibabel.orientations import io_orientation

from .io.case import Case

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # of DICOM and ITK to ours, and back
ANISOTROPY = 1.1  # the largest spacing marks the stack axis if it exceeds the others by more than 10 %


def scaled_size(size: int, factor: float) -> int:
    """Voxels of the fine grid over ``size`` voxels: floor(factor · size + 0.5), at least 1."""
    return max(1, math.floor(factor * size + 0.5 + 1e-9))  # 3.3 · 15 is just below 49.5 in floating point


def fitting_sizes(size: int, scale: float) -> tuple[int, int]:
    """Pixels of the largest LR grid that ``size`` HR pixels fill, and of its HR grid: equation 4.18, rounded.

    The dissertation truncates scale · LR size: 1.4 · 45 becomes 62, where 63 is exact.
    """
    low = math.floor(size / scale + 1e-9)  # 99 / 1.1 is just below 90 in floating point
    return low, scaled_size(low, scale) if low else 0


def both_factors(scale: float | Sequence[float]) -> tuple[float, float]:
    """Factors of the two axes of a plane: ``scale`` is one for both, or two."""
    factors = tuple(float(factor) for factor in scale) if isinstance(scale, Sequence) else (float(scale),) * 2
    if len(factors) != 2:
        raise ValueError(f"scale: must be one factor or two, got {list(factors)}; name the in-plane axes only")
    return factors[0], factors[1]


def plane_factors(scale: float | Sequence[float], slice_axis: int, dims: int = 3) -> tuple[float, ...]:
    """Magnification of each of ``dims`` axes: ``scale`` (one, or one for each in-plane axis), 1 across planes."""
    factors = list(scale) if isinstance(scale, Sequence) else [float(scale)] * (dims - 1)
    if len(factors) != dims - 1:
        raise ValueError(f"scale: must be one factor or {dims - 1}, got {list(factors)}; name the in-plane axes only")
    factors.insert(slice_axis, 1.0)
    return tuple(factors)


def resized_affine(
    affine: np.ndarray,
    size: Sequence[int],
    new_size: Sequence[int],
    steps: Sequence[float] | None = None,
    first: Sequence[int] = (0, 0, 0),
) -> np.ndarray:
    """Affine (4 × 4, float64) of the grid of ``new_size`` voxels over the field of ``size`` voxels.

    Args:
        affine: of the grid that these are voxels of.
        size, new_size: along the axes of the array.
        steps: old voxels per new voxel along each axis; the centre of the field stays. None for the ratio of the sizes,
            with which its edges stay as well.
        first: voxel of the field, where it is a region of the grid.
    """
    step = np.asarray(scale_affine(tuple(size), tuple(new_size), centered=True), dtype=np.float64)
    if steps is not None:
        step = np.diag([*steps, 1.0])
        step[:3, 3] = [first_voxel(n, m, s) for n, m, s in zip(size, new_size, steps, strict=True)]
    step[:3, 3] += first
    return np.asarray(affine, dtype=np.float64) @ step


def steps_of(size: Sequence[int], new_size: Sequence[int]) -> tuple[float, ...]:
    """Old voxels per new voxel along each axis, where both grids share their edges."""
    return tuple(n / m for n, m in zip(size, new_size, strict=True))


def first_voxel(size: int, new_size: int, step: float | None = None) -> float:
    """Where the first of ``new_size`` voxels lies among ``size`` voxels, the centres of both grids being the same.

    Args:
        size, new_size: of an axis.
        step: old voxels per new voxel; None for the ratio of the sizes.
    """
    return ((size - 1) - (new_size - 1) * (size / new_size if step is None else step)) / 2


def spacing(affine: np.ndarray) -> tuple[float, float, float]:
    """Distance in mm between neighbouring voxels along each axis."""
    x, y, z = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
    return float(x), float(y), float(z)


def find_slice_axis(affine: np.ndarray, shape: Sequence[int]) -> int:
    """The axis across which a volume's planes are stacked.

    The axis of a single voxel, where there is just one (a lone slice); else the one of the largest spacing, if that
    exceeds the others by more than 10 %; else the one nearest to superior-inferior.
    """
    single = [axis for axis, size in enumerate(shape[:3]) if size == 1]
    if len(single) == 1:
        return single[0]
    steps = np.asarray(spacing(affine))
    largest = int(np.argmax(steps))
    if all(steps[largest] > ANISOTROPY * step for axis, step in enumerate(steps) if axis != largest):
        return largest
    return int(np.flatnonzero(io_orientation(np.asarray(affine, dtype=np.float64))[:, 0] == 2)[0])


def check_affine(affine: np.ndarray, name: str) -> None:
    """Raise ``ValueError`` where ``affine`` cannot place voxels in space: not finite, or singular."""
    matrix = np.asarray(affine, dtype=np.float64)
    usable = matrix.shape == (4, 4) and np.isfinite(matrix).all()
    if not usable or abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
        raise ValueError(
            f"{name}: the affine must be finite and invertible, got {matrix.tolist()}; mend the header's sform or qform"
        )


def sr_affine(affine: torch.Tensor, lr_size: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """:func:`resized_affine` for tensors, ``(4, 4)`` in and out, float64."""
    return torch.as_tensor(resized_affine(affine.cpu().numpy(), lr_size, size), dtype=torch.float64)


def slice_axis_of(image: torch.Tensor) -> int:
    """Slice axis of an image ``(C, X, Y, Z)``, or of a batch of one: as its record says, else by its affine.

    Raises:
        ValueError: neither is there. The identity, which every ``MetaTensor`` has at first, is an affine only where
            ``original_affine`` in the meta data, which MONAI's readers note, says that somebody gave it.
    """
    if not isinstance(image, MetaTensor):
        raise ValueError(f"image: must be a MetaTensor with an affine, got {type(image).__name__}; load it by MONAI")
    case = Case.from_meta(image.meta)
    if case is not None:
        return case.slice_axis
    affine = image.affine.reshape(-1, 4, 4)[0].cpu().numpy()
    check_affine(affine, "image")
    if image.meta.get("original_affine") is None and np.array_equal(affine, np.eye(4)):
        raise ValueError(
            "image: must say where its voxels lie, got no affine but the identity that every MetaTensor has at first; "
            "load it by MONAI's LoadImaged, or note its affine in the meta data, under original_affine as well"
        )
    return find_slice_axis(affine, image.shape[-3:])
