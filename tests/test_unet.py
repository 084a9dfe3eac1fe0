"""The segmentation U-Net: sizes, its features against hooks on its parts, TorchScript, and what it refuses."""

import pytest
import torch
from monai.networks.nets import FlexibleUNet, resnet34

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


def test_padding_is_in_no_feature(unet):
    features = unet.features(torch.rand(1, 2, 45, 70), NAMES)
    sizes = {name: tuple(value.shape[2:]) for name, value in features.items()}
    assert sizes == {
        **{"E1": (23, 35), "E2": (12, 18), "E3": (6, 9), "E4": (3, 5), "E5": (2, 3)},
        **{"D": (45, 70), "logits": (45, 70)},
    }


class Hooked(torch.nn.Module):
    """MONAI's ResNet-34, run by its own forward; what hooks see of its levels, as FlexibleUNet wants it."""

    def __init__(self):
        super().__init__()
        options = {"spatial_dims": 2, "n_input_channels": 1, "conv1_t_stride": 2, "feed_forward": False}
        self.resnet, self.seen = resnet34(pretrained=False, **options), []
        for name in ("bn1", "layer1", "layer2", "layer3", "layer4"):
            getattr(self.resnet, name).register_forward_hook(lambda _, __, out: self.seen.append(out.clone()))

    def forward(self, image):
        self.seen.clear()
        self.resnet(image)
        return [image, self.seen[0].relu(), *self.seen[1:]]


def test_features_are_those_that_hooks_see_in_the_networks_of_monai():
    torch.manual_seed(0)
    ours = SegmentationUNet()
    with torch.no_grad():
        ours(torch.rand(2, 1, 64, 64))
    theirs, parts = FlexibleUNet(1, 4, "resnet34", pretrained=False, norm="batch"), ours.eval().encoder
    theirs.encoder = Hooked()
    resnet = theirs.encoder.resnet
    places = {resnet.conv1: parts[0][0], resnet.bn1: parts[0][1], resnet.layer1: parts[1][1], resnet.layer2: parts[2]}
    places |= {resnet.layer3: parts[3], resnet.layer4: parts[4]}
    for target, source in (places | {theirs.decoder: ours.decoder, theirs.segmentation_head: ours.head}).items():
        target.load_state_dict(source.state_dict())
    seen = {}
    theirs.eval().decoder.register_forward_hook(lambda _, __, out: seen.update(D=out))
    image = torch.rand(1, 1, 64, 96)
    with torch.no_grad():
        seen["logits"], found = theirs(image), ours.features(image, NAMES)
        seen |= {f"E{n}": value for n, value in enumerate(theirs.encoder(image)[1:], 1)}
    for name in NAMES:
        torch.testing.assert_close(found[name], seen[name], atol=1e-5, rtol=1e-4)


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
