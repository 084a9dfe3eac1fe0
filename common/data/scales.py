"""Scales for networks of any scale: all patches of a step share one, each plane of the validation has its own.

Zhu, dissertation, section 4.3.3. Written from the paper.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..errors import exits_on_mistake
from .patches import KEY as HIGH
from .patches import PatchBatches

KEY = "scale"  # where DegradeBatch looks for the factors of a batch
SCALES = tuple(n / 10 for n in range(11, 41))
VAL_SCALES = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
logger = logging.getLogger("common.training")


class ScaledBatches(PatchBatches):
    """:class:`PatchBatches` whose batches say ``"scale": (height, width)``, HR pixels per LR pixel of all its patches.

    The scale follows from seed and step as the patches do: a run goes on with the same next one, and all processes,
    which share a batch, draw the same. The patches have one size; what does not fill an LR pixel at their scale
    (equation 4.18) is cut off by :class:`common.transforms.degradation.DegradeBatch`.

    Args:
        planes, patch_size, batch_size, seed, augment, device, rank, world_size: see :class:`PatchBatches`.
        scales: one is drawn for each step; the paper's are 1.1, 1.2 … 4.0.
        per_axis: part of the steps in which height and width draw a scale each. Not in the paper: a network that is to
            magnify the axes by different factors must have seen it.

    Raises:
        ValueError: see :class:`PatchBatches` and :func:`as_scales`; a patch has no room for an LR pixel of the largest
            scale; or ``per_axis`` is no part.
    """

    def __init__(
        self,
        planes: Sequence[Mapping[str, Any]],
        patch_size: int | Sequence[int],
        batch_size: int,
        scales: Sequence[float] = SCALES,
        per_axis: float = 0.0,
        seed: int = 0,
        augment: bool = True,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.scales, self.per_axis = as_scales(scales, "scales"), per_axis
        if not 0 <= per_axis <= 1:
            raise ValueError(f"per_axis: must be a part of the steps, from 0 to 1, got {per_axis}; pass 0 for none")
        super().__init__(planes, patch_size, batch_size, seed, augment, device, rank, world_size)
        if min(self.patch_size) < max(self.scales):
            raise ValueError(
                f"patch_size: must have room for an LR pixel of scale {max(self.scales):g}, got {patch_size}; "
                "enlarge it, or take the scale out of --scales"
            )

    def scale(self, step: int) -> tuple[float, float]:
        """Height and width of an LR pixel of step ``step`` (from 0), in HR pixels."""
        rng = np.random.default_rng((self.seed, step, 1))  # 1: apart from the draws of the patches
        height, width = (float(s) for s in rng.choice(self.scales, size=2))
        return (height, width) if rng.random() < self.per_axis else (height, height)

    def batch(self, step: int) -> dict[str, Any]:
        """The patches of step ``step``, from 0, and their scale."""
        return {**super().batch(step), KEY: self.scale(step)}

    def describe(self, step: int) -> str:
        """Names of the planes in step ``step``, and its scale."""
        height, width = self.scale(step)
        return f"{super().describe(step)} at scale {height:g} x {width:g}"


def spread_scales(planes: Sequence[Mapping[str, Any]], scales: Sequence[float] = VAL_SCALES) -> list[dict[str, Any]]:
    """``planes`` that say ``"scale": (s, s)``, the ``scales`` in turn: one mean over the planes is over the scales too.

    Args:
        planes: each a mapping with ``label`` (C, H, W), as :func:`common.data.planes.load_planes` gives them.
        scales: at which a network is validated.

    Raises:
        ValueError: see :func:`as_scales`; or a plane has no room for an LR pixel of its scale.
    """
    factors = as_scales(scales, "val_scales")
    if len(planes) < len(factors):
        text = "validation: %d of %d scales have a plane; pass a smaller --val_every, or add images"
        logger.warning(text, len(planes), len(factors))
    spread = []
    for number, plane in enumerate(planes):
        factor = factors[number % len(factors)]
        height, width = plane[HIGH].shape[1:]
        if min(height, width) < factor:
            raise ValueError(
                f"{plane.get('name', number)}: must have room for an LR pixel of scale {factor:g}, got {height} x "
                f"{width} pixels; leave the image out"
            )
        spread.append({**plane, KEY: (factor, factor)})
    return spread


def as_scales(scales: Any, name: str) -> tuple[float, ...]:
    """``scales`` as numbers; raises ``ValueError`` where they are no list of finite numbers of at least 1, or empty."""
    values = scales if isinstance(scales, (list, tuple)) else ()
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) and 1 <= v < math.inf for v in values)
    if not values or not numbers:
        raise ValueError(
            f"{name}: must be a list of finite numbers, each at least 1, got {scales}; pass it as --{name} [1.5,2,4]"
        )
    return tuple(float(value) for value in values)


scaled_batches_or_exit = exits_on_mistake(ScaledBatches)
spread_scales_or_exit = exits_on_mistake(spread_scales)
