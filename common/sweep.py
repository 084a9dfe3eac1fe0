"""An ablation in one command: the variants of a bundle trained for equal steps, evaluated, and put into one table.

Zhu, dissertation, section 3.4.3 with tables 3.4 and 3.5 (their objective columns); variants are named in
``configs/sweep.json`` of a bundle.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .info import find_bundles
from .metadata import read_json
from .sharpness import SharpnessJudge
from .sweep_runs import Run
from .sweep_table import Variant, write_sweep

logger = logging.getLogger("common.sweep")
SWEEP = "sweep.json"
OURS = ("ckpt_path", "minutes", "resume")  # settings of a training that a sweep makes itself
NOT_SHARED = ("batch_size", "amp_dtype", "memory_mb")  # of the training, and of evaluation under the same name
UNIT = 1000  # steps from one validation to the next, at most
SHARPNESS = {"_target_": f"{SharpnessJudge.__module__}.{SharpnessJudge.__name__}"}


@dataclass(frozen=True)
class Plan:
    """What all variants have in common.

    Attributes:
        folder: of the bundle's configs.
        content: of ``sweep.json``.
        options: settings of the user.
        overlays, evaluate_overlays: names of further configs, over those of all variants and under those of one.
        steps, val_interval: of each variant in all, and from one validation to the next.
        output_dir: that has a folder for each variant.
    """

    folder: Path
    content: Mapping[str, Any]
    options: Mapping[str, Any]
    overlays: Sequence[str]
    evaluate_overlays: Sequence[str]
    steps: int
    val_interval: int
    output_dir: Path

    def pretraining(self, variant: Mapping[str, Any]) -> int:
        """The part of the steps that a variant is trained for alone: a sixth, 50 of 300 epochs; 0 for most."""
        units = max(1, round(self.steps / 6 / self.val_interval))
        return units * self.val_interval if "first" in variant else 0

    def runs(self, name: str) -> list[Run]:
        """Trainings and evaluation of a variant, in order."""
        variant, folder = self.content["variants"][name], self.output_dir / name
        first, before = variant.get("first", {}), self.pretraining(variant)
        found, start = [], {}
        if first:
            configs = [*first["train"], *self.overlays]
            own = self._steps(before, folder / "pretraining") | first.get("options", {})
            found.append(self._run(f"{name}, pre-training", folder / "pretraining", configs, own))
            start = {"ckpt_path": str(folder / "pretraining" / "model.pt")}
        configs = [*self.content["train"], *self.overlays, *variant.get("overlays", [])]
        own = self._steps(self.steps - before, folder / "training") | variant.get("options", {}) | start
        found.append(self._run(f"{name}, training", folder / "training", configs, own))
        configs = [*self.content["evaluate"], *self.evaluate_overlays]
        own = {"ckpt_path": str(folder / "training" / "model.pt"), "output_dir": str(folder / "scores")}
        if not any(read_json(self.path(config)).get("region_judge") for config in configs):
            own |= {"region_judge": SHARPNESS}
        own |= variant.get("inference", {})
        found.append(self._run(f"{name}, evaluation", folder / "scores", configs, own, NOT_SHARED))
        return found

    def _steps(self, steps: int, folder: Path) -> dict[str, Any]:
        return {"steps": steps, "val_interval": self.val_interval, "output_dir": str(folder)}

    def _run(
        self, name: str, folder: Path, configs: Sequence[str], own: Mapping[str, Any], without: Sequence[str] = ()
    ) -> Run:
        paths = [self.path(config) for config in configs]
        known = names_in(paths) - set(without)
        settings = {key: value for key, value in self.options.items() if _head(key) in known}
        return Run(name, folder, paths, {**settings, **own})

    def path(self, config: str) -> Path:
        return self.folder / f"{config}.json"

    def check(self, chosen: Sequence[str]) -> None:
        """Raise ``ValueError`` for files that are missing, and settings that nothing has or that are not the user's."""
        files = {path for name in chosen for run in self._safe_runs(name) for path in run.configs}
        known = names_in(files)
        for option in self.options:
            head = _head(option)
            if head not in known:
                raise ValueError(f"--{option}: no config of {self.folder} has such a setting; check its name")
            for name in chosen:
                if head in self._set_by(name) or head in OURS:
                    raise ValueError(f"--{option}: is set by the sweep itself, for {name}; leave it out")

    def _safe_runs(self, name: str) -> list[Run]:
        variant = self.content["variants"][name]
        configs = [*self.content["train"], *self.content["evaluate"], *self.overlays, *self.evaluate_overlays]
        for config in (*configs, *variant.get("overlays", []), *variant.get("first", {}).get("train", [])):
            if not self.path(config).is_file():
                raise ValueError(f"{self.path(config)}: must be there, as {name} needs it; check the names of overlays")
        return self.runs(name)

    def _set_by(self, name: str) -> set[str]:
        variant = self.content["variants"][name]
        own = {*variant.get("options", {}), *variant.get("first", {}).get("options", {}), *variant.get("inference", {})}
        overlays = names_in([self.path(overlay) for overlay in variant.get("overlays", [])]) - {"_comment"}
        return {_head(key) for key in own} | overlays


