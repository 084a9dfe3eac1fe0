"""SRResNet: residual blocks with batch normalisation and a sub-pixel upsampler, the baseline and rival of MS-GAN.

Zhu, dissertation, section 3.2.1: equations 3.2 to 3.5, figure 3.1, settings of section 3.3.3; Ledig et al.,
"Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network" (SRGAN), CVPR 2017, figure 4.
Written from the papers.
"""

import torch
import torch.nn as nn

from common.blocks.resnet import ResNetTrunk
from common.blocks.upsample import start_as_interpolation, subpixel_upsampler


class SRResNet(nn.Module):
    """``(B, C, H, W)`` to ``(B, C, scale · H, scale · W)``, any H and W.

    Parameters at ×4 with one channel, by hand: 640 at the head, 16 · 74,112 in the blocks (two convolutions of 36,928,
    two normalisations of 128), 37,056 at the end of the trunk, 2 · 147,712 in the upsampler and 577 to the image:
    1,519,489. The generator of SRGAN, for RGB, has 1,549,462: 9 × 9 kernels from the image (15,616) and to it (15,555),
    and 19 slopes of PReLU: one a block, one at the head, two in the upsampler. ``"prelu"`` has 32 here, two a block.

    Args:
        in_channels: image channels, in and out.
        scale: magnification: 2, 3, 4 or 8.
        blocks: residual blocks.
        width: channels of the feature maps, at least ``in_channels``.
        activation: ``"relu"``, that of the chapter, or ``"prelu"``, that of SRGAN.

    Raises:
        ValueError: the scale cannot be made, ``width`` is below ``in_channels``, or there is no such activation.
    """

    def __init__(
        self, in_channels: int = 1, scale: int = 4, blocks: int = 16, width: int = 64, activation: str = "relu"
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.scale = scale
        self.size_multiple = 1
        self.trunk = ResNetTrunk(in_channels, width, blocks, activation)
        self.upsampler = subpixel_upsampler(width, in_channels, scale)
        # not in the paper: the network starts as linear interpolation
        start_as_interpolation(self.trunk.head, self.trunk.norm, self.upsampler)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Super-resolve ``(B, C, H, W)``."""
        return self.upsampler(self.trunk(image))
