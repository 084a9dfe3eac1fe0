"""Critics: the number of their parameters, which patches they take, and what they refuse."""

import pytest
import torch
import torch.nn as nn

from common.blocks.discriminators import Critic, DualConvCritic


def parameters(critic: nn.Module) -> int:
    return sum(parameter.numel() for parameter in critic.parameters())


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 23_558_721),
        ({"patch_size": 81}, 23_558_721),
        ({"patch_size": (96, 90)}, 23_558_721),
        ({"in_channels": 4}, 23_560_449),
        ({"batch_norm": True}, 23_562_561),  # of every convolution, the first as well
        ({"patch_size": [160, 120]}, 23_558_721 + 512 * 1024 * (10 * 8 - 36)),
    ],
)
def test_the_number_of_parameters_is_that_of_the_released_code(settings, count):
    with torch.device("meta"):
        assert parameters(Critic(**settings)) == count


def test_the_critic_of_figure_3_4_doubles_its_width_where_it_halves_the_image():
    with torch.device("meta"):
        critic = DualConvCritic(patch_size=80)
    convolutions = [layer for layer in critic.features if isinstance(layer, nn.Conv2d)]
    assert [layer.stride[0] for layer in convolutions] == [1, 2] * 4
    widths = [64, 128, 128, 256, 256, 512, 512, 1024]
    assert [layer.out_channels for layer in convolutions] == widths
    kernels = sum(a * b for a, b in zip([1, *widths[:-1]], widths, strict=True))
    assert parameters(critic) == 9 * kernels + (1024 * 5 * 5 + 1) * 1024 + 1024 + 1


def small(patch_size, **more) -> Critic:
    return Critic(patch_size=patch_size, widths=[2, 2, 3, 3, 4, 4, 5, 5], hidden=6, **more)


def test_every_patch_that_is_halved_to_the_same_size_gives_one_number_an_image():
    critic = small(96)
    for size in ((81, 96), (96, 81), (88, 93)):
        out = critic(torch.rand(3, 1, *size))
        assert out.shape == (3, 1)
    assert float(critic(torch.rand(50, 1, 96, 96)).detach().abs().max()) != 0
    assert not isinstance(list(critic.modules())[-1], nn.Sigmoid)


@pytest.mark.parametrize("size", [(80, 96), (96, 97), (16, 16)])
def test_a_patch_of_another_size_is_refused_with_both_sizes_and_the_remedy(size):
    text = rf"an image must have 81 to 96 x 81 to 96 pixels, got {size[0]} x {size[1]}; give the critic the generator's"
    with pytest.raises(ValueError, match=text):
        small(96)(torch.rand(1, 1, *size))
    with pytest.raises(ValueError, match="patch_size: must be at least 1, got 0"):
        small(0)


def test_signals_keep_their_size_through_the_layers_of_a_new_critic():
    torch.manual_seed(0)
    critic = Critic(patch_size=32, widths=[32] * 8, hidden=64)
    with torch.no_grad():
        features = critic.features(torch.randn(4, 1, 32, 32))
    assert 0.2 < float(features.std()) < 5


def test_images_of_a_normalised_batch_are_judged_by_their_own_batch_alone():
    critic = small(32, batch_norm=True)
    one, other = torch.rand(2, 4, 1, 32, 32).unbind(0)
    before = critic(one)
    critic(other)
    assert torch.equal(critic(one), before) and not [name for name, _ in critic.named_buffers()]


@pytest.mark.parametrize("critic", [small(32), DualConvCritic(patch_size=32, width=2, hidden=4)])
def test_it_can_be_scripted(critic):
    image = torch.rand(2, 1, 30, 32)
    torch.testing.assert_close(torch.jit.script(critic)(image), critic(image))
