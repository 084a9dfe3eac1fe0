import numpy as np
import pytest
import torch
from PIL import Image

from common.blocks.upsample import Bicubic, start_as_interpolation, subpixel_upsampler


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_the_upsampler_magnifies_and_scripts(scale):
    upsampler = subpixel_upsampler(6, 2, scale).eval()
    maps = torch.rand(1, 6, 5, 7)
    out = upsampler(maps)
    assert out.shape == (1, 2, 5 * scale, 7 * scale)
    assert torch.equal(torch.jit.script(upsampler)(maps), out)


@pytest.mark.parametrize("scale", [0, 5, 6])
def test_other_scales_are_refused(scale):
    with pytest.raises(ValueError, match=f"3 or a power of two, got {scale}"):
        subpixel_upsampler(6, 1, scale)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_network_starts_as_linear_interpolation(scale):
    head, body_end = torch.nn.Conv2d(2, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3, padding=1)
    upsampler = subpixel_upsampler(8, 2, scale)
    start_as_interpolation(head, body_end, upsampler, quiet=0.0)
    low = torch.stack([torch.arange(9.0).expand(9, 9), torch.arange(9.0).expand(9, 9).T])[None]
    with torch.no_grad():
        features = head(low)
        out = upsampler(features + body_end(features))
    places = (torch.arange(9.0 * scale) + 0.5) / scale - 0.5
    expected = torch.stack([places.expand(9 * scale, -1), places.expand(9 * scale, -1).T])[None]
    inside = slice(3 * scale, -3 * scale)
    torch.testing.assert_close(out[..., inside, inside], expected[..., inside, inside])


def test_the_baseline_is_pillows_bicubic():
    image = np.random.default_rng(0).normal(size=(20, 31)).astype(np.float32)
    expected = np.asarray(Image.fromarray(image).resize((31 * 4, 20 * 4), Image.Resampling.BICUBIC)).copy()
    out = Bicubic(4)(torch.from_numpy(image)[None, None])[0, 0]
    torch.testing.assert_close(out, torch.from_numpy(expected), atol=5e-5, rtol=0)
