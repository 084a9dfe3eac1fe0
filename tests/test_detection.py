"""Detections as table 3.2: what a region holds, the metric of a training, and the report of an evaluation."""

import csv
import json

import monai.bundle
import numpy as np
import pytest
import torch

from common.blocks.detector import LesionDetector
from common.detection import (
    ACCEPTABLE,
    BAD,
    PERFECT,
    DetectionRate,
    by_patient,
    count_levels,
    coverage,
    detection_tables,
    judge_plane,
    level_of,
)
from tests.helpers import blobs, oblique, save_nifti
from tests.test_detector import CONFIGS


def line(length: int = 40) -> torch.Tensor:
    """A lesion of so many pixels in one row of an image of 40 x 100."""
    mask = torch.zeros(1, 40, 100)
    mask[0, 20, 10 : 10 + length] = 1
    return mask


@pytest.mark.parametrize(
    ("left", "covered", "level"),
    [(10, 1, PERFECT), (9, 1, PERFECT), (11, 39 / 40, ACCEPTABLE), (12, 38 / 40, BAD), (60, 0, BAD)],
)
def test_levels_follow_from_the_part_of_a_lesion_that_the_region_holds(left, covered, level):
    found = coverage(line(), (10, left), (20, 41))
    assert found == pytest.approx(covered) and level_of(found) == level


def test_a_lesion_of_no_pixels_has_no_detection():
    with pytest.raises(ValueError, match="mask: must have a labelled pixel, got none"):
        coverage(line(0), (0, 0), (9, 9))
    about = {"images": "HR", "patient": "p", "image": "a", "plane": 0}
    with pytest.raises(ValueError, match="a, plane 0: must have a labelled pixel"):
        judge_plane(line(0), (0.5, 0.5), (9, 9), 1, about, "a, plane 0")


CENTRES = [[0.5, 0.3], [0.5, 0.31], [0.5, 0.32], [0.5, 0.9]]  # perfect, acceptable, bad, bad with regions of 40 columns


def test_the_metric_of_a_training_counts_planes_of_all_batches():
    rates = DetectionRate((20, 40)), DetectionRate((20, 40), "acceptable"), DetectionRate((20, 40), tie=0.1)
    output = {"pred": torch.tensor(CENTRES), "label": line().repeat(4, 1, 1, 1)}
    for rate in rates:
        rate.update(rate.score(output))
        rate.update(rate.score({name: value[:1] for name, value in output.items()}))
    true = torch.tensor([20.5 / 40, 0.3])
    distance = (torch.tensor([*CENTRES, CENTRES[0]]) - true).norm(dim=1).mean()
    assert [rate.compute() for rate in rates] == pytest.approx([2 / 5, 3 / 5, 2 / 5 - 0.1 * float(distance)])
    rates[0].update(rates[0].score({**output, "pred": torch.full((4, 2), torch.nan)}))
    assert np.isnan(rates[0].compute())
    with pytest.raises(ValueError, match="level: must be perfect or acceptable, got bad"):
        DetectionRate((20, 40), "bad")


def rows():
    places = zip("ppqq", CENTRES, strict=True)
    return [
        judge_plane(line(), centre, (20, 40), 1, {"images": "HR", "patient": patient, "image": "i", "plane": n}, "i")
        for n, (patient, centre) in enumerate(places)
    ]


def test_planes_and_patients_are_counted():
    found = rows()
    assert [row.level for row in found] == [PERFECT, ACCEPTABLE, BAD, BAD]
    assert (found[2].top, found[2].left, found[2].covered) == (10, 12, 38 / 40)
    assert found[3].distance == pytest.approx(np.hypot(0.5, 60)) and found[3].true_column == pytest.approx(30)
    counts = count_levels(found)["HR"]
    assert (counts["patients"], counts["planes"], counts[PERFECT], counts[ACCEPTABLE], counts[BAD]) == (2, 4, 1, 1, 2)
    means = [np.mean([row.distance for row in found[n : n + 2]]) for n in (0, 2)]
    assert counts["distance"] == pytest.approx({"mean": np.mean(means), "sd": np.std(means, ddof=1)})
    assert [(row["patient"], row["planes"], row[BAD]) for row in by_patient(found)] == [("p", 2, 0), ("q", 2, 2)]
    text = detection_tables(found, (20, 40))
    assert "| HR | 4 | 1 (25.0%) | 1 (25.0%) | 2 (50.0%) |" in text and "| HR | q | 2 | 0 (0.0%) |" in text


def test_a_region_found_on_lr_begins_at_an_lr_pixel():
    about = {"images": "LR x4", "patient": "p", "image": "i", "plane": 0}
    row = judge_plane(line(), (0.5, 0.31), (20, 40), 4, about, "i")
    assert (row.top, row.left, row.level) == (12, 12, BAD)  # 11 and so acceptable, were any pixel a beginning


