"""Evaluation of the segmentation U-Net itself: Dice on the HR images of held-out patients, and pictures of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from .config import check_settings, config_sha256
from .data.items import Item, paths_of
from .data.labels import WHOLE, LabelScheme, read_labels
from .errors import as_flag, exits_on_mistake
from .evaluate import Evaluation, hear, refuse_failed, run_all
from .inferers import PlaneSegmenter
from .io.whole import write_whole
from .metrics import to_unit
from .picture import draw_labels
from .protocol import Preprocessing, Protocol, make_pair
from .run import writable
from .segmentation import Finding, SegmentationJudge
from .tables import write_summary

STATED = "protocol", "crop", "min_foreground"  # nothing is degraded or clipped here
logger = logging.getLogger("common.evaluate")


def evaluate_segmentation(
    network: nn.Module,
    items: Sequence[Item],
    preprocessing: Preprocessing,
    protocol: Protocol,
    scheme: LabelScheme,
    output_dir: str,
    inferer: PlaneSegmenter,
    device: str | torch.device = "cpu",
    pictures: bool = True,
    weights_sha256: str = "",
) -> dict[str, Any]:
    """Score the labels that ``network`` predicts on all ``items``; write tables and pictures into ``output_dir``.

    The files are ``segmentation_patients.csv``, ``summary.json``, ``summary.md`` (for a model card), ``worst.png``,
    ``median.png`` and ``best.png``. Processes share the items as in :func:`common.evaluate.evaluate`.

    Args:
        network: images to logits.
        items, preprocessing, protocol: see :class:`common.evaluate.Evaluation`; the scale is 1.
        scheme: of the labels, which the items name.
        output_dir: folder; made where it is missing. Earlier results in it are replaced.
        inferer: of the bundle's inference.
        device: of the network.
        pictures: whether to draw three images.
        weights_sha256: recorded.

    Returns:
        What ``summary.json`` says; in other processes than the first, nothing.

    Raises:
        SystemExit: the folder cannot be written, or an image failed; the message names it and why. The others are done.
    """
    check_settings()
    pictures, folder = as_flag(pictures, "pictures"), writable(output_dir)
    judge = SegmentationJudge(network, scheme, weights_sha256, inferer, device)
    evaluation = Evaluation(items, preprocessing, protocol, (), (judge,))
    results = run_all(evaluation.run)
    if results is None:
        return {}
    failed, done = [r.error for r in results if r.error], [r for r in results if not r.error]
    about = {"weights_sha256": weights_sha256, "config_sha256": config_sha256(), "failed": failed}
    summary = {key: value for key, value in protocol.describe(items).items() if key in STATED} | about
    if done:
        more, text = hear(judge, 0, results, folder)
        findings = [found for result in done for found in result.findings[0]]
        summary |= {"patients": len({found.patient for found in findings}), **more}
        write_summary(folder, summary, text)
        logger.info("mean ± SD over patients\n\n%s", text)
        if pictures:
            _draw(evaluation, judge, findings, folder)
    refuse_failed(failed, len(items), folder)
    return summary


def _draw(evaluation: Evaluation, judge: SegmentationJudge, findings: Sequence[Finding], folder: Path) -> None:
    """``worst.png``, ``median.png`` and ``best.png``: images by mean Dice, each in its plane with most labels."""
    ranked = sorted(findings, key=lambda found: _mean_dice(found))
    for case, place in (("worst", 0), ("median", (len(ranked) - 1) // 2), ("best", -1)):
        found = ranked[place]
        item = next(item for item in evaluation.items if paths_of(item)[0] == found.image)
        pair = make_pair(item, evaluation.preprocessing, evaluation.protocol)
        truth = pair.cut(read_labels(item, pair.case, pair.size, judge.scheme))[:, 0]
        number = int((truth > 0).flatten(1).sum(1).argmax())
        plane = pair.high[number]
        name = f"{case} image by Dice: {found.patient}, {Path(found.image).name}, plane {pair.planes[number]}"
        labels = [truth[number].long(), judge.predict(plane[None], pair.case)[0].long()]
        sheet = draw_labels(to_unit(plane, pair.limits)[0], labels, name, pair.case)
        write_whole(folder / f"{case}.png", sheet.save)


def _mean_dice(found: Finding) -> float:
    there = [value for name, value in found.dice.items() if value is not None and name != WHOLE]
    return sum(there) / max(len(there), 1)


evaluate_segmentation_or_exit = exits_on_mistake(evaluate_segmentation)
