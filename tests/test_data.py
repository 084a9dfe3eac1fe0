import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose

from common.data.files import find_cases, match_images
from common.data.items import read_splits
from common.data.planes import dataset_maximum, load_planes
from common.io.transforms import CaseLoadImaged
from common.transforms.intensity import NormalizeIntensityExactlyd
from tests.helpers import oblique, save_nifti


def items(*paths: Path) -> list[dict]:
    return [{"image": str(path), "patient": path.name} for path in paths]


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
        "a/e.MHA",
        "a/f.png",
        "g.nhdr",
        "g.raw",
        "out/e_srx2.5.mha",
        "out/f_srx4.png",
        "out/h.tiff",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found, _ = find_cases(tmp_path, output_dir=tmp_path / "out")
    assert [p[len(str(tmp_path)) + 1 :] for p in found] == [
        *("a/c.nii.gz", "a/e.MHA", "a/f.png", "b.nii", "g.nhdr", "in_srx2.nii.gz", "out/h.tiff")
    ]
    assert find_cases(tmp_path / "b.nii") == ([str(tmp_path / "b.nii")], [])


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
    planes = load_planes(items(path), PREPROCESSING)
    assert len(planes) == 3 and all(plane["label"].shape == (1, 36, 30) for plane in planes)  # 8 pixels of margin
    assert float(planes[0]["label"].max()) == 100 / 128
    assert len(load_planes(items(path, path), PREPROCESSING, every=2)) == 4


def test_volumes_of_air_are_refused(tmp_path):
    values = np.zeros((20, 20, 4), np.int16)
    values[0, 0] = 5
    path = save_nifti(tmp_path / "a.nii.gz", values, oblique((1, 1, 3)))
    with pytest.raises(ValueError, match=r"a\.nii\.gz: no plane has 10% of foreground .*--min_foreground"):
        load_planes(items(path), PREPROCESSING)
    assert torch.is_tensor(load_planes(items(path), PREPROCESSING, min_foreground=0.001)[0]["label"])


def test_planes_are_cropped_as_the_item_or_the_config_says_else_a_patch_fits(tmp_path):
    values = np.zeros((60, 50, 3), np.int16)
    values[28:33, 20:30] = 100
    path = save_nifti(tmp_path / "a.nii.gz", values, oblique((1, 1, 3)))
    item = {"image": str(path), "patient": "a"}

    def size(**settings: object) -> tuple[int, ...]:
        crop = settings.pop("item", None)
        planes = load_planes([{**item, "crop": crop} if crop else item], PREPROCESSING, min_foreground=0.01, **settings)
        assert float(planes[0]["label"].max()) > 0 and planes[1]["name"].endswith("a.nii.gz, plane 1")
        return tuple(planes[0]["label"].shape[1:])

    assert size() == (21, 26)
    assert size(min_size=40) == (40, 40) and size(min_size=[24, 55]) == (24, 50)
    assert size(item=[32, 30]) == (32, 30) and size(item=[32, 30], crop=[20, 28]) == (20, 28)


def splits(root: Path, **content: list[str]) -> Path:
    for name in {name for names in content.values() for name in names}:
        save_nifti(root / f"{name}.nii.gz", np.full((8, 8, 2), ord(name[0]), np.int16), oblique((1, 1, 3)))
    made = {split: [{"patient": n, "image": f"{n}.nii.gz"} for n in names] for split, names in content.items()}
    (root / "list.json").write_text(json.dumps({**made, "crop": [6, 6]}))
    return root / "list.json"


def test_a_datalist_gives_paths_patients_and_its_crop(tmp_path):
    path = splits(tmp_path, training=["a"], validation=["b"], test=["c"])
    read = read_splits(tmp_path, {"training": [], "test": []}, path)
    assert read == {
        "training": [{"patient": "a", "image": str(tmp_path / "a.nii.gz"), "crop": [6, 6]}],
        "test": [{"patient": "c", "image": str(tmp_path / "c.nii.gz"), "crop": [6, 6]}],
    }
    assert dataset_maximum(tmp_path, path) == ord("c")
    with pytest.raises(ValueError, match="datalist: the maximum of the whole data set is asked for; pass --datalist"):
        dataset_maximum(tmp_path, None)


