"""A small bundle from the masters, with weights and an overlay, and what the tests do to packed ones."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from common.new import new
from common.packing.environment import runtime_requirements
from common.packing.members import gather
from common.packing.naming import nameless, sums_of
from common.packing.pack import add_environment, finish, named
from common.seal import SUMS
from common.weights import store_weights

NAME = "my_method"


def network_of(bundle: Path, **overrides: object) -> torch.nn.Module:
    """The network of a bundle made by ``new``, whose code cannot be imported by its own name, with random weights."""
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    config["network_def"]["_target_"] = "common.templates.bundle.network.ResidualNetwork"
    torch.manual_seed(0)
    return ConfigParser(config | overrides).get_parsed_content("network_def").eval()


def small_bundle(root: Path) -> Path:
    """A bundle with weights for ×4 and, by the overlay ``inference_x2``, for ×2."""
    new(NAME, root=root)
    folder = root / NAME
    for scale, name in ((4, "model.pt"), (2, "model_x2.pt")):
        torch.save(network_of(folder, scale=scale).state_dict(), root / name)
        store_weights(str(root / name), str(folder), name, scale=scale, licence="MIT", data="noise")
    path = "$os.path.join(@bundle_root, 'models', 'model_x2.pt')"
    (folder / "configs" / "inference_x2.json").write_text(json.dumps({"scale": 2, "ckpt_path": path}))
    return folder


def pack_quickly(folder: Path, out: Path, overlay: str | None = None) -> Path:
    """The zip of a bundle, without TorchScript, whose making takes a process of its own."""
    packed = named(gather(folder, overlay, nameless(folder.name)))
    add_environment(packed, runtime_requirements())
    path = out / f"{packed.name}.zip"
    finish(packed, path)
    return path


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sealed_again(members: dict[str, bytes]) -> dict[str, bytes]:
    """``members`` of a zip as somebody leaves them who changes the sums as well."""
    top = next(iter(members)).split("/")[0]
    inner = {name.removeprefix(f"{top}/"): content for name, content in members.items()}
    return members | {f"{top}/{SUMS}": sums_of(inner)}


def unpack(path: Path, folder: Path) -> Path:
    """The bundle in ``folder``."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
        return folder / archive.namelist()[0].split("/")[0]
