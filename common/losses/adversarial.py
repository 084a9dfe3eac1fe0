"""What a critic and a generator minimise, chosen by one word.

Zhu, dissertation, equations 4.15 to 4.17 and 4.19, 3.19 and 3.20. Vanilla: Goodfellow et al., 2014; relativistic:
Wang et al., "ESRGAN", 2018, equations 1 and 2; Wasserstein: Arjovsky et al., 2017; its gradient penalty: Gulrajani et
al., 2017. Written from the papers. A critic gives one number an image, without a sigmoid.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..errors import exits_on_mistake
from ..processes import draw_for_all, mean_over_all


class Vanilla:
    """Equation 4.15: binary cross-entropy of real and SR; the generator lowers that of SR taken for real, as SRGAN's.

    The others are variants of it. ``critic`` is a module, ``real`` and ``fake`` are HR and SR ``(B, C, H, W)``; every
    loss is a number in float32, under autocast too.

    Args:
        gradient_penalty: weight of the penalty, where a variant has one.
        clip: bound of the critic's weights, where a variant has one.

    Raises:
        ValueError: one of them is not above 0.
    """

    def __init__(self, gradient_penalty: float = 10.0, clip: float = 0.01) -> None:
        for name, value in (("gradient_penalty", gradient_penalty), ("clip", clip)):
            if not value > 0:
                raise ValueError(f"{name}: must be above 0, got {value}; the penalty has 10, the clipping 0.01")
        self.gradient_penalty, self.clip = gradient_penalty, clip
        self.penalty: torch.Tensor | None = None  # of the last critic_loss, without its weight

    def critic_loss(self, critic: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        """What the critic minimises; no gradient reaches the generator where ``fake`` is detached."""
        return F.softplus(-_judge(critic, real)).mean() + F.softplus(_judge(critic, fake)).mean()

    def generator_loss(self, critic: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        """What the generator minimises beside the distance from HR."""
        return F.softplus(-_judge(critic, fake)).mean()

    def after_step(self, critic: nn.Module) -> None:
        """What happens to the critic after each step of its optimiser: nothing, but for WGAN."""


class Relativistic(Vanilla):
    """RaGAN: whether an image is more real than those of the other kind are on the mean, over all processes.

    Equation 4.19 prints it without sigmoid, and its two terms cancel; this is what ESRGAN prints, which it refers to.
    """

    def critic_loss(self, critic: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        return _relative(_judge(critic, real), _judge(critic, fake))

    def generator_loss(self, critic: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        return _relative(_judge(critic, fake), _judge(critic, real))


class WGAN(Vanilla):
    """Equation 4.16, D(SR) − D(HR); after each step all weights of the critic are clipped to ±``clip``."""

    def critic_loss(self, critic: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        return _judge(critic, fake).mean() - _judge(critic, real).mean()

    def generator_loss(self, critic: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        return -_judge(critic, fake).mean()

    def after_step(self, critic: nn.Module) -> None:
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter.clamp_(-self.clip, self.clip)


class WGANGP(WGAN):
    """Equation 4.17: the same with the gradient penalty in place of the clipping, and what the released code runs.

    # not in the paper: the weight of the penalty; 10 is that of the released code and of Gulrajani et al.
    """

    def critic_loss(self, critic: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        return super().critic_loss(critic, real, fake) + self._penalize(critic, real, fake)

    def _penalize(self, critic: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        penalty = gradient_penalty(critic, real, fake)
        self.penalty = penalty.detach()
        return self.gradient_penalty * penalty

    def after_step(self, critic: nn.Module) -> None:
        """Nothing: the penalty does it."""


class LabelledWGANGP(WGANGP):
    """Equations 3.19 and 3.20 as chapter 3 prints them: |1 − D(HR)| + |D(SR)|, and the penalty.

    A distance from labels is no Wasserstein distance, and the released code of chapter 4 runs the difference of
    :class:`WGANGP`; of chapter 3 there is no code.
    """

    def critic_loss(self, critic: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        distance = (1 - _judge(critic, real)).abs().mean() + _judge(critic, fake).abs().mean()
        return distance + self._penalize(critic, real, fake)

    def generator_loss(self, critic: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        return (1 - _judge(critic, fake)).abs().mean()  # not in the paper: SR is to get the label of HR


KINDS = {
    "vanilla": Vanilla,
    "relativistic": Relativistic,
    "wgan": WGAN,
    "wgan_gp": WGANGP,
    "wgan_gp_l1": LabelledWGANGP,
}


def adversarial_loss(kind: str, gradient_penalty: float = 10.0, clip: float = 0.01) -> Vanilla:
    """The losses that ``kind`` names, one of ``KINDS``.

    Raises:
        ValueError: there is no such kind, or a factor is not above 0.
    """
    if kind not in KINDS:
        raise ValueError(f"adversary_kind: must be one of {', '.join(KINDS)}, got {kind}; choose one of these")
    return KINDS[kind](gradient_penalty, clip)


def gradient_penalty(critic: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of (‖∇D‖₂ − 1)², between each HR image and its SR, in float32 (equation 4.17).

    The norm is over all channels and pixels of an image; its place on the line from SR to HR is drawn from PyTorch's
    generator, by the first of several processes for all.

    Args:
        critic: under it no batch may be normalised: the gradient of an image would depend on the others.
        real, fake: HR and SR ``(B, C, H, W)``.
    """
    with torch.autocast(real.device.type, enabled=False):
        place = draw_for_all(len(real), real.device).view(-1, 1, 1, 1)
        between = torch.lerp(fake.detach().float(), real.detach().float(), place).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        return (gradient.flatten(1).norm(2, dim=1) - 1).square().mean()


def _judge(critic: nn.Module, images: torch.Tensor) -> torch.Tensor:
    judged: torch.Tensor = critic(images).float()
    return judged


def _relative(raised: torch.Tensor, lowered: torch.Tensor) -> torch.Tensor:
    """Cross-entropy that falls where ``raised`` are judged above the mean of ``lowered``, and those below theirs."""
    up, down = raised - mean_over_all(lowered), lowered - mean_over_all(raised)
    return F.softplus(-up).mean() + F.softplus(down).mean()


adversarial_loss_or_exit = exits_on_mistake(adversarial_loss)
