"""Multi-task learning for dense tasks of road scenes, in JAX and Flax."""

__version__ = "0.1.0"
