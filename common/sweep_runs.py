"""The runs of a sweep: MONAI's runner in processes of its own, one after the other; what is finished stays."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .metadata import read_json, write_json
from .training import refuse_other_settings

logger = logging.getLogger("common.sweep")
SETTINGS, FINISHED, LOG = "settings.json", "finished.json", "log.txt"
FREE = ("device", "data_device", "compile", "memory_mb")  # may change on the way


@dataclass(frozen=True)
class Run:
    """One process of MONAI's runner.

    Attributes:
        name: of variant and part, for messages.
        folder: that it fills.
        configs: files, an overlay after what it lies over.
        settings: that lie over them all.
    """

    name: str
    folder: Path
    configs: Sequence[Path]
    settings: Mapping[str, Any]

    def complete(self) -> None:
        """Run it, unless it was finished before.

        Raises:
            ValueError: it fails, or the folder is that of a run with other configs or settings.
        """
        plan = {"configs": [path.stem for path in self.configs], "settings": dict(self.settings)}
        finished = self.folder / FINISHED
        self._refuse_other(plan)
        if finished.is_file():
            logger.info("%s: was finished before", self.name)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / SETTINGS, dict(self.settings))
        started = time.perf_counter()
        logger.info("%s: begins; %s tells how it goes", self.name, self.folder / LOG)
        self._start()
        write_json(finished, plan)
        logger.info("%s: finished, %.0f s", self.name, time.perf_counter() - started)

    def _refuse_other(self, plan: Mapping[str, Any]) -> None:
        before = self.folder / FINISHED
        if before.is_file():
            saved, now = read_json(before), json.loads(json.dumps(plan))
            for content in (saved, now):
                content["settings"] = {k: v for k, v in content["settings"].items() if k not in FREE}
            refuse_other_settings(saved, now, f"{self.name}: {self.folder}")

    def _start(self) -> None:
        files = [str(path.resolve()) for path in (*self.configs, self.folder / SETTINGS)]
        words = [sys.executable, "-m", "monai.bundle", "run", "--config_file", json.dumps(files)]
        log = self.folder / LOG
        with open(log, "ab") as file:
            begin = file.tell()
            done = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            told = log.read_bytes()[begin:].decode(errors="replace")
            raise ValueError(f"{self.name}: {reason(told) or f'exit code {done.returncode}'}; {log} has all of it")


def reason(told: str) -> str:
    """What a process ended with: its last sentence that begins with ``error:``, else its last line."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    begins = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    words = lines[begins[-1] :] if begins else lines[-1:]
    return " ".join(words).removeprefix("error: ").rstrip(".;")