@pytest.fixture
def patients(tmp_path):
    """Two patients with a lesion in three of four planes, and a detector that always says row 0.5, column 0.4."""
    items = []
    for number in range(2):
        values = (blobs((48, 40, 4), number) * 500 + 200).astype(np.int16)
        labels = np.zeros((48, 40, 4), np.uint8)
        for plane, left in ((1, 12), (2, 4), (3, 30)):  # around column 16, to its left, far to its right
            labels[20:28, left : left + 8, plane] = 1
        save_nifti(tmp_path / f"{number}.nii.gz", values, oblique((1, 1, 3)))
        save_nifti(tmp_path / f"{number}_label.nii.gz", labels, oblique((1, 1, 3)))
        items.append({"patient": f"p{number}", "image": f"{number}.nii.gz", "label": f"{number}_label.nii.gz"})
    (tmp_path / "datalist.json").write_text(json.dumps({"classes": ["a", "b"], "test": items}))
    save_detector(tmp_path, 0.0, -0.1)
    return tmp_path


def save_detector(folder, row: float, column: float) -> None:
    detector = LesionDetector(1, (16, 16), (2,), (4,))
    detector.tail[-1].weight.data.zero_()
    detector.tail[-1].bias.data = torch.tensor([row, column])
    torch.save(detector.state_dict(), folder / "detector.pt")


def run(folder, **overrides):
    options = {"bundle_root": str(CONFIGS.parent), "dataset_dir": str(folder), "output_dir": str(folder / "out")}
    options |= {
        "datalist": str(folder / "datalist.json"),
        "detector_path": str(folder / "detector.pt"),
        "device": "cpu",
    }
    options |= {"region_size": [16, 24], "min_foreground": 0}
    files = [str(CONFIGS / f"{name}.json") for name in ("train_detector", "evaluate_detector")]
    monai.bundle.run(config_file=files, logging_file=False, **{**options, **overrides})


def test_the_report_has_hr_and_lr_planes_and_patients(patients):
    run(patients)
    summary = json.loads((patients / "out" / "detection.json").read_text())
    assert list(summary["detection"]) == ["HR", "LR x2", "LR x4"]
    for counts in summary["detection"].values():  # columns 4 to 28
        assert {name: counts[name] for name in ("patients", "planes", PERFECT, ACCEPTABLE, BAD)} == {
            "patients": 2, "planes": 6, PERFECT: 4, ACCEPTABLE: 0, BAD: 2,
        }  # fmt: skip
    assert (
        summary["region_size"] == [16, 24] and summary["lesion"] == ["a", "b"] and len(summary["weights_sha256"]) == 64
    )
    assert len(summary["patients"]) == 6 and summary["failed"] == []
    with open(patients / "out" / "detection.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 18 and {row["plane"] for row in table} == {"1", "2", "3"}
    assert {(row["top"], row["left"]) for row in table} == {("16", "4")}
    assert "| LR x4 | 6 | 4 (66.7%) | 0 (0.0%) | 2 (33.3%) |" in (patients / "out" / "detection.md").read_text()


def test_an_image_without_a_lesion_fails_and_does_not_cost_the_others(patients):
    save_nifti(patients / "1_label.nii.gz", np.zeros((48, 40, 4), np.uint8), oblique((1, 1, 3)))
    with pytest.raises(
        SystemExit, match=r"1 of 2 images failed.*\n.*1_label\.nii\.gz: a plane must have a lesion \(lab"
    ):
        run(patients)
    assert json.loads((patients / "out" / "detection.json").read_text())["detection"]["HR"]["patients"] == 1


def test_a_centre_outside_is_noted(patients):
    save_detector(patients, 0.0, 0.75)
    run(patients, scales=[4])
    summary = json.loads((patients / "out" / "detection.json").read_text())
    assert any("LR x4, plane 1: the detector's centre is outside the image" in note for note in summary["notes"])
    assert summary["detection"]["HR"][BAD] == 4 and summary["detection"]["HR"][PERFECT] == 2  # the last 24 columns


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"detector_path": None}, "detector_path: must be the file of a trained lesion detector, got None"),
        ({"region_size": [16, 60]}, r"2 of 2 images failed.*\n.*the region of 16 x 60 HR pixels must fit"),
        ({"region_size": [16, 22]}, "region_size: must be height and width in HR pixels, multiples of 4 at scale 4"),
        ({"scales": [0.5]}, "scales: must be a list of finite numbers"),
        ({"lesion": ["c"]}, "lesion: must be a list of some of a, b"),
    ],
)
def test_an_evaluation_that_cannot_be_says_why(change, match, patients):
    with pytest.raises(SystemExit, match=match):
        run(patients, **change)
