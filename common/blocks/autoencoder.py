"""A small autoencoder whose encoder, trained on the images at hand, takes VGG's place in a perceptual loss.

Dharejo et al., "Multimodal-Boost", section 3.4 and equation 8. Written from the paper. Its text describes the encoder
and refers to figure 4 for it, which by its caption shows the generator.
"""

import torch
import torch.nn as nn

from .features import FeatureEncoder
from .swin import pad_to_multiple

WIDTHS = (32, 32, 64, 64, 128, 128)
POOLED = (2, 4)  # not in the paper: it has "a max pooling layer", we halve after these convolutions, between widths


class PerceptualEncoder(FeatureEncoder):
    """γ of equation 8: six 3 × 3 convolutions, a ReLU after each, 2 × 2 max-pools between the widths.

    Its layers are ``conv1`` … ``conv6``, before the activation, ``relu1`` … ``relu6``, after it, and ``pool1`` and
    ``pool2``. The last one, ``relu6``, is what the paper compares. It takes images ``(B, in_channels, H, W)`` of any
    size and gives ``(B, 128, ⌈H / 4⌉, ⌈W / 4⌉)``.

    Args:
        in_channels: channels of the image.
    """

    def __init__(self, in_channels: int = 1) -> None:
        layers: dict[str, nn.Module] = {}
        channels = in_channels
        for place, width in enumerate(WIDTHS, start=1):
            layers[f"conv{place}"] = nn.Conv2d(channels, width, 3, padding=1)
            layers[f"relu{place}"] = nn.ReLU()
            if place in POOLED:
                # not in the paper: the mode, with which the last row and column of odd sizes count as well
                layers[f"pool{place // 2}"] = nn.MaxPool2d(2, ceil_mode=True)
            channels = width
        super().__init__(layers)
        self.apply(_start)
        self.in_channels = in_channels

    def prepare(self, image: torch.Tensor) -> torch.Tensor:
        """The image as it is.

        Raises:
            ValueError: it has other channels than the encoder was made for.
        """
        if image.shape[1] != self.in_channels:
            raise ValueError(
                f"image: number of channels must be {self.in_channels} as the encoder's, got {image.shape[1]}; "
                "take an encoder that was trained on such images"
            )
        return image


class Autoencoder(nn.Module):
    """:class:`PerceptualEncoder` and a decoder that mirrors it, to train the encoder by what it can give back.

    Args:
        in_channels: channels of the image.
    """

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.encoder = PerceptualEncoder(in_channels)
        self.decoder = _decoder(in_channels).apply(_start)
        self.size_multiple = 4

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``(B, in_channels, H, W)`` of any size to its reconstruction of the same shape."""
        code = self.encoder(pad_to_multiple(image, self.size_multiple))
        return self.decoder(code)[..., : image.shape[2], : image.shape[3]]


def _decoder(out_channels: int) -> nn.Sequential:
    """The encoder backwards, each max-pool a repetition of pixels, no activation after the image."""
    # not in the paper: all of it; the paper says only that an image comparable to the original is reconstructed
    layers: list[nn.Module] = []
    for place in range(len(WIDTHS), 0, -1):
        if place in POOLED:
            layers.append(nn.Upsample(scale_factor=2.0))
        width = WIDTHS[place - 2] if place > 1 else out_channels
        layers += [nn.Conv2d(WIDTHS[place - 1], width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _start(layer: nn.Module) -> None:
    """He et al.'s initial weights: from PyTorch's own the signal fades over twelve layers, and learning starts late."""
    # not in the paper: it says nothing of the start
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
