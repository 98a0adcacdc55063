"""Which files make up a frame, and which frames a split."""

import json

import pytest

from mtlflax.data.folder import frames, lists
from mtlflax.errors import UserError

pytestmark = pytest.mark.quick

TRUTH = (".png", ".npy")
FIELDS = ("segmentation", "depth", "focal_baseline")


@pytest.fixture
def files(tmp_path):
    def write(*paths):
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
        return tmp_path

    return write


def match(root, image, split="train", splits=None, val_share=0.2, **fields):
    patterns = {name: (pattern, TRUTH) for name, pattern in fields.items()}
    found, unused = frames.match(root, split, image, patterns, splits or {}, val_share)
    shown = {f.name: {key: str(path.relative_to(root)) for key, path in f.files.items()} for f in found}
    return shown, unused


def test_files_of_one_name_belong_together(files):
    root = files("rgb/a.jpg", "rgb/b.PNG", "rgb/notes.txt", "rgb/._a.jpg", "mask/a.png", "mask/c.png", "d/b.npy")
    for split, val_share in (("train", 0.01), ("val", 0.99)):
        found, unused = match(root, "rgb/*", split, val_share=val_share, seg="mask/*", depth="d/*.npy")
        assert len(found) == 1
    every = {}
    for split in ("train", "val"):
        every |= match(root, "rgb/*", split, val_share=0.5, seg="mask/*", depth="d/*.npy")[0]
    assert every == {
        "a": {"image": "rgb/a.jpg", "seg": "mask/a.png"},
        "b": {"image": "rgb/b.PNG", "depth": "d/b.npy"},
    }
    assert unused == {"seg": ["mask/c.png"], "depth": []}


def test_names_with_parts_of_their_own(files):
    root = files("x/701_L.png", "x/701.png", "x/702.png", "x/702_L.png")
    found, _ = match(root, "x/{n}.png", val_share=0.25, seg="x/{n}_L.png")
    assert "701_L" not in {name for name in found if "seg" in found[name]}
    found, _ = match(files("y/rgb_1.jpg", "y/d_1.png", "y/rgb_2.jpg"), "y/rgb_*.jpg", val_share=0.5, depth="y/d_*")
    assert list(found) in (["1"], ["2"])


def test_a_split_is_a_folder_in_any_place(files):
    root = files("train/a.png", "trainannot/a.png", "valid/b.png", "validannot/b.png", "test/c.png")
    for split, name in (("train", "a"), ("val", "b")):
        found, _ = match(root, "{split}/*", split, {"val": "valid"}, seg="{split}annot/*")
        assert list(found) == [name]
        assert set(found[name]) == {"image", "seg"}


def test_a_split_may_be_several_folders(files):
    root = files(*(f"S{n}/clone/rgb/c0/rgb_{i}.jpg" for n in (1, 2, 20) for i in (0, 1)), "S1/clone/d/c0/d_0.png")
    files("S20/clone/d/c0/d_1.png")
    image, depth = "{split}/{v}/rgb/{c}/rgb_{n}.jpg", "{split}/{v}/d/{c}/d_{n}.png"
    splits = {"train": ("S1", "S2"), "val": "S20"}
    found, _ = match(root, image, "train", splits, depth=depth)
    assert list(found) == ["S1/clone/c0/0", "S1/clone/c0/1", "S2/clone/c0/0", "S2/clone/c0/1"]
    assert [name for name, its in found.items() if "depth" in its] == ["S1/clone/c0/0"]
    found, _ = match(root, image, "val", splits, depth=depth)
    assert {name: len(its) for name, its in found.items()} == {"clone/c0/0": 1, "clone/c0/1": 2}


def test_a_split_in_the_truth_alone_picks_its_frames(files):
    """KITTI's depth: the pictures lie by date, and the depth of both splits by drive."""
    root = files(
        *(f"d1/drive1/data/{n}.png" for n in (1, 2, 3)),
        "d1/drive2/data/1.png",
        "train/drive1/gt/2.png",
        "val/drive2/gt/1.png",
    )
    image, depth = "{date}/{drive}/data/{n}.png", "{split}/{drive}/gt/{n}.png"
    assert list(match(root, image, "train", depth=depth)[0]) == ["d1/drive1/2"]
    assert list(match(root, image, "val", depth=depth)[0]) == ["d1/drive2/1"]


