"""MS-GAN, its variants and SRGAN through their configs: what a step trains, resume, lesion focus, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from bundles.msgan.network import MSGAN
from bundles.srresnet.network import SRResNet
from common.blocks.detector import LesionDetector
from common.blocks.discriminators import Critic, DualConvCritic
from common.blocks.unet import SegmentationUNet
from common.blocks.vgg import VGG
from tests.helpers import ROOT, blobs, oblique, save_nifti
from tests.test_engines import assert_same

BUNDLES = ROOT / "bundles"
SPLITS = ("training", "validation", "test")
GAN = ("train", "adversarial", "train_gan")
VARIANTS = sorted(path.stem for path in (BUNDLES / "msgan" / "configs").glob("variant_*.json"))
SMALL = {"steps": 2, "val_interval": 1, "batch_size": 2, "patch_size": 32, "device": "$torch.device('cpu')"}
FOCUSED = {**SMALL, "region_size": [24, 16], "steps": 1, "min_foreground": 0.0}
del FOCUSED["patch_size"]
PATTERNS = {"train_images": ["training.nii.gz"], "val_images": ["validation.nii.gz"]}


def save_case(folder: Path, name: str, seed: int, lesion: tuple[int, ...] = (1, 2)) -> dict[str, str]:
    """An image of 6 planes, the first of which has no lesion, and an item of a datalist."""
    values = (blobs((48, 40, 6), seed) * 1000).astype(np.int16) + 100
    labels = np.zeros(values.shape, np.uint8)
    for number in lesion:
        labels[8 : 14 + number, 20 + number, 1:] = number
    save_nifti(folder / f"{name}.nii.gz", values, oblique((1, 1, 3)))
    save_nifti(folder / f"{name}_labels.nii.gz", labels, oblique((1, 1, 3)))
    return {"patient": name, "image": f"{name}.nii.gz", "label": f"{name}_labels.nii.gz"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    items = {split: [save_case(root, split, seed)] for seed, split in enumerate(SPLITS)}
    write_datalist(root, **items)
    torch.manual_seed(0)
    torch.save(SegmentationUNet(1, 2, width=4).state_dict(), root / "unet.pt")
    detector = LesionDetector(1, (32, 32), (4, 4), (4,))
    torch.nn.init.zeros_(detector.tail[-1].weight)
    torch.nn.init.zeros_(detector.tail[-1].bias)  # it says the middle of every image
    torch.save(detector.state_dict(), root / "detector.pt")
    return root


def write_datalist(root: Path, name: str = "datalist", **items: list[dict[str, str]]) -> Path:
    path = root / f"{name}.json"
    path.write_text(json.dumps({"classes": ["core", "rim"], **items}))
    return path


def run(data: Path, out: Path, bundle: str, *configs: str, **overrides: object) -> ConfigWorkflow:
    """Run configs of a bundle on its smallest network and a small critic, in this process."""
    files = [str(BUNDLES / bundle / "configs" / f"{name}.json") for name in (*configs, "smoke")]
    settings = {"dataset_dir": str(data), "output_dir": str(out)}
    settings |= {"critic_width": 4} if bundle == "msgan" and "train_gan" in configs else {}
    kind = "train" if configs[0] == "train" else "infer"
    settings |= {"datalist": str(data / "datalist.json")} if kind == "train" else {}
    workflow = ConfigWorkflow(files, workflow_type=kind, logging_file=False, **{**settings, **overrides})
    workflow.initialize()
    workflow.run()
    return workflow


def state(folder: Path) -> dict:
    content = torch.load(folder / "last.pt", weights_only=True)
    return {key: value for key, value in content.items() if key != "seconds"}


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pretrained")
    run(data, out, "msgan", "train", **SMALL, generator="ms_srresnet", alpha=0)
    return out / "model.pt"


TABLE = {  # variant: generator, kind of adversary, weight of the x2 term, whether it is pre-trained
    "variant_gan_pretrain": ("ms_srresnet", "vanilla", 0.0, True),
    "variant_wgan_pretrain": ("ms_srresnet", "wgan", 0.0, True),
    "variant_wgan": ("ms_srresnet", "wgan", 0.0, False),
    "variant_wgan_gp": ("ms_srresnet", "wgan_gp", 0.0, False),
    "variant_wgan_gp_x2": ("ms_srresnet", "wgan_gp", 0.5, False),
    "": ("msgan", "wgan_gp", 0.5, False),
}


@pytest.mark.parametrize("variant", TABLE)
def test_each_variant_of_table_3_4_trains_a_step_and_its_weights_serve_inference(variant, data, pretrained, tmp_path):
    generator, kind, alpha, warm = TABLE[variant]
    layers = [*GAN, variant] if variant else GAN
    settings = {**SMALL, "steps": 1, "perceptual": "E1", "unet_path": str(data / "unet.pt"), "amp_dtype": "bfloat16"}
    settings |= {"ckpt_path": str(pretrained)} if warm else {}
    workflow = run(data, tmp_path / "run", "msgan", *layers, **settings)
    parser = workflow.parser
    assert (parser["generator"], parser["adversary_kind"], parser["alpha"]) == (generator, kind, alpha)
    assert parser.get_parsed_content("loss").pixel.weights == {"x2": alpha, "x4": 1.0}
    critic = parser.get_parsed_content("adversary").critic
    assert isinstance(critic, DualConvCritic) and critic.cells == (2, 2)
    content = state(tmp_path / "run")
    assert content["step"] == 1 and content["adversary"]["optimizer"]["state"][0]["step"] == 1
    weights = tmp_path / "run" / "model.pt"
    run(data / "test.nii.gz", tmp_path / "out", "msgan", "inference", ckpt_path=str(weights), generator=generator)
    assert (tmp_path / "out" / "test_srx4.nii.gz").exists()


@pytest.mark.parametrize("bundle", ["msgan", "srresnet"])
def test_the_perceptual_loss_is_of_the_deepest_layer_of_vgg_19_after_its_activation(bundle):
    layer = json.loads((BUNDLES / bundle / "configs" / "train_gan.json").read_text())["vgg_layer"]
    with torch.device("meta"):
        vgg = VGG("vgg19")
    names = list(vgg.layer_names())
    assert layer == "relu5_4" and names[names.index(layer) - 1] == "conv5_4" and names[-2:] == [layer, "pool5"]


def test_without_the_x2_term_the_x4_image_is_that_of_srresnet():
    torch.manual_seed(0)
    ours, theirs = MSGAN(blocks=1, width=8, generator="ms_srresnet").eval(), SRResNet(blocks=1, width=8).eval()
    state = ours.state_dict()
    names = {
        "upsampler.0.": "stages.0.upsampler.0.",
        "upsampler.1.": "stages.1.upsampler.0.",
        "trunk.": "stages.0.trunk.",
    }
    names["upsampler.2."] = "stages.1.upsampler.1."
    moved = {
        key: state[new + key.removeprefix(old)]
        for key in theirs.state_dict()
        for old, new in names.items()
        if key.startswith(old)
    }
    theirs.load_state_dict(moved)
    image = torch.rand(1, 1, 9, 7)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image))
    assert len(state) - len(moved) == 2  # weight and bias of the convolution to the x2 image


def test_the_variants_are_those_of_the_table():
    assert sorted(filter(None, TABLE)) == VARIANTS


def test_a_variant_with_pre_training_asks_for_its_weights(data, tmp_path):
    with pytest.raises(SystemExit, match="error: ckpt_path: must be weights of the pre-training, train"):
        run(data, tmp_path, "msgan", *GAN, "variant_gan_pretrain", **SMALL, perceptual="l1")


def test_a_run_of_ms_gan_goes_on_with_the_same_next_step(data, tmp_path):
    run(data, tmp_path / "whole", "msgan", *GAN, **SMALL, perceptual="l1")
    for _ in range(2):
        run(data, tmp_path / "pieces", "msgan", *GAN, **SMALL, perceptual="l1", minutes=1e-9)
    whole = state(tmp_path / "whole")
    assert_same(whole, state(tmp_path / "pieces"))
    for optimizer in (whole["optimizer"], whole["adversary"]["optimizer"]):
        group = optimizer["param_groups"][0]
        assert tuple(group["betas"]) == (0.9, 0.999)
        assert group["lr"] == pytest.approx(1e-5) and group["initial_lr"] == 1e-4  # past the middle
    run(data, tmp_path / "other", "msgan", *GAN, **SMALL, perceptual="l1", seed=1)
    with pytest.raises(AssertionError):  # the comparison can fail
        assert_same(whole, state(tmp_path / "other"))


def test_the_perceptual_part_sees_the_last_image_and_the_pixel_part_both(data, tmp_path):
    settings = {**SMALL, "steps": 1, "perceptual": "E1", "unet_path": str(data / "unet.pt"), "perceptual_weight": 2.0}
    loss = run(data, tmp_path, "msgan", *GAN, **settings).parser.get_parsed_content("loss")
    target = torch.rand(1, 1, 32, 32)
    images = {"x2": torch.rand(1, 1, 16, 16), "x4": torch.rand(1, 1, 32, 32)}
    expected = loss.pixel(images, target) + 2.0 * loss.perceptual(images["x4"], target)
    torch.testing.assert_close(loss(images, target), expected)
    assert loss.pixel(images, target) > loss.pixel(images["x4"], target)


def test_a_critic_for_other_patches_than_the_generators_is_refused_and_both_are_named(data, tmp_path):
    text = "error: critic: an image must have 49 to 64 x 49 to 64 pixels, got 32 x 32; give the critic the generator's"
    with pytest.raises(SystemExit, match=text):
        run(data, tmp_path, "msgan", *GAN, **SMALL, perceptual="l1", **{"adversary#patch_size": 64})
    settings = {**FOCUSED, "patch_size": 64, "perceptual": "l1"}
    with pytest.raises(SystemExit, match="error: critic: an image must have 49 to 64 x 49 to 64 pixels, got 24 x 16"):
        run(data, tmp_path, "msgan", *GAN, "lesion_focus", **settings)


def test_srgan_warms_up_for_a_sixth_of_its_steps_by_l2(data, tmp_path):
    settings = {**SMALL, "steps": 6, "val_interval": 3, "perceptual": "l1"}
    workflow = run(data, tmp_path, "srresnet", *GAN, **settings)
    adversary = workflow.parser.get_parsed_content("adversary")
    assert adversary.start == 1 and type(adversary.critic) is Critic
    assert any(isinstance(layer, torch.nn.BatchNorm2d) for layer in adversary.critic.modules())
    content = state(tmp_path)
    assert content["adversary"]["optimizer"]["state"][0]["step"] == 5
    for optimizer in (content["optimizer"], content["adversary"]["optimizer"]):  # past the middle, the third step
        assert optimizer["param_groups"][0]["lr"] == pytest.approx(1e-5)
    assert content["adversary"]["lr_scheduler"]["milestones"] == {2: 1}  # of the steps in which the critic learns


@pytest.mark.parametrize("bundle", ["msgan", "srresnet"])
@pytest.mark.parametrize("mode", ["labels", "detector", "off"])
def test_lesion_focus_trains_and_validates_on_regions(bundle, mode, data, tmp_path):
    settings = {**FOCUSED, "lesion_focus": mode, "perceptual": "l1", "lesion": ["core"]}
    settings |= {"detector_path": str(data / "detector.pt")} if mode == "detector" else {}
    workflow = run(data, tmp_path, bundle, *GAN, "lesion_focus", **settings)
    batches = workflow.parser.get_parsed_content("train#dataloader")
    validated = [plane["label"].shape for plane in workflow.parser.get_parsed_content("validate#dataset")]
    assert batches.batch(0)["label"].shape == (2, 1, 24, 16) and workflow.parser.get_parsed_content("adversary")
    if mode == "off":
        assert batches.corners == [None] * 6 and validated == [(1, 48, 40)] * 6
    else:
        assert len(batches.corners) == 5 and validated == [(1, 24, 16)] * 5
    if mode == "labels":  # rows 8 to 14, column 21
        assert set(batches.corners) == {(0, 12)}


def test_without_a_critic_too_and_without_labels_where_a_detector_says_it(data, tmp_path):
    settings = {**FOCUSED, "lesion_focus": "detector", "detector_path": str(data / "detector.pt"), "scheme": None}
    settings["min_foreground"] = 0.1  # planes are then cut to their foreground
    workflow = run(data, tmp_path, "srresnet", "train", "lesion_focus", **settings)
    assert len(workflow.parser.get_parsed_content("train#dataloader").corners) == 6
    validated = workflow.parser.get_parsed_content("validate#dataset")
    assert len(validated) == 4 and {plane["label"].shape for plane in validated} == {(1, 24, 16)}


def test_a_training_without_lesion_focus_has_random_patches(data, tmp_path):
    workflow = run(data, tmp_path, "msgan", "train", **{**SMALL, "steps": 1})
    assert not hasattr(workflow.parser.get_parsed_content("train#dataloader"), "corners")


def test_what_lesion_focus_cannot_do_ends_in_a_sentence(data, tmp_path):
    items = {split: [save_case(tmp_path, f"{split}_empty", 0, lesion=(2,))] for split in SPLITS}
    both = save_case(tmp_path, "other", 1)  # else a class would be missing
    partly = {split: [*items[split], {**both, "patient": split}] for split in SPLITS}
    partly = write_datalist(tmp_path, "partly", **partly)
    bare = {split: [{k: v for k, v in items[split][0].items() if k != "label"}] for split in SPLITS}
    unlabelled = write_datalist(tmp_path, "unlabelled", **bare)
    here = {"dataset_dir": str(tmp_path)}
    mistakes = (
        (
            {"datalist": None, **PATTERNS},
            "error: datalist: labels are asked for, which only a datalist names; pass --d",
        ),
        (
            {**here, "datalist": str(unlabelled)},
            r"error: .*training_empty\.nii\.gz: has no labels; add 'label' to its item",
        ),
        (
            {**here, "datalist": str(partly), "lesion": ["core"]},
            r"error: .*training_empty\.nii\.gz: one of its planes must have a lesion \(label 1\), got none",
        ),
        ({"lesion": ["heart"]}, "error: lesion: must be a list of some of core, rim, got"),
        ({"region_size": [52, 16]}, "the region of 52 x 16 HR pixels must fit into the image, got 48 x 40"),
        ({"region_size": [26, 16]}, "error: region_size: must be height and width in HR pixels, multiples of 4"),
        ({"lesion_focus": "all"}, "error: mode: must be one of detector, labels, off, got all"),
        ({"lesion_focus": "detector"}, "error: detector_path: must be the file of a trained lesion detector, got None"),
        ({"scheme": None}, "error: mode: labels must come with the numbers of those that count, got none"),
    )
    for overrides, message in mistakes:
        with pytest.raises(SystemExit, match=message):
            run(data, tmp_path / "out", "msgan", "train", "lesion_focus", **{**FOCUSED, **overrides})
