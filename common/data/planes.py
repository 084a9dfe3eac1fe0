"""HR planes for training: each volume read once, cut across its slice axis, kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.transforms.utils import generate_spatial_bounding_box

from ..errors import exits_on_mistake
from ..io.case import Case
from .files import match_images

FOREGROUND = 0.05  # of the 99th percentile of a volume


def load_planes(
    images: Sequence[str], preprocessing: Callable, key: str = "image", min_foreground: float = 0.1, every: int = 1
) -> list[dict[str, torch.Tensor]]:
    """Planes ``(C, H, W)`` of all volumes, under the key ``label``, cropped to their foreground.

    Args:
        images: paths.
        preprocessing: the transforms of the bundle: from a path to a normalised image with its record.
        key: under which ``preprocessing`` takes the path.
        min_foreground: planes with a smaller part of foreground (voxels over 5 % of the volume's 99th percentile)
            are left out: there is nothing to learn in air.
        every: keep one plane in so many.

    Raises:
        ValueError: no plane is left.
    """
    planes: list[dict[str, torch.Tensor]] = []
    for path in images:
        image = preprocessing({key: path})[key]
        case = Case.from_meta(image.meta)
        assert case is not None, "training images are read by CaseLoadImaged"
        volume = image.as_tensor().movedim(case.slice_axis + 1, 0)
        sample = volume.flatten()[:: max(1, volume.numel() // 1_000_000)]
        threshold = FOREGROUND * float(torch.quantile(sample, 0.99))
        chosen = [plane for plane in volume if (plane > threshold).float().mean() >= min_foreground]
        planes += [{"label": _crop_to(plane, threshold)} for plane in chosen[::every]]
    if not planes:
        raise ValueError(f"{list(images)}: no plane has {min_foreground:.0%} of foreground; lower min_foreground")
    return planes


def _crop_to(plane: torch.Tensor, threshold: float) -> torch.Tensor:
    start, stop = generate_spatial_bounding_box(plane, select_fn=lambda x: x > threshold, margin=8, allow_smaller=True)
    return plane[:, start[0] : stop[0], start[1] : stop[1]].clone()


match_images_or_exit = exits_on_mistake(match_images)
load_planes_or_exit = exits_on_mistake(load_planes)
