"""Training by the bundle's own config, on phantoms, with a tiny network: resume, best weights, refusals."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.data.layouts import datalist
from common.handlers import KeepBest, StopAtNaN
from common.io.whole import write_whole
from common.training import count_epochs, refuse_other_settings
from tests.helpers import ROOT, blobs, oblique, save_nifti

TRAIN = ROOT / "bundles" / "rdst" / "configs" / "train.json"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        (root / split).mkdir()
        values = (blobs((40, 36, 4), seed=len(split)) * 1000).astype(np.int16)
        save_nifti(root / split / f"{split}.nii.gz", values, oblique((1, 1, 3)))
    return root


def run(data: Path, output: Path, kill_at: int = 0, tracking: str | None = None, **overrides: object) -> ConfigWorkflow:
    settings = {
        "dataset_dir": str(data),
        "output_dir": str(output),
        "device": "$torch.device('cpu')",
        "network_def": {"_target_": "tests.helpers.Convolve", "scale": "@scale"},
        "scale": 2,
        "steps": 6,
        "val_interval": 2,
        "batch_size": 2,
        "patch_size": 16,
        "degradation#noise_std": 0.01,
        **overrides,
    }
    workflow = ConfigWorkflow(str(TRAIN), workflow_type="train", logging_file=False, tracking=tracking, **settings)
    if kill_at:
        workflow.parser["train#handlers"].append({"_target_": "tests.test_training.Killer", "step": kill_at})
    workflow.initialize()
    workflow.run()
    return workflow


def state(output: Path) -> dict:
    return torch.load(output / "last.pt", weights_only=True)


class Killer:
    """A handler that kills the run after so many steps, as a power cut would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def attach(self, engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine) -> None:
        if engine.state.iteration == self.step:
            raise KeyboardInterrupt


def assert_same(first: dict, second: dict) -> None:
    assert first["step"] == second["step"] and first["best"] == second["best"]
    assert first["optimizer"]["state"].keys() == second["optimizer"]["state"].keys()
    for key, value in first["network"].items():
        assert torch.equal(value, second["network"][key]), key


def test_a_killed_run_goes_on_with_the_same_next_step(data, tmp_path):
    run(data, tmp_path / "whole")
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        run(data, tmp_path / "killed", kill_at=5)
    assert state(tmp_path / "killed")["step"] == 4
    run(data, tmp_path / "killed")
    assert_same(state(tmp_path / "killed"), state(tmp_path / "whole"))
    whole, killed = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "killed"))
    assert all(torch.equal(value, killed[key]) for key, value in whole.items())


def test_other_steps_differ(data, tmp_path):
    """The comparison above can fail: another seed gives other weights."""
    run(data, tmp_path / "a")
    run(data, tmp_path / "b", seed=1)
    with pytest.raises(AssertionError):
        assert_same(state(tmp_path / "a"), state(tmp_path / "b"))


def test_a_run_in_pieces_of_minutes_ends_where_a_whole_one_does(data, tmp_path):
    run(data, tmp_path / "whole")
    for _ in range(6):  # a step each
        run(data, tmp_path / "pieces", minutes=1e-9)
    assert_same(state(tmp_path / "pieces"), state(tmp_path / "whole"))
    assert len(state(tmp_path / "pieces")["best"]["history"]) == 3


def test_loss_and_psnr_are_in_tensorboard(data, tmp_path):
    run(data, tmp_path, steps=50, val_interval=50)
    logs = [EventAccumulator(str(path)).Reload() for path in tmp_path.glob("events.out.*")]
    found = {tag: log.Scalars(tag) for log in logs for tag in log.Tags()["scalars"]}
    assert [event.step for event in found["train_loss"]] == [50] and 0 < found["train_loss"][0].value < 1
    assert len(found["val_psnr"]) == 1 and found["val_psnr"][0].value > 10


