"""MIASSR: medical image arbitrary-scale super-resolution, one network for every magnification.

Zhu, dissertation, chapter 4: equations 4.4 to 4.11, figure 4.1, settings of section 4.3.3. Written from the paper.
"""

from common.blocks.any_scale import AnyScaleNetwork, start_any_scale_as_interpolation
from common.blocks.edsr import EDSRTrunk


class MIASSR(AnyScaleNetwork):
    """EDSR-lite and meta-upscale; ``(B, C, H, W)`` to ``(B, C, H', W')`` at any factor of at least 1, any H and W.

    Args:
        in_channels: image channels, in and out (1; 4 for multi-modal BraTS).
        scale: magnification of both axes where a call names none.
        width: channels w of the feature maps, at least ``in_channels`` (table 4.3).
        blocks: residual blocks b (table 4.4).
        hidden: units of the weight prediction network.

    Raises:
        ValueError: ``scale`` is below 1 or not finite, or ``width`` is below ``in_channels``.
    """

    def __init__(
        self, in_channels: int = 1, scale: float = 2, width: int = 64, blocks: int = 16, hidden: int = 256
    ) -> None:
        super().__init__(EDSRTrunk(in_channels, width, blocks), in_channels, scale, hidden)
        # not in the paper: the network starts as linear interpolation
        start_any_scale_as_interpolation(self)
