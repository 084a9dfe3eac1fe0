"""NIfTI in and out by nibabel: stored values as they stand, and every header field that super-resolution keeps."""

from __future__ import annotations

import math
import os
import warnings
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError, ImageDataError
from nibabel.wrapstruct import WrapStructError

from ..errors import CaseWarning
from ..geometry import check_affine, resized_affine, steps_of
from .case import Case
from .options import DEFAULTS, ReadOptions, choose_slice_axis
from .values import float32_limits, round_and_clip, to_float32
from .whole import write_whole

SUFFIXES = (".nii.gz", ".nii")
ANALYZE = (".img", ".hdr")
DEFLATE = 1032  # bytes that gzip can make of one, at most
READ_ERRORS = (
    nib.filebasedimages.ImageFileError,
    HeaderDataError,
    ImageDataError,
    WrapStructError,
    EOFError,
    OverflowError,
    OSError,
    zlib.error,
    ValueError,
)


def read_nifti(
    path: str | os.PathLike[str],
    options: ReadOptions = DEFAULTS,
) -> tuple[np.ndarray, Case]:
    """Stored values of a NIfTI-1 or -2 file as ``(C, X, Y, Z)`` float32, and their record.

    The values are those in the file, before slope and intercept; they are negated where the slope is negative, so
    that bright stays bright (the writer turns them back).

    Args:
        path: ``.nii`` or ``.nii.gz``.
        options: see :class:`ReadOptions`. Analyze 7.5 does not say where right is, so ``analyze`` is for training and
            evaluation, and nothing is made of it that would be written back.

    Raises:
        ValueError: not a NIfTI file, damaged, 4-D without ``volume`` or ``channels_last``, values that do not fit in
            float32, or no usable affine. The message names the file and the remedy.
    """
    image = _open(path, options.analyze)
    index = _channel_axis(path, image.shape, options)
    _check_header(path, image)
    stored = _stored_values(path, image)
    space = stored.reshape(*_space(image.shape), -1)
    channels = np.moveaxis(space if index is None else space[..., [index]], -1, 0)
    values = to_float32(path, channels)
    affine = np.asarray(image.affine, dtype=np.float64)
    case = Case(
        source=str(path),
        format="nifti",
        suffix=next(suffix for suffix in SUFFIXES + ANALYZE if str(path).lower().endswith(suffix)),
        dtype=image.get_data_dtype().str,
        slope=float(image.dataobj.slope),
        intercept=float(image.dataobj.inter),
        shape=tuple(int(n) for n in image.shape),
        volume=index,
        channels_last=options.channels_last and values.shape[0] > 1,
        slice_axis=choose_slice_axis(path, options.slice_axis, affine, image.shape),
        affine=tuple(tuple(float(v) for v in row) for row in affine),
        units=_units(image),
    )
    return (-values if case.slope < 0 else values), case


def count_volumes(path: str | os.PathLike[str]) -> int:
    """How many volumes a NIfTI file holds: 1, unless it has a fourth axis. Errors are those of :func:`read_nifti`."""
    return math.prod(int(n) for n in _open(path).shape[3:])


def fit_to_stored_type(array: np.ndarray, case: Case) -> int:
    """Round ``array`` (C, X, Y, Z) in place and clip it to what the stored type of ``case`` can hold; never wrap.

    Returns:
        How many values had to be clipped. Float types are left alone.
    """
    dtype = np.dtype(case.dtype)
    if dtype.kind == "f":
        return 0
    low, high = float32_limits(dtype)
    return round_and_clip(array, *((-high, -low) if case.slope < 0 else (low, high)))


def to_real_nifti(array: np.ndarray, case: Case) -> int:
    """Make of values ``(C, X, Y, Z)`` of :func:`read_nifti`, in place, what a reader of the saved file sees.

    Returns:
        How many values had to be clipped to the stored type.
    """
    clipped = fit_to_stored_type(array, case)
    array *= abs(case.slope)  # of a negative one the reader took the sign
    array += case.intercept
    return clipped


