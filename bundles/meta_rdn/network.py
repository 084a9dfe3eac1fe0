"""MetaRDN: the residual dense network with meta-upscale, the rival of MIASSR in every table of its chapter.

Hu et al., "Meta-SR: A Magnification-Arbitrary Network for Super-Resolution", CVPR 2019; trunk of Zhang et al., CVPR
2018; Zhu, dissertation, section 4.3.4. Written from the papers.
"""

from common.blocks.any_scale import AnyScaleNetwork, start_any_scale_as_interpolation
from common.blocks.rdn import RDNTrunk


class MetaRDN(AnyScaleNetwork):
    """RDN and meta-upscale; ``(B, C, H, W)`` to ``(B, C, H', W')`` at any factor of at least 1, any H and W.

    Args:
        in_channels: image channels, in and out.
        scale: magnification of both axes where a call names none.
        width: channels of the feature maps, at least ``in_channels``.
        blocks: residual dense blocks.
        layers: convolutions in a block.
        growth: channels that each of them adds.
        hidden: units of the weight prediction network.

    Raises:
        ValueError: ``scale`` is below 1 or not finite, or ``width`` is below ``in_channels``.
    """

    def __init__(
        self,
        in_channels: int = 1,
        scale: float = 2,
        width: int = 64,
        blocks: int = 20,
        layers: int = 6,
        growth: int = 32,
        hidden: int = 256,
    ) -> None:
        super().__init__(RDNTrunk(in_channels, width, blocks, layers, growth), in_channels, scale, hidden)
        # not in the paper: the network starts as linear interpolation
        start_any_scale_as_interpolation(self)
