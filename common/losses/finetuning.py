"""The loss of the second training stage, chosen by one word.

Zhu, dissertation, section 5.2.2, equation 5.14, with the factors of section 5.3.3.
"""

from __future__ import annotations

import os

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..errors import exits_on_mistake
from ..frozen import load_encoder, load_unet, load_vgg
from .perceptual import PerceptualLoss
from .segmentation import TERMS, segmentation_loss

VGG_LAYER = "conv5_4"  # not in the paper: before activation, as in ESRGAN
CHOICES = (*TERMS, "vgg", "encoder", "l1")


class CombinedLoss(nn.Module):
    """L_SR = α · L1 + λ · L_U (equation 5.14).

    Args:
        perceptual: L_U, a module of SR and HR; None for L1 alone.
        alpha, weight: α and λ.

    Raises:
        ValueError: a factor is negative, or both are 0.
    """

    def __init__(self, perceptual: nn.Module | None, alpha: float = 1.0, weight: float = 10.0) -> None:
        super().__init__()
        if alpha < 0 or weight < 0 or not (alpha or (weight and perceptual is not None)):
            raise ValueError(
                f"alpha and weight: must be at least 0, and one of them above it, got {alpha} and {weight}; "
                "the paper has 1 and 10"
            )
        self.perceptual, self.alpha, self.weight = perceptual, alpha, weight

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """SR and HR ``(B, C, H, W)`` to a number."""
        loss = self.alpha * F.l1_loss(prediction, target)
        return loss if self.perceptual is None else loss + self.weight * self.perceptual(prediction, target)


def finetuning_loss(
    choice: str,
    in_channels: int = 1,
    unet_path: str | os.PathLike[str] | None = None,
    vgg_path: str | os.PathLike[str] | None = None,
    encoder_path: str | os.PathLike[str] | None = None,
    alpha: float = 1.0,
    weight: float = 10.0,
    device: str | torch.device = "cpu",
) -> CombinedLoss:
    """The loss that ``choice`` names; what it looks through comes from the file of the user.

    Args:
        choice: ``E1`` to ``E5``, ``E_sum``, ``D``, ``HRL`` (see :func:`common.losses.segmentation.segmentation_loss`),
            ``vgg`` (VGG-19, L2), ``encoder`` (that of Multimodal-Boost, its equation 8), or ``l1`` for L1 alone.
        in_channels: of the images.
        unet_path: weights of the segmentation U-Net, for all but the last three.
        vgg_path: weights of VGG-19, for ``vgg``.
        encoder_path: weights of the encoder, for ``encoder``.
        alpha, weight: see :class:`CombinedLoss`.
        device: of the images.

    Raises:
        ValueError: there is no such choice, or a file is missing or does not fit.
    """
    if choice not in CHOICES:
        raise ValueError(f"perceptual: must be one of {', '.join(CHOICES)}, got {choice}; choose one of these")
    perceptual: nn.Module | None = None
    if choice == "vgg":
        perceptual = PerceptualLoss(load_vgg("vgg19", vgg_path), {VGG_LAYER: 1.0}, "L2")
    elif choice == "encoder":
        perceptual = PerceptualLoss(load_encoder(encoder_path, in_channels), {"relu6": 1.0}, "L2")
    elif choice != "l1":
        perceptual = segmentation_loss(load_unet(unet_path, in_channels), choice)
    return CombinedLoss(perceptual, alpha, weight).to(device)


finetuning_loss_or_exit = exits_on_mistake(finetuning_loss)
