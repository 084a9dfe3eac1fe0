"""A critic with all that belongs to it: losses, optimiser, schedule, how often it learns and from when on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn

from .blocks.discriminators import WIDTHS, Critic, DualConvCritic
from .errors import as_flag, exits_on_mistake
from .inferers import check_amp_dtype
from .losses.adversarial import Vanilla, adversarial_loss
from .processes import average_gradients, share_weights


class Adversary:
    """What a generator is trained against; :class:`common.engines.AdversarialTrainer` calls it.

    The critic's parameters require a gradient while it learns, and at no other time: a step of the generator leaves
    nothing in them. Several processes have the same critic, and learn as one with the whole batch would.

    Args:
        critic: on the device of the images.
        loss: of :func:`common.losses.adversarial.adversarial_loss`.
        optimizer: of the critic's parameters.
        lr_scheduler: of the optimizer, a step of it for each step of the generator; None for none.
        steps: the critic's steps for each one of the generator, on the same batch.
        weight: of the generator's adversarial loss.
        start: so many steps of the training pass before critic and adversarial loss come in.
        amp_dtype: ``"bfloat16"`` for mixed precision; None for float32.

    Raises:
        ValueError: ``steps`` is below 1, ``weight`` or ``start`` below 0, or another ``amp_dtype``.
    """

    def __init__(
        self,
        critic: nn.Module,
        loss: Vanilla,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        steps: int = 1,
        weight: float = 0.001,
        start: int = 0,
        amp_dtype: str | None = None,
    ) -> None:
        for name, value, least in (("critic_steps", steps, 1), ("adversarial_start", start, 0)):
            if value < least:
                raise ValueError(f"{name}: must be at least {least}, got {value}; pass {least} or more")
        if not weight >= 0:
            raise ValueError(f"adversarial_weight: must be at least 0, got {weight}; the paper has 0.001")
        check_amp_dtype(amp_dtype)
        self.critic = critic.train().requires_grad_(False)
        self.loss, self.optimizer, self.lr_scheduler = loss, optimizer, lr_scheduler
        self.steps, self.weight, self.start, self.mixed = steps, weight, start, amp_dtype is not None
        share_weights(critic)

    def plays(self, step: int) -> bool:
        """Whether critic and adversarial loss are in at ``step``, counted from 1."""
        return step > self.start

    def update(self, real: torch.Tensor, fake: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        """Let the critic learn from HR and SR ``(B, C, H, W)``.

        Returns:
            ``critic_loss`` of its last step, and ``gradient_penalty`` where there is one; nothing before ``start``.
        """
        if not self.plays(step):
            return {}
        real, fake = real.detach(), fake.detach()
        self.critic.requires_grad_(True)
        loss = torch.zeros(())
        for _ in range(self.steps):
            self.optimizer.zero_grad()
            with self._autocast(real):
                loss = self.loss.critic_loss(self.critic, real, fake)
            loss.backward()
            average_gradients(self.critic.parameters())
            self.optimizer.step()
            self.loss.after_step(self.critic)
        self.optimizer.zero_grad()
        self.critic.requires_grad_(False)
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        parts = {"critic_loss": loss, "gradient_penalty": self.loss.penalty}
        return {name: value.detach() for name, value in parts.items() if value is not None}

    def term(self, real: torch.Tensor, fake: torch.Tensor, step: int) -> torch.Tensor:
        """The generator's adversarial loss times ``weight``, for SR with its graph; 0 before ``start``."""
        if not self.plays(step):
            return torch.zeros((), device=fake.device)
        with self._autocast(fake):
            return self.weight * self.loss.generator_loss(self.critic, real, fake)

    def _autocast(self, images: torch.Tensor) -> torch.autocast:
        return torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.mixed)

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {"critic": self.critic, "optimizer": self.optimizer, "lr_scheduler": self.lr_scheduler}
        return {name: part for name, part in parts.items() if part is not None}


def make_adversary(
    kind: str,
    in_channels: int,
    patch_size: int | Sequence[int],
    device: str | torch.device,
    weight: float = 0.001,
    start: int = 0,
    steps: int = 1,
    learning_rate: float = 1e-5,
    betas: Sequence[float] = (0.0, 0.9),
    gradient_penalty: float = 10.0,
    batch_norm: bool | str = False,
    amp_dtype: str | None = None,
    critic: str = "alternating",
    width: int = 64,
    decay_at: int | None = None,
) -> Adversary:
    """A critic with its optimiser, Adam.

    The defaults are those of section 4.3.3 and of the released code: no momentum, a fixed rate.

    Args:
        kind: of :func:`common.losses.adversarial.adversarial_loss`.
        in_channels, patch_size, batch_norm: see :class:`common.blocks.discriminators.Critic`.
        device: of the images.
        weight, start, steps, amp_dtype: see :class:`Adversary`.
        learning_rate, betas: of the critic's Adam.
        gradient_penalty: weight of the penalty.
        critic: ``"alternating"`` for :class:`common.blocks.discriminators.Critic`, ``"dual"`` for
            :class:`common.blocks.discriminators.DualConvCritic`, that of figure 3.4, which has no ``batch_norm``.
        width: channels of its first convolution, to which the others are in proportion.
        decay_at: step of the training from which on the rate is a tenth (section 3.3.3); None for a fixed one.

    Raises:
        ValueError: an argument is out of range, or there is no such ``kind`` or ``critic``.
    """
    loss = adversarial_loss(kind, gradient_penalty)
    normalised = as_flag(batch_norm, "critic_batch_norm")
    if normalised and kind.startswith("wgan_gp"):
        raise ValueError(f"critic_batch_norm: must be false with {kind}, got true; the penalty is of single images")
    network = make_critic(critic, in_channels, patch_size, width, normalised).to(device)
    optimizer = torch.optim.Adam(network.parameters(), learning_rate, (betas[0], betas[1]))
    schedule = None
    if decay_at is not None:
        played = max(int(decay_at) - start, 0)  # the schedule goes by the steps in which the critic learns
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [played], 0.1)
    return Adversary(network, loss, optimizer, schedule, steps, weight, start, amp_dtype)


def make_critic(
    name: str, in_channels: int, patch_size: int | Sequence[int], width: int = 64, batch_norm: bool = False
) -> Critic:
    """The critic that ``name`` is for; see :func:`make_adversary`.

    Raises:
        ValueError: there is no such critic, or none that is normalised or as narrow.
    """
    if width < 1:
        raise ValueError(f"critic_width: must be at least 1, got {width}; the figures have 64")
    if name == "dual":
        if batch_norm:
            raise ValueError("critic_batch_norm: must be false with critic dual, got true; choose alternating")
        return DualConvCritic(in_channels, patch_size, width)
    if name != "alternating":
        raise ValueError(f"critic: must be alternating or dual, got {name}; choose one")
    return Critic(in_channels, patch_size, [n * width // WIDTHS[0] for n in WIDTHS], batch_norm=batch_norm)


make_adversary_or_exit = exits_on_mistake(make_adversary)
