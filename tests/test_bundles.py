"""The contract of a bundle. Bundles are found by glob: a new one is tested without touching this file."""

import inspect
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, onnx_export, verify_net_in_out

from common.info import count_parameters, find_bundles
from common.io.archive import sha256
from common.metadata import check_metadata
from common.metadata import is_segmentation as metadata_says_so
from common.weights import load_weights
from tests.helpers import ROOT, blobs, oblique, save_nifti
from tests.packed import pack_quickly, unpack

BUNDLES = find_bundles()
PARAMETERS = {"rdst": 2_379_241, "segmentation_unet": 1_493_436, "miassr": 1_368_320, "meta_rdn": 5_614_976}
PARAMETERS |= {"srresnet": 1_519_489, "msgan": 2_779_842}
each_bundle = pytest.mark.parametrize("bundle", BUNDLES.values(), ids=BUNDLES.keys())


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def is_segmentation(bundle: Path) -> bool:
    return metadata_says_so(read(bundle / "configs" / "metadata.json"))


SUPER_RESOLUTION = {name: bundle for name, bundle in BUNDLES.items() if not is_segmentation(bundle)}
each_sr_bundle = pytest.mark.parametrize("bundle", SUPER_RESOLUTION.values(), ids=SUPER_RESOLUTION.keys())


def test_bundles_are_found():
    assert set(BUNDLES) == {p.name for p in (ROOT / "bundles").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert "rdst" in BUNDLES


@each_bundle
def test_metadata_has_what_the_specification_asks_for(bundle):
    check_metadata(read(bundle / "configs" / "metadata.json"), bundle.name)
    assert not re.search("detection|classification|deepedit|deepgrow", bundle.name)  # MONAI Label reads types in names


@each_bundle
def test_stock_files_are_those_of_the_master(bundle):
    masters = ROOT / "common" / "templates"
    assert (bundle / "LICENSE").read_bytes() == (masters / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert (bundle / "configs" / "logging.conf").read_bytes() == (masters / "logging.conf").read_bytes()
    for master in masters.glob("*.json"):
        if not is_segmentation(bundle) or master.name.startswith("multi_gpu"):
            assert (bundle / "configs" / master.name).read_bytes() == master.read_bytes()
    assert (bundle / "docs" / "README.md").exists() and (bundle / "docs" / "data_license.txt").exists()


@each_bundle
@pytest.mark.parametrize(("config", "kind"), [("inference", "infer"), ("train", "train")])
def test_configs_have_the_properties_that_monai_asks_for(bundle, config, kind, tmp_path):
    path = bundle / "configs" / f"{config}.json"
    images = {
        "dataset_dir": str(tmp_path),
        "output_dir": str(tmp_path / "run"),
        "train_images": ["a.nii.gz"],
        "val_images": ["b.nii.gz"],
    }
    for name in ("a", "b"):
        values = blobs((130, 130, 2)).astype(np.float32)
        save_nifti(tmp_path / f"{name}.nii.gz", values, oblique((1, 1, 3)))
        save_labels(tmp_path, name, values)
    images |= labelled(bundle, tmp_path, {"training": "a", "validation": "b"})
    overrides = images if kind == "train" else {}  # inference is parsed by hosts that have no data yet
    workflow = ConfigWorkflow(str(path), workflow_type=kind, logging_file=False, **overrides)
    workflow.initialize()
    assert workflow.check_properties() == []
    text = path.read_text()
    assert len(text.splitlines()) <= {"inference": 100, "train": 150}[config]
    assert '"%' not in text and ".." not in text.replace("...", "")  # neither macros nor other folders


@each_bundle
def test_train_and_inference_define_the_same_network(bundle):
    networks = [read(bundle / "configs" / f"{name}.json")["network_def"] for name in ("train", "inference")]
    assert networks[0] == networks[1]
    assert count_parameters(bundle) == PARAMETERS.get(bundle.name, count_parameters(bundle))


def misspelt(overlay: dict, base: ConfigParser) -> list[str]:
    """Keys of an overlay that would do nothing: a path that the base has not, a new name that nothing refers to.

    A ``+`` before a path adds to what is there.
    """
    used = set(re.findall(r"@(\w+)", json.dumps(overlay))) | {"initialize", "run", "finalize"}
    return [key for key in overlay if key.removeprefix("+") not in base and ("#" in key or key not in used)]


@pytest.mark.parametrize("key", ["network_def#grops", "+network_def#grops", "blocks#size", "pictres"])
def test_a_misspelt_key_of_an_overlay_is_found(key):
    base = ConfigParser({"network_def": {"groups": 4}})
    assert misspelt({"network_def#groups": 8, "pictures": True, "run": ["$@pictures"], key: 1}, base) == [key]


OVER = {  # what an overlay lies over; by default train where its name begins so, else inference
    "multi_gpu_train": ["train"],
    "multi_gpu_evaluate": ["evaluate"],
    "full": ["train", "inference"],
    "smoke": ["train", "inference"],
    "paper": ["train", "inference"],
    "adversarial": ["train"],
    "finetune": ["train"],
    "transfer": ["train"],
    "narrow": ["train", "inference"],
    "deep": ["train", "inference"],
    "evaluate_segmentation": ["evaluate"],
    "evaluate_features": ["evaluate"],
    "evaluate_scales": ["evaluate"],
    "train_detector_acdc": ["train_detector"],
    "evaluate_detector": ["train_detector"],
    "region_brats": ["train_detector", "train + lesion_focus", "inference"],
    "region_lge": ["train_detector", "train + lesion_focus", "inference"],
    "region_dt": ["train_detector", "train + lesion_focus", "inference"],
    "lesion_focus": ["train"],
    "train_gan": ["train + adversarial"],
    "variant": ["train + adversarial + train_gan"],
    "sweep": [],  # no overlay: it names some
    "evaluate_region": ["evaluate"],
    "evaluate_baselines": ["evaluate"],
    "paper_chapter3": ["train + evaluate"],
    "paper_chapter4": ["train + evaluate"],
    "paper_chapter5": ["train + evaluate"],
}


LAYERS = {  # configs under an overlay that are not those of the name; a knob of training does nothing in evaluation
    "evaluate": ["inference", "evaluate"],
    "train + evaluate": ["inference", "evaluate", "train"],
}


def config_of(bundle: Path, layers: list[str]) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / f"{name}.json") for name in layers])
    return parser


