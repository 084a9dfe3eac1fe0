"""Networks of any scale: scales of the steps and of the validation, losses that are discarded, and the configs."""

import json
import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer

from common.blocks.discriminators import Critic
from common.data.scales import SCALES, VAL_SCALES, ScaledBatches, spread_scales
from common.handlers import DiscardLargeLoss
from common.transforms.degradation import DegradeBatch
from tests.helpers import ROOT, blobs, oblique, save_nifti

CONFIGS = ROOT / "bundles" / "miassr" / "configs"
NETWORK = {"_target_": "tests.test_scales.AnyScale", "in_channels": "@in_channels"}
PLANES = [{"label": torch.rand(1, 100, 97 + n), "name": f"plane {n}"} for n in range(3)]


class AnyScale(nn.Module):
    """The smallest network of any scale: one convolution, then interpolation to the size that it is told."""

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.in_channels, self.size_multiple, self.any_scale = in_channels, 1, True
        self.told: list[tuple] = []

    def forward(self, image, scale=None, size=None, exact=False):
        self.told.append((self.training, scale, size))
        return F.interpolate(self.trunk(image), size=size, mode="bilinear")


class Explosion(nn.Module):
    """L1 that call number ``at`` multiplies beyond all bounds, of several processes in the second one."""

    def __init__(self, at: int, by: float = 1e12) -> None:
        super().__init__()
        self.at, self.by, self.calls = at, by, 0

    def forward(self, pred, target):
        self.calls += 1
        here = self.calls == self.at and os.environ.get("RANK", "1") == "1"
        return (pred - target).abs().mean() * (self.by if here else 1)


def tenths(scale: float) -> Fraction:
    return Fraction(round(10 * scale), 10)


def test_every_scale_is_drawn_and_both_axes_share_it():
    batches = ScaledBatches(PLANES, 96, 1)
    drawn = [batches.scale(step) for step in range(2000)]
    assert {height for height, _ in drawn} == {n / 10 for n in range(11, 41)}
    assert all(height == width for height, width in drawn)
    counts = np.bincount([round(10 * height) for height, _ in drawn])[11:]
    assert counts.min() > 35 and counts.max() < 105  # 67 on the mean


def test_the_part_of_the_steps_whose_axes_draw_a_scale_each_is_the_one_asked_for():
    batches = ScaledBatches(PLANES, 96, 1, scales=[1, 2.5, 4], per_axis=0.25)
    drawn = [batches.scale(step) for step in range(3000)]
    assert set(drawn) == {(h, w) for h in (1.0, 2.5, 4.0) for w in (1.0, 2.5, 4.0)}
    unequal = sum(height != width for height, width in drawn) / 3000
    assert abs(unequal - 0.25 * 2 / 3) < 0.03  # a third of the pairs is equal by chance


def test_a_step_has_the_same_scale_after_a_stop_in_every_process_and_no_other_patches():
    first, again, other = (ScaledBatches(PLANES, 96, 2, seed=seed) for seed in (3, 3, 4))
    steps = iter(first)
    batches = [next(steps) for _ in range(8)]
    again.start = 5
    for batch, same in zip(batches[5:], again, strict=False):
        assert batch["scale"] == same["scale"] and torch.equal(batch["label"], same["label"])
    assert [batch["scale"] for batch in batches] != [other.scale(step) for step in range(8)]
    halves = [ScaledBatches(PLANES, 96, 1, seed=3, rank=rank, world_size=2).batch(6) for rank in (0, 1)]
    assert halves[0]["scale"] == halves[1]["scale"] == batches[6]["scale"]
    assert torch.equal(torch.cat([half["label"] for half in halves]), batches[6]["label"])


def test_the_planes_and_the_scale_of_a_step_are_named():
    text = ScaledBatches(PLANES, 96, 1, scales=[1.5]).describe(0)
    assert text.startswith("plane ") and text.endswith(" at scale 1.5 x 1.5")


