"""What must be known of a DICOM file before its pixels are read: whether it is for us, and where its planes lie."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian

from ..archive import open_file
from .codestream import check_deflated

PROJECTIONS = {  # one image a file, without a place in the patient
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX for presentation",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX for processing",
}
SLICES = {"1.2.840.10008.5.1.4.1.1.2": "CT", "1.2.840.10008.5.1.4.1.1.4": "MR"}
MULTI_FRAME = {
    "1.2.840.10008.5.1.4.1.1.2.1": "enhanced CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "legacy converted enhanced CT",
    "1.2.840.10008.5.1.4.1.1.4.1": "enhanced MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "legacy converted enhanced MR",
}
SUPPORTED = {**PROJECTIONS, **SLICES, **MULTI_FRAME}
MANUFACTURER = "medical-sr-bundles"  # in ContributingEquipmentSequence of what we derived
NEEDED = [
    "SOPClassUID", "ImageType", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber",
    "SeriesDescription", "FrameOfReferenceUID", "SamplesPerPixel", "PhotometricInterpretation",
    "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing",
    "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ContributingEquipmentSequence",
]  # fmt: skip
Vector = tuple[float, ...]


class NotForUs(Exception):
    """A file that is in order but no image that could be super-resolved; the text says what it is."""


@dataclass(frozen=True)
class Plane:
    """A plane of an image: a file, or a frame of one.

    Attributes:
        path: of the file; one in an archive is named by :mod:`common.io.archive`.
        frame: number of the frame, from 0.
        frames: how many the file has.
        series, study, patient, frame_of_reference: identifiers; ``""`` where they are absent.
        sop_class: UID of the kind of image.
        series_number, series_description: as they stand.
        photometric: ``"MONOCHROME1"`` or ``"MONOCHROME2"``.
        size: rows and columns.
        spacing: between rows and between columns, in mm; None where no tag tells.
        position, orientation: of the first pixel's centre, and unit vectors along a row and down a column, in the
            patient's LPS system; None for projections.
        thickness: of the slice, or the distance to the next one where that is told, in mm; None where no tag tells.
    """

    path: str
    frame: int
    frames: int
    series: str
    study: str
    patient: str
    frame_of_reference: str
    sop_class: str
    series_number: int | None
    series_description: str
    photometric: str
    size: tuple[int, int]
    spacing: tuple[float, float] | None
    position: Vector | None
    orientation: Vector | None
    thickness: float | None


def read_dataset(path: str | os.PathLike[str], pixels: bool = True, tags: list[str] | None = None) -> Dataset:
    """A DICOM file, with or without its pixels, all of it or some ``tags``; one without the preamble too.

    Raises:
        ValueError: it is no DICOM file, or a damaged one; the message names it.
        OSError: it cannot be read.
    """
    with open_file(path) as file:
        try:
            check_deflated(file)
            dataset = pydicom.dcmread(file, stop_before_pixels=not pixels, force=True, specific_tags=tags)
            dataset.get("SOPClassUID")  # reading is lazy; a damaged header shows here
            if dataset.file_meta.get("TransferSyntaxUID") == ExplicitVRBigEndian:
                _swap_words(dataset)
        except Exception as error:  # pydicom raises whatever its parser stumbles on
            raise damaged(path, error) from error
    if not dataset and not dataset.file_meta:  # a DICOMDIR has none of our tags
        raise ValueError(f"{path}: not a readable DICOM file; copy or export it again")
    return dataset


def _swap_words(dataset: Dataset) -> None:
    """Words of tables in a big-endian file as they are in all others; pydicom swaps numbers and pixels itself."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                _swap_words(item)
        elif element.VR == "OW" and element.keyword != "PixelData" and element.value:
            element.value = np.frombuffer(element.value, ">u2").astype("<u2").tobytes()


def damaged(path: str | os.PathLike[str], error: BaseException) -> ValueError:
    """What to raise for a file that made a parser or decoder stumble."""
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(f"{path}: a damaged DICOM file, got {text}; copy or export it again")


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever a damaged file makes pydicom raise becomes a ``ValueError`` that names it."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (ValueError, OSError)) and str(path) in str(error):
            raise
        raise damaged(path, error) from error


def read_planes(path: str | os.PathLike[str]) -> list[Plane]:
    """The planes of one file.

    Raises:
        NotForUs: no MR, CT, CR or DX image; colour; a localizer; derived by us.
        ValueError: damaged, or without what its kind of image must have; the message names the file.
    """
    dataset = read_dataset(path, pixels=False, tags=NEEDED)
    try:
        _check_kind(dataset)
        return _planes(str(path), dataset)
    except (NotForUs, _Incomplete) as error:
        raise error if isinstance(error, NotForUs) else ValueError(f"{path}: {error}") from error
    except Exception as error:  # values are converted where they are asked for
        raise damaged(path, error) from error


def series_of(path: str | os.PathLike[str]) -> str:
    """SeriesInstanceUID of a file that is perhaps damaged; ``""`` where it does not say."""
    try:
        return str(read_dataset(path, pixels=False, tags=["SeriesInstanceUID"]).get("SeriesInstanceUID") or "")
    except (ValueError, OSError):
        return ""


