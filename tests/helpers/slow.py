"""A data set that is slow to evaluate and a network that is slow to compile; each says, by a file, when it is there."""

import os
import time
from pathlib import Path

from helpers.tiny import TinyNet

from mtlflax.data.cityscapes import Cityscapes


def here(moment: str) -> None:
    """Say it: a file in $MOMENTS, of this process's number."""
    Path(os.environ["MOMENTS"], f"{moment}{os.environ.get('JAX_PROCESS_ID', '0')}").touch()


class Slow(Cityscapes):
    """Cityscapes whose validation frames take a tenth of a second each."""

    def __getitem__(self, index):
        if self._split == "val":
            here("evaluation")
            time.sleep(0.1)
        return super().__getitem__(index)


class SlowNet(TinyNet):
    """A network that takes two seconds to be traced for training."""

    def __call__(self, images, train=False):
        if train and images.shape[0] > 1 and "MOMENTS" in os.environ:
            here("compilation")
            time.sleep(2)
        return super().__call__(images, train)


def source(config, split):
    """`config.data.name = "helpers.slow:source"`."""
    return Slow(config.root, split, size=tuple(config.size), depth=config.depth, classes=config.classes)


def network(*, backbone, heads, axis_name, **options):
    """`config.model.name = "helpers.slow:network"`."""
    del backbone, options
    return SlowNet(heads, axis_name=axis_name)
