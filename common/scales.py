"""What an evaluation over scales goes through: two tasks, the scales that a network serves, and how it serves them.

Zhu, dissertation, sections 4.3.3 (either LR or HR is fitted to the scale) and 4.3.4 (a network of one scale magnifies
too much, and bicubic interpolation reduces). Written from the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from .data.scales import SCALES, as_scales
from .evaluate import Method
from .inferers import AnyScaleInferer, PlaneInferer
from .io.case import Case
from .magnification import PlaneGrid
from .protocol import Pair, Protocol, Truth
from .transforms.degradation import resample


def true_pair(truth: Truth, protocol: Protocol, largest: float) -> Pair:
    """LR is HR / scale, the truth is HR."""
    return truth.pair(protocol)


def paper_pair(truth: Truth, protocol: Protocol, largest: float) -> Pair:
    """LR is HR / ``largest`` whatever the scale, the truth is HR reduced to scale times LR.

    not in the paper: the truth is reduced with antialiasing, however LR is made.

    Raises:
        ValueError: the scale is above ``largest``.
    """
    if max(protocol.factors) > largest:
        raise ValueError(f"scale: must be at most {largest:g}, by which LR is made, got {protocol.scale}; leave it out")
    pair = truth.pair(replace(protocol, scale=largest))
    size = PlaneGrid.of(pair.low.shape[2:], protocol.factors).size
    return replace(pair, high=resample(pair.high, size), factors=protocol.factors)


TASKS: dict[str, Callable[[Truth, Protocol, float], Pair]] = {"true": true_pair, "paper": paper_pair}


def meaning(task: str, largest: float) -> str:
    """What a task is, for tables."""
    if task == "true":
        return "LR is HR / scale, compared with HR"
    return f"LR is HR / {largest:g} at every scale, compared with HR reduced (antialiased) to scale times LR"


@dataclass(frozen=True)
class ReducedMethod(Method):
    """A network of a larger scale, whose result is reduced by bicubic interpolation.

    Attributes:
        scale: that is asked for.
        antialias: see :func:`common.transforms.degradation.resample`.
    """

    scale: float = 1.0
    antialias: bool = True

    def __call__(self, low: torch.Tensor, case: Case) -> torch.Tensor:
        """See :class:`common.evaluate.Method`."""
        size = PlaneGrid.of(low.shape[2:], (self.scale, self.scale)).size
        return resample(super().__call__(low, case), size, self.antialias)


def method_at(protocol: Protocol, method: Method) -> Method:
    """``method``, with the inferer of its bundle, at the one scale of ``protocol``."""
    scale = max(protocol.factors)
    if isinstance(method.inferer, AnyScaleInferer):
        return replace(method, inferer=method.inferer.at(scale))
    return ReducedMethod(**vars(method), scale=scale, antialias=protocol.degradation.antialias)


def served_scale(network: torch.nn.Module, inferer: PlaneInferer) -> int | None:
    """The scale of a network of one; None for a network of any scale, which states ``any_scale``.

    Raises:
        ValueError: the inferer does not suit the network, or its scale is not a whole one, the same for both axes.
    """
    any_scale = bool(getattr(network, "any_scale", False))
    if any_scale != isinstance(inferer, AnyScaleInferer):
        raise ValueError(
            "inferer: must be an AnyScaleInferer for a network that states any_scale, and for no other, got "
            f"{type(inferer).__name__}; take the inference.json of the network's own bundle"
        )
    if any_scale:
        return None
    factor, other = inferer.factors
    if factor != other or not factor.is_integer():
        raise ValueError(f"scale: must be a whole one, the same for both axes, got {inferer.factors}; pass one --scale")
    return int(factor)


def choose_scales(scales: Sequence[float] | None, serves: int | None) -> list[float]:
    """``scales`` in order, each once; where there are none, those of ``SCALES`` that the network serves.

    Args:
        scales: as given.
        serves: the scale of a network of one, which serves those above ``serves - 1``; None for a network of any.

    Raises:
        ValueError: no list, nothing in it, a number below 1 or not finite, or a scale that the network does not serve.
    """
    if scales is None:
        scales = [scale for scale in SCALES if serves in (None, math.ceil(scale))]
        if not scales:
            raise ValueError(f"scales: must be given for a network of x{serves}, got none; pass --scales [{serves}.0]")
    chosen = sorted(set(as_scales(scales, "scales")))
    beyond = [scale for scale in chosen if serves is not None and math.ceil(scale) != serves]
    if serves is not None and beyond:
        raise ValueError(
            f"scales: must be above {serves - 1} and at most {serves} for a network of x{serves}, got "
            f"{', '.join(f'{scale:g}' for scale in beyond)}; evaluate {_needs(beyond)}"
        )
    return chosen


def _needs(scales: Sequence[float]) -> str:
    """Which network serves which scales."""
    whole = sorted({math.ceil(scale) for scale in scales})
    groups = {n: ", ".join(f"{scale:g}" for scale in scales if math.ceil(scale) == n) for n in whole}
    return " and ".join(f"{group} by a network of x{n}" for n, group in groups.items())


def check_tasks(tasks: Sequence[str]) -> list[str]:
    """``tasks``, each once; ``ValueError`` where they are no list of such."""
    if not isinstance(tasks, (list, tuple)) or not tasks or any(task not in TASKS for task in tasks):
        names = " and ".join(TASKS)
        raise ValueError(f"tasks: must be a list with one or both of {names}, got {tasks}; pass --tasks \"['paper']\"")
    return list(dict.fromkeys(tasks))
