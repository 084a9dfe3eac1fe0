import gzip
import struct

import nibabel as nib
import numpy as np
import pytest

from common.errors import CaseWarning
from common.io.case import Case
from common.io.nifti import fit_to_stored_type, read_nifti, write_nifti
from common.io.options import ReadOptions
from tests.helpers import oblique, save_nifti, stored

AFFINE = oblique((0.9, 0.9, 3.0))


def volume(dtype: str, shape: tuple[int, ...] = (6, 5, 4)) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 200, size=shape)
    return values.astype(dtype)


def test_stored_values_come_back_whatever_slope_says(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", volume("int16") - 100, AFFINE, slope=0.5, intercept=-1024)
    values, case = read_nifti(path)
    assert values.dtype == np.float32 and np.array_equal(values[0], stored(path))
    assert (case.slope, case.intercept, case.dtype, case.units, case.slice_axis) == (0.5, -1024, "<i2", "mm", 2)
    assert Case.from_meta({"case": case.to_meta()}) == case
    assert fit_to_stored_type(values, case) == 0
    write_nifti(values, case, tmp_path / "b.nii.gz")
    assert np.array_equal(nib.load(tmp_path / "b.nii.gz").get_fdata(), nib.load(path).get_fdata())


def test_a_negative_slope_keeps_bright_bright(tmp_path):
    path = save_nifti(tmp_path / "a.nii", volume("int16"), AFFINE, slope=-2.0, intercept=7)
    values, case = read_nifti(path)
    real = nib.load(path).get_fdata()
    assert np.array_equal(values[0].argmax(), real.argmax())
    write_nifti(values, case, tmp_path / "b.nii")
    assert np.array_equal(stored(tmp_path / "b.nii"), stored(path))


@pytest.mark.parametrize(
    "dtype",
    ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", ">i2", ">f4"],
)
def test_every_stored_type_keeps_its_type_and_values(tmp_path, dtype):
    image = nib.Nifti1Image(
        volume(dtype), AFFINE, nib.Nifti1Header(endianness=">" if dtype[0] == ">" else "<"), dtype=np.dtype(dtype)
    )
    path = tmp_path / "a.nii.gz"
    image.to_filename(path)
    values, case = read_nifti(path)
    write_nifti(values, case, tmp_path / "b.nii.gz")
    assert nib.load(tmp_path / "b.nii.gz").get_data_dtype() == np.dtype(dtype)
    assert np.array_equal(stored(tmp_path / "b.nii.gz"), stored(path))


@pytest.mark.parametrize(
    ("dtype", "value"), [("int32", 16_777_217), ("float64", 0.1), ("float64", 1e300), ("uint32", 2**32 - 1)]
)
def test_values_that_float32_cannot_hold_are_refused(tmp_path, dtype, value):
    path = save_nifti(tmp_path / "a.nii.gz", np.full((3, 3, 3), value, dtype=dtype), AFFINE)
    with pytest.raises(ValueError, match=r"a\.nii\.gz: every \w+ value must fit in float32"):
        read_nifti(path)


@pytest.mark.parametrize(
    ("dtype", "slope", "given", "kept", "clipped"),
    [
        ("uint8", 1, [-3.0, 0.4, 1.7, 255.4, 300.0], [0, 0, 2, 255, 255], 2),
        ("int8", -1, [-127.0, 128.0, 129.0, -128.0], [-127, 128, 128, -127], 2),
        ("int64", 1, [1e30, -1e30], [2**63 - 2**39, -(2**63)], 2),
        ("uint32", 1, [1e30, -1e30], [2**32 - 2**8, 0], 2),
        ("float32", 1, [1e30, 0.4], [np.float32(1e30), np.float32(0.4)], 0),
    ],
)
def test_values_are_rounded_and_clipped_to_the_stored_type_never_wrapped(tmp_path, dtype, slope, given, kept, clipped):
    path = save_nifti(tmp_path / "a.nii", np.zeros((len(given), 1, 1), dtype), AFFINE, slope=slope)
    values, case = read_nifti(path)
    values[0, :, 0, 0] = given
    assert fit_to_stored_type(values, case) == clipped
    assert values[0, :, 0, 0].tolist() == kept
    write_nifti(values, case, tmp_path / "b.nii")
    assert stored(tmp_path / "b.nii")[:, 0, 0].tolist() == [slope * v for v in kept]


def test_header_fields_are_kept_and_geometry_is_new(tmp_path):
    image = nib.Nifti2Image(volume("int16"), AFFINE)
    image.set_qform(oblique((0.9, 0.9, 3.0), flip=(0,)), code=2)
    image.set_sform(AFFINE, code=3)
    image.header["descrip"] = b"T1w, scanner A"
    image.header["cal_max"], image.header["intent_code"] = 180, 5
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_dim_info(slice=2)
    image.header["slice_code"], image.header["slice_end"] = 1, 3
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"kept"))
    image.to_filename(tmp_path / "a.nii.gz")
    _, case = read_nifti(tmp_path / "a.nii.gz")
    write_nifti(np.zeros((1, 24, 20, 4), np.float32), case, tmp_path / "b.nii.gz")
    out = nib.load(tmp_path / "b.nii.gz")
    assert isinstance(out, nib.Nifti2Image) and out.shape == (24, 20, 4)
    assert out.header["descrip"].item() == b"T1w, scanner A"
    assert (out.header["cal_max"], out.header["intent_code"], out.header["slice_code"]) == (180, 5, 1)
    assert out.header.get_xyzt_units() == ("mm", "sec") and out.header.extensions[0].get_content() == b"kept"
    assert (int(out.header["qform_code"]), int(out.header["sform_code"])) == (2, 3)
    for form, source in ((out.get_sform(), image.get_sform()), (out.get_qform(), image.get_qform())):
        np.testing.assert_allclose(form @ [-0.5, -0.5, -0.5, 1], source @ [-0.5, -0.5, -0.5, 1], atol=1e-4)
        np.testing.assert_allclose(form @ [23.5, 19.5, 3.5, 1], source @ [5.5, 4.5, 3.5, 1], atol=1e-4)


