"""Where a run's numbers and pictures go: `metrics.jsonl`, TensorBoard, `results.json`, PNG files, the terminal."""

import errno
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
from tensorboardX import SummaryWriter
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from mtlflax.errors import UserError


@contextmanager
def plain_errors(what: Path) -> Iterator[None]:
    """Turns a full disk, a read-only folder and the like into a `UserError` that names `what`."""
    try:
        yield
    except OSError as error:
        cure = (
            "Free some space or give another --workdir." if error.errno == errno.ENOSPC else "Give another --workdir."
        )
        where = "" if error.filename in (None, str(what)) else f" ({error.filename})"
        raise UserError(f"cannot write {what}: {error.strerror or error}{where}\n{cure}") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file whole or not at all; numbers that are not finite become null, as JSON has none."""
    content = {key: _finite(value) for key, value in content.items()}
    with plain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n")
        temporary.replace(path)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
        line = {"step": step} | {name: _finite(value) for name, value in values.items()}
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
        with plain_errors(path):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(png)
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
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in kept))
    temporary.replace(path)


class Progress:
    """How far a run is: a bar in a terminal, a plain line every few seconds elsewhere.

    Args:
        total: steps in all.
        initial: steps done before this process.
        batch_size: images a step, for the rate.
        enabled: False prints nothing (on all processes but the first).
        stream: standard error by default.
        every: seconds between plain lines.
    """

    def __init__(
        self,
        total: int,
        *,
        initial: int = 0,
        batch_size: int,
        enabled: bool = True,
        stream: TextIO | None = None,
        every: float = 10.0,
    ) -> None:
        self._stream = stream or sys.stderr
        self._total, self._batch_size, self._enabled, self._every = total, batch_size, enabled, every
        self._step, self._text, self._said = initial, "", -math.inf
        self._steps = 0  # since the clock was first started
        self._busy = 0.0  # seconds the clock ran, evaluations left out
        self._running_since: float | None = None
        self._first = math.nan  # when it was first started
        self._bar = None
        if enabled and self._stream.isatty():
            shape = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {postfix}"
            self._bar = tqdm(total=total, initial=initial, file=self._stream, dynamic_ncols=True, bar_format=shape)

    @property
    def images_per_second(self) -> float:
        """Training speed so far, evaluations left out; 0 before the clock runs."""
        busy = self._busy
        if self._running_since is not None:
            busy += time.monotonic() - self._running_since
        return self._steps * self._batch_size / busy if busy else 0.0

    def start(self) -> None:
        """The clock runs: steps are being taken."""
        if self._running_since is None:
            self._running_since = time.monotonic()
            if math.isnan(self._first):
                self._first = self._running_since

    def pause(self) -> None:
        """The clock stands: an evaluation, say."""
        if self._running_since is not None:
            self._busy += time.monotonic() - self._running_since
            self._running_since = None

    def update(self, step: int) -> None:
        """That many steps are done."""
        if self._running_since is not None:
            self._steps += step - self._step
        self._step = step
        if self._bar is not None:
            self._bar.set_postfix_str(self._line(), refresh=False)
            self._bar.update(step - self._bar.n)
        elif self._enabled and (time.monotonic() - self._said >= self._every or step == self._total):
            self._said = time.monotonic()
            print(f"step {step}/{self._total} {self._line()}", file=self._stream, flush=True)

    def describe(self, text: str) -> None:
        """What stands beside the step from now on: the losses and weights last read."""
        self._text = text

    def write(self, text: str) -> None:
        """Prints a line of its own, above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        elif self._enabled:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()

    def _line(self) -> str:
        # The time left counts the evaluations too, as they were so far.
        elapsed = time.monotonic() - self._first
        left = (self._total - self._step) * elapsed / self._steps if self._steps else math.nan
        rate = f"{self.images_per_second:.1f} images/s" if self._steps else ""
        return " · ".join(part for part in (self._text, rate, f"{format_seconds(left)} left") if part)


def format_seconds(seconds: float) -> str:
    """1.5 → "1s", 90 → "1m30s", 7260 → "2h01m", nan → "?"."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    if not minutes:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
