import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.errors import CaseWarning
from common.transforms.intensity import NormalizeIntensityExactlyd, RestoreIntensityd, exact_unit_map

IMAGES = {
    "uint8": np.arange(256, dtype=np.uint8),
    "int16": np.arange(-32768, 32768, dtype=np.int32),
    "uint16 far from zero": np.arange(30000, 34000, dtype=np.int32),
    "hounsfield as float": np.arange(-1024, 3072, dtype=np.float32),
    "any float32": np.random.default_rng(0).normal(5, 1, 10_000).astype(np.float32),
    "huge": np.array([1, 0, -0.0, 3e38, -3e38], dtype=np.float32),
    "tiny": np.array([0, 1e-40, 3e-41, 1e-38], dtype=np.float32),
    "constant": np.full(7, 41.5, dtype=np.float32),
    "zero": np.zeros(7, dtype=np.float32),
}


@pytest.mark.parametrize("name", IMAGES)
def test_the_map_goes_back_without_losing_a_bit(name):
    values = torch.from_numpy(IMAGES[name].astype(np.float32)).view(1, -1, 1, 1)
    data = NormalizeIntensityExactlyd("image")({"image": MetaTensor(values)})
    seen = data["image"].as_tensor()
    assert float(seen.abs().max()) <= (2.0 if name == "huge" else 1.0)
    data["pred"] = MetaTensor(seen.clone(), meta=data["image"].meta)
    back = RestoreIntensityd("pred")(data)["pred"].as_tensor()
    assert back.numpy().tobytes() == values.numpy().tobytes()


def test_a_hot_voxel_does_not_press_the_others_into_the_dark():
    values = torch.arange(4000.0).repeat(5)
    values[7] = 60_000
    offset, factor = exact_unit_map(values)
    assert (offset, factor) == (0, 4096)


@pytest.mark.parametrize("name", ["uint8", "int16", "uint16 far from zero", "hounsfield as float"])
def test_integers_fill_more_than_half_of_the_unit_range_from_zero(name):
    values = torch.from_numpy(IMAGES[name].astype(np.float32))
    offset, factor = exact_unit_map(values)
    seen = (values - offset) / factor
    assert float(seen.min()) == 0 and 0.5 < float(seen.max()) <= 1


def test_channels_are_mapped_apart():
    image = MetaTensor(torch.stack([torch.arange(8.0), 1000 * torch.arange(8.0) - 500]).view(2, 8, 1, 1))
    seen = NormalizeIntensityExactlyd("image")({"image": image})["image"]
    assert float(seen[0].max()) == 7 / 8 and float(seen[1].min()) == 0


def test_what_cannot_be_kept_is_said():
    image = MetaTensor(torch.tensor([0, 1e-38, 3e38]).view(1, 3, 1, 1))
    with pytest.warns(CaseWarning, match="too small beside the largest"):
        NormalizeIntensityExactlyd("image")({"image": image})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_with_the_files_name(bad):
    image = MetaTensor(torch.tensor([0.0, bad]).view(1, 2, 1, 1), meta={"filename_or_obj": "brain.nii.gz"})
    with pytest.raises(ValueError, match=r"brain\.nii\.gz: intensities must be finite"):
        NormalizeIntensityExactlyd("image")({"image": image})