def sweep(
    bundle: str,
    steps: int,
    output_dir: str,
    variants: str | Sequence[str] | None = None,
    val_interval: int | None = None,
    overlays: str | Sequence[str] = (),
    evaluate_overlays: str | Sequence[str] = (),
    **options: Any,
) -> str:
    """Train the variants of a bundle for equal steps, evaluate each on the test split, and write one table of them.

    Each has a folder below ``output_dir``, with a log of every run. Called again, it goes on where it stopped.

    Args:
        bundle: its folder, or its name.
        steps: of each variant, pre-training included.
        output_dir: gains ``sweep.md``, ``sweep.csv`` and ``sweep.json``.
        variants: names in the bundle's ``configs/sweep.json``, as ``a,b``; by default all.
        val_interval: steps from one validation to the next; by default the largest up to 1000 that goes.
        overlays: further configs over the training, as ``lesion_focus,region_dt``.
        evaluate_overlays: further configs over the evaluation, as ``evaluate_region``.
        options: any settings of the training; the evaluation gets those that it has too.

    Returns:
        The table.

    Raises:
        ValueError: a setting or a name is wrong; or variants failed: the message names them and why. The table, of the
            others, is written.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = _configs_of(str(bundle))
    content = read_json(folder / SWEEP)
    chosen = _names(variants) if variants is not None else list(content["variants"])
    for name in chosen:
        if name not in content["variants"]:
            raise ValueError(f"variants: must be some of {', '.join(content['variants'])}, got {name}; choose of these")
    interval = _interval(steps, val_interval, any("first" in content["variants"][name] for name in chosen))
    further = _names(overlays), _names(evaluate_overlays)
    plan = Plan(folder, content, options, *further, steps, interval, Path(output_dir).absolute())
    plan.check(chosen)
    failed = {}
    for name in chosen:
        try:
            for run in plan.runs(name):
                run.complete()
        except (ValueError, OSError) as error:
            failed[name] = str(error)
            logger.info("FAILED %s", error)
    about = [
        Variant(name, about.get("title", name), steps, plan.pretraining(about), failed.get(name))
        for name, about in ((name, content["variants"][name]) for name in chosen)
    ]
    text = write_sweep(plan.output_dir, about, read_json(folder / "metadata.json")["name"])
    if failed:
        reasons = "\n".join(f"  {reason}" for reason in failed.values())
        others = f", {plan.output_dir / 'sweep.md'} is of the others" if len(failed) < len(chosen) else ""
        raise ValueError(f"{len(failed)} of {len(chosen)} variants failed{others}:\n{reasons}")
    return text


def names_in(paths: Sequence[Path] | set[Path]) -> set[str]:
    """Names of the settings in configs, of an overlay those that it changes a part of as well."""
    return {_head(key) for path in paths for key in read_json(path)}


def _head(key: str) -> str:
    return key.removeprefix("+").split("#")[0]


def _names(value: str | Sequence[str]) -> list[str]:
    words = value.split(",") if isinstance(value, str) else value
    return [str(word).strip() for word in words]


def _configs_of(bundle: str) -> Path:
    folder = Path(bundle) if Path(bundle).is_dir() else find_bundles().get(bundle)
    if folder is None or not (folder / "configs" / SWEEP).is_file():
        raise ValueError(f"{bundle}: must be a bundle with variants in configs/{SWEEP}; write them, or name another")
    return folder / "configs"


def _interval(steps: int, val_interval: int | None, split: bool) -> int:
    """Steps from one validation to the next: such that pre-training and training are whole numbers of them."""
    if not isinstance(steps, int) or steps < (2 if split else 1):
        raise ValueError(f"steps: must be a whole number, 1 or more, 2 with pre-training, got {steps}; pass more")
    most = max(1, min(UNIT, steps // 6))
    interval = val_interval or max(n for n in range(1, most + 1) if steps % n == 0)
    if steps % interval or interval > steps // (2 if split else 1):
        raise ValueError(f"steps: must be several times val_interval, got {steps} and {interval}; change one")
    return interval
