"""The segmentation U-Net from a file that the user names, frozen: for losses and for evaluation, never random."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn as nn

from .blocks.unet import SegmentationUNet
from .errors import exits_on_mistake
from .weights import read_state

REMEDY = "pass --unet_path FILE: weights that bundles/segmentation_unet trained, on these or on other images"
BLOCK = re.compile(r"encoder\.(?:1\.1|[2-4])\.(\d+)\.conv1\.weight")


def freeze(network: nn.Module) -> nn.Module:
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
    if not path or not Path(path).is_file():
        raise ValueError(f"unet_path: must be the file of a trained segmentation U-Net, got {path}; {REMEDY}")
    state = read_state(Path(path))
    try:
        width, channels = state["encoder.0.0.weight"].shape[:2]
        unet = SegmentationUNet(channels, len(state["head.0.weight"]), width, _count_blocks(state))
        unet.load_state_dict(state, strict=True)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: must hold the weights of a segmentation U-Net ({text}); {REMEDY}") from error
    for name, asked in (("in_channels", in_channels), ("classes", classes)):
        if asked is not None and getattr(unet, name) != asked:
            raise ValueError(f"{path}: the U-Net must have {name} {asked}, got {getattr(unet, name)}; {REMEDY}")
    freeze(unet)
    return unet


def _count_blocks(state: Mapping[str, torch.Tensor]) -> list[int]:
    blocks = [0, 0, 0, 0]
    for key in state:
        if BLOCK.fullmatch(key):
            blocks[int(key.split(".")[1]) - 1] += 1
    return blocks


load_unet_or_exit = exits_on_mistake(load_unet)
