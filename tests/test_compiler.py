"""What XLA is told, and that it listens."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp

from mtlflax import compiler


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
    assert compiler.options("cpu")  # both versions that are tested know it
    assert compiler.options("gpu") == {}

    def unknown(*given, **options):
        return jax.jit(*given, compiler_options={"xla_cpu_no_such_option": "1"})

    compiler.options.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "jax", SimpleNamespace(jit=unknown, errors=jax.errors))
        assert compiler.options("cpu") == {}
    compiler.options.cache_clear()


def test_a_barrier_keeps_what_is_before_it_apart():
    def program(function):
        jitted = jax.jit(function, compiler_options=compiler.options("cpu"))
        return jitted.lower(jnp.ones((64, 64))).compile().cost_analysis()["bytes accessed"]

    size = 64 * 64 * 4
    assert program(lambda x: jnp.sin(x) + 1) == 2 * size
    assert program(lambda x: compiler.barrier(jnp.sin(x))[0] + 1) >= 4 * size  # written, and read again


def test_a_barrier_is_no_operation_on_other_platforms():
    exported = jax.export.export(jax.jit(lambda x: compiler.barrier(x)[0]), platforms=("cuda",))
    assert "optimization_barrier" not in exported(jnp.ones(3)).mlir_module()
    exported = jax.export.export(jax.jit(lambda x: compiler.barrier(x)[0]), platforms=("cpu",))
    assert "optimization_barrier" in exported(jnp.ones(3)).mlir_module()
