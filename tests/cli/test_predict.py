"""Prediction as a user runs it: pictures of any size, broken ones among them, on a run's checkpoint."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from helpers.trained import tiny_run

from mtlflax import predict
from mtlflax.data import labels
from mtlflax.errors import UserError
from mtlflax.run import map_files, picture_files, predictor


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_PLATFORMS", "cpu")
        patch.setattr(predict, "load", functools.cache(predict.load))  # which takes seconds
        yield tiny_run(folder)


def write_photos(folder):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (121, 193)), ("b.jpg", (64, 128)), ("tall.png", (90, 40))):
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (*size, 3), np.uint8))
    return folder


def test_every_picture_gets_its_maps_at_its_own_size(workdir, tmp_path, capsys):
    photos = write_photos(tmp_path / "photos")
    code = predict.main(["--workdir", str(workdir), "--images", str(photos), "--out", str(tmp_path / "out")])
    assert code == 0
    assert "3 pictures done, 0 skipped" in capsys.readouterr().out
    for name, size in (("a", (121, 193)), ("b", (64, 128)), ("tall", (90, 40))):
        read = {
            kind: cv2.imread(str(tmp_path / "out" / f"{name}_{kind}.png"), cv2.IMREAD_UNCHANGED)
            for kind in ("segmentation", "trainids", "depth", "depth_color", "overlay")
        }
        assert read["trainids"].shape == size
        assert read["trainids"].dtype == np.uint8
        assert read["trainids"].max() < 19
        np.testing.assert_array_equal(read["segmentation"][..., ::-1], labels.TRAIN_COLORS[read["trainids"]])
        assert read["depth"].shape == size
        assert read["depth"].dtype == np.uint16
        assert read["depth_color"].shape == read["overlay"].shape == (*size, 3)


def test_batches_and_threads_change_nothing(workdir, tmp_path, capsys):
    """Pictures of several shapes, a broken one among them; the lines are in their order."""
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(11):
        size = [(64, 128), (64, 128), (64, 128), (90, 60)][i % 4]
        cv2.imwrite(str(photos / f"{i:02}.png"), rng.integers(0, 256, (*size, 3), np.uint8))
    (photos / "05.png").write_bytes(b"broken")
    for size in (1, 4):
        arguments = ["--workdir", str(workdir), "--images", str(photos), "--out", str(tmp_path / str(size))]
        assert predict.main([*arguments, f"--batch_size={size}"]) == 1
        out, err = capsys.readouterr()
        assert "10 pictures done, 1 skipped" in out
        assert sum(line.endswith(".png done") for line in err.splitlines()) == 10
    files = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "4").iterdir())
    assert len(files) == 50
    for name in files:
        one, other = (cv2.imread(str(tmp_path / size / name), cv2.IMREAD_UNCHANGED) for size in ("1", "4"))
        assert np.mean(one == other) > 0.999, name  # rounded alike, but for a pixel or two


def test_an_error_of_a_writer_ends_the_command(workdir, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise UserError("cannot write it")

    monkeypatch.setattr(predict, "write_maps", refuse)
    photos = write_photos(tmp_path / "photos")
    with pytest.raises(UserError, match="cannot write it"):
        predict.main(["--workdir", str(workdir), "--images", str(photos), "--out", str(tmp_path / "out")])


def test_the_depth_png_is_metres_times_256(workdir, tmp_path):
    """Against the definition: disparity p = 65535 v, d = (p − 1) / 256, metres = focal_baseline / d."""
    photos = write_photos(tmp_path / "photos")
    picture = cv2.imread(str(photos / "a.png"))[..., ::-1]
    maps = predictor.predict_picture(picture, predictor.make_predict(predict.load(workdir)), (32, 64))
    values = map_files.enlarge(maps["depth"], picture.shape[:2])[..., 0].astype(np.float64)
    with np.errstate(divide="ignore"):
        metres = 400.0 / ((values * 65535 - 1) / 256)
    expected = np.where((metres > 0) & (metres * 256 < 65535), np.rint(metres * 256), 0)
    arguments = ["--workdir", str(workdir), "--images", str(photos / "a.png"), "--out", str(tmp_path)]
    assert predict.main([*arguments, "--focal_baseline=400", "--raw"]) == 0
    raw = np.load(tmp_path / "a_depth_metres.npy")
    assert (raw.dtype, raw.shape) == (np.float32, picture.shape[:2])
    visible = (metres > 0) & (metres < 1e3)
    np.testing.assert_allclose(raw[visible], metres[visible], rtol=2e-3)
    assert np.isinf(raw[metres < 0]).all()
    written = cv2.imread(str(tmp_path / "a_depth.png"), cv2.IMREAD_UNCHANGED)
    known = (written > 0) & (expected > 0)
    assert known.mean() > 0.1
    np.testing.assert_allclose(written[known], expected[known], rtol=2e-3, atol=1.01)
    assert ((written > 0) == (expected > 0)).mean() > 0.99


def test_a_broken_picture_is_skipped_with_a_line(workdir, tmp_path, capfd):
    photos = write_photos(tmp_path / "photos")
    (photos / "broken.png").write_bytes(b"not a picture")
    jpeg = (photos / "b.jpg").read_bytes()
    (photos / "half.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    code = predict.main(["--workdir", str(workdir), "--images", str(photos), "--out", str(tmp_path / "out")])
    assert code == 1
    out, err = capfd.readouterr()
    assert "3 pictures done, 2 skipped" in out
    lines = [line for line in err.splitlines() if line.startswith("skipped ")]
    assert lines == [
        f"skipped {photos}/broken.png: is not a picture that can be read",
        f"skipped {photos}/half.jpg: is truncated: copy it again",
    ]
    assert not list((tmp_path / "out").glob("half*"))


def test_a_12_bit_picture_is_predicted_as_its_8_bit_original(workdir, tmp_path, capfd):
    photos = write_photos(tmp_path / "photos")
    picture = cv2.imread(str(photos / "a.png"))
    cv2.imwrite(str(photos / "low.png"), np.rint(picture * (4095 / 255)).astype(np.uint16))
    arguments = ["--workdir", str(workdir), "--out", str(tmp_path / "out")]
    assert predict.main([*arguments, "--images", str(photos / "[al]*.png")]) == 0
    notes = [line for line in capfd.readouterr().err.splitlines() if line.startswith("NOTE: ")]
    assert notes == [f"NOTE: {photos}/low.png: 16-bit file with values up to 4095, read as 12-bit (white = 4095)"]
    for kind in ("trainids", "depth", "overlay"):
        maps = [(tmp_path / "out" / f"{name}_{kind}.png").read_bytes() for name in ("a", "low")]
        assert maps[0] == maps[1]


@pytest.mark.parametrize(
    ("small", "large"), [((7, 12), (150, 90)), ((48, 96), (30, 41)), ((8, 8), (8, 8)), ((1, 3), (65, 2))]
)
def test_enlarging_is_bilinear_and_by_strips_the_same(small, large):
    """Against the definition, in float64: the weight of a value falls linearly to 0 at its neighbours' places."""
    values = np.random.default_rng(0).standard_normal((*small, 19)).astype(np.float32)

    def weights(few, many):
        centres = np.clip((np.arange(many) + 0.5) * few / many - 0.5, 0, few - 1)
        return np.maximum(1 - np.abs(centres[:, None] - np.arange(few)[None]), 0)

    expected = np.einsum("yh,xw,hwc->yxc", weights(small[0], large[0]), weights(small[1], large[1]), values)
    enlarged = map_files.enlarge(values, large)
    np.testing.assert_allclose(enlarged, expected, atol=1e-4)
    strips = [map_files.enlarge(values, large, slice(start, start + 9)) for start in range(0, large[0], 9)]
    np.testing.assert_allclose(np.concatenate(strips), enlarged, atol=1e-6)
    second, first = np.sort(expected, axis=-1)[..., -2:].transpose(2, 0, 1)
    clear = first - second > 1e-3
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(enlarged.argmax(-1)[clear], expected.argmax(-1)[clear])