@pytest.mark.slow
def test_a_run_tracked_by_mlflow_goes_on_without_it(data, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow")
    run(data, tmp_path / "whole")
    run(data, tmp_path / "run", minutes=1e-9, tracking="mlflow")
    assert state(tmp_path / "run")["step"] == 1
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlruns.db'}")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert any(0 < run.data.metrics.get("train_loss", 0) < 1 for run in runs)
    run(data, tmp_path / "run", minutes=1e-9, tracking="mlflow")
    run(data, tmp_path / "run")
    assert_same(state(tmp_path / "run"), state(tmp_path / "whole"))


def test_weights_of_an_unknown_run_are_not_replaced(data, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"dear")
    with pytest.raises(SystemExit, match=r"model\.pt: would be replaced, and there is no last\.pt of its run"):
        run(data, tmp_path)
    assert (tmp_path / "model.pt").read_bytes() == b"dear"


def test_a_finished_run_is_left_alone(data, tmp_path):
    run(data, tmp_path)
    before = (tmp_path / "last.pt").read_bytes(), (tmp_path / "model.pt").read_bytes()
    run(data, tmp_path)
    assert before == ((tmp_path / "last.pt").read_bytes(), (tmp_path / "model.pt").read_bytes())
    with pytest.raises(SystemExit, match=r"last\.pt: a run is there already; choose another --output_dir"):
        run(data, tmp_path, resume=False)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"learning_rate": 0.1}, r"started with learning_rate = 0\.0002, now it is 0\.1"),
        ({"degradation#noise_std": 0.5}, r"started with degradation#noise_std = 0\.01, now it is 0\.5"),
        ({"scale": 4}, r"started with scale = 2, now it is 4"),
    ],
)
def test_a_run_of_another_config_is_refused_by_key(data, tmp_path, overrides, message):
    run(data, tmp_path, steps=2)
    with pytest.raises(SystemExit, match=message):
        run(data, tmp_path, **{"steps": 2, **overrides})


def test_a_damaged_state_is_named(data, tmp_path):
    run(data, tmp_path, steps=2)
    (tmp_path / "last.pt").write_bytes((tmp_path / "last.pt").read_bytes()[:-500])
    with pytest.raises(SystemExit, match=r"last\.pt: cannot be read .* remove it"):
        run(data, tmp_path, steps=2)


def test_nan_stops_with_the_batch_named_and_no_state_of_it(data, tmp_path):
    overrides = {"optimizer#lr": 1e30, "val_interval": 6}
    with pytest.raises(
        SystemExit, match=r"step \d: the loss must be finite, got (nan|inf) on .*train\.nii\.gz, plane \d"
    ):
        run(data, tmp_path, **overrides)
    assert not (tmp_path / "last.pt").exists() and not (tmp_path / "model.pt").exists()


def test_images_smaller_than_the_patch_are_named(data, tmp_path):
    with pytest.raises(
        SystemExit, match=r"train\.nii\.gz, plane 0: a plane of 40 x 36 is smaller than the patch of 64 x 64"
    ):
        run(data, tmp_path, patch_size=64)


def test_weights_of_another_scale_are_refused(data, tmp_path):
    run(data, tmp_path / "x2", steps=2)
    with pytest.raises(SystemExit, match=r"model\.pt: the weights do not fit the network"):
        run(data, tmp_path / "x4", steps=2, scale=4, ckpt_path=str(tmp_path / "x2" / "model.pt"))


def brats(root: Path) -> None:
    for n in range(3):
        folder = root / "HGG" / f"Brats17_{n}"
        folder.mkdir(parents=True)
        for m, kind in enumerate(("t1ce", "t1", "t2", "flair", "seg")):
            values = (blobs((30, 28, 3), seed=m) * 500).astype(np.int16)
            save_nifti(folder / f"{folder.name}_{kind}.nii.gz", values, np.diag([-1.0, -1, 1, 1]))


