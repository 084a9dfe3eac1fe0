"""A DICOM series through the inference config of RDST: places, values, and the header of what comes out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from tests.dicom_series import read_back, sample, save_series, world_of_pixels
from tests.helpers import blobs, data_dir, identity, run_inference


def linear(**overrides: object) -> dict[str, object]:
    return {"scale": 2, "network_def": {"_target_": "tests.helpers.Interpolate", "scale": 2}, **overrides}


def result_in(folder: Path) -> Path:
    (result,) = [path for path in folder.iterdir() if path.is_dir()]
    return result


def noise(shape: tuple[int, ...], low: int = 0, high: int = 4096) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, shape)


def pixels(folder: Path) -> np.ndarray:
    return np.stack([dataset.pixel_array for dataset in read_back(folder)])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_ramp_stays_the_same_ramp(tmp_path, axis):
    def store_own_place(dataset, number):
        place = world_of_pixels(dataset)[axis]
        dataset.PixelData = np.rint((place + 100) * 100).astype("<i2").tobytes()
        dataset.RescaleSlope, dataset.RescaleIntercept = "0.01", "-100"

    source = save_series(tmp_path / "in", np.zeros((4, 10, 14)), change=store_own_place)
    run_inference(source, tmp_path / "out", **linear())
    for dataset in read_back(result_in(tmp_path / "out")):
        values = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        error = (values - world_of_pixels(dataset)[axis])[2:-2, 2:-2]
        assert np.abs(error).max() < 0.011  # a step of the stored values, and half of one in the source


def test_the_field_of_view_stays_the_same_to_a_micrometre(tmp_path):
    source = save_series(tmp_path / "in", noise((3, 9, 14)))
    run_inference(source, tmp_path / "out", **linear())
    for low, high in zip(read_back(source), read_back(result_in(tmp_path / "out")), strict=True):
        assert (high.Rows, high.Columns) == (18, 28)
        assert [float(v) for v in high.PixelSpacing] == pytest.approx([0.4, 0.25], abs=1e-9)
        corner = [world_of_pixels(d)[:, 0, 0] for d in (low, high)]
        turn = np.array(low.ImageOrientationPatient, float)
        shift = -(0.5 / 4) * turn[:3] - (0.8 / 4) * turn[3:]  # half a fine pixel less half a coarse one, along both
        assert corner[1] - corner[0] == pytest.approx(shift, abs=1e-6)


@pytest.mark.parametrize(
    "tags, low, high",
    [
        ({}, -32768, 32768),
        ({"BitsStored": 12, "HighBit": 11}, -2048, 2048),
        ({"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}, 0, 4096),
        ({"PixelRepresentation": 0}, 0, 32768),
        ({"PhotometricInterpretation": "MONOCHROME1"}, -1000, 3000),
        ({"RescaleSlope": "3.774114", "RescaleIntercept": "0.000061"}, -32768, 32768),
        ({"RescaleSlope": "-2", "RescaleIntercept": "7"}, 0, 4096),
    ],
)
def test_an_identity_network_returns_every_stored_value(tmp_path, tags, low, high):
    def change(dataset, number):
        for name, value in tags.items():
            setattr(dataset, name, value)

    source = save_series(tmp_path / "in", noise((3, 9, 7), low, high), change=change)
    run_inference(source, tmp_path / "out", **identity())
    result = result_in(tmp_path / "out")
    assert np.array_equal(pixels(result), pixels(source))
    for low_slice, high_slice in zip(read_back(source), read_back(result), strict=True):
        for name in (
            "BitsAllocated",
            "BitsStored",
            "HighBit",
            "PixelRepresentation",
            "RescaleSlope",
            "RescaleIntercept",
        ):
            assert high_slice[name].value == low_slice[name].value
        assert high_slice.PhotometricInterpretation == low_slice.PhotometricInterpretation


def test_values_of_slices_with_different_rescale_are_kept(tmp_path):
    def change(dataset, number):
        dataset.RescaleSlope, dataset.RescaleIntercept = str(1 + number / 4), str(number * 10)

    source = save_series(tmp_path / "in", noise((4, 9, 7)), change=change)
    run_inference(source, tmp_path / "out", **identity())
    assert np.array_equal(pixels(result_in(tmp_path / "out")), pixels(source))


def test_a_modality_table_is_applied_and_undone(tmp_path):
    def change(dataset, number):
        table = pydicom.Dataset()
        table.LUTDescriptor, table.LUTData = [256, 0, 16], (np.arange(256, dtype="<u2") ** 2).tobytes()
        table.ModalityLUTType = "US"
        dataset["ModalityLUTSequence"] = pydicom.DataElement("ModalityLUTSequence", "SQ", [table])
        dataset.PixelRepresentation = 0
        del dataset.RescaleSlope, dataset.RescaleIntercept

    source = save_series(tmp_path / "in", noise((2, 9, 7), 0, 256), change=change)
    run_inference(source, tmp_path / "same", **identity())
    assert np.array_equal(pixels(result_in(tmp_path / "same")), pixels(source))
    run_inference(source, tmp_path / "out", **linear())
    low, high = pixels(source)[0].astype(float), pixels(result_in(tmp_path / "out"))[0]
    centre = (9 * low[4, 3] ** 2 + 3 * low[4, 4] ** 2 + 3 * low[5, 3] ** 2 + low[5, 4] ** 2) / 16  # in real values
    assert abs(high[9, 7] - centre**0.5) < 1


def test_padding_does_not_reach_the_network_and_is_restored(tmp_path):
    values = np.full((3, 10, 8), 1000)
    values[:, :, :3] = -2000

    def change(dataset, number):
        dataset.add_new("PixelPaddingValue", "SS", -2000)

    source = save_series(tmp_path / "in", values, change=change)
    run_inference(source, tmp_path / "out", **linear())
    result = pixels(result_in(tmp_path / "out"))
    assert (result[:, :, :6] == -2000).all()
    assert (result[:, :, 6:] == 1000).all()  # nothing of the padding was mixed in


def test_a_result_never_becomes_padding_by_chance(tmp_path):
    values = np.tile(np.array([0, 0, 10, 20, 6, 6, 6, 6]), (2, 8, 1))

    def change(dataset, number):
        dataset.PixelRepresentation = 0
        dataset.add_new("PixelPaddingValue", "US", 7)

    source = save_series(tmp_path / "in", values, change=change)
    run_inference(source, tmp_path / "out", **linear())
    assert (pixels(result_in(tmp_path / "out")) != 7).all()


def test_the_result_is_a_derived_series_of_the_same_study(tmp_path):
    def change(dataset, number):
        for name in ("SmallestImagePixelValue", "LargestImagePixelValue", "LargestPixelValueInSeries"):
            dataset.add_new(name, "SS", 1)

    source = save_series(tmp_path / "in", noise((3, 8, 8)), change=change)
    run_inference(source, tmp_path / "out", **linear())
    results = read_back(result_in(tmp_path / "out"))
    largest = max(d.pixel_array.max() for d in results)
    assert len({d.SeriesInstanceUID for d in results}) == 1 and len({d.SOPInstanceUID for d in results}) == 3
    for low, high in zip(read_back(source), results, strict=True):
        for name in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "SOPClassUID", "Modality"):
            assert high[name].value == low[name].value
        assert high.SeriesInstanceUID != low.SeriesInstanceUID and high.SOPInstanceUID != low.SOPInstanceUID
        assert high.file_meta.MediaStorageSOPInstanceUID == high.SOPInstanceUID
        assert list(high.ImageType) == ["DERIVED", "SECONDARY", *low.ImageType[2:]]
        assert high.SeriesDescription.endswith("SR x2 - not for diagnostic use") and len(high.SeriesDescription) <= 64
        assert "x2" in high.DerivationDescription and "RDST" in high.DerivationDescription
        assert high.DerivationCodeSequence[0].CodeValue == "113085"
        assert high.SourceImageSequence[0].ReferencedSOPInstanceUID == low.SOPInstanceUID
        assert high.ContributingEquipmentSequence[-1].ManufacturerModelName == "RDST"
        assert not [element for element in high if element.tag.is_private]
        assert high.SmallestImagePixelValue == high.pixel_array.min()
        assert high.LargestImagePixelValue == high.pixel_array.max()
        assert high.LargestPixelValueInSeries == largest


def test_sources_are_not_touched_and_results_never_replaced(tmp_path):
    source = save_series(tmp_path / "in", noise((2, 8, 8)))
    before = {path: path.read_bytes() for path in source.iterdir()}
    run_inference(source, tmp_path / "out", **linear())
    assert {path: path.read_bytes() for path in source.iterdir()} == before
    result = {path: path.read_bytes() for path in result_in(tmp_path / "out").iterdir()}
    with pytest.raises(SystemExit, match="exists already; pass --resume true"):
        run_inference(source, tmp_path / "out", **linear())
    assert {path: path.read_bytes() for path in result_in(tmp_path / "out").iterdir()} == result


def test_what_was_left_out_is_listed(tmp_path):
    def change(dataset, number):
        dataset.add_new(0x60003000, "OW", b"\0" * 8)
        dataset.ShutterShape, dataset.ShutterLeftVerticalEdge = "RECTANGULAR", 2

    source = save_series(tmp_path / "in", noise((2, 8, 8)), change=change)
    run_inference(source, tmp_path / "out", **linear())
    (line,) = [json.loads(text) for text in (tmp_path / "out" / "cases.jsonl").read_text().splitlines()]
    (warning,) = line["warnings"]
    assert "overlays" in warning and "display shutter" in warning and "GEMS_IDEN_01" in warning
    (first, _) = read_back(result_in(tmp_path / "out"))
    assert 0x60003000 not in first and "ShutterLeftVerticalEdge" not in first


def test_the_same_result_has_the_same_identifiers_and_another_has_others(tmp_path):
    source = save_series(tmp_path / "in", noise((2, 8, 8)))
    for name in ("a", "b"):
        run_inference(source, tmp_path / name, **linear())
    run_inference(source, tmp_path / "c", **identity())
    a, b, c = (read_back(result_in(tmp_path / name))[0] for name in "abc")
    assert (a.SOPInstanceUID, a.SeriesInstanceUID) == (b.SOPInstanceUID, b.SeriesInstanceUID)
    assert a.SeriesInstanceUID != c.SeriesInstanceUID


def test_lossy_history_is_kept(tmp_path):
    def change(dataset, number):
        dataset.LossyImageCompression, dataset.LossyImageCompressionRatio = "01", "10"
        dataset.LossyImageCompressionMethod = "ISO_10918_1"

    source = save_series(tmp_path / "in", noise((2, 8, 8)), change=change)
    run_inference(source, tmp_path / "out", **linear())
    for dataset in read_back(result_in(tmp_path / "out")):
        assert (dataset.LossyImageCompression, dataset.LossyImageCompressionRatio) == ("01", 10)


def test_character_sets_survive(tmp_path):
    def change(dataset, number):
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.PatientName, dataset.SeriesDescription = "Ångström^Jürgen=山田^太郎", "Schädel " * 7

    source = save_series(tmp_path / "Größe", noise((2, 8, 8)), change=change)
    run_inference(source, tmp_path / "out", **linear())
    for dataset in read_back(result_in(tmp_path / "out")):
        assert str(dataset.PatientName) == "Ångström^Jürgen=山田^太郎"
        assert dataset.SeriesDescription.startswith("Schädel Schädel ") and len(dataset.SeriesDescription) <= 64


def test_a_zip_of_a_series_gives_what_its_folder_gives(tmp_path):
    source = save_series(tmp_path / "in", noise((3, 8, 8)))
    archive = shutil.make_archive(str(tmp_path / "study"), "zip", source)
    run_inference(source, tmp_path / "a", **linear())
    run_inference(Path(archive), tmp_path / "b", **linear())
    assert pixels(result_in(tmp_path / "a")).tobytes() == pixels(result_in(tmp_path / "b")).tobytes()


def test_a_single_slice_and_a_gantry_tilt_keep_their_places(tmp_path):
    def tilt(dataset, number):
        dataset.ImagePositionPatient = [
            float(v) + number * s for v, s in zip(dataset.ImagePositionPatient, (0, 0.5, 0), strict=True)
        ]

    tilted = save_series(tmp_path / "tilted", noise((4, 8, 8)), change=tilt)
    single = save_series(tmp_path / "single", noise((1, 8, 8)))
    for source in (tilted, single):
        run_inference(source, tmp_path / f"{source.name}-out", **linear())
    results = read_back(result_in(tmp_path / "tilted-out"))
    for low, high in zip(read_back(tilted), results, strict=True):
        turn = np.array(low.ImageOrientationPatient, float)
        shift = world_of_pixels(high)[:, 0, 0] - world_of_pixels(low)[:, 0, 0]
        assert shift == pytest.approx(-(0.5 / 4) * turn[:3] - (0.8 / 4) * turn[3:], abs=1e-6)
    (file,) = (tmp_path / "single-out").glob("*_srx2.dcm")
    assert pydicom.dcmread(file).Rows == 16


def test_an_enhanced_look_through_other_readers(tmp_path):
    source = save_series(tmp_path / "in", (blobs((4, 12, 10)) * 900).astype(int))
    run_inference(source, tmp_path / "out", **linear())
    result = result_in(tmp_path / "out")
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(result)))
    datasets = read_back(result)
    assert np.array_equal(sitk.GetArrayFromImage(image), pixels(result))
    assert image.GetOrigin() == pytest.approx([float(v) for v in datasets[0].ImagePositionPatient], abs=1e-6)
    assert image.GetSpacing() == pytest.approx((0.25, 0.4, 3.0), abs=1e-6)


def test_pixels_of_every_lossless_compression_are_the_same(tmp_path):
    names = ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"]
    names += ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"]
    from pydicom.data import get_testdata_file

    for name in names:
        run_inference(Path(get_testdata_file(name, download=False)), tmp_path / name, **identity())
        (file,) = (tmp_path / name).glob("*_srx1.dcm")
        assert np.array_equal(pydicom.dcmread(file).pixel_array, sample("MR_small.dcm").pixel_array), name


@pytest.mark.parametrize("name", ["mr_sag_MIT", "mr_studyforrest_PDDL", "ct_lungpetctdx_A0002_CCBY4"])
def test_a_real_series_comes_back_as_it_was(tmp_path, name):
    source = data_dir() / "dicom" / name
    run_inference(source, tmp_path / "out", **identity())
    result = result_in(tmp_path / "out")
    assert np.array_equal(pixels(result), pixels(source))
    for low, high in zip(read_back(source), read_back(result), strict=True):
        assert np.abs(world_of_pixels(high) - world_of_pixels(low)).max() < 1e-5
