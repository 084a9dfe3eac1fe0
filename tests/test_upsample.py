import numpy as np
import pytest
import torch
from PIL import Image

from common.blocks.upsample import Bicubic, subpixel_upsampler


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


def test_the_baseline_is_pillows_bicubic():
    image = np.random.default_rng(0).normal(size=(20, 31)).astype(np.float32)
    expected = np.asarray(Image.fromarray(image).resize((31 * 4, 20 * 4), Image.Resampling.BICUBIC)).copy()
    out = Bicubic(4)(torch.from_numpy(image)[None, None])[0, 0]
    torch.testing.assert_close(out, torch.from_numpy(expected), atol=5e-5, rtol=0)
