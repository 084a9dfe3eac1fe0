"""PNG and TIFF, made and taken apart by hand from their specifications, or by Pillow and SimpleITK."""

import json
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image, ImageCms

from common.io.case import Case
from common.io.options import ReadOptions
from common.io.raster import read_raster, write_raster
from tests.helpers import identity, run_inference

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
INCH, CENTIMETRE = 2, 3
INTERPOLATE = {"scale": 2, "network_def": {"_target_": "tests.helpers.Interpolate", "scale": 2}}


def random(dtype: str, samples: int = 1, size: tuple[int, int] = (9, 13)) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.random.default_rng(0).integers(info.min, info.max, (*size, samples), endpoint=True).astype(dtype)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(array: np.ndarray, *chunks: bytes, depth: int = 0, colour: int | None = None, rows: int | None = None) -> bytes:
    """A PNG of ``array`` (rows, columns, samples) without filters; ``depth``, ``colour`` and ``rows`` may lie."""
    height, width, samples = array.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[samples] if colour is None else colour
    big = array.astype(array.dtype.newbyteorder(">"))
    pixels = b"".join(b"\0" + row.tobytes() for row in big[:rows])
    header = struct.pack(">2I5B", width, height, depth or 8 * array.itemsize, colour, 0, 0, 0)
    body = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def chunks_of(path: Path) -> dict[bytes, bytes]:
    content, start, found = path.read_bytes(), 8, {}
    while start < len(content):
        (size,) = struct.unpack_from(">I", content, start)
        name = content[start + 4 : start + 8]
        found[name] = found.get(name, b"") + content[start + 8 : start + 8 + size]
        start += 12 + size
    return found


def decode_png(path: Path) -> np.ndarray:
    """Samples of a PNG whose rows have no filter or that of the left neighbour."""
    found = chunks_of(path)
    width, height, depth, colour = struct.unpack(">2I2B", found[b"IHDR"][:10])
    samples, bytes_each = {0: 1, 2: 3, 4: 2, 6: 4}[colour], depth // 8
    rows = np.frombuffer(zlib.decompress(found[b"IDAT"]), np.uint8).reshape(height, -1)
    assert set(rows[:, 0]) <= {0, 1}
    pixels = rows[:, 1:].reshape(height, width, samples * bytes_each)
    pixels = np.where(rows[:, :1, None] == 1, np.cumsum(pixels, axis=1, dtype=np.uint8), pixels)
    return np.ascontiguousarray(pixels).view(f">u{bytes_each}").reshape(height, width, samples)


def tiff(array: np.ndarray, order: str = "<", packed: bool = False, pages: int = 1, **tags: object) -> bytes:
    """A TIFF of ``array`` (rows, columns, samples) in one strip; ``tags`` as ``t262=0`` replace and add."""
    height, width, samples = array.shape
    pixels = array.astype(array.dtype.newbyteorder(order)).tobytes()
    pixels = zlib.compress(pixels) if packed else pixels
    given = {
        **{256: width, 257: height, 258: (8 * array.itemsize,) * samples, 259: 8 if packed else 1},
        **{262: 2 if samples > 2 else 1, 273: 8, 277: samples, 278: height, 279: len(pixels)},
        339: ({"u": 1, "i": 2, "f": 3}[array.dtype.kind],) * samples,
        **({338: 2} if samples in (2, 4) else {}),
        **{int(name[1:]): value for name, value in tags.items()},
    }
    start = 8 + len(pixels) + len(pixels) % 2
    entries, beyond = b"", b""
    for tag, value in sorted(given.items()):
        kind, count, data = packed_value(order, value)
        if len(data) > 4:
            place = start + 2 + 12 * len(given) + 4 + len(beyond)
            beyond += data + b"\0" * (len(data) % 2)
            data = struct.pack(f"{order}I", place)
        entries += struct.pack(f"{order}HHI", tag, kind, count) + data.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    directory = struct.pack(f"{order}H", len(given)) + entries
    return head + pixels.ljust(start - 8, b"\0") + directory + struct.pack(f"{order}I", 8 * (pages - 1)) + beyond


