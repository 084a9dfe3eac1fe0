"""A volume through a 2-D network: plane by plane, several planes a batch, tiles where a plane is too large.

The result is written into one preallocated array. Tiles overlap; a tile counts for nothing in the outer quarter of an
overlap, where the network could not see far enough, and is faded into its neighbour over the middle half. They start
at multiples of the network's window, so that a windowed network cuts a tile as it would cut the whole plane.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer

from .consistency import back_project, residual
from .errors import CaseWarning, as_flag
from .geometry import scaled_size, slice_axis_of
from .io.case import KEY, Case
from .memory import MB, bytes_per_pixel, resident_mb
from .progress import PlaneProgress

Network = Callable[[torch.Tensor], torch.Tensor]
PROBE = 32  # side in LR pixels of the image that measures a network's need of memory
SCRATCH = 1.5  # what kernels take beside the tensors that PyTorch can see
HEADROOM = 0.85  # the rest is for reading, writing and what the allocator keeps


class PlaneInferer(Inferer):
    """Super-resolve a volume ``(1, C, X, Y, Z)`` in the planes across its slice axis; the slice axis keeps its size.

    Args:
        scale: LR to HR factor of the network.
        batch_size: at most so many planes, or tiles, at once.
        memory_mb: cap in megabytes on what the process takes (on CUDA: what the network takes); None for none. The
            batch and then the tiles shrink to keep it.
        tile: largest side of a tile in LR pixels; None to be bound by memory alone.
        overlap: of neighbouring tiles, in LR pixels.
        self_ensemble: mean of the eight results for the image flipped and transposed.
        consistency_bound: back-project until the residual of each plane is at most this fraction of the volume's
            range; None for none.
        amp_dtype: ``"bfloat16"`` for mixed precision; None for float32. float16 overflows in Swin layers.

    Raises:
        ValueError: an argument is out of range, or ``memory_mb`` is too small for the smallest tile.
    """

    def __init__(
        self,
        scale: int,
        batch_size: int = 8,
        memory_mb: float | None = None,
        tile: int | None = None,
        overlap: int = 32,
        self_ensemble: bool = False,
        consistency_bound: float | None = None,
        amp_dtype: str | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size: must be at least 1, got {batch_size}")
        if overlap < 4:
            raise ValueError(f"overlap: must be at least 4, got {overlap}; 32 is a good start")
        if tile is not None and tile < 2 * overlap:
            raise ValueError(f"tile: must be at least {2 * overlap}, twice the overlap, got {tile}; enlarge it")
        if consistency_bound is not None and not consistency_bound > 0:
            raise ValueError(f"consistency_bound: must be above 0, got {consistency_bound}; 0.001 is a good start")
        _check_amp_dtype(amp_dtype)
        self.scale, self.batch_size, self.memory_mb = scale, batch_size, memory_mb
        self.tile, self.overlap, self.self_ensemble = tile, overlap, as_flag(self_ensemble, "self_ensemble")
        self.consistency_bound, self.amp_dtype = consistency_bound, amp_dtype

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """``inputs`` (1, C, X, Y, Z), a ``MetaTensor`` with record or affine; the SR volume on the CPU, same axes."""
        if inputs.ndim != 5 or inputs.shape[0] != 1:
            remedy = "use batch size 1" if inputs.ndim == 5 else "give a 2-D image a third axis of size 1"
            raise ValueError(f"inputs: must be one volume (1, C, X, Y, Z), got {tuple(inputs.shape)}; {remedy}")
        axis = slice_axis_of(inputs) + 1
        plain = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        planes = plain[0].movedim(axis, 0)
        count, channels, height, width = planes.shape
        size = scaled_size(height, self.scale), scaled_size(width, self.scale)
        batch, tile = self._plan(network, planes, 4 * channels * count * math.prod(size))
        span = float(planes.max() - planes.min()) or 1.0
        forward = self._guarded(lambda x: network(x, *args, **kwargs))
        progress, volume = PlaneProgress(count), torch.empty(0)
        for start in range(0, count, batch):
            low = planes[start : start + batch]
            high = self._super_resolve(forward, low, tile, _multiple(network))
            if self.consistency_bound is not None:
                high = self._back_project(high, low, self.consistency_bound * span)
            if start == 0:  # planes lie whole in memory; the axes return as a view
                volume = torch.empty(high.shape[1], count, *size)
            volume[:, start : start + batch] = high.movedim(0, 1)
            progress.after(min(start + batch, count))
        return volume.movedim(1, axis).unsqueeze(0)

    def _back_project(self, high: torch.Tensor, low: torch.Tensor, bound: float) -> torch.Tensor:
        high = back_project(high, low, bound)
        left = float(residual(high, low).square().mean(dim=(1, 2, 3)).max().sqrt())
        if left > bound:
            warnings.warn(
                f"back-projection left a residual of {left:.2g}, above {bound:.2g}", CaseWarning, stacklevel=2
            )
        return high

    def _plan(self, network: Network, planes: torch.Tensor, output_bytes: int) -> tuple[int, int | None]:
        """Planes a batch, and the side of a tile (None: whole planes)."""
        count, _, height, width = planes.shape
        fits = self.tile is None or max(height, width) <= self.tile
        if self.memory_mb is None:
            return min(self.batch_size, count), None if fits else self.tile
        on_cpu = planes.device.type == "cpu"
        blending = 3 * output_bytes / count  # the plane under work, its weighted sum and their quotient
        budget = self.memory_mb * HEADROOM * MB - blending - (resident_mb() * MB + output_bytes if on_cpu else 0)
        probe = torch.zeros(1, planes.shape[1], PROBE, PROBE, device=planes.device)
        pixels = int(budget / (bytes_per_pixel(network, probe) * SCRATCH))
        if fits and height * width <= pixels:
            return min(self.batch_size, count, pixels // (height * width)), None
        multiple = _multiple(network)
        side = int(math.sqrt(max(pixels, 0))) // multiple * multiple
        side = side if self.tile is None else min(side, self.tile)
        if side < 2 * self.overlap:
            need = (2 * self.overlap + multiple) ** 2 * bytes_per_pixel(network, probe) * SCRATCH
            short = math.ceil((need - budget) / MB)
            raise ValueError(
                f"memory_mb: {self.memory_mb:g} is too little for the smallest tile; "
                f"pass --memory_mb {math.ceil(self.memory_mb + max(short, 1) / HEADROOM)} or more"
            )
        return 1, side

    def _guarded(self, network: Network) -> Network:
        """``network`` under mixed precision; a batch that overflows is repeated in float32."""

        def forward(x: torch.Tensor) -> torch.Tensor:
            enabled = self.amp_dtype is not None
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=enabled):
                out = network(x).float()
            if enabled and not torch.isfinite(out).all():
                warnings.warn("a batch overflowed in bfloat16 and was repeated in float32", CaseWarning, stacklevel=2)
                out = network(x)
            if not torch.isfinite(out).all():
                raise ValueError("the network gave NaN or infinity; check the weights that --ckpt_path names")
            expected = tuple(scaled_size(n, self.scale) for n in x.shape[2:])
            if tuple(out.shape[2:]) != expected:
                raise ValueError(
                    f"scale: the network made {tuple(out.shape[2:])} of {tuple(x.shape[2:])}; check --scale"
                )
            return out

        return forward

    def _super_resolve(self, forward: Network, low: torch.Tensor, tile: int | None, multiple: int) -> torch.Tensor:
        def whole_or_tiled(x: torch.Tensor) -> torch.Tensor:
            if tile is None:
                return forward(x)
            return super_resolve_tiles(forward, x, self.scale, tile, self.overlap, multiple)

        if not self.self_ensemble:
            return whole_or_tiled(low)
        results = (undo(whole_or_tiled(turn(low))) for turn, undo in dihedral_group())
        return reduce(torch.add, results) / 8


class PlaneSegmenter(PlaneInferer):
    """Label a volume ``(1, C, X, Y, Z)`` in the planes across its slice axis; tiles share their logits.

    The result is ``(1, 1, X, Y, Z)``, labels as float32. Arguments are those of :class:`PlaneInferer` that make sense
    where no pixel is added.
    """

    def __init__(
        self,
        batch_size: int = 8,
        memory_mb: float | None = None,
        tile: int | None = None,
        overlap: int = 64,
        self_ensemble: bool = False,
        amp_dtype: str | None = None,
    ) -> None:
        super().__init__(1, batch_size, memory_mb, tile, overlap, self_ensemble, None, amp_dtype)

    def _super_resolve(self, forward: Network, low: torch.Tensor, tile: int | None, multiple: int) -> torch.Tensor:
        return super()._super_resolve(forward, low, tile, multiple).argmax(1, keepdim=True).float()


def infer_planes(
    inferer: Inferer, network: torch.nn.Module, planes: torch.Tensor, case: Case, device: torch.device
) -> torch.Tensor:
    """Planes ``(N, C, H, W)`` of an image with this record through ``inferer``, as a volume; the result on the CPU."""
    axis = case.slice_axis + 1
    volume = planes.movedim(0, axis).unsqueeze(0).to(device)
    with torch.no_grad():
        out: Any = inferer(MetaTensor(volume, meta={KEY: case.to_meta()}), network.eval())
    return torch.as_tensor(out[0]).movedim(axis, 0).cpu()


class AutocastInferer(SimpleInferer):
    """``network(inputs)`` under mixed precision, float32 out; serves any device, where MONAI's ``amp`` serves CUDA.

    Args:
        amp_dtype: ``"bfloat16"`` for mixed precision; None for float32. float16 overflows in Swin layers.
        batch_size: at most so many images at once; None for all.
    """

    def __init__(self, amp_dtype: str | None = None, batch_size: int | None = None) -> None:
        super().__init__()
        _check_amp_dtype(amp_dtype)
        self.enabled, self.batch_size = amp_dtype is not None, batch_size

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.enabled):
            parts = inputs.split(self.batch_size or len(inputs))
            return torch.cat([network(part, *args, **kwargs).float() for part in parts])


def _check_amp_dtype(amp_dtype: str | None) -> None:
    if amp_dtype not in (None, "bfloat16"):
        raise ValueError(f"amp_dtype: must be null or bfloat16, got {amp_dtype}; float16 overflows in Swin layers")


def dihedral_group() -> Iterator[tuple[Network, Network]]:
    """The eight flips and transpositions of ``(B, C, H, W)``, each with its inverse."""
    for dims in ([], [2], [3], [2, 3]):
        yield partial(torch.flip, dims=dims), partial(torch.flip, dims=dims)
        yield partial(_flip_transpose, dims=dims), partial(_transpose_flip, dims=dims)


def _flip_transpose(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    return x.flip(dims).transpose(2, 3)


def _transpose_flip(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    return x.transpose(2, 3).flip(dims)


def super_resolve_tiles(
    forward: Network, low: torch.Tensor, scale: int, tile: int, overlap: int, multiple: int = 1
) -> torch.Tensor:
    """``low`` (B, C, H, W) in overlapping tiles, blended to (B, C, scale · H, scale · W).

    Equal to ``forward(low)`` where the network looks no further than a quarter of ``overlap``.

    Args:
        forward: the network.
        scale: an integer.
        tile: largest side of a tile, at least twice ``overlap``, in LR pixels.
        overlap: of neighbours, in LR pixels.
        multiple: tiles start at multiples of this.
    """
    b, _, height, width = low.shape
    out = torch.empty(0)
    total = low.new_zeros(height * scale, width * scale)
    for top, bottom in tile_ranges(height, tile, overlap, multiple):
        for left, right in tile_ranges(width, tile, overlap, multiple):
            high = forward(low[:, :, top:bottom, left:right])
            rows = fade((top, bottom), height, overlap, scale).to(high)
            columns = fade((left, right), width, overlap, scale).to(high)
            weight = rows[:, None] * columns[None, :]
            place = slice(top * scale, bottom * scale), slice(left * scale, right * scale)
            if not out.numel():
                out = high.new_zeros(b, high.shape[1], *total.shape)
            out[:, :, place[0], place[1]] += high * weight
            total[place] += weight
    return out / total


def tile_ranges(length: int, tile: int, overlap: int, multiple: int) -> list[tuple[int, int]]:
    """Ranges that cover 0 to ``length``, each at most ``tile`` long, overlapping by ``overlap`` or more."""
    if length <= tile:
        return [(0, length)]
    step = (tile - overlap) // multiple * multiple
    if step < 1:
        raise ValueError(f"tile: must exceed overlap by {multiple} or more, got {tile} and {overlap}; enlarge it")
    starts = range(0, length - tile + step, step)
    return [(start, min(start + tile, length)) for start in starts]


def fade(span: tuple[int, int], length: int, overlap: int, scale: int) -> torch.Tensor:
    """Weights along one side of a tile: 1 inside and at the image's edge; towards another tile down to 0."""
    start, stop = span
    size = (stop - start) * scale
    dark = overlap * scale / 4
    place = torch.arange(size, dtype=torch.float32) + 0.5
    weight = torch.ones(size)
    if start > 0:
        weight = torch.minimum(weight, ((place - dark) / (2 * dark)).clamp(0, 1))
    if stop < length:
        weight = torch.minimum(weight, ((size - place - dark) / (2 * dark)).clamp(0, 1))
    return weight


def _multiple(network: Network) -> int:
    return int(getattr(network, "size_multiple", 1))
