"""Planes with a lesion, and training on their regions."""

import pytest
import torch

from common.data.labels import LabelScheme
from common.data.lesions import lesion_numbers, planes_with_lesion, resize_planes
from common.data.patches import PatchBatches
from common.data.regions import Focus, FocusedBatches, centres_of, cut_to_regions
from common.errors import CaseWarning
from common.transforms.centre import mask_centres
from common.transforms.degradation import CLEAN, Degradation, DegradeBatch
from tests.test_lesion import Says, ramp

SCHEME = LabelScheme(("core", "rim", "scar"))


def plane(number: int, top: int = 8, left: int = 8, label: int = 1, size=(40, 48), file: str = "a.nii") -> dict:
    """A random image with labels: a box of 4 x 6 pixels of ``label``, in others' company."""
    draw = torch.Generator().manual_seed(number)
    both = torch.cat([torch.rand(1, *size, generator=draw), torch.zeros(1, *size)])
    both[1, :2] = 3
    both[1, top : top + 4, left : left + 6] = label
    return {"label": both, "name": f"{file}, plane {number}"}


PLANES = [plane(0, 8, 8), plane(1, 30, 36, 2), plane(2, 20, 0, 1, (42, 40), "b.nii"), plane(3, label=0, file="b.nii")]


def focus(**settings) -> Focus:
    return Focus(**{"region_size": (16, 12), "scale": 4, "lesion": (1, 2), **settings})


def test_classes_of_the_lesion_are_named_or_all():
    assert lesion_numbers(SCHEME) == (1, 2, 3) and lesion_numbers(SCHEME, ["scar", "core"]) == (3, 1)
    for wrong in ("core", [], ["heart"]):
        with pytest.raises(ValueError, match="lesion: must be a list of some of core, rim, scar, got"):
            lesion_numbers(SCHEME, wrong)


def test_planes_without_a_lesion_are_left_out():
    found = planes_with_lesion(PLANES, (1, 2))
    assert [p["name"] for p in found] == [p["name"] for p in PLANES[:3]]
    for one, other in zip(found, PLANES, strict=False):
        assert torch.equal(one["label"][0], other["label"][0]) and int(one["label"][1].sum()) == 24
    assert len(planes_with_lesion(PLANES, (3,))) == 4


def test_an_image_without_any_lesion_is_refused_by_name():
    with pytest.raises(
        ValueError, match=r"a\.nii: one of its planes must have a lesion \(label 4\), got none; leave the"
    ):
        planes_with_lesion(PLANES, (4,))
    with pytest.raises(ValueError, match=r"b\.nii: one of its planes"):
        planes_with_lesion([PLANES[0], PLANES[3]], (1,))
    with pytest.raises(ValueError, match=r"a\.nii, plane 0: the region of 41 x 8 HR pixels must fit"):
        planes_with_lesion(PLANES, (1,), (41, 8))


def test_a_lesion_keeps_its_place_when_planes_of_several_sizes_become_one():
    planes = planes_with_lesion(PLANES, (1, 2))
    for old, new in zip(planes, resize_planes(planes, (20, 24)), strict=True):
        assert new["label"].shape == (2, 20, 24) and new["name"] == old["name"]
        places = [mask_centres(p["label"][None, -1:])[0] for p in (old, new)]
        assert (places[0] - places[1]).abs().max() < 0.01


def test_each_patch_is_the_region_of_its_plane_around_its_lesion():
    batches = FocusedBatches(PLANES, focus(), batch_size=64, augment=False)
    assert batches.corners == [(4, 4), (24, 32), (12, 0)]  # multiples of 4, inside, next to row 10, column 11 and so on
    draw, patches = batches.draw(0), batches.batch(0)["label"]
    assert patches.shape == (64, 1, 16, 12) and set(draw.plane) == {0, 1, 2}
    for number, patch in zip(draw.plane, patches, strict=True):
        top, left = batches.corners[number]
        assert torch.equal(patch, PLANES[number]["label"][:1, top : top + 16, left : left + 12])
    assert set(FocusedBatches(PLANES, focus(), 64).draw(0).turn) == set(range(4))
    assert "a.nii, plane 0" in batches.describe(0)


