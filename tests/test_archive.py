import io
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.io.archive import list_members, open_file
from common.io.dicom.read import read_dicom
from common.io.dicom.series import find_series
from common.io.dicom.write import write_dicom
from tests.dicom_samples import mr_series


def pack(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def series(folder: Path) -> dict[str, bytes]:
    return {f"study/{path.name}": path.read_bytes() for path in mr_series(folder)}


def test_a_series_in_an_archive_is_read_as_from_its_folder(tmp_path):
    members = series(tmp_path / "mr")
    path = pack(tmp_path / "a.zip", {**members, "notes.txt": b"no image"})
    (found,), skipped = find_series([path])
    values, case = read_dicom(found)
    plain, record = read_dicom(tmp_path / "mr")
    assert np.array_equal(values, plain) and case.affine == record.affine
    assert [(item.path, item.reason) for item in skipped] == [(f"{path}/notes.txt", "not a DICOM file")]
    write_dicom(values, case, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == len(members)
    assert sorted(os.listdir(tmp_path)) == ["a.zip", "mr", "out"]  # nothing was unpacked


def test_a_nested_archive_is_skipped(tmp_path):
    inner = pack(tmp_path / "inner.zip", series(tmp_path / "mr")).read_bytes()
    path = pack(tmp_path / "outer.zip", {"inner.zip": inner})
    found, skipped = find_series([path])
    assert not found and [item.reason for item in skipped] == ["not a DICOM file"]


def linked(path: Path) -> Path:
    member = zipfile.ZipInfo("slice.dcm")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "/etc/passwd")
    return path


def encrypted(path: Path) -> Path:
    """The flag alone, in the header of the member and in the directory at the end."""
    content = bytearray(pack(path, {"slice.dcm": b"content"}).read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + at] |= 1
    path.write_bytes(content)
    return path


def bomb(path: Path, megabytes: int = 300) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("slice.dcm", "w") as member:
        for _ in range(megabytes):
            member.write(bytes(1 << 20))
    return path


def cut(path: Path) -> Path:
    content = pack(path, {"slice.dcm": bytes(1000)}, zipfile.ZIP_STORED).read_bytes()
    path.write_bytes(content[:600])
    return path


def rare(path: Path) -> Path:
    return pack(path, {"slice.dcm": b"content"}, zipfile.ZIP_BZIP2)


def named(name: str) -> Callable[[Path], Path]:
    return lambda path: pack(path, {name: b"content"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (named("../slice.dcm"), r"a name leads out of the archive, got '\.\./slice\.dcm'"),
        (named("a/../../slice.dcm"), "a name leads out of the archive"),
        (named("a\\..\\..\\slice.dcm"), "a name leads out of the archive"),
        (named("/etc/slice.dcm"), "a name leads out of the archive"),
        (named("C:\\slice.dcm"), "a name leads out of the archive"),
        (named("."), "a name leads out of the archive"),
        (linked, "must hold no links, got 'slice.dcm'"),
        (encrypted, "the archive is encrypted"),
        (bomb, "would unpack to 1 files of 314572800 bytes, which looks like a bomb"),
        (rare, "must be packed by deflate, got method 12"),
        (cut, "not a readable zip archive"),
    ],
)
def test_what_nobody_should_unpack_is_refused(tmp_path, make, message):
    path = make(tmp_path / "a.zip")
    with pytest.raises(ValueError, match=rf"a\.zip: .*{message}"):
        list_members(path)
    (found,), skipped = find_series([path])
    assert str(path) in found.problem and not skipped
    with pytest.raises(ValueError, match=r"a\.zip: "):
        read_dicom(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_is_named(tmp_path, compression):
    path = pack(tmp_path / "a.zip", {"slice.dcm": np.random.default_rng(0).bytes(5000)}, compression)
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.zip/slice\.dcm: damaged in its archive"):
        open_file(f"{path}/slice.dcm")


def test_a_forged_size_unpacks_to_no_more_than_it_says(tmp_path):
    content = bytearray(bomb(tmp_path / "a.zip", megabytes=10).read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = struct.pack("<I", 1000)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"slice\.dcm: damaged in its archive"):
        open_file(f"{tmp_path}/a.zip/slice.dcm")


def test_a_member_that_is_not_there_is_named(tmp_path):
    path = pack(tmp_path / "a.zip", {"slice.dcm": b"content"})
    assert open_file(f"{path}/slice.dcm").read() == b"content"
    with pytest.raises(FileNotFoundError, match=r"a\.zip/other\.dcm: the archive has no such file"):
        open_file(f"{path}/other.dcm")


def test_a_file_on_disk_is_read_to_its_end_and_no_further(tmp_path):
    content = np.random.default_rng(0).bytes(100_000)
    (tmp_path / "a.dcm").write_bytes(content)
    with open_file(tmp_path / "a.dcm") as file:
        assert file.read(1000) == content[:1000] and file.read(1 << 62) == content[1000:]
        assert file.seek(0) == 0 and file.read() == content == io.BytesIO(content).read()
