"""Batches for segmentation: image and labels apart, moved together, on the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import as_flag

TOP = 0.99  # quantile that stands for the brightest: a hot voxel must not press all others into the dark


class LabelledBatch:
    """``prepare_batch`` of trainer and evaluator: planes with their labels as last channel to images and labels.

    Zhu's section 5.3.3 names no augmentation. # not in the paper: with few patients it decides the score

    Args:
        augment: turn each image, zoom and shift it, and change its brightness, contrast and noise, at random by
            PyTorch's generator of the CPU; labels move along. False leaves them as they are.
        degrees, zoom, shift: largest rotation, zoom (as a factor) and shift (as a part of the side), either way.
        contrast: largest change of gain and of the exponent, as a factor.
        noise: largest standard deviation of the noise, as a part of the range from minimum to 99th percentile.
        key: where a batch holds its planes ``(B, C + 1, H, W)``.
    """

    def __init__(
        self,
        augment: bool = False,
        degrees: float = 25.0,
        zoom: float = 1.25,
        shift: float = 0.08,
        contrast: float = 1.4,
        noise: float = 0.03,
        key: str = "label",
    ) -> None:
        if degrees < 0 or zoom < 1 or shift < 0 or contrast < 1 or noise < 0:
            raise ValueError(
                "degrees, shift and noise: must be at least 0, zoom and contrast at least 1, got "
                f"{degrees}, {shift}, {noise}, {zoom}, {contrast}; change them"
            )
        self.augment, self.key = as_flag(augment, "augment"), key
        self.degrees, self.zoom, self.shift, self.contrast, self.noise = degrees, zoom, shift, contrast, noise

    def __call__(
        self, batchdata: Mapping[str, torch.Tensor], device: str | torch.device, non_blocking: bool, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images ``(B, C, H, W)`` and labels ``(B, 1, H, W)``, both float32."""
        both = batchdata[self.key].to(device=device, non_blocking=non_blocking)
        image, labels = both[:, :-1], both[:, -1:]
        if not self.augment:
            return image, labels
        count = len(both)
        affine = self._draw_affine(count, both.shape[2] / both.shape[3]).to(both)
        grid = F.affine_grid(affine, [count, 1, *both.shape[2:]], align_corners=False)
        image = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
        labels = F.grid_sample(labels, grid, mode="nearest", padding_mode="border", align_corners=False)
        return self._change_intensity(image), labels

    def _draw_affine(self, count: int, aspect: float) -> torch.Tensor:
        """``(B, 2, 3)``: from places in the output to those in the input, where each side reaches from -1 to 1.

        ``aspect`` is height by width: a rotation must not shear.
        """
        angle = _symmetric(count) * math.radians(self.degrees)
        zoom = torch.exp(_symmetric(count) * math.log(self.zoom))
        shift = _symmetric(2, count) * 2 * self.shift
        rows = [
            torch.stack([angle.cos() / zoom, -angle.sin() * aspect / zoom, shift[0]], dim=1),
            torch.stack([angle.sin() / aspect / zoom, angle.cos() / zoom, shift[1]], dim=1),
        ]
        return torch.stack(rows, dim=1)

    def _change_intensity(self, image: torch.Tensor) -> torch.Tensor:
        count, flat = len(image), image.flatten(1)
        low = flat.amin(1).view(-1, 1, 1, 1)
        width = (flat.quantile(TOP, dim=1).view(-1, 1, 1, 1) - low).clamp(min=1e-6)
        gain, gamma = torch.exp(_symmetric(2, count) * math.log(self.contrast)).to(image).view(2, -1, 1, 1, 1)
        noise = torch.randn(image.shape) * torch.rand(count).view(-1, 1, 1, 1) * self.noise
        return (((image - low) / width) ** gamma * gain + noise.to(image)) * width + low


def _symmetric(*shape: int) -> torch.Tensor:
    return 2 * torch.rand(shape) - 1
