"""MONAI Deploy: a packed bundle with a tiny network of random weights, as operator and as application."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from common.geometry import resized_affine, spacing
from common.info import find_bundles
from common.io.archive import sha256
from common.packing.members import WEIGHTS, gather
from common.packing.naming import SCRIPTED, nameless, sums_of
from common.packing.pack import export, named
from common.seal import SUMS
from tests.dicom_series import COLUMN, ROW, read_back, save_series
from tests.helpers import blobs, oblique

pytest.importorskip("monai.deploy", reason="needs MONAI Deploy: pip install monai-deploy-app-sdk==4.0.0")
VALUES = (blobs((12, 10, 3)) * 3000).astype(np.int16).transpose(2, 0, 1)
SCALE = 4


@dataclass
class Bundle:
    """A packed bundle, unpacked."""

    folder: Path
    package: str

    @property
    def scripted(self) -> Path:
        return self.folder / SCRIPTED

    def module(self, name: str):
        return importlib.import_module(f"{self.package}.common.{name}")

    def run(self, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = ["-W", "ignore", "-m", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *command],
            cwd=cwd or self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def deploy(self, source: Path, output: Path, model: object = ".") -> subprocess.CompletedProcess[str]:
        return self.run(f"{self.package}.common.deploy", "-i", source, "-o", output, "-m", model)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    root = tmp_path_factory.mktemp("packed")
    packed = gather(find_bundles()["rdst"], "smoke", nameless("rdst"))
    network = find_bundles()["rdst"] / "configs"
    parser = ConfigParser()
    parser.read_config([str(network / "inference.json"), str(network / "smoke.json")])
    torch.manual_seed(0)
    torch.save(parser.get_parsed_content("network_def").state_dict(), root / "model.pt")
    packed.members[WEIGHTS] = (root / "model.pt").read_bytes()
    about = {"sha256": sha256(root / "model.pt"), "scale": SCALE, "licence": "none", "data": "none"}
    packed.metadata["weights"] = {"model.pt": about}
    packed.members["configs/metadata.json"] = json.dumps(packed.metadata).encode()
    packed = named(packed)
    packed.members[SCRIPTED] = export(packed)
    packed.members[SUMS] = sums_of(packed.members)
    for name, content in packed.members.items():
        path = root / packed.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Bundle(root / packed.name, packed.package)


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> Path:
    def rescale(dataset, number):
        dataset.RescaleSlope, dataset.RescaleIntercept = 2, -1024

    return save_series(tmp_path_factory.mktemp("series") / "good", VALUES, change=rescale)


@pytest.fixture(scope="module")
def reference(bundle, series, tmp_path_factory) -> Path:
    """What MONAI's own runner makes of the series."""
    out = tmp_path_factory.mktemp("reference")
    words = ["--config_file", "configs/inference.json", "--dataset_dir", series, "--output_dir", out]
    done = bundle.run("monai.bundle", "run", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return only_series(out)


def only_series(out: Path) -> Path:
    (folder,) = out.glob(f"*_srx{SCALE}")
    return folder


def test_the_folder_of_a_bundle_gives_the_very_files_of_monais_runner(bundle, series, reference, tmp_path):
    done = bundle.deploy(series, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    files = sorted(only_series(tmp_path).iterdir())
    assert len(files) == len(VALUES)
    for file in files:
        assert file.read_bytes() == (reference / file.name).read_bytes()


def test_torchscript_gives_the_same_series_and_names_its_own_hash(bundle, series, reference, tmp_path):
    done = bundle.deploy(series, tmp_path, SCRIPTED)
    assert done.returncode == 0, done.stdout + done.stderr
    sources = read_back(series)
    for ours, theirs, source in zip(read_back(only_series(tmp_path)), read_back(reference), sources, strict=True):
        assert np.abs(ours.pixel_array.astype(int) - theirs.pixel_array).max() <= 1  # rounding to integers
        assert ours.StudyInstanceUID == source.StudyInstanceUID and ours.SeriesInstanceUID != source.SeriesInstanceUID
        assert np.allclose([float(v) for v in ours.PixelSpacing], np.divide(source.PixelSpacing, SCALE))
        assert ours.ImagePositionPatient == theirs.ImagePositionPatient
        assert ours.SeriesDescription.endswith("not for diagnostic use")
        assert sha256(bundle.scripted) in ours.DerivationDescription


def test_a_bad_series_costs_no_other_and_no_result_is_replaced(bundle, series, tmp_path):
    source = tmp_path / "in"
    save_series(source / "gap", VALUES[[0, 1, 2, 0]], series="1.2.3.5", change=open_gap)
    for file in series.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    first = bundle.deploy(source, tmp_path / "out")
    assert first.returncode == 1 and "slices are missing between" in first.stderr.splitlines()[-1]
    made = {file: file.read_bytes() for file in only_series(tmp_path / "out").iterdir()}
    second = bundle.deploy(source, tmp_path / "out")
    assert second.returncode == 1 and "exists already, and is not replaced" in second.stderr
    assert {file: file.read_bytes() for file in only_series(tmp_path / "out").iterdir()} == made


def open_gap(dataset, number):
    if number == 3:
        place = np.array(dataset.ImagePositionPatient, float) + 9 * np.cross(ROW, COLUMN)
        dataset.ImagePositionPatient = [round(float(v), 6) for v in place]


@pytest.mark.parametrize("model", ["docs", "LICENSE"])
def test_what_is_no_bundle_is_refused(bundle, series, tmp_path, model):
    done = bundle.deploy(series, tmp_path, model)
    assert done.returncode == 1 and "error: " in done.stderr and model in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


class Ports:
    """An input and an output of an operator."""

    def __init__(self, value: object = None) -> None:
        self.value = value

    def receive(self, name: str) -> object:
        return self.value

    def emit(self, value: object, name: str) -> None:
        self.value = value


@pytest.fixture
def operate(bundle, monkeypatch):
    """The operator, for images of hosts: image in, image out."""
    core = importlib.import_module("monai.deploy.core")
    monkeypatch.syspath_prepend(str(bundle.folder))
    fragment = core.Application()

    def operate(array, metadata=None, model=bundle.folder, **options):
        context = core.AppContext({"model": str(model), "input": "", "output": ""})
        operator = bundle.module("deploy_operator").SuperResolutionOperator(fragment, app_context=context, **options)
        out = Ports()
        image = core.Image(array, metadata) if metadata is not None else array
        operator.compute(Ports(image), out, None)
        return out.value

    return operate


def test_a_hosts_image_keeps_values_and_field_of_view(operate, bundle):
    affine, values = oblique((0.9, 0.9, 4)), (blobs((10, 12, 3)) * 250).astype(np.uint8)
    results = [operate(values, {"affine": affine}, model=model) for model in (bundle.folder, bundle.scripted)]
    results.append(operate(values.astype(np.float32), {"affine": affine}, model=bundle.folder.parent))
    for result in results:
        array, metadata = result.asnumpy(), result.metadata()
        assert array.dtype == np.float32 and array.shape == (3, 48, 40)
        assert np.allclose(metadata["affine"], resized_affine(affine, (10, 12, 3), (40, 48, 3)))
        assert np.allclose(spacing(metadata["nifti_affine_transform"]), (0.225, 0.225, 4))
        assert np.allclose(array, results[0].asnumpy(), atol=1e-4 * 250)
    low = results[0].asnumpy().reshape(3, 12, 4, 10, 4).mean(axis=(2, 4))
    assert np.corrcoef(low.ravel(), values.T.ravel())[0, 1] > 0.9  # in the values of the input, at their places


def test_a_plane_is_one_slice_and_what_has_no_place_is_refused(operate, bundle):
    plane = VALUES[0]
    spacings = {"row_pixel_spacing": 0.5, "col_pixel_spacing": 0.5}
    with pytest.warns(bundle.module("errors").CaseWarning, match="its place is unknown"):
        assert operate(plane, spacings).asnumpy().shape == (48, 40)
    for array, metadata in ((plane, {}), (VALUES, {}), (VALUES, None), (VALUES, spacings)):
        with pytest.raises(ValueError, match="must come with an affine"):
            operate(array, metadata)
    mistakes: list[str] = []
    assert operate(VALUES, {}, mistakes=mistakes) is None and "must come with an affine" in mistakes[0]
    with pytest.raises(ValueError, match="the network takes 1 channels, got 2"):
        operate(np.stack([VALUES, VALUES], axis=3), {"affine": np.eye(4)})
    with pytest.raises(ValueError, match="no_such: must be a setting"):
        operate(VALUES, {"affine": np.eye(4)}, settings={"no_such": 1})


def test_weights_of_the_users_own_serve_in_place_of_the_bundles(operate, bundle, tmp_path):
    state = torch.load(bundle.folder / WEIGHTS, weights_only=True)
    torch.save({key: value * 1.1 for key, value in state.items()}, tmp_path / "mine.pt")
    image, settings = (
        (VALUES.astype(np.float32), {"affine": oblique((0.9, 0.9, 4))}),
        {"ckpt_path": str(tmp_path / "mine.pt")},
    )
    assert not np.allclose(operate(*image).asnumpy(), operate(*image, settings=settings).asnumpy())
    with pytest.raises(ValueError, match=r"ckpt_path: .*model\.ts has weights of its own, got .*mine\.pt"):
        operate(*image, model=bundle.scripted, settings=settings)


@pytest.mark.parametrize("square", [True, False])
def test_the_sdks_own_reader_serves_where_its_geometry_is_right(operate, tmp_path, square):
    names = ("dicom_data_loader_operator", "dicom_series_selector_operator", "dicom_series_to_volume_operator")
    modules = [importlib.import_module(f"monai.deploy.operators.{name}") for name in names]
    fragment = importlib.import_module("monai.deploy.core").Application()
    save_series(tmp_path, VALUES, spacing=(0.5, 0.5) if square else (0.8, 0.5))
    studies = modules[0].DICOMDataLoaderOperator(fragment, input_folder=tmp_path).load_data_to_studies(tmp_path)
    selected = modules[1].DICOMSeriesSelectorOperator(fragment).filter(None, studies)
    image = modules[2].DICOMSeriesToVolumeOperator(fragment).convert_to_image(selected)
    if not square:
        with pytest.raises(ValueError, match=r"0\.5 mm along rows and 0\.8 mm along columns, got them swapped"):
            operate(image.asnumpy(), image.metadata())
        return
    result = operate(image.asnumpy(), image.metadata())
    assert result.asnumpy().shape == (3, 48, 40)
    steps = [result.metadata()[f"{name}_pixel_spacing"] for name in ("row", "col", "depth")]
    assert np.allclose(steps, (0.125, 0.125, 3), atol=1e-4)
