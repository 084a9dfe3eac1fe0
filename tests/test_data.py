import numpy as np
import pytest
import torch
from monai.transforms import Compose

from common.data.files import find_images, match_images
from common.data.planes import load_planes
from common.io.transforms import CaseLoadImaged
from common.transforms.intensity import NormalizeIntensityExactlyd
from tests.helpers import oblique, save_nifti

PREPROCESSING = Compose([CaseLoadImaged("image"), NormalizeIntensityExactlyd("image")])


def test_images_are_found_in_subfolders_but_neither_hidden_ones_nor_results(tmp_path):
    for name in (
        "b.nii",
        "a/c.nii.gz",
        "a/.hidden.nii",
        ".git/d.nii.gz",
        "notes.txt",
        "out/b_srx4.nii.gz",
        "in_srx2.nii.gz",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_images(tmp_path, output_dir=tmp_path / "out")
    assert [p[len(str(tmp_path)) + 1 :] for p in found] == ["a/c.nii.gz", "b.nii", "in_srx2.nii.gz"]
    assert find_images(tmp_path / "b.nii") == [str(tmp_path / "b.nii")]


def test_patterns_match_each_image_once_and_never_nothing(tmp_path):
    for name in ("a1.nii", "a2.nii.gz", "a.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [p[-9:] for p in match_images(tmp_path, ["a*", "*.nii.gz"])] == [str(tmp_path / "a1.nii")[-9:], "a2.nii.gz"]
    assert len(match_images(tmp_path, ["a*", "b*"])) == 2
    with pytest.raises(ValueError, match=r"no image matches b\* or c\*; check --dataset_dir"):
        match_images(tmp_path, ["b*", "c*"])


def test_planes_are_cut_across_the_slice_axis_where_there_is_something(tmp_path):
    values = np.zeros((40, 30, 6), np.int16)
    values[10:30, 5:25, 2:5] = 100
    path = save_nifti(tmp_path / "a.nii.gz", values, oblique((1, 1, 3)))
    planes = load_planes([str(path)], PREPROCESSING)
    assert len(planes) == 3 and all(plane["label"].shape == (1, 36, 30) for plane in planes)  # 8 pixels of margin
    assert float(planes[0]["label"].max()) == 100 / 128
    assert len(load_planes([str(path)] * 2, PREPROCESSING, every=2)) == 4


def test_volumes_of_air_are_refused(tmp_path):
    values = np.zeros((20, 20, 4), np.int16)
    values[0, 0] = 5
    path = save_nifti(tmp_path / "a.nii.gz", values, oblique((1, 1, 3)))
    with pytest.raises(ValueError, match=r"no plane has 10% of foreground; lower min_foreground"):
        load_planes([str(path)], PREPROCESSING)
    assert torch.is_tensor(load_planes([str(path)], PREPROCESSING, min_foreground=0.001)[0]["label"])
