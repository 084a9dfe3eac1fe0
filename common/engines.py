"""MONAI's trainer with a critic beside the generator.

MONAI's own AdversarialTrainer takes the input for the real image, here LR, and fires none of the events that our
handlers and its own postprocessing wait for; a subclass would have to replace all that it does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents

from .adversary import Adversary
from .losses.multiscale import last_image

PARTS = ("reconstruction_loss", "adversarial_loss", "critic_loss", "gradient_penalty")


class AdversarialTrainer(SupervisedTrainer):
    """A step: SR once; the critic learns from HR and SR; the generator learns from its loss by the critic as it is now.

    ``engine.state.output`` has ``PARTS`` as well; ``loss`` is ``reconstruction_loss`` + ``adversarial_loss``, which
    includes its weight. A step that :class:`common.handlers.DiscardLargeLoss` discards has taught the critic.

    The network may give several images, a mapping of name to image in rising size: the critic sees the last, the loss
    function gets the mapping.

    Args:
        args, kwargs: of MONAI's SupervisedTrainer.
        adversary: critic, its losses and optimiser; None for SupervisedTrainer itself.
        warm_up_loss: in place of the loss function until the adversary comes in; None for the same.
    """

    def __init__(
        self,
        *args: Any,
        adversary: Adversary | None = None,
        warm_up_loss: Callable[..., torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if adversary is None:
            return
        self.adversary, self.reconstruction_loss = adversary, self.loss_function
        self.warm_up_loss = warm_up_loss or self.loss_function
        self.loss_function = self._loss
        self.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._teach)

    def _teach(self, engine: Engine) -> None:
        output: Any = engine.state.output
        output.update(self.adversary.update(output["label"], last_image(output["pred"]), engine.state.iteration))

    def _loss(self, prediction: Any, target: torch.Tensor) -> torch.Tensor:
        step, output = self.state.iteration, self.state.output
        loss_function = self.reconstruction_loss if self.adversary.plays(step) else self.warm_up_loss
        loss = loss_function(prediction, target).mean()
        term = self.adversary.term(target, last_image(prediction), step)
        output.update(reconstruction_loss=loss.detach(), adversarial_loss=term.detach())  # type: ignore[union-attr]
        return torch.as_tensor(loss + term)


def parts_of_loss(output: Any) -> dict[str, Any]:
    """Those of ``PARTS`` that a step has, by name: ``output_transform`` of MONAI's TensorBoardStatsHandler."""
    first = output[0] if isinstance(output, list) else output  # a list where the batch was decollated
    return {name: first[name] for name in PARTS if name in first}
