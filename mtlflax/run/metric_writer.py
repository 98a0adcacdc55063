"""A run's numbers and pictures: `metrics.jsonl`, TensorBoard events and PNG files."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from mtlflax.errors import one_line
from mtlflax.files import finite_or_none, plain_errors, write_bytes, write_text
from mtlflax.run.writers import Writer


class MetricWriter:
    """Write scalars and pictures of one run; UserError where a file cannot be written.

    What was written after `step`, from which the run resumes, by a process that was killed before its next checkpoint,
    is removed, because it will be written again; `removed_steps` is how many steps that were. Unless `enabled` (on the
    first process), nothing is written. `others` makes further writers, which get the same.
    """

    def __init__(
        self, workdir: Path, *, step: int = 0, enabled: bool = True, others: Callable[[], Sequence[Writer]] = list
    ) -> None:
        self._enabled = enabled
        self.removed_steps = 0
        self._others: Sequence[Writer] = ()
        self._failed: set[type] = set()
        if not enabled:
            return
        self._workdir = workdir
        self._path = workdir / "metrics.jsonl"
        with plain_errors(self._path):
            (workdir / "tensorboard").mkdir(parents=True, exist_ok=True)
            self.removed_steps = _truncate(self._path, step)
            self._file = open(self._path, "a")  # noqa: SIM115 (closed by close(): it lives as long as the run)
            # Not SummaryWriter, whose thread would meet a full disk by itself and print a traceback.
            self._events = EventsWriter(str(workdir / "tensorboard" / "events"))
            start = SessionLog(status=SessionLog.START)  # TensorBoard drops what earlier files have from this step on
            self._events.write_event(Event(step=step + 1, wall_time=time.time(), session_log=start))
        self._others = others()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line; numbers that are not finite become null, so that the file stays JSON."""
        if not self._enabled:
            return
        line = {"step": step} | {name: finite_or_none(value) for name, value in values.items()}
        with plain_errors(self._path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            self._add(step, [Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._tell_others(lambda writer: writer.scalars(step, values))

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Write a picture, uint8 [H, W, 3] RGB: `pictures/<name>_<step>.png` and TensorBoard."""
        if not self._enabled:
            return
        path = self._workdir / "pictures" / f"{name}_{step:07d}.png"
        png = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
        write_bytes(path, png)
        height, width, _ = image.shape
        encoded = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        with plain_errors(self._path):
            self._add(step, [Summary.Value(tag=name, image=encoded)])
        self._tell_others(lambda writer: writer.picture(step, name, image))

    def close(self) -> None:
        """Flush and close."""
        if self._enabled:
            with plain_errors(self._path):
                self._file.close()
                self._events.close()
        self._tell_others(lambda writer: writer.close())

    def _tell_others(self, tell: Callable[[Writer], None]) -> None:
        """Have trackers write; a run does not end because one is out of reach for a while."""
        for writer in self._others:
            try:
                tell(writer)
            except Exception as error:
                if type(writer) not in self._failed:
                    self._failed.add(type(writer))
                    note = (
                        f"NOTE: {type(writer).__name__} fails ({one_line(error)}); the run goes on without what it lost"
                    )
                    print(note, file=sys.stderr, flush=True)

    def _add(self, step: int, values: list[Summary.Value]) -> None:
        self._events.write_event(Event(step=step, wall_time=time.time(), summary=Summary(value=values)))
        self._events.flush()


def _truncate(path: Path, step: int) -> int:
    """Remove the lines after `step`, and a last line that was cut off; return how many steps they go beyond it."""
    if not path.exists():
        return 0
    kept, last = [], step
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):
            found = json.loads(line)["step"]
            last = max(last, found)
            if found <= step:
                kept.append(line)
    write_text(path, "".join(line + "\n" for line in kept))
    return last - step
