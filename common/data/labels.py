"""What the labels of a data set mean, and labels on the grid of their image.

Zhu, dissertation, section 5.3.2 with equation 5.16, and tables 5.1 to 5.4: the regions that are scored.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from ..errors import exits_on_mistake
from ..io.case import KEY, Case
from ..io.formats import read_image
from ..io.options import ReadOptions
from .items import Item, paths_of, read_datalist

WHOLE = "whole"  # all classes together, each pixel of its own class: Dice-T of the paper


@dataclass(frozen=True)
class LabelScheme:
    """Names of the labels, and the regions that are scored.

    Attributes:
        classes: names of labels 1, 2 and so on; 0 is the background.
        relabel: stored label to the one that stands for it here, e.g. 4 to 3 in BraTS.
        regions: name to the labels that count as one; none for a region a class, and the whole.
    """

    classes: tuple[str, ...]
    relabel: Mapping[int, int] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the regions, in the order of the tables."""
        return tuple(self.regions) or (*self.classes, WHOLE)

    def masks(self, labels: torch.Tensor) -> list[torch.Tensor]:
        """A mask of pixels for each region; that of the whole has a first axis of classes."""
        if self.regions:
            wanted = [torch.tensor(chosen, device=labels.device) for chosen in self.regions.values()]
            return [torch.isin(labels, chosen) for chosen in wanted]
        each = [labels == number for number in range(1, len(self.classes) + 1)]
        return [*each, torch.stack(each)]


def read_scheme(datalist: str | os.PathLike[str] | None) -> LabelScheme:
    """The scheme in a datalist: its ``classes``, and where it has them ``relabel`` and ``regions``.

    Raises:
        ValueError: no datalist, or one that does not say what its labels mean; or a region of other labels.
    """
    if datalist is None:
        raise ValueError("datalist: labels are asked for, which only a datalist names; pass --datalist FILE")
    content = read_datalist(Path(datalist))
    classes, relabel, regions = content.get("classes"), content.get("relabel") or {}, content.get("regions") or {}
    names = classes if isinstance(classes, list) and all(isinstance(name, str) for name in classes) else []
    if not names or len({*names, WHOLE}) <= len(names):
        raise ValueError(
            f"{datalist}: must have 'classes', a list of different names for labels 1, 2 and on, not {classes}; name it"
        )
    try:
        numbers = {int(old): int(new) for old, new in relabel.items()}
        groups = {str(name): tuple(map(int, chosen)) for name, chosen in regions.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{datalist}: 'relabel' must be an object of labels and 'regions' one of lists of labels, got {relabel} "
            f"and {regions}; mend them"
        ) from error
    for name, chosen in {**groups, "relabel": tuple(numbers.values())}.items():
        if not set(chosen) <= set(range(len(names) + 1)):
            raise ValueError(f"{datalist}: {name} must be of labels 0 to {len(names)}, got {list(chosen)}; mend it")
    return LabelScheme(tuple(names), numbers, groups)


def read_labels(item: Item, case: Case, size: Sequence[int], scheme: LabelScheme) -> MetaTensor:
    """Labels ``(1, X, Y, Z)`` of an item, whole numbers as float32, with the record of the image.

    Args:
        item: with the path ``label``.
        case, size: record of the item's image, and its X, Y, Z.
        scheme: says what labels there may be.

    Raises:
        ValueError: there are none, they lie on another grid, or are not those of the scheme.
    """
    name = item.get("label")
    if not name:
        raise ValueError(f"{paths_of(item)[0]}: has no labels; add 'label' to its item in the datalist")
    stored, own = read_image(name, ReadOptions(analyze=True))
    if stored.shape[1:] != tuple(size) or not np.allclose(own.affine, case.affine, atol=1e-3):
        raise ValueError(f"{name}: must lie on the grid of {case.source}; resample it by nearest neighbour")
    read = torch.from_numpy(abs(own.slope) * stored + own.intercept).float()  # the reader took a slope's sign
    values = read.clone()
    for old, new in scheme.relabel.items():
        values[read == old] = new
    found = values.unique()
    wrong = [float(value) for value in found if value not in range(len(scheme.classes) + 1)]
    if wrong:
        raise ValueError(
            f"{name}: labels must be whole numbers from 0 to {len(scheme.classes)} ({', '.join(scheme.classes)}), "
            f"got {wrong[0]:g}; name the labels in 'classes' of the datalist, or map them by 'relabel'"
        )
    return MetaTensor(values, meta={KEY: case.to_meta()})


read_scheme_or_exit = exits_on_mistake(read_scheme)
