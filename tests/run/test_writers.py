"""What a run writes: whole lines, strict JSON, nothing twice; and what it says."""

import io
import json
import math

import cv2
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from mtlflax.errors import UserError
from mtlflax.run import metric_writer
from mtlflax.run import progress as progress_module
from mtlflax.run.progress import Progress, format_seconds


def read_events(folder):
    """The events of TensorBoard's files: records of length (8 bytes), checksum (4), payload, checksum (4)."""
    events = []
    for path in sorted(folder.glob("events*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def test_scalars_and_pictures_reach_json_lines_and_tensorboard(tmp_path):
    writer = metric_writer.MetricWriter(tmp_path)
    writer.scalars(3, {"train/loss/depth": 0.5, "val/depth/rmse": math.nan})
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    writer.picture(3, "val", image)
    writer.close()
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 3, "train/loss/depth": 0.5, "val/depth/rmse": None}
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "pictures" / "val_0000003.png"))[..., ::-1], image)
    values = {v.tag: (event.step, v) for event in read_events(tmp_path / "tensorboard") for v in event.summary.value}
    assert values["train/loss/depth"][0] == 3
    assert values["train/loss/depth"][1].simple_value == 0.5
    png = np.frombuffer(values["val"][1].image.encoded_image_string, np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(png, cv2.IMREAD_COLOR)[..., ::-1], image)


def test_going_on_from_a_step_drops_what_will_be_written_again(tmp_path):
    lines = ['{"step": 1, "a": 1.0}', '{"step": 2, "a": 2.0}', '{"step": 3, "a": 3.0}', '{"step": 4, "a"']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    writer = metric_writer.MetricWriter(tmp_path, step=2)
    writer.scalars(3, {"a": 30.0})
    writer.close()
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert written == [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}, {"step": 3, "a": 30.0}]


def test_a_disabled_writer_writes_nothing(tmp_path):
    writer = metric_writer.MetricWriter(tmp_path / "run", enabled=False)
    writer.scalars(1, {"a": 1.0})
    writer.close()
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file"):
        metric_writer.MetricWriter(tmp_path / "file" / "run")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_counts_the_steps_while_the_clock_runs(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress(100, initial=40, batch_size=8, stream=stream, every=10)
    now[0] += 50  # compiling
    progress.update(41)
    assert progress.images_per_second == 0
    progress.start()
    for step in range(42, 52):  # two seconds a step
        now[0] += 2
        progress.update(step)
    assert progress.images_per_second == pytest.approx(4)
    progress.pause()
    now[0] += 20  # an evaluation
    assert progress.images_per_second == pytest.approx(4)
    progress.describe("depth 0.1")
    progress.update(51)
    # 40 s for 10 steps, the evaluation counted: 49 more take 196 s.
    assert stream.getvalue().splitlines()[-1] == "step 51/100 depth 0.1 · 4.0 images/s · 3m16s left"


def test_progress_is_a_bar_in_a_terminal_and_nothing_when_disabled():
    terminal, nothing = Terminal(), Terminal()
    for stream, enabled in ((terminal, True), (nothing, False)):
        progress = Progress(10, batch_size=1, stream=stream, enabled=enabled)
        progress.update(10)
        progress.write("a line")
        progress.close()
    assert "100%" in terminal.getvalue()
    assert "a line" in terminal.getvalue()
    assert nothing.getvalue() == ""


def test_format_seconds():
    given = [1.5, 90, 7260, math.nan]
    assert [format_seconds(s) for s in given] == ["1s", "1m30s", "2h01m", "?"]
