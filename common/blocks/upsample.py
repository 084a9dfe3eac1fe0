"""Sub-pixel upsampler shared by the fixed-scale networks.

Shi et al., CVPR 2016 (sub-pixel convolution); Zhu, dissertation, equation 5.4. Written from the papers.
"""

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.blocks import SubpixelUpsample

from ..geometry import both_factors, scaled_size


def subpixel_upsampler(channels: int, out_channels: int, scale: int) -> nn.Sequential:
    """Feature maps ``(B, channels, H, W)`` to an image ``(B, out_channels, scale · H, scale · W)``.

    A 3 × 3 convolution and pixel shuffle for each factor 2 of ``scale`` (one of factor 3 for ``scale`` 3), then a
    3 × 3 convolution to the image. ``scale`` 1 is that last convolution alone.

    Raises:
        ValueError: ``scale`` is neither 3 nor a power of two.
    """
    if scale == 3:
        factors = [3]
    elif scale >= 1 and scale & (scale - 1) == 0:
        factors = [2] * (scale.bit_length() - 1)
    else:
        raise ValueError(f"scale: must be 3 or a power of two, got {scale}; choose 2, 3 or 4")
    stages = [SubpixelUpsample(2, channels, channels, factor, apply_pad_pool=False) for factor in factors]
    return nn.Sequential(*stages, nn.Conv2d(channels, out_channels, 3, padding=1))


def start_as_interpolation(
    head: nn.Conv2d, body_end: nn.Conv2d | nn.BatchNorm2d, upsampler: nn.Sequential, quiet: float = 0.1
) -> None:
    """Initialise a residual network so that it starts close to linear interpolation, from where it learns faster.

    Channel c of the image travels in feature c: past the body, through linear interpolation in every stage of the
    upsampler, to channel c of the result. All other weights that reach the result are drawn as usual, times ``quiet``.

    Args:
        head: 3 × 3 convolution from the image to the features.
        body_end: what the body ends in, whose output is added to the features of ``head``: its last 3 × 3 convolution,
            or a normalisation after it, which would undo a small convolution.
        upsampler: of :func:`subpixel_upsampler`.
        quiet: factor on the weights beside those of the interpolation.
    """
    carry_image(head, body_end, head.in_channels, quiet)
    interpolate_image(upsampler, quiet)


@torch.no_grad()
def carry_image(head: nn.Conv2d, body_end: nn.Conv2d | nn.BatchNorm2d, channels: int, quiet: float) -> None:
    """Put channel c of what comes in into feature c of ``head``, and let ``body_end`` add little to it.

    Args:
        head, body_end, quiet: see :func:`start_as_interpolation`; what comes in may be features that carry the image.
        channels: of the image; c is below it.
    """
    _pass_on(head, channels, 1)
    body_end.weight[:channels] *= quiet
    body_end.bias[:channels] = 0  # type: ignore[index]


@torch.no_grad()
def interpolate_image(upsampler: nn.Sequential, quiet: float) -> None:
    """Magnify feature c linearly in every stage, to channel c of the result; see :func:`start_as_interpolation`."""
    *stages, last = upsampler
    assert isinstance(last, nn.Conv2d)
    for stage in stages:
        assert isinstance(stage, SubpixelUpsample) and isinstance(stage.conv_block, nn.Conv2d)
        _pass_on(stage.conv_block, last.out_channels, stage.scale_factor)
    last.weight *= quiet
    _pass_on(last, last.out_channels, 1, kept=True)


def _pass_on(conv: nn.Conv2d, channels: int, factor: int, kept: bool = False) -> None:
    """Make ``conv`` interpolate its first channels by ``factor``, alone or (``kept``) beside what the others give."""
    offset = (torch.arange(factor) + 0.5) / factor - 0.5
    taps = (1 - (torch.arange(-1, 2) - offset[:, None]).abs()).clamp(min=0)
    kernels = torch.einsum("ik,jl->ijkl", taps, taps).reshape(factor**2, 3, 3)
    for c in range(channels):
        rows = slice(c * factor**2, (c + 1) * factor**2)
        conv.weight[rows, : channels if kept else None] = 0
        conv.weight[rows, c] = kernels
        conv.bias[rows] = 0  # type: ignore[index]


class Bicubic(nn.Module):
    """The baseline of every table: bicubic magnification, edges shared; nothing to train.

    Args:
        scale: magnification, any factor, or one for each axis.
        antialias: a = -0.5, as Pillow and MATLAB have it; without, a = -0.75, as OpenCV.
    """

    def __init__(self, scale: float | Sequence[float], antialias: bool = True) -> None:
        super().__init__()
        self.factors, self.antialias = both_factors(scale), antialias
        self.size_multiple = 1

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` to ``(B, C, scale · H, scale · W)``, rounded."""
        size = [scaled_size(n, factor) for n, factor in zip(image.shape[2:], self.factors, strict=True)]
        return F.interpolate(image, size=size, mode="bicubic", antialias=self.antialias)


class Bilinear(nn.Module):
    """Bilinear magnification, edges shared: a baseline of the dissertation's chapter 3; nothing to train.

    Args:
        scale: magnification, any factor, or one for each axis.
    """

    def __init__(self, scale: float | Sequence[float]) -> None:
        super().__init__()
        self.factors, self.size_multiple = both_factors(scale), 1

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` to ``(B, C, scale · H, scale · W)``, rounded."""
        size = [scaled_size(n, factor) for n, factor in zip(image.shape[2:], self.factors, strict=True)]
        return F.interpolate(image, size=size, mode="bilinear", align_corners=False)
