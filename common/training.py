"""A run that goes on where it stopped, with the same next step, and refuses the folder of another one.

An epoch is the stretch between two validations; a step is one update of the weights, counted from 1.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer

from .config import PLACES, check_settings, running_config
from .data.patches import PatchBatches
from .errors import as_flag, exits_on_mistake
from .handlers import BEST, DiscardLargeLoss, StopAtNaN, epoch_length
from .io.whole import write_whole
from .weights import plain

LAST = "last.pt"
FREE = (*PLACES, "device", "minutes", "resume", "compile", "imports", "initialize", "finalize", "run", "_comment")
TRACKING = ("tracking_uri", "experiment_name", "run_name", "save_execute_config", "is_not_rank0")  # MONAI's own keys
logger = logging.getLogger("common.training")


def count_epochs(steps: int, val_interval: int) -> int:
    """Validations in ``steps``.

    Raises:
        ValueError: ``steps`` is no multiple of ``val_interval``.
    """
    if val_interval < 1 or steps < 1 or steps % val_interval:
        raise ValueError(f"steps: must be a multiple of val_interval, got {steps} and {val_interval}; change one")
    return steps // val_interval


class TrainingState:
    """Handler of the trainer: ``output_dir/last.pt`` holds all that a run needs to go on with the same next step.

    It is written after every validation, and when ``minutes`` have passed; whole or not at all.

    Args:
        output_dir: folder of the run.
        parts: what has a state: network, optimizer, scheduler, :class:`KeepBest`, adversary; None is left out.
        batches: told at which step to begin.
        minutes: stop after so many, with the state written; None to go on to the end.
        seed: of noise and dropout in each step.
        writes: False for all processes but one.
        discard: attached to the trainer and kept with the ``parts``; None for none.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        parts: Mapping[str, Any],
        batches: PatchBatches,
        minutes: float | None = None,
        seed: int = 0,
        writes: bool = True,
        discard: DiscardLargeLoss | None = None,
    ) -> None:
        self.path, self.batches, self.guard = Path(output_dir) / LAST, batches, StopAtNaN(batches)
        self.parts = {name: plain(part) for name, part in parts.items() if part is not None}
        self.discard = discard
        if discard is not None:
            self.parts["discard"] = discard
        self.minutes, self.seed, self.writes = minutes, seed, writes
        self.settings = _settings()
        self.seconds, self._started = 0.0, 0.0

    def attach(self, engine: Engine) -> None:
        self.guard.attach(engine)
        if self.discard is not None:
            self.discard.attach(engine)
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
        if engine.state.iteration % epoch_length(engine) and self._time_is_up(engine):
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
        write_whole(self.path, lambda path: torch.save(content, path))

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
        engine.state.iteration, engine.state.epoch = step, step // epoch_length(engine)
        self.batches.start, self.seconds = step, float(content["seconds"])
        return step


def train(trainer: SupervisedTrainer, state: TrainingState, resume: bool = True) -> None:
    """Run ``trainer``, from where the run in its folder stopped.

    Args:
        trainer: MONAI's.
        state: attached to it, after its other handlers.
        resume: False refuses to go on where a run is in the folder already.

    Raises:
        ValueError: see :meth:`TrainingState.load`; an option is misspelt; a run is there and ``resume`` is False;
            or weights are there without the state of their run.
    """
    check_settings()
    if not as_flag(resume, "resume") and state.path.is_file():
        raise ValueError(f"{state.path}: a run is there already; choose another --output_dir, or pass --resume true")
    best = state.path.with_name(BEST)
    if best.is_file() and not state.path.is_file():
        raise ValueError(f"{best}: would be replaced, and there is no {LAST} of its run; choose another --output_dir")
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


train_or_exit = exits_on_mistake(train)
count_epochs_or_exit = exits_on_mistake(count_epochs)
