"""Maps of DT-CMR side by side and the helix angle through the wall, as figures 3.11 and 3.10 (e), by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .curves import DPI
from .diffusion import ANGLES, MAPS
from .io.whole import write_whole

SIDE = 2.6  # inches, of a panel
COLOURS = {"md": "viridis", "fa": "inferno", "ha": "twilight_shifted", "e2a": "twilight_shifted"}  # angles go round


def draw_maps(
    path: Path, planes: Mapping[str, Mapping[str, np.ndarray]], profile: Mapping[str, Sequence[float | None]] | None
) -> None:
    """Write a PNG: a row of maps for each method, HR first, and below them the profile where there is one.

    Args:
        path: of the picture.
        planes: of each method the maps of one slice, ``(H, W)`` in array order, NaN outside the wall.
        profile: ``depth`` in per cent, and the mean helix angle of each method there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(planes)
    figure = Figure((SIDE * len(MAPS) + 1, SIDE * (count + bool(profile))), dpi=DPI, layout="compressed")
    FigureCanvasAgg(figure)  # needs no display
    grid = figure.add_gridspec(count + bool(profile), len(MAPS))
    reference = next(iter(planes.values()))
    for column, (name, (heading, unit)) in enumerate(MAPS.items()):
        low, high = (-90.0, 90.0) if name in ANGLES else (0.0, 1.0 if name == "fa" else _top(reference[name]))
        places = [figure.add_subplot(grid[row, column]) for row in range(count)]
        for place, (method, maps) in zip(places, planes.items(), strict=True):
            shown = place.imshow(_cut(maps[name]).T, COLOURS[name], vmin=low, vmax=high, origin="lower")
            place.set(xticks=[], yticks=[], ylabel="" if column else method)
        places[0].set_title(f"{heading} ({unit})" if unit else heading, fontsize=10)
        figure.colorbar(shown, ax=places, shrink=0.8)
    if profile:
        _draw_profile(figure.add_subplot(grid[count, :]), profile)
    write_whole(path, lambda file: figure.savefig(file))


def _draw_profile(axes: Any, profile: Mapping[str, Sequence[float | None]]) -> None:
    for method, angles in profile.items():
        if method != "depth":
            axes.plot(profile["depth"], [np.nan if angle is None else angle for angle in angles], "o-", label=method)
    axes.set(xlabel="depth in the wall, endocardium to epicardium (%)", ylabel="helix angle (°)")
    axes.grid(alpha=0.3)
    axes.legend()


def _top(plane: np.ndarray) -> float:
    return 1.2 * float(np.nanquantile(plane, 0.98)) or 1.0


def _cut(plane: np.ndarray) -> np.ndarray:
    """The box around what is not NaN, and two voxels more."""
    rows, columns = np.nonzero(~np.isnan(plane))
    return plane[max(rows.min() - 2, 0) : rows.max() + 3, max(columns.min() - 2, 0) : columns.max() + 3]
