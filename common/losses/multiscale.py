"""Loss of networks that give an image at every scale on the way, each compared with HR reduced to its size.

Zhu, dissertation, section 3.2.4, equations 3.12, 3.15, 3.16 and 3.22. Written from the paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn as nn

from ..errors import exits_on_mistake
from ..transforms.degradation import resample
from .perceptual import DISTANCES


def scale_weights(scale: int, alpha: float = 0.5, beta: float = 1.0) -> dict[str, float]:
    """Weights of :class:`MultiScaleLoss` for a network of ``scale`` that doubles the image in each stage.

    Args:
        scale: of the network, a power of two.
        alpha: α of equation 3.16, of every scale below; 0.5 is not in the paper.
        beta: β, of ``scale`` itself; 1 is not in the paper.

    Returns:
        ``{"x2": α, "x4": β}`` for 4; α serves ×2 and ×4 alike for 8.

    Raises:
        ValueError: ``scale`` is no power of two.
    """
    factors = [2**number for number in range(1, int(scale).bit_length())]
    if factors[-1:] != [scale]:
        raise ValueError(f"scale: must be a power of two, got {scale}; choose 2, 4 or 8")
    return {f"x{factor}": beta if factor == scale else alpha for factor in factors}


class MultiScaleLoss(nn.Module):
    """Weighted sum of the distances at all scales: α L₂(SR×2, HR↓2) + β L₂(SR×4, HR) (equation 3.16).

    HR is reduced as LR is, by :func:`common.transforms.degradation.resample`, but without blur and noise.

    Args:
        weights: name of an image to its weight, at least 0, in rising size; the last image is compared with HR itself.
            An image of weight 0 stays part of the sum, so that every weight of the network has a gradient.
        antialias: that of the degradation, see :func:`common.transforms.degradation.resample`.
        base: ``"L2"``, the mean of the squared differences (equation 3.15), or ``"L1"``.

    Raises:
        ValueError: no weights, negative ones, none above 0, or another distance.
    """

    def __init__(self, weights: Mapping[str, float], antialias: bool = True, base: str = "L2") -> None:
        super().__init__()
        if not all(0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
            raise ValueError(
                f"weights: must be at least 0, and one of them above it, got {dict(weights)}; 0.5 for x2 and 1 for x4 "
                "are a good start"
            )
        if base not in DISTANCES:
            raise ValueError(f"base: must be L1 or L2, got {base}; choose one of them")
        self.weights, self.antialias, self.base = dict(weights), antialias, base

    def forward(self, prediction: torch.Tensor | Mapping[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """SR at the scales that ``weights`` names, or the last of them alone, and HR ``(B, C, H, W)``, to a number.

        Raises:
            ValueError: an image is missing or has no weight, or the last one has not the shape of HR.
        """
        *_, last = self.weights
        images = prediction if isinstance(prediction, Mapping) else {last: prediction}
        if isinstance(prediction, Mapping) and set(images) != set(self.weights):
            raise ValueError(
                f"prediction: must have the images {', '.join(self.weights)}, got {', '.join(images) or 'none'}; "
                "give the loss the weights of the network's scales"
            )
        if images[last].shape != target.shape:
            raise ValueError(
                f"prediction: {last} must be {tuple(target.shape)} as HR, got {tuple(images[last].shape)}; check "
                "scale, and name the weights in rising size"
            )
        distance = DISTANCES[self.base]
        reduced = {name: resample(target, image.shape[2:], self.antialias) for name, image in images.items()}
        return torch.stack([self.weights[name] * distance(images[name], reduced[name]) for name in images]).sum()


def last_image(prediction: torch.Tensor | Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The image ``(B, C, H, W)``, or the last of several, the largest."""
    return list(prediction.values())[-1] if isinstance(prediction, Mapping) else prediction


class LastImageLoss(nn.Module):
    """A distance of the last image from HR; those on the way add nothing, but all weights of a network have a gradient.

    Several processes wait for every gradient.

    Args:
        base: ``"L1"``, or ``"L2"``, the mean of the squared differences.

    Raises:
        ValueError: another distance.
    """

    def __init__(self, base: str = "L1") -> None:
        super().__init__()
        if base not in DISTANCES:
            raise ValueError(f"pixel: must be L1 or L2, got {base}; choose one of them")
        self.base = base

    def forward(self, prediction: torch.Tensor | Mapping[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """SR, or SR at several scales in rising size, and HR ``(B, C, H, W)``, to a number."""
        loss = DISTANCES[self.base](last_image(prediction), target)
        on_the_way = list(prediction.values())[:-1] if isinstance(prediction, Mapping) else []
        for image in on_the_way:
            loss = loss + 0 * image.mean()
        return loss


def multiscale_loss(
    scale: int, alpha: float = 0.5, beta: float = 1.0, antialias: bool = True, base: str = "L2"
) -> MultiScaleLoss:
    """:class:`MultiScaleLoss` with the weights of :func:`scale_weights`, for configs."""
    return MultiScaleLoss(scale_weights(scale, alpha, beta), antialias, base)


multiscale_loss_or_exit = exits_on_mistake(multiscale_loss)
