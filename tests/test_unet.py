"""The segmentation U-Net: sizes, its features against hooks on its parts, TorchScript, and what it refuses."""

import pytest
import torch

from common.blocks.unet import NAMES, SegmentationUNet
from common.frozen import load_unet


@pytest.fixture(scope="module")
def unet() -> SegmentationUNet:
    torch.manual_seed(0)
    network = SegmentationUNet(2, 3, width=8)
    network(torch.rand(4, 2, 64, 64))  # running statistics of batch normalisation that are not those of the start
    return network.eval()


def test_the_encoder_has_the_channels_of_the_paper():
    with torch.device("meta"):
        features = SegmentationUNet().features(torch.rand(1, 1, 64, 96), NAMES)
    shapes = {name: tuple(value.shape[1:]) for name, value in features.items()}
    assert shapes == {
        **{"E1": (64, 32, 48), "E2": (64, 16, 24), "E3": (128, 8, 12), "E4": (256, 4, 6), "E5": (512, 2, 3)},
        **{"D": (16, 64, 96), "logits": (4, 64, 96)},
    }


@pytest.mark.parametrize("size", [(32, 32), (45, 70), (1, 33)])
def test_any_size_goes_in_and_comes_out(unet, size):
    assert unet(torch.rand(2, 2, *size)).shape == (2, 3, *size)


def test_features_are_those_that_hooks_see(unet):
    seen = {}
    parts = {f"E{n}": part for n, part in enumerate(unet.encoder, 1)} | {"D": unet.decoder, "logits": unet.head}
    hooks = [
        part.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.clone()}))
        for name, part in parts.items()
    ]
    image = torch.rand(1, 2, 64, 32)
    with torch.no_grad():
        found = unet.features(image, NAMES)
        logits = unet(image)
    for hook in hooks:
        hook.remove()
    for name in NAMES:
        torch.testing.assert_close(found[name], seen[name], rtol=0, atol=0)
    torch.testing.assert_close(found["logits"], logits, rtol=0, atol=0)


def test_nothing_is_computed_behind_the_last_feature_that_is_asked_for(unet):
    def refuse(*_):
        raise AssertionError("computed")

    hooks = [part.register_forward_hook(refuse) for part in (*unet.encoder[2:], unet.decoder, unet.head)]
    assert list(unet.features(torch.rand(1, 2, 32, 32), ["E2", "E1"])) == ["E2", "E1"]
    with pytest.raises(AssertionError, match="computed"):
        unet.features(torch.rand(1, 2, 32, 32), ["E3"])
    for hook in hooks:
        hook.remove()


def test_it_can_be_scripted_with_its_features(unet):
    scripted, image = torch.jit.script(unet), torch.rand(1, 2, 40, 33)
    with torch.no_grad():
        torch.testing.assert_close(scripted(image), unet(image))
        for name, value in scripted.features(image, NAMES).items():
            torch.testing.assert_close(value, unet.features(image, [name])[name])


@pytest.mark.parametrize(
    ("arguments", "match"), [({"classes": 1}, "classes: must be at"), ({"width": 6}, "width: must")]
)
def test_impossible_networks_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        SegmentationUNet(**arguments)


@pytest.mark.parametrize("blocks", [(3, 4, 6, 3), (1, 2, 1, 1)])
def test_a_file_of_weights_tells_which_network_they_are_of(blocks, tmp_path):
    network = SegmentationUNet(2, 3, 8, blocks).eval()
    torch.save(
        {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()},
        tmp_path / "unet.pt",
    )
    loaded = load_unet(tmp_path / "unet.pt", in_channels=2, classes=3)
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
    image = torch.rand(1, 2, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), network(image), atol=0.02, rtol=0.05)


def test_other_channels_classes_and_files_are_refused(unet, tmp_path):
    file = tmp_path / "unet.pt"
    with pytest.raises(ValueError, match=r"unet_path: must be the file .*, got None; pass --unet_path FILE"):
        load_unet(None)
    with pytest.raises(ValueError, match=r"got .*unet\.pt; pass --unet_path"):
        load_unet(file)
    torch.save(unet.state_dict(), file)
    with pytest.raises(ValueError, match=r"unet\.pt: the U-Net must have in_channels 1, got 2"):
        load_unet(file, in_channels=1)
    with pytest.raises(ValueError, match=r"unet\.pt: the U-Net must have classes 4, got 3"):
        load_unet(file, classes=4)
    torch.save({"conv.weight": torch.rand(3)}, file)
    with pytest.raises(ValueError, match=r"unet\.pt: must hold the weights of a segmentation U-Net"):
        load_unet(file)
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"unet\.pt: must be a PyTorch state dict"):
        load_unet(file)
