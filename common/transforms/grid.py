"""Affine of the super-resolution grid, and the check of a result against its input."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..consistency import residual
from ..errors import CaseWarning
from ..geometry import resized_affine, slice_axis_of
from ..io.case import KEY, Case
from ..magnification import STEPS, Magnification

RESIDUAL = "consistency_residual"


class PlaceOnSuperResolvedGridd(MapTransform):
    """Give an SR image ``(C, X, Y, Z)`` the affine of the SR grid, and the rest of the meta data of its LR image.

    Both grids share their edges; the affine follows from the true ratio of sizes. By a target spacing it is exact, and
    centres are shared. The LR image keeps its own; its meta data name the SR grid as the one to return to, which MONAI
    Label takes from there.

    Args:
        keys: SR images.
        ref_key: the LR image that they were made from.
        magnification: what was asked for; None for the ratio of sizes.
    """

    def __init__(
        self, keys: KeysCollection, ref_key: str = "image", magnification: Magnification | None = None
    ) -> None:
        super().__init__(keys)
        self.ref_key, self.magnification = ref_key, magnification

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        low = d[self.ref_key]
        steps = None if self.magnification is None else self.magnification.steps_of(low)
        for key in self.key_iterator(d):
            size = d[key].shape[1:]
            affine = resized_affine(np.asarray(low.affine.cpu()), low.shape[1:], size, steps)
            # MONAI's writers take original_affine and spatial_shape as the grid to return to: it is this one
            meta = {**low.meta, "original_affine": affine, "spatial_shape": np.asarray(size)}
            if steps is not None:
                case = Case.from_meta(low.meta)
                meta |= {STEPS: steps} | ({} if case is None else {KEY: replace(case, steps=steps).to_meta()})
            d[key] = MetaTensor(d[key], meta={**meta, "affine": torch.from_numpy(affine)})
            d[self.ref_key] = MetaTensor(low, meta=meta)
        return d


class CheckConsistencyd(MapTransform):
    """Note in the meta data of an SR image how far its simulated LR image is from the real one.

    The root mean square of the difference over all voxels, as a fraction of the LR image's range (of
    its value where it is constant). Both images must be in the same unit; after saving, it is that of the saved file.

    Args:
        keys: SR images.
        ref_key: the LR image that they were made from.
        bound: warn where a plane exceeds this fraction; None for never.
    """

    def __init__(self, keys: KeysCollection, ref_key: str = "image", bound: float | None = None) -> None:
        super().__init__(keys)
        self.ref_key, self.bound = ref_key, bound

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        low = d[self.ref_key]
        axis, plain = slice_axis_of(low) + 1, low.as_tensor()
        span = float(plain.max() - plain.min()) or float(plain.abs().max()) or 1.0
        for key in self.key_iterator(d):
            steps = [step for n, step in enumerate(d[key].meta.get(STEPS) or ()) if n != axis - 1] or None
            planes = zip(
                d[key].as_tensor().unbind(axis), plain.unbind(axis), strict=True
            )  # one at a time: small memory
            errors = [_mean_square(sr, lr.to(sr.device), steps) ** 0.5 / span for sr, lr in planes]
            d[key].meta[RESIDUAL] = (sum(error**2 for error in errors) / len(errors)) ** 0.5
            if self.bound is not None and max(errors) > self.bound:
                text = (
                    f"a plane of the saved image has a consistency residual of {max(errors):.2g}, above {self.bound:g}"
                )
                warnings.warn(text, CaseWarning, stacklevel=2)
        return d


def _mean_square(sr: torch.Tensor, lr: torch.Tensor, steps: Sequence[float] | None) -> float:
    return float(residual(sr.float(), lr.float(), steps).double().square().mean())
