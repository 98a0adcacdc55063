"""The cache: what is read from it is what the source gives, to the bit; and what does not fit is refused."""

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import folders
from helpers.commands import REPOSITORY, call
from helpers.every_field import Every
from helpers.frames import Frames

from configs import folder as folder_config
from mtlflax import data
from mtlflax.data import field_json, records, units
from mtlflax.data.folder import Folder
from mtlflax.data.loader import train_batches
from mtlflax.data.records import __main__ as command
from mtlflax.data.records import layout, opening, writer
from mtlflax.data.samples import Checked
from mtlflax.data.source import Depth, Image
from mtlflax.data.streets import Streets
from mtlflax.data.transforms import Augment, Drawn
from mtlflax.errors import UserError

KEY = {"name": "x", "root": "", "size": [8, 16], "splits": {}}


def assert_alike(source, cache):
    assert list(cache.names) == list(source.names)
    assert field_json.to_json(cache.fields) == field_json.to_json(source.fields)
    checked = Checked(source, source.fields)
    for i in range(len(source)):
        expected, found = checked[i], Checked(cache, cache.fields)[i]
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)
            assert np.asarray(found[key]).dtype == np.asarray(value).dtype


def made(folder, source, **options):
    writer.write(folder, {"train": source}, KEY, **options)
    return records.Records(folder, "train")


@pytest.mark.parametrize("threads", [1, 3])
def test_fields_of_every_kind(tmp_path, threads):
    source = Every()
    cache = made(tmp_path / "c", source, threads=threads)
    assert_alike(source, cache)
    assert_alike(source, pickle.loads(pickle.dumps(cache)))
    with pytest.raises(IndexError):
        cache[5]
    first = cache[0]["image"]
    first[:] = 0  # augmentation may write into what it is given
    assert cache[0]["image"].any()


@pytest.mark.parametrize("unit", list(units.UNITS))
def test_the_embedded_data_set_in_every_unit(tmp_path, unit):
    source = Streets("val", size=(32, 64), length=3, depth=unit)
    cache = made(tmp_path / "c", source)
    assert_alike(source, cache)
    codes = unit in ("normalised_disparity", "disparity")  # of 16 bits
    assert (tmp_path / "c" / "train.records").stat().st_size == 3 * (32 * 64 * (4 + (2 if codes else 4)) + 4)


@pytest.mark.parametrize(
    "options", [{"scale": 0.001}, {"scale": 1 / 256}, {"scale": 0.01}, {"scale": 0.001, "offset": 0.0003}]
)
def test_depth_from_files(tmp_path, options):
    folders.photos(tmp_path / "photos")
    fields = {"depth": {"files": "depth/*"} | options, "segmentation": {"files": "segmentation/*"}}
    source = Folder(tmp_path / "photos", "train", {"image": "images/*", "fields": fields}, (12, 20))
    cache = made(tmp_path / "c", source)
    assert_alike(source, cache)
    depth = next(entry for entry in cache._layout.entries if entry.name == "depth")
    assert (depth.dtype == "uint16") == ("offset" not in options)


def test_a_later_frame_that_the_codes_do_not_hold(tmp_path):
    """The first frames are whole centimetres and the last are not; another coding, or none, holds all of them."""
    count = iter(range(1000))

    def millimetres(rng):
        return rng.integers(0, 6000, (8, 16, 1)) * (0.01 if next(count) < 3 else 0.001)

    source = Every(5, depth=millimetres)
    frames = [source[i] for i in range(5)]
    source.__class__ = type("Fixed", (Every,), {"__getitem__": lambda self, i: dict(frames[i])})
    cache = made(tmp_path / "c", source)
    assert_alike(source, cache)
    assert next(entry for entry in cache._layout.entries if entry.name == "depth").coding == "1/1000"


@pytest.mark.parametrize("coding", list(layout._CODES))
def test_codes_are_exact_for_all_of_their_values(coding):
    codes = np.arange(65536, dtype=np.uint16)
    values = layout.decode(codes, coding)
    assert (values.dtype, values[0]) == (np.float32, 0)
    again = layout.encode(values, coding)
    np.testing.assert_array_equal(layout.decode(again, coding), values)
    assert layout.encode(values + np.float32(1e-4), coding) is None
    assert layout.encode(np.array([np.nan], np.float32), coding) is None
    assert layout.encode(np.array([1e9], np.float32), coding) is None


