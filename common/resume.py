"""What earlier runs left in a folder: finished results stay, interrupted ones are cleared away, no other is replaced.

A result under work has a mark beside it, ``.<name>.started``: made before anything of the result is written, removed
when the JSON line of the case is on disk. Killed anywhere, a run leaves either no result, or a mark, or a line.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from .data.worklist import Source, sha256_of
from .io.transforms import exists_already
from .journal import LOGS, read_lines

MADE_WITH = {  # entries of a JSON line that say how a result was made
    "input": "another input",
    "input_sha256": "another input",
    "weights_sha256": "other weights",
    "config_sha256": "another configuration",
    "detector_sha256": "another detector",
}


class Earlier:
    """What earlier runs did in ``folder``; ``resume`` allows to build on it."""

    def __init__(self, folder: Path, resume: bool) -> None:
        self.folder, self.resume = folder, resume
        lines = read_lines(folder) if resume else []
        self._made = {line["output"]: line for line in lines if line.get("output") and "error" not in line}

    def has_finished(self, output: Path, line: dict[str, Any], source: Source) -> bool:
        """Whether ``output`` is there and was made as it would be made now; what an interrupted run left is removed.

        Args:
            output: the result.
            line: what its JSON line will say of input, weights and configuration; gains ``input_sha256`` where needed.
            source: the input.

        Raises:
            ValueError: a result is there that must not be replaced; the message says why and what to do.
        """
        begun = os.path.lexists(mark_of(output))
        if not self.resume and (begun or os.path.lexists(output)):
            raise ValueError(exists_already(output))
        if begun:
            clear(output)
        if not os.path.lexists(output):
            return False
        made = self._made.get(os.path.abspath(output))
        if made is None:
            raise ValueError(
                f"{output}: exists already, and no line of {self.folder / LOGS} says how it was made; "
                "choose another --output_dir"
            )
        line["input_sha256"] = sha256_of(source)
        different = dict.fromkeys(text for key, text in MADE_WITH.items() if made.get(key) != line.get(key))
        if different:
            raise ValueError(
                f"{output}: was made with {' and '.join(different)}; move it away, or choose another --output_dir"
            )
        return True


def mark_of(output: Path) -> Path:
    """The mark of a result under work."""
    return output.with_name(f".{output.name}.started")


def begin(output: Path) -> None:
    """Mark ``output`` as under work by this process.

    Raises:
        ValueError: it is there, or another process has begun it.
        OSError: its folder cannot be written.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = open(mark_of(output), "x", encoding="utf-8")  # noqa: SIM115 - closed below, and only then ours
    except FileExistsError as error:
        raise ValueError(f"{output}: another run has begun it; let that one end") from error
    try:
        with file:
            if os.path.lexists(output):
                raise ValueError(exists_already(output))
            json.dump(_this_process(), file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, ValueError):
        end(output)
        raise


def discard(output: Path) -> None:
    """Remove ``output``, file or folder, and what :func:`common.io.whole.write_whole` left of it."""
    temporary = re.compile(rf"\.\d+\.{re.escape(output.name)}")
    for path in [output, *(path for path in output.parent.iterdir() if temporary.fullmatch(path.name))]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def end(output: Path) -> None:
    """Remove the mark of ``output``."""
    mark_of(output).unlink(missing_ok=True)


def clear(output: Path) -> None:
    """Remove what an interrupted run left of ``output``, and at last its mark, which entitles to that.

    Raises:
        ValueError: a process of this machine is at work on it. Of other machines nothing is known.
    """
    try:
        maker = json.loads(mark_of(output).read_text(encoding="utf-8"))
    except ValueError:  # torn: nothing of the result was written yet, and what is there is not ours
        return end(output)
    if _runs(maker):
        raise ValueError(f"{output}: process {maker['pid']} is at work on it; let that one end, or stop it")
    discard(output)
    end(output)


def _runs(maker: Mapping[str, Any]) -> bool:
    """Whether the maker of a mark is another process of this machine, and alive."""
    if maker["host"] != socket.gethostname() or maker["pid"] == os.getpid():
        return False
    try:
        process = psutil.Process(maker["pid"])
        return abs(process.create_time() - maker["started"]) < 5 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:  # gone
        return False


def _this_process() -> dict[str, Any]:
    """Numbers of processes are used again; with the time of the start they are not."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
