"""The embedded data set: what is seen where, how it is encoded, the cache and the written tree."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from mtlflax.data import labels
from mtlflax.data.cityscapes import Cityscapes
from mtlflax.data.streets import LENGTHS, Streets, cache, frame, frame_name, version, write
from mtlflax.data.streets.__main__ import main
from mtlflax.data.streets.camera import full_columns, full_rows
from mtlflax.data.streets.projection import project
from mtlflax.data.streets.random_stream import RandomStream
from mtlflax.data.streets.raster import rasterize
from mtlflax.data.streets.render import render
from mtlflax.data.streets.scene import draw
from mtlflax.data.streets.shapes import SHAPES
from mtlflax.data.streets.stage import Pose, Stage
from mtlflax.data.streets.surface import Material
from mtlflax.errors import UserError

SIZE = (96, 192)
ROAD, SKY, EGO = 7, 23, 1


@pytest.fixture(scope="module")
def frames() -> list[frame.RecordedFrame]:
    return [frame.make(0, "train", i, (64, 128)) for i in range(48)]


def _same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_a_sample_is_what_every_source_gives():
    source = Streets("val", size=SIZE)
    assert (len(source), len(Streets("train", size=SIZE))) == (500, 2975)
    assert LENGTHS["test"] == 1525
    sample = source[3]
    assert sample["image"].shape == (*SIZE, 3)
    assert sample["image"].dtype == np.uint8
    assert sample["segmentation"].shape == SIZE
    assert sample["segmentation"].dtype == np.uint8
    assert set(np.unique(sample["segmentation"])) <= {*range(19), 255}
    assert sample["depth"].shape == (*SIZE, 1)
    assert sample["depth"].dtype == np.float32
    assert sample["focal_baseline"].dtype == np.float32
    assert 470 < sample["focal_baseline"] < 510
    assert sample["name"] == "streets-val_000003_000019"
    assert _same(source[-497], sample)
    for index in (500, -501):
        with pytest.raises(IndexError):
            source[index]


def test_equal_addresses_give_equal_bits_and_others_do_not():
    source = Streets("train", size=SIZE)
    first = source[5]
    source[2]
    assert _same(source[5], first)
    assert _same(pickle.loads(pickle.dumps(source))[5], first)
    others = [Streets("val", size=SIZE)[5], Streets("train", size=SIZE, seed=1)[5], source[6]]
    for other in others:
        assert np.mean(other["segmentation"] != first["segmentation"]) > 0.05


def test_seven_classes_are_the_categories_of_the_nineteen():
    fine, coarse = (Streets("val", size=SIZE, classes=n)[1]["segmentation"] for n in (19, 7))
    scored = fine != 255
    assert np.array_equal(labels.TRAIN_TO_CATEGORY[fine[scored]], coarse[scored])


@pytest.mark.parametrize("index", [0, 1, 2])
def test_another_size_shows_the_same_scene(index: int):
    small, large = (frame.make(0, "val", index, size) for size in ((128, 256), (384, 768)))
    # Of three rows, the middle one has the same centre.
    centre = (slice(1, None, 3), slice(1, None, 3))
    assert np.mean(small.label == large.label[centre]) > 0.995
    both = (small.codes > 1) & (large.codes[centre] > 1)
    near = np.abs(small.codes[both] / 1.0 - large.codes[centre][both]) <= 1
    assert near.mean() > 0.995
    image = cv2.resize(large.image, (256, 128), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(image - small.image).mean() < 8


@pytest.mark.parametrize("size", [(33, 47), (64, 64), (40, 200), (8, 8)])
def test_any_size_works(size: tuple[int, int]):
    sample = Streets("train", size=size)[0]
    assert sample["image"].shape == (*size, 3)
    assert np.isfinite(sample["depth"]).all()


def test_large_frames_rendered_in_blocks_have_no_seams():
    scene = draw(0, "train", 4)
    x = np.linspace(-0.5, 0.45, 301)
    y = np.linspace(-0.2, 0.2, 121)
    projection = project(scene.parts, scene.camera)
    whole = rasterize(scene, projection, x, y)
    for rows in (slice(0, 50), slice(50, 121)):
        block = rasterize(scene, projection, x, y[rows])
        same = block.true_face == whole.true_face[rows]
        assert same.mean() > 0.998  # leaves are rounded to 1/32 texel from each block's corner
        near, far = block.inverse[same], whole.inverse[rows][same]
        assert np.mean(np.abs(near - far) < 1e-3 * far + 1e-5) > 0.999


def test_all_classes_occur_often_enough_to_be_learnt(frames: list[frame.RecordedFrame]):
    shares = np.zeros(19)
    present = np.zeros(19)
    for made in frames:
        counts = np.bincount(labels.TRAIN_ID_LUT[made.label].ravel(), minlength=256)[:19]
        shares += counts
        present += counts > 0
    assert (present / len(frames) >= 0.15).all(), present
    shares /= shares.sum()
    names = dict(zip(labels.TRAIN_NAMES, shares, strict=True))
    assert 0.25 < names["road"] < 0.5
    big = [names[name] for name in ("road", "building", "vegetation", "sky", "car")]
    assert min(big) > 0.05
    assert sum(big) > 0.7


def test_colours_do_not_tell_the_class(frames: list[frame.RecordedFrame]):
    """The best guess from a pixel's colour alone, learnt on half of the frames, is a poor one."""
    half = len(frames) // 2

    def table(part: list[frame.RecordedFrame]) -> np.ndarray:
        counts = np.zeros((4096, 256))
        for made in part:
            bins = (made.image // 16).astype(int) @ [256, 16, 1]
            np.add.at(counts, (bins.ravel(), labels.TRAIN_ID_LUT[made.label].ravel()), 1)
        return counts[:, :19]

    seen, new = table(frames[:half]), table(frames[half:])
    guess = seen.argmax(1)
    recall = [new[guess == c, c].sum() / max(new[:, c].sum(), 1) for c in range(19)]
    assert np.mean(recall) < 0.35


def test_every_shape_is_convex_and_closed():
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        if name == "ellipsoid":
            continue
        used = slice(0, shape.planes)
        normals, offsets = shape.normals[used], shape.offsets[used]
        directions = rng.standard_normal((500, 3))
        reach = np.where(directions @ normals.T > 0, offsets / np.maximum(directions @ normals.T, 1e-9), np.inf)
        assert (offsets > 0).all(), name  # the origin is inside
        surface = directions * reach.min(1)[:, None]
        assert np.abs(surface).max() < 1.16, name
        assert np.abs(surface).max(0).min() > 0.7, name


@pytest.mark.parametrize("index", range(4))
def test_ground_depth_is_the_cameras_geometry(index: int):
    """Z of a road pixel from pitch, roll and height alone, with rotations written out here."""
    height, width = 128, 256
    scene = draw(0, "train", index)
    camera = scene.camera
    rendered = render(scene, (height, width))
    rows, cols = np.nonzero(rendered.label == ROAD)
    x = ((cols + 0.5) * 2048 / width - 0.5 - camera.rig.u0) / camera.rig.fx
    y = ((rows + 0.5) * 2048 / width - 0.5 - camera.rig.v0) / camera.rig.fy
    cos, sin = np.cos, np.sin
    # Undo the roll, then tilt: how far a ray of unit depth comes down.
    level_y = cos(camera.roll) * y + sin(camera.roll) * x
    down = cos(camera.pitch) * level_y + sin(camera.pitch)
    expected = camera.position[1] / down
    near = expected < 60
    assert near.sum() > 2000
    np.testing.assert_allclose(1 / rendered.inverse[rows, cols][near], expected[near], rtol=2e-4)


def _alone(shape: str, size: tuple[float, float, float], *, yaw: float = 0.3, tilt: float = 0.0):
    """A scene with one solid in front of the camera."""
    scene = draw(0, "train", 0)
    stage = Stage(RandomStream(1))
    stage.put(Pose(0.8, 0.3, 9.0, yaw, 26), shape, (0, 0, 0), size, (0.5, 0.5, 0.5), tilt=tilt)
    return scene._replace(parts=np.array(stage.parts))


@pytest.mark.parametrize("shape", ["box", "hull", "cabin", "wheel", "disc", "gable", "ellipsoid"])
def test_solids_are_hit_where_a_ray_marcher_hits_them(shape: str):
    """Depth and outline against points tried one by one along each ray, in float64."""
    size, yaw, tilt = (1.6, 1.4, 3.0), 0.3, 0.2
    scene = _alone(shape, size, yaw=yaw, tilt=tilt)
    x, y = np.linspace(-0.15, 0.4, 45), np.linspace(-0.1, 0.15, 31)
    buffers = rasterize(scene, project(scene.parts, scene.camera), x, y)
    z = np.arange(5.0, 13.0, 0.01)
    ray = np.stack(np.broadcast_arrays(x[None], y[:, None], np.ones((31, 45))), -1)
    world = scene.camera.position + (ray @ scene.camera.rotation)[..., None, :] * z[:, None]
    away = world - (0.8, 0.3 + size[1] / 2, 9.0)
    side = np.cos(yaw) * away[..., 0] - np.sin(yaw) * away[..., 2]
    ahead = np.sin(yaw) * away[..., 0] + np.cos(yaw) * away[..., 2]
    up = np.cos(tilt) * away[..., 1] + np.sin(tilt) * ahead
    ahead = np.cos(tilt) * ahead - np.sin(tilt) * away[..., 1]
    local = np.stack([side, up, ahead], -1) / (np.array(size) / 2)
    if shape == "ellipsoid":
        inside = (local**2).sum(-1) <= 1
    else:
        inside = (local @ SHAPES[shape].normals.T <= SHAPES[shape].offsets).all(-1)
    inside &= world[..., 1] > 0.02  # under the road one does not see it
    expected = np.where(inside.any(-1), z[inside.argmax(-1)], np.inf)
    hit = buffers.face < 14
    assert inside.any(-1).sum() > 50
    assert np.mean(hit == inside.any(-1)) > 0.97
    both = hit & inside.any(-1)
    np.testing.assert_allclose(1 / buffers.inverse[both], expected[both], atol=0.03)


def test_fences_count_where_one_sees_through_them():
    scene = _alone("box", (6.0, 1.5, 0.1))
    fence = scene.parts.copy()
    fence[0, 9] = Material.FENCE
    fence[0, 16:20] = (0.3, 0, 1.5, 0)
    scene = scene._replace(parts=fence)
    x, y = np.linspace(-0.1, 0.3, 200), np.linspace(-0.1, 0.1, 90)
    buffers = rasterize(scene, project(scene.parts, scene.camera), x, y)
    counted, shown = buffers.true_face < 14, buffers.face < 14
    assert not (shown & ~counted).any()
    assert 0.05 < shown.sum() / counted.sum() < 0.6
    assert (buffers.true_inverse[counted] >= buffers.inverse[counted]).all()


def test_codes_are_those_that_cityscapes_has(frames: list[frame.RecordedFrame]):
    codes = np.stack([made.codes for made in frames])
    valid = codes[codes > 1]
    assert valid.min() >= 257
    assert valid.max() <= 32257
    label = np.stack([made.label for made in frames])
    sky = codes[label == SKY]
    assert set(np.unique(sky)) == {0, 1}
    assert 0.1 < np.mean(sky == 0) < 0.6
    assert 0.12 < np.mean(codes == 0) < 0.25
    assert 0.7 < np.mean(codes[label == EGO] == 0) < 0.99


def test_invalid_borders_and_hidden_strips_follow_stereo_geometry():
    made = frame.make(0, "train", 7, (256, 512))
    x, y = full_columns(np.arange(512), 512), full_rows(np.arange(256), 256, 512)
    assert not made.codes[(y < 30) | (y >= 970)].any()
    assert not made.codes[:, (x < 10) | (x >= 2038)].any()
    disparity = np.maximum(made.codes.astype(float) - 1, 0) / 256
    valid = made.codes > 0
    right = x - disparity
    assert (right[valid] > -0.01).all()  # in the other camera's view
    # What is seen is not hidden from the other camera by anything further right.
    for row in range(0, 256, 16):
        at = np.flatnonzero(valid[row])
        if at.size:
            later = np.minimum.accumulate(right[row, at][::-1])[::-1]
            assert (right[row, at] <= later + 1.6).all()


def test_void_frame_and_bonnet():
    made = frame.make(0, "train", 0, (256, 512))
    assert (made.label[0] == 3).all()
    assert (made.label[:, [0, -1]] == 3).all()
    assert (made.label == EGO)[220:].any()
    assert {2, 3, EGO} <= set(np.unique(made.label))
    assert (labels.TRAIN_ID_LUT[made.label[-1]] == 255).all()


def test_cache_gives_the_same_and_renders_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    live = Streets("val", size=(32, 64), length=20, depth="metres")
    kept = Streets("val", size=(32, 64), length=20, depth="metres", cache=str(tmp_path))
    assert "20/20" in capfd.readouterr().err
    assert all(_same(live[i], kept[i]) for i in range(20))
    calls = []
    monkeypatch.setattr(cache, "_render", lambda *arguments: calls.append(arguments))
    again = Streets("val", size=(32, 64), length=20, cache=str(tmp_path))
    assert calls == []
    again = pickle.loads(pickle.dumps(again))
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda i: again[i]["image"], range(20)))
    assert all(np.array_equal(image, live[i]["image"]) for i, image in enumerate(images))
    assert all(image.flags.writeable for image in images)
    folder = next(tmp_path.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == ["frames.npy", "lock"]
    folders = {
        cache.Key("val", (32, 64), 0, 20).folder,
        cache.Key("train", (32, 64), 0, 20).folder,
        cache.Key("val", (64, 32), 0, 20).folder,
        cache.Key("val", (32, 64), 1, 20).folder,
        cache.Key("val", (32, 64), 0, 21).folder,
    }
    assert len(folders) == 5


def test_a_changed_renderer_does_not_read_an_old_cache(tmp_path: Path):
    """A copy of the package, of which one constant is changed: its frames are its own, and those before stay."""
    script = "from mtlflax.data.streets import Streets; import sys\n"
    script += "print(Streets('val', size=(32, 64), length=1, cache=sys.argv[1])[0]['image'].sum())"
    package = Path(cache.mtlflax.__file__).parent
    shutil.copytree(package, tmp_path / "copy" / "mtlflax", ignore=shutil.ignore_patterns("__pycache__"))
    kept = tmp_path / "cache"

    def rendered() -> str:
        command = [sys.executable, "-P", "-c", script, str(kept)]
        path = {"PYTHONPATH": str(tmp_path / "copy")}
        return subprocess.run(command, env=os.environ | path, check=True, capture_output=True, text=True).stdout

    before = rendered()
    assert int(before) == Streets("val", size=(32, 64), length=1, cache=str(kept))[0]["image"].sum()
    assert len(list(kept.iterdir())) == 1  # the same source elsewhere shares it
    changed = tmp_path / "copy" / "mtlflax" / "data" / "streets" / "light.py"
    source = changed.read_text()
    exposure = "exposure = rng.uniform(0.85, 1.3)"
    assert exposure in source
    changed.write_text(source.replace(exposure, "exposure = rng.uniform(0.4, 0.5)"))
    assert int(rendered()) < 0.8 * int(before)
    assert len(list(kept.iterdir())) == 2
    changed.write_text(source)
    assert rendered() == before
    assert len(list(kept.iterdir())) == 2


def test_every_module_that_a_frame_needs_decides_the_renderers_version():
    script = "import sys, mtlflax.data.streets.worker\n"
    script += "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'mtlflax'), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    package = Path(cache.mtlflax.__file__).parent
    indifferent = {package / "__init__.py", package / "errors.py", package / "data" / "__init__.py"}
    loaded = set(map(Path, done.stdout.split("\n")[:-1]))
    assert Path(frame.__file__) in loaded
    assert loaded - indifferent <= set(version.sources())


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MTLFLAX_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache.default_folder() == Path("/a/streets")
    monkeypatch.delenv("MTLFLAX_CACHE")
    assert cache.default_folder() == Path("/b/mtlflax/streets")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.default_folder() == Path.home() / ".cache/mtlflax/streets"


# As a script read from stdin: with no file to import again and no guard.
_SCRIPT = """
import sys
from mtlflax.data.streets import Streets
source = Streets("train", size=(48, 96), length=80, cache=sys.argv[1])
print(int(source[79]["image"].sum()))
"""


def _start(folder: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(_SCRIPT)
    process.stdin.close()
    process.stdin = None
    return process


def _wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_cache_survives_a_kill_and_two_runs_at_once(tmp_path: Path):
    folder = tmp_path / cache.Key("train", (48, 96), 0, 80).folder
    done = folder / "done.part"
    first = _start(tmp_path)
    _wait_for(lambda: done.exists() and any(done.read_bytes()))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not (folder / "frames.npy").exists()
    rendered = sum(done.read_bytes())
    assert 0 < rendered < 80

    # The next run goes on from there; one more at the same time waits for it.
    second = _start(tmp_path)
    _wait_for(lambda: sum(done.read_bytes()) > rendered if done.exists() else True)
    third = _start(tmp_path)
    outputs = [process.communicate(timeout=60) for process in (second, third)]
    expected = str(int(Streets("train", size=(48, 96))[79]["image"].sum()))
    assert [out.strip() for out, _ in outputs] == [expected, expected]
    assert f": {rendered}/80" in outputs[0][1]
    assert "waiting" in outputs[1][1]
    assert "rendering streets" not in outputs[1][1]
    kept = Streets("train", size=(48, 96), length=80, cache=str(tmp_path))
    live = Streets("train", size=(48, 96))
    assert all(_same(kept[i], live[i]) for i in range(0, 80, 7))


def test_cache_says_where_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match=rf"{file}.*MTLFLAX_CACHE"):
        Streets("val", size=(32, 64), length=2, cache=str(file))

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"No space left.*MTLFLAX_CACHE"):
        Streets("val", size=(32, 64), length=2, cache=str(tmp_path))
    monkeypatch.undo()
    assert len(Streets("val", size=(32, 64), length=2, cache=str(tmp_path))) == 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"split": "dev"}, ValueError, "train, val, test"),
        ({"depth": "feet"}, ValueError, "feet"),
        ({"classes": 8}, ValueError, "19"),
        ({"size": (0, 64)}, UserError, "data.size"),
        ({"size": 64}, UserError, "data.size"),
        ({"size": (64.5, 32)}, UserError, "data.size"),
        ({"seed": -1}, UserError, "data.seed"),
        ({"length": 0}, UserError, "data.length"),
    ],
)
def test_mistakes_are_named(arguments: dict, error: type[Exception], message: str):
    options = {"split": "val", "size": (32, 64)} | arguments
    with pytest.raises(error, match=message):
        Streets(options.pop("split"), **options)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    assert main([f"--out={root}", "--size=64x128", "--train=2", "--val=3", "--jobs=1"]) == 0
    return root


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("unit", ["normalised_disparity", "disparity", "inverse_metres", "metres"])
def test_written_tree_reads_back_as_the_source(tree: Path, split: str, unit: str):
    written = Cityscapes(tree, split, depth=unit)
    source = Streets(split, size=(64, 128), depth=unit)
    assert len(written) == (2 if split == "train" else 3)
    for index in range(len(written)):
        ours, theirs = source[index], written[index]
        assert _same(ours, theirs)
        assert all(type(ours[key]) is type(theirs[key]) for key in ours)


