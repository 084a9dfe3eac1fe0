"""Trunk of SRResNet: an image to feature maps of its size, by residual blocks with batch normalisation.

Zhu, dissertation, section 3.2.1, equations 3.3 and 3.4, figure 3.1; Ledig et al., "Photo-Realistic Single Image
Super-Resolution Using a Generative Adversarial Network" (SRGAN), CVPR 2017, figure 4. Written from the papers.
"""

import torch
import torch.nn as nn


def activation_layer(name: str) -> nn.Module:
    """The activation φ: ``"relu"``, that of the chapter, or ``"prelu"``, that of SRGAN, with one slope a layer.

    Raises:
        ValueError: neither of them.
    """
    if name not in ("relu", "prelu"):
        raise ValueError(f"activation: must be relu or prelu, got {name}; the chapter has relu, SRGAN prelu")
    return nn.ReLU() if name == "relu" else nn.PReLU()


class NormalisedResidualBlock(nn.Module):
    """Twice convolution, batch normalisation, activation, added to the input; ``(B, width, H, W)`` in and out.

    The order is that of equation 3.3; the legend of figure 3.1 names the activation before the normalisation, and SRGAN
    has no second activation.

    Args:
        width: channels.
        activation: see :func:`activation_layer`.
    """

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            activation_layer(activation),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            activation_layer(activation),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class ResNetTrunk(nn.Module):
    """``(B, in_channels, H, W)`` to ``(B, width, H, W)`` (equation 3.4); the defaults are those of section 3.3.3.

    not in the equations: the convolution at the head, and the convolution and normalisation whose result is added to
    that of the head; both are SRGAN's, but for kernels of 3 × 3, and no activation at the head, so that an image with
    values below 0 passes.

    Args:
        in_channels: of the image, or of the features that take its place.
        width: channels of the feature maps, at least ``in_channels``.
        blocks: residual blocks n.
        activation: see :func:`activation_layer`.

    Raises:
        ValueError: ``width`` is below ``in_channels``, or there is no such activation.
    """

    def __init__(self, in_channels: int = 1, width: int = 64, blocks: int = 16, activation: str = "relu") -> None:
        super().__init__()
        if width < in_channels:
            raise ValueError(f"width: must be at least in_channels, {in_channels}, got {width}; choose 64")
        self.in_channels, self.out_channels = in_channels, width
        self.head = nn.Conv2d(in_channels, width, 3, padding=1)
        self.blocks = nn.Sequential(*[NormalisedResidualBlock(width, activation) for _ in range(blocks)])
        self.end = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Features of ``image``."""
        shallow = self.head(image)
        return shallow + self.norm(self.end(self.blocks(shallow)))
