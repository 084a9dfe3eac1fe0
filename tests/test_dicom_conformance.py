"""Derived DICOM in the eyes of others: of the validator ``dciodvfy``, and of two other readers."""

import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from pydicom.data import get_testdata_file

from common.errors import CaseWarning
from common.geometry import resized_affine
from common.io.case import Case
from common.io.dicom.derived import Provenance
from common.io.dicom.series import Series, find_series
from common.io.formats import read_image, write_image
from common.transforms.degradation import resample
from tests.dicom_enhanced_samples import enhanced_ct, enhanced_mr
from tests.dicom_samples import AXIAL, cr_image, ct_series, dx_image, mr_series
from tests.helpers import data_dir

MADE_BY = Provenance("rdst", "0.1.0", "x2", "a" * 64, "b" * 64)
SAMPLES: dict[str, Callable[[Path], list[Path]]] = {
    "MR": mr_series,
    "CT": ct_series,
    "CR": lambda folder: cr_image(folder / "cr.dcm"),
    "CR of 10 bits": lambda folder: cr_image(folder / "cr.dcm", bits=10),
    "DX": lambda folder: dx_image(folder / "dx.dcm"),
    "enhanced MR": lambda folder: enhanced_mr(folder / "mr.dcm"),
    "enhanced MR of several slopes": lambda folder: enhanced_mr(folder / "mr.dcm", slopes=(1, 0.5, 0.25, 0.125)),
    "enhanced CT": lambda folder: enhanced_ct(folder / "ct.dcm"),
}
SHIPPED = ("CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm")  # by pydicom
PER_FRAME = "PerFrameFunctionalGroupsSequence"
REAL = ("mr_sag_MIT", "mr_studyforrest_PDDL", "ct_lungpetctdx_A0002_CCBY4", "odd_pydicom_MIT")


@dataclass
class Derived:
    """A series, what the reader gives of it, and its bicubic x2: the files, and the array as it was saved."""

    series: Series
    values: np.ndarray
    case: Case
    files: list[Path]
    saved: np.ndarray


@pytest.fixture(scope="module", params=[*SAMPLES, *SHIPPED, *REAL])
def derived(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Derived]:
    """One series, or all that can be read in a folder of odd files."""
    name, folder = request.param, tmp_path_factory.mktemp("conformance")
    if name in SAMPLES:
        groups = [SAMPLES[name](folder)]
    elif name in SHIPPED:
        groups = [[Path(str(get_testdata_file(name, download=False)))]]
    else:
        files = sorted((data_dir() / "dicom" / name).glob("*.dcm"))
        groups = [[file] for file in files] if name.startswith("odd") else [files]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # odd files are odd; pydicom says so of each
        found = [series for files in groups for series in find_series(files)[0] if series.problem is None]
        assert found
        return [magnify(series, folder / f"x2-{number}") for number, series in enumerate(found)]


def magnify(series: Series, folder: Path) -> Derived:
    values, case = read_image(series)
    size = 2 * values.shape[1], 2 * values.shape[2]
    saved = resample(torch.from_numpy(values).permute(0, 3, 1, 2), size).permute(0, 2, 3, 1).contiguous().numpy()
    path = folder / f"result{case.suffix}"
    write_image(saved, case, path, MADE_BY)
    return Derived(series, values, case, sorted(path.iterdir()) if path.is_dir() else [path], saved)


def findings(path: str | Path) -> set[str]:
    if shutil.which("dciodvfy") is None:
        pytest.skip("the DICOM validator is not here: install dciodvfy (package dicom3tools)")
    run = subprocess.run(
        ["dciodvfy", "-new", str(path)], capture_output=True, errors="replace", timeout=30, check=False
    )
    lines = set((run.stdout + run.stderr).splitlines())
    assert any(not line.startswith(("Error", "Warning")) for line in lines), lines  # it names the kind of image
    return lines


def new_findings(source: str | Path, result: str | Path) -> tuple[list[str], list[str]]:
    """Errors and warnings that the validator finds in ``result`` and not in ``source``."""
    new = sorted(findings(result) - findings(source))
    errors = [line for line in new if line.startswith("Error")]
    return errors, [line for line in new if line.startswith("Warning")]


def test_a_result_has_no_error_that_its_source_has_not(derived):
    for one in derived:
        for source, result in zip(one.series.files, one.files, strict=True):
            errors, noted = new_findings(source, result)
            print(f"{source}: {len(errors)} new errors, new warnings: {noted}")
            assert not errors, noted


