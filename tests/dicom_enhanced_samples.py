"""Small Enhanced MR and CT images, without an error in the eyes of ``dciodvfy``; see :mod:`tests.dicom_samples`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.dicom_samples import AXIAL, HEAD, OBLIQUE, ORIGIN, Tags, position, save, texture, uid

ENHANCED_CT, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.4.1"
ENHANCED = {
    "PixelPresentation": "MONOCHROME", "VolumetricProperties": "VOLUME", "VolumeBasedCalculationTechnique": "NONE",
    "ContentQualification": "PRODUCT", "BurnedInAnnotation": "NO", "LossyImageCompression": "00",
    "PresentationLUTShape": "IDENTITY", "AcquisitionContextSequence": [], "AcquisitionNumber": 1,
    "AcquisitionDateTime": "20240501101500", "AcquisitionDuration": 60.0, "PositionReferenceIndicator": "",
    "DimensionOrganizationSequence": {"DimensionOrganizationUID": uid("dimensions")},
    "DimensionIndexSequence": {
        "DimensionOrganizationUID": uid("dimensions"), "DimensionIndexPointer": 0x00200032,
        "FunctionalGroupPointer": 0x00209113,
    },
}  # fmt: skip
FRAME = {
    "PixelPresentation": "MONOCHROME", "VolumetricProperties": "VOLUME", "VolumeBasedCalculationTechnique": "NONE",
    "FrameType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
}  # fmt: skip
MR_PULSE = {
    "PulseSequenceName": "se", "MRAcquisitionType": "2D", "EchoPulseSequence": "SPIN", "MultipleSpinEcho": "NO",
    "MultiPlanarExcitation": "NO", "PhaseContrast": "NO", "TimeOfFlightContrast": "NO",
    "SteadyStatePulseSequence": "NONE", "EchoPlanarPulseSequence": "NO", "SaturationRecovery": "NO",
    "SpectrallySelectedSuppression": "NONE", "OversamplingPhase": "NONE", "GeometryOfKSpaceTraversal": "RECTILINEAR",
    "SegmentedKSpaceTraversal": "SINGLE", "NumberOfKSpaceTrajectories": 1, "RectilinearPhaseEncodeReordering": "LINEAR",
}  # fmt: skip
ENHANCED_MR_IMAGE = {
    "Modality": "MR", "ImageType": FRAME["FrameType"], "ComplexImageComponent": "MAGNITUDE",
    "AcquisitionContrast": "T1", "ResonantNucleus": "1H", "KSpaceFiltering": "NONE", "MagneticFieldStrength": 1.5,
    "ApplicableSafetyStandardAgency": "IEC", **MR_PULSE,
}  # fmt: skip
ENHANCED_CT_IMAGE = {"Modality": "CT", "ImageType": FRAME["FrameType"]}
MR_GROUPS = {
    "MRImageFrameTypeSequence": {**FRAME, "ComplexImageComponent": "MAGNITUDE", "AcquisitionContrast": "T1"},
    "MRTimingAndRelatedParametersSequence": {
        "RepetitionTime": 500.0, "FlipAngle": 90.0, "EchoTrainLength": 1, "RFEchoTrainLength": 1,
        "GradientEchoTrainLength": 0, "GradientOutputType": "DB_DT",
        "GradientOutput": 1.0,
        "OperatingModeSequence": {"OperatingModeType": "GRADIENT", "OperatingMode": "IEC_NORMAL"},
        "SpecificAbsorptionRateSequence": {
            "SpecificAbsorptionRateDefinition": "IEC_WHOLE_BODY", "SpecificAbsorptionRateValue": 1.0,
        },
    },
    "MRFOVGeometrySequence": {
        "InPlanePhaseEncodingDirection": "ROW", "MRAcquisitionFrequencyEncodingSteps": 9,
        "MRAcquisitionPhaseEncodingStepsInPlane": 12, "PercentSampling": 100.0, "PercentPhaseFieldOfView": 100.0,
    },
    "MREchoSequence": {"EffectiveEchoTime": 10.0},
    "MRModifierSequence": {
        "InversionRecovery": "NO", "FlowCompensation": "NONE", "Spoiling": "NONE", "T2Preparation": "NO",
        "SpectrallySelectedExcitation": "NONE", "SpatialPresaturation": "NONE", "PartialFourier": "NO",
        "ParallelAcquisition": "NO",
    },
    "MRImagingModifierSequence": {
        "MagnetizationTransfer": "NONE", "BloodSignalNulling": "NO", "Tagging": "NONE", "PixelBandwidth": 100.0,
        "TransmitterFrequency": 63.9,
    },
    "MRReceiveCoilSequence": {
        "ReceiveCoilName": "head", "ReceiveCoilManufacturerName": "Maker", "ReceiveCoilType": "VOLUME",
        "QuadratureReceiveCoil": "YES",
    },
    "MRTransmitCoilSequence": {
        "TransmitCoilName": "body", "TransmitCoilManufacturerName": "Maker", "TransmitCoilType": "BODY",
    },
    "MRAveragesSequence": {"NumberOfAverages": 1.0},
}  # fmt: skip
CT_GROUPS = {
    "CTImageFrameTypeSequence": FRAME,
    "IrradiationEventIdentificationSequence": {"IrradiationEventUID": uid("event")},
    "CTAcquisitionTypeSequence": {
        "AcquisitionType": "SEQUENCED", "ConstantVolumeFlag": "NO", "FluoroscopyFlag": "NO",
    },
    "CTAcquisitionDetailsSequence": {
        "RotationDirection": "CW", "RevolutionTime": 1.0, "SingleCollimationWidth": 2.5, "TotalCollimationWidth": 10.0,
        "TableHeight": 100.0, "GantryDetectorTilt": 0.0, "DataCollectionDiameter": 500.0,
    },
    "CTTableDynamicsSequence": {"TableSpeed": 1.0, "TableFeedPerRotation": 1.0, "SpiralPitchFactor": 1.0},
    "CTPositionSequence": {
        "TablePosition": 0.0, "ReconstructionTargetCenterPatient": [0.0, 0.0, 0.0],
        "DataCollectionCenterPatient": [0.0, 0.0, 0.0],
    },
    "CTGeometrySequence": {"DistanceSourceToDetector": 1000.0, "DistanceSourceToDataCollectionCenter": 500.0},
    "CTReconstructionSequence": {
        "ReconstructionAlgorithm": "FILTER_BACK_PROJ", "ConvolutionKernel": "B30", "ConvolutionKernelGroup": "BRAIN",
        "ReconstructionDiameter": 8.0, "ReconstructionPixelSpacing": [0.8, 0.8], "ReconstructionAngle": 360.0,
        "ImageFilter": "none",
    },
    "CTExposureSequence": {
        "ExposureTimeInms": 500.0, "XRayTubeCurrentInmA": 100.0, "ExposureInmAs": 50.0,
        "ExposureModulationType": "NONE",
    },
    "CTXRayDetailsSequence": {
        "KVP": 120.0, "FocalSpots": 1.0, "FilterType": "NONE", "FilterMaterial": "ALUMINUM",
        "CalciumScoringMassFactorPatient": 1.0,
    },
}  # fmt: skip


def enhanced(
    path: Path, sop_class: str, pixels: np.ndarray, bits: int, spacing: Sequence[float],
    orientation: Sequence[float], shared: Tags, slopes: Sequence[float], intercept: float, image: Tags, tags: Tags,
) -> list[Path]:  # fmt: skip
    """Rescale in the shared groups where all frames have the same, else in their own."""
    values = [
        {"PixelValueTransformationSequence": {"RescaleSlope": s, "RescaleIntercept": intercept, "RescaleType": kind}}
        for s in slopes
        for kind in ["HU" if sop_class == ENHANCED_CT else "US"]
    ]
    same = len(set(slopes)) == 1
    frames = []
    for n in range(len(pixels)):
        content = {"FrameAcquisitionDateTime": f"2024050110150{n}", "FrameReferenceDateTime": f"2024050110150{n}"}
        content |= {"FrameAcquisitionDuration": 10.0, "DimensionIndexValues": n + 1}
        place = {"PlanePositionSequence": position(ORIGIN, orientation, n * spacing[2])}
        frames.append({"FrameContentSequence": content, **place, **({} if same else values[n])})
    geometry = {
        "PixelMeasuresSequence": {"PixelSpacing": list(spacing[:2]), "SliceThickness": spacing[2]},
        "PlaneOrientationSequence": {"ImageOrientationPatient": list(orientation)},
        "FrameAnatomySequence": {"FrameLaterality": "U", "AnatomicRegionSequence": HEAD},
        "FrameVOILUTSequence": {"WindowCenter": 1000.0, "WindowWidth": 2000.0},
    }  # fmt: skip
    groups = {
        "NumberOfFrames": len(pixels), "FrameOfReferenceUID": uid("frame"), "PatientPosition": "HFS",
        "SharedFunctionalGroupsSequence": {**geometry, **shared, **(values[0] if same else {})},
        "PerFrameFunctionalGroupsSequence": frames,
    }  # fmt: skip
    return [save(path, sop_class, pixels, bits, 1, ENHANCED, image, groups, tags)]


def enhanced_mr(
    path: Path,
    pixels: np.ndarray | None = None,
    spacing: Sequence[float] = (0.9, 0.7, 3.0),
    orientation: Sequence[float] = OBLIQUE,
    slopes: Sequence[float] | None = None,
    **tags: Any,
) -> list[Path]:
    """12 bits in 16; ``slopes``, one a frame, where the rescale of the frames differs."""
    pixels = texture((4, 9, 12), 0, 4095) if pixels is None else pixels
    slopes = [1.0] * len(pixels) if slopes is None else slopes
    return enhanced(
        path, ENHANCED_MR, pixels, 12, spacing, orientation, MR_GROUPS, slopes, 0.0, ENHANCED_MR_IMAGE, tags
    )


def enhanced_ct(
    path: Path,
    pixels: np.ndarray | None = None,
    spacing: Sequence[float] = (0.8, 0.8, 2.5),
    orientation: Sequence[float] = AXIAL,
    **tags: Any,
) -> list[Path]:
    """12 bits in 16, HU less 1024."""
    pixels = texture((4, 9, 9), 0, 3000) if pixels is None else pixels
    slopes = [1.0] * len(pixels)
    return enhanced(
        path, ENHANCED_CT, pixels, 12, spacing, orientation, CT_GROUPS, slopes, -1024.0, ENHANCED_CT_IMAGE, tags
    )
