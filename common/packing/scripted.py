"""The packed bundle without a file of Python, for platforms that refuse code: TorchScript and MONAI alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from packaging.requirements import Requirement

from .members import WITHOUT_CODE, Packed
from .naming import SCRIPTED

KEPT = ("LICENSE", "docs/", "configs/metadata.json", "configs/logging.conf")
NEEDED = ("monai", "torch", "numpy", "nibabel", "pydicom", "fire")  # of what the code asks for


def without_code(packed: Packed, scripted: bytes) -> Packed:
    """``packed`` with ``scripted``, its network and weights, and transforms of MONAI in place of its code.

    What is lost: DICOM out, stored types, the slice axis from the affine, tiles, the consistency check.
    """
    members = {path: content for path, content in packed.members.items() if path.startswith(KEPT)}
    config = json.loads(WITHOUT_CODE.read_text(encoding="utf-8"))
    config |= {"scale": packed.inference["scale"], "sha256": hashlib.sha256(scripted).hexdigest()}
    members |= {"configs/inference.json": (json.dumps(config, indent=4) + "\n").encode(), SCRIPTED: scripted}
    return replace(packed, name=packed.name + "_torchscript", package="", members=members)


def needed(requirements: list[str]) -> list[str]:
    """Of what the code asks pip for, what is left to be asked for."""
    return [line for line in requirements if Requirement(line).name in NEEDED]