def disagreements(files: list[str | Path]) -> str:
    """What the validator says of patients, studies and series whose files do not agree about them."""
    if shutil.which("dcentvfy") is None:
        pytest.skip("the DICOM validator is not here: install dcentvfy (package dicom3tools)")
    run = subprocess.run(["dcentvfy", *map(str, files)], capture_output=True, errors="replace", timeout=60, check=False)
    return run.stdout + run.stderr


def test_sources_and_results_agree_about_patient_study_and_series(derived):
    for one in derived:
        assert disagreements([*one.series.files, *one.files]) == disagreements([*one.series.files])


@pytest.mark.parametrize("name", SAMPLES)
def test_the_samples_are_free_of_errors(tmp_path, name):
    for path in SAMPLES[name](tmp_path):
        assert not [line for line in findings(path) if line.startswith(("Error", "Warning"))]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Rows": None}, "</Rows(0028,0010)> - Missing attribute"),
        ({"PatientSex": "X"}, "</PatientSex(0010,0040)"),
        ({"ImageType": ["DERIVED"]}, "</ImageType(0008,0008)>"),
    ],
)
def test_a_wrong_result_is_found(tmp_path, change, message):
    source = mr_series(tmp_path / "source")
    wrong = mr_series(tmp_path / "wrong", **change)
    errors, _ = new_findings(source[0], wrong[0])
    assert any(message in line for line in errors), errors


def test_a_disagreement_is_found(tmp_path):
    files = (
        mr_series(tmp_path / "a")[:1] + mr_series(tmp_path / "b", PatientName="Another^Name", SOPInstanceUID="1.2")[:1]
    )
    assert "PatientName" in disagreements(files)


def test_an_enhanced_result_refers_to_the_image_and_the_frames_it_came_from(tmp_path):
    (path,) = enhanced_mr(tmp_path / "mr.dcm")
    with pytest.warns(CaseWarning, match="left out, .*: pulse sequence of the acquisition$"):
        derived = magnify(find_series([path])[0][0], tmp_path)
    source, result = (pydicom.dcmread(p) for p in (path, derived.files[0]))
    (study,) = result.SourceImageEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (image,) = series.ReferencedSOPSequence
    assert study.StudyInstanceUID == source.StudyInstanceUID == result.StudyInstanceUID
    assert series.SeriesInstanceUID == source.SeriesInstanceUID != result.SeriesInstanceUID
    assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID != result.SOPInstanceUID
    for number, groups in enumerate(result.PerFrameFunctionalGroupsSequence, start=1):
        (frame,) = groups.DerivationImageSequence[0].SourceImageSequence
        assert (frame.ReferencedSOPInstanceUID, frame.ReferencedFrameNumber) == (source.SOPInstanceUID, number)


def test_private_tags_are_left_out_by_the_names_of_their_creators(tmp_path):
    (path,) = cr_image(tmp_path / "cr.dcm")
    dataset = pydicom.dcmread(path)
    for creator in ("ONE", "TWO"):
        dataset.private_block(0x0029, creator, create=True).add_new(1, "LO", "left")
    dataset.save_as(path)
    with pytest.warns(CaseWarning, match=r"left out, .*: private tags of ONE, private tags of TWO$"):
        one = magnify(find_series([path])[0][0], tmp_path)
    assert not any(element.tag.is_private for element in pydicom.dcmread(one.files[0]))


Volume = tuple[np.ndarray, np.ndarray]  # real values (X, Y, Z), and voxel to world (RAS, mm)


def test_other_readers_see_the_voxels_and_the_geometry_of_the_record(derived):
    for one in derived:
        affine = np.asarray(one.case.affine)
        finer = resized_affine(affine, one.values.shape[1:], one.saved.shape[1:])
        for files, array, place in ((one.series.files, one.values, affine), (one.files, one.saved, finer)):
            head = pydicom.dcmread(files[0], stop_before_pixels=True)
            sign = -1 if head.PhotometricInterpretation == "MONOCHROME1" else 1
            ours = sign * array[0].astype(np.float64) * one.case.slope + one.case.intercept
            theirs, padding = read_by_pydicom(files)
            if one.series.planes[0].position is None:  # a projection has a spacing, but no place
                place = place if one.case.units == "mm" else np.diag([-1.0, -1.0, 1.0, 1.0])
                place[:3, 3] = 0
            assert_same((ours, place), theirs, ~padding)
            assert_same((ours, place), read_by_simpleitk(files, head, theirs), ~padding)


