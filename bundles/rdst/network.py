"""RDST: residual dense vision transformer for super-resolution of medical images.

Zhu, dissertation, chapter 5: equations 5.1 to 5.7, figures 5.1 and 5.8, settings of section 5.3.3.
Written from the paper.
"""

import torch
import torch.nn as nn

from common.blocks.swin import SwinLayer, get_shift_layout, pad_to_multiple, window_merge, window_partition
from common.blocks.upsample import start_as_interpolation, subpixel_upsampler


class DenseSwinBlock(nn.Module):
    """DSTB (equation 5.6): Swin layers, regular and shifted in turn, squeezed to ``growth`` and concatenated.

    Args:
        dim: channels that come in; ``dim + growth`` go out.
        growth: channels that are added.
        layers: Swin layers; every second one is shifted by half a window.
        window, num_heads, mlp_ratio: see :class:`common.blocks.swin.SwinLayer`.
    """

    def __init__(self, dim: int, growth: int, layers: int, window: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList([SwinLayer(dim, window, num_heads, mlp_ratio) for _ in range(layers)])
        self.bottleneck = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, growth))

    def forward(
        self, tokens: torch.Tensor, to_shifted: torch.Tensor, to_regular: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Tokens ``(B, H · W, C)`` in window order; indices and mask of ``get_shift_layout``."""
        b, length, dim = tokens.shape
        places = mask.shape[1]
        x = tokens
        shifted = False
        for number, layer in enumerate(self.layers):
            if shifted != (number % 2 == 1):
                x = x.index_select(1, to_regular if shifted else to_shifted)
                shifted = not shifted
            x = layer(x.reshape(-1, places, dim), mask if shifted else None).view(b, length, dim)
        # The squeeze works token by token, so it runs before the shift is undone: fewer channels move.
        new = self.bottleneck(x)
        if shifted:
            new = new.index_select(1, to_regular)
        return torch.cat([tokens, new], dim=2)


class ResidualDenseSwinBlock(nn.Module):
    """RDSTB (equation 5.7): dense Swin blocks, a 3 × 3 convolution back to ``dim`` (local feature fusion), a residual.

    Args:
        dim, growth, layers, window, num_heads, mlp_ratio: see :class:`DenseSwinBlock`.
        dense_blocks: dense Swin blocks in this group.
    """

    def __init__(
        self, dim: int, growth: int, dense_blocks: int, layers: int, window: int, num_heads: int, mlp_ratio: float
    ) -> None:
        super().__init__()
        self.window = window
        self.dense_blocks = nn.ModuleList(
            [
                DenseSwinBlock(dim + i * growth, growth, layers, window, num_heads, mlp_ratio)
                for i in range(dense_blocks)
            ]
        )
        self.fusion = nn.Conv2d(dim + dense_blocks * growth, dim, 3, padding=1)

    def forward(
        self, x: torch.Tensor, to_shifted: torch.Tensor, to_regular: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Feature maps ``(B, dim, H, W)`` in and out; H and W are multiples of the window."""
        b, _, height, width = x.shape
        tokens = window_partition(x.permute(0, 2, 3, 1), self.window).view(b, height * width, -1)
        for block in self.dense_blocks:
            tokens = block(tokens, to_shifted, to_regular, mask)
        tokens = tokens.view(-1, self.window * self.window, tokens.shape[2])
        return x + self.fusion(window_merge(tokens, self.window, height, width).permute(0, 3, 1, 2))


class RDST(nn.Module):
    """Residual dense Swin transformer; ``(B, C, H, W)`` to ``(B, C, scale · H, scale · W)``, any H and W.

    The defaults are RDST-E (4 groups); ``groups=8`` is RDST.

    Args:
        in_channels: image channels, in and out (1; 4 for multi-modal BraTS).
        scale: magnification: 2, 3 or 4.
        dim: model width d, the channels after each local feature fusion.
        growth: channels g that each dense block adds.
        groups: residual dense Swin blocks N.
        dense_blocks: dense Swin blocks in a group.
        layers: Swin layers in a dense block.
        window: side of a window in pixels.
        num_heads: attention heads of every Swin layer.
        mlp_ratio: hidden width of the perceptrons over their input.
        global_fusion: fuse the outputs of all groups by a two-layer perceptron (figure 5.8).

    Raises:
        ValueError: a width is no multiple of ``num_heads``, ``window`` is odd, or the scale cannot be made.
    """

    def __init__(
        self,
        in_channels: int = 1,
        scale: int = 4,
        dim: int = 60,
        growth: int = 30,
        groups: int = 4,
        dense_blocks: int = 3,
        layers: int = 2,
        window: int = 8,
        num_heads: int = 6,
        mlp_ratio: float = 2.0,
        global_fusion: bool = False,
    ) -> None:
        super().__init__()
        if window < 2 or window % 2:
            raise ValueError(f"window: must be even, so that half of it can be shifted, got {window}; choose 8")
        self.in_channels = in_channels
        self.scale = scale
        self.size_multiple = window
        self.head = nn.Conv2d(in_channels, dim, 3, padding=1)
        self.embed_norm = nn.LayerNorm(dim)
        self.groups = nn.ModuleList(
            [
                ResidualDenseSwinBlock(dim, growth, dense_blocks, layers, window, num_heads, mlp_ratio)
                for _ in range(groups)
            ]
        )
        # not in the paper: the perceptron of figure 5.8 has the width of the model and a GELU between its layers
        self.fusion: nn.Module = nn.Identity()
        if global_fusion:
            self.fusion = nn.Sequential(nn.Linear(groups * dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.global_fusion = global_fusion
        self.norm = nn.LayerNorm(dim)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        self.upsampler = subpixel_upsampler(dim, in_channels, scale)
        # Convolutions and linear layers keep PyTorch's Kaiming-uniform (section 5.3.3).
        # not in the paper: the network starts as linear interpolation
        start_as_interpolation(self.head, self.conv, self.upsampler)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Super-resolve ``(B, C, H, W)``. Sizes that are no multiple of the window are padded and cropped again."""
        height, width = image.shape[2], image.shape[3]
        shallow = self.head(pad_to_multiple(image, self.size_multiple))
        layout = get_shift_layout(shallow.shape[2], shallow.shape[3], self.size_multiple, shallow.device)
        x = self.embed_norm(shallow.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        outputs: list[torch.Tensor] = []
        for group in self.groups:
            x = group(x, layout[0], layout[1], layout[2])
            if self.global_fusion:
                outputs.append(x)
        x = torch.cat(outputs, dim=1).permute(0, 2, 3, 1) if self.global_fusion else x.permute(0, 2, 3, 1)
        deep = shallow + self.conv(self.norm(self.fusion(x)).permute(0, 3, 1, 2))
        return self.upsampler(deep)[:, :, : height * self.scale, : width * self.scale]
