"""Diffusion maps: synthetic tensors whose maps are known, FSL's conventions, and the command from end to end."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from common.diffusion import (
    Frame,
    angle_profile,
    cardiac_frame,
    fit_tensors,
    fractional_anisotropy,
    rmse,
    slice_centres,
    tensor_maps,
    wall_depth,
    wrapped,
)
from common.diffusion_maps import diffusion
from common.diffusion_series import named_series, point
from common.gradients import Gradients, design_matrix, read_gradients
from tests.helpers import ROOT, oblique

SIX = np.array([[1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1], [0, 1, -1]]) / np.sqrt(2)
CHAPTER = np.array([150.0, 600, 600, 600, 600, 600, 600, 350])  # without b = 0, directions twice
DIRECTIONS = np.concatenate([SIX[:1], SIX, SIX[5:]])
EIGENVALUES = np.array([1.7, 0.9, 0.4])  # 10⁻³ mm²/s
MD = EIGENVALUES.mean()
FA = np.sqrt(1.5 * ((EIGENVALUES - MD) ** 2).sum() / (EIGENVALUES**2).sum())
SIZE, CENTRE, INNER, OUTER = (41, 39, 2), (19.0, 20.0), 8.0, 15.0
AFFINES = {
    "positive determinant": np.diag([1.0, 1, 8, 1]),
    "negative determinant": np.diag([-1.0, 1, 8, 1]),
    "upside down": np.diag([1.0, 1, -8, 1]),
    "oblique": oblique((1.0, 1.0, 8.0)),
    "oblique and flipped": oblique((1.0, 1.0, 8.0), flip=(0, 1)),
}


def normed(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def ring() -> np.ndarray:
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]), indexing="ij")
    radius = np.hypot(x - CENTRE[0], y - CENTRE[1])
    return np.repeat(((radius >= INNER) & (radius <= OUTER))[..., None], SIZE[2], axis=2)


def depth_of(affine: np.ndarray) -> np.ndarray:
    away = np.stack(np.meshgrid(*(np.arange(n) for n in SIZE), indexing="ij"), axis=-1) - np.array([*CENTRE, 0])
    away[..., 2] = 0
    return (np.linalg.norm(away @ affine[:3, :3].T, axis=-1) - INNER) / (OUTER - INNER)


def heart(affine: np.ndarray, e2a: float = 30.0, fewer: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Tensors ``(X, Y, Z, 3, 3)`` in RAS whose helix angle falls from +60° to -60° through the wall, and that angle."""
    away = np.stack(np.meshgrid(*(np.arange(n) for n in SIZE), indexing="ij"), axis=-1) - np.array([*CENTRE, 0])
    away[..., 2] = 0
    radial = normed(away @ affine[:3, :3].T)
    up = normed(np.cross(affine[:3, 0], affine[:3, 1]))
    up = up if up @ [1, -1, 1] > 0 else -up
    around = np.cross(up, radial)
    helix = (60 - 120 * depth_of(affine)) * fewer
    a, b = np.deg2rad(helix)[..., None], np.deg2rad(e2a)
    first = np.cos(a) * around + np.sin(a) * up
    across = np.cross(radial, first)
    second = np.cos(b) * across + np.sin(b) * radial
    axes = np.stack([first, second, np.cross(first, second)], axis=-1)
    return np.einsum("...ik,k,...jk->...ij", axes, EIGENVALUES, axes), helix


def signals(tensors: np.ndarray, bvals: np.ndarray, world: np.ndarray, s0: float = 900.0) -> np.ndarray:
    return s0 * np.exp(-np.einsum("n,ni,...ij,nj->...n", bvals / 1000, world, tensors, world))


