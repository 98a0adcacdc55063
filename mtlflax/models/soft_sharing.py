"""Soft parameter sharing: an encoder per task, run in lockstep, with their maps mixed behind each stage."""

from collections.abc import Sequence
from typing import ClassVar

import jax
from flax import linen as nn

from mtlflax.models.attention import KINDS
from mtlflax.models.checks import check_choice
from mtlflax.models.decoder import Decoder, check_decoder
from mtlflax.models.encoders import activated, staged_encoder
from mtlflax.models.network import Topology

STAGES = 4
ATTENTION = tuple(name for name, kind in KINDS.items() if kind.place != "tasks")  # tasks meet in the mixing units


class SoftSharing(Topology):
    """What cross-stitch networks, sluice networks and NDDR-CNN have in common.

    Each task has a column: an encoder and the decoder of the U-Net. Behind each of the four stages the maps of all
    columns are mixed, by a unit per task, and the next stages and the decoders see the results. The maps of the stems,
    of stride 2, are not mixed. Parameters are `encoder_<task>/...`, `mix<stage>_<task>/...` and `decoder_<task>/...`.
    The losses of all tasks depend on all encoders, and on the units of stages 1 to 3; a unit of stage 4 serves its task
    alone.

    Differences from the papers: cross-stitch networks and NDDR-CNN start from columns trained one by one, and train the
    units at a learning rate of their own (in NDDR-CNN's code 100 times that of the columns), with SGD. Here, columns
    start as any encoder does, and Adam trains everything, whose steps do not depend on the scale of a gradient.

    `attention` (any but "cross_task"), `decoder_channels` and `head_stride` are as in `UNet`.
    """

    attention: str = "none"
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    head_stride: int = 1

    # Whether the units give normalized and rectified maps; if not, these are so as far as the encoder's maps are.
    rectified: ClassVar[bool] = False
    fewest: ClassVar[int] = 2

    @nn.nowrap
    def _check(self) -> None:
        check_choice("attention", self.attention, ATTENTION)
        check_decoder(self.head_stride, self.decoder_channels)

    def setup(self) -> None:
        made = self.rematted(Decoder, 3, 4, 5, methods=["stage"])
        for index, (task, channels) in enumerate(self.heads.items()):
            column = staged_encoder(self.backbone, remat=self.remat, **self.common)
            done = (True,) * 5 if self.rectified else activated(column)
            decoder = made(channels, self.decoder_channels, self.head_stride, self.attention, done, **self.common)
            setattr(self, f"encoder_{task}", column)
            setattr(self, f"decoder_{task}", decoder)
            for stage in range(1, STAGES + 1):
                setattr(self, f"mix{stage}_{task}", self.unit(index))

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Map normalized images [B, H, W, 3] to logits: task → float32 [B, H, W, channels]."""
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
        """Return a new unit of the task of that index: (maps [B, H, W, C] of all tasks, train) to the task's own."""
        raise NotImplementedError

    def finish(self, task: str, maps: Sequence[jax.Array], train: bool) -> Sequence[jax.Array]:
        """Return the five maps of a task as its decoder takes them."""
        return maps

    @nn.nowrap
    def shared(self, path: str) -> bool:
        """Return whether the losses of several tasks depend on the parameter at that path ("mix1_depth/alpha")."""
        return path.startswith(("encoder_", *(f"mix{stage}_" for stage in range(1, STAGES))))


def shrink(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resize a map to a coarser grid [B, *size, C], bilinearly and antialiased, so that every pixel counts."""
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "linear", antialias=True)
