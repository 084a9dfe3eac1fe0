"""``python -m common diffusion``: DT-CMR maps of HR and of SR, their differences, and the helix angle through the wall.

Zhu, dissertation, section 3.4.1, figures 3.10 and 3.11. The fit, the maps and their sources are in
:mod:`common.diffusion`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from .curves import need_matplotlib
from .diffusion import MAPS, Frame, angle_profile, cardiac_frame, fit_tensors, rmse, slice_centres, tensor_maps
from .diffusion import wall_depth as depth_in_wall
from .diffusion_picture import draw_maps
from .diffusion_series import REFERENCE, check_grid, foreground, named_series, point, read_series, read_wall
from .errors import as_flag
from .gradients import Gradients, design_matrix, read_gradients
from .io.case import Case
from .io.whole import write_whole
from .run import writable
from .tables import number, write_csv, write_summary

BINS = 10  # of the depth in the wall
SEPTUM = 60.0  # degrees to each side of its middle: two of the six segments of Cerqueira et al., Circulation 105, 2002
FILES = "maps"


@dataclass(frozen=True)
class Wall:
    """The voxels that are looked at, V of them, on the grid of HR.

    Attributes:
        mask: ``(X, Y, Z)``.
        voxels: their indices ``(V, 3)``, in the order of the mask.
        frame: local cardiac coordinates.
        depth: in the wall, ``(V,)``; None where no mask says what the wall is.
        in_profile: ``(V,)``, which of them the profile is taken over.
    """

    mask: np.ndarray
    voxels: np.ndarray
    frame: Frame
    depth: torch.Tensor | None
    in_profile: torch.Tensor


def diffusion(
    hr: str,
    sr: str | Sequence[str],
    bval: str,
    bvec: str,
    output_dir: str,
    mask: str | None = None,
    label: int | None = None,
    centre: Sequence[float] | None = None,
    septum: Sequence[float] | None = None,
    slice_axis: int | None = None,
    curves: bool = True,
) -> str:
    """Diffusion maps of HR and SR, their root mean square differences, and the helix angle through the wall.

    Leaves ``NAME_md.nii.gz``, ``_fa``, ``_ha`` and ``_e2a`` of HR and of each SR, ``maps.csv``, ``maps.json``,
    ``maps.md`` and ``maps.png``.

    Args:
        hr: 4-D NIfTI file of short-axis diffusion-weighted images.
        sr: the same, super-resolved on its grid; or several, as name=FILE,name=FILE.
        bval: FSL's b-values in s/mm².
        bvec: FSL's directions.
        output_dir: folder; made where it is missing. Earlier results in it are replaced.
        mask: of the wall of the left ventricle, NIfTI on the grid of HR; without one all that is not air is compared.
        label: value in the mask that is the wall; by default all above 0.
        centre: of the left ventricle, two voxel indices in the plane; by default the mean place of the mask, in each
            slice.
        septum: a voxel in the middle of the septum; the profile is then of the third of the wall around it.
        slice_axis: 0, 1 or 2: across the short-axis planes.
        curves: whether to draw ``maps.png``, which needs matplotlib.

    Raises:
        ValueError: a file cannot be used, images lie on different grids, nothing says where the ventricle is, or
            matplotlib is not installed.
    """
    curves = as_flag(curves, "curves")
    if curves:
        need_matplotlib()
    gradients, series = read_gradients(bval, bvec), {REFERENCE: hr, **named_series(sr)}
    truth, case = read_series(hr, bval, len(gradients.bvals), slice_axis)
    wall = _find_wall(truth, case, (mask, label), point(centre, "centre"), point(septum, "septum"))
    maps, dark = {}, {}
    for name, path in series.items():
        values, own = (truth, case) if path == hr else read_series(path, bval, len(gradients.bvals), slice_axis)
        check_grid(path, values.shape[1:], own, truth.shape[1:], case)
        maps[name] = _maps_of(values, wall, gradients, case)
        dark[name] = int((values[:, wall.mask] <= 0).any(0).sum())
    summary = {"files": series, "bvals": gradients.bvals.tolist(), "voxels": len(wall.voxels), "dark_voxels": dark}
    summary["rmse"] = {name: rmse(found, maps[REFERENCE]) for name, found in maps.items() if name != REFERENCE}
    summary["profile"] = _profiles(maps, wall)
    return _write(writable(output_dir), summary, maps, wall, case, curves)


def _find_wall(
    truth: np.ndarray,
    case: Case,
    mask: tuple[str | None, int | None],
    centre: tuple[float, float] | None,
    septum: tuple[float, float] | None,
) -> Wall:
    """The wall out of a mask and its label, or what is not air; and what is known of the ventricle."""
    path, label = mask
    if path is None and (centre is None or label is not None or septum is not None):
        asked = "--label and --septum need --mask" if centre else "--mask or --centre must say where the ventricle is"
        raise ValueError(f"{case.source}: {asked}, got no mask; pass --mask FILE")
    drawn = foreground(truth) if path is None else read_wall(path, label, truth.shape[1:], case)
    axis, affine = case.slice_axis, np.asarray(case.affine)
    voxels = np.argwhere(drawn)
    slices, centres = torch.from_numpy(voxels[:, axis]), slice_centres(drawn, axis, centre)[voxels[:, axis]]
    frame = cardiac_frame(voxels, centres, affine, axis)
    depth = None if path is None else depth_in_wall(frame, slices)
    inside = torch.ones(len(voxels), dtype=torch.bool)
    if septum is not None:
        middle = np.insert(np.tile(np.asarray(septum), (len(voxels), 1)), axis, voxels[:, axis], axis=1)
        away = (frame.turn - cardiac_frame(middle, centres, affine, axis).turn + 180).remainder(360) - 180
        inside = away.abs() <= SEPTUM
    return Wall(drawn, voxels, frame, depth, inside)


def _maps_of(values: np.ndarray, wall: Wall, gradients: Gradients, case: Case) -> dict[str, torch.Tensor]:
    design = design_matrix(gradients.bvals, gradients.in_world(np.asarray(case.affine)))
    signals = torch.from_numpy(values[:, wall.mask].T.astype(np.float64))
    return tensor_maps(fit_tensors(signals, torch.from_numpy(design)), wall.frame)


def _profiles(maps: Mapping[str, Mapping[str, torch.Tensor]], wall: Wall) -> dict[str, list[float | None]] | None:
    """Middle of each part of the depth, in per cent, and the mean helix angle there by each method."""
    if wall.depth is None:
        return None
    here = wall.in_profile
    angles = {name: angle_profile(found["ha"][here], wall.depth[here], BINS) for name, found in maps.items()}
    return {"depth": [100 * (number + 0.5) / BINS for number in range(BINS)], **angles}


def _volume(values: torch.Tensor, wall: Wall) -> np.ndarray:
    volume = np.zeros(wall.mask.shape, np.float32)
    volume[wall.mask] = values.numpy()
    return volume


def _planes(maps: Mapping[str, torch.Tensor], wall: Wall, case: Case) -> dict[str, np.ndarray]:
    """Each map in the slice with most voxels of the wall, NaN outside of it."""
    axis = case.slice_axis
    most = int(np.moveaxis(wall.mask, axis, 0).sum((1, 2)).argmax())
    shown = wall.mask.take(most, axis)
    return {name: np.where(shown, _volume(values, wall).take(most, axis), np.nan) for name, values in maps.items()}


def _write(
    folder: Path,
    summary: dict[str, Any],
    maps: Mapping[str, Mapping[str, torch.Tensor]],
    wall: Wall,
    case: Case,
    curves: bool,
) -> str:
    """All files; returns what ``maps.md`` says."""
    for method, found in maps.items():
        for name, values in found.items():
            image = nib.Nifti1Image(_volume(values, wall), np.asarray(case.affine))
            write_whole(folder / f"{method}_{name}.nii.gz", image.to_filename)
    text, picture = _markdown(summary), folder / f"{FILES}.png"
    write_whole(folder / f"{FILES}.csv", lambda path: write_csv(path, _rows(summary)))
    write_summary(folder, summary, text, FILES)
    picture.unlink(missing_ok=True)  # of an earlier evaluation
    if curves:
        draw_maps(picture, {name: _planes(found, wall, case) for name, found in maps.items()}, summary["profile"])
    return text


def _rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"method": name, "voxels": summary["voxels"], **errors} for name, errors in summary["rmse"].items()]


def _markdown(summary: Mapping[str, Any]) -> str:
    headings = [f"{heading} ({unit})" if unit else heading for heading, unit in MAPS.values()]
    lines = [f"| RMSE over {summary['voxels']} voxels | {' | '.join(headings)} |", "|---" * (1 + len(MAPS)) + "|"]
    for method, errors in summary["rmse"].items():
        lines.append(f"| {method} | {' | '.join(format(errors[name], '.4g') for name in MAPS)} |")
    profile = summary["profile"]
    if profile:
        methods = [name for name in profile if name != "depth"]
        lines += ["", f"| depth in the wall, helix angle (°) | {' | '.join(methods)} |"]
        lines.append("|---" * (1 + len(methods)) + "|")
        for place, depth in enumerate(profile["depth"]):
            lines.append(f"| {depth:.0f} % | {' | '.join(number(profile[name][place], '.1f') for name in methods)} |")
    return "\n".join(lines) + "\n"
