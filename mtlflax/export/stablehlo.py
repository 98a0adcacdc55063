"""Export to StableHLO by `jax.export`, and load what was exported.

The file is a zip of `model.bin`, what `jax.export` serializes, and `metadata.json`. Reading it takes JAX and nothing
else: neither this package nor Flax.

How long it can be read
    `jax.export` promises that an artifact can be compiled and run by a jaxlib built up to six months after the one it
    was written with, or up to three weeks before (docs.jax.dev/en/latest/export/export.html, "Compatibility
    guarantees"). What counts is when the two were built, not when they are used; `metadata.json` has the versions. Keep
    the workdir: it can be exported again.
"""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mtlflax import files
from mtlflax.errors import UserError, describe

# One artifact for all of them: where the lowering of an operation differs, it holds each.
PLATFORMS = ("cpu", "cuda", "tpu")
_MODEL, _METADATA = "model.bin", "metadata.json"


class Artifact(NamedTuple):
    """A network that was exported."""

    predict: Callable[[Any], dict[str, jax.Array]]  # uint8 [B, H, W, 3] RGB → task → float32 [B, H, W, channels]
    metadata: dict[str, Any]  # what `mtlflax.export.metadata` describes


def convert(predict: Callable[[Any], dict[str, Any]], size: tuple[int, int], metadata: Mapping[str, Any]) -> bytes:
    """Return the content of a file that holds a jitted function and its metadata.

    Args:
        predict: images, uint8 [B, H, W, 3] → name → float32 [B, H, W, channels].
        size: (H, W) of the images; B stays open.
        metadata: JSON, to which the versions and platforms of `jax.export` are added.

    Raises:
        UserError: the function cannot be traced with an open batch size, or lowered for all `PLATFORMS`.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *size, 3), np.uint8)
    try:
        exported = jax.export.export(jax.jit(predict), platforms=PLATFORMS)(images)
        model = exported.serialize()
    except Exception as error:  # whatever jax makes of a network of one's own that looks at its batch size
        everywhere = "any batch size on " + ", ".join(PLATFORMS)
        raise UserError(f"the network cannot be exported for {everywhere}: {describe(error)}") from error
    versions = {"platforms": PLATFORMS, "calling_convention_version": exported.calling_convention_version}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in ((_METADATA, json.dumps({**metadata, **versions}, indent=2)), (_MODEL, bytes(model))):
            archive.writestr(zipfile.ZipInfo(name), data)  # with a fixed date
    return content.getvalue()


def load(path: str | Path) -> Artifact:
    """Load an exported network; it is compiled for each new batch size.

    UserError if the file cannot be read, is something else, or is too old or too new for the JAX that is installed.
    """
    return loads(files.read_bytes(Path(path)), str(path))


def loads(content: bytes, name: str = "the artifact") -> Artifact:
    """Load an exported network from a file's content, as `load`; `name` is what it is called in errors."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            metadata, model = json.loads(archive.read(_METADATA)), archive.read(_MODEL)
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"{name} is no .stablehlo file of mtlflax.export, or is damaged: export it again") from error
    try:
        exported = jax.export.deserialize(bytearray(model))
    except Exception as error:  # whatever the deserializer raises over another version
        raise UserError(
            f"{name} was written by jax {metadata.get('jax')} and cannot be read by jax {jax.__version__} "
            f"({describe(error)}): six months newer is promised, or three weeks older. Export the run again"
        ) from error
    return Artifact(jax.jit(exported.call), metadata)
