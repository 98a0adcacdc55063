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
from mtlflax.weighting import spec


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

    `config` is of any method. A name is "cagrad", or "cagrad@representation" for one that balances the gradients of
    features (its option `level`); UserError for an unknown one.
    """
    for name in names:
        _check(name)
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


def _check(name: str) -> None:
    """UserError unless there is a method of that name, with that level."""
    method, at, level = name.partition("@")
    if method not in weighting.METHODS:
        close = difflib.get_close_matches(method, weighting.METHODS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(f"--weightings: there is no {method!r}{hint}; there are {', '.join(weighting.names())}")
    if at:
        try:
            spec.check_options(weighting.find(method), {"level": level})
            spec.check_keeps(weighting.find(method), level, None)
        except ValueError as error:
            raise UserError(f"--weightings: {error}") from None


def _with(config: ConfigDict, name: str) -> ConfigDict:
    """The config with another method, with its default options but for the level."""
    config = config.copy_and_resolve_references()
    name, _, level = name.partition("@")
    options = weighting.options(weighting.find(name)) | ({"level": level} if level else {})
    with config.unlocked(), config.ignore_type():
        config.weighting = ConfigDict({"name": name, **options})
    return config
