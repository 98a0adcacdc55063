"""Where a run's numbers and pictures may go besides its workdir: trackers behind one small interface.

`config.writers` names them: "wandb", "mlflow", "trackio", or a function (config, workdir) → `Writer` of your own as
"package.module:function". Each keeps its own settings (WANDB_MODE, MLFLOW_TRACKING_URI, ...).
"""

import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from ml_collections import ConfigDict

from mtlflax import registry
from mtlflax.errors import UserError, describe

_PROJECT = "mtlflax"


@runtime_checkable
class Writer(Protocol):
    """Takes what a run writes; a step may come again after the run was killed and resumed."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers by name, such as `train/loss/depth`; NaN where there is none."""

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Take a picture, uint8 [H, W, 3] RGB."""

    def close(self) -> None:
        """Flush and close: the run ends or is stopped."""


class WandB:
    """Weights & Biases: one run per workdir, resumed with it."""

    def __init__(self, config: ConfigDict, workdir: Path) -> None:
        self._wandb = _import("wandb")
        options = {"project": _PROJECT, "name": workdir.name, "id": _identity(workdir), "resume": "allow"}
        self._run = self._wandb.init(**options, dir=str(workdir), config=config.to_dict())

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """As in `Writer`."""
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """As in `Writer`."""
        self._run.log({f"pictures/{name}": self._wandb.Image(image)}, step=step)

    def close(self) -> None:
        """As in `Writer`."""
        self._run.finish()


class MLflow:
    """MLflow: one run per workdir, found again by a tag."""

    def __init__(self, config: ConfigDict, workdir: Path) -> None:
        mlflow = _import("mlflow")
        self._client = mlflow.MlflowClient()
        experiment = mlflow.set_experiment(_PROJECT).experiment_id
        identity = _identity(workdir)
        found = self._client.search_runs([experiment], f"tags.workdir = '{identity}'", max_results=1)
        if not found:
            tags = {"workdir": identity, "mlflow.runName": workdir.name}
            found = [self._client.create_run(experiment, tags=tags)]
            for key, value in _flat(config.to_dict()).items():
                self._client.log_param(found[0].info.run_id, key, value)
        self._id = found[0].info.run_id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """As in `Writer`."""
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """As in `Writer`."""
        self._client.log_image(self._id, image, artifact_file=f"pictures/{name}_{step:07d}.png")

    def close(self) -> None:
        """As in `Writer`."""
        self._client.set_terminated(self._id)


class Trackio:
    """Trackio, on this machine or a Hugging Face space: one run per workdir, resumed with it."""

    def __init__(self, config: ConfigDict, workdir: Path) -> None:
        self._trackio = _import("trackio")
        name = f"{workdir.name}-{_identity(workdir)[:6]}"
        self._run = self._trackio.init(project=_PROJECT, name=name, resume="allow", config=_flat(config.to_dict()))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """As in `Writer`."""
        self._trackio.log(dict(values), step=step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """As in `Writer`."""
        self._trackio.log({f"pictures/{name}": self._trackio.Image(image)}, step=step)

    def close(self) -> None:
        """As in `Writer`."""
        self._trackio.finish()


WRITERS: dict[str, Callable[[ConfigDict, Path], Writer]] = {"wandb": WandB, "mlflow": MLflow, "trackio": Trackio}


def check(names: Sequence[str]) -> None:
    """Raise UserError for a writer that is not known or not installed."""
    for name in names:
        registry.find(name, WRITERS, what="writer")
        if name in WRITERS:
            _import(name)


def make(names: Sequence[str], config: ConfigDict, workdir: Path) -> list[Writer]:
    """Make the writers of `config.writers`; UserError for one that cannot be made, or that is no `Writer`."""
    made = []
    for name in names:
        try:
            writer = registry.find(name, WRITERS, what="writer")(config, workdir)
        except UserError:
            raise
        except Exception as error:  # whatever a tracker makes of a missing login or server
            raise UserError(f"config.writers: {name} cannot be opened: {describe(error)}") from error
        if not isinstance(writer, Writer):
            raise UserError(f"writer {name!r} gives a {type(writer).__name__}, without scalars, picture and close")
        made.append(writer)
    return made


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"config.writers has {name!r}, which is not installed: pip install {name}") from error


def _identity(workdir: Path) -> str:
    """The same for every start of the run in a workdir, and another for other workdirs."""
    return hashlib.sha256(str(workdir.absolute()).encode()).hexdigest()[:16]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