def sizes(patch: int, scale: float) -> tuple[int, int]:
    """Equation 4.18 in whole numbers, with rounding: sides of the LR and of the HR patch."""
    low = math.floor(patch / tenths(scale))
    return low, math.floor(tenths(scale) * low + Fraction(1, 2))


@pytest.mark.parametrize("patch", [96, 64])
def test_lr_and_hr_patches_have_the_sizes_of_equation_4_18_at_every_scale(patch):
    prepare = DegradeBatch(scale=None)
    for factors in [(s, s) for s in SCALES] + [(1.7, 3.3), (4.0, 1.1)]:
        batch = ScaledBatches(PLANES, patch, 2, scales=[1]).batch(0) | {"scale": factors}
        low, high, _, told = prepare(batch, "cpu", False)
        expected = [sizes(patch, factor) for factor in factors]
        assert list(low.shape[2:]) == [size for size, _ in expected]
        assert list(high.shape[2:]) == told["size"] == [size for _, size in expected]
        assert told["scale"] == list(factors)


def test_a_critic_takes_the_patches_of_every_scale_where_they_are_a_multiple_of_16():
    def judge(patch: int, factors: tuple[float, float]) -> torch.Size:
        critic = Critic(patch_size=patch, widths=[1] * 8, hidden=1)
        batch = ScaledBatches(PLANES, patch, 2, scales=[1]).batch(0) | {"scale": factors}
        return critic(DegradeBatch(scale=None)(batch, "cpu", False)[1]).shape

    for factors in [(s, s) for s in SCALES] + [(1.7, 3.3), (4.0, 1.1)]:
        assert judge(96, factors) == judge(64, factors) == (2, 1)
    with pytest.raises(ValueError, match=r"97 to 112 x 97 to 112 pixels, got 94 x 94; .* several scales a multiple of"):
        judge(97, (3.9, 3.9))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scales": []}, r"scales: must be a list of finite numbers, each at least 1, got \[\]; pass it as --scales"),
        ({"scales": [2, 0.9]}, r"each at least 1, got \[2, 0\.9\]"),
        ({"scales": [math.nan]}, r"got \[nan\]"),
        ({"scales": [math.inf, 2]}, r"got \[inf, 2\]"),
        ({"scales": ["2"]}, r"got \['2'\]"),
        ({"scales": 2.5}, "must be a list of finite numbers, each at least 1, got 2.5"),
        (
            {"scales": [2, 96.5]},
            "patch_size: must have room for an LR pixel of scale 96.5, got 96; enlarge it, or take",
        ),
        ({"per_axis": 1.5}, "per_axis: must be a part of the steps, from 0 to 1, got 1.5"),
        ({"per_axis": math.nan}, "per_axis: must be a part of the steps"),
    ],
)
def test_scales_that_cannot_be_trained_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ScaledBatches(PLANES, 96, 1, **settings)


def test_planes_are_validated_at_the_scales_in_turn_through_a_loader():
    spread = spread_scales([PLANES[0]] * 8)
    assert [plane["scale"] for plane in spread] == [(s, s) for s in (*VAL_SCALES, 1.5, 2.0)]
    assert spread[0]["name"] == "plane 0" and "scale" not in PLANES[0]
    for plane, batch in zip(spread, DataLoader(Dataset(spread), batch_size=1), strict=True):
        _, high, _, told = DegradeBatch(scale=None)(batch, "cpu", False)
        assert told["scale"] == list(plane["scale"]) and told["size"] == list(high.shape[2:])


def test_a_validation_that_leaves_scales_out_says_so(caplog):
    spread_scales(PLANES)
    assert "3 of 6 scales have a plane; pass a smaller --val_every" in caplog.text


def test_planes_that_cannot_be_validated_are_refused():
    with pytest.raises(ValueError, match=r"val_scales: must be a list .*, got \[0\.5\]; pass it as --val_scales"):
        spread_scales(PLANES, [0.5])
    with pytest.raises(ValueError, match="thin: must have room for an LR pixel of scale 4, got 9 x 3 pixels; leave"):
        spread_scales([{"label": torch.rand(1, 9, 3), "name": "thin"}], [4])


