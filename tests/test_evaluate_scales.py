"""Evaluation over scales: both tasks against bicubic and by hand, networks of one scale, tables, curves, mistakes."""

import csv
import json
import sys
import zlib

import monai.bundle
import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.transforms import Compose
from PIL import Image

from common.blocks.unet import SegmentationUNet
from common.evaluate import evaluate
from common.evaluate_scales import evaluate_scales
from common.features import FeatureJudge
from common.frechet import PooledFeatures
from common.inferers import AnyScaleInferer, PlaneInferer
from common.io.transforms import CaseLoadImaged
from common.magnification import Magnification
from common.protocol import Protocol, read_truth
from common.scale_tables import over_scales, scales_below
from common.scales import SCALES, choose_scales, paper_pair
from common.transforms.degradation import Degradation, resample
from common.transforms.intensity import NormalizeIntensityExactlyd
from tests.helpers import INFERENCE, Interpolate, blobs, oblique, save_nifti

CONFIGS = [str(INFERENCE.with_name(f"{name}.json")) for name in ("inference", "evaluate", "evaluate_scales")]
PREPROCESSING = Compose([CaseLoadImaged("image"), NormalizeIntensityExactlyd("image")])
PLAIN = Protocol(1, min_foreground=0.0)


class BicubicAnyScale(nn.Module):
    """A network of any scale that is bicubic interpolation, but for ``gain``; it notes the sizes that it is given."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.any_scale, self.size_multiple, self.seen = True, 1, []
        self.trunk = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.constant_(self.trunk.weight, gain)

    def features(self, image: torch.Tensor) -> torch.Tensor:
        return self.trunk(image)

    def upscale(self, features: torch.Tensor, scale: list, size: list, exact: bool = False) -> torch.Tensor:
        return F.interpolate(features, size, mode="bicubic", antialias=True)

    def forward(self, image: torch.Tensor, scale: list, size: list, exact: bool = False) -> torch.Tensor:
        self.seen.append((scale[0], tuple(image.shape[2:]), tuple(size)))
        return self.upscale(self.features(image), scale, size, exact)


def phantom(shape=(37, 30, 2), seed=0) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(0, 0.3, size=shape)
    return ((blobs(shape, seed) + noise) * 1000).astype(np.int16)


def patients(folder, count=2, shape=(37, 30, 2)) -> list[dict]:
    """Images of ``count`` patients in ``folder/test``, as items."""
    (folder / "test").mkdir(parents=True, exist_ok=True)
    items = []
    for seed in range(count):
        path = save_nifti(folder / "test" / f"sub-{seed}.nii.gz", phantom(shape, seed), oblique((1, 1, 3)))
        items.append({"image": str(path), "patient": f"sub-{seed}"})
    return items


def any_scale(items, output, network=None, protocol=PLAIN, **options):
    inferer = AnyScaleInferer(Magnification(2), batch_size=2)
    return evaluate_scales(
        network or BicubicAnyScale(), inferer, items, PREPROCESSING, protocol, str(output), **options
    )


def one_scale(items, output, scale=2, protocol=PLAIN, **options):
    network, inferer = Interpolate(scale), PlaneInferer(scale, batch_size=2)
    return evaluate_scales(network, inferer, items, PREPROCESSING, protocol, str(output), **options)


def run(source, output, **overrides):
    """Run the evaluation of RDST over scales in this process, with linear interpolation for a network."""
    options = {"network_def": {"_target_": "tests.helpers.Interpolate", "scale": "@scale"}, "weights": "none"}
    options |= {"device": "cpu", "scale": 2, "min_foreground": 0.0, "config_file": CONFIGS}
    folders = {"dataset_dir": str(source), "output_dir": str(output)}
    monai.bundle.run(logging_file=False, **folders, **{**options, **overrides})


def table(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_network_that_is_bicubic_scores_as_bicubic_at_every_scale_of_both_tasks(tmp_path):
    summary = any_scale(patients(tmp_path, 1, (37, 30, 1)), tmp_path / "out", curves=False)
    assert summary["scales"] == list(SCALES) and SCALES[0] == 1.1 and SCALES[-1] == 4.0 and len(SCALES) == 30
    assert [(e["task"], e["scale"]) for e in summary["points"]] == [(t, s) for t in ("true", "paper") for s in SCALES]
    for entry in summary["points"]:
        for name, tolerance in (("psnr", 1e-4), ("ssim", 1e-6), ("consistency", 1e-6)):
            assert entry["SR"][name] == pytest.approx(entry["bicubic"][name], abs=tolerance), entry["scale"]
        assert 10 < entry["bicubic"]["psnr"]["mean"] < 60
    assert summary["below_bicubic"] == {task: {"psnr": [], "ssim": []} for task in ("true", "paper")}
    assert "SR lies below bicubic at no scale." in (tmp_path / "out" / "scales.md").read_text()


def test_the_true_task_magnifies_by_the_scale_and_the_paper_task_always_one_lr_image(tmp_path):
    network, scales = BicubicAnyScale(), [1.4, 2.5, 4.0]
    any_scale(patients(tmp_path, 1), tmp_path / "out", network, scales=scales, curves=False)
    sizes = {1.4: ((26, 21), (36, 29)), 2.5: ((14, 12), (35, 30)), 4.0: ((9, 7), (36, 28))}
    paper = {1.4: ((9, 7), (13, 10)), 2.5: ((9, 7), (23, 18)), 4.0: ((9, 7), (36, 28))}
    assert network.seen == [(s, *sizes[s]) for s in scales] + [(s, *paper[s]) for s in scales]


@pytest.mark.parametrize("degradation", [Degradation(), Degradation(0.7, 0.02, False, True)])
def test_the_pairs_of_the_paper_task_are_those_made_by_hand(degradation, tmp_path):
    (item,) = patients(tmp_path, 1)
    protocol = Protocol(1.5, degradation=degradation, crop=[33, 28], min_foreground=0.0)
    truth = read_truth(item, PREPROCESSING, protocol)
    pair = paper_pair(truth, protocol, 4.0)
    values = PREPROCESSING({"image": item["image"]})["image"].as_tensor().movedim(3, 0)[:, :, 2:34, 1:29]
    draw = torch.Generator().manual_seed(zlib.crc32(b"sub-0/sub-0.nii.gz"))
    noise = torch.randn(2, 1, 8, 7, generator=draw) * degradation.noise_std
    torch.testing.assert_close(pair.low, degradation(values, (4, 4)) + noise)
    assert pair.factors == (1.5, 1.5)
    torch.testing.assert_close(pair.high, resample(values, (12, 11)))
    again = paper_pair(truth, Protocol(4.0, degradation=degradation, crop=[33, 28]), 4.0)
    assert torch.equal(again.low, pair.low) and torch.equal(again.high, values)
    with pytest.raises(ValueError, match=r"scale: must be at most 4, by which LR is made, got 4\.5; leave it out"):
        paper_pair(truth, Protocol(4.5), 4.0)


def test_both_tasks_agree_at_the_largest_scale(tmp_path):
    summary = any_scale(patients(tmp_path), tmp_path / "out", BicubicAnyScale(0.9), scales=[1.7, 3.3], curves=False)
    (true,), (paper,) = (
        [e for e in summary["points"] if (e["task"], e["scale"]) == (t, 3.3)] for t in ("true", "paper")
    )
    assert {**true, "task": None} == {**paper, "task": None} and true["gain"]["psnr"]["mean"] < 0


def test_at_its_own_scale_a_network_scores_as_in_an_evaluation_of_that_scale(tmp_path):
    items, protocol = patients(tmp_path), Protocol(2, border=3, crop=[32, 26], min_foreground=0.0)
    expected = evaluate(
        *(Interpolate(2), PlaneInferer(2), items, PREPROCESSING, protocol, str(tmp_path / "one")), pictures=False
    )
    summary = one_scale(items, tmp_path / "many", protocol=protocol, scales=[2.0], tasks=["true"], curves=False)
    (entry,) = summary["points"]
    assert entry["SR x2, reduced"] == expected["SR"] and entry["bicubic"] == expected["bicubic"]
    assert entry["gain"] == expected["gain"] and entry["border"] == 3
    assert (summary["patients"], summary["slices"]) == (expected["patients"], expected["slices"])
    assert summary["degradation"] == expected["degradation"] and summary["crop"] == [32, 26]


def test_a_network_of_one_scale_magnifies_too_much_and_is_reduced(tmp_path):
    (item,) = patients(tmp_path, 1)
    summary = one_scale([item], tmp_path / "out", scale=3, scales=[2.4], method="Net", tasks=["true"])
    pair = read_truth(item, PREPROCESSING, PLAIN).pair(Protocol(2.4, min_foreground=0.0))
    sr = resample(F.interpolate(pair.low, scale_factor=3, mode="bilinear"), pair.high.shape[2:])
    low, high = pair.limits[0]
    error = ((sr.clamp(low, high) - pair.high.clamp(low, high)) / (high - low)).square().mean(dim=(1, 2, 3))
    by_hand = float((-10 * error.log10()).mean())
    assert summary["points"][0]["Net x3, reduced"]["psnr"]["mean"] == pytest.approx(by_hand, abs=1e-3)
    assert summary["method"] == "Net x3, reduced" and summary["reduced_from"] == 3
    for name in ("scales.csv", "scales_patients.csv", "scales.json", "scales.md"):
        assert "Net x3, reduced" in (tmp_path / "out" / name).read_text(), name


def test_left_alone_a_network_takes_the_scales_that_it_serves():
    assert choose_scales(None, None) == list(SCALES)
    assert choose_scales(None, 4) == [3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 3.7, 3.8, 3.9, 4.0]
    assert choose_scales([2, 1.5, 2.0], None) == [1.5, 2.0] and choose_scales([1], 1) == [1.0]


@pytest.mark.parametrize(
    ("scales", "serves", "message"),
    [
        ([], None, r"scales: must be a list of finite numbers, each at least 1, got \[\]"),
        (2.5, None, "scales: must be a list of finite numbers, each at least 1, got 2.5"),
        ("1.5", None, "scales: must be a list of finite numbers, each at least 1, got 1.5"),
        ([1.5, 0.9], None, "scales: must be a list of finite numbers, each at least 1"),
        ([float("nan")], None, r"at least 1, got \[nan\]"),
        ([2, float("inf")], None, r"at least 1, got \[2, inf\]"),
        ([True], None, r"at least 1, got \[True\]"),
        (["a"], None, r"at least 1, got \['a'\]"),
        ([[2, 3]], None, r"at least 1, got \[\[2, 3\]\]"),
        ([1.5, 2, 3.5, 4], 4, "above 3 and at most 4 for a network of x4, got 1.5, 2; evaluate 1.5, 2 by a network"),
        ([1.5, 2.5], 4, "evaluate 1.5 by a network of x2 and 2.5 by a network of x3"),
        ([4.5], 4, "for a network of x4, got 4.5; evaluate 4.5 by a network of x5"),
        (None, 8, r"scales: must be given for a network of x8, got none; pass --scales \[8\.0\]"),
    ],
)
def test_a_list_of_scales_that_is_wrong_is_refused(scales, serves, message):
    with pytest.raises(ValueError, match=message):
        choose_scales(scales, serves)


def test_mistakes_end_the_run_in_one_sentence_before_it_begins(tmp_path, monkeypatch):
    patients(tmp_path, 1)
    for options, message in (
        ({"scales": [1.5, 3.0]}, r"scales: must be above 1 and at most 2 for a network of x2, got 3; evaluate 3 by"),
        ({"scales": 2.5}, "scales: must be a list of finite numbers, each at least 1, got 2.5"),
        ({"tasks": ["true", "papers"]}, r"tasks: must be a list with one or both of true and paper, got"),
        ({"tasks": []}, "tasks: must be a list"),
        ({"curves": "perhaps"}, "curves: must be true or false, got perhaps"),
        ({"segmentation_judge": "$object()"}, "judges: must be of features, got object; leave the overlay"),
        ({"scale": [2, 3], "network_def": {"_target_": "torch.nn.Identity"}}, "scale: must be a whole one, the same"),
        ({"scals": [2.0]}, "--scals: there is no such setting; did you mean --scales?"),
    ):
        with pytest.raises(SystemExit, match=f"^error: {message}"):
            run(tmp_path, tmp_path / "out", **options)
    with pytest.raises(ValueError, match="inferer: must be an AnyScaleInferer for a network that states any_scale"):
        evaluate_scales(BicubicAnyScale(), PlaneInferer(2), [], PREPROCESSING, PLAIN, str(tmp_path / "out"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        SystemExit, match=r'matplotlib: must be installed .* pip install -e "\.\[curves\]", or pass --c'
    ):
        run(tmp_path, tmp_path / "out")
    spaced = AnyScaleInferer(Magnification(target_spacing=0.5))
    for judge in (evaluate, evaluate_scales):
        with pytest.raises(
            ValueError, match=r"target_spacing: must be none in an evaluation, .*, got 0\.5; pass --scale"
        ):
            judge(BicubicAnyScale(), spaced, [], PREPROCESSING, PLAIN, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    run(tmp_path, tmp_path / "out", scales=[2.0], curves=False)
    assert (tmp_path / "out" / "scales.md").exists() and not (tmp_path / "out" / "scales.png").exists()


def test_a_bad_image_costs_no_other_and_no_scale_of_another(tmp_path):
    items = patients(tmp_path, 3)
    save_nifti(tmp_path / "test" / "sub-1.nii.gz", phantom((30, 3, 2)), oblique((1, 1, 3)))  # too small at x4 alone
    text = (
        r"1 of 3 images failed, the tables in \S*out are of the others:\n  \S*sub-1\.nii\.gz: planes must be at least 4"
    )
    network = BicubicAnyScale()
    with pytest.raises(SystemExit, match=text):
        any_scale(items, tmp_path / "out", network, scales=[1.5, 4.0], curves=False)
    assert len(network.seen) == 2 * 4  # none of the small image
    summary = json.loads((tmp_path / "out" / "scales.json").read_text())
    assert [entry["patients"] for entry in summary["points"]] == [2] * 4 and "sub-1" in summary["failed"][0]
    (tmp_path / "test" / "sub-0.nii.gz").write_text("no image")
    with pytest.raises(SystemExit, match="1 of 1 images failed:\n"):
        any_scale(items[:1], tmp_path / "none", scales=[1.5])
    assert list((tmp_path / "none").iterdir()) == []


def test_the_tables_agree_with_one_another_and_the_curves_are_drawn(tmp_path, caplog):
    patients(tmp_path)
    caplog.set_level("INFO", "common.evaluate")
    run(tmp_path, tmp_path / "out", scales=[1.2, 1.5, 2.0], weights="f" * 64)
    names = ["scales.csv", "scales.json", "scales.md", "scales.png", "scales_patients.csv"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    summary, own = json.loads((tmp_path / "out" / "scales.json").read_text()), "RDST x2, reduced"
    rows, people = table(tmp_path / "out" / "scales.csv"), table(tmp_path / "out" / "scales_patients.csv")
    assert (len(rows), len(people)) == (2 * 3 * 2, 2 * 3 * 2 * 2)
    assert list(rows[0])[:7] == ["task", "scale", "method", "patients", "slices", "psnr_mean", "psnr_sd"]
    for row in rows:
        same = {key: row[key] for key in ("task", "scale", "method")}
        psnr = [float(one["psnr"]) for one in people if {key: one[key] for key in same} == same]
        entry = next(e for e in summary["points"] if (e["task"], e["scale"]) == (row["task"], float(row["scale"])))
        assert float(row["psnr_mean"]) == pytest.approx(np.mean(psnr)) == entry[row["method"]]["psnr"]["mean"]
        assert float(row["psnr_sd"]) == pytest.approx(np.std(psnr, ddof=1)) == entry[row["method"]]["psnr"]["sd"]
    text = (tmp_path / "out" / "scales.md").read_text()
    for task in ("true", "paper"):
        mean = summary["mean_over_scales"][task][own]["psnr"]["mean"]
        assert mean == pytest.approx(
            np.mean([float(r["psnr_mean"]) for r in rows if (r["task"], r["method"]) == (task, own)])
        )
        assert f"{mean:.2f} ±" in text and summary["below_bicubic"][task]["psnr"] == [1.2, 1.5, 2.0]
    assert f"{own} lies below bicubic in PSNR at ×1.2, ×1.5, ×2 and in SSIM at" in text
    assert text.count("| mean of 3 scales |") == 2 and text.count("| ×1.5 |") == 2
    assert "`paper`: LR is HR / 2 at every scale, compared with HR reduced (antialiased) to scale times LR." in text
    assert summary["weights_sha256"] == "f" * 64 and len(summary["config_sha256"]) == 64 and summary["failed"] == []
    assert any(
        "paper: MS-SSIM is blank for planes at ×1.2, ×1.5, ×2: it needs sides of 176" in n for n in summary["notes"]
    )
    with Image.open(tmp_path / "out" / "scales.png") as picture:
        assert picture.size == (1200, 624)
    assert "2 of 12, about" in caplog.text and "sub-1.nii.gz, paper x2, bicubic" in caplog.text


def test_a_card_has_every_half_of_many_scales_and_the_mean_of_all(tmp_path):
    any_scale(patients(tmp_path, 1), tmp_path / "out", tasks=["paper"], curves=False)
    text = (tmp_path / "out" / "scales.md").read_text()
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")] == [
        *("`paper`, protocol clean", "×1.5", "×2", "×2.5", "×3", "×3.5", "×4", "mean of 30 scales")
    ]


def test_the_mean_over_scales_is_that_of_each_patient_first():
    def row(method, patient, psnr):
        return {"method": method, "patient": patient, "psnr": psnr, "ssim": None, "ms_ssim": None, "consistency": 0.0}

    rows = [row("bicubic", "a", 20), row("bicubic", "a", 30), row("bicubic", "b", 10), row("bicubic", "b", 20)]
    rows += [row("SR", "a", 21), row("SR", "a", 33), row("SR", "b", 10), row("SR", "b", 18)]
    found = over_scales(rows, "SR")
    assert found["bicubic"]["psnr"] == {"mean": 20, "sd": pytest.approx(50**0.5)}
    assert found["gain"]["psnr"] == {"mean": 0.5, "sd": pytest.approx(4.5**0.5)}


def test_a_scale_below_bicubic_is_found_by_the_digits_that_count():
    def entry(scale, psnr, ssim):
        return {"scale": scale, "gain": {"psnr": {"mean": psnr}, "ssim": {"mean": ssim}}}

    entries = [entry(1.1, -1e-5, None), entry(1.2, -0.01, 0.1), entry(1.3, float("-inf"), -0.001), entry(2, 1, 0)]
    assert scales_below(entries) == {"psnr": [1.2, 1.3], "ssim": [1.3]}


def test_distances_in_features_stand_at_each_scale_under_the_name_of_their_network(tmp_path):
    torch.manual_seed(0)
    unet = SegmentationUNet(1, 2, width=4)
    judge = FeatureJudge(PooledFeatures(unet, "E1", "segmentation U-Net unet.pt, E1"), False)
    summary = any_scale(patients(tmp_path), tmp_path / "out", BicubicAnyScale(0.8), scales=[1.5, 3.0], judges=[judge])
    rows = table(tmp_path / "out" / "scales.csv")
    for entry in summary["points"]:
        found = entry["features"]
        assert found["images"] == 4 and 0 < found["bicubic"]["frechet"] < found["SR"]["frechet"]
        mine = [r for r in rows if (r["task"], float(r["scale"])) == (entry["task"], entry["scale"])]
        assert [float(r["frechet"]) for r in mine] == [found["bicubic"]["frechet"], found["SR"]["frechet"]]
    assert {row["features"] for row in rows} == {"segmentation U-Net unet.pt, E1"}
    text = (tmp_path / "out" / "scales.md").read_text()
    assert "| bicubic Fréchet distance | SR Fréchet distance |" in text and "FID" not in text
    assert "Fréchet distance in features of segmentation U-Net unet.pt, E1." in text
    with Image.open(tmp_path / "out" / "scales.png") as picture:
        assert picture.size == (1800, 624)


def test_features_come_from_the_overlay_of_evaluations(tmp_path):
    patients(tmp_path)
    torch.save(SegmentationUNet(1, 2, width=4).state_dict(), tmp_path / "unet.pt")
    files = [*CONFIGS, str(INFERENCE.with_name("evaluate_features.json"))]
    run(tmp_path, tmp_path / "out", config_file=files, unet_path=str(tmp_path / "unet.pt"), scales=[2.0], curves=False)
    assert "frechet" in table(tmp_path / "out" / "scales.csv")[0]


def test_the_protocol_of_the_paper_leaves_out_one_lr_pixel_at_each_scale(tmp_path):
    items = patients(tmp_path)
    splits = {"test": [{"patient": item["patient"], "image": item["image"]} for item in items]}
    (tmp_path / "list.json").write_text(json.dumps(splits))
    files = [*CONFIGS, str(INFERENCE.with_name("paper_chapter4.json"))]
    run(
        *(tmp_path, tmp_path / "out"),
        **{
            "config_file": files,
            "scale": 3,
            "scales": [2.1, 3.0],
            "crop": [30, 24],
            "datalist": str(tmp_path / "list.json"),
        },
    )
    summary = json.loads((tmp_path / "out" / "scales.json").read_text())
    assert summary["protocol"] == "paper, chapter 4" and summary["degradation"]["lr_blur"] is True
    assert [entry["border"] for entry in summary["points"]] == [3, 3, 3, 3] and summary["crop"] == [30, 24]
    assert [Protocol(scale, border="scale").margin for scale in (1.1, 2.0, 2.1, [1.5, 3.3])] == [2, 2, 3, 4]


def test_the_same_lr_image_at_scale_one_has_an_infinite_score_that_does_not_break_the_curves(tmp_path):
    summary = any_scale(patients(tmp_path, 1), tmp_path / "out", scales=[1.0, 2.0], tasks=["true"])
    assert summary["points"][0]["bicubic"]["psnr"]["mean"] == float("inf")
    assert json.loads((tmp_path / "out" / "scales.json").read_text())["points"][0]["SR"]["psnr"]["mean"] == "inf"
    assert (tmp_path / "out" / "scales.png").exists()


def test_a_warning_of_a_scale_beyond_those_trained_is_noted(tmp_path):
    (item,) = patients(tmp_path, 1)
    summary = any_scale([item], tmp_path / "out", scales=[5.0], tasks=["true"], curves=False)
    assert any("sub-0.nii.gz: magnified by 5; trained were 1 to 4" in note for note in summary["notes"])
