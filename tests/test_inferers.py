import itertools

import numpy as np
import pytest
import torch
import torch.nn as nn
from monai.data import MetaTensor

from common import progress
from common.consistency import back_project, residual
from common.errors import CaseWarning
from common.inferers import PlaneInferer
from common.memory import bytes_per_pixel, peak_mb, resident_mb
from common.tiles import dihedral_group, fade, super_resolve_tiles, tile_ranges
from tests.helpers import Convolve, Interpolate, oblique


def volume(shape: tuple[int, ...], spacing: tuple[float, float, float] = (1, 1, 3), seed: int = 0) -> MetaTensor:
    values = torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed))
    return MetaTensor(values, affine=torch.from_numpy(oblique(spacing))[None])


def network(scale: int, channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return Convolve(scale, channels).eval()


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize(("spacing", "axis"), [((3, 1, 1), 0), ((1, 3, 1), 1), ((1, 1, 3), 2)])
def test_planes_across_the_slice_axis_are_what_the_network_gives(spacing, axis):
    image, net = volume((2, 13, 9, 11), spacing), network(3, channels=2)
    out = PlaneInferer(scale=3, batch_size=4)(image, net)
    expected = [n if i == axis else 3 * n for i, n in enumerate((13, 9, 11))]
    assert out.shape == (1, 2, *expected)
    for i in (0, 4, 8):
        plane = net(image.as_tensor().select(axis + 2, i))
        torch.testing.assert_close(out.select(axis + 2, i), plane, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("size", "tile", "scale"), [((100, 75), 64, 2), ((65, 130), 64, 4), ((200, 40), 72, 3)])
def test_tiles_equal_the_whole_plane(size, tile, scale):
    net, image = network(scale), torch.rand(2, 1, *size)
    tiled = super_resolve_tiles(net, image, scale, tile, overlap=32, multiple=8)
    torch.testing.assert_close(tiled, net(image), atol=1e-5, rtol=0)


def test_tiles_are_really_used_and_equal_the_whole_volume():
    seen = []
    net = network(2)
    net.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape[2:])))
    image = volume((1, 90, 70, 2))
    tiled = PlaneInferer(scale=2, tile=64)(image, net)
    assert max(seen) <= (64, 64) and len(seen) > 2
    torch.testing.assert_close(tiled, PlaneInferer(scale=2)(image, net), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "multiple"), [(64, 64, 32, 8), (65, 64, 32, 8), (1000, 104, 32, 8), (99, 70, 33, 1)]
)
def test_ranges_cover_everything_and_overlap_enough(length, tile, overlap, multiple):
    ranges = tile_ranges(length, tile, overlap, multiple)
    assert ranges[0][0] == 0 and ranges[-1][1] == length
    assert all(stop - start <= tile and start % multiple == 0 for start, stop in ranges)
    assert all(after[0] + overlap <= before[1] for before, after in itertools.pairwise(ranges))
    total = torch.zeros(length)
    for start, stop in ranges:
        total[start:stop] += fade((start, stop), length, overlap, 1)
    assert total.min() > 0.1


def test_the_self_ensemble_is_the_mean_over_eight_turns():
    image, net = volume((1, 12, 20, 3)), network(2)
    out = PlaneInferer(scale=2, self_ensemble=True)(image, net)
    plane = image.as_tensor()[..., 1]
    turns = [(k, flip) for k in range(4) for flip in (False, True)]
    expected = torch.zeros(1, 1, 24, 40)
    for k, flip in turns:
        turned = torch.rot90(plane.flip(3) if flip else plane, k, (2, 3))
        back = torch.rot90(net(turned), -k, (2, 3))
        expected += (back.flip(3) if flip else back) / 8
    torch.testing.assert_close(out[..., 1], expected, atol=1e-6, rtol=0)
    x = torch.rand(1, 1, 3, 5)
    assert len({tuple(turn(x).flatten().tolist()) + tuple(turn(x).shape) for turn, _, _ in dihedral_group()}) == 8
    assert all(torch.equal(undo(turn(x)), x) for turn, undo, _ in dihedral_group())


def test_back_projection_brings_the_residual_under_its_bound():
    image, net = volume((1, 24, 20, 3)), network(4)
    before = PlaneInferer(scale=4)(image, net)
    after = PlaneInferer(scale=4, consistency_bound=1e-3)(image, net)
    span = float(image.max() - image.min())
    for i in range(3):
        low = image.as_tensor()[..., i]
        assert residual(before[..., i], low).square().mean().sqrt() > 0.1
        assert residual(after[..., i], low).square().mean().sqrt() <= 1e-3 * span


