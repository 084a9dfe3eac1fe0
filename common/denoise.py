"""Non-local means by scikit-image: the classical rival of a network that is to magnify and denoise (table 3.3).

Buades, Coll and Morel, CVPR 2005; Zhu, dissertation, section 3.4.2. Written from the papers.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
import torch.nn as nn

PATCH, DISTANCE = 5, 6  # not in the paper: side of the patches, and how far they are sought, in pixels
NO_NOISE = 1e-6  # of the largest value
STRENGTH = 0.8  # not in the paper: cut-off in standard deviations of the noise, where that is known


def need_scikit_image() -> None:
    """Raise ``ValueError`` where scikit-image is not installed."""
    try:
        import skimage.restoration  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"scikit-image: must be installed for non-local means, got {error}; "
            'run pip install -e ".[nlm]", or take "bilinear + NLM" out of --baselines'
        ) from error


def non_local_means(plane: np.ndarray) -> np.ndarray:
    """A plane ``(H, W)``, float, without its noise, whose strength is estimated from its finest wavelets.

    A plane without noise, such as an empty one, stays as it is. The noise is taken for Gaussian: in dark regions the
    mean of Rician noise stays.
    """
    from skimage.restoration import denoise_nl_means, estimate_sigma

    with warnings.catch_warnings():  # of a plane that is constant, or so narrow that it looks like colours
        warnings.simplefilter("ignore")
        sigma = float(estimate_sigma(plane))
    if not sigma > NO_NOISE * np.abs(plane).max():  # NaN of a constant plane
        return plane
    return np.asarray(denoise_nl_means(plane, PATCH, DISTANCE, h=STRENGTH * sigma, sigma=sigma, fast_mode=True))


class NonLocalMeans(nn.Module):
    """:func:`non_local_means` of each channel of each image by itself; on the CPU, whatever the device.

    Raises:
        ValueError: scikit-image is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        need_scikit_image()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` to the same."""
        planes = images.detach().float().cpu().flatten(0, 1).numpy()
        return torch.from_numpy(np.stack([non_local_means(plane) for plane in planes])).reshape(images.shape).to(images)
