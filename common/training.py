"""What MONAI's trainer needs beside itself: exact resume, the best weights, a stop at NaN, a bar with the time left.

An epoch is the stretch between two validations; a step is one update of the weights, counted from 1.
"""

from __future__ import annotations

import json
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
from monai.engines import SupervisedTrainer
from tqdm import tqdm

from .data.patches import PatchBatches
from .errors import as_flag, exits_on_mistake
from .run import PLACES, check_settings, running_config

LAST, BEST = "last.pt", "model.pt"
FREE = (*PLACES, "device", "minutes", "resume", "compile", "imports", "initialize", "finalize", "run", "_comment")
TRACKING = ("tracking_uri", "experiment_name", "run_name", "save_execute_config", "is_not_rank0")  # MONAI's own keys
CONVERGED = 0.02  # dB gained over the last RECENT validations
RECENT = 5
logger = logging.getLogger("common.training")


def count_epochs(steps: int, val_interval: int) -> int:
    """Validations in ``steps``.

    Raises:
        ValueError: ``steps`` is no multiple of ``val_interval``.
    """
    if val_interval < 1 or steps < 1 or steps % val_interval:
        raise ValueError(f"steps: must be a multiple of val_interval, got {steps} and {val_interval}; change one")
    return steps // val_interval


class KeepBest:
    """Handler of the evaluator: keep the weights of the best validation in ``output_dir/model.pt``.

    Args:
        output_dir: folder of the run.
        network: whose weights are kept, as a plain state dict.
        metric: of the evaluator; larger is better.
        writes: False for all processes but one.
    """

    def __init__(
        self, output_dir: str | os.PathLike[str], network: nn.Module, metric: str = "val_psnr", writes: bool = True
    ) -> None:
        self.path, self.network, self.metric, self.writes = Path(output_dir) / BEST, network, metric, writes
        self.history: list[tuple[int, float]] = []
        self.best = -math.inf

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        value = float(engine.state.metrics[self.metric])
        self.history.append((int(engine.state.epoch), value))
        if value > self.best:
            self.best = value
            if self.writes:
                save_whole(_plain(self.network).state_dict(), self.path)
        logger.info(
            "validation %d: %s %.3f, best %.3f%s", engine.state.epoch, self.metric, value, self.best, self.note()
        )

    def note(self) -> str:
        """Whether the last validations still gained."""
        if len(self.history) <= RECENT:
            return ""
        before = max(value for _, value in self.history[:-RECENT])
        gain = max(value for _, value in self.history[-RECENT:]) - before
        word = "converged" if gain < CONVERGED else "not converged"
        return f", {gain:+.3f} over the last {RECENT}: {word}"

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.history, self.best = [(int(n), float(v)) for n, v in state["history"]], float(state["best"])


class StopAtNaN:
    """Handler of the trainer: stop where the loss is not finite, and name the batch.

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
        self._losses.append(_loss(engine))
        before_validation = engine.state.iteration % _epoch_length(engine) == 0
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


class TrainingState:
    """Handler of the trainer: ``output_dir/last.pt`` holds all that a run needs to go on with the same next step.

    It is written after every validation, and when ``minutes`` have passed; whole or not at all.

    Args:
        output_dir: folder of the run.
        parts: what has a state: network, optimizer, scheduler, :class:`KeepBest`.
        batches: told at which step to begin.
        minutes: stop after so many, with the state written; None to go on to the end.
        seed: of noise and dropout in each step.
        writes: False for all processes but one.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        parts: Mapping[str, Any],
        batches: PatchBatches,
        minutes: float | None = None,
        seed: int = 0,
        writes: bool = True,
    ) -> None:
        self.path, self.batches, self.guard = Path(output_dir) / LAST, batches, StopAtNaN(batches)
        self.parts = {name: _plain(part) for name, part in parts.items()}
        self.minutes, self.seed, self.writes = minutes, seed, writes
        self.settings = _settings()
        self.seconds, self._started = 0.0, 0.0

    def attach(self, engine: Engine) -> None:
        self.guard.attach(engine)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._seed_step)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop_between_validations)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._stop)

    def _start(self, engine: Engine) -> None:
        self._started = time.perf_counter()

    def _seed_step(self, engine: Engine) -> None:
        torch.manual_seed((self.seed + 1) * 1_000_003 + engine.state.iteration * 64 + self.batches.rank)

    def _stop_between_validations(self, engine: Engine) -> None:
        if engine.state.iteration % _epoch_length(engine) and self._time_is_up(engine):
            self.save(engine)
            self._stop(engine)

    def _stop(self, engine: Engine) -> None:
        if self._time_is_up(engine):
            text = "stopped after step %d, %g minutes being over; the same command goes on"
            logger.info(text, engine.state.iteration, self.minutes)
            engine.terminate()

    def _time_is_up(self, engine: Engine) -> bool:
        """Whether it is for any process: clocks differ, and one that goes on alone waits for the others for ever."""
        if self.minutes is None:
            return False
        over = time.perf_counter() - self._started > 60 * self.minutes
        if dist.is_available() and dist.is_initialized():
            flag = torch.tensor(int(over), device=engine.state.device)  # type: ignore[attr-defined]
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
            over = bool(flag)
        return over

    def save(self, engine: Engine) -> None:
        """Write the state after the current step."""
        self.guard.check(engine.state.iteration)
        if not self.writes:
            return
        content = {
            "step": int(engine.state.iteration),
            "seconds": self.seconds + time.perf_counter() - self._started,
            "settings": self.settings,
            **{name: part.state_dict() for name, part in self.parts.items()},
        }
        save_whole(content, self.path)

    def load(self, engine: Engine) -> int:
        """Take up the state of ``last.pt`` where there is one; the step that it was written after, else 0.

        Raises:
            ValueError: the file is damaged, or of a run with other settings; the first that differs is named.
        """
        if not self.path.is_file():
            return 0
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            saved = json.loads(content["settings"])
        except Exception as error:
            raise ValueError(
                f"{self.path}: cannot be read ({error}); remove it, or choose another --output_dir"
            ) from error
        refuse_other_settings(saved, json.loads(self.settings), str(self.path))
        for name, part in self.parts.items():
            part.load_state_dict(content[name])
        step = int(content["step"])
        engine.state.iteration, engine.state.epoch = step, step // _epoch_length(engine)
        self.batches.start, self.seconds = step, float(content["seconds"])
        return step


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
            self._bar.set_postfix(loss=f"{float(_loss(engine).detach()):.4f}", refresh=False)

    def _close(self, engine: Engine) -> None:
        self._bar.close()
        if self.writes:
            done = engine.state.iteration - self._first
            rate = done / max(time.perf_counter() - self._started, 1e-9)
            logger.info(
                "%d of %d steps done, %.2f steps a second with validation", engine.state.iteration, self.steps, rate
            )


