"""`python -m mtlflax.main`, with `tiny` a network: for tests that start, kill and resume real processes.

With `predict` as its first argument, it is `python -m mtlflax.predict`.
"""

import sys

from tiny import TinyNet  # this file is run as a script: its own folder is on the path

from mtlflax import command_line, main, models, predict


def tiny(*, backbone, heads, axis_name, **options):
    """A network that compiles in a second, where a real one would take most of a minute; it takes any options."""
    del backbone, options
    return TinyNet(heads, axis_name=axis_name)


if __name__ == "__main__":
    models.MODELS["tiny"] = tiny
    command = main.main
    if sys.argv[1:2] == ["predict"]:
        del sys.argv[1]
        command = predict.main
    command_line.run(command)
