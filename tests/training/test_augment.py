"""Augmentation on the device: what the loader would have done, from the same random numbers."""

import jax
import numpy as np
import pytest
from helpers.batches import FIELDS, make_fields

from mtlflax.data import loader, units
from mtlflax.data.source import Depth, Labels, Map
from mtlflax.data.streets import Streets
from mtlflax.data.transforms import Augment, Drawn
from mtlflax.training.augment import augment

H, W = 48, 96
OWN = {
    "image": FIELDS["image"],
    "labels": Labels((), ignore=-1, dtype="int32"),
    "normals": Map(3, mirror=(-1, 1, 1)),
    "codes": Depth(units.get("millimetres"), dtype="uint16"),
}


def sample(unit: str, seed: int = 0):
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.5, 90, (H, W, 1))
    depth = values if "metres" in unit and "inverse" not in unit else rng.uniform(0.01, 0.4, (H, W, 1))
    depth = np.where(rng.random(depth.shape) < 0.2, 0, depth).astype(np.float32)
    smooth = np.mgrid[:H, :W].sum(axis=0)[..., None] * np.array([1.0, 1.5, 0.7]) + rng.uniform(0, 9, (H, W, 3))
    normals = np.where(rng.random((H, W, 1)) < 0.1, 0, rng.normal(size=(H, W, 3))).astype(np.float32)
    return {
        "image": smooth.astype(np.uint8),
        "segmentation": rng.integers(0, 19, (H, W)).astype(np.uint8),
        "depth": depth,
        "focal_baseline": np.float32(473),
        "labels": rng.integers(-1, 1000, (H, W)).astype(np.int32),
        "normals": normals,
        "codes": np.where(rng.random((H, W, 1)) < 0.2, 0, rng.integers(300, 9000, (H, W, 1))).astype(np.uint16),
    }


@pytest.mark.parametrize("unit", units.UNITS)
def test_the_device_does_what_the_loader_does(unit):
    """From the same random numbers: images to a few of 255 levels, depths to rounding, all else to the bit."""
    fields = make_fields(unit) | {name: field for name, field in OWN.items() if name != "image"}
    options = {"fields": fields, "scales": (1.0, 1.2, 1.5, 2.0), "hue": 0.1}
    host, drawn = Augment(**options), Augment(**options, device=True)
    on_device = jax.jit(lambda batch: augment(batch, fields))
    numbers = range(16)
    frames = [sample(unit, n) for n in numbers]
    expected = [host(frame, np.random.default_rng(n)) for n, frame in zip(numbers, frames, strict=True)]
    left = [drawn(frame, np.random.default_rng(n)) for n, frame in zip(numbers, frames, strict=True)]
    for frame, untouched in zip(left, frames, strict=True):
        assert all(frame[name] is untouched[name] for name in untouched)
    found = jax.device_get(on_device({name: np.stack([frame[name] for frame in left]) for name in left[0]}))
    for n in numbers:
        for name, value in expected[n].items():
            if name == "image":
                difference = np.abs(found[name][n].astype(int) - value)
                assert difference.max() <= 6
                assert difference.mean() < 0.5
            elif name == "depth":  # XLA divides by multiplying
                np.testing.assert_allclose(found[name][n], value, rtol=3e-7)
                np.testing.assert_array_equal(found[name][n] > 0, value > 0)
            elif name == "codes":
                np.testing.assert_allclose(found[name][n].astype(int), value.astype(int), atol=1)
                assert np.mean(found[name][n] != value) < 0.1
            else:
                np.testing.assert_array_equal(found[name][n], value, err_msg=name)
            assert found[name].dtype == np.asarray(value).dtype
    zooms = {float(frame["augment"][0]) for frame in left}
    assert len(zooms) == 4
    assert len({float(frame["augment"][3]) for frame in left}) == 2


def test_nothing_drawn_changes_nothing():
    fields = FIELDS | OWN
    frames = [sample("metres", n) for n in range(3)]
    still = Augment(fields=fields, scales=(1.0,), flip=0, brightness=0, contrast=0, saturation=0, hue=0, device=True)
    left = [still(frame, np.random.default_rng(0)) for frame in frames]
    batch = {name: np.stack([frame[name] for frame in left]) for name in left[0]}
    found = jax.device_get(jax.jit(lambda batch: augment(batch, fields))(batch))
    for name, value in batch.items():
        np.testing.assert_array_equal(found[name], value)


def test_batches_carry_what_was_drawn():
    """The numbers of a global position, whatever reads it."""
    source = Streets("train", size=(16, 32), length=6)
    fields = {**source.fields, "augment": Drawn()}
    options = {"batch_size": 4, "seed": 2, "augment": Augment(fields=source.fields, device=True), "num_threads": 0}
    with loader.train_batches(source, fields, **options) as batches:
        whole = [next(batches) for _ in range(3)]
    assert whole[0]["augment"].shape == (4, 8)
    assert whole[0]["augment"].dtype == np.float32
    with loader.train_batches(source, fields, **options, process_index=1, process_count=2) as batches:
        for batch in whole:
            part = next(batches)
            np.testing.assert_array_equal(part["augment"], batch["augment"][2:])
            np.testing.assert_array_equal(part["image"], batch["image"][2:])
