"""Memory that the process takes, and that a network needs for each pixel it is given."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import psutil
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MB = 1e6


def resident_mb() -> float:
    """Megabytes of memory that this process holds now."""
    return psutil.Process().memory_info().rss / MB


def peak_mb(device: torch.device) -> float:
    """Most megabytes held so far: by PyTorch on a CUDA device, else by this process since it started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MB
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / MB
    import resource  # not there on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB


class _LiveTensors(TorchDispatchMode):
    """Counts the bytes of the tensors alive after each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                reference = StorageWeakRef(tensor.untyped_storage())
                self._alive[reference.cdata] = (reference, tensor.untyped_storage().nbytes())
        self._alive = {key: item for key, item in self._alive.items() if not item[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return out


def bytes_per_pixel(network: Callable[[torch.Tensor], torch.Tensor], sample: torch.Tensor) -> float:
    """Bytes of input and intermediate results for each LR pixel, measured with one ``sample`` (1, C, H, W)."""
    with torch.no_grad(), _LiveTensors() as live:
        network(sample)
    return (live.peak + sample.nbytes) / (sample.shape[2] * sample.shape[3])
