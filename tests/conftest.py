"""What holds for every test: strict JAX, simulated devices, a cache of compiled programs, parsed flags."""

import os
import signal
from collections.abc import Generator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import absl.flags
import pytest

# `-m quick` runs the doctests, those of every weighting among them, and these, less the files that import subprocess.
QUICK = (
    "mtlflax/",
    "tests/data/",
    "tests/run/",
    "tests/test_losses.py",
    "tests/test_metrics.py",
    "tests/weighting/test_weighting.py::test_both_forms_agree",
    "tests/weighting/test_weighting.py::test_dwa",
    "tests/models/test_models.py::test_output_shapes",
    "tests/models/test_topologies.py::test_output_shapes",
)

# Where whole networks and steps are compiled, and run a few times: what takes time is compiling. The math of the
# weightings, losses and metrics is tested as XLA optimizes it.
IN_A_HURRY = ("tests/cli/", "tests/export/", "tests/models/", "tests/tasks/", "tests/training/")
TRAINS_FOR_LONG = ("two_scenes_are_learnt_by_heart", "thirty_steps_are_finite_and_learn", "train_the_unet_as_one")

# What imports torch, which is no dependency; pytest imports every file of tests, for its doctests.
collect_ignore = ["benchmarks/peer_network.py", "helpers/torch_encoders.py"] if find_spec("torch") is None else []

# Before jax starts: four simulated devices, so that every test can map over 1, 2 or 4 of them.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

# XLA's older emitters compile these small programs in half the time. jaxlib 0.12 has them no more, and ends the process
# over a flag that it does not know.
os.environ["XLA_FLAGS"] = (
    "--xla_cpu_use_fusion_emitters=false" if metadata.version("jaxlib").startswith("0.10.") else ""
)

# A compiled program is stored once, for the other worker, for the commands that tests start, and for the next run.
# (jax_compilation_cache_max_size would read the whole folder at each new program: `pytest_configure` trims it instead.)
COMPILED = Path(os.environ.get("MTLFLAX_TEST_CACHE") or "~/.cache/mtlflax/compiled").expanduser()
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COMPILED)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Grain reads absl flags when it starts worker processes, and outside absl.app nobody has parsed them.
absl.flags.FLAGS.mark_as_parsed()

# A shell that starts the tests in the background has them ignore Ctrl-C, which some send to themselves and others.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Delete the oldest compiled programs above the limit, once for all workers."""
    if hasattr(config, "workerinput"):
        return
    from mtlflax.run import compiled  # here: the environment above is read when jax is imported

    compiled.trim(COMPILED, compiled.LIMIT)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is quick."""
    for item in items:
        starts_processes = hasattr(getattr(item, "module", None), "subprocess")
        if item.nodeid.startswith(QUICK) and not starts_processes and "slow" not in item.keywords:
            item.add_marker("quick")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Turn most of XLA's optimizations off where compiling is what takes time, also in processes that a test starts."""
    import jax  # here: the environment above is read when it is imported

    hurry = item.nodeid.startswith(IN_A_HURRY) and not any(name in item.nodeid for name in TRAINS_FOR_LONG)
    with pytest.MonkeyPatch.context() as patch:
        if hurry:
            patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
        jax.config.update("jax_disable_most_optimizations", hurry)
        result = yield
    jax.config.update("jax_disable_most_optimizations", False)
    return result