def train(trainer: SupervisedTrainer, state: TrainingState, resume: bool = True) -> None:
    """Run ``trainer``, from where the run in its folder stopped.

    Args:
        trainer: MONAI's.
        state: attached to it, after its other handlers.
        resume: False refuses to go on where a run is in the folder already.

    Raises:
        ValueError: see :meth:`TrainingState.load`; an option is misspelt; or a run is there and ``resume`` is False.
    """
    check_settings()
    if not as_flag(resume, "resume") and state.path.is_file():
        raise ValueError(f"{state.path}: a run is there already; choose another --output_dir, or pass --resume true")
    state.path.parent.mkdir(parents=True, exist_ok=True)
    step = state.load(trainer)
    if step >= trainer.state.max_epochs * trainer.state.epoch_length:
        logger.info("%s: all %d steps are done; nothing is left to train", state.path, step)
        return
    if step:
        logger.info("%s: going on after step %d", state.path, step)
    state.attach(trainer)
    trainer.run()


def refuse_other_settings(saved: Mapping[str, Any], current: Mapping[str, Any], name: str) -> None:
    """Raise ``ValueError`` naming the first setting in which two configurations differ, down to the nested key."""
    key = _first_difference(saved, current, "")
    if key is not None:
        path, before, now = key
        raise ValueError(
            f"{name}: the run was started with {path} = {before}, now it is {now}; choose another --output_dir, "
            "or set it back"
        )


def save_whole(content: Any, path: Path) -> None:
    """``torch.save`` under a temporary name, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        torch.save(content, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # PyTorch's writer raises the latter where the disk is full
        raise OSError(f"{path}: cannot be written ({error}); make room, or choose another --output_dir") from error
    finally:
        temporary.unlink(missing_ok=True)


def _first_difference(saved: Any, current: Any, path: str) -> tuple[str, Any, Any] | None:
    if isinstance(saved, dict) and isinstance(current, dict):
        for key in sorted(set(saved) | set(current)):
            found = _first_difference(saved.get(key), current.get(key), f"{path}#{key}" if path else key)
            if found:
                return found
        return None
    return None if saved == current else (path, saved, current)


def _settings() -> str:
    """The running config as JSON, without what may change from one piece of a run to the next."""
    config = {key: value for key, value in (running_config() or {}).items() if key not in FREE + TRACKING}
    for part in ("train", "validate"):  # handlers watch a run
        if part in config:
            config[part] = {key: value for key, value in config[part].items() if key != "handlers"}
    return json.dumps(config, sort_keys=True, default=str)


def _loss(engine: Engine) -> torch.Tensor:
    output: Any = engine.state.output
    loss = output[0]["loss"] if isinstance(output, list) else output["loss"]  # a list where the batch was decollated
    return torch.as_tensor(loss).detach()


def _epoch_length(engine: Engine) -> int:
    assert engine.state.epoch_length is not None
    return engine.state.epoch_length


def _plain(part: Any) -> Any:
    return part.module if isinstance(part, nn.parallel.DistributedDataParallel) else part


train_or_exit = exits_on_mistake(train)
count_epochs_or_exit = exits_on_mistake(count_epochs)
