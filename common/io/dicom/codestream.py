"""Compressed data, checked before a decoder sees it: GDCM ends the whole process over damaged headers of frames.

ISO/IEC 10918-1 annex B (JPEG), 14495-1 annex C (JPEG-LS), 15444-1 annex A (JPEG 2000).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from pydicom import Dataset, encaps
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from ..archive import RATIO, SMALL

BLOCK = 1 << 20
SOI, SOS, JP2K = b"\xff\xd8", 0xDA, b"\xff\x4f\xff\x51"
FRAME_HEADERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}
ALONE = {0x00, 0x01, *range(0xD0, 0xDA)}  # markers that no length follows, and what is none


def check_deflated(file: BinaryIO) -> None:
    """Find out whether a DICOM file at its start, if it is deflated as a whole, inflates to something sane.

    Raises:
        ValueError: it would take far more memory than its size can hold.
    """
    read_preamble(file, force=True)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        packed, size, inflater = 0, 0, zlib.decompressobj(-zlib.MAX_WBITS)
        while block := inflater.unconsumed_tail or file.read(BLOCK):
            packed += 0 if inflater.unconsumed_tail else len(block)
            size += len(inflater.decompress(block, BLOCK))
            _check_ratio(size, packed)
    file.seek(0)


def _check_ratio(size: int, packed: int) -> None:
    if size > SMALL and size > RATIO * packed:
        raise ValueError(f"{packed} bytes would become {size} and more, which looks like a bomb")


def check_frames(dataset: Dataset) -> None:
    """Compare the size that each compressed frame states with Rows and Columns.

    Raises:
        ValueError: a frame is damaged, or of another size; or all are far larger than their data can hold.
    """
    syntax, expected = dataset.file_meta.get("TransferSyntaxUID"), (int(dataset.Rows), int(dataset.Columns), 1)
    if syntax is None or not syntax.is_encapsulated:
        return
    count = int(dataset.get("NumberOfFrames") or 1)
    _check_ratio(expected[0] * expected[1] * count * int(dataset.BitsAllocated) // 8, len(dataset.PixelData))
    if syntax not in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes):
        return
    for number, frame in enumerate(_frames(dataset, count), start=1):
        size = _jpeg_2000_size(frame) if syntax in JPEG2000TransferSyntaxes else _jpeg_size(frame)
        if size != expected:
            raise ValueError(f"frame {number} is one of {size}, the header says {expected} rows, columns and samples")


def _frames(dataset: Dataset, count: int) -> Iterator[bytes]:
    if hasattr(encaps, "generate_frames"):
        return encaps.generate_frames(dataset.PixelData, number_of_frames=count)
    return encaps.generate_pixel_data_frame(dataset.PixelData, count)  # pydicom 2


def _jpeg_size(frame: bytes) -> tuple[int, int, int]:
    """Rows, columns and samples of a JPEG or JPEG-LS frame, all of whose header is walked through."""
    if frame[:2] != SOI:
        raise ValueError("a frame does not begin as JPEG does")
    at, sizes = 2, []
    while True:
        while frame[at : at + 2] == b"\xff\xff":  # filling
            at += 1
        if len(frame) < at + 4 or frame[at] != 0xFF or frame[at + 1] in ALONE:
            raise ValueError(f"the header of a JPEG frame is damaged at byte {at}")
        marker, length = frame[at + 1], struct.unpack_from(">H", frame, at + 2)[0]
        later_jfif = marker == 0xE0 and frame[at + 4 : at + 9] == b"JFIF\0" and frame[at + 9] != 1
        if length < 2 or at + 2 + length > len(frame) or later_jfif:
            raise ValueError(f"the header of a JPEG frame is damaged at byte {at}")
        if marker in FRAME_HEADERS and length >= 8:
            sizes.append(struct.unpack_from(">HHB", frame, at + 5))
        at += 2 + length
        if marker == SOS:
            break
    if len(sizes) != 1:
        raise ValueError(f"a JPEG frame must state its size once, got {len(sizes)} times")
    rows, columns, samples = sizes[0]
    return rows, columns, samples


def _jpeg_2000_size(frame: bytes) -> tuple[int, int, int]:
    at = frame.find(JP2K)  # after the boxes of a JP2 file, where there are some
    if at < 0 or len(frame) < at + 42:
        raise ValueError("a frame does not begin as JPEG 2000 does")
    right, bottom, left, top = struct.unpack_from(">4I", frame, at + 8)
    tile = struct.unpack_from(">4I", frame, at + 24)
    if tile[0] < 1 or tile[1] < 1:
        raise ValueError(f"a JPEG 2000 frame has tiles of {tile[0]} x {tile[1]} pixels")
    return bottom - top, right - left, struct.unpack_from(">H", frame, at + 40)[0]