OPTIMIZERS = {
    "Adam": (torch.optim.Adam, {"lr": 0.01}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}),
    "SGD with momentum": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}),
}


def train(batches: list[dict], optimizer: str) -> tuple[dict, dict, DiscardLargeLoss]:
    """Weights, state of the optimiser and handler after a step with each of the batches."""
    torch.manual_seed(0)
    network, discard = nn.Conv2d(1, 1, 3, padding=1), DiscardLargeLoss()
    make, settings = OPTIMIZERS[optimizer]
    trainer = SupervisedTrainer(
        torch.device("cpu"), 1, batches, network, make(network.parameters(), **settings), nn.L1Loss(),
        train_handlers=[discard],
    )  # fmt: skip
    trainer.run()
    return network.state_dict(), trainer.optimizer.state_dict()["state"], discard


def pairs(count: int) -> list[dict]:
    draw = torch.Generator().manual_seed(1)
    return [{key: torch.rand(2, 1, 8, 8, generator=draw) for key in ("image", "label")} for _ in range(count)]


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        if isinstance(value, dict):
            assert_same(value, second[key])
        else:
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(second[key])), key


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_step_whose_loss_explodes_is_as_if_it_had_not_been(optimizer, at, caplog):
    batches, exploding = pairs(4), {"image": torch.rand(2, 1, 8, 8), "label": torch.full((2, 1, 8, 8), 1e9)}
    weights, state, discard = train([*batches[:at], exploding, *batches[at:]], optimizer)
    without, state_without, none = train(batches, optimizer)
    assert_same(weights, without)
    assert_same(state, state_without)
    assert (discard.steps, none.steps) == ([at + 1], [])
    assert f"step {at + 1}: the loss, 1e+09, is above 1e+08; discarded, as were 0 before" in caplog.text
    shorter, _, _ = train(batches[:3], optimizer)
    with pytest.raises(AssertionError):  # the comparison can fail
        assert_same(weights, shorter)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_left_to_the_guard_that_stops(value):
    batch = {"image": torch.rand(1, 1, 8, 8), "label": torch.full((1, 1, 8, 8), value)}
    _, state, discard = train([batch], "Adam")
    assert discard.steps == [] and state[0]["step"] == 1


def test_a_limit_that_discards_every_step_is_refused():
    for limit in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match="loss_limit: must be above 0, got"):
            DiscardLargeLoss(limit)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for split, planes in (("train", 3), ("val", 12)):
        (root / split).mkdir()
        values = (blobs((48, 41, planes), seed=len(split)) * 1000).astype(np.int16)
        save_nifti(root / split / f"{split}.nii.gz", values, oblique((1, 1, 3)))
    return root


def run(data: Path, output: Path, *overlays: Path, **overrides: object) -> ConfigWorkflow:
    """Train the tiny network by the config of MIASSR, in this process."""
    settings = {"dataset_dir": str(data), "output_dir": str(output), "device": "$torch.device('cpu')"}
    settings |= {"network_def": NETWORK}
    settings |= {"steps": 3, "val_interval": 1, "val_every": 1, "batch_size": 2, "patch_size": 32, **overrides}
    files = [str(path) for path in (CONFIGS / "train.json", *overlays)]
    workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **settings)
    workflow.initialize()
    workflow.run()
    return workflow


def last(output: Path) -> dict:
    return torch.load(output / "last.pt", weights_only=True)


