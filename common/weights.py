"""Weights: hashed, checked against the bundle's list, loaded strictly and without unpickling code."""

from __future__ import annotations

import logging
import os
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from .errors import as_flag, exits_on_mistake
from .io.archive import sha256
from .io.whole import write_whole
from .metadata import read_json, write_json

logger = logging.getLogger("common.training")
# what torch.load was seen to raise on cut and altered files, of torchvision's older format as well
DAMAGED = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AssertionError, struct.error)


def load_weights(
    network: nn.Module, path: str | os.PathLike[str], bundle_root: str | os.PathLike[str], listed: Mapping[str, Any]
) -> str:
    """Load the weights at ``path`` into ``network`` and return their SHA-256.

    A file in the bundle's own ``models`` folder must have the SHA-256 that its metadata lists; any other file is the
    user's, and its hash is only reported.

    Args:
        network: takes every weight of the file, and nothing else; half precision is widened.
        path: file of a plain state dict, or of one under ``"model"``.
        bundle_root: folder of the bundle.
        listed: ``weights`` of the bundle's metadata: file name to a mapping with ``"sha256"``.

    Raises:
        ValueError: missing, changed, damaged, or of another network.
    """
    file = Path(path)
    digest = _check_listed(file, bundle_root, listed)
    scale = listed.get(file.name, {}).get("scale") if _is_shipped(file, bundle_root) else None
    fixed = not getattr(plain(network), "any_scale", False)
    if scale is not None and fixed and scale != getattr(plain(network), "scale", scale):
        raise ValueError(
            f"{file}: these weights are for scale {scale}, the network is for scale {plain(network).scale}; "
            "pass weights of that scale by --ckpt_path, or train them"
        )
    state, own = read_state(file), plain(network).state_dict()
    for name in dict.fromkeys([*own, *state]):
        shapes = [list(part[name].shape) if name in part else "none" for part in (own, state)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{file}: the weights do not fit the network ({name}: must be {shapes[0]}, got {shapes[1]}); check the "
                "config: scale, channels, width, depth, classes; and --ckpt_path"
            )
    plain(network).load_state_dict(state, strict=True)
    return digest


def plain(part: Any) -> Any:
    """``part``, or the module that it distributes: a state dict has no trace of several processes."""
    return part.module if isinstance(part, nn.parallel.DistributedDataParallel) else part


def read_state(file: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file, or the one under ``"model"`` in it; raises ``ValueError`` where there is none."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        # PyTorch's own text advises to load the file unsafely
        raise ValueError(
            f"{file}: must be a PyTorch state dict of nothing but tensors, and whole; copy the file again, "
            "or save network.state_dict() by torch.save"
        ) from error
    state = state.get("model", state) if isinstance(state, dict) else state
    tensors = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not tensors or not all(isinstance(key, str) for key in state):
        raise ValueError(
            f"{file}: must be a PyTorch state dict of nothing but tensors; save network.state_dict() by torch.save"
        )
    return state


def _is_shipped(file: Path, bundle_root: str | os.PathLike[str]) -> bool:
    return file.resolve().parent == (Path(bundle_root) / "models").resolve()


def _check_listed(file: Path, bundle_root: str | os.PathLike[str], listed: Mapping[str, Any]) -> str:
    """SHA-256 of the file, which is there, and has the one that is listed where it is the bundle's own."""
    if not file.is_file():
        large = (Path(bundle_root) / "large_files.yml").is_file()
        fetch = f"python -m monai.bundle download_large_files --bundle_path {bundle_root} fetches them; or " * large
        raise ValueError(f"{file}: there are no such weights; {fetch}pass --ckpt_path FILE, or train them first")
    digest = sha256(file)
    expected = listed.get(file.name, {}).get("sha256")
    if _is_shipped(file, bundle_root) and digest != expected:
        raise ValueError(
            f"{file}: SHA-256 must be {expected} as metadata.json lists it, got {digest}; "
            "fetch the bundle again, or pass weights of your own from another folder by --ckpt_path"
        )
    return digest


def load_trunk(
    network: nn.Module, path: str | os.PathLike[str], bundle_root: str | os.PathLike[str], listed: Mapping[str, Any]
) -> str:
    """Load all weights but those of ``network.upsampler``, from weights for another scale; their SHA-256.

    Lim et al., EDSR (2017), section 3.2, start ×4 from ×2 in this way, and converge sooner.

    Args:
        network, path, bundle_root, listed: as in :func:`load_weights`.

    Raises:
        ValueError: missing, changed, damaged, or the trunk is of another network.
    """
    file, target = Path(path), plain(network)
    digest, state = _check_listed(file, bundle_root, listed), read_state(file)
    own = target.state_dict()
    trunks = [{key: v.shape for key, v in s.items() if not key.startswith("upsampler.")} for s in (state, own)]
    if trunks[0] != trunks[1] or len(trunks[1]) == len(own):
        name = next(iter(sorted(key for key, _ in set(trunks[0].items()) ^ set(trunks[1].items()))), "upsampler")
        raise ValueError(
            f"{file}: but for its upsampler, the network must be the same, got {name} otherwise; "
            "check the config and --ckpt_path"
        )
    target.load_state_dict({**own, **{key: state[key] for key in trunks[1]}})
    return digest


def start_from(
    network: nn.Module,
    path: str | os.PathLike[str] | None,
    bundle_root: str | os.PathLike[str],
    listed: Mapping[str, Any],
    transfer: bool = False,
) -> str | None:
    """For training: :func:`load_weights` where there is a ``path``; none (or "") leaves the network as it was made.

    With ``transfer``, :func:`load_trunk` takes its place: from weights for another scale.
    """
    if not path:
        return None
    load = load_trunk if as_flag(transfer, "transfer") else load_weights
    digest = load(network, path, bundle_root, listed)
    logger.info("starting from %s, SHA-256 %s", path, digest)
    return digest


def ask_for_weights(of: str) -> str:
    """What stands for ``ckpt_path`` in a config that starts from weights ``of`` another training, until it is passed.

    Raises:
        SystemExit: always; the message says which weights are to be passed.
    """
    raise SystemExit(f"error: ckpt_path: must be weights of {of}; pass --ckpt_path FILE")


start_from_or_exit = exits_on_mistake(start_from)
load_weights_or_exit = exits_on_mistake(load_weights)


def store_weights(path: str, bundle: str, name: str = "model.pt", **about: Any) -> str:
    """Store trained weights in a bundle in half precision, and list their SHA-256 in its metadata.

    Args:
        path: file of a plain state dict, or of one under ``"model"``.
        bundle: folder of the bundle.
        name: file in its ``models`` folder.
        about: what else the metadata says of this file, e.g. ``scale=4``, ``licence="…"``.

    Returns:
        The SHA-256 of the stored file.
    """
    state = read_state(Path(path))
    halved = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    if not all(torch.isfinite(value).all() for value in halved.values()):
        raise ValueError(f"{path}: weights must be finite in half precision; store them in float32 by hand")
    file = Path(bundle) / "models" / name
    write_whole(file, lambda temporary: torch.save(halved, temporary))
    metadata = Path(bundle) / "configs" / "metadata.json"
    content = read_json(metadata)
    content.setdefault("weights", {})[name] = {"sha256": sha256(file), **about}
    write_json(metadata, content)
    return content["weights"][name]["sha256"]
