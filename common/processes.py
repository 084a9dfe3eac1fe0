"""Several processes, started by torchrun on one machine or many: at one worklist, or at one batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from monai.data import Dataset, DistributedSampler

from .errors import exits_on_mistake

PATIENCE = timedelta(days=20)  # a process may be done long before the last; in milliseconds, 24 days fill 31 bits


def rank_and_world() -> tuple[int, int]:
    """Number of this process, from 0, and how many there are; 0 and 1 where torchrun did not start it."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= set(os.environ):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def local_device() -> torch.device:
    """The GPU of this process, the only GPU, or the CPU; processes beyond the number of GPUs share them."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if "LOCAL_RANK" not in os.environ:
        return torch.device("cuda")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())


def share_validation(dataset: Dataset) -> DistributedSampler:
    """MONAI's sampler that gives each process its part of the validation set, no entry twice.

    Raises:
        ValueError: there are more processes than entries.
    """
    count, world = len(dataset), dist.get_world_size()
    if count < world:
        raise ValueError(
            f"validation: must have an entry for each of {world} processes, got {count} (planes, or volumes with "
            "labels); pass a smaller --nproc_per_node, or add validation patients"
        )
    return DistributedSampler(dataset, even_divisible=False, shuffle=False)


def several() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def mean_over_all(values: torch.Tensor) -> torch.Tensor:
    """Mean over the equal shares of all processes; gradients, once averaged over them, are those of the whole batch."""
    mean = values.mean()
    if not several():
        return mean
    from torch.distributed.nn.functional import all_reduce  # is not in every build of PyTorch

    return torch.as_tensor(all_reduce(mean) / dist.get_world_size())


def draw_for_all(count: int, device: torch.device) -> torch.Tensor:
    """The ``count`` uniform draws in [0, 1) of this process, out of those that the first one makes for all."""
    if not several():
        return torch.rand(count, device=device)
    drawn = torch.rand(count * dist.get_world_size(), device=device)
    dist.broadcast(drawn, 0)
    return drawn[count * dist.get_rank() :][:count]


def share_weights(module: nn.Module) -> None:
    """Give all processes the parameters and buffers of the first."""
    if several():
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Mean over the processes, after the backward pass: for what DistributedDataParallel cannot hold."""
    if several():
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()


@contextmanager
def waiting_for_all(world: int, worklist: Sequence[str]) -> Iterator[None]:
    """Leave when all ``world`` processes leave: torchrun ends the others as soon as one exits with an error.

    A process that is stopped, or that an exception ends, waits for nobody.

    Raises:
        SystemExit: ``worklist`` is not the same in all processes.
    """
    if world == 1:
        yield
        return
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("gloo", timeout=PATIENCE)
    group = dist.group.WORLD if ours else dist.new_group(backend="gloo", timeout=PATIENCE)
    _agree(worklist, group, world)
    yield
    dist.barrier(group)
    if ours:
        dist.destroy_process_group()


@exits_on_mistake
def _agree(worklist: Sequence[str], group: Any, world: int) -> None:
    """Shares of different worklists would overlap, or leave gaps."""
    lists: list[Any] = [None] * world
    dist.all_gather_object(lists, list(worklist), group)
    other = next((found for found in lists if found != lists[0]), None)
    if other is not None:
        name = min(set(other) ^ set(lists[0]), default=other[0])
        raise ValueError(f"{name}: not all processes found it; run again when no files are being added or removed")


share_validation_or_exit = exits_on_mistake(share_validation)