@each_bundle
def test_every_path_of_an_overlay_exists(bundle):
    for path in sorted((bundle / "configs").glob("*.json")):
        if path.stem in ("train", "inference", "metadata"):
            continue
        name = "variant" if path.stem.startswith("variant_") else path.stem
        for base in OVER.get(name, ["train" if name.startswith("train") else "inference"]):
            parser = config_of(bundle, LAYERS.get(base, base.split(" + ")))
            assert misspelt(read(path), parser) == [], f"{path.name} over {base}"


@each_bundle
def test_shipped_weights_are_small_listed_and_load_into_the_network(bundle):
    listed = read(bundle / "configs" / "metadata.json")["weights"]
    files = sorted((bundle / "models").glob("*.pt"))
    assert sorted(listed) == [file.name for file in files]
    for file in files:
        assert file.stat().st_size <= 9 * 2**20 and sha256(file) == listed[file.name]["sha256"]
        assert {"scale", "licence", "data"} <= set(listed[file.name])
        config = read(bundle / "configs" / "inference.json") | {"scale": listed[file.name]["scale"]}
        network = ConfigParser(config).get_parsed_content("network_def")
        assert load_weights(network, file, bundle, listed) == listed[file.name]["sha256"]


@each_bundle
def test_weights_of_their_own_overlay_are_those_of_its_scale(bundle):
    listed = read(bundle / "configs" / "metadata.json")["weights"]
    overlays = [read(path) for path in (bundle / "configs").glob("inference_*.json")]
    named = {overlay["ckpt_path"].split("'")[-2]: overlay.get("scale") for overlay in overlays}
    network = ConfigParser(read(bundle / "configs" / "inference.json")).get_parsed_content("network_def")
    fixed = not getattr(network, "any_scale", False)
    assert named == {file: about["scale"] if fixed else None for file, about in listed.items() if file != "model.pt"}


@each_bundle
def test_the_output_is_scale_times_the_input(bundle):
    parser = ConfigParser(read(bundle / "configs" / "inference.json"))
    network, scale = parser.get_parsed_content("network_def").eval(), parser["scale"]
    pred = read(bundle / "configs" / "metadata.json")["network_data_format"]["outputs"]["pred"]
    with torch.no_grad():
        out = network(torch.rand(1, 1, 24, 17))
    assert out.shape == (1, pred["num_channels"], 24 * scale, 17 * scale)


