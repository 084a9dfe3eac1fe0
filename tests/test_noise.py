"""Noise in k-space: its statistics, its unit, that the same seed draws it again, and the way through the configs."""

import json

import monai.bundle
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import RandRicianNoised

from common.io.transforms import CaseLoadImaged
from common.protocol import Protocol, make_pair
from common.transforms.degradation import Degradation, DegradeBatch, SimulateLowResolutiond
from common.transforms.noise import RandKSpaceNoised, magnitude_with_kspace_noise
from tests.helpers import INFERENCE, blobs, oblique, save_nifti

SIGMA = 20 / 255


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_without_signal_the_mean_square_is_twice_the_variance():
    empty = torch.zeros(4, 1, 200, 150)
    noisy = magnitude_with_kspace_noise(empty, 20, draw())
    assert float(noisy.square().mean()) == pytest.approx(2 * SIGMA**2, rel=0.01)
    assert float(noisy.mean()) == pytest.approx(SIGMA * np.sqrt(np.pi / 2), rel=0.01)  # Rayleigh
    assert float(noisy.min()) >= 0


def test_where_the_signal_is_strong_the_noise_is_gaussian_of_the_stated_deviation():
    noisy = magnitude_with_kspace_noise(torch.full((4, 1, 200, 150), 0.9), 40, draw())
    assert float(noisy.std()) == pytest.approx(40 / 255, rel=0.01)
    assert float(noisy.mean()) == pytest.approx(0.9 + (40 / 255) ** 2 / 1.8, abs=2e-3)  # Rician bias to first order


def test_the_noise_is_white_in_both_halves_of_k_space():
    noise = torch.zeros(1, 64, 64)
    spectra = torch.stack(
        [torch.fft.fft2(magnitude_with_kspace_noise(noise + 50, 20, draw(n)), norm="ortho") for n in range(200)]
    )[:, 0]
    power = (spectra - spectra.mean(0)).abs().square().mean(0)  # far above 0 the magnitude keeps the real part alone
    assert float(power[0, 1:].mean()) == pytest.approx(SIGMA**2, rel=0.05)
    assert float(power[20:44, 20:44].mean()) == pytest.approx(SIGMA**2, rel=0.05)


def test_the_distribution_is_that_of_monais_rician_noise():
    image = torch.from_numpy(blobs((300, 200, 1))[..., 0].astype(np.float32))[None]
    ours = magnitude_with_kspace_noise(image, 40, draw())
    theirs = RandRicianNoised("image", prob=1, std=40 / 255, sample_std=False).set_random_state(0)({"image": image})
    for power in (1, 2, 4):
        one, other = (float(x.pow(power).mean()) for x in (ours, theirs["image"]))
        assert one == pytest.approx(other, rel=0.02)


def test_no_noise_leaves_magnitudes_alone():
    image = torch.rand(2, 1, 31, 24)
    torch.testing.assert_close(magnitude_with_kspace_noise(image, 0, draw()), image, atol=1e-6, rtol=0)
    assert Degradation().with_noise(image) is image


def test_images_that_are_no_magnitudes_are_refused_and_an_undershoot_is_not():
    image = torch.rand(1, 1, 40, 40)
    image[..., 0, :4] = -2  # beside a hot voxel
    assert torch.isfinite(magnitude_with_kspace_noise(image, 20)).all()
    with pytest.raises(ValueError, match=r"kspace_noise: images must be magnitudes, .* got values down to -1; use a"):
        magnitude_with_kspace_noise(torch.linspace(-1, 1, 100).reshape(1, 10, 10), 20)
    with pytest.raises(ValueError, match="kspace_noise: must be >= 0, got -20"):
        Degradation(kspace_noise=-20)
    with pytest.raises(ValueError, match="sigma: must be at least 0, got -1; 20 is that of the paper"):
        RandKSpaceNoised("image", -1)