def fsl_directions(world: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """As a converter writes them: into the axes of the voxels, x reversed where these are right-handed in RAS."""
    voxel = world @ np.linalg.inv(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).T
    return voxel * ([-1, 1, 1] if np.linalg.det(affine[:3, :3]) > 0 else [1, 1, 1])


def save(folder: Path, name: str, values: np.ndarray, affine: np.ndarray) -> str:
    nib.Nifti1Image(values.astype(np.float32), affine).to_filename(folder / name)
    return str(folder / name)


@pytest.fixture
def study(tmp_path):
    """HR, an SR with a weaker helix, bval, bvec and mask, by the names that the command takes."""
    return make_study(tmp_path, AFFINES["positive determinant"])


def make_study(folder: Path, affine: np.ndarray) -> dict[str, str]:
    mask = ring()
    files = {}
    for name, fewer in (("hr", 1.0), ("sr", 0.5)):
        values = signals(heart(affine, fewer=fewer)[0], CHAPTER, DIRECTIONS)
        files[name] = save(folder, f"{name}.nii.gz", values, affine)
    np.savetxt(folder / "a.bval", CHAPTER[None], fmt="%g")
    np.savetxt(folder / "a.bvec", fsl_directions(DIRECTIONS, affine).T, fmt="%.9f")
    files |= {"bval": str(folder / "a.bval"), "bvec": str(folder / "a.bvec")}
    return files | {"mask": save(folder, "mask.nii.gz", mask, affine), "output_dir": str(folder / "out")}


def load(folder: Path, name: str) -> np.ndarray:
    return nib.load(folder / "out" / f"{name}.nii.gz").get_fdata()


def some_frame(count: int) -> Frame:
    voxels = np.stack([np.arange(1, count + 1), np.ones(count), np.zeros(count)], axis=1)
    return cardiac_frame(voxels, np.zeros((count, 3)), np.eye(4), 2)


def fitted(bvals: np.ndarray, directions: np.ndarray, tensors: np.ndarray, s0: float = 900.0) -> np.ndarray:
    design = torch.from_numpy(design_matrix(bvals, directions))
    return fit_tensors(torch.from_numpy(signals(tensors, bvals, directions, s0)), design).numpy()


@pytest.mark.parametrize(
    ("bvals", "directions"),
    [
        (CHAPTER, DIRECTIONS),
        (np.array([0.0, *[1000] * 6]), np.concatenate([np.zeros((1, 3)), SIX])),
        (np.array([0.0, 0, *[1000] * 12]), np.concatenate([np.zeros((2, 3)), SIX, SIX])),
        (np.array([*[150.0] * 6, *[600] * 6]), np.concatenate([SIX, -SIX])),
    ],
    ids=["b from 150 to 600", "b0 and six", "duplicates", "two shells"],
)
@pytest.mark.parametrize("s0", [900.0, 1e-3, 3e6])
def test_tensors_come_back_from_their_signals(bvals, directions, s0):
    turns = np.linalg.qr(np.random.default_rng(0).normal(size=(20, 3, 3)))[0]
    tensors = np.einsum("vik,k,vjk->vij", turns, EIGENVALUES, turns)
    np.testing.assert_allclose(fitted(bvals, directions, tensors, s0), tensors, atol=1e-9)


def test_the_fit_is_the_weighted_one_of_numpy_where_there_is_noise():
    noisy = np.random.default_rng(0).uniform(100, 900, size=(5, len(CHAPTER)))
    design = design_matrix(CHAPTER, DIRECTIONS)
    got = fit_tensors(torch.from_numpy(noisy), torch.from_numpy(design)).numpy()
    for tensor, signal in zip(got, noisy, strict=True):
        solution = np.linalg.lstsq(signal[:, None] * design, signal * np.log(signal), rcond=None)[0]
        xx, yy, zz, xy, xz, yz = solution[1:]
        np.testing.assert_allclose(tensor, [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]], rtol=1e-6)


def test_signals_of_nothing_and_below_give_finite_maps():
    values = torch.from_numpy(signals(np.diag(EIGENVALUES)[None], CHAPTER, DIRECTIONS)).repeat(3, 1)
    values[1] = 0
    values[2, 3] = -5
    maps = tensor_maps(fit_tensors(values, torch.from_numpy(design_matrix(CHAPTER, DIRECTIONS))), some_frame(3))
    assert all(torch.isfinite(values).all() for values in maps.values())
    assert maps["md"][1] == pytest.approx(0, abs=1e-9) and maps["fa"][1] == pytest.approx(0, abs=1e-6)


