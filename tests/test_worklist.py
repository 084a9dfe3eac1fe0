"""Worklists: what they hold, what they leave out, and how several processes share one."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from common.data.worklist import Study, list_cases, sha256_of, share, suffix_of
from common.processes import local_device, rank_and_world
from tests.helpers import INFERENCE, ROOT, identity, oblique, run_inference, save_nifti


class Series:
    """A stand-in for an image of several files: the first is read, all are hashed."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files, self.suffix = tuple(files), ".nii.gz"

    def sha256(self) -> str:
        return hashlib.sha256(b"".join(Path(file).read_bytes() for file in self.files)).hexdigest()

    def __fspath__(self) -> str:
        return self.files[0]

    def __str__(self) -> str:
        return self.files[0]


class Lost(Series):
    """One whose name is no path, and whose files are gone."""

    def sha256(self) -> str:
        raise FileNotFoundError("no such file")

    def __str__(self) -> str:
        return "series 3 of the archive"


def image(path: Path, value: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    return save_nifti(path, np.full((5, 4, 2), value, np.uint8), oblique((1, 1, 3)))


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for path in sorted(folder.glob("cases*.jsonl")) for line in path.read_text().splitlines()]


def test_a_worklist_iterates_over_its_cases(tmp_path):
    for name in "ba":
        image(tmp_path / f"{name}.nii", 0)
    worklist = list_cases(tmp_path, tmp_path / "out")
    assert list(worklist) == [str(tmp_path / "a.nii"), str(tmp_path / "b.nii")] and len(worklist) == 2
    assert list(worklist.skipped) == [] and len(list_cases(tmp_path / "nowhere", tmp_path)) == 0


def test_files_and_studies_tell_their_suffix_and_their_hash(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"some")
    digest = hashlib.sha256(b"some").hexdigest()
    series = Series([str(path)] * 2)
    assert isinstance(series, Study) and not isinstance(str(path), Study)
    assert sha256_of(str(path)) == digest and sha256_of(series) == hashlib.sha256(b"somesome").hexdigest()
    assert [suffix_of(name) for name in ("x.nii.gz", "x.NII", "x.txt", series)] == [".nii.gz", ".nii", None, ".nii.gz"]
    for source, name in ((str(tmp_path / "b.nii"), r"b\.nii"), (Lost([str(path)]), "series 3 of the archive")):
        with pytest.raises(ValueError, match=f"{name}: cannot be read .*; check that it is there"):
            sha256_of(source)


def test_studies_of_several_files_go_through_and_are_resumed(tmp_path):
    files = [str(image(tmp_path / "in" / f"{name}.nii.gz", 1)) for name in "ab"]
    images = [{"_target_": f"tests.test_worklist.{kind}", "files": files} for kind in ("Series", "Lost")]
    images[1]["files"] = files[1:]
    options = {**identity(), "images": images}
    with pytest.raises(SystemExit, match=r"1 of 2 .*\n  series 3 of the archive: cannot be read"):
        run_inference(tmp_path / "in", tmp_path / "out", **options)
    first, second = lines(tmp_path / "out")
    assert first["output"] == str(tmp_path / "out" / "a_srx1.nii.gz") and second["input"] == files[1]
    assert first["input_sha256"] == Series(files).sha256() and second["input_sha256"] is None
    image(Path(files[1]), 2)
    with pytest.raises(SystemExit, match=r"2 of 2 .*(.|\n)*a_srx1\.nii\.gz: was made with another input"):
        run_inference(tmp_path / "in", tmp_path / "out", **options, resume=True)


