import math

import pytest
import torch
import torch.nn.functional as F

from common.blocks.any_scale import AnyScaleNetwork, predict_interpolation, start_any_scale_as_interpolation
from common.blocks.edsr import EDSRTrunk
from common.blocks.meta_upscale import MetaUpscale
from common.blocks.rdn import RDNTrunk
from common.geometry import scaled_size

TRUNKS = {"edsr": EDSRTrunk, "rdn": RDNTrunk}
TINY = {"edsr": {"width": 8, "blocks": 2}, "rdn": {"width": 8, "blocks": 2, "layers": 3, "growth": 4}}
each_trunk = pytest.mark.parametrize("trunk", TRUNKS)


def tiny(trunk, channels=1, scale=2):
    torch.manual_seed(0)
    return AnyScaleNetwork(TRUNKS[trunk](channels, **TINY[trunk]), channels, scale, hidden=16).eval()


def fresh(trunk, channels=1, seed=0):
    """A network of the paper's size, at its start."""
    torch.manual_seed(seed)
    network = AnyScaleNetwork(TRUNKS[trunk](channels), channels).eval()
    start_any_scale_as_interpolation(network)
    return network


def smooth(channels, size, seed=0):
    """A random image in [0, 1] without detail that its grid could not hold."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, channels, size[0] // 4, size[1] // 4, generator=generator)
    image = F.interpolate(coarse, size=size, mode="bicubic")
    return (image - image.min()) / (image.max() - image.min())


def psnr(image, reference):
    return -10 * math.log10((image - reference).square().mean())


@each_trunk
@pytest.mark.parametrize(("size", "channels"), [((5, 8), 1), ((1, 1), 1), ((7, 3), 4)])
@torch.no_grad()
def test_a_trunk_keeps_the_size_of_its_image(trunk, size, channels):
    module = TRUNKS[trunk](channels, **TINY[trunk])
    assert (module.in_channels, module.out_channels) == (channels, 8)
    assert module(torch.rand(2, channels, *size)).shape == (2, 8, *size)


@torch.no_grad()
def test_a_residual_block_of_edsr_is_equation_4_5():
    trunk, x = EDSRTrunk(1, 4, 1, residual_scale=0.1, negative_slope=0.0), torch.randn(1, 4, 6, 5)
    first, _, second = trunk.blocks[0].body
    expected = x + 0.1 * second(F.relu(first(x)))
    torch.testing.assert_close(trunk.blocks[0](x), expected)
    leaky, image = EDSRTrunk(1, 4, 1), torch.randn(1, 1, 6, 5)
    first, _, second = leaky.blocks[0].body
    shallow = leaky.head(image)
    block = shallow + second(F.leaky_relu(first(shallow), 0.2))
    torch.testing.assert_close(leaky(image), shallow + leaky.end(block))


def test_the_trunk_of_edsr_has_the_parameters_of_the_large_network():
    with torch.device("meta"):
        trunk = EDSRTrunk(1, 256, 32, 0.1, 0.0)
    tail = 2 * (256 * 1024 * 9 + 1024) + 256 * 9 + 1  # two sub-pixel stages of a factor 2 and a convolution
    assert sum(p.numel() for p in trunk.parameters()) + tail == 43_080_705


@torch.no_grad()
def test_a_dense_layer_sees_all_layers_before_it():
    trunk = RDNTrunk(1, **TINY["rdn"])
    block, x = trunk.blocks[0], torch.randn(1, 8, 6, 5)
    seen = [x]
    for layer in block.layers:
        seen.append(F.relu(layer(torch.cat(seen, 1))))
    torch.testing.assert_close(block(x), x + block.fusion(torch.cat(seen, 1)))


@each_trunk
@torch.no_grad()
def test_any_trunk_takes_the_meta_head(trunk):
    network, image = tiny(trunk), torch.rand(2, 1, 7, 10)
    assert isinstance(network.upscaler, MetaUpscale) and network.any_scale and network.size_multiple == 1
    assert torch.equal(network(image, 2.3), network.upscaler(network.trunk(image), 2.3))
    assert torch.equal(network(image, [1.5, 3.2], [11, 32]), network.upscale(network.features(image), [1.5, 3.2]))
    features = network.features(image)
    assert features.shape == (2, 8, 7, 10)
    exact = network(image, 1.875, exact=True)
    assert torch.equal(exact, network.upscale(features, [1.875, 1.875], [13, 19], True))
    assert not torch.allclose(exact, network(image, 1.875))


@pytest.mark.parametrize("scale", [3, 2.5])
@torch.no_grad()
def test_without_a_scale_it_takes_its_own(scale):
    network, image = tiny("edsr", scale=scale), torch.rand(1, 1, 6, 5)
    assert network.scale == scale and type(network.scale) is type(scale)
    assert torch.equal(network(image), network(image, [float(scale)] * 2))
    larger = [scaled_size(6, scale) + 1, scaled_size(5, scale) + 1]
    assert list(network(image, size=larger).shape[2:]) == larger
    assert network(image).shape == (1, 1, scaled_size(6, scale), scaled_size(5, scale))


@each_trunk
@pytest.mark.parametrize("scale", [2, 2.5])
@torch.no_grad()
def test_scripted_it_is_the_same(trunk, scale):
    network, image = tiny(trunk, 2, scale), torch.rand(2, 2, 9, 6)
    scripted = torch.jit.script(network)
    assert (scripted.scale, scripted.in_channels, scripted.size_multiple, scripted.any_scale) == (scale, 2, 1, True)
    for arguments in [(), (2,), (2.5,), ([2.5, 2.5],), ([2.0, 3.3], [18, 20]), ([1.0, 1.8], None, True)]:
        torch.testing.assert_close(scripted(image, *arguments), network(image, *arguments))
    features = scripted.features(image)
    torch.testing.assert_close(scripted.upscale(features, [2.0, 3.3], [18, 20]), network(image, [2.0, 3.3], [18, 20]))


@pytest.mark.slow
@each_trunk
@pytest.mark.parametrize("scale", [2, 2.5])
@pytest.mark.parametrize("dynamo", [True, False])
@torch.no_grad()
def test_the_exported_onnx_is_the_network_at_its_size_and_scale(trunk, scale, dynamo, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -e .[export]")
    from onnxruntime import InferenceSession

    network, path = tiny(trunk, scale=scale), str(tmp_path / "model.onnx")
    torch.onnx.export(network, (torch.zeros(1, 1, 11, 8),), path, dynamo=dynamo, input_names=["image"])
    session, image = InferenceSession(path, providers=["CPUExecutionProvider"]), torch.rand(1, 1, 11, 8)
    out, expected = torch.from_numpy(session.run(None, {"image": image.numpy()})[0]), network(image)
    torch.testing.assert_close(out, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


@torch.no_grad()
def test_the_prediction_starts_near_the_taps_of_linear_interpolation():
    torch.manual_seed(0)
    upscaler = MetaUpscale(8, 2)
    predict_interpolation(upscaler, 0.0)
    inverse, down, along = torch.rand(1000) * 0.75 + 0.25, torch.rand(1000), torch.rand(1000)
    weights = upscaler.outer(F.relu(upscaler.inner(torch.stack([inverse, down, along], 1)))).view(-1, 8, 3, 3, 2)
    corners = [(1 - down) * (1 - along), (1 - down) * along, down * (1 - along), down * along]
    expected = torch.zeros_like(weights)
    for channel in range(2):
        expected[:, channel, 1:, 1:, channel] = torch.stack(corners, 1).view(-1, 2, 2)
    assert (weights - expected)[:, :2].square().mean().sqrt() < 0.01
    assert (weights - expected).abs().max() < 0.1


@each_trunk
@pytest.mark.parametrize("channels", [1, 4])
@torch.no_grad()
def test_a_fresh_network_is_close_to_linear_interpolation_at_every_scale(trunk, channels):
    network, image = fresh(trunk, channels), smooth(channels, (24, 20))
    features = network.features(image)
    for scale in (1.1, 1.5, 2.0, 2.7, 4.0):
        out = network.upscale(features, [scale, scale])
        expected = F.interpolate(image, size=out.shape[2:], mode="bilinear")
        edge = math.ceil(scale)  # beyond the image the module has zeros, the reference its last pixels
        assert psnr(out[..., edge:-edge, edge:-edge], expected[..., edge:-edge, edge:-edge]) > 35


@each_trunk
def test_the_gradient_of_a_fresh_network_reaches_every_parameter(trunk):
    network = fresh(trunk)
    network(smooth(1, (12, 8)), 2.5).square().sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []


def test_the_start_is_the_same_for_the_same_seed():
    states = [fresh("edsr", seed=seed).state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["upscaler.outer.weight"], states[2]["upscaler.outer.weight"])


def test_the_features_must_hold_the_image():
    network = AnyScaleNetwork(EDSRTrunk(4, 2, 1), 4)
    with pytest.raises(ValueError, match="width: must be at least in_channels, 4, got 2"):
        start_any_scale_as_interpolation(network)


@pytest.mark.parametrize("scale", [0.5, 0, math.nan, math.inf])
def test_a_scale_below_one_is_refused(scale):
    with pytest.raises(ValueError, match="scale: must be finite and >= 1, got"):
        tiny("edsr", scale=scale)
    with pytest.raises(ValueError, match="scale: must be finite and >= 1, got"):
        tiny("edsr")(torch.zeros(1, 1, 4, 4), [2.0, scale])


def test_two_factors_at_most():
    with pytest.raises(ValueError, match="scale: must be one factor or two, got"):
        tiny("edsr")(torch.zeros(1, 1, 4, 4), [2.0, 2.0, 2.0])
