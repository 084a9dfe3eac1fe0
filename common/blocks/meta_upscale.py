"""Meta-upscale: feature maps to an image of any size, with weights that a small network predicts for every place.

Hu et al., "Meta-SR", CVPR 2019; Zhu, dissertation, equations 2.28 to 2.31 and 4.8 to 4.11. Written from the papers.

Output pixels that lie alike among their LR neighbours have the same weights. Where few lie differently, those after one
LR pixel are one strided convolution. Where many do, the second layer of the prediction, which is linear, changes places
with the sum over the patch: its hidden units are convolved on the LR grid and mixed at every output pixel. That costs
what weights for each LR pixel would, and forms none of them.
"""

import math
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..geometry import scaled_size
from .projection import (
    Axis,
    centred_axis,
    check_factors,
    check_size,
    cornered_axis,
    drop_beyond,
    find_runs,
    offset_table,
    period,
    spaced_axis,
)


class Prediction(NamedTuple):
    """Weights at the offset (h, w) past an LR pixel: relu(start + h · down + w · along) @ kernels.

    ``kernels`` is ``(units, out, C, k, k)``. The last unit is always 1: what it is multiplied by is the bias.
    """

    start: torch.Tensor
    down: torch.Tensor
    along: torch.Tensor
    kernels: torch.Tensor


