"""Planes with a lesion: which labels count, and the planes that have one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import exits_on_mistake
from ..transforms.centre import plain_tensor
from ..transforms.lesion import check_region, region_box
from .labels import LabelScheme
from .patches import KEY

MIDDLE = (0.5, 0.5)


def lesion_numbers(scheme: LabelScheme, lesion: Sequence[str] | None = None) -> tuple[int, ...]:
    """The labels that are the lesion: those of the classes that ``lesion`` names, or of all.

    Raises:
        ValueError: it is no list of some of the classes.
    """
    if lesion is None:
        return tuple(range(1, len(scheme.classes) + 1))
    if not isinstance(lesion, (list, tuple)) or not lesion or not set(lesion) <= set(scheme.classes):
        raise ValueError(
            f"lesion: must be a list of some of {', '.join(scheme.classes)}, got {lesion}; or null for all of them"
        )
    return tuple(scheme.classes.index(name) + 1 for name in lesion)


def planes_with_lesion(
    planes: Sequence[Mapping[str, Any]], lesion: Sequence[int], region_size: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """The planes that have a lesion, a mask of it (0 or 1) in place of the labels.

    Args:
        planes: of :func:`common.data.planes.load_planes` with a scheme: labels are the last channel.
        lesion: numbers of the labels that count, see :func:`lesion_numbers`.
        region_size: height and width that must fit into each of them; None for any.

    Raises:
        ValueError: no plane of an image has a lesion, one is smaller than the region, or that is no pair of sizes.
    """
    if region_size is not None:
        check_region(region_size, 1)
    wanted, found = torch.tensor(list(lesion)), []
    images: dict[str, bool] = {}
    for plane in planes:
        both = plain_tensor(plane[KEY])
        mask = torch.isin(both[-1:], wanted.to(both))
        image = str(plane["name"]).rsplit(", plane ", 1)[0]
        images[image] = images.get(image, False) or bool(mask.any())
        if mask.any():
            if region_size is not None:
                region_box(MIDDLE, both.shape[1:], region_size, name=plane["name"])
            found.append({**plane, KEY: torch.cat([both[:-1], mask.to(both)])})
    for image, has_one in images.items():
        if not has_one:
            raise ValueError(
                f"{image}: one of its planes must have a lesion (label {', '.join(map(str, lesion))}), got none; leave "
                "the image out, or name other classes by --lesion"
            )
    return found


def resize_planes(planes: Sequence[Mapping[str, Any]], size: Sequence[int]) -> list[dict[str, Any]]:
    """Planes as a detector's head of ``size`` makes them, so that those of different sizes share a batch.

    The last channel, a mask, is resized by the same kernel: it becomes a weight, and keeps its mean place.
    """
    return [
        {**plane, KEY: F.interpolate(plane[KEY][None], list(size), mode="bilinear", antialias=True)[0]}
        for plane in planes
    ]


lesion_numbers_or_exit = exits_on_mistake(lesion_numbers)
planes_with_lesion_or_exit = exits_on_mistake(planes_with_lesion)
