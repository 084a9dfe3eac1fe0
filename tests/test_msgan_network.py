"""The multi-scale generators: what they give in training and in inference, from which features; what they refuse."""

import pytest
import torch
import torch.nn.functional as F

from bundles.msgan.network import GENERATORS, MSGAN
from bundles.srresnet.network import SRResNet
from common.blocks.resnet import ResNetTrunk

TINY = {"width": 8, "blocks": 1}
CONV, NORM = 64 * 64 * 9 + 64, 2 * 64
STAGE = 64 * 256 * 9 + 256 + 64 * 9 + 1  # a sub-pixel layer of factor 2, and the convolution to the image
TRUNK = 16 * (2 * CONV + 2 * NORM) + CONV + NORM
each_generator = pytest.mark.parametrize("generator", GENERATORS)


def parameters(module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """``network`` with weights and statistics that a training could have left."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                tensor += 0.1 * torch.rand_like(tensor) * (1 if name.endswith("var") else torch.randn(()))
    return network


@pytest.mark.parametrize(
    ("generator", "scale", "count"),
    [
        ("msgan", 2, 640 + TRUNK + STAGE),
        ("msgan", 4, 640 + TRUNK + CONV + TRUNK + 2 * STAGE),
        ("msgan", 8, 640 + TRUNK + 2 * (CONV + TRUNK) + 3 * STAGE),
        ("ms_srresnet", 4, 640 + TRUNK + 2 * STAGE),
        ("ms_srresnet", 8, 640 + TRUNK + 3 * STAGE),
    ],
)
def test_parameters_are_those_of_srresnets_in_sequence(generator, scale, count):
    with torch.device("meta"):
        network = MSGAN(scale=scale, generator=generator)
    assert parameters(network) == count
    assert parameters(MSGAN(scale=2, **TINY)) == parameters(SRResNet(scale=2, **TINY))


def test_the_one_of_figure_33_has_2_779_842():
    with torch.device("meta"):
        assert [parameters(MSGAN(generator=generator)) for generator in GENERATORS] == [2_779_842, 1_520_066]


@each_generator
@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize(("size", "channels"), [((13, 10), 1), ((1, 2), 4)])
def test_training_gives_every_scale_in_rising_size_and_inference_the_last(generator, scale, size, channels):
    network = MSGAN(in_channels=channels, scale=scale, generator=generator, **TINY)
    image = torch.rand(2, channels, *size)
    images = network(image)
    factors = [factor for factor in (2, 4, 8) if factor <= scale]
    expected = {f"x{factor}": (2, channels, factor * size[0], factor * size[1]) for factor in factors}
    assert list(images) == list(expected) and {name: tuple(x.shape) for name, x in images.items()} == expected
    with torch.no_grad():
        out = network.eval()(image)
    assert isinstance(out, torch.Tensor) and out.shape == expected[f"x{scale}"]


@each_generator
@torch.no_grad()
def test_scripted_it_gives_the_last_image_in_either_mode(generator):
    torch.manual_seed(0)
    network, image = shaken(MSGAN(generator=generator, activation="prelu", **TINY)).eval(), torch.rand(2, 1, 9, 7)
    scripted = torch.jit.script(network)
    torch.testing.assert_close(scripted(image), network(image), atol=1e-5, rtol=0)
    assert scripted.train()(image).shape == (2, 1, 36, 28)


@each_generator
@torch.no_grad()
def test_the_x2_image_is_that_of_a_x2_network_with_the_weights_of_the_first_stage(generator):
    torch.manual_seed(0)
    large, image = shaken(MSGAN(generator=generator, **TINY)).eval(), torch.rand(2, 1, 9, 7)
    small = MSGAN(scale=2, generator=generator, **TINY).eval()
    state = {key: value for key, value in large.state_dict().items() if key.startswith("stages.0.")}
    small.load_state_dict(state)
    first = large.images(image)[0]
    assert torch.equal(small(image), first)
    plain = SRResNet(scale=2, **TINY).eval()
    plain.load_state_dict({key.removeprefix("stages.0."): value for key, value in state.items()})
    assert torch.equal(plain(image), first)


@torch.no_grad()
def test_the_second_network_sees_the_enlarged_features_of_the_first_and_not_its_image():
    torch.manual_seed(0)
    network, image = shaken(MSGAN(**TINY)).eval(), torch.rand(1, 1, 9, 7)
    first, second = network.stages
    features = first.upsampler[0](first.trunk(image))  # equation 3.13
    expected = second.upsampler[1](second.upsampler[0](second.trunk(features)))
    assert torch.equal(network(image), expected)
    first.upsampler[1].weight.zero_()
    assert torch.equal(network(image), expected)


@torch.no_grad()
def test_ms_srresnet_has_one_extractor():
    network = MSGAN(scale=8, generator="ms_srresnet", **TINY)
    assert [isinstance(stage.trunk, ResNetTrunk) for stage in network.stages] == [True, False, False]
    assert [type(stage.trunk) for stage in MSGAN(scale=8, **TINY).stages] == [ResNetTrunk] * 3


@each_generator
@torch.no_grad()
def test_every_image_starts_close_to_linear_interpolation(generator):
    torch.manual_seed(0)
    network = MSGAN(generator=generator, width=16, blocks=2).eval()
    for stage in network.stages:  # what is drawn small, taken away
        stage.upsampler[-1].weight[:, 1:] = 0
        stage.upsampler[-1].bias.zero_()
        if isinstance(stage.trunk, ResNetTrunk):
            assert stage.trunk.norm.weight[0] == pytest.approx(0.1) and stage.trunk.norm.weight[1] == 1
            stage.trunk.norm.weight.zero_()
    image = torch.rand(1, 1, 12, 11)
    for out in network.images(image):
        image = F.interpolate(image, scale_factor=2, mode="bilinear")
        rim = 4 * out.shape[2] // 12
        torch.testing.assert_close(out[..., rim:-rim, rim:-rim], image[..., rim:-rim, rim:-rim], atol=1e-5, rtol=0)


@each_generator
def test_it_trains_all_of_its_weights(generator):
    torch.manual_seed(0)
    network = MSGAN(generator=generator, activation="prelu", **TINY)
    sum(x.square().sum() for x in network(torch.rand(2, 1, 9, 7)).values()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    assert network.stages[0].upsampler[1].weight.grad.any()


@pytest.mark.parametrize("scale", [0, 1, 3, 6, 2.5])
def test_a_scale_that_is_no_power_of_two_is_refused(scale):
    with pytest.raises(ValueError, match=rf"scale: must be a power of two, .*, got {scale}; choose 2, 4 or 8"):
        MSGAN(scale=scale, **TINY)


def test_unknown_generators_are_refused():
    with pytest.raises(ValueError, match="generator: must be msgan or ms_srresnet, got srgan; choose one of these"):
        MSGAN(generator="srgan", **TINY)
