"""MS-GAN: generators that give an image at every scale on the way, ×2 before ×4, each from the features of the last.

Zhu, dissertation, section 3.2.3: equations 3.11 to 3.13, figure 3.3, settings of section 3.3.3. Written from the paper;
no code of it was published.
"""

import torch
import torch.nn as nn

from common.blocks.resnet import ResNetTrunk
from common.blocks.upsample import carry_image, interpolate_image, subpixel_upsampler

GENERATORS = ("msgan", "ms_srresnet")
QUIET = 0.1  # see common.blocks.upsample.start_as_interpolation


class DoublingStage(nn.Module):
    """A ×2 SRResNet that hands on its enlarged features: ``(B, C, H, W)`` to features and an image, twice as large.

    Its weights are named as those of ``bundles.srresnet.network.SRResNet``.

    Args:
        trunk: F of equation 3.13, which gives ``width`` channels.
        width: channels of the enlarged features.
        out_channels: of the image.
    """

    def __init__(self, trunk: nn.Module, width: int, out_channels: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.upsampler = subpixel_upsampler(width, out_channels, 2)
        # not in the paper: the network starts as linear interpolation
        if isinstance(trunk, ResNetTrunk):
            carry_image(trunk.head, trunk.norm, out_channels, QUIET)
        interpolate_image(self.upsampler, QUIET)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``M(F(x))`` and ``C(M(F(x)))``."""
        enlarged = self.upsampler[0](self.trunk(x))
        return enlarged, self.upsampler[1](enlarged)


class MSGAN(nn.Module):
    """log2(scale) stages of ×2 in sequence; ``(B, C, H, W)`` to ``(B, C, scale · H, scale · W)``, any H and W.

    Args:
        in_channels: image channels, in and out.
        scale: magnification, a power of two: 2, 4, 8.
        blocks: residual blocks of each SRResNet.
        width: channels of the feature maps, at least ``in_channels``.
        generator: ``"msgan"``, an SRResNet in every stage, or ``"ms_srresnet"``, one extractor in the first stage, and
            sub-pixel layers alone in the others.
        activation: see :func:`common.blocks.resnet.activation_layer`.

    Raises:
        ValueError: the scale is no power of two, there is no such generator or activation, or ``width`` is below
            ``in_channels``.
    """

    def __init__(
        self,
        in_channels: int = 1,
        scale: int = 4,
        blocks: int = 16,
        width: int = 64,
        generator: str = "msgan",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        factors = [2**number for number in range(1, int(scale).bit_length())]
        if factors[-1:] != [scale]:
            raise ValueError(
                f"scale: must be a power of two, as each stage doubles the image, got {scale}; choose 2, 4 or 8, or "
                "the bundle srresnet, which has 3"
            )
        if generator not in GENERATORS:
            raise ValueError(f"generator: must be msgan or ms_srresnet, got {generator}; choose one of these")
        self.in_channels = in_channels
        self.scale = scale
        self.size_multiple = 1
        stages = []
        for factor in factors:
            trunk: nn.Module = nn.Identity()
            if factor == 2 or generator == "msgan":
                trunk = ResNetTrunk(in_channels if factor == 2 else width, width, blocks, activation)
            stages.append(DoublingStage(trunk, width, in_channels))
        self.stages = nn.ModuleList(stages)

    def images(self, image: torch.Tensor) -> list[torch.Tensor]:
        """The SR image at every scale, ×2 first."""
        found: list[torch.Tensor] = []
        x = image
        for stage in self.stages:
            x, sr = stage(x)
            found.append(sr)
        return found

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Super-resolve ``(B, C, H, W)``.

        Returns:
            The largest image. In training mode, unless it is scripted, a dictionary of the images of all scales, in
            rising size: ``{"x2": (B, C, 2H, 2W), "x4": (B, C, 4H, 4W)}`` (equation 3.11).
        """
        images = self.images(image)
        if self.training and not torch.jit.is_scripting():
            return {f"x{2 << number}": sr for number, sr in enumerate(images)}  # type: ignore[return-value]
        return images[-1]
