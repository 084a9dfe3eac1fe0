"""A sweep: two variants from training to table, what is done twice, what fails, what is refused."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from common.sweep import Plan, sweep
from common.sweep_runs import Run, reason
from common.sweep_table import Variant, write_sweep
from tests.helpers import ROOT, run_module
from tests.test_chapter3_training import SPLITS, save_case, write_datalist

MSGAN = ROOT / "bundles" / "msgan"
SMALL = {
    "batch_size": 2,
    "patch_size": 32,
    "perceptual": "l1",
    "critic_width": 4,
    "network_def#blocks": 1,
    "network_def#width": 8,
    "device": "$torch.device('cpu')",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    items = {split: [save_case(root, split, seed)] for seed, split in enumerate(SPLITS)}
    items["test"].append(save_case(root, "second", 4))
    write_datalist(root, **items)
    return root


@pytest.fixture(scope="module")
def swept(data, tmp_path_factory) -> Path:
    """What two variants of two steps left."""
    out = tmp_path_factory.mktemp("swept") / "out"
    settings = {"dataset_dir": str(data), "datalist": str(data / "datalist.json"), **SMALL}
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    done = run_module(
        *("common", "sweep", "bundles/msgan", "--steps", "2", "--output_dir", str(out)),
        *("--variants", "gan_pretrain,msgan", *words),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| GAN + pre-train | 1 + 1 |" in done.stdout and "| MS-GAN | 2 |" in done.stdout
    return out


def again(data: Path, out: Path, variants: str = "gan_pretrain,msgan", **more: object) -> str:
    settings = {"dataset_dir": str(data), "datalist": str(data / "datalist.json"), **SMALL, **more}
    return sweep(str(MSGAN), 2, str(out), variants, **settings)


def test_the_table_has_every_variant_beside_bicubic_in_three_forms(swept):
    with open(swept / "sweep.csv", newline="", encoding="utf-8") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["bicubic", "HR", "gan_pretrain", "msgan"]
    assert (rows["msgan"]["steps"], rows["msgan"]["pretraining"]) == ("2", "0")
    content = json.loads((swept / "sweep.json").read_text())
    for variant in content["variants"]:
        summary = json.loads((swept / variant["name"] / "scores" / "summary.json").read_text())
        for score in ("psnr", "ssim", "consistency"):
            assert variant["scores"][score] == summary["MS-GAN"][score] and summary["MS-GAN"][score]["sd"] is not None
            assert float(rows[variant["name"]][score]) == summary["MS-GAN"][score]["mean"]
            assert content["references"]["bicubic"][score] == summary["bicubic"][score]
        assert variant["scores"]["sharpness"] == summary["sharpness"]["MS-GAN"]
    assert rows["HR"]["psnr"] == "" and float(rows["HR"]["sharpness"]) > float(rows["bicubic"]["sharpness"])
    text = (swept / "sweep.md").read_text()
    assert "Mean ± SD over 2 patients" in text and "equal in all" in text and "region" not in text


def test_each_run_has_the_settings_of_its_variant_and_not_those_that_it_does_not_know(swept):
    settings = {
        name: json.loads((swept / name / "settings.json").read_text())
        for name in ("gan_pretrain/pretraining", "gan_pretrain/training", "msgan/training", "gan_pretrain/scores")
    }
    assert [settings[name].get("generator") for name in settings] == ["ms_srresnet", None, None, "ms_srresnet"]
    assert [settings[name].get("perceptual") for name in settings] == [None, "l1", "l1", None]
    assert settings["gan_pretrain/training"]["ckpt_path"].endswith("pretraining/model.pt")
    assert "batch_size" not in settings["gan_pretrain/scores"]
    assert settings["gan_pretrain/scores"]["network_def#width"] == 8


def test_what_is_finished_is_not_repeated_and_other_settings_are_refused(swept, data, tmp_path):
    out = shutil.copytree(swept, tmp_path / "out")
    moved = {path: path.read_text().replace(str(swept), str(out)) for path in out.rglob("*.json")}
    for path, text in moved.items():
        path.write_text(text)
    logs = {path: path.stat().st_mtime_ns for path in out.rglob("log.txt")}
    table = again(data, out)
    assert table == (swept / "sweep.md").read_text() and len(logs) == 5
    assert {path: path.stat().st_mtime_ns for path in out.rglob("log.txt")} == logs
    with pytest.raises(
        ValueError, match=r"1 of 1 variants failed:\n  msgan, training: .* settings#batch_size = 2, now"
    ):
        again(data, out, "msgan", batch_size=3)


def test_a_variant_that_fails_is_named_and_costs_no_other(swept, data, tmp_path):
    out = shutil.copytree(swept, tmp_path / "out")
    for path in out.rglob("*.json"):
        path.write_text(path.read_text().replace(str(swept), str(out)))
    (out / "gan_pretrain" / "training" / "finished.json").unlink()
    (out / "gan_pretrain" / "training" / "last.pt").write_text("damaged")
    with pytest.raises(
        ValueError, match=r"1 of 2 variants failed, .*sweep\.md is of the others:\n  gan_pretrain, tr.*"
    ):
        again(data, out)
    content = json.loads((out / "sweep.json").read_text())
    assert [bool(variant["failed"]) for variant in content["variants"]] == [True, False]
    assert "last.pt: cannot be read" in content["variants"][0]["failed"]
    text = (out / "sweep.md").read_text()
    assert "| MS-GAN | 2 |" in text and "| GAN + pre-train" not in text and "Failed: gan_pretrain, training:" in text


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"variants": "msgan,nonsense"}, "variants: must be some of gan_pretrain, .*, msgan, got nonsense"),
        ({"learning_rat": 1}, "--learning_rat: no config of .* has such a setting"),
        ({"variants": "wgan", "alpha": 0.7}, "--alpha: is set by the sweep itself, for wgan; leave it out"),
        ({"minutes": 3}, "--minutes: is set by the sweep itself"),
        ({"overlays": "lesion"}, r"lesion\.json: must be there, as gan_pretrain needs it"),
        ({"steps": 1}, "steps: must be a whole number, 1 or more, 2 with pre-training, got 1"),
        ({"steps": 5, "val_interval": 2}, "steps: must be several times val_interval, got 5 and 2"),
        ({"bundle": "rdst"}, r"rdst: must be a bundle with variants in configs/sweep\.json"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(settings, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        sweep(**{"bundle": "msgan", "steps": 2, "output_dir": str(tmp_path / "out"), **settings})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("steps", "interval", "before"), [(2, 1, 1), (6000, 1000, 1000), (180000, 1000, 30000)])
def test_a_sixth_of_the_steps_is_the_pre_training(steps, interval, before, tmp_path):
    plan = Plan(MSGAN / "configs", {}, {}, [], [], steps, interval, tmp_path)
    assert plan.pretraining({"first": {}}) == before and plan.pretraining({}) == 0


def test_all_variants_and_lesion_focus_become_runs(tmp_path):
    content = json.loads((MSGAN / "configs" / "sweep.json").read_text())
    options = {"region_size": [24, 24], "lesion": ["core"]}
    plan = Plan(
        *(MSGAN / "configs", content, options, ["lesion_focus"], ["evaluate_region"], 600, 100, tmp_path),
    )
    plan.check(list(content["variants"]))
    runs = {name: plan.runs(name) for name in content["variants"]}
    assert [len(found) for found in runs.values()] == [3, 3, 2, 2, 2, 2]
    for name, (*_, training, evaluation) in runs.items():
        names = [path.stem for path in training.configs]
        assert names[:4] == ["train", "adversarial", "train_gan", "lesion_focus"]
        assert names[4:] == ([] if name == "msgan" else [f"variant_{name}"])
        assert evaluation.settings["region_size"] == [24, 24] and "region_judge" not in evaluation.settings


def test_scores_of_a_region_are_in_the_table_where_it_was_evaluated(tmp_path):
    score = {"mean": 1.0, "sd": 0.5}
    region = {method: {name: score for name in ("sharpness", "plane_sharpness")} for method in ("HR", "net")}
    region["net"] |= {"psnr": score, "ssim": score}
    own = {"psnr": score, "ssim": score, "consistency": score}
    summary = {
        "net": own,
        "bicubic": own,
        "patients": 2,
        "slices": 3,
        "protocol": "clean",
        "region": {"scores": region},
    }
    (tmp_path / "a" / "scores").mkdir(parents=True)
    (tmp_path / "a" / "scores" / "summary.json").write_text(json.dumps(summary))
    text = write_sweep(tmp_path, [Variant("a", "A", 10, 0)], "net")
    assert "PSNR (dB), region" in text and "| A | 10 | 1.00 ± 0.50 |" in text and "| HR | – | – |" in text


def test_the_reason_is_the_sentence_at_the_end_of_a_log(tmp_path):
    assert reason("noise\nerror: a: must be b; do c\n") == "a: must be b; do c"
    assert reason("error: old\nerror: 1 of 2 images failed:\n  x: no\n") == "1 of 2 images failed: x: no"
    assert reason("Traceback\nKeyError: 1\n") == "KeyError: 1" and reason("") == ""
    with pytest.raises(ValueError, match=r"a, training: .*nowhere\.json.*; .*log\.txt has all of it"):
        Run("a, training", tmp_path / "a", [tmp_path / "nowhere.json"], {}).complete()