@each_bundle
@pytest.mark.parametrize("n", [1, 3])
def test_the_metadata_tell_what_the_network_takes_and_gives(bundle, n):
    configs = bundle / "configs"
    files = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}
    verify_net_in_out("network_def", **files, device="cpu", n=n)
    data, scale = read(configs / "metadata.json")["network_data_format"], read(configs / "inference.json")["scale"]
    sizes = [data["inputs"]["image"]["spatial_shape"], data["outputs"]["pred"]["spatial_shape"]]
    low, high = ([int(size.split("*")[0]) for size in shape] for shape in sizes)
    assert high == [scale * size for size in low]  # MONAI does not look at this


def saved_network(bundle: Path, folder: Path) -> tuple[torch.nn.Module, dict[str, object]]:
    """The smallest network of a bundle with random weights, and what MONAI's export needs."""
    configs = [str(bundle / "configs" / f"{name}.json") for name in ("inference", "smoke")]
    parser = ConfigParser()
    parser.read_config(configs)
    network = parser.get_parsed_content("network_def").eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # else it starts as interpolation, whatever its body does
    torch.save(network.state_dict(), folder / "model.pt")
    meta_file = str(bundle / "configs" / "metadata.json")
    return network, {"ckpt_file": str(folder / "model.pt"), "meta_file": meta_file, "config_file": configs}


@each_bundle
def test_the_exported_torchscript_is_the_network_at_any_size(bundle, tmp_path):
    network, files = saved_network(bundle, tmp_path)
    ckpt_export("network_def", filepath=str(tmp_path / "model.ts"), **files)
    scripted = torch.jit.load(tmp_path / "model.ts")
    for size in ((8, 8), (24, 17), (13, 30)):
        image = torch.rand(2, 1, *size)
        with torch.no_grad():
            torch.testing.assert_close(scripted(image), network(image), atol=1e-5, rtol=0)


