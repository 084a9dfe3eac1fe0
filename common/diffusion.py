"""Diffusion tensors and the maps of DT-CMR: mean diffusivity, fractional anisotropy, helix angle, E2A.

Zhu, dissertation, section 3.4.1, figures 3.10 and 3.11, which names the maps alone. Fit: Basser, Mattiello and Le
Bihan, Journal of Magnetic Resonance B 103, 1994, weighted as Salvador et al., Human Brain Mapping 24, 2005. MD and FA:
Basser and Pierpaoli, Journal of Magnetic Resonance B 111, 1996. Angles: Ferreira et al., Journal of Cardiovascular
Magnetic Resonance 16:87, 2014, and Nielles-Vallespin et al., Journal of the American College of Cardiology 69, 2017.
Written from the papers; dipy has the fit too, but needs Python 3.11 and h5py for these few lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

MAPS = {  # name: heading, unit
    "md": ("MD", "10⁻³ mm²/s"),
    "fa": ("FA", ""),
    "ha": ("helix angle", "°"),
    "e2a": ("E2A", "°"),
}
ANGLES = ("ha", "e2a")
FLOOR = 1e-4  # not in the paper: of the largest signal; what is darker has no logarithm that means anything
TO_BASE = (1.0, -1.0, 1.0)  # not in the paper: from apex to base, right, posterior and superior in RAS
PART = 65536  # voxels at once
SECTORS = 36  # around the left ventricle, in which the wall's inner and outer edges are sought


@dataclass(frozen=True)
class Frame:
    """Local cardiac coordinates of V voxels: unit vectors ``(V, 3)`` in RAS, float64.

    Attributes:
        radial: from the centre of the left ventricle outwards, in the short-axis plane.
        circumferential: longitudinal × radial, counterclockwise seen from the base.
        longitudinal: across the plane, to the base; the same for all.
        radius: distance from the centre, ``(V,)``, in the unit of the affine.
        turn: angle around the centre, ``(V,)``, in degrees from the first axis of the plane.
    """

    radial: torch.Tensor
    circumferential: torch.Tensor
    longitudinal: torch.Tensor
    radius: torch.Tensor
    turn: torch.Tensor


def fit_tensors(signals: torch.Tensor, design: torch.Tensor) -> torch.Tensor:
    """Tensors ``(V, 3, 3)`` in 10⁻³ mm²/s that fit ``signals`` (V, N) best, with S0, in the logarithm.

    Each measurement has the weight of its signal: the noise of the logarithm goes with its inverse.

    Args:
        signals: real values, float64; what is below ``FLOOR`` of the largest counts as that.
        design: ``(N, 7)``, float64, of :func:`common.gradients.design_matrix`.
    """
    least = max(float(signals.max()) * FLOOR, 1e-30)
    parts = []
    for part in signals.clamp(min=least).split(PART):
        weights = part / part.amax(1, keepdim=True)
        found = torch.linalg.lstsq(weights[..., None] * design, (weights * part.log())[..., None])
        parts.append(found.solution[:, 1:, 0])
    xx, yy, zz, xy, xz, yz = torch.cat(parts).unbind(1)
    return torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], dim=1).reshape(-1, 3, 3)


def tensor_maps(tensors: torch.Tensor, frame: Frame) -> dict[str, torch.Tensor]:
    """All of ``MAPS`` for tensors ``(V, 3, 3)`` in RAS: each ``(V,)``, angles in degrees from -90 to 90.

    Eigenvalues below 0, which noise makes, count as 0.
    """
    values, vectors = torch.linalg.eigh(tensors)
    values = values.clamp(min=0)
    first, second = vectors[..., 2], vectors[..., 1]
    along = first - _dot(first, frame.radial) * frame.radial  # in the tangent plane of the wall
    along = torch.where(_dot(along, frame.circumferential) < 0, -along, along)
    across = torch.nn.functional.normalize(torch.linalg.cross(frame.radial, along), dim=1)
    helix = torch.atan2(_dot(along, frame.longitudinal), _dot(along, frame.circumferential))
    sheet = torch.atan2(_dot(second, frame.radial), _dot(second, across))
    return {
        "md": values.mean(1),
        "fa": fractional_anisotropy(values),
        "ha": torch.rad2deg(helix)[:, 0],
        "e2a": wrapped(torch.rad2deg(sheet)[:, 0]),
    }


def fractional_anisotropy(eigenvalues: torch.Tensor) -> torch.Tensor:
    """FA ``(V,)`` of eigenvalues ``(V, 3)`` in 10⁻³ mm²/s; 0 where all are, to a millionth."""
    spread = (eigenvalues - eigenvalues.mean(1, keepdim=True)).square().sum(1)
    size = eigenvalues.square().sum(1)
    return torch.where(size > 1e-12, 1.5 * spread / size.clamp(min=1e-12), torch.zeros_like(size)).sqrt()


def wrapped(angle: torch.Tensor) -> torch.Tensor:
    """Angles of axes, in degrees: those that differ by 180 are one, from -90 to just below 90."""
    return (angle + 90).remainder(180) - 90


def rmse(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Root mean square difference of each map over its voxels; angles differ by 90° at most."""
    gaps = {name: one[name] - other[name] for name in MAPS}
    gaps |= {name: wrapped(gaps[name]) for name in ANGLES}
    return {name: float(gap.square().mean().sqrt()) for name, gap in gaps.items()}


