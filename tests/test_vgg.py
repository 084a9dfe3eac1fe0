"""VGG: its features against the same layers built by hand, and files of its weights."""

import pytest
import torch
import torch.nn as nn

from common.blocks.vgg import VGG
from common.frozen import load_vgg

CONVOLUTIONS = {"vgg16": "cc cc ccc ccc ccc", "vgg19": "cc cc cccc cccc cccc"}


def plain_vgg(stages: str) -> nn.Sequential:
    """VGG written a second time, with weights that let a signal through to its end."""
    layers, channels = [], 3
    for width, convolutions in zip((64, 128, 256, 512, 512), stages.split(), strict=True):
        for _ in convolutions:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            nn.init.normal_(layers[-2].weight, std=(2 / (9 * channels)) ** 0.5)
            channels = width
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


def torchvision_state(network: nn.Sequential) -> dict[str, torch.Tensor]:
    state = {f"features.{key}": value for key, value in network.state_dict().items()}
    return {**state, "classifier.0.weight": torch.zeros(2, 2)}


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    return {name: plain_vgg(stages) for name, stages in CONVOLUTIONS.items()}


@pytest.fixture(scope="module")
def files(plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vgg")
    for name, network in plain.items():  # vgg16 in the older format, as torchvision's files are
        torch.save(torchvision_state(network), folder / name, _use_new_zipfile_serialization=name != "vgg16")
    return folder


@pytest.fixture(scope="module")
def vgg(files):
    return load_vgg("vgg16", files / "vgg16")


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("vgg16", {"conv1_1": 0, "relu1_2": 3, "pool2": 9, "conv3_3": 14, "relu4_3": 22, "conv5_3": 28, "pool5": 30}),
        ("vgg19", {"conv1_1": 0, "relu2_2": 8, "conv3_4": 16, "relu4_1": 20, "conv5_4": 34, "relu5_4": 35}),
    ],
)
def test_named_features_are_those_of_vgg_at_torchvisions_places(plain, files, name, places):
    colour = torch.rand(2, 3, 32, 32)
    seen = {}
    handles = [
        plain[name][place].register_forward_hook(lambda _, __, out, key=key: seen.update({key: out}))
        for key, place in places.items()
    ]
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        plain[name](((colour.movedim(1, -1) - mean) / deviation).movedim(-1, 1))
        found = load_vgg(name, files / name).features(colour, list(places))
    for handle in handles:
        handle.remove()
    assert found.keys() == places.keys()
    for key in places:
        torch.testing.assert_close(found[key], seen[key])
        assert (found[key] < 0).any() == key.startswith("conv")
        assert found[key].std() > 0.01


def test_nothing_is_computed_after_the_last_layer_asked_for(vgg):
    ran = []
    handles = [
        layer.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, layer in vgg.layers.named_children()
    ]
    vgg.features(torch.rand(1, 1, 8, 8), ["relu2_1", "conv1_1"])
    for handle in handles:
        handle.remove()
    assert ran == ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1", "conv2_1", "relu2_1"]


def test_images_too_small_for_a_layer_are_refused(vgg):
    assert vgg.features(torch.rand(1, 1, 16, 40), ["conv5_1"])["conv5_1"].shape == (1, 512, 1, 2)
    with pytest.raises(
        ValueError, match=r"^image: must have at least 16 × 16 pixels for layer conv5_1, got 15 × 40; ta"
    ):
        vgg.features(torch.rand(1, 1, 15, 40), ["conv1_1", "conv5_1"])
    assert vgg.features(torch.rand(1, 1, 1, 1), []) == {}


def test_vgg_scripts(vgg):
    colour = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(vgg)(colour), vgg.features(colour, ["pool5"])["pool5"])


def test_an_unknown_vgg_is_refused():
    with pytest.raises(ValueError, match=r"^name: must be a VGG with known layers, got vgg11; choose vgg16 or vgg19"):
        VGG("vgg11")


@pytest.mark.parametrize(("name", "address"), [("vgg16", "vgg16-397923af"), ("vgg19", "vgg19-dcbb9e9d")])
@pytest.mark.parametrize("path", [None, "", "none.pth"])
def test_missing_weights_are_never_downloaded(tmp_path, name, address, path):
    path = path and tmp_path / path
    download = rf"fetch https://download\.pytorch\.org/models/{address}\.pth and pass it by --vgg_path FILE"
    with pytest.raises(
        ValueError, match=rf"^vgg_path: must be .* of {name}, got .*; nothing is downloaded: {download}"
    ):
        load_vgg(name, path)


def hollow(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same keys and shapes in a small file: one number each."""
    return {key: torch.zeros(()).expand(value.shape) for key, value in state.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.5.bias": None}, r"got nothing under features\.5\.bias; fetch https"),
        ({"features.31.weight": torch.zeros(1)}, r"got features\.31\.weight besides; fetch https"),
        ({"extra": torch.zeros(1)}, r"got extra besides; fetch https"),
        ({"features.2.bias": torch.zeros(3)}, r"got features\.2\.bias of shape \(3,\) instead of \(64,\); fetch https"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_the_first_key(plain, tmp_path, change, message):
    state = {**hollow(torchvision_state(plain["vgg16"])), **change}
    torch.save({key: value for key, value in state.items() if value is not None}, tmp_path / "own.pth")
    with pytest.raises(ValueError, match=rf"own\.pth: must hold the weights of vgg16, {message}.* --vgg_path FILE"):
        load_vgg("vgg16", tmp_path / "own.pth")


def test_the_weights_of_the_other_vgg_are_refused(files):
    with pytest.raises(
        ValueError, match=r"vgg16: must hold the weights of vgg19, got nothing under features\.16\.weight"
    ):
        load_vgg("vgg19", files / "vgg16")
