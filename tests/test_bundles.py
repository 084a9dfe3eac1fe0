"""The contract of a bundle. Bundles are found by glob: a new one is tested without touching this file."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from common.info import count_parameters, find_bundles
from common.weights import load_weights, sha256
from tests.helpers import ROOT, blobs, oblique, run_inference, save_nifti

BUNDLES = find_bundles()
PARAMETERS = {"rdst": 2_379_241}
MANDATORY = {  # of MONAI's bundle specification
    *("version", "changelog", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"),
    *("task", "description", "authors", "copyright", "network_data_format"),
}
each_bundle = pytest.mark.parametrize("bundle", BUNDLES.values(), ids=BUNDLES.keys())


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_bundles_are_found():
    assert set(BUNDLES) == {p.name for p in (ROOT / "bundles").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert "rdst" in BUNDLES


@each_bundle
def test_metadata_has_what_the_specification_asks_for(bundle):
    metadata = read(bundle / "configs" / "metadata.json")
    assert set() == MANDATORY - set(metadata)
    assert metadata["version"] in metadata["changelog"]
    assert not re.search("detection|classification|deepedit|deepgrow", bundle.name)  # MONAI Label reads types in names


@each_bundle
def test_stock_files_are_those_of_the_master(bundle):
    masters = ROOT / "common" / "templates"
    assert (bundle / "LICENSE").read_bytes() == (masters / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert (bundle / "configs" / "logging.conf").read_bytes() == (masters / "logging.conf").read_bytes()
    assert (bundle / "docs" / "README.md").exists() and (bundle / "docs" / "data_license.txt").exists()


@each_bundle
@pytest.mark.parametrize(("config", "kind"), [("inference", "infer"), ("train", "train")])
def test_configs_have_the_properties_that_monai_asks_for(bundle, config, kind, tmp_path):
    path = bundle / "configs" / f"{config}.json"
    images = {
        "dataset_dir": str(tmp_path),
        "output_dir": str(tmp_path / "run"),
        "train_images": ["a.nii.gz"],
        "val_images": ["a.nii.gz"],
    }
    save_nifti(tmp_path / "a.nii.gz", blobs((12, 12, 2)).astype(np.float32), oblique((1, 1, 3)))
    overrides = images if kind == "train" else {}  # inference is parsed by hosts that have no data yet
    workflow = ConfigWorkflow(str(path), workflow_type=kind, logging_file=False, **overrides)
    workflow.initialize()
    assert workflow.check_properties() == []
    text = path.read_text()
    assert len(text.splitlines()) <= {"inference": 100, "train": 150}[config]
    assert "%" not in text and ".." not in text.replace("...", "")


@each_bundle
def test_train_and_inference_define_the_same_network(bundle):
    networks = [read(bundle / "configs" / f"{name}.json")["network_def"] for name in ("train", "inference")]
    assert networks[0] == networks[1]
    assert count_parameters(bundle) == PARAMETERS.get(bundle.name, count_parameters(bundle))


@each_bundle
def test_every_path_of_an_overlay_exists(bundle):
    bases = {name: ConfigParser(read(bundle / "configs" / f"{name}.json")) for name in ("train", "inference")}
    for path in sorted((bundle / "configs").glob("*.json")):
        if path.stem in ("train", "inference", "metadata"):
            continue
        kinds = {"evaluate": "train"}  # evaluation is the validation of training, on other images
        kind = kinds.get(path.stem.split("_")[0], path.stem.split("_")[0])
        targets = [base for name, base in bases.items() if name == kind] or list(bases.values())
        for key in read(path):
            assert all(key in base for base in targets), f"{path.name}: {key}"


@each_bundle
def test_shipped_weights_are_small_listed_and_load_into_the_network(bundle):
    listed = read(bundle / "configs" / "metadata.json")["weights"]
    files = sorted((bundle / "models").glob("*.pt"))
    assert sorted(listed) == [file.name for file in files]
    for file in files:
        assert file.stat().st_size <= 9 * 2**20 and sha256(file) == listed[file.name]["sha256"]
        assert {"scale", "licence", "data"} <= set(listed[file.name])
        parser = ConfigParser(read(bundle / "configs" / "inference.json"))
        network = parser.get_parsed_content("network_def")
        if file.name == "model.pt":
            assert load_weights(network, file, bundle, listed) == listed[file.name]["sha256"]


@each_bundle
def test_the_output_is_scale_times_the_input(bundle):
    parser = ConfigParser(read(bundle / "configs" / "inference.json"))
    network, scale = parser.get_parsed_content("network_def").eval(), parser["scale"]
    with torch.no_grad():
        assert network(torch.rand(1, 1, 24, 17)).shape == (1, 1, 24 * scale, 17 * scale)


@each_bundle
def test_a_few_steps_of_training_leave_weights_that_inference_takes(bundle, tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        values = (blobs((48, 40, 6), seed=len(split)) * 1000).astype(np.int16)
        save_nifti(tmp_path / split / "a.nii.gz", values, oblique((1, 1, 3)))
    workflow = ConfigWorkflow(
        str(bundle / "configs" / "train.json"),
        workflow_type="train",
        logging_file=False,
        dataset_dir=str(tmp_path),
        output_dir=str(tmp_path / "run"),
        device="$torch.device('cpu')",
        steps=2,
        batch_size=2,
        patch_size=32,
        val_interval=1,
        train_images=["train/*.nii.gz"],
        val_images=["val/*.nii.gz"],
        **{"network_def#groups": 1},
    )
    workflow.initialize()
    workflow.run()
    assert np.isfinite(workflow.evaluator.state.metrics["val_psnr"])
    source, out = tmp_path / "val" / "a.nii.gz", tmp_path / "out"
    overrides = {"ckpt_path": str(tmp_path / "run" / "model.pt"), "network_def#groups": 1}
    parser = ConfigParser(read(bundle / "configs" / "inference.json"))
    run_inference(source, out, weights=parser["weights"], **overrides)
    assert (out / "a_srx4.nii.gz").exists()
    with pytest.raises(SystemExit, match=r"model\.pt: the weights do not fit the network"):
        run_inference(source, out, weights=parser["weights"], ckpt_path=overrides["ckpt_path"])
