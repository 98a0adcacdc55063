"""What the compiler makes of a train step for any number of devices: memory, work and collectives; nothing is run."""

import math
import re
import time
from collections import Counter
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from mtlflax.benchmark.step import made_up
from mtlflax.errors import UserError
from mtlflax.experiment import Experiment
from mtlflax.training import parallel

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8}
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf"= (\(.*?\)|\S+) ({_KINDS})(?:-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d+|pred)\[([\d,]*)\]")


class Compiled(NamedTuple):
    """A compiled step; bytes and operations are per device."""

    devices: int
    lower_seconds: float
    compile_seconds: float
    argument_bytes: int  # the state, and the device's share of the batch
    output_bytes: int  # of which the state's are where the argument's were
    temporary_bytes: int  # all else that is alive at the same time, at most
    flops: float
    collectives: dict[str, int]  # kind → how many
    collective_bytes: dict[str, int]  # kind → what they give, in bytes


def measure(experiment: Experiment, mesh: Mesh) -> Compiled:
    """Lower and compile the train step of an experiment for the devices of a mesh, which may be simulated."""
    state, batch = shapes(experiment, mesh)
    step: Any = experiment.make_train_step(mesh)
    if not hasattr(step, "lower"):
        raise UserError("config.parallel is pmap, which does not show its program: give shard_map")
    began = time.perf_counter()
    lowered = step.lower(state, batch)
    lower_seconds = time.perf_counter() - began
    began = time.perf_counter()
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()
    counts, sizes = collectives(compiled.as_text())
    return Compiled(
        mesh.size,
        lower_seconds,
        compile_seconds,
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.temp_size_in_bytes,
        float(compiled.cost_analysis()["flops"]),
        counts,
        sizes,
    )


def shapes(experiment: Experiment, mesh: Mesh) -> tuple[Any, Any]:
    """Return the state and the global batch of a run as shapes with shardings."""

    def on(sharding: Any, tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    state = on(parallel.replicated(mesh), jax.eval_shape(experiment.init))
    frame = made_up(experiment.train_fields, experiment.size, 1)
    count = experiment.config.batch_size
    batch = {name: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype) for name, x in frame.items()}
    return state, on(jax.NamedSharding(mesh, parallel.SHARDED), batch)


def collectives(program: str) -> tuple[dict[str, int], dict[str, int]]:
    """Count the collectives of a compiled program, as text: kind → how many, and the bytes of what they give.

    >>> collectives("%a = (f32[2,3]{1,0}, bf16[]) all-reduce(%b, %c), channel_id=1")
    ({'all-reduce': 1}, {'all-reduce': 26})
    """
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for given, kind in _COLLECTIVE.findall(program):
        counts[kind] += 1
        for dtype, shape in _ARRAY.findall(given):
            sizes[kind] += _BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n)
    return dict(counts), dict(sizes)


def text(found: Compiled) -> str:
    """Return the figures for people."""
    lines = [
        f"{found.devices} devices, simulated: lowered in {found.lower_seconds:.1f} s, compiled in "
        f"{found.compile_seconds:.1f} s",
        f"per device: {found.argument_bytes / 2**20:.0f} MiB of state and batch, "
        f"{found.temporary_bytes / 2**20:.0f} MiB of temporary memory, {found.flops / 1e9:.4g} GFLOP",
    ]
    for kind, count in found.collectives.items():
        lines.append(f"{kind}: {count}, {found.collective_bytes[kind] / 2**20:.4g} MiB in all")
    return "\n".join(lines if found.collectives else [*lines, "no collectives"])
