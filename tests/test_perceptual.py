"""The perceptual loss: its value, where gradients go, and files of weights that do not fit."""

import os

import pytest
import torch
import torch.nn as nn

from common.blocks.autoencoder import Autoencoder, PerceptualEncoder
from common.blocks.vgg import VGG
from common.frozen import load_encoder, load_vgg
from common.losses.perceptual import PerceptualLoss
from tests.helpers import blobs


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def phantom(size: int = 64, shift: int = 0) -> torch.Tensor:
    plane = torch.from_numpy(blobs((size, size, 1))[..., 0]).float()
    return plane.roll(shift, dims=1)[None, None]


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    network = VGG("vgg16")
    for parameter in network.parameters():  # PyTorch's own start lets the features fade
        if parameter.dim() == 4:
            nn.init.kaiming_normal_(parameter)
    return network


@pytest.mark.parametrize("distance", ["L1", "L2"])
def test_the_loss_is_the_weighted_sum_of_the_mean_distances(vgg, distance):
    a, b = image(2, 3, 16, 16), image(2, 3, 16, 16, seed=1)
    loss = PerceptualLoss(vgg, {"relu1_1": 0.5, "conv2_1": 2}, distance)(a, b)
    with torch.no_grad():
        first, second = (vgg.features(x, ["relu1_1", "conv2_1"]) for x in (a, b))
    power = 1 if distance == "L1" else 2
    means = {key: ((first[key] - second[key]).abs() ** power).mean() for key in first}
    torch.testing.assert_close(loss, 0.5 * means["relu1_1"] + 2 * means["conv2_1"])


@pytest.mark.parametrize("distance", ["L1", "L2"])
@pytest.mark.parametrize("kind", ["vgg", "encoder"])
def test_the_loss_is_zero_at_equality_and_grows_with_a_shift(vgg, kind, distance):
    torch.manual_seed(0)
    encoder, layer = (vgg, "relu2_2") if kind == "vgg" else (PerceptualEncoder(), "relu6")
    loss = PerceptualLoss(encoder, {layer: 1.0}, distance)
    values = [loss(phantom(shift=shift), phantom()).item() for shift in range(4)]
    assert values[0] == 0
    assert values == sorted(set(values))


def test_gradients_reach_the_prediction_alone():
    torch.manual_seed(0)
    loss = PerceptualLoss(PerceptualEncoder(), {"conv3": 1.0, "relu6": 1.0}).train()
    prediction, target = image(1, 1, 9, 9).requires_grad_(), image(1, 1, 9, 9, seed=1).requires_grad_()
    loss(prediction, target).backward()
    assert prediction.grad.abs().min() > 0
    assert target.grad is None
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())


def test_the_encoder_stays_in_evaluation_mode():
    loss = PerceptualLoss(PerceptualEncoder(), {"relu6": 1.0})
    model = nn.ModuleList([loss]).train()
    assert model.training and loss.training
    assert not any(module.training for module in loss.encoder.modules())
    assert not loss.eval().training


