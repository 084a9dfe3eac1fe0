"""Inference of the region alone: its place, its values, its names, in every format, and what is refused."""

import json
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from PIL import Image
from pydicom.uid import UID

from common.blocks.detector import LesionDetector
from common.errors import CaseWarning
from common.io.case import Case
from common.io.deploy_image import image_of, volume_of
from common.io.formats import to_real_values
from common.io.transforms import CaseLoadImaged, CaseSaveImaged
from common.transforms.focus import FocusOnLesiond, median_centre
from common.transforms.grid import PlaceOnSuperResolvedGridd
from tests.dicom_enhanced_samples import enhanced_mr
from tests.dicom_samples import PADDING, ct_series, dx_image
from tests.dicom_series import read_back, save_series, world_of_pixels
from tests.helpers import INFERENCE, ROOT, blobs, identity, oblique, run_inference, save_nifti, stored, world
from tests.packed import pack_quickly, unpack
from tests.test_dicom_conformance import SAMPLES, new_findings

LINEAR = {"scale": 2, "network_def": {"_target_": "tests.helpers.Interpolate", "scale": 2}}
CENTRE = (0.3, 0.6)


def detector(path: Path, *centre: float, in_channels: int = 1) -> Path:
    """The file of a detector that always says ``centre``."""
    network = LesionDetector(in_channels, size=(2, 2), widths=(1,), hidden=())
    state = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    state["input_size"] = network.input_size
    state["tail.1.bias"] = torch.tensor(centre) - 0.5
    torch.save(state, path)
    return path


def focus(source: Path, output: Path, size: list, centre: tuple = CENTRE, bundle: str = "msgan", **overrides) -> dict:
    """Run a bundle on the region of ``size`` around ``centre``; the JSON line of the one image."""
    config = ROOT / "bundles" / bundle / "configs" / "inference.json"
    if "detector_path" not in overrides:
        overrides["detector_path"] = str(detector(output.parent / "detector.pt", *centre))
    settings = {"config_file": str(config), "lesion_focus": True, "region_size": size, **LINEAR, **overrides}
    run_inference(source, output, **settings)
    (line,) = [json.loads(text) for text in (output / "cases.jsonl").read_text().splitlines()]
    return line