def config_of(root, **options):
    config = folder_config.get_config()
    config.data.root, config.data.size = str(root), (12, 20)
    config.data.update(options)
    return config.data


def test_a_config_makes_its_cache_when_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("MTLFLAX_CACHE", str(tmp_path / "cache"))
    folders.photos(tmp_path / "photos")
    plain, _ = data.open_splits(config_of(tmp_path / "photos"))
    training, evaluated = data.open_splits(config_of(tmp_path / "photos", cache="auto"))
    assert not (tmp_path / "cache").exists()
    assert list(evaluated["val"].names) == list(data.open_splits(config_of(tmp_path / "photos"))[1]["val"].names)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(training.__getitem__, range(4)))
    assert_alike(plain, training)
    assert training.with_full_truth()[0]["depth"].shape == (24, 40, 1)
    (made_there,) = (tmp_path / "cache" / "records").iterdir()
    before = (made_there / "train.records").stat().st_mtime_ns
    again, _ = data.open_splits(config_of(tmp_path / "photos", cache="auto"))
    again[0]
    assert (made_there / "train.records").stat().st_mtime_ns == before
    # Another size is another cache.
    data.open_splits(config_of(tmp_path / "photos", cache="auto", size=(6, 10)))[0][0]
    assert len(list((tmp_path / "cache" / "records").iterdir())) == 2


def make(root, out, *arguments, code=0):
    return call(
        [
            "--config=configs/folder.py",
            f"--config.data.root={root}",
            "--config.data.size=(12,20)",
            f"--out={out}",
            *arguments,
        ],
        command.main,
        code,
    )


def test_the_command(tmp_path):
    root = folders.photos(tmp_path / "photos")
    said = make(root, tmp_path / "c")
    assert "train: 8 frames" in said
    assert f"train with --config.data.cache={tmp_path / 'c'}" in said
    training, evaluated = data.open_splits(config_of(root, cache=str(tmp_path / "c")))
    plain, plain_evaluated = data.open_splits(config_of(root))
    assert_alike(plain, training)
    assert_alike(plain_evaluated["val"], evaluated["val"])
    assert "as they were written" in call(["--verify", f"--out={tmp_path / 'c'}"], command.main)
    content = bytearray((tmp_path / "c" / "val.records").read_bytes())
    content[700] ^= 1
    (tmp_path / "c" / "val.records").write_bytes(content)
    said = call(["--verify", f"--out={tmp_path / 'c'}"], command.main, 1)
    assert f"val.records: is damaged at {plain_evaluated['val'].names[0]}" in said
    assert "give --config, or --verify" in call([f"--out={tmp_path / 'c'}"], command.main, 2)


def test_a_cache_that_does_not_fit_is_refused(tmp_path):
    root = folders.photos(tmp_path / "photos")
    make(root, tmp_path / "c")

    def refusal(**options):
        with pytest.raises(UserError) as error:
            data.open_splits(config_of(options.pop("root", root), cache=str(tmp_path / "c"), **options))
        return str(error.value)

    assert "is a cache of data.size [12, 20], not [6, 10]" in refusal(size=(6, 10))
    config = config_of(root, cache=str(tmp_path / "c"))
    config.folder.fields.depth.scale = 0.01  # the same fields and names, and other numbers
    with pytest.raises(UserError, match=r"is a cache of other data: data\.folder has the folder .*0\.001.*not .*0\.01"):
        data.open_splits(config)
    other = folders.photos(tmp_path / "more", 12)
    assert "is a cache of other frames in train, or of another class table: 8 frames" in refusal(root=other)
    folders.write(root, {"segmentation/0.png": np.full((24, 40), 9, np.uint8)})
    assert """its field 'segmentation' has the classes …""" in refusal()
    (tmp_path / "c" / "train.records").write_bytes(b"short")
    folders.photos(root)
    assert "train.records: has 5 of " in refusal()
    (tmp_path / "c" / "manifest.json").write_text("{")
    assert "manifest.json: is no manifest of a cache" in refusal()
    (tmp_path / "c" / "manifest.json").unlink()
    assert "holds no cache (no manifest.json): make it by python -m mtlflax.data.records" in refusal()
    assert (
        "holds manifest.tmp: give an empty folder"
        in (
            (tmp_path / "other").mkdir(),
            (tmp_path / "other" / "manifest.tmp").touch(),
            make(root, tmp_path / "other", code=1),
        )[-1]
    )


