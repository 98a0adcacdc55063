"""Attention on the skip connections of a decoder, by name.

An attention is a module that is called with `(skip, gating)`, the encoder's map at this stride
[B, H, W, C] and the decoder's at twice the stride [B, H/2, W/2, G], and returns what the decoder
should take instead of `skip`, in the same shape.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mtlflax.models.layers import Conv, average_pool, resize, scaled_normal

# The sigmoid must not start saturated, however many channels are summed.
_init = scaled_normal(1.0, "in")


class AttentionGate(nn.Module):
    """The additive attention gate of Attention U-Net (Oktay et al. 2018, arXiv:1804.03999).

    Equations 1 and 2: q = ψᵀ relu(W_x x + W_g g + b_g) + b_ψ and α = σ(q), on the grid of the
    gating signal g; α is enlarged bilinearly to the skip connection x, and the result is α · x:
    one α a pixel, the same for all channels. All W and ψ are 1×1, with no normalisation inside and
    no convolution behind, as in the paper's formulas. Where they are silent: x comes to the grid of
    g by 2×2 averages, and the inner width is half of x's (as in the authors' code).
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, skip: jax.Array, gating: jax.Array) -> jax.Array:
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


class NoAttention(nn.Module):
    """The plain U-Net: the skip connection as it is."""

    dtype: DTypeLike = jnp.float32

    def __call__(self, skip: jax.Array, gating: jax.Array) -> jax.Array:
        """Returns `skip`."""
        return skip


KINDS: dict[str, type[AttentionGate] | type[NoAttention]] = {
    "gate": AttentionGate,
    "none": NoAttention,
}


def attention(kind: str, *, dtype: DTypeLike = jnp.float32, name: str | None = None) -> nn.Module:
    """Returns the attention module of that kind, a key of `KINDS`.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown attention {kind!r}: choose one of {', '.join(KINDS)}")
    return KINDS[kind](dtype=dtype, name=name)