@pytest.mark.slow
@each_bundle
@pytest.mark.parametrize("size", [(16, 24), (24, 17)])
def test_the_exported_onnx_is_the_network_at_the_size_that_it_was_exported_at(bundle, size, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -e .[export]")
    from onnxruntime import InferenceSession

    network, files = saved_network(bundle, tmp_path)
    path = str(tmp_path / "model.onnx")
    onnx_export("network_def", filepath=path, input_shape=[1, 1, *size], **files)
    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    image = torch.rand(1, 1, *size)
    out = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
    with torch.no_grad():
        expected = network(image)
    torch.testing.assert_close(out, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def save_labels(root: Path, name: str, values: np.ndarray) -> None:
    """Three classes by brightness, apart from the images."""
    (root / "labels").mkdir(exist_ok=True)
    labels = np.digitize(values / values.max(), (0.2, 0.4, 0.7)).astype(np.uint8)
    save_nifti(root / "labels" / f"{name}.nii.gz", labels, oblique((1, 1, 3)))


def labelled(bundle: Path, root: Path, stems: dict[str, str]) -> dict[str, str]:
    """The setting that leads a bundle that needs labels to them: a datalist of one patient a split."""
    if not is_segmentation(bundle):
        return {}
    items = {
        split: [{"patient": stem, "image": f"{stem}.nii.gz", "label": f"labels/{Path(stem).name}.nii.gz"}]
        for split, stem in stems.items()
    }
    (root / "datalist.json").write_text(json.dumps({"classes": ["dim", "grey", "bright"], **items}))
    return {"datalist": str(root / "datalist.json")}


SPLITS = {"training": "train/train", "validation": "val/val", "test": "test/test"}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("phantoms")
    for split in ("train", "val", "test"):
        (root / split).mkdir()
        values = (blobs((48, 40, 6), seed=len(split)) * 1000).astype(np.int16)
        save_nifti(root / split / f"{split}.nii.gz", values, oblique((1, 1, 3)))
        save_labels(root, split, values)
    return root


def start(bundle: Path, phantoms: Path, out: Path, *configs: str, **overrides: object) -> ConfigWorkflow:
    """Run configs of a bundle, its smallest network, in this process."""
    files = [str(bundle / "configs" / f"{name}.json") for name in (*configs, "smoke")]
    settings = {"dataset_dir": str(phantoms), "output_dir": str(out), "device": "$torch.device('cpu')"}
    settings |= labelled(bundle, phantoms, SPLITS) if configs != ("inference",) else {}
    settings |= overrides
    workflow = ConfigWorkflow(files, workflow_type=configs[0], logging_file=False, **settings)
    workflow.initialize()
    workflow.run()
    return workflow


STEPS = {"steps": 2, "val_interval": 1, "batch_size": 2, "patch_size": 32}


@each_bundle
def test_training_goes_on_where_it_stopped_and_its_weights_serve_inference_and_evaluation(bundle, phantoms, tmp_path):
    start(bundle, phantoms, tmp_path / "run", "train", **STEPS, minutes=1e-9)
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == 1
    workflow = start(bundle, phantoms, tmp_path / "run", "train", **STEPS)
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert state["step"] == 2 and len(state["best"]["history"]) == 2
    assert set(workflow.parser["validate"]["key_metric"]) <= set(workflow.evaluator.state.metrics)

    weights = str(tmp_path / "run" / "model.pt")
    test = phantoms / "test"
    inference = start(bundle, test, tmp_path / "out", "inference", ckpt_path=weights)
    postfix = "seg" if is_segmentation(bundle) else f"srx{inference.parser['scale']}"
    assert (tmp_path / "out" / f"test_{postfix}.nii.gz").exists()
    smaller = read(bundle / "configs" / "smoke.json")
    full = {
        key.split("#")[0]: read(bundle / "configs" / "inference.json")[key.split("#")[0]]
        for key in smaller
        if key[0] != "_"
    }
    with pytest.raises(SystemExit, match=r"model\.pt: the weights do not fit the network"):
        start(bundle, test, tmp_path / "out", "inference", ckpt_path=weights, **full)

    start(bundle, phantoms, tmp_path / "scores", "inference", "evaluate", ckpt_path=weights)
    name, table = read(bundle / "configs" / "metadata.json")["name"], "slices.csv"
    expected = {"bicubic", name}
    if is_segmentation(bundle):
        expected, table = {"HR"}, "segmentation_patients.csv"
    rows = (tmp_path / "scores" / table).read_text().splitlines()
    assert {row.split(",")[0] for row in rows[1:]} == expected


@each_bundle
def test_packed_it_trains_infers_and_evaluates_by_its_own_code(bundle, phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    root = unpack(pack_quickly(bundle, tmp_path), tmp_path / "alone")
    start(root, phantoms, tmp_path / "run", "train", **STEPS)
    weights = str(tmp_path / "run" / "model.pt")
    workflow = start(root, phantoms / "test", tmp_path / "out", "inference", ckpt_path=weights)
    assert workflow.parser.get_parsed_content("bundle_root") == str(root)
    network = type(workflow.parser.get_parsed_content("network_def"))
    assert Path(inspect.getfile(network)) == next(root.glob("sr_*")) / "network.py"
    assert [path.suffix for path in sorted((tmp_path / "out").iterdir())] == [".jsonl", ".gz"]
    start(root, phantoms, tmp_path / "scores", "inference", "evaluate", ckpt_path=weights)
    assert (tmp_path / "scores" / "summary.json").is_file()


@each_sr_bundle
def test_it_trains_on_against_a_critic(bundle, phantoms, tmp_path):
    settings = {**STEPS, "steps": 1, "perceptual": "l1", "ckpt_path": ""}
    workflow = start(bundle, phantoms, tmp_path, "train", "adversarial", **settings)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert state["step"] == 1 and state["adversary"]["optimizer"]["state"][0]["step"] == 1
    assert workflow.parser.get_parsed_content("validate#best").history == state["best"]["history"]


@each_sr_bundle
@pytest.mark.parametrize("chapter", [3, 4, 5])
def test_the_protocols_of_the_papers_train_and_evaluate(bundle, chapter, phantoms, tmp_path):
    datalist = tmp_path / "datalist.json"
    splits = {"training": "train", "validation": "val", "test": "test"}
    items = {s: [{"patient": name, "image": f"{name}/{name}.nii.gz"}] for s, name in splits.items()}
    datalist.write_text(json.dumps(items))
    overlay, common = f"paper_chapter{chapter}", {"datalist": str(datalist), "crop": [32, 32]}
    start(bundle, phantoms, tmp_path / "run", "train", overlay, **STEPS, **common)
    weights = str(tmp_path / "run" / "model.pt")
    start(bundle, phantoms, tmp_path / "out", "inference", "evaluate", overlay, **common, ckpt_path=weights)
    summary = read(tmp_path / "out" / "summary.json")
    assert summary["protocol"] == f"paper, chapter {chapter}" and "maximum" in summary["data_range"]
    assert summary["border"] == (0 if chapter == 3 else summary["scale"])
    assert summary["degradation"]["antialias"] is (chapter == 3) and summary["degradation"]["lr_blur"] is (chapter == 4)
