import numpy as np
import pytest
import torch

from common.data.patches import PatchBatches


def numbered(height: int, width: int, first: int = 0, channels: int = 1) -> dict:
    """A plane each of whose pixels has a value of its own."""
    values = torch.arange(first, first + channels * height * width, dtype=torch.float32)
    return {"label": values.view(channels, height, width), "name": f"{height}x{width}"}


PLANES = [numbered(12, 9), numbered(8, 20, first=1000), numbered(30, 8, first=5000)]


def cut(batches: PatchBatches, step: int) -> torch.Tensor:
    """The same patches by slicing, flipping and transposing."""
    draw, (height, width), patches = batches.draw(step), batches.patch_size, []
    for plane, top, left, turn in zip(draw.plane, draw.top, draw.left, draw.turn, strict=True):
        patch = PLANES[plane]["label"][:, top : top + height, left : left + width]
        patch = patch.flip(1) if turn % 2 else patch
        patch = patch.flip(2) if turn % 4 >= 2 else patch
        patches.append(patch.transpose(1, 2) if turn >= 4 else patch)
    return torch.stack(patches)


def test_a_batch_is_cut_flipped_and_transposed_as_drawn():
    batches = PatchBatches(PLANES, patch_size=8, batch_size=64, seed=1)
    oblong = PatchBatches(PLANES, patch_size=(8, 6), batch_size=64, seed=1)
    for step in range(3):
        assert torch.equal(batches.batch(step)["label"], cut(batches, step))
        assert torch.equal(oblong.batch(step)["label"], cut(oblong, step))
    draws = batches.draw(0)
    assert set(draws.plane) == {0, 1, 2} and set(draws.turn) == set(range(8))
    assert set(oblong.draw(0).turn) == set(range(4))


def test_every_place_and_plane_is_drawn():
    batches = PatchBatches(PLANES, patch_size=8, batch_size=4000, augment=False)
    draw = batches.draw(0)
    assert {(t, left) for p, t, left in zip(draw.plane, draw.top, draw.left, strict=True) if p == 0} == {
        (t, left) for t in range(5) for left in range(2)
    }
    assert np.allclose(np.bincount(draw.plane) / 4000, 1 / 3, atol=0.05) and not draw.turn.any()


def test_a_step_depends_on_seed_and_number_alone():
    first, again, other = (PatchBatches(PLANES, 8, 4, seed=seed) for seed in (3, 3, 4))
    steps = iter(first)
    batches = [next(steps)["label"] for _ in range(5)]
    again.start = 3
    assert torch.equal(next(iter(again))["label"], batches[3]) and not torch.equal(batches[3], batches[4])
    assert not torch.equal(other.batch(0)["label"], batches[0])


def test_two_processes_share_the_batch_of_one():
    whole = PatchBatches(PLANES, 8, 6).batch(2)["label"]
    halves = [PatchBatches(PLANES, 8, 3, rank=rank, world_size=2).batch(2)["label"] for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), whole)


def test_channels_stay_together():
    planes = [numbered(8, 9, channels=3), numbered(9, 8, first=500, channels=3)]
    batch = PatchBatches(planes, 8, 5).batch(0)["label"]
    assert batch.shape == (5, 3, 8, 8)
    step = batch[:, 1:] - batch[:, :-1]  # channels of a plane differ by its number of pixels
    assert (step == 72).all()


def test_what_cannot_be_cut_is_refused_by_name():
    with pytest.raises(ValueError, match=r"30x8: a plane of 30 x 8 is smaller than the patch of 9 x 9; pass a smaller"):
        PatchBatches([PLANES[2]], 9, 1)
    with pytest.raises(ValueError, match="8x9: must have 1 channels as the others, got 2"):
        PatchBatches([PLANES[0], numbered(8, 9, channels=2)], 8, 1)
    with pytest.raises(ValueError, match="batch_size: must be at least 1, got 0"):
        PatchBatches(PLANES, 8, 0)


def test_the_planes_of_a_step_are_named():
    batches = PatchBatches(PLANES, 8, 50)
    assert sorted(batches.describe(0).split(", ")) == ["12x9", "30x8", "8x20"]
