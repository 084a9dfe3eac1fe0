"""Handlers of a training: the weights of the best validation, losses too large or NaN, a bar with the time left."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from tqdm import tqdm

from .data.patches import PatchBatches
from .errors import exits_on_mistake
from .io.whole import write_whole
from .weights import plain

BEST = "model.pt"
CONVERGED = 0.02  # dB gained over the last RECENT validations
RECENT = 5
logger = logging.getLogger("common.training")


class KeepBest:
    """Handler of the evaluator: keep the weights of the best validation in ``output_dir/model.pt``.

    Args:
        output_dir: folder of the run.
        network: whose weights are validated and kept, as a plain state dict; it becomes the evaluator's.
        metric: of the evaluator; larger is better.
        enough: a run whose last validations gained less has converged; in the unit of ``metric``.
        writes: False for all processes but one.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        network: nn.Module,
        metric: str = "val_psnr",
        writes: bool = True,
        enough: float = CONVERGED,
    ) -> None:
        self.enough = enough
        self.path, self.network, self.metric, self.writes = Path(output_dir) / BEST, network, metric, writes
        self.history: list[tuple[int, float]] = []
        self.best = -math.inf

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._take_place)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _take_place(self, engine: SupervisedEvaluator) -> None:
        """What is scored is what is kept, also where that is an average."""
        engine.network = plain(self.network)

    def __call__(self, engine: Engine) -> None:
        value = float(engine.state.metrics[self.metric])
        self.history.append((int(engine.state.epoch), value))
        improved, self.best = value > self.best, max(value, self.best)
        if self.keeps(improved) and self.writes:
            state = plain(self.network).state_dict()
            write_whole(self.path, lambda path: torch.save(state, path))
        logger.info(
            "validation %d: %s %.3f, best %.3f%s", engine.state.epoch, self.metric, value, self.best, self.note()
        )

    def keeps(self, improved: bool) -> bool:
        """Whether the weights of this validation replace those before."""
        return improved

    def note(self) -> str:
        """Whether the last validations still gained."""
        if len(self.history) <= RECENT:
            return ""
        before = max(value for _, value in self.history[:-RECENT])
        gain = max(value for _, value in self.history[-RECENT:]) - before
        word = "converged" if gain < self.enough else "not converged"
        return f", {gain:+.3f} over the last {RECENT}: {word}"

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.history, self.best = [(int(n), float(v)) for n, v in state["history"]], float(state["best"])


class KeepLast(KeepBest):
    """The same, of the last validation whatever its score: to compare losses after equal steps."""

    def keeps(self, improved: bool) -> bool:
        return True


class StopAtNaN:
    """Handler of the trainer: stop where the loss, or that of a critic beside it, is not finite, and name the batch.

    The losses are looked at every ``interval`` steps and before each validation, so that an accelerator need not wait.

    Args:
        batches: knows what each step saw.
        interval: steps between two looks.
    """

    def __init__(self, batches: PatchBatches, interval: int = 50) -> None:
        self.batches, self.interval = batches, interval
        self._losses: list[torch.Tensor] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        self._losses.append(_loss(engine) + _critic_loss(engine))
        before_validation = engine.state.iteration % epoch_length(engine) == 0
        if before_validation or len(self._losses) >= self.interval:
            self.check(engine.state.iteration)

    def check(self, step: int) -> None:
        """Look at the losses up to ``step``, the last one.

        Raises:
            ValueError: one of them is NaN or infinite.
        """
        if not self._losses:
            return
        losses = torch.stack(self._losses)
        self._losses = []
        bad = (~torch.isfinite(losses)).nonzero().flatten()
        if len(bad):
            number = step - len(losses) + int(bad[0]) + 1
            raise ValueError(
                f"step {number}: the loss must be finite, got {float(losses[bad[0]])} "
                f"on {self.batches.describe(number - 1)}; "
                "look at these planes, or pass a smaller --learning_rate; the last state saved is before it"
            )


class DiscardLargeLoss:
    """Handler of the trainer: a step whose loss is above ``limit`` changes neither weights nor optimiser, and is noted.

    Zhu, dissertation, section 4.3.3. Without gradients, it has no effect on the optimiser's moments and count of steps;
    the schedule of the learning rate goes on. NaN and infinity are left to :class:`StopAtNaN`.

    Several processes go by the mean of their losses, which is that of the batch they share.

    Args:
        limit: of the loss.
        writes: False for all processes but one.

    Raises:
        ValueError: ``limit`` is not above 0.
    """

    def __init__(self, limit: float = 1e8, writes: bool = True) -> None:
        if not limit > 0:
            raise ValueError(f"loss_limit: must be above 0, got {limit}; the paper's is 1e8")
        self.limit, self.writes = limit, writes
        self.steps: list[int] = []  # that were discarded, counted from 1
        self._value = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._look)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def _look(self, engine: Engine) -> None:
        """Read the loss, for which an accelerator is waited for.

        It is done before the backward pass, which is then computed while the host goes on to the next batch.
        """
        self._value = float(_mean_over_processes(_loss(engine)))

    def __call__(self, engine: SupervisedTrainer) -> None:
        if not self.limit < self._value < math.inf:
            return
        engine.optimizer.zero_grad(set_to_none=True)
        self.steps.append(int(engine.state.iteration))
        if self.writes:
            text = "step %d: the loss, %.3g, is above %.3g; discarded, as were %d before"
            logger.warning(text, engine.state.iteration, self._value, self.limit, len(self.steps) - 1)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = [int(step) for step in state["steps"]]


class ShowProgress:
    """Handler of the trainer: a bar over all steps with steps a second, time left and loss; silent where no one looks.

    Args:
        steps: of the whole schedule.
        writes: False for all processes but one.
    """

    def __init__(self, steps: int, writes: bool = True) -> None:
        self.steps, self.writes = steps, writes
        self._bar: Any = None
        self._first, self._started = 0, 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _open(self, engine: Engine) -> None:
        self._first, self._started = engine.state.iteration, time.perf_counter()
        disable = None if self.writes else True  # None: only where a terminal shows it
        self._bar = tqdm(total=self.steps, initial=self._first, unit="step", disable=disable, dynamic_ncols=True)

    def _advance(self, engine: Engine) -> None:
        self._bar.update()
        if engine.state.iteration % 50 == 0:
            self._bar.set_postfix(loss=f"{float(_loss(engine)):.4f}", refresh=False)

    def _close(self, engine: Engine) -> None:
        self._bar.close()
        if self.writes:
            done = engine.state.iteration - self._first
            rate = done / max(time.perf_counter() - self._started, 1e-9)
            logger.info(
                "%d of %d steps done, %.2f steps a second with validation", engine.state.iteration, self.steps, rate
            )


def _loss(engine: Engine) -> torch.Tensor:
    return torch.as_tensor(_output(engine)["loss"]).detach()


def _critic_loss(engine: Engine) -> torch.Tensor:
    return torch.as_tensor(_output(engine).get("critic_loss", 0.0)).detach()


def _output(engine: Engine) -> Any:
    output: Any = engine.state.output
    return output[0] if isinstance(output, list) else output  # a list where the batch was decollated


def _mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    if not (dist.is_available() and dist.is_initialized()):
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def epoch_length(engine: Engine) -> int:
    """Steps from one validation to the next."""
    assert engine.state.epoch_length is not None
    return engine.state.epoch_length


discard_large_loss_or_exit = exits_on_mistake(DiscardLargeLoss)
