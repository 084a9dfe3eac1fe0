"""Small DICOM images as scanners make them, without an error in the eyes of ``dciodvfy``.

Every builder takes stored values ``(planes, rows, columns)``, and ``tags`` to add, to change or (None) to leave out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from common.io.dicom.write import encode

CR, DX, CT, MR = ("1.2.840.10008.5.1.4.1.1." + kind for kind in ("1", "1.1", "2", "4"))
OBLIQUE = (0.9553365, 0.2955202, 0.0, -0.2896295, 0.9362934, 0.1986693)  # along a row, down a column
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ORIGIN = (-31.5, 12.25, 7.0)
PADDING = -2000  # of the CT series
Tags = Mapping[str, Any]


def code(value: str, scheme: str, meaning: str) -> dict[str, str]:
    return {"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning}


def uid(*of: object) -> str:
    return generate_uid(entropy_srcs=[str(part) for part in of])


HEAD, CHEST = code("69536005", "SCT", "Head"), code("51185008", "SCT", "Chest")
PATIENT = {
    "SpecificCharacterSet": "ISO_IR 100", "StudyDate": "20240501", "ContentDate": "20240501", "StudyTime": "101500",
    "ContentTime": "101600", "AccessionNumber": "A1", "Manufacturer": "Maker", "ManufacturerModelName": "Model",
    "DeviceSerialNumber": "1", "SoftwareVersions": "1.0", "ReferringPhysicianName": "Referring^Physician",
    "PatientName": "Phantom^Sample", "PatientID": "phantom-1", "PatientBirthDate": "19800101", "PatientSex": "O",
    "StudyInstanceUID": uid("study"), "StudyID": "1", "SeriesNumber": 7, "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
}  # fmt: skip
MR_IMAGE = {
    "Modality": "MR", "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"], "ScanningSequence": "SE", "SequenceVariant": "SK",
    "ScanOptions": "", "MRAcquisitionType": "2D", "RepetitionTime": 500.0, "EchoTime": 10.0, "EchoTrainLength": 1,
    "BodyPartExamined": "HEAD", "SmallestImagePixelValue": 0, "LargestImagePixelValue": 4095,
}  # fmt: skip
CT_IMAGE = {
    "Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "KVP": 120.0, "AcquisitionNumber": 1,
    "RescaleIntercept": -1024.0, "RescaleSlope": 1.0, "RescaleType": "HU", "BodyPartExamined": "HEAD",
}  # fmt: skip
PROJECTION = {"PatientOrientation": ["L", "F"], "BodyPartExamined": "CHEST", "ViewPosition": "PA"}
CR_IMAGE = {**PROJECTION, "Modality": "CR", "ImageType": ["ORIGINAL", "PRIMARY"], "KVP": 80.0}
DX_IMAGE = {
    **PROJECTION, "Modality": "DX", "ImageType": ["ORIGINAL", "PRIMARY"], "PresentationIntentType": "FOR PRESENTATION",
    "ImageLaterality": "U", "AnatomicRegionSequence": CHEST, "DetectorType": "DIRECT", "PositionerType": "NONE",
    "PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": -1, "RescaleIntercept": 0.0,
    "RescaleSlope": 1.0, "RescaleType": "US", "PresentationLUTShape": "IDENTITY", "LossyImageCompression": "00",
    "BurnedInAnnotation": "NO", "AcquisitionContextSequence": [], "WindowCenter": 32768.0, "WindowWidth": 65536.0,
    "PixelSpacingCalibrationType": "GEOMETRY", "PixelSpacingCalibrationDescription": "magnified",
    "ViewCodeSequence": {**code("399348003", "SCT", "antero-posterior"), "ViewModifierCodeSequence": []},
}  # fmt: skip


def item(tags: Tags, into: Dataset | None = None) -> Dataset:
    """A data set of keywords and values: a mapping becomes a sequence of one, None takes a tag out."""
    out = Dataset() if into is None else into
    for keyword, value in tags.items():
        if value is None:
            out.pop(keyword, None)
        elif isinstance(value, Mapping):
            setattr(out, keyword, [item(value)])
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            setattr(out, keyword, [item(part) for part in value])
        else:
            setattr(out, keyword, value)
    return out


def texture(shape: tuple[int, int, int], low: int, high: int) -> np.ndarray:
    """Smooth values, distinct in every plane, with ``low`` and ``high`` among them."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    wave = np.sin(0.9 * x + z) + np.cos(0.6 * y - 0.5 * z)
    return np.rint(low + (high - low) * (wave - wave.min()) / np.ptp(wave)).astype(np.int32)


