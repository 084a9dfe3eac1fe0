"""Going on after a failure or a kill: what is finished stays, what is not is done, nothing else is touched."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from common.journal import append_line, read_lines
from common.resume import Earlier, begin, clear, discard, mark_of
from common.transforms.grid import CheckConsistencyd
from tests.helpers import INFERENCE, ROOT, identity, oblique, run_inference, run_module, save_nifti


def image(path: Path, value: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    return save_nifti(path, np.full((5, 4, 2), value, np.uint8), oblique((1, 1, 3)))


def run(source: Path, output: Path, **overrides: object) -> None:
    run_inference(source, output, **{**identity(), "weights": "f" * 64, **overrides})


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for path in sorted(folder.glob("cases*.jsonl")) for line in path.read_text().splitlines()]


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of every file but the lines."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".jsonl"]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def test_finished_ones_are_skipped_and_only_those(tmp_path, caplog):
    source, out = tmp_path / "in", tmp_path / "out"
    for number, name in enumerate("abc"):
        image(source / f"{name}.nii.gz", number)
    (source / "b.nii.gz").write_text("no image")
    with pytest.raises(SystemExit, match="1 of 3 images failed"):
        run(source, out)
    before = files(out)
    assert set(before) == {"a_srx1.nii.gz", "c_srx1.nii.gz"}
    image(source / "b.nii.gz", 1)
    image(source / "d.nii.gz", 3)
    with caplog.at_level(logging.INFO):
        run(source, out, resume=True)
    assert "2 of 4 were finished before" in caplog.text and "2 of 2" in caplog.text
    after = files(out)
    assert set(after) == {f"{name}_srx1.nii.gz" for name in "abcd"} and before.items() <= after.items()
    assert [Path(line["input"]).name[0] for line in lines(out)] == ["a", "b", "c", "b", "d"]
    run(source, out, resume="true", read_ahead="true")  # neither is a setting of the result
    assert files(out) == after and len(lines(out)) == 5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("input", "another input"),
        ("weights", "other weights"),
        ("configuration", "another configuration"),
        ("all", "another input and other weights and another configuration"),
    ],
)
def test_a_result_made_otherwise_is_refused_and_what_differs_is_named(tmp_path, change, reason):
    path, weights = image(tmp_path / "in" / "a.nii.gz", 1), tmp_path / "weights"
    weights.write_text("f" * 64)
    overrides = {"weights": "$open(@ckpt_path).read()", "ckpt_path": str(weights)}
    run(path.parent, tmp_path / "out", **overrides)
    before = files(tmp_path / "out")
    image(tmp_path / "in" / "b.nii.gz", 1)
    if change in ("input", "all"):
        image(path, 2)
    if change in ("weights", "all"):
        weights.write_text("0" * 64)
    if change in ("configuration", "all"):
        overrides["self_ensemble"] = True
    with pytest.raises(
        SystemExit,
        match=rf"1 of 2 .*:\n.*a_srx1\.nii\.gz: was made with {reason}; move it away, or .*$",
    ):
        run(path.parent, tmp_path / "out", resume=True, **overrides)
    after = files(tmp_path / "out")
    assert before.items() <= after.items() and set(after) == {"a_srx1.nii.gz", "b_srx1.nii.gz"}


def test_the_same_name_from_another_folder_is_another_input(tmp_path):
    for name in ("one", "two"):
        image(tmp_path / name / "a.nii.gz", 1)
    run(tmp_path / "one", tmp_path / "out")
    with pytest.raises(SystemExit, match=r"a_srx1\.nii\.gz: was made with another input; move it away"):
        run(tmp_path / "two", tmp_path / "out", resume=True)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
@pytest.mark.parametrize("resume", [False, True])
def test_what_exists_is_never_replaced(tmp_path, kind, resume):
    source = image(tmp_path / "in" / "a.nii.gz", 1).parent
    image(source / "b.nii.gz", 2)
    target = tmp_path / "out" / "a_srx1.nii.gz"
    target.parent.mkdir()
    if kind == "file":
        target.write_text("somebody's")
    elif kind == "folder":
        target.mkdir()
        (target / "file").write_text("somebody's")
    else:
        target.symlink_to(tmp_path / "nowhere")
    before = files(target.parent)
    reason = "no line of .* says how it was made; choose" if resume else "pass --resume true to go on with an"
    with pytest.raises(SystemExit, match=rf"1 of 2 .*:\n.*a_srx1\.nii\.gz: exists already.* {reason}"):
        run(source, target.parent, resume=resume)
    after = files(target.parent)
    assert before.items() <= after.items() and set(after) - set(before) == {"b_srx1.nii.gz"}
    assert target.is_symlink() == (kind == "link") and not (tmp_path / "nowhere").exists()


def test_a_result_that_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    source = image(tmp_path / "in" / "a.nii.gz", 1).parent
    target = tmp_path / "out" / "a_srx1.nii.gz"

    def appear(output: Path) -> None:
        target.write_text("somebody's")
        begin(output)

    monkeypatch.setattr("common.stages.begin", appear)
    with pytest.raises(SystemExit, match=r"a_srx1\.nii\.gz: exists already"):
        run(source, target.parent)
    assert list(files(target.parent)) == [target.name] and target.read_text() == "somebody's"


def test_a_case_that_fails_after_saving_leaves_no_result(tmp_path, monkeypatch):
    source = image(tmp_path / "in" / "a.nii.gz", 1).parent

    def fail(*_: object) -> None:
        assert (tmp_path / "out" / "a_srx1.nii.gz").exists()
        raise ValueError("too late")

    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="too late"):
        patch.setattr(CheckConsistencyd, "__call__", fail)
        run(source, tmp_path / "out")
    assert files(tmp_path / "out") == {}
    run(source, tmp_path / "out")
    assert list(files(tmp_path / "out")) == ["a_srx1.nii.gz"]


def test_a_full_disk_at_the_lines_is_named_and_costs_nothing(tmp_path, monkeypatch):
    source = image(tmp_path / "in" / "a.nii.gz", 1).parent

    def full(path: Path, line: dict) -> None:
        raise OSError(f"{path}: cannot be written (no space left); make room, then go on with --resume true")

    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="make room, then go on with --resume true"):
        patch.setattr("common.run.append_line", full)
        run(source, tmp_path / "out")
    run(source, tmp_path / "out", resume=True)
    assert list(files(tmp_path / "out")) == ["a_srx1.nii.gz"] and len(lines(tmp_path / "out")) == 1


def test_torn_lines_are_passed_over_and_cut_off(tmp_path):
    path = tmp_path / "cases.jsonl"
    append_line(path, {"time": "1", "input": "a"})
    whole = path.read_bytes()
    for torn, kept in (
        (b'{"time": "2", "inp', b""),
        (b'{"time": "2"}', b'{"time": "2"}\n'),
        (b"7", b""),
        (b"\xff", b""),
    ):
        path.write_bytes(whole + torn)
        assert [line["time"] for line in read_lines(tmp_path)] == ["1", *(["2"] if kept else [])]
        append_line(path, {"time": "3"})
        assert path.read_bytes() == whole + kept + b'{"time": "3"}\n'
    path.write_bytes(b"{")
    append_line(path, {"time": "3"})
    assert path.read_bytes() == b'{"time": "3"}\n'


def test_lines_of_all_processes_are_read_by_their_time(tmp_path):
    for name, times in (("cases.jsonl", "36"), ("cases.rank0.jsonl", "15"), ("cases.rank1.jsonl", "24")):
        for time in times:
            append_line(tmp_path / name, {"time": time})
    assert "".join(line["time"] for line in read_lines(tmp_path)) == "123456"


def test_the_last_line_says_how_a_result_was_made(tmp_path):
    output = tmp_path / "a.nii"
    output.write_text("result")
    made = {"output": str(output), "input": "in", "input_sha256": "", "config_sha256": None}
    for number, weights in enumerate(("first", "second")):
        append_line(tmp_path / "cases.jsonl", {"time": str(number), **made, "weights_sha256": weights})
    append_line(tmp_path / "cases.jsonl", {"time": "9", **made, "weights_sha256": "third", "error": "failed"})
    line = {"input": "in", "input_sha256": None, "config_sha256": None}

    class Fixed(str):
        files, suffix = ("in",), ".nii"

        def __fspath__(self) -> str:
            return "in"

        def sha256(self) -> str:
            return ""

    earlier = Earlier(tmp_path, True)
    assert earlier.has_finished(output, {**line, "weights_sha256": "second"}, Fixed("in"))
    for weights in ("first", "third"):
        with pytest.raises(ValueError, match=r"a\.nii: was made with other weights; move it away"):
            earlier.has_finished(output, {**line, "weights_sha256": weights}, Fixed("in"))


def test_a_mark_entitles_to_what_was_left_of_its_result_and_to_no_more(tmp_path):
    output, process = tmp_path / "a_srx4.nii.gz", psutil.Process()
    begin(output)
    mark = mark_of(output)
    maker = json.loads(mark.read_text())
    assert maker["pid"] == os.getpid() and abs(maker["started"] - process.create_time()) < 1
    others = [".12.b_srx4.nii.gz", "a_srx4.nii", ".12.a_srx4.nii.gz.txt", ".x.a_srx4.nii.gz", "12.a_srx4.nii.gz"]
    for name in (*others, ".12.a_srx4.nii.gz", output.name):
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=r"a_srx4\.nii\.gz: another run has begun it"):
        begin(output)
    clear(output)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(others)
    output.mkdir()  # a result may be a folder
    (output / "1.dcm").write_text("")
    (tmp_path / f".12.{output.name}").mkdir()
    discard(output)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(others)


def test_what_an_interrupted_run_began_needs_resume(tmp_path):
    source = image(tmp_path / "in" / "a.nii.gz", 1).parent
    output = tmp_path / "out" / "a_srx1.nii.gz"
    begin(output)
    with pytest.raises(SystemExit, match=r"a_srx1\.nii\.gz: exists already; pass --resume true"):
        run(source, output.parent)
    assert not output.exists() and mark_of(output).exists()
    run(source, output.parent, resume=True)
    assert list(files(output.parent)) == [output.name]


def test_a_torn_mark_entitles_to_nothing_but_itself(tmp_path):
    output = tmp_path / "a.nii"
    output.write_text("somebody's")
    mark_of(output).write_text('{"host": "he')
    clear(output)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii"]


@pytest.mark.parametrize("field", ["pid", "started", "host", None])
def test_the_result_of_a_process_that_runs_is_left_to_it(tmp_path, field):
    output, other = tmp_path / "a.nii", psutil.Process(os.getppid())
    begin(output)
    maker = json.loads(mark_of(output).read_text()) | {"pid": other.pid, "started": other.create_time()}
    gone = {"pid": 2**22 + 1, "started": other.create_time() - 60, "host": "elsewhere"}  # no system has such a pid
    mark_of(output).write_text(json.dumps(maker | ({} if field is None else {field: gone[field]})))
    if field is None:
        with pytest.raises(ValueError, match=rf"a\.nii: process {other.pid} is at work on it; let that one end"):
            clear(output)
    else:
        clear(output)
    assert mark_of(output).exists() == (field is None)


POINTS = {  # what is replaced in the process, by what, and how many hidden files that leaves
    "before the mark": ("common.stages.begin", "kill", 0),
    "while the mark is made": ("common.resume._this_process", "kill", 1),
    "before anything is written": ("common.stages.engine_apply_transform", "kill", 1),
    "while the result is written": ("common.io.whole.os.replace", "kill", 2),
    "before the line": ("common.run.append_line", "kill", 1),
    "while the line is written": ("common.run.append_line", "tear", 1),
    "before the mark goes": ("common.run.end", "kill", 1),
}
KILLED = """
import json, os, pkgutil, signal, sys
from pathlib import Path
from unittest.mock import patch
from tests.test_resume import run

