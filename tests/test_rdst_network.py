import pytest
import torch

from bundles.rdst.network import RDST
from common.macs import count_macs

TINY = {"dim": 12, "growth": 6, "groups": 1, "dense_blocks": 2, "num_heads": 2}


def parameters(**settings) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in RDST(**settings).parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"groups": 8}, 4_464_961),  # RDST, reference_facts: the paper's 4.40 M leave out the bias tables
        ({}, 2_379_241),  # RDST-E, 2.35 M in table 5.5
        ({"groups": 8, "global_fusion": True}, 4_464_961 + 480 * 60 + 60 + 60 * 60 + 60),  # figure 5.8
    ],
)
def test_parameters_are_those_of_the_paper(settings, count):
    assert parameters(**settings) == count


def test_bias_tables_are_the_difference_to_the_printed_count():
    tables = [p for name, p in RDST(groups=8).named_parameters() if "bias_table" in name]
    assert 4_464_961 - sum(p.numel() for p in tables) == 4_400_161


@pytest.mark.parametrize(("groups", "paper", "attention"), [(8, 6.17, 6.78), (4, 3.53, 3.83)])
def test_macs_are_those_of_table_5_5(groups, paper, attention):
    counts = count_macs(RDST(groups=groups), (1, 1, 40, 32))
    assert round(counts.paper / 1e9, 2) == paper
    assert round(counts.with_attention / 1e9, 2) == attention


@pytest.mark.parametrize(
    ("size", "scale", "channels"), [((24, 24), 4, 1), ((41, 33), 3, 1), ((5, 70), 2, 4), ((1, 1), 4, 1)]
)
def test_output_is_scale_times_the_input_at_any_size(size, scale, channels):
    network = RDST(**TINY, scale=scale, in_channels=channels).eval()
    with torch.no_grad():
        out = network(torch.rand(2, channels, *size))
    assert out.shape == (2, channels, size[0] * scale, size[1] * scale)


@pytest.mark.parametrize(
    "ablation",
    [
        {"window": 4},
        {"window": 2},
        {"dim": 24},
        {"layers": 3},
        {"dense_blocks": 3},
        {"groups": 2},
        {"global_fusion": True},
    ],
)
def test_every_ablation_runs_scripts_and_trains_all_of_its_weights(ablation):
    torch.manual_seed(0)
    network = RDST(**{**TINY, **ablation}, scale=2)
    image = torch.rand(1, 1, 13, 10)
    network(image).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    network.eval()
    scripted = torch.jit.script(network)
    for size in ((13, 10), (16, 30)):
        image = torch.rand(1, 1, *size)
        with torch.no_grad():
            torch.testing.assert_close(scripted(image), network(image), atol=1e-6, rtol=0)


def test_a_window_shift_moves_information_between_windows():
    torch.manual_seed(0)
    network = RDST(**TINY, scale=2).eval()
    image = torch.rand(1, 1, 16, 16)
    changed = image.clone()
    changed[0, 0, 0, 0] += 1
    with torch.no_grad():
        moved = (network(changed) - network(image)).abs()[0, 0] > 1e-7
    assert moved[20:, 20:].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 5}, "3 or a power of two, got 5"),
        ({"window": 7}, "must be even"),
        ({"dim": 61}, "multiple of num_heads"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RDST(**settings)
