"""Every topology, small."""

from typing import Any

import jax

from mtlflax import models

DECODER = {"decoder_channels": (16, 12, 12, 8, 8), "head_stride": 4}


HEAD = {"atrous_rates": (1, 2), "aspp_channels": 12}


# Of each topology, options that keep it small and bring in all its parts.
OPTIONS: dict[str, dict[str, Any]] = {
    "unet": DECODER,
    "deeplabv3plus": {**HEAD, "low_channels": 8},
    "mtan": {**HEAD, "output_stride": 16},
    "cross_stitch": {**DECODER, "attention": "gate"},
    "sluice": DECODER,
    "nddr_cnn": {**DECODER, "shortcut": True},
    "pad_net": {"width": 12},
    "pap_net": {"width": 12, "affinity_channels": 6, "iterations": 2, "beta": 0.5},
    "adamt_net": DECODER,
    "refinenet_lw": {"width": 12, "links": 2},
    "segnet_mtan": {"widths": (8, 8, 12, 12, 12)},
}


HEADS = {"segmentation": 5, "depth": 1, "normals": 3}


def network(name: str, backbone: str = "resnet18", tasks: int = 2, **options: Any) -> Any:
    heads = dict(list(HEADS.items())[:tasks])
    return models.get(name, backbone=backbone, heads=heads, **{**OPTIONS[name], **options})


def pictures(*size: int, batch: int = 2, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (batch, *size, 3))
