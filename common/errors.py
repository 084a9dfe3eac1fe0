"""Warnings about a case, and the border at which a user's mistake becomes one sentence and an exit code."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class CaseWarning(UserWarning):
    """Something the reader of a result should know; it is written into the JSON line of the case."""


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


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


as_flag_or_exit = exits_on_mistake(as_flag)
