import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.geometry import (
    both_factors,
    check_affine,
    find_slice_axis,
    fitting_sizes,
    plane_factors,
    resized_affine,
    scaled_size,
    slice_axis_of,
    spacing,
)
from common.transforms.degradation import lr_size
from tests.helpers import oblique


@pytest.mark.parametrize(
    ("size", "factor", "expected"), [(45, 1.4, 63), (25, 4, 100), (1, 0.25, 1), (10, 1.25, 13), (7, 1, 7)]
)
def test_sizes_are_rounded_not_truncated(size, factor, expected):
    assert scaled_size(size, factor) == expected


@pytest.mark.parametrize(
    ("size", "new"), [((11, 8, 5), (44, 32, 5)), ((45, 10, 3), (63, 14, 3)), ((40, 40, 40), (13, 27, 40))]
)
def test_both_grids_have_the_same_corners(size, new):
    affine = oblique((0.7, 1.1, 3.3), flip=(0, 2))
    moved = resized_affine(affine, size, new)
    for corner in np.ndindex(2, 2, 2):
        before, after = (np.array([c * n - 0.5 for c, n in zip(corner, shape, strict=True)]) for shape in (size, new))
        np.testing.assert_allclose(moved @ [*after, 1], affine @ [*before, 1], atol=1e-9)
    np.testing.assert_allclose(np.array(spacing(moved)) * new, np.array(spacing(affine)) * size)


@pytest.mark.parametrize(
    ("steps", "shape", "axis"),
    [
        ((1.0, 1.0, 3.0), (9, 9, 9), 2),
        ((3.0, 1.0, 1.0), (9, 9, 9), 0),
        ((1.0, 1.2, 1.0), (9, 9, 9), 1),
        ((1.0, 1.09, 1.0), (9, 9, 9), 2),  # within 10 %: the axis nearest to superior-inferior
        ((2.0, 2.0, 2.2), (9, 9, 9), 2),
        ((3.0, 3.0, 1.0), (9, 9, 9), 2),  # two large spacings: none exceeds the others
        ((1.0, 1.0, 1.0), (9, 1, 9), 1),  # a lone slice is a plane across its one voxel
        ((1.0, 1.0, 4.0), (1, 9, 9), 0),
    ],
)
def test_planes_are_stacked_across_the_largest_spacing_else_superior_inferior(steps, shape, axis):
    assert find_slice_axis(oblique(steps), shape) == axis


def test_superior_inferior_is_found_in_a_sagittal_volume():
    sagittal = np.eye(4)[[2, 0, 1, 3]]  # first axis anterior, second superior, third right
    assert find_slice_axis(sagittal, (9, 9, 9)) == 1


def test_an_image_without_a_record_is_judged_by_its_affine():
    image = MetaTensor(torch.zeros(1, 1, 5, 6, 7), affine=torch.from_numpy(oblique((3.0, 1.0, 1.0)))[None])
    assert slice_axis_of(image) == 0
    with pytest.raises(ValueError, match="must be a MetaTensor"):
        slice_axis_of(torch.zeros(1, 5, 6, 7))


def test_factors_leave_the_slice_axis_alone():
    assert plane_factors(4, 0) == (1.0, 4.0, 4.0)
    assert plane_factors((2, 3), 1) == (2, 1.0, 3)
    with pytest.raises(ValueError, match="one factor or 2"):
        plane_factors((2, 3, 4), 1)


@pytest.mark.parametrize("bad", [np.diag([1, 1, 0, 1.0]), np.full((4, 4), np.nan), np.eye(3)])
def test_an_affine_that_places_nothing_is_refused(bad):
    with pytest.raises(ValueError, match=r"a\.nii: the affine must be finite and invertible"):
        check_affine(bad, "a.nii")


@pytest.mark.parametrize("scale", [*(n / 10 for n in range(10, 41)), 1.37, 2**0.5, math.pi])
def test_the_grids_of_a_pair_fit_into_each_other_at_any_scale(scale):
    for size in range(8, 300):
        low, high = fitting_sizes(size, scale)
        assert low == max(n for n in range(size + 1) if n * Fraction(str(scale)) <= size)
        assert high <= size and high == scaled_size(low, scale) and lr_size([high], [scale]) == (low,)


def test_a_scale_is_one_factor_or_two():
    assert both_factors(3) == (3.0, 3.0) and both_factors([2, 3.3]) == (2.0, 3.3)
    with pytest.raises(
        ValueError, match=r"scale: must be one factor or two, got \[1.0, 2.0, 3.0\]; name the in-plane axes"
    ):
        both_factors([1, 2, 3])