def expected_box(shape: tuple, axis: int, size: list, scale: int, centre: tuple = CENTRE) -> list:
    planes = [n for number, n in enumerate(shape) if number != axis]
    box = []
    for part, n, side in zip(centre, planes, size, strict=True):
        first = min(max(round(part * n - side / scale / 2), 0), n - side // scale)
        box.append([first, first + side // scale])
    box.insert(axis, [0, shape[axis]])
    return box


def middle(affine: np.ndarray, box: list) -> np.ndarray:
    return (affine @ [*((first + end - 1) / 2 for first, end in box), 1])[:3]


@pytest.mark.parametrize("bundle", ["msgan", "srresnet"])
@pytest.mark.parametrize(
    ("shape", "steps", "flip", "axis"),
    [
        ((4, 21, 17), (5.0, 0.9, 0.9), (0, 2), 0),
        ((17, 3, 22), (0.8, 4.0, 0.7), (1,), 1),
        ((19, 24, 5), (0.9, 0.9, 3.3), (), 2),
    ],
)
def test_the_region_of_a_nifti_ramp_has_the_values_of_its_own_affine(tmp_path, bundle, shape, steps, flip, axis):
    affine, size = oblique(steps, flip), [16, 20]
    box = expected_box(shape, axis, size, 2)
    inner = tuple(slice(None) if n == axis else slice(2, -2) for n in range(3))
    for number, name in enumerate("xyz"):
        image = nib.Nifti1Image(world(affine, shape)[number].astype(np.float32), affine)
        image.header.set_xyzt_units("mm")
        image.set_qform(affine, code=1)
        nib.save(image, tmp_path / f"{name}.nii.gz")
        line = focus(tmp_path / f"{name}.nii.gz", tmp_path / name, size, bundle=bundle)
        assert line["slice_axis"] == axis and line["region"]["voxels"] == box
        np.testing.assert_allclose(line["region"]["centre_mm"], middle(affine, box), atol=1e-3)
        out = nib.load(tmp_path / name / f"{name}_srx2_region.nii.gz")
        assert out.shape == tuple((end - first) * (1 if n == axis else 2) for n, (first, end) in enumerate(box))
        np.testing.assert_allclose(out.get_fdata()[inner], world(out.affine, out.shape)[number][inner], atol=3e-4)
        np.testing.assert_allclose(out.header.get_qform(coded=True)[0], out.header.get_sform(), atol=1e-4)
        corners = [
            place @ [*where, 1] for place, where in ((out.affine, [-0.5] * 3), (affine, [b[0] - 0.5 for b in box]))
        ]
        np.testing.assert_allclose(*corners, atol=1e-4)  # edges are shared with the LR voxels


def test_the_network_sees_the_region_in_the_intensities_of_the_whole_image(tmp_path):
    values = np.random.default_rng(0).integers(-2000, 3000, (24, 20, 3)).astype(np.int16)
    source = save_nifti(tmp_path / "a.nii", values, oblique((1, 1, 3)), slope=-2.5, intercept=7)
    line = focus(source, tmp_path / "out", [12, 8], **identity())
    (left, right), (top, bottom), _ = line["region"]["voxels"]
    assert np.array_equal(stored(tmp_path / "out" / "a_srx1_region.nii"), values[left:right, top:bottom])
    assert line["consistency_residual"] == 0  # compared with the LR region, of the same size
    assert nib.load(line["output"]).dataobj.slope == -2.5


def test_a_header_without_orientation_gets_the_place_of_the_region(tmp_path):
    affine = np.diag([-0.9, 0.8, 3.0, 1.0])
    for number, name in enumerate("xyz"):
        image = nib.Nifti1Image(np.zeros((20, 18, 4), np.float32), None)
        image.header.set_zooms((0.9, 0.8, 3.0))
        image.header.set_xyzt_units("mm")
        affine = image.header.get_best_affine()
        image = nib.Nifti1Image(world(affine, (20, 18, 4))[number].astype(np.float32), None, image.header)
        nib.save(image, tmp_path / f"{name}.nii")
        line = focus(tmp_path / f"{name}.nii", tmp_path / name, [16, 12])
        out = nib.load(line["output"])
        expected = world(out.affine, out.shape)[number]
        np.testing.assert_allclose(out.get_fdata()[2:-2, 2:-2], expected[2:-2, 2:-2], atol=3e-4)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_the_region_of_an_itk_image_has_its_own_origin(tmp_path, suffix):
    for number in range(3):
        image = sitk.Image([21, 18, 4], sitk.sitkFloat32)
        image.SetSpacing((0.9, 0.7, 3.1))
        image.SetOrigin((-31.5, 12.25, 7.0))
        image.SetDirection(np.linalg.qr(oblique((1, 1, 1))[:3, :3])[0].ravel().tolist())
        for index in np.ndindex(image.GetSize()):
            image[index] = image.TransformIndexToPhysicalPoint(index)[number]
        folder = tmp_path / str(number)
        folder.mkdir()
        sitk.WriteImage(image, str(folder / f"a{suffix}"))
        line = focus(folder / f"a{suffix}", folder / "out", [16, 12])
        out = sitk.ReadImage(str(folder / "out" / f"a_srx2_region{suffix}"))
        assert out.GetSize() == (16, 12, 4)
        for index in np.ndindex(12, 8, 4):
            place = tuple(int(i) + 2 * (n < 2) for n, i in enumerate(index))
            assert abs(out[place] - out.TransformIndexToPhysicalPoint(place)[number]) < 1e-4
        box = line["region"]["voxels"]
        centre = image.TransformContinuousIndexToPhysicalPoint([(first + end - 1) / 2 for first, end in box])
        np.testing.assert_allclose(line["region"]["centre_mm"], np.array(centre) * [-1, -1, 1], atol=1e-3)


@pytest.mark.parametrize(("mode", "samples"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_region_of_a_picture_is_the_crop_with_its_alpha_and_resolution(tmp_path, suffix, mode, samples):
    values = np.random.default_rng(0).integers(0, 256, (30, 26, samples)).astype(np.uint8)
    Image.fromarray(values.squeeze(), mode).save(tmp_path / f"a{suffix}", dpi=(254, 127))
    colours = samples - (samples % 2 == 0)
    path = detector(tmp_path / "detector.pt", *CENTRE, in_channels=colours)
    line = focus(
        tmp_path / f"a{suffix}", tmp_path / "out", [12, 8], in_channels=colours, detector_path=str(path), **identity()
    )
    (left, right), (top, bottom), depth = line["region"]["voxels"]
    assert (right - left, bottom - top, depth) == (12, 8, [0, 1])
    with Image.open(tmp_path / "out" / f"a_srx1_region{suffix}") as out:
        assert np.array_equal(np.asarray(out).reshape(8, 12, samples), values[top:bottom, left:right])
        assert out.info["dpi"] == pytest.approx((254, 127), rel=1e-3)
    assert len(line["region"]["centre_mm"]) == 3


def test_a_picture_without_resolution_has_a_region_without_millimetres(tmp_path):
    Image.fromarray((blobs((18, 26, 1))[..., 0] * 255).astype(np.uint8)).save(tmp_path / "b.png")
    line = focus(tmp_path / "b.png", tmp_path / "out", [16, 12])
    assert line["region"]["voxels"][2] == [0, 1] and line["region"]["centre_mm"] is None
    with Image.open(tmp_path / "out" / "b_srx2_region.png") as png:
        assert png.size == (16, 12)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_region_of_a_dicom_ramp_has_the_values_of_its_own_place(tmp_path, axis):
    def store_own_place(dataset, number):
        place = world_of_pixels(dataset)[axis]
        dataset.PixelData = np.rint((place + 100) * 100).astype("<i2").tobytes()
        dataset.RescaleSlope, dataset.RescaleIntercept = "0.01", "-100"

    source = save_series(tmp_path / "in", np.zeros((4, 18, 22)), change=store_own_place)
    line = focus(source, tmp_path / "out", [20, 16])
    (left, right), (top, bottom), depth = line["region"]["voxels"]
    assert (right - left, bottom - top, depth) == (10, 8, [0, 4])
    for low, high in zip(read_back(source), read_back(Path(line["output"])), strict=True):
        assert (high.Rows, high.Columns) == (16, 20)
        values = high.pixel_array * float(high.RescaleSlope) + float(high.RescaleIntercept)
        assert np.abs((values - world_of_pixels(high)[axis])[2:-2, 2:-2]).max() < 0.011
        corner = world_of_pixels(low)[:, top : top + 2, left : left + 2]  # SR pixels begin a quarter before the middle
        along, down = corner[:, 0, 1] - corner[:, 0, 0], corner[:, 1, 0] - corner[:, 0, 0]
        np.testing.assert_allclose(world_of_pixels(high)[:, 0, 0], corner[:, 0, 0] - (along + down) / 4, atol=1e-5)


def test_a_derived_series_says_that_it_is_a_region(tmp_path):
    source = save_series(tmp_path / "in", np.random.default_rng(0).integers(0, 4096, (3, 18, 22)))
    line = focus(source, tmp_path / "out", [20, 16])
    assert line["output"].endswith("_srx2_region")
    (left, right), (top, bottom), _ = line["region"]["voxels"]
    first, whole = read_back(Path(line["output"])), tmp_path / "whole"
    run_inference(source, whole, config_file=str(INFERENCE.parents[2] / "msgan/configs/inference.json"), **LINEAR)
    (other,) = (path for path in whole.iterdir() if path.is_dir())
    where = f"columns {left + 1} to {right} and rows {top + 1} to {bottom}"
    for dataset, beside in zip(first, read_back(other), strict=True):
        assert dataset.SeriesDescription.endswith("SR x2 region - not for diagnostic use")
        assert dataset.DerivationDescription.startswith(f"Super-resolution x2 of {where} by ")
        assert "region" not in beside.SeriesDescription and " of columns " not in beside.DerivationDescription
        for name in ("SeriesInstanceUID", "SOPInstanceUID"):
            assert UID(dataset[name].value).is_valid and dataset[name].value != beside[name].value
        assert dataset.StudyInstanceUID == beside.StudyInstanceUID
        assert dataset.FrameOfReferenceUID == beside.FrameOfReferenceUID


@pytest.mark.parametrize("name", SAMPLES)
def test_a_derived_region_has_no_error_that_its_source_has_not(tmp_path, name):
    files = SAMPLES[name](tmp_path / "in")
    line = focus(tmp_path / "in", tmp_path / "out", [8, 12])
    result = Path(line["output"])
    for source, path in zip(files, sorted(result.iterdir()) if result.is_dir() else [result], strict=True):
        errors, warned = new_findings(source, path)
        assert not errors, warned


def test_frames_of_a_multi_frame_image_are_cropped_and_moved(tmp_path):
    (path,) = enhanced_mr(tmp_path / "in" / "mr.dcm")
    source = pydicom.dcmread(path)
    line = focus(path, tmp_path / "out", [8, 6], **identity())
    (left, right), (top, bottom), _ = line["region"]["voxels"]
    result = pydicom.dcmread(line["output"])
    assert np.array_equal(result.pixel_array, source.pixel_array[:, top:bottom, left:right])
    shared = source.SharedFunctionalGroupsSequence[0]
    turn = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    row, column = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    for before, after in zip(
        source.PerFrameFunctionalGroupsSequence, result.PerFrameFunctionalGroupsSequence, strict=True
    ):
        places = [np.array(g.PlanePositionSequence[0].ImagePositionPatient, float) for g in (before, after)]
        np.testing.assert_allclose(places[1] - places[0], left * column * turn[0] + top * row * turn[1], atol=1e-5)
        text = after.DerivationImageSequence[0].DerivationDescription
        assert f"of columns {left + 1} to {right} and rows {top + 1} to {bottom} by" in text


def test_padding_of_the_region_alone_is_restored(tmp_path):
    files = ct_series(tmp_path / "in")  # padding at two corners
    for corner in ((0.0, 0.0), (1.0, 1.0), (0.5, 0.5)):
        out = tmp_path / str(corner[0])
        line = focus(tmp_path / "in", out, [8, 12], corner)
        (left, right), (top, bottom), _ = line["region"]["voxels"]
        for low, high in zip(files, sorted(Path(line["output"]).iterdir()), strict=True):
            padded = pydicom.dcmread(low).pixel_array[top:bottom, left:right] == PADDING
            assert np.array_equal(pydicom.dcmread(high).pixel_array == PADDING, padded.repeat(2, 0).repeat(2, 1))


def test_a_detectors_field_of_view_is_left_out_of_a_region(tmp_path):
    (path,) = dx_image(tmp_path / "in" / "dx.dcm", FieldOfViewShape="RECTANGLE", FieldOfViewDimensions=[2, 2])
    line = focus(path, tmp_path / "out", [8, 12])
    assert any("field of view" in text for text in line["warnings"])
    assert "FieldOfViewDimensions" not in pydicom.dcmread(line["output"])


def test_hosts_get_the_real_values_and_the_place_of_the_region(tmp_path):
    ct_series(tmp_path / "in")
    lesion = FocusOnLesiond(
        enabled=True, detector_path=detector(tmp_path / "d.pt", 0.0, 0.0), in_channels=1, size=(4, 6), scale=1
    )
    read = lesion(CaseLoadImaged("image")({"image": tmp_path / "in"}))
    data = PlaceOnSuperResolvedGridd("pred")({**read, "pred": read["image"].as_tensor().clone()})
    array, metadata = image_of(data["pred"])  # as MONAI Deploy passes it on
    back = volume_of(array, metadata)
    saver = CaseSaveImaged("pred", output_dir=tmp_path / "out", output_postfix="srx1", region=True)
    assert saver({"pred": back})["pred"].meta["saved_to"].endswith("_srx1_region")
    values, case = data["pred"].as_tensor().numpy().copy(), Case.from_meta(data["pred"].meta)
    to_real_values(values, case)
    first = pydicom.dcmread(sorted((tmp_path / "in").iterdir())[0])
    np.testing.assert_allclose(values[0, :, :, 0].T, first.pixel_array[:6, :4] - 1024.0)


def test_an_image_without_a_record_is_cropped_by_its_affine(tmp_path):
    affine = torch.tensor(oblique((1, 1, 4)))
    image = MetaTensor(torch.rand(1, 20, 16, 3), affine=affine, meta={"original_affine": affine.numpy()})
    lesion = FocusOnLesiond(
        enabled=True, detector_path=detector(tmp_path / "d.pt", 1.0, 0.0), in_channels=1, size=(16, 16), scale=2
    )
    cut = lesion({"image": image})["image"]
    assert torch.equal(cut.as_tensor(), image.as_tensor()[:, 12:, :8])
    np.testing.assert_allclose(
        cut.affine @ torch.tensor([0.0, 0, 0, 1]).double(), affine @ torch.tensor([12.0, 0, 0, 1]).double()
    )


class Brightest(torch.nn.Module):
    """A detector that says how bright the first pixel of each plane is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0, :1, 0].repeat(1, 2)


def test_the_centre_is_the_median_over_planes_with_foreground():
    planes = torch.zeros(40, 1, 8, 8)
    for number, part in zip((3, 20, 39), (0.2, 0.5, 0.9), strict=True):
        planes[number] = part
    assert median_centre(Brightest(), planes) == pytest.approx((0.5, 0.5))
    assert median_centre(Brightest(), torch.zeros(3, 1, 8, 8)) == (0, 0)  # no plane has any: all count


def test_a_centre_outside_warns_and_one_that_is_not_finite_is_refused(tmp_path):
    with pytest.warns(CaseWarning, match="outside the image, at 1.300 of its height"):
        assert median_centre(Brightest(), torch.full((3, 1, 8, 8), 1.3)) == (1, 1)
    with pytest.raises(ValueError, match="must be finite, got nan"):
        median_centre(Brightest(), torch.full((3, 1, 8, 8), torch.nan))
    save_nifti(tmp_path / "a.nii", blobs((20, 18, 3)).astype(np.float32), oblique((1, 1, 3)))
    line = focus(tmp_path / "a.nii", tmp_path / "out", [16, 12], (-0.2, 0.5))
    assert any("outside the image, at -0.200" in text for text in line["warnings"])
    assert line["region"]["voxels"][0] == [0, 8]


def test_the_whole_image_is_the_default_and_both_results_lie_side_by_side(tmp_path):
    source = save_nifti(tmp_path / "a.nii", blobs((20, 18, 3)).astype(np.float32), oblique((1, 1, 3)))
    out, path = tmp_path / "out", str(detector(tmp_path / "detector.pt", *CENTRE))
    for words in ({"lesion_focus": "false"}, {"lesion_focus": "true"}):  # as the command line gives them
        config = str(ROOT / "bundles" / "msgan" / "configs" / "inference.json")
        run_inference(source, out, config_file=config, detector_path=path, region_size=[16, 12], **LINEAR, **words)
    whole, region = (json.loads(text) for text in (out / "cases.jsonl").read_text().splitlines())
    assert whole["region"] is None and "detector_sha256" not in whole and len(region["detector_sha256"]) == 64
    assert whole["sr_shape"] == [40, 36, 3] and region["sr_shape"] == [16, 12, 3]
    assert {p.name for p in out.glob("*.nii")} == {"a_srx2.nii", "a_srx2_region.nii"}


def test_resume_tells_regions_and_detectors_apart(tmp_path):
    source = save_nifti(tmp_path / "a.nii", blobs((20, 18, 3)).astype(np.float32), oblique((1, 1, 3)))
    out, moved = tmp_path / "out", str(tmp_path / "moved.pt")
    focus(source, out, [16, 12])
    shutil.copy(tmp_path / "detector.pt", moved)
    focus(source, out, [16, 12], detector_path=moved, resume=True)  # the same detector elsewhere: nothing to do
    with pytest.raises(SystemExit, match="was made with another configuration"):
        focus(source, out, [16, 16], resume=True)
    detector(Path(moved), 0.5, 0.5)
    with pytest.raises(SystemExit, match="was made with another detector"):
        focus(source, out, [16, 12], detector_path=moved, resume=True)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"detector_path": None}, r"detector_path: must be the file of a trained lesion detector, got None; train one"),
        ({"size": [16, 48]}, r"a\.nii: the region of 16 x 48 HR pixels must fit .*, got 40 x 36; pass a smaller --reg"),
        ({"size": [15, 12]}, r"size: must be height and width in HR pixels, multiples of 2 at scale 2, got \[15, 12\]"),
        ({"lesion_focus": "yes"}, "lesion_focus: must be true or false, got yes"),
        ({"bundle": "rdst"}, "--lesion_focus: must be a setting of the configs that run, got True, which would do"),
        ({"in_channels": 2}, r"detector\.pt: the detector must have in_channels 2, got 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(tmp_path, settings, match):
    source = save_nifti(tmp_path / "a.nii", blobs((20, 18, 3)).astype(np.float32), oblique((1, 1, 3)))
    settings = {"size": [16, 12], **settings}
    with pytest.raises(SystemExit, match=match):
        focus(source, tmp_path / "out", settings.pop("size"), **settings)
    assert not list(tmp_path.glob("out/*.nii"))


def test_a_host_that_has_parsed_the_config_can_still_set_the_focus(tmp_path):
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles" / "msgan" / "configs" / "inference.json"))
    (before,) = (s for s in parser.get_parsed_content("preprocessing").transforms if isinstance(s, FocusOnLesiond))
    assert not before.enabled and not parser.get_parsed_content("postprocessing").transforms[2].output_postfix[5:]
    settings = {"lesion_focus": True, "region_size": [40, 40], "detector_path": str(detector(tmp_path / "d.pt", 0, 1))}
    for name, value in settings.items():  # as the operator of MONAI Deploy does it
        parser[name] = value
    (after,) = (s for s in parser.get_parsed_content("preprocessing").transforms if isinstance(s, FocusOnLesiond))
    assert after.enabled and after.size == (40, 40)
    assert parser.get_parsed_content("postprocessing").transforms[2].output_postfix == "srx4_region"


def test_packed_it_super_resolves_the_region_by_a_detector_outside_the_zip(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    root = unpack(pack_quickly(ROOT / "bundles" / "msgan", tmp_path), tmp_path / "alone")
    source = save_nifti(tmp_path / "a.nii", blobs((24, 20, 3)).astype(np.float32), oblique((1, 1, 3)))
    settings = {
        "config_file": str(root / "configs" / "inference.json"),
        "scale": 2,
        "network_def": LINEAR["network_def"],
    }
    lines = [focus(source, tmp_path / "packed", [16, 12], **settings), focus(source, tmp_path / "ours", [16, 12])]
    for name in ("region", "config_sha256", "detector_sha256"):
        assert lines[0][name] == lines[1][name]
    assert Path(lines[0]["output"]).read_bytes() == Path(lines[1]["output"]).read_bytes()


@pytest.mark.parametrize("value", [True, "true"])
def test_packed_without_code_the_focus_is_refused(tmp_path, value):
    config = ROOT / "common" / "templates" / "packed" / "inference.json"
    with pytest.raises(SystemExit, match="lesion_focus: must be false in a bundle without code; take the one with"):
        run_inference(tmp_path, tmp_path / "out", config_file=str(config), lesion_focus=value)
