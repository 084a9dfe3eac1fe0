"""Distance between the features that a frozen encoder finds in two images.

Johnson et al., "Perceptual losses for real-time style transfer and super-resolution", ECCV 2016; Dharejo et al.,
"Multimodal-Boost", equations 7 and 8. Written from the papers. MONAI's loss of this name fetches its networks from the
internet and hides their layers; here encoders come from files, and layers are chosen by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..blocks.features import FeatureEncoder, check_names
from ..blocks.unet import SegmentationUNet
from ..frozen import freeze

DISTANCES = {"L1": F.l1_loss, "L2": F.mse_loss}


class FrozenLoss(nn.Module):
    """A distance of two batches of images as a frozen network sees them; subclasses say what it sees, how far apart.

    The network is the loss's own from now on: frozen, and in evaluation mode even after ``train()``. Gradients reach
    the prediction alone. Everything is computed in float32, under autocast too: the three digits of bfloat16 would
    drown the distance of nearly equal features. Whether CUDA rounds to TF32 within is PyTorch's setting.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder: Any = freeze(encoder)

    def train(self, mode: bool = True) -> FrozenLoss:
        """As every module's, but for the network, which stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def look(self, image: torch.Tensor) -> Any:
        """What the network sees in ``(B, C, H, W)``."""
        raise NotImplementedError

    def distance_of(self, seen: Any, goal: Any) -> torch.Tensor:
        """A number out of two results of :meth:`look`."""
        raise NotImplementedError

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Distance of two batches of images.

        Args:
            prediction, target: ``(B, C, H, W)`` in the range that the network takes, [0, 1] for VGG.

        Returns:
            The loss, a scalar in float32.

        Raises:
            ValueError: the shapes differ, are not of four axes, or do not suit the network.
        """
        if prediction.dim() != 4 or prediction.shape != target.shape:
            raise ValueError(
                f"prediction: must be (B, C, H, W) as the target, got {tuple(prediction.shape)} and "
                f"{tuple(target.shape)} of the target; bring both to one shape"
            )
        with torch.autocast(prediction.device.type, enabled=False):
            with torch.no_grad():
                goal = self.look(target.float())
            return self.distance_of(self.look(prediction.float()), goal)


class PerceptualLoss(FrozenLoss):
    """Weighted sum, over layers of an encoder, of the mean distance between features of prediction and target.

    ``"L2"`` is the mean of the squared differences over batch and features. Equations 7 and 8 divide the squared
    Frobenius norm by D · H · W: that is the same mean where these are the depth, height and width of the features. The
    paper calls them those of the image, which for each size of image is a constant factor, for the weight to hold.

    Args:
        encoder: of ``load_vgg``, ``load_encoder`` or ``load_unet`` of :mod:`common.frozen`.
        layers: name of a layer of the encoder to the weight of its distance, above 0.
        distance: ``"L1"``, mean of the absolute differences, or ``"L2"``.

    Raises:
        ValueError: no layers, unknown ones, weights that are not positive, or another distance.
    """

    def __init__(
        self, encoder: FeatureEncoder | SegmentationUNet, layers: Mapping[str, float], distance: str = "L1"
    ) -> None:
        super().__init__(encoder)
        if not layers:
            raise ValueError(f"layers: must name at least one layer, got {dict(layers)}; pass {{name: weight}}")
        check_names(encoder.layer_names(), layers)
        if not all(0 < weight < math.inf for weight in layers.values()):
            raise ValueError(f"layers: weights must be positive, got {dict(layers)}; leave out layers of no weight")
        if distance not in DISTANCES:
            raise ValueError(f"distance: must be L1 or L2, got {distance}; choose one of them")
        self.layers, self.distance = dict(layers), distance

    def look(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = self.encoder.features(image, list(self.layers))
        return found

    def distance_of(self, seen: dict[str, torch.Tensor], goal: dict[str, torch.Tensor]) -> torch.Tensor:
        distance = DISTANCES[self.distance]
        return torch.stack([weight * distance(seen[k], goal[k]) for k, weight in self.layers.items()]).sum()
