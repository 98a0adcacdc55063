"""The cache of compiled programs: where it is, and how large it grows."""

import os
import subprocess
import sys
import zlib

import pytest

from mtlflax.run import compiled

CODE = """
import os, time
from mtlflax.run import compiled
compiled.keep()
import jax, jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(jax.config.jax_compilation_cache_dir)
print(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3))).sum())
"""


def start(**environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=kept | {"JAX_PLATFORMS": "cpu"} | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_programs_are_kept_in_the_users_cache(tmp_path):
    folder, value = start(MTLFLAX_CACHE=str(tmp_path))
    assert folder.startswith(str(tmp_path / "compiled"))
    kept = {path.name for path in (tmp_path / "compiled").rglob("*-cache")}
    assert kept
    assert start(MTLFLAX_CACHE=str(tmp_path)) == [folder, value]
    assert {path.name for path in (tmp_path / "compiled").rglob("*-cache")} == kept


def test_jaxs_own_variables_are_left_alone(tmp_path):
    folder, _ = start(MTLFLAX_CACHE=str(tmp_path), JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))
    assert folder == str(tmp_path / "own")
    folder, _ = start(MTLFLAX_CACHE=str(tmp_path), JAX_ENABLE_COMPILATION_CACHE="false")
    assert folder == "None"


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "compiled").write_text("a file")
    assert start(MTLFLAX_CACHE=str(tmp_path))[0] == "None"


@pytest.mark.parametrize("size", [0, 100])
def test_a_program_that_was_cut_off_is_compiled_and_kept_again(tmp_path, size):
    _, value = start(MTLFLAX_CACHE=str(tmp_path))
    kept = sorted((tmp_path / "compiled").rglob("*-cache"))
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:size])
    assert start(MTLFLAX_CACHE=str(tmp_path))[1] == value
    assert sorted((tmp_path / "compiled").rglob("*-cache")) == kept
    for path in kept:
        zlib.decompress(path.read_bytes())


@pytest.mark.quick
def test_programs_are_looked_at_once(tmp_path):
    damaged = tmp_path / "a-cache"
    damaged.write_bytes(b"x")
    compiled.drop_damaged(tmp_path)
    assert not damaged.exists()
    damaged.write_bytes(b"x")
    os.utime(damaged, (1, 1))  # it was there before the last time
    compiled.drop_damaged(tmp_path)
    assert damaged.exists()


@pytest.mark.quick
def test_the_oldest_are_deleted(tmp_path):
    for i in range(5):
        path = tmp_path / f"{i}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (i, i))
    (tmp_path / "other").write_bytes(bytes(1000))
    compiled.trim(tmp_path, 250)
    assert {path.name for path in tmp_path.iterdir()} == {"3-cache", "4-cache", "other"}
