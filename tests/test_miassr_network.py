import pytest
import torch

from bundles.miassr.network import MIASSR
from common.geometry import scaled_size

TINY = {"width": 8, "blocks": 1, "hidden": 8}
BLOCK = 2 * (64 * 64 * 9 + 64)


def parameters(module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("channels", "count"),
    [
        (1, 1_368_320),  # the published 1.5 M counts a sub-pixel tail that is never used
        (4, 1_814_144),
    ],
)
def test_parameters_are_those_of_the_paper(channels, count):
    with torch.device("meta"):
        network = MIASSR(in_channels=channels)
    parts = {name: parameters(module) for name, module in network.trunk.named_children()}
    assert parts == {"head": channels * 64 * 9 + 64, "blocks": 16 * BLOCK, "end": BLOCK // 2}
    assert parameters(network.upscaler) == 3 * 256 + 256 + 256 * (9 * 64 * channels) + 9 * 64 * channels
    assert parameters(network) == count


def test_the_published_count_has_a_tail_besides():
    tail = 64 * 256 * 9 + 256 + 64 * 9 + 1  # a sub-pixel stage of factor 2 and a convolution
    mean_shifts = 2 * 2  # frozen: one weight and one bias each
    assert 1_368_320 + tail + mean_shifts == 1_516_613


@pytest.mark.parametrize("settings", [{"width": 16}, {"blocks": 4}])
def test_width_and_depth_are_settings(settings):
    with torch.device("meta"):
        network = MIASSR(**settings)
    width, blocks = settings.get("width", 64), settings.get("blocks", 16)
    assert parameters(network.trunk) == (2 * blocks + 1) * (width * width * 9 + width) + width * 9 + width


@torch.no_grad()
def test_every_tenth_from_1_1_to_4_gives_the_rounded_size():
    network = MIASSR(**TINY).eval()
    for size in ((45, 7), (1, 2)):
        features = network.features(torch.rand(1, 1, *size))
        for scale in [n / 10 for n in range(11, 41)]:
            expected = [scaled_size(n, scale) for n in size]
            assert list(network.upscale(features, [scale, scale]).shape[2:]) == expected
    assert [scaled_size(45, 1.4), scaled_size(1, 1.1)] == [63, 1]


@pytest.mark.parametrize(("size", "channels"), [((41, 33), 1), ((5, 70), 4), ((1, 1), 1)])
@torch.no_grad()
def test_any_size_and_number_of_channels(size, channels):
    network = MIASSR(in_channels=channels, scale=3, **TINY).eval()
    image = torch.rand(2, channels, *size)
    assert network(image).shape == (2, channels, 3 * size[0], 3 * size[1])
    assert network(image, [1.0, 2.5]).shape == (2, channels, size[0], scaled_size(size[1], 2.5))


def test_it_trains_all_of_its_weights_and_scripts():
    torch.manual_seed(0)
    network, image = MIASSR(**TINY), torch.rand(1, 1, 13, 10)
    network(image, 1.7).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(network)(image, 1.7), network(image, 1.7), atol=1e-6, rtol=0)


def test_features_that_cannot_hold_the_image_are_refused():
    with pytest.raises(ValueError, match="width: must be at least in_channels, 4, got 2"):
        MIASSR(in_channels=4, width=2, blocks=1)
