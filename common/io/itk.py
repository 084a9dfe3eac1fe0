"""MetaImage and NRRD in and out by SimpleITK: stored values as they stand, in their own type.

ITK's world is left, posterior, superior; that of a :class:`Case` right, anterior, superior.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import CaseWarning
from ..geometry import LPS_TO_RAS, check_affine, resized_affine, spacing
from .case import Case
from .itk_header import META, NRRD, ItkHeader, find_gap, read_header
from .options import DEFAULTS, ReadOptions, check_channels, choose_slice_axis, refuse_nifti_options
from .reason import reason
from .values import float32_limits, round_and_clip, to_float32
from .whole import write_whole

SUFFIXES = META + NRRD
RESULTS = {".mhd": ".mha", ".nhdr": ".nrrd"}  # voxels and header in one file
ANATOMICAL = "left-posterior-superior"  # ITK turns every other space of the body into it
KEPT_KEYS = ("ITK_ExperimentDate", "ITK_VoxelUnits", "NRRD_content", "NRRD_space")  # the others describe the old grid
KEPT_FIELDS = ("Comment", "Name", "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset")


def read_itk(
    path: str | os.PathLike[str],
    options: ReadOptions = DEFAULTS,
) -> tuple[np.ndarray, Case]:
    """Stored values of a MetaImage or NRRD file as ``(C, X, Y, Z)`` float32, and their record.

    The record's ``shape`` is ``(X, Y)`` or ``(X, Y, Z)``, and then C where a voxel is a vector. A result is one file:
    a detached header (``.mhd``, ``.nhdr``) gives ``.mha`` or ``.nrrd``.

    Args:
        path: ``.mha``, ``.mhd``, ``.nrrd`` or ``.nhdr``.
        options: see :class:`ReadOptions`; a voxel has ``in_channels`` components. ``volume`` and ``channels_last`` are
            refused, they are for NIfTI.

    Raises:
        ValueError: of another format, damaged, not of 2 or 3 axes, of other channels, values that do not fit in
            float32, or no usable affine. The message names the file and the remedy.
    """
    refuse_nifti_options(path, options)
    header = read_header(path)
    reader = _reader(path)
    dtype = _check_kind(path, header, reader)
    check_channels(path, reader.GetNumberOfComponents(), options.in_channels)
    stored = _stored_values(path, header, reader, dtype.itemsize)
    affine = _affine(reader)
    check_affine(affine, str(path))
    size = reader.GetSize()
    suffix = next(suffix for suffix in SUFFIXES if str(path).lower().endswith(suffix))
    case = Case(
        source=str(path),
        format="itk",
        suffix=RESULTS.get(suffix, suffix),
        dtype=stored.dtype.str,
        slope=1.0,
        intercept=0.0,
        shape=(*size, reader.GetNumberOfComponents()) if _is_vector(reader) else size,
        volume=None,
        channels_last=False,
        slice_axis=choose_slice_axis(path, options.slice_axis, affine, size),
        affine=tuple(tuple(float(v) for v in row) for row in affine),
        units=_metadata(reader).get("ITK_VoxelUnits", "mm"),
    )
    axes = stored.reshape(*size[::-1], -1) if len(size) == 3 else stored.reshape(1, *size[::-1], -1)
    return to_float32(path, axes.transpose(3, 2, 1, 0)), case


def fit_itk(array: np.ndarray, case: Case) -> int:
    """Round ``array`` (C, X, Y, Z) in place and clip it to the stored type of ``case``: what a reader of the file sees.

    Returns:
        How many values had to be clipped. Float types are left alone.
    """
    dtype = np.dtype(case.dtype)
    return 0 if dtype.kind == "f" else round_and_clip(array, *float32_limits(dtype))


def write_itk(array: np.ndarray, case: Case, path: str | os.PathLike[str]) -> int:
    """Write a super-resolved ``(C, X, Y, Z)`` array in the stored type of ``case``, whole or not at all.

    Compressed where the source was; of several channels, though each came from a file, vectors. What the header says
    beside the grid is kept as far as ITK knows it.

    Args:
        array: rounded and clipped in place to the stored type.
        case: record of the source.
        path: ``.mha`` or ``.nrrd``.

    Returns:
        How many values had to be clipped to the stored type.

    Raises:
        OSError: the file cannot be written; no part of it stays.
    """
    clipped = fit_itk(array, case)
    header, reader = read_header(case.source), _reader(case.source)
    stored = array.transpose(3, 2, 1, 0).astype(np.dtype(case.dtype))
    is_vector, dims = _is_vector(reader) or len(array) > 1, reader.GetDimension()
    image = sitk.GetImageFromArray(
        stored.reshape(stored.shape[3 - dims : 3] + stored.shape[3:] * is_vector), isVector=is_vector
    )
    first, old = case.field((*reader.GetSize(), 1)[:3])
    _place(image, resized_affine(np.asarray(case.affine), old, array.shape[1:], case.steps, first))
    for key, value in _metadata(reader).items():
        if key in KEPT_KEYS or not key.startswith(("ITK_", "NRRD_")):
            image.SetMetaData(key, value)
    for key in KEPT_FIELDS:
        if key in header.fields:
            image.SetMetaData(key, header.fields[key])
    write_whole(path, lambda temporary: _write(image, temporary, header.encoding == "deflate", stored.nbytes))
    return clipped


def _write(image: sitk.Image, path: Path, compress: bool, size: int) -> None:
    try:
        sitk.WriteImage(image, str(path), useCompression=compress)
    except RuntimeError as error:
        raise OSError(reason(error)) from error
    gap = find_gap(read_header(path), size)
    if gap:
        raise OSError(f"got {gap}")


def _reader(path: str | os.PathLike[str]) -> sitk.ImageFileReader:
    """A reader that knows the header of ``path``."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO" if str(path).lower().endswith(META) else "NrrdImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ValueError(
            f"{path}: cannot be read, got {reason(error)}; export the file again, or mend its header"
        ) from error
    return reader


