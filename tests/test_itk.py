"""MetaImage and NRRD, against what SimpleITK and nibabel say of the same files."""

import json
import resource
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from common.errors import CaseWarning
from common.io.case import Case
from common.io.formats import read_image
from common.io.itk import read_itk, write_itk
from common.io.options import ReadOptions
from tests.helpers import identity, oblique, run_inference

TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"]
META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n{}DimSize = {}\n"
    "ElementType = {}\nElementDataFile = LOCAL\n"
)
NRRD = "NRRD0005\ntype: {2}\ndimension: {3}\nsizes: {1}\nendian: little\nencoding: raw\n{0}\n"
VOXELS = np.arange(120, dtype="<i2")


def image(array: np.ndarray, vector: bool = False, steps: tuple[float, float, float] = (0.9, 0.7, 3.1)) -> sitk.Image:
    """``array`` ([Z,] Y, X [, C]) on an oblique, shifted grid."""
    made = sitk.GetImageFromArray(array, isVector=vector)
    dims = made.GetDimension()
    made.SetSpacing(steps[:dims])
    made.SetOrigin((-31.5, 12.25, 7.0)[:dims])
    made.SetDirection(np.linalg.qr(oblique((1, 1, 1))[:dims, :dims])[0].ravel().tolist())
    return made


def save(path: Path, made: sitk.Image, compress: bool = False) -> Path:
    sitk.WriteImage(made, str(path), useCompression=compress)
    return path


def save_text(path: Path, extra: str = "", sizes: str = "6 5 4") -> Path:
    """A header by hand, and the voxels 0 to 119."""
    form, kind = (NRRD, "short") if path.suffix == ".nrrd" else (META, "MET_SHORT")
    path.write_bytes(form.format(extra, sizes, kind, len(sizes.split())).encode() + VOXELS.tobytes())
    return path


def pixels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def random(dtype: str, shape: tuple[int, ...] = (4, 10, 9)) -> np.ndarray:
    low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype[-2:] in ("t8", "16") else (0, 2**20)
    return np.random.default_rng(0).integers(low, high, size=shape, endpoint=True).astype(dtype)


def test_an_identity_network_returns_every_stored_type_bit_by_bit(tmp_path, capfd):
    (tmp_path / "in").mkdir()
    for number, dtype in enumerate(TYPES):
        for suffix in ("mha", "nrrd"):
            save(tmp_path / "in" / f"{dtype}.{suffix}", image(random(dtype)), compress=number % 2 == 0)
    run_inference(tmp_path / "in", tmp_path / "out", **identity())
    for dtype in TYPES:
        for suffix in ("mha", "nrrd"):
            source, result = tmp_path / "in" / f"{dtype}.{suffix}", tmp_path / "out" / f"{dtype}_srx1.{suffix}"
            assert pixels(result).dtype == dtype and pixels(result).tobytes() == pixels(source).tobytes()
    assert not [line for line in capfd.readouterr().err.splitlines() if "itk" in line.lower() or "Meta" in line]
    lines = [json.loads(line) for line in (tmp_path / "out" / "cases.jsonl").read_text().splitlines()]
    assert len(lines) == 20 and not any(line["warnings"] for line in lines)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize(("shape", "vector"), [((10, 9), False), ((10, 9, 3), True), ((4, 10, 9, 3), True)])
def test_planes_and_vectors_keep_their_axes(tmp_path, suffix, shape, vector):
    path = save(tmp_path / f"a{suffix}", image(random("uint16", shape), vector))
    run_inference(path, tmp_path / "out", **identity(), in_channels=3 if vector else 1)
    source, result = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / "out" / f"a_srx1{suffix}"))
    assert result.GetPixelID() == source.GetPixelID() and result.GetSize() == source.GetSize()
    assert np.array_equal(sitk.GetArrayFromImage(result), sitk.GetArrayFromImage(source))
    for get in (sitk.Image.GetOrigin, sitk.Image.GetSpacing, sitk.Image.GetDirection):
        np.testing.assert_allclose(get(result), get(source), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("suffix", "steps"), [(".mha", (0.9, 0.7, 3.1)), (".nrrd", (4.0, 0.8, 0.6))])
