"""The U-Net of the paper: one encoder for all tasks, and a decoder with attention per task."""

from typing import Any

import jax
from flax import linen as nn

from mtlflax.models.attention import KINDS
from mtlflax.models.checks import check_choice
from mtlflax.models.decoder import Decoder, check_decoder, run
from mtlflax.models.encoders import activated, encoder
from mtlflax.models.network import BranchedNetwork


class UNet(BranchedNetwork):
    """A shared encoder and a `Decoder` per task.

    Parameters are `encoder/...` (shared) and `decoder_<task>/...`. With one head it is the single-task network. It
    splits into a trunk, `encode`, and a branch per task, `decode`, unless the decoders attend to each other (attention
    "cross_task"). Then they run together, stage by stage, none can be called alone, and all parameters before the last
    exchange serve every task; `splits` is False.

    Attributes:
        attention: in the decoders, a key of `attention.KINDS`.
        decoder_channels: widths of the decoders' stages, to strides 16, 8, 4, 2 and 1.
        head_stride: 1, 2 or 4: the finest stride of a decoder, with its head; the logits are enlarged from there.
    """

    attention: str = "gate"
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    head_stride: int = 1

    @nn.nowrap
    def _check(self) -> None:
        check_choice("attention", self.attention, KINDS)
        if not self.splits and len(self.heads) < 2:
            alone = next(iter(self.heads))
            raise ValueError(f"attention {self.attention!r} needs several tasks: choose another for {alone} alone")
        check_decoder(self.head_stride, self.decoder_channels)

    def setup(self) -> None:
        self.encoder = encoder(self.backbone, remat=self.remat, **self.common)
        made = self.rematted(Decoder, 3, 4, 5, methods=["stage"])
        for task, channels in self.heads.items():
            done = activated(self.encoder)
            decoder = made(channels, self.decoder_channels, self.head_stride, self.attention, done, **self.common)
            setattr(self, f"decoder_{task}", decoder)

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Map normalized images [B, H, W, 3] to logits: task → float32 [B, H, W, channels]."""
        if self.splits:
            return super().__call__(images, train)
        features = self.encode(images, train)
        size = (images.shape[1], images.shape[2])
        return run({task: getattr(self, f"decoder_{task}") for task in self.heads}, features, size, train)

    @property
    def splits(self) -> bool:
        """Whether there is a branch per task, so that `decode` can be called."""
        return KINDS[self.attention].place != "tasks"

    def encode(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Run the trunk: images to the encoder's five maps."""
        return self.encoder(images, train)

    def decode(self, features: Any, task: str, train: bool = False, *, size: tuple[int, int]) -> jax.Array:
        """Run the decoder of a task, see `BranchedNetwork`; ValueError if there is no branch per task, see `splits`."""
        if not self.splits:
            raise ValueError(f"attention {self.attention!r}: no decoder runs alone; call the whole network")
        return super().decode(features, task, train, size=size)

    @nn.nowrap
    def shared(self, path: str) -> bool:
        """Return whether the parameter at that path ("encoder/conv1/kernel") serves all tasks.

        In decoders that attend to each other, the last exchange and the head behind it are task-specific.
        """
        module, _, rest = path.partition("/")
        if self.splits or not module.startswith("decoder_"):
            return module == "encoder"
        return not rest.startswith(("head/", f"stride{self.head_stride}_attention/"))
