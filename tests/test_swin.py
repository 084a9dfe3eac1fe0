import pytest
import torch

from common.blocks.swin import (
    SwinLayer,
    WindowAttention,
    fused_attention,
    get_shift_layout,
    pad_to_multiple,
    plain_attention,
    shift_layout,
    window_merge,
    window_partition,
)


def attention_by_loop(layer: WindowAttention, image: torch.Tensor, window: int, shift: int) -> torch.Tensor:
    """Attention of every pixel, one at a time, over the pixels of its (shifted) window that are its neighbours."""
    height, width, dim = image.shape
    heads, depth = layer.num_heads, dim // layer.num_heads
    q, k, v = (part.view(height, width, heads, depth) for part in layer.qkv(image).chunk(3, dim=-1))
    out = torch.zeros(height, width, heads, depth)
    pixels = [(y, x) for y in range(height) for x in range(width)]
    for y, x in pixels:
        cell = (y - shift) // window, (x - shift) // window
        mates = [(b, a) for b, a in pixels if ((b - shift) // window, (a - shift) // window) == cell]
        for head in range(heads):
            logits = []
            for b, a in mates:
                row = (y - b + window - 1) * (2 * window - 1) + x - a + window - 1
                bias = layer.relative_position_bias_table[row, head]
                logits.append(q[y, x, head] @ k[b, a, head] * depth**-0.5 + bias)
            weights = torch.softmax(torch.stack(logits), dim=0)
            out[y, x, head] = sum(w * v[b, a, head] for w, (b, a) in zip(weights, mates, strict=True))
    return layer.proj(out.view(height, width, dim))


@pytest.mark.parametrize("shifted", [False, True])
def test_attention_equals_a_plain_loop_over_pixels(shifted):
    torch.manual_seed(0)
    window, height, width, dim = 4, 12, 8, 6
    layer = WindowAttention(dim, window, num_heads=2).eval()
    torch.nn.init.normal_(layer.relative_position_bias_table)
    image = torch.randn(1, height, width, dim)
    tokens = window_partition(image, window)
    with torch.no_grad():
        if shifted:
            forward, backward, mask = shift_layout(height, width, window, image.device)
            flat = tokens.view(1, -1, dim).index_select(1, forward).view(-1, window**2, dim)
            out = layer(flat, mask).view(1, -1, dim).index_select(1, backward).view(-1, window**2, dim)
        else:
            out = layer(tokens)
        expected = attention_by_loop(layer, image[0], window, window // 2 if shifted else 0)
    torch.testing.assert_close(window_merge(out, window, height, width)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("windows", [None, 3])
def test_the_fused_attention_of_gpus_equals_the_plain_one(windows):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 6, 2, 16, 5).unbind(0)
    bias = torch.randn(2, 16, 16)
    mask = None if windows is None else -100.0 * (torch.rand(windows, 16, 16) > 0.7).float()
    torch.testing.assert_close(fused_attention(q, k, v, bias, mask), plain_attention(q, k, v, bias, mask))


def test_merge_undoes_partition_and_backward_undoes_forward():
    image = torch.randn(2, 16, 24, 3)
    assert torch.equal(window_merge(window_partition(image, 8), 8, 16, 24), image)
    forward, backward, mask = shift_layout(16, 24, 8, image.device)
    assert torch.equal(forward[backward], torch.arange(16 * 24))
    assert mask.shape == (6, 64, 64)


def test_padding_repeats_the_edge_down_to_one_pixel():
    assert torch.equal(pad_to_multiple(torch.full((1, 1, 1, 1), 3.0), 8), torch.full((1, 1, 8, 8), 3.0))
    x = torch.rand(1, 2, 9, 16)
    padded = pad_to_multiple(x, 8)
    assert padded.shape == (1, 2, 16, 16)
    assert torch.equal(padded[:, :, :9], x) and torch.equal(padded[:, :, 12], x[:, :, 8])
    assert pad_to_multiple(padded, 8) is padded


def test_bias_and_layout_are_kept_in_eval_and_never_in_the_checkpoint():
    layer = SwinLayer(6, 4, 2).eval()
    tokens = torch.randn(4, 16, 6)
    with torch.no_grad():
        before = layer(tokens)
        assert layer.attention._eval_bias() is layer.attention._eval_bias()
        layer.attention.relative_position_bias_table.add_(torch.randn(49, 2))  # as an average of weights would
        assert not torch.allclose(layer(tokens), before)
    assert get_shift_layout(8, 8, 4, tokens.device)[0] is get_shift_layout(8, 8, 4, tokens.device)[0]
    learned = {"norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attention.relative_position_bias_table"}
    learned |= {
        f"{name}.{kind}"
        for name in ("attention.qkv", "attention.proj", "mlp.0", "mlp.2")
        for kind in ("weight", "bias")
    }
    assert set(layer.state_dict()) == learned


def test_the_kept_bias_follows_a_cast():
    layer = WindowAttention(6, 4, 2).eval()
    with torch.no_grad():
        layer(torch.randn(1, 16, 6))
        assert layer.double()(torch.randn(1, 16, 6, dtype=torch.float64)).dtype == torch.float64


def test_a_layout_made_in_inference_mode_serves_training():
    with torch.inference_mode():
        get_shift_layout(24, 40, 4, torch.device("cpu"))
    forward, _, mask = get_shift_layout(24, 40, 4, torch.device("cpu"))
    tokens = torch.randn(1, 24 * 40, 6, requires_grad=True)
    layer = SwinLayer(6, 4, 2)
    layer(tokens.index_select(1, forward).view(-1, 16, 6), mask).sum().backward()
    assert torch.isfinite(tokens.grad).all()


def test_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of num_heads, got 10 and 4"):
        WindowAttention(10, 4, 4)