def test_every_voxel_of_a_ramp_keeps_its_world_coordinate(tmp_path, suffix, steps):
    grid = image(np.zeros((6, 9, 11), np.float32), steps=steps)
    size = grid.GetSize()
    (tmp_path / "in").mkdir()
    for axis, name in enumerate("xyz"):
        for index in np.ndindex(*size):
            grid[index] = grid.TransformIndexToPhysicalPoint(index)[axis]
        save(tmp_path / "in" / f"{name}{suffix}", grid)
    network = {"_target_": "tests.helpers.Interpolate", "scale": 2}
    run_inference(tmp_path / "in", tmp_path / "out", scale=2, network_def=network)
    stack = int(np.argmax(steps))
    for axis, name in enumerate("xyz"):
        out = sitk.ReadImage(str(tmp_path / "out" / f"{name}_srx2{suffix}"))
        assert out.GetSize() == tuple(n if a == stack else 2 * n for a, n in enumerate(size))
        rim = [0 if a == stack else 2 for a in range(3)]
        inner = [range(edge, n - edge) for edge, n in zip(rim, out.GetSize(), strict=True)]
        for index in np.stack(np.meshgrid(*inner, indexing="ij"), axis=-1).reshape(-1, 3).tolist():
            assert out[index] == pytest.approx(out.TransformIndexToPhysicalPoint(index)[axis], abs=2e-4)


def test_the_affine_is_the_one_that_nibabel_reads_from_the_same_image(tmp_path):
    made = image(random("int16"))
    records = [read_image(save(tmp_path / f"a{suffix}", made))[1] for suffix in (".nii", ".mha", ".nrrd")]
    for record in records[1:]:
        np.testing.assert_allclose(record.affine, records[0].affine, atol=1e-5)
        assert (record.slice_axis, record.units, record.shape) == (2, "mm", (9, 10, 4))
        assert Case.from_meta({"case": record.to_meta()}) == record


def test_the_slice_axis_is_taken_from_the_user(tmp_path):
    path = save(tmp_path / "a.nrrd", image(random("uint8")))
    assert read_itk(path, ReadOptions(slice_axis=0))[1].slice_axis == 0


def test_what_a_header_says_beside_the_grid_is_kept(tmp_path):
    told = "Comment = left knee\nDistanceUnits = um\nElementToIntensityFunctionSlope = 2\nProtocol = T1w\n"
    values, case = read_itk(save_text(tmp_path / "a.mha", told))
    assert case.units == "um"
    write_itk(values, case, tmp_path / "b.mha")
    text = (tmp_path / "b.mha").read_bytes().partition(b"LOCAL")[0].decode()
    assert all(line in text for line in told.splitlines()) and "ITK_" not in text and "UNKNOWN" not in text

    told = "content: left knee\nspace: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,2)\n"
    stale = "thicknesses: 1 1 2\nold min: 3\n"
    values, case = read_itk(save_text(tmp_path / "a.nrrd", told + stale + "Protocol:=T1w\n"))
    write_itk(np.repeat(values, 2, axis=1), case, tmp_path / "b.nrrd")
    text = (tmp_path / "b.nrrd").read_bytes().partition(b"\n\n")[0].decode()
    assert "content: left knee\n" in text and "Protocol:=T1w" in text and "(0.5,0,0)" in text
    assert not any(word in text for word in ("thicknesses", "old min", "ITK_", "UNKNOWN"))


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_a_result_is_compressed_as_its_source_was(tmp_path, suffix):
    sizes = []
    for compress in (False, True):
        path = save(tmp_path / f"a{suffix}", image(np.zeros((20, 20, 20), np.int16)), compress)
        values, case = read_itk(path)
        write_itk(values, case, tmp_path / f"b{suffix}")
        sizes.append((tmp_path / f"b{suffix}").stat().st_size)
    assert sizes[0] > 16000 and sizes[1] < 1000


