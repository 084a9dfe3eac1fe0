"""Scores around the lesion: against crops by hand, what is left out and counted, sharpness against SciPy."""

import csv
import json

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from common.data.labels import LabelScheme
from common.metrics import score, sharpness, to_unit
from common.region import RegionRow, region_by_patient
from common.transforms.degradation import resample
from tests.helpers import INFERENCE, blobs, oblique, save_nifti

SCHEME = LabelScheme(("a", "b"))
MIDDLE = [(20 * 10 + 13.5) / 21, (20 * 22.5 + 30.5) / 21]  # of the labels of each plane, from the edge
CONFIGS = [str(INFERENCE.with_name(f"{name}.json")) for name in ("inference", "evaluate", "evaluate_region")]


@pytest.fixture
def patients(tmp_path):
    """Two patients of three planes; the second has a lesion in its middle plane alone."""
    items = []
    for number in range(2):
        noise = np.random.default_rng(number).uniform(0, 200, (40, 36, 3))
        values = (blobs((40, 36, 3), number) * 700 + noise).astype(np.int16)
        labels = np.zeros(values.shape, np.uint8)
        labels[8:12, 20:25] = 1
        labels[13, 30] = 2
        labels[..., [0, 2]] *= number == 0
        save_nifti(tmp_path / f"{number}.nii.gz", values, oblique((1, 1, 3)))
        save_nifti(tmp_path / f"{number}_label.nii.gz", labels, oblique((1, 1, 3)))
        items.append({"patient": f"p{number}", "image": f"{number}.nii.gz", "label": f"{number}_label.nii.gz"})
    (tmp_path / "datalist.json").write_text(json.dumps({"classes": ["a", "b"], "test": items}))
    return tmp_path


def run(folder, files=CONFIGS, **overrides):
    options = {"network_def": {"_target_": "common.blocks.upsample.Bilinear", "scale": "@scale"}, "weights": "none"}
    options |= {"scale": 2, "device": "cpu", "dataset_dir": str(folder), "output_dir": str(folder / "out")}
    options |= {"datalist": str(folder / "datalist.json"), "pictures": False, "region_size": [16, 12]}
    monai.bundle.run(config_file=files, logging_file=False, **{**options, "min_foreground": 0.0, **overrides})


def read(folder, name):
    with open(folder / "out" / name, newline="") as file:
        return list(csv.DictReader(file))


def test_sharpness_is_the_mean_sobel_gradient_of_scipy():
    image = np.random.default_rng(0).normal(size=(17, 23))
    gradients = [ndimage.sobel(image, axis)[1:-1, 1:-1] / 8 for axis in (0, 1)]
    expected = np.hypot(*gradients).mean()
    assert sharpness(torch.from_numpy(image)[None]) == pytest.approx(expected, rel=1e-5)
    both = torch.from_numpy(np.stack([image, image * 3]))
    assert sharpness(both) == pytest.approx(2 * expected, rel=1e-5)


def test_sharpness_of_a_ramp_is_its_slope_and_blur_lessens_it():
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(8.0), indexing="ij")
    assert sharpness((0.3 * rows + 0.4 * columns)[None]) == pytest.approx(0.5)
    assert sharpness(torch.ones(1, 5, 5)) == 0 and sharpness(torch.rand(1, 2, 9)) is None
    image = torch.rand(1, 40, 40)
    assert sharpness(resample(resample(image, (20, 20)), (40, 40))) < 0.7 * sharpness(image)


def test_region_scores_are_those_of_the_same_crop_by_hand(patients):
    run(patients)
    rows = read(patients, "region_slices.csv")
    assert len(rows) == 3 * 4 and [row["method"] for row in rows[::3]][:2] == ["HR", "bicubic"]
    top, left = (int(np.floor(centre - side / 2 + 0.5)) for centre, side in zip(MIDDLE, (16, 12), strict=True))
    assert (rows[0]["top"], rows[0]["left"]) == (str(top), str(left))

    values = torch.from_numpy(nib.load(patients / "0.nii.gz").get_fdata())
    low, high = float(values.min()), float(np.quantile(values, 0.999))
    plane = values[..., 1][None]
    sr = resample(resample(plane, (20, 18)), (40, 36))
    unit = [to_unit(x, torch.tensor([[low, high]], dtype=torch.float64)).float() for x in (plane, sr)]
    here = [x[:, top : top + 16, left : left + 12] for x in unit]
    expected = score(here[1], here[0])
    (row,) = (r for r in rows if (r["method"], r["patient"], r["plane"]) == ("bicubic", "p0", "1"))
    assert float(row["psnr"]) == pytest.approx(expected["psnr"], abs=1e-2)
    assert float(row["ssim"]) == pytest.approx(expected["ssim"], abs=1e-3)
    assert float(row["sharpness"]) == pytest.approx(sharpness(here[1]), rel=1e-2)
    assert float(row["plane_sharpness"]) == pytest.approx(sharpness(unit[1]), rel=1e-2)
    (truth,) = (r for r in rows if (r["method"], r["patient"], r["plane"]) == ("HR", "p0", "1"))
    assert truth["psnr"] == truth["ssim"] == "" and float(truth["sharpness"]) == pytest.approx(sharpness(here[0]), 1e-2)


