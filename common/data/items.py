"""Which images are for training, validation and test: by a datalist of MONAI's form, or by patterns of file names."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import exits_on_mistake
from ..io.formats import stem
from .files import match_images

SPLITS = ("training", "validation", "test")  # MONAI's names
Item = dict[str, Any]


def read_splits(
    root: str | os.PathLike[str], patterns: Mapping[str, Sequence[str]], datalist: str | os.PathLike[str] | None = None
) -> dict[str, list[Item]]:
    """Items of the splits that ``patterns`` names; each has ``image`` (path, or one a modality) and ``patient``.

    Args:
        root: folder that paths and patterns are relative to.
        patterns: split to glob patterns, which count where there is no datalist. The patient is ``sub-…`` in the
            path; else the folder below that of the split (``train/PATIENT/t1.nii``), or without one the file's name.
        datalist: JSON file of ``python -m common datalist`` or of MONAI's form with ``patient`` in every item; its
            ``crop`` is noted in every item.

    Raises:
        ValueError: a split is missing or empty, a patient is in two, or a file is missing.
    """
    if datalist is None:
        content: dict[str, Any] = {split: _match(root, globs) for split, globs in patterns.items()}
        check_splits(content, str(root), patterns)
        return content
    content = read_datalist(Path(datalist))
    check_splits(content, str(datalist), patterns)
    return {
        split: [_resolve(item, Path(root), content.get("crop"), str(datalist)) for item in content[split]]
        for split in patterns
    }


def check_splits(content: Mapping[str, Any], name: str, needed: Sequence[str] | Mapping[str, Any] = SPLITS) -> None:
    """Raise ``ValueError`` where one of the ``needed`` splits is missing or empty, or a patient is in two of any."""
    for split in needed:
        if not content.get(split):
            raise ValueError(f"{name}: the split '{split}' must not be empty; add patients to it")
    seen: dict[str, str] = {}
    for split in SPLITS:
        for item in content.get(split, []):
            if not {"patient", "image"} <= set(item):
                raise ValueError(f"{name}: every item of '{split}' needs 'image' and 'patient', got {item}; add them")
            other = seen.setdefault(item["patient"], split)
            if other != split:
                raise ValueError(
                    f"{name}: {item['patient']} is in '{other}' and in '{split}'; keep it in one of them, or, if two"
                    " patients share this name, rename one"
                )


def paths_of(item: Item) -> list[str]:
    """The image files of an item: one, or one a modality."""
    return [item["image"]] if isinstance(item["image"], str) else list(item["image"])


def _match(root: str | os.PathLike[str], patterns: Sequence[str]) -> list[Item]:
    items = []
    for path in match_images(root, patterns):
        items.append({"image": path, "patient": _patient(Path(path).relative_to(root), patterns)})
    return items


def _patient(path: Path, patterns: Sequence[str]) -> str:
    """``sub-…`` in the path; else the folder below that of the split, or without one the file's name."""
    named = re.search(r"sub-[A-Za-z0-9]+", str(path))
    if named:
        return named.group()
    fixed = [list(itertools.takewhile(lambda part: "*" not in part, Path(pattern).parts[:-1])) for pattern in patterns]
    begin = max((len(parts) for parts in fixed if list(path.parts[: len(parts)]) == parts), default=0)
    below = path.parts[begin:]
    return below[0] if len(below) > 1 else stem(path)


def read_datalist(path: Path) -> dict[str, Any]:
    """The content of a datalist; raises ``ValueError`` where it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error}); check --datalist") from error
    except ValueError as error:
        raise ValueError(f"{path}: must be JSON, got {error}; write it by python -m common datalist") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be an object of splits; write it by python -m common datalist")
    return content


def _resolve(item: Item, root: Path, crop: Any, name: str) -> Item:
    paths = [str(root / path) for path in paths_of(item)]
    label = {"label": str(root / item["label"])} if item.get("label") else {}
    for path in (*paths, *label.values()):
        if not Path(path).is_file():
            raise ValueError(f"{path}: {name} lists it for {item['patient']}, but it is missing; check --dataset_dir")
    whole = {**item, "image": paths[0] if isinstance(item["image"], str) else paths, **label}
    return {**whole, "crop": crop} if crop else whole


read_splits_or_exit = exits_on_mistake(read_splits)