def save(path: Path, sop_class: str, pixels: np.ndarray, bits: int, number: int, *parts: Tags) -> Path:
    """Write ``(rows, columns)`` or ``(frames, rows, columns)``, signed where a value is below 0."""
    allocated, signed = 16 if bits > 8 else 8, int(pixels.min() < 0)
    out = FileDataset(str(path), {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    out.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item(PATIENT, out)
    item({"SOPClassUID": sop_class, "SeriesInstanceUID": uid(sop_class), "InstanceNumber": number}, out)
    item({"SOPInstanceUID": uid(sop_class, number), "PixelRepresentation": signed, "HighBit": bits - 1}, out)
    item({"Rows": pixels.shape[-2], "Columns": pixels.shape[-1], "BitsAllocated": allocated, "BitsStored": bits}, out)
    for tags in parts:
        item(tags, out)
    data = pixels.astype(f"<{'i' if signed else 'u'}{allocated // 8}").tobytes()
    out.add_new(0x7FE00010, "OW" if allocated > 8 else "OB", data + b"\0" * (len(data) % 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(out))
    return path


def position(origin: Sequence[float], orientation: Sequence[float], depth: float) -> Tags:
    """Of the plane that lies ``depth`` mm along the normal."""
    place = np.asarray(origin) + depth * np.cross(orientation[:3], orientation[3:])
    return {"ImagePositionPatient": [round(float(v), 6) for v in place]}


def slices(
    folder: Path, sop_class: str, pixels: np.ndarray, bits: int, spacing: Sequence[float],
    orientation: Sequence[float], image: Tags, tags: Tags,
) -> list[Path]:  # fmt: skip
    geometry = {
        "FrameOfReferenceUID": uid("frame"), "PositionReferenceIndicator": "", "PatientPosition": "HFS",
        "ImageOrientationPatient": list(orientation), "PixelSpacing": list(spacing[:2]), "SliceThickness": spacing[2],
    }  # fmt: skip
    return [
        save(folder / f"{n:03d}.dcm", sop_class, plane, bits, n + 1, image, geometry,
             position(ORIGIN, orientation, n * spacing[2]), tags)
        for n, plane in enumerate(pixels)
    ]  # fmt: skip


def mr_series(
    folder: Path,
    pixels: np.ndarray | None = None,
    spacing: Sequence[float] = (0.9, 0.7, 3.0),
    orientation: Sequence[float] = OBLIQUE,
    **tags: Any,
) -> list[Path]:
    """12 bits in 16; ``spacing`` between rows, columns and slices."""
    pixels = texture((4, 9, 12), 0, 4095) if pixels is None else pixels
    return slices(folder, MR, pixels, 12, spacing, orientation, MR_IMAGE, tags)


def ct_series(
    folder: Path,
    pixels: np.ndarray | None = None,
    spacing: Sequence[float] = (0.8, 0.8, 2.5),
    orientation: Sequence[float] = AXIAL,
    **tags: Any,
) -> list[Path]:
    """Signed 16 bits, HU less 1024, padding at two corners."""
    if pixels is None:
        pixels = texture((4, 10, 10), 24, 2024)
        pixels[:, :2, :2] = pixels[:, -2:, -2:] = PADDING
    tags = {"PixelPaddingValue": PADDING, **tags}
    return slices(folder, CT, pixels, 16, spacing, orientation, CT_IMAGE, tags)


def cr_image(
    path: Path, pixels: np.ndarray | None = None, bits: int = 12, spacing: Sequence[float] = (0.2, 0.2), **tags: Any
) -> list[Path]:
    """MONOCHROME1, the spacing that of the imaging plate."""
    pixels = texture((1, 14, 11), 0, (1 << bits) - 1) if pixels is None else pixels
    plate = {"PhotometricInterpretation": "MONOCHROME1", "ImagerPixelSpacing": list(spacing)}
    return [save(path, CR, pixels[0], bits, 1, CR_IMAGE, plate, tags)]


def dx_image(
    path: Path, pixels: np.ndarray | None = None, spacing: Sequence[float] = (0.14, 0.14), **tags: Any
) -> list[Path]:
    """16 bits for presentation, a circular and a rectangular shutter; ``PixelSpacing`` corrected for magnification."""
    pixels = texture((1, 12, 15), 0, 65535) if pixels is None else pixels
    rows, columns = pixels.shape[1:]
    geometry = {
        "ImagerPixelSpacing": list(spacing), "PixelSpacing": [round(0.9 * v, 6) for v in spacing],
        "ShutterShape": ["RECTANGULAR", "CIRCULAR"], "ShutterLeftVerticalEdge": 1, "ShutterRightVerticalEdge": columns,
        "ShutterUpperHorizontalEdge": 1, "ShutterLowerHorizontalEdge": rows,
        "CenterOfCircularShutter": [rows // 2, columns // 2], "RadiusOfCircularShutter": max(rows, columns),
        "ShutterPresentationValue": 0,
    }  # fmt: skip
    return [save(path, DX, pixels[0], 16, 1, DX_IMAGE, geometry, tags)]
