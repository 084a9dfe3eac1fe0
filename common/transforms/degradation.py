"""From HR to LR: ``clean`` (antialiased, centre-aligned bicubic), and the recipes of the papers.

Zhu, dissertation, equation 5.15: blur, downsample, add noise. Its code samples the cubic without antialiasing, and
that of chapter 4 blurs the LR image afterwards (section 4.3.1). In ``clean`` the kernel is widened by the scale, as in
Pillow and MATLAB. Chapter 3 adds its noise in k-space (section 3.4.2; see :mod:`common.transforms.noise`). PyTorch
computes all of it. Written from the paper.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.transforms import MapTransform, RandomizableTransform

from ..geometry import both_factors, first_voxel, fitting_sizes, sr_affine
from .noise import magnitude_with_kspace_noise, normal_like


def resample(
    image: torch.Tensor, size: Sequence[int], antialias: bool = True, steps: Sequence[float] | None = None
) -> torch.Tensor:
    """Resize the last ``len(size)`` axes by a bicubic kernel.

    Edges are shared: the field of view stays, and each axis uses its own true ratio of sizes. Differentiable; an axis
    that keeps its size is left untouched.

    Args:
        image: any number of leading axes, float.
        size: new sizes of the last axes.
        antialias: a = -0.5, the kernel widened where it shrinks (Pillow, MATLAB). Without: a = -0.75, four samples
            whatever the scale (OpenCV).
        steps: old pixels per new pixel of these axes, around a common centre and with ``antialias``; None for the ratio
            of the sizes.
    """
    for number, (axis, new) in enumerate(zip(range(image.ndim - len(size), image.ndim), size, strict=True)):
        if steps is not None and image.shape[axis] / new != steps[number]:
            weights = cubic_weights(image.shape[axis], new, steps[number]).to(image)
            image = torch.matmul(image.movedim(axis, -1), weights.T).movedim(-1, axis)
        elif image.shape[axis] != new:
            lines = image.movedim(axis, -1)
            rows = lines.reshape(1, 1, -1, lines.shape[-1])
            rows = F.interpolate(rows, size=(rows.shape[2], new), mode="bicubic", antialias=antialias)
            image = rows.reshape(*lines.shape[:-1], new).movedim(-1, axis)
    return image


def cubic_weights(size: int, new_size: int, step: float) -> torch.Tensor:
    """Matrix ``(new_size, size)`` of the antialiased bicubic kernel, a = -0.5, for any step around a common centre.

    It is that of :func:`resample`, which PyTorch has for a step that is the ratio of the sizes only.
    """
    first, wide = first_voxel(size, new_size, step), max(step, 1.0)
    places = first + step * torch.arange(new_size, dtype=torch.float64)
    distance = ((torch.arange(size) - places[:, None]) / wide).abs()
    near, far = (1.5 * distance - 2.5) * distance**2 + 1, ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))
    return weights / weights.sum(1, keepdim=True)


def lr_size(size: Sequence[int], factors: Sequence[float]) -> tuple[int, ...]:
    """Sizes of the LR grid under HR ``size``: floor(n / factor + 0.5) an axis, at least 1."""
    return tuple(max(1, math.floor(n / s + 0.5 + 1e-9)) for n, s in zip(size, factors, strict=True))


@dataclass(frozen=True)
class Degradation:
    """How an LR image follows from its HR image; the defaults are ``clean``. One object serves training and evaluation.

    Attributes:
        blur_sigma: standard deviation of a Gaussian blur before downsampling, in HR pixels; 0 for none.
        noise_std: standard deviation of Gaussian noise on the LR image, in the unit of the image.
        antialias: see :func:`resample`.
        lr_blur: blur the LR image by the 3 × 3 Gaussian (1, 2, 1) / 4, as chapter 4 does.
        kspace_noise: sigma of complex noise in k-space of the LR image, of 255 grey levels, as chapter 3 has it (20,
            40): sigma / 255 in the unit of the image, whose 0 is no signal, as ``noise_std`` is.

    Raises:
        ValueError: ``blur_sigma``, ``noise_std`` or ``kspace_noise`` is below 0.
    """

    blur_sigma: float = 0.0
    noise_std: float = 0.0
    antialias: bool = True
    lr_blur: bool = False
    kspace_noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("blur_sigma", "noise_std", "kspace_noise"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must be >= 0, got {getattr(self, name)}")

    def __call__(self, image: torch.Tensor, factors: Sequence[float]) -> torch.Tensor:
        """HR to LR, without the noise.

        Args:
            image: HR, leading axes and then one axis for each of ``factors``: ``(B, C, H, W)`` with two factors.
            factors: HR pixels per LR pixel, each ≥ 1; axes of factor 1 are neither blurred nor resized.

        Raises:
            ValueError: a factor is below 1.
        """
        if min(factors) < 1:
            raise ValueError(f"factors: must be >= 1, got {list(factors)}")
        if self.blur_sigma > 0:
            image = _filter(image, gaussian_1d(torch.tensor(self.blur_sigma), normalize=True), factors, "replicate")
        low = resample(image, lr_size(image.shape[-len(factors) :], factors), self.antialias)
        return _filter(low, torch.tensor([0.25, 0.5, 0.25]), factors, "replicate") if self.lr_blur else low

    def with_noise(self, low: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """``low`` with the noise of this degradation; the same tensor where it has none.

        Args:
            low: LR, of :meth:`__call__`; noise in k-space is of its last two axes.
            generator: on the CPU; None for PyTorch's own on the device of ``low``.

        Raises:
            ValueError: see :func:`common.transforms.noise.magnitude_with_kspace_noise`.
        """
        if self.noise_std > 0:
            low = low + normal_like(low, generator) * self.noise_std
        return magnitude_with_kspace_noise(low, self.kspace_noise, generator) if self.kspace_noise > 0 else low


CLEAN = Degradation()


def _filter(image: torch.Tensor, kernel: torch.Tensor, factors: Sequence[float], mode: str) -> torch.Tensor:
    """Convolve the axes whose factor exceeds 1."""
    size = image.shape[-len(factors) :]
    kernels = [kernel.to(image) if factor > 1 else torch.ones(1).to(image) for factor in factors]
    return separable_filtering(image.reshape(-1, 1, *size), kernels, mode=mode).reshape(image.shape)


class SimulateLowResolutiond(MapTransform, RandomizableTransform):
    """LR image from an HR image ``(C, *spatial)``, in place of it; pixels and affine move together.

    Args:
        keys: images to degrade.
        factors: HR pixels per LR pixel, one for each spatial axis.
        degradation: its noise is drawn from the transform's seed.
    """

    def __init__(self, keys: KeysCollection, factors: Sequence[float], degradation: Degradation = CLEAN) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self)
        self.factors, self.degradation = tuple(factors), degradation
        self._seed = 0

    def randomize(self, data: Any = None) -> None:
        self._seed = int(self.R.randint(2**31))

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        self.randomize()
        d = dict(data)
        for key in self.key_iterator(d):
            high = d[key]
            low = self.degradation(high.as_tensor() if isinstance(high, MetaTensor) else high, self.factors)
            low = self.degradation.with_noise(low, torch.Generator().manual_seed(self._seed))
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
        scale: HR pixels per LR pixel, one factor or two (height, width). None for networks of any scale: each batch
            then names its own under ``"scale"``, and the network is told, by the arguments ``scale`` and ``size``.
        key: where a batch holds its HR planes ``(B, C, H, W)``; what does not fill an LR pixel is cut off.
        degradation: how LR follows from HR; its noise comes from PyTorch's generator of the device.
    """

    def __init__(
        self, scale: float | Sequence[float] | None, key: str = "label", degradation: Degradation = CLEAN
    ) -> None:
        self.scale, self.key, self.degradation = scale, key, degradation

    def __call__(
        self, batchdata: Mapping[str, Any], device: str | torch.device, non_blocking: bool, **kwargs: Any
    ) -> tuple[Any, ...]:
        high = batchdata[self.key]
        high = high.as_tensor() if isinstance(high, MetaTensor) else high
        high = high.to(device=device, non_blocking=non_blocking)
        factors = both_factors(_of_batch(batchdata["scale"]) if self.scale is None else self.scale)
        height, width = (fitting_sizes(n, factor)[1] for n, factor in zip(high.shape[2:], factors, strict=True))
        high = high[:, :, :height, :width]
        with torch.no_grad():
            low = self.degradation.with_noise(self.degradation(high, factors))
        return (low, high) if self.scale is not None else (low, high, (), told(factors, high))


def told(factors: Sequence[float], high: torch.Tensor) -> dict[str, list[Any]]:
    """What a network of any scale must know beside the LR image of ``high`` (B, C, H, W)."""
    return {"scale": list(factors), "size": list(high.shape[2:])}


def _of_batch(scale: Any) -> list[float]:
    """The factors that all images of a batch share: one or two, each ``(B,)`` where it was collated."""
    values = scale if isinstance(scale, (list, tuple)) else [scale] * 2
    return [float(value.flatten()[0]) if isinstance(value, torch.Tensor) else float(value) for value in values]
