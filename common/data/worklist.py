"""A worklist: what is to be done, what was left out and why, and what one of several processes takes of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from ..io.archive import sha256
from ..io.formats import SUFFIXES
from ..io.itk import RESULTS
from .files import find_cases

T = TypeVar("T")


@runtime_checkable
class Study(Protocol):
    """An image that is not one file on disk: a series of files, or a file in an archive.

    ``os.fspath`` gives the path, perhaps of no file, that decides place and name of its result; ``str`` its name in
    messages; ``files`` all its files; ``suffix`` that of its result, ``""`` where that is a folder.
    """

    @property
    def files(self) -> tuple[str, ...]: ...

    @property
    def suffix(self) -> str: ...

    def sha256(self) -> str: ...

    def __fspath__(self) -> str: ...


Source = str | Study


@dataclass(frozen=True)
class Worklist:
    """Images to process, sorted; it iterates over them.

    Attributes:
        cases: a path, or a :class:`Study`, each.
        skipped: path and reason of each file that no case stands for although it might have been meant.
    """

    cases: Sequence[Source] = ()
    skipped: Sequence[tuple[str, str]] = ()

    def __iter__(self) -> Iterator[Source]:
        return iter(self.cases)

    def __len__(self) -> int:
        return len(self.cases)


def list_cases(path: str | os.PathLike[str], output_dir: str | os.PathLike[str]) -> Worklist:
    """:func:`find_cases` for a config: empty where there is none, so that hosts without data can parse the config."""
    try:
        return Worklist(*find_cases(path, output_dir))
    except ValueError:  # run_cases says why
        return Worklist()


def share(items: Sequence[T], rank: int, world: int) -> Sequence[T]:
    """What process ``rank`` of ``world`` takes: every ``world``-th item, each item goes to one process."""
    return items[rank::world]


def suffix_of(source: Source) -> str | None:
    """What the name of the result of ``source`` will end with; None for a file that no format reads."""
    if isinstance(source, Study):
        return source.suffix
    name = os.fspath(source).lower()
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)
    return RESULTS.get(suffix, suffix) if suffix else None


def sha256_of(source: Source) -> str:
    """SHA-256 of a file's bytes; of a :class:`Study`, what it makes of those of all its files.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return source.sha256() if isinstance(source, Study) else sha256(source)
    except OSError as error:
        raise ValueError(f"{source}: cannot be read ({error}); check that it is there and yours to read") from error
