"""Lesion detector: where the centre of the region of interest lies, from one image of any size.

Zhu, dissertation, section 3.2.2 with figure 3.2, and section 3.3.3: a resizing layer, five levels of two residual
blocks (equation 3.3) and a max pooling, three fully connected layers. Written from the paper.
"""

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F


class ResidualBlock(nn.Module):
    """``(B, width, H, W)`` of ``(B, in_channels, H, W)``: two 3 × 3 convolutions, added to what came in (equation 3.3).

    Normalisation and ReLU follow each convolution. Where the width changes, what came in passes a 1 × 1 convolution.
    # not in the paper: how a block gets wider
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (in_channels, width):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        same = in_channels == width
        self.shortcut: nn.Module = nn.Identity() if same else nn.Conv2d(in_channels, width, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.layers(x)


class LesionDetector(nn.Module):
    """Images ``(B, in_channels, H, W)`` to the centres ``(B, 2)`` of their regions, row and column, float32.

    A centre is a part of the side of the image: 0 and 1 are its edges, pixel ``i`` of ``n`` lies at ``(i + 0.5) / n``.
    So it is the same for HR and LR. It may lie outside, and whoever uses it must say so.

    Args:
        in_channels: of the image.
        size: that the head resizes all images to, multiples of 2 for each of ``widths``. # not in the paper
        widths: channels of each level; the paper's are the defaults.
        hidden: nodes of the fully connected layers before the last, which has 2.

    Raises:
        ValueError: ``size`` is not two such multiples.
    """

    def __init__(
        self,
        in_channels: int = 1,
        size: Sequence[int] = (128, 128),
        widths: Sequence[int] = (32, 64, 128, 128, 128),
        hidden: Sequence[int] = (1024, 128),
    ) -> None:
        super().__init__()
        multiple = 2 ** len(widths)
        if len(size) != 2 or any(n < multiple or n % multiple for n in size):
            raise ValueError(f"size: must be two multiples of {multiple}, got {list(size)}; the default is 128 and 128")
        self.in_channels, self.size = in_channels, [int(n) for n in size]
        self.register_buffer("input_size", torch.tensor(self.size))  # so that a file of weights tells it
        levels = [
            nn.Sequential(ResidualBlock(before, width), ResidualBlock(width, width), nn.MaxPool2d(2))
            for before, width in zip((in_channels, *widths), widths, strict=False)
        ]
        self.body = nn.Sequential(*levels)
        tail: list[nn.Module] = [nn.Flatten()]
        nodes = widths[-1] * (self.size[0] // multiple) * (self.size[1] // multiple)
        for number in hidden:
            tail += [nn.Linear(nodes, number), nn.ReLU()]
            nodes = number
        self.tail = nn.Sequential(*tail, nn.Linear(nodes, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # not in the paper: how the head resizes. Antialiased, so that HR and LR look alike to what follows
        x = F.interpolate(x, self.size, mode="bilinear", antialias=True)
        # not in the paper: the tail gives the way from the middle of the image, of which bfloat16 keeps more digits
        return 0.5 + self.tail(self.body(x)).float()
