"""``python -m common``: the project's own commands, built on fire as MONAI's are."""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable, Sequence

import fire

from .compare import compare
from .data.layouts import datalist
from .demo import demo
from .diffusion_maps import diffusion
from .errors import exits_on_mistake
from .info import info
from .new import new
from .packing.pack import pack, pack_all
from .packing.verify import verify
from .picture import draw_case
from .profile import profile
from .sweep import sweep
from .table import store_scores, table
from .weights import store_weights

COMMANDS: dict[str, Callable[..., object]] = {
    "info": info,
    "demo": demo,
    "picture": draw_case,
    "datalist": datalist,
    "profile": profile,
    "compare": compare,
    "diffusion": diffusion,
    "sweep": sweep,
    "new": new,
    "pack": pack,
    "pack-all": pack_all,
    "verify": verify,
    "store-weights": store_weights,
    "store-scores": store_scores,
    "table": table,
}
ANY_NUMBER = inspect.Parameter.VAR_POSITIONAL  # of words; they are no option


def check_options(arguments: Sequence[str]) -> None:
    """Refuse an option that the command has not: fire would do the work first and complain afterwards.

    Raises:
        SystemExit: the first such option, with those that there are.
    """
    if not arguments or arguments[0] not in COMMANDS:
        return
    signature = inspect.signature(COMMANDS[arguments[0]])
    has = {name: parameter for name, parameter in signature.parameters.items() if parameter.kind is not ANY_NUMBER}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in has.values()):
        return
    for word in itertools.takewhile(lambda word: word != "--", arguments[1:]):
        name = word[2:].split("=")[0].replace("-", "_")
        if word.startswith("--") and name not in (*has, "help"):
            options = ", ".join(f"--{option}" for option in has)
            raise SystemExit(f"error: --{name}: {arguments[0]} has no such option; it has {options or 'none'}")


if __name__ == "__main__":
    check_options(sys.argv[1:])
    fire.Fire({name: exits_on_mistake(command) for name, command in COMMANDS.items()}, name="python -m common")