def write_nifti(array: np.ndarray, case: Case, path: str | os.PathLike[str]) -> int:
    """Write a super-resolved ``(C, X, Y, Z)`` array in the stored type and header of ``case``, whole or not at all.

    Both the sform and the qform of the source are carried to the new grid, with their codes.

    Args:
        array: of the sign that :func:`read_nifti` gives; :func:`fit_to_stored_type` fits it in place.
        case: record of the source.
        path: ``.nii`` or ``.nii.gz``.

    Returns:
        How many values had to be clipped to the stored type.

    Raises:
        OSError: the file cannot be written; no part of it stays.
    """
    clipped = fit_to_stored_type(array, case)
    source = _open(case.source)
    stored = np.empty(array.shape, np.dtype(case.dtype))
    for place in np.ndindex(array.shape[:2]):
        stored[place] = -array[place] if case.slope < 0 else array[place]
    size, (first, old) = array.shape[1:], case.field(_space(case.shape))
    image = source.__class__(_shaped(stored, case), None, source.header.copy())
    forms = source.get_sform(coded=True), source.get_qform(coded=True)
    image.header.set_zooms(_zooms(source.header, case.steps or steps_of(old, size), image.ndim))
    for (form, code), set_form in zip(forms, (image.set_sform, image.set_qform), strict=True):
        set_form(None if form is None else resized_affine(form, old, size, case.steps, first), code=int(code))
    if case.box is not None and forms[0][0] is None and forms[1][0] is None:  # else readers centre the region at 0
        image.set_sform(resized_affine(np.asarray(case.affine), old, size, case.steps, first), code="aligned")
    _drop_stale_slice_times(image.header, _space(case.shape), size)
    image.set_data_dtype(stored.dtype)
    image.header.set_slope_inter(case.slope, case.intercept)
    write_whole(path, image.to_filename)
    return clipped


def _shaped(stored: np.ndarray, case: Case) -> np.ndarray:
    """``(C, X, Y, Z)`` in the axes of the source's array."""
    if case.volume is not None:
        return stored[0]
    if len(case.shape) == 2:
        return stored[0, :, :, 0]
    return np.moveaxis(stored, 0, -1).reshape(*stored.shape[1:], *case.shape[3:])


def _open(path: str | os.PathLike[str], analyze: bool = False) -> Any:  # nibabel's types hide what its images can do
    if not str(path).lower().endswith(SUFFIXES + ANALYZE if analyze else SUFFIXES):
        raise ValueError(f"{path}: must be a NIfTI file, .nii or .nii.gz; convert it first")
    headers = [Path(path).with_suffix(suffix) for suffix in (".hdr", ".HDR")]
    if Path(path).suffix.lower() == ".img" and not any(header.exists() for header in headers):
        raise ValueError(f"{path}: its header {headers[0].name} is missing; copy it into the same folder")
    try:
        image = nib.load(path)
    except READ_ERRORS as error:
        raise ValueError(f"{path}: not a readable NIfTI file, got {error}; copy or export the file again") from error
    if not isinstance(image, nib.AnalyzeImage if analyze else nib.Nifti1Image):
        raise ValueError(f"{path}: must be a NIfTI file, got {type(image).__name__}; convert it to NIfTI")
    return image


def _space(shape: tuple[int, ...]) -> tuple[int, int, int]:
    x, y, z = (*shape[:3], 1, 1)[:3]
    return int(x), int(y), int(z)


def _channel_axis(path: str | os.PathLike[str], shape: tuple[int, ...], options: ReadOptions) -> int | None:
    """Index of the volume to take from the fourth axis, or None to take all of it."""
    in_channels, volume = options.in_channels, options.volume
    rest = [n for n in shape[3:] if n != 1]
    if len(rest) > 1:
        raise ValueError(f"{path}: at most four axes can be read, got shape {shape}; split the file")
    count = rest[0] if rest else 1
    if volume is not None:
        if len(shape) < 4 and volume == 0:
            return None
        if not 0 <= volume < count:
            raise ValueError(f"{path}: --volume must be 0 to {count - 1}, got {volume}; shape is {shape}")
        if in_channels != 1:
            raise ValueError(f"{path}: the network takes {in_channels} channels, --volume gives 1; use channels_last")
        return volume
    if options.channels_last or count == 1:
        if count != in_channels:
            raise ValueError(
                f"{path}: the network takes {in_channels} channels, the file of shape {shape} has {count}; "
                "use a network of that many channels, or pass --volume N for one volume"
            )
        return None
    raise ValueError(
        f"{path}: a 4-D file needs a choice, got shape {shape}; pass --volume N for one volume, "
        f"or --channels_last true if its {count} volumes are the channels of the network"
    )


