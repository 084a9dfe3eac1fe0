"""Stages that overlap: order, how much is under way, whose warning it is, and the same results as without."""

import json
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.errors import CaseWarning, case_warnings_noted, noting
from common.pipeline import run_stages
from common.progress import Progress, duration
from tests.helpers import blobs, oblique, run_inference, save_nifti


class Stages:
    """Notes what is done when and by which thread, and how many jobs are under way."""

    def __init__(self) -> None:
        self.lock, self.under_way, self.most = threading.Lock(), 0, 0
        self.threads: dict[str, set[str]] = {}

    def note(self, stage: str, change: int) -> None:
        with self.lock:
            self.under_way += change
            self.most = max(self.most, self.under_way)
            self.threads.setdefault(stage, set()).add(threading.current_thread().name)

    def read(self, job: list) -> list:
        self.note("read", 1)
        return [*job, "read"]

    def compute(self, job: list) -> list:
        self.note("compute", 0)
        return [*job, "computed"]

    def write(self, job: list) -> list:
        self.note("write", -1)
        return [*job, "written"]


@pytest.mark.parametrize("overlap", [False, True])
def test_every_job_goes_through_all_stages_in_order(overlap):
    stages = Stages()
    done = list(run_stages([[n] for n in range(20)], stages.read, stages.compute, stages.write, overlap))
    assert done == [[n, "read", "computed", "written"] for n in range(20)]
    assert stages.most <= (3 if overlap else 1)
    names = [next(iter(stages.threads[stage])) for stage in ("read", "compute", "write")]
    assert names[1] == threading.current_thread().name and len(set(names)) == (3 if overlap else 1)
    assert all(len(threads) == 1 for threads in stages.threads.values())
    assert list(run_stages([], stages.read, stages.compute, stages.write, overlap)) == []


def test_the_next_is_read_and_the_last_is_written_while_one_is_computed():
    meeting = threading.Barrier(3, timeout=10)

    def meet(number: int) -> Callable[[int], int]:
        def stage(n: int) -> int:
            if n == number:
                meeting.wait()  # which breaks where the other two do not come
            return n

        return stage

    assert list(run_stages(range(4), meet(2), meet(1), meet(0), overlap=True)) == [0, 1, 2, 3]
    with pytest.raises(threading.BrokenBarrierError):
        meeting = threading.Barrier(3, timeout=0.1)
        list(run_stages(range(4), meet(2), meet(1), meet(0), overlap=False))


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
@pytest.mark.parametrize("overlap", [False, True])
def test_what_a_stage_raises_ends_the_whole_and_no_thread_stays(stage, overlap):
    def fail(n: int) -> int:
        if n == 3:
            raise KeyboardInterrupt
        return n

    stages = {name: fail if name == stage else lambda n: n for name in ("read", "compute", "write")}
    done, threads = [], threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        for n in run_stages(range(9), **stages, overlap=overlap):
            done.append(n)
    assert done == list(range(len(done))) and len(done) <= 3 and threading.active_count() == threads


def test_a_warning_belongs_to_the_case_of_its_thread():
    barrier = threading.Barrier(2, timeout=10)

    def work(name: str) -> list[str]:
        notes: list[str] = []
        with noting(notes):
            for number in range(50):
                barrier.wait()
                warnings.warn(f"{name} {number % 5}", CaseWarning, stacklevel=1)
        return notes

    with case_warnings_noted(), ThreadPoolExecutor(2) as threads:
        first, second = threads.map(work, "ab")
    assert first == [f"a {n}" for n in range(5)] and second == [f"b {n}" for n in range(5)]


def test_other_warnings_go_where_they_went():
    with pytest.warns(UserWarning) as caught:
        notes: list[str] = []
        with case_warnings_noted():
            warnings.warn("before", CaseWarning, stacklevel=1)
            with noting(notes):
                warnings.warn("of a case", CaseWarning, stacklevel=1)
                warnings.warn("of a library", UserWarning, stacklevel=1)
    assert notes == ["of a case"] and [str(w.message) for w in caught] == ["before", "of a library"]


def varied(folder: Path) -> None:
    """Images that warn as they are read, as they are written, not at all, and one that fails."""
    folder.mkdir()
    for number in range(8):
        values = (blobs((16, 16, 2), seed=number) * 200).astype(np.uint8)
        if number % 3 == 1:
            values[4:12, 4:12] = 255  # back-projection rings beyond the range of the type
        path = save_nifti(folder / f"{number}.nii.gz", values, oblique((1, 1, 3)))
        if number % 3 == 2:
            nib.Nifti1Image(values, None).to_filename(path)  # no orientation
        if number == 4:
            path.write_bytes(path.read_bytes()[:-100])


def lines(folder: Path) -> list[dict]:
    own = ("time", "seconds", "peak_memory_mb", "output")
    found = [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in own} for line in found]


def test_reading_ahead_gives_the_same_files_lines_and_warnings(tmp_path):
    varied(tmp_path / "in")
    network = {"_target_": "tests.helpers.Interpolate", "scale": 4}
    for ahead in (False, True):
        with pytest.raises(SystemExit, match="1 of 8 images failed, the others are done"):
            run_inference(
                *(tmp_path / "in", tmp_path / str(ahead)),
                **{"scale": 4, "network_def": network, "consistency_bound": 1e-2, "read_ahead": ahead},
            )
    alone, ahead = lines(tmp_path / "False"), lines(tmp_path / "True")
    assert alone == ahead and [Path(line["input"]).name[0] for line in ahead] == list("01234567")
    texts = [" ".join(line["warnings"]) for line in ahead]
    assert ["no orientation" in text for text in texts] == [n % 3 == 2 for n in range(8)]
    assert ["were clipped" in text for text in texts] == [n in (1, 7) for n in range(8)]
    results = [{p.name: p.read_bytes() for p in (tmp_path / name).glob("*.nii.gz")} for name in ("False", "True")]
    assert results[0] == results[1] and len(results[0]) == 7


def test_the_time_that_is_left_follows_from_the_mean(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = Progress(5, 4, " of process 1")
    assert progress.after(worked=False) == "1 of 5 of process 1"  # it failed before any work
    now[0] = 100.0
    assert progress.after(worked=True) == "2 of 5 of process 1, about 5 min left"
    now[0] = 120.0
    assert progress.after(worked=True) == "3 of 5 of process 1, about 2 min left"
    assert progress.after(worked=True) == "4 of 5 of process 1, about 40 s left"
    assert progress.after(worked=True) == "5 of 5 of process 1"
    assert [duration(seconds) for seconds in (3.4, 89, 90, 5399, 5400, 90000)] == [
        *("3 s", "89 s", "2 min", "90 min", "1.5 h", "25.0 h")
    ]
