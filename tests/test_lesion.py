"""Lesion focus: boxes, crops of LR and HR at one place, centres of labels and detectors."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.errors import CaseWarning
from common.geometry import sr_affine
from common.transforms.centre import CentreBatch, label_centre, mask_centres, placed_inside
from common.transforms.degradation import CLEAN
from common.transforms.lesion import CropToLesiond, check_region, region_box, whole_pixels
from tests.helpers import oblique


class Says(torch.nn.Module):
    """A detector that always says the same, and remembers what it saw."""

    def __init__(self, *centre: float) -> None:
        super().__init__()
        self.centre, self.seen = centre, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.shape)
        return torch.tensor([self.centre]).repeat(len(x), 1)


def ramp(height: int, width: int) -> torch.Tensor:
    """Each pixel of the two channels is its own place, as a part of the side."""
    rows, columns = ((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


@pytest.mark.parametrize(
    ("centre", "multiple", "box"),
    [
        ((0.5, 0.5), 1, (30, 20)),
        ((0.5, 0.5), 8, (32, 24)),
        ((0.0, 1.0), 1, (0, 40)),
        ((1.0, 0.0), 8, (56, 0)),  # 60 is no multiple of 8, and 64 would leave the image
        ((-3.0, 7.0), 4, (0, 40)),
        ((0.52, 0.5), 4, (32, 20)),
    ],
)
def test_a_region_lies_around_its_centre_inside_the_image(centre, multiple, box):
    assert region_box(centre, (100, 80), (40, 40), multiple) == box


def test_a_region_may_fill_the_image_and_not_more():
    assert region_box((0.9, 0.1), (40, 80), (40, 80), 4) == (0, 0)
    with pytest.raises(
        ValueError, match=r"a\.nii: the region of 40 x 81 HR pixels must fit .*, got 100 x 80; pass a sm"
    ):
        region_box((0.5, 0.5), (100, 80), (40, 81), name="a.nii")


@pytest.mark.parametrize(("scale", "size"), [(2, (40, 30)), (3, (39, 30)), (4, (40, 60)), (2.5, (40, 25)), (1, (7, 9))])
@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.31, 0.777), (0.0, 0.98)])
def test_crops_of_lr_and_hr_show_the_same_region(scale, size, centre):
    low_size = (60, 72)
    high_size = tuple(int(n * scale) for n in low_size)
    data = {"image": ramp(*low_size), "label": ramp(*high_size)}
    cut = CropToLesiond(size=size, scale=scale, detector=Says(*centre))(data)
    low, high = cut["image"], cut["label"]
    assert high.shape[1:] == size and low.shape[1:] == tuple(int(n / scale) for n in size)
    torch.testing.assert_close(low.mean((1, 2)), high.mean((1, 2)), atol=1e-6, rtol=0)
    top, left, height, width = cut["region"]
    assert torch.equal(high, data["label"][:, top : top + height, left : left + width])
    wanted = [c * n for c, n in zip(centre, high_size, strict=True)]
    for place, start, side, n in zip(wanted, (top, left), size, high_size, strict=True):
        inside = min(max(place, side / 2), n - side / 2)
        assert abs(start + side / 2 - inside) <= whole_pixels(scale)[0] / 2


def test_lr_that_is_made_of_hr_is_cropped_as_hr_is():
    high = ramp(160, 120)
    low = CLEAN(high[None], (4, 4))[0]
    cut = CropToLesiond(size=(40, 48), scale=4, detector=Says(0.4, 0.6))({"image": low, "label": high})
    torch.testing.assert_close(cut["image"].mean((1, 2)), cut["label"].mean((1, 2)), atol=1e-6, rtol=0)


def test_pixels_of_a_cropped_image_stay_at_their_place_in_the_world():
    affine = torch.from_numpy(oblique((1, 1.5, 3)))
    finer = sr_affine(affine, (20, 24, 1), (80, 96, 1))
    images = {}
    for key, size, grid in (("image", (20, 24), affine), ("label", (80, 96), finer)):
        index = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij"))
        places = grid[:3, :2] @ index.reshape(2, -1).double() + grid[:3, 3:]
        images[key] = MetaTensor(places.reshape(3, *size), affine=grid)
    cut = CropToLesiond(size=(16, 20), scale=4, detector=Says(0.7, 0.2))(images)
    for key in images:
        image = cut[key]
        grid = image.affine
        index = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in image.shape[1:]), indexing="ij"))
        places = grid[:3, :2] @ index.reshape(2, -1).double() + grid[:3, 3:]
        np.testing.assert_allclose(image.numpy().reshape(3, -1), places.numpy(), atol=1e-9)


def mask_at(top, left, size=(80, 60)) -> torch.Tensor:
    mask = torch.zeros(1, *size)
    mask[:, top : top + 6, left : left + 4] = 2
    return mask


def test_labels_say_where_the_region_is_on_either_grid():
    data = {"image": ramp(20, 15), "label": ramp(80, 60), "mask": mask_at(41, 20)}
    crop = CropToLesiond(("image", "label", "mask"), size=(16, 16), scale=4, mode="labels")
    cut = crop(data)
    assert cut["region"] == (36, 16, 16, 16)  # around row 44 and column 22, to the nearest multiples of 4
    assert cut["mask"].shape == (1, 16, 16) and (cut["mask"] > 0).sum() == 24
    low_mask = torch.zeros(1, 20, 15)
    low_mask[:, 11, 5] = 1
    crop = CropToLesiond(size=(16, 16), scale=4, mode="labels")
    assert crop({**data, "mask": low_mask})["region"] == crop({**data, "mask": mask_at(43, 20)})["region"]


def test_off_changes_nothing():
    data = {"image": ramp(4, 4), "label": ramp(16, 16)}
    assert CropToLesiond(size=(80, 80), mode="off")(data) == data


def test_a_detector_sees_the_lr_image_alone_which_may_come_alone():
    detector = Says(0.5, 0.5)
    cut = CropToLesiond(("image",), size=(16, 16), scale=4, detector=detector)({"image": ramp(20, 15)})
    assert detector.seen == [(1, 2, 20, 15)] and cut["image"].shape == (2, 4, 4) and cut["region"] == (32, 24, 16, 16)


def test_a_centre_outside_is_moved_to_the_edge_with_a_warning():
    crop = CropToLesiond(size=(16, 16), scale=4, detector=Says(1.25, 0.5))
    with pytest.warns(CaseWarning, match=r"image: the detector's centre is outside the image, at 1\.250 of its height"):
        cut = crop({"image": ramp(20, 15), "label": ramp(80, 60)})
    assert cut["region"] == (64, 24, 16, 16)
    assert placed_inside((0.0, 1.0)) == (0.0, 1.0)
    with pytest.raises(ValueError, match=r"a: the detector's centre must be finite, got nan, 0\.5"):
        placed_inside((float("nan"), 0.5), "a")


@pytest.mark.parametrize(
    ("settings", "data", "match"),
    [
        ({"mode": "labels"}, {}, "image: must have labels under mask, .*got none; add them"),
        (
            {"mode": "labels"},
            {"mask": torch.zeros(1, 80, 60)},
            "image: must have a labelled pixel.*leave the plane out",
        ),
        ({"size": (84, 16)}, {}, "image: the region of 84 x 16 HR pixels must fit into the image, got 80 x 60"),
        ({}, {"label": ramp(81, 60)}, r"image: label must have 4 times the pixels of image, got \(81, 60\) and"),
    ],
)
def test_images_that_cannot_be_cropped_are_refused(settings, data, match):
    crop = CropToLesiond(**{"size": (16, 16), "scale": 4, "detector": Says(0.5, 0.5), **settings})
    with pytest.raises(ValueError, match=match):
        crop({"image": ramp(20, 15), "label": ramp(80, 60), **data})


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"mode": "on"}, "mode: must be one of detector, labels, off, got on"),
        ({}, "mode: detector must come with a trained one, got none; pass --detector_path"),
        (
            {"mode": "off", "size": (80, 82)},
            r"size: must be height and width .*, multiples of 4 at scale 4, got \(80, 82",
        ),
        ({"mode": "off", "size": (80, 82), "scale": 2.5}, "multiples of 5 at scale 2.5"),
        ({"mode": "off", "size": 80}, "size: must be height and width"),
        ({"mode": "off", "scale": 0.5}, "scale: must be at least 1 and a fraction"),
        ({"mode": "off", "scale": 2**0.5}, "scale: must be at least 1 and a fraction"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        CropToLesiond(**settings)


def test_hr_and_lr_pixels_share_edges_at_a_fraction():
    assert [whole_pixels(s) for s in (1, 4, 2.5, 1.1, 3.3)] == [(1, 1), (4, 1), (5, 2), (11, 10), (33, 10)]
    assert check_region([80, 60], 4) == (80, 60)


def test_the_centre_is_the_mean_place_of_all_labelled_pixels():
    mask = torch.zeros(1, 10, 20)
    mask[0, 2, 3], mask[0, 4, 9], mask[0, 6, 3] = 1, 3, 2  # each counts the same
    assert label_centre(mask) == pytest.approx((4.5 / 10, 5.5 / 20))
    weights = torch.zeros(2, 1, 4, 4)
    weights[0, 0, 0, 0], weights[0, 0, 2, 0] = 1, 3
    assert (
        mask_centres(weights)[0].tolist() == pytest.approx([2 / 4, 0.5 / 4]) and mask_centres(weights)[1].isnan().all()
    )


def bright(count: int) -> torch.Tensor:
    """A bright disc on black, and where it is."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(48.0), indexing="ij")
    disc = ((rows - 30) ** 2 + (columns - 20) ** 2 < 50).float()
    return disc.repeat(count, 2, 1, 1)


def test_the_centre_moves_with_the_image():
    torch.manual_seed(0)
    batch = {"label": bright(16)}
    images, centres = CentreBatch(True, shift=0.2, contrast=1, noise=0)(batch, "cpu", False)
    torch.testing.assert_close(mask_centres(images), centres.double(), atol=0.01, rtol=0)
    assert centres.dtype == torch.float32 and centres.std(0).min() > 0.03
    images, centres = CentreBatch()(batch, "cpu", False)
    assert torch.equal(images, batch["label"][:, :1])
    torch.testing.assert_close(centres, torch.tensor([[30.5 / 64, 20.5 / 48]]).repeat(16, 1))


def test_a_plane_that_would_lose_its_lesion_stays_as_it_is():
    planes = torch.rand(32, 2, 40, 40)
    planes[:, 1] = 0
    planes[:, 1, 1:4, 1:4] = 1  # near a corner
    torch.manual_seed(1)
    images, centres = CentreBatch(True, shift=0.4)({"label": planes}, "cpu", False)
    same = (images == planes[:, :1]).flatten(1).all(1)
    assert 4 < same.sum() < 28 and centres.isfinite().all()
    torch.testing.assert_close(centres[same], torch.full((int(same.sum()), 2), 2.5 / 40))
