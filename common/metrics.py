"""Scores of a super-resolved plane: PSNR, SSIM and MS-SSIM by MONAI within a stated data range, consistency residual,
sharpness.

The data range reaches from the least value of a volume to a high quantile of it, so that a few hot voxels do not raise
every score; prediction and truth are clipped to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from monai.metrics import CumulativeIterationMetric, MultiScaleSSIMMetric, PSNRMetric, SSIMMetric

from .transforms.degradation import Degradation
from .transforms.intensity import sampled_quantile

METRICS: dict[str, tuple[Callable[[], CumulativeIterationMetric], int]] = {  # and the least side that each can judge
    "psnr": (partial(PSNRMetric, max_val=1.0), 1),
    "ssim": (partial(SSIMMetric, spatial_dims=2, data_range=1.0), 11),
    "ms_ssim": (partial(MultiScaleSSIMMetric, spatial_dims=2, data_range=1.0), 176),
}


def data_range(volume: torch.Tensor, quantile: float) -> torch.Tensor:
    """Minimum and ``quantile`` of each channel of a volume ``(C, *spatial)``, as ``(C, 2)``.

    Args:
        volume: HR.
        quantile: above 0; 1 stands for the maximum, which also serves where the quantile equals the minimum.

    Raises:
        ValueError: ``quantile`` is not in (0, 1].
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"range_quantile: must be above 0 and at most 1, got {quantile}; 0.999 is a good start")
    flat = volume.flatten(1)
    low, top = flat.amin(1), flat.amax(1)
    high = top if quantile == 1 else torch.tensor([sampled_quantile(channel, quantile) for channel in flat]).to(top)
    return torch.stack([low, torch.where(high > low, high, top)], dim=1)


def to_unit(image: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """``(C, H, W)`` clipped to ``limits`` (C, 2) and brought to [0, 1]; a constant channel becomes 0."""
    low, width = _low_and_width(limits)
    return ((image - low) / width).clamp(0, 1)


def score(prediction: torch.Tensor, truth: torch.Tensor, border: int = 0) -> dict[str, float | None]:
    """PSNR in dB, SSIM and MS-SSIM of one plane, over all its channels: their errors are averaged, not their decibels.

    Identical planes have an infinite PSNR. On the CPU whatever the device, because convolutions round to TF32 on CUDA.

    Args:
        prediction, truth: ``(C, H, W)`` in [0, 1].
        border: pixels cut off on every side first.

    Returns:
        None for a metric that needs a larger plane.

    Raises:
        ValueError: nothing is left inside the border.
    """
    height, width = (n - 2 * border for n in truth.shape[1:])
    if border < 0 or min(height, width) < 1:
        raise ValueError(
            f"border: must be at least 0 and leave something of planes of {truth.shape[1]} x {truth.shape[2]}, "
            f"got {border}; pass a smaller --border"
        )
    place = slice(border, border + height), slice(border, border + width)
    images = [image.cpu()[None, :, place[0], place[1]] for image in (prediction, truth)]
    scores: dict[str, float | None] = {}
    for name, (metric, side) in METRICS.items():
        scores[name] = float(torch.as_tensor(metric()(*images)).mean()) if min(height, width) >= side else None
    return scores


def consistency(
    sr: torch.Tensor, lr: torch.Tensor, degradation: Degradation, factors: Sequence[float], limits: torch.Tensor
) -> float:
    """Root mean square of LR minus degraded SR, as a fraction of the data range; noise is not simulated.

    Args:
        sr, lr: planes ``(C, sH, sW)``, not clipped, and ``(C, H, W)``.
        degradation, factors: which made ``lr``.
        limits: ``(C, 2)`` of :func:`data_range`.
    """
    left = lr - degradation(sr, factors)
    return float((left / _low_and_width(limits)[1]).square().mean().sqrt())


def sharpness(image: torch.Tensor) -> float | None:
    """Mean magnitude of Sobel's gradient, in units of the image per pixel, over all channels of ``(C, H, W)``.

    It is the measure of focus of Tenenbaum in the form of Krotkov, "Focusing", International Journal of Computer Vision
    1, 1988, without square and threshold. A ramp has its slope. Pixels at the rim, where the kernel does not fit, are
    left out; None for a plane of less than 3 pixels. On the CPU whatever the device.
    """
    if min(image.shape[1:]) < 3:
        return None
    across = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0])) / 8
    kernels = torch.stack([across, across.T])[:, None]
    return float(F.conv2d(image.float().cpu()[:, None], kernels).square().sum(1).sqrt().mean())


def _low_and_width(limits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = limits[:, 0, None, None], limits[:, 1, None, None]
    return low, torch.where(high > low, high - low, torch.ones_like(low))
