"""A DICOM series as one array with its record."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom import Dataset

from ...errors import CaseWarning
from ...geometry import LPS_TO_RAS, check_affine
from ..archive import SUFFIX as ARCHIVE
from ..case import Case, Part
from ..options import DEFAULTS, ReadOptions, check_channels, check_stack_axis, refuse_nifti_options
from .headers import MULTI_FRAME, Plane, frame_tags, naming, read_dataset
from .series import Series, find_series, normal
from .stored import Scale, decode, scale_of


def read_dicom(
    source: Series | str | os.PathLike[str],
    options: ReadOptions = DEFAULTS,
) -> tuple[np.ndarray, Case]:
    """Stored values of a DICOM series as ``(1, X, Y, Z)`` float32, X along a row, Z along the stack; and their record.

    Values are stored ones of the plane with the largest slope; those of planes with another rescale are brought to
    its scale. They are negated where low values are displayed bright, and padding is filled by the darkest value of its
    plane, so that it does not reach the network; the writer undoes all of it.

    Args:
        source: an item of :func:`find_series`; or a file, folder or zip archive that holds exactly one.
        options: see :class:`ReadOptions`; ``in_channels`` must be 1, ``slice_axis`` None or 2. ``volume`` and
            ``channels_last`` are refused, they are for NIfTI.

    Raises:
        ValueError: refused, damaged, or not for this network; the message names the file and the remedy.
    """
    series = source if isinstance(source, Series) else _only_series(source)
    if series.problem is not None:
        raise ValueError(series.problem)
    check_channels(series, 1, options.in_channels)
    refuse_nifti_options(series, options)
    check_stack_axis(series, options.slice_axis)
    values, scales, dtype = _read_planes(series)
    affine, units = _affine(series)
    reference = max(scales, key=lambda scale: abs(scale.slope))
    rows, columns = series.planes[0].size
    case = Case(
        source=series.source,
        format="dicom",
        suffix=series.suffix,
        dtype=dtype,
        slope=reference.slope,
        intercept=reference.intercept,
        shape=(columns, rows, len(series.planes)),
        volume=None,
        channels_last=False,
        slice_axis=2,
        affine=tuple(tuple(float(v) for v in row) for row in affine),
        units=units,
        parts=tuple(Part(plane.path, plane.frame) for plane in series.planes),
    )
    return values[None], case


def common_values(stored: np.ndarray, own: Scale, slope: float, intercept: float) -> np.ndarray:
    """Stored values of a plane on the scale of ``slope`` and ``intercept``, bright where they are displayed bright."""
    if own.table is None and (own.slope, own.intercept) == (slope, intercept):
        return np.multiply(stored, own.sign, dtype=np.float32)  # stored bits fit in float32
    return (own.sign * ((own.to_real(stored) - intercept) / slope)).astype(np.float32)


def stored_values(values: np.ndarray, own: Scale, slope: float, intercept: float) -> np.ndarray:
    """Undo :func:`common_values`: rounded stored values as float64, not yet clipped."""
    if own.table is None and (own.slope, own.intercept) == (slope, intercept):
        rounded = np.multiply(values, own.sign, dtype=np.float64)  # in place from here: a projection is large
        return np.rint(rounded, out=rounded)
    return own.to_stored(own.sign * values.astype(np.float64) * slope + intercept)


def plane_tags(dataset: Dataset, frame: int) -> Dataset:
    """Tags of a plane: those of its frame, or of the file that is one plane."""
    return frame_tags(dataset, frame) if str(dataset.SOPClassUID) in MULTI_FRAME else dataset


def _only_series(source: str | os.PathLike[str]) -> Series:
    path = Path(source)
    files = sorted(str(p) for p in path.rglob("*") if p.is_file()) if path.is_dir() else [str(path)]
    found, skipped = find_series(files)
    if len(found) != 1:
        reasons = "".join(f"; {item.path}: {item.reason}" for item in skipped[:3])
        raise ValueError(f"{path}: must hold one DICOM series, got {len(found)}{reasons}; name the files of one series")
    return found[0]


def _read_planes(series: Series) -> tuple[np.ndarray, list[Scale], str]:
    """Values of all planes ``(X, Y, Z)``, their scales, and the stored type."""
    stored, scales = [], []
    for plane, dataset, frames in _decoded(series.planes):
        stored.append(frames[plane.frame])
        with naming(plane.path):
            scales.append(scale_of(plane.path, dataset, plane_tags(dataset, plane.frame)))
    reference = max(scales, key=lambda scale: abs(scale.slope))
    values = np.empty((len(stored), *series.planes[0].size), np.float32)
    for plane, pixels, own, out in zip(series.planes, stored, scales, values, strict=True):
        padding = own.is_padding(pixels)
        out[:] = common_values(pixels, own, reference.slope, reference.intercept)
        if padding.any():
            out[padding] = 0 if padding.all() else out[~padding].min()
        back = stored_values(out, own, reference.slope, reference.intercept)
        if not np.array_equal(back[~padding], pixels[~padding]):
            raise ValueError(
                f"{plane.path}: the rescale differs too much from that of the other slices (slope {own.slope:g} beside "
                f"{reference.slope:g}) for its values to be kept; export the series with one rescale"
            )
    return values.transpose(2, 1, 0), scales, np.result_type(*stored).str


def _decoded(planes: tuple[Plane, ...]) -> Iterator[tuple[Plane, Dataset, np.ndarray]]:
    """Each plane with the data set of its file and all frames of that, a file being read once."""
    path, dataset, frames = "", Dataset(), np.empty((0, 0, 0))
    for plane in planes:
        if plane.path != path:
            path, dataset = plane.path, read_dataset(plane.path)
            with naming(path):
                frames = decode(path, dataset)
        if plane.frame >= len(frames) or frames.shape[1:] != plane.size:
            raise ValueError(f"{path}: has changed since it was found; run again")
        yield plane, dataset, frames


def _affine(series: Series) -> tuple[np.ndarray, str]:
    """Voxel to world (RAS), and the unit of space."""
    first, last = series.planes[0], series.planes[-1]
    affine = np.eye(4)
    row_step, column_step = first.spacing or (1.0, 1.0)
    if first.position is None or first.orientation is None:
        affine[:3, :3] = np.diag([column_step, row_step, 1.0])
        if first.spacing is None:
            warnings.warn("the file has no pixel spacing: distances are unknown", CaseWarning, stacklevel=2)
        return LPS_TO_RAS @ affine, "mm" if first.spacing else "pixel"
    affine[:3, 0] = np.multiply(first.orientation[:3], column_step)
    affine[:3, 1] = np.multiply(first.orientation[3:], row_step)
    count = len(series.planes)
    apart = np.subtract(last.position or first.position, first.position)
    affine[:3, 2] = apart / (count - 1) if count > 1 else normal(first) * (first.thickness or 1.0)
    affine[:3, 3] = first.position
    check_affine(affine, str(series))
    return LPS_TO_RAS @ affine, "mm"


def is_dicom_source(source: object) -> bool:
    """Whether :func:`read_dicom` is the reader of an item: a series, a folder or an archive."""
    if isinstance(source, Series):
        return True
    return isinstance(source, (str, os.PathLike)) and (os.path.isdir(source) or str(source).lower().endswith(ARCHIVE))
