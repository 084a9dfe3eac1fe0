"""The name of a packed bundle's code: ``sr_<method>_<8 hex>``, of which the digits follow from all of its content.

So any two packed bundles live in one process, and whoever has the files can tell whether the name is theirs.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping

from ..seal import PACKAGE, SUMS

NOBODY = "0" * 8  # in place of the digits while they are made
SCRIPTED = "models/model.ts"
TRACES = (".debug_pkl", ".data/serialization_id")  # of where TorchScript was made; it runs without them
KINDS = (".py", ".json", ".md", ".txt", ".yml", ".conf", ".png", ".jpg", ".svg", ".csv", ".pt", ".ts")
BARE = ("LICENSE", SUMS)  # files without suffix
DATE = (1980, 1, 1, 0, 0, 0)
ENVIRONMENT = ("README.md", "requirements.txt", "constraints.txt", "sbom.cdx.json")  # of the machine that packed
NAMED = (".py", ".json")  # files that have the name in them


def nameless(bundle: str) -> str:
    """The name while there is none yet."""
    return f"sr_{bundle}_{NOBODY}"


def rename(members: Mapping[str, bytes], old: str, new: str) -> dict[str, bytes]:
    """``members``, path to content, with the code called ``new``."""
    return {path.replace(old, new, 1): _renamed(path, text, old, new) for path, text in members.items()}


def _renamed(path: str, content: bytes, old: str, new: str) -> bytes:
    if path == SCRIPTED:
        return rename_script(content, old, new)
    return content.replace(old.encode(), new.encode()) if path.endswith(NAMED) else content


def rename_script(content: bytes, old: str = "", new: str = "") -> bytes:
    """A TorchScript archive with its code called ``new``, which is as long as ``old``, and always of the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(name for name in source.namelist() if not name.endswith(TRACES)):
            text = source.read(name).replace(old.encode(), new.encode()) if old else source.read(name)
            target.writestr(zipfile.ZipInfo(name.replace(old, new) if old else name, DATE), text)
    return out.getvalue()


def name_of(members: Mapping[str, bytes], bundle: str) -> str:
    """The name that content in nobody's name gets: it changes with any byte."""
    fixed = {path: text for path, text in members.items() if path not in (SUMS, *ENVIRONMENT)}
    return nameless(bundle).removesuffix(NOBODY) + hashlib.sha256(sums_of(fixed)).hexdigest()[: len(NOBODY)]


def sums_of(members: Mapping[str, bytes]) -> bytes:
    """Text that ``sha256sum -c`` takes, of all members but itself."""
    lines = (f"{hashlib.sha256(members[path]).hexdigest()}  {path}\n" for path in sorted(members) if path != SUMS)
    return "".join(lines).encode()


def packages_in(paths: Iterable[str]) -> list[str]:
    """Names of the packages of code among paths."""
    return sorted({path.split("/")[0] for path in paths if PACKAGE.fullmatch(path.split("/")[0]) and "/" in path})
