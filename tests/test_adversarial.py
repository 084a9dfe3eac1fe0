"""Losses of critic and generator: against their formulas, a gradient known by hand, and the bound of the clipping."""

import math

import pytest
import torch
import torch.nn as nn

from common.losses.adversarial import KINDS, adversarial_loss, gradient_penalty

each_kind = pytest.mark.parametrize("kind", KINDS)


class Linear(nn.Module):
    """A critic with one gradient everywhere: the weights themselves, of a given norm."""

    def __init__(self, norm: float, shape: tuple[int, ...] = (2, 5, 4)) -> None:
        super().__init__()
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weight * norm / weight.norm())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image * self.weight).flatten(1).sum(1, keepdim=True)


class Square(nn.Module):
    """D(x) = |x|² / 2, whose gradient is the image itself."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.scale * image.square().flatten(1).sum(1, keepdim=True) / 2


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    real, fake = torch.rand(2, 3, 2, 5, 4, generator=generator).unbind(0)
    return real, fake


@pytest.mark.parametrize("norm", [0.25, 1.0, 3.0])
def test_the_penalty_of_a_linear_critic_follows_from_the_norm_of_its_weights(norm, images):
    critic = Linear(norm)
    penalty = gradient_penalty(critic, *images)
    assert penalty.item() == pytest.approx((norm - 1) ** 2, abs=1e-6)
    penalty.backward()
    by_hand = 2 * (norm - 1) * critic.weight.detach() / norm
    torch.testing.assert_close(critic.weight.grad, by_hand, atol=1e-5, rtol=0)


def test_the_penalty_looks_between_hr_and_sr_at_one_place_an_image(images):
    real, fake = images
    torch.manual_seed(5)
    place = torch.rand(3).view(-1, 1, 1, 1)
    torch.manual_seed(5)
    found = gradient_penalty(Square(), real, fake)
    between = place * real + (1 - place) * fake
    norms = between.square().sum(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(found, ((norms - 1) ** 2).mean())


def test_the_penalty_reaches_neither_image_and_is_float32_under_autocast(images):
    real, fake = (image.clone().requires_grad_() for image in images)
    critic = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(24, 1))
    torch.manual_seed(0)
    expected = gradient_penalty(critic, real, fake)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradient_penalty(critic, real, fake)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    found.backward()
    assert real.grad is None and fake.grad is None and critic[0].weight.grad is not None


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


REAL, FAKE = (0.5, -1.0, 2.0), (-0.25, 0.75, -2.0)
R, F = mean(REAL), mean(FAKE)
FORMULAS = {
    "vanilla": (
        -mean(math.log(sigmoid(r)) for r in REAL) - mean(math.log(1 - sigmoid(f)) for f in FAKE),
        -mean(math.log(sigmoid(f)) for f in FAKE),
    ),
    "relativistic": (
        -mean(math.log(sigmoid(r - F)) for r in REAL) - mean(math.log(1 - sigmoid(f - R)) for f in FAKE),
        -mean(math.log(1 - sigmoid(r - F)) for r in REAL) - mean(math.log(sigmoid(f - R)) for f in FAKE),
    ),
    "wgan": (F - R, -F),
    "wgan_gp": (F - R + 10 * (1 - 1 / math.sqrt(4)) ** 2, -F),
    "wgan_gp_l1": (
        mean(abs(1 - r) for r in REAL) + mean(abs(f) for f in FAKE) + 10 * (1 - 1 / math.sqrt(4)) ** 2,
        mean(abs(1 - f) for f in FAKE),
    ),
}


class Mean(nn.Module):
    """The mean of four pixels, the norm of whose gradient is 1 / 2."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean(dim=(1, 2, 3)).view(-1, 1)


def constant(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


@each_kind
def test_each_loss_is_what_its_formula_says(kind):
    loss, real, fake = adversarial_loss(kind), constant(REAL), constant(FAKE)
    critic, generator = FORMULAS[kind]
    assert float(loss.critic_loss(Mean(), real, fake)) == pytest.approx(critic, abs=1e-5)
    assert float(loss.generator_loss(Mean(), real, fake)) == pytest.approx(generator, abs=1e-5)
    assert (loss.penalty is None) == (not kind.startswith("wgan_gp"))
    assert loss.penalty is None or float(loss.penalty) == pytest.approx(0.25)


@each_kind
def test_a_generator_that_follows_its_loss_is_judged_more_real(kind):
    fake, critic = constant(FAKE).requires_grad_(), Mean()
    loss = adversarial_loss(kind).generator_loss(critic, constant(REAL), fake)
    loss.backward()
    better = fake.detach() - 0.1 * fake.grad
    assert float(critic(better).mean()) > F


@each_kind
def test_losses_are_float32_under_autocast(kind, images):
    critic = nn.Sequential(nn.Flatten(), nn.Linear(40, 1))
    loss = adversarial_loss(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for value in (loss.critic_loss(critic, *images), loss.generator_loss(critic, *images)):
            assert value.dtype == torch.float32 and value.dim() == 0


@each_kind
def test_only_wgan_clips_the_weights(kind):
    critic = nn.Linear(2, 1)
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([[0.005, -3.0]]))
        critic.bias.fill_(0.5)
    adversarial_loss(kind, clip=0.02).after_step(critic)
    expected = [[0.005, -0.02]] if kind == "wgan" else [[0.005, -3.0]]
    torch.testing.assert_close(critic.weight.detach(), torch.tensor(expected))
    assert float(critic.bias) == pytest.approx(0.02 if kind == "wgan" else 0.5)


def test_unknown_kinds_and_factors_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"adversary_kind: must be one of vanilla, .*, wgan_gp_l1, got gan2"):
        adversarial_loss("gan2")
    for name in ("gradient_penalty", "clip"):
        for value in (0, -1, math.nan):
            with pytest.raises(ValueError, match=f"{name}: must be above 0, got {value}"):
                adversarial_loss("wgan_gp", **{name: value})
