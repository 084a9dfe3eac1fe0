import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from common.blocks.meta_upscale import MetaUpscale, convolve_phases, few_weights, hidden_units, mix_units
from common.blocks.projection import as_fraction, centred_axis, cornered_axis, find_runs, period, spaced_axis
from common.geometry import resized_affine, scaled_size

TENTHS = [n / 10 for n in range(11, 41)]
OTHERS = [1, 1.37, math.sqrt(2), math.pi, 3, (1.3, 2.7), (1.0, 3.3)]
each_alignment = pytest.mark.parametrize("alignment", ["centre", "corner"])


def upscaler(out_channels=1, alignment="centre", **settings):
    torch.manual_seed(0)
    return MetaUpscale(3, out_channels, hidden=8, alignment=alignment, **settings)


def places(size, pixels, factor, alignment):
    """LR coordinates of the output pixels of one axis, exactly."""
    if alignment == "centre":
        return [(i + Fraction(1, 2)) * Fraction(size, pixels) - Fraction(1, 2) for i in range(pixels)]
    if alignment == "spaced":
        middle, low_middle = Fraction(pixels - 1, 2), Fraction(size - 1, 2)
        return [(i - middle) / Fraction(factor).limit_denominator(10**8) + low_middle for i in range(pixels)]
    return [i / Fraction(str(factor)) for i in range(pixels)]