def hidden_units(net: Prediction, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """First layer at offsets that broadcast, ``(…, units)``; written out, since autocast would round the offsets."""
    units = torch.relu_(net.start + rows[..., None] * net.down + columns[..., None] * net.along)
    return units.to(net.kernels.dtype)


def predict_weights(net: Prediction, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Weights at all pairs of offsets, ``(rows, columns, out, C, k, k)``."""
    units = hidden_units(net, rows[:, None], columns)
    return torch.matmul(units, net.kernels.flatten(1)).unflatten(-1, net.kernels.shape[1:])


def pad(features: torch.Tensor, kernel: int, height: int, width: int) -> torch.Tensor:
    """Zeros around, to at least ``height`` × ``width``: the patch of LR pixel (r, c) starts at (r + 1, c + 1)."""
    before = kernel // 2 + 1  # one more, for LR pixel -1: a clamp would shift it, and break the period at one edge only
    bottom, right = height - before - features.shape[2], width - before - features.shape[3]
    return F.pad(features, [before, max(0, right), before, max(0, bottom)])


def convolve_phases(features: torch.Tensor, rows: Axis, columns: Axis, net: Prediction) -> torch.Tensor:
    """A strided convolution for each pair of runs in a period, then interleaved, as a pixel shuffle does."""
    kernel, (high, down), (wide, along) = net.kernels.shape[-1], period(rows), period(columns)
    row_runs, column_runs = find_runs(rows, high), find_runs(columns, wide)
    row_offsets, column_offsets = offset_table(rows, row_runs, net.start), offset_table(columns, column_runs, net.start)
    height = down * ((rows.pixels - 1) // high) + kernel
    width = along * ((columns.pixels - 1) // wide) + kernel
    padded = pad(features, kernel, row_runs[-1].before + 1 + height, column_runs[-1].before + 1 + width)
    bands: list[torch.Tensor] = []
    for y, row in enumerate(row_runs):
        blocks: list[torch.Tensor] = []
        for x, column in enumerate(column_runs):
            offsets = row_offsets[y, : row.last - row.first], column_offsets[x, : column.last - column.first]
            weights = predict_weights(net, offsets[0], offsets[1])
            window = padded[:, :, row.before + 1 :, column.before + 1 :][:, :, :height, :width]
            block = F.conv2d(window, weights.flatten(0, 2), stride=[down, along])
            blocks.append(block.unflatten(1, weights.shape[:3]))
        bands.append(torch.cat(blocks, 2))
    image = torch.cat(bands, 1).permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)
    return image[:, :, : rows.pixels, : columns.pixels]


def mix_band(strip: torch.Tensor, net: Prediction, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Output rows over some LR rows, from their features and the offset tables; each run as long as the longest."""
    maps = F.conv2d(strip, net.kernels.flatten(0, 1)).permute(0, 2, 3, 1).unflatten(-1, net.kernels.shape[:2])
    units = hidden_units(net, rows[:, None, :, None], columns[:, None])
    mixed = torch.einsum("bhwuo,hwpu->bohwp", maps, units.flatten(2, 3))
    mixed = mixed.unflatten(-1, [rows.shape[1], columns.shape[1]]).transpose(3, 4)
    return mixed.flatten(4, 5).flatten(2, 3)


def mix_units(features: torch.Tensor, rows: Axis, columns: Axis, net: Prediction, chunk: int) -> torch.Tensor:
    """Hidden units convolved on the LR grid and mixed at every output pixel, by as many LR rows as ``chunk`` holds."""
    kernel = net.kernels.shape[-1]
    row_runs, column_runs = find_runs(rows, rows.pixels), find_runs(columns, columns.pixels)
    down, along = offset_table(rows, row_runs, net.start), offset_table(columns, column_runs, net.start)
    left, width = column_runs[0].before + 1, len(column_runs) - 1 + kernel
    padded = pad(features, kernel, row_runs[-1].before + 1 + kernel, left + width)[..., left : left + width]
    padded = padded.contiguous(memory_format=torch.channels_last)  # so that the units of a pixel lie together
    per_pixel = net.kernels.shape[0] * (down.shape[1] * along.shape[1] + features.shape[0] * net.kernels.shape[1])
    count = max(1, chunk // (4 * per_pixel * len(column_runs)))
    bands: list[torch.Tensor] = []
    for y in range(0, len(row_runs), count):
        band = row_runs[y : y + count]
        strip = padded[:, :, band[0].before + 1 : band[-1].before + 1 + kernel]
        bands.append(mix_band(strip, net, down[y : y + count], along))
    return drop_beyond(drop_beyond(torch.cat(bands, 2), 2, row_runs), 3, column_runs)


def few_weights(rows: Axis, columns: Axis, lr_pixels: int, most: int = 32) -> bool:
    """Whether convolutions are the faster form; more than ``most`` take longer than mixing, measured on a CPU."""
    high, wide = period(rows)[0], period(columns)[0]
    return len(find_runs(rows, high)) * len(find_runs(columns, wide)) <= most and high * wide <= lr_pixels


class MetaUpscale(nn.Module):
    """Feature maps to an image at any factor of at least 1, one for each axis.

    Args:
        in_channels: of the feature maps.
        out_channels: of the image.
        hidden: units of the prediction network, Linear(3, hidden), ReLU, Linear(hidden, k² · in · out).
        kernel_size: k, odd, of the patch around the LR pixel at or before an output pixel; zeros beyond the image.
        alignment: "centre" shares the edges of both grids and takes the true ratio of their sizes, as all geometry of
            this project, or shares their centres. "corner" puts the first pixels on each other and takes the nominal
            factor, as printed.
        chunk: bytes of hidden units to hold at once, where weights are too many to be convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int = 256,
        kernel_size: int = 3,
        alignment: str = "centre",
        chunk: int = 2**24,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: must be odd, got {kernel_size}; choose 3 or 5")
        if alignment not in ("centre", "corner"):
            raise ValueError(f'alignment: must be "centre" or "corner", got {alignment!r}; "centre" keeps the geometry')
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.centred, self.chunk = alignment == "centre", chunk
        self.inner = nn.Linear(3, hidden)
        self.outer = nn.Linear(hidden, kernel_size**2 * in_channels * out_channels)

    def axis(self, lr_size: int, size: int, factor: float, exact: bool = False) -> Axis:
        """Where the output pixels of one axis lie."""
        if not self.centred:
            return cornered_axis(size, factor)
        return spaced_axis(lr_size, size, factor) if exact else centred_axis(lr_size, size)

    def prediction(self, inverse: float) -> Prediction:
        """The prediction network at 1 / s; its inputs are (1 / s, offset in height, offset in width)."""
        dtype = torch.promote_types(self.inner.weight.dtype, torch.float32)  # bfloat16 knows offsets to 1 / 512
        inner = F.pad(self.inner.weight.to(dtype), [0, 0, 0, 1])
        start = inner[:, 0] * inverse + F.pad(self.inner.bias.to(dtype), [0, 1], value=1.0)
        kernels = torch.cat([self.outer.weight, self.outer.bias[:, None]], 1).t()
        shape = [-1, self.in_channels, self.kernel_size, self.kernel_size, self.out_channels]
        return Prediction(start, inner[:, 1], inner[:, 2], kernels.reshape(shape).permute(0, 4, 1, 2, 3).contiguous())

    def forward(
        self,
        features: torch.Tensor,
        scale: int | float | list[float] | tuple[float, float],
        size: list[int] | None = None,
        exact: bool = False,
    ) -> torch.Tensor:
        """``(B, in_channels, H, W)`` to ``(B, out_channels, H', W')``.

        Args:
            features: on the LR grid.
            scale: output pixels per LR pixel, one factor or (height, width).
            size: H' and W'; by default floor(factor · size + 0.5).
            exact: take the nominal factor itself, as a target spacing asks, and share the centres of the grids, not
                their edges: of the default size, they end within half an output pixel of the LR grid's. With "corner"
                the factor is always the nominal one, and this changes nothing.

        Raises:
            ValueError: ``features`` of another shape; a factor below 1 or not finite; not one factor or two; a
                ``size`` that is a whole LR pixel away from what ``scale`` says.
        """
        if features.dim() != 4 or features.shape[1] != self.in_channels:
            shape = list(features.shape)
            raise ValueError(f"features: must be (B, {self.in_channels}, H, W), got {shape}; give the trunk's output")
        factors = check_factors(scale)
        lr_size = [int(n) for n in features.shape[2:]]  # a tracer's sizes are tensors, which divide otherwise
        if size is None:
            size = [scaled_size(lr_size[axis], factors[axis]) for axis in range(2)]
        check_size(size, lr_size, factors)
        rows = self.axis(lr_size[0], size[0], factors[0], exact)
        columns = self.axis(lr_size[1], size[1], factors[1], exact)
        # not in the paper: of two factors, the geometric mean, the factor of a square pixel of the same area; nominal
        # and not from the sizes, so that one weight belongs to one scale whatever the rounding
        net = self.prediction(1 / math.sqrt(factors[0] * factors[1]))
        if few_weights(rows, columns, features.shape[0] * lr_size[0] * lr_size[1]):
            return convolve_phases(features, rows, columns, net)
        return mix_units(features, rows, columns, net, self.chunk)
