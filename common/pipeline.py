"""Three stages, one job after another; where they overlap, the next job is read and the last one written meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
Stage = Callable[[T], T]


def run_stages(jobs: Iterable[T], read: Stage[T], compute: Stage[T], write: Stage[T], overlap: bool) -> Iterator[T]:
    """Every job through ``read``, ``compute`` and ``write``; yields them in their order, written.

    Args:
        jobs: taken one by one.
        read, compute, write: take a job and return it; what they raise ends the whole.
        overlap: let one thread read the next job and another write the last one while this one computes. At most three
            jobs are then under way. Before this returns or raises, both threads have ended the job they were at.
    """
    if not overlap:
        for job in jobs:
            yield write(compute(read(job)))
        return
    waiting = iter(jobs)
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        reading, writing = _submit(reader, read, waiting), None
        while reading is not None:
            job = reading.result()
            reading = _submit(reader, read, waiting)
            job = compute(job)
            if writing is not None:
                yield writing.result()
            writing = writer.submit(write, job)
        if writing is not None:
            yield writing.result()


def _submit(executor: ThreadPoolExecutor, stage: Stage[T], jobs: Iterator[T]) -> Future[T] | None:
    for job in jobs:
        return executor.submit(stage, job)
    return None
