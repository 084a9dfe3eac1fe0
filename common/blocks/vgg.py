"""The convolutions of VGG-16 and VGG-19, layer by layer, without the classifier.

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015, table 1,
configurations D and E. Written from the paper; means and deviations are those that torchvision's weights ask for.
"""

import torch
import torch.nn as nn

from .features import FeatureEncoder

CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}  # of each stage
WIDTHS = (64, 128, 256, 512, 512)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue


class VGG(FeatureEncoder):
    """Features of VGG; :func:`common.losses.perceptual.load_vgg` fills it with weights.

    Its layers are ``conv1_1`` … ``conv5_3`` (``conv5_4`` of VGG-19), before the activation, ``relu1_1`` …, after it,
    and ``pool1`` … ``pool5``. A layer of stage s needs images of at least 2^(s - 1) pixels a side, ``pool`` s of 2^s.

    Images are ``(B, C, H, W)``, nominally in [0, 1]. Three channels are red, green and blue; one is repeated to three;
    of any other number each channel is a grey image of its own, and the features are ``(B · C, …)``.

    Args:
        name: ``"vgg16"`` or ``"vgg19"``.

    Raises:
        ValueError: another name.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, name: str) -> None:
        if name not in CONVOLUTIONS:
            raise ValueError(f"name: must be a VGG with known layers, got {name}; choose vgg16 or vgg19")
        super().__init__(_layers(CONVOLUTIONS[name]))
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(3, 1, 1), persistent=False)

    def prepare(self, image: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` in [0, 1] to normalised red, green and blue, ``(B, 3, H, W)`` or ``(B · C, 3, H, W)``."""
        if image.shape[1] != 3:
            image = image.reshape(-1, 1, image.shape[2], image.shape[3]).expand(-1, 3, -1, -1)
        return (image - self.mean) / self.deviation


def _layers(convolutions: tuple[int, ...]) -> dict[str, nn.Module]:
    """Name to layer. In torchvision's order, which makes the place of a layer its number there."""
    layers: dict[str, nn.Module] = {}
    channels = 3
    for stage, (count, width) in enumerate(zip(convolutions, WIDTHS, strict=True), start=1):
        for place in range(1, count + 1):
            layers[f"conv{stage}_{place}"] = nn.Conv2d(channels, width, 3, padding=1)
            layers[f"relu{stage}_{place}"] = nn.ReLU()
            channels = width
        layers[f"pool{stage}"] = nn.MaxPool2d(2)
    return layers