def test_large_pictures_are_drawn_in_strips(workdir, tmp_path, monkeypatch):
    """What is held of all 19 channels at the picture's size is bounded, and the files are those of the whole."""
    run = predict.load(workdir)
    picture = cv2.imread(str(write_photos(tmp_path / "photos") / "a.png"))[..., ::-1]
    maps = predictor.predict_picture(picture, predictor.make_predict(run), (32, 64))
    enlarge, sizes = map_files.enlarge, []
    monkeypatch.setattr(map_files, "enlarge", lambda *a: sizes.append((r := enlarge(*a)).nbytes) or r)
    largest, written = [], []
    for rows in (1000, 10):
        monkeypatch.setattr(map_files, "_STRIP", rows)
        sizes.clear()
        (tmp_path / str(rows)).mkdir()
        map_files.write_maps(picture, maps, run.network.tasks, tmp_path / str(rows) / "a")
        largest.append(max(sizes))
        files = sorted((tmp_path / str(rows)).iterdir())
        written.append({file.name: cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in files})
    assert largest == [121 * 193 * 19 * 4, 10 * 193 * 19 * 4]
    assert len(written[0]) == 5
    assert written[0].keys() == written[1].keys()
    for name, image in written[0].items():
        np.testing.assert_array_equal(written[1][name], image, err_msg=name)


