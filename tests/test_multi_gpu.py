"""Two processes by torchrun, on CPU: the weights of one process with the whole batch, resume, a stop of both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.blocks.autoencoder import PerceptualEncoder
from common.blocks.unet import SegmentationUNet
from common.blocks.vgg import VGG
from common.losses.finetuning import CHOICES
from tests.helpers import ROOT, blobs, oblique, save_nifti

pytestmark = pytest.mark.slow
SETTINGS = {"steps": 4, "val_interval": 2, "patch_size": 16, "scale": 2, "val_every": 1}
TORCHRUN = ["torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2", "-m"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for split, planes in (("train", 4), ("val", 5)):  # 5 planes are no two equal shares
        (root / split).mkdir()
        values = (blobs((40, 36, planes), seed=len(split)) * 1000).astype(np.int16)
        save_nifti(root / split / f"{split}.nii.gz", values, oblique((1, 1, 3)))
    return root


def train(data: Path, output: Path, processes: int, extra: tuple[str, ...] = (), **overrides: object) -> str:
    """Train the smallest RDST with 4 patches a step, by so many processes; what they printed."""
    options = {"dataset_dir": data, "output_dir": output, "batch_size": 4 // processes, **SETTINGS, **overrides}
    return start("rdst", processes, (*extra, "smoke"), options)


def start(bundle: str, processes: int, overlays: tuple[str, ...], options: dict[str, object]) -> str:
    names = ["train", *overlays, *(["multi_gpu_train"] if processes == 2 else [])]
    files = [f"bundles/{bundle}/configs/{name}.json" for name in names]
    words = [str(word) for option, value in options.items() for word in (f"--{option}", value)]
    command = [sys.executable, "-m", *(TORCHRUN if processes == 2 else []), "monai.bundle", "run"]
    done = subprocess.run(
        [*command, "--config_file", str(files), *words],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read(output: Path, name: str) -> dict:
    return torch.load(output / name, weights_only=True)


def distance(first: Path, second: Path) -> float:
    """Largest difference of the last weights of two runs, which took the same steps."""
    a, b = (read(output, "last.pt") for output in (first, second))
    assert a["step"] == b["step"] and a["network"].keys() == b["network"].keys()
    return max(float((value - b["network"][key]).abs().max()) for key, value in a["network"].items())


@pytest.fixture(scope="module")
def two(data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("two")
    train(data, output, processes=2)
    return output


def test_two_processes_end_where_one_with_the_whole_batch_does(data, two, tmp_path):
    train(data, tmp_path / "one", processes=1)
    train(data, tmp_path / "other", processes=1, seed=1)
    assert distance(two, tmp_path / "one") <= 1e-5
    assert distance(two, tmp_path / "other") > 1e-2  # the comparison can fail
    best = read(two, "model.pt")
    assert not any(key.startswith("module.") for key in (*best, *read(two, "last.pt")["network"]))
    for key, value in read(tmp_path / "one", "model.pt").items():
        torch.testing.assert_close(best[key], value, atol=1e-5, rtol=0)
    histories = [read(output, "last.pt")["best"]["history"] for output in (two, tmp_path / "one")]
    assert [epoch for epoch, _ in histories[0]] == [epoch for epoch, _ in histories[1]] == [1, 2]
    for (_, shared), (_, alone) in zip(*histories, strict=True):
        assert abs(shared - alone) <= 1e-3


def test_two_processes_go_on_where_they_were_stopped(data, two, tmp_path):
    train(data, tmp_path, processes=2, minutes=1e-9)
    assert read(tmp_path, "last.pt")["step"] == 1
    train(data, tmp_path, processes=2)
    assert distance(two, tmp_path) <= 1e-7
    shared, pieces = (read(output, "last.pt")["best"]["history"] for output in (two, tmp_path))
    assert [value for _, value in pieces] == pytest.approx([value for _, value in shared], abs=1e-5)


def test_a_process_whose_time_is_up_stops_the_other_one_too(data, tmp_path):
    train(data, tmp_path, processes=2, minutes="$1e-9 if @rank == 1 else 1000.0")
    assert read(tmp_path, "last.pt")["step"] == 1


def any_scale(data: Path, output: Path, processes: int, **overrides: object) -> None:
    """Train the tiny network of any scale by the config of MIASSR, with 4 patches a step."""
    network = "{'_target_': 'tests.test_scales.AnyScale', 'in_channels': '@in_channels'}"
    options = {"dataset_dir": data, "output_dir": output, "batch_size": 4 // processes, "network_def": network}
    options |= {"steps": 4, "val_interval": 2, "val_every": 1}
    start("miassr", processes, (), {**options, "patch_size": 16, "per_axis": 0.5, "learning_rate": 0.01, **overrides})


def test_two_processes_share_scales_and_the_step_to_discard_and_end_where_one_does(data, tmp_path):
    exploding = {"loss": "{'_target_': 'tests.test_scales.Explosion', 'at': 2}"}  # of two, in the second one alone
    any_scale(data, tmp_path / "two", 2, **exploding)
    any_scale(data, tmp_path / "one", 1, **exploding)
    any_scale(data, tmp_path / "tame", 1)
    last = [read(tmp_path / name, "last.pt") for name in ("two", "one", "tame")]
    assert [state["discard"] for state in last] == [{"steps": [2]}, {"steps": [2]}, {"steps": []}]
    assert distance(tmp_path / "two", tmp_path / "one") <= 1e-5
    assert distance(tmp_path / "two", tmp_path / "tame") > 1e-3  # the comparison can fail
    histories = [[value for _, value in state["best"]["history"]] for state in last]
    assert histories[0] == pytest.approx(histories[1], abs=1e-3)


def launch(*words: object) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *TORCHRUN, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


def frozen_networks(folder: Path) -> dict[str, str]:
    """A U-Net, VGG-19 under torchvision's keys, and the autoencoder, with random weights."""
    torch.manual_seed(0)
    unet, vgg = SegmentationUNet(1, 3, width=4), VGG("vgg19")
    unet(torch.rand(2, 1, 64, 64))
    numbered = torch.nn.ModuleDict({"features": torch.nn.Sequential(*vgg.layers)})
    for name, network in {"unet": unet, "vgg": numbered, "encoder": PerceptualEncoder()}.items():
        torch.save(network.state_dict(), folder / f"{name}.pt")
    return {f"{name}_path": str(folder / f"{name}.pt") for name in ("unet", "vgg", "encoder")}


