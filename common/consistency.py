"""Data consistency: the LR image simulated from an SR image must be the LR image it was made from.

Irani and Peleg, "Improving resolution by image registration", 1991 (iterative back-projection). Written from the
paper. Detail that the degradation cannot see passes this check: it finds what contradicts the input, no more.
"""

from __future__ import annotations

import torch

from .transforms.degradation import resample


def residual(sr: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
    """LR minus the LR image simulated from ``sr`` (``clean`` degradation); ``(..., H, W)`` of both, LR sized out."""
    return lr - resample(sr, lr.shape[-2:])


def back_project(sr: torch.Tensor, lr: torch.Tensor, bound: float, iterations: int = 50) -> torch.Tensor:
    """Add the upsampled residual to ``sr`` until the root mean square of what is left is at most ``bound``.

    Args:
        sr: ``(B, C, sH, sW)``.
        lr: ``(B, C, H, W)``.
        bound: in the unit of the images; the worst plane of the batch must keep it.
        iterations: at most so many.
    """
    for _ in range(iterations):
        error = residual(sr, lr)
        if float(error.square().mean(dim=(1, 2, 3)).max().sqrt()) <= bound:
            break
        sr = sr + resample(error, sr.shape[-2:])
    return sr
