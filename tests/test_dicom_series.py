"""Which volumes a heap of DICOM files holds, and which are refused or skipped, with what reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from common.data.files import find_cases
from common.io.dicom.series import find_series
from common.io.formats import read_image, write_image
from common.io.options import ReadOptions
from tests.dicom_series import hash_name, sample, save_series

FLAT = np.arange(4 * 6 * 5).reshape(4, 6, 5)


def series_in(folder):
    return find_series(sorted(folder.glob("**/*.dcm")))


def refusal(folder):
    (series,), _ = series_in(folder)
    with pytest.raises(ValueError) as caught:
        read_image(series)
    return str(caught.value)


def test_slices_are_put_in_order_by_their_place(tmp_path):
    (series,), skipped = series_in(save_series(tmp_path, FLAT))
    values, case = read_image(series)
    assert np.array_equal(values[0], FLAT.transpose(2, 1, 0)) and not skipped
    assert case.slice_axis == 2 and case.units == "mm"


def test_patients_series_and_orientations_are_never_mixed(tmp_path):
    def other_patient(dataset, number):
        dataset.PatientID = "another"

    def across(dataset, number):
        dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, 1]
        dataset.ImagePositionPatient = [number * 3, 0, 0]

    save_series(tmp_path / "a", FLAT)
    save_series(tmp_path / "b", FLAT + 1, change=other_patient)  # with the same series UID
    save_series(tmp_path / "c", FLAT + 2, series="1.2.3.5")
    save_series(tmp_path / "d", FLAT + 3, change=across)
    found, _ = series_in(tmp_path)
    assert len(found) == 4 and len({series.source for series in found}) == 4
    assert {float(read_image(series)[0].min()) for series in found} == {0, 1, 2, 3}


def test_names_of_results_do_not_depend_on_neighbours(tmp_path):
    save_series(tmp_path / "in", FLAT)
    (alone,), _ = series_in(tmp_path)
    save_series(tmp_path / "in", FLAT, series="1.2.3.5")
    assert alone.source in {series.source for series in series_in(tmp_path)[0]}


def test_a_missing_slice_is_refused(tmp_path):
    save_series(tmp_path, FLAT)
    (tmp_path / f"{hash_name('1.2.3.4', 2)}.dcm").unlink()
    assert "slices are missing between" in refusal(tmp_path)


def test_two_slices_at_one_place_are_refused(tmp_path):
    first = next(save_series(tmp_path, FLAT).glob("*.dcm"))
    shutil.copy(first, tmp_path / "copy.dcm")
    text = refusal(tmp_path)
    assert "2 or more slices lie at one place" in text and "copy.dcm" in text


def test_uneven_slices_are_refused(tmp_path):
    def shifted(dataset, number):
        if number == 1:
            dataset.ImagePositionPatient = [float(v) + 0.4 for v in dataset.ImagePositionPatient]

    assert "slices must be evenly spaced" in refusal(save_series(tmp_path, FLAT, change=shifted))


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda d: setattr(d, "PixelSpacing", [1, 1]), "same pixel spacing"),
        (lambda d: setattr(d, "PhotometricInterpretation", "MONOCHROME1"), "same photometric"),
        (lambda d: setattr(d, "FrameOfReferenceUID", "1.2.9"), "same frame of reference"),
        (lambda d: setattr(d, "RescaleSlope", 0), "RescaleSlope must be a number other than 0"),
        (lambda d: setattr(d, "PixelData", d.PixelData[:20]), "pixels cannot be decoded"),
        (lambda d: setattr(d, "HighBit", 14), "BitsStored 16, HighBit 14"),
        (lambda d: setattr(d, "BitsAllocated", 32), "8 or 16 bits"),
        (lambda d: d.update({"BitsStored": 4, "HighBit": 3, "PixelRepresentation": 0}), "pixels must be 0 to 15"),
    ],
)
def test_what_makes_no_volume_is_refused_by_name(tmp_path, change, text):
    save_series(tmp_path, FLAT, change=lambda d, number: change(d) if number == 2 else None)
    message = refusal(tmp_path)
    assert text in message and (hash_name("1.2.3.4", 2) in message)


@pytest.mark.parametrize("name", ["PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "Rows"])
def test_a_slice_without_its_geometry_is_refused(tmp_path, name):
    save_series(tmp_path, FLAT[:1], change=lambda d, number: d.__delattr__(name))
    assert name in refusal(tmp_path) and str(tmp_path) in refusal(tmp_path)


@pytest.mark.parametrize("kept", [200, 700])  # less than says which series it is, and more
@pytest.mark.parametrize("number", [1, 3])
def test_a_slice_that_cannot_be_read_costs_its_series_only_and_is_named(tmp_path, kept, number):
    save_series(tmp_path / "a", FLAT)
    save_series(tmp_path / "b", FLAT, series="1.2.3.5")
    broken = tmp_path / "b" / f"{hash_name('1.2.3.5', number)}.dcm"
    broken.write_bytes(broken.read_bytes()[:kept] + b"\xff" * 300)
    found, _ = series_in(tmp_path)
    (good,) = [series for series in found if series.problem is None]
    assert good.files[0].startswith(str(tmp_path / "a"))
    (refused,) = [series for series in found if series.planes and series.problem]
    assert "one of its slices may be a file that cannot be read" in refused.problem and broken.name in refused.problem


def test_a_series_of_which_no_file_can_be_used_is_one_case(tmp_path):
    save_series(tmp_path, FLAT, change=lambda d, number: d.__delattr__("PixelSpacing"))
    text = refusal(tmp_path)
    assert "PixelSpacing must be there" in text and text.endswith("(and 3 more files)")


def test_two_stacks_of_one_series_become_two_series(tmp_path):
    def across(dataset, number):
        dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, 1]
        dataset.ImagePositionPatient = [number * 3, 0, 0]

    save_series(tmp_path / "in" / "a", FLAT)
    save_series(tmp_path / "in" / "b", FLAT, change=across)
    uids = set()
    for number, series in enumerate(series_in(tmp_path / "in")[0]):
        values, case = read_image(series)
        with pytest.warns(UserWarning, match="private tags"):
            write_image(values, case, tmp_path / str(number))
        uids |= {pydicom.dcmread(path).SeriesInstanceUID for path in (tmp_path / str(number)).iterdir()}
    assert len(uids) == 2


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda d: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]), "a localizer"),
        (lambda d: setattr(d, "PhotometricInterpretation", "RGB"), r"colour (RGB)"),
        (lambda d: setattr(d, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.6.1"), "only MR, CT, CR and DX"),
    ],
)
def test_what_is_not_for_us_is_skipped_with_a_reason(tmp_path, change, reason):
    save_series(tmp_path, FLAT, change=lambda d, number: change(d))
    found, skipped = series_in(tmp_path)
    assert not found and len(skipped) == 4 and all(reason in item.reason for item in skipped)
    cases, also_skipped = find_cases(tmp_path)
    assert not cases and len(also_skipped) == 4


def test_our_own_results_are_skipped(tmp_path):
    (series,), _ = series_in(save_series(tmp_path / "in", FLAT))
    values, case = read_image(series)
    with pytest.warns(UserWarning, match="private tags"):
        write_image(values, case, tmp_path / "out")
    found, skipped = series_in(tmp_path / "out")
    assert not found and {item.reason for item in skipped} == {"derived by super-resolution already"}


def test_results_beside_their_sources_are_passed_by(tmp_path):
    save_series(tmp_path / "a", FLAT)
    save_series(tmp_path / "a" / "series1-12345678_srx4", FLAT, series="1.2.3.5")
    assert len(find_cases(tmp_path, tmp_path)[0]) == 1
    assert len(find_cases(tmp_path, tmp_path / "elsewhere")[0]) == 2


def test_a_radiograph_needs_no_place_and_one_without_spacing_says_so(tmp_path):
    def radiograph(dataset, number):
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            delattr(dataset, name)
        if number == 0:
            dataset.ImagerPixelSpacing = [0.2, 0.1]

    found, _ = series_in(save_series(tmp_path, FLAT[:2], change=radiograph))
    assert len(found) == 2  # two views of a series are two images
    _, case = read_image(found[0])
    assert np.allclose(np.diag(case.affine), [-0.1, -0.2, 1, 1]) and case.units == "mm"
    with pytest.warns(UserWarning, match="no pixel spacing"):
        _, case = read_image(found[1])
    assert case.units == "pixel"


def test_dicom_is_known_by_its_content(tmp_path):
    save_series(tmp_path / "in", FLAT)
    for number, file in enumerate(sorted((tmp_path / "in").glob("*.dcm"))):
        file.rename(tmp_path / "in" / f"IM{number}")
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    cases, skipped = find_cases(tmp_path / "in")
    assert len(cases) == 1 and len(cases[0].files) == 4 and not skipped


def test_options_of_other_formats_are_refused(tmp_path):
    folder = save_series(tmp_path, FLAT)
    for options, text in (
        ({"in_channels": 3}, "takes 3 channels"),
        ({"volume": 0}, "--volume"),
        ({"slice_axis": 0}, "--slice_axis"),
    ):
        with pytest.raises(ValueError, match=text):
            read_image(folder, ReadOptions(**options))


def test_extended_jpeg_of_12_bits_is_refused_by_name():
    dataset = sample("JPGExtended.dcm")
    assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.51"
    with pytest.raises(ValueError, match="JPEG Extended of 12 bits is not read"):
        from common.io.dicom.stored import decode

        decode("JPGExtended.dcm", dataset)


def test_a_disk_that_is_full_leaves_nothing(tmp_path, monkeypatch):
    (series,), _ = series_in(save_series(tmp_path / "in", FLAT))
    values, case = read_image(series)
    written = []

    def full(path, content):
        written.append(path)
        path.write_text("part")
        if len(written) > 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_image(values, case, tmp_path / "out" / "a")
    assert len(written) == 3 and not list((tmp_path / "out").iterdir())


def test_the_directory_of_a_medium_is_skipped():
    found, skipped = find_series([get_testdata_file("DICOMDIR", download=False)])
    assert not found and skipped[0].reason.startswith("Media Storage Directory Storage: only MR, CT")
