"""Choices of a user that every reader takes, and checks in the same words."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from ..geometry import find_slice_axis


@dataclass(frozen=True)
class ReadOptions:
    """How an image is to be read, whatever its format.

    Attributes:
        in_channels: channels that the network takes.
        volume: which volume of a 4-D NIfTI file to read, from 0.
        channels_last: take the fourth axis of a NIfTI file as ``in_channels`` channels.
        slice_axis: axis across which planes are stacked; None to let the format or the affine say.
        analyze: also take Analyze pairs of ``.hdr`` and ``.img``; see :func:`common.io.nifti.read_nifti`.
    """

    in_channels: int = 1
    volume: int | None = None
    channels_last: bool = False
    slice_axis: int | None = None
    analyze: bool = False


DEFAULTS = ReadOptions()


def choose_slice_axis(
    path: str | os.PathLike[str], slice_axis: int | None, affine: np.ndarray, shape: tuple[int, ...]
) -> int:
    """``slice_axis``, or what :func:`find_slice_axis` finds where it is None.

    Args:
        path: of the file, for the message.
        slice_axis: 0, 1, 2 or None.
        affine: voxel to world, 4 × 4.
        shape: of the stored image: of two axes it is a single plane.

    Raises:
        ValueError: there is no such axis.
    """
    if slice_axis is None:
        return find_slice_axis(affine, (*shape, 1, 1)[:3])
    if slice_axis not in (0, 1, 2):
        raise ValueError(f"{path}: --slice_axis must be 0, 1 or 2, got {slice_axis}")
    if len(shape) == 2 and slice_axis != 2:
        raise ValueError(
            f"{path}: the file holds a single plane, --slice_axis must be 2, got {slice_axis}; leave it out"
        )
    return slice_axis


def check_stack_axis(path: object, slice_axis: int | None) -> None:
    """Raise ``ValueError`` where ``slice_axis`` is not 2, for a format that has no other axis across its planes."""
    if slice_axis not in (None, 2):
        raise ValueError(f"{path}: planes lie across axis 2, --slice_axis must be 2, got {slice_axis}; leave it out")


def refuse_nifti_options(path: object, options: ReadOptions) -> None:
    """Raise ``ValueError`` where an option that only 4-D NIfTI files have is set."""
    if options.volume is not None:
        raise ValueError(f"{path}: --volume chooses from a 4-D NIfTI file, got {options.volume}; leave it out")
    if options.channels_last:
        raise ValueError(f"{path}: --channels_last says what a 4-D NIfTI file means; leave it out, this header says it")


def check_channels(path: object, channels: int, in_channels: int, names: str = "") -> None:
    """Raise ``ValueError`` where a file's ``channels``, by their ``names``, are not those that the network takes."""
    if channels != in_channels:
        raise ValueError(
            f"{path}: the network takes {in_channels} channels, the file has {channels}{names and f' ({names})'}; "
            "use a network of that many channels, or convert the file"
        )
