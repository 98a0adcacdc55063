"""Several data sets in one batch, and frames with rare classes more often: the same batches whoever reads them."""

import collections
import json

import numpy as np
import pytest
from helpers import folders
from helpers.trees import write_tree
from ml_collections import ConfigDict

from configs import folder as folder_config
from mtlflax import data
from mtlflax.data import balance
from mtlflax.data.balance import Balanced, ByClass
from mtlflax.data.folder import Folder
from mtlflax.data.loader import evaluation_batches, train_batches
from mtlflax.data.mixture import Mixture, Proportions
from mtlflax.data.source import Class, Image, Labels, Number
from mtlflax.errors import UserError

pytestmark = pytest.mark.quick

CLASSES = (Class("a", (1, 1, 1)), Class("b", (2, 2, 2)))


class Plain:
    """Frames told by their number; with a depth-like number, or with labels."""

    def __init__(self, start, length, **fields):
        self.fields = {"image": Image(), "number": Number(), **fields}
        self.names, self._start = [str(start + i) for i in range(length)], start

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        number = self._start + index
        sample = {
            "image": np.full((4, 4, 3), number % 256, np.uint8),
            "number": np.float32(number),
            "name": str(number),
        }
        if "labels" in self.fields:
            sample["labels"] = np.full((4, 4), 1 if index % 10 == 0 else 0, np.uint8)
        return sample


def mixture():
    labels = Labels(CLASSES)
    return Mixture({"one": Plain(0, 20, labels=labels), "two": Plain(100, 7)}, {"one": 6, "two": 2})


def numbers(source, count, start=0, batch_size=8, **options):
    with train_batches(source, source.fields, batch_size=batch_size, seed=3, start_step=start, **options) as batches:
        return [next(batches)["number"].astype(int).tolist() for _ in range(count)]


def test_each_batch_has_its_share_of_each():
    found = numbers(mixture(), 30, num_threads=0)
    for batch in found:
        assert sum(n >= 100 for n in batch) == 2
    # Each source's own sequence goes through all of its frames before one comes again.
    for least, length in ((0, 20), (100, 7)):
        own = [n for batch in found for n in batch if (n >= 100) == (least == 100)]
        for start in range(0, len(own) - length, length):
            assert sorted(own[start : start + length]) == list(range(least, least + length))
    # Two halves of a batch, of two devices, have a share of each.
    assert all(sum(n >= 100 for n in batch[:4]) == 1 for batch in found)


@pytest.mark.parametrize("make", [mixture, lambda: Balanced(Plain(0, 20, labels=Labels(CLASSES)), 0.1)])
def test_the_same_batches_whoever_reads_them(make, tmp_path, monkeypatch):
    monkeypatch.setenv("MTLFLAX_CACHE", str(tmp_path))
    whole = numbers(make(), 6, num_threads=0)
    assert numbers(make(), 6, num_threads=3) == whole
    assert numbers(make(), 3, num_workers=1, num_threads=0) == whole[:3]
    assert numbers(make(), 2, start=4, num_threads=0) == whole[4:]
    parts = [numbers(make(), 6, num_threads=0, process_index=i, process_count=2) for i in range(2)]
    for k in range(6):
        assert parts[0][k] + parts[1][k] == whole[k]


def test_frames_without_a_field_are_unknown_there():
    with train_batches(mixture(), mixture().fields, batch_size=8, seed=0, num_threads=0) as batches:
        batch = next(batches)
    of_two = batch["number"] >= 100
    assert (batch["labels"][of_two] == 255).all()
    assert (batch["labels"][~of_two] != 255).all()
    source = mixture()
    names = [name for b in evaluation_batches(source, source.fields, batch_size=8) for name in b["name"] if name]
    assert names == [f"one/{n}" for n in range(20)] + [f"two/{n}" for n in range(100, 107)]
    with pytest.raises(IndexError):
        source[27]


