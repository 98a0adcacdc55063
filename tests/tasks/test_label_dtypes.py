"""Segmentation, whatever integers its label map holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtlflax import metrics, tasks
from mtlflax.data.source import Class, Image, Labels

CLASSES = (Class("none", (1, 2, 3)), Class("edge", (250, 0, 0)))


@pytest.mark.parametrize(
    ("dtype", "ignore"),
    [("uint8", 255), ("int8", -1), ("uint16", 65535), ("int32", -1), ("uint32", 2**31 - 1), ("int64", -1)],
)
def test_labels_may_be_any_integers(dtype, ignore):
    fields = {"image": Image(), "edges": Labels(CLASSES, ignore, dtype=dtype)}
    task = tasks.segmentation(fields, name="edges")
    truth = np.array([[[0, 1], [ignore, 1]]], dtype)
    batch = jax.tree.map(jax.device_put, {"edges": truth, "mask": np.ones(1, np.float32)})
    logits = jnp.broadcast_to(jnp.array([0.0, 1.0]), (1, 2, 2, 2))  # always an edge

    assert task.valid(batch).tolist() == [[[True, True], [False, True]]]
    assert float(task.loss(logits, batch, None)) == pytest.approx(np.log1p(np.e) - 2 / 3)
    totals = metrics.Totals()
    totals.add(task.sums(logits, batch))
    assert totals.sums["confusion"].tolist() == [[0, 1], [0, 2]]
    # Black where there is no label; no table with an entry for each of 2**32 values.
    assert task.colors(truth[0]).tolist() == [[[1, 2, 3], [250, 0, 0]], [[0, 0, 0], [250, 0, 0]]]
    assert task.picture(logits).dtype == np.uint8
    files = task.files(np.asarray(logits[0]), 1.0)
    assert {name: (values.dtype.name, values.shape) for name, values in files.items()} == {
        "edges": ("uint8", (2, 2, 3)),
        "edges_ids": ("uint8", (2, 2)),  # what a PNG can hold
    }


def test_more_than_256_classes_are_written_in_16_bits():
    fields = {
        "image": Image(),
        "parts": Labels(tuple(Class(f"part{i}", (0, 0, 0)) for i in range(300)), 65535, dtype="int32"),
    }
    logits = np.zeros((2, 2, 300), np.float32)
    logits[..., 299] = 1
    ids = tasks.segmentation(fields, name="parts").files(logits, 1.0)["parts_ids"]
    assert ids.dtype == np.uint16
    assert (ids == 299).all()


@pytest.mark.parametrize(("dtype", "ignore"), [("uint8", -1), ("uint8", 256), ("uint32", 2**32 - 1), ("int64", 2**40)])
def test_an_ignored_value_that_no_device_can_hold_is_refused(dtype, ignore):
    with pytest.raises(ValueError, match=f"ignore {ignore} do not fit {dtype}"):
        Labels(CLASSES, ignore, dtype=dtype)