def test_slice_times_go_where_their_slices_went(tmp_path):
    image = nib.Nifti1Image(volume("int16"), AFFINE)
    image.header.set_dim_info(slice=0)
    image.header["slice_code"], image.header["slice_end"] = 1, 5
    image.to_filename(tmp_path / "a.nii")
    _, case = read_nifti(tmp_path / "a.nii")
    write_nifti(np.zeros((1, 12, 10, 4), np.float32), case, tmp_path / "b.nii")
    header = nib.load(tmp_path / "b.nii").header
    assert (int(header["slice_code"]), int(header["slice_end"])) == (0, 0)


def test_a_file_without_orientation_gets_its_spacing_and_no_orientation(tmp_path):
    image = nib.Nifti1Image(volume("int16"), None)
    image.header.set_zooms((0.5, 0.5, 4.0))
    image.to_filename(tmp_path / "a.nii")
    with pytest.warns(CaseWarning, match="no orientation"):
        values, case = read_nifti(tmp_path / "a.nii")
    assert case.slice_axis == 2
    write_nifti(np.repeat(np.repeat(values, 2, axis=1), 2, axis=2), case, tmp_path / "b.nii")
    header = nib.load(tmp_path / "b.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 0)
    assert header.get_zooms() == (0.25, 0.25, 4.0)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 4, 1), (6, 5, 4, 1, 1)])
def test_planes_and_trailing_axes_of_one_are_ordinary(tmp_path, shape):
    path = save_nifti(tmp_path / "a.nii.gz", volume("uint8", shape), AFFINE)
    values, case = read_nifti(path)
    assert values.ndim == 4
    write_nifti(values, case, tmp_path / "b.nii.gz")
    assert np.array_equal(stored(tmp_path / "b.nii.gz"), stored(path))


