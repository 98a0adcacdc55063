"""The formats a run can be exported to."""

from collections.abc import Callable
from pathlib import Path

import jax

from mtlflax.errors import UserError
from mtlflax.export import metadata, stablehlo
from mtlflax.export.check import Predict, check
from mtlflax.files import write_bytes
from mtlflax.run.predictor import Run, network_function

# (a function of images, (H, W), metadata) → a file's content
Convert = Callable[[Predict, tuple[int, int], dict], bytes]


def find(path: Path, name: str = "") -> str:
    """Return the format of a name, or of a file's suffix; UserError if there is none."""
    chosen = name or path.suffix.lower().removeprefix(".")
    if chosen not in FORMATS:
        endings = " or ".join(f".{name}" for name in FORMATS)
        raise UserError(f"--out={path}: the suffix says what is written: give a name with {endings}, or --format")
    if path.is_dir():
        raise UserError(f"--out={path} is a folder: give a file")
    return chosen


def export(run: Run, path: Path, name: str) -> float:
    """Write a run's best network in a format.

    It is a function of images, uint8 [B, H, W, 3] RGB of the size the network was trained at, that gives for each task
    what `predictor.network_function` gives. The file is written after the exported network was compared with it.

    Returns:
        The largest difference between the two, as in `check`.

    Raises:
        UserError: a package is missing, the network cannot be converted or is another afterwards, or the file cannot be
            written. Then nothing is.
    """
    convert, load = FORMATS[name]()
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise UserError("export computes on the CPU too: add ,cpu to JAX_PLATFORMS, or do not set it") from error
    # GPUs and TPUs round to fewer bits than the tolerance: what is compared is computed on the CPU.
    with jax.default_device(host):
        run = run._replace(variables=jax.device_get(run.variables))
        predict, size = jax.jit(network_function(run)), run.network.size
        content = convert(predict, size, metadata.describe(run))
        difference = check(load(content), predict, size)
    write_bytes(path, content)
    return difference


def _stablehlo() -> tuple[Convert, Callable[[bytes], Predict]]:
    return stablehlo.convert, lambda content: stablehlo.loads(content).predict


def _onnx() -> tuple[Convert, Callable[[bytes], Predict]]:
    try:
        from mtlflax.export import onnx_model
    except ImportError as error:
        raise UserError(f"ONNX needs two more packages ({error}): pip install onnx onnxruntime") from error
    return onnx_model.convert, onnx_model.load


# Format, which is also the suffix → a function that imports what it needs.
FORMATS = {"stablehlo": _stablehlo, "onnx": _onnx}
