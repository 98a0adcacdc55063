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