class _Incomplete(ValueError):
    """A tag that a kind of image must have is absent or impossible."""


def _check_kind(dataset: Dataset) -> None:
    kind = UID(str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID", "")))
    if not kind:
        raise _Incomplete("not a DICOM file, or a damaged one: it has no SOPClassUID; copy or export it again")
    if kind not in SUPPORTED:
        raise NotForUs(f"{kind.name}: only MR, CT, CR and DX images are read")
    photometric = dataset.get("PhotometricInterpretation")
    if not photometric:
        raise _Incomplete("PhotometricInterpretation must be there; the file is cut off or damaged, copy it again")
    if int(dataset.get("SamplesPerPixel", 1)) != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise NotForUs(f"colour ({photometric})")
    if "LOCALIZER" in (dataset.get("ImageType") or []):
        raise NotForUs("a localizer")
    if any(item.get("Manufacturer") == MANUFACTURER for item in dataset.get("ContributingEquipmentSequence") or []):
        raise NotForUs("derived by super-resolution already")


def _planes(path: str, dataset: Dataset) -> list[Plane]:
    count = int(dataset.get("NumberOfFrames") or 1)
    kind = str(dataset.SOPClassUID)
    if kind not in MULTI_FRAME:
        if count != 1:
            raise _Incomplete(f"a {SUPPORTED[kind]} image must have one frame, got {count}; export it again")
        return [_plane(path, 0, dataset, dataset)]
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if count < 1 or len(frames) != count:
        raise _Incomplete(
            f"PerFrameFunctionalGroupsSequence must describe each of the {count} frames, got {len(frames)}; "
            "export the series again"
        )
    return [_plane(path, frame, dataset, frame_tags(dataset, frame)) for frame in range(count)]


def frame_tags(dataset: Dataset, frame: int) -> Dataset:
    """Tags of one frame of a multi-frame image in one flat data set: its own functional groups before the shared."""
    flat = Dataset()
    shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    for groups in (shared[0], dataset.PerFrameFunctionalGroupsSequence[frame]):
        for element in groups:
            if element.VR == "SQ" and element.value:
                flat.update(element.value[0])
    return flat


def _plane(path: str, frame: int, dataset: Dataset, tags: Dataset) -> Plane:
    placed = str(dataset.SOPClassUID) not in PROJECTIONS
    position, orientation = _numbers(tags, "ImagePositionPatient", 3), _numbers(tags, "ImageOrientationPatient", 6)
    spacing = _spacing(tags, placed)
    if placed and (position is None or orientation is None):
        raise _Incomplete("ImagePositionPatient and ImageOrientationPatient must be there; export the series again")
    size = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if min(size) < 1:
        raise _Incomplete(f"Rows and Columns must be at least 1, got {size[0]} and {size[1]}; export it again")
    thickness = tags.get("SpacingBetweenSlices") or tags.get("SliceThickness")
    return Plane(
        path=path,
        frame=frame,
        frames=int(dataset.get("NumberOfFrames") or 1),
        series=str(dataset.get("SeriesInstanceUID") or ""),
        study=str(dataset.get("StudyInstanceUID") or ""),
        patient=str(dataset.get("PatientID") or ""),
        frame_of_reference=str(dataset.get("FrameOfReferenceUID") or ""),
        sop_class=str(dataset.SOPClassUID),
        series_number=_integer(dataset, "SeriesNumber"),
        series_description=str(dataset.get("SeriesDescription") or ""),
        photometric=str(dataset.PhotometricInterpretation),
        size=size,
        spacing=spacing,
        position=position if placed else None,
        orientation=_unit_vectors(orientation) if placed and orientation else None,
        thickness=abs(float(thickness)) if thickness else None,
    )


def _spacing(tags: Dataset, placed: bool) -> tuple[float, float] | None:
    names = ["PixelSpacing"] if placed else ["PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"]
    for name in names:
        spacing = _numbers(tags, name, 2)
        if spacing is not None:
            if min(spacing) <= 0:
                raise _Incomplete(f"{name} must be above 0, got {list(spacing)}; mend the header")
            return spacing[0], spacing[1]
    if placed:
        raise _Incomplete("PixelSpacing must be there; export the series again")
    return None


def _numbers(tags: Dataset, name: str, count: int) -> Vector | None:
    value: Any = tags.get(name)
    if value is None or value == "":
        return None
    numbers = tuple(float(v) for v in (value if isinstance(value, Sequence) or hasattr(value, "__iter__") else [value]))
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise _Incomplete(f"{name} must be {count} finite numbers, got {list(numbers)}; mend the header")
    return numbers


def _integer(dataset: Dataset, name: str) -> int | None:
    value = dataset.get(name)
    return None if value in (None, "") else int(value)


def _unit_vectors(orientation: Vector) -> Vector:
    row, column = np.asarray(orientation[:3]), np.asarray(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if abs(lengths[0] - 1) > 1e-2 or abs(lengths[1] - 1) > 1e-2 or abs(row @ column) > 1e-2:
        raise _Incomplete(
            f"ImageOrientationPatient must be two orthogonal unit vectors, got {list(orientation)}; mend the header"
        )
    return tuple(float(v) for v in (*(row / lengths[0]), *(column / lengths[1])))
