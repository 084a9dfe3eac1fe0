"""A new bundle, made from the masters in ``common/templates``; it passes the contract as it is, without weights."""

from __future__ import annotations

import keyword
import os
import re
import shutil
from pathlib import Path

from .info import BUNDLES

TEMPLATES = Path(__file__).parent / "templates"
TOKEN = "__name__"  # stands for the bundle's name in the files of templates/bundle
TYPES = ("detection", "classification", "deepedit", "deepgrow")  # MONAI Label reads the type of a model in its name


def new(name: str, root: str | os.PathLike[str] | None = None) -> str:
    """Make a new bundle with a small network that works, to be replaced by the method.

    Args:
        name: of the bundle, its folder and its Python package.
        root: folder that holds the bundles; by default that of this project.

    Returns:
        What was made, and what comes next.

    Raises:
        ValueError: the name cannot be a bundle's, there is a bundle of that name, or no folder of bundles.
    """
    check_name(str(name))
    folder = Path(root or BUNDLES) / str(name)
    if not folder.parent.is_dir():
        raise ValueError(
            f"{folder.parent}: must be a folder that holds bundles; run from the repository, or pass --root"
        )
    if folder.exists():
        raise ValueError(f"{folder}: exists already; choose another name, or remove it")
    temporary = folder.with_name(f".{os.getpid()}.{name}")
    try:
        for path, content in bundle_files(str(name)).items():
            target = temporary / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return (
        f"{folder}: made, without weights. Next: its network.py, network_def in train.json and inference.json, "
        "metadata.json and docs/README.md; see CONTRIBUTING.md. To use it from other folders: pip install -e . again"
    )


def check_name(name: str) -> None:
    """Raise ``ValueError`` where ``name`` cannot be a bundle's."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ValueError(
            f"name: must be a lower-case Python identifier and no keyword, got {name!r}; choose one such as my_method"
        )
    found = next((word for word in TYPES if word in name), None)
    if found:
        raise ValueError(
            f"name: must not contain {found!r}, in which MONAI Label reads another type of model, got {name!r}; "
            "choose another"
        )


def bundle_files(name: str) -> dict[str, bytes]:
    """Every file of a new bundle: its path in the bundle, and its bytes."""
    stock = {"LICENSE": TEMPLATES / "LICENSE", "configs/logging.conf": TEMPLATES / "logging.conf"}
    stock |= {f"configs/{path.name}": path for path in TEMPLATES.glob("*.json")}
    files = {path: master.read_bytes() for path, master in stock.items()}
    masters = TEMPLATES / "bundle"
    for master in masters.rglob("*"):
        if master.is_file() and "__pycache__" not in master.parts:
            content = master.read_bytes().replace(TOKEN.encode(), name.encode())
            files[master.relative_to(masters).as_posix()] = content
    return files