def test_autocast_changes_nothing(vgg):
    a, b = image(1, 1, 16, 16), image(1, 1, 16, 16, seed=1)
    loss = PerceptualLoss(vgg, {"relu2_2": 1.0})
    expected = loss(a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert vgg.features(a, ["conv1_1"])["conv1_1"].dtype == torch.bfloat16  # unless the loss prevents it
        found = loss(a, b)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    coarse = PerceptualLoss(PerceptualEncoder(), {"relu6": 1.0})(a.bfloat16(), b.bfloat16())
    assert coarse.dtype == torch.float32


def test_a_grey_image_is_one_of_three_equal_channels(vgg):
    a, b = image(2, 1, 16, 16), image(2, 1, 16, 16, seed=1)
    loss = PerceptualLoss(vgg, {"relu2_2": 1.0})
    torch.testing.assert_close(loss(a, b), loss(a.repeat(1, 3, 1, 1), b.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_grey_images_of_their_own(vgg, channels):
    a, b = image(2, channels, 16, 16), image(2, channels, 16, 16, seed=1)
    loss = PerceptualLoss(vgg, {"relu2_2": 1.0}, "L2")
    singles = [loss(a[:, [c]], b[:, [c]]) for c in range(channels)]
    torch.testing.assert_close(loss(a, b), torch.stack(singles).mean())


@pytest.mark.parametrize(
    ("layers", "distance", "message"),
    [
        ({}, "L1", r"^layers: must name at least one layer, got {}; pass"),
        (
            {"relu7": 1.0},
            "L1",
            r"^layers: must be layers of the encoder, got relu7; choose among conv1, relu1, .*, relu6$",
        ),
        (
            {"relu1": 1.0, "relu6": 0.0},
            "L1",
            r"^layers: weights must be positive, got {'relu1': 1\.0, 'relu6': 0\.0}; lea",
        ),
        ({"relu6": -1}, "L1", r"^layers: weights must be positive, got {'relu6': -1}; leave out"),
        ({"relu6": float("nan")}, "L1", r"^layers: weights must be positive, got {'relu6': nan}; leave out"),
        ({"relu6": 1.0}, "l1", r"^distance: must be L1 or L2, got l1; choose"),
    ],
)
def test_settings_that_make_no_loss_are_refused(layers, distance, message):
    with pytest.raises(ValueError, match=message):
        PerceptualLoss(PerceptualEncoder(), layers, distance)


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ((1, 1, 8, 8), (1, 1, 8, 9), r"got \(1, 1, 8, 8\) and \(1, 1, 8, 9\) of the target; bring"),
        ((1, 8, 8), (1, 8, 8), r"^prediction: must be \(B, C, H, W\) as the target, got \(1, 8, 8\)"),
        ((1, 3, 8, 8), (1, 3, 8, 8), r"^image: number of channels must be 1 as the encoder's, got 3; take an encoder"),
    ],
)
def test_images_that_do_not_fit_are_refused(prediction, target, message):
    with pytest.raises(ValueError, match=message):
        PerceptualLoss(PerceptualEncoder(), {"relu6": 1.0})(torch.zeros(prediction), torch.zeros(target))


@pytest.mark.parametrize("older", [False, True])
def test_a_file_cut_anywhere_is_refused_by_name(tmp_path, older):
    file = tmp_path / "cut.pth"
    torch.save({"bias": torch.zeros(4)}, file, _use_new_zipfile_serialization=not older)
    content = file.read_bytes()
    for size in range(0, len(content), len(content) // 70):
        file.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"cut\.pth: must be a PyTorch state dict .*, and whole; copy the file"):
            load_encoder(file)
    with pytest.raises(ValueError, match=r"cut\.pth: must be a PyTorch state dict .*, and whole; copy the file"):
        load_vgg("vgg16", file)


@pytest.mark.parametrize("content", [[1], {"model": [1]}, {"conv1": 1}, {1: torch.zeros(1)}, os.system])
def test_files_of_other_things_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: must be a PyTorch state dict of nothing but tensors"):
        load_encoder(tmp_path / "other.pth")


def test_half_precision_is_widened(tmp_path):
    encoder = PerceptualEncoder()
    torch.save({key: value.half() for key, value in encoder.state_dict().items()}, tmp_path / "half.pt")
    for key, value in load_encoder(tmp_path / "half.pt").state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, encoder.state_dict()[key].half().float())


def test_an_encoder_is_loaded_alone_or_out_of_its_autoencoder(tmp_path):
    autoencoder, planes = Autoencoder(2).eval(), image(1, 2, 12, 12)
    for content in (autoencoder.encoder.state_dict(), autoencoder.state_dict(), {"model": autoencoder.state_dict()}):
        torch.save(content, tmp_path / "encoder.pt")
        encoder = load_encoder(tmp_path / "encoder.pt", in_channels=2)
        found = encoder.features(planes, ["conv6", "relu6"])
        assert torch.equal(found["relu6"], autoencoder.encoder(planes))
        assert torch.equal(found["conv6"].relu(), found["relu6"])


def test_encoders_that_do_not_fit_are_refused(tmp_path):
    file = tmp_path / "encoder.pt"
    with pytest.raises(ValueError, match=r"^encoder_path: must be a file .* got .*encoder\.pt; train an Autoencoder"):
        load_encoder(file)
    torch.save(Autoencoder(3).state_dict(), file)
    shapes = r"got layers\.conv1\.weight of shape \(32, 3, 3, 3\) instead of \(32, 1, 3, 3\); train"
    with pytest.raises(
        ValueError, match=rf"encoder\.pt: must hold the weights of an encoder of in_channels 1, {shapes}"
    ):
        load_encoder(file)
    torch.save({"weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"encoder\.pt: .*, got nothing under layers\.conv1\.weight; train"):
        load_encoder(file)
