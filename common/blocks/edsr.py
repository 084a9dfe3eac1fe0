"""Trunk of EDSR: an image to feature maps of its size, by residual blocks without normalisation.

Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution", CVPR workshops 2017, figures 2 and 3;
Zhu, dissertation, equations 4.5 and 4.6. Written from the papers.
"""

import torch
import torch.nn as nn


class EnhancedResidualBlock(nn.Module):
    """Convolution, leaky ReLU, convolution, added to the input (equation 4.5); ``(B, width, H, W)`` in and out.

    Args:
        width: channels w.
        residual_scale: factor α on what is added.
        negative_slope: of the leaky ReLU; 0 is ReLU.
    """

    def __init__(self, width: int, residual_scale: float, negative_slope: float) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(negative_slope, inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.add(x, self.body(x), alpha=self.residual_scale)


class EDSRTrunk(nn.Module):
    """``(B, in_channels, H, W)`` to ``(B, width, H, W)`` (equation 4.6); the defaults are EDSR-lite of section 4.2.1.

    Args:
        in_channels: of the image.
        width: channels of the feature maps; 256 in EDSR.
        blocks: residual blocks b; 32 in EDSR.
        residual_scale: factor α on each block's addition; 0.1 in EDSR.
        negative_slope: of the leaky ReLU in the blocks, not negative; 0, which is ReLU, in EDSR.
    """

    def __init__(
        self,
        in_channels: int = 1,
        width: int = 64,
        blocks: int = 16,
        residual_scale: float = 1.0,
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, width
        self.head = nn.Conv2d(in_channels, width, 3, padding=1)
        self.blocks = nn.Sequential(
            *[EnhancedResidualBlock(width, residual_scale, negative_slope) for _ in range(blocks)]
        )
        self.end = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Features of ``image``."""
        shallow = self.head(image)
        return shallow + self.end(self.blocks(shallow))
