"""Adversarial training: who learns in a step, that a run goes on with the same next one, and what stops it."""

import copy
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.adversary import Adversary, make_adversary
from common.average import AverageWeights
from common.blocks.discriminators import Critic
from common.data.patches import PatchBatches
from common.engines import PARTS, AdversarialTrainer, parts_of_loss
from common.handlers import DiscardLargeLoss
from common.inferers import AutocastInferer
from common.losses.adversarial import KINDS, adversarial_loss
from common.losses.finetuning import CombinedLoss, finetuning_loss
from common.training import TrainingState, train
from common.transforms.degradation import DegradeBatch
from tests.helpers import ROOT, Convolve, blobs, oblique, save_nifti

PLANES = [{"label": torch.tensor(blobs((24, 26, 1), n)[..., 0])[None].float(), "name": f"p{n}"} for n in range(3)]
CONFIGS = ROOT / "bundles" / "rdst" / "configs"


def tiny_critic() -> Critic:
    torch.manual_seed(7)
    return Critic(patch_size=16, widths=[4] * 8, hidden=8)


def adversary(kind: str = "wgan_gp", **settings: object) -> Adversary:
    critic = tiny_critic()
    optimizer = torch.optim.Adam(critic.parameters(), settings.pop("rate", 1e-3), (0.0, 0.9))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    return Adversary(critic, adversarial_loss(kind), optimizer, schedule, **settings)


class Last:
    """Keeps what each step gave."""

    def __init__(self) -> None:
        self.losses: list[dict] = []

    def attach(self, engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine) -> None:
        output = engine.state.output[0] if isinstance(engine.state.output, list) else engine.state.output
        self.losses.append({key: float(output[key]) for key in ("loss", *PARTS) if key in output})


def setting(folder: Path, against: Adversary | None, trainer=AdversarialTrainer, **more) -> SimpleNamespace:
    """All objects of a training of two epochs of two steps, as a new process would make them."""
    torch.manual_seed(3)
    network = more.pop("network", None) or Convolve(2)
    optimizer = torch.optim.Adam(network.parameters(), more.pop("rate", 1e-3))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    batches = PatchBatches(PLANES, 16, 2)
    average, log = AverageWeights(network, more.pop("momentum", None)), Last()
    state = TrainingState(
        folder,
        {"network": network, "optimizer": optimizer, "schedule": schedule, "adversary": against, "ema": average},
        batches,
        minutes=more.pop("minutes", None),
        discard=more.pop("discard", None),
    )
    options = {"adversary": against} if trainer is AdversarialTrainer else {}
    options |= {"loss_function": nn.L1Loss(), "inferer": AutocastInferer(more.pop("amp_dtype", None)), **more}
    engine = trainer(
        device=torch.device("cpu"),
        max_epochs=2,
        epoch_length=2,
        train_data_loader=batches,
        network=network,
        optimizer=optimizer,
        prepare_batch=DegradeBatch(2),
        train_handlers=[LrScheduleHandler(schedule, epoch_level=False, print_lr=False), average, log],
        **options,
    )
    train(engine, state)
    return SimpleNamespace(network=network, average=average, log=log.losses, adversary=against, engine=engine)


def read(folder: Path) -> dict:
    content = torch.load(folder / "last.pt", weights_only=True)
    return {key: value for key, value in content.items() if key != "seconds"}


