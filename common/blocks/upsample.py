"""Sub-pixel upsampler shared by the fixed-scale networks.

Shi et al., CVPR 2016 (sub-pixel convolution); Zhu, dissertation, equation 5.4. Written from the papers.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.blocks import SubpixelUpsample


def subpixel_upsampler(channels: int, out_channels: int, scale: int) -> nn.Sequential:
    """Feature maps ``(B, channels, H, W)`` to an image ``(B, out_channels, scale · H, scale · W)``.

    A 3 × 3 convolution and pixel shuffle for each factor 2 of ``scale`` (one of factor 3 for ``scale`` 3), then a
    3 × 3 convolution to the image. ``scale`` 1 is that last convolution alone.

    Raises:
        ValueError: ``scale`` is neither 3 nor a power of two.
    """
    if scale == 3:
        factors = [3]
    elif scale >= 1 and scale & (scale - 1) == 0:
        factors = [2] * (scale.bit_length() - 1)
    else:
        raise ValueError(f"scale: must be 3 or a power of two, got {scale}; choose 2, 3 or 4")
    stages = [SubpixelUpsample(2, channels, channels, factor, apply_pad_pool=False) for factor in factors]
    return nn.Sequential(*stages, nn.Conv2d(channels, out_channels, 3, padding=1))


class Bicubic(nn.Module):
    """The baseline of every table: bicubic magnification (a = -0.5), edges shared; nothing to train.

    Args:
        scale: magnification.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.size_multiple = 1

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` to ``(B, C, scale · H, scale · W)``."""
        size = [image.shape[2] * self.scale, image.shape[3] * self.scale]
        return F.interpolate(image, size=size, mode="bicubic", antialias=True)