def pixel_by_pixel(module, features, factors, rows, columns):
    """The module as printed: weights for the place of every output pixel, times the patch around its LR pixel."""
    k = module.kernel_size
    padded = F.pad(features, [k // 2 + 1] * 4)  # one more, for the LR pixel before the first
    inverse = 1 / math.sqrt(factors[0] * factors[1])
    inputs = [[inverse, float(y - math.floor(y)), float(x - math.floor(x))] for y in rows for x in columns]
    weights = module.outer(F.relu(module.inner(torch.tensor(inputs, dtype=features.dtype))))
    weights = iter(weights.view(len(inputs), module.in_channels * k * k, module.out_channels))
    image = []
    for y in rows:
        for x in columns:
            top, left = math.floor(y) + 1, math.floor(x) + 1
            image.append(padded[:, :, top : top + k, left : left + k].reshape(len(features), -1) @ next(weights))
    return torch.stack(image, -1).view(len(features), -1, len(rows), len(columns))


def plain(module, features, factors, size, alignment="centre"):
    grid = [places(features.shape[a + 2], size[a], factors[a], alignment) for a in range(2)]
    return pixel_by_pixel(module, features, factors, *grid)


def each_form(module, features, factors, size, exact=False):
    """Both forms whatever the module would choose; the second also with one LR row at a time."""
    rows, columns = (module.axis(features.shape[a + 2], size[a], factors[a], exact) for a in range(2))
    net = module.prediction(1 / math.sqrt(factors[0] * factors[1]))
    yield convolve_phases(features, rows, columns, net)
    yield mix_units(features, rows, columns, net, 2**24)
    yield mix_units(features, rows, columns, net, 1)


def assert_same(image, expected):
    assert image.shape == expected.shape
    torch.testing.assert_close(image, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


@each_alignment
@pytest.mark.parametrize(("scales", "lr_size"), [(TENTHS, (5, 8)), (OTHERS, (11, 17)), (OTHERS, (1, 2))])
@torch.no_grad()
def test_it_is_the_plain_evaluation_of_each_pixel(scales, lr_size, alignment):
    module, features = upscaler(2, alignment), torch.randn(2, 3, *lr_size)
    for scale in scales:
        factors = scale if isinstance(scale, tuple) else (scale, scale)
        size = [scaled_size(n, s) for n, s in zip(lr_size, factors, strict=True)]
        expected = plain(module, features, factors, size, alignment)
        assert_same(module(features, scale), expected)
        for image in each_form(module, features, factors, size):
            assert_same(image, expected)


@each_alignment
@pytest.mark.parametrize(("out_channels", "kernel_size"), [(1, 3), (4, 3), (1, 1), (2, 5)])
@torch.no_grad()
def test_it_has_any_number_of_channels_and_any_odd_kernel(out_channels, kernel_size, alignment):
    module, features = upscaler(out_channels, alignment, kernel_size=kernel_size), torch.randn(2, 3, 6, 5)
    for factors, size in [((2.3, 2.3), [14, 12]), ((2.0, 3.0), [12, 15])]:
        expected = plain(module, features, factors, size, alignment)
        for image in each_form(module, features, factors, size):
            assert_same(image, expected)


@each_alignment
@pytest.mark.parametrize("size", [[22, 34], [23, 33], [21, 35]])
@torch.no_grad()
def test_a_size_may_be_given(size, alignment):
    module, features = upscaler(1, alignment), torch.randn(1, 3, 11, 17)
    expected = plain(module, features, (2.0, 2.0), size, alignment)
    for image in [module(features, 2, size), *each_form(module, features, (2.0, 2.0), size)]:
        assert_same(image, expected)


HEADERS = [1.875, 0.9 / 0.5, 0.8999999761581421 / 0.5, 1, 2.6]  # factors that a target spacing gives


@pytest.mark.parametrize("lr_size", [(5, 8), (8, 5), (11, 17), (1, 2)])
@torch.no_grad()
def test_an_exact_spacing_is_the_plain_evaluation_of_its_places(lr_size):
    module, features = upscaler(2), torch.randn(2, 3, *lr_size)
    for factors in [(f, f) for f in HEADERS] + [(1.0, 1.8), (1.875, 1.0), (2.6, 1.3)]:
        for rounded in (math.floor, math.ceil):
            size = [rounded(n * f) for n, f in zip(lr_size, factors, strict=True)]
            expected = plain(module, features, factors, size, "spaced")
            for image in [module(features, factors, size, True), *each_form(module, features, factors, size, True)]:
                assert_same(image, expected)


@torch.no_grad()
def test_an_exact_spacing_differs_from_the_true_ratio_where_the_size_was_rounded():
    module, features = upscaler(), torch.randn(1, 3, 5, 8)
    torch.testing.assert_close(module(features, 2, exact=True), module(features, 2))
    with pytest.raises(AssertionError):
        assert_same(module(features, 1.875, exact=True), module(features, 1.875))


@pytest.mark.parametrize("exact", [False, True])
def test_an_axis_of_factor_one_reads_the_lr_pixels_themselves(exact):
    axis = upscaler().axis(7, 7, 1.0, exact)
    assert [divmod(axis.step * i + axis.start, axis.parts) for i in range(7)] == [(i, 0) for i in range(7)]


@pytest.mark.parametrize(("size", "pixels", "factor"), [(7, 13, 1.875), (8, 14, 9 / 5), (7, 12, 1.7999999523162842)])
def test_an_exact_spacing_shares_the_centre_and_has_the_steps_of_its_factor(size, pixels, factor):
    axis = spaced_axis(size, pixels, factor)
    at = [Fraction(axis.step * i + axis.start, axis.parts) for i in range(pixels)]
    assert at[0] + at[-1] == size - 1
    assert float(at[1] - at[0]) == pytest.approx(1 / factor, rel=1e-12, abs=0)


@torch.no_grad()
def test_the_comparison_finds_the_published_defects():
    """Positions in floating point, where 33 / 2.2 floors to 14, and sizes that truncate 1.4 · 45 to 62."""
    module, features = upscaler(1, "corner"), torch.randn(1, 3, 20, 1)
    rows, columns = [i / 2.2 for i in range(44)], places(1, 2, 2.2, "corner")
    assert math.floor(rows[33]) == 14
    with pytest.raises(AssertionError):
        assert_same(module(features, 2.2), pixel_by_pixel(module, features, (2.2, 2.2), rows, columns))
    with pytest.raises(AssertionError):
        assert_same(module(torch.randn(1, 3, 45, 1), 1.4), torch.zeros(1, 1, int(1.4 * 45), int(1.4)))
    assert module(torch.randn(1, 3, 45, 5), 1.4).shape == (1, 1, 63, 7)


@pytest.mark.parametrize("scale", [2.5, math.pi])
def test_gradients_are_those_of_the_plain_evaluation(scale):
    module, features = upscaler(2).double(), torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    size, inputs = [scaled_size(n, scale) for n in (4, 5)], [features, *module.parameters()]
    expected = plain(module, features, (scale, scale), size)
    pull = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, inputs, pull)
    for image in each_form(module, features, (scale, scale), size):
        for gradient, reference in zip(
            torch.autograd.grad(image, inputs, pull, retain_graph=True), wanted, strict=True
        ):
            torch.testing.assert_close(gradient, reference)


def interpolation(alignment):
    """Weights set by hand to 1 - h - w at the LR pixel, h below and w to the right: linear interpolation of a plane."""
    module = MetaUpscale(1, 1, hidden=2, alignment=alignment)
    with torch.no_grad():
        for layer in (module.inner, module.outer):
            layer.weight.zero_()
            layer.bias.zero_()
        module.inner.weight[:, 1:] = torch.eye(2)
        module.outer.bias[4] = 1
        module.outer.weight[4], module.outer.weight[7, 0], module.outer.weight[5, 1] = -1, 1, 1
    return module.double()


def ramp(affine, size):
    """An image whose intensity is a world coordinate of its pixels."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return torch.from_numpy(affine[0, 0] * rows + affine[0, 1] * columns + affine[0, 3])


@pytest.mark.parametrize(("scale", "size"), [(1.3, None), (2.5, None), (3.7, [41, 63]), ((1.3, 2.7), None), (4, None)])
@torch.no_grad()
def test_a_ramp_of_world_coordinates_stays_one(scale, size):
    affine = np.array([[0.7, -0.4, 0, 5], [0.2, 0.9, 0, -3], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    low = ramp(affine, (11, 17))[None, None]
    image = interpolation("centre")(low, scale, size)[0, 0]
    expected = ramp(resized_affine(affine, (11, 17, 1), (*image.shape, 1)), image.shape)
    inside = tuple(slice(math.ceil(n / m), n - math.ceil(n / m)) for n, m in zip(image.shape, (11, 17), strict=True))
    torch.testing.assert_close(image[inside], expected[inside], atol=1e-6, rtol=0)
    shifted = interpolation("corner")(low, scale, size)[0, 0]
    assert (shifted - expected)[inside].abs().max() > 0.05


def test_the_same_input_gives_the_same_image_and_gradients():
    module, features = upscaler(), torch.randn(4, 3, 16, 16, requires_grad=True)
    for scale in (2, 2.77):
        images = [module(features, scale) for _ in range(2)]
        assert torch.equal(*images)
        gradients = [torch.autograd.grad(image.square().sum(), [features, *module.parameters()]) for image in images]
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@each_alignment
@torch.no_grad()
def test_it_scripts_for_every_scale_and_size(alignment):
    module = upscaler(2, alignment)
    scripted = torch.jit.script(module)
    for size in ((11, 17), (6, 5)):
        features = torch.randn(2, 3, *size)
        for scale in (2.5, 4, 1.37, math.pi, (1.3, 2.7), [2.0, 3.0]):
            torch.testing.assert_close(scripted(features, scale), module(features, scale))
    torch.testing.assert_close(scripted(features, 2.0, [13, 10]), module(features, 2.0, [13, 10]))
    torch.testing.assert_close(scripted(features, 1.875, None, True), module(features, 1.875, None, True))
    with pytest.raises(torch.jit.Error, match="scale: must be finite and >= 1, got"):
        scripted(features, 0.5)


class Fixed(torch.nn.Module):
    """The module at one scale, as a network that is exported holds it."""

    def __init__(self, module, scale):
        super().__init__()
        self.module, self.scale = module, scale

    def forward(self, features):
        return self.module(features, self.scale)


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize(("scale", "size"), [(3, (11, 17)), (2.5, (12, 16)), (1.37, (11, 17)), ((1.3, 2.7), (9, 10))])
@torch.no_grad()
def test_the_exported_onnx_is_the_module_at_its_size(scale, size, dynamo, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -e .[export]")
    from onnxruntime import InferenceSession

    module, path = Fixed(upscaler(2), scale).eval(), str(tmp_path / "model.onnx")
    torch.onnx.export(module, (torch.zeros(1, 3, *size),), path, dynamo=dynamo, input_names=["features"])
    session, features = InferenceSession(path, providers=["CPUExecutionProvider"]), torch.randn(1, 3, *size)
    assert_same(torch.from_numpy(session.run(None, {"features": features.numpy()})[0]), module(features))


@torch.no_grad()
def test_autocast_leaves_the_offsets_exact():
    module, features = upscaler(), torch.randn(1, 3, 9, 7)
    offset = torch.tensor([0.123456])
    units = hidden_units(module.prediction(0.4), offset, offset)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(hidden_units(module.prediction(0.4), offset, offset), units)
        images = [module(features, scale) for scale in (2, 2.77)]
    assert module.bfloat16().prediction(0.4).start.dtype == torch.float32
    for image, scale in zip(images, (2, 2.77), strict=True):
        expected = upscaler()(features, scale)
        assert image.dtype == torch.bfloat16
        torch.testing.assert_close(image.float(), expected, atol=0.02 * float(expected.abs().max()), rtol=0)
        assert module(features.bfloat16(), scale).dtype == torch.bfloat16


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that an operation gives."""

    found = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.found = max(self.found, result.untyped_storage().nbytes())
        return result


@torch.no_grad()
def test_hidden_units_stay_under_the_cap():
    module, features = upscaler(chunk=2**19), torch.randn(1, 3, 64, 64)
    expected = upscaler()(features, math.pi)
    with Largest() as largest:
        image = module(features, math.pi)
    assert largest.found <= 2**19 < 4 * 9 * image.numel() / 2
    torch.testing.assert_close(image, expected)


@pytest.mark.parametrize(("out_channels", "parameters"), [(1, 149_056), (4, 593_152)])
def test_it_has_the_published_number_of_parameters(out_channels, parameters):
    assert sum(p.numel() for p in MetaUpscale(64, out_channels).parameters()) == parameters


@pytest.mark.parametrize("scale", [0.99, 0, -2, math.nan, math.inf, (2.0, 0.5), [math.nan, 2]])
def test_a_scale_must_be_finite_and_at_least_one(scale):
    with pytest.raises(ValueError, match="scale: must be finite and >= 1, got"):
        upscaler()(torch.zeros(1, 3, 4, 4), scale)


@pytest.mark.parametrize("scale", [[2.0], (2, 2, 2), []])
def test_a_scale_is_one_factor_or_two(scale):
    with pytest.raises(ValueError, match="scale: must be one factor or two, got"):
        upscaler()(torch.zeros(1, 3, 4, 4), scale)


@pytest.mark.parametrize("size", [[6, 8], [8, 10], [0, 8], [8]])
def test_a_size_must_belong_to_its_scale(size):
    with pytest.raises(ValueError, match=r"size: must be .*, got"):
        upscaler()(torch.zeros(1, 3, 4, 4), 2, size)


@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (3, 4, 4)])
def test_features_must_fit(shape):
    with pytest.raises(ValueError, match=r"features: must be \(B, 3, H, W\), got"):
        upscaler()(torch.zeros(shape), 2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"kernel_size": 4}, "kernel_size: must be odd, got 4"), ({"alignment": "edge"}, "alignment: must be .*'edge'")],
)
def test_settings_are_checked(setting, message):
    with pytest.raises(ValueError, match=message):
        MetaUpscale(3, 1, **setting)


@pytest.mark.parametrize(("value", "fraction"), [(1.0, (1, 1)), (2.3, (23, 10)), (1.37, (137, 100)), (10 / 3, (10, 3))])
def test_a_printed_factor_is_its_fraction(value, fraction):
    assert as_fraction(value) == fraction


def test_offsets_repeat_after_the_period_of_the_factor():
    assert period(centred_axis(64, 160)) == (5, 2)
    assert period(cornered_axis(147, 2.3)) == (23, 10)
    assert period(cornered_axis(90, math.sqrt(2)))[0] == 90
    assert [tuple(run) for run in find_runs(centred_axis(2, 4), 4)] == [(0, 1, -1), (1, 3, 0), (3, 4, 1)]


def test_few_weights_are_convolutions():
    assert few_weights(centred_axis(64, 160), centred_axis(64, 256), 64 * 64)
    assert not few_weights(centred_axis(64, 147), centred_axis(64, 147), 64 * 64)
    assert not few_weights(centred_axis(1, 4), centred_axis(1, 4), 1)
