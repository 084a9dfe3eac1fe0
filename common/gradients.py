"""Diffusion weighting: b-values and directions of FSL's text files, and what they let a tensor fit tell.

FSL gives directions in the axes of the voxels, x reversed where the determinant of the affine is positive (FDT, user
guide, "bvecs"). Here they are turned into the world, RAS.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

UNWEIGHTED = 50.0  # s/mm²; below, a measurement may have no direction
NORM = 0.05  # how far the length of a direction may be from 1
UNIT = 1000.0  # b in ms/µm² makes diffusivities of 10⁻³ mm²/s, near 1
CONDITION = 100.0  # of the design; six directions at b of 150 and 600 have 8, those at 500 and 600 have 23


@dataclass(frozen=True)
class Gradients:
    """How each volume of a series was weighted.

    Attributes:
        bvals: ``(N,)`` in s/mm².
        bvecs: ``(N, 3)``, FSL's, of length 1 or 0.
    """

    bvals: np.ndarray
    bvecs: np.ndarray

    def in_world(self, affine: np.ndarray) -> np.ndarray:
        """Directions ``(N, 3)`` in RAS for an image with this affine (4 × 4); shears are left out of it."""
        columns = np.asarray(affine, dtype=np.float64)[:3, :3]
        flip = np.array([-1.0 if np.linalg.det(columns) > 0 else 1.0, 1.0, 1.0])
        return (self.bvecs * flip) @ (columns / np.linalg.norm(columns, axis=0)).T


def read_gradients(bval: str | os.PathLike[str], bvec: str | os.PathLike[str]) -> Gradients:
    """Read FSL's two text files: b-values in a row, directions in three rows (or one a row).

    Raises:
        ValueError: a file is no table of numbers, the two do not match, or a direction is missing or not of length 1.
    """
    bvals, table = _numbers(bval).ravel(), _numbers(bvec)
    bvecs = table.T if table.shape == (3, len(bvals)) else table
    if bvecs.shape != (len(bvals), 3):
        raise ValueError(
            f"{bvec}: must hold a direction for each of the {len(bvals)} b-values in {bval}, 3 x {len(bvals)} numbers, "
            f"got {' x '.join(map(str, table.shape))}; pass the files of one series"
        )
    if not np.isfinite(bvals).all() or bvals.min() < 0:
        raise ValueError(f"{bval}: b-values must be finite and at least 0, in s/mm², got {bvals}; mend the file")
    bvecs = np.where((bvals < UNWEIGHTED)[:, None], np.nan_to_num(bvecs), bvecs)
    lengths = np.linalg.norm(bvecs, axis=1)
    wrong = ~(np.abs(lengths - 1) <= NORM) & ~((lengths == 0) & (bvals < UNWEIGHTED))
    if wrong.any():
        number = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"{bvec}: directions must be of length 1 (0 only below b = {UNWEIGHTED:g}), got {bvecs[number]} for volume "
            f"{number} with b = {bvals[number]:g}; mend the file"
        )
    return Gradients(bvals, bvecs / np.where(lengths > 0, lengths, 1)[:, None])


def design_matrix(bvals: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """What takes ln S0 and Dxx, Dyy, Dzz, Dxy, Dxz, Dyz (in 10⁻³ mm²/s) to ln S: ``(N, 7)``.

    Basser, Mattiello and Le Bihan, Journal of Magnetic Resonance B 103, 1994: ln S = ln S0 - b gᵀ D g.

    Args:
        bvals: ``(N,)`` in s/mm².
        directions: ``(N, 3)``.

    Raises:
        ValueError: they do not tell S0 and six elements apart.
    """
    x, y, z = directions.T
    b = bvals / UNIT
    elements = [x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z]
    design = np.stack([np.ones_like(b), *(-b * element for element in elements)], axis=1)
    sizes = np.linalg.svd(design / np.maximum(np.linalg.norm(design, axis=0), 1e-12), compute_uv=False)
    if len(bvals) < 7 or sizes[0] > CONDITION * sizes[-1]:
        raise ValueError(
            f"bval and bvec: must tell S0 and six elements of a tensor, got {len(bvals)} volumes with b from "
            f"{bvals.min():g} to {bvals.max():g} that do not; it takes 6 directions, no two of them opposite, and two "
            "different b-values, of which one may be 0"
        )
    return design


def _numbers(path: str | os.PathLike[str]) -> np.ndarray:
    try:
        table = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: must be a text file of numbers, got {error}; pass FSL's .bval and .bvec") from error
    if table.size == 0:
        raise ValueError(f"{path}: must be a text file of numbers, got an empty one; pass FSL's .bval and .bvec")
    return np.asarray(table, dtype=np.float64)