def test_a_bound_that_is_not_reached_is_said():
    with pytest.warns(CaseWarning, match=r"left a residual of .* above"):
        PlaneInferer(scale=4, consistency_bound=1e-12)(volume((1, 16, 16, 1)), network(4))


def test_back_projection_leaves_a_consistent_image_alone():
    high = torch.rand(1, 1, 32, 32)
    low = -residual(high, torch.zeros(1, 1, 8, 8))
    assert torch.equal(back_project(high, low, bound=1e-6), high)


def test_memory_decides_between_planes_and_tiles():
    image, net = volume((1, 256, 256, 6)), network(2)
    seen = []
    net.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
    need = bytes_per_pixel(net, torch.zeros(1, 1, 32, 32)) * 256**2 * 1.5 / 1e6
    for room, expected in ((10 * need, "planes"), (0.5 * need, "tiles")):
        seen.clear()
        blending = 3 * 512**2 * 4 / 1e6
        out = PlaneInferer(scale=2, memory_mb=(resident_mb() + 6 * 512**2 * 4 / 1e6 + blending + room) / 0.85)(
            image, net
        )
        shapes = seen[1:]  # the first one measured
        assert (max(s[2] for s in shapes) == 256) == (expected == "planes")
        assert out.shape == (1, 1, 512, 512, 6)


def test_too_little_memory_is_refused_with_what_would_do():
    with pytest.raises(ValueError, match=r"memory_mb: 1 is too little .* pass --memory_mb \d+ or more"):
        PlaneInferer(scale=2, memory_mb=1)(volume((1, 80, 80, 2)), network(2))


def test_the_measured_need_is_near_the_truth():
    class Known(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            wide = x.repeat(1, 100, 1, 1)  # 100 floats a pixel, and once more while the mean is taken of the sum
            return (wide + 1).mean(dim=1, keepdim=True)

    assert 804 <= bytes_per_pixel(Known(), torch.zeros(1, 1, 32, 32)) <= 812
    assert peak_mb(torch.device("cpu")) >= resident_mb() * 0.9 > 50


def test_a_batch_that_overflows_in_bfloat16_is_repeated_in_float32():
    class Fragile(Interpolate):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = super().forward(x)
            return out / 0 if torch.is_autocast_enabled("cpu") else out

    image = volume((1, 8, 8, 2))
    with pytest.warns(CaseWarning, match="repeated in float32"):
        out = PlaneInferer(scale=2, amp_dtype="bfloat16")(image, Fragile(2))
    torch.testing.assert_close(out, PlaneInferer(scale=2)(image, Interpolate(2)))


def test_bfloat16_is_used_where_it_is_asked_for():
    image, net = volume((1, 24, 24, 2)), network(2)
    exact, rough = (PlaneInferer(scale=2, amp_dtype=dtype)(image, net) for dtype in (None, "bfloat16"))
    assert rough.dtype == torch.float32 and 0 < (exact - rough).abs().max() < 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: must be at least 1"),
        ({"tile": 40}, "tile: must be at least 64, twice the overlap, got 40"),
        ({"overlap": 2}, "overlap: must be at least 4"),
        ({"amp_dtype": "float16"}, "float16 overflows in Swin layers"),
        ({"consistency_bound": 0}, "consistency_bound: must be above 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PlaneInferer(scale=2, **arguments)


def test_a_network_of_another_scale_or_with_nan_is_refused():
    with pytest.raises(ValueError, match=r"scale: the network made \(16, 16\) of \(8, 8\)"):
        PlaneInferer(scale=4)(volume((1, 8, 8, 1)), Interpolate(2))
    with pytest.raises(ValueError, match="the network gave NaN"):
        PlaneInferer(scale=1)(volume((1, 8, 8, 1)), lambda x: x * float("nan"))
    with pytest.raises(ValueError, match="must be one volume"):
        PlaneInferer(scale=1)(torch.zeros(2, 1, 8, 8, 1), nn.Identity())


def test_a_constant_volume_and_one_pixel_work():
    for shape in ((1, 1, 1, 1), (1, 9, 1, 3)):
        image = MetaTensor(torch.full((1, *shape), 0.5), affine=torch.from_numpy(oblique((1, 1, 3)))[None])
        out = PlaneInferer(scale=2, consistency_bound=1e-3)(image, Interpolate(2))
        np.testing.assert_allclose(out.numpy(), 0.5)


def test_a_long_volume_says_how_far_it_is(monkeypatch, caplog):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    caplog.set_level("INFO", "common.progress")
    PlaneInferer(scale=2, batch_size=1)(volume((1, 4, 4, 6)), Interpolate(2))
    assert caplog.messages == ["plane 2 of 6, about 80 s left", "plane 4 of 6, about 40 s left"]
