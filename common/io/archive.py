"""Files in zip archives, read where they lie: a member is named as if its archive were a folder, and never unpacked."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

SUFFIX = ".zip"
MEMBERS, BYTES = 200_000, 64 << 30  # of one archive; beyond that it is taken for a bomb
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
RATIO, SMALL = 200, 256 << 20  # of unpacked to packed bytes, for archives that unpack to more than SMALL
ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError)


class _Bounded(io.BufferedReader):
    """Asks for no more bytes than the file has: a forged length in a header would have gigabytes set aside for it."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            size = min(size, os.fstat(self.fileno()).st_size)
        return super().read(size)


def list_members(path: str | os.PathLike[str]) -> list[str]:
    """Names of the files in the zip archive at ``path``, as :func:`open_file` takes them, sorted.

    Raises:
        ValueError: no zip archive, or one that nobody should unpack: names that lead out of it, links, encryption, or
            far more data than its size can hold.
    """
    return sorted(os.path.join(path, member.filename) for member in check_archive(path, _open(path)))


def check_archive(path: str | os.PathLike[str], archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files in the ``archive`` at ``path``; raises ``ValueError`` as :func:`list_members` does."""
    for member in archive.infolist():
        _check(path, member)
    members = [member for member in archive.infolist() if not member.is_dir()]
    unpacked = sum(member.file_size for member in members)
    bomb = unpacked > SMALL and unpacked > RATIO * os.path.getsize(path)
    if bomb or unpacked > BYTES or len(members) > MEMBERS:
        raise ValueError(
            f"{path}: the archive would unpack to {len(members)} files of {unpacked} bytes, which looks like a bomb; "
            "unpack it yourself if you trust it, and pass the folder"
        )
    return members


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """A file on disk or in an archive, for reading bytes.

    Raises:
        OSError: it is not there, or cannot be read.
        ValueError: it is damaged in its archive.
    """
    archive = find_archive(path)
    if archive is None:
        return _Bounded(io.FileIO(path))
    name = Path(path).relative_to(archive).as_posix()
    try:
        return io.BytesIO(_open(archive).read(name))
    except KeyError as error:
        raise FileNotFoundError(f"{path}: the archive has no such file") from error
    except Exception as error:  # every method of compression has errors of its own
        raise ValueError(f"{path}: damaged in its archive, got {error}; copy the archive again") from error


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file on disk or in an archive, in hexadecimal."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def find_archive(path: str | os.PathLike[str]) -> Path | None:
    """The archive that ``path`` leads into, or None where it is a path of the file system alone."""
    parents = Path(path).parents
    return next((p for p in parents if p.suffix.lower() == SUFFIX and p.is_file()), None)


def _open(path: str | os.PathLike[str]) -> zipfile.ZipFile:
    try:
        return _archive(str(path), os.stat(path).st_mtime_ns)
    except OSError as error:
        raise ValueError(_unreadable(path, error)) from error


@lru_cache(maxsize=4)
def _archive(path: str, _changed: int) -> zipfile.ZipFile:
    """Kept open: the directory of a large archive takes long to read, and is needed for every member."""
    return open_archive(path)


def open_archive(path: str | os.PathLike[str]) -> zipfile.ZipFile:
    """A zip archive to be closed by the caller; raises ``ValueError`` where it is none."""
    try:
        return zipfile.ZipFile(path)
    except ERRORS as error:
        raise ValueError(_unreadable(path, error)) from error


def _unreadable(path: str | os.PathLike[str], error: Exception) -> str:
    return f"{path}: not a readable zip archive, got {error}; copy it again, or unpack it"


def _check(path: str | os.PathLike[str], member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    if not name.parts or name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
        raise ValueError(f"{path}: a name leads out of the archive, got {member.filename!r}; do not trust this archive")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ValueError(f"{path}: the archive must hold no links, got {member.filename!r}; pack the files themselves")
    if member.flag_bits & 1:
        raise ValueError(f"{path}: the archive is encrypted; unpack it, and pass the folder")
    if member.compress_type not in METHODS:  # others unpack to more than the directory says before anyone can stop
        raise ValueError(f"{path}: must be packed by deflate, got method {member.compress_type}; pack it again")
