"""Warnings about a case, and the border at which a user's mistake becomes one sentence and an exit code."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class CaseWarning(UserWarning):
    """Something the reader of a result should know; it is written into the JSON line of the case."""


_notes: ContextVar[list[str] | None] = ContextVar("notes", default=None)


@contextmanager
def case_warnings_noted() -> Iterator[None]:
    """While this lasts, each :class:`CaseWarning` goes to the list that :func:`noting` names in its thread.

    ``warnings.catch_warnings(record=True)`` cannot do that: it belongs to all threads, and cases overlap in several.
    Warnings of other kinds, and those outside of :func:`noting`, go where they went before.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("always", CaseWarning)
        elsewhere = warnings.showwarning

        def note(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            notes = _notes.get()
            if notes is None or not issubclass(category, CaseWarning):
                elsewhere(message, category, *where, **more)
            elif str(message) not in notes:
                notes.append(str(message))

        warnings.showwarning = note
        yield


@contextmanager
def noting(notes: list[str]) -> Iterator[None]:
    """Let ``notes`` gain the texts of this thread's :class:`CaseWarning`, each once."""
    token = _notes.set(notes)
    try:
        yield
    finally:
        _notes.reset(token)


def exits_on_mistake(function: Callable[P, R]) -> Callable[P, R]:
    """For functions that a config or the command line calls: a ``ValueError`` or ``OSError`` ends the process.

    MONAI wraps an exception of a config item in two tracebacks; ``SystemExit`` passes through them, prints the one
    sentence that matters and gives exit code 1. The library functions underneath raise as usual.
    """

    @functools.wraps(function)
    def border(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            mistake = find_mistake(error)
            if mistake is None:
                raise
            raise SystemExit(f"error: {mistake}") from mistake

    return border


def as_flag(value: object, name: str) -> bool:
    """``value`` as a boolean: the command line gives ``--name false`` as a word, and every word is true to Python.

    Raises:
        ValueError: neither a boolean nor ``true`` or ``false`` in letters of any case.
    """
    words = {"true": True, "false": False}
    flag = words.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(flag, bool):
        raise ValueError(f"{name}: must be true or false, got {value}")
    return flag


def find_mistake(error: BaseException) -> BaseException | None:
    """The first ``ValueError`` or ``OSError`` among an exception and its causes; MONAI wraps its own around them."""
    return next((cause for cause in causes(error) if isinstance(cause, (ValueError, OSError))), None)


def explain(error: BaseException, name: str) -> str:
    """One sentence with the file's name and the remedy, out of whatever went wrong with it."""
    chain = list(causes(error))
    if any(_is_out_of_memory(cause) for cause in chain):
        return f"{name}: out of memory; pass a smaller --memory_mb, or run where there is more"
    cause = find_mistake(error) or chain[-1]
    text = " ".join(str(cause).split())
    if find_mistake(error) is None:
        text = f"unexpected {type(cause).__name__}: {text}; please report it with the file's header"
    return text if name in text else f"{name}: {text}"


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


as_flag_or_exit = exits_on_mistake(as_flag)
