"""Which ``network.py`` runs: a bundle started from its repository, and from elsewhere where it is installed.

A subprocess each, for at most two bundles.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from common.info import find_bundles
from tests.helpers import blobs, copy_repository, oblique, save_nifti

BUNDLES = dict(list(find_bundles().items())[:2])
each_bundle = pytest.mark.parametrize("name", BUNDLES)
SAYS_WHERE = """
import atexit, runpy, sys
name = sys.argv.pop(1)
atexit.register(lambda: print("ran:", sys.modules[f"bundles.{name}.network"].__file__, sys.modules["common"].__file__))
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def data(tmp_path) -> Path:
    values = (blobs((12, 9, 2)) * 4000).astype(np.int16)
    (tmp_path / "in").mkdir()
    return save_nifti(tmp_path / "in" / "a.nii.gz", values, oblique((0.9, 0.9, 4))).parent


def start(name: str, configs: Path, data: Path, tmp_path: Path, cwd: Path) -> str:
    """Infer with the smallest network of a bundle, without bundle_root; what the process printed."""
    files = [f"{configs}/{config}.json" for config in ("inference", "smoke")]
    parser = ConfigParser()
    parser.read_config([str(cwd / file) for file in files])
    torch.save(parser.get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    options = {"dataset_dir": data, "output_dir": tmp_path / "out", "ckpt_path": tmp_path / "model.pt"}
    words = [str(word) for option, value in options.items() for word in (f"--{option}", value)]
    done = subprocess.run(
        [sys.executable, "-c", SAYS_WHERE, name, "run", "--config_file", str(files), *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "out").glob("a_srx*.nii.gz"))) == 1
    return done.stdout


@pytest.mark.slow
@each_bundle
def test_from_its_repository_the_repositorys_network_runs_whatever_is_installed(name, data, tmp_path):
    copy = copy_repository(tmp_path / "copy")
    network = copy / "bundles" / name / "network.py"
    network.write_text(network.read_text() + '\nprint("the copy of the network")\n')
    printed = start(name, Path("bundles") / name / "configs", data, tmp_path, cwd=copy)
    assert f"ran: {network} {copy / 'common' / '__init__.py'}" in printed and "the copy of the network" in printed


def installed(name: str) -> Path | None:
    """The network of a bundle that a process started elsewhere finds, as after pip install -e ."""
    code = f"import importlib.util as u; print(u.find_spec('bundles.{name}.network').origin)"
    environment = {**os.environ, "PYTHONPATH": ""}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd="/", env=environment, capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) if done.returncode == 0 else None


@pytest.mark.slow
@each_bundle
def test_from_another_folder_the_installed_network_runs_without_bundle_root(name, data, tmp_path):
    network = installed(name)
    if network is None:
        pytest.skip(f"{name} is not installed: pip install -e .")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    printed = start(name, network.parent / "configs", data, tmp_path, cwd=elsewhere)
    assert f"ran: {network} {network.parents[2] / 'common' / '__init__.py'}" in printed
    assert list(elsewhere.iterdir()) == []