def test_isotropic_diffusion_has_no_anisotropy_and_a_line_has_all():
    maps = tensor_maps(torch.eye(3, dtype=torch.float64)[None] * 0.8, some_frame(1))
    assert float(maps["fa"]) == pytest.approx(0, abs=1e-9) and float(maps["md"]) == pytest.approx(0.8)
    values = torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 0, 0], [*EIGENVALUES]], dtype=torch.float64)
    assert fractional_anisotropy(values).tolist() == pytest.approx([1, 1 / np.sqrt(2), 0, FA])
    negative = tensor_maps(torch.diag(torch.tensor([1.0, 0.5, -0.3], dtype=torch.float64))[None], some_frame(1))
    assert float(negative["md"]) == pytest.approx(0.5) and float(negative["fa"]) <= 1


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES.keys())
@pytest.mark.parametrize("e2a", [30.0, -70.0, 0.0])
def test_the_maps_of_a_heart_are_those_that_it_was_made_with_whatever_the_affine(affine, e2a):
    tensors, helix = heart(affine, e2a)
    mask = ring()
    bvecs = fsl_directions(DIRECTIONS, affine)
    design = design_matrix(CHAPTER, Gradients(CHAPTER, bvecs).in_world(affine))
    values = signals(tensors[mask], CHAPTER, DIRECTIONS)
    voxels = np.argwhere(mask)
    frame = cardiac_frame(voxels, np.array([*CENTRE, 0]) * [1, 1, 0] + voxels * [0, 0, 1], affine, 2)
    maps = tensor_maps(fit_tensors(torch.from_numpy(values), torch.from_numpy(design)), frame)
    np.testing.assert_allclose(maps["md"], MD, atol=1e-9)
    np.testing.assert_allclose(maps["fa"], FA, atol=1e-9)
    np.testing.assert_allclose(maps["ha"], helix[mask], atol=1e-6)
    np.testing.assert_allclose(maps["e2a"], e2a, atol=1e-6)


def test_a_right_handed_helix_is_positive():
    """A spiral stair that rises counterclockwise, seen from above, which is from the base."""
    frame = cardiac_frame(np.array([[5.0, 0, 0]]), np.zeros((1, 3)), np.eye(4), 2)
    rising = np.array([0, 1, 1]) / np.sqrt(2)  # at the right side of the patient, to the front and up
    tensor = torch.from_numpy(np.outer(rising, rising) + 0.1 * np.eye(3))[None]
    assert float(tensor_maps(tensor, frame)["ha"]) == pytest.approx(45)


def test_the_x_of_fsl_is_reversed_only_where_the_determinant_is_positive():
    gradients = Gradients(np.array([1000.0]), np.array([[1.0, 0, 0]]))
    assert gradients.in_world(np.diag([2.0, 2, 2, 1])).tolist() == [[-1, 0, 0]]
    assert gradients.in_world(np.diag([-2.0, 2, 2, 1])).tolist() == [[-1, 0, 0]]  # stored from the left


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis_of_the_array_may_stack_the_planes(axis):
    affine = AFFINES["oblique"]
    order = [0, 1]
    order.insert(axis, 2)  # where the stack goes
    moved = affine[:, [*order, 3]]
    voxels = np.argwhere(ring())
    centres = voxels * [0, 0, 1] + np.array([*CENTRE, 0])
    one = cardiac_frame(voxels, centres, affine, 2)
    other = cardiac_frame(voxels[:, order], centres[:, order], moved, axis)
    for name in ("radial", "circumferential", "longitudinal", "radius"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name))
    found = slice_centres(np.transpose(ring(), order), axis, None)
    np.testing.assert_allclose(found[0, order.index(0)], CENTRE[0], atol=1e-9)


