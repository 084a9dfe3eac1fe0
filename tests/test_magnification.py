"""Any factor, one for each axis, or a target spacing in mm: grids, geometry and what is refused, from file to file."""

import json
import math

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from PIL import Image

from common.consistency import residual
from common.errors import CaseWarning
from common.geometry import find_slice_axis, first_voxel, resized_affine, spacing
from common.inferers import AnyScaleInferer
from common.magnification import Magnification, PlaneGrid
from common.memory import MB, resident_mb
from common.transforms.degradation import cubic_weights, resample
from tests.dicom_samples import ct_series
from tests.helpers import (
    InterpolateAnyScale,
    blobs,
    oblique,
    run_any_scale,
    save_nifti,
    world,
)


def line(folder) -> dict:
    (only,) = [json.loads(text) for text in (folder / "cases.jsonl").read_text().splitlines()]
    return only


def save_ramps(folder, affine, shape) -> None:
    for axis, name in enumerate("xyz"):
        save_nifti(folder / f"{name}.nii.gz", world(affine, shape)[axis].astype(np.float32), affine)


def assert_ramps_stayed(folder, label, stack, rim) -> tuple:
    inner = tuple(slice(None) if axis == stack else slice(rim, -rim) for axis in range(3))
    for axis, name in enumerate("xyz"):
        out = nib.load(folder / f"{name}_sr{label}.nii.gz")
        np.testing.assert_allclose(out.get_fdata()[inner], world(out.affine, out.shape)[axis][inner], atol=3e-4)
        np.testing.assert_allclose(out.header.get_zooms(), spacing(out.affine), atol=1e-6)
    return out.shape, out.affine


@pytest.mark.parametrize(
    ("scale", "label", "shape", "steps", "flip"),
    [
        (1.3, "x1.3", (17, 12, 5), (0.9, 0.9, 3.3), ()),
        (2.5, "x2.5", (11, 16, 4), (1.1, 0.7, 4.0), (0,)),
        (3.7, "x3.7", (3, 15, 10), (6.0, 0.9, 0.9), (0, 1, 2)),
        ([2.0, 3.3], "x2x3.3", (10, 3, 13), (0.5, 2.0, 0.7), (1,)),
        ([1.0, 2.3], "x1x2.3", (13, 9, 3), (0.8, 0.8, 5.0), (1, 2)),
    ],
)
def test_every_voxel_of_a_ramp_keeps_its_world_coordinate_at_any_factor(tmp_path, scale, label, shape, steps, flip):
    affine = oblique(steps, flip)
    save_ramps(tmp_path, affine, shape)
    run_any_scale(tmp_path, tmp_path / "out", scale=scale)
    stack = find_slice_axis(affine, shape)
    size, moved = assert_ramps_stayed(tmp_path / "out", label, stack, 4)
    factors = list(scale) if isinstance(scale, list) else [scale] * 2
    factors.insert(stack, 1)
    assert size == tuple(math.floor(n * f + 0.5) for n, f in zip(shape, factors, strict=True))
    for corner in np.ndindex(2, 2, 2):  # edges are shared: the field of view stays
        before, after = (np.array([c * n - 0.5 for c, n in zip(corner, n, strict=True)]) for n in (shape, size))
        np.testing.assert_allclose(moved @ [*after, 1], affine @ [*before, 1], atol=1e-4)


@pytest.mark.parametrize(
    ("target", "label", "shape", "steps", "flip"),
    [
        ([0.5, 0.5], "0.5mm", (17, 12, 5), (0.9, 0.9, 3.3), ()),
        ([0.5, 0.5], "0.5mm", (17, 14, 5), (0.9375, 0.8, 3.3), (0,)),
        ([0.35, 0.3], "0.35x0.3mm", (3, 15, 10), (6.0, 0.9, 0.7), (0, 1, 2)),
        ([0.9, 0.4], "0.9x0.4mm", (12, 3, 13), (0.9, 2.0, 0.7), (1,)),  # the first axis has it already
        (0.45, "0.45mm", (13, 9, 3), (0.8, 0.8, 5.0), (1, 2)),
    ],
)
def test_a_target_spacing_is_exact_and_the_centre_stays(tmp_path, target, label, shape, steps, flip):
    affine = oblique(steps, flip)
    save_ramps(tmp_path, affine, shape)
    run_any_scale(tmp_path, tmp_path / "out", target_spacing=target)
    stack = find_slice_axis(affine, shape)
    size, moved = assert_ramps_stayed(tmp_path / "out", label, stack, 4)
    asked = list(target) if isinstance(target, list) else [target] * 2
    asked.insert(stack, steps[stack])
    np.testing.assert_allclose(spacing(moved), asked, rtol=1e-6)
    centres = [m @ [*((n - 1) / 2 for n in s), 1] for m, s in ((affine, shape), (moved, size))]
    np.testing.assert_allclose(centres[0], centres[1], atol=1e-4)
    fields = np.array(size) * asked, np.array(shape) * np.array(steps)
    assert (np.abs(fields[0] - fields[1]) <= np.array(asked) / 2 + 1e-6).all()  # within one SR pixel, half at each end
    written = json.loads((tmp_path / "out" / "cases.jsonl").read_text().splitlines()[0])
    assert written["target_spacing"] == target and written["scale"] is None
    np.testing.assert_allclose(written["sr_spacing"], asked, rtol=1e-5)
    np.testing.assert_allclose(written["factors"], np.array(steps) / asked, rtol=1e-5)


