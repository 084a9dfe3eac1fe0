"""Rows beside bicubic: bilinear, and that after non-local means; each against another's code, and in an evaluation."""

import csv
import json
import sys

import monai.bundle
import numpy as np
import pytest
import torch
from PIL import Image

from common.baselines import BASELINES, further_baselines
from common.blocks.upsample import Bilinear
from common.denoise import NonLocalMeans, non_local_means
from common.seeds import read_seed
from common.tables import Row, by_patient, markdown, over_patients
from tests.helpers import INFERENCE, blobs, oblique, save_nifti

CONFIGS = [str(INFERENCE.with_name(f"{name}.json")) for name in ("inference", "evaluate", "evaluate_baselines")]
BICUBIC = {"_target_": "common.blocks.upsample.Bicubic", "scale": "@scale"}
NLM = "bilinear + NLM"


@pytest.fixture
def need_skimage():
    pytest.importorskip("skimage", reason="scikit-image is not installed: pip install -e .[nlm]")


def phantom(seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(0, 0.3, size=(32, 28, 2))
    return ((blobs((32, 28, 2), seed) + noise) * 1000).astype(np.int16)


def run(folder, files=CONFIGS, **overrides):
    (folder / "test").mkdir(exist_ok=True)
    save_nifti(folder / "test" / "sub-a.nii.gz", phantom(), oblique((1, 1, 3)))
    options = {"network_def": BICUBIC, "weights": "none", "scale": 2, "device": "cpu", "min_foreground": 0.0}
    options |= {"dataset_dir": str(folder), "output_dir": str(folder / "out")}
    monai.bundle.run(config_file=files, logging_file=False, **{**options, **overrides})


def test_bilinear_is_that_of_pillow_and_keeps_a_ramp():
    image = np.random.default_rng(0).normal(size=(12, 9)).astype(np.float32)
    expected = np.asarray(Image.fromarray(image).resize((27, 36), Image.Resampling.BILINEAR)).copy()
    torch.testing.assert_close(Bilinear(3)(torch.from_numpy(image)[None, None])[0, 0], torch.from_numpy(expected))
    assert Bilinear((2.5, 1.5))(torch.rand(2, 3, 10, 7)).shape == (2, 3, 25, 11)
    ramp = torch.arange(10.0).expand(1, 1, 4, 10)
    torch.testing.assert_close(Bilinear(2)(ramp)[0, 0, 0, 1:-1], torch.arange(18) / 2 + 0.25)


def test_non_local_means_takes_noise_away_and_leaves_the_rest(need_skimage):
    clean = torch.from_numpy(blobs((64, 48, 1))[..., 0].astype(np.float32))
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    planes = torch.stack([noisy, noisy * 3])[None]  # two channels, each with its own noise
    out = NonLocalMeans()(planes)
    assert out.shape == planes.shape and out.dtype == planes.dtype
    assert float((out[0, 0] - clean).square().mean()) < 0.3 * float((noisy - clean).square().mean())
    torch.testing.assert_close(out[0, 1], out[0, 0] * 3, rtol=1e-3, atol=1e-3)


def test_planes_without_noise_stay_as_they_are(need_skimage):
    for plane in (np.zeros((20, 16), np.float32), np.full((5, 4), 3, np.float32), np.ones((1, 1), np.float32)):
        assert np.array_equal(non_local_means(plane), plane)


def test_an_evaluation_has_the_rows_that_it_is_asked_for(tmp_path, need_skimage):
    run(tmp_path)
    with open(tmp_path / "out" / "slices.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(dict.fromkeys(row["method"] for row in rows)) == ["bicubic", "bilinear", NLM, "RDST"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    psnr = {name: summary[name]["psnr"]["mean"] for name in ("bicubic", "bilinear", NLM, "RDST")}
    assert psnr["RDST"] == psnr["bicubic"] and len(set(psnr.values())) == 3
    assert summary["gain"]["psnr"]["mean"] == 0
    text = (tmp_path / "out" / "summary.md").read_text()
    lines = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert lines[1:6] == ["| bicubic", "| bilinear", f"| {NLM}", "| RDST", "| gain"]
    assert (tmp_path / "out" / "median.png").is_file()
    values = torch.from_numpy(phantom().astype(np.float64)).permute(2, 0, 1)[:, None]
    low = torch.nn.functional.interpolate(values, scale_factor=0.5, mode="bicubic", antialias=True)
    sr = torch.nn.functional.interpolate(low, scale_factor=2, mode="bilinear")[0, 0]
    least, most = float(values.min()), float(np.quantile(phantom(), 0.999))
    both = [((x - least) / (most - least)).clamp(0, 1) for x in (sr, values[0, 0])]
    expected = -10 * np.log10(float((both[0] - both[1]).square().mean()))
    (row,) = (row for row in rows if (row["method"], row["plane"]) == ("bilinear", "0"))
    assert float(row["psnr"]) == pytest.approx(expected, abs=1e-3)


def test_bilinear_alone_needs_no_scikit_image(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.restoration", None)
    run(tmp_path, baselines=["bilinear"], pictures=False)
    assert "bilinear" in json.loads((tmp_path / "out" / "summary.json").read_text())
    text = r'scikit-image: must be installed .* run pip install -e "\.\[nlm\]", or take "bilinear \+ NLM" out of'
    with pytest.raises(SystemExit, match=text):
        run(tmp_path, output_dir=str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("names", ["bilinear", ["nearest"], 3])
def test_other_names_are_refused(names):
    with pytest.raises(ValueError, match=r"baselines: must be a list of bilinear and bilinear \+ NLM, got"):
        further_baselines(names, 2)
    assert further_baselines([], 2) == {} and set(BASELINES) == {"bilinear", NLM}


def test_a_network_with_the_name_of_a_baseline_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="method: must not be bilinear, which is the name of a baseline"):
        run(tmp_path, files=CONFIGS[:2], **{"_meta_": {"name": "bilinear"}})


def test_over_scales_they_are_refused(tmp_path):
    configs = [*CONFIGS[:2], CONFIGS[0].replace("inference", "evaluate_scales")]
    with pytest.raises(SystemExit, match=r"baselines: must be none over scales, got \['bilinear'\]; leave them out"):
        run(tmp_path, files=configs, baselines=["bilinear"])


def rows(method: str, **patients: float) -> list[Row]:
    return [Row(method, p, f"{p}.nii", 0, value, None, None, 0.0) for p, value in patients.items()]


def test_the_gain_is_over_bicubic_whatever_stands_between():
    both = rows("bicubic", a=20, b=30) + rows("bilinear", a=10, b=11) + rows("SR", a=22, b=33)
    scores = over_patients(by_patient(both), "SR")
    assert list(scores) == ["bicubic", "bilinear", "SR", "gain"]
    assert scores["gain"]["psnr"]["mean"] == 2.5 and scores["bilinear"]["psnr"]["mean"] == 10.5
    assert "| bilinear | 10.50 ± 0.71 |" in markdown(by_patient(both), "SR", "x")


def test_a_comparison_of_variants_takes_baselines_for_references(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "patients.csv").write_text("method,patient,slices,psnr\nbicubic,a,1,20\nbilinear,a,1,19\nSR,a,1,22\n")
    seed = read_seed(tmp_path)
    assert seed.numbers("psnr") == {"a": 22.0} and set(seed.references) == {"bicubic", "bilinear"}
