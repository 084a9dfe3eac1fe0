"""Overlapping tiles of a plane, blended without seams; and the flips and transpositions of a self-ensemble.

A tile counts for nothing in the outer quarter of an overlap, where the network could not see far enough, and is faded
into its neighbour over the middle half. Tiles start at multiples of the network's window, so that a windowed network
cuts a tile as it would cut the whole plane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

Network = Callable[[torch.Tensor], torch.Tensor]


def dihedral_group() -> Iterator[tuple[Network, Network, bool]]:
    """The eight flips and transpositions of ``(B, C, H, W)``, each with its inverse and whether it swaps the axes."""
    for dims in ([], [2], [3], [2, 3]):
        yield partial(torch.flip, dims=dims), partial(torch.flip, dims=dims), False
        yield partial(_flip_transpose, dims=dims), partial(_transpose_flip, dims=dims), True


def _flip_transpose(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    return x.flip(dims).transpose(2, 3)


def _transpose_flip(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    return x.transpose(2, 3).flip(dims)


def super_resolve_tiles(
    forward: Network, low: torch.Tensor, scale: int, tile: int, overlap: int, multiple: int = 1
) -> torch.Tensor:
    """``low`` (B, C, H, W) in overlapping tiles, blended to (B, C, scale · H, scale · W).

    Equal to ``forward(low)`` where the network looks no further than a quarter of ``overlap``.

    Args:
        forward: the network.
        scale: an integer.
        tile: largest side of a tile, at least twice ``overlap``, in LR pixels.
        overlap: of neighbours, in LR pixels.
        multiple: tiles start at multiples of this.
    """
    b, _, height, width = low.shape
    out = torch.empty(0)
    total = low.new_zeros(height * scale, width * scale)
    for top, bottom in tile_ranges(height, tile, overlap, multiple):
        for left, right in tile_ranges(width, tile, overlap, multiple):
            high = forward(low[:, :, top:bottom, left:right])
            rows = fade((top, bottom), height, overlap, scale).to(high)
            columns = fade((left, right), width, overlap, scale).to(high)
            weight = rows[:, None] * columns[None, :]
            place = slice(top * scale, bottom * scale), slice(left * scale, right * scale)
            if not out.numel():
                out = high.new_zeros(b, high.shape[1], *total.shape)
            out[:, :, place[0], place[1]] += high * weight
            total[place] += weight
    return out / total


def tile_ranges(length: int, tile: int, overlap: int, multiple: int) -> list[tuple[int, int]]:
    """Ranges that cover 0 to ``length``, each at most ``tile`` long, overlapping by ``overlap`` or more."""
    if length <= tile:
        return [(0, length)]
    step = (tile - overlap) // multiple * multiple
    if step < 1:
        raise ValueError(f"tile: must exceed overlap by {multiple} or more, got {tile} and {overlap}; enlarge it")
    starts = range(0, length - tile + step, step)
    return [(start, min(start + tile, length)) for start in starts]


def fade(span: tuple[int, int], length: int, overlap: int, scale: int) -> torch.Tensor:
    """Weights along one side of a tile: 1 inside and at the image's edge; towards another tile down to 0."""
    start, stop = span
    size = (stop - start) * scale
    dark = overlap * scale / 4
    place = torch.arange(size, dtype=torch.float32) + 0.5
    weight = torch.ones(size)
    if start > 0:
        weight = torch.minimum(weight, ((place - dark) / (2 * dark)).clamp(0, 1))
    if stop < length:
        weight = torch.minimum(weight, ((size - place - dark) / (2 * dark)).clamp(0, 1))
    return weight
