"""Degradation ``clean``: antialiased, centre-aligned bicubic downsampling, with optional blur and noise.

Zhu, dissertation, equation 5.15: blur, downsample, add noise. Its code samples the cubic without antialiasing; here the
kernel is widened by the scale, as in Pillow and MATLAB, and PyTorch computes it. Written from the paper.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.transforms import MapTransform, RandomizableTransform

from ..geometry import sr_affine


def resample(image: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resize the last ``len(size)`` axes by a bicubic kernel (a = -0.5) that is antialiased where it shrinks.

    Edges are shared: the field of view stays, and each axis uses its own true ratio of sizes. Differentiable; an axis
    that keeps its size is left untouched.

    Args:
        image: any number of leading axes, float.
        size: new sizes of the last axes.
    """
    for axis, new in zip(range(image.ndim - len(size), image.ndim), size, strict=True):
        if image.shape[axis] != new:
            lines = image.movedim(axis, -1)
            rows = lines.reshape(1, 1, -1, lines.shape[-1])
            rows = F.interpolate(rows, size=(rows.shape[2], new), mode="bicubic", antialias=True)
            image = rows.reshape(*lines.shape[:-1], new).movedim(-1, axis)
    return image


def lr_size(size: Sequence[int], factors: Sequence[float]) -> tuple[int, ...]:
    """Sizes of the LR grid under HR ``size``: floor(n / factor + 0.5) an axis, at least 1."""
    return tuple(max(1, math.floor(n / s + 0.5)) for n, s in zip(size, factors, strict=True))


def simulate_low_resolution(
    image: torch.Tensor, factors: Sequence[float], blur_sigma: float = 0.0, noise: torch.Tensor | None = None
) -> torch.Tensor:
    """HR to LR: Gaussian blur (``blur_sigma`` in HR pixels), antialiased bicubic, then ``noise`` is added.

    Args:
        image: HR, leading axes and then one axis for each of ``factors``: ``(B, C, H, W)`` with two factors.
        factors: HR pixels per LR pixel, each ≥ 1; axes of factor 1 are neither blurred nor resized.
        blur_sigma: standard deviation of the blur in HR pixels, 0 for none.
        noise: what is added, of the shape of the LR image.

    Raises:
        ValueError: a factor is below 1, or ``blur_sigma`` below 0.
    """
    if min(factors) < 1 or blur_sigma < 0:
        raise ValueError(f"factors, blur_sigma: must be >= 1 and >= 0, got {list(factors)} and {blur_sigma}")
    size = image.shape[-len(factors) :]
    if blur_sigma > 0:
        kernel, none = gaussian_1d(torch.tensor(blur_sigma), normalize=True).to(image), torch.ones(1).to(image)
        kernels = [kernel if factor > 1 else none for factor in factors]
        image = separable_filtering(image.reshape(-1, 1, *size), kernels, mode="replicate").reshape(image.shape)
    low = resample(image, lr_size(size, factors))
    return low if noise is None else low + noise


class SimulateLowResolutiond(MapTransform, RandomizableTransform):
    """LR image from an HR image ``(C, *spatial)``, in place of it; pixels and affine move together.

    Args:
        keys: images to degrade.
        factors: HR pixels per LR pixel, one for each spatial axis.
        blur_sigma: Gaussian blur in HR pixels before downsampling.
        noise_std: standard deviation of Gaussian noise, in the unit of the image; drawn from the transform's seed.
    """

    def __init__(
        self, keys: KeysCollection, factors: Sequence[float], blur_sigma: float = 0.0, noise_std: float = 0.0
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self)
        self.factors, self.blur_sigma, self.noise_std = tuple(factors), blur_sigma, noise_std
        self._seed = 0

    def randomize(self, data: Any = None) -> None:
        self._seed = int(self.R.randint(2**31))

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        self.randomize()
        d = dict(data)
        for key in self.key_iterator(d):
            high = d[key]
            noise = None
            if self.noise_std > 0:
                shape = (*high.shape[: -len(self.factors)], *lr_size(high.shape[-len(self.factors) :], self.factors))
                draw = torch.Generator().manual_seed(self._seed)
                noise = (torch.randn(shape, generator=draw) * self.noise_std).to(high.device)
            plain = high.as_tensor() if isinstance(high, MetaTensor) else high
            low = simulate_low_resolution(plain, self.factors, self.blur_sigma, noise)
            if isinstance(high, MetaTensor):
                low = MetaTensor(low, meta=dict(high.meta))
                low.affine = _moved_affine(high.affine, high.shape[1:], low.shape[1:])
            d[key] = low
        return d


def _moved_affine(affine: torch.Tensor, size: Sequence[int], new_size: Sequence[int]) -> torch.Tensor:
    missing = 3 - len(size)  # MONAI keeps a 4 x 4 affine for planes too
    return sr_affine(affine, [*size, *[1] * missing], [*new_size, *[1] * missing])


class DegradeBatch:
    """``prepare_batch`` of trainer and evaluator: HR planes to pairs of LR and HR, on the device.

    Args:
        scale: HR pixels per LR pixel.
        key: where a batch holds its HR planes ``(B, C, H, W)``; what does not fill an LR pixel is cut off.
        blur_sigma: see :func:`simulate_low_resolution`.
        noise_std: standard deviation of the noise, in the unit of the image.
    """

    def __init__(self, scale: int, key: str = "label", blur_sigma: float = 0.0, noise_std: float = 0.0) -> None:
        self.scale, self.key, self.blur_sigma, self.noise_std = scale, key, blur_sigma, noise_std

    def __call__(
        self, batchdata: Mapping[str, torch.Tensor], device: str | torch.device, non_blocking: bool, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        high = batchdata[self.key]
        high = high.as_tensor() if isinstance(high, MetaTensor) else high
        high = high.to(device=device, non_blocking=non_blocking)
        height, width = (n - n % self.scale for n in high.shape[2:])
        high = high[:, :, :height, :width]
        with torch.no_grad():
            low = simulate_low_resolution(high, (self.scale, self.scale), self.blur_sigma)
            if self.noise_std > 0:
                low = low + torch.randn_like(low) * self.noise_std
        return low, high
