"""Networks that losses and evaluation look through: frozen, from files that the user names, never random."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn as nn

from .blocks.autoencoder import PerceptualEncoder
from .blocks.detector import LesionDetector
from .blocks.unet import SegmentationUNet
from .blocks.vgg import VGG
from .errors import exits_on_mistake
from .io.archive import sha256
from .weights import read_state

logger = logging.getLogger("common.frozen")
FILES = {
    "vgg16": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "vgg19": "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
}
REMEDY = "pass --unet_path FILE: weights that bundles/segmentation_unet trained, on these or on other images"
BLOCK = re.compile(r"encoder\.(?:1\.1|[2-4])\.(\d+)\.conv1\.weight")
LEVEL = re.compile(r"body\.\d\.0\.layers\.0\.weight")
LAYER = re.compile(r"tail\.\d+\.weight")

N = TypeVar("N", bound=nn.Module)


def freeze(network: N) -> N:
    """``network`` in eval mode, none of its parameters learning."""
    return network.eval().requires_grad_(False)


def load_unet(
    path: str | os.PathLike[str] | None, in_channels: int | None = None, classes: int | None = None
) -> SegmentationUNet:
    """A frozen :class:`SegmentationUNet` with the weights in a file, which also tell its channels, classes and width.

    Args:
        path: file of its state dict, in single or half precision.
        in_channels: that it must take; None for any number.
        classes: that it must know, the background among them; None for any number.

    Raises:
        ValueError: no file, one of another network, or other channels or classes than asked for.
    """
    state = read_named(path, f"unet_path: must be the file of a trained segmentation U-Net, got {path}; {REMEDY}")
    demand = f"{path}: must hold the weights of a segmentation U-Net"
    first, last = state.get("encoder.0.0.weight"), state.get("head.0.weight")
    if first is None or last is None or first.dim() != 4 or len(first) % 4:
        raise ValueError(f"{demand}, got {next(iter(state), 'nothing')} first; {REMEDY}")
    unet = SegmentationUNet(first.shape[1], max(len(last), 2), len(first), _count_blocks(state))
    fill(unet, state, demand, REMEDY)
    for name, asked in (("in_channels", in_channels), ("classes", classes)):
        if asked is not None and getattr(unet, name) != asked:
            raise ValueError(f"{path}: the U-Net must have {name} {asked}, got {getattr(unet, name)}; {REMEDY}")
    return freeze(unet)


def _count_blocks(state: Mapping[str, torch.Tensor]) -> list[int]:
    blocks = [0, 0, 0, 0]
    for key in state:
        if BLOCK.fullmatch(key):
            blocks[int(key.split(".")[1]) - 1] += 1
    return blocks


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
    missing = f"vgg_path: must be a file with the weights of {name}, got {path}; nothing is downloaded: {remedy}"
    state = read_named(path, missing)
    state = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    numbered = nn.ModuleDict({"features": nn.Sequential(*vgg.layers)})  # the same layers by torchvision's keys
    fill(numbered, state, f"{path}: must hold the weights of {name}", remedy)
    return freeze(vgg)


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
    state = read_named(path, f"encoder_path: must be a file with the weights of an encoder, got {path}; {remedy}")
    within = {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}
    fill(encoder, within or state, f"{path}: must hold the weights of an encoder of in_channels {in_channels}", remedy)
    return freeze(encoder)


def load_detector(path: str | os.PathLike[str] | None, in_channels: int | None = None) -> LesionDetector:
    """A frozen :class:`LesionDetector` with the weights in a file, which also tell its channels, sizes and widths.

    Args:
        path: file of its state dict, in single or half precision.
        in_channels: that it must take; None for any number.

    Raises:
        ValueError: no file, one of another network, or one for other channels.
    """
    remedy = "train one by train_detector.json and pass it by --detector_path FILE"
    state = read_named(path, f"detector_path: must be the file of a trained lesion detector, got {path}; {remedy}")
    demand = f"{path}: must hold the weights of a lesion detector"
    levels = sorted(key for key in state if LEVEL.fullmatch(key))
    layers = sorted((key for key in state if LAYER.fullmatch(key)), key=lambda key: int(key.split(".")[1]))
    size = state.get("input_size")
    if size is None or size.shape != (2,) or not levels or not layers or state[levels[0]].dim() != 4:
        raise ValueError(f"{demand}, got {next(iter(state), 'nothing')} first; {remedy}")
    channels, (widths, nodes) = state[levels[0]].shape[1], ([len(state[k]) for k in keys] for keys in (levels, layers))
    if in_channels is not None and channels != in_channels:
        raise ValueError(f"{path}: the detector must have in_channels {in_channels}, got {channels}; {remedy}")
    try:
        detector = LesionDetector(channels, [int(n) for n in size], widths, nodes[:-1])
    except ValueError as error:
        raise ValueError(f"{demand}, got input_size {size.tolist()} of {len(widths)} levels; {remedy}") from error
    fill(detector, state, demand, remedy)
    return freeze(detector)


def read_named(path: str | os.PathLike[str] | None, missing: str) -> dict[str, torch.Tensor]:
    """The state dict in a file; ``missing`` is the complaint where there is no file."""
    if not path or not Path(path).is_file():
        raise ValueError(missing)
    state = read_state(Path(path))
    logger.info("%s: frozen, SHA-256 %s", path, sha256(Path(path)))
    return state


def fill(network: nn.Module, state: Mapping[str, torch.Tensor], demand: str, remedy: str) -> None:
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


load_detector_or_exit = exits_on_mistake(load_detector)
