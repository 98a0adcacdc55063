"""Attention in the decoders of a U-Net, by name.

The paper speaks of "attention decoders" with a gating mechanism and does not say which. Each kind here is somebody's,
and its docstring says whose and what that source leaves open. An attention is called with `(x, by, train)` and
returns what goes on in place of x, in the same shape. Its `place` in a decoder's stage says what x and `by` are:

- "skip": the encoder's map at this stride [B, H, W, C], and the decoder's at twice the stride [B, H/2, W/2, G].
- "stage": what the second of the stage's convolutions gives, and what the first gives, both [B, H, W, C].
- "tasks": what the stage gives [B, H, W, C], and, by task, what those of the other decoders give.
"""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mtlflax.models.layers import BatchNorm, Conv, average_pool, resize, scaled_normal

# The sigmoid must not start saturated, however many channels are summed.
_init = scaled_normal(1.0, "in")


class Attention(nn.Module):
    """What all kinds have in common.

    Attributes:
        place: "skip", "stage" or "tasks", see above.
        axis_name: mapped axis for synchronised batch statistics, of those that have any.
        dtype: of the computation.
    """

    place: ClassVar[str] = "skip"
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32


class AttentionGate(Attention):
    """The additive attention gate of Attention U-Net (Oktay et al. 2018, arXiv:1804.03999).

    Equations 1 and 2: q = ψᵀ relu(W_x x + W_g g + b_g) + b_ψ and α = σ(q), on the grid of the gating signal g (of x's
    averages, where an odd side makes them differ); α is enlarged bilinearly to the skip connection x, and the result is
    α · x: one α a pixel, the same for all channels. All W and ψ are 1×1, with no normalisation inside and no
    convolution behind, as in the paper's formulas. Where they are silent: x comes to the grid of g by 2×2 averages (in
    the authors' code by a convolution of stride 2), and the inner width is half of x's (the default of the authors'
    layer; their networks take all). Each skip connection has a gate; theirs have none on the finest, and the coarsest
    gating signal passes a convolution first.
    """

    @nn.compact
    def __call__(self, skip: jax.Array, gating: jax.Array, train: bool = False) -> jax.Array:
        """Returns α · `skip`."""
        _, h, w, channels = skip.shape
        inner = max(channels // 2, 1)
        even = skip
        if h % 2 or w % 2:
            # The last pixels of an odd side count twice: ceil(n / 2), as a stride-2 convolution has.
            even = jnp.pad(skip, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
        conv = partial(Conv, dtype=self.dtype, kernel_init=_init)
        x = conv(inner, name="skip")(average_pool(even))
        g = conv(inner, use_bias=True, name="gating")(gating)
        g = resize(g, (x.shape[1], x.shape[2]))
        q = conv(1, use_bias=True, name="psi")(nn.relu(x + g))
        return skip * resize(nn.sigmoid(q), (h, w))


class TaskAttention(Attention):
    """The task attention of MTAN over shared features (Liu et al. 2019, arXiv:1803.10704, section 3.2).

    A task's features are a ⊙ p, the shared ones p under a mask of the task's own, one number a pixel and channel:
    a = h(g([p, t])), where t is what the task has so far, g a 1×1 convolution, normalisation and ReLU, and h a 1×1
    convolution, normalisation and sigmoid. Here p is the skip connection and t the decoder's map, enlarged. In MTAN
    masks are on the encoder's blocks too, a mask is made of one map of a block and laid on a later one, and t comes
    through a convolution; a skip connection is one map, and the decoder's stage has convolutions of its own. The
    paper gives no inner width: a quarter of p's is that of the authors' code for ResNets.
    """

    @nn.compact
    def __call__(self, skip: jax.Array, gating: jax.Array, train: bool = False) -> jax.Array:
        """Returns the masked `skip`."""
        _, h, w, channels = skip.shape
        inner = max(channels // 4, 1)
        conv = partial(Conv, dtype=self.dtype, kernel_init=_init)
        norm = partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        # The convolution of both side by side, in two: that of the coarser map costs a quarter before the enlargement.
        both = conv(inner, name="skip")(skip) + resize(conv(inner, name="gating")(gating), (h, w))
        hidden = nn.relu(norm(name="bn1")(both, train))
        return skip * nn.sigmoid(norm(name="bn2")(conv(channels, name="mask")(hidden), train))


class SoftAttention(Attention):
    """The soft attention in the decoders of AdaMT-Net (Jha et al. 2020, CVPR workshops).

    map2 ⊙ σ(W * map1 + b). Of the paper we know the formula and the abstract, which puts soft attention into the
    task-specific decoders; the authors' code is not public. What the two maps are is read as one public
    re-implementation reads it (another differs): what the first and the second 3×3 convolution of a stage give, after
    normalisation and ReLU. The skip connection is left as it is. How large W is and whether each channel has a mask of
    its own is open too: W is 3×3, as the convolutions beside it, with as many masks as channels.
    """

    place: ClassVar[str] = "stage"

    @nn.compact
    def __call__(self, second: jax.Array, first: jax.Array, train: bool = False) -> jax.Array:
        """Returns the masked `second`."""
        conv = Conv(second.shape[-1], 3, 1, 1, use_bias=True, dtype=self.dtype, kernel_init=_init, name="mask")
        return second * nn.sigmoid(conv(first))


class SqueezeAndExcitation(Attention):
    """Concurrent spatial and channel squeeze-and-excitation, scSE (Roy et al. 2018, arXiv:1803.02579).

    x ⊙ σ(W₁ relu(W₂ z)) + x ⊙ σ(q): z [C] is x's mean over all pixels, W₂ halves the channels and W₁ brings them
    back, and q is a 1×1 convolution of x to one channel; none has a bias, as in the paper's formulas. The two are
    added, as there; the authors' longer version (arXiv:1808.08127) compares other ways. They put the block behind
    every block of the encoder and the decoder; here it is behind the decoder's, so that encoders stay what they were
    pretrained as.
    """

    place: ClassVar[str] = "stage"

    @nn.compact
    def __call__(self, x: jax.Array, first: jax.Array, train: bool = False) -> jax.Array:
        """Returns the recalibrated `x`."""
        channels = x.shape[-1]
        conv = partial(Conv, dtype=self.dtype, kernel_init=_init)
        squeezed = conv(max(channels // 2, 1), name="squeeze")(x.mean((1, 2), keepdims=True))
        of_channels = nn.sigmoid(conv(channels, name="excite")(nn.relu(squeezed)))
        return x * of_channels + x * nn.sigmoid(conv(1, name="spatial")(x))


class CrossTaskAttention(Attention):
    """Each decoder attends to the others' features: the guided message passing of PAD-Net (Xu et al. 2018, module C).

    With F_k what task k's decoder has, it goes on with F_k + Σ_{t≠k} G_k ⊙ (W_t * F_t), where the gate
    G_k = σ(W_g * F_k + b) says, for each pixel and channel, how much of the others' messages is let in.

    The paper cites PAP-Net (Zhang et al. 2019) for "task-correlative information" and describes no mechanism. PAP-Net's
    is affinities of all pairs of pixels, at one coarse stride; this is the gating that its forerunner PAD-Net has for
    the same purpose, and affordable at every stride. PAD-Net passes messages once, between predictions; here they pass
    behind every stage. All W are 1×1, and each receiver has its own.
    """

    place: ClassVar[str] = "tasks"

    @nn.compact
    def __call__(self, x: jax.Array, others: Mapping[str, jax.Array], train: bool = False) -> jax.Array:
        """Returns x and what is let in of the others'."""
        conv = partial(Conv, x.shape[-1], dtype=self.dtype, kernel_init=_init)
        gate = nn.sigmoid(conv(use_bias=True, name="gate")(x))
        return x + gate * sum(conv(name=f"from_{task}")(other) for task, other in others.items())


class NoAttention(Attention):
    """The plain U-Net: the skip connection as it is."""

    def __call__(self, skip: jax.Array, gating: jax.Array, train: bool = False) -> jax.Array:
        """Returns `skip`."""
        return skip


KINDS: dict[str, type[Attention]] = {
    "gate": AttentionGate,
    "adamt": SoftAttention,
    "mtan": TaskAttention,
    "scse": SqueezeAndExcitation,
    "cross_task": CrossTaskAttention,
    "none": NoAttention,
}
