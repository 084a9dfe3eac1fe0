"""The derived DICOM series: headers of the source, with all that a finer grid and other pixels change.

PS3.3 C.7.6.1.1 (derived images), C.7.6.3 (pixels), C.7.6.16 (functional groups), C.7.5.2 (contributing equipment).
Identifiers follow from the source, the method and, those of images, the pixels, so that the same result has the same
ones everywhere.
"""

from __future__ import annotations

import hashlib
import re
import uuid
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.codedict import Code, codes
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from ...errors import CaseWarning
from ...geometry import first_voxel, steps_of
from ..case import Case
from .headers import MANUFACTURER, MULTI_FRAME

NOTE = "not for diagnostic use"
LONG, TEXT = 64, 1024  # characters of LO and ST
LOSSY = {  # transfer syntaxes that always lose something, and their name in LossyImageCompressionMethod
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
}
STALE = {  # what says where something lies in pixels of the source, or vouches for its bytes
    "IconImageSequence": "icon",
    "DigitalSignaturesSequence": "digital signatures",
    "MACParametersSequence": "digital signatures",
    "ExtendedOffsetTable": "offset table",
    "ExtendedOffsetTableLengths": "offset table",
    "EncryptedAttributesSequence": "encrypted attributes",
}
OF_WHOLE = tuple(f"FieldOfView{what}" for what in ("Shape", "Dimensions", "Origin", "Rotation", "HorizontalFlip"))
OUTLINES = re.compile(  # in rows and columns of the source
    r"(Shutter|Collimator)(Shape|(Left|Right)VerticalEdge|(Upper|Lower)HorizontalEdge)"
    r"|\w+Of(The)?(Circular|Polygonal)(Shutter|Collimator)|ShutterPresentation\w+|ShutterOverlayGroup"
)


@dataclass(frozen=True)
class Provenance:
    """What made a result; it is written into the result's header.

    Attributes:
        method: name of the bundle.
        version: of the bundle.
        magnification: such as ``x4``, ``x2.5`` or ``0.5mm``; see :class:`common.magnification.Magnification`.
        weights_sha256, config_sha256: of the weights and of the settings; ``""`` where they are not known.
        region: what of the source the result shows, such as ``columns 11 to 30 and rows 6 to 25``; ``""`` for all.
    """

    method: str
    version: str
    magnification: str
    weights_sha256: str = ""
    config_sha256: str = ""
    region: str = ""

    def __str__(self) -> str:
        region = f" of {self.region}" if self.region else ""
        return (
            f"Super-resolution {self.magnification}{region} by {MANUFACTURER} {self.version}, method {self.method}, "
            f"weights SHA-256 {self.weights_sha256 or 'unknown'}. Research only, {NOTE}."
        )

    def uid(self, *of: str) -> UID:
        """Identifier of something made by this from what is named by ``of``."""
        how = self.magnification.removeprefix("x")
        made = self.method, self.version, how, self.weights_sha256, self.config_sha256
        text = "\n".join((*of, *made, *([self.region] if self.region else [])))
        return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}")


class Regrid(NamedTuple):
    """A finer grid over a plane or a region of it, of rows and columns each.

    Pixels before and after, old ones per new one, and where the region begins. Both grids have the same centre, and the
    same edges where the steps are the ratio of the sizes.
    """

    old: tuple[int, int]
    size: tuple[int, int]
    steps: tuple[float, float]
    start: tuple[int, int]

    @classmethod
    def of(cls, case: Case, size: tuple[int, int]) -> Regrid:
        """The grid of ``size`` (rows, columns) over the planes of ``case``."""
        (left, top, _), (columns, rows, _) = case.field(case.shape)
        old = rows, columns
        row_step, column_step = steps_of(old, size) if case.steps is None else (case.steps[1], case.steps[0])
        return cls(old, size, (row_step, column_step), (top, left))

    def first(self) -> tuple[float, float]:
        """Where the centre of the first new pixel lies, in rows and columns of the old grid."""
        row, column = (start + first_voxel(n, m, step) for n, m, step, start in zip(*self, strict=True))
        return row, column

    def region(self) -> str:
        """Which pixels of the plane the grid lies over, counted from 1."""
        (rows, columns), (top, left) = self.old, self.start
        return f"columns {left + 1} to {left + columns} and rows {top + 1} to {top + rows}"


