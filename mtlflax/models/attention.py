"""Attention in the decoders of a U-Net, by name.

The paper speaks of "attention decoders" with a gating mechanism and does not say which. Each kind here is a published
one; its docstring gives the source and what the source leaves open. An attention is called with `(x, by, train)` and
returns the replacement of x, of the same shape. Its `place` in the stage of a decoder determines what x and `by` are:

- "skip": the encoder's map at this stride [B, H, W, C], and the decoder's at twice the stride [B, H/2, W/2, G].
- "stage": the outputs of the stage's second and first convolutions, both [B, H, W, C].
- "tasks": the output of the stage [B, H, W, C], and, by task, those of the other decoders.
"""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtlflax.models.layers import BatchNorm, Conv, Layer, average_pool, unsaturated
from mtlflax.models.resize import resize


class Attention(Layer):
    """The base class of all kinds. `place` is "skip", "stage" or "tasks", see above."""

    place: ClassVar[str] = "skip"


class AttentionGate(Attention):
    """The additive attention gate of Attention U-Net (Oktay et al. 2018, arXiv:1804.03999).

    Formula (equations 1 and 2): q = ψᵀ relu(W_x x + W_g g + b_g) + b_ψ and α = σ(q), on the grid of the gating signal g
    (of the averages of x, where an odd side makes them differ). α is enlarged bilinearly to the skip connection x, and
    the result is α · x, with one α per pixel for all channels. All W and ψ are 1×1, with no normalization inside and no
    convolution behind, as in the formulas.

    Left open there: x is brought to the grid of g by 2×2 averages (in the authors' code by a convolution of stride 2),
    and the inner width is half of that of x (the default of the authors' layer; their networks use all of it).

    Differences from the authors' networks: each skip connection has a gate, where theirs have none on the finest; their
    coarsest gating signal passes a convolution first.
    """

    @nn.compact
    def __call__(self, skip: jax.Array, gating: jax.Array, train: bool = False) -> jax.Array:
        """Return α · `skip`."""
        _, h, w, channels = skip.shape
        inner = max(channels // 2, 1)
        even = skip
        if h % 2 or w % 2:
            # The last pixels of an odd side count twice: ceil(n / 2), as with a convolution of stride 2.
            even = jnp.pad(skip, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
        conv = partial(Conv, dtype=self.dtype, kernel_init=unsaturated)
        x = conv(inner, name="skip")(average_pool(even))
        g = conv(inner, use_bias=True, name="gating")(gating)
        g = resize(g, (x.shape[1], x.shape[2]))
        q = conv(1, use_bias=True, name="psi")(nn.relu(x + g))
        return skip * resize(nn.sigmoid(q), (h, w))


class TaskAttention(Attention):
    """The task attention of MTAN over shared features (Liu et al. 2019, arXiv:1803.10704, section 3.2).

    Formula: the features of a task are a ⊙ p, the shared ones p under a mask with one number per pixel and channel,
    a = h(g([p, t])), where t is the task's map so far, g a 1×1 convolution, normalization and ReLU, and h a 1×1
    convolution, normalization and sigmoid. Here p is the skip connection and t the decoder's map, enlarged. The paper
    gives no inner width: a quarter of that of p is from the authors' code for ResNets.

    Differences from MTAN: there, masks are on the encoder's blocks too, a mask is computed from one map of a block and
    applied to a later one, and t passes a convolution. A skip connection is one map, and the stage has convolutions.
    """

    @nn.compact
    def __call__(self, skip: jax.Array, gating: jax.Array, train: bool = False) -> jax.Array:
        """Return the masked `skip`."""
        _, h, w, channels = skip.shape
        inner = max(channels // 4, 1)
        conv = partial(Conv, dtype=self.dtype, kernel_init=unsaturated)
        norm = partial(BatchNorm, **self.common)
        # The convolution of both maps, in two parts: on the coarser map it costs a quarter before the enlargement.
        both = conv(inner, name="skip")(skip) + resize(conv(inner, name="gating")(gating), (h, w))
        hidden = nn.relu(norm(name="bn1")(both, train))
        return skip * nn.sigmoid(norm(name="bn2")(conv(channels, name="mask")(hidden), train))


class SoftAttention(Attention):
    """The soft attention in the decoders of AdaMT-Net (Jha et al. 2020, CVPR workshops).

    Formula: map2 ⊙ σ(W * map1 + b). We know it and the abstract of the paper, which puts soft attention into the
    task-specific decoders; the authors' code is not public. The two maps are those of one public re-implementation
    (another differs): the outputs of the first and the second 3×3 convolution of a stage, after normalization and ReLU.
    The skip connection stays as it is. The size of W and the number of masks are open too: W is 3×3, as around it, with
    a mask per channel.
    """

    place: ClassVar[str] = "stage"

    @nn.compact
    def __call__(self, second: jax.Array, first: jax.Array, train: bool = False) -> jax.Array:
        """Return the masked `second`."""
        conv = Conv(second.shape[-1], 3, 1, 1, use_bias=True, dtype=self.dtype, kernel_init=unsaturated, name="mask")
        return second * nn.sigmoid(conv(first))


class SqueezeAndExcitation(Attention):
    """Concurrent spatial and channel squeeze-and-excitation, scSE (Roy et al. 2018, arXiv:1803.02579).

    Formula: x ⊙ σ(W₁ relu(W₂ z)) + x ⊙ σ(q), where z [C] is the mean of x over all pixels, W₂ halves the channels and
    W₁ restores them, and q is a 1×1 convolution of x to one channel; none has a bias, as in the paper (arXiv:1808.08127
    compares other ways to combine the two terms).

    Differences from the paper: it has this behind every block of the encoder and the decoder; here it is in the
    decoder only, so that pretrained encoders stay as they are.
    """

    place: ClassVar[str] = "stage"

    @nn.compact
    def __call__(self, x: jax.Array, first: jax.Array, train: bool = False) -> jax.Array:
        """Return the recalibrated `x`."""
        channels = x.shape[-1]
        conv = partial(Conv, dtype=self.dtype, kernel_init=unsaturated)
        squeezed = conv(max(channels // 2, 1), name="squeeze")(x.mean((1, 2), keepdims=True))
        of_channels = nn.sigmoid(conv(channels, name="excite")(nn.relu(squeezed)))
        return x * of_channels + x * nn.sigmoid(conv(1, name="spatial")(x))


class CrossTaskAttention(Attention):
    """Attention of each decoder to the others: the guided message passing of PAD-Net (Xu et al. 2018, module C).

    Formula: F_k + Σ_{t≠k} G_k ⊙ (W_t * F_t), where F_k is the map of task k, and the gate G_k = σ(W_g * F_k + b)
    determines, per pixel and channel, how much of the messages is let in. All W are 1×1, and each receiver has its own.

    The paper cites PAP-Net (Zhang et al. 2019) for "task-correlative information" and describes no mechanism. PAP-Net
    has affinities of all pairs of pixels, at one coarse stride; this is the gating of its predecessor PAD-Net for the
    same purpose, affordable at every stride.

    Differences from PAD-Net: there, messages pass once, between predictions; here, behind every stage.
    """

    place: ClassVar[str] = "tasks"

    @nn.compact
    def __call__(self, x: jax.Array, others: Mapping[str, jax.Array], train: bool = False) -> jax.Array:
        """Return x plus the gated messages of the others."""
        conv = partial(Conv, x.shape[-1], dtype=self.dtype, kernel_init=unsaturated)
        gate = nn.sigmoid(conv(use_bias=True, name="gate")(x))
        return x + gate * sum(conv(name=f"from_{task}")(other) for task, other in others.items())


class NoAttention(Attention):
    """None: the skip connection as it is, as in the plain U-Net."""

    def __call__(self, skip: jax.Array, gating: jax.Array, train: bool = False) -> jax.Array:
        """Return `skip`."""
        return skip


KINDS: dict[str, type[Attention]] = {
    "gate": AttentionGate,
    "adamt": SoftAttention,
    "mtan": TaskAttention,
    "scse": SqueezeAndExcitation,
    "cross_task": CrossTaskAttention,
    "none": NoAttention,
}