def assert_same(first: object, second: object, path: str = "") -> None:
    """Equal to the last bit, however deeply nested."""
    assert type(first) is type(second), path
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_same(first[key], second[key], f"{path}/{key}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    else:
        assert first == second, path


def moved(module: nn.Module, before: dict) -> bool:
    return any(not torch.equal(value, before[key]) for key, value in module.state_dict().items())


def copied(module: nn.Module) -> dict:
    return copy.deepcopy(module.state_dict())


def test_generator_and_critic_each_change_only_their_own_weights():
    torch.manual_seed(0)
    network, opponent = Convolve(2), adversary()
    weights = [copied(module) for module in (network, opponent.critic)]
    real = torch.rand(2, 1, 16, 16)
    fake = network(torch.rand(2, 1, 8, 8))
    opponent.update(real, fake, 1)
    assert moved(opponent.critic, weights[1]) and not moved(network, weights[0])
    assert all(parameter.grad is None for parameter in (*network.parameters(), *opponent.critic.parameters()))
    weights[1] = copied(opponent.critic)
    opponent.term(real, fake, 1).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    torch.optim.SGD(network.parameters(), 1.0).step()
    assert moved(network, weights[0]) and not moved(opponent.critic, weights[1])
    assert all(parameter.grad is None for parameter in opponent.critic.parameters())


@pytest.mark.parametrize("frozen", ["generator", "critic"])
def test_in_a_training_too_one_that_does_not_learn_stays_where_it_is(frozen, tmp_path):
    opponent = adversary(rate=0.0 if frozen == "critic" else 1e-3)
    start = copied(opponent.critic)
    run = setting(tmp_path, opponent, rate=0.0 if frozen == "generator" else 1e-3)
    torch.manual_seed(3)
    assert moved(opponent.critic, start) == (frozen == "generator")
    assert moved(run.network, Convolve(2).state_dict()) == (frozen == "critic")


def test_without_an_adversary_every_step_is_that_of_the_supervised_trainer(tmp_path):
    setting(tmp_path / "ours", None)
    setting(tmp_path / "monai", None, SupervisedTrainer)
    assert_same(read(tmp_path / "ours"), read(tmp_path / "monai"))
    assert "adversary" not in read(tmp_path / "ours")
    setting(tmp_path / "against", adversary(weight=1.0))
    with pytest.raises(AssertionError):  # the comparison can fail
        assert_same(read(tmp_path / "against")["network"], read(tmp_path / "monai")["network"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_under_bfloat16_and_says_what_its_loss_is_made_of(kind, tmp_path):
    opponent = adversary(kind, amp_dtype="bfloat16", weight=0.5, steps=2)
    start = copied(opponent.critic)
    run = setting(tmp_path, opponent, amp_dtype="bfloat16")
    assert moved(opponent.critic, start) and len(run.log) == 4
    for losses in run.log:
        assert all(math.isfinite(value) for value in losses.values())
        assert set(losses) - {"loss"} == set(PARTS) - (set() if "_gp" in kind else {"gradient_penalty"})
        assert losses["loss"] == pytest.approx(losses["reconstruction_loss"] + losses["adversarial_loss"], abs=1e-6)
    if kind == "wgan":
        assert max(float(p.detach().abs().max()) for p in opponent.critic.parameters()) <= 0.0100001
    assert all(value.dtype == torch.float32 for value in opponent.critic.state_dict().values())


def test_a_run_in_pieces_ends_where_a_whole_one_does_with_everything_that_it_has(tmp_path):
    setting(tmp_path / "whole", adversary(weight=0.5), momentum=0.1)
    for step in range(1, 5):
        setting(tmp_path / "pieces", adversary(weight=0.5), momentum=0.1, minutes=1e-9)
        assert read(tmp_path / "pieces")["step"] == step
    whole = read(tmp_path / "whole")
    assert_same(whole, read(tmp_path / "pieces"))
    assert set(whole["adversary"]) == {"critic", "optimizer", "lr_scheduler"} and whole["ema"]
    assert whole["adversary"]["lr_scheduler"]["last_epoch"] == whole["schedule"]["last_epoch"] == 4
    assert whole["adversary"]["optimizer"]["state"][0]["step"] == 4
    setting(tmp_path / "other", adversary(weight=0.5, steps=2), momentum=0.1)
    with pytest.raises(AssertionError):  # the comparison can fail
        assert_same(whole, read(tmp_path / "other"))


def test_several_steps_of_the_critic_are_taken_on_each_batch(tmp_path):
    opponent = adversary(steps=3)
    setting(tmp_path, opponent)
    assert opponent.optimizer.state_dict()["state"][0]["step"] == 12


def test_before_its_start_there_is_no_adversary_and_only_the_loss_of_the_warm_up(tmp_path):
    opponent = adversary(start=2, weight=1.0)
    start = copied(opponent.critic)
    doubled = lambda prediction, target: 2 * F.mse_loss(prediction, target)  # noqa: E731
    run = setting(tmp_path, opponent, warm_up_loss=doubled)
    assert [losses["adversarial_loss"] == 0 for losses in run.log] == [True, True, False, False]
    assert ["critic_loss" in losses for losses in run.log] == [False, False, True, True]
    assert opponent.optimizer.state_dict()["state"][0]["step"] == 2 and moved(opponent.critic, start)
    warm = setting(tmp_path / "warm", None, loss_function=doubled)
    assert [losses["loss"] for losses in warm.log[:2]] == [losses["loss"] for losses in run.log[:2]]


class Pyramid(nn.Module):
    """Images of two sizes in training."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Convolve(1), Convolve(2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x1": self.first(x), "x2": self.second(x)}


def test_of_several_images_the_critic_sees_the_last_and_the_loss_the_mapping(tmp_path):
    seen = []

    def loss(prediction, target):
        seen.append({name: tuple(image.shape) for name, image in prediction.items()})
        return F.l1_loss(prediction["x2"], target) + F.l1_loss(prediction["x1"], F.avg_pool2d(target, 2))

    opponent = adversary(weight=1.0)
    start = copied(opponent.critic)
    run = setting(tmp_path, opponent, network=Pyramid(), loss_function=loss, inferer=None)
    assert seen == [{"x1": (2, 1, 8, 8), "x2": (2, 1, 16, 16)}] * 4 and len(run.log) == 4
    assert moved(opponent.critic, start)


def test_a_critic_whose_loss_is_not_finite_stops_the_run_and_leaves_no_state(tmp_path):
    opponent = adversary()
    honest = opponent.loss.critic_loss
    opponent.loss.critic_loss = lambda *images: honest(*images) * math.nan
    with pytest.raises(ValueError, match=r"step 1: the loss must be finite, got nan on p\d"):
        setting(tmp_path, opponent)
    opponent = adversary(weight=0.0)
    opponent.update = lambda *images: {"critic_loss": torch.tensor(math.inf)}
    with pytest.raises(ValueError, match="step 1: the loss must be finite, got inf"):
        setting(tmp_path, opponent)
    assert not (tmp_path / "last.pt").exists()


def test_a_step_that_is_discarded_teaches_the_critic_alone(tmp_path):
    opponent, discard = adversary(), DiscardLargeLoss(1e-9)
    start = copied(opponent.critic)
    run = setting(tmp_path, opponent, discard=discard)
    torch.manual_seed(3)
    assert discard.steps == [1, 2, 3, 4] and not moved(run.network, Convolve(2).state_dict())
    assert moved(opponent.critic, start)


def test_the_average_follows_the_weights(tmp_path):
    run = setting(tmp_path, None, momentum=0.25, minutes=1e-9)
    torch.manual_seed(3)
    for before, now, mean in zip(
        Convolve(2).parameters(), run.network.parameters(), run.average.network.parameters(), strict=True
    ):
        torch.testing.assert_close(mean, 0.75 * before + 0.25 * now)
    assert AverageWeights(run.network).network is run.network and AverageWeights(run.network).state_dict() == {}
    with pytest.raises(ValueError, match="ema_momentum: must be above 0 and below 1, got 1"):
        AverageWeights(run.network, 1)


def test_settings_that_make_no_sense_are_refused():
    for name, value in (("critic_steps", 0), ("adversarial_start", -1), ("adversarial_weight", -0.1)):
        with pytest.raises(ValueError, match=f"{name}: must be at least .*, got {value}"):
            adversary(**{name.split("_")[1]: value})
    with pytest.raises(ValueError, match="amp_dtype: must be null or bfloat16, got float16"):
        adversary(amp_dtype="float16")
    with pytest.raises(ValueError, match="critic_batch_norm: must be false with wgan_gp, got true"):
        make_adversary("wgan_gp", 1, 16, "cpu", batch_norm="true")
    made = make_adversary("vanilla", 1, 16, "cpu", batch_norm="true", learning_rate=1e-4, betas=[0.5, 0.9])
    group = made.optimizer.param_groups[0]
    assert (group["lr"], group["betas"]) == (1e-4, (0.5, 0.9)) and any(
        isinstance(layer, nn.BatchNorm2d) for layer in made.critic.modules()
    )


def test_the_distance_of_pixels_can_be_l2_or_left_to_a_loss_beside_it():
    one, other = torch.rand(2, 2, 1, 8, 8).unbind(0)
    assert torch.equal(CombinedLoss(None, 2.0, pixel="L2")(one, other), 2 * F.mse_loss(one, other))
    assert float(CombinedLoss(None, 0.0, 0.0, beside=1.0)(one, other)) == 0
    with pytest.raises(ValueError, match="pixel: must be L1 or L2, got l3"):
        finetuning_loss("l1", pixel="l3")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        (root / split).mkdir()
        values = (blobs((40, 36, 3), seed=len(split)) * 1000).astype(np.int16)
        save_nifti(root / split / f"{split}.nii.gz", values, oblique((1, 1, 3)))
    return root


def run(data: Path, output: Path, *overlays: str, **overrides: object) -> ConfigWorkflow:
    """Train by the overlay of RDST, on a small network."""
    settings = {"dataset_dir": str(data), "output_dir": str(output), "device": "$torch.device('cpu')", "ckpt_path": ""}
    settings |= {"network_def": {"_target_": "tests.helpers.Convolve", "scale": "@scale"}, "scale": 2, "patch_size": 16}
    settings |= {"steps": 2, "val_interval": 1, "batch_size": 2, "perceptual": "l1", "ema_momentum": 0.3, **overrides}
    files = [str(CONFIGS / f"{name}.json") for name in ("train", *(overlays or ("adversarial",)))]
    workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **settings)
    workflow.initialize()
    workflow.run()
    return workflow


def test_the_overlay_goes_on_where_it_stopped_and_keeps_and_scores_the_average(data, tmp_path):
    workflow = run(data, tmp_path / "whole")
    for _ in range(2):
        run(data, tmp_path / "pieces", minutes=1e-9)
    whole = read(tmp_path / "whole")
    assert_same(whole, read(tmp_path / "pieces"))
    kept = torch.load(tmp_path / "whole" / "model.pt", weights_only=True)
    assert_same(dict(kept), dict(whole["ema"]))
    assert any(not torch.equal(value, whole["network"][key]) for key, value in kept.items())
    evaluator, average = (workflow.parser.get_parsed_content(name) for name in ("validate#evaluator", "average"))
    assert evaluator.network is average.network
    group = whole["adversary"]["optimizer"]["param_groups"][0]
    assert (group["lr"], tuple(group["betas"])) == (1e-5, (0.0, 0.9))


def test_without_weight_there_is_no_adversary_and_without_momentum_no_average(data, tmp_path):
    workflow = run(data, tmp_path, adversarial_weight=0, ema_momentum=None, steps=1)
    assert workflow.parser.get_parsed_content("adversary") is None
    state = read(tmp_path)
    assert "adversary" not in state and state["ema"] == {}
    assert_same(dict(torch.load(tmp_path / "model.pt", weights_only=True)), dict(state["network"]))


def test_all_parts_of_the_loss_are_in_tensorboard(data, tmp_path):
    run(data, tmp_path, steps=50, val_interval=50, adversarial_start=49)
    logs = [EventAccumulator(str(path)).Reload() for path in tmp_path.glob("events.out.*")]
    found = {tag: log.Scalars(tag) for log in logs for tag in log.Tags()["scalars"]}
    assert {"train_loss", *PARTS} <= set(found) and [event.step for event in found["critic_loss"]] == [50]
    assert parts_of_loss([{"loss": 1.0, "critic_loss": 2.0}]) == {"critic_loss": 2.0}


def test_mistakes_of_the_overlay_end_in_a_sentence(data, tmp_path):
    for overrides, message in (
        ({"adversary_kind": "gan2"}, "error: adversary_kind: must be one of vanilla"),
        ({"perceptual": "vgg"}, "error: vgg_path: must be a file with the weights of vgg19, got None"),
        ({"ema_momentum": 2}, "error: ema_momentum: must be above 0 and below 1, got 2"),
        ({"adversary#patch_size": 48}, "error: critic: an image must have 33 to 48 x 33 to 48 pixels, got 16 x 16"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(data, tmp_path, **overrides)
    with pytest.raises(SystemExit, match="error: ckpt_path: must be weights of the first stage; pass --ckpt_path"):
        run(data, tmp_path, ckpt_path={"_target_": "common.weights.ask_for_weights", "of": "the first stage"})