def _check_header(path: str | os.PathLike[str], image: Any) -> None:
    """Refuse voxels that are no numbers and an affine that cannot place them; warn where a NIfTI has no orientation."""
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise ValueError(
            f"{path}: voxels must be integers or floats, got {dtype}; convert the file, for example to float32"
        )
    check_affine(np.asarray(image.affine, dtype=np.float64), str(path))
    if isinstance(image, nib.Nifti1Pair) and not (image.header["qform_code"] or image.header["sform_code"]):
        known = "only spacing" if _has_spacing(image) else "and no spacing, for which 1 is taken"
        text = f"the header has no orientation, {known}: axes are taken as right, anterior, superior"
        warnings.warn(text, CaseWarning, stacklevel=3)


def _stored_values(path: str | os.PathLike[str], image: Any) -> np.ndarray:
    _check_size(path, image)
    try:
        stored = np.asanyarray(image.dataobj.get_unscaled())
    except READ_ERRORS as error:
        raise ValueError(f"{path}: cannot be read to its end, got {error}; copy or export the file again") from error
    if stored.size == 0:
        raise ValueError(f"{path}: must hold at least one voxel, got shape {image.shape}; export the file again")
    return stored


def _has_spacing(image: nib.Nifti1Pair) -> bool:
    """Whether the file says how far its voxels are apart; nibabel puts 1 in the place of zeros."""
    if image.header["sform_code"]:
        return True
    holder = image.file_map.get("header", image.file_map["image"])
    with holder.get_prepare_fileobj("rb") as file:
        raw = type(image.header).from_fileobj(file, check=False)
    return all(raw["pixdim"][axis + 1] for axis, length in enumerate(image.shape[:3]) if length > 1)


def _units(image: Any) -> str:
    if not isinstance(image, nib.Nifti1Pair):
        return "mm"
    if not _has_spacing(image):
        return "pixel"
    try:
        return str(image.header.get_xyzt_units()[0])
    except KeyError:  # a code that the format does not know
        return "unknown"


def _check_size(path: str | os.PathLike[str], image: Any) -> None:
    """Refuse a shape that the file is too short for, before memory is set aside for it."""
    file = str(image.file_map["image"].filename or path)
    held = os.path.getsize(file) * (DEFLATE if file.lower().endswith(".gz") else 1)
    needed = int(image.dataobj.offset) + math.prod(int(n) for n in image.shape) * image.get_data_dtype().itemsize
    if needed > held:
        raise ValueError(
            f"{path}: cannot be read to its end, must hold {needed} bytes for shape {image.shape}, got at most {held}; "
            "copy or export the file again"
        )


def _zooms(header: nib.Nifti1Header, steps: tuple[float, ...], ndim: int) -> tuple[float, ...]:
    zooms = [*header.get_zooms(), 1.0, 1.0, 1.0]
    new = [zoom * step for zoom, step in zip(zooms[:3], steps, strict=True)]
    return tuple(float(z) for z in [*new, *zooms[3:]][:ndim])


def _drop_stale_slice_times(header: nib.Nifti1Header, old: tuple[int, ...], size: tuple[int, ...]) -> None:
    """Slice timing counts slices along one axis; it says nothing true once that axis has other slices."""
    axis = header.get_dim_info()[2]
    if axis is not None and old[axis] != size[axis]:
        header["slice_code"], header["slice_start"], header["slice_end"], header["slice_duration"] = 0, 0, 0, 0