def test_other_formats_have_the_target_spacing_too(tmp_path):
    values = (blobs((21, 17, 4)) * 1000).astype(np.int16)
    image = sitk.GetImageFromArray(values.transpose(2, 1, 0))
    image.SetSpacing((0.8, 0.9, 5.0))
    image.SetOrigin((10, -20, 30))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    Image.fromarray((blobs((18, 26, 1))[..., 0] * 255).astype(np.uint8)).save(
        tmp_path / "b.png", dpi=(50.8, 50.8)
    )  # 0.5 mm
    run_any_scale(tmp_path, tmp_path / "out", target_spacing=[0.3, 0.3])
    out = sitk.ReadImage(str(tmp_path / "out" / "a_sr0.3mm.mha"))
    assert out.GetSize() == (56, 51, 4)
    np.testing.assert_allclose(out.GetSpacing(), (0.3, 0.3, 5.0), rtol=1e-6)
    before = image.TransformContinuousIndexToPhysicalPoint([10.0, 8.0, 1.0])
    np.testing.assert_allclose(out.TransformContinuousIndexToPhysicalPoint([27.5, 25.0, 1.0]), before, atol=1e-4)
    with Image.open(tmp_path / "out" / "b_sr0.3mm.png") as png:
        assert png.size == (43, 30) and png.info["dpi"] == pytest.approx((25.4 / 0.3,) * 2, rel=1e-3)


def test_a_derived_series_has_the_target_spacing_and_says_so(tmp_path):
    first = pydicom.dcmread(ct_series(tmp_path / "in")[0])
    run_any_scale(tmp_path / "in", tmp_path / "out", target_spacing=[0.4, 0.3])
    files = sorted((tmp_path / "out").rglob("*.dcm"))
    derived = [pydicom.dcmread(path) for path in files]
    at_same_place = min(
        derived, key=lambda d: abs(float(d.ImagePositionPatient[2]) - float(first.ImagePositionPatient[2]))
    )
    np.testing.assert_allclose([float(v) for v in at_same_place.PixelSpacing], (0.3, 0.4), rtol=1e-6)  # rows, columns
    centres = []
    for data in (first, at_same_place):
        turn = np.array([float(v) for v in data.ImageOrientationPatient]).reshape(2, 3)
        steps = [float(v) for v in data.PixelSpacing]
        place = np.array([float(v) for v in data.ImagePositionPatient])
        centres.append(place + turn[0] * steps[1] * (data.Columns - 1) / 2 + turn[1] * steps[0] * (data.Rows - 1) / 2)
    np.testing.assert_allclose(*centres, atol=1e-4)
    assert at_same_place.SeriesDescription.endswith("SR 0.4x0.3mm - not for diagnostic use")


