"""A network that compiles in a second, for tests of what surrounds a network."""

from collections.abc import Mapping

import flax.linen as nn
import jax


class TinyNet(nn.Module):
    """One strided convolution with BatchNorm, shared; a convolution a task; bilinear enlargement."""

    heads: Mapping[str, int]
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        x = nn.Conv(8, (3, 3), strides=2, use_bias=False, name="encoder")(images)
        norm = nn.BatchNorm(not train, momentum=0.9, axis_name=self.axis_name, name="encoder_bn")
        x = nn.relu(norm(x))
        outputs = {}
        for task, channels in self.heads.items():
            y = nn.Conv(channels, (3, 3), name=f"decoder_{task}")(x)
            shape = (*images.shape[:3], channels)
            outputs[task] = jax.image.resize(y, shape, "bilinear")
        return outputs

    @nn.nowrap
    def shared(self, path: str) -> bool:
        return path.startswith("encoder")


class SplitNet(nn.Module):
    """As `TinyNet`, in a trunk of two layers that gives two maps and branches that see both."""

    heads: Mapping[str, int]
    axis_name: str | None = None
    width: int = 8

    def setup(self) -> None:
        self.encoder_first = nn.Conv(self.width, (3, 3), strides=2)
        self.encoder_bn = nn.BatchNorm(momentum=0.9, axis_name=self.axis_name)
        self.encoder_last = nn.Conv(self.width, (3, 3), strides=2)
        for task, channels in self.heads.items():
            setattr(self, f"decoder_{task}", nn.Conv(channels, (3, 3)))
            setattr(self, f"norm_{task}", nn.BatchNorm(momentum=0.9, axis_name=self.axis_name))

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        features = self.encode(images, train)
        return {task: self.decode(features, task, train, size=images.shape[1:3]) for task in self.heads}

    def encode(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        first = nn.relu(self.encoder_bn(self.encoder_first(images), use_running_average=not train))
        return first, nn.tanh(self.encoder_last(first))

    def decode(self, features, task: str, train: bool = False, *, size: tuple[int, int]) -> jax.Array:
        first, last = features
        x = first + jax.image.resize(last, first.shape, "bilinear")
        y = getattr(self, f"decoder_{task}")(getattr(self, f"norm_{task}")(x, use_running_average=not train))
        return jax.image.resize(y, (y.shape[0], *size, y.shape[-1]), "bilinear")

    @nn.nowrap
    def shared(self, path: str) -> bool:
        return path.startswith("encoder")

    @nn.nowrap
    def last_shared(self, path: str) -> bool:
        return path.startswith("encoder_last")


def tiny(*, backbone, heads, axis_name, **options) -> TinyNet:
    """`config.model.name = "helpers.tiny:tiny"`: it takes any network's options, and has none."""
    del backbone, options
    return TinyNet(heads, axis_name=axis_name)


def split(*, backbone, heads, axis_name, **options) -> SplitNet:
    """`config.model.name = "helpers.tiny:split"`, as `tiny`."""
    del backbone, options
    return SplitNet(heads, axis_name=axis_name, width=16)