def test_written_files_have_the_official_encodings(tree: Path):
    made = frame.make(0, "val", 1, (64, 128))
    stem = f"val/streets-val/{frame_name('val', 1)}"
    instances = cv2.imread(str(tree / f"gtFine/{stem}_gtFine_instanceIds.png"), cv2.IMREAD_UNCHANGED)
    assert instances.dtype == np.uint16
    assert np.array_equal(np.where(instances < 1000, instances, instances // 1000), made.label)
    assert set(np.unique(instances[instances >= 1000] // 1000)) <= set(range(24, 34))
    things = np.array([row.has_instances for row in labels.LABELS])[made.label]
    assert np.array_equal(things, instances >= 1000)
    color = cv2.imread(str(tree / f"gtFine/{stem}_gtFine_color.png"), cv2.IMREAD_UNCHANGED)
    assert color.shape == (64, 128, 4)
    for row in labels.LABELS[:-1]:
        at = made.label == row.id
        assert (color[at] == (*row.color[::-1], 255)).all()
    camera = json.loads((tree / f"camera/{stem}_camera.json").read_text())
    assert set(camera["extrinsic"]) == {"baseline", "pitch", "roll", "x", "y", "yaw", "z"}
    assert set(camera["intrinsic"]) == {"fx", "fy", "u0", "v0"}
    assert camera["intrinsic"]["fx"] > 2000


def test_the_official_evaluator_reads_the_tree(tree: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # gone from NumPy 2.4, which 2.3.0 uses
    monkeypatch.setenv("CITYSCAPES_DATASET", str(tree))
    evaluation = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    truths = sorted(map(str, tree.glob("gtFine/val/*/*_gtFine_labelIds.png")))
    arguments = evaluation.args
    monkeypatch.setattr(arguments, "JSONOutput", False)
    monkeypatch.setattr(arguments, "quiet", True)
    result = evaluation.evaluateImgLists(truths, truths, arguments)
    assert result["averageScoreClasses"] == 1
    assert result["averageScoreInstClasses"] == 1


def test_a_second_call_replaces_the_first(tmp_path: Path):
    root = tmp_path / "tree"
    write.write_tree(root, (16, 32), {"train": 2, "val": 1})
    (root / "leftImg8bit/train/streets-train/.half.png.7").write_text("")
    write.write_tree(root, (32, 64), {"train": 1, "val": 1}, seed=3)
    assert len(list(root.glob("leftImg8bit/train/*/*"))) == 1
    assert not list(root.rglob(".*"))
    assert _same(Cityscapes(root, "train")[0], Streets("train", size=(32, 64), seed=3)[0])


@pytest.mark.parametrize("argument", ["--size=12", "--size=0x64", "--train=-1", "--val=many", "--tarin=3"])
def test_bad_flags_end_with_one_line_and_code_2(argument: str, tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([f"--out={tmp_path / 'new'}", argument])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert argument.split("=")[0] in error
    assert not (tmp_path / "new").exists()


def test_other_peoples_folders_are_left_alone(tmp_path: Path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main([f"--out={tmp_path}", "--size=16x32", "--train=1", "--val=0"]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_writing_with_several_processes(tmp_path: Path):
    command = [sys.executable, "-m", "mtlflax.data.streets", f"--out={tmp_path}", "--size=32x64"]
    subprocess.run([*command, "--train=3", "--val=1", "--jobs=2"], check=True, capture_output=True)
    read, live = Cityscapes(tmp_path, "train"), Streets("train", size=(32, 64))
    assert all(_same(read[i], live[i]) for i in range(3))
