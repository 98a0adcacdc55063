"""The U-Net of the paper: one encoder for all tasks, and for each a decoder with attention."""

import jax
from flax import linen as nn

from mtlflax.models.attention import KINDS
from mtlflax.models.decoder import Decoder, check_decoder, run
from mtlflax.models.encoders import encoder
from mtlflax.models.network import BranchedNetwork


class UNet(BranchedNetwork):
    """A shared encoder and a `Decoder` for each task.

    Parameters are `encoder/...` (shared) and `decoder_<task>/...`. With one head it is the
    single-task network.

    It splits into a trunk, `encode`, and a branch for each task, `decode`, unless the decoders attend
    to each other (attention "cross_task"). Then they run together, stage by stage, none can be called
    alone, and all that comes before the last exchange serves every task: `splits` says so.

    Attributes:
        attention: in the decoders, a key of `attention.KINDS`.
        decoder_channels: widths of the decoders' stages, to strides 16, 8, 4, 2 and 1.
        head_stride: 1, 2 or 4: where the heads are. No convolution of a decoder runs at a finer
            stride; the logits are enlarged bilinearly from there.
    """

    attention: str = "gate"
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    head_stride: int = 1

    @nn.nowrap
    def check(self) -> None:
        """Raises ValueError, naming the attribute, for a network that there cannot be."""
        if self.attention not in KINDS:
            raise ValueError(f"unknown attention {self.attention!r}: choose one of {', '.join(KINDS)}")
        if not self.splits and len(self.heads) < 2:
            raise ValueError(
                f"attention {self.attention!r} is to other tasks: choose another for one, {next(iter(self.heads))}"
            )
        check_decoder(self.head_stride, self.decoder_channels)

    def setup(self) -> None:
        """Builds the encoder and the decoders."""
        self.encoder = encoder(self.backbone, remat=self.remat, **self.common)
        decoder_class = nn.remat(Decoder, static_argnums=(3, 4, 5), methods=["stage"]) if self.remat else Decoder
        for task, channels in self.heads.items():
            decoder = decoder_class(
                channels=channels,
                widths=self.decoder_channels,
                head_stride=self.head_stride,
                attention=self.attention,
                activated=self.encoder.activated,
                **self.common,
            )
            setattr(self, f"decoder_{task}", decoder)

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Images [B, H, W, 3], normalised, to logits: task → float32 [B, H, W, channels]."""
        if self.splits:
            return super().__call__(images, train)
        features = self.encode(images, train)
        size = (images.shape[1], images.shape[2])
        return run({task: getattr(self, f"decoder_{task}") for task in self.heads}, features, size, train)

    @property
    def splits(self) -> bool:
        """Whether there is a branch for each task: whether `decode` can be called."""
        return KINDS[self.attention].place != "tasks"

    def encode(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """The shared part: images to the encoder's five maps."""
        return self.encoder(images, train)

    def decode(
        self,
        features: tuple[jax.Array, ...],
        task: str,
        train: bool = False,
        *,
        size: tuple[int, int] | None = None,
    ) -> jax.Array:
        """One task's part: the encoder's five maps to float32 [B, H, W, channels], see `BranchedNetwork`.

        Raises:
            ValueError: there is no branch for each task, see `splits`.
        """
        if not self.splits:
            raise ValueError(f"attention {self.attention!r}: no decoder runs alone, call the whole network")
        return super().decode(features, task, train, size=size)

    @nn.nowrap
    def size_of(self, features: tuple[jax.Array, ...], task: str) -> tuple[int, int]:
        """Twice the first map's."""
        return (2 * features[0].shape[1], 2 * features[0].shape[2])

    @nn.nowrap
    def shared(self, path: str) -> bool:
        """Whether the parameter at that path ("encoder/conv1/kernel") serves all tasks.

        Of decoders that attend to each other, the last exchange and what comes behind it are a task's own.
        """
        module, _, rest = path.partition("/")
        if self.splits or not module.startswith("decoder_"):
            return module == "encoder"
        return not rest.startswith(("head/", f"stride{self.head_stride}_attention/"))
