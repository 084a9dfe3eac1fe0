"""The segmentation bundle: from any format to labels in NIfTI on the grid of the image, through MONAI's runner."""

import json

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from common.blocks.unet import SegmentationUNet
from common.data.labels import read_scheme
from common.data.layouts import datalist
from common.inferers import PlaneSegmenter
from common.io.formats import read_image
from tests.dicom_series import save_series
from tests.helpers import ROOT, blobs, oblique, save_nifti

INFERENCE = ROOT / "bundles" / "segmentation_unet" / "configs" / "inference.json"


class Brightness(torch.nn.Module):
    """Logits that make a label of 0, 1 or 2 of the lower, middle or upper third of [0, 1]; channels are averaged."""

    size_multiple = 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-(x.mean(1, keepdim=True) - centre).square() for centre in (1 / 6, 1 / 2, 5 / 6)], dim=1)


def run(source, output, **overrides):
    options = {"network_def": {"_target_": "tests.test_segmentation_bundle.Brightness"}, "weights": "none"}
    options |= {"device": "cpu", "dataset_dir": str(source), "output_dir": str(output), "logging_file": False}
    monai.bundle.run(config_file=str(INFERENCE), **{**options, **overrides})


def expected(stored: np.ndarray) -> np.ndarray:
    unit = stored / 1024  # as the bundle normalises what lies below 1024 and above 512
    return np.digitize(unit, (1 / 3, 2 / 3)).astype(np.uint8)


@pytest.mark.parametrize("flip", [(), (0, 2)])
def test_each_voxel_of_an_oblique_volume_gets_its_label_at_its_place(tmp_path, flip):
    values = (blobs((21, 17, 5)) * 1000).astype(np.int16)
    (tmp_path / "in").mkdir()
    source = save_nifti(tmp_path / "in" / "a.nii.gz", values, oblique((0.7, 0.9, 3.3), flip))
    run(source.parent, tmp_path / "out")
    result = nib.load(tmp_path / "out" / "a_seg.nii.gz")
    assert result.get_data_dtype() == np.uint8 and result.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(result.affine, nib.load(source).affine, atol=1e-6)
    assert np.array_equal(np.asarray(result.dataobj), expected(values))
    (line,) = (json.loads(text) for text in (tmp_path / "out" / "cases.jsonl").read_text().splitlines())
    assert line["scale"] == 1 and line["output"].endswith("a_seg.nii.gz")


def test_a_dicom_series_and_a_photograph_get_labels_in_nifti(tmp_path):
    stored = (blobs((16, 12, 4)) * 1000).astype(np.int16).transpose(2, 0, 1)
    save_series(tmp_path / "in" / "series", stored)
    grey = (blobs((20, 15, 1))[..., 0] * 255).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "in" / "photograph.png")
    run(tmp_path / "in", tmp_path / "out")
    results = sorted(path for path in (tmp_path / "out").rglob("*_seg.nii.gz"))
    assert len(results) == 2 and results[0].name == "photograph_seg.nii.gz"
    values, case = read_image(tmp_path / "in" / "series")
    labels = nib.load(results[1])
    np.testing.assert_allclose(labels.affine, case.affine, atol=1e-5)
    assert np.array_equal(np.asarray(labels.dataobj), expected(values[0]))


def test_a_result_is_never_replaced(tmp_path):
    values = (blobs((21, 17, 5)) * 1000).astype(np.int16)
    source = save_nifti(tmp_path / "a.nii.gz", values, oblique((1, 1, 3)))
    run(source, tmp_path / "out")
    with pytest.raises(SystemExit, match=r"a_seg\.nii\.gz: exists already; pass --resume"):
        run(source, tmp_path / "out")
    run(source, tmp_path / "out", resume=True)


def test_four_modalities_make_one_map_of_labels(tmp_path):
    values = np.stack([(blobs((21, 17, 5), seed) * 1000).astype(np.int16) for seed in range(4)], axis=3)
    source = save_nifti(tmp_path / "a.nii.gz", values, oblique((1, 1, 3)))
    run(source, tmp_path / "out", in_channels=4, channels_last=True)
    labels = np.asarray(nib.load(tmp_path / "out" / "a_seg.nii.gz").dataobj)
    assert labels.shape == (21, 17, 5) and np.array_equal(labels, expected(values.mean(3)))


