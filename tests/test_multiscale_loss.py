"""The loss over scales: its values, how HR is reduced, what it refuses, and training by it."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bundles.msgan.network import MSGAN
from common.inferers import AutocastInferer
from common.losses.multiscale import MultiScaleLoss, multiscale_loss, scale_weights
from common.transforms.degradation import Degradation, resample
from tests.helpers import ROOT, blobs, oblique, save_nifti
from tests.test_multi_gpu import start

WEIGHTS = {"x2": 0.3, "x4": 2.0}


def images(seed=0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {f"x{n}": torch.rand(2, 1, 4 * n, 5 * n, generator=draw) for n in (2, 4)}


@pytest.mark.parametrize(("base", "distance"), [("L2", F.mse_loss), ("L1", F.l1_loss)])
@pytest.mark.parametrize("antialias", [True, False])
def test_it_is_the_weighted_sum_of_equation_316(base, distance, antialias):
    sr, hr = images(), images(1)["x4"]
    reduced = resample(hr, (8, 10), antialias)
    expected = 0.3 * distance(sr["x2"], reduced) + 2 * distance(sr["x4"], hr)
    torch.testing.assert_close(MultiScaleLoss(WEIGHTS, antialias, base)(sr, hr), expected)


@pytest.mark.parametrize("antialias", [True, False])
def test_hr_is_reduced_as_lr_is_made(antialias):
    hr = images()["x4"]
    sr = {"x2": Degradation(antialias=antialias)(hr, (2, 2)), "x4": hr}
    assert float(MultiScaleLoss(WEIGHTS, antialias)(sr, hr)) == 0
    assert float(MultiScaleLoss(WEIGHTS, not antialias)(sr, hr)) > 0


def test_of_one_image_the_last_weight_alone_counts():
    sr, hr = images()["x4"], images(1)["x4"]
    torch.testing.assert_close(MultiScaleLoss(WEIGHTS)(sr, hr), 2 * F.mse_loss(sr, hr))


def test_a_scale_of_weight_zero_stays_part_of_the_graph():
    network, hr = MSGAN(width=8, blocks=1), images()["x4"]
    MultiScaleLoss({"x2": 0.0, "x4": 1.0})(network(torch.rand(2, 1, 4, 5)), hr).backward()
    grad = network.stages[0].upsampler[1].weight.grad
    assert grad is not None and not grad.any()


def test_weights_follow_the_scale():
    assert scale_weights(2) == {"x2": 1.0} and scale_weights(4) == {"x2": 0.5, "x4": 1.0}
    assert scale_weights(8, 0.25, 2) == {"x2": 0.25, "x4": 0.25, "x8": 2}
    assert list(scale_weights(8)) == ["x2", "x4", "x8"]
    assert multiscale_loss(4, 0.1, 3.0, False, "L1").weights == {"x2": 0.1, "x4": 3.0}
    for scale in (0, 1, 3, 6, 2.5):
        with pytest.raises(ValueError, match=f"scale: must be a power of two, got {scale}; choose 2, 4 or 8"):
            scale_weights(scale)


@pytest.mark.parametrize("weights", [{}, {"x2": -0.1, "x4": 1.0}, {"x2": 0.0, "x4": 0.0}, {"x4": float("nan")}])
def test_weights_that_weigh_nothing_are_refused(weights):
    with pytest.raises(ValueError, match="weights: must be at least 0, and one of them above it, got"):
        MultiScaleLoss(weights)


def test_other_distances_and_images_are_refused():
    with pytest.raises(ValueError, match="base: must be L1 or L2, got L3; choose one of them"):
        MultiScaleLoss(WEIGHTS, base="L3")
    sr, hr = images(), images(1)["x4"]
    with pytest.raises(ValueError, match="prediction: must have the images x2, x4, got x4; give the loss"):
        MultiScaleLoss(WEIGHTS)({"x4": sr["x4"]}, hr)
    with pytest.raises(ValueError, match="prediction: must have the images x4, got x2, x4; give the loss"):
        MultiScaleLoss({"x4": 1.0})(sr, hr)
    with pytest.raises(ValueError, match=r"prediction: x2 must be \(2, 1, 16, 20\) as HR, got \(2, 1, 8, 10\); check"):
        MultiScaleLoss({"x4": 1.0, "x2": 1.0})(sr, hr)
    with pytest.raises(ValueError, match=r"prediction: x4 must be \(2, 1, 16, 20\) as HR, got \(2, 1, 8, 10\); check"):
        MultiScaleLoss(WEIGHTS)(sr["x2"], hr)


def test_mixed_precision_gives_float32_images_of_all_scales_and_their_gradients():
    torch.manual_seed(0)
    network, low, hr = MSGAN(width=8, blocks=1), torch.rand(4, 1, 4, 5), torch.rand(4, 1, 16, 20)
    sr = AutocastInferer("bfloat16")(low, network)
    assert {name: (image.dtype, len(image)) for name, image in sr.items()} == {
        "x2": (torch.float32, 4),
        "x4": (torch.float32, 4),
    }
    multiscale_loss(4)(sr, hr).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@torch.no_grad()
def test_a_batch_in_parts_gives_the_images_of_the_whole():
    network, low = torch.nn.ModuleDict(), torch.rand(5, 1, 4, 5)
    network.forward = lambda x: {"x1": x, "x2": x.repeat(1, 1, 2, 2)}
    parts = AutocastInferer(batch_size=2)(low, network)
    assert torch.equal(parts["x1"], low) and parts["x2"].shape == (5, 1, 8, 10)


def phantoms(root):
    for split in ("train", "val"):
        (root / split).mkdir()
        values = (blobs((40, 36, 4), seed=len(split)) * 1000).astype(np.int16)
        save_nifti(root / split / f"{split}.nii.gz", values, oblique((1, 1, 3)))
    return root


@pytest.mark.slow
def test_two_processes_train_it_and_share_every_step(tmp_path):
    options = {"dataset_dir": phantoms(tmp_path), "steps": 2, "val_interval": 1, "patch_size": 16, "val_every": 1}
    options |= {"batch_size": 2, "amp_dtype": "bfloat16", "alpha": 0.0}
    start("msgan", 2, ("smoke",), {**options, "output_dir": tmp_path / "run"})
    last = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert last["step"] == 2 and [epoch for epoch, _ in last["best"]["history"]] == [1, 2]
    assert not any(key.startswith("module.") for key in last["network"])


def test_the_config_reduces_hr_as_its_degradation_does():
    loss = json.loads((ROOT / "bundles" / "msgan" / "configs" / "train.json").read_text())["loss"]
    assert loss["antialias"] == "@degradation#antialias" and loss["_target_"].endswith("multiscale_loss_or_exit")
