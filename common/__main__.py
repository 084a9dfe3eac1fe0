"""``python -m common``: the project's own commands, built on fire as MONAI's are."""

from __future__ import annotations

from collections.abc import Callable

import fire

from .data.layouts import datalist
from .demo import demo
from .errors import exits_on_mistake
from .info import info
from .new import new
from .picture import draw_case
from .profile import profile
from .weights import store_weights

COMMANDS: dict[str, Callable[..., object]] = {
    "info": info,
    "demo": demo,
    "picture": draw_case,
    "datalist": datalist,
    "profile": profile,
    "new": new,
    "store-weights": store_weights,
}

if __name__ == "__main__":
    fire.Fire({name: exits_on_mistake(command) for name, command in COMMANDS.items()}, name="python -m common")