def derive(source: Dataset, provenance: Provenance, grid: Regrid, stack: str) -> tuple[FileDataset, list[str]]:
    """A copy of the header of ``source`` for the image on the finer grid, without pixels.

    Positions and spacing of a single-frame file are moved here; those of frames by :mod:`common.io.dicom.frames`.

    Args:
        source: the header.
        provenance: what made the image.
        grid: of the image.
        stack: what tells the volumes of one series apart; the images of one volume get one series.

    Returns:
        The data set, and what was left out because it says something about the source's pixels.
    """
    syntax = source.file_meta.get("TransferSyntaxUID")
    out = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    out.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out.file_meta.MediaStorageSOPClassUID = source.SOPClassUID
    for element in source:
        if element.keyword not in ("PixelData", "FloatPixelData", "DoubleFloatPixelData", "DataSetTrailingPadding"):
            out.add(deepcopy(element))  # what changes in the result must not change in the source
    removed = _remove_stale(out) + (_remove_field(out) if provenance.region else [])
    _identify(out, source, provenance, stack)
    _describe(out, source, provenance)
    _keep_loss(out, syntax)
    out.Rows, out.Columns = grid.size
    if str(source.SOPClassUID) not in MULTI_FRAME:
        move(out, grid)
        for name in ("ImagerPixelSpacing", "NominalScannedPixelSpacing"):
            scale_spacing(out, name, grid)
        _keep_aspect(out, grid)
    return out, removed


def move(tags: Dataset, grid: Regrid) -> None:
    """Spacing and position of a plane, for the finer grid over the same field."""
    spacing = tags.get("PixelSpacing")
    if spacing and tags.get("ImagePositionPatient") and tags.get("ImageOrientationPatient"):
        turn = np.array([float(v) for v in tags.ImageOrientationPatient])
        turn = turn.reshape(2, 3) / np.linalg.norm(turn.reshape(2, 3), axis=1, keepdims=True)
        row_step, column_step = (float(v) for v in spacing)
        down_column, along_row = (n * step for n, step in zip(grid.first(), (row_step, column_step), strict=True))
        position = np.array([float(v) for v in tags.ImagePositionPatient])
        tags.ImagePositionPatient = _decimals(position + along_row * turn[0] + down_column * turn[1])
    scale_spacing(tags, "PixelSpacing", grid)


def scale_spacing(tags: Dataset, name: str, grid: Regrid) -> None:
    """The spacing that the tag ``name`` holds, where there is one, on the finer grid."""
    value = tags.get(name)
    if value:
        setattr(tags, name, _decimals(float(v) * step for v, step in zip(value, grid.steps, strict=True)))


def _keep_aspect(tags: Dataset, grid: Regrid) -> None:
    """PixelAspectRatio stays true where both axes are magnified alike; where not, it becomes the exact ratio."""
    ratio, (old, size, *_) = tags.get("PixelAspectRatio"), grid
    if ratio and old[0] * size[1] != old[1] * size[0]:
        tags.PixelAspectRatio = [int(ratio[0]) * old[0] * size[1], int(ratio[1]) * old[1] * size[0]]


def _decimals(values: Iterator[float] | np.ndarray) -> list[DSfloat]:
    return [DSfloat(float(value), auto_format=True) for value in values]


def _remove_stale(out: Dataset) -> list[str]:
    stale = {element.tag: reason for element in out if (reason := _stale(out, element)) is not None}
    for tag in stale:
        del out[tag]
    removed = dict.fromkeys(stale.values())
    for element in out:  # private tags hide in sequences too
        if element.VR == "SQ":
            for item in element.value:
                for reason in _remove_stale(item):
                    removed.setdefault(reason)
    return list(removed)


def _remove_field(out: Dataset) -> list[str]:
    """PS3.3 C.8.11.4: a detector's field of view is that of the stored pixels, which a region has but a part of."""
    present = [name for name in OF_WHOLE if name in out]
    for name in present:
        del out[name]
    return ["field of view"] if present else []


def _stale(out: Dataset, element: DataElement) -> str | None:
    group = element.tag.group
    if element.tag.is_private:
        creator = out.get(Tag(group, element.tag.element >> 8)) if element.tag.element > 0xFF else element
        return f"private tags of {creator.value}" if creator is not None else "private tags"
    if 0x6000 <= group <= 0x60FF:
        return "overlays"
    if 0x5000 <= group <= 0x50FF:
        return "curves"
    if element.keyword in STALE:
        return STALE[element.keyword]
    if OUTLINES.fullmatch(element.keyword):
        return "display shutter" if "Shutter" in element.keyword else "collimator outline"
    return None


