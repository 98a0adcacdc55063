"""What weighting methods cost: each step beside that of equal weights, taking turns in one process."""

import difflib
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mtlflax import experiment, weighting
from mtlflax.benchmark.step import prepare
from mtlflax.errors import UserError


class MethodTime(NamedTuple):
    """Seconds per step of a method and of equal weights, medians of the same rounds."""

    method: str
    seconds: float
    equal_seconds: float
    operations_ratio: float  # of the program, over that of equal weights

    @property
    def ratio(self) -> float:
        """How many times as long as equal weights."""
        return self.seconds / self.equal_seconds


def compare(config: ConfigDict, names: Sequence[str], mesh: Mesh, *, steps: int = 10) -> Iterator[MethodTime]:
    """Time the steps of some methods, with their default options, one method after the other.

    `config` is of any method; UserError for an unknown name.
    """
    if unknown := [name for name in names if name not in weighting.METHODS]:
        close = difflib.get_close_matches(unknown[0], weighting.METHODS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(f"--weightings: there is no {unknown[0]!r}{hint}; there are {', '.join(weighting.names())}")
    base, base_program = prepare(experiment.build(_with(config, "equal")), mesh)
    for name in names:
        run, program = prepare(experiment.build(_with(config, name)), mesh)
        times: dict[bool, list[float]] = {True: [], False: []}
        for round_ in range(steps + 2):
            for is_base, take in ((True, base), (False, run)):
                began = time.perf_counter()
                take()
                if round_ >= 2:  # the first ones warm up
                    times[is_base].append(time.perf_counter() - began)
        operations = [float(p.cost_analysis()["flops"]) if p else np.nan for p in (program, base_program)]
        seconds, equal_seconds = (float(np.median(times[is_base])) for is_base in (False, True))
        yield MethodTime(name, seconds, equal_seconds, operations[0] / operations[1])


def _with(config: ConfigDict, name: str) -> ConfigDict:
    """The config with another method, with its default options."""
    config = config.copy_and_resolve_references()
    options = weighting.options(weighting.find(name))
    with config.unlocked(), config.ignore_type():
        config.weighting = ConfigDict({"name": name, **options})
    return config
