"""A packed bundle examined without running any of it: ``python -m common verify FILE.zip``."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickletools
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from packaging.requirements import InvalidRequirement, Requirement

from ..io.archive import check_archive, open_archive
from ..io.archive import sha256 as sha256_of
from ..metadata import check_metadata
from ..seal import PACKAGE, SUMS, read_sums
from .members import WITHOUT_CODE
from .naming import BARE, KINDS, SCRIPTED, name_of, nameless, packages_in, rename

MEMBERS, BYTES = 10_000, 2 << 30
NEEDED = (
    *("LICENSE", "README.md", "docs/README.md", "configs/metadata.json", "configs/inference.json"),
    *("sbom.cdx.json", "requirements.txt", "constraints.txt"),
)
SCRIPT_TYPES = re.compile(  # that TorchScript writes
    r"__torch__\.[\w.]+ \w+|torch \w+Storage|torch\._utils _rebuild_tensor\w*|torch\.jit\._pickle \w+"
    r"|collections OrderedDict"
)
REMEDY = "do not use it, fetch it again from where it was published"


def verify(file: str, sha256: str | None = None) -> str:
    """Check a packed bundle: safe names, sums, metadata, code under the name of its content, nothing but tensors.

    Nothing is unpacked to disk and nothing is run. That the content is harmless can only be known by who made it:
    compare ``sha256`` with what they published.

    Args:
        file: the zip archive.
        sha256: what its SHA-256 must be; None to be told it.

    Returns:
        What the archive holds.

    Raises:
        ValueError: what is wrong with it.
    """
    digest = sha256_of(file) if os.path.isfile(file) else ""
    if not digest:
        raise ValueError(f"{file}: there is no such file; check the path")
    if sha256 is not None and digest != str(sha256).lower():
        raise ValueError(f"{file}: SHA-256 must be {sha256}, got {digest}; {REMEDY}")
    top, members = read_members(file)
    metadata = check_members(members, file)
    weights = [f"x{about['scale']}, {about['licence']}" for about in metadata["weights"].values()]
    held = " and ".join(name for name in ("models/model.pt", SCRIPTED) if name in members)
    return "\n".join(
        [
            f"{file}: in order",
            f"    bundle   {top} {metadata['version']}, {metadata['name']}: {metadata['description']}",
            f"    code     {''.join(packages_in(members)) or 'none'}",
            f"    weights  {'; '.join(weights) or 'none'}{f' ({held})' if held else ''}",
            f"    size     {os.path.getsize(file) / 2**20:.1f} MiB, {len(members)} files",
            f"    SHA-256  {digest}",
        ]
    )


def check_members(members: Mapping[str, bytes], file: str) -> dict[str, Any]:
    """The metadata of a packed bundle, once all that is checked without running it is in order.

    Args:
        members: path below its folder to content.
        file: for messages.

    Raises:
        ValueError: what is wrong.
    """
    try:
        problem = next(_problems(members), None)
    except ValueError as error:
        problem = str(error)
    if problem:
        raise ValueError(f"{file}: {problem}; {REMEDY}")
    metadata: dict[str, Any] = _json(members, "configs/metadata.json")
    return metadata


def read_members(file: str | os.PathLike[str]) -> tuple[str, dict[str, bytes]]:
    """The top folder of a packed bundle, and its files: path below it to content.

    Raises:
        ValueError: no zip archive, or one that must not be unpacked.
    """
    with open_archive(file) as archive:
        infos = archive.infolist()
        check_archive(file, archive)
        for problem in _problems_of_names(infos):
            raise ValueError(f"{file}: {problem}; {REMEDY}")
        try:
            members = {info.filename: archive.read(info) for info in infos}
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
            raise ValueError(f"{file}: damaged, got {error}; copy it again") from error
    return infos[0].filename.split("/")[0], {name.split("/", 1)[1]: content for name, content in members.items()}


def _problems_of_names(infos: Sequence[zipfile.ZipInfo]) -> Iterator[str]:
    size = sum(info.file_size for info in infos)
    if len(infos) > MEMBERS or size > BYTES:
        yield f"would unpack to {len(infos)} files of {size} bytes"
    for name in (info.filename for info in infos):
        if posixpath.normpath(name) != name or "\\" in name:  # a folder ends with a slash
            yield f"must hold files by their plain paths, got {name!r}"
    if len({info.filename.lower() for info in infos}) < len(infos):
        yield "holds two files of one name"
    tops = {info.filename.split("/")[0] for info in infos}
    if len(tops) != 1 or any("/" not in info.filename for info in infos):
        yield f"must hold one folder and all else in it, got {', '.join(sorted(tops)) or 'nothing'}"


def _problems(members: Mapping[str, bytes]) -> Iterator[str]:
    """What is wrong, the first of it first: what comes later relies on what came before."""
    missing = [name for name in (SUMS, *NEEDED) if name not in members]
    if missing:
        yield f"must hold {', '.join(missing)}"
    yield from _problems_of_sums(members)
    odd = [path for path in members if not path.endswith(KINDS) and path not in BARE]
    if odd:
        yield f"must hold code, configs, documents and weights only, got {', '.join(odd)}"
    yield from _problems_of_weights(members)  # whose archives are opened to name the code
    yield from _problems_of_code(members)
    for path in (path for path in members if path.endswith(".json")):
        if not isinstance(_json(members, path), dict):
            yield f"{path} must be a JSON object"
    if _json(members, "sbom.cdx.json").get("bomFormat") != "CycloneDX":
        yield "sbom.cdx.json must be a bill of materials in CycloneDX's form"
    yield from _problems_of_requirements(members)


def _problems_of_requirements(members: Mapping[str, bytes]) -> Iterator[str]:
    """Nothing but names and versions: pip would take addresses and options as well."""
    for path in ("requirements.txt", "constraints.txt"):
        for line in members[path].decode(errors="replace").splitlines():
            try:
                plain = Requirement(line).url is None
            except InvalidRequirement:
                plain = False
            if not plain:
                yield f"{path} must hold names and versions of packages only, got {line[:80]!r}"


def _problems_of_sums(members: Mapping[str, bytes]) -> Iterator[str]:
    listed = read_sums(members[SUMS].decode(errors="replace"), SUMS)
    for name in sorted(set(listed) ^ (set(members) - {SUMS})):
        yield f"{name} is {'missing' if name in listed else f'not in {SUMS}'}"
    for name, expected in listed.items():
        found = hashlib.sha256(members[name]).hexdigest()
        if found != expected:
            yield f"SHA-256 of {name} must be {expected}, got {found}"


def _problems_of_code(members: Mapping[str, bytes]) -> Iterator[str]:
    packages = packages_in(members)
    if not packages:
        yield from _problems_without_code(members)
    stray = [path for path in members if path.endswith(".py") and path.split("/")[0] not in packages]
    if stray or len(packages) > 1:
        yield f"code must lie in one package sr_<method>_<hash>, got {', '.join(packages + stray)}"
    for package in packages:
        match = PACKAGE.fullmatch(package)
        assert match is not None
        expected = name_of(rename(members, package, nameless(match[1])), match[1])
        if package != expected:
            yield f"by its content the code must be called {expected}, got {package}"


def _problems_without_code(members: Mapping[str, bytes]) -> Iterator[str]:
    """The config is ours but for what it says of the model, and the model is that of the config."""
    config = _json(members, "configs/inference.json")
    ours = json.loads(WITHOUT_CODE.read_text(encoding="utf-8"))
    scripted = hashlib.sha256(members.get(SCRIPTED, b"")).hexdigest()
    if config != ours | {"scale": config.get("scale"), "sha256": scripted}:
        yield f"configs/inference.json must be that of bundles without code, with the SHA-256 of {SCRIPTED}"


def _problems_of_weights(members: Mapping[str, bytes]) -> Iterator[str]:
    metadata = _json(members, "configs/metadata.json")
    check_metadata(metadata, "configs/metadata.json")
    listed = metadata["weights"]
    for path in (path for path in members if path.endswith(".pt")):
        about = listed.get(path.removeprefix("models/"))
        if about is None or about.get("sha256") != hashlib.sha256(members[path]).hexdigest():
            yield f"{path} must be listed by metadata.json with its SHA-256"
        if not _is_of_tensors(members[path]):
            yield f"{path} must be a PyTorch state dict of nothing but tensors"
    for path in (path for path in members if path.endswith(".ts")):
        yield from (f"{path} {problem}" for problem in _problems_of_script(members[path]))


def _is_of_tensors(content: bytes) -> bool:
    try:
        if zipfile.is_zipfile(io.BytesIO(content)) and not _is_stored(content):
            return False
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # a pickle that strangers made can fail in any way
        return False
    return isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())


def _problems_of_script(content: bytes) -> Iterator[str]:
    """TorchScript is a zip archive of code in a language of its own, tensors, and pickles that name their types."""
    try:
        if not _is_stored(content):
            yield "is no TorchScript archive: its members must be stored as they are"
            return
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            pickles = [archive.read(info) for info in archive.infolist() if info.filename.endswith(".pkl")]
        names = [name for text in pickles for name in _names_in(text)]
    except Exception as error:  # a zip and a pickle that strangers made can fail in any way
        yield f"is no TorchScript archive, got {error}"
        return
    for name in names:
        if not SCRIPT_TYPES.fullmatch(name):
            yield f"must hold TorchScript and tensors only, got {name!r}"


def _is_stored(content: bytes) -> bool:
    """Whether no member of a zip archive is compressed, as PyTorch writes them: it unpacks to what it is."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())


def _names_in(content: bytes) -> Iterator[str]:
    """Types and functions that a pickle asks for, without loading it."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument)
        elif opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            yield opcode.name  # what TorchScript never writes


def _json(members: Mapping[str, bytes], path: str) -> Any:
    try:
        return json.loads(members[path])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: must be JSON, got {error}") from error