def test_any_number_of_folders(files):
    root = files("in/a.png", "in/x/b.png", "in/x/y/c.png", "out/x/y/c.png")
    every = {}
    for split in ("train", "val"):
        every |= match(root, "in/**/*", split, val_share=0.5, seg="out/**/*")[0]
    assert set(every) == {"a", "x/b", "x/y/c"}
    assert every["x/y/c"]["seg"] == "out/x/y/c.png"
    assert "seg" not in every["x/b"]


def test_split_lists(files):
    root = files("i/a.jpg", "i/b.jpg", "i/c.jpg", "m/a.png")
    (root / "train.txt").write_text("a\n\n i/c.jpg m/c.png\n")
    (root / "val.txt").write_text("/data/i/b.jpg\n")
    splits = {"train": "train.txt", "val": "val.txt"}
    assert list(match(root, "i/*", "train", splits, seg="m/*")[0]) == ["a", "c"]
    assert list(match(root, "i/*", "val", splits, seg="m/*")[0]) == ["b"]
    (root / "val.txt").write_text("b\nz\n")
    with pytest.raises(UserError, match=r"val.txt: 1 of its 2 lines name no frame.* the first is 'z'.* as 'a'"):
        match(root, "i/*", "val", splits, seg="m/*")


def test_the_share_for_validation_depends_on_names_alone(files):
    root = files(*(f"i/{n}.jpg" for n in range(20)))
    train, val = (set(match(root, "i/*", split)[0]) for split in ("train", "val"))
    assert (len(train), len(val)) == (16, 4)
    assert not train & val
    files("i/20.jpg", "i/21.jpg")
    assert len(val & set(match(root, "i/*", "val")[0])) >= 3
    files("one/a.jpg", "one/b.jpg")
    assert len(match(root, "one/*", "val", val_share=0.001)[0]) == 1


@pytest.mark.parametrize(
    ("image", "field", "error", "message"),
    [
        ("rgb/*", "mask/*", UserError, r"no file fits data.folder.image, 'rgb/\*': there is no folder .*holds i, m"),
        ("i/*.tif", "m/*", UserError, r"no file fits data.folder.image, 'i/\*.tif': .* holds i/a.jpg"),
        ("i/*", "mask/*", UserError, r"no file fits data.folder.fields.seg.files, 'mask/\*'.*config.tasks"),
        ("i/*", "m/{n}/*", ValueError, r"the image's pattern has no \{n\}"),
        ("i/*", "m/*_*.png", ValueError, r"the image's pattern has no \*"),
        ("/i/*", "m/*", ValueError, "give a path below the root"),
        ("../i/*", "m/*", ValueError, "give a path below the root"),
        ("i/{n", "m/*", ValueError, "braces hold one word"),
        ("i/*", "twice/*", UserError, r"twice/a.npy and twice/a.png are both the seg of one frame"),
    ],
)
def test_mistakes(files, image, field, error, message):
    root = files("i/a.jpg", "i/b.jpg", "m/a.png", "twice/a.png", "twice/a.npy")
    with pytest.raises(error, match=message):
        match(root, image, seg=field)


def test_a_list_of_frames(files):
    root = files("x/1.jpg", "y/2.jpg", "z/m.png", "z/n.png")
    text = "image,segmentation,split,focal_baseline\nx/1.jpg,z/m.png,train,12.5\ny/2.jpg,,val,\n"
    rows = [
        {"image": "x/1.jpg", "segmentation": "z/m.png", "split": "train", "focal_baseline": 12.5},
        {"image": "y/2.jpg", "segmentation": None, "split": "val"},
    ]
    (root / "l.csv").write_text(text)
    (root / "l.json").write_text(json.dumps(rows))
    for name in ("l.csv", "l.json"):
        (train,) = lists.read_list(root / name, root, "train", 0.2, FIELDS)
        (val,) = lists.read_list(root / name, root, "val", 0.2, FIELDS)
        assert (train.name, dict(train.numbers)) == ("x/1", {"focal_baseline": 12.5})
        assert train.files == {"image": root / "x/1.jpg", "segmentation": root / "z/m.png"}
        assert set(val.files) == {"image"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no frames"),
        ("segmentation\nz/m.png\n", "frame 1: has no image"),
        ("image,depth\nx/1.jpg,d/1.png\n", "depth is .*d/1.png, which is not there"),
        ("image\nx/1.jpg\nx/1.jpg\n", "the frame 'x/1' is there twice"),
    ],
)
def test_lists_that_are_none(files, text, message):
    root = files("x/1.jpg", "z/m.png")
    (root / "l.csv").write_text(text)
    with pytest.raises(UserError, match=f"l.csv.*{message}"):
        lists.read_list(root / "l.csv", root, "train", 0.2, FIELDS)