def test_turns_within_a_batch():
    for counts in ((6, 2), (1, 1), (5, 3, 1), (4,)):
        order = Proportions(counts)
        size = sum(counts)
        assert len(order) > 10**12
        for batch in (0, 5):
            found = [order[batch * size + slot] for slot in range(size)]
            assert collections.Counter(source for source, _ in found) == dict(enumerate(counts))
            for source, count in enumerate(counts):
                own = sorted(index for s, index in found if s == source)
                assert own == list(range(batch * count, (batch + 1) * count))


def test_mistakes_of_mixtures():
    other = Labels((*CLASSES, Class("c", (3, 3, 3))))
    with pytest.raises(UserError, match="the field 'labels' of two is not that of one"):
        Mixture({"one": Plain(0, 5, labels=Labels(CLASSES)), "two": Plain(9, 5, labels=other)})
    with pytest.raises(UserError, match=r"batch_size is 4, but data\.mixture has 6 \+ 2 frames"):
        numbers(mixture(), 1, batch_size=4)


def test_a_mixture_by_config(tmp_path):
    root = folders.photos(tmp_path / "photos")
    config = folder_config.get_config().data
    own = {"folder": config.folder.to_dict() | {"fields": {"depth": config.folder.fields.depth.to_dict()}}}
    entries = {
        "drawn": {"name": "streets", "streets": {"train": 12, "val": 4, "seed": 0}, "depth": "metres", "per_batch": 3},
        "mine": {"name": "folder", "root": str(root), "per_batch": 1, **own},
    }
    config.name, config.size, config.classes, config.mixture = "mixture", (16, 32), 19, ConfigDict(entries)
    training, evaluated = data.open_splits(config)
    assert (len(training), len(evaluated["val"])) == (12 + 8, 4 + 2)
    assert list(training.fields) == ["image", "segmentation", "depth", "focal_baseline"]
    assert set(training[13]) == {"image", "depth", "name"}
    config.validation, config.holdout = "holdout", 0.25
    rest, evaluated = data.open_splits(config)
    assert {split: len(source) for split, source in evaluated.items()} == {"holdout": 3 + 2, "val": 6}
    assert (len(rest), rest.per_batch) == (9 + 6, {"drawn": 3, "mine": 1})
    json.loads(config.to_json())
    for change, message in (
        ({"mine": {"root": "/nowhere"}}, r"data\.mixture\.mine: .*/nowhere: there is no such folder"),
        ({"mine": {"per_batch": 0}}, r"data\.mixture\.mine\.per_batch is 0"),
        ({"drawn": {"depth": "inverse_metres"}}, "the field 'depth' of mine is not that of drawn"),
    ):
        for name, values in change.items():
            config.mixture = ConfigDict(entries | {name: entries[name] | values})
        with pytest.raises((UserError, ValueError), match=message):
            data.open_splits(config)
    config.mixture = ConfigDict()
    with pytest.raises(ValueError, match=r"data\.mixture is empty"):
        data.open_splits(config)


def test_frames_with_rare_classes_come_more_often(tmp_path, monkeypatch):
    monkeypatch.setenv("MTLFLAX_CACHE", str(tmp_path))
    plain = Plain(0, 20, labels=Labels(CLASSES))  # two frames of 20 are all b, the others all a
    order = Balanced(plain, 0.5).order(0)
    drawn = [order[i] for i in range(4000)]
    assert {source for source, _ in drawn} == {0}
    weights = np.exp((1 - np.array([0.9, 0.1])) / 0.5)
    share = np.mean([frame % 10 == 0 for _, frame in drawn])
    assert share == pytest.approx(weights[1] / weights.sum(), abs=0.03)
    counts = collections.Counter(frame for _, frame in drawn)
    assert len(counts) == 20
    assert counts[0] / counts[10] == pytest.approx(1, abs=0.15)
    assert [Balanced(plain, 0.5).order(0)[i] for i in range(50)] == drawn[:50]
    assert [Balanced(plain, 0.5).order(1)[i] for i in range(50)] != drawn[:50]
    cold = Balanced(plain, 0.01).order(0)
    assert all(frame % 10 == 0 for _, frame in (cold[i] for i in range(100)))


