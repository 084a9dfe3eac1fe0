"""Pictures of a result: panels side by side at the same place, the whole plane above and a detail of it below."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from nibabel.orientations import aff2axcodes
from PIL import Image, ImageDraw, ImageFont

from .consistency import residual
from .geometry import scaled_size
from .io.case import Case
from .io.formats import read_image
from .io.options import ReadOptions
from .transforms.degradation import resample

PANEL = 512  # pixels, the longer side of a panel
ZOOM = 4  # the second row shows a quarter of the side
WRONG = (220, 30, 30)
COLOURS = np.array([[0, 0, 0], [60, 120, 255], [255, 200, 0], [0, 200, 80], [220, 60, 220]], np.uint8)  # of labels
RESIDUAL_RANGE = 0.05  # of the LR plane's range, at full red or blue
ERROR_RANGE = 0.25  # of the data range, at white
GAP, TITLE = 5, 30  # pixels between panels, and for a line of text


def draw_case(
    source: str, result: str, path: str | os.PathLike[str], volume: int | None = None, method: str = "SR"
) -> None:
    """Write a PNG of four panels, the whole middle plane above and a detail of it below.

    Args:
        source: LR image.
        result: its SR image.
        path: of the PNG.
        volume: of a 4-D ``source``.
        method: what the third panel is called.

    Raises:
        ValueError: ``result`` is not a magnification of ``source`` in planes.
    """
    low_volume, case = read_image(source, ReadOptions(volume=volume))
    high_volume, _ = read_image(result)
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
    _sheet(panels, titles, case).save(path)


def draw_comparison(planes: Sequence[torch.Tensor], titles: Sequence[str], case: Case) -> Image.Image:
    """Five panels: LR, bicubic, SR, HR, and the absolute error of SR.

    Args:
        planes: LR ``(h, w)``, then bicubic, SR and HR ``(H, W)``, in the data range brought to [0, 1].
        titles: the heading of the picture, then a title for each of ``planes``.
        case: record of the image, which says where its sides are.
    """
    low, bicubic, sr, hr = planes
    nearest = torch.nn.functional.interpolate(low[None, None], size=hr.shape, mode="nearest-exact")[0, 0]
    panels = [_grey(plane, (0.0, 1.0)) for plane in (nearest, bicubic, sr, hr)]
    panels.append(_grey((sr - hr).abs(), (0.0, ERROR_RANGE)))
    return _sheet(panels, [*titles[1:], f"error, white = {ERROR_RANGE:.0%} of range"], case, titles[0])


def draw_labels(image: torch.Tensor, labels: Sequence[torch.Tensor], heading: str, case: Case) -> Image.Image:
    """Four panels: an image, the true labels on it, the predicted ones, and in red where they differ.

    Args:
        image: ``(H, W)`` in [0, 1].
        labels: true and predicted, ``(H, W)``, whole numbers.
        heading: of the picture.
        case: record of the image, which says where its sides are.
    """
    grey, (truth, predicted) = _grey(image, (0.0, 1.0)), labels
    wrong = np.where((truth != predicted).numpy()[..., None], np.array(WRONG, np.uint8), grey)
    panels = [grey, _painted(grey, truth), _painted(grey, predicted), wrong]
    return _sheet(panels, ["image", "labels", "prediction", "difference"], case, heading)


def _painted(grey: np.ndarray, labels: torch.Tensor) -> np.ndarray:
    colours = COLOURS[labels.numpy() % len(COLOURS)]
    mixed = (grey.astype(np.float32) + colours) / 2
    return np.where(labels.numpy()[..., None] > 0, mixed, grey).astype(np.uint8)


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


def _sheet(panels: Sequence[np.ndarray], titles: Sequence[str], case: Case, heading: str = "") -> Image.Image:
    """Panels ``(H, W, 3)`` in array order, upright and titled, their details below; letters mark the sides."""
    upright = [_upright(panel) for panel in panels]
    height, width = upright[0].shape[:2]
    factor = PANEL / max(height, width)
    size = scaled_size(width, factor), scaled_size(height, factor)
    top = GAP + TITLE * (2 if heading else 1)
    sheet = Image.new("RGB", (len(panels) * (size[0] + GAP) + GAP, 2 * (size[1] + GAP) + top), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    draw.text((GAP, 8), heading, fill="black", font=font)
    for column, (title, panel) in enumerate(zip(titles, upright, strict=True)):
        left = GAP + column * (size[0] + GAP)
        draw.text((left, top - 27), title, fill="black", font=font)
        for row, pixels in enumerate((panel, _detail(panel))):
            image = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
            sheet.paste(image, (left, top + row * (size[1] + GAP)))
    _mark_sides(draw, case, size, top)
    return sheet


def _mark_sides(draw: ImageDraw.ImageDraw, case: Case, size: tuple[int, int], top: int) -> None:
    """Letters at the sides of the first panel: where right, anterior, superior and their opposites are."""
    codes = [code for i, code in enumerate(aff2axcodes(np.asarray(case.affine))) if i != case.slice_axis]
    opposite = dict(zip("RLAPSI", "LRPAIS", strict=True))
    width, height = size
    places = {
        (width - 10, top + height // 2): codes[0],
        (10, top + height // 2): opposite[codes[0]],
        (width // 2, top + 5): codes[1],
        (width // 2, top - 20 + height): opposite[codes[1]],
    }
    for place, letter in places.items():
        draw.text(place, letter, fill="yellow", font=ImageFont.load_default(size=15))
