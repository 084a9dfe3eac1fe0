"""A zip archive whose bytes follow from its members alone: sorted, without dates, one set of permissions."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from ..io.whole import write_whole

DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that zip knows
MODE = 0o100644 << 16  # a plain file, readable by all
UNIX = 3


def write_zip(members: Mapping[str, bytes], path: Path) -> None:
    """Write ``members``, path in the archive to content, as the archive ``path``, whole or not at all."""

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name in sorted(members):
                info = zipfile.ZipInfo(name, DATE)
                info.external_attr, info.create_system, info.compress_type = MODE, UNIX, zipfile.ZIP_DEFLATED
                archive.writestr(info, members[name], compresslevel=9)

    write_whole(path, write)
