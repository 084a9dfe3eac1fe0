"""Evaluation: scores against plain NumPy, means worked out by hand, and the whole way through MONAI's runner."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.transforms import Compose, ScaleIntensityd
from PIL import Image

from common.evaluate import Evaluation, Method, evaluate
from common.inferers import PlaneInferer
from common.io.transforms import CaseLoadImaged
from common.metrics import consistency, data_range, score, to_unit
from common.protocol import Protocol, make_pair
from common.tables import Row, by_patient, markdown, over_patients
from common.transforms.degradation import Degradation
from common.transforms.intensity import NormalizeIntensityExactlyd
from tests.helpers import INFERENCE, ROOT, Interpolate, blobs, oblique, save_nifti

CONFIGS = [str(INFERENCE), str(INFERENCE.with_name("evaluate.json"))]
BICUBIC = {"_target_": "common.blocks.upsample.Bicubic", "scale": "@scale"}
LOAD = CaseLoadImaged("image")
PREPROCESSING = Compose([LOAD, NormalizeIntensityExactlyd("image")])
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al., 2003


def run(source, output, **overrides):
    """Run the evaluation of RDST by MONAI's runner in this process; by default with bicubic in the network's place."""
    options = {"network_def": BICUBIC, "weights": "none", "device": "cpu", "scale": 2, "min_foreground": 0.0}
    folders = {"dataset_dir": str(source), "output_dir": str(output)}
    monai.bundle.run(config_file=CONFIGS, logging_file=False, **folders, **{**options, **overrides})


def table(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def phantom(shape=(24, 20, 3), seed=0) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(0, 0.3, size=shape)
    return ((blobs(shape, seed) + noise) * 1000).astype(np.int16)


def dataset(folder, **volumes):
    """``sub-<name>.nii.gz`` in ``folder/test``, for each name."""
    (folder / "test").mkdir(parents=True)
    for name, values in volumes.items():
        save_nifti(folder / "test" / f"sub-{name}.nii.gz", values, oblique((1, 1, 3)))
    return folder


def item(path, values, **more):
    return {"image": str(save_nifti(path, values, oblique((1, 1, 3)))), "patient": "p", **more}


def ssim_by_numpy(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Mean SSIM, and mean of its contrast and structure part, in Gaussian windows of 11 that lie inside the plane."""
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2

    def local(image):
        return np.einsum("ijkl,kl->ij", np.lib.stride_tricks.sliding_window_view(image, (11, 11)), window)

    mx, my = local(x), local(y)
    vx, vy, cov = local(x * x) - mx**2, local(y * y) - my**2, local(x * y) - mx * my
    structure = (2 * cov + 0.03**2) / (vx + vy + 0.03**2)
    return float(((2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2) * structure).mean()), float(structure.mean())


def halved(x: np.ndarray) -> np.ndarray:
    x = x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2]
    return x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2).mean(axis=(1, 3))


