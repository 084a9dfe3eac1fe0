"""__name__: say here what the network is for.

Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution", CVPR workshops 2017, figure 3. Written
from the paper. A small network that works, to be replaced: name your paper with its equations and figures.
"""

import torch
import torch.nn as nn

from common.blocks.upsample import start_as_interpolation, subpixel_upsampler


class ResidualBlock(nn.Module):
    """Convolution, ReLU, convolution, added to the input; ``(B, width, H, W)`` in and out.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class ResidualNetwork(nn.Module):
    """Residual blocks and a sub-pixel upsampler; ``(B, C, H, W)`` to ``(B, C, scale · H, scale · W)``, any H and W.

    Args:
        in_channels: image channels, in and out.
        scale: magnification: 2, 3 or 4.
        blocks: residual blocks.
        width: channels of the feature maps, at least ``in_channels``.

    Raises:
        ValueError: the scale cannot be made, or ``width`` is below ``in_channels``.
    """

    def __init__(self, in_channels: int = 1, scale: int = 4, blocks: int = 8, width: int = 32) -> None:
        super().__init__()
        if width < in_channels:
            raise ValueError(f"width: must be at least in_channels, got {width} and {in_channels}; choose 32")
        self.in_channels = in_channels
        self.scale = scale
        self.size_multiple = 1  # a network that needs a multiple pads to it and crops again
        self.head = nn.Conv2d(in_channels, width, 3, padding=1)
        self.body = nn.Sequential(*[ResidualBlock(width) for _ in range(blocks)])
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.upsampler = subpixel_upsampler(width, in_channels, scale)
        # not in the paper: the network starts as linear interpolation
        start_as_interpolation(self.head, self.conv, self.upsampler)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Super-resolve ``(B, C, H, W)``."""
        shallow = self.head(image)
        return self.upsampler(shallow + self.conv(self.body(shallow)))
