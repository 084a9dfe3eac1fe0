"""What a bundle's ``metadata.json`` must hold: the mandatory keys of MONAI's bundle specification, and our own.

The official schema can only be had from the network; this is our copy of what it asks for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .io.whole import write_whole

TEXTS = ("version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors", "copyright")
OBJECTS = ("changelog", "required_packages_version", "network_data_format", "weights")
MANDATORY = {*TEXTS, *OBJECTS, "name", "scale"}
TENSOR = {  # what the specification says of each input and output of the network
    "type": str,
    "format": str,
    "num_channels": int,
    "spatial_shape": list,
    "dtype": str,
    "value_range": list,
    "is_patch_data": bool,
    "channel_def": Mapping,
}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises ``ValueError`` where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: must be a JSON file, got {error}; check the path") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold a JSON object, got {type(content).__name__}; mend it")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a config as the bundles have them, whole or not at all."""
    text = json.dumps(content, indent=4, ensure_ascii=False) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def is_segmentation(metadata: Mapping[str, Any]) -> bool:
    """Whether a bundle makes labels instead of SR images."""
    return str(metadata["task"]).startswith("Segmentation")


def check_metadata(metadata: Any, name: str) -> None:
    """Raise ``ValueError`` where the content of the file ``name`` is not a bundle's metadata; the message says what."""
    for problem in _problems(metadata):
        raise ValueError(f"{name}: {problem}; see MONAI's bundle specification")


def _problems(metadata: Any) -> Iterator[str]:
    """What is wrong, the first of it first: what comes later relies on what came before."""
    if not isinstance(metadata, Mapping):
        yield f"must be a JSON object, got {type(metadata).__name__}"
    yield from _shape_problems(metadata)
    if metadata["version"] not in metadata["changelog"]:
        yield f"changelog must have the version, {metadata['version']}"
    yield from _tensor_problems(metadata["network_data_format"])
    for file, about in metadata["weights"].items():
        if not isinstance(about, Mapping) or not re.fullmatch(r"[0-9a-f]{64}", str(about.get("sha256"))):
            yield f"weights of {file} must have a SHA-256"
        elif not {"scale", "licence", "data"} <= set(about):
            yield f"weights of {file} must have scale, licence and data"


def _shape_problems(metadata: Mapping[str, Any]) -> Iterator[str]:
    missing = sorted(MANDATORY - set(metadata))
    if missing:
        yield f"must have {', '.join(missing)}"
    for key in TEXTS:
        if not isinstance(metadata[key], str) or not metadata[key]:
            yield f"{key} must be text, got {metadata[key]!r}"
    for key in OBJECTS:
        if not isinstance(metadata[key], Mapping):
            yield f"{key} must be a JSON object, got {metadata[key]!r}"


def _tensor_problems(formats: Mapping[str, Any]) -> Iterator[str]:
    for direction, key in (("inputs", "image"), ("outputs", "pred")):  # MONAI's checks know no other names
        tensors = formats.get(direction)
        tensor = tensors.get(key) if isinstance(tensors, Mapping) else None
        if not isinstance(tensor, Mapping):
            yield f"network_data_format must have {direction}, {key}"
            continue
        for entry, kind in TENSOR.items():
            if not isinstance(tensor.get(entry), kind):
                yield f"network_data_format, {direction}, {key} must have {entry}, got {tensor.get(entry)!r}"