def packed_value(order: str, value: object) -> tuple[int, int, bytes]:
    """Type, count and bytes of a tag: text, bytes, a fraction, or integers."""
    if isinstance(value, str):
        return 2, len(value) + 1, value.encode() + b"\0"
    if isinstance(value, bytes):
        return 7, len(value), value
    if isinstance(value, Fraction):
        return 5, 1, struct.pack(f"{order}2I", value.numerator, value.denominator)
    numbers = value if isinstance(value, tuple) else (value,)
    kind, letter = (3, "H") if max(numbers) < 2**16 else (4, "I")
    return kind, len(numbers), struct.pack(f"{order}{len(numbers)}{letter}", *numbers)


def decode_tiff(path: Path, grey_with_alpha: bool = False) -> np.ndarray:
    """Samples as stored: SimpleITK drops the alpha of grey, Pillow has no 16-bit colours."""
    if grey_with_alpha:
        with Image.open(path) as image:
            assert image.mode == "LA"
            return np.asarray(image)
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return array.reshape(*array.shape[:2], -1)


def decode(path: Path, grey_with_alpha: bool = False) -> np.ndarray:
    return decode_png(path) if path.suffix == ".png" else decode_tiff(path, grey_with_alpha)


def save(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


GREY = {
    "l8.png": png(random("uint8")),
    "l16.png": png(random("uint16")),
    "la8.png": png(random("uint8", 2)),
    "dark16.png": png(random("uint8").astype(np.uint16)),  # the header counts, not the values
    "bits12.png": png(random("uint16") & 0xFFF0, chunk(b"sBIT", b"\x0c")),  # ITK would shift them
    "l8.tif": tiff(random("uint8")),
    "l16.tiff": tiff(random("uint16"), ">"),
    "l16_packed.tif": tiff(random("uint16"), packed=True),
    "la8.tif": tiff(random("uint8", 2), packed=True),
    "i8.tif": tiff(random("int8")),
    "i16.tif": tiff(random("int16"), ">", packed=True),
    "white8.tif": tiff(random("uint8"), t262=0),
    "white16.tif": tiff(random("uint16"), ">", packed=True, t262=0),
}
COLOUR = {
    "rgb8.png": png(random("uint8", 3)),
    "rgb16.png": png(random("uint16", 3)),
    "rgba8.png": png(random("uint8", 4)),
    "rgba16.png": png(random("uint16", 4)),
    "rgb8.tif": tiff(random("uint8", 3)),
    "rgb16.tif": tiff(random("uint16", 3), ">"),
    "rgb16_packed.tif": tiff(random("uint16", 3), packed=True),
    "rgba8.tif": tiff(random("uint8", 4)),
    "rgba16.tif": tiff(random("uint16", 4), ">", packed=True),
    "premultiplied.tif": tiff(random("uint16", 4), t338=1),
}


@pytest.mark.parametrize(("files", "in_channels"), [(GREY, 1), (COLOUR, 3)])
def test_an_identity_network_returns_every_kind_bit_by_bit(tmp_path, files, in_channels):
    for name, content in files.items():
        save(tmp_path / "in" / name, content)
    if in_channels == 1:
        Image.fromarray(random("uint16")[..., 0]).save(tmp_path / "in" / "lzw.tif", compression="tiff_lzw")
    run_inference(tmp_path / "in", tmp_path / "out", **identity(), in_channels=in_channels)
    for source in (tmp_path / "in").iterdir():
        result = tmp_path / "out" / f"{source.stem}_srx1{source.suffix}"
        kept, out = (decode(path, source.name.startswith("la")) for path in (source, result))
        assert out.dtype.newbyteorder("=") == kept.dtype.newbyteorder("=") and out.shape == kept.shape, source
        assert np.array_equal(out, kept), source
    lines = [json.loads(line) for line in (tmp_path / "out" / "cases.jsonl").read_text().splitlines()]
    assert len(lines) >= len(files) and not any(line["warnings"] for line in lines)
    assert {(line["slice_axis"], line["units"]) for line in lines} == {(2, "pixel")}


def test_our_own_files_are_read_alike_by_pillow(tmp_path):
    for name in ("rgb8.png", "rgba8.tif", "la8.tif", "l16_packed.tif", "l16.png"):
        content = {**GREY, **COLOUR}[name]
        values, case = read_raster(save(tmp_path / name, content), ReadOptions(in_channels=3 if "rgb" in name else 1))
        write_raster(values, case, tmp_path / f"out_{name}")
        with Image.open(tmp_path / name) as source, Image.open(tmp_path / f"out_{name}") as result:
            assert source.mode == result.mode and np.array_equal(np.asarray(source), np.asarray(result))


def test_columns_run_along_x_and_rows_along_y(tmp_path):
    array = random("uint16", 3)
    values, case = read_raster(save(tmp_path / "a.png", png(array)), ReadOptions(in_channels=3))
    assert values.shape == (3, 13, 9, 1) and values.dtype == np.float32
    assert np.array_equal(values[:, :, :, 0], array.transpose(2, 1, 0))
    assert np.array_equal(case.affine, np.diag([-1, -1, 1, 1]))  # left and back, as ITK has it
    assert (case.shape, case.dtype, case.suffix, case.slice_axis) == ((9, 13, 3), "<u2", ".png", 2)
    assert Case.from_meta({"case": case.to_meta()}) == case


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_every_pixel_of_a_ramp_keeps_its_place(tmp_path, suffix):
    """A pixel's value is 1000 times its place in mm, also on the fine grid, whose first pixel lies off the origin."""
    rows, columns = np.meshgrid(np.arange(9) * 0.5, np.arange(13) * 0.25, indexing="ij")
    for name, place in (("columns", columns), ("rows", rows)):
        array = np.round(1000 * place + 5000).astype(np.uint16)[..., None]
        density = chunk(b"pHYs", struct.pack(">2IB", 4000, 2000, 1))
        resolution = {"t282": Fraction(40), "t283": Fraction(20), "t296": CENTIMETRE}
        content = png(array, density) if suffix == ".png" else tiff(array, **resolution)
        save(tmp_path / "in" / f"{name}{suffix}", content)
    run_inference(tmp_path / "in", tmp_path / "out", **INTERPOLATE)
    fine_rows, fine_columns = np.meshgrid(np.arange(18) * 0.25 - 0.125, np.arange(26) * 0.125 - 0.0625, indexing="ij")
    for name, place in (("columns", fine_columns), ("rows", fine_rows)):
        out = decode(tmp_path / "out" / f"{name}_srx2{suffix}")[2:-2, 2:-2, 0].astype(float)
        np.testing.assert_allclose(out, (1000 * place + 5000)[2:-2, 2:-2], atol=0.51)
        values, case = read_raster(tmp_path / "out" / f"{name}_srx2{suffix}")
        assert case.units == "mm" and np.allclose(np.diag(case.affine), [-0.125, -0.25, 1, 1], rtol=1e-12)
        assert values.shape == (1, 26, 18, 1)


@pytest.mark.parametrize(
    ("name", "content", "spacing", "units"),
    [
        ("a.png", png(random("uint8"), chunk(b"pHYs", struct.pack(">2IB", 10000, 5000, 1))), (0.1, 0.2), "mm"),
        ("a.png", png(random("uint8"), chunk(b"pHYs", struct.pack(">2IB", 2, 1, 0))), (1, 1), "pixel"),
        ("a.tif", tiff(random("uint8"), t282=Fraction(300), t283=Fraction(301, 2)), (25.4 / 300, 50.8 / 301), "mm"),
        ("a.tif", tiff(random("uint8"), t282=Fraction(50), t283=Fraction(25), t296=CENTIMETRE), (0.2, 0.4), "mm"),
        ("a.tif", tiff(random("uint8"), t282=Fraction(50), t283=Fraction(25), t296=1), (1, 1), "pixel"),
        ("a.tif", tiff(random("uint8"), t282=Fraction(0), t283=Fraction(0), t296=INCH), (1, 1), "pixel"),
    ],
)
def test_resolution_becomes_spacing_and_the_field_of_view_stays(tmp_path, name, content, spacing, units):
    values, case = read_raster(save(tmp_path / name, content))
    assert case.units == units and np.allclose(np.diag(case.affine)[:2], np.negative(spacing), rtol=1e-12)
    bigger = np.zeros((1, 32, 27, 1), np.float32)  # 32 / 13 and 27 / 9: no ratio that was asked for, but the true one
    write_raster(bigger, case, tmp_path / f"out_{name}")
    field = np.array(spacing) * values.shape[1:3]
    result = read_raster(tmp_path / f"out_{name}")[1]
    if units == "mm":
        new = -np.diag(result.affine)[:2]
        np.testing.assert_allclose(new * bigger.shape[1:3], field, rtol=3e-5 if name == "a.png" else 1e-9)
    assert result.units == units


def test_the_shape_of_a_pixel_is_kept_where_there_is_no_unit(tmp_path):
    path = save(tmp_path / "a.png", png(random("uint8"), chunk(b"pHYs", struct.pack(">2IB", 20, 10, 0))))
    _, case = read_raster(path)
    write_raster(np.zeros((1, 26, 27, 1), np.float32), case, tmp_path / "b.png")
    assert struct.unpack(">2IB", chunks_of(tmp_path / "b.png")[b"pHYs"]) == (40, 30, 0)


@pytest.mark.parametrize(
    ("dtype", "samples", "suffix"),
    [("uint8", 2, ".png"), ("uint8", 2, ".tif"), ("uint8", 4, ".tif"), ("uint16", 4, ".png"), ("uint16", 4, ".tif")],
)
def test_a_constant_alpha_stays_so_and_the_network_never_sees_it(tmp_path, dtype, samples, suffix):
    array, make = random(dtype, samples), png if suffix == ".png" else tiff
    for name, level in (("full", np.iinfo(dtype).max), ("part", np.iinfo(dtype).max // 3)):
        array[..., -1] = level
        save(tmp_path / "in" / f"{name}{suffix}", make(array))
    run_inference(tmp_path / "in", tmp_path / "out", **INTERPOLATE, in_channels=samples - 1)
    full, part = (decode(tmp_path / "out" / f"{name}_srx2{suffix}", samples == 2) for name in ("full", "part"))
    assert np.array_equal(full[..., :-1], part[..., :-1])
    assert np.all(full[..., -1] == np.iinfo(dtype).max) and np.all(part[..., -1] == np.iinfo(dtype).max // 3)


def test_alpha_is_magnified_by_the_bicubic_kernel(tmp_path):
    array = random("uint8", 4)
    array[2:6, 3:9, 3], array[6:, :, 3] = 255, 0  # rings beyond the range of the type
    values, case = read_raster(save(tmp_path / "a.png", png(array)), ReadOptions(in_channels=3))
    write_raster(np.repeat(np.repeat(values, 3, axis=1), 3, axis=2), case, tmp_path / "b.png")
    expected = Image.fromarray(array[..., 3].astype(np.float32)).resize((39, 27), Image.Resampling.BICUBIC)
    expected = np.clip(np.asarray(expected), 0, 255)
    np.testing.assert_allclose(decode_png(tmp_path / "b.png")[..., 3], expected, atol=0.501)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_bright_is_bright_where_white_is_zero(tmp_path, dtype):
    array = random(dtype)
    path = save(tmp_path / "a.tif", tiff(array, t262=0))
    values, case = read_raster(path)
    assert np.array_equal(values[0, :, :, 0].T, np.iinfo(dtype).max - array[..., 0].astype(int))
    assert np.array_equal(case.slope * array[..., 0] + case.intercept, values[0, :, :, 0].T)
    values[0, 0, 0, 0] = 1e9
    assert write_raster(values, case, tmp_path / "b.tif") == 1
    out = decode_tiff(tmp_path / "b.tif")
    assert out[0, 0, 0] == 0 and np.array_equal(out.ravel()[1:], array.ravel()[1:])
    with Image.open(tmp_path / "b.tif") as image:
        assert image.tag_v2[262] == 0


def test_values_are_rounded_and_clipped_to_the_stored_type(tmp_path):
    values, case = read_raster(save(tmp_path / "a.png", png(np.zeros((1, 5, 1), np.uint8))))
    values[0, :, 0, 0] = [-3.0, 0.4, 1.7, 255.4, 300.0]
    assert write_raster(values, case, tmp_path / "b.png") == 2
    assert decode_png(tmp_path / "b.png").ravel().tolist() == values.ravel().tolist() == [0, 0, 2, 255, 255]


def test_colour_profile_and_words_are_kept(tmp_path):
    kept = {b"iCCP": b"sRGB\0\0" + zlib.compress(PROFILE), b"gAMA": struct.pack(">I", 45455), b"tEXt": b"Title\0knee"}
    stale = [chunk(b"tIME", b"\x07\xe8\1\1\0\0\0"), chunk(b"bKGD", b"\0\0\0\0\0\0")]
    path = save(tmp_path / "a.png", png(random("uint16", 3), *(chunk(*item) for item in kept.items()), *stale))
    values, case = read_raster(path, ReadOptions(in_channels=3))
    write_raster(values, case, tmp_path / "b.png")
    found = chunks_of(tmp_path / "b.png")
    assert set(found) == {b"IHDR", b"IDAT", b"IEND", *kept} and all(found[name] == data for name, data in kept.items())

    for text, told in (("knee, 20 µm", "knee, 20 µm"), ('{"shape": [9, 13]}', None), ("<?xml?><OME/>", None)):
        path = save(tmp_path / "a.tif", tiff(random("uint16", 4), t270=text, t34675=PROFILE, t338=1, t315="A. Writer"))
        values, case = read_raster(path, ReadOptions(in_channels=3))
        write_raster(values, case, tmp_path / "b.tif")
        with Image.open(tmp_path / "b.tif") as image:
            tags = image.tag_v2
            assert tags[34675] == PROFILE and tags[338] == (1,) and tags[315] == "A. Writer"
            assert tags.get(270, "").encode("latin-1").decode() == (told or "")


def pillow(mode: str, **options: object):
    """A maker of a file by Pillow."""

    def make(path: Path) -> None:
        Image.fromarray(random("uint8", 3)).convert(mode).save(path, **options)

    return make


ORIENTED = Image.Exif()
ORIENTED[274] = 6


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.png", pillow("1"), "must have 8 or 16 bits a sample, got 1 bits; convert it to 8-bit grey or RGB"),
        ("a.png", pillow("P"), "got a palette; convert it to 8-bit grey or RGB"),
        ("a.png", png(random("uint8"), depth=4), "must have 8 or 16 bits a sample, got 4 bits"),
        ("a.png", png(random("uint16", 2)), "grey with alpha is read with 8 bits, got 16; remove the alpha channel"),
        ("a.png", png(random("uint16", 3), chunk(b"sBIT", b"\x0c" * 3)), "must all be significant, got an sBIT chunk"),
        ("a.png", png(random("uint8"), chunk(b"tRNS", b"\0\x07")), "one colour is marked as transparent; save it with"),
        ("a.png", pillow("L", save_all=True, append_images=[Image.new("L", (13, 9))]), "got an animation; save each"),
        ("a.png", pillow("L", exif=ORIENTED), "stored turned, as EXIF says; save the image upright"),
        ("a.png", tiff(random("uint8")), "not a PNG file, whatever its name says; export it as PNG, or correct"),
        ("a.tif", png(random("uint8")), "not a TIFF file, whatever its name says; export it as TIFF, or correct"),
        ("a.tif", pillow("1"), "must hold 8 or 16-bit integers, got 1-bit integers; convert it"),
        ("a.tif", pillow("P"), "must be grey or RGB, got a palette; convert it"),
        ("a.tif", pillow("CMYK"), "got CMYK; convert it"),
        ("a.tif", pillow("YCbCr"), "got YCbCr; convert it"),
        ("a.tif", pillow("F"), "got 32-bit float; convert it to 8 or 16-bit grey or RGB"),
        ("a.tif", pillow("I"), "got 32-bit integers; convert it"),
        ("a.tif", pillow("RGB", compression="jpeg"), "must be uncompressed or compressed by LZW.*, got compression 7"),
        ("a.tif", tiff(random("uint8"), pages=2), "must hold one page, got several; save each page as a file"),
        ("a.tif", tiff(random("uint8"), t274=6), "stored turned, as the orientation tag says; save the image upright"),
        ("a.tif", tiff(random("uint8"), t266=2), "the bits of a byte are stored in reverse"),
        ("a.tif", tiff(random("uint8", 3), t284=2), "must lie side by side, got planes; save it interleaved"),
        ("a.tif", tiff(random("uint8"), t322=16, t323=16), "must be stored in strips, got tiles; save it without"),
        ("a.tif", tiff(random("uint8", 4), t262=1), "must have 1 samples a pixel, or alpha with them, got 4"),
        ("a.tif", tiff(random("uint16", 2)), "grey with alpha is read with 8 bits and black as 0 only; remove"),
        ("a.tif", tiff(random("uint8", 2), t262=0), "grey with alpha is read with 8 bits and black as 0 only; remove"),
    ],
)
def test_kinds_that_are_not_read_are_refused_with_the_remedy(tmp_path, name, make, message):
    path = tmp_path / name
    if isinstance(make, bytes):
        path.write_bytes(make)
    else:
        make(path)
    with pytest.raises(ValueError, match=rf"^\S*{name}: .*{message}"):
        read_raster(path)


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (3, {}, r"takes 1 channels, the file has 3 \(red, green, blue\); use a network of that many channels"),
        (1, {"in_channels": 3}, r"takes 3 channels, the file has 1 \(grey\)"),
        (1, {"volume": 0}, "--volume chooses from a 4-D NIfTI file, got 0; leave it out"),
        (1, {"channels_last": True}, "--channels_last says what a 4-D NIfTI file means; leave it out"),
        (1, {"slice_axis": 0}, "planes lie across axis 2, --slice_axis must be 2, got 0; leave it out"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, samples, options, message):
    for name, make in (("a.png", png), ("a.tif", tiff)):
        path = save(tmp_path / name, make(random("uint8", samples)))
        with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
            read_raster(path, ReadOptions(**options))


def damaged() -> dict[str, bytes]:
    """Files by name; Pillow reads some of them without an error, as other pixels than were written."""
    files = {"empty.png": b"", "empty.tif": b"", "text.tif": b"II*\0 not an image"}
    kinds = {"l8": random("uint8"), "l16": random("uint16"), "la8": random("uint8", 2), "rgb16": random("uint16", 3)}
    for name, array in kinds.items():
        content = png(array)
        files[f"half_{name}.png"], files[f"short_{name}.png"] = content[: len(content) // 2], content[:-12]
        files[f"flipped_{name}.png"] = content[:60] + bytes([content[60] ^ 255]) + content[61:]
        files[f"fewer_{name}.png"] = png(array, rows=4)
        content = tiff(array, packed=True)
        files[f"half_{name}.tif"] = content[: len(content) // 2]
        files[f"flipped_{name}.tif"] = content[:30] + bytes([content[30] ^ 255]) + content[31:]
        files[f"beyond_{name}.tif"] = tiff(array, t273=10**6)
    return files


def test_damaged_files_are_named(tmp_path):
    for name, content in damaged().items():
        path = save(tmp_path / name, content)
        with pytest.raises(ValueError, match=rf"^\S*{name}: [^\n]*; (copy or export the file again|export it as .*)$"):
            read_raster(path, ReadOptions(in_channels=3 if "rgb" in name else 1))
    with pytest.raises(ValueError, match=r"missing\.png: cannot be read, got No such file"):
        read_raster(tmp_path / "missing.png")


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    values, case = read_raster(save(tmp_path / "a.tif", tiff(random("uint8"))))
    (tmp_path / "sub").write_text("in the way")
    with pytest.raises(OSError, match=r"sub/b\.tif: cannot be written .*choose another folder"):
        write_raster(values, case, tmp_path / "sub" / "b.tif")


def test_grey_files_of_several_channels_make_no_colour(tmp_path):
    values, case = read_raster(save(tmp_path / "a.png", png(random("uint8"))))
    with pytest.raises(ValueError, match=r"a\.png: the result must have 1 channels, got 3; use NIfTI"):
        write_raster(np.repeat(values, 3, axis=0), case, tmp_path / "b.png")
