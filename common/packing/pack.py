"""A bundle as one zip archive that runs alone: ``python -m common pack BUNDLE``."""

from __future__ import annotations

import hashlib
import os
import platform
import string
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import as_flag
from ..info import find_bundles
from ..io.whole import write_whole
from ..metadata import is_segmentation
from ..new import check_name
from ..seal import SUMS
from ..table import variants
from .environment import constraints, installed, runtime_requirements, sbom
from .members import TEMPLATES, WEIGHTS, Packed, gather
from .naming import ENVIRONMENT, SCRIPTED, name_of, nameless, rename, rename_script, sums_of
from .scripted import needed, without_code
from .verify import check_members, read_members, verify
from .zipped import write_zip


def pack(bundle: str, out: str = "dist", overlay: str | None = None, torchscript: bool = False) -> str:
    """Pack a bundle, all code that it needs, weights and TorchScript into one zip archive that runs alone.

    Args:
        bundle: its name.
        out: folder of the archive, ``<name>_v<version>.zip``; made where it is missing.
        overlay: a config that lies over inference, e.g. ``full``; it becomes a part of the packed one, and its
            weights become ``models/model.pt``.
        torchscript: leave out all code, for platforms that refuse it; the README in the archive says what is lost.

    Returns:
        What was packed, with the SHA-256 of the archive.

    Raises:
        ValueError: no such bundle or overlay, no licence or card, weights that do not fit, ``out`` in the bundle, or
            an archive of this name with other content is there.
    """
    if not isinstance(out, str):  # --out alone
        raise ValueError(f"out: must be a folder, got {out}; pass --out FOLDER")
    folder, target, torchscript = _bundle(bundle), Path(out), as_flag(torchscript, "torchscript")
    if target.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"out: must not lie in the bundle {folder}, got {target}; choose another folder")
    packed, roots = gather(folder, overlay, nameless(bundle)), runtime_requirements()
    check_name(packed.name)
    if torchscript and is_segmentation(packed.metadata):
        raise ValueError(
            f"{packed.name}: must make SR images to be packed as TorchScript, got a segmentation; pack it whole"
        )
    if torchscript and not packed.has_weights:
        raise ValueError(f"{packed.name}: must have weights to be packed as TorchScript; train it, and store them")
    if packed.has_weights:
        packed.members[SCRIPTED] = export(packed)
    packed = named(packed)
    if torchscript:
        packed, roots = without_code(packed, packed.members[SCRIPTED]), needed(roots)
    add_environment(packed, roots)
    return finish(packed, target / f"{packed.name}_v{packed.metadata['version']}.zip")


def pack_all(out: str = "dist") -> str:
    """Pack every bundle, and each of its overlays ``inference_*`` with weights of its own, into the folder ``out``.

    ``SHA256SUMS`` there has the sums of the archives, to be published by another way than they are.
    """
    told = [pack(variant.bundle, out, variant.overlay) for variant in variants()]
    archives = {path.name: path.read_bytes() for path in Path(out).glob("*.zip")}
    write_whole(Path(out) / SUMS, lambda temporary: temporary.write_bytes(sums_of(archives)))
    return "\n".join(told)


def finish(packed: Packed, path: Path) -> str:
    """Seal, check and write the archive.

    Raises:
        ValueError: an archive of this name and version, but with other content, is there.
    """
    packed.members[SUMS] = sums_of(packed.members)
    check_members(packed.members, str(path))
    _refuse_other(path, packed)
    write_zip({f"{packed.name}/{name}": content for name, content in packed.members.items()}, path)
    return verify(str(path))


def _bundle(name: str) -> Path:
    bundles = find_bundles()
    if name not in bundles:
        raise ValueError(f"bundle: must be one of {', '.join(bundles)}, got {name}")
    return bundles[name]


def named(packed: Packed) -> Packed:
    """``packed`` with its code under the name that its content gives it."""
    package = name_of(packed.members, packed.bundle)
    return replace(packed, package=package, members=rename(packed.members, packed.package, package))


def add_environment(packed: Packed, roots: list[str]) -> None:
    """What pip needs, the bill of materials and the page for whoever installs it; the name does not depend on them."""
    packages = installed(roots)
    models = {p: hashlib.sha256(packed.members[p]).hexdigest() for p in (WEIGHTS, SCRIPTED) if p in packed.members}
    packed.members["requirements.txt"] = "".join(f"{line}\n" for line in roots).encode()
    packed.members["constraints.txt"] = constraints(packages).encode()
    packed.members["sbom.cdx.json"] = sbom(packed.name, packed.metadata, packages, roots, models).encode()
    packed.members["README.md"] = _readme(packed, models).encode()


def _readme(packed: Packed, models: Mapping[str, str]) -> str:
    metadata = packed.metadata
    about = metadata["weights"].get("model.pt")
    image = metadata["network_data_format"]["inputs"]["image"]
    fields = {
        "name": packed.name,
        "package": packed.package,
        "scale": metadata["scale"][0] if packed.package else packed.inference["scale"],
        "modality": image.get("modality", "any"),
        "weights": f"trained on {about['data']}" if about else "none",
        "sums": "; ".join(f"{path} {digest}" for path, digest in models.items()) or "none",
        "platform": f"Python {platform.python_version()} on {platform.system()} {platform.machine()}",
        "licence": about["licence"] if about else "none",
        "without": "" if packed.has_weights else _WITHOUT[bool(about)],
    }
    kind = "_segmentation" if is_segmentation(metadata) else ""
    master = f"README{kind}.md" if packed.package else "README_torchscript.md"
    text = (TEMPLATES / "packed" / master).read_text(encoding="utf-8")
    return string.Template(text).substitute({key: metadata[key] for key in ("version", "description", "task")} | fields)


_WITHOUT = {
    False: "\nThis bundle has no weights: pass yours by `--ckpt_path FILE`.\n",
    True: "\nThe weights are too large for this file: `python -m monai.bundle download_large_files --bundle_path .`\n"
    "fetches them into `models/`, and compares their SHA-256.\n",
}


def export(packed: Packed) -> bytes:
    """The network with its weights as TorchScript, made by MONAI in a process that has only the packed bundle."""
    with TemporaryDirectory() as folder:
        root = Path(folder) / packed.name
        for name, content in {**packed.members, SUMS: sums_of(packed.members)}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        words = ["ckpt_export", "--net_id", "network_def", "--filepath", SCRIPTED, "--ckpt_file", WEIGHTS]
        words += ["--meta_file", "configs/metadata.json", "--config_file", "configs/inference.json"]
        command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", *words]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}  # or TorchScript has its attributes in any order
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        if done.returncode or not (root / SCRIPTED).is_file():
            raise ValueError(
                f"{packed.name}: its network cannot be exported as TorchScript with its weights; mend network.py or "
                f"store weights that fit:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        return rename_script((root / SCRIPTED).read_bytes())


def _refuse_other(path: Path, packed: Packed) -> None:
    """An archive of the same name and version is only replaced by the same content."""
    if not path.exists():
        return
    try:
        found = read_members(path)[1]
    except ValueError:
        found = {}
    if any(found.get(name) != packed.members.get(name) for name in {*found, *packed.members} - {SUMS, *ENVIRONMENT}):
        raise ValueError(
            f"{path}: exists already, with other content; raise the version in metadata.json, move it away, or choose "
            "another --out"
        )