def oasis(root: Path) -> None:
    for n in range(3):
        session = root / "disc1" / f"OAS1_{n:04d}_MR1"
        for folder, end in (("PROCESSED/MPRAGE/T88_111", "masked_gfc"), ("FSL_SEG", "masked_gfc_fseg")):
            (session / folder).mkdir(parents=True)
            header = nib.AnalyzeHeader(endianness=">")
            header.set_data_dtype(np.int16)
            values = (blobs((30, 28, 3), seed=n) * 500).astype(np.int16)[..., None]
            image = nib.AnalyzeImage(values, np.diag([-1.0, 1, 1, 1]), header)
            image.to_filename(session / folder / f"{session.name}_mpr_n4_anon_111_t88_{end}.img")


@pytest.mark.parametrize(("layout", "make", "channels"), [("brats", brats, 4), ("oasis", oasis, 1)])
def test_a_public_layout_is_trained_on_by_its_datalist(tmp_path, layout, make, channels):
    make(tmp_path / "data")
    lists = str(tmp_path / "list.json")
    datalist(layout, str(tmp_path / "data"), lists, train=2, val=1, test=1)
    network = {"_target_": "tests.helpers.Convolve", "scale": "@scale", "channels": "@in_channels"}
    settings = {"datalist": lists, "crop": [24, 20], "in_channels": channels, "network_def": network, "steps": 2}
    workflow = run(tmp_path / "data", tmp_path / "run", **settings)
    assert workflow.parser.get_parsed_content("train#planes")[0]["label"].shape == (channels, 24, 20)
    assert (tmp_path / "run" / "model.pt").exists()


def test_the_step_of_a_nan_is_found_between_two_looks():
    class Names:
        def describe(self, step: int) -> str:
            return f"planes of {step}"

    class Engine:
        class state:
            iteration, epoch_length = 0, 100
            output: dict = {}  # noqa: RUF012

    guard, engine = StopAtNaN(Names(), interval=4), Engine()
    with pytest.raises(ValueError, match="step 7: the loss must be finite, got nan on planes of 6"):
        for step in range(1, 9):
            engine.state.iteration = step
            engine.state.output = {"loss": torch.tensor(float("nan") if step >= 7 else 0.1)}
            guard(engine)
    assert step == 8


def test_steps_fill_whole_intervals():
    assert count_epochs(100, 20) == 5
    with pytest.raises(ValueError, match="steps: must be a multiple of val_interval, got 100 and 30"):
        count_epochs(100, 30)


def test_the_best_weights_are_kept_and_convergence_is_told(tmp_path):
    network = torch.nn.Linear(1, 1)
    keep = KeepBest(tmp_path, network, "psnr")

    class Engine:
        class state:
            epoch = 0
            metrics: dict = {}  # noqa: RUF012

    def validate(*values: float) -> None:
        for value in values:
            Engine.state.epoch += 1
            Engine.state.metrics = {"psnr": value}
            torch.nn.init.constant_(network.weight, value)
            keep(Engine)

    validate(20, 25, 24)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["weight"].item() == 25 and keep.note() == ""
    validate(25.1, 25.3, 25.2)
    assert "+5.300 over the last 5: not converged" in keep.note()
    validate(25.31, 25.3, 25.3, 25.3, 25.3)
    assert "+0.010 over the last 5: converged" in keep.note()
    restored = KeepBest(tmp_path, network, "psnr")
    restored.load_state_dict(keep.state_dict())
    assert restored.best == keep.best and restored.history == keep.history


def test_nested_settings_are_compared():
    refuse_other_settings({"a": {"b": [1, 2]}}, {"a": {"b": [1, 2]}}, "last.pt")
    with pytest.raises(ValueError, match=r"last\.pt: the run was started with a#c = None, now it is 3"):
        refuse_other_settings({"a": {"b": 1}}, {"a": {"b": 1, "c": 3}}, "last.pt")


def test_a_state_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_whole(tmp_path / "last.pt", lambda path: torch.save({"a": 1}, path))

    def fail(content, path):
        Path(path).write_bytes(b"half")
        raise RuntimeError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=r"last\.pt: cannot be written \(no space left on device\); make room"):
        write_whole(tmp_path / "last.pt", lambda path: torch.save({"a": 2}, path))
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    assert torch.load(tmp_path / "last.pt", weights_only=True) == {"a": 1}
