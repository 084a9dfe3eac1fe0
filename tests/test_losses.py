"""The segmentation-based perceptual loss: its values, where gradients go, and every variant in a training step."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.bundle import ConfigWorkflow

from common.blocks.autoencoder import PerceptualEncoder
from common.blocks.unet import SegmentationUNet
from common.blocks.vgg import VGG
from common.losses.finetuning import CHOICES, CombinedLoss, finetuning_loss
from common.losses.segmentation import LEVELS, TERMS, segmentation_loss
from tests.helpers import INFERENCE, blobs, oblique, save_nifti

each_term = pytest.mark.parametrize("term", TERMS)


def make_unet(channels=1, seed=0) -> SegmentationUNet:
    torch.manual_seed(seed)
    unet = SegmentationUNet(channels, 3, width=8, blocks=(1, 1, 1, 1))
    for _ in range(3):
        unet(torch.rand(4, channels, 64, 64))
    return unet


@pytest.fixture(scope="module")
def unet() -> SegmentationUNet:
    return make_unet()


def image(size=64, channels=1) -> torch.Tensor:
    planes = [blobs((size, size, 1), seed)[..., 0] for seed in range(2 * channels)]
    return torch.tensor(np.stack(planes)).float().view(2, channels, size, size)


@each_term
def test_it_is_zero_where_sr_is_hr_and_grows_with_a_shift(unet, term):
    loss, hr = segmentation_loss(unet, term), image()
    values = [float(loss(hr.roll(shift, dims=3), hr)) for shift in (0, 1, 3)]
    assert values[0] == pytest.approx(0, abs=1e-6) and values[0] < values[1] < values[2]


@each_term
@pytest.mark.parametrize("channels", [1, 4])
def test_gradients_reach_the_image_and_not_the_unet(term, channels):
    unet = make_unet(channels)
    loss, hr = segmentation_loss(unet, term).train(), image(channels=channels)
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    sr = (hr + 0.1 * torch.randn_like(hr)).requires_grad_()
    loss(sr, hr).backward()
    assert sr.grad is not None and float(sr.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in unet.parameters())
    assert all(torch.equal(value, before[key]) for key, value in unet.state_dict().items())  # running statistics too


def test_each_term_is_what_its_equation_says(unet):
    hr = image()
    sr = (hr + 0.1 * torch.rand_like(hr)).clamp(0, 1)
    with torch.no_grad():
        a, b = unet.features(sr, [*LEVELS, "D", "logits"]), unet.features(hr, [*LEVELS, "D", "logits"])
        distance = {name: float((a[name] - b[name]).abs().mean()) for name in a}
        values = {term: float(segmentation_loss(unet, term)(sr, hr)) for term in TERMS}
    for name in (*LEVELS, "D"):
        assert values[name] == pytest.approx(distance[name], rel=1e-5)
    assert values["E_sum"] == pytest.approx(sum(distance[name] for name in LEVELS), rel=1e-5)
    p, q = (x["logits"].softmax(1)[:, 1:].movedim(1, 0).flatten(1) for x in (a, b))
    dice = 2 * (p * q).sum(1) / ((p**2).sum(1) + (q**2).sum(1))
    assert values["HRL"] == pytest.approx(1 - float(dice.mean()), abs=1e-4)


def test_autocast_does_not_coarsen_it(unet):
    hr = image()
    for term in ("E1", "HRL"):
        loss, sr = segmentation_loss(unet, term), hr.roll(1, dims=2)
        expected = loss(sr, hr)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(loss(sr, hr), expected)


def test_the_factors_are_those_of_equation_514(unet):
    hr = image()
    sr = hr.roll(1, dims=2)
    perceptual = segmentation_loss(unet, "E1")
    expected = 0.5 * F.l1_loss(sr, hr) + 4 * perceptual(sr, hr)
    torch.testing.assert_close(CombinedLoss(perceptual, 0.5, 4)(sr, hr), expected)
    torch.testing.assert_close(finetuning_loss("l1")(sr, hr), F.l1_loss(sr, hr))
    for factors in ((-1, 1), (1, -1), (0, 0)):
        with pytest.raises(ValueError, match="alpha and weight: must be at least 0"):
            CombinedLoss(perceptual, *factors)


def test_unknown_choices_and_missing_networks_are_refused(unet, tmp_path):
    with pytest.raises(ValueError, match=r"perceptual: must be one of E1, .*, vgg, encoder, l1, got E6"):
        finetuning_loss("E6")
    with pytest.raises(ValueError, match="term: must be one of E1"):
        segmentation_loss(unet, "l1")
    with pytest.raises(ValueError, match="unet_path: must be the file of a trained segmentation U-Net, got None"):
        finetuning_loss("HRL")
    with pytest.raises(ValueError, match="vgg_path"):
        finetuning_loss("vgg")
    torch.save(unet.state_dict(), tmp_path / "unet.pt")
    with pytest.raises(ValueError, match=r"unet\.pt: the U-Net must have in_channels 4, got 1"):
        finetuning_loss("E1", in_channels=4, unet_path=tmp_path / "unet.pt")


@pytest.fixture(scope="module")
def data(tmp_path_factory, unet):
    """Phantoms to train on, stage-1 weights of the smallest RDST, and a U-Net that knows other images."""
    folder = tmp_path_factory.mktemp("finetune")
    for split in ("train", "val"):
        (folder / split).mkdir()
        save_nifti(folder / split / f"{split}.nii.gz", (blobs((48, 40, 3)) * 1000).astype(np.int16), oblique((1, 1, 3)))
    numbered = torch.nn.ModuleDict({"features": torch.nn.Sequential(*VGG("vgg19").layers)})  # torchvision's keys
    for name, network in {"unet": unet, "vgg": numbered, "encoder": PerceptualEncoder()}.items():
        torch.save(network.state_dict(), folder / f"{name}.pt")
    run(folder, folder / "stage1", "train", "smoke")
    return folder


def run(folder, out, *configs, **overrides):
    files = [str(INFERENCE.with_name(f"{name}.json")) for name in configs]
    options = {"dataset_dir": str(folder), "output_dir": str(out), "device": "$torch.device('cpu')", "batch_size": 2}
    options |= {"steps": 1, "val_interval": 1, "patch_size": 32, **overrides}
    workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **options)
    workflow.initialize()
    workflow.run()
    return workflow


@pytest.mark.parametrize("choice", CHOICES)
def test_every_variant_trains_a_step_from_stage_one_under_bfloat16(choice, data, tmp_path):
    more = {"perceptual": choice, "ckpt_path": str(data / "stage1" / "model.pt")}
    more |= {f"{name}_path": str(data / f"{name}.pt") for name in ("unet", "vgg", "encoder")}
    workflow = run(data, tmp_path / "run", "train", "finetune", "smoke", amp_dtype="bfloat16", **more)
    first, last = (torch.load(f / "last.pt", weights_only=True) for f in (data / "stage1", tmp_path / "run"))
    assert last["step"] == 1 and json.loads(last["settings"])["perceptual"] == choice
    moved = [not torch.equal(first["network"][key], value) for key, value in last["network"].items()]
    assert any(moved)
    rate = workflow.parser.get_parsed_content("optimizer").param_groups[0]["lr"]
    assert rate <= 1e-4


def test_the_learning_rate_halves_where_the_paper_says(data):
    parser = ConfigWorkflow(
        [str(INFERENCE.with_name(f"{name}.json")) for name in ("train", "finetune", "smoke")],
        workflow_type="train",
        logging_file=False,
        dataset_dir=str(data),
        perceptual="l1",
    )
    parser.initialize()
    scheduler = parser.parser.get_parsed_content("lr_scheduler")
    assert sorted(scheduler.milestones) == [10_000, 15_000, 17_500] and scheduler.gamma == 0.5


def test_a_second_stage_asks_for_weights_of_the_first(data, tmp_path):
    with pytest.raises(SystemExit, match=r"error: ckpt_path: must be weights of the first stage; pass"):
        run(data, tmp_path, "train", "finetune", "smoke", perceptual="l1")


def test_weights_of_the_last_validation_are_kept_whatever_their_psnr(data, tmp_path):
    options = {"perceptual": "HRL", "unet_path": str(data / "unet.pt"), "ckpt_path": str(data / "stage1" / "model.pt")}
    run(data, tmp_path, "train", "finetune", "smoke", **options, steps=3, learning_rate=0.5, weight=1000.0)
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    scores = [value for _, value in last["best"]["history"]]
    assert len(scores) == 3 and scores.index(max(scores)) < 2  # the best one is not the last
    kept = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(torch.equal(kept[key], value) for key, value in last["network"].items())


def test_a_finetuning_without_its_unet_ends_in_a_sentence(data, tmp_path):
    with pytest.raises(SystemExit, match="error: unet_path: must be the file of a trained segmentation U-Net"):
        run(data, tmp_path, "train", "finetune", "smoke", ckpt_path=str(data / "stage1" / "model.pt"))
