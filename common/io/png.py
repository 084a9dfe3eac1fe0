"""PNG: its header, and pixels back into a file.

W3C, "Portable Network Graphics (PNG) Specification", third edition, 2025. Written from the specification. SimpleITK's
writer adds a physical scale of its own and drops resolution and colour profile; Pillow's has no 16-bit colours.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain

import numpy as np
from PIL import ExifTags, Image

from .raster_header import RasterHeader

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SAMPLES = {0: 1, 2: 3, 4: 2, 6: 4}  # of a pixel, by colour type
KEPT = (b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP", b"pHYs", b"tEXt", b"zTXt", b"iTXt")
SUB = 1  # the filter that stores each byte's difference from the pixel at its left
BLOCK = 2**20  # bytes of compressed pixels in a chunk

Chunk = tuple[bytes, bytes]  # name and content


def read_png_header(path: str | os.PathLike[str]) -> RasterHeader:
    """Header of a PNG file whose every chunk has the right checksum.

    Raises:
        ValueError: not a PNG, damaged, or of a kind that is not read.
    """
    with open(path, "rb") as file:
        content = file.read()
    if not content.startswith(SIGNATURE):
        raise ValueError(f"{path}: not a PNG file, whatever its name says; export it as PNG, or correct the name")
    chunks = list(_chunks(path, content))
    names = [name for name, _ in chunks]
    if names[:1] != [b"IHDR"] or names[-1:] != [b"IEND"]:
        raise ValueError(f"{path}: cannot be read to its end; copy or export the file again")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">2I5B", chunks[0][1])
    if depth not in (8, 16) or colour not in SAMPLES:
        kind = "a palette" if colour == 3 else f"{depth} bits"
        raise ValueError(f"{path}: must have 8 or 16 bits a sample, got {kind}; convert it to 8-bit grey or RGB")
    samples, wide = SAMPLES[colour], depth == 16
    others = dict(chunks)
    _check_kind(path, others, samples, wide)
    pixels = b"".join(data for name, data in chunks if name == b"IDAT")
    _check_pixels(path, pixels, height * (width * samples * depth // 8 + (not interlaced)))
    return RasterHeader(
        dtype=np.dtype(np.uint16 if wide else np.uint8),
        shape=(height, width, samples),
        white_is_zero=False,
        spacing=_spacing(others.get(b"pHYs")),
        by_pillow=not wide or samples == 1,
        kept=tuple((name, data) for name, data in chunks if name in KEPT),
    )


def encode_png(stored: np.ndarray, header: RasterHeader, factors: tuple[Fraction, Fraction]) -> bytes:
    """The PNG file of ``stored`` (rows, columns, samples), with what ``header``, that of its source, keeps.

    Pixels per metre grow by ``factors``, of rows and columns, so that the field of view stays.
    """
    height, width, samples = stored.shape
    colour = next(colour for colour, count in SAMPLES.items() if count == samples)
    kept = [_scaled(chunk, factors[1], factors[0]) for chunk in header.kept]
    step = samples * stored.itemsize
    rows = stored.astype(stored.dtype.newbyteorder(">"), order="C").reshape(height, -1).view(np.uint8)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0], filtered[:, 1:] = SUB, rows
    filtered[:, 1 + step :] -= rows[:, :-step]
    pixels = zlib.compress(filtered.tobytes())
    blocks = [(b"IDAT", pixels[i : i + BLOCK]) for i in range(0, len(pixels), BLOCK)]
    first = (b"IHDR", struct.pack(">2I5B", width, height, 8 * stored.itemsize, colour, 0, 0, 0))
    return SIGNATURE + b"".join(_packed(*chunk) for chunk in chain([first], kept, blocks, [(b"IEND", b"")]))


def _chunks(path: str | os.PathLike[str], content: bytes) -> Iterator[Chunk]:
    start = len(SIGNATURE)
    while start + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, start)
        body, end = content[start + 4 : start + 8 + size], start + 12 + size
        if content[end - 4 : end] != struct.pack(">I", zlib.crc32(body)):
            raise ValueError(f"{path}: damaged at byte {start}; copy or export the file again")
        yield body[:4], body[4:]
        start = end if body[:4] != b"IEND" else len(content)


def _packed(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _check_kind(path: str | os.PathLike[str], chunks: dict[bytes, bytes], samples: int, wide: bool) -> None:
    """Refuse what no reader here decodes to the last bit, or what the result could not repeat."""
    if b"acTL" in chunks:
        raise ValueError(f"{path}: must hold one image, got an animation; save each image as a file")
    if b"tRNS" in chunks:
        raise ValueError(f"{path}: one colour is marked as transparent; save it with an alpha channel or with none")
    exif = Image.Exif()
    exif.load(chunks.get(b"eXIf", b""))
    if exif.get(ExifTags.Base.Orientation, 1) != 1:
        raise ValueError(f"{path}: the pixels are stored turned, as EXIF says; save the image upright")
    if wide and samples == 2:
        raise ValueError(f"{path}: grey with alpha is read with 8 bits, got 16; remove the alpha channel")
    if wide and samples > 2 and set(chunks.get(b"sBIT", b"")) - {16}:
        raise ValueError(f"{path}: 16-bit colours must all be significant, got an sBIT chunk; save it without")


def _check_pixels(path: str | os.PathLike[str], pixels: bytes, size: int) -> None:
    stream, have = zlib.decompressobj(), 0
    try:
        for start in range(0, len(pixels), BLOCK // 16):
            have += len(stream.decompress(pixels[start : start + BLOCK // 16]))
    except zlib.error as error:
        raise ValueError(f"{path}: damaged pixels ({error}); copy or export the file again") from error
    if not stream.eof or have < size:
        raise ValueError(f"{path}: got {have} of {size} bytes of pixels; copy or export the file again")


def _spacing(density: bytes | None) -> tuple[float, float] | None:
    """Spacing in mm out of a pHYs chunk in pixels per metre; one without a unit gives the shape of a pixel only."""
    x, y, metres = struct.unpack(">2IB", density) if density else (0, 0, 0)
    return (1000 / x, 1000 / y) if metres == 1 and x and y else None


def _scaled(chunk: Chunk, horizontal: Fraction, vertical: Fraction) -> Chunk:
    name, data = chunk
    if name != b"pHYs":
        return chunk
    x, y, unit = struct.unpack(">2IB", data)
    return name, struct.pack(">2IB", round(x * horizontal), round(y * vertical), unit)
