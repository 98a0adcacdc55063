"""What torchvision's encoders compute, for the tests that run without torch: writes encoder_goldens.npz beside itself.

    PYTHONPATH=.:tests python tests/helpers/goldens/make_encoder_goldens.py [FILE.npz]

The weights are not kept: they are made from the tensors' names and shapes, by NumPy and the same everywhere, here and
in `tests/models/test_encoder_goldens.py`. Kept is what torchvision makes of them in float64: of each map some values
and the norm, in evaluation and in training, and in training of the running statistics it leaves behind, too.
"""

import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

PATH = Path(__file__).with_name("encoder_goldens.npz")
BACKBONES = ("resnet18", "resnet50", "densenet121")
SIZES = {"even": (64, 96), "odd": (45, 71)}
BATCH = 2


def uniform(name: str, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Numbers float64 that depend on the name and the shape alone: of PCG64's bits, which NumPy promises to keep."""
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(int(np.prod(shape)))
    return low + (high - low) * (bits >> np.uint64(11)).reshape(shape) * 2.0**-53


def state_dict(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights float32 by torchvision's names: kernels whose variance keeps maps in range, statistics near 0 and 1."""
    tensors = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            bound = (6.0 / np.prod(shape[1:])) ** 0.5
            value = uniform(name, shape, -bound, bound)
        elif name.endswith(("weight", "running_var")):
            value = uniform(name, shape, 0.5, 1.5)
        else:
            value = uniform(name, shape, -0.5, 0.5)
        tensors[name] = value.astype(np.float32)
    return tensors


def images(size: str) -> np.ndarray:
    """Float32 [2, H, W, 3]."""
    return uniform(f"images, {size}", (BATCH, *SIZES[size], 3), -2.0, 2.0).astype(np.float32)


def sample(array: np.ndarray) -> np.ndarray:
    """Float64 [67]: 64 values of an array and, of the whole, the norm, the sum and the largest magnitude."""
    flat = np.asarray(array, np.float64).reshape(-1)
    places = (uniform("places", (64,), 0.0, 1.0) * flat.size).astype(int)
    return np.concatenate([flat[places], [np.linalg.norm(flat), flat.sum(), np.abs(flat).max()]])


def statistics(tensors: Mapping[str, Any]) -> np.ndarray:
    """All running statistics of a state dict in one array, in the order of their names."""
    names = sorted(name for name in tensors if name.endswith(("running_mean", "running_var")))
    return np.concatenate([np.asarray(tensors[name], np.float64) for name in names])


def main() -> None:
    """Runs torchvision and writes the file."""
    import torch
    from helpers.torch_encoders import import_torchvision, state_of, torch_features

    torchvision, out = import_torchvision(), Path(sys.argv[1]) if len(sys.argv) > 1 else PATH
    goldens = {}
    for backbone in BACKBONES:
        for size in SIZES:
            for mode in ("evaluation", "training"):
                network = getattr(torchvision.models, backbone)(weights=None)
                shapes = {name: tuple(value.shape) for name, value in network.state_dict().items() if value.ndim}
                weights = {name: torch.from_numpy(value) for name, value in state_dict(shapes).items()}
                network.load_state_dict(weights, strict=False)
                network.double()
                inputs = images(size).astype(np.float64)
                for stride, features in enumerate(torch_features(network, backbone, inputs, mode == "training"), 1):
                    goldens[f"{backbone}/{size}/{mode}/stride{2**stride}"] = sample(features)
                if mode == "training":
                    goldens[f"{backbone}/{size}/{mode}/statistics"] = sample(statistics(state_of(network)))
    np.savez_compressed(out, **goldens)
    print(f"{out}: {len(goldens)} arrays, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
