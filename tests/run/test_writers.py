"""What a run writes: whole lines, strict JSON, nothing twice."""

import json
import math

import cv2
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from mtlflax.errors import UserError
from mtlflax.run import metric_writer


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


def test_resuming_from_a_step_removes_what_will_be_written_again(tmp_path):
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
