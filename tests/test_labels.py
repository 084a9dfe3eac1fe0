"""Labels: schemes of datalists, the grid, the values, the planes for training, and their augmentation."""

import json

import numpy as np
import pytest
import torch
from monai.transforms import Compose

from common.data.items import read_splits
from common.data.labels import LabelScheme, read_scheme
from common.data.layouts import LAYOUTS
from common.data.planes import load_planes, stack_volumes
from common.io.transforms import CaseLoadImaged
from common.transforms.intensity import NormalizeIntensityExactlyd
from common.transforms.labelled import LabelledBatch
from tests.helpers import blobs, oblique, save_nifti

SCHEME = LabelScheme(("left", "right"))
PREPROCESSING = Compose([CaseLoadImaged("image"), NormalizeIntensityExactlyd("image")])


def labelled(folder, labels=None, affine=None, shape=(40, 36, 4), **header):
    """An item: an image and its labels, two boxes side by side."""
    if labels is None:
        labels = np.zeros(shape, np.uint8)
        labels[10:18, 12:24, 1:] = 1
        labels[18:30, 12:24, 1:] = 2
    grid = oblique((1, 1, 3))
    image = save_nifti(folder / "image.nii.gz", (blobs(shape) * 900 + 90).astype(np.int16), grid)
    label = save_nifti(folder / "label.nii.gz", labels, grid if affine is None else affine, **header)
    return {"patient": "p", "image": str(image), "label": str(label)}


def test_labels_follow_the_image_as_the_last_channel_of_its_planes(tmp_path):
    item = labelled(tmp_path)
    planes = load_planes([item], PREPROCESSING, scheme=SCHEME)
    images = load_planes([item], PREPROCESSING, crop=(40, 36))
    assert len(planes) == len(images) == 4 and planes[0]["label"].shape == (2, 40, 36)
    for number, (both, image) in enumerate(zip(planes, images, strict=True)):
        torch.testing.assert_close(both["label"][:1], image["label"])
        assert both["label"][1].unique().tolist() == ([0] if number == 0 else [0, 1, 2])
    cropped = load_planes([item], PREPROCESSING, scheme=SCHEME, crop=(20, 16))[1]["label"]
    torch.testing.assert_close(cropped, planes[1]["label"][:, 10:30, 10:26])
    (volume,) = stack_volumes(planes)
    assert volume["label"].shape == (4, 2, 40, 36) and volume["name"].endswith("image.nii.gz")


def test_slope_and_intercept_of_a_label_file_count(tmp_path):
    labels = np.ones((40, 36, 4), np.uint8)
    labels[10:20], labels[20:30] = 3, 5
    planes = load_planes([labelled(tmp_path, labels, slope=0.5, intercept=-0.5)], PREPROCESSING, scheme=SCHEME)
    assert planes[0]["label"][1].unique().tolist() == [0, 1, 2]


def test_labels_can_be_swapped(tmp_path):
    plain, swapped = (
        load_planes([labelled(tmp_path)], PREPROCESSING, scheme=LabelScheme(("a", "b"), relabel))[1]["label"][1]
        for relabel in ({}, {1: 2, 2: 1})
    )
    assert torch.equal(swapped, torch.tensor([0.0, 2.0, 1.0])[plain.long()])


