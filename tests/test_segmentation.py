"""Dice of predicted labels: against MONAI's metric and counts by hand, and the tables of an evaluation."""

import csv
import json
from types import SimpleNamespace

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric

from common.blocks.unet import SegmentationUNet
from common.data.labels import LabelScheme
from common.features import FeatureJudge
from common.segmentation import Finding, OneHotVolumes, SegmentationJudge, dice_by_patient, dice_table, region_dice
from common.transforms.degradation import resample
from tests.helpers import INFERENCE, blobs, oblique, save_nifti

SCHEME = LabelScheme(("a", "b"))
CONFIGS = [str(INFERENCE.with_name(f"{name}.json")) for name in ("inference", "evaluate", "evaluate_segmentation")]


def test_dice_is_what_a_count_by_hand_gives():
    truth = torch.tensor([[1, 1, 1, 2], [0, 0, 2, 2]])
    prediction = torch.tensor([[1, 1, 2, 2], [1, 0, 2, 0]])
    dice = region_dice(prediction, truth, SCHEME)
    assert dice == pytest.approx({"a": 2 * 2 / (3 + 3), "b": 2 * 2 / (3 + 3), "whole": 2 * 4 / (6 + 6)})
    both = LabelScheme(("a", "b"), regions={"either": (1, 2)})
    assert region_dice(prediction, truth, both) == pytest.approx({"either": 2 * 5 / (6 + 6)})


def test_dice_of_each_class_is_that_of_monai():
    draw = torch.Generator().manual_seed(0)
    truth, prediction = torch.randint(0, 3, (2, 4, 16, 12), generator=draw)
    metric = DiceMetric(include_background=False, num_classes=3, reduction="none")
    expected = metric(prediction[None, None], truth[None, None])[0]
    found = region_dice(prediction, truth, SCHEME)
    assert [found["a"], found["b"]] == pytest.approx(expected.tolist())


def test_a_region_that_is_not_there_has_no_dice():
    truth = torch.tensor([0, 1, 1])
    assert region_dice(torch.tensor([2, 1, 1]), truth, SCHEME) == pytest.approx({"a": 1, "b": None, "whole": 4 / 5})
    assert set(region_dice(truth * 0, truth * 0, SCHEME).values()) == {None}
    with pytest.raises(ValueError, match=r"prediction: must have the shape of the labels, \(3,\), got \(2,\)"):
        region_dice(truth[:2], truth, SCHEME)


def test_the_planes_of_a_batch_are_one_volume_to_the_metric():
    labels = torch.randint(0, 3, (5, 1, 8, 6)).float()
    logits = torch.nn.functional.one_hot(labels[:, 0].long(), 3).movedim(-1, 1) * 4.0
    (prediction,), (truth,) = OneHotVolumes(3)({"pred": logits, "label": labels})
    assert prediction.shape == (3, 5, 8, 6) and torch.equal(prediction, truth)
    assert torch.equal(truth.argmax(0).float(), labels[:, 0])


def test_patients_count_once_and_those_without_a_region_not_at_all(tmp_path):
    findings = [
        Finding("HR", "p", "i", {"a": 0.8, "b": None}),
        Finding("HR", "p", "i", {"a": 0.6, "b": 0.5}),
        Finding("HR", "q", "j", {"a": 0.9, "b": None}),
    ]
    rows = dice_by_patient(findings, ("a", "b"))
    assert [(row["patient"], row["a"], row["b"]) for row in rows] == [("p", pytest.approx(0.7), 0.5), ("q", 0.9, None)]
    judge = SegmentationJudge(torch.nn.Identity(), LabelScheme(("a", "b"), regions={"a": (1,), "b": (2,)}), "0" * 64)
    summary, text = judge.conclude(findings, tmp_path)
    assert summary["dice"]["HR"]["a"]["mean"] == pytest.approx(0.8)
    assert summary["dice_undefined"] == {"a": 0, "b": 1}
    assert "| HR | 0.8000 ± 0.1414 | 0.5000 |" in text and "left out: b: 1 patients" in text
    assert dice_table(summary["dice"], {"a": 0, "b": 0}).endswith("|\n")


def random_unet(path):
    """Its labels mean nothing, but tell what went through it."""
    torch.manual_seed(1)
    unet = SegmentationUNet(1, 3, width=4)
    with torch.no_grad():
        unet(torch.rand(4, 1, 64, 64))
        unet.eval().head[0].bias -= unet(torch.rand(4, 1, 40, 36)).movedim(1, 0).flatten(1).median(1).values
    torch.save(unet.state_dict(), path)
    return unet


@pytest.fixture
def patients(tmp_path):
    """Three patients, the last without a label, and a datalist of them."""
    items = []
    for number in range(3):
        noise = np.random.default_rng(number).uniform(0, 200, (40, 36, 3))
        values = (blobs((40, 36, 3), number) * 700 + noise).astype(np.int16)
        labels = (values > 300).astype(np.uint8) + (values > 600)
        save_nifti(tmp_path / f"{number}.nii.gz", values, oblique((1, 1, 3)))
        save_nifti(tmp_path / f"{number}_label.nii.gz", labels * (number < 2), oblique((1, 1, 3)))
        items.append({"patient": f"p{number}", "image": f"{number}.nii.gz", "label": f"{number}_label.nii.gz"})
    (tmp_path / "datalist.json").write_text(json.dumps({"classes": ["a", "b"], "test": items}))
    return tmp_path


