"""The lesion detector: the paper's layers, any size, its files, and its training by MONAI's runner."""

import json

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from common.blocks.detector import LesionDetector
from common.blocks.unet import SegmentationUNet
from common.frozen import load_detector
from common.transforms.degradation import CLEAN
from tests.helpers import ROOT, blobs, oblique, save_nifti

CONFIGS = ROOT / "bundles" / "msgan" / "configs"
TINY = {"detector_size": [32, 32], "widths": [2, 4], "hidden": [4]}


def tiny(channels: int = 1, size: tuple[int, int] = (32, 32)) -> LesionDetector:
    torch.manual_seed(0)
    return LesionDetector(channels, size, widths=(2, 4), hidden=(4,)).eval()


def test_the_layers_are_those_of_the_paper():
    detector = LesionDetector()
    convolutions = [m for m in detector.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [m.out_channels for m in convolutions] == [w for w in (32, 64, 128, 128, 128) for _ in range(4)]
    assert [m.out_features for m in detector.modules() if isinstance(m, torch.nn.Linear)] == [1024, 128, 2]
    assert sum(isinstance(m, torch.nn.MaxPool2d) for m in detector.modules()) == 5
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in detector.modules()) == 20
    assert sum(p.numel() for p in detector.parameters()) == 4_096_450


def test_images_of_any_size_give_a_centre_each_and_the_script_the_same():
    detector = tiny()
    scripted = torch.jit.script(detector)
    for size in ((32, 32), (7, 50), (130, 61)):
        image = torch.rand(3, 1, *size)
        with torch.no_grad():
            assert detector(image).shape == (3, 2)
            torch.testing.assert_close(scripted(image), detector(image))


def test_lr_looks_to_it_as_hr_does():
    high = torch.from_numpy(blobs((128, 128, 1), seed=2)[..., 0]).float()[None, None]
    detector = tiny()
    with torch.no_grad():
        torch.testing.assert_close(detector(CLEAN(high, (4, 4))), detector(high), atol=0.01, rtol=0)


def test_every_weight_learns_and_the_centre_is_float32_in_mixed_precision():
    detector = tiny().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        centre = detector(torch.rand(8, 1, 40, 30))
    assert centre.dtype == torch.float32
    detector.tail[1].bias.data.add_(10)  # past the ReLU
    detector(torch.rand(8, 1, 40, 30)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in detector.parameters())


@pytest.mark.parametrize("size", [(30, 32), (0, 32), (32,)])
def test_a_size_that_cannot_be_halved_at_each_level_is_refused(size):
    with pytest.raises(ValueError, match="size: must be two multiples of 4"):
        LesionDetector(1, size, widths=(2, 4))


def test_a_file_tells_all_of_its_detector_in_half_precision_too(tmp_path):
    detector = tiny(2, (32, 64))
    half = {k: v.half() if v.is_floating_point() else v for k, v in detector.state_dict().items()}
    torch.save({"model": half}, tmp_path / "model.pt")
    loaded = load_detector(tmp_path / "model.pt", in_channels=2)
    image = torch.rand(2, 2, 20, 20)
    assert loaded.size == [32, 64] and not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), detector(image), atol=1e-2, rtol=0)
    assert {v.dtype for v in loaded.state_dict().values()} == {torch.float32, torch.int64}


def without(key: str) -> dict[str, torch.Tensor]:
    return {k: v for k, v in tiny().state_dict().items() if k != key}


@pytest.mark.parametrize(
    ("state", "match"),
    [
        (SegmentationUNet(1, 2, 4).state_dict(), r"must hold the weights of a lesion detector, got encoder\..* first"),
        (without("input_size"), "must hold the weights of a lesion detector, got body"),
        (without("body.1.0.shortcut.weight"), r"got nothing under body\.1\.0\.shortcut\.weight; train one"),
        (tiny().state_dict() | {"more": torch.zeros(1)}, "got more besides"),
        (tiny().state_dict() | {"input_size": torch.tensor([33, 32])}, r"got input_size \[33, 32\] of 2 levels"),
        (tiny().state_dict() | {"input_size": torch.tensor([64, 32])}, r"tail\.1\.weight of shape"),
        (tiny(2).state_dict(), "the detector must have in_channels 1, got 2"),
        ({"a": "code"}, "must be a PyTorch state dict of nothing but tensors"),
    ],
)
def test_files_of_something_else_are_refused(state, match, tmp_path):
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=match):
        load_detector(tmp_path / "model.pt", in_channels=1)


