"""SRResNet: its parameters and operations, the forms of its blocks, where it starts, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F

from bundles.srresnet.network import SRResNet
from common.blocks.resnet import NormalisedResidualBlock, ResNetTrunk
from common.macs import count_macs

TINY = {"width": 8, "blocks": 1}
CONV, NORM = 64 * 64 * 9 + 64, 2 * 64


def parameters(module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_parameters_are_those_that_the_paper_implies():
    with torch.device("meta"):
        network = SRResNet()
    parts = {name: parameters(module) for name, module in network.trunk.named_children()}
    assert parts == {"head": 9 * 64 + 64, "blocks": 16 * (2 * CONV + 2 * NORM), "end": CONV, "norm": NORM}
    assert parameters(network.upsampler) == 2 * (64 * 256 * 9 + 256) + 64 * 9 + 1
    assert parameters(network) == 1_519_489


def test_what_differs_from_the_published_generator_of_srgan_is_known():
    slopes = 16 + 1 + 2  # of PReLU: a block, the head, the stages of the upsampler
    head, tail = 81 * 3 * 64 + 64, 81 * 64 * 3 + 3  # kernels of 9 x 9, RGB
    published = head + 16 * (2 * CONV + 2 * NORM) + CONV + NORM + 2 * (64 * 256 * 9 + 256) + tail + slopes
    assert published == 1_549_462
    with torch.device("meta"):
        network = SRResNet(in_channels=3, activation="prelu")
    ours = parameters(network) - 32 - parameters(network.trunk.head) - parameters(network.upsampler[-1])
    assert ours == published - slopes - head - tail


@pytest.mark.parametrize(("scale", "count"), [(2, 1_371_777), (3, 1_556_417), (4, 1_519_489), (8, 1_667_201)])
def test_each_scale_has_its_upsampler(scale, count):
    with torch.device("meta"):
        assert parameters(SRResNet(scale=scale)) == count


def test_operations_are_those_of_its_convolutions():
    pixels = 40 * 32
    body = pixels * (9 * 64 + 33 * 64 * 64 * 9)
    tail = (pixels + 4 * pixels) * 64 * 256 * 9 + 16 * pixels * 64 * 9
    assert count_macs(SRResNet().eval(), (1, 1, 40, 32)).paper == body + tail == 2_513_387_520


@pytest.mark.parametrize(("activation", "slope"), [("relu", 0.0), ("prelu", 0.25)])
def test_the_block_is_that_of_equation_33(activation, slope):
    torch.manual_seed(0)
    block = NormalisedResidualBlock(4, activation)
    x = torch.randn(3, 4, 6, 5)
    first, norm_1, _, second, norm_2, _ = block.body
    with torch.no_grad():
        y = x
        for conv, norm in ((first, norm_1), (second, norm_2)):
            y = F.conv2d(y, conv.weight, conv.bias, padding=1)
            y = (y - y.mean((0, 2, 3), keepdim=True)) / (y.var((0, 2, 3), correction=0, keepdim=True) + norm.eps).sqrt()
            y = F.leaky_relu(y, slope)
        torch.testing.assert_close(block(x), x + y, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize(("size", "channels"), [((13, 10), 1), ((1, 1), 4)])
@torch.no_grad()
def test_any_size_and_number_of_channels_scripts(scale, size, channels):
    network = SRResNet(in_channels=channels, scale=scale, activation="prelu", **TINY).eval()
    image = torch.rand(2, channels, *size)
    out = network(image)
    assert out.shape == (2, channels, scale * size[0], scale * size[1])
    torch.testing.assert_close(torch.jit.script(network)(image), out, atol=1e-6, rtol=0)


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_it_starts_close_to_linear_interpolation(training):
    torch.manual_seed(0)
    network = SRResNet(scale=2, width=16, blocks=4).train(training)
    image = F.interpolate(torch.rand(2, 1, 4, 4), size=(24, 24), mode="bicubic")
    expected = F.interpolate(image, scale_factor=2, mode="bilinear")
    assert (network(image) - expected)[..., 4:-4, 4:-4].abs().mean() < 0.15
    network.trunk.norm.weight.zero_()  # what is drawn small, taken away
    network.upsampler[-1].weight[:, 1:] = 0
    network.upsampler[-1].bias.zero_()
    torch.testing.assert_close(network(image)[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4], atol=1e-5, rtol=0)


def test_it_trains_all_of_its_weights():
    torch.manual_seed(0)
    network = SRResNet(activation="prelu", **TINY)
    network(torch.rand(2, 1, 13, 10)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    kernels = {name: p.grad for name, p in network.named_parameters() if p.dim() > 1}  # normalisation undoes a bias
    assert [name for name, grad in kernels.items() if not grad.any()] == []


def test_what_cannot_be_made_is_refused():
    with pytest.raises(ValueError, match="activation: must be relu or prelu, got gelu; the chapter has relu"):
        SRResNet(activation="gelu", **TINY)
    with pytest.raises(ValueError, match="width: must be at least in_channels, 4, got 2; choose 64"):
        ResNetTrunk(in_channels=4, width=2, blocks=1)
    with pytest.raises(ValueError, match="scale: must be 3 or a power of two, got 5"):
        SRResNet(scale=5, **TINY)
