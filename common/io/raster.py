"""PNG and TIFF in and out: 8 and 16 bits, grey and RGB, at their own bit depth; alpha stays out of the network."""

from __future__ import annotations

import os
from fractions import Fraction

import numpy as np
import SimpleITK as sitk
import torch
from PIL import Image

from ..transforms.degradation import resample
from .case import Case
from .options import DEFAULTS, ReadOptions, check_channels, check_stack_axis, refuse_nifti_options
from .png import encode_png, read_png_header
from .raster_header import RasterHeader
from .reason import reason
from .tiff import encode_tiff, read_tiff_header
from .values import float32_limits, round_and_clip
from .whole import write_whole

PNG = (".png",)
TIFF = (".tiff", ".tif")
SUFFIXES = PNG + TIFF
MOST = 10**6  # denominator of a factor that is no ratio of sizes


def read_raster(
    path: str | os.PathLike[str],
    options: ReadOptions = DEFAULTS,
) -> tuple[np.ndarray, Case]:
    """Pixels of a PNG or TIFF file as ``(C, X, Y, 1)`` float32, columns along X and rows along Y, and their record.

    Bit depth and colours are those that the header states. Where white is zero the values are turned round, so that
    bright stays bright (the writer turns them back). Pixels have no place in the world: the record's affine puts the
    first at the origin, columns to the left and rows to the back, with the file's resolution in mm, else 1 pixel.
    The record's ``shape`` is rows, columns and samples of a pixel, alpha among them.

    Args:
        path: ``.png``, ``.tif`` or ``.tiff``.
        options: see :class:`ReadOptions`; ``in_channels`` is 1 for grey, 3 for RGB, ``slice_axis`` None or 2. Refused
            are ``volume`` and ``channels_last``, which are for NIfTI.

    Raises:
        ValueError: not such a file, damaged, of another kind or of other channels. The message names the file and the
            remedy.
    """
    refuse_nifti_options(path, options)
    check_stack_axis(path, options.slice_axis)
    header = _read_header(path)
    check_channels(path, header.colours, options.in_channels, "grey" if header.colours == 1 else "red, green, blue")
    colours = _pixels(path, header)[:, :, : header.colours]
    x, y = header.spacing or (1.0, 1.0)
    low, high = float32_limits(header.dtype)
    case = Case(
        source=str(path),
        format="raster",
        suffix=next(suffix for suffix in SUFFIXES if str(path).lower().endswith(suffix)),
        dtype=header.dtype.str,
        slope=-1.0 if header.white_is_zero else 1.0,
        intercept=low + high if header.white_is_zero else 0.0,
        shape=header.shape,
        volume=None,
        channels_last=False,
        slice_axis=2,
        affine=((-x, 0.0, 0.0, 0.0), (0.0, -y, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)),
        units="mm" if header.spacing else "pixel",
    )
    values = (np.invert(colours) if header.white_is_zero else colours).astype(np.float32)
    return values.transpose(2, 1, 0)[..., None], case


def fit_raster(array: np.ndarray, case: Case) -> int:
    """Round ``array`` (C, X, Y, 1) in place and clip it to the bit depth of ``case``: what is seen of the saved file.

    Returns:
        How many values had to be clipped.
    """
    return round_and_clip(array, *float32_limits(np.dtype(case.dtype)))


def write_raster(array: np.ndarray, case: Case, path: str | os.PathLike[str]) -> int:
    """Write a super-resolved ``(C, X, Y, 1)`` array in the bit depth of ``case``, whole or not at all.

    Alpha is that of the source, magnified by the bicubic kernel; resolution is scaled, so that the field of view stays.

    Args:
        array: of the sense that :func:`read_raster` gives; rounded and clipped in place to the stored type.
        case: record of the source.
        path: of the suffix of ``case``.

    Returns:
        How many values had to be clipped to the stored type.

    Raises:
        ValueError: not as many channels as the source has colours.
        OSError: the file cannot be written; no part of it stays.
    """
    header = _read_header(case.source)
    if len(array) != header.colours:
        raise ValueError(f"{case.source}: the result must have {header.colours} channels, got {len(array)}; use NIfTI")
    clipped = fit_raster(array, case)
    stored = array[..., 0].transpose(2, 1, 0).astype(header.dtype)
    if header.white_is_zero:
        stored = np.invert(stored)
    if header.has_alpha:
        stored = np.concatenate([stored, _magnified_alpha(case, header, stored.shape[:2])], axis=2)
    _, (columns, rows, _) = case.field((header.shape[1], header.shape[0], 1))
    factors = Fraction(stored.shape[0], rows), Fraction(stored.shape[1], columns)
    if case.steps is not None:  # along X, the columns, and Y, the rows
        factors = (
            Fraction(1 / case.steps[1]).limit_denominator(MOST),
            Fraction(1 / case.steps[0]).limit_denominator(MOST),
        )
    encode = encode_png if case.suffix in PNG else encode_tiff
    write_whole(path, lambda temporary: temporary.write_bytes(encode(stored, header, factors)))
    return clipped


def _read_header(path: str | os.PathLike[str]) -> RasterHeader:
    try:
        return read_png_header(path) if str(path).lower().endswith(PNG) else read_tiff_header(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read, got {error.strerror}; copy or export the file again") from error


def _pixels(path: str | os.PathLike[str], header: RasterHeader) -> np.ndarray:
    """Samples as stored, ``(rows, columns, samples)``.

    Raises:
        ValueError: they cannot be decoded, or not to what the header says.
    """
    try:
        if header.by_pillow:
            with Image.open(path) as image:
                pixels = np.asarray(image).astype(header.dtype)  # grey of 16 bits comes as 32
        else:
            pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except (OSError, RuntimeError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path}: cannot be read to its end, got {reason(error)}; copy or export the file again"
        ) from error
    if (
        pixels.dtype != header.dtype
        or pixels.shape != header.shape[: pixels.ndim]
        or pixels.size != np.prod(header.shape)
    ):
        raise ValueError(
            f"{path}: the header says {header.shape} of {header.dtype}, got {pixels.shape} of {pixels.dtype}; "
            "save it as plain 8 or 16-bit grey or RGB"
        )
    return pixels.reshape(header.shape)


def _magnified_alpha(case: Case, header: RasterHeader, size: tuple[int, ...]) -> np.ndarray:
    """The last sample of each pixel of what is shown on a grid of ``size``, ``(rows, columns, 1)``, in its own type."""
    (left, top, _), (columns, rows, _) = case.field((header.shape[1], header.shape[0], 1))
    whole = _pixels(case.source, header)[:, :, -1]
    alpha = torch.from_numpy(whole[top : top + rows, left : left + columns].astype(np.float32))
    low, high = float32_limits(header.dtype)
    steps = None if case.steps is None else (case.steps[1], case.steps[0])
    return resample(alpha, size, steps=steps).round().clamp(low, high).numpy().astype(header.dtype)[:, :, None]
