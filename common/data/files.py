"""Which images a path stands for."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..io.formats import SUFFIXES, stem

OURS = re.compile(r"_srx[0-9.]+$")


def find_images(path: str | os.PathLike[str], output_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """The image at ``path``, or all images of a folder and its subfolders, sorted.

    Our own results (``*_srx4.nii.gz`` and the like below ``output_dir``) and what is hidden, or in a hidden folder, are
    not images to process. Links are taken as the files they stand for, under their own names.

    Raises:
        ValueError: nothing is there, or nothing that could be processed.
    """
    root = Path(path)
    if not root.exists():
        raise ValueError(f"{root}: there is no such file or folder; check --dataset_dir")
    if root.is_file():
        return [str(root)]
    found = [p for p in sorted(root.rglob("*")) if p.is_file() and p.name.lower().endswith(SUFFIXES)]
    found = [p for p in found if not _is_hidden(p.relative_to(root)) and not _is_result(p, output_dir)]
    if not found:
        raise ValueError(f"{root}: the folder holds no NIfTI image (.nii, .nii.gz); check --dataset_dir")
    return [str(p) for p in found]


def match_images(root: str | os.PathLike[str], patterns: Sequence[str]) -> list[str]:
    """Images below ``root`` that match any of the glob ``patterns``, sorted, each once.

    Raises:
        ValueError: nothing matches.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    found = {str(p) for pattern in patterns for p in Path(root).glob(pattern) if p.name.lower().endswith(SUFFIXES)}
    if not found:
        raise ValueError(f"{root}: no image matches {' or '.join(patterns)}; check --dataset_dir and the patterns")
    return sorted(found)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_result(path: Path, output_dir: str | os.PathLike[str] | None) -> bool:
    if output_dir is None or not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(output_dir)):
        return False
    return OURS.search(stem(path)) is not None
