import subprocess

import pytest
import torch

from benchmarks.meta_upscale import in_child, plain
from bundles.miassr.network import MIASSR
from tests.helpers import ROOT


@pytest.mark.parametrize("scale", [2.5, 4.0, 1.37])
@torch.no_grad()
def test_the_plain_rendering_of_meta_upscale_gives_the_image_of_the_network(scale):
    torch.manual_seed(0)
    network, image = MIASSR(in_channels=2, width=8, blocks=1, hidden=16).eval(), torch.rand(1, 2, 12, 9)
    torch.testing.assert_close(plain(network, image, scale), network(image, scale), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_each_form_of_meta_upscale_is_measured_in_a_process_of_its_own(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert set(in_child("time", 16, 2.5, ["ours", "plain"])) == {"ours", "plain"}
    grown = {form: in_child("memory", 160, 4.0, [form])[form] for form in ("ours", "plain")}
    assert grown["plain"] > 2 * grown["ours"] > 0
    with pytest.raises(subprocess.CalledProcessError):
        in_child("nothing", 16, 2.5, ["ours"])
