"""A volume through a 2-D network: plane by plane, several planes a batch, tiles where a plane is too large.

The result is written into one preallocated array.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer

from .consistency import back_project, residual
from .errors import CaseWarning, as_flag
from .geometry import both_factors, slice_axis_of
from .io.case import KEY, Case
from .magnification import Magnification, PlaneGrid
from .memory import MB, bytes_per_pixel, resident_mb
from .progress import PlaneProgress
from .tiles import dihedral_group, super_resolve_tiles

Network = Callable[[torch.Tensor], torch.Tensor]
PROBE = 32  # side in LR pixels of the image that measures a network's need of memory
SCRATCH = 1.5  # what kernels take beside the tensors that PyTorch can see
HEADROOM = 0.85  # the rest is for reading, writing and what the allocator keeps


class PlaneInferer(Inferer):
    """Super-resolve a volume ``(1, C, X, Y, Z)`` in the planes across its slice axis; the slice axis keeps its size.

    Args:
        scale: LR to HR factor of the network: one, or one for each axis of a plane; tiles need one that is whole.
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
        scale: float | Sequence[float],
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
        check_amp_dtype(amp_dtype)
        self.factors, self.batch_size, self.memory_mb = both_factors(scale), batch_size, memory_mb
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
        count, _, height, width = planes.shape
        grid = self.grid_of(inputs, (height, width))
        steps = grid.steps((height, width)) if grid.exact else None
        told = partial(network, *args, **kwargs) if args or kwargs else network
        batch, tile = self._plan(told, planes, grid)
        span = float(planes.max() - planes.min()) or 1.0
        progress, volume = PlaneProgress(count), torch.empty(0)
        for start in range(0, count, batch):
            low = planes[start : start + batch]
            high = self._super_resolve(told, low, grid, tile)
            if self.consistency_bound is not None:
                high = self._back_project(high, low, self.consistency_bound * span, steps)
            if start == 0:  # planes lie whole in memory; the axes return as a view
                volume = torch.empty(high.shape[1], count, *grid.size)
            volume[:, start : start + batch] = high.movedim(0, 1)
            progress.after(min(start + batch, count))
        return volume.movedim(1, axis).unsqueeze(0)

    def grid_of(self, inputs: torch.Tensor, size: tuple[int, int]) -> PlaneGrid:
        """The SR grid of the planes of ``inputs``, of ``size``."""
        return PlaneGrid.of(size, self.factors)

    def _back_project(
        self, high: torch.Tensor, low: torch.Tensor, bound: float, steps: Sequence[float] | None
    ) -> torch.Tensor:
        high = back_project(high, low, bound, steps=steps)
        left = float(residual(high, low, steps).square().mean(dim=(1, 2, 3)).max().sqrt())
        if left > bound:
            warnings.warn(
                f"back-projection left a residual of {left:.2g}, above {bound:.2g}", CaseWarning, stacklevel=2
            )
        return high

    def _plan(self, network: Network, planes: torch.Tensor, grid: PlaneGrid) -> tuple[int, int | None]:
        """Planes a batch, and the side of a tile (None: whole planes)."""
        count, channels, height, width = planes.shape
        fits = self.tile is None or max(height, width) <= self.tile
        if self.memory_mb is None:
            return min(self.batch_size, count), None if fits else self.tile
        on_cpu = planes.device.type == "cpu"
        output_bytes = 4 * channels * count * math.prod(grid.size)
        blending = 3 * output_bytes / count  # the plane under work, its weighted sum and their quotient
        self._refuse_result(blending + (output_bytes if on_cpu else 0))
        budget = self.memory_mb * HEADROOM * MB - blending - (resident_mb() * MB + output_bytes if on_cpu else 0)
        probe = torch.zeros(1, planes.shape[1], PROBE, PROBE, device=planes.device)
        pixels = int(budget / (bytes_per_pixel(self._whole(network, grid, probe), probe) * SCRATCH))
        if fits and height * width <= pixels:
            return min(self.batch_size, count, pixels // (height * width)), None
        held, need = self._tiled_need(network, grid, planes, probe)
        return 1, self._side(budget - held, need, _multiple(network), output_bytes if on_cpu else 0)

    def _refuse_result(self, held: float) -> None:
        """Raise ``ValueError`` where the result alone is above the cap, before anything is computed."""
        assert self.memory_mb is not None
        if held > self.memory_mb * HEADROOM * MB:
            enough = math.ceil(resident_mb() + 2 * held / MB)
            raise ValueError(
                f"memory_mb: {self.memory_mb:g} is too little for a result that takes {held / MB:.0f} MB; pass a "
                f"smaller --scale, a coarser --target_spacing, or --memory_mb {enough} or more"
            )

    def _whole(self, network: Network, grid: PlaneGrid, low: torch.Tensor) -> Network:
        """What makes an SR plane of a whole one of the size of ``low``."""
        return network

    def _tiled_need(
        self, network: Network, grid: PlaneGrid, planes: torch.Tensor, probe: torch.Tensor
    ) -> tuple[float, float]:
        """Bytes that a plane takes whatever the tile, and bytes for each pixel of a tile."""
        return 0.0, bytes_per_pixel(network, probe) * SCRATCH

    def _side(self, budget: float, need: float, multiple: int, output_bytes: int) -> int:
        """Side of the tiles, ``need`` bytes a pixel, that ``budget`` bytes hold."""
        side = int(math.sqrt(max(budget / need, 0))) // multiple * multiple
        side = side if self.tile is None else min(side, self.tile)
        if side < 2 * self.overlap:
            assert self.memory_mb is not None
            short = math.ceil(((2 * self.overlap + multiple) ** 2 * need - budget) / MB)
            what = "the smallest tile"
            if output_bytes > self.memory_mb * MB / 2:
                what = f"a result of {output_bytes / MB:.0f} MB, which a smaller scale would lessen"
            raise ValueError(
                f"memory_mb: {self.memory_mb:g} is too little for {what}; "
                f"pass --memory_mb {math.ceil(self.memory_mb + max(short, 1) / HEADROOM)} or more"
            )
        return side

    def _super_resolve(self, network: Network, low: torch.Tensor, grid: PlaneGrid, tile: int | None) -> torch.Tensor:
        """LR planes ``(B, C, H, W)`` on the SR grid, plainly or by the self-ensemble."""
        if not self.self_ensemble:
            return self._once(network, low, grid, tile)
        results = (
            undo(self._once(network, turn(low), grid.transposed() if swaps else grid, tile))
            for turn, undo, swaps in dihedral_group()
        )
        return reduce(torch.add, results) / 8

    def _once(self, network: Network, low: torch.Tensor, grid: PlaneGrid, tile: int | None) -> torch.Tensor:
        if tile is None:
            return self._checked(network, low, grid.size)
        if self.factors[0] != self.factors[1] or not self.factors[0].is_integer():
            raise ValueError(f"tile: needs a network of one whole factor, got {self.factors}; raise --memory_mb")
        scale = int(self.factors[0])

        def forward(x: torch.Tensor) -> torch.Tensor:
            return self._checked(network, x, PlaneGrid.of(x.shape[2:], self.factors).size)

        return super_resolve_tiles(forward, low, scale, tile, self.overlap, _multiple(network))

    def _checked(self, network: Network, x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """``network(x)`` of ``size`` under mixed precision; a batch that overflows is repeated in float32."""
        enabled = self.amp_dtype is not None
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=enabled):
            out = network(x).float()
        if enabled and not torch.isfinite(out).all():
            warnings.warn("a batch overflowed in bfloat16 and was repeated in float32", CaseWarning, stacklevel=2)
            out = network(x)
        if not torch.isfinite(out).all():
            raise ValueError("the network gave NaN or infinity; check the weights that --ckpt_path names")
        if tuple(out.shape[2:]) != tuple(size):
            raise ValueError(f"scale: the network made {tuple(out.shape[2:])} of {tuple(x.shape[2:])}; check --scale")
        return out


class AnyScaleInferer(PlaneInferer):
    """Super-resolve by a network of any scale, such as :class:`common.blocks.any_scale.AnyScaleNetwork`.

    Its trunk works in tiles where a plane is too large; its upsampler gets the features of the whole plane, so that no
    SR pixel depends on where tiles begin: at a factor such as 2.5 they begin between SR pixels.

    Args:
        magnification: factors or a target spacing.
        settings: all but the scale of :class:`PlaneInferer`.
    """

    def __init__(self, magnification: Magnification, **settings: Any) -> None:
        super().__init__(1, **settings)
        self.magnification = magnification

    def at(self, scale: float | Sequence[float]) -> AnyScaleInferer:
        """An inferer of the same settings for another magnification."""
        other = copy.copy(self)
        other.magnification = replace(self.magnification, scale=scale, target_spacing=None)
        return other

    def grid_of(self, inputs: torch.Tensor, size: tuple[int, int]) -> PlaneGrid:
        return self.magnification.grid_of(inputs)

    def _whole(self, network: Any, grid: PlaneGrid, low: torch.Tensor) -> Network:
        size = list(PlaneGrid.of(low.shape[2:], grid.factors).size)
        return partial(network, scale=list(grid.factors), size=size, exact=grid.exact)

    def _tiled_need(
        self, network: Any, grid: PlaneGrid, planes: torch.Tensor, probe: torch.Tensor
    ) -> tuple[float, float]:
        with torch.no_grad():
            features = network.features(probe)
        size = list(PlaneGrid.of(probe.shape[2:], grid.factors).size)
        upscale = partial(network.upscale, scale=list(grid.factors), size=size, exact=grid.exact)
        blending = 3 * features[0].numel() * features.element_size() / probe[0, 0].numel()
        held = (bytes_per_pixel(upscale, features) * SCRATCH + blending) * math.prod(planes.shape[2:])
        return held, bytes_per_pixel(network.features, probe) * SCRATCH

    def _once(self, network: Any, low: torch.Tensor, grid: PlaneGrid, tile: int | None) -> torch.Tensor:
        told = {"scale": list(grid.factors), "size": list(grid.size), "exact": grid.exact}
        if tile is None:
            return self._checked(partial(network, **told), low, grid.size)

        def trunk(x: torch.Tensor) -> torch.Tensor:
            return self._checked(network.features, x, x.shape[2:])

        features = super_resolve_tiles(trunk, low, 1, tile, self.overlap, _multiple(network))
        return self._checked(partial(network.upscale, **told), features, grid.size)


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

    def _super_resolve(self, network: Network, low: torch.Tensor, grid: PlaneGrid, tile: int | None) -> torch.Tensor:
        return super()._super_resolve(network, low, grid, tile).argmax(1, keepdim=True).float()


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

    A network may give one image, or a mapping of name to image, as those of several scales do in training.

    Args:
        amp_dtype: ``"bfloat16"`` for mixed precision; None for float32. float16 overflows in Swin layers.
        batch_size: at most so many images at once; None for all.
    """

    def __init__(self, amp_dtype: str | None = None, batch_size: int | None = None) -> None:
        super().__init__()
        check_amp_dtype(amp_dtype)
        self.enabled, self.batch_size = amp_dtype is not None, batch_size

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.enabled):
            parts = inputs.split(self.batch_size or len(inputs))
            found = [network(part, *args, **kwargs) for part in parts]
        if isinstance(found[0], Mapping):
            return {name: torch.cat([images[name].float() for images in found]) for name in found[0]}
        return torch.cat([image.float() for image in found])


def check_amp_dtype(amp_dtype: str | None) -> None:
    """Raise ``ValueError`` where ``amp_dtype`` is no mixed precision that networks here bear."""
    if amp_dtype not in (None, "bfloat16"):
        raise ValueError(f"amp_dtype: must be null or bfloat16, got {amp_dtype}; float16 overflows in Swin layers")


def _multiple(network: Network) -> int:
    return int(getattr(network, "size_multiple", 1))
