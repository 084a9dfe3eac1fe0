"""The JSON lines of a folder: one a case, appended whole, and read again although a process was killed at it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

LOG = "cases.jsonl"
LOGS = "cases*.jsonl"


def log_name(rank: int, world: int) -> str:
    """A file for each process: lines of several processes never meet in one."""
    return LOG if world == 1 else f"cases.rank{rank}.jsonl"


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append ``line`` as JSON, on disk when this returns; what a killed process tore before it goes.

    Raises:
        OSError: the file cannot be written; the message says how to go on.
    """
    try:
        with open(path, "a+b") as file:
            _mend(file)
            file.write((json.dumps(line) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error}); make room, then go on with --resume true") from error


def _mend(file: BinaryIO) -> None:
    """End the last line, or cut it off where it is no JSON."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    if file.read() in (b"", b"\n"):
        return
    file.seek(0)
    text = file.read()
    start = text.rfind(b"\n") + 1
    if _parse(text[start:]) is None:
        file.truncate(start)
    else:
        file.write(b"\n")


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """All lines of all processes and runs in ``folder``, by their time; what a killed process tore is left out."""
    lines = []
    for path in sorted(folder.glob(LOGS)):
        for text in path.read_bytes().splitlines():
            line = _parse(text)
            if line is not None:
                lines.append(line)
    return sorted(lines, key=lambda line: str(line.get("time")))


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None
