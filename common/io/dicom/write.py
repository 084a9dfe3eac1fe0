"""A super-resolved volume as one derived DICOM series: a file a plane, or one multi-frame file, as its source was."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
from pydicom import Dataset

from ...errors import CaseWarning
from ..case import Case
from ..whole import write_whole
from .derived import Provenance, Regrid, derive, put_pixels, set_value
from .frames import take_frames
from .headers import MULTI_FRAME, naming, read_dataset
from .read import common_values, plane_tags, stored_values
from .stored import Scale, decode, scale_of


@dataclass
class _Plane:
    """Where a plane comes from, how its values are stored, and its stored pixels where some of them are padding."""

    path: str
    frame: int
    scale: Scale
    padded: np.ndarray | None
    least: int = 0
    most: int = 0


def write_dicom(
    array: np.ndarray, case: Case, path: str | os.PathLike[str], provenance: Provenance | None = None
) -> int:
    """Write a super-resolved ``(1, X, Y, Z)`` array as a series derived from that of ``case``, whole or not at all.

    Args:
        array: as :func:`common.io.dicom.read.read_dicom` scales it; becomes what was saved, but for padding.
        case: record of the source.
        path: of the file, or of the folder of files (``case.suffix``).
        provenance: what made the array; None where nobody knows.

    Returns:
        How many values had to be clipped to the stored bits.

    Raises:
        ValueError: the source has changed, or is damaged.
        OSError: nothing could be written; no part of it stays.
    """
    grid = Regrid.of(case, (array.shape[2], array.shape[1]))
    made_by = provenance or Provenance("unknown", "unknown", f"x{1 / grid.steps[1]:g}")
    made_by = made_by if case.box is None else replace(made_by, region=grid.region())
    planes, clipped = _planes(case), 0
    for number, plane in enumerate(planes):
        view = array[0, :, :, number].T
        stored, lost = _fit(view, plane, case)
        view[:] = common_values(stored, plane.scale, case.slope, case.intercept)
        clipped += lost
        stored = _with_padding(stored, plane, grid)
        plane.least, plane.most = int(stored.min()), int(stored.max())
    removed: dict[str, None] = {}
    write_whole(path, lambda target: removed.update(_write(array[0], case, planes, target, made_by, grid)))
    if removed:
        text = f"left out, as it belongs to the pixels of the source: {', '.join(removed)}"
        warnings.warn(text, CaseWarning, stacklevel=2)
    return clipped


def to_real_dicom(array: np.ndarray, case: Case) -> int:
    """Make of values ``(1, X, Y, Z)`` of a series, in place, what a reader of that of :func:`write_dicom` sees.

    Those are real values, on the modality's own scale whatever is displayed bright; padding as in the source.

    Returns:
        How many values had to be clipped to the stored bits.

    Raises:
        ValueError: the source has changed, or is damaged.
    """
    clipped, grid = 0, Regrid.of(case, (array.shape[2], array.shape[1]))
    for number, plane in enumerate(_planes(case)):
        view = array[0, :, :, number].T
        stored, lost = _fit(view, plane, case)
        view[:] = plane.scale.to_real(_with_padding(stored, plane, grid))
        clipped += lost
    return clipped


def _planes(case: Case) -> list[_Plane]:
    planes, dataset, frames, path = [], Dataset(), None, ""
    for part in case.parts:
        with naming(part.path):
            if part.path != path:
                path, dataset, frames = part.path, read_dataset(part.path, pixels=False), None
                if "PixelPaddingValue" in dataset:
                    frames = decode(path, read_dataset(path))
            scale = scale_of(path, dataset, plane_tags(dataset, part.frame))
        padded = None if frames is None else frames[part.frame]
        keep = padded is not None and scale.is_padding(padded).any()
        planes.append(_Plane(path, part.frame, scale, padded if keep else None))
    return planes


def _fit(view: np.ndarray, plane: _Plane, case: Case) -> tuple[np.ndarray, int]:
    """Stored values of a plane (rows, columns), clipped to its bits and kept off its padding; how many were clipped."""
    stored = stored_values(view, plane.scale, case.slope, case.intercept)
    low, high = plane.scale.low, plane.scale.high
    clipped = int(np.count_nonzero((stored < low) | (stored > high)))
    stored = np.clip(stored, low, high, out=stored).astype(np.int32)
    if plane.scale.padding is not None:  # a value that means padding must not appear by chance
        first, last = plane.scale.padding
        stored[plane.scale.is_padding(stored)] = last + 1 if last < high else first - 1
    return stored, clipped


def _with_padding(stored: np.ndarray, plane: _Plane, grid: Regrid) -> np.ndarray:
    """Padding of the source restored: a pixel whose centre lies in a padded pixel of the source is padding."""
    if plane.padded is None:
        return stored
    nearest = []
    for first, (old, new, step, start) in zip(grid.first(), zip(*grid, strict=True), strict=True):
        centres = first + step * np.arange(new)
        nearest.append(np.clip(np.floor(centres + 0.5 + 1e-9).astype(int), start, start + old - 1))
    source = plane.padded[np.ix_(*nearest)]
    return np.where(plane.scale.is_padding(source), source, stored)


def _write(
    values: np.ndarray, case: Case, planes: Sequence[_Plane], target: Path, made_by: Provenance, grid: Regrid
) -> dict[str, None]:
    """Write all files; what was left out of the source's headers."""
    removed: dict[str, None] = {}

    def stored(number: int) -> np.ndarray:
        plane = planes[number]
        return _with_padding(_fit(values[:, :, number].T, plane, case)[0], plane, grid)

    if case.suffix == "":
        target.mkdir()
    for number, plane in enumerate(planes):
        source = read_dataset(plane.path, pixels=False)
        frames = [p.frame for p in planes] if str(source.SOPClassUID) in MULTI_FRAME else []
        pixels = np.stack([stored(n) for n in range(len(planes))]) if frames else stored(number)
        with naming(plane.path):  # a tag may turn out to be damaged only when it is asked for, or written
            out, stale = derive(source, made_by, grid, _directions(case))
            if frames:
                stale += take_frames(out, source, frames, grid)
            _set_range_of_series(out, source, planes)
            put_pixels(out, source, pixels, made_by)
            content = encode(out)
        removed.update(dict.fromkeys(stale))
        path = target / f"{number + 1:04d}.dcm" if case.suffix == "" else target
        path.write_bytes(content)
        if frames:
            break
    return removed


def _directions(case: Case) -> str:
    """Directions of rows and columns: what tells the volumes of one series apart. Projections all have the same."""
    axes = np.array(case.affine)[:3, :2]
    directions = np.round(axes / np.linalg.norm(axes, axis=0), 2) + 0.0  # no -0
    return " ".join(f"{v:.2f}" for v in directions.T.flatten())


def _set_range_of_series(out: Dataset, source: Dataset, planes: Sequence[_Plane]) -> None:
    signed = bool(int(source.get("PixelRepresentation") or 0))
    for name, value in (
        ("SmallestPixelValueInSeries", min(plane.least for plane in planes)),
        ("LargestPixelValueInSeries", max(plane.most for plane in planes)),
    ):
        if name in out:
            set_value(out, name, value, signed)


def encode(out: Dataset) -> memoryview:
    """The bytes of the file, in memory, so that what cannot be encoded is told from what cannot be saved."""
    file = io.BytesIO()
    if int(pydicom.__version__.split(".")[0]) >= 3:
        pydicom.dcmwrite(file, out, enforce_file_format=True)
    else:
        out.is_little_endian, out.is_implicit_VR = True, False
        pydicom.dcmwrite(file, out, write_like_original=False)
    return file.getbuffer()
