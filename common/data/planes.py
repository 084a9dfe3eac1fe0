"""HR planes for training: each volume read once, cut across its slice axis, kept in memory."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import CenterSpatialCrop
from monai.transforms.utils import generate_spatial_bounding_box

from ..errors import exits_on_mistake
from ..io.case import Case
from ..io.transforms import CaseLoadImaged
from ..transforms.intensity import sampled_quantile
from .items import SPLITS, Item, paths_of, read_splits
from .labels import LabelScheme, read_labels

FOREGROUND = 0.05  # of the 99th percentile of a volume


def load_planes(
    items: Sequence[Item],
    preprocessing: Callable,
    key: str = "image",
    min_foreground: float = 0.1,
    every: int = 1,
    crop: Sequence[int] | None = None,
    min_size: int | Sequence[int] = 1,
    scheme: LabelScheme | None = None,
) -> list[dict[str, Any]]:
    """Planes ``(C, H, W)`` of all volumes, under the key ``label``, each with its ``name``.

    Args:
        items: of :func:`common.data.items.read_splits`.
        preprocessing: the transforms of the bundle: from a path to a normalised image with its record.
        key: under which ``preprocessing`` takes the path.
        min_foreground: planes with a smaller part of foreground (see :func:`foreground_threshold`) are left out: there
            is nothing to learn in air.
        every: keep one plane in so many.
        crop: size to cut from the centre of each plane; None for the ``crop`` of the item, and where it has none, a
            box around the foreground with 8 pixels of margin.
        min_size: height and width (or both as one) that the box around the foreground grows to where the image
            allows, so that a patch fits.
        scheme: of labels, which then follow as the last channel; without a crop, such planes stay whole. None for
            images alone.

    Raises:
        ValueError: no plane is left; see :func:`common.data.labels.read_labels`; or a class of the scheme never occurs.
    """
    planes: list[dict[str, Any]] = []
    least = [min_size] * 2 if isinstance(min_size, int) else list(min_size)
    for item in items:
        image = preprocessing({key: item["image"]})[key]
        volume, threshold = unstack(image), foreground_threshold(image.as_tensor())
        chosen = [n for n, plane in enumerate(volume) if is_filled(plane, threshold, min_foreground)][::every]
        if scheme:
            volume = torch.cat([volume, unstack(read_labels(item, case_of(image), image.shape[1:], scheme))], dim=1)
        size = crop or item.get("crop")
        cut = CenterSpatialCrop(size) if size else None
        for number in chosen:
            plane = volume[number]
            if cut or not scheme:
                plane = cut(plane) if cut else _around_foreground(plane, threshold, least)
            name = f"{image.meta['filename_or_obj']}, plane {number}"
            planes.append({"label": torch.as_tensor(plane).clone(), "name": name})
    if not planes:
        names = ", ".join(path for item in items for path in paths_of(item))
        raise ValueError(
            f"{names}: no plane has {min_foreground:.0%} of foreground (voxels above 5 % of the 99th percentile); "
            "look at the images, or pass a smaller --min_foreground"
        )
    if scheme:
        _refuse_missing_classes(planes, scheme, items)
    return planes


def stack_volumes(planes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Planes of :func:`load_planes` that are neighbours and of one volume and size as one ``(N, C, H, W)`` each."""
    groups = itertools.groupby(planes, key=lambda plane: (plane["name"].rsplit(", plane ", 1)[0], plane["label"].shape))
    return [{"label": torch.stack([plane["label"] for plane in group]), "name": name} for (name, _), group in groups]


def _refuse_missing_classes(planes: Sequence[Mapping[str, Any]], scheme: LabelScheme, items: Sequence[Item]) -> None:
    found = {int(value) for plane in planes for value in plane["label"][-1].unique()}
    for number, name in enumerate(scheme.classes, 1):
        if number not in found:
            raise ValueError(
                f"{items[0]['label']} and the labels of {len(items) - 1} other images: {name} (label {number}) must "
                "occur in the planes; take it out of 'classes' in the datalist, add patients, or enlarge the crop"
            )


def dataset_maximum(
    root: str | os.PathLike[str], datalist: str | os.PathLike[str] | None, in_channels: int = 1
) -> float:
    """Largest stored value of all images in a datalist, of whatever split (section 3.3.1 divides by it).

    Raises:
        ValueError: no datalist, see :func:`common.data.items.read_splits`; or no value is above 0.
    """
    if datalist is None:
        raise ValueError("datalist: the maximum of the whole data set is asked for; pass --datalist FILE")
    load = CaseLoadImaged("image", in_channels=in_channels, analyze=True)
    splits = read_splits(root, dict.fromkeys(SPLITS, ()), datalist)
    largest = max(float(load({"image": item["image"]})["image"].max()) for items in splits.values() for item in items)
    if largest <= 0:
        raise ValueError(f"{datalist}: the largest value must be above 0, got {largest:g}; use another normalization")
    return largest


def unstack(image: MetaTensor) -> torch.Tensor:
    """Planes ``(N, C, H, W)`` of an image ``(C, X, Y, Z)`` with its record."""
    return image.as_tensor().movedim(case_of(image).slice_axis + 1, 0)


def case_of(image: MetaTensor) -> Case:
    """The record of an image that our reader made."""
    case = Case.from_meta(image.meta)
    assert case is not None, "images are read by CaseLoadImaged"
    return case


def foreground_threshold(volume: torch.Tensor) -> float:
    """5 % of a volume's 99th percentile: what is darker counts as air."""
    return FOREGROUND * sampled_quantile(volume, 0.99)


def is_filled(plane: torch.Tensor, threshold: float, part: float) -> bool:
    """Whether at least this ``part`` of a plane is above ``threshold``."""
    return bool((plane > threshold).float().mean() >= part)


def _around_foreground(plane: torch.Tensor, threshold: float, least: Sequence[int]) -> torch.Tensor:
    start, stop = generate_spatial_bounding_box(plane, select_fn=lambda x: x > threshold, margin=8, allow_smaller=True)
    for axis, (length, size) in enumerate(zip(plane.shape[1:], least, strict=True)):
        missing = size - (stop[axis] - start[axis])
        if missing > 0:
            start[axis] = max(0, min(start[axis] - missing // 2, length - size))
            stop[axis] = min(length, start[axis] + size)
    return plane[:, start[0] : stop[0], start[1] : stop[1]]


load_planes_or_exit = exits_on_mistake(load_planes)
dataset_maximum_or_exit = exits_on_mistake(dataset_maximum)