def test_both_kinds_of_noise_come_from_the_same_seed_in_every_way_to_lr():
    degradation = Degradation(noise_std=0.05, kspace_noise=20)
    image = torch.rand(1, 64, 60)
    simulate = SimulateLowResolutiond("image", (2, 2), degradation)
    first, second = (simulate.set_random_state(seed=3)({"image": image})["image"] for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first, simulate({"image": image})["image"])
    batches = []
    for _ in range(2):
        torch.manual_seed(5)
        batches.append(DegradeBatch(2, degradation=degradation)({"label": image[None]}, "cpu", False)[0])
    assert torch.equal(*batches)
    alone = SimulateLowResolutiond("image", (2, 2), Degradation(noise_std=0.05)).set_random_state(seed=3)
    assert not torch.equal(first, alone({"image": image})["image"])


def test_the_noise_of_lr_has_the_stated_strength_in_a_batch():
    low, _ = DegradeBatch(2, degradation=Degradation(kspace_noise=40))(
        {"label": torch.zeros(8, 1, 96, 96)}, "cpu", False
    )
    assert float(low.square().mean()) == pytest.approx(2 * (40 / 255) ** 2, rel=0.02)


def test_the_transform_takes_planes_and_volumes_and_keeps_their_place():
    affine = torch.from_numpy(oblique((1, 1, 3)))
    image = MetaTensor(torch.zeros(1, 40, 30, 20), affine=affine)
    noise = RandKSpaceNoised(["image", "other"], 20)
    data = {"image": image, "other": torch.zeros(1, 40, 30, 20)}
    first, second = (noise.set_random_state(seed=1)(data) for _ in range(2))
    assert torch.equal(first["image"].affine, affine) and torch.equal(first["image"], second["image"])
    assert torch.equal(first["image"].as_tensor(), first["other"]) and not isinstance(first["other"], MetaTensor)
    assert float(first["other"].square().mean()) == pytest.approx(2 * SIGMA**2, rel=0.05)
    assert not torch.equal(noise(data)["other"], first["other"]) and float(image.abs().max()) == 0


def test_the_transform_acts_as_often_as_its_probability_says():
    noise = RandKSpaceNoised("image", 20, prob=0.25).set_random_state(seed=0)
    image = torch.zeros(1, 4, 4)
    count = sum(bool(noise({"image": image})["image"].any()) for _ in range(400))
    assert 70 < count < 130


def test_in_an_evaluation_each_image_has_a_noise_of_its_own(tmp_path):
    values = (blobs((40, 36, 4)) * 1000).astype(np.int16)
    items = [
        {"image": str(save_nifti(tmp_path / f"{name}.nii.gz", values, oblique((1, 1, 3)))), "patient": "p"}
        for name in "ab"
    ]
    load, protocol = CaseLoadImaged("image"), Protocol(2, degradation=Degradation(kspace_noise=20), min_foreground=0)
    low, again, other = (make_pair(item, load, protocol).low for item in (items[0], items[0], items[1]))
    assert torch.equal(low, again) and not torch.equal(low, other)


@pytest.mark.parametrize("bundle", ["rdst", "miassr"])
def test_any_bundle_trains_and_evaluates_with_it_by_one_option(bundle, tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / split).mkdir()
        values = (blobs((48, 40, 3), seed=len(split)) * 1000).astype(np.int16)
        save_nifti(tmp_path / split / f"{split}.nii.gz", values, oblique((1, 1, 3)))
    configs = INFERENCE.parents[2] / bundle / "configs"
    common = {"dataset_dir": str(tmp_path), "device": "$torch.device('cpu')", "logging_file": False}
    common |= {"degradation#kspace_noise": 20.0}
    steps = {"steps": 2, "val_interval": 1, "batch_size": 2, "patch_size": 32, "output_dir": str(tmp_path / "run")}
    files = [str(configs / f"{name}.json") for name in ("train", "smoke")]
    monai.bundle.run(config_file=files, **common, **steps)
    files = [str(configs / f"{name}.json") for name in ("inference", "evaluate", "smoke")]
    options = {
        "ckpt_path": str(tmp_path / "run" / "model.pt"),
        "pictures": False,
        "scale": 2 if bundle != "rdst" else 4,
    }
    monai.bundle.run(config_file=files, output_dir=str(tmp_path / "out"), **common, **options)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["degradation"]["kspace_noise"] == 20 and summary["bicubic"]["psnr"]["mean"] < 30
