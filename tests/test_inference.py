"""The whole way of an image, file to file, through MONAI's runner and the inference config."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from common.consistency import residual
from common.geometry import find_slice_axis, spacing
from tests.helpers import blobs, data_dir, identity, oblique, run_inference, save_nifti, stored, world


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("scale", "shape", "steps", "flip"),
    [
        (2, (17, 12, 5), (0.9, 0.9, 3.3), ()),
        (3, (11, 16, 4), (1.1, 0.7, 4.0), (0,)),
        (4, (13, 9, 3), (0.8, 0.8, 5.0), (1, 2)),
        (4, (3, 15, 10), (6.0, 0.9, 0.9), (0, 1, 2)),
        (2, (10, 3, 13), (0.5, 2.0, 0.7), (1,)),
        (3, (9, 11, 7), (1.0, 1.0, 1.0), (2,)),  # isotropic: stacked along superior-inferior
    ],
)
def test_every_voxel_of_a_ramp_keeps_its_world_coordinate(tmp_path, scale, shape, steps, flip):
    affine = oblique(steps, flip)
    for axis, name in enumerate("xyz"):
        save_nifti(tmp_path / f"{name}.nii.gz", world(affine, shape)[axis].astype(np.float32), affine)
    network = {"_target_": "tests.helpers.Interpolate", "scale": scale}
    run_inference(tmp_path, tmp_path / "out", scale=scale, network_def=network)
    stack = find_slice_axis(affine, shape)
    expected = tuple(n if axis == stack else n * scale for axis, n in enumerate(shape))
    rim = tuple(slice(None) if axis == stack else slice(scale, -scale) for axis in range(3))
    for axis, name in enumerate("xyz"):
        out = nib.load(tmp_path / "out" / f"{name}_srx{scale}.nii.gz")
        assert out.shape == expected
        np.testing.assert_allclose(out.get_fdata()[rim], world(out.affine, expected)[axis][rim], atol=2e-4)
        ratio = np.array(spacing(affine)) / np.array(expected) * np.array(shape)
        np.testing.assert_allclose(out.header.get_zooms(), ratio, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "low", "high", "slope", "intercept"),
    [
        ("uint8", 0, 256, 1.0, 0.0),
        ("int16", -32768, 32768, 0.5, -1024.0),
        ("int16", -1024, 3072, 1.0, 0.0),
        ("int16", -300, 300, -2.0, 5.0),
        ("uint16", 0, 65536, 1.0, 0.0),
        ("uint16", 31000, 33000, 0.1, 0.0),
        ("int8", -128, 128, 1.0, 0.0),
        ("int32", -(2**20), 2**20, 1.0, 0.0),
    ],
)
def test_an_identity_network_returns_integers_bit_by_bit(tmp_path, dtype, low, high, slope, intercept):
    values = np.random.default_rng(0).integers(low, high, size=(15, 10, 4)).astype(dtype)
    path = save_nifti(tmp_path / "a.nii.gz", values, oblique((1, 1, 3)), slope, intercept)
    run_inference(path, tmp_path / "out", **identity())
    out = tmp_path / "out" / "a_srx1.nii.gz"
    assert stored(out).dtype == np.dtype(dtype) and stored(out).tobytes() == values.tobytes()
    header = nib.load(out).dataobj
    assert (header.slope, header.inter) == (np.float32(slope), intercept)
    assert np.array_equal(nib.load(out).affine, nib.load(path).affine)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_identity_network_returns_floats_bit_by_bit(tmp_path, dtype):
    values = np.random.default_rng(0).normal(-3, 50, size=(15, 10, 4)).astype(np.float32)
    values[0, 0] = [0.0, -0.0, 1e-30, -12345.678]
    path = save_nifti(tmp_path / "a.nii.gz", values.astype(dtype), oblique((1, 1, 3)))
    run_inference(path, tmp_path / "out", **identity())
    assert stored(tmp_path / "out" / "a_srx1.nii.gz").tobytes() == values.astype(dtype).tobytes()


def test_one_bad_file_costs_no_other(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    values = (blobs((12, 10, 4)) * 200).astype(np.uint8)
    good = save_nifti(source / "a.nii.gz", values, oblique((1, 1, 3))).read_bytes()
    (source / "b.nii.gz").write_bytes(good[: len(good) // 2])
    (source / "deep").mkdir()
    (source / "deep" / "c.nii.gz").write_bytes(good)
    with pytest.raises(SystemExit, match=r"1 of 3 images failed, the others are done:\n  \S*b\.nii\.gz: ") as stop:
        run_inference(source, tmp_path / "out", **identity())
    assert "copy or export the file again" in str(stop.value)
    written = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert written == ["a_srx1.nii.gz", "cases.jsonl", "deep/c_srx1.nii.gz"]
    first, second, third = lines(tmp_path / "out")
    assert "b.nii.gz" in second["error"] and "error" not in first and "error" not in third


def test_each_case_leaves_one_line_that_says_what_was_done(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", (blobs((12, 10, 4)) * 200).astype(np.uint8), oblique((1, 1, 3)))
    run_inference(path, tmp_path / "out", **identity(), weights="f" * 64)
    run_inference(path, tmp_path / "elsewhere", **identity(), weights="f" * 64)
    run_inference(path, tmp_path / "other", **identity(), weights="f" * 64, self_ensemble=True)
    (line,), (again,), (other,) = (lines(tmp_path / name) for name in ("out", "elsewhere", "other"))
    assert line["input"] == str(path) and line["output"] == str(tmp_path / "out" / "a_srx1.nii.gz")
    assert line["weights_sha256"] == "f" * 64 and line["device"] == "cpu" and line["scale"] == 1
    assert line["slice_axis"] == 2 and line["spacing"] == line["sr_spacing"] and line["sr_shape"] == [12, 10, 4]
    assert line["consistency_residual"] == 0 and line["warnings"] == []
    assert line["seconds"] > 0 and line["peak_memory_mb"] > 50
    assert len(line["config_sha256"]) == 64 and line["config_sha256"] == again["config_sha256"]
    assert other["config_sha256"] != line["config_sha256"]


@pytest.mark.parametrize(("dtype", "top"), [("float32", 1), ("uint8", 255)])
def test_the_residual_in_the_line_is_the_one_in_the_file(tmp_path, dtype, top):
    values = (blobs((16, 12, 3)) * top).astype(dtype)
    values[4:8, 4:8] = values.max()
    path = save_nifti(tmp_path / "a.nii.gz", values, oblique((1, 1, 3)))
    network = {"_target_": "tests.helpers.Interpolate", "scale": 2}
    for folder, bound in (("out", None), ("bound", 1e-4)):
        run_inference(path, tmp_path / folder, scale=2, network_def=network, consistency_bound=bound)
        high = torch.from_numpy(stored(tmp_path / folder / "a_srx2.nii.gz").astype(np.float32)).permute(2, 0, 1)
        left = residual(high[:, None], torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[:, None])
        expected = float(left.square().mean().sqrt()) / float(values.max() - values.min())
        (line,) = lines(tmp_path / folder)
        assert line["consistency_residual"] == pytest.approx(expected, rel=1e-3)
        if bound is None:
            assert line["consistency_residual"] > 1e-3
        elif expected > bound:  # rounding or clipping to the stored type undid some of it
            assert any("a plane of the saved image has a consistency residual" in text for text in line["warnings"])
    assert (expected <= 1e-4) == (dtype == "float32")


def test_clipped_values_are_counted_in_the_warnings(tmp_path):
    values = np.zeros((16, 16, 2), np.uint8)
    values[4:12, 4:12] = 255  # back-projection rings beyond the range of the type
    path = save_nifti(tmp_path / "a.nii.gz", values, oblique((1, 1, 3)))
    network = {"_target_": "tests.helpers.Interpolate", "scale": 4}
    run_inference(path, tmp_path / "out", scale=4, network_def=network, consistency_bound=1e-2)
    texts = lines(tmp_path / "out")[0]["warnings"]
    assert any("outside the stored range (uint8) were clipped" in text for text in texts)
    assert stored(tmp_path / "out" / "a_srx4.nii.gz").max() == 255


def test_slice_axis_and_volume_are_taken_from_the_command_line(tmp_path):
    values = np.random.default_rng(0).integers(0, 99, size=(8, 6, 5, 3)).astype(np.uint8)
    path = save_nifti(tmp_path / "a.nii.gz", values, oblique((1, 1, 3)))
    network = {"_target_": "tests.helpers.Interpolate", "scale": 2}
    run_inference(path, tmp_path / "out", scale=2, network_def=network, volume=1, slice_axis=0)
    out = stored(tmp_path / "out" / "a_srx2.nii.gz")
    assert out.shape == (8, 12, 10)
    low = np.round(out.reshape(8, 6, 2, 5, 2).mean(axis=(2, 4)))
    assert np.corrcoef(low.ravel(), values[..., 1].ravel())[0, 1] > 0.9
    assert lines(tmp_path / "out")[0]["slice_axis"] == 0


def test_several_channels_go_through(tmp_path):
    values = np.random.default_rng(0).integers(0, 99, size=(8, 6, 5, 4)).astype(np.int16)
    path = save_nifti(tmp_path / "a.nii.gz", values, oblique((1, 1, 3)))
    run_inference(path, tmp_path / "out", **identity(), in_channels=4, channels_last=True)
    assert np.array_equal(stored(tmp_path / "out" / "a_srx1.nii.gz"), values)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1), (7, 1, 5), (5, 4, 1), (6, 5)])
def test_a_pixel_a_slice_and_less_than_a_window_work_with_the_real_network(tmp_path, shape):
    values = np.random.default_rng(0).integers(0, 4000, size=shape).astype(np.int16)
    path = save_nifti(tmp_path / "a.nii.gz", values, oblique((1, 1, 3)))
    run_inference(path, tmp_path / "out", **{"network_def#groups": 1})
    assert stored(tmp_path / "out" / "a_srx4.nii.gz").size == values.size * 16


def test_a_constant_image_works(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", np.full((9, 8, 3), 700, np.int16), oblique((1, 1, 3)))
    network = {"_target_": "tests.helpers.Interpolate", "scale": 2}
    run_inference(path, tmp_path / "out", scale=2, network_def=network)
    assert np.all(stored(tmp_path / "out" / "a_srx2.nii.gz") == 700)
    assert lines(tmp_path / "out")[0]["consistency_residual"] < 1e-6


def bad(tmp_path, name: str):
    values = (blobs((12, 10, 4)) * 200).astype(np.float32)
    affine = oblique((1, 1, 3))
    if name == "nan":
        values[3, 3, 3] = np.nan
    if name == "infinity":
        values[3, 3, 3] = np.inf
    if name == "channels":
        values = np.stack([values] * 3, axis=3)
    path = save_nifti(tmp_path / f"{name}.nii.gz", values, affine)
    if name == "no image":
        path.write_text("no image")
    if name == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    return path


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("no image", "copy or export the file again"),
        ("truncated", "copy or export the file again"),
        ("nan", "replace those voxels"),
        ("infinity", "replace those voxels"),
        ("channels", "pass --volume N"),
    ],
)
def test_bad_images_give_their_name_the_remedy_and_no_output(tmp_path, name, remedy):
    path = bad(tmp_path, name)
    with pytest.raises(SystemExit, match=rf"1 of 1 images failed:\n  \S*{path.name}: .*{remedy}"):
        run_inference(path, tmp_path / "out", **identity())
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["cases.jsonl"]


def test_out_of_memory_is_named_and_the_smaller_image_is_done(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name, width in (("large", 40), ("small", 10)):
        save_nifti(source / f"{name}.nii.gz", np.zeros((12, width, 3), np.uint8), oblique((1, 1, 3)))
    network = {"_target_": "tests.helpers.Explode", "limit": 32}
    with pytest.raises(SystemExit, match=r"1 of 2 .*\n  \S*large\.nii\.gz: out of memory; pass a smaller --memory_mb"):
        run_inference(source, tmp_path / "out", scale=1, network_def=network)
    assert (tmp_path / "out" / "small_srx1.nii.gz").exists()


@pytest.mark.parametrize("kind", ["empty", "missing", "other"])
def test_nothing_to_do_is_an_error(tmp_path, kind):
    source = tmp_path / "in"
    if kind != "missing":
        source.mkdir()
    if kind == "other":
        (source / "notes.txt").write_text("no image")
    with pytest.raises(SystemExit, match=r"in: .*check --dataset_dir"):
        run_inference(source, tmp_path / "out", **identity())


def test_an_output_folder_that_cannot_be_written_is_named(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", np.zeros((4, 4, 2), np.uint8), oblique((1, 1, 3)))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit, match=r"file: cannot be written .*; choose another --output_dir"):
        run_inference(path, tmp_path / "file", **identity())


def test_results_in_the_input_folder_are_not_taken_for_input(tmp_path):
    save_nifti(tmp_path / "a.nii.gz", np.ones((4, 4, 2), np.uint8), oblique((1, 1, 3)))
    save_nifti(tmp_path / "b.nii", np.ones((4, 4, 2), np.uint8), oblique((1, 1, 3)))
    run_inference(tmp_path, tmp_path, **identity())
    with pytest.raises(SystemExit, match=r"error: 2 of 2 images failed:\n.*a_srx1.*exists already"):
        run_inference(tmp_path, tmp_path, **identity())
    assert sorted(p.name for p in tmp_path.glob("*.nii*")) == ["a.nii.gz", "a_srx1.nii.gz", "b.nii", "b_srx1.nii"]


def test_links_keep_their_own_place(tmp_path):
    (tmp_path / "store").mkdir()
    for i in range(2):
        target = save_nifti(tmp_path / "store" / f"{i}.nii.gz", np.full((4, 4, 2), i + 1, np.uint8), oblique((1, 1, 3)))
        (tmp_path / "in" / f"sub-{i}").mkdir(parents=True)
        (tmp_path / "in" / f"sub-{i}" / "T1w.nii.gz").symlink_to(target)
    run_inference(tmp_path / "in", tmp_path / "out", **identity())
    assert [stored(tmp_path / "out" / f"sub-{i}" / "T1w_srx1.nii.gz").max() for i in range(2)] == [1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 20}, "tile: must be at least 64, twice the overlap, got 20"),
        ({"amp_dtype": "float16"}, "float16 overflows in Swin layers"),
        ({"self_ensemble": "maybe"}, "self_ensemble: must be true or false, got maybe"),
        ({"self_ensembel": True}, "--self_ensembel: there is no such setting; did you mean --self_ensemble?"),
        ({"slice_axs": 0}, "--slice_axs: there is no such setting; did you mean --slice_axis?"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_sentence(tmp_path, options, message):
    path = save_nifti(tmp_path / "a.nii.gz", np.ones((4, 4, 2), np.uint8), oblique((1, 1, 3)))
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        run_inference(path, tmp_path / "out", **identity(), **options)
    assert not (tmp_path / "out" / "a_srx1.nii.gz").exists()


def test_the_device_may_be_a_word(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", np.ones((4, 4, 2), np.uint8), oblique((1, 1, 3)))
    run_inference(path, tmp_path / "out", **identity(), device="cpu")
    assert lines(tmp_path / "out")[0]["device"] == "cpu"


def test_two_images_of_one_name_do_not_replace_each_other(tmp_path):
    for name, value in (("a.NII", 1), ("a.nii", 2)):
        save_nifti(tmp_path / "image.nii", np.full((4, 4, 2), value, np.uint8), oblique((1, 1, 3)))
        (tmp_path / "image.nii").rename(tmp_path / name)
    with pytest.raises(SystemExit, match=r"a\.nii: its result would replace that of \S*a\.NII; rename"):
        run_inference(tmp_path, tmp_path / "out", **identity())
    assert stored(tmp_path / "out" / "a_srx1.nii").max() == 1


def test_a_real_stack_of_thick_slices(tmp_path):
    path = data_dir() / "brain_mr" / "fetal_stacks" / "sub-01_run-1_T2w.nii.gz"
    run_inference(path, tmp_path / "out", **identity())
    assert stored(tmp_path / "out" / "sub-01_run-1_T2w_srx1.nii.gz").tobytes() == stored(path).tobytes()
    assert lines(tmp_path / "out")[0]["slice_axis"] == int(np.argmax(nib.load(path).header.get_zooms()))


def test_what_nobody_foresaw_is_named_too(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", np.ones((4, 4, 2), np.uint8), oblique((1, 1, 3)))
    with pytest.raises(SystemExit, match=r"a\.nii\.gz: unexpected TypeError: .*please report it"):
        run_inference(path, tmp_path / "out", **identity(), inferer={"_target_": "tests.helpers.Misfit"})
    assert "TypeError" in lines(tmp_path / "out")[0]["error"]


def test_the_residual_of_huge_values_is_a_number_that_json_knows(tmp_path):
    values = (blobs((20, 18, 2)) * 1e33).astype(np.float32)
    path = save_nifti(tmp_path / "a.nii.gz", values, oblique((1, 1, 3)))
    network = {"scale": 2, "network_def": {"_target_": "tests.helpers.Interpolate", "scale": 2}}
    run_inference(path, tmp_path / "out", **network)
    assert 0 < lines(tmp_path / "out")[0]["consistency_residual"] < 1
