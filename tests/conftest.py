"""What holds for every test: strict JAX, a few simulated devices, parsed flags."""

import os
import signal

# Before jax starts: four simulated devices, so that every test can map over 1, 2 or 4 of them.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

import absl.flags

# Grain reads absl flags when it starts worker processes, and outside absl.app nobody has parsed them.
absl.flags.FLAGS.mark_as_parsed()

# A shell that starts the tests in the background has them ignore Ctrl-C, which some send to themselves and others.
signal.signal(signal.SIGINT, signal.default_int_handler)