def test_two_processes_fine_tune_by_every_choice_under_bfloat16(data, two, tmp_path):
    configs = [f"bundles/rdst/configs/{name}.json" for name in ("train", "finetune", "multi_gpu_train", "smoke")]
    settings = frozen_networks(tmp_path) | {**SETTINGS, "steps": 1, "val_interval": 1, "batch_size": 2}
    settings |= {"amp_dtype": "bfloat16", "dataset_dir": str(data), "ckpt_path": str(two / "model.pt")}
    launch("tests.finetune_all", json.dumps(configs), json.dumps(settings), tmp_path, *CHOICES)
    before = read(two, "model.pt")
    for choice in CHOICES:
        after = read(tmp_path / choice, "last.pt")
        assert after["step"] == 1 and any(not torch.equal(before[k], v) for k, v in after["network"].items()), choice


def test_two_processes_fine_tune_to_the_weights_of_one(data, two, tmp_path):
    more = frozen_networks(tmp_path) | {"perceptual": "E_sum", "ckpt_path": two / "model.pt"}
    train(data, tmp_path / "two", 2, ("finetune",), **more)
    train(data, tmp_path / "one", 1, ("finetune",), **more)
    assert distance(tmp_path / "two", two) > 0  # it has learned
    assert distance(tmp_path / "two", tmp_path / "one") <= 1e-5


def apart(first: Path, second: Path, *path: str) -> float:
    """Mean difference of the tensors of a part of two last states."""
    a, b = (read(output, "last.pt") for output in (first, second))
    for name in path:
        a, b = a[name], b[name]
    total = sum(float((a[key] - b[key]).abs().sum()) for key in a)
    return total / sum(value.numel() for value in a.values())


@pytest.mark.parametrize("kind", ["wgan_gp", "relativistic"])
def test_two_processes_train_generator_critic_and_average_to_the_weights_of_one(kind, data, two, tmp_path):
    more = {"adversary_kind": kind, "adversarial_weight": 1.0, "perceptual": "l1", "critic_learning_rate": 1e-3}
    more |= {"ema_momentum": 0.3, "ckpt_path": two / "model.pt"}
    train(data, tmp_path / "two", 2, ("adversarial",), **more)
    train(data, tmp_path / "one", 1, ("adversarial",), **more)
    train(data, tmp_path / "other", 1, ("adversarial",), **more, seed=1)
    for path in (["network"], ["ema"], ["adversary", "critic"]):
        other = apart(tmp_path / "other", tmp_path / "one", *path)
        assert other > 0 and apart(tmp_path / "two", tmp_path / "one", *path) < 0.05 * other, path
    best, last = read(tmp_path / "two", "model.pt"), read(tmp_path / "two", "last.pt")
    assert all(torch.equal(value, last["ema"][key]) for key, value in best.items())
    history = last["best"]["history"], read(tmp_path / "one", "last.pt")["best"]["history"]
    assert [score for _, score in history[0]] == pytest.approx([score for _, score in history[1]], abs=0.1)  # dB


def labelled(folder: Path, volumes: int) -> Path:
    """A datalist of so many volumes for validation, and one for training."""
    items = {"training": [], "validation": []}
    for number in range(volumes + 1):
        values = (blobs((40, 36, 4), seed=number) * 1000).astype(np.int16)
        save_nifti(folder / f"{number}.nii.gz", values, oblique((1, 1, 3)))
        save_nifti(folder / f"{number}_label.nii.gz", (values > 500).astype(np.uint8), oblique((1, 1, 3)))
        item = {"patient": f"p{number}", "image": f"{number}.nii.gz", "label": f"{number}_label.nii.gz"}
        items["validation" if number else "training"].append(item)
    (folder / "list.json").write_text(json.dumps({"classes": ["bright"], **items}))
    return folder / "list.json"


def unet(folder: Path, volumes: int) -> None:
    configs = [f"bundles/segmentation_unet/configs/{name}.json" for name in ("train", "multi_gpu_train", "smoke")]
    settings = {"dataset_dir": folder, "datalist": labelled(folder, volumes), "output_dir": folder / "run"}
    settings |= {"steps": 2, "val_interval": 1, "batch_size": 2, "patch_size": 32}
    launch("monai.bundle", "run", "--config_file", configs, *(w for k, v in settings.items() for w in (f"--{k}", v)))


def test_two_processes_train_the_unet_and_share_its_validation(tmp_path):
    unet(tmp_path, volumes=3)
    last = read(tmp_path / "run", "last.pt")
    assert last["step"] == 2 and [epoch for epoch, _ in last["best"]["history"]] == [1, 2]


def test_more_processes_than_validation_volumes_are_refused_by_a_sentence(tmp_path):
    with pytest.raises(AssertionError, match="validation: must have an entry for each of 2 processes, got 1"):
        unet(tmp_path, volumes=1)
