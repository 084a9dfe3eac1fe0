"""An image as operators of MONAI Deploy hand it on, an array and a dictionary, made a volume with its affine, and back.

Written from the source of MONAI Deploy App SDK 4.0.0 (``operators/monai_bundle_inference_operator.py``): arrays are
``(D, H, W)`` where the dictionary has DICOM's spacings, as that of DICOMSeriesToVolumeOperator, and ``(X, Y, Z)`` where
it is that of a MONAI reader. A fourth axis holds channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from ..errors import CaseWarning
from ..geometry import LPS_TO_RAS, check_affine, spacing

ROW, COLUMN, DEPTH = "row_pixel_spacing", "col_pixel_spacing", "depth_pixel_spacing"
RAS, LPS = "nifti_affine_transform", "dicom_affine_transform"
OF_READER = ("affine", "original_affine", "spacing", "spatial_shape", "original_channel_dim", "space")
OF_GRID = (*OF_READER, ROW, COLUMN, DEPTH, RAS, LPS)
PLANAR = "planar"  # whether the host handed in a plane, and wants one back
READ_BY = "read the series by SeriesReaderOperator instead"


def volume_of(array: Any, metadata: Mapping[str, Any] | None, name: str = "image") -> MetaTensor:
    """The image that a host hands in, as float32 ``(C, X, Y, Z)`` with its affine and the rest of its dictionary.

    A plane of two axes is a volume of one slice. Without an affine it gets one of its spacing alone, and a warning.

    Args:
        array: numbers of any real type; a volume, with channels last or without, or a plane ``(H, W)`` or ``(X, Y)``.
        metadata: of the image.
        name: for messages.

    Raises:
        ValueError: no place or spacing is known, or the values cannot be kept in float32.
    """
    metadata = dict(metadata or {})
    values = _numbers(array, name)
    of_dicom = ROW in metadata and not {"spacing", "original_affine"} <= set(metadata)
    if values.ndim == 2:
        values = values[None] if of_dicom else values[..., None]
        affine = _affine(metadata, of_dicom, name, planar=True)
    elif values.ndim in (3, 4):
        affine = _affine(metadata, of_dicom, name, planar=False)
    else:
        raise ValueError(f"{name}: must be a plane or a volume, got {values.ndim} axes; hand in one volume at a time")
    if of_dicom:
        values = np.swapaxes(values, 0, 2)
    values = values[None] if values.ndim == 3 else np.moveaxis(values, 3, 0)
    others = {key: value for key, value in metadata.items() if key not in OF_GRID}
    meta = {"filename_or_obj": name, **others, "original_channel_dim": 0, "original_affine": affine}
    meta |= {"spatial_shape": np.asarray(values.shape[1:]), PLANAR: np.ndim(array) == 2}
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return MetaTensor(tensor, affine=torch.tensor(affine, dtype=torch.float64), meta=meta)


def image_of(volume: MetaTensor) -> tuple[np.ndarray, dict[str, Any]]:
    """The array ``(D, H, W)``, or ``(H, W)`` of what was a plane, any channels last; and its dictionary.

    Args:
        volume: ``(C, X, Y, Z)``; its affine is that of these voxels.

    Returns:
        Array of its values, and its meta data with DICOM's spacings in mm and the affine to RAS and LPS.
    """
    affine = volume.affine.cpu().numpy().astype(float)
    steps = spacing(affine)
    meta = {key: value for key, value in volume.meta.items() if key not in OF_GRID}
    meta |= {COLUMN: steps[0], ROW: steps[1], DEPTH: steps[2]}
    meta |= {"affine": affine, "space": "RAS", RAS: affine, LPS: LPS_TO_RAS @ affine}
    array = volume.as_tensor().numpy(force=True).T
    array = array[..., 0] if array.shape[3] == 1 else array
    return np.ascontiguousarray(array[0] if meta.get(PLANAR) and array.ndim == 3 else array), meta


def _numbers(array: Any, name: str) -> np.ndarray:
    values = np.asarray(array)
    if values.dtype.kind not in "uif":
        raise ValueError(f"{name}: must hold numbers, got {values.dtype}; hand in the image itself")
    narrow = values.astype(np.float32)
    if values.dtype.kind in "ui" and not np.array_equal(narrow.astype(np.float64), values):
        raise ValueError(f"{name}: values must fit in float32, got {values.dtype} up to {values.max()}; rescale them")
    return narrow


def _affine(metadata: Mapping[str, Any], of_dicom: bool, name: str, planar: bool) -> np.ndarray:
    """Voxel to world (RAS), 4 × 4."""
    keys = (RAS,) if of_dicom else ("affine", "original_affine")
    found = next((metadata[key] for key in keys if metadata.get(key) is not None), None)
    if found is None:
        return _affine_of_plane(metadata, of_dicom, name, planar)
    affine = np.array(found.cpu() if isinstance(found, torch.Tensor) else found, dtype=float)
    check_affine(affine, name)
    if of_dicom:
        _refuse_swapped(metadata, affine, name)
    return LPS_TO_RAS @ affine if metadata.get("space") == "LPS" and not of_dicom else affine


def _affine_of_plane(metadata: Mapping[str, Any], of_dicom: bool, name: str, planar: bool) -> np.ndarray:
    steps = (metadata.get(COLUMN), metadata.get(ROW)) if of_dicom else tuple(metadata.get("spacing", ()))[:2]
    known = len(steps) == 2 and all(step is not None and 0 < float(step) < np.inf for step in steps)
    if not planar or not known:
        lacks = "an affine or a spacing" if planar else "an affine"
        raise ValueError(f"{name}: the image must come with {lacks}, got none; set metadata['affine'], or {READ_BY}")
    warnings.warn("the plane came with its spacing alone: its place is unknown", CaseWarning, stacklevel=2)
    return LPS_TO_RAS @ np.diag([float(steps[0]), float(steps[1]), 1.0, 1.0])


def _refuse_swapped(metadata: Mapping[str, Any], affine: np.ndarray, name: str) -> None:
    """DICOMSeriesToVolumeOperator 4.0.0 takes the distance between rows for that between columns."""
    row, column = float(metadata[ROW]), float(metadata.get(COLUMN) or metadata[ROW])
    if not np.isclose(row, column, rtol=1e-3) and np.allclose(spacing(affine)[:2], (row, column), rtol=1e-3):
        raise ValueError(
            f"{name}: the affine must step {column:g} mm along rows and {row:g} mm along columns, got them swapped, as "
            f"DICOMSeriesToVolumeOperator does where pixels are not square; {READ_BY}"
        )
