"""Files and folders are written whole or not at all: under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def write_whole(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file or folder under a temporary name with the same suffixes, then rename it to ``path``.

    Args:
        path: its folder is made where it is missing; an earlier file is replaced, an earlier folder is not.
        write: takes the temporary path.

    Raises:
        OSError: the file cannot be written; the message names it, and no part of it stays.
    """
    target = Path(path)
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:  # PyTorch's writer raises the latter where the disk is full
        raise OSError(
            f"{target}: cannot be written ({error}); make room, or choose another folder (--output_dir)"
        ) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        elif temporary.exists():  # unlink(missing_ok) raises where a file stands in the way of the folder
            temporary.unlink()