def test_a_frame_that_cannot_be_read_ends_it_and_the_rest_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "BLOCK", 2)
    source = Frames(10, broken=7)
    source.names, source.fields = (
        [f"frame_{i}" for i in range(10)],
        {"image": Image(), "depth": Depth(units.get("metres"))},
    )
    with pytest.raises(UserError, match=r"frame_7\.png: is truncated"):
        made(tmp_path / "c", source)
    assert not (tmp_path / "c" / "manifest.json").exists()
    read = []
    source.broken = None
    original = Frames.__getitem__
    monkeypatch.setattr(Frames, "__getitem__", lambda self, i: (read.append(i), original(self, i))[1])
    cache = made(tmp_path / "c", source)
    assert sorted(set(read)) == [0, 6, 7, 8, 9]  # the first tells the layout
    assert_alike(source, cache)
    (tmp_path / "c" / "manifest.json").rename(tmp_path / "c" / "manifest.old")
    with pytest.raises(UserError, match="holds manifest"):
        made(tmp_path / "c", source)


SLOW = """
import sys, time
from pathlib import Path
from helpers.every_field import Every
from mtlflax.data.records import writer
writer.BLOCK = 4
print("ready", flush=True)
class Slow(Every):
    def __getitem__(self, index):
        time.sleep(0.01)
        return super().__getitem__(index)
writer.write(Path(sys.argv[1]), {"train": Slow(60)}, %r, threads=2)
""" % (KEY,)  # noqa: UP031 (braces in the text)


def start(folder):
    paths = f"{REPOSITORY}:{REPOSITORY}/tests"
    command = [sys.executable, "-c", SLOW, str(folder)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def test_killed_and_gone_on_with(tmp_path):
    rng = np.random.default_rng(0)
    killed = 0
    while True:
        with start(tmp_path / "c") as process:
            try:
                assert process.wait(rng.uniform(0.05, 0.3)) == 0
                break
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
        assert killed < 30
    assert killed
    (tmp_path / "c" / "begun.json").write_text("{}")  # as if it had been killed before it had cleared up
    with start(tmp_path / "c") as process:
        assert process.wait(60) == 0
    assert_alike(Every(60), records.Records(tmp_path / "c", "train"))
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"manifest.json", "train.records", "lock"}


def test_two_processes_make_it_together(tmp_path):
    with start(tmp_path / "c") as one, start(tmp_path / "c") as other:
        assert (one.wait(120), other.wait(120)) == (0, 0)
    assert_alike(Every(60), records.Records(tmp_path / "c", "train"))


def test_the_manifest_says_what_it_is_of(tmp_path):
    root = folders.photos(tmp_path / "photos")
    make(root, tmp_path / "c")
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    train = manifest["splits"]["train"]
    assert train["names"] == data.open_splits(config_of(root))[0].names
    assert [c["name"] for c in train["fields"]["segmentation"]["classes"]] == list("01234")
    assert len(train["checksums"]) == 1
    sources = {split: data.open_source("folder", config_of(root), split) for split in ("train", "val")}
    assert manifest["key"] == json.loads(json.dumps(opening.key(config_of(root), sources)))


def test_what_a_cache_holds_is_not_checked_again(tmp_path):
    """Batches are as from the source, also with a field that is drawn later."""
    root = folders.photos(tmp_path / "photos")
    plain, _ = data.open_splits(config_of(root))
    config = config_of(root, cache=str(tmp_path / "c"))
    make(root, tmp_path / "c")
    cached, _ = data.open_splits(config)
    fields = {**plain.fields, "augment": Drawn()}
    options = {"batch_size": 4, "seed": 0, "num_threads": 0, "augment": Augment(fields=plain.fields, device=True)}
    with train_batches(plain, fields, **options) as a, train_batches(cached, fields, **options) as b:
        for _ in range(4):
            one, other = next(a), next(b)
            assert one.keys() == other.keys()
            for name, value in one.items():
                np.testing.assert_array_equal(other[name], value)


