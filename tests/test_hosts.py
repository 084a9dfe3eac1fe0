"""A bundle in a host that runs the transforms of its config, but takes out those that load or save images."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImage

from common.errors import CaseWarning, find_mistake
from common.io.host import GiveHostRealValuesd
from common.io.transforms import CaseLoadImaged
from tests.dicom_samples import ct_series
from tests.dicom_series import read_back, save_series
from tests.helpers import INFERENCE, Interpolate, blobs, oblique, run_inference, save_nifti

BOTH = ("LoadImage", "SaveImage")
LINEAR = {"scale": 2, "network_def": {"_target_": "tests.helpers.Interpolate", "scale": 2}}


def host(image: object, without: tuple[str, ...] = ("SaveImage",)) -> dict[str, torch.Tensor]:
    """What a host has after all transforms: MONAI Label leaves the loader in, MONAI Deploy hands in its own image."""
    parser = ConfigParser()
    parser.read_config(str(INFERENCE))
    for key, value in {**LINEAR, "device": "$torch.device('cpu')", "output_dir": "/nowhere"}.items():
        parser[key] = value
    before, after = (
        [
            step
            for step in parser.get_parsed_content(key).transforms
            if not any(w in type(step).__name__ for w in without)
        ]
        for key in ("preprocessing", "postprocessing")
    )
    data = Compose(before)({"image": image})
    with torch.no_grad():
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], parser.get_parsed_content("network"))[
            0
        ]
    return Compose(after)(data)


def saved(source: Path, out: Path) -> Path:
    """The one result of the runner."""
    run_inference(source, out, **LINEAR)
    (result,) = [path for path in out.iterdir() if path.suffix != ".jsonl"]
    return result


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept"),
    [
        ("int16", 1.0, 0.0),
        ("int16", 0.5, -1024.0),
        ("int16", -2.0, 5.0),
        ("uint8", 1.0, 0.0),
        ("uint16", 0.1, 0.0),
        ("float32", 1.0, 0.0),
    ],
)
def test_a_host_gets_the_values_and_the_grid_of_the_saved_nifti(tmp_path, dtype, slope, intercept):
    values = (blobs((13, 9, 4)) * 200).astype(dtype)
    path = save_nifti(tmp_path / "a.nii.gz", values, oblique((0.9, 0.7, 3)), slope, intercept)
    pred = host(str(path))["pred"]
    expected = nib.load(saved(path, tmp_path / "out"))
    assert pred.dtype == torch.float32 and pred.shape == (1, 26, 18, 4)
    np.testing.assert_allclose(pred[0].numpy(), expected.get_fdata(), rtol=1e-6, atol=1e-3 * abs(slope) / 2)
    np.testing.assert_allclose(pred.affine.numpy(), expected.affine, atol=1e-5)


@pytest.mark.parametrize("suffix", [".mha", ".png", ".tiff"])
def test_a_host_gets_the_values_of_the_other_files(tmp_path, suffix):
    image = sitk.GetImageFromArray((blobs((9, 13, 1))[..., 0] * 60_000).astype(np.uint16))
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(image, str(path))
    pred = host(str(path))["pred"]
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(saved(path, tmp_path / "out"))))
    assert np.array_equal(pred[0, :, :, 0].numpy().T, expected)


@pytest.mark.parametrize("kind", ["padding", "MONOCHROME1"])
def test_a_host_gets_the_real_values_of_the_saved_series(tmp_path, kind):
    def change(dataset: pydicom.Dataset, number: int) -> None:
        dataset.PhotometricInterpretation, dataset.RescaleSlope, dataset.RescaleIntercept = "MONOCHROME1", "2", "-7"

    source = tmp_path / "in"
    if kind == "padding":
        ct_series(source)
    else:
        save_series(source, (blobs((4, 9, 13)) * 3000).astype(np.int16), change=change)
    pred = host(str(source))["pred"]
    expected = [
        slice_.pixel_array * float(slice_.RescaleSlope) + float(slice_.RescaleIntercept)
        for slice_ in read_back(saved(source, tmp_path / "out"))
    ]
    assert np.array_equal(pred[0].numpy().transpose(2, 1, 0), np.stack(expected))


def test_values_that_a_host_could_not_store_are_clipped_as_in_the_saved_file(tmp_path):
    values = np.zeros((16, 16, 2), np.uint8)
    values[4:12, 4:12] = 255
    data = CaseLoadImaged("image")({"image": str(save_nifti(tmp_path / "a.nii", values, oblique((1, 1, 3))))})
    data["pred"] = data["image"] * 1.1 - 3
    with pytest.warns(CaseWarning, match="values outside the stored range .uint8. were clipped"):
        pred = GiveHostRealValuesd("pred")(data)["pred"]
    assert (float(pred.min()), float(pred.max())) == (0, 255)


def test_values_become_real_once(tmp_path):
    path = save_nifti(tmp_path / "a.nii", np.full((5, 4, 3), 10, np.int16), oblique((1, 1, 3)), 2.0, 1.0)
    data = CaseLoadImaged("image")({"image": str(path)})
    for _ in range(2):
        data = GiveHostRealValuesd("image")(data)
        assert torch.all(data["image"] == 21)


def test_a_host_that_returns_to_the_grid_of_the_input_finds_the_fine_one(tmp_path):
    path = save_nifti(tmp_path / "a.nii", blobs((13, 9, 4)).astype(np.float32), oblique((0.9, 0.7, 3)))
    data = host(str(path))
    assert data["image"].meta["spatial_shape"].tolist() == [26, 18, 4]
    assert np.array_equal(data["image"].meta["original_affine"], data["pred"].affine.numpy())
    assert np.array_equal(data["image"].affine.numpy(), nib.load(path).affine)  # it lies where it lay


def own(dtype: str, affine: np.ndarray | None = None) -> MetaTensor:
    """An image that a host read by itself."""
    values = torch.from_numpy((blobs((13, 9, 4))[None] * 200).astype(dtype))
    return MetaTensor(values, affine=None if affine is None else torch.from_numpy(affine))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float64"])
def test_an_image_that_a_host_read_may_be_of_any_type(dtype):
    affine = oblique((0.9, 0.7, 3))
    pred = host(own(dtype, affine), BOTH)["pred"]
    planes = own(dtype).as_tensor().float().permute(3, 0, 1, 2)
    expected = Interpolate(2)(planes).permute(1, 2, 3, 0)
    assert pred.dtype == torch.float32 and torch.allclose(pred.as_tensor(), expected, atol=1e-4)


def test_the_identity_is_an_affine_where_monais_reader_found_it(tmp_path):
    path = save_nifti(tmp_path / "a.nii", blobs((13, 9, 4)).astype(np.float32), np.eye(4))
    image = LoadImage(reader="NibabelReader", ensure_channel_first=True)(path)
    assert host(image, BOTH)["pred"].shape == (1, 26, 18, 4)


def label_array() -> MetaTensor:
    """What MONAI Label makes of an array: channels last, the affine unknown."""
    meta = {"spatial_shape": (13, 9), "original_channel_dim": -1, "original_affine": None}
    return MetaTensor(own("uint8").numpy()[0], meta=meta)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (own("uint8"), "image: must say where its voxels lie"),
        (own("uint8").as_tensor(), "image: must say where its voxels lie"),
        (own("uint8").numpy(), "image: must say where its voxels lie"),
        (label_array()[None], "image: must say where its voxels lie"),
        (label_array(), r"must be one volume .*got \(1, 13, 9, 4\); give a 2-D image a third"),
        (own("uint8", np.diag([1.0, 1, 0, 1])), "image: the affine must be finite and invertible"),
        (
            own("uint8", oblique((1, 1, 3)))[..., 0],
            r"must be one volume .*got \(1, 1, 13, 9\); give a 2-D image a third",
        ),
        (own("int32", oblique((1, 1, 3))) + 2**24 + 1, "image: every torch.int32 value must fit in float32"),
    ],
    ids=["default affine", "tensor", "array", "no affine", "channels last", "singular", "2-D", "large integers"],
)
def test_what_a_host_must_not_hand_in_is_refused_with_the_remedy(image, message):
    with pytest.raises((ValueError, RuntimeError)) as caught:  # MONAI wraps what a transform raises
        host(image, BOTH)
    assert re.search(message, str(find_mistake(caught.value)))
