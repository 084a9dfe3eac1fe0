"""A new bundle from the masters: what is made, what is refused, and that it passes the contract as it is."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.info import find_bundles
from common.new import TEMPLATES, bundle_files, new
from common.weights import load_weights
from tests.helpers import ROOT, copy_repository, run_module

MASTERS = TEMPLATES / "bundle" / "configs"
RDST = ROOT / "bundles" / "rdst" / "configs"
OWN = {"_comment", "bundle_root", "output_dir", "network_def"}  # of every method
ANY_SCALE = {"scale", "magnification", "inferer", "postprocessing", "run"}  # of a network of any, in inference
SCALES = {"scale", "scales", "per_axis", "val_scales", "loss_limit", "augment", "transfer", "prepare_batch"}
FOCUS = {"lesion_focus", "region_size", "detector_path", "focus"}
FOCUSED = {"preprocessing", "postprocessing"}  # by it, in inference
ENGINES = {"train", "validate", "run"}
RECIPE = {"patch_size", "batch_size", "learning_rate", "steps", "val_interval", "loss", "optimizer", "lr_scheduler"}


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_bundle_has_every_file_and_no_placeholder(tmp_path):
    assert "python" not in new("my_method", root=tmp_path) and [p.name for p in tmp_path.iterdir()] == ["my_method"]
    made = {p.relative_to(tmp_path / "my_method").as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    stock = {f"configs/{path.name}" for path in TEMPLATES.glob("*.json")} | {"LICENSE", "configs/logging.conf"}
    configs = {f"configs/{name}.json" for name in ("train", "inference", "evaluate", "smoke", "metadata")}
    assert made == stock | configs | {"network.py", "docs/README.md", "docs/data_license.txt"}
    for path in made:
        assert b"__name__" not in (tmp_path / "my_method" / path).read_bytes(), path
    network = read(tmp_path / "my_method" / "configs" / "train.json")["network_def"]
    assert network["_target_"] == "bundles.my_method.network.ResidualNetwork"
    assert read(tmp_path / "my_method" / "configs" / "metadata.json")["weights"] == {}


@pytest.mark.parametrize("name", ["MyMethod", "my-method", "2net", "", "_net", "é", "a/b", "..", "class", 123])
def test_a_name_that_is_no_identifier_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="name: must be a lower-case Python identifier and no keyword, got"):
        new(name, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["edge_detection", "classification2", "mydeepedit", "deepgrow"])
def test_a_name_in_which_monai_label_reads_a_type_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"name: must not contain .*; choose another"):
        new(name, root=tmp_path)


def test_a_folder_that_exists_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="mine: exists already; choose another name"):
        new("mine", root=tmp_path)
    assert list((tmp_path / "mine").iterdir()) == []
    with pytest.raises(ValueError, match="nowhere: must be a folder that holds bundles"):
        new("mine", root=tmp_path / "nowhere")


def test_a_bundle_is_made_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.rename", full)
    with pytest.raises(OSError, match="no space"):
        new("mine", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("config", "own"), [("train", OWN | RECIPE), ("inference", OWN), ("evaluate", set())])
def test_the_masters_and_rdst_differ_only_in_what_is_the_methods_own(config, own):
    master, rdst = read(MASTERS / f"{config}.json"), read(RDST / f"{config}.json")
    assert list(master) == list(rdst)
    assert [key for key in master if key not in own and master[key] != rdst[key]] == []


@pytest.mark.parametrize(
    ("config", "own"),
    [("train", OWN | RECIPE | SCALES | ENGINES), ("inference", OWN | ANY_SCALE), ("evaluate", set())],
)
def test_networks_of_any_scale_differ_only_in_what_scales_need_and_not_from_one_another(config, own):
    ours = (read(ROOT / "bundles" / name / "configs" / f"{config}.json") for name in ("rdst", "miassr", "meta_rdn"))
    rdst, miassr, meta_rdn = ours
    sizes = {"width", "blocks", "layers", "growth"}
    shared = [key for key in rdst if key in miassr and key not in own | sizes]
    assert shared and [key for key in shared if rdst[key] != miassr[key]] == []
    assert [key for key in miassr if key not in OWN | sizes and miassr[key] != meta_rdn.get(key)] == []


@pytest.mark.parametrize(("bundle", "new"), [("srresnet", FOCUS), ("msgan", FOCUS | {"generator", "alpha", "beta"})])
@pytest.mark.parametrize(
    ("config", "own"), [("train", OWN | RECIPE), ("inference", OWN | FOCUSED), ("evaluate", set())]
)
def test_the_networks_of_chapter_3_differ_from_rdst_only_in_what_is_their_own(bundle, new, config, own):
    ours, rdst = read(ROOT / "bundles" / bundle / "configs" / f"{config}.json"), read(RDST / f"{config}.json")
    assert [key for key in ours if key not in new] == list(rdst)
    assert [key for key in rdst if key not in own and ours[key] != rdst[key]] == []


def test_the_overlay_of_lesion_focus_is_the_same_in_both_bundles_that_have_it():
    copies = [
        (ROOT / "bundles" / name / "configs" / "lesion_focus.json").read_bytes() for name in ("msgan", "srresnet")
    ]
    assert copies[0] == copies[1]


def test_the_metadata_of_the_master_names_the_versions_that_rdst_names():
    master, rdst = read(MASTERS / "metadata.json"), read(RDST / "metadata.json")
    assert list(master) == list(rdst)
    versions = [key for key in master if key.endswith("_version") or key == "schema"]
    assert len(versions) == 5 and all(master[key] == rdst[key] for key in versions)


def test_the_network_of_the_master_is_scriptable_and_starts_as_interpolation():
    spec = importlib.util.spec_from_file_location("network_of_the_master", TEMPLATES / "bundle" / "network.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    network = module.ResidualNetwork(scale=2).eval()
    image = torch.rand(1, 1, 13, 10)
    expected = torch.nn.functional.interpolate(image, scale_factor=2, mode="bilinear")
    with torch.no_grad():
        out = network(image)
        torch.testing.assert_close(torch.jit.script(network)(image), out, atol=1e-6, rtol=0)
        assert (out - expected)[..., 4:-4, 4:-4].abs().mean() < 0.1
    with pytest.raises(ValueError, match="width: must be at least in_channels, got 2 and 4"):
        module.ResidualNetwork(in_channels=4, width=2)


def test_a_bundle_without_weights_refuses_inference(tmp_path):
    new("mine", root=tmp_path)
    listed = read(tmp_path / "mine" / "configs" / "metadata.json")["weights"]
    with pytest.raises(ValueError, match=r"model\.pt: there are no such weights; pass --ckpt_path FILE, or train"):
        load_weights(torch.nn.Identity(), tmp_path / "mine" / "models" / "model.pt", tmp_path / "mine", listed)


def test_bundles_are_found_where_an_editable_install_names_no_folder(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert find_bundles()["rdst"] == ROOT / "bundles" / "rdst"


@pytest.mark.slow
def test_a_new_bundle_passes_the_contract_at_once(tmp_path):
    copy = copy_repository(tmp_path / "copy")
    done = run_module("common", "new", "my_method", cwd=copy)
    assert done.returncode == 0 and str(copy / "bundles" / "my_method") in done.stdout, done.stdout + done.stderr
    again = run_module("common", "new", "my_method", cwd=copy)
    assert again.returncode == 1 and "exists already" in again.stderr and "Traceback" not in again.stderr
    info = run_module("common", "info", cwd=copy)
    assert "my_method 0.1.0" in info.stdout and "none: pass --ckpt_path" in info.stdout
    done = run_module("pytest", "tests/test_bundles.py", "-k", "my_method", cwd=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "failed" not in done.stdout
    done = run_module("ruff", "check", "bundles/my_method/network.py", cwd=copy)
    assert done.returncode == 0, done.stdout
    done = run_module("ruff", "format", "--check", "bundles/my_method/network.py", cwd=copy)
    assert done.returncode == 0, done.stdout
    config = "bundles/my_method/configs/inference.json"
    done = run_module("monai.bundle", "run", "--config_file", config, "--dataset_dir", str(copy), cwd=copy)
    assert done.returncode == 1 and "there are no such weights; pass --ckpt_path FILE" in done.stderr


def test_the_templates_are_installed_with_the_package():
    code = (
        "from setuptools.dist import Distribution; d = Distribution({'script_name': 'x'}); d.parse_config_files(); "
        "b = d.get_command_obj('build_py'); b.ensure_finalized(); "
        "print(*b.get_outputs(include_bytecode=False), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    if "No module named 'setuptools'" in done.stderr:
        pytest.skip("setuptools is not installed")
    assert done.returncode == 0, done.stderr
    built = {line.split("common/templates/", 1)[1] for line in done.stdout.splitlines() if "common/templates/" in line}
    masters = {p.relative_to(TEMPLATES).as_posix() for p in TEMPLATES.rglob("*") if p.is_file()}
    assert {p for p in masters if "__pycache__" not in p} <= built
    assert len(bundle_files("x")) == sum(not path.startswith("packed/") for path in built)
