"""The record that every image carries from its reader to its writer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

KEY = "case"  # of the meta data of an image; its value is a JSON string, which survives any collation


@dataclass(frozen=True)
class Case:
    """How an image was stored. Only reader, writer and geometry look into it.

    Attributes:
        source: path of the file.
        format: ``"nifti"``.
        dtype: NumPy name of the stored type, byte order included, e.g. ``"<i2"``.
        slope, intercept: what makes real values of the stored ones: slope · stored + intercept.
        shape: shape of the stored array.
        volume: which volume of a 4-D array was taken, or None.
        channels_last: whether the last axis of the stored array holds channels.
        slice_axis: axis across which the planes are stacked, 0 to 2.
        affine: voxel to world (RAS, in ``units``), 4 × 4.
        units: of space, e.g. ``"mm"``.
    """

    source: str
    format: str
    dtype: str
    slope: float
    intercept: float
    shape: tuple[int, ...]
    volume: int | None
    channels_last: bool
    slice_axis: int
    affine: tuple[tuple[float, ...], ...]
    units: str

    def to_meta(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Case | None:
        """The record in an image's meta data; None where a host other than our reader made the image."""
        if KEY not in meta:
            return None
        text = meta[KEY]
        fields = json.loads(text if isinstance(text, str) else text[0])  # a list of one while it is a batch
        fields["shape"] = tuple(fields["shape"])
        fields["affine"] = tuple(tuple(row) for row in fields["affine"])
        return cls(**fields)
