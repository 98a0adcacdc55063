"""Checksums of what a checkpoint holds: a single flipped bit is found before it is trained on.

Orbax's files have none for their arrays. These are of the arrays themselves, so they also find what was written wrong.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

_SEAL = "crc32"  # of the rest of the object that it is in


def of_arrays(tree: Any) -> dict[str, int]:
    """Return path → CRC-32 of an array's bytes, for every array of a tree; replicated ones are read from one device."""
    return {_path(path): zlib.crc32(_bytes(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with a checksum of itself."""
    content = {key: value for key, value in content.items() if key != _SEAL}
    return {**content, _SEAL: zlib.crc32(json.dumps(content, sort_keys=True).encode())}


def check_seal(content: Any) -> None:
    """Raise ValueError if an object is not as it was sealed; those that never were pass."""
    if not isinstance(content, dict):
        raise ValueError("is no JSON object")
    if _SEAL in content and seal(content) != content:
        raise ValueError("its numbers are not those that were saved (wrong checksum)")


def check(position: Mapping[str, Any], tree: Any) -> None:
    """Raise ValueError, naming an array, unless a tree, or a part of it, is what `of_arrays` was told of.

    `position` is the sealed object that has its result as `checksums`; checkpoints of older versions have none.
    """
    check_seal(position)
    known = position.get("checksums", {})
    wrong = [path for path, found in of_arrays(tree).items() if known.get(path, found) != found] if known else []
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ValueError(f"{wrong[0]}{more} is not what was saved: wrong checksum")


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _bytes(leaf: Any) -> memoryview:
    array = leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
