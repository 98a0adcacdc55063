"""AdaMT-Net (Jha et al. 2020, "AdaMT-Net: An Adaptive Weight Learning Based Multi-Task Learning Model")."""

from mtlflax.models.unet import UNet


class AdaMTNet(UNet):
    """The U-Net with soft attention inside the decoders' stages: `UNet`, whose attention is "adamt" by default.

    The paper gives a densely connected encoder that all tasks share, a decoder per task as in a U-Net, and soft
    attention in them, which is read as `attention.SoftAttention` says. Our decisions: the encoder (DenseNet-121 is
    nearest to the paper's), widths, bilinear enlargement, no dropout. Its loss weights are the weighting `adamt`.
    """

    attention: str = "adamt"
