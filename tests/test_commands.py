"""The commands as a user types them: other folders, the installed package, the README."""

import json
import operator
import os
import re
import shlex
import subprocess
import sys
from functools import reduce
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from common.blocks.unet import SegmentationUNet
from common.info import find_bundles, info
from common.picture import draw_case
from tests.helpers import INFERENCE, ROOT, blobs, oblique, save_nifti
from tests.packed import pack_quickly, unpack

README = (ROOT / "README.md").read_text()


def run(*arguments: str, cwd: Path = ROOT, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def installed_elsewhere() -> bool:
    """Whether ``bundles`` is found without the repository as current folder, as after pip install -e ."""
    code = "import importlib.util as u; assert u.find_spec('bundles.rdst.network').origin"
    return subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    values = (blobs((20, 17, 2)) * 4000).astype(np.int16)
    return save_nifti(tmp_path_factory.mktemp("in") / "a.nii.gz", values, oblique((0.9, 0.9, 4)))


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """RDST packed, and unpacked beside it."""
    path = pack_quickly(find_bundles()["rdst"], tmp_path_factory.mktemp("dist"))
    unpack(path, path.parent)
    return path


@pytest.fixture(scope="module")
def unet(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("unet") / "unet.pt"
    torch.save(SegmentationUNet(1, 2, width=4).state_dict(), path)
    return path


@pytest.mark.parametrize("where", ["repository", "elsewhere"])
def test_inference_runs_from_the_repository_and_from_elsewhere_without_bundle_root(image, tmp_path, where):
    if where == "elsewhere" and not installed_elsewhere():
        pytest.skip("the package is not installed: pip install -e .")
    config = str(INFERENCE.relative_to(ROOT)) if where == "repository" else str(INFERENCE)
    cwd = ROOT if where == "repository" else tmp_path
    done = run(
        *(
            "monai.bundle",
            "run",
            "--config_file",
            config,
            "--dataset_dir",
            str(image),
            "--output_dir",
            str(tmp_path / "out"),
        ),
        cwd=cwd,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert nib.load(tmp_path / "out" / "a_srx4.nii.gz").shape == (80, 68, 2)
    assert "consistency residual" in done.stdout
    line = json.loads((tmp_path / "out" / "cases.jsonl").read_text())
    assert line["weights_sha256"] in (ROOT / "bundles" / "rdst" / "configs" / "metadata.json").read_text()


def test_a_mistake_on_the_command_line_ends_in_one_sentence_and_exit_code_one(tmp_path):
    (tmp_path / "a.nii.gz").write_text("no image")
    done = run(
        *("monai.bundle", "run", "--config_file", str(INFERENCE), "--dataset_dir", str(tmp_path)),
        *("--output_dir", str(tmp_path / "out")),
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-2:]
    assert last[0] == "error: 1 of 1 images failed:"
    assert "a.nii.gz: not a readable NIfTI file" in last[1] and "Traceback" not in done.stderr


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_the_readme_names_only_targets_that_the_makefile_has():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = [line.split()[1] for line in commands() if line.startswith("make ")]
    assert {"demo", "test", "lint"} <= set(named) <= set(targets)
    assert set(re.findall(r"`make ([a-z-]+)`", README)) <= set(targets)


def test_every_option_in_the_readme_is_a_setting_of_the_config():
    settings = json.loads(INFERENCE.read_text())
    options = re.findall(r"^\| `--(\w+)`", README, flags=re.MULTILINE)
    assert len(options) >= 8 and set(options) <= set(settings)
    configs = (
        json.loads(INFERENCE.with_name(f"{name}.json").read_text()) for name in ("train", "finetune", "adversarial")
    )
    train = ConfigParser(reduce(operator.or_, configs))
    rows = re.findall(r"^\| (`[a-z_#`, ]+`) \|", README.split("## Train on your data")[1], flags=re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([a-z_#]+)`", row)]
    assert len(named) >= 12 and all(name in train for name in named)


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("python -m ")])
def test_the_python_commands_of_the_readme_run(command, image, archive, unet, tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / "DATA" / split).mkdir(parents=True)
        values = (blobs((60, 50, 4), seed=len(split)) * 1000).astype(np.int16)
        save_nifti(tmp_path / "DATA" / split / f"{split}.nii.gz", values, oblique((1, 1, 3)))
    save_nifti(tmp_path / "labels.nii.gz", (values > 500).astype(np.uint8), oblique((1, 1, 3)))
    item = {"patient": "p", "image": "test/test.nii.gz", "label": "../labels.nii.gz"}
    (tmp_path / "list.json").write_text(json.dumps({"classes": ["bright"], "test": [item]}))
    names = {
        "IN": str(image),
        "OUT": str(tmp_path / "OUT"),
        "DATA": str(tmp_path / "DATA"),
        "FILE": str(tmp_path / "list.json"),
        "UNET": str(unet),
        "runs/mine": str(tmp_path / "run"),
        "runs/mine/model.pt": str(INFERENCE.parent.parent / "models" / "model.pt"),
        "runs/finetuned": str(tmp_path / "finetuned"),
        "runs/gan": str(tmp_path / "gan"),
        "dist": str(tmp_path / "dist"),
        "file:///path/to/rdst_v0.1.0.zip": archive.as_uri(),
        ".": str(tmp_path / "bundles"),
        "rdst/configs/inference.json": str(archive.parent / "rdst" / "configs" / "inference.json"),
    }
    words = [names.get(word, word) for word in shlex.split(command)[2:]]
    if any("train.json" in word for word in words):
        words += ["--steps", "2", "--batch_size", "2", "--patch_size", "32", "--val_interval", "1"]
    done = run(*words)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("torchrun ")])
def test_the_torchrun_commands_of_the_readme_run(command, image, tmp_path):
    names = {"torchrun": "torch.distributed.run", "IN": str(image), "OUT": str(tmp_path), "4": "2"}
    done = run(*(names.get(word, word) for word in shlex.split(command)))
    assert done.returncode == 0 and (tmp_path / "a_srx4.nii.gz").exists(), done.stdout + done.stderr


def test_the_demo_leaves_a_volume_and_a_picture(tmp_path):
    done = run("common", "demo", "--output_dir", str(tmp_path / "demo"))
    assert done.returncode == 0, done.stdout + done.stderr
    out = nib.load(tmp_path / "demo" / "example4d_srx4.nii.gz")
    assert out.shape == (512, 384, 24) and (tmp_path / "demo" / "example4d_srx4.png").stat().st_size > 50_000
    assert "spacing                    2 x 2 x 2.2 -> 0.5 x 0.5 x 2.2 mm" in done.stdout
    for word in ("SR volume", "picture", "data-consistency residual", "time", "peak memory"):
        assert word in done.stdout
    again = run("common", "demo", "--output_dir", str(tmp_path / "demo"))
    assert again.returncode == 0 and "1 of 1 were finished before" in again.stdout, again.stdout + again.stderr
    assert again.stdout.splitlines()[-6:] == done.stdout.splitlines()[-6:]


def test_info_lists_parameters_weights_and_licence_without_loading_them(monkeypatch):
    monkeypatch.setattr("torch.load", None)
    text = info()
    assert "2,379,241" in text and "Apache-2.0" in text and "2, 3, 4" in text
    for about in json.loads((find_bundles()["rdst"] / "configs" / "metadata.json").read_text())["weights"].values():
        assert about["sha256"] in text


def test_the_commands_are_listed():
    done = run("common")
    for name in ("info", "demo", "picture", "diffusion", "store-weights", "new", "pack", "pack-all", "verify", "table"):
        assert name in done.stdout + done.stderr


@pytest.mark.parametrize("command", [["new", "my_method", "--frob", "3"], ["datalist", "folder", "--sed=3"]])
def test_an_unknown_option_is_refused_before_anything_is_done(command, tmp_path):
    done = run("common", *command, cwd=ROOT)
    assert done.returncode == 1 and "has no such option; it has --" in done.stderr
    assert not (ROOT / "bundles" / "my_method").exists() and not (ROOT / "datalist.json").exists()


def test_a_picture_of_two_volumes_that_do_not_match_is_refused(tmp_path, image):
    other = save_nifti(tmp_path / "b.nii.gz", np.zeros((80, 68, 3), np.int16), oblique((0.2, 0.2, 4)))
    with pytest.raises(ValueError, match=r"b\.nii\.gz: must have as many planes as"):
        draw_case(str(image), str(other), tmp_path / "a.png")
