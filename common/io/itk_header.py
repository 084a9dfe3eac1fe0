"""Headers of MetaImage and NRRD files, and whether all the voxels that they announce are there.

ITK reads damaged compressed voxels and lists of too few files without an error, its NRRD writer does not see that a
disk is full, and it leaves fields out of what it tells about a header. What is needed of that is done here, from the
two formats' own descriptions (https://itk.org/Wiki/MetaIO/Documentation, https://teem.sourceforge.net/nrrd/format.html).
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

META = (".mha", ".mhd")
NRRD = (".nrrd", ".nhdr")
LIMIT = 2**20  # bytes, more than any header has
BLOCK = 2**16  # bytes; deflate makes at most a thousand times as many of them


@dataclass(frozen=True)
class ItkHeader:
    """A header as text.

    Attributes:
        fields: by their names, of NRRD in lower case; without the key/value pairs of NRRD.
        data: file that holds the voxels.
        offset: bytes before the voxels.
        encoding: ``"raw"``, ``"deflate"`` or ``""`` for others.
    """

    fields: dict[str, str]
    data: Path
    offset: int
    encoding: str


def read_header(path: str | os.PathLike[str]) -> ItkHeader:
    """Header of a ``.mha``, ``.mhd``, ``.nrrd`` or ``.nhdr`` file.

    Raises:
        ValueError: it cannot be read, is of another format, or its voxels lie in several files.
    """
    is_meta = str(path).lower().endswith(META)
    try:
        with open(path, "rb") as file:
            fields = _meta_fields(file) if is_meta else _nrrd_fields(file)
            offset = file.tell()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read, got {error.strerror}; copy or export the file again") from error
    if not fields:
        kind = "MetaImage" if is_meta else "NRRD"
        raise ValueError(f"{path}: not a readable {kind} file, got no such header; copy or export the file again")
    name = fields.get("ElementDataFile") or fields.get("data file") or fields.get("datafile") or "LOCAL"
    if name.upper().startswith("LIST") or "%" in name:
        raise ValueError(f"{path}: the voxels must lie in one file, got {name}; save the image as one file")
    here = name.upper() == "LOCAL"
    data = Path(path) if here else Path(path).parent / name
    return ItkHeader(fields, data, offset if here else 0, _meta_encoding(fields) if is_meta else _nrrd_encoding(fields))


def find_gap(header: ItkHeader, size: int) -> str | None:
    """What is wrong with the voxels of a file that should hold ``size`` bytes of them; None where all are there."""
    try:
        if header.encoding == "deflate":
            have, used = _inflated(header)
        else:
            have, used = header.data.stat().st_size - header.offset, 0
    except OSError as error:
        return f"{header.data.name}: {error.strerror}"
    except zlib.error as error:
        return f"damaged voxels ({error})"
    if "CompressedData" in header.fields and int(header.fields.get("CompressedDataSize", 0)) < used:
        return "a header without the true CompressedDataSize"
    return f"{have} of {size} bytes" if header.encoding and have < size else None


def _meta_fields(file: BinaryIO) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in _lines(file):
        key, _, value = line.partition("=")
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            return fields
    return {}


def _nrrd_fields(file: BinaryIO) -> dict[str, str]:
    lines = _lines(file)
    if not next(lines, "").startswith("NRRD000"):
        return {}
    fields: dict[str, str] = {}
    for line in lines:
        if not line:
            break
        match = re.fullmatch(r"([^#:]+): *([^=].*)", line)  # ":=" parts key and value
        if match:
            fields[match[1].lower()] = match[2].strip()
    return fields


def _lines(file: BinaryIO) -> Iterator[str]:
    while file.tell() < LIMIT and (line := file.readline(LIMIT)):
        yield line.decode("utf-8", "replace").rstrip("\r\n")


def _meta_encoding(fields: dict[str, str]) -> str:
    if fields.get("CompressedData", "")[:1] in tuple("Tt1"):
        return "deflate"
    return "raw" if fields.get("BinaryData", "")[:1] in tuple("Tt1") else ""


def _nrrd_encoding(fields: dict[str, str]) -> str:
    return {"raw": "raw", "gzip": "deflate", "gz": "deflate"}.get(fields.get("encoding", "").lower(), "")


def _inflated(header: ItkHeader) -> tuple[int, int]:
    """Bytes of voxels in a zlib or gzip stream whose checksum is right, and bytes of the stream.

    Raises:
        zlib.error: the stream is damaged, or ends too early.
    """
    stream, size = zlib.decompressobj(zlib.MAX_WBITS | 32), 0
    with open(header.data, "rb") as file:
        file.seek(header.offset)
        while not stream.eof and (block := file.read(BLOCK)):
            size += len(stream.decompress(block))
        used = file.tell() - header.offset - len(stream.unused_data)
    if not stream.eof:
        raise zlib.error("the file ends too early")
    return size, used
