"""Small DICOM series with chosen voxels and geometry, on the header of a CT slice that pydicom ships."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian

TURN = np.array([[0.98, 0.17, 0.1], [-0.18, 0.97, 0.12]])
ROW = TURN[0] / np.linalg.norm(TURN[0])
COLUMN = TURN[1] - (TURN[1] @ ROW) * ROW
COLUMN = COLUMN / np.linalg.norm(COLUMN)
Change = Callable[[Dataset, int], object]


def sample(name: str = "CT_small.dcm") -> Dataset:
    """A data set that pydicom's package holds; nothing is downloaded."""
    return pydicom.dcmread(get_testdata_file(name, download=False))


def save_series(
    folder: Path,
    stored: np.ndarray,
    spacing: tuple[float, float] = (0.8, 0.5),
    step: float = 3.0,
    origin: tuple[float, float, float] = (-31.5, 12.25, 7.0),
    series: str = "1.2.3.4",
    change: Change = lambda dataset, number: None,
) -> Path:
    """Write ``stored`` (slices, rows, columns) as an oblique series of 16-bit CT slices, 0.8 x 0.5 x 3 mm.

    Args:
        change: called with each data set and its number before it is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, plane in enumerate(stored):
        dataset = sample()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.Rows, dataset.Columns = plane.shape
        dataset.PixelData = plane.astype("<i2").tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.PixelSpacing = list(spacing)
        dataset.ImageOrientationPatient = [round(float(v), 8) for v in (*ROW, *COLUMN)]
        place = np.array(origin) + number * step * np.cross(ROW, COLUMN)
        dataset.ImagePositionPatient = [round(float(v), 6) for v in place]
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = series, f"{series}.{number + 1}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.InstanceNumber = number + 1
        del dataset.PixelPaddingValue
        dataset.RescaleIntercept, dataset.RescaleSlope = 0, 1
        change(dataset, number)
        # names that are in no order: only positions count
        dataset.save_as(folder / f"{hash_name(series, number)}.dcm")
    return folder


def hash_name(series: str, number: int) -> str:
    return f"{(number * 7 + 3) % 97:02d}-{series}-{number}"


def read_back(folder: Path) -> list[Dataset]:
    """Files of a folder in the order of their positions along the normal."""
    datasets = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]

    def depth(dataset: Dataset) -> float:
        turn = np.array(dataset.ImageOrientationPatient, float)
        return float(np.array(dataset.ImagePositionPatient, float) @ np.cross(turn[:3], turn[3:]))

    return sorted(datasets, key=depth)


def world_of_pixels(dataset: Dataset) -> np.ndarray:
    """Place of every pixel's centre in the patient (LPS), ``(3, rows, columns)``, by PS3.3 C.7.6.2.1."""
    turn, place = np.array(dataset.ImageOrientationPatient, float), np.array(dataset.ImagePositionPatient, float)
    row_step, column_step = (float(v) for v in dataset.PixelSpacing)
    rows, columns = np.meshgrid(np.arange(dataset.Rows), np.arange(dataset.Columns), indexing="ij")
    along = turn[:3, None, None] * columns * column_step
    return place[:, None, None] + along + turn[3:, None, None] * rows * row_step