def test_the_slope_of_a_label_file_may_fall(tmp_path):
    labels = np.zeros((40, 36, 4), np.int8)
    labels[10:20], labels[20:30] = -1, -2
    planes = load_planes([labelled(tmp_path, labels, slope=-1.0)], PREPROCESSING, scheme=SCHEME)
    assert planes[0]["label"][1, 9:21:10, 0].tolist() == [0, 1] and planes[0]["label"][1].max() == 2


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"affine": oblique((1, 1, 2))}, r"label\.nii\.gz: must lie on the grid of .*image\.nii\.gz; resample"),
        ({"labels": np.zeros((40, 36, 5), np.uint8)}, r"label\.nii\.gz: must lie on the grid"),
        ({"labels": np.full((40, 36, 4), 3, np.uint8)}, r"label\.nii\.gz: labels must be .* 0 to 2 .*got 3; name the"),
        ({"labels": np.full((40, 36, 4), 0.5, np.float32)}, r"label\.nii\.gz: labels must be whole .*got 0\.5"),
        ({"labels": np.ones((40, 36, 4), np.uint8)}, r"label\.nii\.gz .*: right \(label 2\) must occur in the planes"),
    ],
)
def test_labels_that_do_not_fit_are_refused(change, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        load_planes([labelled(tmp_path, **change)], PREPROCESSING, scheme=SCHEME)


def test_an_image_without_labels_is_refused(tmp_path):
    item = labelled(tmp_path)
    with pytest.raises(ValueError, match=r"image\.nii\.gz: has no labels; add 'label'"):
        load_planes([{**item, "label": None}], PREPROCESSING, scheme=SCHEME)


def datalist(folder, **content):
    file = folder / "datalist.json"
    file.write_text(json.dumps({split: [] for split in ("training", "validation", "test")} | content))
    return file


def test_a_datalist_says_what_its_labels_mean(tmp_path):
    scheme = read_scheme(datalist(tmp_path, classes=["a", "b"], relabel={"4": 2}, regions={"both": [1, 2]}))
    assert scheme == LabelScheme(("a", "b"), {4: 2}, {"both": (1, 2)}) and scheme.names == ("both",)
    assert read_scheme(datalist(tmp_path, classes=["a", "b"])).names == ("a", "b", "whole")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({}, "must have 'classes', a list of different names for"),
        ({"classes": "abc"}, "must have 'classes', a list of different names for"),
        ({"classes": ["a", "a"]}, "must have 'classes', a list of different names for"),
        ({"classes": ["a", "whole"]}, "must have 'classes', a list of different names for"),
        ({"classes": ["a"], "relabel": [4]}, "'relabel' must be an object of labels and 'regions' one of lists"),
        ({"classes": ["a"], "regions": {"x": 1}}, "'relabel' must be an object of labels and 'regions' one of lists"),
        ({"classes": ["a"], "regions": {"x": [2]}}, r"x must be of labels 0 to 1, got \[2\]"),
        ({"classes": ["a"], "relabel": {"4": 3}}, r"relabel must be of labels 0 to 1, got \[3\]"),
    ],
)
def test_schemes_that_contradict_themselves_are_refused(content, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        read_scheme(datalist(tmp_path, **content))


def test_without_a_datalist_labels_have_no_meaning():
    with pytest.raises(ValueError, match=r"datalist: labels are asked for, .* pass --datalist"):
        read_scheme(None)


def test_labels_of_a_datalist_are_found_below_the_root_and_missed_by_name(tmp_path):
    labelled(tmp_path)
    item = {"patient": "p", "image": "image.nii.gz", "label": "label.nii.gz"}
    file = datalist(tmp_path, test=[item])
    (found,) = read_splits(tmp_path, {"test": []}, file)["test"]
    assert found["label"] == str(tmp_path / "label.nii.gz")
    (tmp_path / "label.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"label\.nii\.gz: .* lists it for p, but it is missing"):
        read_splits(tmp_path, {"test": []}, file)


def test_regions_of_brats_are_those_of_its_challenge():
    layout = LAYOUTS["brats"]
    scheme = LabelScheme(layout.classes, layout.relabel, layout.regions)
    labels = torch.tensor([0, 1, 2, 3])
    masks = dict(zip(scheme.names, scheme.masks(labels), strict=True))
    assert masks["whole tumour"].tolist() == [False, True, True, True]
    assert masks["tumour core"].tolist() == [False, True, False, True]
    assert masks["enhancing tumour"].tolist() == [False, False, False, True]


def batch(count=6, size=(32, 32)) -> torch.Tensor:
    """Images whose brightness tells the label that lies there: 0.2, 0.6 and 1."""
    labels = torch.zeros(count, 1, *size)
    labels[:, :, 8:18, 6:16], labels[:, :, 18:26, 12:28] = 1, 2
    return torch.cat([0.2 + 0.4 * labels, labels], dim=1)


def test_without_augmentation_image_and_labels_only_part():
    both = batch()
    image, labels = LabelledBatch()({"label": both}, "cpu", False)
    assert torch.equal(image, both[:, :1]) and torch.equal(labels, both[:, 1:])


@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_image_and_labels_move_together(size):
    torch.manual_seed(3)
    image, labels = LabelledBatch(True, contrast=1, noise=0)({"label": batch(size=size)}, "cpu", False)
    assert set(labels.unique().tolist()) == {0, 1, 2} and not torch.equal(labels, batch(size=size)[:, 1:])
    nearest = ((image - 0.2) / 0.4).round()  # where neighbours mix, half a pixel at the edges, they may differ
    assert (nearest == labels).float().mean() > 0.97


def test_a_rotation_of_an_oblong_image_does_not_shear():
    size = (40, 80)
    rows, columns = torch.meshgrid(torch.arange(40.0) - 19.5, torch.arange(80.0) - 39.5, indexing="ij")
    disc = ((rows**2 + columns**2) < 15**2).float()[None, None]
    torch.manual_seed(0)
    _, labels = LabelledBatch(True, degrees=90, zoom=1, shift=0)({"label": disc.repeat(8, 2, 1, 1)}, "cpu", False)
    assert labels.shape == (8, 1, *size) and float((labels - disc).abs().mean()) < 0.01


def test_augmentation_keeps_what_is_below_zero_and_bears_a_hot_voxel():
    both = batch()
    both[:, :1] = both[:, :1] * 2 - 1.4  # from -1 to 0.6
    both[:, 0, 0, 0] = 50.0
    torch.manual_seed(0)
    image, labels = LabelledBatch(True, contrast=1.4, noise=0)({"label": both}, "cpu", False)
    means = [float(image[labels == label].median()) for label in (0, 1, 2)]
    assert means[0] < -0.8 and means[0] + 0.4 < means[1] < means[2] - 0.4 and means[2] < 1.5


def test_augmentation_follows_the_seed():
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(LabelledBatch(True)({"label": batch()}, "cpu", False)[0])
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


@pytest.mark.parametrize("change", [{"degrees": -1}, {"zoom": 0.5}, {"contrast": 0}, {"noise": -1}, {"shift": -1}])
def test_impossible_augmentation_is_refused(change):
    with pytest.raises(ValueError, match="must be at least 0, zoom and contrast at least 1"):
        LabelledBatch(True, **change)
