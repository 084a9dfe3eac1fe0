"""Swin transformer layers on windowed tokens: partition, cyclic shift, relative position bias, attention.

Liu et al., "Swin Transformer", ICCV 2021, section 3; Zhu, dissertation, section 5.2.1, equation 5.5.
Written from the papers.

Tokens stay in window order, ``(batch · windows, window², channels)``, from one layer to the next. A shifted layer
sees the same tokens permuted by one cached index, so that a pair of layers costs two gathers, not six copies.
"""

from functools import lru_cache

import torch
import torch.nn as nn
import torch.nn.functional as F


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Repeat the last row and column of ``(B, C, H, W)`` until height and width are multiples of ``multiple``.

    Replication, unlike reflection, is defined for every size down to 1 × 1.
    """
    height, width = x.shape[2], x.shape[3]
    bottom = (multiple - height % multiple) % multiple
    right = (multiple - width % multiple) % multiple
    if bottom + right == 0:
        return x
    return F.pad(x, [0, right, 0, bottom], mode="replicate")


def window_partition(x: torch.Tensor, window: int) -> torch.Tensor:
    """Cut ``(B, H, W, C)`` into tokens ``(B · windows, window², C)``; H and W are multiples of ``window``."""
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, c)


def window_merge(tokens: torch.Tensor, window: int, height: int, width: int) -> torch.Tensor:
    """Inverse of :func:`window_partition`: ``(B · windows, window², C)`` to ``(B, H, W, C)``."""
    c = tokens.shape[2]
    x = tokens.view(-1, height // window, width // window, window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, c)


def shift_layout(
    height: int, width: int, window: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a layer shifted by half a window needs to know of an image of ``height`` × ``width``.

    Returns:
        ``forward`` (H · W,): position, in window order, of the token that each place of the shifted windows holds;
        ``backward`` (H · W,): its inverse; ``mask`` (windows, window², window²): 0, or -100 between tokens that are
        neighbours only because the shift is cyclic, to be added to the attention logits.
    """
    shift = window // 2
    order = window_partition(torch.arange(height * width, device=device).view(1, height, width, 1), window).flatten()
    rank = torch.empty_like(order)
    rank[order] = torch.arange(height * width, device=device)
    rolled = torch.roll(rank.view(1, height, width, 1), [-shift, -shift], [1, 2])
    forward = window_partition(rolled, window).flatten()
    backward = torch.empty_like(forward)
    backward[forward] = torch.arange(height * width, device=device)

    rows = torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    row_region = (rows >= height - window).to(torch.int64) + (rows >= height - shift).to(torch.int64)
    column_region = (columns >= width - window).to(torch.int64) + (columns >= width - shift).to(torch.int64)
    region = (row_region.view(-1, 1) * 3 + column_region.view(1, -1)).view(1, height, width, 1)
    region = window_partition(region, window).squeeze(2)
    mask = (region.unsqueeze(1) != region.unsqueeze(2)).to(torch.float32) * -100.0  # as in Swin
    return forward, backward, mask


@lru_cache(maxsize=16)
def _cached_shift_layout(
    height: int, width: int, window: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    with torch.inference_mode(False):  # a tensor made in inference mode could not serve a later training step
        return shift_layout(height, width, window, device)


@torch.jit.unused
def _eager_shift_layout(
    height: int, width: int, window: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if torch.compiler.is_compiling():  # a traced tensor must not outlive its trace
        return shift_layout(height, width, window, device)
    return _cached_shift_layout(height, width, window, device)


def get_shift_layout(
    height: int, width: int, window: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """:func:`shift_layout`, kept from call to call for the last sizes (never in a checkpoint); scriptable."""
    if torch.jit.is_scripting():
        return shift_layout(height, width, window, device)
    else:
        return _eager_shift_layout(height, width, window, device)


def plain_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """softmax(q kᵀ + bias + mask) v, written out: on CPUs faster than the fused kernel for heads as narrow as these.

    ``q``, ``k``, ``v`` (B · windows, heads, window², depth), ``q`` scaled; ``bias`` (heads, window², window²); ``mask``
    (windows, window², window²) or None.
    """
    n, heads, length, _ = q.shape
    logits = q.contiguous() @ k.transpose(-2, -1).contiguous() + bias
    if mask is not None:
        logits = logits.view(-1, mask.shape[0], heads, length, length) + mask.unsqueeze(1)
        logits = logits.view(n, heads, length, length)
    return torch.softmax(logits, dim=-1).to(v.dtype) @ v.contiguous()


def fused_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """:func:`plain_attention` by PyTorch's ``scaled_dot_product_attention``, for GPUs."""
    if mask is not None:
        bias = (bias.unsqueeze(0) + mask.unsqueeze(1)).repeat(q.shape[0] // mask.shape[0], 1, 1, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a learned bias for each relative position.

    softmax(q kᵀ / √d + bias [+ mask]) v; Swin Transformer, equation 4.

    Args:
        dim: channels of the tokens; a multiple of ``num_heads``.
        window: side of a window, in pixels.
        num_heads: attention heads.
    """

    relative_position_index: torch.Tensor

    def __init__(self, dim: int, window: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim: must be a multiple of num_heads, got {dim} and {num_heads}; change one of them")
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        place = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        offset = place[:, :, None] - place[:, None, :] + window - 1
        index = offset[0] * (2 * window - 1) + offset[1]
        self.register_buffer("relative_position_index", index, persistent=False)
        self._bias = torch.empty(0)
        self._bias_version = -1

    def bias(self) -> torch.Tensor:
        """Bias of every pair of places in a window, ``(heads, window², window²)``."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1).contiguous()

    @torch.jit.unused
    def _eval_bias(self) -> torch.Tensor:
        """The bias, gathered once and again whenever the table was written to or moved."""
        table = self.relative_position_bias_table
        if self.training or torch.is_grad_enabled() or table.is_inference() or torch.compiler.is_compiling():
            return self.bias()
        stale = self._bias_version != table._version
        if stale or self._bias.device != table.device or self._bias.dtype != table.dtype:
            self._bias, self._bias_version = self.bias(), table._version
        return self._bias

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        self._bias_version = -1  # a move or a cast may swap the table without touching its version
        return super()._apply(fn, recurse)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """``tokens`` (B · windows, window², dim), ``mask`` (windows, window², window²) or None; same shape out."""
        n, length, dim = tokens.shape
        qkv = self.qkv(tokens).view(n, length, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]
        if torch.jit.is_scripting():  # noqa: SIM108, a branch that TorchScript must be able to leave out
            bias = self.bias()
        else:
            bias = self._eval_bias()
        out = fused_attention(q, k, v, bias, mask) if tokens.is_cuda else plain_attention(q, k, v, bias, mask)
        return self.proj(out.transpose(1, 2).reshape(n, length, dim))


class SwinLayer(nn.Module):
    """One Swin transformer layer (STL): attention and a two-layer perceptron, each normalised first and added back.

    Dissertation, equation 5.5. Whether it is a regular or a shifted layer is decided by the tokens and the mask that
    it is given (see :func:`get_shift_layout`).

    Args:
        dim, window, num_heads: see :class:`WindowAttention`.
        mlp_ratio: hidden width of the perceptron over ``dim``.
    """

    def __init__(self, dim: int, window: int, num_heads: int, mlp_ratio: float = 2.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, window, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, int(dim * mlp_ratio)), nn.GELU(), nn.Linear(int(dim * mlp_ratio), dim))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Windowed tokens ``(B · windows, window², dim)`` in and out."""
        tokens = tokens + self.attention(self.norm1(tokens), mask)
        return tokens + self.mlp(self.norm2(tokens))
