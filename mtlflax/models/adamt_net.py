"""AdaMT-Net (Jha et al. 2020, "AdaMT-Net: An Adaptive Weight Learning Based Multi-Task Learning Model")."""

from mtlflax.models.unet import UNet


class AdaMTNet(UNet):
    """The U-Net with soft attention inside its decoders' stages: `UNet`, whose attention is "adamt" by default.

    Sure of the paper are a densely connected encoder that all tasks share, decoders of their own as in a U-Net, and
    soft attention in them; `attention.SoftAttention` says how that is read. Ours is: the encoder, of which DenseNet-121
    is nearest to the paper's; widths; bilinear enlargement; no dropout. The paper's loss weights are the weighting
    `adamt`.

    Attributes:
        attention: a key of `attention.KINDS`.
    """

    attention: str = "adamt"
