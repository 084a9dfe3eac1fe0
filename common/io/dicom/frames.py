"""The frames of a derived multi-frame image: PS3.3 C.7.6.16, functional groups."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes

from .derived import Regrid, as_item, can_be_named, enhanced_type, move, scale_spacing, source_image

ENHANCED_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence")
PULSE_SEQUENCE = (
    "PulseSequenceName", "MRAcquisitionType", "EchoPulseSequence", "MultipleSpinEcho", "MultiPlanarExcitation",
    "PhaseContrast", "VelocityEncodingAcquisitionSequence", "TimeOfFlightContrast", "ArterialSpinLabelingContrast",
    "SteadyStatePulseSequence", "EchoPlanarPulseSequence", "SaturationRecovery", "SpectrallySelectedSuppression",
    "OversamplingPhase", "GeometryOfKSpaceTraversal", "SegmentedKSpaceTraversal", "RectilinearPhaseEncodeReordering",
    "NumberOfKSpaceTrajectories", "CoverageOfKSpace",
)  # fmt: skip


def take_frames(out: Dataset, source: Dataset, frames: list[int], grid: Regrid) -> list[str]:
    """The functional groups of ``frames`` of a multi-frame image, moved to the finer grid, each with its source.

    Returns:
        What was left out.
    """
    shared = out.SharedFunctionalGroupsSequence[0] if out.get("SharedFunctionalGroupsSequence") else Dataset()
    own = [out.PerFrameFunctionalGroupsSequence[frame] for frame in frames]
    description = out.DerivationDescription
    for groups, frame in zip(own, frames, strict=True):
        _move_groups(groups, shared, grid)
        derivation = Dataset()
        derivation.DerivationDescription = description
        derivation.DerivationCodeSequence = [as_item(codes.DCM.SpatialResampling)]
        derivation.SourceImageSequence = [source_image(source, frame)] if can_be_named(source) else []
        groups.DerivationImageSequence = [derivation]
    shared.pop("DerivationImageSequence", None)
    for groups in (shared, *own):
        if groups.get("PixelMeasuresSequence"):
            scale_spacing(groups.PixelMeasuresSequence[0], "PixelSpacing", grid)
        for name in ENHANCED_TYPES:
            if groups.get(name):
                groups[name].value[0].FrameType = enhanced_type(list(groups[name].value[0].FrameType))
    out.PerFrameFunctionalGroupsSequence = Sequence(own)
    out.NumberOfFrames = len(frames)
    out.ContentQualification = "RESEARCH"
    out.pop("SourceImageEvidenceSequence", None)
    if can_be_named(source):
        out.SourceImageEvidenceSequence = [_evidence(source)]
    for name in ("SourceImageSequence", "DerivationDescription", "DerivationCodeSequence"):
        out.pop(name, None)  # in these images they are said frame by frame
    return _remove_pulse_sequence(out, source)


def _remove_pulse_sequence(out: Dataset, source: Dataset) -> list[str]:
    """PS3.3 table C.8-87 would let a derived image keep these; ``dciodvfy`` takes them for errors, so they go."""
    if "DERIVED" in (source.get("ImageType") or []):
        return []  # they are as much an error in the source
    present = [name for name in PULSE_SEQUENCE if name in out]
    for name in present:
        del out[name]
    return ["pulse sequence of the acquisition"] if present else []


def _move_groups(groups: Dataset, shared: Dataset, grid: Regrid) -> None:
    def item(name: str) -> Dataset:
        holder = groups if groups.get(name) else shared
        return holder[name].value[0]

    tags = Dataset()
    tags.PixelSpacing = item("PixelMeasuresSequence").PixelSpacing
    tags.ImagePositionPatient = item("PlanePositionSequence").ImagePositionPatient
    tags.ImageOrientationPatient = item("PlaneOrientationSequence").ImageOrientationPatient
    move(tags, grid)
    position = Dataset()
    position.ImagePositionPatient = tags.ImagePositionPatient
    groups.PlanePositionSequence = [position]


def _evidence(source: Dataset) -> Dataset:
    image, series, study = Dataset(), Dataset(), Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.SOPClassUID, source.get("SOPInstanceUID", "")
    series.SeriesInstanceUID, series.ReferencedSOPSequence = source.get("SeriesInstanceUID", ""), [image]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = source.get("StudyInstanceUID", ""), [series]
    return study
