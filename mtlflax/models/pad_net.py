"""PAD-Net, the prediction-and-distillation network (Xu et al. 2018, arXiv:1805.04409)."""

from collections.abc import Mapping
from functools import partial

import jax
from flax import linen as nn

from mtlflax.models.guided import GuidedNetwork
from mtlflax.models.layers import Conv, ConvBlock, Layer, scaled_normal, unsaturated


class Distillation(Layer):
    """What one task k receives from the others: attention-guided message passing, the paper's module C.

    F_k + Σ_{t≠k} σ(W_g * F_k) ⊙ (W_t * F_t): the attention, computed from the task's own map, determines per pixel and
    channel how much of the messages of the other tasks passes. Each W is a 3×3 convolution, and W_t is specific to k.
    """

    task: str  # k

    @nn.compact
    def __call__(self, maps: Mapping[str, jax.Array]) -> jax.Array:
        """Return the distilled map, given the maps of all tasks, each [B, H, W, C]."""
        own = maps[self.task]
        conv = partial(Conv, own.shape[-1], 3, 1, 1, dtype=self.dtype, kernel_init=unsaturated)
        attention = nn.sigmoid(conv(use_bias=True, name="attention")(own))
        messages = [conv(name=f"message_{task}")(x) for task, x in maps.items() if task != self.task]
        return own + attention * sum(messages[1:], messages[0])


class PADNet(GuidedNetwork):
    """A shared encoder, an initial prediction per task, and final predictions that distill the initial ones.

    Parameters are `encoder/...`, `aggregation/...`, `initial_<task>/...` and `features_<task>/...`, on which the losses
    of all tasks depend, and `distillation_<task>/...` and `decoder_<task>/...`, which are task-specific. In training,
    the outputs include `{task}/aux/initial`.

    As in the paper, distillation sees the initial predictions themselves: a 3×3 convolution makes a map of each.

    Differences from the paper: it has more auxiliary tasks than final ones (contours and surface normals beside
    segmentation and depth); here each task has both predictions. Also our decisions: where the encoder's maps are
    aggregated (`stride`), and bilinear enlargement followed by a convolution instead of deconvolutions.
    """

    def setup(self) -> None:
        super().setup()
        for task in self.heads:
            # Many channels are made of few: scaled by the width of the result, the map would start far too small.
            features = ConvBlock(self.width, 3, 1, kernel_init=scaled_normal(2.0, "in"), **self.common)
            setattr(self, f"features_{task}", features)
            setattr(self, f"distillation_{task}", Distillation(task, **self.common))

    def guide(self, initial: Mapping[str, tuple[jax.Array, jax.Array]], train: bool) -> dict[str, jax.Array]:
        """Distill: maps made of all tasks' initial logits to the map of each task's final prediction."""
        maps = {task: getattr(self, f"features_{task}")(logits, train) for task, (_, logits) in initial.items()}
        return {task: getattr(self, f"distillation_{task}")(maps) for task in self.heads}

    @nn.nowrap
    def shared(self, path: str) -> bool:
        """Return whether the losses of several tasks depend on that parameter ("initial_depth/head/kernel")."""
        return not path.startswith(("distillation_", "decoder_"))
