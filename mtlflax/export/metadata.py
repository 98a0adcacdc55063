"""What an exported network says about itself, as JSON, the same in every format.

| | |
|---|---|
| `mtlflax`, `jax`, `jaxlib` | the versions that wrote it |
| `step` | of the checkpoint |
| `size` | [H, W] of the images |
| `input` | name, shape, dtype and order of the colors |
| `tasks` | task → channels of its output, and the fields of the data set that it reads |
| `fields` | field → kind, and its class table or unit, as in the run's `config.json` |
"""

from importlib import metadata
from typing import Any

from mtlflax.data import field_json
from mtlflax.run.predictor import Run


def describe(run: Run) -> dict[str, Any]:
    """Return the metadata of a run."""
    network = run.network
    height, width = network.size
    names = [name for task in network.tasks for name in task.fields if name in network.fields]
    return {
        **{package: metadata.version(package) for package in ("mtlflax", "jax", "jaxlib")},
        "step": run.step,
        "size": [height, width],
        "input": {"name": "images", "shape": ["batch", height, width, 3], "dtype": "uint8", "channels": "RGB"},
        "tasks": {task.name: {"channels": task.channels, "fields": list(task.fields)} for task in network.tasks},
        "fields": field_json.to_json({name: network.fields[name] for name in dict.fromkeys(["image", *names])}),
    }
