"""The moving average of a network's weights, kept beside the training by ignite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn as nn
from ignite.engine import Engine
from ignite.handlers import EMAHandler

from .errors import exits_on_mistake
from .weights import plain


class AverageWeights:
    """Handler of the trainer: after each step the average moves towards the weights by ``momentum``.

    Args:
        network: that learns, with the weights it starts from.
        momentum: 0.001 keeps 0.999 of the average in each step; None for no average.

    Attributes:
        network: what is to be validated and kept: the averaged network, without an average the network itself.

    Raises:
        ValueError: ``momentum`` is not between 0 and 1.
    """

    def __init__(self, network: nn.Module, momentum: float | None = None) -> None:
        if momentum is not None and not 0 < momentum < 1:
            raise ValueError(f"ema_momentum: must be above 0 and below 1, got {momentum}; pass 0.001, or null for none")
        self.handler = None if momentum is None else EMAHandler(network, momentum)
        self.network: nn.Module = plain(network) if self.handler is None else self.handler.ema_model

    def attach(self, engine: Engine) -> None:
        if self.handler is not None:
            self.handler.attach(engine)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.handler is None else self.network.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.handler is not None:
            self.network.load_state_dict(state)


average_weights_or_exit = exits_on_mistake(AverageWeights)