def test_what_is_wrong_with_a_datalist_is_named(tmp_path):
    path = splits(tmp_path, training=["a"], validation=["a"], test=[])
    with pytest.raises(ValueError, match=r"list\.json: a is in 'training' and in 'validation'"):
        read_splits(tmp_path, {"training": []}, path)
    path = splits(tmp_path, training=["a"], validation=["b"], test=[])
    with pytest.raises(ValueError, match=r"list\.json: the split 'test' must not be empty"):
        read_splits(tmp_path, {"test": []}, path)
    (tmp_path / "b.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"b\.nii\.gz: .*list\.json lists it for b, but it is missing"):
        read_splits(tmp_path, {"validation": []}, path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"list\.json: must be JSON"):
        read_splits(tmp_path, {"training": []}, path)
    with pytest.raises(ValueError, match=r"none\.json: cannot be read"):
        read_splits(tmp_path, {"training": []}, tmp_path / "none.json")


def test_patterns_name_patients_and_keep_them_in_one_split(tmp_path):
    for name in ("x/sub-01_T1w", "x/sub-01_T2w", "y/sub-01_T1w", "y/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.nii.gz").write_bytes(b"")
    read = read_splits(tmp_path, {"test": ["x/*", "y/b*"]})
    assert [item["patient"] for item in read["test"]] == ["sub-01", "sub-01", "b"]
    with pytest.raises(ValueError, match="sub-01 is in 'training' and in 'test'"):
        read_splits(tmp_path, {"training": ["x/*"], "test": ["y/*"]})


def test_the_folder_below_that_of_the_split_is_the_patient(tmp_path):
    for split, patient in (("train", "p1"), ("train", "p2"), ("val", "p3")):
        for name in ("t1", "t2"):
            path = tmp_path / split / patient / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    patterns = {"training": ["train/**/*.nii.gz"], "validation": ["val/**/*.nii.gz"]}
    splits = read_splits(tmp_path, patterns)
    assert [item["patient"] for item in splits["training"]] == ["p1", "p1", "p2", "p2"]
    (tmp_path / "val" / "p1").mkdir()
    (tmp_path / "val" / "p1" / "t1.nii.gz").touch()
    with pytest.raises(ValueError, match="p1 is in 'training' and in 'validation'; keep it in one of them"):
        read_splits(tmp_path, patterns)


def test_analyze_pairs_and_modalities_are_read_for_training(tmp_path):
    """OASIS-1 comes as big-endian Analyze 7.5 of a fourth axis of one; BraTS as one file a modality."""
    values = np.arange(5 * 4 * 3, dtype=np.int16).reshape(5, 4, 3, 1)
    header = nib.AnalyzeHeader(endianness=">")
    header.set_data_dtype(np.int16)
    nib.AnalyzeImage(values, np.diag([-1.0, 1, 1, 1]), header).to_filename(tmp_path / "a.img")
    load = CaseLoadImaged("image", analyze=True)
    image = load({"image": str(tmp_path / "a.img")})["image"]
    assert np.array_equal(image[0].numpy(), values[..., 0])
    with pytest.raises(ValueError, match=r"a\.img: must be a NIfTI file"):
        CaseLoadImaged("image")({"image": str(tmp_path / "a.img")})
    (tmp_path / "a.hdr").unlink()
    with pytest.raises(ValueError, match=r"a\.img: its header a\.hdr is missing; copy it into the same folder"):
        load({"image": str(tmp_path / "a.img")})

    names = ["t1", "t2", "off"]
    for n, name in enumerate(names):
        affine = oblique((1, 1, 3 + n // 2))
        save_nifti(tmp_path / f"{name}.nii.gz", np.full((5, 4, 3), n, np.int16), affine)
    paths = [str(tmp_path / f"{name}.nii.gz") for name in names]
    two = CaseLoadImaged("image", in_channels=2)
    assert two({"image": paths[:2]})["image"].mean(dim=(1, 2, 3)).tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"off\.nii\.gz: must lie on the grid of .*t1\.nii\.gz"):
        two({"image": [paths[0], paths[2]]})
    with pytest.raises(ValueError, match=r"t1\.nii\.gz: the network takes 2 channels, got 3 files; name one for each"):
        two({"image": paths})
