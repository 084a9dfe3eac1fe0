"""The last transform of a bundle: real values for a host that saves results by itself."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from .case import KEY, Case
from .formats import to_real_values
from .transforms import warn_of_clipped


class GiveHostRealValuesd(MapTransform):
    """Make of stored values ``(C, X, Y, Z)`` the real ones that a reader of the saved file sees, unless it was saved.

    Hosts (MONAI Label, MONAI Deploy) take out what saves images and write the result themselves, as it is and without
    slope and intercept, which stored values need. The record, which is about stored values, goes. An image that was
    saved, or was read by the host, stays as it is.

    Args:
        keys: SR images.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            case = Case.from_meta(d[key].meta)
            if case is None or "saved_to" in d[key].meta:
                continue
            values = d[key].as_tensor().numpy(force=True)
            warn_of_clipped(to_real_values(values, case), case)
            meta = {name: value for name, value in d[key].meta.items() if name != KEY}
            d[key] = MetaTensor(torch.from_numpy(values), meta=meta)
        return d
