"""Devices and hosts: one axis, `'data'`, and a step mapped over it.

A step is a function of one device's share of the batch that reduces over the axis by itself (`lax.psum`, `lax.pmean`).
`map_step` makes it a function of global arrays, by `jit(shard_map)` or by `pmap`; both give the same update as one
device with the whole batch. Nothing else in the package knows how many devices there are.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mtlflax import compiler

AXIS = "data"
REPLICATED = PartitionSpec()
SHARDED = PartitionSpec(AXIS)
MAPPINGS = ("shard_map", "pmap")


def say(text: str) -> None:
    """Print a line, on the first process alone."""
    if jax.process_index() == 0:
        print(text, flush=True)


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh of all devices (or the first `num_devices`) along the axis `'data'`."""
    devices = jax.devices()[:num_devices]
    # make_mesh's default axes are Explicit, under which bincounts and reshapes of the batch axis are errors.
    return jax.make_mesh((len(devices),), (AXIS,), (jax.sharding.AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole: parameters and all other state."""
    return NamedSharding(mesh, REPLICATED)


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's share of a batch, NumPy arrays [b, ...], as global arrays [b × processes, ...]."""
    sharding = NamedSharding(mesh, SHARDED)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def local_rows(array: jax.Array) -> np.ndarray:
    """The rows of a sharded array [B, ...] that live on this process's devices, in order, as NumPy."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def mean_over_devices(tree: Any, dtype: str | None = None) -> Any:
    """Average a tree of arrays over `AXIS`, inside a step, in one all-reduce.

    As separate arrays, they would be sent in as many parts as BatchNorm's all-reduces of the backward pass divide them
    into. `dtype` is what they are sent in, such as "bfloat16": half the bytes, rounded to 8 bits; None: as they are.
    """
    if jax.lax.axis_size(AXIS) == 1:
        return tree
    flat, restore = ravel_pytree(tree)
    total = restore(jax.lax.psum(flat.astype(dtype or flat.dtype), AXIS).astype(flat.dtype))
    # Divided as separate arrays: XLA counts the division of all of `flat` once for each array that is cut out of it.
    return jax.tree.map(lambda x: x / jax.lax.axis_size(AXIS), total)


def map_step(
    step: Callable[[Any, Any], Any],
    mesh: Mesh,
    *,
    via: str = "shard_map",
    out_specs: Any = REPLICATED,
    donate_state: bool = False,
) -> Callable[[Any, Any], Any]:
    """Map a per-device `step(state, batch)` over the axis `'data'`.

    Args:
        step: sees the whole state and one device's share of the batch, and reduces over `AXIS` itself.
        mesh: from `make_mesh`.
        via: `shard_map` or `pmap`; ValueError for another mapping.
        out_specs: `REPLICATED` or `SHARDED` for the result, or a tuple of them for a tuple.
        donate_state: lets the step reuse the state's memory (under `shard_map`; `pmap` keeps it).

    Returns:
        A function of global arrays: the state replicated, the batch from `shard_batch`.
    """
    if via == "shard_map":
        # check_vma=False gives shard_map pmap's semantics: the transpose of psum is psum, and a gradient of replicated
        # parameters is the device's own, to be pmean-ed by the step. (With the check on, jax sums such gradients by
        # itself, and the step's own pmean makes them wrong by the number of devices, silently.)
        mapped = jax.shard_map(step, mesh=mesh, in_specs=(REPLICATED, SHARDED), out_specs=out_specs, check_vma=False)
        options = compiler.options(mesh.devices.flat[0].platform)
        return jax.jit(mapped, donate_argnums=(0,) if donate_state else (), compiler_options=options)
    if via == "pmap":
        return _pmap_step(step, mesh, out_specs)
    raise ValueError(f"unknown mapping {via!r}: choose one of {', '.join(MAPPINGS)}")


def _pmap_step(step: Callable[[Any, Any], Any], mesh: Mesh, out_specs: Any) -> Callable[[Any, Any], Any]:
    """The same by `jax.pmap`, which wants this process's shards stacked along a leading axis of devices."""
    is_spec = lambda x: isinstance(x, PartitionSpec)  # noqa: E731 (a predicate for the two maps below)
    out_axes = jax.tree.map(lambda s: 0 if s == SHARDED else None, out_specs, is_leaf=is_spec)
    mapped = jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=out_axes, devices=list(mesh.devices.flat))

    def stack(x: jax.Array) -> jax.Array:
        shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        shape = (len(shards), *shards[0].data.shape)
        arrays = [shard.data[None] for shard in shards]
        local = NamedSharding(mesh.local_mesh, SHARDED)
        return jax.make_array_from_single_device_arrays(shape, local, arrays)

    def globalise(spec: PartitionSpec, result: Any) -> Any:
        def one(x: jax.Array) -> jax.Array:
            shards = [shard.data for shard in x.addressable_shards]
            if spec == SHARDED:  # [local devices, b, ...] → [devices × b, ...]
                shards = [shard[0] for shard in shards]
                shape = (mesh.size * shards[0].shape[0], *shards[0].shape[1:])
            else:
                shape = x.shape
            return jax.make_array_from_single_device_arrays(shape, NamedSharding(mesh, spec), shards)

        return jax.tree.map(one, result)

    def run(state: Any, batch: Any) -> Any:
        result = mapped(state, jax.tree.map(stack, batch))
        return jax.tree.map(globalise, out_specs, result, is_leaf=is_spec)

    return run
