"""The shipped weights on an image that no one trained on: the brain volume among nibabel's own test files."""

import copy
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose
from nibabel.testing import data_path

from common.blocks.swin import WindowAttention
from common.blocks.upsample import Bicubic
from common.data.planes import load_planes
from common.inferers import PlaneInferer
from common.io.transforms import CaseLoadImaged
from common.transforms.degradation import CLEAN, DegradeBatch
from common.transforms.intensity import NormalizeIntensityExactlyd, exact_unit_map
from common.weights import load_weights
from tests.helpers import INFERENCE, data_dir


def load(*overlays: str) -> torch.nn.Module:
    """The network of inference.json under these overlays, with the weights that they name."""
    parser = ConfigParser()
    parser.read_config([str(INFERENCE), *(str(INFERENCE.with_name(name)) for name in overlays)])
    parser.read_meta(str(INFERENCE.with_name("metadata.json")))
    net = parser.get_parsed_content("network_def")
    root = INFERENCE.parent.parent
    parser["bundle_root"] = str(root)
    load_weights(net, parser.get_parsed_content("ckpt_path"), root, parser["_meta_"]["weights"])
    return net.eval()


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return load()


@pytest.fixture(scope="module")
def brain() -> torch.Tensor:
    """HR planes ``(8, 1, 128, 96)`` in the unit range."""
    values = nib.load(Path(str(data_path)) / "example4d.nii.gz").dataobj[..., 8:16, 0].astype(np.float32)
    image = torch.from_numpy(values).permute(2, 0, 1)[:, None]
    offset, factor = exact_unit_map(image)
    return (image - offset) / factor


def psnr(sr: torch.Tensor, hr: torch.Tensor) -> float:
    return float(-10 * torch.log10((sr - hr).square().mean(dim=(1, 2, 3))).mean())


def shift(sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    """Rows and columns by which ``sr`` lies off ``hr``, to first order: least squares on the gradient of ``hr``."""
    rows, columns = torch.gradient(hr, dim=(2, 3))
    gradients = torch.stack([rows.flatten(), columns.flatten()], dim=1)
    return -torch.linalg.lstsq(gradients, (sr - hr).reshape(-1, 1)).solution.flatten()


def test_the_measure_of_shift_finds_a_shift(brain):
    smooth = Bicubic(4)(CLEAN(brain, (4, 4)))
    moved = torch.roll(smooth, (1, -1), dims=(2, 3))
    assert torch.allclose(shift(moved, smooth), torch.tensor([1.0, -1.0]), atol=0.3)


def test_an_unseen_brain_is_sharper_than_bicubic_and_where_it_was(network, brain):
    low = CLEAN(brain, (4, 4))
    with torch.no_grad():
        sr = network(low)
    bicubic = Bicubic(4)(low)
    assert psnr(sr, brain) > psnr(bicubic, brain) + 1.2
    assert shift(sr, brain).abs().max() < 0.1
    assert abs(float(sr.mean() - brain.mean())) < 0.01
    assert (CLEAN(sr, (4, 4)) - low).square().mean().sqrt() < 0.005


def test_attention_carries_part_of_the_gain(network, brain):
    """Weights that learn slowly gain by their convolutions alone; this tells whether the Swin layers work."""
    low, idle = CLEAN(brain, (4, 4)), copy.deepcopy(network)
    with torch.no_grad():
        for module in idle.modules():
            if isinstance(module, WindowAttention):
                module.proj.weight.zero_()
                module.proj.bias.zero_()
        assert psnr(network(low), brain) > psnr(idle(low), brain) + 0.3


def test_tiles_of_the_real_network_leave_no_seam(network):
    """The network sees further than an overlap, so tiles are not equal to the whole; what differs must not show."""
    values = nib.load(Path(str(data_path)) / "example4d.nii.gz").dataobj[..., 12:13, 0].astype(np.float32)
    offset, factor = exact_unit_map(torch.from_numpy(values))
    affine = torch.diag(torch.tensor([2, 2, 4, 1], dtype=torch.float64))[None]
    image = MetaTensor((torch.from_numpy(values)[None, None] - offset) / factor, affine=affine)
    with torch.no_grad():
        whole, tiled = (PlaneInferer(scale=4, tile=tile)(image, network) for tile in (None, 72))
    assert (whole - tiled).abs().max() < 0.02
    assert (whole - tiled).square().mean().sqrt() < 1e-3


def test_an_unseen_brain_is_sharper_than_bicubic_at_twice_the_size(brain):
    low, network = CLEAN(brain, (2, 2)), load("inference_x2.json")
    with torch.no_grad():
        sr = network(low)
    assert psnr(sr, brain) > psnr(Bicubic(2)(low), brain) + 0.2  # 4 mm: far coarser than what it has seen
    assert shift(sr, brain).abs().max() < 0.1 and (CLEAN(sr, (2, 2)) - low).square().mean().sqrt() < 0.005


@pytest.mark.parametrize(("scale", "overlays", "least"), [(4, (), 2.5), (2, ("inference_x2.json",), 5.0)])
def test_held_out_patients_gain_over_bicubic(scale, overlays, least):
    network, path = load(*overlays), data_dir() / "brain_mr" / "bmex" / "sub-0007_ses-V01_T1w.nii.gz"
    preprocessing = Compose([CaseLoadImaged("image"), NormalizeIntensityExactlyd("image")])
    gains = []
    for plane in load_planes([{"image": str(path), "patient": "sub-0007"}], preprocessing, every=12):
        low, high = DegradeBatch(scale)({"label": plane["label"][None]}, "cpu", False)
        with torch.no_grad():
            gains.append(psnr(network(low), high) - psnr(Bicubic(scale)(low), high))
    assert len(gains) >= 5 and min(gains) > least
