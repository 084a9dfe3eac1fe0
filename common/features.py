"""Evaluation in the features of a frozen network: Fréchet and mean distance of bicubic and of SR from HR.

Zhu, dissertation, table 5.6, has the Fréchet distance in features of Inception-V3, of each patient by itself, which has
far fewer planes than features. Here all planes of all patients are one set, and a note says where they are too few.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .data.items import Item
from .errors import exits_on_mistake
from .frechet import FeatureNetwork, PooledFeatures, feature_distance, frechet_distance, load_inception, rank_note
from .frozen import load_unet
from .metrics import to_unit
from .protocol import Pair
from .tables import HR

Found = tuple[str, torch.Tensor]  # method, features (N, D)


class FeatureJudge:
    """Distances of two sets of planes in the features of ``network``.

    Args:
        network: with its name.
        unit: bring planes to their data range, and take each channel as an image, as networks for photographs need;
            else they go in as the bundle normalises them.
        batch_size: planes at once.
        device: of the network.
    """

    def __init__(
        self, network: FeatureNetwork, unit: bool, batch_size: int = 8, device: str | torch.device = "cpu"
    ) -> None:
        self.network, self.unit, self.batch_size, self.device = network, unit, batch_size, device

    def begin(self, item: Item, pair: Pair) -> Callable[[str, torch.Tensor], Found]:
        """See :class:`common.judges.Judge`."""

        def look(method: str, planes: torch.Tensor) -> Found:
            if self.unit:
                planes = torch.stack([to_unit(plane, pair.limits) for plane in planes]).flatten(0, 1).unsqueeze(1)
            parts = [self.network(part.to(self.device)).cpu() for part in planes.split(self.batch_size)]
            return method, torch.cat(parts)

        return look

    def conclude(self, findings: Sequence[Found], folder: Path) -> tuple[dict[str, Any], str]:
        """See :class:`common.judges.Judge`; no file of its own."""
        sets: dict[str, list[torch.Tensor]] = defaultdict(list)
        for method, part in findings:
            sets[method].append(part)
        features = {method: torch.cat(parts) for method, parts in sets.items()}
        truth = features.pop(HR)
        scores = {
            method: {"frechet": frechet_distance(truth, found), "distance": feature_distance(truth, found)}
            for method, found in features.items()
        }
        note = rank_note(*truth.shape)
        summary = {"network": self.network.name, "images": len(truth), "dimensions": truth.shape[1], "note": note}
        lines = [f"| features of {self.network.name} | Fréchet distance | mean distance |", "|---|---|---|"]
        lines += [f"| {method} | {s['frechet']:.4g} | {s['distance']:.4g} |" for method, s in scores.items()]
        return {"features": summary | scores}, "\n".join(lines) + "\n" + (f"\n{note}.\n" if note else "")


def feature_judge(
    inception_path: str | os.PathLike[str] | None = None,
    unet_path: str | os.PathLike[str] | None = None,
    layer: str = "E5",
    in_channels: int = 1,
    batch_size: int = 8,
    device: str | torch.device = "cpu",
) -> FeatureJudge:
    """:class:`FeatureJudge` with Inception-V3 where a file of it is given, else with a segmentation U-Net.

    Args:
        inception_path: see :func:`common.frechet.load_inception`.
        unet_path: see :func:`common.frozen.load_unet`; the tables name the U-Net and its layer.
        layer: of the U-Net; its features are averaged over the plane.
        in_channels: of the images.
        batch_size, device: see :class:`FeatureJudge`.

    Raises:
        ValueError: no file, one that does not fit, no such layer, or SciPy is not installed.
    """
    frechet_distance(torch.eye(2), torch.eye(2))  # where SciPy is missing, it fails now and not after hours
    if inception_path:
        return FeatureJudge(load_inception(inception_path, device), True, batch_size, device)
    if not unet_path:
        raise ValueError("inception_path and unet_path: must have one of them, got none; pass --unet_path FILE")
    unet = load_unet(unet_path, in_channels).to(device)
    if layer not in unet.layer_names():
        raise ValueError(f"feature_layer: must be one of {', '.join(unet.layer_names())}, got {layer}; choose one")
    name = f"segmentation U-Net {Path(unet_path).name}, {layer}"
    return FeatureJudge(PooledFeatures(unet, layer, name), False, batch_size, device)


feature_judge_or_exit = exits_on_mistake(feature_judge)