def cardiac_frame(voxels: np.ndarray, centres: np.ndarray, affine: np.ndarray, slice_axis: int) -> Frame:
    """Local cardiac coordinates at ``voxels`` of a short-axis stack.

    Args:
        voxels: indices ``(V, 3)``.
        centres: of the left ventricle in the plane of each of them, ``(V, 3)``, indices or between them.
        affine: voxel to RAS, 4 × 4.
        slice_axis: across the short-axis planes.
    """
    columns = torch.from_numpy(np.asarray(affine, dtype=np.float64)[:3, :3])
    first, second = (columns[:, axis] for axis in range(3) if axis != slice_axis)
    normal = torch.nn.functional.normalize(torch.linalg.cross(first, second), dim=0)
    longitudinal = -normal if float(normal @ torch.tensor(TO_BASE, dtype=torch.float64)) < 0 else normal
    away = torch.from_numpy(np.asarray(voxels - centres, dtype=np.float64)) @ columns.T
    radial = torch.nn.functional.normalize(away, dim=1)
    stacked = longitudinal.expand_as(radial)
    across = torch.nn.functional.normalize(first, dim=0)
    turn = torch.atan2(away @ torch.linalg.cross(longitudinal, across), away @ across)
    circumferential = torch.linalg.cross(stacked, radial)
    return Frame(radial, circumferential, stacked, away.norm(dim=1), torch.rad2deg(turn))


def wall_depth(frame: Frame, slices: torch.Tensor) -> torch.Tensor:
    """How deep in the wall each voxel lies, ``(V,)``: 0 at the endocardium, 1 at the epicardium.

    The edges are the voxels nearest to and farthest from the centre, in each sector of each slice; a sector one voxel
    thick lies in the middle.

    Args:
        frame: of the voxels of the wall.
        slices: of which slice each is, ``(V,)``, whole numbers from 0.
    """
    sector = ((frame.turn + 180) / 360 * SECTORS).floor().long().clamp(0, SECTORS - 1) + slices * SECTORS
    bounds = torch.stack([torch.full((int(sector.max()) + 1,), value, dtype=torch.float64) for value in (1e30, -1.0)])
    inner = bounds[0].scatter_reduce(0, sector, frame.radius, "amin")[sector]
    outer = bounds[1].scatter_reduce(0, sector, frame.radius, "amax")[sector]
    thick = outer - inner
    middle = torch.full_like(thick, 0.5)
    return torch.where(thick > 0, (frame.radius - inner) / thick.clamp(min=1e-30), middle)


def angle_profile(angles: torch.Tensor, depth: torch.Tensor, bins: int) -> list[float | None]:
    """Mean angle of axes, in degrees, in each of ``bins`` equal parts of the depth; None where no voxel is.

    The mean is that of directions of twice the angle, so that -89° and 89° have 90° between them and not 0°.
    """
    place = (depth * bins).floor().long().clamp(0, bins - 1)
    twice = torch.deg2rad(2 * angles)
    means: list[float | None] = []
    for number in range(bins):
        here = twice[place == number]
        mean = torch.rad2deg(torch.atan2(here.sin().sum(), here.cos().sum())) / 2
        means.append(float(mean) if len(here) else None)
    return means


def slice_centres(mask: np.ndarray, slice_axis: int, centre: Sequence[float] | None) -> np.ndarray:
    """Centre of the left ventricle in each slice, ``(slices, 3)``, as indices; NaN where the mask is empty.

    Args:
        mask: ``(X, Y, Z)`` of the ventricle or its wall, whose mean place is the centre.
        slice_axis: across the planes.
        centre: row and column for all slices, in place of that.
    """
    centres = np.full((mask.shape[slice_axis], 3), np.nan)
    for number, plane in enumerate(np.moveaxis(mask, slice_axis, 0)):
        place = list(centre) if centre is not None else np.argwhere(plane).mean(0) if plane.any() else [np.nan] * 2
        centres[number] = np.insert(np.asarray(place, dtype=np.float64), slice_axis, number)
    return centres


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum(1, keepdim=True)
