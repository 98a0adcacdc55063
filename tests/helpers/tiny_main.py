"""`python -m mtlflax.main`, with `tiny` a network: for tests that start, kill and resume real processes.

With `predict` as its first argument, it is `python -m mtlflax.predict`.
"""

import sys

from tiny import TinyNet  # this file is run as a script: its own folder is on the path

from mtlflax import command_line, main, models, predict


def get(name, *, backbone, heads, axis_name, **options):
    """In place of `models.get`, which a real network would take most of a minute to compile from."""
    del backbone, options
    assert name == "tiny"
    return TinyNet(heads, axis_name=axis_name)


if __name__ == "__main__":
    models.get = get
    command = main.main
    if sys.argv[1:2] == ["predict"]:
        del sys.argv[1]
        command = predict.main
    command_line.run(command)