def test_a_stopped_run_goes_on_with_the_same_scales_to_the_same_weights(data, tmp_path):
    settings = {"per_axis": 0.5, "loss_limit": 1e6}
    workflow = run(data, tmp_path / "whole", **settings)
    told = workflow.parser.get_parsed_content("network_def").told
    batches = workflow.parser.get_parsed_content("train#dataloader")
    steps = [list(batches.scale(step)) for step in range(3)]
    assert [scale for training, scale, _ in told if training] == steps and len(set(map(tuple, steps))) == 3
    for step in (1, 2, 3):
        run(data, tmp_path / "pieces", minutes=1e-9, **settings)
        assert last(tmp_path / "pieces")["step"] == step
    whole, pieces = last(tmp_path / "whole"), last(tmp_path / "pieces")
    assert_same(whole["network"], pieces["network"])
    assert_same(whole["optimizer"]["state"], pieces["optimizer"]["state"])
    assert whole["best"] == pieces["best"]
    run(data, tmp_path / "other", **settings, scales=[2])
    with pytest.raises(AssertionError):  # the comparison can fail
        assert_same(whole["network"], last(tmp_path / "other")["network"])


def test_the_score_of_a_validation_is_the_mean_over_planes_at_all_scales(data, tmp_path):
    workflow = run(data, tmp_path)
    network, planes = (workflow.parser.get_parsed_content(name) for name in ("network_def", "validate#spread"))
    seen = [tuple(scale) for training, scale, _ in network.told if not training]
    assert seen == [plane["scale"] for plane in planes] * 3 and set(seen) == {(s, s) for s in VAL_SCALES}
    prepare, scores = DegradeBatch(scale=None), []
    for plane in planes:
        batch = {"label": plane["label"][None], "scale": plane["scale"]}
        low, high, _, told = prepare(batch, "cpu", False)
        with torch.no_grad():
            scores.append(-10 * math.log10(float(F.mse_loss(network(low, **told), high))))
    assert last(tmp_path)["best"]["history"][-1][1] == pytest.approx(sum(scores) / len(scores), abs=1e-4)
    assert max(scores) - min(scores) > 0.1


def test_discarded_steps_are_counted_over_a_stop_and_change_nothing(data, tmp_path):
    settings = {"loss": {"_target_": "tests.test_scales.Explosion", "at": 1}, "minutes": 1e-9}
    run(data, tmp_path, **settings)
    first = last(tmp_path)
    assert first["discard"] == {"steps": [1]} and first["optimizer"]["state"] == {}
    run(data, tmp_path, **settings)
    second = last(tmp_path)
    assert second["discard"] == {"steps": [1, 2]} and second["step"] == 2
    assert_same(first["network"], second["network"])


