"""What an evaluation looks at beside its metrics: segmentation, features, regions; each judge sees HR and results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from .data.items import Item
from .protocol import Pair


class Judge(Protocol):
    """One more opinion on the images of an evaluation."""

    def begin(self, item: Item, pair: Pair) -> Callable[[str, torch.Tensor], Any]:
        """What looks at one image: it takes the name of a method and its planes ``(N, C, H, W)``, as normalised.

        What it returns goes from one process to another.
        """

    def conclude(self, findings: Sequence[Any], folder: Path) -> tuple[dict[str, Any], str]:
        """What to add to the summary, and a table in Markdown, out of all that was found; files go to ``folder``."""
