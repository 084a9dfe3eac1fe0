"""Rows that stand beside bicubic and the network where they are asked for: bilinear, and that after non-local means."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn as nn

from .blocks.upsample import Bilinear
from .denoise import NonLocalMeans
from .tables import BILINEAR, BILINEAR_NLM

Scale = float | Sequence[float]


def denoised_bilinear(scale: Scale) -> nn.Module:
    """Non-local means on LR, then bilinear magnification: "B+NLD" of table 3.3.

    not in the paper: this order. Interpolation makes neighbours alike, and no noise is then found: on a brain whose LR
    image had noise of sigma 20 at ×2, denoising afterwards changed nothing, denoising before gave 0.3 dB.
    """
    return nn.Sequential(NonLocalMeans(), Bilinear(scale))


BASELINES: dict[str, Callable[[Scale], nn.Module]] = {BILINEAR: Bilinear, BILINEAR_NLM: denoised_bilinear}


def further_baselines(names: Sequence[str], scale: Scale) -> dict[str, nn.Module]:
    """Networks of ``names``, each once, by name.

    Args:
        names: of ``BASELINES``; bicubic is in every table.
        scale: HR pixels per LR pixel, one factor or two.

    Raises:
        ValueError: no list of such names, or what one needs is not installed.
    """
    if not isinstance(names, (list, tuple)) or any(name not in BASELINES for name in names):
        choices = " and ".join(BASELINES)
        raise ValueError(f"baselines: must be a list of {choices}, got {names}; pass --baselines \"['{BILINEAR}']\"")
    return {name: BASELINES[name](scale) for name in names}
