"""The record that every image carries from its reader to its writer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

KEY = "case"  # of the meta data of an image; its value is a JSON string, which survives any collation


@dataclass(frozen=True)
class Part:
    """A plane of an image that is stored plane by plane, as a DICOM series is.

    Attributes:
        path: of its file; one in an archive is named by :mod:`common.io.archive`.
        frame: its number in that file, from 0.
    """

    path: str
    frame: int


@dataclass(frozen=True)
class Case:
    """How an image was stored. Only reader, writer and geometry look into it.

    Attributes:
        source: path of the file; of a series of files, its folder and a name that :mod:`common.io.dicom` gives.
        format: a name of :data:`common.io.formats.FORMATS`.
        suffix: that the result's name ends with; ``""`` where the result is a folder.
        dtype: NumPy name of the stored type, byte order included, e.g. ``"<i2"``.
        slope, intercept: what makes real values of the stored ones: slope · stored + intercept.
        shape: shape of the stored array.
        volume: which volume of a 4-D array was taken, or None.
        channels_last: whether the last axis of the stored array holds channels.
        slice_axis: axis across which the planes are stacked, 0 to 2.
        affine: voxel to world (RAS, in ``units``), 4 × 4.
        units: of space, e.g. ``"mm"``.
        parts: the planes, where each is stored by itself.
        steps: of the result: stored voxels per voxel of it along X, Y and Z, around a common centre; None for the ratio
            of the sizes, with which the edges are common too.
        box: first and after last voxel along X, Y and Z of the region that the result shows; None for the whole image.
            What else is in the record, such as shape and affine, stays that of the stored image.
    """

    source: str
    format: str
    suffix: str
    dtype: str
    slope: float
    intercept: float
    shape: tuple[int, ...]
    volume: int | None
    channels_last: bool
    slice_axis: int
    affine: tuple[tuple[float, ...], ...]
    units: str
    parts: tuple[Part, ...] = ()
    steps: tuple[float, float, float] | None = None
    box: tuple[tuple[int, int], ...] | None = None

    def field(self, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the result shows of an image stored as ``shape`` (X, Y, Z): first voxel and number of them an axis."""
        box = self.box or tuple((0, size) for size in shape)
        return tuple(first for first, _ in box), tuple(end - first for first, end in box)

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
        fields["parts"] = tuple(Part(**part) for part in fields["parts"])
        fields["steps"] = fields["steps"] and tuple(fields["steps"])
        fields["box"] = fields["box"] and tuple(tuple(ends) for ends in fields["box"])
        return cls(**fields)