def load(folder, name):
    return nib.load(folder / f"{name}.nii.gz").get_fdata()


def run(folder, files=CONFIGS, **overrides):
    options = {"network_def": {"_target_": "common.blocks.upsample.Bicubic", "scale": "@scale"}, "weights": "none"}
    options |= {"scale": 2, "device": "cpu", "dataset_dir": str(folder), "output_dir": str(folder / "out")}
    options |= {"datalist": str(folder / "datalist.json"), "unet_path": str(folder / "unet.pt"), "pictures": False}
    monai.bundle.run(config_file=files, logging_file=False, **{**options, **overrides})


def test_an_evaluation_by_segmentation_scores_hr_bicubic_and_sr(patients):
    unet = random_unet(patients / "unet.pt")
    run(patients)
    summary = json.loads((patients / "out" / "summary.json").read_text())
    assert list(summary["dice"]) == ["HR", "bicubic", "RDST"]
    assert summary["dice"]["bicubic"] == summary["dice"]["RDST"] != summary["dice"]["HR"]
    assert summary["dice_undefined"] == {"a": 1, "b": 1, "whole": 1}
    with open(patients / "out" / "segmentation_patients.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 and rows[-1]["a"] == ""
    assert "| Dice | a | b | whole |" in (patients / "out" / "summary.md").read_text()

    image, labels = (torch.from_numpy(np.asarray(load(patients, name))) for name in ("0", "0_label"))
    planes = (image.float() / 1024).movedim(2, 0)[:, None]  # as the bundle normalises it: 10 bits
    with torch.no_grad():
        predicted = unet(planes).argmax(1)
    by_hand = region_dice(predicted, labels.movedim(2, 0), SCHEME)
    assert float(rows[0]["a"]) == pytest.approx(by_hand["a"], abs=1e-3) and rows[0]["method"] == "HR"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"unet_path": None}, "unet_path: must be the file of a trained segmentation U-Net, got None"),
        ({"datalist": None, "test_images": ["*.nii.gz"]}, "datalist: labels are asked for"),
    ],
)
def test_what_an_evaluation_by_segmentation_lacks_is_said(change, match, patients):
    random_unet(patients / "unet.pt")
    with pytest.raises(SystemExit, match=match):
        run(patients, **change)


def test_labels_on_another_grid_fail_their_image_and_not_the_others(patients):
    random_unet(patients / "unet.pt")
    save_nifti(patients / "1_label.nii.gz", np.ones((40, 36, 3), np.uint8), oblique((1, 2, 3)))
    with pytest.raises(SystemExit, match=r"1 of 3 images failed.*\n.*1_label\.nii\.gz: must lie on the grid"):
        run(patients)
    assert json.loads((patients / "out" / "summary.json").read_text())["patients"] == 2


def test_distances_in_features_stand_beside_the_other_scores(patients):
    unet = random_unet(patients / "unet.pt")
    run(patients, files=[*CONFIGS, CONFIGS[0].replace("inference", "evaluate_features")], feature_layer="E1")
    found = json.loads((patients / "out" / "summary.json").read_text())
    features = found["features"]
    assert features["network"] == "segmentation U-Net unet.pt, E1" and features["images"] == 9
    assert features["bicubic"] == features["RDST"] and features["bicubic"]["frechet"] > 0 and "dice" in found
    values = [torch.from_numpy(load(patients, n)).float().movedim(2, 0)[:, None] / 1024 for n in range(3)]
    with torch.no_grad():
        hr = torch.cat([unet.features(planes, ["E1"])["E1"].mean((2, 3)) for planes in values])
        low = [resample(planes, (20, 18)) for planes in values]
        sr = torch.cat([unet.features(resample(x, (40, 36)), ["E1"])["E1"].mean((2, 3)) for x in low])
    assert features["bicubic"]["distance"] == pytest.approx(float((hr - sr).square().mean(1).sqrt().mean()), rel=0.02)
    assert "| features of segmentation U-Net unet.pt, E1 |" in (patients / "out" / "summary.md").read_text()


def test_features_of_nothing_are_refused(patients):
    random_unet(patients / "unet.pt")
    configs = [*CONFIGS[:2], CONFIGS[0].replace("inference", "evaluate_features")]
    with pytest.raises(SystemExit, match="inception_path and unet_path: must have one of them"):
        run(patients, files=configs, unet_path=None)
    with pytest.raises(SystemExit, match=r"feature_layer: must be one of E1, .*, got E9"):
        run(patients, files=configs, feature_layer="E9")
    with pytest.raises(SystemExit, match="inception_path: must be a file"):
        run(patients, files=configs, inception_path="nowhere.pth")


def test_a_network_for_photographs_sees_each_channel_in_its_data_range():
    class Mean:
        name = "mean"

        def __call__(self, images):
            assert images.shape[1] == 1 and float(images.min()) >= 0 and float(images.max()) <= 1
            return images.mean((2, 3))

    limits = torch.tensor([[0.0, 2.0], [1.0, 5.0]])
    pair = SimpleNamespace(limits=limits)
    planes = torch.stack([torch.full((4, 4), 1.0), torch.full((4, 4), 4.0)])[None]
    _, found = FeatureJudge(Mean(), unit=True).begin({}, pair)("HR", planes)
    assert found.flatten().tolist() == [0.5, 0.75]
