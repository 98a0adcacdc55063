"""Soft parameter sharing: an encoder for each task, run in lockstep, their maps mixed behind each stage."""

from collections.abc import Sequence
from typing import ClassVar

import jax
from flax import linen as nn

from mtlflax.models.attention import KINDS
from mtlflax.models.decoder import Decoder, check_decoder
from mtlflax.models.encoders import encoder
from mtlflax.models.network import Network

STAGES = 4
ATTENTION = tuple(name for name, kind in KINDS.items() if kind.place != "tasks")  # tasks meet in the mixing units


class SoftSharing(Network):
    """What cross-stitch networks, sluice networks and NDDR-CNN have in common.

    Each task has a column: an encoder and the U-Net's decoder. Behind each of the four stages the columns' maps are
    mixed, for each task by a unit of its own, and what comes out is what the next stages and the decoders see. The
    stems' maps, of stride 2, are not mixed.

    Parameters are `encoder_<task>/...`, `mix<stage>_<task>/...` and `decoder_<task>/...`. All tasks' losses depend on
    all encoders, and on the units of the stages 1 to 3; a unit of stage 4 serves its task alone, as a decoder does.

    Cross-stitch networks and NDDR-CNN start, in their papers, from columns trained one by one, and train the units at a
    learning rate of their own (NDDR-CNN's code: 100 times the columns'), with SGD. Neither is done here: columns start
    as any encoder does, and all is left to Adam, whose steps do not depend on a gradient's scale.

    Attributes:
        attention: in the decoders, a key of `attention.KINDS` but "cross_task".
        decoder_channels: widths of the decoders' stages, to strides 16, 8, 4, 2 and 1.
        head_stride: 1, 2 or 4: where the heads are; the logits are enlarged from there.
    """

    attention: str = "none"
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    head_stride: int = 1

    # Whether what comes out of a unit is normalised and rectified; else it is as much as the encoder's map.
    rectified: ClassVar[bool] = False
    fewest: ClassVar[int] = 2

    @nn.nowrap
    def check(self) -> None:
        """Raises ValueError, naming the attribute, for a network that there cannot be."""
        if self.attention not in ATTENTION:
            raise ValueError(f"attention is {self.attention!r}: choose one of {', '.join(ATTENTION)}")
        check_decoder(self.head_stride, self.decoder_channels)

    def setup(self) -> None:
        """Builds the columns and the units between them."""
        decoder_class = nn.remat(Decoder, static_argnums=(3, 4, 5), methods=["stage"]) if self.remat else Decoder
        for index, (task, channels) in enumerate(self.heads.items()):
            column = encoder(self.backbone, remat=self.remat, **self.common)
            decoder = decoder_class(
                channels=channels,
                widths=self.decoder_channels,
                head_stride=self.head_stride,
                attention=self.attention,
                activated=(True,) * 5 if self.rectified else column.activated,
                **self.common,
            )
            setattr(self, f"encoder_{task}", column)
            setattr(self, f"decoder_{task}", decoder)
            for stage in range(1, STAGES + 1):
                setattr(self, f"mix{stage}_{task}", self.unit(index))

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Images [B, H, W, 3], normalised, to logits: task → float32 [B, H, W, channels]."""
        maps = {task: [getattr(self, f"encoder_{task}").stem(images, train)] for task in self.heads}
        for stage in range(STAGES):
            given = [getattr(self, f"encoder_{task}").stage(stage, maps[task][-1], train)[-1] for task in self.heads]
            for task in self.heads:
                maps[task].append(getattr(self, f"mix{stage + 1}_{task}")(given, train))

        size = (images.shape[1], images.shape[2])
        outputs = {}
        for task in self.heads:
            features = self.finish(task, maps[task], train)
            outputs[task] = getattr(self, f"decoder_{task}")(tuple(features), size, train)
        return outputs

    @property
    def encoders(self) -> tuple[str, ...]:
        """Where the encoders are among the variables: what pretrained weights replace."""
        return tuple(f"encoder_{task}" for task in self.heads)

    @nn.nowrap
    def unit(self, index: int) -> nn.Module:
        """A new unit for the task of that index, called with (all tasks' maps [B, H, W, C], train) → [B, H, W, C].

        It is what each network of this kind has of its own.
        """
        raise NotImplementedError

    def finish(self, task: str, maps: Sequence[jax.Array], train: bool) -> Sequence[jax.Array]:
        """A task's five maps as its decoder takes them."""
        return maps

    @nn.nowrap
    def shared(self, path: str) -> bool:
        """Whether more than one task's loss depends on the parameter at that path ("mix1_depth/alpha")."""
        return path.startswith(("encoder_", *(f"mix{stage}_" for stage in range(1, STAGES))))


def shrink(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """A map brought to a coarser grid [B, *size, C], bilinearly and antialiased: every pixel has a part in it."""
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "linear", antialias=True)


def check_own(own: float) -> None:
    """Raises ValueError if a task's maps cannot have that share of a mixture."""
    if not 0 < own <= 1:
        raise ValueError(f"own is {own}: give a share above 0, at most 1")