def test_a_step_of_regions_follows_from_its_number_and_is_shared_as_any_other():
    whole = FocusedBatches(PLANES, focus(), 6).batch(2)["label"]
    parts = [FocusedBatches(PLANES, focus(), 3, rank=rank, world_size=2).batch(2)["label"] for rank in (0, 1)]
    assert torch.equal(torch.cat(parts), whole)


def test_lr_of_a_region_is_at_the_place_of_its_hr():
    planes = [{"label": torch.cat([ramp(40, 48).float(), PLANES[0]["label"][1:]]), "name": "a, plane 0"}]
    batches = FocusedBatches(planes, focus(region_size=(16, 16)), 4)
    low, high = DegradeBatch(4)(batches.batch(0), "cpu", False)
    assert low.shape == (4, 2, 4, 4) and high.shape == (4, 2, 16, 16)
    torch.testing.assert_close(low.mean((2, 3)), high.mean((2, 3)), atol=1e-6, rtol=0)


def test_off_are_random_patches_of_the_whole_planes_without_labels():
    batches = FocusedBatches(PLANES, focus(mode="off"), 16, seed=3)
    images = [{**plane, "label": plane["label"][:1]} for plane in PLANES]
    expected = PatchBatches(images, (16, 12), 16, seed=3)
    assert torch.equal(batches.batch(1)["label"], expected.batch(1)["label"]) and len(batches.corners) == 4
    assert len(cut_to_regions(images, focus(mode="off", lesion=None))) == 4


def test_a_detector_sees_the_lr_images_once():
    detector = Says(0.25, 0.5)
    batches = FocusedBatches(PLANES, focus(mode="detector", detector=detector), 2)
    batches.batch(0)
    assert detector.seen == [(1, 1, 10, 12), (1, 1, 10, 12), (1, 1, 10, 10)]
    assert batches.corners[0] == (4, 20) and batches.corners[2] == (4, 16)  # 42 rows are 40 of whole LR pixels
    images = [{**plane, "label": plane["label"][:1]} for plane in PLANES]
    regions = cut_to_regions(images, focus(mode="detector", detector=detector, lesion=None))
    assert len(regions) == 4 and regions[0]["corner"] == (4, 20) and regions[0]["label"].shape == (1, 16, 12)


def test_noise_of_what_a_detector_sees_is_that_of_the_plane():
    class Brightest(Says):
        def forward(self, x):
            place = int(x.flatten().argmax())
            return torch.tensor([[place // x.shape[3] / x.shape[2], place % x.shape[3] / x.shape[3]]])

    planes = [{"label": torch.zeros(1, 40, 40), "name": f"a, plane {n}"} for n in range(4)]
    places = [centres_of(planes, "detector", Brightest(), 4, Degradation(noise_std=1.0)) for _ in range(2)]
    assert places[0] == places[1] and len(set(places[0])) > 1
    assert centres_of(planes, "detector", Brightest(), 4, CLEAN) == [(0.0, 0.0)] * 4


def test_a_detector_that_points_outside_is_warned_of():
    with pytest.warns(CaseWarning, match=r"a\.nii, plane 0: the detector's centre is outside the image"):
        batches = FocusedBatches(PLANES[:1], focus(mode="detector", detector=Says(0.5, -0.5)), 2)
    assert batches.corners == [(12, 0)]


def test_validation_planes_are_cut_to_the_same_regions():
    regions = cut_to_regions(PLANES, focus())
    assert [region["corner"] for region in regions] == FocusedBatches(PLANES, focus(), 1).corners
    assert all(region["label"].shape == (1, 16, 12) for region in regions)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"region_size": (18, 12)}, "region_size: must be height and width in HR pixels, multiples of 4 at scale 4"),
        ({"mode": "all"}, "mode: must be one of detector, labels, off, got all"),
        ({"mode": "detector"}, "mode: detector must come with a trained one"),
        ({"lesion": None}, "mode: labels must come with the numbers of those that count, got none"),
    ],
)
def test_a_focus_that_cannot_be_is_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        focus(**settings)


def test_a_region_larger_than_a_plane_is_refused_by_name():
    with pytest.raises(ValueError, match=r"a\.nii, plane 0: the region of 44 x 12 HR pixels must fit .*, got 40 x 48"):
        FocusedBatches(PLANES, focus(region_size=(44, 12)), 1)
    with pytest.raises(ValueError, match="mode: must be labels or detector, to find a centre, got off"):
        centres_of(PLANES, "off")
