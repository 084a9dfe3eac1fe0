"""Critics: networks that judge how real an image is, one number an image, without a sigmoid.

Zhu, dissertation, sections 4.3.3 and 3.2.4, figure 3.4. Written from the paper.
"""

from collections.abc import Sequence

import torch
import torch.nn as nn

WIDTHS = (64, 64, 128, 128, 256, 256, 512, 512)


class Critic(nn.Module):
    """3 × 3 convolutions of stride 1 and 2 in turn, and two fully connected layers, with leaky ReLU between.

    Section 4.3.3 prints seven blocks that halve the image, which cannot be with 96 pixels; four halvings, without
    biases, are those of SRGAN and of the released code: 23,558,721 parameters for one channel and patches of 81 to 96.

    Args:
        in_channels: of the images.
        patch_size: their side, or height and width. All sizes that are halved to the same number of pixels serve: a
            critic for 96 takes 81 to 96, since the patches of networks of any scale vary.
        widths: channels of each convolution.
        hidden: units of the first fully connected layer.
        slope: of the leaky ReLU.
        batch_norm: normalise the batch after each convolution, as the released code does for all but WGAN-GP; always
            by the batch itself, as in training.

    Raises:
        ValueError: ``patch_size`` is below 1.
    """

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int | Sequence[int] = 96,
        widths: Sequence[int] = WIDTHS,
        hidden: int = 1024,
        slope: float = 0.2,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        height, width = (patch_size, patch_size) if isinstance(patch_size, int) else tuple(patch_size)
        if min(height, width) < 1:
            raise ValueError(f"patch_size: must be at least 1, got {patch_size}; pass that of the training patches")
        self.multiple = 2 ** (len(widths) // 2)
        self.cells = (-(-height // self.multiple), -(-width // self.multiple))
        layers: list[nn.Module] = []
        for place, channels in enumerate(widths):
            before = widths[place - 1] if place else in_channels
            layers.append(nn.Conv2d(before, channels, 3, stride=1 + place % 2, padding=1, bias=False))
            if batch_norm:
                layers.append(nn.BatchNorm2d(channels, track_running_stats=False))
            layers.append(nn.LeakyReLU(slope))
        self.features = nn.Sequential(*layers)
        pixels = self.cells[0] * self.cells[1]
        self.judge = nn.Sequential(nn.Linear(widths[-1] * pixels, hidden), nn.LeakyReLU(slope), nn.Linear(hidden, 1))
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_uniform_(layer.weight, a=slope)  # section 4.4.4; the gain is not in the paper

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``(B, in_channels, H, W)`` to ``(B, 1)``; raises ``ValueError`` where the image is not of ``patch_size``."""
        height, width, multiple = image.shape[2], image.shape[3], self.multiple
        rows, columns = (height + multiple - 1) // multiple, (width + multiple - 1) // multiple
        if rows != self.cells[0] or columns != self.cells[1]:
            tall, wide, rest = self.cells[0] * multiple, self.cells[1] * multiple, multiple - 1
            raise ValueError(
                f"critic: an image must have {tall - rest} to {tall} x {wide - rest} to {wide} pixels, got {height} x "
                f"{width}; give the critic the generator's patch_size, for several scales a multiple of {multiple}"
            )
        return self.judge(self.features(image).flatten(1))


class DualConvCritic(Critic):
    """Figure 3.4: four blocks of two convolutions; the first keeps the size, the second halves it at twice the width.

    The figure's flag in [0, 1] needs a sigmoid, the text has a Wasserstein distance: there is none.

    Args:
        in_channels, patch_size, hidden, slope: see :class:`Critic`.
        width: channels of the first convolution. # not in the paper: 64, nor the other sizes
    """

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int | Sequence[int] = 96,
        width: int = 64,
        hidden: int = 1024,
        slope: float = 0.2,
    ) -> None:
        widths = [width * 2 ** ((place + 1) // 2) for place in range(8)]
        super().__init__(in_channels, patch_size, widths, hidden, slope)
