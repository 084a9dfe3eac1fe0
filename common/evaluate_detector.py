"""Evaluation of a lesion detector on held-out patients: on their HR images, and on LR images of several scales."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from .config import check_settings, config_sha256
from .data.items import Item, paths_of
from .data.labels import LabelScheme, read_labels
from .data.lesions import lesion_numbers
from .data.scales import as_scales
from .detection import BAD, Detection, by_patient, count_levels, detection_tables, judge_plane
from .errors import exits_on_mistake
from .evaluate import attempt, refuse_failed, run_all
from .frozen import load_detector
from .io.archive import sha256
from .io.whole import write_whole
from .protocol import Pair, Preprocessing, Protocol, Truth, read_truth
from .run import writable
from .tables import HR, write_csv, write_summary
from .transforms.centre import placed_inside, predict_centres
from .transforms.degradation import CLEAN
from .transforms.lesion import check_region, whole_pixels

NAME = "detection"  # of the files
AT_ONCE = 16  # planes
STATED = "degradation", "crop", "min_foreground"
logger = logging.getLogger("common.evaluate")


@dataclass
class Result:
    """What became of one image: a row a plane, or the error that it ended in; warnings on the way."""

    rows: list[Detection]
    error: str | None
    notes: list[str]


@dataclass(frozen=True)
class DetectorEvaluation:
    """A detector on a list of images with labels.

    Attributes:
        detector: in eval mode, on its device.
        items, preprocessing: see :class:`common.evaluate.Evaluation`.
        protocol: how LR follows from HR, crop and foreground; it is taken at each of ``scales``.
        scheme: of the labels, which the items name.
        lesion: the labels that count.
        region_size: height and width in HR pixels.
        scales: of LR.
    """

    detector: nn.Module
    items: Sequence[Item]
    preprocessing: Preprocessing
    protocol: Protocol
    scheme: LabelScheme
    lesion: Sequence[int]
    region_size: Sequence[int]
    scales: Sequence[float]

    def run(self, rank: int = 0, world: int = 1) -> dict[int, Result]:
        """Results of every ``world``-th image from number ``rank`` on; an image that fails does not cost the others."""
        return {number: self._run_item(number) for number in range(rank, len(self.items), world)}

    def _run_item(self, number: int) -> Result:
        name = paths_of(self.items[number])[0]
        rows, error, notes = attempt(name, lambda: self.look(self.items[number]))
        rows = rows or []
        bad = sum(row.level == BAD for row in rows)
        text = f"FAILED {error}" if error else f"{name}: {bad} of {len(rows)} detections bad"
        logger.info("%d of %d: %s", number + 1, len(self.items), text)
        return Result(rows, error, notes)

    def look(self, item: Item) -> list[Detection]:
        """What the detector finds in the planes of an image that have a lesion.

        Raises:
            ValueError: none has, or there are no labels; a region is larger than the planes; a centre is not finite.
        """
        truth = read_truth(item, self.preprocessing, self.protocol)
        labels = read_labels(item, truth.case, truth.size, self.scheme)
        plain = truth.pair(replace(self.protocol, scale=1, degradation=CLEAN))
        rows = self._find(truth, plain, plain.cut(labels), HR, 1)
        if not rows:
            raise ValueError(
                f"{item['label']}: a plane must have a lesion (label {', '.join(map(str, self.lesion))}), got none in "
                f"{len(truth.planes)}; leave the image out, or name other classes by --lesion"
            )
        for scale in self.scales:
            pair = truth.pair(replace(self.protocol, scale=scale))
            rows += self._find(truth, pair, pair.cut(labels), f"LR x{scale:g}", whole_pixels(scale)[0])
        return rows

    def _find(self, truth: Truth, pair: Pair, labels: torch.Tensor, images: str, multiple: int) -> list[Detection]:
        """Rows of those planes ``pair.low`` whose ``labels`` (N, 1, H, W) have a lesion."""
        masks = torch.isin(labels, torch.tensor(list(self.lesion)).to(labels))
        chosen = masks.flatten(1).any(1).nonzero().flatten().tolist()
        rows = []
        for start in range(0, len(chosen), AT_ONCE):
            numbers = chosen[start : start + AT_ONCE]
            for number, centre in zip(numbers, predict_centres(self.detector, pair.low[numbers]).tolist(), strict=True):
                file, plane = paths_of(truth.item)[0], pair.planes[number]
                about = {"images": images, "patient": truth.item["patient"], "image": file, "plane": plane}
                name = f"{images}, plane {plane}"
                inside = placed_inside(centre, name)
                rows.append(judge_plane(masks[number], inside, self.region_size, multiple, about, f"{file}, {name}"))
        return rows


def evaluate_detector(
    detector_path: str | os.PathLike[str] | None,
    items: Sequence[Item],
    preprocessing: Preprocessing,
    protocol: Protocol,
    scheme: LabelScheme,
    output_dir: str,
    region_size: Sequence[int],
    scales: Sequence[float] = (2, 4),
    lesion: Sequence[str] | None = None,
    in_channels: int = 1,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Look for the lesions of all ``items``, and write how well they were found, as table 3.2, into ``output_dir``.

    The files are ``detection.csv`` (a row a plane), ``detection.json`` and ``detection.md``. Planes without a lesion
    are left out. Processes share the items as in :func:`common.evaluate.evaluate`.

    Args:
        detector_path: see :func:`common.frozen.load_detector`.
        items, preprocessing, protocol, scheme, region_size, scales: see :class:`DetectorEvaluation`.
        output_dir: folder; made where it is missing. Earlier results in it are replaced.
        lesion: names of the classes that count; None for all.
        in_channels: of the images.
        device: for the detector.

    Returns:
        What ``detection.json`` says; in other processes than the first, nothing.

    Raises:
        ValueError: there is no such detector, or an argument is out of range.
        SystemExit: the folder cannot be written, or an image failed; the message names it and why. The others are done.
    """
    check_settings()
    detector = load_detector(detector_path, in_channels).to(device)
    scales = as_scales(scales, "scales")
    for scale in scales:
        check_region(region_size, scale)
    folder, numbers = writable(output_dir), lesion_numbers(scheme, lesion)
    evaluation = DetectorEvaluation(detector, items, preprocessing, protocol, scheme, numbers, region_size, scales)
    results = run_all(evaluation.run)
    if results is None:
        return {}
    rows, failed = [row for result in results for row in result.rows], [r.error for r in results if r.error]
    summary = {key: value for key, value in protocol.describe(items).items() if key in STATED}
    summary |= {"region_size": list(region_size), "lesion": [scheme.classes[n - 1] for n in numbers]}
    summary |= {"weights_sha256": sha256(Path(str(detector_path))), "config_sha256": config_sha256(), "failed": failed}
    if rows:
        notes = [note for result in results for note in result.notes]
        summary |= {"detection": count_levels(rows), "patients": by_patient(rows), "notes": notes}
        text = detection_tables(rows, region_size)
        write_whole(folder / f"{NAME}.csv", lambda path: write_csv(path, [asdict(row) for row in rows]))
        write_summary(folder, summary, text, NAME)
        logger.info("detections\n\n%s", text)
    refuse_failed(failed, len(items), folder)
    return summary


evaluate_detector_or_exit = exits_on_mistake(evaluate_detector)