@pytest.mark.parametrize("path", [None, "", "nowhere.pt"])
def test_without_a_file_the_error_says_how_to_get_one(path):
    with pytest.raises(ValueError, match=r"detector_path: must be the file of a .*train_detector\.json and pass it by"):
        load_detector(path)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Patients whose images differ in size, a bright lesion in all planes but the first, and a datalist of them."""
    root, splits = tmp_path_factory.mktemp("phantoms"), {}
    for number, split in enumerate(("training", "training", "validation", "test")):
        size = (48 + 4 * number, 40, 5)
        values = (blobs(size, number) * 500 + 200).astype(np.int16)
        labels = np.zeros(size, np.uint8)
        labels[20:28, 10:16, 1:], labels[28:32, 10:16, 1:] = 1, 2
        values[labels > 0] += 400
        save_nifti(root / f"{number}.nii.gz", values, oblique((1, 1, 3)))
        save_nifti(root / f"{number}_label.nii.gz", labels, oblique((1, 1, 3)))
        item = {"patient": f"p{number}", "image": f"{number}.nii.gz", "label": f"{number}_label.nii.gz"}
        splits.setdefault(split, []).append(item)
    (root / "datalist.json").write_text(json.dumps({"classes": ["core", "rim"], "crop": [8, 8], **splits}))
    return root


def start(phantoms, out, *overlays, **overrides) -> ConfigWorkflow:
    files = [str(CONFIGS / f"{name}.json") for name in ("train_detector", *overlays)]
    settings = {
        "bundle_root": str(CONFIGS.parent),
        "dataset_dir": str(phantoms),
        "output_dir": str(out),
        "device": "cpu",
    }
    settings |= {
        "datalist": str(phantoms / "datalist.json"),
        "region_size": [24, 16],
        "epochs": 2,
        "batch_size": 4,
        "min_foreground": 0,
    }
    workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **{**settings, **TINY, **overrides})
    workflow.initialize()
    workflow.run()
    return workflow


def test_it_is_trained_on_whole_planes_with_a_lesion_for_so_many_epochs(phantoms, tmp_path):
    start(phantoms, tmp_path, minutes=1e-9)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 1
    workflow = start(phantoms, tmp_path)
    assert len(workflow.parser.get_parsed_content("train#dataset")) == 8  # of two patients, whatever the crop says
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert state["step"] == 4 and len(state["best"]["history"]) == 2
    assert set(workflow.evaluator.state.metrics) == {"val_perfect", "val_acceptable"}
    assert load_detector(tmp_path / "model.pt", 1).size == [32, 32]

    start(phantoms, tmp_path / "whole")
    whole = torch.load(tmp_path / "whole" / "last.pt", weights_only=True)
    for name, value in state["network"].items():  # a run that stopped takes the same steps
        torch.testing.assert_close(value, whole["network"][name], msg=name)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"lesion": ["scar"]}, r"lesion: must be a list of some of core, rim, got \['scar'\]"),
        ({"datalist": None}, "datalist: labels are asked for"),
        ({"region_size": [60, 16]}, r"plane 1: the region of 60 x 16 HR pixels must fit into the image, got 56 x 40"),
        ({"region_size": 60}, "region_size: must be height and width in HR pixels"),
    ],
)
def test_a_training_that_cannot_be_says_why_before_it_begins(change, match, phantoms, tmp_path):
    with pytest.raises(SystemExit, match=match):
        start(phantoms, tmp_path, **change)
    assert not (tmp_path / "last.pt").exists()


def test_one_class_can_be_the_lesion(phantoms, tmp_path):
    workflow = start(phantoms, tmp_path, lesion=["rim"], epochs=1)
    plane = workflow.parser.get_parsed_content("train#with_lesion")[0]["label"]
    assert int(plane[-1].sum()) == 4 * 6 and set(plane[-1].unique().tolist()) == {0, 1}


def test_the_overlay_for_cardiac_mr_trains(phantoms, tmp_path):
    start(phantoms, tmp_path, "train_detector_acdc", steps=2, val_interval=2)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 2


def test_regions_are_those_of_the_paper_and_overlays_set_what_is_there():
    base = ConfigParser(json.loads((CONFIGS / "train_detector.json").read_text()))
    sizes = {}
    for name in ("region_brats", "region_lge", "region_dt", "train_detector_acdc"):
        overlay = json.loads((CONFIGS / f"{name}.json").read_text())
        assert all(key in base for key in overlay)
        sizes[name] = overlay["region_size"]
    assert list(sizes.values()) == [[120, 120], [160, 120], [80, 80], [80, 80]]
    assert len((CONFIGS / "train_detector.json").read_text().splitlines()) <= 150
