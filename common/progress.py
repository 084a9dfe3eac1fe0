"""How far a worklist is, and a volume of it, and how long the rest will take."""

from __future__ import annotations

import logging
import time

EVERY = 30.0  # seconds between two messages about one volume
logger = logging.getLogger("common.progress")


class Progress:
    """Counts cases, and estimates from the mean time of those worked on.

    Args:
        total: cases.
        to_work_on: those of them that take time.
        whose: said after the total, e.g. ``" of process 1"``.
    """

    def __init__(self, total: int, to_work_on: int, whose: str = "") -> None:
        self.total, self.done = total, 0
        self.to_work_on, self.worked_on = to_work_on, 0
        self.whose, self.started = whose, time.monotonic()

    def after(self, worked: bool) -> str:
        """What to say after one more case, e.g. ``"3 of 40, about 12 min left"``."""
        self.done += 1
        self.worked_on += worked
        text, left = f"{self.done} of {self.total}{self.whose}", self.to_work_on - self.worked_on
        if left < 1 or self.worked_on == 0:
            return text
        return f"{text}, about {duration((time.monotonic() - self.started) / self.worked_on * left)} left"


class PlaneProgress:
    """Logs every half minute how far a volume of ``total`` planes is; a short one passes in silence."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.started = self.said = time.monotonic()

    def after(self, done: int) -> None:
        """Note that ``done`` planes are done in all."""
        now = time.monotonic()
        if now - self.said >= EVERY and done < self.total:
            self.said = now
            left = duration((now - self.started) / done * (self.total - done))
            logger.info("plane %d of %d, about %s left", done, self.total, left)


def duration(seconds: float) -> str:
    """In the unit that suits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
