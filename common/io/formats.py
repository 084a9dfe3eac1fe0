"""Every file format by one name: its suffixes, its reader and its writer."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .case import Case
from .dicom.derived import Provenance
from .dicom.read import is_dicom_source, read_dicom
from .dicom.series import SUFFIXES as DICOM
from .dicom.series import Series, is_dicom
from .dicom.write import to_real_dicom, write_dicom
from .itk import SUFFIXES as ITK
from .itk import fit_itk, read_itk, write_itk
from .nifti import ANALYZE, read_nifti, to_real_nifti, write_nifti
from .nifti import SUFFIXES as NIFTI
from .options import DEFAULTS, ReadOptions
from .raster import SUFFIXES as RASTER
from .raster import fit_raster, read_raster, write_raster

Read = Callable[..., tuple[np.ndarray, Case]]  # (path, options)
Write = Callable[[np.ndarray, Case, str | os.PathLike[str]], int]
ToReal = Callable[[np.ndarray, Case], int]


@dataclass(frozen=True)
class Format:
    """How one kind of file is read and written.

    Attributes:
        suffixes: in lower case, the longer before those that they end with.
        read: see :func:`read_image`.
        write: see :func:`write_image`; without provenance, which only DICOM has a place for.
        to_real: see :func:`to_real_values`.
    """

    suffixes: tuple[str, ...]
    read: Read
    write: Write
    to_real: ToReal


FORMATS = {
    "nifti": Format(NIFTI, read_nifti, write_nifti, to_real_nifti),
    "itk": Format(ITK, read_itk, write_itk, fit_itk),
    "raster": Format(RASTER, read_raster, write_raster, fit_raster),
    "dicom": Format(DICOM, read_dicom, write_dicom, to_real_dicom),
}
SUFFIXES = tuple(suffix for known in FORMATS.values() for suffix in known.suffixes)


def stem(path: str | os.PathLike[str]) -> str:
    """File name without the suffix of a format that is read, ``.nii.gz`` as a whole."""
    name = Path(path).name
    for suffix in SUFFIXES + ANALYZE:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def read_image(
    path: str | os.PathLike[str] | Series,
    options: ReadOptions = DEFAULTS,
) -> tuple[np.ndarray, Case]:
    """Stored values of an image as ``(C, X, Y, Z)`` float32, and their record.

    Args:
        path: of a file of any format of :data:`FORMATS`; of a folder or zip archive with one DICOM series; or such a
            series as :func:`common.io.dicom.series.find_series` gives it.
        options: see :class:`ReadOptions`.

    Raises:
        ValueError: unknown, damaged or not for this network; the message names the file and the remedy.
    """
    if is_dicom_source(path):
        return read_dicom(path, options)
    name = os.fspath(path).lower()
    for known in FORMATS.values():
        if name.endswith(known.suffixes):
            return known.read(path, options)
    if name.endswith(ANALYZE):
        return read_nifti(path, options)
    if is_dicom(path):
        return read_dicom(path, options)
    raise ValueError(f"{path}: must be DICOM or one of {', '.join(SUFFIXES)}; convert it first")


def write_image(
    array: np.ndarray, case: Case, path: str | os.PathLike[str], provenance: Provenance | None = None
) -> int:
    """Write a super-resolved ``(C, X, Y, Z)`` array in the format, stored type and header of ``case``.

    The file is written whole or not at all. ``array`` becomes what was saved: rounded and clipped to the stored type.

    Args:
        array: of the values that :func:`read_image` gives.
        case: record of the source.
        path: of the result.
        provenance: what made it; DICOM alone has a place for it.

    Returns:
        How many values had to be clipped.

    Raises:
        OSError: the file cannot be written; no part of it stays.
    """
    if case.format == "dicom":
        return write_dicom(array, case, path, provenance)
    return FORMATS[case.format].write(array, case, path)


def to_real_values(array: np.ndarray, case: Case) -> int:
    """Make of a super-resolved ``(C, X, Y, Z)`` array what a reader of its file would see, without a file; in place.

    Rounded and clipped to the stored type as :func:`write_image` does it, then with slope and intercept, or a table,
    applied.

    Args:
        array: of the values that :func:`read_image` gives, float32.
        case: record of the source.

    Returns:
        How many values had to be clipped.

    Raises:
        ValueError: the source, of which a DICOM series is asked again, has changed or is damaged.
    """
    return FORMATS[case.format].to_real(array, case)