def test_one_volume_of_four_is_taken_by_number(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", volume("uint8", (6, 5, 4, 3)), AFFINE)
    values, case = read_nifti(path, ReadOptions(volume=2))
    write_nifti(values, case, tmp_path / "b.nii.gz")
    assert np.array_equal(stored(tmp_path / "b.nii.gz"), stored(path)[..., 2])


def test_one_volume_is_found_before_a_trailing_axis_of_one(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", volume("uint8", (6, 5, 4, 3, 1)), AFFINE)
    for number in range(3):
        values, _ = read_nifti(path, ReadOptions(volume=number))
        assert np.array_equal(values[0], stored(path)[..., number, 0])


def test_a_vector_image_keeps_its_five_axes(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", volume("float32", (6, 5, 4, 1, 3)), AFFINE)
    values, case = read_nifti(path, ReadOptions(in_channels=3, channels_last=True))
    assert values.shape == (3, 6, 5, 4)
    write_nifti(values, case, tmp_path / "b.nii.gz")
    assert np.array_equal(stored(tmp_path / "b.nii.gz"), stored(path))


def test_four_channels_come_and_go_as_the_last_axis(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", volume("uint8", (6, 5, 4, 4)), AFFINE)
    values, case = read_nifti(path, ReadOptions(in_channels=4, channels_last=True))
    assert values.shape == (4, 6, 5, 4)
    write_nifti(values, case, tmp_path / "b.nii.gz")
    assert np.array_equal(stored(tmp_path / "b.nii.gz"), stored(path))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((6, 5, 4, 3), {}, "pass --volume N .* or --channels_last"),
        ((6, 5, 4, 3), {"in_channels": 3}, "pass --volume N"),
        ((6, 5, 4, 3), {"channels_last": True}, "takes 1 channels, the file .* has 3"),
        ((6, 5, 4), {"in_channels": 4}, "takes 4 channels, the file .* has 1"),
        ((6, 5, 4, 3), {"volume": 3}, "--volume must be 0 to 2, got 3"),
        ((6, 5, 4, 3), {"volume": -1}, "--volume must be 0 to 2, got -1"),
        ((6, 5, 4, 3), {"volume": 0, "in_channels": 3}, "--volume gives 1"),
        ((6, 5, 4, 3, 2), {"volume": 0}, "at most four axes"),
        ((6, 5, 4), {"slice_axis": 3}, "--slice_axis must be 0, 1 or 2, got 3"),
        ((6, 5), {"slice_axis": 0}, "the file holds a single plane, --slice_axis must be 2, got 0; leave it out"),
    ],
)
def test_shapes_that_need_a_choice_are_refused_with_it(tmp_path, shape, options, message):
    path = save_nifti(tmp_path / "a.nii.gz", volume("uint8", shape), AFFINE)
    with pytest.raises(ValueError, match=rf"a\.nii\.gz: .*{message}"):
        read_nifti(path, ReadOptions(**options))


def test_damaged_files_are_named(tmp_path):
    good = save_nifti(tmp_path / "good.nii.gz", volume("int16", (40, 40, 20)), AFFINE).read_bytes()
    plain = gzip.decompress(good)
    files = {
        "text.nii.gz": b"not an image",
        "empty.nii": b"",
        "cut.nii.gz": good[: len(good) // 2],
        "cut.nii": plain[: len(plain) // 2],
        "magic.nii": plain[:344] + b"xxxx" + plain[348:],
        "dims.nii": plain[:40] + struct.pack("<8h", 3, -5, 40, 20, 1, 1, 1, 1) + plain[56:],
        "type.nii": plain[:70] + struct.pack("<h", 999) + plain[72:],
        "flipped.nii.gz": good[:200] + bytes([good[200] ^ 255]) + good[201:],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}: "):
            read_nifti(tmp_path / name)


@pytest.mark.parametrize("row", [(np.nan, 0, 0, 0), (0, 0, 0, 0)])
def test_an_unusable_affine_is_refused(tmp_path, row):
    path = save_nifti(tmp_path / "a.nii", volume("uint8"), AFFINE)
    content = path.read_bytes()
    codes, srow_x = struct.pack("<2h", 0, 1), struct.pack("<4f", *row)
    path.write_bytes(content[:252] + codes + content[256:280] + srow_x + content[296:])
    with pytest.raises(ValueError, match=r"a\.nii: the affine must be finite and invertible"):
        read_nifti(path)


def test_complex_and_colour_voxels_are_refused(tmp_path):
    nib.Nifti1Image(np.zeros((3, 3, 3), np.complex64), AFFINE).to_filename(tmp_path / "a.nii")
    rgb = np.zeros((3, 3, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.Nifti1Image(rgb, AFFINE).to_filename(tmp_path / "b.nii")
    for name in ("a.nii", "b.nii"):
        with pytest.raises(ValueError, match=rf"{name}: voxels must be integers or floats"):
            read_nifti(tmp_path / name)


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path, monkeypatch):
    path = save_nifti(tmp_path / "a.nii.gz", volume("uint8"), AFFINE)
    values, case = read_nifti(path)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "b.nii.gz"
    target.write_bytes(b"earlier result")

    def full(image, filename):
        filename.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib.Nifti1Image, "to_filename", full)
    with pytest.raises(OSError, match=r"b\.nii\.gz: cannot be written .*No space left.*choose another folder"):
        write_nifti(values, case, target)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b.nii.gz"] and target.read_bytes() == b"earlier result"


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", volume("uint8"), AFFINE)
    values, case = read_nifti(path)
    (tmp_path / "sub").write_text("in the way")
    with pytest.raises(OSError, match=r"sub/b\.nii\.gz: cannot be written .*choose another folder"):
        write_nifti(values, case, tmp_path / "sub" / "b.nii.gz")
