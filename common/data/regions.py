"""Training on regions: the patch of each plane is its region, always at the same place.

Zhu, dissertation, section 3.2.2 with equations 3.9 and 3.10, and section 3.3.1: regions are fed whole, no patch is
drawn at random. Where they lie is found once, before the training. Written from the paper.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn

from ..errors import exits_on_mistake
from ..geometry import fitting_sizes
from ..transforms.centre import label_centre, placed_inside, plain_tensor, predict_centres
from ..transforms.degradation import CLEAN, Degradation
from ..transforms.lesion import check_mode, check_region, region_box, whole_pixels
from .lesions import planes_with_lesion
from .patches import KEY, PatchBatches


@dataclass(frozen=True)
class Focus:
    """What a training on regions looks at.

    Attributes:
        region_size: height and width in HR pixels, whole numbers of LR pixels.
        scale: HR pixels per LR pixel, whole or a fraction.
        mode: ``"labels"`` or ``"detector"``, which says where the regions are; ``"off"`` for patches of that size from
            anywhere in the planes.
        lesion: the labels that count, of planes whose last channel holds labels, which the batches do not have; planes
            without a lesion are left out unless the mode is off. None for planes without labels.
        detector: in eval mode, see :func:`common.frozen.load_detector`; it looks at the LR planes.
        degradation: how those follow from HR; the training's own.

    Raises:
        ValueError: an argument is out of range, or the mode lacks its detector or labels.
    """

    region_size: Sequence[int]
    scale: float
    mode: str = "labels"
    lesion: Sequence[int] | None = None
    detector: nn.Module | None = None
    degradation: Degradation = CLEAN

    def __post_init__(self) -> None:
        check_region(self.region_size, self.scale)
        check_mode(self.mode, self.detector)
        if self.mode == "labels" and self.lesion is None:
            raise ValueError(
                "mode: labels must come with the numbers of those that count, got none; read planes and labels by a "
                "scheme, or choose another mode"
            )


def centres_of(
    planes: Sequence[Mapping[str, Any]],
    mode: str,
    detector: nn.Module | None = None,
    scale: float = 4,
    degradation: Degradation = CLEAN,
    labelled: bool = False,
) -> list[tuple[float, float]]:
    """The centre of the region of each plane, row and column as parts of its sides.

    Args:
        planes: each a mapping with ``label`` (C, H, W), its sides whole numbers of LR pixels, and ``name``.
        mode: ``"labels"``: the mean place of the mask in the last channel. ``"detector"``: what it says of the LR
            plane, whose noise is drawn from a seed that is the plane's own.
        detector, scale, degradation: for the second mode.
        labelled: whether the last channel is a mask, which a detector does not see.

    Raises:
        ValueError: there is no such mode, a mask is empty, or a detector's centre is not finite.
    """
    check_mode(mode, detector)
    if mode == "labels":
        return [label_centre(plane[KEY][-1:], plane["name"]) for plane in planes]
    if detector is None:
        raise ValueError(f"mode: must be labels or detector, to find a centre, got {mode}; choose one")
    centres = []
    for plane in planes:
        image = plain_tensor(plane[KEY])[: -1 if labelled else None]
        low = degradation(image[None], (scale, scale))
        if degradation.noise_std > 0:
            draw = torch.Generator().manual_seed(zlib.crc32(str(plane["name"]).encode()))
            low = low + (torch.randn(low.shape, generator=draw) * degradation.noise_std).to(low)
        centres.append(placed_inside(predict_centres(detector, low)[0].tolist(), plane["name"]))
    return centres


def cut_to_regions(planes: Sequence[Mapping[str, Any]], focus: Focus) -> list[dict[str, Any]]:
    """The regions of planes, without labels, each with its ``corner``: top and left in HR pixels.

    In the mode off, whole planes without labels.

    Args:
        planes: of :func:`common.data.planes.load_planes`, with labels as last channel where ``focus.lesion`` says so.

    Raises:
        ValueError: the region is larger than a plane; see :func:`common.data.lesions.planes_with_lesion` and
            :func:`centres_of`.
    """
    channels = slice(None) if focus.lesion is None else slice(-1)
    if focus.mode == "off":
        return [{**plane, KEY: plane[KEY][channels]} for plane in planes]
    planes = [{**plane, KEY: _filling_lr(plane[KEY], focus.scale)} for plane in planes]
    if focus.lesion is not None:
        planes = planes_with_lesion(planes, focus.lesion)
    multiple, _ = whole_pixels(focus.scale)
    height, width = focus.region_size
    labelled = focus.lesion is not None
    centres = centres_of(planes, focus.mode, focus.detector, focus.scale, focus.degradation, labelled)
    regions = []
    for plane, centre in zip(planes, centres, strict=True):
        top, left = region_box(centre, plane[KEY].shape[1:], (height, width), multiple, plane["name"])
        region = plain_tensor(plane[KEY])[channels, top : top + height, left : left + width].clone()
        regions.append({**plane, KEY: region, "corner": (top, left)})
    return regions


def _filling_lr(image: torch.Tensor, scale: float) -> torch.Tensor:
    """``image`` (C, H, W) without what does not fill an LR pixel, at the end of both axes."""
    height, width = (fitting_sizes(n, scale)[1] for n in image.shape[1:])
    return image[:, :height, :width]


class FocusedBatches(PatchBatches):
    """:class:`PatchBatches` whose patches are the regions of the planes, each always at its own place.

    :class:`common.transforms.degradation.DegradeBatch` makes LR of them, so that both show the same region.

    Args:
        planes, focus: see :func:`cut_to_regions`; in the mode off, patches of that size come from anywhere.
        batch_size, seed, augment, device, rank, world_size: see :class:`PatchBatches`; regions that are not square are
            flipped, not transposed.

    Raises:
        ValueError: see :func:`cut_to_regions` and :class:`PatchBatches`.
    """

    def __init__(
        self,
        planes: Sequence[Mapping[str, Any]],
        focus: Focus,
        batch_size: int,
        seed: int = 0,
        augment: bool = True,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        regions = cut_to_regions(planes, focus)
        super().__init__(regions, focus.region_size, batch_size, seed, augment, device, rank, world_size)
        self.corners = [region.get("corner") for region in regions]


focus_or_exit = exits_on_mistake(Focus)
cut_to_regions_or_exit = exits_on_mistake(cut_to_regions)
focused_batches_or_exit = exits_on_mistake(FocusedBatches)
