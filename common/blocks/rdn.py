"""Trunk of RDN: an image to feature maps of its size, by residual dense blocks whose outputs are all fused.

Zhang et al., "Residual Dense Network for Image Super-Resolution", CVPR 2018, figures 2 and 3. Written from
the paper.
"""

import torch
import torch.nn as nn


class ResidualDenseBlock(nn.Module):
    """Convolutions that each see all before them, a 1 × 1 fusion, a residual; ``(B, width, H, W)`` in and out.

    Args:
        width: channels G₀ in and out.
        layers: convolutions C.
        growth: channels G that each adds.
    """

    def __init__(self, width: int, layers: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv2d(width + number * growth, growth, 3, padding=1) for number in range(layers)]
        )
        self.fusion = nn.Conv2d(width + layers * growth, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dense = x
        for layer in self.layers:
            dense = torch.cat([dense, torch.relu(layer(dense))], 1)
        return x + self.fusion(dense)


class RDNTrunk(nn.Module):
    """``(B, in_channels, H, W)`` to ``(B, width, H, W)``.

    Args:
        in_channels: of the image.
        width: channels G₀ of the feature maps.
        blocks: residual dense blocks D.
        layers: convolutions C in a block.
        growth: channels G that each of them adds.
    """

    def __init__(
        self, in_channels: int = 1, width: int = 64, blocks: int = 20, layers: int = 6, growth: int = 32
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, width
        self.head = nn.Conv2d(in_channels, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.blocks = nn.ModuleList([ResidualDenseBlock(width, layers, growth) for _ in range(blocks)])
        self.fusion = nn.Conv2d(blocks * width, width, 1)
        self.end = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Features of ``image``."""
        shallow = self.head(image)
        x = self.second(shallow)
        outputs: list[torch.Tensor] = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return shallow + self.end(self.fusion(torch.cat(outputs, 1)))