def test_settings_that_make_no_sense_end_with_a_sentence(data, tmp_path):
    for setting, message in (
        ({"scales": [0.5]}, "error: scales: must be a list of finite numbers"),
        ({"val_scales": []}, "error: val_scales: must be a list of finite numbers"),
        ({"loss_limit": -1}, "error: loss_limit: must be above 0, got -1"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(data, tmp_path, **setting)


def test_a_loss_that_is_nan_names_planes_and_scale(data, tmp_path):
    with pytest.raises(SystemExit, match=r"step 1: the loss must be finite, got nan on .*plane \d at scale \d\S* x \d"):
        run(data, tmp_path, loss={"_target_": "tests.test_scales.Explosion", "at": 1, "by": "$float('nan')"})


def test_the_protocol_of_chapter_4_trains_it(data, tmp_path):
    overlay = ROOT / "common" / "templates" / "paper_chapter4.json"
    workflow = run(data, tmp_path, overlay, crop=[40, 36], steps=1)
    assert workflow.parser.get_parsed_content("prepare_batch").degradation.lr_blur
    assert last(tmp_path)["step"] == 1


def test_four_modalities_train_at_once(tmp_path):
    for split in ("training", "validation"):
        for modality in range(4):
            values = (blobs((40, 36, 2), seed=modality) * 500).astype(np.int16)
            save_nifti(tmp_path / f"{split}{modality}.nii.gz", values, oblique((1, 1, 3)))
    items = {s: [{"patient": s, "image": [f"{s}{m}.nii.gz" for m in range(4)]}] for s in ("training", "validation")}
    (tmp_path / "list.json").write_text(json.dumps(items))
    workflow = run(tmp_path, tmp_path / "run", datalist=str(tmp_path / "list.json"), in_channels=4, steps=1)
    loss = workflow.parser.get_parsed_content("loss")
    pred, target = torch.rand(2, 2, 4, 9, 8).unbind(0)
    apart = torch.stack([loss(pred[:, m], target[:, m]) for m in range(4)]).mean()
    torch.testing.assert_close(loss(pred, target), apart)


def test_a_transfer_asks_for_the_weights_of_the_first_modality(data, tmp_path):
    overlay = CONFIGS / "transfer.json"
    with pytest.raises(SystemExit, match="ckpt_path: must be weights of another modality; pass --ckpt"):
        run(data, tmp_path / "none", overlay)
    run(data, tmp_path / "first")
    weights = str(tmp_path / "first" / "model.pt")
    run(data, tmp_path / "second", overlay, ckpt_path=weights, learning_rate=0.0)
    assert_same(last(tmp_path / "second")["network"], torch.load(weights, weights_only=True))


def read(name: str, bundle: str = "miassr") -> dict:
    return json.loads((ROOT / "bundles" / bundle / "configs" / f"{name}.json").read_text())


def flat(config: dict, path: str = "") -> dict:
    """Settings by their path; lists are whole."""
    found: dict = {}
    for key, value in config.items():
        found |= flat(value, f"{path}{key}#") if isinstance(value, dict) else {path + key: value}
    return found


def differing(first: dict, second: dict) -> set[str]:
    a, b = flat(first), flat(second)
    return {key for key in a.keys() | b.keys() if (key in a, a.get(key)) != (key in b, b.get(key))}


OWN = {"_comment", "bundle_root", "output_dir", "network_def#_target_"}
RECIPE = {"patch_size", "batch_size", "learning_rate", "augment", "optimizer#betas", "width", "blocks"}
SCALED = {"scale", "scales", "per_axis", "val_scales", "loss_limit", "prepare_batch#scale", "validate#dataset#data"}
SCALED |= {f"train#dataloader#{key}" for key in ("_target_", "scales", "per_axis")} | {"train#state#discard"}


def test_the_configs_of_networks_of_any_scale_differ_from_the_master_in_scales_and_recipe_alone():
    deeper = {f"{path}{key}" for path in ("", "network_def#") for key in ("layers", "growth")} | {"blocks"}
    assert differing(read("train"), read("train", "meta_rdn")) == OWN | deeper
    master = json.loads((ROOT / "common" / "templates" / "bundle" / "configs" / "train.json").read_text())
    parts = ("network_def", "lr_scheduler", "train#discard", "validate#spread", "transfer", "run")
    found = {key for key in differing(read("train"), master) if not key.startswith(parts)}
    assert found - OWN == RECIPE | SCALED
    for bundle in ("miassr", "meta_rdn"):
        assert len((ROOT / "bundles" / bundle / "configs" / "train.json").read_text().splitlines()) <= 150


TABLES = {  # million parameters as printed
    ("width", 4): 0.016, ("width", 8): 0.041, ("width", 16): 0.12, ("width", 32): 0.42, ("width", 64): 1.5,
    ("width", 128): 5.8, ("blocks", 2): 0.48, ("blocks", 4): 0.63, ("blocks", 8): 0.93, ("blocks", 16): 1.5,
    ("blocks", 32): 2.7, ("blocks", 64): 5.1,
}  # fmt: skip


@pytest.mark.parametrize(("setting", "value"), TABLES)
def test_width_and_depth_are_those_of_tables_4_3_and_4_4_but_for_a_tail_that_is_never_used(setting, value):
    config = ConfigParser(read("train") | {setting: value})
    with torch.device("meta"):
        network = config.get_parsed_content("network_def")
    width = config["width"]
    tail = (width * 4 * width * 9 + 4 * width) + (width * 9 + 1)  # a sub-pixel stage of factor 2 and a convolution
    counted = sum(p.numel() for p in network.parameters()) + tail
    printed = TABLES[setting, value]
    assert float(f"{counted / 1e6:.2g}") == printed


def test_narrow_and_deep_are_overlays_of_those_tables():
    assert read("narrow")["width"] == 16 and read("deep")["blocks"] == 32
