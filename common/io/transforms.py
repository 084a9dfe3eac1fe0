"""The first and the last transform of a bundle: load an image with its record, save the result in its stored type.

They subclass MONAI's, and keep those names in theirs, because the hosts recognise them by name.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImaged, SaveImaged

from ..errors import CaseWarning, as_flag
from .case import KEY, Case
from .dicom.derived import Provenance
from .formats import read_image, stem, write_image
from .options import ReadOptions
from .whole import write_whole


class CaseLoadImaged(LoadImaged):
    """Path to ``MetaTensor`` ``(C, X, Y, Z)`` float32 of the stored values, with the :class:`Case` in its meta data.

    Args:
        keys: items that hold paths.
        in_channels, volume, channels_last, slice_axis, analyze: see :class:`common.io.options.ReadOptions`. An item may
            also be a list of ``in_channels`` paths, one a channel, on one grid; the record is that of the first.
    """

    def __init__(
        self,
        keys: KeysCollection,
        in_channels: int = 1,
        volume: int | None = None,
        channels_last: bool = False,
        slice_axis: int | None = None,
        analyze: bool = False,
    ) -> None:
        super().__init__(keys, reader="NibabelReader", ensure_channel_first=True)
        flag = as_flag(channels_last, "channels_last")
        self.options = ReadOptions(in_channels, volume, flag, slice_axis, analyze)

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            values, case = self._read(d[key])
            meta = {
                KEY: case.to_meta(),
                "filename_or_obj": case.source,
                "spatial_shape": np.asarray(values.shape[1:]),
                "original_channel_dim": 0,
                "original_affine": np.asarray(case.affine),
            }
            affine = torch.tensor(case.affine, dtype=torch.float64)
            d[key] = MetaTensor(torch.from_numpy(np.ascontiguousarray(values)), affine=affine, meta=meta)
        return d

    def _read(self, paths: str | os.PathLike[str] | Sequence[str]) -> tuple[np.ndarray, Case]:
        if isinstance(paths, (str, os.PathLike)):  # a DICOM series is path-like
            return read_image(paths, self.options)
        if len(paths) != self.options.in_channels:
            raise ValueError(
                f"{paths[0]}: the network takes {self.options.in_channels} channels, got {len(paths)} files; "
                f"name one for each channel, or pass --in_channels {len(paths)}"
            )
        each = replace(self.options, in_channels=1, channels_last=False)
        read = [read_image(path, each) for path in paths]
        first = read[0][1]
        for values, case in read:
            if values.shape != read[0][0].shape or not np.allclose(case.affine, first.affine, atol=1e-3):
                raise ValueError(f"{case.source}: must lie on the grid of {first.source}; resample it onto that grid")
        return np.concatenate([values for values, _ in read]), first


class CaseSaveImaged(SaveImaged):
    """Save ``(C, X, Y, Z)`` as ``<stem>_<postfix>``, in the format and stored type and with the header of its source.

    The image goes on as it was saved: rounded and clipped to the stored type. One without a record (a host read it) is
    saved by MONAI's own writer as float32. A result that exists is never replaced.

    Args:
        keys: images to save.
        output_dir: folder; made where it is missing.
        output_postfix: what follows the stem, e.g. ``"srx4"``.
        data_root_dir: folder that was searched for images; its subfolders are repeated under ``output_dir``.
        region: whether results are of a region alone; ``_region`` then ends their names.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | os.PathLike[str] = "./",
        output_postfix: str = "sr",
        data_root_dir: str | os.PathLike[str] = "",
        region: bool = False,
    ) -> None:
        output_postfix += "_region" * as_flag(region, "lesion_focus")
        super().__init__(
            keys,
            output_dir=str(output_dir),
            output_postfix=output_postfix,
            separate_folder=False,
            output_dtype=np.float32,
            resample=False,
        )
        self.output_dir, self.output_postfix, self.data_root_dir = output_dir, output_postfix, data_root_dir
        self.provenance: Provenance | None = None  # run_cases, which knows the weights, says what made the results
        self._sources: dict[Path, str] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            case = Case.from_meta(d[key].meta)
            if case is None:
                self.saver(d[key])
                continue
            path = self.path_of(case.source, case.suffix)
            if self._sources.setdefault(path, case.source) != case.source:
                raise ValueError(
                    f"{case.source}: its result would replace that of {self._sources[path]}; rename one of the two"
                )
            if os.path.lexists(path):
                raise ValueError(exists_already(path))
            values = d[key].as_tensor().numpy(force=True)
            self._write(values, case, path)
            d[key] = MetaTensor(torch.from_numpy(values), meta=d[key].meta)  # what follows sees what was saved
            d[key].meta["saved_to"] = str(path)
        return d

    def _write(self, values: np.ndarray, case: Case, path: Path) -> None:
        """Save ``values``, which become what was saved."""
        warn_of_clipped(write_image(values, case, path, self.provenance), case)

    def path_of(self, source: str | os.PathLike[str], suffix: str) -> Path:
        """Where the result of ``source`` goes; see :func:`output_path`."""
        return output_path(source, suffix, self.output_dir, self.output_postfix, self.data_root_dir)


class LabelSaveImaged(CaseSaveImaged):
    """Save labels ``(1, X, Y, Z)`` as ``<stem>_<postfix>.nii.gz`` of 8 bits on the grid of their source.

    The format is NIfTI whatever the source's. Arguments are those of :class:`CaseSaveImaged`.
    """

    def path_of(self, source: str | os.PathLike[str], suffix: str) -> Path:
        return super().path_of(source, ".nii.gz")

    def _write(self, values: np.ndarray, case: Case, path: Path) -> None:
        image = nib.Nifti1Image(values[0].astype(np.uint8), np.asarray(case.affine))
        image.header.set_xyzt_units(case.units if case.units in ("mm", "micron", "meter") else "unknown")
        write_whole(path, image.to_filename)


def warn_of_clipped(clipped: int, case: Case) -> None:
    """Say how many values were clipped to the stored type, if any were."""
    if clipped:
        text = f"{clipped} values outside the stored range ({np.dtype(case.dtype).name}) were clipped to it"
        warnings.warn(text, CaseWarning, stacklevel=3)


def exists_already(path: str | os.PathLike[str]) -> str:
    """Why a result is not saved: no file or folder is ever replaced."""
    return (
        f"{path}: exists already; pass --resume true to go on with an interrupted run, or choose another --output_dir"
    )


def output_path(
    source: str | os.PathLike[str],
    suffix: str,
    output_dir: str | os.PathLike[str],
    output_postfix: str,
    data_root_dir: str | os.PathLike[str] = "",
) -> Path:
    """Where the result of ``source`` goes: its folder below ``data_root_dir``, repeated below ``output_dir``.

    Args:
        source, suffix: of the :class:`Case`.
        output_dir, output_postfix, data_root_dir: see :class:`CaseSaveImaged`.
    """
    parent = Path(os.path.abspath(source)).parent  # links keep their own place
    root = Path(os.path.abspath(data_root_dir)) if data_root_dir else parent
    below = parent.relative_to(root) if parent.is_relative_to(root) else Path()
    return Path(output_dir) / below / f"{stem(source)}_{output_postfix}{suffix}"
