"""Lesion focus of inference: the region of a volume in which a detector sees a lesion, and nothing else of it.

Zhu, dissertation, section 3.2.2 with figure 3.1: the detector looks at the LR image, and the region around the centre
that it gives is super-resolved alone. Written from the paper.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..data.planes import foreground_threshold, is_filled
from ..errors import as_flag, exits_on_mistake
from ..frozen import load_detector
from ..geometry import resized_affine, slice_axis_of
from ..io.archive import sha256
from ..io.case import KEY, Case
from .centre import placed_inside, plain_tensor, predict_centres
from .lesion import check_region, region_box, whole_pixels

FILLED = 0.1  # of a plane: those with less foreground are left out of training too
AT_ONCE = 32  # planes that the detector takes


def median_centre(detector: nn.Module, planes: torch.Tensor, name: str = "image") -> tuple[float, float]:
    """One centre for the planes ``(N, C, H, W)`` of a volume, as parts of their sides.

    # not in the paper, which is of single planes: the median, of rows and of columns, over planes with foreground
    Where no plane has enough of it, all planes count. See :func:`placed_inside` for errors and warnings.
    """
    threshold = foreground_threshold(planes)
    chosen = [n for n, plane in enumerate(planes) if is_filled(plane, threshold, FILLED)] or list(range(len(planes)))
    parts = (planes[chosen[start : start + AT_ONCE]] for start in range(0, len(chosen), AT_ONCE))
    centres = torch.cat([predict_centres(detector, part) for part in parts])
    return placed_inside(np.median(centres.numpy(), axis=0).tolist(), name)


class FocusOnLesiond(MapTransform):
    """Crop an LR image ``(C, X, Y, Z)`` to a region of its planes, the same in all, around what a detector says.

    Along the slice axis the image stays whole. Its affine moves along, and its record says what part it is. A detector
    always says something, also where there is no lesion.

    Args:
        keys: images, normalised as those that the detector was trained with.
        enabled: False leaves images as they are; the other arguments then count for nothing.
        detector_path: see :func:`common.frozen.load_detector`.
        in_channels: of the images.
        size: of the region in SR pixels along the axes of a plane, in the order of the image's; multiples of the scale.
        scale: SR pixels per LR pixel.
        device: of the detector.

    Raises:
        ValueError: an argument is out of range, or the file holds no such detector. When called: the region is larger
            than the image, or the detector's answer is not finite.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        enabled: bool = False,
        detector_path: str | os.PathLike[str] | None = None,
        in_channels: int | None = None,
        size: Sequence[int] = (80, 80),
        scale: float = 4,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(keys)
        self.enabled, self.detector_sha256 = as_flag(enabled, "lesion_focus"), ""
        if not self.enabled:
            return
        self.size, self.ratio = check_region(size, scale), whole_pixels(scale)
        self.detector = load_detector(detector_path, in_channels).to(device)
        self.detector_sha256 = sha256(Path(str(detector_path)))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d) if self.enabled else ():
            d[key] = cropped(d[key], self._box(d[key]))
        return d

    def _box(self, image: MetaTensor) -> list[tuple[int, int]]:
        """First and after last voxel along X, Y and Z."""
        axis, name = slice_axis_of(image), str(image.meta.get("filename_or_obj", "image"))
        planes, (more, fewer) = plain_tensor(image).movedim(axis + 1, 0), self.ratio
        centre = median_centre(self.detector, planes, name)
        corner = region_box(centre, [n * more // fewer for n in planes.shape[2:]], self.size, more, name)
        box = [(c // more * fewer, (c + side) // more * fewer) for c, side in zip(corner, self.size, strict=True)]
        box.insert(axis, (0, len(planes)))
        return box


def cropped(image: MetaTensor, box: Sequence[tuple[int, int]]) -> MetaTensor:
    """The voxels of ``image`` (C, X, Y, Z) in ``box``, first and after last along each axis; they keep their place."""
    cut = plain_tensor(image)[(slice(None), *(slice(*ends) for ends in box))].contiguous()
    size = cut.shape[1:]
    affine = resized_affine(np.asarray(image.affine.cpu()), size, size, first=[first for first, _ in box])
    meta = {**image.meta, "original_affine": affine, "spatial_shape": np.asarray(size)}
    case = Case.from_meta(image.meta)
    if case is not None:
        meta[KEY] = replace(case, box=tuple(box)).to_meta()
    return MetaTensor(cut, meta={**meta, "affine": torch.from_numpy(affine)})


focus_or_exit = exits_on_mistake(FocusOnLesiond)
