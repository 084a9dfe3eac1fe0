import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from common.geometry import spacing
from common.transforms.degradation import CLEAN, Degradation, DegradeBatch, SimulateLowResolutiond, lr_size, resample
from tests.helpers import oblique, world


@pytest.mark.parametrize("size", [(24, 31), (23, 20), (17, 41), (96, 124), (131, 150)])
def test_resampling_equals_pillow(size):
    image = np.random.default_rng(0).normal(size=(96, 124)).astype(np.float32)
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)).copy()
    torch.testing.assert_close(resample(torch.from_numpy(image), size), torch.from_numpy(expected), atol=5e-5, rtol=0)


def test_a_ramp_stays_where_it_is():
    ramp = torch.linspace(0.5, 79.5, 80)  # each pixel holds its own position, in HR pixels
    low = CLEAN(ramp[None, None, None, :].expand(1, 1, 80, 80), (4, 4))
    torch.testing.assert_close(low[0, 0, 5, 3:-3], torch.arange(14, 67, 4.0), atol=1e-4, rtol=0)


def test_each_axis_has_its_own_factor_and_one_leaves_it_alone():
    image = torch.rand(2, 3, 40, 30, 20)
    low = CLEAN(image, (1, 3, 2.5))
    assert low.shape == (2, 3, 40, 10, 8)
    torch.testing.assert_close(low[:, :, 7], CLEAN(image[:, :, 7], (3, 2.5)))
    assert lr_size((45, 10, 1), (4, 4, 4)) == (11, 3, 1)


def test_blur_narrows_the_spectrum_before_sampling():
    image = torch.rand(1, 1, 64, 64)
    sharp, soft = (Degradation(blur_sigma=sigma)(image, (2, 2)) for sigma in (0.0, 2.0))
    assert soft.std() < 0.5 * sharp.std()
    flat = Degradation(blur_sigma=2.0)(torch.ones(1, 1, 64, 64), (2, 2))
    torch.testing.assert_close(flat, torch.ones(1, 1, 32, 32), atol=1e-5, rtol=0)  # no dark rim


def test_pixels_and_affine_move_together():
    affine = oblique((0.8, 0.9, 3.0), flip=(1,))
    shape = (41, 30, 5)
    for component in world(affine, shape):
        image = MetaTensor(torch.from_numpy(component[None].astype(np.float32)), affine=torch.from_numpy(affine))
        low = SimulateLowResolutiond("image", (3, 2, 1))({"image": image})["image"]
        assert low.shape == (1, 14, 15, 5)
        np.testing.assert_allclose(spacing(low.affine.numpy()), (0.8 * 41 / 14, 1.8, 3.0), atol=1e-9)
    inside = (slice(2, -2), slice(2, -2), slice(None))
    expected = world(low.affine.numpy(), (14, 15, 5))[2][inside]
    np.testing.assert_allclose(low[0].numpy()[inside], expected, atol=1e-3)


def test_the_same_draw_gives_the_same_noise_and_the_level_is_right():
    degrade = SimulateLowResolutiond("image", (2, 2), Degradation(noise_std=0.1))
    image = torch.zeros(1, 128, 128)
    first, second = (degrade.set_random_state(seed=3)({"image": image})["image"] for _ in range(2))
    third = degrade({"image": image})["image"]
    assert torch.equal(first, second) and not torch.equal(first, third)
    assert abs(float(first.std()) - 0.1) < 0.01


def test_a_batch_becomes_pairs_and_ragged_edges_are_cut():
    low, high = DegradeBatch(4, degradation=Degradation(noise_std=0.01))(
        {"label": torch.rand(2, 1, 97, 50)}, "cpu", False
    )
    assert low.shape == (2, 1, 24, 12) and high.shape == (2, 1, 96, 48)
    assert not torch.equal(low, CLEAN(high, (4, 4)))


def test_a_batch_names_its_own_factors_for_a_network_of_any_scale():
    prepare, image = DegradeBatch(None), torch.rand(2, 1, 97, 50)
    low, high, _, told = prepare({"label": image, "scale": (1.4, 3.3)}, "cpu", False)
    assert low.shape == (2, 1, 69, 15) and high.shape == (2, 1, 97, 50)
    assert told == {"scale": [1.4, 3.3], "size": [97, 50]}
    collated = [torch.tensor([1.4, 1.4], dtype=torch.float64), torch.tensor([3.3, 3.3], dtype=torch.float64)]
    assert torch.equal(prepare({"label": image, "scale": collated}, "cpu", False)[0], low)
    assert prepare({"label": image, "scale": 2.5}, "cpu", False)[3] == {"scale": [2.5, 2.5], "size": [95, 50]}


def test_factors_below_one_and_negative_levels_are_refused():
    with pytest.raises(ValueError, match="factors: must be >= 1"):
        CLEAN(torch.rand(1, 1, 8, 8), (0.5, 2))
    with pytest.raises(ValueError, match="blur_sigma: must be >= 0, got -1"):
        Degradation(blur_sigma=-1)
    with pytest.raises(ValueError, match="noise_std: must be >= 0, got -1"):
        Degradation(noise_std=-1)


def test_without_antialiasing_it_is_the_cubic_of_opencv():
    """Taps of the cubic of a = -0.75 at the half-way point, as OpenCV documents them, whatever the scale."""
    line = torch.rand(40, dtype=torch.float64)
    low = Degradation(antialias=False)(line.expand(1, 1, 40, 40), (4, 4))
    taps = torch.tensor([-0.09375, 0.59375, 0.59375, -0.09375], dtype=torch.float64)
    expected = torch.stack([(line[4 * k : 4 * k + 4] * taps).sum() for k in range(10)])
    torch.testing.assert_close(low[0, 0, 3], expected)


def test_the_blur_of_chapter_four_comes_after_downsampling():
    image = torch.zeros(1, 1, 40, 40)
    image[..., 20:22, 20:22] = 1
    sharp, soft = (Degradation(lr_blur=blur)(image, (2, 2))[0, 0] for blur in (False, True))
    expected = torch.nn.functional.conv2d(
        sharp[None, None], torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])[None, None] / 16
    )
    torch.testing.assert_close(soft[1:-1, 1:-1], expected[0, 0])


@pytest.mark.gpu
def test_the_gpu_gives_what_the_cpu_gives():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    image = torch.rand(2, 1, 96, 80)
    cpu, gpu = (Degradation(blur_sigma=1.0)(image.to(d), (4, 3)).cpu() for d in ("cpu", "cuda"))
    torch.testing.assert_close(gpu, cpu, atol=1e-5, rtol=0)