def assert_same(ours: Volume, theirs: Volume, where: np.ndarray) -> None:
    np.testing.assert_allclose(theirs[1], ours[1], rtol=0, atol=1e-5)
    assert np.allclose(theirs[0][where], ours[0][where], rtol=1e-6)


def test_a_shifted_volume_is_found():
    volume, where = (np.zeros((2, 2, 2)), np.eye(4)), np.ones((2, 2, 2), bool)
    assert_same(volume, volume, where)
    with pytest.raises(AssertionError):
        assert_same(volume, (volume[0], volume[1] + 1e-4), where)
    with pytest.raises(AssertionError):
        assert_same(volume, (volume[0] + 1, volume[1]), where)


def read_by_pydicom(files: Iterable[str | Path]) -> tuple[Volume, np.ndarray]:
    """A volume by nothing but tags and pixels, and where it is padding."""
    planes = []
    for path in files:
        dataset = pydicom.dcmread(path)
        frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
        planes += [_plane(dataset, number, frame) for number, frame in enumerate(frames)]
    planes.sort(key=lambda plane: plane[3] @ np.cross(*plane[4]))
    real, padding = (np.stack([plane[k] for plane in planes]).transpose(2, 1, 0) for k in (0, 1))
    (row_step, column_step), first, (row, column), thickness = planes[0][2:]
    apart = (planes[-1][3] - first) / (len(planes) - 1) if len(planes) > 1 else np.cross(row, column) * thickness
    affine = np.eye(4)
    affine[:3] = np.column_stack([row * column_step, column * row_step, apart, first])
    return (real, np.diag([-1, -1, 1, 1]) @ affine), padding


def _plane(dataset: pydicom.Dataset, number: int, frame: np.ndarray) -> tuple[Any, ...]:
    def tag(name: str, default: Any = None) -> Any:
        for groups, item in ((PER_FRAME, number), ("SharedFunctionalGroupsSequence", 0)):
            for element in dataset[groups].value[item] if groups in dataset else ():
                if element.VR == "SQ" and element.value and name in element.value[0]:
                    return element.value[0][name].value
        return dataset.get(name, default)

    real = frame * float(tag("RescaleSlope", 1)) + float(tag("RescaleIntercept", 0))
    padding = frame == dataset.get("PixelPaddingValue", np.nan)
    spacing = np.array(tag("PixelSpacing") or tag("ImagerPixelSpacing") or [1, 1], float)
    turn = np.array(tag("ImageOrientationPatient", AXIAL), float).reshape(2, 3)
    turn /= np.linalg.norm(turn, axis=1, keepdims=True)
    thickness = float(tag("SpacingBetweenSlices") or tag("SliceThickness") or 1)
    return real, padding, spacing, np.array(tag("ImagePositionPatient", (0, 0, 0)), float), turn, thickness


def read_by_simpleitk(files: Sequence[str | Path], head: pydicom.Dataset, other: Volume) -> Volume:
    """A volume by ITK and GDCM; what these do not read is taken from ``other``."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in files])
    image = reader.Execute() if len(files) > 1 else sitk.ReadImage(str(files[0]))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    affine = np.diag([-1, -1, 1, 1]) @ affine
    real = sitk.GetArrayFromImage(image).astype(np.float64).T
    if head.PhotometricInterpretation == "MONOCHROME1":
        real = 2**head.BitsStored - 1 - real  # ITK turns these images round
    if real.shape[2] == 1:
        affine[:3, 2] = other[1][:3, 2]  # it does not ask how thick a lone slice is
    elif affine[:3, 2] @ other[1][:3, 2] < 0:  # it takes frames in the order of the file
        affine[:3, 3] += affine[:3, 2] * (real.shape[2] - 1)
        affine[:3, 2] *= -1
        real = real[:, :, ::-1]
    if head.Modality == "DX":  # nor how far a projection was magnified
        assert np.allclose(image.GetSpacing()[1::-1], [float(v) for v in head.ImagerPixelSpacing])
        affine = other[1]
    slopes = {str(groups.get("PixelValueTransformationSequence")) for groups in head.get(PER_FRAME, [])}
    if len(slopes) > 1:
        real[:, :, 1:] = other[0][:, :, 1:]  # it rescales all frames as the first
    return real, affine
