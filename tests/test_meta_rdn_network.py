import pytest
import torch

from bundles.meta_rdn.network import MetaRDN
from common.geometry import scaled_size

TINY = {"width": 8, "blocks": 2, "layers": 2, "growth": 4, "hidden": 8}


def parameters(module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_parameters_are_those_of_the_published_network_without_its_unused_tail():
    with torch.device("meta"):
        network = MetaRDN()
    square = 64 * 64 * 9 + 64
    dense = sum((64 + 32 * layer) * 32 * 9 + 32 for layer in range(6))
    block = dense + (64 + 6 * 32) * 64 + 64
    parts = {name: parameters(module) for name, module in network.trunk.named_children()}
    fusion = 20 * 64 * 64 + 64
    assert parts == {"head": 64 * 9 + 64, "second": square, "blocks": 20 * block, "fusion": fusion, "end": square}
    assert parameters(network.upscaler) == 149_056
    assert parameters(network) == 5_614_976


@torch.no_grad()
def test_every_tenth_from_1_1_to_4_gives_the_rounded_size():
    network = MetaRDN(**TINY).eval()
    features = network.features(torch.rand(1, 1, 45, 7))
    for scale in [n / 10 for n in range(11, 41)]:
        expected = [scaled_size(n, scale) for n in (45, 7)]
        assert list(network.upscale(features, [scale, scale]).shape[2:]) == expected


@pytest.mark.parametrize(("size", "channels"), [((13, 9), 1), ((1, 1), 4)])
@torch.no_grad()
def test_any_size_and_number_of_channels(size, channels):
    network = MetaRDN(in_channels=channels, scale=2.5, **TINY).eval()
    expected = [scaled_size(n, 2.5) for n in size]
    assert list(network(torch.rand(2, channels, *size)).shape) == [2, channels, *expected]


def test_it_trains_all_of_its_weights_and_scripts():
    torch.manual_seed(0)
    network, image = MetaRDN(**TINY), torch.rand(1, 1, 13, 10)
    network(image, 1.7).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(network)(image, 1.7), network(image, 1.7), atol=1e-6, rtol=0)
