"""The seal of a packed bundle: SHA-256 of each of its files, compared before its network and transforms are imported.

It finds damage and careless changes. Who can change a file can change its sum as well: what a stranger may have had in
hand is compared with the published SHA-256 of the zip (``python -m common verify FILE.zip --sha256 HEX``).
"""

from __future__ import annotations

import re
from pathlib import Path

from .io.archive import sha256

SUMS = "SHA256SUMS"  # in the form that sha256sum -c takes
PACKAGE = re.compile(r"sr_([a-z][a-z0-9_]*)_([0-9a-f]{8})")
AGAIN = "unpack the zip again, into an empty folder"


def check_seal(package: Path) -> None:
    """Refuse a packed bundle that is not as it was packed.

    Args:
        package: folder of its code.

    Raises:
        ValueError: a file is missing, changed or new among the code, or two zips were unpacked into one folder.
    """
    root = package.parent
    others = [p for p in root.iterdir() if PACKAGE.fullmatch(p.name) and p != package]
    if others:
        raise ValueError(f"{root}: must hold the code of one bundle, got {package.name} and {others[0].name}; {AGAIN}")
    sums = root / SUMS
    if not sums.is_file():
        raise ValueError(f"{sums}: is missing; {AGAIN}")
    listed = read_sums(sums.read_text(encoding="utf-8"), str(sums))
    for name, expected in listed.items():
        path = root / name
        if not path.is_file():
            raise ValueError(f"{path}: is missing; {AGAIN}")
        found = sha256(path)
        if found != expected:
            raise ValueError(f"{path}: SHA-256 must be {expected}, got {found}; do not use it, {AGAIN}")
    for path in package.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and path.relative_to(root).as_posix() not in listed:
            raise ValueError(f"{path}: is no file of this bundle; do not use it, {AGAIN}")


def read_sums(text: str, name: str) -> dict[str, str]:
    """Path to SHA-256, out of the text of the file ``name``; raises ``ValueError`` where it is damaged."""
    sums = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line)
        if match is None:
            raise ValueError(f"{name}: must hold lines of a SHA-256 and a path, got {line[:80]!r}; {AGAIN}")
        sums[match[2]] = match[1]
    return sums
