"""Images of MONAI Deploy made volumes and back; needs no SDK."""

import numpy as np
import pytest
import torch

from common.config import split_settings
from common.errors import CaseWarning
from common.io.deploy_image import image_of, volume_of
from tests.helpers import oblique, world

SHAPE = (5, 4, 3)  # X, Y, Z
AFFINE = oblique((0.5, 0.8, 3.0))
RAMP = world(AFFINE, SHAPE)[0]  # the value of a voxel is its place
OF_DICOM = {
    "row_pixel_spacing": 0.8,
    "col_pixel_spacing": 0.5,
    "depth_pixel_spacing": 3.0,
    "nifti_affine_transform": AFFINE,
}
LPS = np.diag([-1, -1, 1, 1])


def is_ramp(volume) -> bool:
    expected = world(volume.affine.numpy(), tuple(volume.shape[1:]))[0]
    return volume.dtype == torch.float32 and np.allclose(volume[0].as_tensor().numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("array", "metadata"),
    [
        (RAMP.T, OF_DICOM),
        (RAMP, {"affine": AFFINE}),
        (RAMP, {"affine": LPS @ AFFINE, "space": "LPS"}),
        (RAMP, {"original_affine": torch.tensor(AFFINE), "spacing": (0.5, 0.8, 3), "row_pixel_spacing": 0.8}),
        (RAMP[:, :, 0], {"affine": AFFINE}),
        (RAMP[:, :, 0].T, OF_DICOM),
    ],
    ids=["dicom", "reader", "lps", "both", "plane", "plane of dicom"],
)
def test_every_voxel_has_its_place(array, metadata):
    volume = volume_of(array, metadata)
    assert is_ramp(volume)
    again = volume_of(*image_of(volume))
    assert is_ramp(again) and torch.equal(again.as_tensor(), volume.as_tensor())
    assert image_of(volume)[0].ndim == array.ndim


def test_a_plane_comes_back_as_rows_and_columns_and_channels_stay_last():
    array, metadata = image_of(volume_of(RAMP[:, :, 0], {"affine": AFFINE}))
    assert array.shape == (4, 5)
    assert metadata["row_pixel_spacing"] == pytest.approx(0.8) and metadata["col_pixel_spacing"] == pytest.approx(0.5)
    coloured = np.stack([RAMP.T, RAMP.T + 1], axis=3)
    volume = volume_of(coloured, OF_DICOM)
    assert volume.shape == (2, *SHAPE) and np.allclose(image_of(volume)[0], coloured, atol=1e-5)


def test_a_plane_with_spacing_alone_is_one_slice_and_a_warning():
    with pytest.warns(CaseWarning, match="its place is unknown"):
        volume = volume_of(np.zeros((4, 5), np.uint16), {"row_pixel_spacing": 0.8, "col_pixel_spacing": 0.5})
    assert volume.shape == (1, 5, 4, 1)
    assert np.allclose(np.abs(np.diag(volume.affine)), [0.5, 0.8, 1, 1])


def test_values_of_every_type_are_kept_and_what_else_the_host_says_goes_on():
    values = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    for dtype in (np.uint8, np.int16, np.uint16, np.int32, np.float64):
        volume = volume_of(values.astype(dtype), {**OF_DICOM, "StudyInstanceUID": "1.2.3", "filename_or_obj": "a"})
        assert volume.dtype == torch.float32 and np.array_equal(volume[0].numpy().T, values)
        assert image_of(volume)[1]["StudyInstanceUID"] == "1.2.3"


@pytest.mark.parametrize(
    ("array", "metadata", "message"),
    [
        (RAMP, {}, "ct: the image must come with an affine, got none; set metadata"),
        (RAMP, None, "must come with an affine"),
        (RAMP.T, {"row_pixel_spacing": 1.0, "col_pixel_spacing": 1.0}, "must come with an affine"),
        (RAMP[0], {}, "ct: the image must come with an affine or a spacing, got none"),
        (RAMP[0], {"row_pixel_spacing": 0.0, "col_pixel_spacing": 1.0}, "an affine or a spacing"),
        (RAMP, {"affine": np.zeros((4, 4))}, "ct: the affine must be finite and invertible"),
        (RAMP[0, 0], {"affine": AFFINE}, "ct: must be a plane or a volume, got 1 axes"),
        (RAMP > 0, {"affine": AFFINE}, "ct: must hold numbers, got bool"),
        (np.full(SHAPE, 2**24 + 1), {"affine": AFFINE}, "ct: values must fit in float32, got int64 up to 16777217"),
        (RAMP.T, {**OF_DICOM, "row_pixel_spacing": 0.5, "col_pixel_spacing": 0.8}, "swapped, as DICOMSeriesToVolume"),
    ],
)
def test_what_has_no_place_or_no_values_is_refused(array, metadata, message):
    with pytest.raises(ValueError, match=message):
        volume_of(array, metadata, "ct")


def test_settings_are_told_from_the_arguments_of_the_host():
    words = ["app", "-i", "IN", "--memory_mb", "2000", "--amp_dtype", "bfloat16", "--tile", "null", "-m", "."]
    rest, settings = split_settings(words, ("memory_mb", "amp_dtype", "tile"))
    assert rest == ["app", "-i", "IN", "-m", "."]
    assert settings == {"memory_mb": 2000, "amp_dtype": "bfloat16", "tile": None}
    with pytest.raises(ValueError, match="--tile: must be followed by a value"):
        split_settings(["--tile"], ("tile",))