def test_angles_of_axes_wrap_at_half_a_turn():
    assert wrapped(torch.tensor([0.0, 89, 90, 91, -90, 179, -179])).tolist() == [0, 89, -90, -89, -90, -1, 1]
    zero = dict.fromkeys(("md", "fa"), torch.zeros(2))
    one = zero | {"ha": torch.tensor([89.0, 10]), "e2a": torch.tensor([-89.0, 0])}
    other = zero | {"ha": torch.tensor([-89.0, 12]), "e2a": torch.tensor([89.0, 0])}
    assert rmse(one, other) == pytest.approx({"md": 0, "fa": 0, "ha": 2, "e2a": np.sqrt(2)})


def test_the_profile_is_a_mean_of_axes_in_each_part_of_the_wall():
    depth = torch.tensor([0.0, 0.1, 0.5, 0.6, 1.0], dtype=torch.float64)
    angles = torch.tensor([88.0, -88, 10, 20, -40])
    first, second, third = angle_profile(angles, depth, 3)
    assert abs(first) == pytest.approx(90, abs=1e-3) and second == pytest.approx(15, abs=1e-3)
    assert third == pytest.approx(-40, abs=1e-3) and angle_profile(angles[:2], depth[:2], 2)[1] is None


def test_the_depth_runs_from_the_inner_to_the_outer_edge_of_each_slice():
    voxels = np.argwhere(ring())
    frame = cardiac_frame(voxels, voxels * [0, 0, 1] + np.array([*CENTRE, 0]), np.eye(4), 2)
    depth = wall_depth(frame, torch.from_numpy(voxels[:, 2])).numpy()
    assert depth.min() == 0 and depth.max() == 1
    np.testing.assert_allclose(depth, depth_of(np.eye(4))[ring()], atol=0.13)  # edges are whole voxels
    thin = Frame(*[torch.zeros(1, 3)] * 3, torch.tensor([5.0], dtype=torch.float64), torch.zeros(1))
    assert wall_depth(thin, torch.zeros(1, dtype=torch.long)).tolist() == [0.5]