def test_tiles_share_their_logits_and_never_their_labels():
    volume = MetaTensor(
        torch.from_numpy(blobs((300, 90, 1))).float()[None, None], affine=torch.from_numpy(oblique((1, 1, 3)))
    )
    whole, tiled = (PlaneSegmenter(tile=tile, overlap=16)(volume, Brightness()) for tile in (None, 64))
    assert whole.unique().tolist() == [0, 1, 2] and torch.equal(whole, tiled)
    turned = PlaneSegmenter(self_ensemble=True)(volume, Brightness())
    assert torch.equal(whole, turned)


def test_the_bundle_refuses_weights_of_other_classes(tmp_path):
    values = (blobs((21, 17, 5)) * 1000).astype(np.int16)
    source = save_nifti(tmp_path / "a.nii.gz", values, oblique((1, 1, 3)))
    torch.save(SegmentationUNet(1, 3, 16).state_dict(), tmp_path / "other.pt")
    unet = json.loads(INFERENCE.read_text())
    with pytest.raises(SystemExit, match=r"other\.pt: the weights do not fit the network"):
        run(source, tmp_path / "out", network_def=unet["network_def"], weights=unet["weights"],
            ckpt_path=str(tmp_path / "other.pt"))  # fmt: skip


def analyze(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.AnalyzeImage(array, None).to_filename(path)


def make_patient(layout, root, number):
    """A patient in the folders and names of a data set, with three classes by brightness."""
    values = [(blobs((40, 36, 4), 10 * number + n) * 900).astype(np.int16) for n in range(4)]
    labels = np.digitize(values[0] / 900, (0.2, 0.4, 0.7)).astype(np.uint8)
    grid = oblique((1, 1, 3))
    if layout == "oasis":
        name = f"OAS1_{number:04d}_MR1"
        stem = f"{name}_mpr_n4_anon_111_t88_masked_gfc"
        analyze(root / name / "PROCESSED" / "MPRAGE" / "T88_111" / f"{stem}.img", values[0])
        analyze(root / name / "FSL_SEG" / f"{stem}_fseg.img", labels)
        return
    if layout == "brats":
        files = dict(zip(("t1ce", "t1", "t2", "flair"), values, strict=True)) | {
            "seg": np.where(labels == 3, 4, labels)
        }
        files = {f"HGG/p{number}/p{number}_{name}": array for name, array in files.items()}
    elif layout == "acdc":
        files = {
            f"patient{number:03d}/patient{number:03d}_frame01{gt}": a for gt, a in (("", values[0]), ("_gt", labels))
        }
    else:
        files = {f"c{number}": values[0], f"mask/c{number}": labels}
    for name, array in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        save_nifti(root / f"{name}.nii.gz", array, grid)


@pytest.mark.parametrize("layout", ["oasis", "brats", "acdc", "covid"])
def test_it_trains_and_is_evaluated_on_each_data_set_of_the_paper(tmp_path, layout):
    for number in range(3):
        make_patient(layout, tmp_path / "data", number)
    datalist(layout, str(tmp_path / "data"), str(tmp_path / "list.json"), train=2, val=1, test=1)
    common = {"dataset_dir": str(tmp_path / "data"), "datalist": str(tmp_path / "list.json"), "device": "cpu"}
    common |= {"in_channels": 4 if layout == "brats" else 1, "logging_file": False}
    files = [
        [str(INFERENCE.with_name(f"{name}.json")) for name in names]
        for names in (("train", "paper", "smoke"), ("inference", "evaluate", "paper", "smoke"))
    ]
    steps = {"steps": 1, "val_interval": 1, "batch_size": 2, "patch_size": 32}
    monai.bundle.run(config_file=files[0], output_dir=str(tmp_path / "run"), **common, **steps)
    weights = str(tmp_path / "run" / "model.pt")
    monai.bundle.run(config_file=files[1], output_dir=str(tmp_path / "out"), ckpt_path=weights, **common)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    scheme = read_scheme(tmp_path / "list.json")
    assert list(summary["dice"]["HR"]) == list(scheme.names) and summary["patients"] == 1
    assert all((tmp_path / "out" / f"{case}.png").exists() for case in ("worst", "median", "best"))


def test_images_without_a_datalist_cannot_teach_it(tmp_path):
    config = str(INFERENCE.with_name("train.json"))
    with pytest.raises(SystemExit, match="datalist: labels are asked for"):
        monai.bundle.run(config_file=config, dataset_dir=str(tmp_path), output_dir=str(tmp_path), logging_file=False)
