"""Packed bundles in MONAI Label: a real server answers on the loopback interface what the runner saves."""

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.bundle import ConfigParser

from common.info import find_bundles
from common.io.archive import sha256
from common.io.itk import read_itk
from tests.dicom_samples import ct_series
from tests.dicom_series import read_back
from tests.helpers import blobs, oblique, run_module, save_nifti
from tests.label import Label, label_python, label_server, unpack_app
from tests.orthanc import DICOMWEB, orthanc_server
from tests.packed import pack_quickly

pytestmark = pytest.mark.slow
SCALES = (2, 4)


def pack_smallest(folder: Path, scale: int) -> Path:
    """A bundle, its network as small as can be and with random weights, packed as ``<name>_x<scale>``."""
    source = next(iter(find_bundles().values()))
    copy = shutil.copytree(source, folder / str(scale) / source.name, ignore=shutil.ignore_patterns("*.pt"))
    overlay = json.loads((copy / "configs" / "smoke.json").read_text()) | {"scale": scale}
    overlay["ckpt_path"] = "$os.path.join(@bundle_root, 'models', 'smallest.pt')"
    (copy / "configs" / f"inference_x{scale}.json").write_text(json.dumps(overlay))
    weights = copy / "models" / "smallest.pt"
    weights.parent.mkdir(exist_ok=True)
    save_random_weights([copy / "configs" / f"{name}.json" for name in ("inference", f"inference_x{scale}")], weights)
    metadata = json.loads((copy / "configs" / "metadata.json").read_text())
    about = {"sha256": sha256(weights), "scale": scale, "licence": "none", "data": "nothing"}
    metadata["weights"] = {weights.name: about}
    (copy / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return pack_quickly(copy, folder, f"inference_x{scale}")


def save_random_weights(configs: list[Path], path: Path) -> None:
    parser = ConfigParser()
    parser.read_config([str(config) for config in configs])
    network = parser.get_parsed_content("network_def")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn_like(parameter)  # else it is interpolation, whatever its body does
    torch.save(network.state_dict(), path)


@pytest.fixture(scope="module")
def zips(tmp_path_factory) -> list[Path]:
    label_python()
    folder = tmp_path_factory.mktemp("packed")
    return [pack_smallest(folder, scale) for scale in SCALES]


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    """What the server knows as ``brain``: oblique, 16 bits with slope and intercept."""
    folder = tmp_path_factory.mktemp("studies")
    values = np.rint(blobs((19, 14, 5)) * 6000 - 1000).astype(np.int16)
    save_nifti(folder / "brain.nii.gz", values, oblique((0.9, 0.7, 3.1)), 0.5, -1024.0)
    return folder


@pytest.fixture(scope="module")
def label(zips, studies, tmp_path_factory) -> Iterator[Label]:
    python = label_python()
    with label_server(python, unpack_app(python, tmp_path_factory.mktemp("label"), zips), studies) as server:
        yield server


def run_packed(path: Path, source: Path, folder: Path) -> Path:
    """The result of MONAI's runner and the packed bundle ``path``, which runs alone."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    (config,) = folder.glob("*/configs/inference.json")
    words = ["--config_file", str(config), "--dataset_dir", str(source), "--output_dir", str(folder / "out")]
    done = run_module("monai.bundle", "run", *words, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = [path for path in (folder / "out").iterdir() if path.suffix != ".jsonl"]
    return result


def test_two_packed_bundles_serve_in_one_process(label, zips):
    assert label.models() == [path.stem for path in zips] and len(zips) == 2


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_a_nifti_comes_back_on_the_fine_grid_at_full_bit_depth(label, zips, studies, tmp_path, scale, suffix):
    path = zips[SCALES.index(scale)]
    served = nib.load(label.infer(path.stem, "brain", tmp_path / f"served{suffix}"))
    saved = nib.load(run_packed(path, studies / "brain.nii.gz", tmp_path))
    assert served.shape == saved.shape == (19 * scale, 14 * scale, 5)
    np.testing.assert_allclose(served.header.get_zooms(), (0.9 / scale, 0.7 / scale, 3.1), atol=1e-5)
    np.testing.assert_allclose(served.affine, saved.affine, atol=1e-4)
    values, expected = served.get_fdata(), saved.get_fdata()
    assert np.abs(values - expected).max() <= 1e-4 * np.ptp(expected)
    assert served.get_data_dtype() == np.float32 and len(np.unique(values)) > 1000


def test_axes_that_are_not_at_right_angles_stay_so_in_an_nrrd(label, zips, tmp_path):
    tilt = np.eye(4)
    tilt[1, 2] = 0.3  # as of a gantry; for .nii.gz MONAI Label's writer turns the axes, with a warning in its log
    values = np.rint(blobs((9, 8, 4)) * 1000).astype(np.int16)
    source = save_nifti(tmp_path / "tilted.nii.gz", values, oblique((0.9, 0.7, 3.1)) @ tilt)
    served, case = read_itk(label.infer(zips[0].stem, source, tmp_path / "served.nrrd"))
    saved = nib.load(run_packed(zips[0], source, tmp_path))
    np.testing.assert_allclose(case.affine, saved.affine, atol=1e-5)
    assert np.abs(served[0] - saved.get_fdata()).max() <= 1e-4 * np.ptp(saved.get_fdata())


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_dicom_series_comes_back_as_the_values_of_the_derived_series(label, zips, tmp_path, kind):
    source = ct_series(tmp_path / "series")[0].parent
    if kind == "zip":
        source = Path(shutil.make_archive(str(tmp_path / "series"), "zip", source))
    served = nib.load(label.infer(zips[0].stem, source, tmp_path / "served.nii.gz"))
    check_series(served, run_packed(zips[0], source, tmp_path))


@pytest.mark.parametrize("converted", [False, True])
def test_a_series_of_a_dicomweb_archive_comes_back_on_the_fine_grid(zips, tmp_path, converted):
    """MONAI Label fetches the series; it can hand over its files, or make a NIfTI of them first (its default)."""
    python, files = label_python(), ct_series(tmp_path / "series")
    app = unpack_app(python, tmp_path, zips[:1])
    (app / "bin").mkdir(exist_ok=True)
    (app / "bin" / "itkimage2segimage").touch(mode=0o755)  # else the server fetches that tool from the internet
    with orthanc_server(tmp_path, [DICOMWEB]) as archive:
        for path in files:
            archive.ask("instances", path.read_bytes())
        convert = {"MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI": str(converted)}
        with label_server(python, app, f"{archive.url}/dicom-web", **convert) as server:
            series = str(pydicom.dcmread(files[0]).SeriesInstanceUID)
            served = nib.load(server.infer(zips[0].stem, series, tmp_path / "served.nii.gz"))
    if converted:  # by a reader that knows nothing of padding, and rows the other way
        assert served.shape == (20, 20, 4) and served.header.get_zooms() == pytest.approx((0.4, 0.4, 2.5))
    else:
        check_series(served, run_packed(zips[0], files[0].parent, tmp_path))


def check_series(served: nib.Nifti1Image, folder: Path) -> None:
    """``served`` has the real values, and the place, of the series in ``folder``."""
    slices = read_back(folder)
    real = [s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices]
    expected = np.stack(real).transpose(2, 1, 0)
    assert served.shape == expected.shape
    assert np.abs(served.get_fdata() - expected).max() <= 1e-4 * np.ptp(expected)
    position = np.array(slices[0].ImagePositionPatient, float) * (-1, -1, 1)
    np.testing.assert_allclose(served.affine[:3, 3], position, atol=1e-4)
    zooms = (slices[0].PixelSpacing[1], slices[0].PixelSpacing[0], 2.5)
    np.testing.assert_allclose(served.header.get_zooms(), np.array(zooms, float), atol=1e-5)
