"""A scene keeps its bytes on its whole way: drawn, written in Cityscapes' layout, read, cached, and batched."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.every_field import Every

from mtlflax.data import records, units
from mtlflax.data.cityscapes import Cityscapes
from mtlflax.data.loader import evaluation_batches, train_batches
from mtlflax.data.records import writer
from mtlflax.data.streets import Streets
from mtlflax.data.streets.write import write_tree
from mtlflax.data.transforms import Augment

SIZE = (64, 128)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree") / "root"
    write_tree(root, SIZE, {"train": 5, "val": 2})
    return root


@pytest.mark.parametrize("unit", list(units.UNITS))
def test_the_very_bytes_at_full_size(tree, tmp_path, unit):
    drawn = Streets("train", size=SIZE, length=5, depth=unit)
    read = Cityscapes(tree, "train", depth=unit)
    writer.write(tmp_path / "cache", {"train": read}, {})
    cached = records.Records(tmp_path / "cache", "train")
    assert list(read.names) == list(drawn.names) == list(cached.names)
    with train_batches(cached, cached.fields, batch_size=5, seed=1, num_threads=0) as batches:
        batch = next(batches)
    order = [next(i for i in range(5) if np.array_equal(image, drawn[i]["image"])) for image in batch["image"]]
    assert sorted(order) == [0, 1, 2, 3, 4]
    for row, i in enumerate(order):
        expected, from_files, from_cache = drawn[i], read[i], cached[i]
        for name in drawn.fields:
            for found in (from_files[name], from_cache[name], batch[name][row]):
                if name == "focal_baseline":  # files hold it as decimal numbers
                    np.testing.assert_allclose(found, expected[name], rtol=1e-6)
                elif unit in ("normalised_disparity", "disparity") or name != "depth":
                    np.testing.assert_array_equal(found, expected[name], err_msg=name)
                else:
                    np.testing.assert_allclose(found, expected[name], rtol=1e-6, err_msg=name)
        np.testing.assert_array_equal(from_cache["depth"], from_files["depth"])
    (whole,) = evaluation_batches(cached, cached.fields, batch_size=5)
    np.testing.assert_array_equal(whole["image"], np.stack([drawn[i]["image"] for i in range(5)]))


def test_what_resizing_does(tree):
    """Half the size: images are means of 2×2 pixels to half a level; all else is the pixel under the center."""
    full, half = Cityscapes(tree, "train"), Cityscapes(tree, "train", size=(32, 64))
    for i in range(5):
        stored, found = full[i], half[i]
        means = stored["image"].reshape(32, 2, 64, 2, 3).mean(axis=(1, 3))
        assert np.abs(found["image"] - means).max() <= 0.5
        for name in ("segmentation", "depth"):
            np.testing.assert_array_equal(found[name], stored[name][1::2, 1::2])


def resident() -> int:
    """Of this process and its children, in bytes."""
    own = Path("/proc/self")
    children = [pid for task in (own / "task").iterdir() for pid in (task / "children").read_text().split()]
    pages = [int((path / "statm").read_text().split()[1]) for path in (own, *(Path("/proc") / pid for pid in children))]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc")
@pytest.mark.parametrize(
    "options", [{"num_threads": 2}, {"num_workers": 1, "num_threads": 0}], ids=["threads", "workers"]
)
def test_memory_stays_flat_over_ten_thousand_batches(tmp_path, options):
    writer.write(tmp_path / "cache", {"train": Every(20)}, {})
    source = records.Records(tmp_path / "cache", "train")
    fields = {name: source.fields[name] for name in ("image", "segmentation", "depth")}
    augment = Augment(fields=fields)
    with train_batches(source, fields, batch_size=4, seed=0, prefetch=2, augment=augment, **options) as batches:
        for _ in range(1000):
            next(batches)
        gc.collect()
        before = resident()
        for _ in range(10_000):
            next(batches)
        gc.collect()
        assert resident() - before < 8e6  # of 10,000 batches of 4 KB each, 40 MB went through