def _check_kind(path: str | os.PathLike[str], header: ItkHeader, reader: sitk.ImageFileReader) -> np.dtype:
    """Type of the voxels. Refuse what is no image of 2 or 3 axes; warn where an NRRD does not say where right is."""
    if reader.GetDimension() not in (2, 3):
        raise ValueError(f"{path}: must have 2 or 3 axes, got shape {reader.GetSize()}; save each volume as a file")
    dtype = sitk.GetArrayViewFromImage(sitk.Image([1, 1], reader.GetPixelID())).dtype
    if dtype.kind not in "iuf":
        raise ValueError(f"{path}: voxels must be integers or floats, got {dtype}; convert the file")
    keys = _metadata(reader)
    if "NRRD_measurement frame" in keys and _is_vector(reader):
        raise ValueError(f"{path}: a measurement frame cannot be carried to the result; convert the file to NIfTI")
    units = set(re.findall(r'"(.*?)"', header.fields.get("space units", "")))
    if units - {"mm", ""}:
        raise ValueError(f'{path}: space units must be "mm", got {" ".join(sorted(units))}; convert the header to mm')
    space = keys.get("NRRD_space") if str(path).lower().endswith(NRRD) else ANATOMICAL
    if space != ANATOMICAL and reader.GetDimension() == 3:
        text = "the header does not say where right is: its axes are taken as left, posterior, superior"
        warnings.warn(text, CaseWarning, stacklevel=3)
    return dtype


def _stored_values(
    path: str | os.PathLike[str], header: ItkHeader, reader: sitk.ImageFileReader, itemsize: int
) -> np.ndarray:
    """Voxels as ``(Z, Y, X)`` or ``(Y, X)``, and then components."""
    gap = find_gap(header, math.prod(reader.GetSize()) * reader.GetNumberOfComponents() * itemsize)
    if gap:
        raise ValueError(f"{path}: cannot be read to its end, got {gap}; copy or export the file again")
    try:
        return sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise ValueError(
            f"{path}: cannot be read, got {reason(error)}; export the file again, or mend its header"
        ) from error


def _is_vector(reader: sitk.ImageFileReader) -> bool:
    return "vector" in sitk.GetPixelIDValueAsString(reader.GetPixelID())


def _metadata(reader: sitk.ImageFileReader) -> dict[str, str]:
    return {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}


def _affine(reader: sitk.ImageFileReader) -> np.ndarray:
    """Voxel to world (RAS) of a header, 4 × 4; a plane's third axis is the world's, with spacing 1."""
    dims, affine = reader.GetDimension(), np.eye(4)
    affine[:dims, :dims] = np.reshape(reader.GetDirection(), (dims, dims)) * reader.GetSpacing()
    affine[:dims, 3] = reader.GetOrigin()
    return LPS_TO_RAS @ affine


def _place(image: sitk.Image, affine: np.ndarray) -> None:
    """Give ``image`` the spacing, origin and direction of ``affine`` (RAS)."""
    dims, world = image.GetDimension(), LPS_TO_RAS @ affine
    steps = np.asarray(spacing(affine))
    image.SetSpacing(steps[:dims].tolist())
    image.SetOrigin(world[:dims, 3].tolist())
    image.SetDirection((world[:3, :3] / steps)[:dims, :dims].ravel().tolist())
