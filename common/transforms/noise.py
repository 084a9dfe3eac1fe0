"""Noise of magnetic resonance: complex in k-space, Rician in the magnitude image.

Zhu, dissertation, section 3.4.2: additive white Gaussian noise in k-space of the LR image, sigma 20 and 40; it does not
say of what. Gudbjartsson and Patz, Magnetic Resonance in Medicine 34, 1995: the magnitude is then Rician. Written from
the papers.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform

GREY_LEVELS = 255  # not in the paper: sigma counts grey levels of 8 bits, as in the tables of denoising
BELOW, PART = -0.25, 0.05  # cubic kernels undershoot, beside hot voxels far, but not in a twentieth of an image


def normal_like(image: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Standard normal noise like ``image`` in shape, type and device, from a generator of the CPU or PyTorch's own."""
    if generator is None:
        return torch.randn_like(image)
    return torch.randn(image.shape, generator=generator).to(image)


def magnitude_with_kspace_noise(
    image: torch.Tensor, sigma: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Magnitude of an image with complex white Gaussian noise in its k-space.

    The transform is unitary: real and imaginary part have the standard deviation sigma / 255 in k-space and in the
    image alike. Where there is no signal, the mean square of the result is 2 (sigma / 255)².

    Args:
        image: ``(..., H, W)``, float, whose 0 is no signal and whose bright parts are near 1.
        sigma: at least 0, in grey levels of 255.
        generator: see :func:`normal_like`.

    Raises:
        ValueError: more than a twentieth of the image is below -0.25: it is no magnitude image, which would be folded.
    """
    if float((image < BELOW).float().mean()) > PART:
        raise ValueError(
            "kspace_noise: images must be magnitudes, 0 where there is no signal, got values down to "
            f"{float(image.min()):.3g}; use a normalization that keeps 0, or noise_std"
        )
    noise = torch.complex(normal_like(image, generator), normal_like(image, generator)) * (sigma / GREY_LEVELS)
    return torch.fft.ifft2(torch.fft.fft2(image, norm="ortho") + noise, norm="ortho").abs()


class RandKSpaceNoised(MapTransform, RandomizableTransform):
    """Noise of :func:`magnitude_with_kspace_noise` on images ``(C, ..., H, W)``, in place of them.

    MONAI's ``RandRicianNoised`` with ``sample_std=False`` draws from the same distribution; this has the unit and the
    generator of :class:`common.transforms.degradation.Degradation`.

    Args:
        keys: images; they share the noise where they share the shape.
        sigma: see :func:`magnitude_with_kspace_noise`.
        prob: that the images get it at all.

    Raises:
        ValueError: ``sigma`` is below 0.
    """

    def __init__(self, keys: KeysCollection, sigma: float, prob: float = 1.0) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        if sigma < 0:
            raise ValueError(f"sigma: must be at least 0, got {sigma}; 20 is that of the paper")
        self.sigma = sigma
        self._seed = 0

    def randomize(self, data: Any = None) -> None:
        super().randomize(data)
        self._seed = int(self.R.randint(2**31))

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        self.randomize()
        d = dict(data)
        if not self._do_transform:
            return d
        for key in self.key_iterator(d):
            image = d[key]
            plain = image.as_tensor() if isinstance(image, MetaTensor) else image
            noisy = magnitude_with_kspace_noise(plain, self.sigma, torch.Generator().manual_seed(self._seed))
            d[key] = MetaTensor(noisy, meta=dict(image.meta)) if isinstance(image, MetaTensor) else noisy
        return d