def test_a_factor_beyond_those_trained_warns_in_the_line(tmp_path):
    save_nifti(tmp_path / "a.nii.gz", blobs((12, 10, 4)).astype(np.float32), oblique((1, 1, 3)))
    run_any_scale(tmp_path / "a.nii.gz", tmp_path / "out", scale=[2, 4.5])
    assert line(tmp_path / "out")["warnings"] == ["magnified by 4.5; trained were 1 to 4"]
    assert line(tmp_path / "out")["factors"] == [2.0, 4.5, 1.0]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"scale": 0.5}, "scale: must be finite and at least 1, got 0.5"),
        ({"scale": 0}, "scale: must be finite and at least 1, got 0"),
        ({"scale": "$float('nan')"}, "scale: must be finite and at least 1, got nan"),
        ({"scale": [2, 2, 2]}, r"scale: must be one number or two, one for each axis of a plane, got \[2, 2, 2\]"),
        ({"scale": "two"}, "scale: must be one number or two, one for each axis of a plane, got two"),
        ({"target_spacing": [0.5, 0]}, r"target_spacing: must be above 0 mm, got \[0.5, 0\]"),
        ({"target_spacing": [1, 1, 1]}, "target_spacing: must be one number or two"),
        (
            {"target_spacing": [0.5, 1.2]},
            r"a\.nii\.gz: the target spacing must not be coarser .* got 1.2 mm for an axis",
        ),
        ({"target_spacing": "fine"}, r"target_spacing: .* got fine; such as 0\.5 or \[0\.5,0\.6\]"),
        ({"scale": 5000}, r"a\.nii\.gz: memory_mb: 4000 is too little for a result that takes \d+ MB; pass a smaller"),
        ({"target_spacing": 1e-4}, "memory_mb: 4000 is too little .* a coarser --target_spacing"),
        ({"scale": 4, "memory_mb": "$3 + __import__('common.memory').memory.resident_mb() / 0.85"}, "pass --memory_mb"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(tmp_path, settings, match):
    save_nifti(tmp_path / "a.nii.gz", blobs((200, 190, 4)).astype(np.float32), oblique((1, 1, 3)))
    with pytest.raises(SystemExit, match=match):
        run_any_scale(tmp_path / "a.nii.gz", tmp_path / "out", **settings)
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_a_header_without_spacing_is_refused_for_a_target_spacing_alone(tmp_path):
    Image.fromarray((blobs((18, 26, 1))[..., 0] * 255).astype(np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(
        SystemExit, match=r"b\.png: a target spacing needs the spacing of the image, but its header has"
    ):
        run_any_scale(tmp_path / "b.png", tmp_path / "out", target_spacing=0.5)
    run_any_scale(tmp_path / "b.png", tmp_path / "other", scale=1.5)
    with Image.open(tmp_path / "other" / "b_srx1.5.png") as png:
        assert png.size == (39, 27)


def test_a_nifti_whose_spacing_is_zero_has_none(tmp_path):
    save_nifti(tmp_path / "a.nii", blobs((12, 10, 4)).astype(np.float32), oblique((1, 1, 3)))
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[80:92], content[252:256] = bytes(12), bytes(4)  # pixdim of three axes; codes of qform and sform
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(
        SystemExit, match=r"a\.nii: a target spacing needs the spacing of the image, but its header has"
    ):
        run_any_scale(tmp_path / "a.nii", tmp_path / "out", target_spacing=0.5)
    assert not list((tmp_path / "out").glob("*.nii"))
    run_any_scale(tmp_path / "a.nii", tmp_path / "other", scale=1.5)
    assert any("no spacing, for which 1 is taken" in text for text in line(tmp_path / "other")["warnings"])


def test_a_header_without_a_unit_is_taken_as_mm_with_a_warning(tmp_path):
    image = nib.Nifti1Image(blobs((12, 10, 4)).astype(np.float32), oblique((1, 1, 3)))
    image.header.set_xyzt_units("unknown")
    nib.save(image, tmp_path / "a.nii.gz")
    run_any_scale(tmp_path / "a.nii.gz", tmp_path / "out", target_spacing=0.5)
    assert line(tmp_path / "out")["warnings"] == ["the header names no unit of length; mm is assumed"]


def test_the_kernel_for_any_step_is_that_of_pytorch_where_the_edges_are_shared():
    image = torch.rand(2, 37, dtype=torch.float64)
    for size in (9, 15, 36, 50, 148):
        weights = cubic_weights(37, size, 37 / size)
        torch.testing.assert_close(image @ weights.T, resample(image, (size,)), atol=1e-12, rtol=0)


def test_resampling_by_a_step_keeps_a_ramp_around_the_centre():
    ramp = torch.arange(40, dtype=torch.float64) - 19.5
    for size, step in ((21, 1.9), (80, 0.5), (71, 1 / 1.8)):
        out = resample(ramp, (size,), steps=(step,))
        expected = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) * step
        torch.testing.assert_close(out[8:-8], expected[8:-8], atol=1e-9 if step < 1 else 1e-2, rtol=0)


def test_first_voxels_and_affines_agree_for_both_kinds_of_grid():
    affine = oblique((0.7, 1.1, 3.3))
    shared, exact = (
        resized_affine(affine, (10, 7, 3), (25, 18, 3)),
        resized_affine(affine, (10, 7, 3), (25, 18, 3), (0.4, 7 / 18, 1.0)),
    )
    np.testing.assert_allclose(shared, exact, atol=1e-12)
    assert first_voxel(10, 25) == pytest.approx((10 / 25 - 1) / 2)


def volume(shape, axis=2, steps=(1.0, 1.0, 4.0)) -> MetaTensor:
    affine = torch.tensor(oblique(steps))
    return MetaTensor(torch.rand(1, 1, *shape), affine=affine, meta={"original_affine": affine.numpy()})


class Blur(InterpolateAnyScale):
    """Looks 3 pixels far before it interpolates."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(*[torch.nn.Conv2d(n, m, 3, padding=1) for n, m in ((1, 24), (24, 24), (24, 1))])

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)

    def forward(self, x: torch.Tensor, scale: list, size: list, exact: bool = False) -> torch.Tensor:
        return self.upscale(self.features(x), scale, size, exact)


@pytest.mark.parametrize("asked", [{"scale": 2.3}, {"scale": [1.7, 3.1]}, {"target_spacing": 0.31}])
def test_tiles_equal_the_whole_plane_at_any_factor(asked):
    torch.manual_seed(0)
    network, image = Blur(), volume((150, 97, 2))
    whole, tiled = (AnyScaleInferer(Magnification(**asked), tile=tile)(image, network) for tile in (None, 64))
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)


def test_memory_decides_between_whole_planes_and_tiles_and_the_result_is_the_same():
    torch.manual_seed(0)
    network, image, asked = Blur(), volume((400, 380, 1)), Magnification(1.5)
    seen: list[tuple[int, ...]] = []
    network.body.register_forward_hook(lambda module, inputs, out: seen.append(tuple(inputs[0].shape[2:])))
    whole = AnyScaleInferer(asked)(image, network)
    output = 4 * 600 * 570
    cap = (resident_mb() * MB + output * 4 + 25e6) / 0.85 / MB
    seen.clear()
    tiled = AnyScaleInferer(asked, memory_mb=cap)(image, network)
    assert max(max(size) for size in seen) < 400
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("asked", [{"scale": [1.7, 3.1]}, {"target_spacing": [0.6, 0.31]}])
def test_the_self_ensemble_turns_the_factors_too(asked):
    image = volume((31, 31, 2))
    plain, mean = (
        AnyScaleInferer(Magnification(**asked), self_ensemble=flag)(image, InterpolateAnyScale())
        for flag in (False, True)
    )
    torch.testing.assert_close(mean, plain, atol=1e-5, rtol=0)  # linear interpolation is the same from all sides


@pytest.mark.parametrize("asked", [{"scale": [1.7, 3.1]}, {"target_spacing": [0.6, 0.31]}])
def test_back_projection_keeps_its_bound_at_any_factor(asked):
    image, bound = volume((31, 29, 2)), 1e-3
    magnification = Magnification(**asked)
    out = AnyScaleInferer(magnification, consistency_bound=bound)(image, InterpolateAnyScale())
    low, high = (x[0, 0].movedim(2, 0) for x in (image.as_tensor(), out))
    grid = magnification.grid_of(image)
    left = residual(high, low, grid.steps((31, 29)) if grid.exact else None)
    assert left.square().mean((1, 2)).sqrt().max() <= bound


def test_the_grid_of_a_transposed_plane_is_the_transposed_grid():
    grid = PlaneGrid.of((30, 20), (1.5, 2.3), exact=True)
    assert grid.size == (45, 46) and grid.transposed() == PlaneGrid.of((20, 30), (2.3, 1.5), exact=True)


@pytest.mark.parametrize(
    ("asked", "label"),
    [({"scale": 4}, "x4"), ({"scale": [2.0, 2.0]}, "x2"), ({"scale": [2]}, "x2"), ({"target_spacing": [0.5]}, "0.5mm")],
)
def test_labels_are_short(asked, label):
    assert Magnification(**asked).label == label


def test_a_host_s_image_has_its_spacing_in_mm():
    with pytest.warns(CaseWarning, match="magnified by 5; trained were 1 to 4"):
        grid = Magnification(target_spacing=[0.2, 0.5]).grid_of(volume((10, 12, 3))[0])
    assert grid.size == (50, 24) and grid.exact
