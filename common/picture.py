"""One picture of a result: input, bicubic, super-resolved and consistency residual, at the same place."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from nibabel.orientations import aff2axcodes
from PIL import Image, ImageDraw, ImageFont

from .consistency import residual
from .geometry import scaled_size
from .io.nifti import read_nifti
from .transforms.degradation import resample

PANEL = 512  # pixels, the longer side of a panel
ZOOM = 4  # the second row shows a quarter of the side
RESIDUAL_RANGE = 0.05  # of the LR plane's range, at full red or blue


def draw_case(
    source: str, result: str, path: str | os.PathLike[str], volume: int | None = None, method: str = "SR"
) -> None:
    """Write a PNG of four panels, the whole middle plane above and a detail of it below.

    Args:
        source: LR NIfTI.
        result: its SR NIfTI.
        path: of the PNG.
        volume: of a 4-D ``source``.
        method: what the third panel is called.

    Raises:
        ValueError: ``result`` is not a magnification of ``source`` in planes.
    """
    low_volume, case = read_nifti(source, volume=volume)
    codes = [code for i, code in enumerate(aff2axcodes(np.asarray(case.affine))) if i != case.slice_axis]
    high_volume, _ = read_nifti(result)
    axis = case.slice_axis
    if low_volume.shape[axis + 1] != high_volume.shape[axis + 1]:
        raise ValueError(
            f"{result}: must have as many planes as {source}, got {high_volume.shape} and {low_volume.shape}"
        )
    middle = low_volume.shape[axis + 1] // 2
    low, high = (torch.from_numpy(v.take(middle, axis + 1))[None] for v in (low_volume, high_volume))
    left = residual(high, low)
    bicubic = resample(low, high.shape[2:])
    nearest = torch.nn.functional.interpolate(low, size=high.shape[2:], mode="nearest-exact")
    left = torch.nn.functional.interpolate(left, size=high.shape[2:], mode="nearest-exact")
    window = float(low.min()), float(torch.quantile(low, 0.999))
    grey = [_grey(image[0, 0], window) for image in (nearest, bicubic, high)]
    panels = [*grey, _signed(left[0, 0] / ((window[1] - window[0]) or 1.0))]
    titles = [
        f"input {_size(low)}",
        f"bicubic {_size(high)}",
        f"{method} {_size(high)}",
        f"residual, full colour = {RESIDUAL_RANGE:.0%} of range",
    ]
    sheet = _sheet([[_upright(p) for p in panels], [_detail(_upright(p)) for p in panels]], titles)
    _mark_sides(sheet, codes, _upright(panels[0]).shape)
    sheet.save(path)


def _size(plane: torch.Tensor) -> str:
    return f"{plane.shape[2]} x {plane.shape[3]}"


def _grey(plane: torch.Tensor, window: tuple[float, float]) -> np.ndarray:
    unit = ((plane - window[0]) / ((window[1] - window[0]) or 1.0)).clamp(0, 1)
    return np.repeat((unit * 255).round().byte().numpy()[..., None], 3, axis=2)


def _signed(plane: torch.Tensor) -> np.ndarray:
    """Red where the input is brighter than the simulated one, blue where it is darker, white where they agree."""
    level = (plane / RESIDUAL_RANGE).clamp(-1, 1)
    channels = [1 + level.clamp(max=0), 1 - level.abs(), 1 - level.clamp(min=0)]
    return np.asarray((torch.stack(channels, dim=2) * 255).round().byte())


def _upright(panel: np.ndarray) -> np.ndarray:
    """First array axis to the right, second up; letters at the sides say what that is in the patient."""
    return np.ascontiguousarray(np.flip(panel.swapaxes(0, 1), axis=0))


def _detail(panel: np.ndarray) -> np.ndarray:
    height, width = panel.shape[0] // ZOOM, panel.shape[1] // ZOOM
    top, left = height + height // 2, width + width // 2
    return panel[top : top + height, left : left + width]


def _mark_sides(sheet: Image.Image, codes: Sequence[str], shape: tuple[int, ...]) -> None:
    """Letters at the sides of the first panel: where right, anterior, superior and their opposites are."""
    factor = PANEL / max(shape[:2])
    width, height = scaled_size(shape[1], factor), scaled_size(shape[0], factor)
    opposite = dict(zip("RLAPSI", "LRPAIS", strict=True))
    places = {
        (width - 10, 35 + height // 2): codes[0],
        (10, 35 + height // 2): opposite[codes[0]],
        (width // 2, 40): codes[1],
        (width // 2, 15 + height): opposite[codes[1]],
    }
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for place, letter in places.items():
        draw.text(place, letter, fill="yellow", font=font)


def _sheet(rows: list[list[np.ndarray]], titles: list[str]) -> Image.Image:
    height, width = rows[0][0].shape[:2]
    factor = PANEL / max(height, width)
    size = scaled_size(width, factor), scaled_size(height, factor)
    sheet = Image.new("RGB", (4 * size[0] + 25, 2 * size[1] + 45), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for column, title in enumerate(titles):
        draw.text((5 + column * (size[0] + 5), 8), title, fill="black", font=font)
        for row, panels in enumerate(rows):
            panel = Image.fromarray(panels[column]).resize(size, Image.Resampling.NEAREST)
            sheet.paste(panel, (5 + column * (size[0] + 5), 35 + row * (size[1] + 5)))
    return sheet