@pytest.mark.parametrize(("detached", "result"), [(".mhd", ".mha"), (".nhdr", ".nrrd")])
@pytest.mark.parametrize("compress", [False, True])
def test_a_detached_header_gives_one_file(tmp_path, detached, result, compress):
    path = save(tmp_path / f"a{detached}", image(random("int16")), compress)
    values, case = read_itk(path)
    assert case.suffix == result
    write_itk(values, case, tmp_path / f"b{result}")
    assert np.array_equal(pixels(tmp_path / f"b{result}"), pixels(path))
    assert sorted(p.name for p in tmp_path.iterdir() if p.name[0] != "a") == [f"b{result}"]


def test_channels_that_came_from_several_files_become_vectors(tmp_path):
    values, case = read_itk(save(tmp_path / "a.mha", image(random("uint8"))))
    write_itk(np.concatenate([values, values / 2]), case, tmp_path / "b.mha")
    assert np.array_equal(pixels(tmp_path / "b.mha"), np.stack([values[0], np.rint(values[0] / 2)]).T)


def test_values_are_rounded_and_clipped_to_the_stored_type(tmp_path):
    values, case = read_itk(save(tmp_path / "a.mha", image(np.zeros((1, 1, 5), np.uint8))))
    values[0, :, 0, 0] = [-3.0, 0.4, 1.7, 255.4, 300.0]
    assert write_itk(values, case, tmp_path / "b.mha") == 2
    assert pixels(tmp_path / "b.mha").ravel().tolist() == values.ravel().tolist() == [0, 0, 2, 255, 255]


def test_values_that_float32_cannot_hold_are_refused(tmp_path):
    path = save(tmp_path / "a.mha", image(np.full((2, 2, 2), 2**24 + 1, np.int32)))
    with pytest.raises(ValueError, match=r"a\.mha: every int32 value must fit in float32, got 16777217"):
        read_itk(path)


@pytest.mark.parametrize(
    "space", ["spacings: 1 1 2\n", "space: scanner-xyz\nspace directions: (1,0,0) (0,1,0) (0,0,2)\n"]
)
def test_an_nrrd_that_does_not_say_where_right_is_is_read_with_a_warning(tmp_path, space):
    with pytest.warns(CaseWarning, match="the header does not say where right is"):
        _, case = read_itk(save_text(tmp_path / "a.nrrd", space))
    assert np.array_equal(np.diag(case.affine), [-1, -1, 2, 1])


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (image(np.zeros((4, 5, 6), np.int16)), {"in_channels": 3}, "takes 3 channels, the file has 1; use a network"),
        (image(np.zeros((4, 5, 6, 3), np.uint8), True), {}, "takes 1 channels, the file has 3"),
        (sitk.Image([3, 3, 3, 2], sitk.sitkInt16), {}, r"must have 2 or 3 axes, got shape \(3, 3, 3, 2\); save each"),
        (sitk.Image([3, 3, 3], sitk.sitkComplexFloat32), {}, "voxels must be integers or floats, got complex64"),
        (image(np.zeros((4, 5, 6), np.int16)), {"slice_axis": 3}, "--slice_axis must be 0, 1 or 2, got 3"),
        (image(np.zeros((5, 6), np.int16)), {"slice_axis": 1}, "--slice_axis must be 2, got 1; leave it out"),
        (image(np.zeros((4, 5, 6), np.int16)), {"volume": 0}, "--volume chooses from a 4-D NIfTI file, got 0; leave"),
        (image(np.zeros((4, 5, 6), np.int16)), {"channels_last": True}, "--channels_last says what a 4-D NIfTI file"),
    ],
)
def test_images_and_options_that_do_not_fit_are_refused(tmp_path, made, options, message):
    path = save(tmp_path / "a.nrrd", made)
    with pytest.raises(ValueError, match=rf"a\.nrrd: .*{message}"):
        read_itk(path, ReadOptions(**options))


