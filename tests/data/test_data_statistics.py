"""What is in a data set: counts against plain sums, and the files that the command writes."""

import json

import cv2
import numpy as np
import pytest
from helpers import folders
from helpers.commands import call

from mtlflax.data import statistics
from mtlflax.data.folder import Folder
from mtlflax.data.statistics import __main__ as command
from mtlflax.data.statistics import counting, weights
from mtlflax.data.streets import Streets

pytestmark = pytest.mark.quick

FIELDS = {
    "segmentation": {"files": "segmentation/*", "classes": list("abcde")},
    "depth": {"files": "depth/*", "scale": 0.001},
}


@pytest.fixture
def root(tmp_path):
    root = folders.photos(tmp_path / "photos")
    for n in range(10):
        ids = folders.labels(n, 5)
        ids[ids == 3] = 255
        ids[ids == 4] = 4 if n % 2 else 0
        folders.write(root, {f"segmentation/{n}.png": ids})
    return root


def test_counts(root):
    source = Folder(root, "train", {"image": "images/*", "fields": FIELDS})
    seen = []
    found = statistics.count(source, threads=3, seen=lambda: seen.append(1))
    assert len(seen) == found.frames == 8
    assert found.sizes == {(24, 40): 8}
    ids = np.stack([sample["segmentation"] for sample in source])
    depths = np.stack([sample["depth"] for sample in source])
    of_field = found.classes["segmentation"]
    for number in [*range(5), 255]:
        place = min(number, 5)
        here = ids == number
        assert of_field.pixels[place] == here.sum()
        assert of_field.frames[place] == here.any(axis=(1, 2)).sum()
        assert of_field.shares[place] == pytest.approx(here.mean(axis=(1, 2)).sum())
    depth = found.depths["depth"]
    measured = depths[depths > 0]
    assert (depth.pixels, depth.measured) == (depths.size, measured.size)
    assert (depth.least, depth.most) == (measured.min(), measured.max())
    np.testing.assert_array_equal(depth.histogram, np.histogram(measured, counting.EDGES)[0])
    for share, found_there in zip(
        (0.01, 0.5, 0.99), counting.quantiles(depth.histogram, (0.01, 0.5, 0.99)), strict=True
    ):
        assert 1 <= found_there / np.quantile(measured, share) < 1.1

    p = of_field.pixels[:5] / of_field.pixels[:5].sum()
    np.testing.assert_allclose(weights.enet(of_field), 1 / np.log(1.02 + p))
    frequency = np.array([(ids == c).mean(axis=(1, 2))[(ids == c).any(axis=(1, 2))].mean() for c in (0, 1, 2, 4)])
    np.testing.assert_allclose(weights.median_frequency(of_field)[[0, 1, 2, 4]], np.median(frequency) / frequency)
    assert weights.median_frequency(of_field)[3] == 0  # it does not occur


def test_disparities_are_counted_in_metres():
    source = Streets("val", size=(32, 64), length=2)
    depth = statistics.count(source).depths["depth"]
    assert depth.in_metres
    samples = [source[i] for i in range(2)]
    unit = source.fields["depth"].unit
    metres = np.concatenate([unit.to_metres(s["depth"], s["focal_baseline"])[s["depth"] > 0] for s in samples])
    assert depth.histogram.sum() == np.isfinite(metres).sum()
    assert counting.quantiles(depth.histogram, (0.5,))[0] == pytest.approx(
        np.median(metres[np.isfinite(metres)]), rel=0.1
    )


def test_what_the_command_writes(root, tmp_path):
    pytest.importorskip("matplotlib")
    (root / "depth" / "2.png").write_bytes(b"broken")
    (root / "segmentation" / "3.png").unlink()
    out = tmp_path / "out"
    arguments = [
        "--config=configs/folder.py",
        f"--config.data.root={root}",
        "--config.data.size=(24,40)",
        f"--out={out}",
    ]
    said = call(arguments, command.main)
    assert "BROKEN" in said
    assert "depth/2.png" in said
    assert "1 frames have no segmentation: 3" in said
    for name in ("views.png", "segmentation.png", "depth.png"):
        assert cv2.imread(str(out / name)).std() > 5
    page = (out / "index.html").read_text()
    assert page.count("<img") == 3
    assert "BROKEN" in page
    counts = json.loads((out / "statistics.json").read_text())
    assert set(counts) == {"train", "val"}
    assert counts["train"]["sizes"] == {"24×40": counts["train"]["frames"] - len(counts["train"]["broken"])}
    for kind in weights.WEIGHTS:
        content = json.loads((out / f"class_weights_{kind}.json").read_text())
        assert list(content) == ["0", "1", "2", "4"]
        assert all(weight > 0 for weight in content.values())