def test_classes_are_looked_for_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MTLFLAX_CACHE", str(tmp_path / "cache"))
    root = folders.photos(tmp_path / "photos")
    fields = {"segmentation": {"files": "segmentation/*", "classes": list("abcde")}}
    source = Folder(root, "train", {"image": "images/*", "fields": fields})
    balanced = Balanced(source, 0.01)
    balanced.prepare()
    assert "looking for the classes in 8 frames" in capsys.readouterr().err
    expected = [np.bincount(sample["segmentation"].ravel(), minlength=5) for sample in source]
    np.testing.assert_array_equal(balanced._pixels, expected)
    again = Balanced(source, 0.01)
    again.prepare()
    np.testing.assert_array_equal(again._pixels, expected)
    assert not capsys.readouterr().err
    (stored,) = (tmp_path / "cache" / "classes").iterdir()
    stored.write_bytes(b"broken")
    Balanced(source, 0.01).prepare()
    assert np.load(stored).shape == (8, 5)


def test_mistakes_of_balance():
    with pytest.raises(UserError, match="needs labels, and the data set has none"):
        Balanced(Plain(0, 5), 0.01)
    with pytest.raises(ValueError, match=r"data\.balance is -1"):
        Balanced(Plain(0, 5, labels=Labels(CLASSES)), -1)
    with pytest.raises(UserError, match="no frame has a label"):
        ByClass(np.zeros((5, 2), np.int64), 0.01, 0)
    assert balance.__doc__


def test_frames_without_labels_come_as_often_as_ever():
    """They may have other ground truth: 30 of 40 frames here."""
    pixels = np.zeros((40, 2), np.int64)
    pixels[:10, 0], pixels[0, 1] = 100, 1
    order = ByClass(pixels, 0.01, 0)
    drawn = collections.Counter(order[i][1] for i in range(4000))
    assert len(drawn) >= 31
    assert sum(drawn[i] for i in range(10, 40)) / 4000 == pytest.approx(0.75, abs=0.03)
    assert drawn[0] > 900  # the rare class


def test_what_could_not_be_read_is_looked_at_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MTLFLAX_CACHE", str(tmp_path / "cache"))
    root = folders.photos(tmp_path / "photos")
    content = (root / "segmentation/1.png").read_bytes()
    fields = {"segmentation": {"files": "segmentation/*", "classes": list("abcde")}}
    source = Folder(root, "train", {"image": "images/*", "fields": fields})
    name = source.names[0]
    (root / f"segmentation/{name}.png").write_bytes(b"broken")
    first = Balanced(source, 0.01, on_error="skip")
    first.prepare()
    assert not first._pixels[0].any()
    (root / f"segmentation/{name}.png").write_bytes(content)
    again = Balanced(source, 0.01, on_error="skip")
    again.prepare()
    assert again._pixels[0].any()
    assert capsys.readouterr().err.count("looking for the classes") == 2


def test_a_mixture_finds_its_data_sets_as_a_config_does(tmp_path, monkeypatch):
    """By the environment variable, too; and a cache is of one data set."""
    monkeypatch.setenv("CITYSCAPES_DATASET", str(write_tree(tmp_path / "tree")))
    root = folders.photos(tmp_path / "photos")
    config = folder_config.get_config("depth").data
    mine = {"name": "folder", "root": str(root), "folder": config.folder.to_dict(), "per_batch": 1}
    config.name, config.depth, config.size = "mixture", "metres", (12, 20)
    config.mixture = ConfigDict({"cityscapes": {"name": "cityscapes", "per_batch": 2}, "mine": mine})
    training, _ = data.open_splits(config)
    assert {name.partition("/")[0] for name in training.names} == {"cityscapes", "mine"}
    config.cache = "auto"
    with pytest.raises(ValueError, match=r"data\.cache is for one data set"):
        data.open_splits(config)