def test_two_pictures_of_one_name_do_not_overwrite_each_other(workdir, tmp_path):
    photos = write_photos(tmp_path / "photos")
    cv2.imwrite(str(photos / "a.jpg"), np.zeros((50, 60, 3), np.uint8))
    assert predict.main(["--workdir", str(workdir), "--images", str(photos), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "a.png_depth.png").exists()
    assert (tmp_path / "out" / "a.jpg_depth.png").exists()


def test_pictures_of_one_file_name_in_two_folders(workdir, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "x.png"), np.zeros((50, 60, 3), np.uint8))
    pattern, out = str(tmp_path / "?" / "x.png"), tmp_path / "out"
    assert predict.main(["--workdir", str(workdir), "--images", pattern, "--out", str(out)]) == 0
    assert (out / "a" / "x_depth.png").exists()
    assert (out / "b" / "x_depth.png").exists()


def test_metres_do_not_depend_on_how_much_a_picture_shows(workdir):
    """A picture cropped at its sides reaches the network at the same scale, so that one focal length fits both."""
    network = predictor.make_predict(predict.load(workdir))
    seen = []
    for width in (256, 128):
        predictor.predict_picture(
            np.zeros((128, width, 3), np.uint8), lambda x: seen.append(x.shape) or network(x), (32, 64)
        )
    assert seen == [(1, 32, 64, 3), (1, 32, 32, 3)]


def test_odd_pictures_are_skipped_and_brackets_are_names(workdir, tmp_path, capfd):
    cv2.imwrite(str(tmp_path / "long.png"), np.zeros((4, 400, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "img[1].png"), np.zeros((50, 60, 3), np.uint8))
    arguments = ["--workdir", str(workdir), "--out", str(tmp_path / "out")]
    assert predict.main([*arguments, "--images", str(tmp_path / "img[1].png")]) == 0
    assert predict.main([*arguments, "--images", str(tmp_path / "long.png")]) == 1
    assert "4×400 is too elongated" in capfd.readouterr().err


def test_mistakes(workdir, tmp_path):
    with pytest.raises(UserError, match="no pictures at"):
        predict.main(["--workdir", str(workdir), "--images", str(tmp_path / "*.png"), "--out", str(tmp_path)])
    photos = write_photos(tmp_path / "photos")
    with pytest.raises(UserError, match=r"no config\.json"):
        predict.main(["--workdir", str(tmp_path), "--images", str(photos), "--out", str(tmp_path)])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        predict.main(["--workdir", str(workdir), "--images", str(photos), "--out", str(tmp_path / "file" / "out")])


def test_only_the_network_is_built_and_restored(workdir, tmp_path):
    """A run is predicted with where its optimizer and its weighting cannot be built, nor their states be restored."""
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    content = json.loads((copy / "config.json").read_text())
    content["config"]["weighting"] = {"name": "of_another_version"}
    content["config"]["optimizer"] = {"name": "lost"}
    (copy / "config.json").write_text(json.dumps(content))
    there, here = predict.load(workdir), predict.load(copy)
    jax.tree.map(np.testing.assert_array_equal, here.variables, there.variables)
    assert here.variables.keys() == {"params", "batch_stats"}
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 64, 3), np.uint8)
    jax.tree.map(
        np.testing.assert_array_equal, predictor.make_predict(here)(images), predictor.make_predict(there)(images)
    )


def rename(tree, old, new):
    """Rename a key, "a/b", of nested dicts."""
    *path, key = old.split("/")
    for part in path:
        tree = tree[part]
    tree[new] = tree.pop(key)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("config", "has no key 'config'"),
        ("facts", "has no key 'facts'"),
        ("config/tasks", r"cannot build the network .*tasks"),
        ("config/data/size", r"cannot build the network .*size"),
        ("config/model/name", r"cannot build the network .*name"),
        ("config/seed", r"cannot build the network .*seed"),
        ("fields/image", r"cannot build the network .*image"),
        ("config/model/backbone", r"cannot build the network .*backbone"),
    ],
)
def test_a_renamed_key_in_config_json_is_named(key, said, workdir, tmp_path):
    content = json.loads((workdir / "config.json").read_text())
    rename(content, key, "renamed")
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"(?s){said}"):
        predict.load(tmp_path)


