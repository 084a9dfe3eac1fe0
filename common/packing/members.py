"""What goes into a packed bundle: its configs with an overlay flattened, its code and all of ours, weights and docs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..io.archive import sha256
from ..metadata import check_metadata, read_json
from .naming import BARE, KINDS
from .rewrite import rewrite_code, rewrite_config

COMMON = Path(__file__).parent.parent
TEMPLATES = COMMON / "templates"
BASES = ("inference", "train", "metadata")
OF_NETWORK = ("network_def", "scale", "in_channels")  # what training and inference have in common
REQUIRED = ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/metadata.json", "configs/inference.json")
WITHOUT_CODE = TEMPLATES / "packed" / "inference.json"  # of bundles without code; verify compares theirs with it
LARGE = "large_files.yml"
WEIGHTS = "models/model.pt"
ANYWHERE = "$os.path.join(@bundle_root, 'models', 'model.pt')"


@dataclass
class Packed:
    """A bundle on its way into a zip archive.

    Attributes:
        bundle: its name in the repository.
        name: of the packed one, and of its folder.
        metadata, inference: its configs.
        members: path to content; code lies in the folder ``package``.
        package: name of its code.
    """

    bundle: str
    name: str
    metadata: dict[str, Any]
    inference: dict[str, Any]
    package: str
    members: dict[str, bytes] = field(default_factory=dict)

    @property
    def has_weights(self) -> bool:
        return WEIGHTS in self.members


def gather(folder: Path, overlay: str | None, package: str) -> Packed:
    """Everything of the bundle in ``folder`` that the name of its code depends on, but TorchScript.

    Args:
        folder: of the bundle.
        overlay: name of a config that lies over inference; None for none.
        package: what the code will be called.

    Raises:
        ValueError: no such overlay, no licence or card, or weights that are not as they are listed.
    """
    for required in REQUIRED:
        if not (folder / required).is_file():
            raise ValueError(f"{folder / required}: is missing, and a bundle cannot be packed without it; write it")
    configs = {path.stem: read_json(path) for path in sorted((folder / "configs").glob("*.json"))}
    over = _overlay(configs, overlay, folder)
    metadata = configs["metadata"]
    check_metadata(metadata, str(folder / "configs" / "metadata.json"))
    configs["inference"] = _merged(configs["inference"], over)
    if "train" in configs:
        own = {key: value for key, value in over.items() if key.split("#")[0] in OF_NETWORK}
        configs["train"] = _merged(configs["train"], own)
    weights = _weights(folder, configs["inference"], over)
    configs["inference"]["ckpt_path"] = ANYWHERE
    name = folder.name if overlay is None else f"{folder.name}_{overlay.removeprefix('inference_')}"
    packed = Packed(folder.name, name, metadata, configs["inference"], package)
    _add_weights(packed, folder, weights)
    _describe_network(packed)
    _add_configs(packed, {stem: config for stem, config in configs.items() if stem != overlay})
    _add_files(packed, folder)
    _add_code(packed, folder)
    return packed


def _overlay(configs: Mapping[str, Any], overlay: str | None, folder: Path) -> dict[str, Any]:
    if overlay is None:
        return {}
    over = {stem: {k: v for k, v in c.items() if k != "_comment"} for stem, c in configs.items() if stem not in BASES}
    has = set(configs["inference"])
    known = [stem for stem, c in over.items() if {key.split("#")[0] for key in c} <= has]  # others would do nothing
    if overlay not in known:
        text = f"overlay: of inference {folder / 'configs'} has {', '.join(known) or 'none'}, got {overlay}; name one"
        raise ValueError(text)
    return over[overlay]


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with single paths set by ``over``, as MONAI's runner merges them."""
    parser = ConfigParser(json.loads(json.dumps(base)))
    for path, value in over.items():
        parser[path] = value
    merged: dict[str, Any] = parser.get()
    merged.pop("_meta_", None)
    return merged


def _weights(folder: Path, inference: Mapping[str, Any], over: Mapping[str, Any]) -> Path | None:
    """The file that ``ckpt_path`` names; None where an overlay changes the network and names no weights of its own."""
    if "ckpt_path" not in over and any(key.split("#")[0] in OF_NETWORK for key in over):
        return None
    parser = ConfigParser(dict(inference) | {"bundle_root": str(folder)})
    return Path(parser.get_parsed_content("ckpt_path"))


