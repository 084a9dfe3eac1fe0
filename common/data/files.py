"""Which images a path stands for."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..io.archive import SUFFIX as ARCHIVE
from ..io.dicom.series import SUFFIXES as DICOM
from ..io.dicom.series import Series, Skipped, find_series, is_dicom
from ..io.formats import SUFFIXES, stem

PLAIN = tuple(suffix for suffix in SUFFIXES if suffix not in DICOM)
OURS = re.compile(r"_srx[0-9.]+$")


def find_cases(
    path: str | os.PathLike[str], output_dir: str | os.PathLike[str] | None = None
) -> tuple[list[str | Series], list[Skipped]]:
    """The images at ``path``, a file or a folder with its subfolders, sorted; and the DICOM files that are not for us.

    DICOM files, and those in zip archives, are brought into series; any other image is a file. Our own results
    (``*_srx4.nii.gz`` and folders ``*_srx4`` below ``output_dir``) and what is hidden, or in a hidden folder, are not
    images to process. Links are taken as the files they stand for, under their own names.

    Raises:
        ValueError: nothing is there, or neither an image nor a DICOM file.
    """
    root = Path(path)
    if not root.exists():
        raise ValueError(f"{root}: there is no such file or folder; check --dataset_dir")
    files = [root] if root.is_file() else [p for p in sorted(root.rglob("*")) if p.is_file()]
    if root.is_dir():
        files = [p for p in files if not _is_hidden(p.relative_to(root)) and not _is_result(p, output_dir)]
    plain = [p for p in files if p.name.lower().endswith(PLAIN)]
    others = sorted(set(files) - set(plain))
    series, skipped = find_series(p for p in others if p.name.lower().endswith(ARCHIVE) or is_dicom(p))
    cases: list[str | Series] = [*map(str, plain), *series]
    cases.sort(key=os.fspath)
    if root.is_file() and not cases and not skipped:
        return [str(root)], []  # its reader says what is wrong with it
    if not cases and not skipped:
        raise ValueError(f"{root}: the folder holds no image that is read ({', '.join(SUFFIXES)}); check --dataset_dir")
    return cases, skipped


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
    """Whether a file below ``output_dir`` is named as our results are, or lies in a folder that is."""
    if output_dir is None or not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(output_dir)):
        return False
    folders = Path(os.path.abspath(path)).relative_to(os.path.abspath(output_dir)).parts[:-1]
    return any(OURS.search(name) for name in (stem(path), *folders))
