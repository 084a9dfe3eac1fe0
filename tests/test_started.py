"""Which ``network.py`` runs: a bundle from its repository, from elsewhere where it is installed, and packed alone.

A subprocess each, for at most two bundles.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from common.info import find_bundles
from common.packing.pack import pack
from tests.helpers import ROOT, blobs, copy_repository, oblique, run_module, save_nifti
from tests.packed import pack_quickly, small_bundle, unpack

BUNDLES = dict(list(find_bundles().items())[:2])
each_bundle = pytest.mark.parametrize("name", BUNDLES)
SAYS_WHERE = """
import atexit, runpy, sys
network, common = sys.argv.pop(1), sys.argv.pop(1)
atexit.register(lambda: print("ran:", *(sys.modules[name].__file__ for name in (network, common))))
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def data(tmp_path) -> Path:
    values = (blobs((12, 9, 2)) * 4000).astype(np.int16)
    (tmp_path / "in").mkdir()
    return save_nifti(tmp_path / "in" / "a.nii.gz", values, oblique((0.9, 0.9, 4))).parent


def run(modules: tuple[str, str], cwd: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """``python -m monai.bundle run``; it prints at its end where ``modules`` came from."""
    return subprocess.run(
        [sys.executable, "-c", SAYS_WHERE, *modules, "run", *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def start(name: str, configs: Path, data: Path, tmp_path: Path, cwd: Path) -> str:
    """Infer with the smallest network of a bundle, without bundle_root; what the process printed."""
    files = [f"{configs}/{config}.json" for config in ("inference", "smoke")]
    parser = ConfigParser()
    parser.read_config([str(cwd / file) for file in files])
    torch.save(parser.get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    places = ("--dataset_dir", data, "--output_dir", tmp_path / "out", "--ckpt_path", tmp_path / "model.pt")
    done = run((f"bundles.{name}.network", "common"), cwd, "--config_file", files, *places)
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


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """Folder of the packed bundles."""
    folder = tmp_path_factory.mktemp("dist")
    for name in BUNDLES:
        pack(name, out=str(folder))
    return folder


def zip_of(name: str, dist: Path) -> Path:
    return next(dist.glob(f"{name}_v*.zip"))


def has_weights(root: Path) -> bool:
    return (root / "models" / "model.pt").is_file()


@pytest.mark.slow
@each_bundle
@pytest.mark.parametrize("where", ["empty folder", "its own folder", "repository"])
def test_packed_alone_its_own_network_runs_wherever_it_is_started(name, where, dist, data, tmp_path):
    root = unpack(zip_of(name, dist), tmp_path / "unpacked")
    (package,) = root.glob("sr_*")
    (tmp_path / "empty").mkdir()
    cwd = {"empty folder": tmp_path / "empty", "its own folder": root, "repository": ROOT}[where]
    modules = f"{package.name}.network", f"{package.name}.common"
    config = root / "configs" / "inference.json"
    done = run(modules, cwd, "--config_file", config, "--dataset_dir", data, "--output_dir", tmp_path / "out")
    if not has_weights(root):
        assert done.returncode == 1 and "there are no such weights; pass --ckpt_path FILE" in done.stderr
        return
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ran: {package / 'network.py'} {package / 'common' / '__init__.py'}" in done.stdout
    assert len(list((tmp_path / "out").glob("a_srx*.nii.gz"))) == 1


@pytest.mark.slow
@each_bundle
@pytest.mark.parametrize("target", ["models/model.pt", "network.py", "configs/inference.json"])
def test_tampered_it_is_refused_and_writes_nothing(name, target, dist, data, tmp_path):
    root = unpack(zip_of(name, dist), tmp_path / "unpacked")
    (package,) = root.glob("sr_*")
    victim = package / target if target.endswith(".py") else root / target
    if not victim.exists():
        pytest.skip(f"{name} has no weights")
    victim.write_bytes(victim.read_bytes() + b"\n")
    modules = f"{package.name}.network", f"{package.name}.common"
    config = root / "configs" / "inference.json"
    done = run(modules, tmp_path, "--config_file", config, "--dataset_dir", data, "--output_dir", tmp_path / "out")
    assert done.returncode != 0 and f"{victim}: SHA-256 must be" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@each_bundle
def test_the_torchscript_in_the_zip_is_its_network(name, dist, tmp_path):
    root = unpack(zip_of(name, dist), tmp_path)
    if not has_weights(root):
        pytest.skip(f"{name} has no weights")
    parser = ConfigParser()
    parser.read_config(str(BUNDLES[name] / "configs" / "inference.json"))
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(root / "models" / "model.pt", weights_only=True))
    image = torch.rand(1, parser["in_channels"], 24, 17)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.jit.load(root / "models" / "model.ts")(image), network(image), atol=1e-5, rtol=0
        )


@pytest.mark.slow
@each_bundle
def test_the_readme_tells_the_size_of_the_zip(name, dist):
    shown = re.search(rf"^\| \[{name}\]\(.*\| ([\d.]+) MiB \|$", (ROOT / "README.md").read_text(), re.M)
    assert shown is not None and float(shown[1]) == pytest.approx(
        zip_of(name, dist).stat().st_size / 2**20, rel=0.05, abs=0.05
    )


@pytest.mark.slow
@each_bundle
@pytest.mark.parametrize("place", ["file", "loopback"])
def test_monai_downloads_a_zip_and_runs_it(name, place, dist, data, tmp_path):
    source = zip_of(name, dist)
    with serving(dist) as address:
        url = source.as_uri() if place == "file" else f"{address}/{source.name}"
        words = ["download", "--name", name, "--url", url, "--bundle_dir", str(tmp_path / "bundles")]
        done = run_module("monai.bundle", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    root = tmp_path / "bundles" / name
    if not has_weights(root):
        pytest.skip(f"{name} has no weights")
    (package,) = root.glob("sr_*")
    words = [
        "--config_file",
        root / "configs" / "inference.json",
        "--dataset_dir",
        data,
        "--output_dir",
        tmp_path / "o",
    ]
    done = run((f"{package.name}.network", f"{package.name}.common"), tmp_path, *words)
    assert done.returncode == 0 and f"ran: {package / 'network.py'}" in done.stdout, done.stderr


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server of the files in ``folder``, on this machine alone."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


TWICE = """
import sys
from monai.bundle import run
for config, out in zip(sys.argv[2::2], sys.argv[3::2]):
    run(config_file=config, dataset_dir=sys.argv[1], output_dir=out, logging_file=False)
names = sorted(n for n in sys.modules if n.startswith("sr_") and n.endswith(".network"))
print("ran:", *(sys.modules[n].__file__ for n in names))
print("of the repository:", [n for n in ("common", "bundles") if n in sys.modules])
"""


@pytest.mark.slow
def test_two_releases_of_one_method_live_in_one_process(data, tmp_path):
    bundle = small_bundle(tmp_path)
    first = unpack(pack_quickly(bundle, tmp_path / "dist"), tmp_path / "one")
    network = bundle / "network.py"
    network.write_text(network.read_text() + '\nprint("the second release")\n')
    roots = first, unpack(pack_quickly(bundle, tmp_path / "dist2"), tmp_path / "two")
    words = [
        str(word) for n, root in enumerate(roots) for word in (root / "configs/inference.json", tmp_path / f"o{n}")
    ]
    done = subprocess.run(
        [sys.executable, "-c", TWICE, str(data), *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    files = sorted(str(next(root.glob("sr_*")) / "network.py") for root in roots)
    assert set(files) == set(done.stdout.split("ran: ")[1].splitlines()[0].split())
    assert done.stdout.count("the second release") == 1 and "of the repository: []" in done.stdout
    assert all(len(list((tmp_path / f"o{n}").glob("a_srx4.nii.gz"))) == 1 for n in (0, 1))


@pytest.mark.slow
@each_bundle
def test_without_code_it_gives_the_same_image(name, data, tmp_path):
    metadata = json.loads((BUNDLES[name] / "configs" / "metadata.json").read_text())
    if not metadata["weights"]:
        pytest.skip(f"{name} has no weights")
    pack(name, out=str(tmp_path), torchscript=True)
    root = unpack(next(tmp_path.glob("*.zip")), tmp_path)
    assert not list(root.rglob("*.py"))
    words = ["run", "--config_file", "configs/inference.json", "--dataset_dir", str(data), "--output_dir"]
    done = run_module("monai.bundle", *words, str(tmp_path / "out"), cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    config = str(BUNDLES[name] / "configs" / "inference.json")
    done = run_module("monai.bundle", "run", "--config_file", config, *words[3:], str(tmp_path / "expected"))
    assert done.returncode == 0, done.stdout + done.stderr
    found, expected = (nib.load(next((tmp_path / out).glob("*.nii.gz"))) for out in ("out", "expected"))
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)
    np.testing.assert_allclose(found.get_fdata(), expected.get_fdata(), atol=0.5)  # it rounds to whole numbers

    (root / "models" / "model.ts").write_bytes(b"changed")
    done = run_module("monai.bundle", *words, str(tmp_path / "more"), cwd=root)
    assert done.returncode == 1 and "not as it was packed; unpack the zip again" in done.stderr