def two_planes(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = blobs((height, width, 1))[..., 0] * 0.8 + 0.1
    return truth, np.clip(truth + rng.normal(0, 0.05, truth.shape), 0, 1)


def tensor(plane: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(plane, dtype=torch.float32)[None]


def test_psnr_ssim_and_ms_ssim_are_those_of_plain_numpy():
    truth, other = two_planes(180, 177)
    got = score(tensor(other), tensor(truth))
    assert got["psnr"] == pytest.approx(-10 * np.log10(((truth - other) ** 2).mean()), abs=1e-4)
    assert got["ssim"] == pytest.approx(ssim_by_numpy(other, truth)[0], abs=1e-5)
    product, x, y = 1.0, other, truth
    for level, weight in enumerate(WEIGHTS):
        whole, structure = ssim_by_numpy(x, y)
        product *= (whole if level == 4 else structure) ** weight
        x, y = halved(x), halved(y)
    assert got["ms_ssim"] == pytest.approx(product, abs=1e-5)


def test_a_plane_too_small_for_a_metric_leaves_it_blank():
    sizes = {(176, 180): set(), (175, 180): {"ms_ssim"}, (11, 40): {"ms_ssim"}, (10, 40): {"ssim", "ms_ssim"}}
    for size, blank in sizes.items():
        truth, other = two_planes(*size)
        assert {name for name, value in score(tensor(other), tensor(truth)).items() if value is None} == blank


def test_what_differs_in_the_border_counts_for_nothing():
    truth, _ = two_planes(30, 25)
    other = truth.copy()
    other[:3], other[-3:], other[:, :3], other[:, -3:] = 0, 0, 0, 0
    assert score(tensor(other), tensor(truth), border=3) == {"psnr": np.inf, "ssim": 1.0, "ms_ssim": None}
    assert score(tensor(other), tensor(truth), border=2)["psnr"] < 40
    for border in (13, -1):
        with pytest.raises(ValueError, match=rf"border: .* planes of 30 x 25, got {border}; pass a smaller --border"):
            score(tensor(other), tensor(truth), border=border)


def test_the_data_range_is_that_of_each_channel_and_clips():
    values = np.random.default_rng(0).normal(5, 2, size=(2, 12, 10, 4)).astype(np.float32)
    values[1] *= 10
    values[0, 0, 0, 0] = 1e4  # a hot voxel
    limits = data_range(torch.from_numpy(values), 0.99)
    expected = [[c.min(), np.quantile(c, 0.99)] for c in values]
    np.testing.assert_allclose(limits, expected, rtol=1e-5)
    unit = to_unit(torch.from_numpy(values[..., 0]), limits)
    plain = [np.clip((c - low) / (high - low), 0, 1) for c, (low, high) in zip(values[..., 0], expected, strict=True)]
    np.testing.assert_allclose(unit, plain, atol=1e-5)
    assert data_range(torch.from_numpy(values), 1.0)[0, 1] == 1e4
    for quantile in (0, 1.1):
        with pytest.raises(ValueError, match=f"range_quantile: must be above 0 and at most 1, got {quantile}"):
            data_range(torch.from_numpy(values), quantile)


def test_an_almost_empty_and_a_constant_volume_have_a_range():
    empty = torch.zeros(1, 40, 40, 4)
    empty[0, 3, 3, 3] = 7
    assert data_range(empty, 0.999).tolist() == [[0, 7]]
    constant = torch.full((1, 12, 12, 2), 5.0)
    plane = to_unit(constant[..., 0], data_range(constant, 0.999))
    assert score(plane, plane)["psnr"] == np.inf and plane.unique().tolist() == [0]


def test_the_consistency_residual_is_a_fraction_of_the_range():
    sr = torch.rand(2, 12, 8)
    lr = Degradation()(sr, (2, 2))
    limits = torch.tensor([[0.0, 2.0], [-1.0, 3.0]])
    assert consistency(sr, lr, Degradation(), (2, 2), limits) == 0
    lr[0] += 0.3
    expected = np.sqrt(((0.3 / 2) ** 2 + 0) / 2)
    assert consistency(sr, lr, Degradation(), (2, 2), limits) == pytest.approx(expected, rel=1e-5)
    other = Degradation(antialias=False)
    assert consistency(sr, other(sr, (2, 2)), other, (2, 2), limits) == 0


def rows(method: str, **patients: list[float | None]) -> list[Row]:
    return [
        Row(method, patient, f"{patient}.nii", plane, value, None, None, 0.0)
        for patient, values in patients.items()
        for plane, value in enumerate(values)
    ]


def test_the_mean_is_over_slices_then_over_patients():
    both = rows("bicubic", a=[20, 22, 24], b=[30], c=[25, 26]) + rows("SR", a=[23, 24, 28], b=[31], c=[29, 28])
    patients = by_patient(both)
    assert [(p["method"], p["patient"], p["slices"], p["psnr"]) for p in patients][3:] == [
        ("SR", "a", 3, 25.0),
        ("SR", "b", 1, 31.0),
        ("SR", "c", 2, 28.5),
    ]
    scores = over_patients(patients, "SR")
    assert scores["bicubic"]["psnr"]["mean"] == pytest.approx((22 + 30 + 25.5) / 3)
    assert scores["SR"]["psnr"] == {"mean": pytest.approx(28.1666667), "sd": pytest.approx(3.0138569)}
    assert scores["gain"]["psnr"] == {"mean": pytest.approx((3 + 1 + 3) / 3), "sd": pytest.approx(1.1547005)}
    assert scores["SR"]["ssim"] == {"mean": None, "sd": None}
    text = markdown(patients, "SR", "×4, clean")
    assert "| bicubic | 25.83 ± 4.01 | – | – |" in text and "| a | 3 | 22.00 | 25.00 | 3.00 |" in text


def test_infinity_and_a_single_patient_do_not_break_the_table():
    both = rows("bicubic", a=[20, np.inf], b=[21]) + rows("SR", a=[np.inf, np.inf], b=[22])
    scores = over_patients(by_patient(both), "SR")
    assert scores["SR"]["psnr"] == {"mean": np.inf, "sd": None}
    assert scores["gain"]["psnr"]["mean"] == 1  # infinity minus infinity says nothing, and is left out
    assert "| SR | inf |" in markdown(by_patient(both), "SR", "x")
    single = over_patients(by_patient(rows("bicubic", a=[20]) + rows("SR", a=[23])), "SR")
    assert single["gain"]["psnr"] == {"mean": 3, "sd": None}


def test_whole_lr_pixels_are_cut_from_the_start_of_the_plane(tmp_path):
    values = phantom((23, 18, 4))
    pair = make_pair(item(tmp_path / "a.nii.gz", values), LOAD, Protocol(4, min_foreground=0))
    assert pair.high.shape == (4, 1, 20, 16) and pair.low.shape == (4, 1, 5, 4) and pair.planes == [0, 1, 2, 3]
    np.testing.assert_array_equal(pair.high[:, 0], values[:20, :16].transpose(2, 0, 1))
    cropped = item(tmp_path / "a.nii.gz", values, crop=[8, 12])
    pair = make_pair(cropped, LOAD, Protocol(4, min_foreground=0))
    np.testing.assert_array_equal(pair.high[:, 0], values[7:15, 3:15].transpose(2, 0, 1))
    assert make_pair(cropped, LOAD, Protocol(4, crop=[16, 16], min_foreground=0)).high.shape[2:] == (16, 16)
    np.testing.assert_allclose(pair.limits, [[values.min(), np.quantile(values, 0.999)]], rtol=1e-5)  # before the crop
    with pytest.raises(ValueError, match=r"a\.nii\.gz: planes must be at least 32 pixels wide; leave the image out"):
        make_pair(cropped, LOAD, Protocol(32, min_foreground=0))


def test_planes_of_air_are_left_out(tmp_path):
    values = phantom((12, 12, 5))
    values[..., [0, 3]] = 0
    given = item(tmp_path / "a.nii.gz", values)
    assert make_pair(given, PREPROCESSING, Protocol(2)).planes == [1, 2, 4]
    assert make_pair(given, PREPROCESSING, Protocol(2, every=2)).planes == [1, 4]
    with pytest.raises(ValueError, match=r"a\.nii\.gz: no plane has 101% of foreground; lower min_foreground"):
        make_pair(given, PREPROCESSING, Protocol(2, min_foreground=1.01))


def test_the_noise_is_of_the_stated_strength_and_the_images_own(tmp_path):
    first, second = (item(tmp_path / f"{name}.nii.gz", phantom((40, 40, 4))) for name in "ab")
    noisy, quiet = (Protocol(2, degradation=Degradation(noise_std=std)) for std in (0.1, 0.0))
    low, again, other = (make_pair(i, PREPROCESSING, noisy).low for i in (first, first, second))
    noise = low - make_pair(first, PREPROCESSING, quiet).low
    assert torch.equal(low, again) and not torch.equal(low, other)
    assert float(noise.std()) == pytest.approx(0.1, rel=0.1)


def test_nan_is_refused_whatever_the_normalisation(tmp_path):
    values = phantom((12, 12, 3)).astype(np.float32)
    values[3, 3, 1] = np.nan
    with pytest.raises(ValueError, match=r"a\.nii\.gz: intensities must be finite"):
        make_pair(item(tmp_path / "a.nii.gz", values), Compose([LOAD, ScaleIntensityd("image")]), Protocol(2))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_perfect_network_has_infinite_psnr_whichever_way_planes_are_stacked(tmp_path, axis):
    values = np.moveaxis(phantom((16, 12, 3)), 2, axis)
    steps = tuple(3.0 if i == axis else 1.0 for i in range(3))
    path = save_nifti(tmp_path / "a.nii.gz", values, oblique(steps))
    given = {"image": str(path), "patient": "p"}

    def oracle(volume, network):
        assert volume.shape[2 + axis] == 3 and volume.numel() == values.size // 4
        return PREPROCESSING({"image": str(path)})["image"][None]

    def doubling(volume, network):
        return PlaneInferer(2)(volume, Interpolate(2))

    methods = tuple(
        Method(name, torch.nn.Identity(), inferer, torch.device("cpu"))
        for name, inferer in (("bicubic", doubling), ("SR", oracle))
    )
    got, _ = Evaluation([given], PREPROCESSING, Protocol(2), methods).score(given)
    assert [row.plane for row in got] == [0, 1, 2] * 2
    assert all(row.psnr < 40 for row in got[:3])
    assert all((row.psnr, row.ssim, row.consistency) == (np.inf, 1.0, 0.0) for row in got[3:])


def test_the_rows_are_those_of_plain_numpy_and_bicubic_equals_itself(tmp_path):
    values = phantom()
    run(dataset(tmp_path / "in", a=values, b=phantom(seed=1)), tmp_path / "out")
    slices = table(tmp_path / "out" / "slices.csv")
    names = ["method", "patient", "image", "plane", "psnr", "ssim", "ms_ssim", "consistency"]
    assert list(slices[0]) == names and len(slices) == 12
    own = [row for row in slices if row["method"] == "RDST"]
    base = [row for row in slices if row["method"] == "bicubic"]
    assert [{**row, "method": ""} for row in own] == [{**row, "method": ""} for row in base]
    low, high = values.min(), np.quantile(values, 0.999)
    planes = torch.from_numpy(values.astype(np.float64)).permute(2, 0, 1)[:, None]
    lr = F.interpolate(planes, scale_factor=0.5, mode="bicubic", antialias=True)
    sr = F.interpolate(lr, scale_factor=2, mode="bicubic", antialias=True)
    for number, row in enumerate(base[:3]):
        unit = [np.clip((x[number, 0].numpy() - low) / (high - low), 0, 1) for x in (planes, sr)]
        assert (row["patient"], row["plane"], row["ms_ssim"]) == ("sub-a", str(number), "")
        assert row["image"] == str(tmp_path / "in" / "test" / "sub-a.nii.gz")
        assert float(row["psnr"]) == pytest.approx(-10 * np.log10(((unit[0] - unit[1]) ** 2).mean()), abs=1e-3)
        assert float(row["ssim"]) == pytest.approx(ssim_by_numpy(*unit)[0], abs=1e-4)
        left = lr[number] - F.interpolate(sr[number][None], scale_factor=0.5, mode="bicubic", antialias=True)[0]
        assert float(row["consistency"]) == pytest.approx(float(left.square().mean().sqrt()) / (high - low), rel=1e-3)


def test_the_run_leaves_tables_and_pictures(tmp_path):
    source = dataset(tmp_path / "in", **{"a_1": phantom(), "a_2": phantom((24, 20, 2), 1), "b": phantom(seed=2)})
    network = {"_target_": "tests.helpers.Interpolate", "scale": "@scale"}
    run(source, tmp_path / "out", network_def=network, weights="f" * 64)
    names = ["best.png", "median.png", "patients.csv", "slices.csv", "summary.json", "summary.md", "worst.png"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    slices, patients = (table(tmp_path / "out" / f"{name}.csv") for name in ("slices", "patients"))
    own = [float(row["psnr"]) for row in slices if (row["method"], row["patient"]) == ("RDST", "sub-a")]
    (mine,) = (row for row in patients if (row["method"], row["patient"]) == ("RDST", "sub-a"))
    assert mine["slices"] == "5" and float(mine["psnr"]) == pytest.approx(np.mean(own))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    means = [float(row["psnr"]) for row in patients if row["method"] == "RDST"]
    assert summary["RDST"]["psnr"] == {
        "mean": pytest.approx(np.mean(means)),
        "sd": pytest.approx(np.std(means, ddof=1)),
    }
    assert summary["gain"]["psnr"]["mean"] < 0
    assert (summary["protocol"], summary["scale"], summary["border"]) == ("clean", 2, 0)
    assert summary["degradation"] == asdict(Degradation())
    assert summary["data_range"].startswith("minimum to 0.999 quantile of each HR volume")
    assert (summary["patients"], summary["slices"], summary["failed"]) == (2, 8, [])
    assert summary["weights_sha256"] == "f" * 64 and len(summary["config_sha256"]) == 64
    assert summary["notes"] == ["MS-SSIM is blank for 8 slices: it needs sides of 176 pixels inside the border"]
    assert (tmp_path / "out" / "summary.md").read_text().count("| sub-") == 2
    for name in ("worst", "median", "best"):
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert picture.size == (5 * (512 + 5) + 5, 2 * (427 + 5) + 65)


def test_the_inferer_of_the_bundle_serves_with_its_settings(tmp_path):
    source = dataset(tmp_path / "in", a=phantom())
    network = {"_target_": "tests.helpers.Interpolate", "scale": "@scale"}
    run(source, tmp_path / "out", network_def=network, consistency_bound=1e-4, pictures=False)
    (base, own) = table(tmp_path / "out" / "patients.csv")
    assert float(own["consistency"]) < 2e-4 < 1e-3 < float(base["consistency"])
    assert not list((tmp_path / "out").glob("*.png"))


def test_one_bad_image_costs_no_other(tmp_path):
    source = dataset(tmp_path / "in", a=phantom(), b=phantom(seed=1), c=phantom(seed=2))
    file = source / "test" / "sub-b.nii.gz"
    file.write_bytes(file.read_bytes()[:-200])
    text = (
        r"1 of 3 images failed, the tables in \S*out are of the others:\n  \S*sub-b\.nii\.gz: .*export the file again"
    )
    with pytest.raises(SystemExit, match=text):
        run(source, tmp_path / "out")
    assert {row["patient"] for row in table(tmp_path / "out" / "slices.csv")} == {"sub-a", "sub-c"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["patients"] == 2 and len(summary["failed"]) == 1 and "sub-b" in summary["failed"][0]


def test_without_a_good_image_there_are_no_tables(tmp_path):
    source = dataset(tmp_path / "in", a=phantom())
    (source / "test" / "sub-a.nii.gz").write_text("no image")
    with pytest.raises(SystemExit, match=r"1 of 1 images failed:\n  \S*sub-a\.nii\.gz: "):
        run(source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_cannot_be_is_refused_in_one_sentence(tmp_path):
    source = dataset(tmp_path / "in", a=phantom())
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "two.json").write_text(
        json.dumps({s: [{"image": "test/sub-a.nii.gz", "patient": "sub-a"}] for s in ("training", "test")})
    )
    (tmp_path / "none.json").write_text(json.dumps({"test": []}))
    for options, message in (
        ({"test_images": ["nothing/*.nii"]}, "no image matches nothing"),
        ({"datalist": str(tmp_path / "two.json")}, "sub-a is in 'training' and in 'test'"),
        ({"datalist": str(tmp_path / "none.json")}, "the split 'test' must not be empty"),
        ({"min_foregroud": 0.2}, "--min_foregroud: there is no such setting; did you mean --min_foreground?"),
        ({"output": tmp_path / "file"}, r"file: cannot be written .*; choose another --output_dir"),
        ({"every": 0}, "every: must be a whole number of at least 1, got 0; 1 takes all planes"),
        ({"range_quantile": 0.0}, r"sub-a\.nii\.gz: range_quantile: must be above 0"),
    ):
        with pytest.raises(SystemExit, match=f"^error: (.|\n)*{message}"):
            run(source, options.pop("output", tmp_path / "out"), **options)
    with pytest.raises(ValueError, match="method: must not be bicubic"):
        evaluate(torch.nn.Identity(), PlaneInferer(2), [], LOAD, Protocol(2), str(tmp_path), method="bicubic")


def test_a_list_of_modalities_and_analyze_files_from_a_datalist(tmp_path):
    files = [f"{name}.nii.gz" for name in "abcd"]
    volumes = [phantom(seed=seed) * (seed + 1) for seed in range(4)]
    for name, values in zip(files, volumes, strict=True):
        save_nifti(tmp_path / name, values, oblique((1, 1, 3)))
    (tmp_path / "list.json").write_text(
        json.dumps({"crop": [16, 16], "test": [{"image": files, "patient": "p"}]})  # one image of four channels
    )
    run(tmp_path, tmp_path / "out", datalist=str(tmp_path / "list.json"), in_channels=4)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["slices"] == 3 and summary["crop"] == [16, 16]
    row = table(tmp_path / "out" / "slices.csv")[0]
    errors = []
    for values in volumes:
        plane = torch.from_numpy(values[4:20, 2:18, 0].astype(np.float64))[None, None]
        sr = F.interpolate(plane, scale_factor=0.5, mode="bicubic", antialias=True)
        sr = F.interpolate(sr, scale_factor=2, mode="bicubic", antialias=True)
        low, high = values.min(), np.quantile(values, 0.999)
        errors.append(float(((plane - low).clamp(0, high - low) - (sr - low).clamp(0, high - low)).square().mean()))
        errors[-1] /= (high - low) ** 2
    assert float(row["psnr"]) == pytest.approx(-10 * np.log10(np.mean(errors)), abs=1e-3)

    nib.AnalyzeImage(phantom(), np.diag([1, 1, 3, 1])).to_filename(tmp_path / "e.img")
    (tmp_path / "list.json").write_text(json.dumps({"test": [{"image": "e.img", "patient": "p"}]}))
    run(tmp_path, tmp_path / "analyze", datalist=str(tmp_path / "list.json"))
    assert len(table(tmp_path / "analyze" / "slices.csv")) == 6


def test_a_warning_about_an_image_is_noted(tmp_path):
    source = dataset(tmp_path / "in", a=phantom((180, 176, 1)))
    image = nib.load(source / "test" / "sub-a.nii.gz")
    image = nib.Nifti1Image(np.asanyarray(image.dataobj), None)
    image.to_filename(source / "test" / "sub-a.nii.gz")
    run(source, tmp_path / "out", pictures=False)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    (note,) = summary["notes"]
    assert "sub-a.nii.gz: the header has no orientation" in note
    assert 0 < summary["bicubic"]["ms_ssim"]["mean"] < 1 and summary["bicubic"]["ms_ssim"]["sd"] is None


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path):
    source = dataset(tmp_path / "in", a=phantom(), b=phantom(seed=1), c=phantom(seed=2))
    file = source / "test" / "sub-b.nii.gz"
    file.write_bytes(file.read_bytes()[:-200])
    configs = [*CONFIGS, str(INFERENCE.with_name("multi_gpu_evaluate.json"))]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run", "--config_file", str(configs), "--dataset_dir", str(source)]
    command += ["--output_dir", str(tmp_path / "two"), "--network_def", json.dumps({**BICUBIC, "scale": 2})]
    command += ["--weights", "none", "--scale", "2", "--min_foreground", "0.0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0 and "error: 1 of 3 images failed, the tables in" in done.stdout + done.stderr
    with pytest.raises(SystemExit):
        run(source, tmp_path / "one")
    names = [p.name for p in sorted((tmp_path / "one").iterdir())]
    assert names == [p.name for p in sorted((tmp_path / "two").iterdir())]
    for name in set(names) - {"summary.json"}:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    assert one["RDST"] == two["RDST"] and one["failed"] == two["failed"]
