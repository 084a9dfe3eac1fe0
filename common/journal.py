"""The JSON lines of a folder: one a case, appended whole, and read again although a process was killed at it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOG = "cases.jsonl"
LOGS = "cases*.jsonl"


def log_name(rank: int, world: int) -> str:
    """A file for each process: lines of several processes never meet in one."""
    return LOG if world == 1 else f"cases.rank{rank}.jsonl"


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append ``line`` as JSON, on disk when this returns; a torn line before it stays a line of its own.

    Raises:
        OSError: the file cannot be written; the message says how to go on.
    """
    data = (json.dumps(line) + "\n").encode()
    try:
        with open(path, "a+b") as file:
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                data = data if file.read(1) == b"\n" else b"\n" + data
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error}); make room, then go on with --resume true") from error


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """All lines of all processes and runs in ``folder``, by their time; what a killed process tore is left out."""
    lines = []
    for path in sorted(folder.glob(LOGS)):
        for text in path.read_bytes().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                lines.append(line)
    return sorted(lines, key=lambda line: str(line.get("time")))