source, output, place, how, ahead = sys.argv[1:]
original, calls = pkgutil.resolve_name(place), []

def kill(*arguments):
    calls.append(arguments)
    if len(calls) < 2:  # the first case is finished
        return original(*arguments)
    if how == "tear":
        with open(arguments[0], "a") as file:
            file.write(json.dumps(arguments[1])[:100])
    os.kill(os.getpid(), signal.SIGKILL)

with patch(place, kill):
    run(Path(source), Path(output), read_ahead=ahead)
"""


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("ahead", ["false", "true"])
def test_a_run_killed_anywhere_goes_on_as_if_it_had_not_been(tmp_path, point, ahead):
    source, out = tmp_path / "in", tmp_path / "out"
    for number, name in enumerate("abc"):
        image(source / f"{name}.nii.gz", number)
    place, how, hidden = POINTS[point]
    words = [sys.executable, "-c", KILLED, str(source), str(out), place, how, ahead]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    first = files(out)["a_srx1.nii.gz"]
    assert sum(name.startswith(".") for name in files(out)) == hidden
    run(source, out, resume=True)
    run(source, tmp_path / "whole")
    after, whole = files(out), files(tmp_path / "whole")
    assert {name: data for name, (data, _) in after.items()} == {name: data for name, (data, _) in whole.items()}
    assert after["a_srx1.nii.gz"] == first
    finished = [line["output"] for line in lines(out) if "error" not in line]
    assert {Path(name).name for name in finished} == set(whole)
    before = len(lines(out))
    run(source, out, resume=True)
    assert files(out) == after and len(lines(out)) == before


@pytest.mark.parametrize("ahead", [False, True])
def test_ctrl_c_ends_with_a_sentence_and_its_exit_code(tmp_path, caplog, ahead):
    for number, name in enumerate("abc"):
        image(tmp_path / "in" / f"{name}.nii.gz", number)
    network = {"_target_": "tests.helpers.Interrupt", "done": str(tmp_path / "done")}
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "in", tmp_path / "out", network_def=network, read_ahead=ahead)
    assert stop.value.code == 130 and "with --resume true goes on where this run was" in caplog.text
    assert list(files(tmp_path / "out")) == ["a_srx1.nii.gz"]
    run(tmp_path / "in", tmp_path / "out", network_def=network, resume=True)
    assert sorted(files(tmp_path / "out")) == [f"{name}_srx1.nii.gz" for name in "abc"]


@pytest.mark.slow
def test_ctrl_c_shows_no_traceback(tmp_path):
    for number, name in enumerate("abc"):
        image(tmp_path / "in" / f"{name}.nii.gz", number)
    network = {"_target_": "tests.helpers.Interrupt", "done": str(tmp_path / "done")}
    words = ["--dataset_dir", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out"), "--scale", "1"]
    words += ["--weights", "none", "--network_def", json.dumps(network), "--device", "cpu", "--read_ahead", "true"]
    done = run_module("monai.bundle", "run", "--config_file", str(INFERENCE), *words)
    assert done.returncode == 130 and "--resume true goes on where this run was" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