@pytest.mark.parametrize("affine", ["positive determinant", "oblique and flipped"])
def test_the_command_leaves_maps_tables_and_a_picture(affine, tmp_path):
    study = make_study(tmp_path, AFFINES[affine])
    text = diffusion(**study)
    names = {f"{method}_{name}.nii.gz" for method in ("HR", "SR") for name in ("md", "fa", "ha", "e2a")}
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == names | {"maps.csv", "maps.json", "maps.md", "maps.png"}
    mask = ring()
    helix = heart(AFFINES[affine])[1]
    np.testing.assert_allclose(load(tmp_path, "HR_md")[mask], MD, atol=1e-4)
    np.testing.assert_allclose(load(tmp_path, "HR_ha")[mask], helix[mask], atol=0.05)
    assert not load(tmp_path, "HR_fa")[~mask].any()
    np.testing.assert_allclose(nib.load(tmp_path / "out" / "SR_ha.nii.gz").affine, AFFINES[affine])
    found = json.loads((tmp_path / "out" / "maps.json").read_text())
    expected = np.sqrt(np.mean((helix[mask] / 2) ** 2))
    assert found["rmse"]["SR"] == pytest.approx({"md": 0, "fa": 0, "ha": expected, "e2a": 0}, abs=0.05)
    assert found["voxels"] == mask.sum() and found["dark_voxels"] == {"HR": 0, "SR": 0}
    profile = found["profile"]
    assert profile["depth"][0] == 5 and profile["HR"][0] == pytest.approx(54, abs=6)
    assert profile["HR"][-1] == pytest.approx(-54, abs=6) and profile["SR"][0] == pytest.approx(27, abs=3)
    with open(tmp_path / "out" / "maps.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["method"] == "SR" and float(row["ha"]) == pytest.approx(expected, abs=0.05)
    assert text == (tmp_path / "out" / "maps.md").read_text() and "| RMSE over" in text and "| 95 % | -" in text
    with Image.open(tmp_path / "out" / "maps.png") as picture:
        assert picture.size[0] > 800 and len(picture.convert("L").getcolors(1 << 20)) > 20


def test_several_methods_stand_side_by_side_and_the_picture_can_be_left_out(study, tmp_path):
    diffusion(**{**study, "sr": f"bicubic={study['sr']},ours={study['hr']}", "curves": "false"})
    found = json.loads((tmp_path / "out" / "maps.json").read_text())
    assert list(found["rmse"]) == ["bicubic", "ours"] and max(found["rmse"]["ours"].values()) < 1e-9
    assert found["rmse"]["bicubic"]["ha"] > 10
    assert not (tmp_path / "out" / "maps.png").exists() and (tmp_path / "out" / "bicubic_fa.nii.gz").exists()


def test_a_centre_serves_without_a_mask_and_then_there_is_no_profile(study, tmp_path):
    study["mask"] = None
    diffusion(**study, centre=CENTRE, curves=False)
    found = json.loads((tmp_path / "out" / "maps.json").read_text())
    assert found["profile"] is None and found["voxels"] == np.prod(SIZE)
    inside = ring()
    np.testing.assert_allclose(load(tmp_path, "HR_ha")[inside], heart(np.eye(4))[1][inside], atol=0.05)


def test_the_septum_is_the_third_of_the_wall_around_its_middle(study, tmp_path):
    values = nib.load(study["hr"]).get_fdata()
    flat = signals(heart(AFFINES["positive determinant"], fewer=0)[0], CHAPTER, DIRECTIONS)
    values[: int(CENTRE[0]) + 1] = flat[: int(CENTRE[0]) + 1]  # no helix on one side
    save(tmp_path, "hr.nii.gz", values, AFFINES["positive determinant"])
    for at, first in (((CENTRE[0] - 12, CENTRE[1]), 0), ((CENTRE[0] + 12, CENTRE[1]), 54)):
        diffusion(**study, septum=at, curves=False)
        found = json.loads((tmp_path / "out" / "maps.json").read_text())
        assert found["profile"]["HR"][0] == pytest.approx(first, abs=6)


def test_a_label_chooses_the_wall_in_a_mask_of_several(study, tmp_path):
    labels = ring() * 2 + (np.hypot(*(np.indices(SIZE[:2]) - np.array(CENTRE)[:, None, None])) < INNER)[..., None]
    save(tmp_path, "mask.nii.gz", labels, AFFINES["positive determinant"])
    diffusion(**study, label=2, curves=False)
    assert json.loads((tmp_path / "out" / "maps.json").read_text())["voxels"] == ring().sum()
    with pytest.raises(ValueError, match=r"mask\.nii\.gz: must have voxels of label 7, got \[0\. 1\. 2\.\]; draw them"):
        diffusion(**study, label=7)


@pytest.mark.parametrize(
    ("bvals", "bvecs", "match"),
    [
        ("0 600 x", None, r"a\.bval: must be a text file of numbers"),
        ("0 600", None, r"a\.bvec: must hold a direction for each of the 2 b-values in .*, 3 x 2 numbers, got 3 x 8"),
        (
            None,
            "0 " * 8 + "\n" + "1 " * 8 + "\n" + "1 " * 8,
            r"a\.bvec: directions must be of length 1 .* volume 0",
        ),
        ("-1 " * 8, None, r"a\.bval: b-values must be finite and at least 0"),
        ("600 " * 8, None, "bval and bvec: must tell S0 and six elements .* two different b-values"),
        ("", None, r"a\.bval: must be a text file of numbers, got an empty one"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_files_of_gradients_that_cannot_serve_are_named(bvals, bvecs, match, study):
    for name, text in (("bval", bvals), ("bvec", bvecs)):
        if text is not None:
            Path(study[name]).write_text(text)
    with pytest.raises(ValueError, match=match):
        diffusion(**study)
    assert not Path(study["output_dir"]).exists()


def test_a_weak_measurement_may_have_no_direction_and_directions_may_be_in_rows(tmp_path):
    (tmp_path / "b").write_text("0 5 1000")
    np.savetxt(tmp_path / "v", [[np.nan, 0, 1], [np.nan, 0, 0], [np.nan, 0, 0]])
    assert read_gradients(tmp_path / "b", tmp_path / "v").bvecs.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    (tmp_path / "b").write_text("1000\n" * 7)
    np.savetxt(tmp_path / "v", DIRECTIONS[:7])
    np.testing.assert_allclose(read_gradients(tmp_path / "b", tmp_path / "v").bvecs, DIRECTIONS[:7])


def test_images_that_do_not_belong_together_are_named_with_a_remedy(study, tmp_path):
    affine = AFFINES["positive determinant"]
    values = nib.load(study["hr"]).get_fdata()
    small = save(tmp_path, "small.nii.gz", values[:20], affine)
    moved = save(tmp_path, "moved.nii.gz", values, np.diag([1.0, 1, 7, 1]))
    short = save(tmp_path, "short.nii.gz", values[..., :7], affine)
    broken = save(tmp_path, "broken.nii.gz", np.where(values > values.mean(), np.nan, values), affine)
    empty = save(tmp_path, "empty.nii.gz", np.zeros(SIZE), affine)
    for change, match in (
        (
            {"sr": small},
            r"small\.nii\.gz: must lie on the grid of .*hr\.nii\.gz with its affine and 41 x 39 x 2",
        ),
        ({"sr": moved}, r"moved\.nii\.gz: must lie on the grid of .*; magnify LR by the factor"),
        ({"sr": short}, r"short\.nii\.gz: must hold a volume for each of the 8 b-values in .*a\.bval, got 7; pass the"),
        ({"hr": short}, r"short\.nii\.gz: must hold a volume for each of the 8 b-values"),
        ({"sr": broken}, r"broken\.nii\.gz: values must be finite"),
        ({"mask": empty}, r"empty\.nii\.gz: must have voxels above 0"),
        ({"mask": str(tmp_path / "none.nii")}, r"none\.nii: not a readable NIfTI file"),
        ({"mask": None}, r"hr\.nii\.gz: --mask or --centre must say where the ventricle is, got no mask; pass --mask"),
        ({"mask": None, "centre": [3, 4], "septum": [1, 2]}, "--label and --septum need --mask"),
        ({"centre": [3]}, r"centre: must be two voxel indices in the plane, got \[3\]; pass --centre 40,38"),
        ({"sr": "HR=a.nii,x=b.nii"}, "sr: must be FILE or name=FILE,name=FILE with different names, none HR, got"),
        ({"curves": "perhaps"}, "curves: must be true or false, got perhaps"),
    ):
        with pytest.raises(ValueError, match=match):
            diffusion(**{**study, **change})
    assert not Path(study["output_dir"]).exists()


def test_without_matplotlib_the_remedy_is_said(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        ValueError, match=r'matplotlib: must be installed .* pip install -e "\.\[curves\]", or pass --c'
    ):
        diffusion(**study)
    diffusion(**study, curves=False)


def test_names_and_points_are_read_as_a_command_line_gives_them():
    assert named_series("a.nii.gz") == {"SR": "a.nii.gz"}
    assert named_series(("x=a.nii", "y=b.nii")) == named_series("x=a.nii, y=b.nii") == {"x": "a.nii", "y": "b.nii"}
    assert point("40,38.5", "centre") == point((40, 38.5), "centre") == point("[40,38.5]", "centre") == (40, 38.5)
    for wrong in ("x=a.nii,x=b.nii", "a.nii,b.nii", "x=a.nii,../y=b.nii"):
        with pytest.raises(ValueError, match="sr: must be FILE or name=FILE"):
            named_series(wrong)


def test_the_command_line_ends_in_one_sentence_where_a_file_is_missing(study, tmp_path):
    words = [f"--{name}={value}" for name, value in study.items() if name != "bvec"]
    done = subprocess.run(
        [sys.executable, "-m", "common", "diffusion", *words, "--bvec", str(tmp_path / "none"), "--centre", "19,20"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "none: must be a text file of numbers" in done.stderr.splitlines()[-1]
