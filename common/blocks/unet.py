"""Segmentation U-Net whose features the segmentation-based perceptual loss and the evaluation look at.

Zhu, dissertation, section 5.2.2 with figure 5.2, and section 5.3.3: five levels of ResNet encoder blocks, 64 channels
first, a decoder of plain convolutions, skip connections. Built of MONAI's ResNet and the decoder of its FlexibleUNet,
which knows no other widths.
"""

from collections.abc import Sequence

import torch
import torch.nn as nn
from monai.networks.nets.flexible_unet import SegmentationHead, UNetDecoder
from monai.networks.nets.resnet import ResNet

from .swin import pad_to_multiple

NAMES = ["E1", "E2", "E3", "E4", "E5", "D", "logits"]  # in the order in which they are computed


class SegmentationUNet(nn.Module):
    """Images ``(B, in_channels, H, W)`` to logits ``(B, classes, H, W)``, at any size.

    The encoder is that of a ResNet-34: E1 is its stem (convolution of 7 with stride 2, normalisation, ReLU), E2 to E5
    are its four stages, 1/4 to 1/32 of the size. Images are continued at the edge to a multiple of 32, and the logits
    cut back.

    Args:
        in_channels: of the image.
        classes: of the output, the background among them.
        width: channels of E1 and E2; E3, E4, E5 have 2, 4, 8 times as many. The paper has 64.
        blocks: residual blocks in E2 to E5.

    Raises:
        ValueError: ``classes`` is below 2, or ``width`` is no positive multiple of 4.
    """

    def __init__(
        self, in_channels: int = 1, classes: int = 4, width: int = 64, blocks: Sequence[int] = (3, 4, 6, 3)
    ) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes: must be at least 2, the background among them, got {classes}; add one")
        if width < 4 or width % 4:
            raise ValueError(f"width: must be a positive multiple of 4, got {width}; the paper has 64")
        self.in_channels, self.classes, self.names = in_channels, classes, NAMES
        self.size_multiple = 32
        widths = [width, 2 * width, 4 * width, 8 * width]
        resnet = ResNet(
            "basic", list(blocks), widths, 2, in_channels, conv1_t_size=7, conv1_t_stride=2, feed_forward=False
        )
        stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.act)
        first = nn.Sequential(resnet.maxpool, resnet.layer1)
        self.encoder = nn.ModuleList([stem, first, resnet.layer2, resnet.layer3, resnet.layer4])
        self.decoder = UNetDecoder(
            spatial_dims=2,
            encoder_channels=[in_channels, width, *widths],
            decoder_channels=[4 * width, 2 * width, width, width // 2, width // 4],
            act=("relu", {"inplace": True}),
            norm="batch",
            dropout=0.0,
            bias=False,
            upsample="nontrainable",
            pre_conv="default",
            interp_mode="nearest",
            align_corners=None,
            is_pad=False,
        )
        self.head = SegmentationHead(2, width // 4, classes)

    @torch.jit.export
    def layer_names(self) -> list[str]:
        """Names of all features, in the order in which they are computed."""
        return self.names

    @torch.jit.export
    def features(self, x: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
        """What the network makes of ``x``; nothing behind the last of ``names`` is computed.

        Args:
            x: ``(B, in_channels, H, W)``.
            names: among ``E1`` to ``E5``, ``D`` (output of the decoder) and ``logits``.

        Returns:
            A tensor a name, of ``(B, C, H / 2, W / 2)`` for E1 down to ``(B, C, H / 32, W / 32)`` for E5, rounded up,
            and ``(B, C, H, W)`` for the others; what covers padding alone is cut off.
        """
        last = max([self.names.index(name) for name in names])
        height, width = x.shape[2], x.shape[3]
        level = pad_to_multiple(x, self.size_multiple)
        encoded = [level]
        for number, stage in enumerate(self.encoder):
            if number <= last:
                level = stage(level)
                encoded.append(level)
        found: dict[str, torch.Tensor] = {}
        high, wide = height, width
        for number, level in enumerate(encoded):
            found[f"E{number}"] = level[:, :, :high, :wide]
            high, wide = (high + 1) // 2, (wide + 1) // 2
        if last >= len(self.encoder):
            decoded = self.decoder(encoded)
            found["D"] = decoded[:, :, :height, :width]
            found["logits"] = self.head(decoded)[:, :, :height, :width]
        return {name: found[name] for name in names}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x, ["logits"])["logits"]