PICTURE = np.random.default_rng(2).integers(0, 256, (40, 60, 3), np.uint8)


def test_what_is_passed_over_is_counted_and_named(workdir, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.ppm", "c.gif"):
        assert cv2.imwrite(str(photos / name), PICTURE)
    cv2.imwrite(str(tmp_path / "d.jpg"), PICTURE)
    (tmp_path / "d.jpg").rename(photos / "d.JFIF")
    for name in ("phone.HEIC", "._a.png", "notes.txt"):
        (photos / name).write_bytes(b"\0")
    (photos / "folder.png").mkdir()
    (photos / "other").mkdir()
    (photos / "loop.png").symlink_to(photos / "loop.png")
    (photos / "lost.png").symlink_to(photos / "nowhere.png")
    assert predict.main(["--workdir", str(workdir), "--images", str(photos), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == (
        f"4 pictures done, 0 skipped; maps in {tmp_path}/out "
        "(6 passed over: ._a.png, folder.png, loop.png, lost.png, notes.txt, …)\n"
    )
    assert sorted(p.name.partition("_")[0] for p in (tmp_path / "out").glob("*_depth.png")) == ["a", "b", "c", "d"]
    assert picture_files.find(str(photos / "*.HEIC")) == ([photos / "phone.HEIC"], [])
    with pytest.raises(UserError, match=r"no pictures at .* \(2 passed over: notes\.txt, phone\.HEIC\)"):
        picture_files.find(str(photos / "[np]*"))


@pytest.mark.parametrize(
    ("pictures", "names"),
    [
        (["p/q_r.png", "p_q/r.png"], ["q_r", "r"]),
        (["p/q_r.png", "p_q/r.png", "p_q/q_r.png"], ["p/q_r", "p_q/r", "p_q/q_r"]),
        (["a.png", "a.jpg", "a.png.jpg", "p/a.png"], ["a.png", "a.jpg", "a.png.jpg", "p/a.png"]),
        (["x/a.png", "x/../y/a.png"], ["x/a", "y/a"]),
    ],
)
def test_no_two_pictures_share_their_maps(pictures, names):
    assert [str(name) for name in picture_files.output_names([Path(p) for p in pictures])] == names


def test_maps_are_not_written_among_the_pictures(workdir, tmp_path):
    photos = write_photos(tmp_path / "photos")
    arguments = ["--workdir", str(workdir), "--images", str(photos), "--out"]
    with pytest.raises(UserError, match=r"--out=.*photos is where --images finds pictures \(.*/a\.png\)"):
        predict.main([*arguments, str(photos / ".." / "photos")])
    everything = ["--workdir", str(workdir), "--images", str(tmp_path / "**" / "*.png"), "--out", str(tmp_path / "out")]
    assert predict.main(everything) == 0
    written = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(UserError, match="is where --images finds pictures"):
        predict.main(everything)
    assert sorted((tmp_path / "out").rglob("*")) == written
    (photos / "a_depth.png").write_bytes(truth := b"the user's own")
    with pytest.raises(UserError, match="so that no file there is overwritten"):
        predict.main(["--workdir", str(workdir), "--images", str(photos / "a.png"), "--out", str(photos)])
    assert (photos / "a_depth.png").read_bytes() == truth


@pytest.mark.parametrize("value", ["-5", "0", "nan", "inf", "many"])
def test_a_focal_baseline_is_positive(value, capsys):
    arguments = ["--workdir=run", "--images=photos", "--out=maps", f"--focal_baseline={value}"]
    with pytest.raises(SystemExit) as stopped:
        predict.main(arguments)
    assert stopped.value.code == 2
    expected = f"error: argument --focal_baseline: '{value}' is not a positive number (--help lists the flags)\n"
    assert capsys.readouterr().err == expected


def test_home_is_found_in_every_path(workdir, tmp_path, monkeypatch):
    """The shell leaves ~ alone after = and in quotes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos")
    (tmp_path / "run").symlink_to(workdir)
    assert predict.main(["--workdir=~/run", "--images=~/photos/*.png", "--out=~/maps"]) == 0
    assert (tmp_path / "maps" / "a_depth.png").is_file()
    assert not (tmp_path / "~").exists()


def test_help_says_what_the_files_hold_on_any_terminal():
    done = subprocess.run(
        [sys.executable, "-m", "mtlflax.predict", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert "NAME_depth.png          16-bit gray  metres ? 256; 0 = unknown" in done.stdout
    assert "NAME_depth_metres.npy   float32" in done.stdout
    assert done.stderr == ""
