"""Whole networks are compiled here and run once or twice: what takes time is compiling them."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def compile_in_a_hurry() -> Iterator[None]:
    """Turn most of XLA's optimizations off."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
