"""Perceptual loss through a frozen segmentation U-Net.

Zhu, dissertation, section 5.2.2, equations 5.10 to 5.14. Its published code takes the mean squared error where it says
L1, and the reverse; it neither freezes the U-Net nor takes it out of training mode, so that batch normalisation sees
SR and HR apart. Here each term is what its equation says, and the U-Net never changes.
"""

from __future__ import annotations

import torch
import torch.nn as nn
from monai.losses import DiceLoss

from ..blocks.unet import SegmentationUNet
from .perceptual import FrozenLoss, PerceptualLoss

LEVELS = ("E1", "E2", "E3", "E4", "E5")
TERMS = (*LEVELS, "E_sum", "D", "HRL")


class LabelLoss(FrozenLoss):
    """L_HRL (equation 5.12): 1 − soft Dice between what the U-Net predicts on SR and on HR, over all classes but 0.

    Of squared probabilities, so that it is 0 where both are the same, and over the whole batch, since few classes are
    in every patch. # not in the paper: it takes Dice of binary labels, which has no gradient
    """

    def __init__(self, unet: SegmentationUNet) -> None:
        super().__init__(unet)
        self.dice = DiceLoss(include_background=False, squared_pred=True, batch=True)

    def look(self, image: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.encoder(image).softmax(1))

    def distance_of(self, seen: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.dice(seen, goal))


def segmentation_loss(unet: SegmentationUNet, term: str) -> nn.Module:
    """L_U, one of its variants, as a module of SR and HR ``(B, C, H, W)``.

    Args:
        unet: trained; it is frozen here.
        term: ``E1`` to ``E5``, the L1 distance of the features of an encoder level (equation 5.10); ``E_sum``, the sum
            over the levels; ``D``, that of the decoder's output (5.11); ``HRL``, of the predicted labels (5.12).

    Raises:
        ValueError: there is no such term.
    """
    if term not in TERMS:
        raise ValueError(f"term: must be one of {', '.join(TERMS)}, got {term}; choose one of these")
    if term == "HRL":
        return LabelLoss(unet)
    levels = LEVELS if term == "E_sum" else (term,)
    return PerceptualLoss(unet, dict.fromkeys(levels, 1.0), "L1")
