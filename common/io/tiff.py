"""TIFF: its header, and pixels back into a file.

Adobe, "TIFF Revision 6.0", 1992. Written from the specification; Pillow reads and writes the tags. SimpleITK's writer
knows neither white as zero nor colour profiles, and calls every alpha premultiplied; Pillow's has no 16-bit colours.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from fractions import Fraction
from numbers import Rational

import numpy as np
from PIL.TiffImagePlugin import IFDRational
from PIL.TiffImagePlugin import ImageFileDirectory_v2 as Tags

from .raster_header import RasterHeader

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, DESCRIPTION, OFFSETS = 256, 257, 258, 259, 262, 266, 270, 273
ORIENTATION, SAMPLES, ROWS_PER_STRIP, BYTE_COUNTS = 274, 277, 278, 279
X_RESOLUTION, Y_RESOLUTION, PLANAR = 282, 283, 284
UNIT, PREDICTOR, TILE_WIDTH, EXTRA_SAMPLES, SAMPLE_FORMAT, PROFILE = 296, 317, 322, 338, 339, 34675
MAKE, MODEL, SOFTWARE, DATE, ARTIST, COPYRIGHT = 271, 272, 305, 306, 315, 33432
KEPT = (DESCRIPTION, MAKE, MODEL, SOFTWARE, DATE, ARTIST, COPYRIGHT, UNIT, EXTRA_SAMPLES, PROFILE)
NO_COMPRESSION, DEFLATE = 1, 8
LOSSLESS = (NO_COMPRESSION, 5, DEFLATE, 32773, 32946)  # LZW, PackBits, Deflate by its older number
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
COLOURS = {3: "a palette", 4: "a mask", 5: "CMYK", 6: "YCbCr", 8: "Lab"}
LARGEST = 2**32 - 2**24  # bytes of pixels: offsets have 32 bits, and the tags come first
MILLIMETRES = {2: 25.4, 3: 10.0}  # in the unit of resolution: inch, centimetre
TYPES = {(8, 1): np.uint8, (16, 1): np.uint16, (8, 2): np.int8, (16, 2): np.int16}  # by bits and sample format


def read_tiff_header(path: str | os.PathLike[str]) -> RasterHeader:
    """Header of a TIFF file of one page.

    Raises:
        ValueError: not a TIFF, damaged, or of a kind that is not read.
    """
    tags = _tags(path)
    samples, photometric = int(tags.get(SAMPLES, 1)), int(tags[PHOTOMETRIC])
    _check_layout(path, tags)
    if photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
        raise ValueError(f"{path}: must be grey or RGB, got {COLOURS.get(photometric, 'another model')}; convert it")
    kinds = set(zip(tags.get(BITS, (1,)), tags.get(SAMPLE_FORMAT, (1,) * samples), strict=False))
    kind = kinds.pop()
    if kinds or kind not in TYPES:
        text = f"{kind[0]}-bit {'float' if kind[1] == 3 else 'integers'}"
        raise ValueError(f"{path}: must hold 8 or 16-bit integers, got {text}; convert it to 8 or 16-bit grey or RGB")
    _check_samples(path, samples, photometric, kind[0])
    return RasterHeader(
        dtype=np.dtype(TYPES[kind]),
        shape=(int(tags[HEIGHT]), int(tags[WIDTH]), samples),
        white_is_zero=photometric == WHITE_IS_ZERO,
        spacing=_spacing(tags),
        by_pillow=samples == 2,
        kept=tags,
    )


def encode_tiff(stored: np.ndarray, header: RasterHeader, factors: tuple[Fraction, Fraction]) -> bytes:
    """The TIFF file of ``stored`` (rows, columns, samples), with what ``header``, that of its source, keeps.

    Resolution grows by ``factors``, of rows and columns, so that the field of view stays. Compressed, by Deflate, if
    the source was.

    Raises:
        OSError: the file would be larger than its offsets can say.
    """
    tags = _result_tags(stored, header, factors)
    if header.kept.get(COMPRESSION, NO_COMPRESSION) == NO_COMPRESSION:
        tags[COMPRESSION], pixels = NO_COMPRESSION, stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    else:
        tags[COMPRESSION], tags[PREDICTOR], pixels = DEFLATE, 2, zlib.compress(_differences(stored).tobytes())
    if len(pixels) > LARGEST:
        raise OSError("a TIFF file holds less than 4 GiB; convert the source to PNG")
    tags[OFFSETS], tags[BYTE_COUNTS] = 0, len(pixels)  # Pillow adds what lies before
    start = b"II" + struct.pack("<HI", 42, 8)
    return start + tags.tobytes(len(start)) + pixels


def _result_tags(stored: np.ndarray, header: RasterHeader, factors: tuple[Fraction, Fraction]) -> Tags:
    """Tags of the result, but for those that say how its pixels are packed."""
    (height, width, samples), source, tags = stored.shape, header.kept, Tags()
    tags[WIDTH], tags[HEIGHT], tags[ROWS_PER_STRIP], tags[SAMPLES], tags[PLANAR] = width, height, height, samples, 1
    tags[BITS] = (8 * stored.itemsize,) * samples
    tags[SAMPLE_FORMAT] = (2 if stored.dtype.kind == "i" else 1,) * samples
    tags[PHOTOMETRIC] = source[PHOTOMETRIC]
    for tag in KEPT:
        value = source.get(tag)
        stale = tag == DESCRIPTION and str(value).startswith(("{", "<"))  # tifffile's JSON, OME-XML: they tell the size
        if value is not None and not stale:
            tags.tagtype[tag] = source.tagtype[tag]
            tags[tag] = value.encode("latin-1") if isinstance(value, str) else value  # as Pillow decoded it
    for tag, factor in ((Y_RESOLUTION, factors[0]), (X_RESOLUTION, factors[1])):
        resolution = _resolution(source, tag)
        if resolution:
            tags[tag] = IFDRational(resolution * factor)
    return tags


def _tags(path: str | os.PathLike[str]) -> Tags:
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is missing of the tags is looked for here
        start = file.read(16)
        if start[:4] not in (b"II\x2a\0", b"MM\0\x2a", b"II\x2b\0", b"MM\0\x2b"):
            raise ValueError(f"{path}: not a TIFF file, whatever its name says; export it as TIFF, or correct the name")
        try:
            tags = Tags(start if 43 in start[2:4] else start[:8])
            place = tags.next
            file.seek(place)
            tags.load(file)
            ended = tags.next == place or not {WIDTH, HEIGHT, PHOTOMETRIC} <= set(tags)
        except (struct.error, OverflowError, OSError, ValueError):
            ended = True
    if ended:
        raise ValueError(f"{path}: the tags cannot be read to their end; copy or export the file again")
    return tags


def _check_layout(path: str | os.PathLike[str], tags: Tags) -> None:
    """Refuse several pages, and layouts that SimpleITK or Pillow decodes to other pixels than those stored."""
    if tags.next:
        raise ValueError(f"{path}: must hold one page, got several; save each page as a file")
    if tags.get(ORIENTATION, 1) != 1:
        raise ValueError(f"{path}: the pixels are stored turned, as the orientation tag says; save the image upright")
    if tags.get(COMPRESSION, NO_COMPRESSION) not in LOSSLESS:
        raise ValueError(
            f"{path}: must be uncompressed or compressed by LZW, Deflate or PackBits, got compression "
            f"{tags[COMPRESSION]}; save it with one of those"
        )
    if TILE_WIDTH in tags:
        raise ValueError(f"{path}: must be stored in strips, got tiles; save it without tiles")
    if tags.get(PLANAR, 1) != 1 and tags.get(SAMPLES, 1) != 1:
        raise ValueError(f"{path}: the colours of a pixel must lie side by side, got planes; save it interleaved")
    if tags.get(FILL_ORDER, 1) != 1:
        raise ValueError(f"{path}: the bits of a byte are stored in reverse; save it in the usual fill order")


def _check_samples(path: str | os.PathLike[str], samples: int, photometric: int, bits: int) -> None:
    colours = 3 if photometric == RGB else 1
    if samples not in (colours, colours + 1):
        raise ValueError(
            f"{path}: must have {colours} samples a pixel, or alpha with them, got {samples}; save the channels apart"
        )
    if samples == 2 and (bits == 16 or photometric == WHITE_IS_ZERO):
        raise ValueError(f"{path}: grey with alpha is read with 8 bits and black as 0 only; remove the alpha channel")


def _spacing(tags: Tags) -> tuple[float, float] | None:
    """Spacing in mm; a resolution without a unit gives the shape of a pixel only."""
    unit = MILLIMETRES.get(tags.get(UNIT, 2))
    x, y = _resolution(tags, X_RESOLUTION), _resolution(tags, Y_RESOLUTION)
    return (unit / float(x), unit / float(y)) if unit and x and y else None


def _resolution(tags: Tags, tag: int) -> Fraction | None:
    """Pixels per unit; None where there is no such tag, or 0 in it."""
    value = tags.get(tag)
    if not isinstance(value, Rational) or 0 in (value.numerator, value.denominator):
        return None
    return Fraction(int(value.numerator), int(value.denominator))


def _differences(stored: np.ndarray) -> np.ndarray:
    """Each sample's difference from that of the pixel at its left: the predictor 2 of TIFF."""
    differences = stored.astype(stored.dtype.newbyteorder("<"))
    differences[:, 1:] -= stored[:, :-1]
    return differences
