"""What only a GPU can show: training, inference, mixed precision and compilation there. Skipped where there is none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from common.blocks.detector import LesionDetector
from common.blocks.unet import SegmentationUNet
from common.data.patches import PatchBatches
from common.losses.segmentation import TERMS, segmentation_loss
from tests.helpers import ROOT, blobs, oblique, run_inference, save_nifti, stored

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
TRAIN = ROOT / "bundles" / "rdst" / "configs" / "train.json"


@pytest.fixture
def data(tmp_path) -> Path:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        values = (blobs((120, 110, 4), seed=len(split)) * 1000).astype(np.int16)
        save_nifti(tmp_path / split / f"{split}.nii.gz", values, oblique((1, 1, 3)))
    return tmp_path


@pytest.mark.parametrize("compiled", [False, True])
def test_training_learns_in_mixed_precision(data, tmp_path, compiled):
    settings = {
        "steps": 40,
        "val_interval": 20,
        "batch_size": 4,
        "compile": compiled,
        "output_dir": str(tmp_path / "run"),
    }
    workflow = ConfigWorkflow(str(TRAIN), workflow_type="train", logging_file=False, dataset_dir=str(data), **settings)
    workflow.initialize()
    workflow.run()
    assert workflow.parser.get_parsed_content("amp_dtype") == "bfloat16"
    history = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["best"]["history"]
    assert history[1][1] > history[0][1]


def test_patches_of_the_gpu_are_those_of_the_cpu():
    planes = [{"label": torch.rand(2, 50, 40)}, {"label": torch.rand(2, 33, 60)}]
    cpu, gpu = (PatchBatches(planes, 32, 8, seed=5, device=device).batch(7)["label"] for device in ("cpu", "cuda"))
    assert gpu.is_cuda and torch.equal(gpu.cpu(), cpu)


@pytest.mark.parametrize(("amp_dtype", "tolerance"), [(None, 2e-3), ("bfloat16", 3e-2)])
def test_inference_gives_what_the_cpu_gives(data, tmp_path, amp_dtype, tolerance):
    source = data / "val" / "val.nii.gz"
    weights = json.loads((TRAIN.with_name("inference.json")).read_text())["weights"]
    for device in ("cpu", "cuda"):
        run_inference(
            source, tmp_path / device, weights=weights, device=f"$torch.device('{device}')",
            amp_dtype=amp_dtype if device == "cuda" else None,
        )  # fmt: skip
    cpu, gpu = (stored(tmp_path / device / "val_srx4.nii.gz").astype(float) for device in ("cpu", "cuda"))
    assert np.abs(cpu - gpu).max() / 1000 < tolerance


@pytest.mark.parametrize("term", TERMS)
def test_each_term_of_the_segmentation_loss_is_that_of_the_cpu(term):
    torch.manual_seed(0)
    unet = SegmentationUNet(1, 3, width=8)
    unet(torch.rand(2, 1, 64, 64))
    sr, hr = torch.rand(2, 4, 1, 96, 96)
    expected = segmentation_loss(unet, term)(sr, hr)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = segmentation_loss(unet.cuda(), term).cuda()(sr.cuda(), hr.cuda())
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-2, atol=1e-4)


def test_a_lesion_detector_finds_the_same_centre_in_bfloat16():
    torch.manual_seed(0)
    detector, image = LesionDetector(1, (32, 32), widths=(2, 4), hidden=(4,)).eval(), torch.rand(2, 1, 60, 50)
    with torch.no_grad():
        expected = detector(image)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            found = detector.cuda()(image.cuda())
    torch.testing.assert_close(found.cpu(), expected, atol=0.01, rtol=0)
