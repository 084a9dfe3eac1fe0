"""What bundles there are: scales, parameters, weights and their SHA-256, licence."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

BUNDLES = Path(__file__).parent.parent / "bundles"  # beside this package, in the repository and installed


def find_bundles() -> dict[str, Path]:
    """Folder of every bundle, by name."""
    spec = importlib.util.find_spec("bundles")
    roots = [Path(root) for root in spec.submodule_search_locations or []] if spec else []
    roots.append(BUNDLES)  # an editable install names no folder
    folders = [p.parent.parent for root in reversed(roots) for p in root.glob("*/configs/metadata.json")]
    return dict(sorted({folder.name: folder for folder in folders}.items()))


def info() -> str:
    """List the bundles with their scales, parameters, weights and licence. Loads no weights, needs no GPU."""
    bundles = find_bundles()
    if not bundles:
        raise ValueError("bundles: none found; run from the repository, or install it by pip install -e .")
    return "\n\n".join(_describe(name, folder) for name, folder in bundles.items())


def count_parameters(folder: Path, scale: int | None = None) -> int:
    """Trainable parameters of the network that a bundle's inference config defines, counted without making it.

    Args:
        folder: of the bundle.
        scale: of the network; None for that of the config.
    """
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    if scale is not None:
        parser["scale"] = scale
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _describe(name: str, folder: Path) -> str:
    metadata: dict[str, Any] = json.loads((folder / "configs" / "metadata.json").read_text())
    lines = [
        f"{name} {metadata['version']}: {metadata['description']}",
        f"    scales      {', '.join(str(scale) for scale in metadata['scale'])}",
        f"    parameters  {count_parameters(folder):,}",
        f"    licence     {metadata['copyright']}",
    ]
    for file, about in metadata["weights"].items():
        path = folder / "models" / file
        state = f"{path.stat().st_size / 2**20:.1f} MiB" if path.is_file() else "missing"
        lines += [
            f"    weights     {file}, x{about['scale']}, {state}, {about['licence']}",
            f"                SHA-256 {about['sha256']}",
        ]
    if not metadata["weights"]:
        lines.append("    weights     none: pass --ckpt_path")
    return "\n".join(lines)
