"""The configuration that MONAI's runner is executing: found, hashed, and searched for misspelt settings."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from monai.bundle import ConfigParser

from .seal import PACKAGE

PACKED = re.compile(rf"\b{PACKAGE.pattern}\.(\w+)")  # a module of a packed bundle
PLACES = ("dataset_dir", "output_dir", "bundle_root", "ckpt_path", "detector_path", "_meta_")  # say where, not how
PACE = ("resume", "read_ahead", "batch_size", "memory_mb", "device")  # say when and where at work, not what comes out


def running_config() -> dict[str, Any] | None:
    """The configuration that MONAI's runner is executing, overlays and overrides included; None where there is none.

    An expression of a config cannot see its own config, but the parser that evaluates it is up the stack.
    """
    frame = inspect.currentframe()
    while frame is not None:
        parser = frame.f_locals.get("self")
        if isinstance(parser, ConfigParser):
            return dict(parser.get())
        frame = frame.f_back
    return None


def config_sha256(config: Mapping[str, Any] | None = None) -> str | None:
    """SHA-256 of a configuration without what changes no result: paths, comments, how a worklist is gone through.

    A packed bundle, whose code has another name, has the same as in the repository.

    Args:
        config: settings overridden, nothing evaluated; None for :func:`running_config`.
    """
    config = running_config() if config is None else config
    if config is None:
        return None
    settings = {key: value for key, value in config.items() if key not in PLACES + PACE and not key.startswith("_")}
    text = PACKED.sub(_name_in_repository, json.dumps(settings, sort_keys=True, default=str))
    return hashlib.sha256(text.encode()).hexdigest()


def _name_in_repository(module: re.Match[str]) -> str:
    return "common" if module[3] == "common" else f"bundles.{module[1]}.{module[3]}"


def check_settings() -> None:
    """Refuse a setting that nothing in the running config refers to and that looks like a misspelt one.

    MONAI accepts any ``--name value``, so that ``--slice_axs 0`` would do nothing, in silence. What refers to another
    setting comes from a file, which may serve training as well as evaluation.
    """
    config = running_config() or {}
    text = json.dumps({key: value for key, value in config.items() if key != "_meta_"}, default=str)
    used = set(re.findall(r"@(\w+)", text))
    if config.get("lesion_focus") not in (None, False, "false") and "focus" not in used:
        raise ValueError(
            f"--lesion_focus: must be a setting of the configs that run, got {config['lesion_focus']}, which would do "
            "nothing here; take inference.json of a bundle that has it, and to score regions evaluate_region.json"
        )
    for name, value in config.items():
        refers = isinstance(value, str) and value.startswith(("@", "$"))
        similar = difflib.get_close_matches(name, used - {name}, n=1, cutoff=0.8)
        if name not in used and not refers and similar and similar[0] in config:
            raise ValueError(f"--{name}: there is no such setting; did you mean --{similar[0]}?")


def split_settings(argv: Sequence[str], names: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """What a command line has beside settings, and the settings, given as ``--memory_mb 2000``.

    Args:
        argv: words of the command line.
        names: of settings; values are JSON, or else text.

    Raises:
        ValueError: a value is missing.
    """
    rest: list[str] = []
    settings: dict[str, Any] = {}
    words = iter(argv)
    for word in words:
        key = word.removeprefix("--")
        if word == key or key not in names:
            rest.append(word)
            continue
        value = next(words, None)
        if value is None:
            raise ValueError(f"{word}: must be followed by a value, got none; give one")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return rest, settings
