"""The name of a packed bundle's code: ``sr_<method>_<8 hex>``, of which the digits follow from all of its content.

So any two packed bundles live in one process, and whoever has the files can tell whether the name is theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from ..seal import PACKAGE, SUMS

NOBODY = "0" * 8  # in place of the digits while they are made
SCRIPTED = "models/model.ts"  # never twice the same, but made of what is
ENVIRONMENT = ("README.md", "requirements.txt", "constraints.txt", "sbom.cdx.json")  # of the machine that packed
NAMED = (".py", ".json")  # files that have the name in them


def nameless(bundle: str) -> str:
    """The name while there is none yet."""
    return f"sr_{bundle}_{NOBODY}"


def rename(members: Mapping[str, bytes], old: str, new: str) -> dict[str, bytes]:
    """``members``, path to content, with the code called ``new``."""
    return {
        path.replace(old, new, 1): text.replace(old.encode(), new.encode()) if path.endswith(NAMED) else text
        for path, text in members.items()
    }


def name_of(members: Mapping[str, bytes], bundle: str) -> str:
    """The name that content in nobody's name gets: it changes with any byte."""
    fixed = {path: text for path, text in members.items() if path not in (SUMS, SCRIPTED, *ENVIRONMENT)}
    return nameless(bundle).removesuffix(NOBODY) + hashlib.sha256(sums_of(fixed)).hexdigest()[: len(NOBODY)]


def sums_of(members: Mapping[str, bytes]) -> bytes:
    """Text that ``sha256sum -c`` takes, of all members but itself."""
    lines = (f"{hashlib.sha256(members[path]).hexdigest()}  {path}\n" for path in sorted(members) if path != SUMS)
    return "".join(lines).encode()


def packages_in(paths: Iterable[str]) -> list[str]:
    """Names of the packages of code among paths."""
    return sorted({path.split("/")[0] for path in paths if PACKAGE.fullmatch(path.split("/")[0]) and "/" in path})