def _add_weights(packed: Packed, folder: Path, weights: Path | None) -> None:
    """The weights under the one name that all hosts look for, and what the metadata say of them."""
    listed = packed.metadata["weights"]
    about = listed.get(weights.name) if weights else None
    packed.metadata["weights"] = {"model.pt": about} if about else {}
    if weights is not None and about is None and weights.is_file():
        raise ValueError(f"{weights}: is not listed in metadata.json; store it by python -m common store-weights")
    if weights is None or about is None:
        return
    if weights.is_file():
        found = sha256(weights)
        if found != about["sha256"]:
            raise ValueError(
                f"{weights}: SHA-256 must be {about['sha256']} as metadata.json lists it, got {found}; "
                "store it again by python -m common store-weights"
            )
        packed.members[WEIGHTS] = weights.read_bytes()
        return
    large = _large_file(folder, f"models/{weights.name}", about["sha256"])
    text = json.dumps({"large_files": [{**large, "path": WEIGHTS}]}, indent=4) + "\n"  # JSON is YAML as well
    packed.members[LARGE] = text.encode()


def _large_file(folder: Path, path: str, digest: str) -> dict[str, Any]:
    """The entry of large_files.yml for ``path``."""
    file = folder / LARGE
    if not file.is_file():
        raise ValueError(
            f"{folder / path}: is missing, nor is there a {LARGE}; fetch it, or unlist it in metadata.json"
        )
    entries = ConfigParser.load_config_file(str(file)).get("large_files", [])
    entry = next((dict(entry) for entry in entries if entry.get("path") == path), None)
    if entry is None or not entry.get("url"):
        raise ValueError(f"{file}: must have path and url of {path}; add them")
    if entry.get("hash_type") != "sha256" or entry.get("hash_val") != digest:
        raise ValueError(f"{file}: hash_type of {path} must be sha256, and hash_val {digest} as metadata.json lists it")
    return entry


def _describe_network(packed: Packed) -> None:
    """Scale, sizes and channels that the metadata tell, as the flattened config has them."""
    scale, channels = packed.inference["scale"], packed.inference["in_channels"]
    data = packed.metadata["network_data_format"]
    low, high = data["inputs"]["image"], data["outputs"]["pred"]
    if "magnification" not in packed.inference:  # a network of any scale keeps what it says
        packed.metadata["scale"] = [scale]
    sizes = [int(size.split("*")[0]) for size in low["spatial_shape"]]
    high["spatial_shape"] = [f"{size * scale}*n" for size in sizes]
    for tensor in (low, high):
        if tensor["num_channels"] != channels:
            tensor["num_channels"] = channels
            tensor["channel_def"] = {str(i): f"channel {i}" for i in range(channels)}


def _add_configs(packed: Packed, configs: Mapping[str, Any]) -> None:
    """All but overlays that name weights of another zip."""
    for stem, config in configs.items():
        if not stem.startswith("inference_"):
            rewritten = rewrite_config(config, packed.bundle, packed.package, f"{stem}.json")
            text = json.dumps(rewritten, indent=4, ensure_ascii=False) + "\n"
            packed.members[f"configs/{stem}.json"] = text.encode()


def _add_files(packed: Packed, folder: Path) -> None:
    paths = [folder / "LICENSE", folder / "configs" / "logging.conf", *sorted((folder / "docs").rglob("*"))]
    for path in paths:
        if path.is_file() and not path.name.startswith("."):
            if not path.name.endswith(KINDS) and path.name not in BARE:
                raise ValueError(f"{path}: cannot be packed, only {', '.join(KINDS)} can; move it away or convert it")
            packed.members[path.relative_to(folder).as_posix()] = path.read_bytes()


def _add_code(packed: Packed, folder: Path) -> None:
    code = {path.relative_to(folder): path for path in folder.rglob("*.py")}
    code |= {"common" / path.relative_to(COMMON): path for path in COMMON.rglob("*.py")}
    code = {target: path for target, path in code.items() if not path.is_relative_to(TEMPLATES)}  # of new bundles
    code[Path("__init__.py")] = TEMPLATES / "packed" / "package.py"
    for target, path in sorted(code.items()):
        depth = len(target.parts) - (target.parts[0] == "common")
        text = rewrite_code(path.read_text(encoding="utf-8"), packed.bundle, packed.package, str(path), depth)
        packed.members[f"{packed.package}/{target.as_posix()}"] = text.encode()
    kept = f"{packed.package}/{WITHOUT_CODE.relative_to(COMMON.parent).as_posix()}"
    packed.members[kept] = WITHOUT_CODE.read_bytes()
