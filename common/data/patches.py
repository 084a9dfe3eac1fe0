"""Random HR patches for training, cut a batch at a time on the device that holds the planes.

Each step is a function of the seed and its own number: a run that was stopped goes on with the same next step, and
two processes share the batch that one would have. There are no workers that the accelerator could wait for; a batch
costs one gather.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import as_flag, exits_on_mistake

KEY = "label"  # of the planes and of the batches: HR is what the network must reach


@dataclass(frozen=True)
class Draw:
    """Where the patches of one step lie: plane, top, left, which of 8 flips and transpositions; ``(B,)`` each."""

    plane: np.ndarray
    top: np.ndarray
    left: np.ndarray
    turn: np.ndarray


class PatchBatches:
    """Endless batches ``{"label": (B, C, P, P)}`` of HR patches; iteration begins at step ``start``.

    Planes are drawn uniformly, patches uniformly in a plane.

    Args:
        planes: each a mapping with ``label`` (C, H, W), as :func:`common.data.planes.load_planes` gives them.
        patch_size: side of a patch in HR pixels, or its height and width; those that are not square are not transposed.
        batch_size: patches a step, in this process.
        seed: of all draws.
        augment: draw one of the 8 flips and transpositions of each patch.
        device: holds all planes, and makes the batches.
        rank, world_size: this process, and how many share a step.

    Raises:
        ValueError: a plane is smaller than the patch, the planes differ in channels, or ``batch_size`` is below 1.
    """

    def __init__(
        self,
        planes: Sequence[Mapping[str, Any]],
        patch_size: int | Sequence[int],
        batch_size: int,
        seed: int = 0,
        augment: bool = True,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: must be at least 1, got {batch_size}")
        self.patch_size = (patch_size, patch_size) if isinstance(patch_size, int) else tuple(patch_size)
        images = [plane[KEY] for plane in planes]
        self.names = [str(plane.get("name", number)) for number, plane in enumerate(planes)]
        for image, name in zip(images, self.names, strict=True):
            if any(n < size for n, size in zip(image.shape[1:], self.patch_size, strict=True)):
                height, width = self.patch_size
                raise ValueError(
                    f"{name}: a plane of {image.shape[1]} x {image.shape[2]} is smaller than the patch of "
                    f"{height} x {width}; pass a smaller --patch_size, or leave the image out"
                )
            if image.shape[0] != images[0].shape[0]:
                raise ValueError(f"{name}: must have {images[0].shape[0]} channels as the others, got {image.shape[0]}")
        self.sizes = np.array([image.shape[1:] for image in images])
        self.offsets = np.cumsum([0, *(size.prod() for size in self.sizes[:-1])])
        self.pixels = torch.cat([image.flatten(1) for image in images], dim=1).to(device)
        self.batch_size, self.seed = batch_size, seed
        self.turns = 1 if not as_flag(augment, "augment") else 8 if self.patch_size[0] == self.patch_size[1] else 4
        self.rank, self.world_size, self.start = rank, world_size, 0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        step = self.start
        while True:
            yield self.batch(step)
            step += 1

    def draw(self, step: int) -> Draw:
        """What step ``step`` (from 0) takes, the part of this process."""
        rng = np.random.default_rng((self.seed, step))
        count = self.batch_size * self.world_size
        plane = rng.integers(len(self.sizes), size=count)
        room = self.sizes[plane] - np.array(self.patch_size) + 1
        corner = (rng.random((count, 2)) * room).astype(np.int64)
        turn = rng.integers(self.turns, size=count)
        mine = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        return Draw(plane[mine], corner[mine, 0], corner[mine, 1], turn[mine])

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """The patches of step ``step``, from 0."""
        draw, device = self.draw(step), self.pixels.device
        table = np.stack([self.offsets[draw.plane], self.sizes[draw.plane, 1], draw.top, draw.left, draw.turn])
        offset, width, top, left, turn = (
            torch.from_numpy(table).to(device, non_blocking=True)[:, :, None, None].unbind(0)
        )
        height, width_of_patch = self.patch_size
        rows = torch.arange(height, device=device).view(1, -1, 1)
        columns = torch.arange(width_of_patch, device=device).view(1, 1, -1)
        if self.turns == 8:
            rows, columns = torch.where(turn >= 4, columns, rows), torch.where(turn >= 4, rows, columns)
        rows = torch.where(turn % 2 == 1, height - 1 - rows, rows)
        columns = torch.where(turn % 4 >= 2, width_of_patch - 1 - columns, columns)
        index = offset + (top + rows) * width + left + columns
        return {KEY: self.pixels[:, index].movedim(0, 1)}

    def describe(self, step: int) -> str:
        """Names of the planes in step ``step``."""
        return ", ".join(dict.fromkeys(self.names[plane] for plane in self.draw(step).plane))


patch_batches_or_exit = exits_on_mistake(PatchBatches)
