"""Segmentation U-Net: what RDST's perceptual loss looks through, and what tells whether SR helps the next step.

Zhu, dissertation, sections 5.2.2, 5.3.2 and 5.3.3, figure 5.2. The network lies in ``common`` because the loss of every
other bundle needs it.
"""

from common.blocks.unet import SegmentationUNet


class UNet(SegmentationUNet):
    """:class:`common.blocks.unet.SegmentationUNet`, under the name of this bundle."""