def _identify(out: Dataset, source: Dataset, provenance: Provenance, stack: str) -> None:
    """A series of its own in the study of the source; the image's own UID follows from its pixels."""
    out.SeriesInstanceUID = provenance.uid(*(str(source.get(n, "")) for n in ("PatientID", "SeriesInstanceUID")), stack)
    number = source.get("SeriesNumber")
    out.SeriesNumber = None if number in (None, "") else int(number) * 100 + 1
    suffix = f" SR {provenance.magnification}{' region' if provenance.region else ''} - {NOTE}"
    text = str(source.get("SeriesDescription") or "")[: LONG - len(suffix)].rstrip() + suffix
    out.SeriesDescription = text.lstrip()
    image_type = list(source.get("ImageType") or [])
    multi_frame = str(source.SOPClassUID) in MULTI_FRAME
    # PS3.3 C.8.16.1: enhanced images have PRIMARY for value 2, and say for value 4 how contrast was derived
    out.ImageType = enhanced_type(image_type) if multi_frame else ["DERIVED", "SECONDARY", *image_type[2:]]


def enhanced_type(image_type: list[str]) -> list[str]:
    """ImageType, or FrameType, of a derived enhanced image: PS3.3 C.8.16.1."""
    return ["DERIVED", "PRIMARY", *image_type[2:3], *(["RESAMPLED"] if len(image_type) > 3 else []), *image_type[4:]]


def _describe(out: Dataset, source: Dataset, provenance: Provenance) -> None:
    earlier = str(source.get("DerivationDescription") or "")
    out.DerivationDescription = f"{provenance}{' Before: ' + earlier if earlier else ''}"[:TEXT]
    out.DerivationCodeSequence = [*(source.get("DerivationCodeSequence") or []), as_item(codes.DCM.SpatialResampling)]
    out.pop("SourceImageSequence", None)  # the source's own sources
    if can_be_named(source):
        out.SourceImageSequence = [source_image(source)]
    else:
        text = "its SOPInstanceUID is no valid identifier: the result does not refer to it"
        warnings.warn(text, CaseWarning, stacklevel=2)
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [as_item(codes.DCM.ModifyingEquipment)]
    equipment.Manufacturer = MANUFACTURER
    equipment.ManufacturerModelName = provenance.method[:LONG]
    equipment.SoftwareVersions = provenance.version[:LONG]
    equipment.ContributionDescription = str(provenance)[:TEXT]
    out.ContributingEquipmentSequence = [*(source.get("ContributingEquipmentSequence") or []), equipment]


def as_item(code: Code) -> Dataset:
    """The item of a code sequence for one of DICOM's codes."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def can_be_named(source: Dataset) -> bool:
    """Whether SOPInstanceUID is a valid identifier, by which others can refer to the image."""
    return UID(str(source.get("SOPInstanceUID", ""))).is_valid


def source_image(source: Dataset, frame: int | None = None) -> Dataset:
    """The item of SourceImageSequence for ``source``, or for one of its frames, counted from 0."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.get("SOPInstanceUID", "")
    if frame is not None:
        item.ReferencedFrameNumber = frame + 1
    item.PurposeOfReferenceCodeSequence = [as_item(codes.DCM.SourceImageForImageProcessingOperation)]
    return item


def _keep_loss(out: Dataset, syntax: UID | None) -> None:
    """Say that the pixels have gone through lossy compression, where their transfer syntax alone says so."""
    if syntax in LOSSY and out.get("LossyImageCompression") != "01":
        out.LossyImageCompression = "01"
        out.LossyImageCompressionMethod = LOSSY[str(syntax)]


def put_pixels(out: Dataset, source: Dataset, pixels: np.ndarray, provenance: Provenance) -> None:
    """The stored values of one frame or of all ``(…, rows, columns)``, and the identifiers that follow from them."""
    signed, bits = bool(int(source.get("PixelRepresentation") or 0)), int(source.BitsAllocated)
    data = pixels.astype(f"<{'i' if signed else 'u'}{bits // 8}").tobytes()
    out.add_new(0x7FE00010, "OW" if bits > 8 else "OB", data + b"\0" * (len(data) % 2))
    for name, value in (("SmallestImagePixelValue", pixels.min()), ("LargestImagePixelValue", pixels.max())):
        if name in out:
            set_value(out, name, int(value), signed)
    of = str(out.SeriesInstanceUID), str(source.get("SOPInstanceUID", "")), hashlib.sha256(data).hexdigest()
    out.SOPInstanceUID = provenance.uid(*of)
    out.file_meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID


def set_value(out: Dataset, name: str, value: int, signed: bool) -> None:
    """A stored value as a tag, whose type is that of the pixels."""
    out[name] = DataElement(Tag(name), "SS" if signed else "US", value)