def test_what_was_skipped_is_reported_and_costs_nothing(tmp_path, caplog):
    path = image(tmp_path / "in" / "a.nii.gz", 1)
    worklist = {"_target_": "common.data.worklist.Worklist", "cases": [str(path)]}
    worklist["skipped"] = [[str(tmp_path / "in" / f"{n}.dcm"), f"reason {n}"] for n in range(7)]
    with caplog.at_level("INFO"):
        run_inference(path.parent, tmp_path / "out", **identity(), images=worklist)
    *skipped, done = lines(tmp_path / "out")
    assert [set(line) for line in skipped] == [{"time", "input", "skipped"}] * 7 and "error" not in done
    assert [(line["input"], line["skipped"]) for line in skipped] == [tuple(pair) for pair in worklist["skipped"]]
    assert f"skipped {tmp_path / 'in' / '6.dcm'}: reason 6" in caplog.text
    worklist["cases"] = []
    text = r"in: nothing to do, all 7 files were skipped:\n(  \S*[0-4]\.dcm: reason [0-4]\n){5}  and 2 more$"
    with pytest.raises(SystemExit, match=text):
        run_inference(path.parent, tmp_path / "other", **identity(), images=worklist)
    with pytest.raises(SystemExit, match="in: the worklist is empty; check --dataset_dir"):
        run_inference(path.parent, tmp_path / "other", **identity(), images=[])


def test_shares_are_disjoint_and_together_all():
    for world in (1, 2, 3, 7):
        shares = [share(range(5), rank, world) for rank in range(world)]
        assert sorted(n for part in shares for n in part) == list(range(5))


def test_rank_and_device_are_those_that_torchrun_gives(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert rank_and_world() == (0, 1)
    assert local_device() == torch.device("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert local_device() == torch.device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("RANK", "13")
    assert rank_and_world() == (0, 1)  # set by something else than torchrun
    monkeypatch.setenv("LOCAL_RANK", "5")
    assert rank_and_world() == (13, 16) and local_device() == torch.device("cuda", 1)


def torchrun(source: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    command += ["monai.bundle", "run", "--config_file", str(INFERENCE), "--dataset_dir", str(source)]
    command += ["--output_dir", str(output), "--weights", "none", "--scale", "1", *more]
    command += ["--network_def", '{"_target_": "torch.nn.Identity"}', "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.slow
def test_two_processes_share_a_worklist_and_a_bad_image_costs_neither_of_them_the_others(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    for number, name in enumerate("abcde"):
        image(source / f"{name}.nii.gz", number)
    (source / "a.nii.gz").write_text("no image")  # the first process is the first to end
    done = torchrun(source, out)
    assert done.returncode != 0 and "error: 1 of 3 images failed, the others are done:" in done.stderr
    inputs = {
        name: [Path(json.loads(line)["input"]).name[0] for line in (out / name).read_text().splitlines()]
        for name in ("cases.rank0.jsonl", "cases.rank1.jsonl")
    }
    assert inputs == {"cases.rank0.jsonl": ["a", "c", "e"], "cases.rank1.jsonl": ["b", "d"]}
    image(source / "a.nii.gz", 7)
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    assert sorted(times) == [f"{name}_srx1.nii.gz" for name in "bcde"]
    done = torchrun(source, out, "--resume", "true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 3 of process 0 were finished before" in done.stdout
    assert "2 of 2 of process 1 were finished before" in done.stdout
    assert len(lines(out)) == 6 and not list(out.glob(".*"))
    assert times.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}.items()
    run_inference(source, out, **identity(), device="cpu", resume=True)  # one process goes on with the work of two
    assert len(lines(out)) == 6 and len(list(out.glob("*.nii.gz"))) == 5


@pytest.mark.slow
def test_processes_that_found_different_images_do_nothing(tmp_path):
    for number, name in enumerate("abc"):
        image(tmp_path / "in" / f"{name}.nii.gz", number)
    files = sorted(str(path) for path in (tmp_path / "in").iterdir())
    done = torchrun(tmp_path / "in", tmp_path / "out", "--images", f"${files}[int(os.environ['RANK']):]")
    assert done.returncode != 0 and f"error: {files[0]}: not all processes found it; run again when" in done.stderr
    assert lines(tmp_path / "out") == []