def test_planes_without_a_lesion_are_left_out_and_counted(patients):
    run(patients)
    found = json.loads((patients / "out" / "summary.json").read_text())["region"]
    assert (found["size"], found["lesion"], found["left_out"]) == ([16, 12], ["a", "b"], 2)
    assert (found["patients"], found["slices"]) == (2, 4) and list(found["scores"]) == ["HR", "bicubic", "RDST"]
    assert found["scores"]["RDST"]["sharpness"]["mean"] < found["scores"]["HR"]["sharpness"]["mean"]
    own = read(patients, "region_patients.csv")
    counts = {(row["method"], row["patient"]): row["slices"] for row in own}
    assert counts["RDST", "p0"] == "3" and counts["RDST", "p1"] == "1" and len(counts) == 6
    text = (patients / "out" / "summary.md").read_text()
    assert "| region of 16 x 12 | PSNR (dB) | SSIM | sharpness | sharpness of the plane |" in text
    assert "| HR | – | – | 0." in text and "2 planes without a or b are left out." in text


def test_a_lesion_of_some_classes_has_a_place_of_its_own(patients):
    run(patients, lesion=["b"])
    row = read(patients, "region_slices.csv")[0]
    assert (row["top"], row["left"]) == ("6", "24")  # 13.5 - 8 and 30.5 - 6, the latter at the edge
    assert json.loads((patients / "out" / "summary.json").read_text())["region"]["lesion"] == ["b"]


def test_the_region_follows_the_crop_of_the_evaluation(patients):
    run(patients, crop=[24, 32])
    row = read(patients, "region_slices.csv")[0]
    wanted = MIDDLE[0] - 8 - 8, MIDDLE[1] - 2 - 6  # the crop begins at 8 and 2
    assert (int(row["top"]), int(row["left"])) == (max(0, round(wanted[0])), min(20, round(wanted[1])))


def test_where_no_plane_has_a_lesion_the_rest_is_still_scored(patients):
    run(patients)
    for number in range(2):
        save_nifti(patients / f"{number}_label.nii.gz", np.zeros((40, 36, 3), np.uint8), oblique((1, 1, 3)))
    run(patients)
    summary = json.loads((patients / "out" / "summary.json").read_text())
    assert summary["region"]["left_out"] == 6 and summary["region"]["scores"] == {} and summary["slices"] == 6
    assert "Region of 16 x 12 pixels: nothing to score, 6 planes" in (patients / "out" / "summary.md").read_text()
    assert not (patients / "out" / "region_slices.csv").exists()  # that of the first evaluation is gone


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"datalist": None, "test_images": ["*.nii.gz"]},
            "datalist: labels are asked for, which only a datalist",
        ),
        ({"region_size": [64, 12]}, r"2 of 2 images failed(.|\n)*0\.nii\.gz: the region of 64 x 12 HR pixels must fit"),
        ({"region_size": 80}, "region_size: must be height and width in HR pixels, .* got 80"),
        ({"lesion": ["c"]}, r"lesion: must be a list of some of a, b, got \['c'\]"),
    ],
)
def test_what_cannot_be_scored_is_said_with_a_remedy(change, match, patients):
    with pytest.raises(SystemExit, match=match):
        run(patients, **change)


def test_an_image_without_labels_fails_and_not_the_others(patients):
    content = json.loads((patients / "datalist.json").read_text())
    del content["test"][1]["label"]
    (patients / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(
        SystemExit, match=r"1 of 2 images failed.*\n.*1\.nii\.gz: has no labels; add 'label' to its item"
    ):
        run(patients)
    assert json.loads((patients / "out" / "summary.json").read_text())["region"]["patients"] == 1


def test_it_does_not_stand_over_scales(patients):
    configs = [*CONFIGS, CONFIGS[0].replace("inference", "evaluate_scales")]
    with pytest.raises(SystemExit, match="judges: must be of features, got RegionJudge; leave the overlay"):
        run(patients, files=configs)


def test_a_patient_counts_once_however_many_slices():
    slices = (("p", 20.0), ("p", 30.0), ("q", 40.0))
    rows = [RegionRow("SR", name, "i", n, 0, 0, psnr, None, 0.1, 0.2) for n, (name, psnr) in enumerate(slices)]
    means = [(row["patient"], row["slices"], row["psnr"], row["ssim"]) for row in region_by_patient(rows)]
    assert means == [("p", 2, 25, None), ("q", 1, 40, None)]
