"""One image, super-resolved in every way that there is: the same values on the same grid.

The ways are MONAI's runner in the repository, a packed bundle with and without code, TorchScript, ONNX, MONAI Label and
MONAI Deploy. What is not installed is skipped; the message says how to have it.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch

from common.journal import read_lines
from common.packing.pack import pack
from tests.helpers import INFERENCE, blobs, oblique, run_module, save_nifti
from tests.label import label_python, label_server, unpack_app
from tests.packed import unpack

pytestmark = pytest.mark.slow
TOLERANCE = 1e-4  # of the data range
SIZE = (24, 20, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With the image in ``in``, both zips unpacked, and what the runner made in ``runner``."""
    root = tmp_path_factory.mktemp("same")
    (root / "in").mkdir()
    values = np.round(blobs(SIZE) * 1000).astype(np.float32)
    save_nifti(root / "in" / "a.nii.gz", values, oblique((0.9, 0.8, 3)))
    for torchscript in (False, True):
        pack("rdst", out=str(root / "dist"), torchscript=torchscript)
    for path in (root / "dist").glob("*.zip"):
        unpack(path, root)
    runner(root, root / "runner")
    return root


def runner(root: Path, out: Path, **overrides: object) -> None:
    """MONAI's runner in the repository."""
    places = {"dataset_dir": str(root / "in"), "output_dir": str(out), "device": "$torch.device('cpu')"}
    monai.bundle.run(config_file=str(INFERENCE), logging_file=False, **places, **overrides)


def packed(root: Path, out: Path) -> None:
    start_alone(root / "rdst", root, out)


def packed_without_code(root: Path, out: Path) -> None:
    start_alone(root / "rdst_torchscript", root, out)


def start_alone(bundle: Path, root: Path, out: Path) -> None:
    words = [
        "run",
        "--config_file",
        "configs/inference.json",
        "--dataset_dir",
        str(root / "in"),
        "--output_dir",
        str(out),
    ]
    done = run_module("monai.bundle", *words, cwd=bundle)
    assert done.returncode == 0, done.stdout + done.stderr


def torchscript(root: Path, out: Path) -> None:
    runner(root, out, network_def=f"$torch.jit.load('{root}/rdst/models/model.ts')", weights="none")


class OnnxNetwork(torch.nn.Module):
    """An exported network, which takes one plane of the size that it was exported for."""

    def __init__(self, path: str) -> None:
        super().__init__()
        from onnxruntime import InferenceSession

        self.session = InferenceSession(path, providers=["CPUExecutionProvider"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.session.run(None, {self.session.get_inputs()[0].name: x.numpy()})[0])


def onnx(root: Path, out: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -e .[export]")
    path = str(root / "model.onnx")
    words = ["onnx_export", "--net_id", "network_def", "--filepath", path, "--ckpt_file", "models/model.pt"]
    words += ["--meta_file", "configs/metadata.json", "--config_file", "configs/inference.json"]
    done = run_module("monai.bundle", *words, "--input_shape", str([1, 1, *SIZE[:2]]), cwd=root / "rdst")
    assert done.returncode == 0, done.stdout + done.stderr
    network = {"_target_": "tests.test_same_everywhere.OnnxNetwork", "path": path}
    runner(root, out, network_def=network, weights="none", batch_size=1, memory_mb="$None")


def label(root: Path, out: Path) -> None:
    python = label_python()
    app = unpack_app(python, root / "label", sorted((root / "dist").glob("*.zip")))
    with label_server(python, app, root / "in") as server:
        for name in ("rdst", "rdst_torchscript"):
            server.infer(name, "a", out / f"{name}.nii.gz")


def deploy(root: Path, out: Path) -> None:
    python = os.environ.get("SR_DEPLOY_PYTHON")
    if not python or not Path(python).is_file():
        pytest.skip("MONAI Deploy is not here: README, In MONAI Deploy; set SR_DEPLOY_PYTHON to its python")
    (package,) = (path.name for path in (root / "rdst").glob("sr_*"))
    words = ["-m", f"{package}.common.deploy", "-i", str(root / "in"), "-o", str(out), "-m", "."]
    done = subprocess.run([python, *words], cwd=root / "rdst", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "packed": packed,
    "packed without code": packed_without_code,
    "TorchScript": torchscript,
    "ONNX": onnx,
    "MONAI Label": label,
    "MONAI Deploy": deploy,
}


@pytest.mark.parametrize("way", WAYS)
def test_the_image_is_the_same(way, folder, tmp_path):
    WAYS[way](folder, tmp_path)
    for result in made(tmp_path):
        check_same(result, folder / "runner" / "a_srx4.nii.gz")


def made(out: Path) -> list[Path]:
    results = sorted(out.glob("*.nii.gz"))
    assert results
    return results


def test_settings_have_the_same_hash_packed_and_not(folder, tmp_path):
    packed(folder, tmp_path)
    (one,), (other,) = read_lines(tmp_path), read_lines(folder / "runner")
    assert one["config_sha256"] == other["config_sha256"] and one["weights_sha256"] == other["weights_sha256"]


def check_same(found: Path, expected: Path) -> None:
    one, other = nib.load(found), nib.load(expected)
    assert one.get_data_dtype() == other.get_data_dtype() == np.float32
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-4)
    span = np.ptp(other.get_fdata())
    np.testing.assert_allclose(one.get_fdata() / span, other.get_fdata() / span, atol=TOLERANCE)


def test_the_check_finds_another_image(folder, tmp_path):
    expected = folder / "runner" / "a_srx4.nii.gz"
    image = nib.load(expected)
    values = image.get_fdata().astype(np.float32)
    values[0, 0, 0] += 2e-4 * np.ptp(values)
    nib.save(nib.Nifti1Image(values, image.affine), tmp_path / "other.nii.gz")
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_same(tmp_path / "other.nii.gz", expected)
