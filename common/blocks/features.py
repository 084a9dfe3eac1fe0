"""Encoders whose intermediate results can be asked for by name, as perceptual losses need them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping

import torch
import torch.nn as nn


class FeatureEncoder(nn.Module):
    """A chain of named layers; each name stands for the result of its layer.

    Args:
        layers: name to layer, in the order of the chain. None may work in place: a later layer would change the
            features of an earlier one.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(OrderedDict(layers))

    def prepare(self, image: torch.Tensor) -> torch.Tensor:
        """What the first layer gets for an image ``(B, C, H, W)``; here the image itself."""
        return image

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` to the result of the last layer."""
        return self.layers(self.prepare(image))

    def features(self, image: torch.Tensor, names: Collection[str]) -> dict[str, torch.Tensor]:
        """Results of the layers ``names`` for an image ``(B, C, H, W)``; no layer after the last of them is computed.

        Raises:
            ValueError: there is no such layer, or the image is too small for it.
        """
        known = self.layer_names()
        check_names(known, names)
        chain = dict(list(self.layers.named_children())[: max((known.index(name) + 1 for name in names), default=0)])
        _check_size(image, chain)
        found, x = {}, self.prepare(image)
        for name, layer in chain.items():
            x = layer(x)
            if name in names:
                found[name] = x
        return found

    def layer_names(self) -> list[str]:
        """All names, in the order of the chain."""
        return [name for name, _ in self.layers.named_children()]


def check_names(known: Collection[str], names: Collection[str]) -> None:
    """Refuse a name that no layer has.

    Raises:
        ValueError: lists the names there are.
    """
    for name in names:
        if name not in known:
            raise ValueError(f"layers: must be layers of the encoder, got {name}; choose among {', '.join(known)}")


def _check_size(image: torch.Tensor, chain: Mapping[str, nn.Module]) -> None:
    """Refuse an image of which the max-pools of ``chain`` would leave nothing."""
    halved = sum(isinstance(layer, nn.MaxPool2d) and not layer.ceil_mode for layer in chain.values())
    height, width = image.shape[-2:]
    if min(height, width) < 2**halved:
        raise ValueError(
            f"image: must have at least {2**halved} × {2**halved} pixels for layer {list(chain)[-1]}, "
            f"got {height} × {width}; take larger patches, or a layer before one of its {halved} max-pools"
        )
