"""Files of a diffusion evaluation: series of weighted images, the mask of the wall, points that a user names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from .data.planes import foreground_threshold
from .io.case import Case
from .io.nifti import count_volumes, read_nifti
from .io.options import ReadOptions

REFERENCE = "HR"


def read_series(
    path: str | os.PathLike[str], bval: str, count: int, slice_axis: int | None = None
) -> tuple[np.ndarray, Case]:
    """Real values ``(N, X, Y, Z)`` of a 4-D NIfTI file, and its record.

    Args:
        path: of the file.
        bval: file of the b-values, for the message.
        count: how many b-values there are.
        slice_axis: across the planes; None to let the affine say.

    Raises:
        ValueError: it cannot be read, has another number of volumes, or values that are not finite.
    """
    found = count_volumes(path)
    if found != count:
        raise ValueError(
            f"{path}: must hold a volume for each of the {count} b-values in {bval}, got {found}; "
            "pass the files of one series"
        )
    options = ReadOptions(in_channels=count, channels_last=True, slice_axis=slice_axis)
    stored, case = read_nifti(path, options)
    values = abs(case.slope) * stored + case.intercept
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: values must be finite, got NaN or infinity; replace those voxels, for example by 0")
    return values, case


def check_grid(name: str, size: Sequence[int], case: Case, other: Sequence[int], reference: Case) -> None:
    """Raise ``ValueError`` where an image does not lie on the grid of the reference."""
    if tuple(size) != tuple(other) or not np.allclose(case.affine, reference.affine, atol=1e-3):
        raise ValueError(
            f"{name}: must lie on the grid of {reference.source} with its affine and {' x '.join(map(str, other))} "
            f"voxels, got {' x '.join(map(str, size))}; magnify LR by the factor that HR was reduced by, or resample it"
        )


def read_wall(path: str, label: int | None, size: Sequence[int], reference: Case) -> np.ndarray:
    """Mask ``(X, Y, Z)`` of the voxels that have this label, or any above 0.

    Raises:
        ValueError: it cannot be read, lies on another grid, or has no such voxel.
    """
    stored, case = read_nifti(path, ReadOptions())
    check_grid(path, stored.shape[1:], case, size, reference)
    values = abs(case.slope) * stored[0] + case.intercept
    mask = values > 0 if label is None else values == label
    if not mask.any():
        wanted = "above 0" if label is None else f"of label {label}"
        raise ValueError(f"{path}: must have voxels {wanted}, got {np.unique(values)[:8]}; draw them, or pass --label")
    return np.asarray(mask)


def foreground(values: np.ndarray) -> np.ndarray:
    """Voxels ``(X, Y, Z)`` whose mean over all volumes is not air; see :func:`foreground_threshold`."""
    mean = torch.from_numpy(values.mean(0))
    return (mean > foreground_threshold(mean)).numpy()


def named_series(sr: str | Sequence[str]) -> dict[str, str]:
    """Name to file: of ``FILE`` alone, called SR, or of ``name=FILE``, one or more with commas.

    Raises:
        ValueError: several files without different names, or one is called as the reference.
    """
    words = sr.split(",") if isinstance(sr, str) else [str(word) for word in sr]
    if len(words) == 1 and ("=" not in words[0] or Path(words[0]).exists()):
        return {"SR": words[0]}
    pairs = [word.strip().partition("=") for word in words]
    named = {name: path for name, _, path in pairs if path and name not in ("", REFERENCE) and Path(name).name == name}
    if len(named) < len(words):
        raise ValueError(f"sr: must be FILE or name=FILE,name=FILE with different names, none {REFERENCE}, got {sr}")
    return named


def point(value: object, name: str) -> tuple[float, float] | None:
    """Two finite numbers of a point in the plane; None stays so.

    Raises:
        ValueError: it is something else.
    """
    if value is None:
        return None
    words = value.strip("[]()").split(",") if isinstance(value, str) else value
    try:
        first, second = (float(word) for word in words)  # type: ignore[attr-defined]
        if not np.isfinite([first, second]).all():
            raise ValueError("a number is not finite")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: must be two voxel indices in the plane, got {value}; pass --{name} 40,38") from error
    return first, second
