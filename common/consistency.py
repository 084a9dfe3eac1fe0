"""Data consistency: the LR image simulated from an SR image must be the LR image it was made from.

Irani and Peleg, "Improving resolution by image registration", 1991 (iterative back-projection). Written from the
paper. Detail that the degradation cannot see passes this check: it finds what contradicts the input, no more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .transforms.degradation import resample


def residual(sr: torch.Tensor, lr: torch.Tensor, steps: Sequence[float] | None = None) -> torch.Tensor:
    """LR minus the LR image simulated from ``sr`` (``clean`` degradation); ``(..., H, W)`` of both, LR sized out.

    Args:
        sr, lr: images.
        steps: LR pixels per SR pixel of both axes, around a common centre; None for the ratio of the sizes.
    """
    return lr - resample(sr, lr.shape[-2:], steps=None if steps is None else [1 / step for step in steps])


def back_project(
    sr: torch.Tensor, lr: torch.Tensor, bound: float, iterations: int = 50, steps: Sequence[float] | None = None
) -> torch.Tensor:
    """Add the upsampled residual to ``sr`` until the root mean square of what is left is at most ``bound``.

    Args:
        sr: ``(B, C, sH, sW)``.
        lr: ``(B, C, H, W)``.
        bound: in the unit of the images; the worst plane of the batch must keep it.
        iterations: at most so many.
        steps: see :func:`residual`.
    """
    for _ in range(iterations):
        error = residual(sr, lr, steps)
        if float(error.square().mean(dim=(1, 2, 3)).max().sqrt()) <= bound:
            break
        sr = sr + resample(error, sr.shape[-2:], steps=steps)
    return sr