@pytest.mark.parametrize(
    ("name", "extra", "sizes", "message"),
    [
        ("a.mha", "ElementSpacing = 0 1 1\n", "6 5 4", "Zero-valued spacing .*; export the file again, or mend"),
        ("a.mha", "TransformMatrix = 1 0 0 1 0 0 0 0 1\n", "6 5 4", "determinant is 0"),
        ("a.mha", "", "60000 60000 600", "got 240 of 4320000000000 bytes; copy or export"),
        (
            "a.nrrd",
            'space: LPS\nspace units: "um" "um" "um"\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n',
            "6 5 4",
            "um",
        ),
        (
            "a.nrrd",
            "space: LPS\nspace directions: none (1,0,0) (0,1,0) (0,0,1)\nkinds: vector domain domain domain\n"
            "measurement frame: (1,0,0) (0,1,0) (0,0,1)\n",
            "3 2 5 4",
            "a measurement frame cannot be carried to the result; convert the file to NIfTI",
        ),
    ],
)
def test_headers_that_cannot_be_right_are_refused(tmp_path, name, extra, sizes, message):
    path = save_text(tmp_path / name, extra, sizes)
    with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
        read_itk(path, ReadOptions(in_channels=3 if "frame" in extra else 1))


def damaged(folder: Path) -> dict[str, bytes]:
    """Files by name, of which ITK itself reads several without an error, as other voxels than were written."""
    files = {"text.mha": b"not an image", "text.nrrd": b"not an image", "empty.mha": b"", "empty.nhdr": b""}
    for suffix in ("mha", "nrrd"):
        for kind, compress in (("plain", False), ("zipped", True)):
            good = save(folder / f"good.{suffix}", image(random("int16", (10, 20, 20))), compress).read_bytes()
            middle = len(good) // 2
            files[f"half_{kind}.{suffix}"] = good[:middle]
            files[f"short_{kind}.{suffix}"] = good[:-1]
            if compress:
                files[f"flipped.{suffix}"] = good[:middle] + bytes([good[middle] ^ 255]) + good[middle + 1 :]
    header = META.format("CompressedData = True\n", "6 5 4", "MET_SHORT")
    files["unstated.mha"] = header.encode() + zlib.compress(VOXELS.tobytes())
    files["other.mha"] = (folder / "good.nrrd").read_bytes()
    files["other.nrrd"] = (folder / "good.mha").read_bytes()
    return files


def test_damaged_files_are_named(tmp_path):
    for name, content in damaged(tmp_path).items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"^\S*{name}: [^\n]*; copy or export the file again$"):
            read_itk(tmp_path / name)
    for name in ("good.mha", "good.nrrd"):
        read_itk(tmp_path / name)


def test_voxels_in_several_files_are_refused(tmp_path):
    """ITK reads a list of too few files without an error."""
    path = save_text(tmp_path / "a.mhd")
    path.write_bytes(path.read_bytes().partition(b"LOCAL")[0] + b"LIST\na1.raw\na2.raw\n")
    with pytest.raises(
        ValueError, match=r"a\.mhd: the voxels must lie in one file, got LIST; save the image as one file"
    ):
        read_itk(path)


@pytest.mark.parametrize("detached", [".mhd", ".nhdr"])
def test_missing_voxels_of_a_detached_header_are_named(tmp_path, detached):
    path = save(tmp_path / f"a{detached}", image(random("int16")))
    (tmp_path / "a.raw").unlink()
    with pytest.raises(ValueError, match=rf"a{detached}: cannot be read.* got .*a\.raw.*export the file again"):
        read_itk(path)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize("compress", [False, True])
def test_a_full_disk_leaves_nothing(tmp_path, suffix, compress):
    """ITK's NRRD writer does not notice that the last bytes were lost."""
    path = save(tmp_path / f"a{suffix}", image(random("int16")), compress)
    values, case = read_itk(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size - 8, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"b{suffix}: cannot be written \(.*\); make room"):
            write_itk(values, case, tmp_path / "out" / f"b{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "out").iterdir())
