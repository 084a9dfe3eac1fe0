"""The loss of the second training stage, chosen by one word.

Zhu, dissertation, section 5.2.2, equation 5.14, with the factors of section 5.3.3; equations 4.12 and 3.21 but for
their adversarial terms, which :mod:`common.adversary` has.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
import torch.nn as nn

from ..errors import exits_on_mistake
from ..frozen import load_encoder, load_unet, load_vgg
from .multiscale import LastImageLoss, last_image
from .perceptual import PerceptualLoss
from .segmentation import TERMS, segmentation_loss

VGG_LAYERS = {
    "wgan_gp_vgg": "conv2_2",  # section 4.2.3: before activation, early; which one is of the released code
    "vgg": "conv5_4",  # not in the paper: before activation, as in ESRGAN
}
CHOICES = (*TERMS, *VGG_LAYERS, "encoder", "l1")


class CombinedLoss(nn.Module):
    """L_SR = α · L1 + λ · L_U (equation 5.14), with L_U of the last image where there are several.

    Args:
        perceptual: L_U, a module of SR and HR; None for the pixels alone.
        alpha, weight: α and λ.
        pixel: ``"L1"``, or in its place ``"L2"``, or a module of SR, which may be a mapping of several images, and HR.
        beside: factor of a loss that is added elsewhere.

    Raises:
        ValueError: a factor is negative, all are 0, or another ``pixel``.
    """

    def __init__(
        self,
        perceptual: nn.Module | None,
        alpha: float = 1.0,
        weight: float = 10.0,
        pixel: str | nn.Module = "L1",
        beside: float = 0.0,
    ) -> None:
        super().__init__()
        distance = LastImageLoss(pixel) if isinstance(pixel, str) else pixel
        if alpha < 0 or weight < 0 or not (alpha or (weight and perceptual is not None) or beside):
            raise ValueError(
                f"alpha and weight: must be at least 0, and one of them above it, got {alpha} and {weight}; "
                "the paper has 1 and 10"
            )
        self.perceptual, self.alpha, self.weight = perceptual, alpha, weight
        self.pixel = distance

    def forward(self, prediction: torch.Tensor | Mapping[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """SR, or SR at several scales in rising size, and HR ``(B, C, H, W)``, to a number."""
        loss: torch.Tensor = self.alpha * self.pixel(prediction, target)
        if self.perceptual is None:
            return loss
        return loss + self.weight * self.perceptual(last_image(prediction), target)


def finetuning_loss(
    choice: str,
    in_channels: int = 1,
    unet_path: str | os.PathLike[str] | None = None,
    vgg_path: str | os.PathLike[str] | None = None,
    encoder_path: str | os.PathLike[str] | None = None,
    alpha: float = 1.0,
    weight: float = 10.0,
    device: str | torch.device = "cpu",
    pixel: str | nn.Module = "L1",
    vgg_layer: str | None = None,
    beside: float = 0.0,
) -> CombinedLoss:
    """The loss that ``choice`` names; what it looks through comes from the file of the user.

    Args:
        choice: ``E1`` to ``E5``, ``E_sum``, ``D``, ``HRL`` (see :func:`common.losses.segmentation.segmentation_loss`),
            ``vgg`` (VGG-19, L2), ``wgan_gp_vgg`` (the same of an earlier layer, which goes with a WGAN-GP), ``encoder``
            (that of Multimodal-Boost, its equation 8), or ``l1`` for the pixels alone.
        in_channels: of the images.
        unet_path: weights of the segmentation U-Net, for all but the last four.
        vgg_path: weights of VGG-19.
        encoder_path: weights of the encoder, for ``encoder``.
        alpha, weight, pixel, beside: see :class:`CombinedLoss`.
        device: of the images.
        vgg_layer: of :class:`common.blocks.vgg.VGG`; None for that of ``VGG_LAYERS``.

    Raises:
        ValueError: there is no such choice, or a file is missing or does not fit.
    """
    if choice not in CHOICES:
        raise ValueError(f"perceptual: must be one of {', '.join(CHOICES)}, got {choice}; choose one of these")
    perceptual: nn.Module | None = None
    if choice in VGG_LAYERS:
        perceptual = PerceptualLoss(load_vgg("vgg19", vgg_path), {vgg_layer or VGG_LAYERS[choice]: 1.0}, "L2")
    elif choice == "encoder":
        perceptual = PerceptualLoss(load_encoder(encoder_path, in_channels), {"relu6": 1.0}, "L2")
    elif choice != "l1":
        perceptual = segmentation_loss(load_unet(unet_path, in_channels), choice)
    return CombinedLoss(perceptual, alpha, weight, pixel, beside).to(device)


finetuning_loss_or_exit = exits_on_mistake(finetuning_loss)