def test_frames_that_cannot_be_read_are_left_out_as_without_a_cache(tmp_path, monkeypatch, capsys):
    """The first one among them; the batches are the same, and a config that does not skip them is told."""
    monkeypatch.setenv("MTLFLAX_CACHE", str(tmp_path / "cache"))
    root = folders.photos(tmp_path / "photos")
    for name in ("0", "4"):
        (root / "images" / f"{name}.jpg").write_bytes(b"nothing")

    def batches(cache, on_error="skip"):
        config = folder_config.get_config().data
        config.update({"root": str(root), "size": (12, 20), "cache": cache, "on_error": on_error})
        training, _ = data.open_splits(config)
        options = {"batch_size": 3, "seed": 0, "augment": Augment(fields=training.fields), "on_error": on_error}
        with train_batches(training, dict(training.fields), **options) as opened:
            return [next(opened) for _ in range(8)]

    for one, other in zip(batches(""), batches("auto"), strict=True):
        for name in one:
            np.testing.assert_array_equal(other[name], one[name])
    assert "images/4.jpg" in capsys.readouterr().err
    (manifest,) = (tmp_path / "cache").rglob("manifest.json")
    parts = json.loads(manifest.read_text())["splits"].values()
    assert sum(len(part["unreadable"]) for part in parts) == 2
    with pytest.raises(UserError, match=r"images/[04]\.jpg: .* \(when the cache .* was made\)"):
        batches("auto", "raise")


class KilledError(Exception):
    pass


def test_killed_after_a_split_whose_layout_was_found_late_it_goes_on_with_that_layout(tmp_path):
    """The first frame has no depth, so that any code would do for it; the process dies in the second split."""
    root = folders.photos(tmp_path / "photos")
    options = {"image": "images/*", "val_share": 0.2, "fields": {"depth": {"files": "depth/*", "scale": 0.001}}}
    first = Folder(root, "train", options).frames[0].files["depth"]
    first.unlink()
    sources = {split: Folder(root, split, options) for split in ("train", "val")}

    def die():
        if (tmp_path / "c/blocks/train/0").exists():
            raise KilledError

    with pytest.raises(KilledError):
        writer.write(tmp_path / "c", sources, KEY, seen=die)
    writer.write(tmp_path / "c", sources, KEY)
    for split, source in sources.items():
        assert_alike(source, records.Records(tmp_path / "c", split))


def test_frames_of_different_sizes_are_no_cache(tmp_path):
    root = folders.photos(tmp_path / "photos")
    folders.write(root, {"images/5.jpg": folders.image(5, (40, 24))})
    with pytest.raises(ValueError, match=r"image is \[40, 24, 3\], and \[24, 40, 3\] in others: set data\.size"):
        made(tmp_path / "c", Folder(root, "train", {"image": "images/*", "val_share": 0.1}))


def test_a_cache_knows_the_class_table_and_the_files(tmp_path, monkeypatch):
    """Classes that were merged since, other files of the same names, and files that were changed."""
    monkeypatch.setenv("MTLFLAX_CACHE", str(tmp_path / "cache"))
    root, table = folders.photos(tmp_path / "photos"), tmp_path / "photos" / "classes.json"
    entries = [{"name": name, "id": i, "train_id": min(i, 3)} for i, name in enumerate("abcde")]
    table.write_text(json.dumps(entries))

    def opened(root, cache):
        config = config_of(root, cache=str(cache))
        config.folder.fields.segmentation.classes = "classes.json"
        return data.open_splits(config)[0]

    one = "--config.data.folder.fields.segmentation.classes=classes.json"
    make(root, tmp_path / "c", one)
    before = opened(root, "auto")[0]["segmentation"]
    opened(root, tmp_path / "c")
    other = folders.photos(tmp_path / "other")
    (other / "classes.json").write_text(table.read_text())
    for n in range(10):
        folders.write(other, {f"images/{n}.jpg": folders.image(n + 50)})
    with pytest.raises(UserError, match=r"is a cache of other data: image of the frame \d is not what its file holds"):
        opened(other, tmp_path / "c")
    entries[4]["train_id"] = 0  # the same classes, and other pixels
    table.write_text(json.dumps(entries))
    with pytest.raises(UserError, match="is a cache of other frames in train, or of another class table"):
        opened(root, tmp_path / "c")
    plain, cached = opened(root, "")[0], opened(root, "auto")[0]
    np.testing.assert_array_equal(cached["segmentation"], plain["segmentation"])
    assert (cached["segmentation"] != before).any()


def test_a_cache_does_not_depend_on_what_its_data_set_does_not_read(tmp_path):
    root = folders.photos(tmp_path / "photos")
    make(root, tmp_path / "c")
    config = config_of(root, cache=str(tmp_path / "c"), depth="metres")
    config.streets.train = 7
    data.open_splits(config)
