"""Multiply-accumulate operations (MACs) of a network, by the paper's rule and with the products of attention.

Zhu, dissertation, tables 5.1 and 5.5. The paper counts convolutions and linear layers, two operations for each
value that a layer normalisation gives and 3n - 1 for each softmax over n values; the products q kᵀ and a v, which it
leaves out, are counted apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch.utils.flop_counter import FlopCounterMode

from .blocks.swin import WindowAttention

PRODUCTS = (torch.ops.aten.bmm, torch.ops.aten.baddbmm)


@dataclass(frozen=True)
class Macs:
    """MACs of one forward pass: by the paper's rule, and of convolutions, linear layers and attention products."""

    paper: int
    with_attention: int


def count_macs(network: nn.Module, shape: Sequence[int]) -> Macs:
    """MACs of ``network`` for an image of ``shape`` (B, C, H, W); runs it once on zeros, on the CPU."""
    extras: list[int] = []

    def count_norm(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        extras.append(2 * output.numel())

    def count_softmax(module: WindowAttention, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        windows, length, _ = inputs[0].shape
        extras.append(windows * module.num_heads * length * (3 * length - 1))

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            hooks.append(module.register_forward_hook(count_norm))
        elif isinstance(module, WindowAttention):
            hooks.append(module.register_forward_hook(count_softmax))
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(*shape))
    finally:
        for hook in hooks:
            hook.remove()
    counts = counter.get_flop_counts()["Global"]
    total = sum(counts.values()) // 2  # a MAC is two floating-point operations
    products = sum(count for op, count in counts.items() if op in PRODUCTS) // 2
    return Macs(paper=total - products + sum(extras), with_attention=total)
