"""A network of any magnification: a trunk on the LR grid and the meta-upscale module, one weight file for all scales.

Hu et al., "Meta-SR", CVPR 2019; Zhu, dissertation, equation 4.4 and figure 4.1. Written from the papers.
"""

import torch
import torch.nn as nn

from .meta_upscale import MetaUpscale
from .projection import check_factors
from .upsample import carry_image


class AnyScaleNetwork(nn.Module):
    """``(B, C, H, W)`` to ``(B, C, H', W')`` at any factor of at least 1, one for each axis; any H and W.

    Args:
        trunk: ``(B, in_channels, H, W)`` to ``(B, trunk.out_channels, H, W)``.
        in_channels: image channels, in and out.
        scale: magnification of both axes where a call names none.
        hidden: units of the weight prediction network, see :class:`.meta_upscale.MetaUpscale`.

    Raises:
        ValueError: ``scale`` is below 1 or not finite.
    """

    def __init__(self, trunk: nn.Module, in_channels: int, scale: float = 2.0, hidden: int = 256) -> None:
        super().__init__()
        check_factors(scale)
        self.in_channels = in_channels
        self.scale = scale
        self.size_multiple = 1
        self.any_scale = True
        self.trunk = trunk
        assert isinstance(trunk.out_channels, int)
        self.upscaler = MetaUpscale(trunk.out_channels, in_channels, hidden)

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """Feature maps of ``image``, ``(B, C, H, W)`` to ``(B, width, H, W)``; they serve every scale."""
        return self.trunk(image)

    def upscale(
        self, features: torch.Tensor, scale: list[float], size: list[int] | None = None, exact: bool = False
    ) -> torch.Tensor:
        """Features to the image; arguments and errors are those of :meth:`.meta_upscale.MetaUpscale.forward`."""
        return self.upscaler(features, scale, size, exact)

    def forward(
        self,
        image: torch.Tensor,
        scale: int | float | list[float] | tuple[float, float] | None = None,
        size: list[int] | None = None,
        exact: bool = False,
    ) -> torch.Tensor:
        """Super-resolve ``(B, C, H, W)`` to ``(B, C, H', W')``.

        Args:
            image: on the LR grid.
            scale: output pixels per LR pixel, one factor or (height, width); None is ``self.scale``.
            size: H' and W'; by default floor(factor · size + 0.5).
            exact: take the factor itself, as a target spacing asks, and not the ratio of the sizes; see
                :meth:`.meta_upscale.MetaUpscale.forward`.

        Raises:
            ValueError: a factor or size that cannot be made.
        """
        factors = check_factors(self.scale) if scale is None else check_factors(scale)
        return self.upscale(self.features(image), factors, size, exact)


def start_any_scale_as_interpolation(network: AnyScaleNetwork, quiet: float = 0.003) -> None:
    """Initialise ``network`` so that it starts close to linear interpolation at every scale.

    Channel c of the image travels in feature c, past the body of the trunk, and the weight prediction network gives
    that feature the weights of linear interpolation. All other weights that reach the result are drawn as usual, times
    ``quiet``.

    not in the paper, whose networks keep Kaiming-uniform (section 4.4.4): so they learn faster. The layers below stay
    Kaiming-uniform, the first layer of the prediction as well.

    Args:
        network: its trunk has a first convolution ``head``, whose output is added to that of its last one, ``end``.
        quiet: factor on the weights beside those of the interpolation; small, as there are hundreds for each pixel.

    Raises:
        ValueError: the feature maps have fewer channels than the image.
    """
    head, end, channels = network.trunk.head, network.trunk.end, network.in_channels
    assert isinstance(head, nn.Conv2d) and isinstance(end, nn.Conv2d)
    if head.out_channels < channels:
        raise ValueError(f"width: must be at least in_channels, {channels}, got {head.out_channels}; choose 64")
    carry_image(head, end, network.in_channels, quiet)
    predict_interpolation(network.upscaler, quiet)


@torch.no_grad()
def predict_interpolation(upscaler: MetaUpscale, quiet: float, ridge: float = 1e-5) -> None:
    """Let feature c give channel c by the taps of linear interpolation, and all other features little.

    The taps are products of t and 1 - t, for the offset t of each axis, to which ReLUs only come near: the second layer
    is fitted by least squares over offsets in [0, 1] and scales in [1, 4], with a ``ridge`` that keeps it small.
    """
    points, taps = _taps(upscaler.inner.weight.device)
    units = torch.relu(points @ upscaler.inner.weight.double().t() + upscaler.inner.bias.double())
    units = torch.cat([units, torch.ones_like(units[:, :1])], 1)  # the last for the bias
    products = units.t() @ units / len(points)
    products.diagonal().add_(ridge)
    fitted = torch.linalg.solve(products, units.t() @ taps / len(points)).to(upscaler.outer.weight.dtype)

    upscaler.outer.weight.mul_(quiet)
    upscaler.outer.bias.mul_(quiet)
    shape = [upscaler.in_channels, 9, upscaler.out_channels]
    weights, bias = upscaler.outer.weight.unflatten(0, shape), upscaler.outer.bias.unflatten(0, shape)
    for channel in range(upscaler.out_channels):
        weights[channel, :, channel] = fitted[:-1].t()
        bias[channel, :, channel] = fitted[-1]


def _taps(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (1 / s, offset in height, in width), ``(N, 3)``, and the taps of a 3 × 3 patch there, ``(N, 9)``."""
    inverse = torch.linspace(1 / 4, 1, 4, dtype=torch.float64, device=device)
    offset = torch.linspace(0, 1, 17, dtype=torch.float64, device=device)
    points = torch.cartesian_prod(inverse, offset, offset)
    line = torch.stack([torch.zeros_like(points), 1 - points, points], 2)  # before the LR pixel, at it, after it
    return points, torch.einsum("ni,nj->nij", line[:, 1], line[:, 2]).flatten(1)
