"""Scores over the scale as curves, as the dissertation's figure 4.5; drawn by matplotlib, which is optional."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .io.whole import write_whole
from .protocol import told_planes
from .scale_tables import FRECHET
from .tables import BICUBIC, COLUMNS

PANEL, DPI = (5.0, 4.4), 120  # inches, and pixels per inch
HEAD = 0.8  # inches above the panels
COLOURS = "#777777", "#0060c0"  # of bicubic and of the method
DASHES = "-", "--"  # of the tasks
MARKS = "o", "s"


def need_matplotlib() -> None:
    """Raise ``ValueError`` where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'matplotlib: must be installed for the curves, got {error}; run pip install -e ".[curves]", or pass '
            "--curves false"
        ) from error


def draw_scales(path: Path, summary: Mapping[str, Any]) -> None:
    """Write a PNG of PSNR, SSIM and, where there is one, the Fréchet distance over the scale.

    Args:
        path: of the picture.
        summary: what ``scales.json`` says; scores that are blank or infinite are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[str, Callable[[Mapping[str, Any], str], float | None]] = {
        COLUMNS["psnr"][0]: lambda entry, name: entry[name]["psnr"]["mean"],
        COLUMNS["ssim"][0]: lambda entry, name: entry[name]["ssim"]["mean"],
    }
    features = summary["points"][0].get("features")
    if features:
        heading = f"Fréchet distance in features of\n{features['network']}"
        panels[heading] = lambda entry, name: entry["features"][name][FRECHET]
    figure = Figure((PANEL[0] * len(panels), PANEL[1] + HEAD), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)  # needs no display
    axes = figure.subplots(1, len(panels))
    for place, (heading, value) in zip(axes, panels.items(), strict=True):
        _draw_panel(place, summary, value)
        place.set(xlabel="scale", ylabel=heading)
        place.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    heading = f"{summary['method']}, protocol {summary['protocol']}, mean over {summary['patients']} patients"
    heading += told_planes(summary["every"])
    figure.suptitle(
        "\n".join([heading, *(f"{task}: {about}" for task, about in summary["tasks"].items())]), fontsize=10
    )
    write_whole(path, lambda file: figure.savefig(file))


def _draw_panel(axes: Any, summary: Mapping[str, Any], value: Callable[[Mapping[str, Any], str], float | None]) -> None:
    for task, dash, mark in zip(summary["tasks"], DASHES, MARKS, strict=False):
        for name, colour in zip((BICUBIC, summary["method"]), COLOURS, strict=True):
            points = [(entry["scale"], value(entry, name)) for entry in summary["points"] if entry["task"] == task]
            there = [(scale, score) for scale, score in points if score is not None and math.isfinite(score)]
            scales, scores = [scale for scale, _ in there], [score for _, score in there]
            style = {"color": colour, "linestyle": dash, "marker": mark, "markersize": 3.5}
            axes.plot(scales, scores, label=f"{name}, {task}", **style)
