"""Where a run's numbers and pictures go: `metrics.jsonl`, TensorBoard and PNG files."""

import json
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from tensorboardX import SummaryWriter
from tensorboardX.proto.summary_pb2 import Summary

from mtlflax.files import finite_or_none, plain_errors, write_bytes, write_text


class MetricWriter:
    """Writes scalars and pictures of one run, on process 0 only.

    Args:
        workdir: the run's folder.
        step: the step the run goes on from: what was written after it (by a process that was killed before its next
            checkpoint) is taken out, because it will be written again.
        enabled: False on all processes but the first: every method then does nothing.
    """

    def __init__(self, workdir: Path, *, step: int = 0, enabled: bool = True) -> None:
        self._enabled = enabled
        if not enabled:
            return
        self._workdir = workdir
        self._path = workdir / "metrics.jsonl"
        with plain_errors(self._path):
            workdir.mkdir(parents=True, exist_ok=True)
            _truncate(self._path, step)
            self._file = open(self._path, "a")  # noqa: SIM115 (closed by close(): it lives as long as the run)
            self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line; numbers that are not finite become null, so that the file stays JSON."""
        if not self._enabled:
            return
        line = {"step": step} | {name: finite_or_none(value) for name, value in values.items()}
        with plain_errors(self._path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a picture, uint8 [H, W, 3] RGB: `pictures/<name>_<step>.png` and TensorBoard."""
        if not self._enabled:
            return
        path = self._workdir / "pictures" / f"{name}_{step:07d}.png"
        png = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
        write_bytes(path, png)
        with plain_errors(path):
            value = Summary.Value(
                tag=name,
                image=Summary.Image(
                    height=image.shape[0],
                    width=image.shape[1],
                    colorspace=3,
                    encoded_image_string=png,
                ),
            )
            self._tensorboard.file_writer.add_summary(Summary(value=[value]), step)

    def close(self) -> None:
        """Flushes and closes."""
        if self._enabled:
            with plain_errors(self._path):
                self._file.close()
                self._tensorboard.close()


def _truncate(path: Path, step: int) -> None:
    """Drops the lines after `step` and a last line that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            if json.loads(line)["step"] > step:
                continue
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
        kept.append(line)
    write_text(path, "".join(line + "\n" for line in kept))
