"""Distance between the features that a frozen encoder finds in two images.

Johnson et al., "Perceptual losses for real-time style transfer and super-resolution", ECCV 2016; Dharejo et al.,
"Multimodal-Boost", equations 7 and 8. Written from the papers. MONAI's loss of this name fetches its networks from the
internet and hides their layers; here encoders come from files, and layers are chosen by name.
"""

from __future__ import annotations

import math
import os
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..blocks.autoencoder import PerceptualEncoder
from ..blocks.features import FeatureEncoder
from ..blocks.vgg import VGG

# what torch.load was seen to raise on cut and altered files, of torchvision's older format as well
DAMAGED = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AssertionError, struct.error)
DISTANCES = {"L1": F.l1_loss, "L2": F.mse_loss}
FILES = {
    "vgg16": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "vgg19": "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
}


class PerceptualLoss(nn.Module):
    """Weighted sum, over layers of an encoder, of the mean distance between features of prediction and target.

    ``"L2"`` is the mean of the squared differences over batch and features. Equations 7 and 8 divide the squared
    Frobenius norm by D · H · W: that is the same mean where these are the depth, height and width of the features. The
    paper calls them those of the image, which for each size of image is a constant factor, for the weight to hold.

    The encoder is the loss's own from now on: frozen, and in evaluation mode even after ``train()``. Gradients reach
    the prediction alone. Everything is computed in float32, under autocast too: the three digits of bfloat16 would
    drown the distance of nearly equal features. Whether CUDA rounds to TF32 within is PyTorch's setting.

    Args:
        encoder: e.g. of :func:`load_vgg` or :func:`load_encoder`.
        layers: name of a layer of the encoder to the weight of its distance, above 0.
        distance: ``"L1"``, mean of the absolute differences, or ``"L2"``.

    Raises:
        ValueError: no layers, unknown ones, weights that are not positive, or another distance.
    """

    def __init__(self, encoder: FeatureEncoder, layers: Mapping[str, float], distance: str = "L1") -> None:
        super().__init__()
        if not layers:
            raise ValueError(f"layers: must name at least one layer, got {dict(layers)}; pass {{name: weight}}")
        encoder.check_names(layers.keys())
        if not all(0 < weight < math.inf for weight in layers.values()):
            raise ValueError(f"layers: weights must be positive, got {dict(layers)}; leave out layers of no weight")
        if distance not in DISTANCES:
            raise ValueError(f"distance: must be L1 or L2, got {distance}; choose one of them")
        self.encoder = encoder.requires_grad_(False).eval()
        self.layers, self.distance = dict(layers), distance

    def train(self, mode: bool = True) -> PerceptualLoss:
        """As every module's, but for the encoder, which stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Distance of two batches of images.

        Args:
            prediction, target: ``(B, C, H, W)`` in the range that the encoder takes, [0, 1] for VGG.

        Returns:
            The loss, a scalar in float32.

        Raises:
            ValueError: the shapes differ, are not of four axes, or do not suit the encoder.
        """
        if prediction.dim() != 4 or prediction.shape != target.shape:
            raise ValueError(
                f"prediction: must be (B, C, H, W) as the target, got {tuple(prediction.shape)} and "
                f"{tuple(target.shape)} of the target; bring both to one shape"
            )
        with torch.autocast(prediction.device.type, enabled=False):
            with torch.no_grad():
                goal = self.encoder.features(target.float(), self.layers.keys())
            found = self.encoder.features(prediction.float(), self.layers.keys())
            distance = DISTANCES[self.distance]
            return torch.stack([weight * distance(found[k], goal[k]) for k, weight in self.layers.items()]).sum()


def load_vgg(name: str, path: str | os.PathLike[str] | None) -> VGG:
    """VGG with the convolutions of a file; nothing is ever downloaded.

    Args:
        name: ``"vgg16"`` or ``"vgg19"``.
        path: file of torchvision's state dict, in any precision; what it holds of the classifier is passed by.

    Raises:
        ValueError: the file is missing, damaged, or of another network.
    """
    vgg = VGG(name)
    remedy = f"fetch {FILES[name]} and pass it by --vgg_path FILE"
    state = _read(
        path, f"vgg_path: must be a file with the weights of {name}, got {path}; nothing is downloaded: {remedy}"
    )
    state = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    numbered = nn.ModuleDict({"features": nn.Sequential(*vgg.layers)})  # the same layers by torchvision's keys
    _fill(numbered, state, f"{path}: must hold the weights of {name}", remedy)
    return vgg


def load_encoder(path: str | os.PathLike[str] | None, in_channels: int = 1) -> PerceptualEncoder:
    """The encoder of the Multimodal-Boost paper with weights of a file.

    Args:
        path: file of the state dict of a :class:`~common.blocks.autoencoder.PerceptualEncoder` or of an
            :class:`~common.blocks.autoencoder.Autoencoder`, plain or under ``"model"``, in any precision.
        in_channels: channels of the images it is for.

    Raises:
        ValueError: the file is missing, damaged, of another network, or of one for other channels.
    """
    encoder = PerceptualEncoder(in_channels)
    remedy = "train an Autoencoder for such images and pass its state dict by --encoder_path FILE"
    state = _read(path, f"encoder_path: must be a file with the weights of an encoder, got {path}; {remedy}")
    within = {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}
    _fill(encoder, within or state, f"{path}: must hold the weights of an encoder of in_channels {in_channels}", remedy)
    return encoder


def _read(path: str | os.PathLike[str] | None, missing: str) -> dict[str, torch.Tensor]:
    """The state dict in a file, plain or under ``"model"``; ``missing`` is the complaint where there is no file."""
    if not path or not Path(path).is_file():
        raise ValueError(missing)
    advice = "must be a PyTorch state dict of nothing but tensors, and whole; copy or fetch the file again"
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        raise ValueError(f"{path}: {advice}") from error  # PyTorch's own text advises to load the file unsafely
    state = state.get("model", state) if isinstance(state, dict) else state
    tensors = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not tensors or not all(isinstance(key, str) for key in state):
        raise ValueError(f"{path}: {advice}")
    return state


def _fill(network: nn.Module, state: Mapping[str, torch.Tensor], demand: str, remedy: str) -> None:
    """Load weights that fit to the last key, widened to float32; otherwise name the first that does not."""
    own = network.state_dict()
    for key in {**own, **state}:
        if key not in state:
            raise ValueError(f"{demand}, got nothing under {key}; {remedy}")
        if key not in own:
            raise ValueError(f"{demand}, got {key} besides; {remedy}")
        if own[key].shape != state[key].shape:
            shapes = f"{tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            raise ValueError(f"{demand}, got {key} of shape {shapes}; {remedy}")
    network.load_state_dict(state)
