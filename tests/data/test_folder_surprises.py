"""What data sets in folders hold that nobody expects: read as it is meant, or refused, and never something else."""

import os
import struct

import cv2
import numpy as np
import pytest
from helpers import folders
from PIL import Image as Pillow

from configs import folder as folder_config
from mtlflax.data import class_table, photo, truth_file
from mtlflax.data.folder import Folder, lists
from mtlflax.data.source import Depth
from mtlflax.data.transforms import zoom
from mtlflax.data.units import UNITS
from mtlflax.errors import UserError

pytestmark = pytest.mark.quick

BY_COLOR = [{"name": "background", "color": "#000000"}, {"name": "object", "color": "#ffffff"}]
MASK = np.array([[0, 255], [255, 0]], np.uint8)


def saved(path, pixels, **options):
    Pillow.fromarray(pixels).save(path, **options)
    return path


def test_black_and_white_masks_are_colors_where_the_table_has_colors_alone(tmp_path):
    table = class_table.make(BY_COLOR)
    path = saved(tmp_path / "m.png", np.stack([MASK] * 3, axis=-1))
    np.testing.assert_array_equal(table.convert(table.read(path)), MASK // 255)
    with_ids = class_table.make([{"name": "a", "id": 0, "color": "#ff0000"}, {"name": "b", "id": 255 - 1}])
    gray = saved(tmp_path / "g.png", np.stack([MASK // 255 * 254] * 3, axis=-1))
    np.testing.assert_array_equal(with_ids.convert(with_ids.read(gray)), MASK // 255)  # ids in three channels


def test_a_frame_of_nothing_but_void_is_void():
    void = {"name": "void", "id": 1, "color": "#000000", "ignore": True}
    table = class_table.make([{"name": "road", "id": 0, "color": "#ff0000"}, void])
    assert (table.convert(np.zeros((2, 2, 3), np.uint8)) == 255).all()


def test_a_palette_in_another_order_is_read_by_its_colors(tmp_path):
    table = class_table.make([{"name": "a", "color": "#ff0000"}, {"name": "b", "color": "#00ff00"}])
    picture = Pillow.fromarray(MASK // 255, "P")
    picture.putpalette([0, 255, 0, 255, 0, 0])  # the index 0 is b
    picture.save(tmp_path / "m.png")
    np.testing.assert_array_equal(table.convert(table.read(tmp_path / "m.png")), 1 - MASK // 255)
    by_id = class_table.make([{"name": "a", "id": 0}, {"name": "b", "id": 1}])
    np.testing.assert_array_equal(by_id.convert(by_id.read(tmp_path / "m.png")), MASK // 255)


def test_classes_that_are_found_in_black_and_white_and_one_color(tmp_path):
    paths = [saved(tmp_path / "a.png", np.stack([MASK] * 3, axis=-1))]
    assert [entry["name"] for entry in class_table.found(paths)] == ["0"]  # 255 is no label, in gray
    red = np.zeros((2, 2, 3), np.uint8)
    red[0, 0, 0] = 255
    paths.append(saved(tmp_path / "b.png", red))
    assert [entry["name"] for entry in class_table.found(paths)] == ["#000000", "#ff0000", "#ffffff"]
    (tmp_path / "c.png").write_bytes(b"broken")
    assert len(class_table.found([*paths, tmp_path / "c.png"])) == 3


@pytest.mark.parametrize("unit", ["metres", "inverse_metres"])
def test_what_is_out_of_range_stays_so_when_it_is_zoomed(unit):
    field = Depth(UNITS[unit], least=0.5, most=50.0)
    values = np.array([[[0.4], [1.0], [49.0], [65.5]]], np.float32)
    zoomed = zoom(values, field, 1.5, np.zeros(2))
    assert set(zoomed.ravel()) <= {0, *(UNITS[unit].zoom(values[0, 1:3, 0], 1.5))}


def test_depth_that_is_unknown_or_out_of_range(tmp_path):
    root = folders.photos(tmp_path)
    stored = np.full((24, 40), 655.35, np.float32)
    stored[0], stored[1], stored[2] = 3.4028235e38, 7.0, 99.0
    for n in range(10):
        np.save(root / f"depth/{n}.npy", stored)
    field = {"kind": "depth", "files": "depth/*.npy", "unknown": (0, 655.35, 3.4028235e38), "most": 50.0}
    depth = Folder(root, "val", {"fields": {"depth": field}})[0]["depth"][..., 0]
    assert set(np.unique(depth)) == {0, 7}


def test_pfm_files_are_as_stored(tmp_path):
    values = np.arange(6, dtype="<f4").reshape(2, 3)
    for scale, order in (("-0.003922", "<f4"), ("2.0", ">f4")):
        content = f"Pf\n3 2\n{scale}\n".encode() + values[::-1].astype(order).tobytes()
        (tmp_path / "d.pfm").write_bytes(content)
        np.testing.assert_array_equal(truth_file.read(tmp_path / "d.pfm"), values)


def test_files_that_opencv_reads_as_other_numbers_are_refused(tmp_path):
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8) % 2
    palette = Pillow.fromarray(labels, "P")
    palette.putpalette([9, 9, 9, 70, 70, 70])
    palette.save(tmp_path / "p.tif")
    palette.save(tmp_path / "p.bmp")
    Pillow.fromarray(labels * 255).convert("1").save(tmp_path / "one.tif")
    Pillow.fromarray(labels * 255).convert("1").save(tmp_path / "one.bmp")
    Pillow.fromarray(np.stack([labels * 99] * 3, axis=-1)).save(tmp_path / "j.tif", compression="jpeg")
    for name in ("p.tif", "p.bmp", "one.tif", "one.bmp", "j.tif"):
        with pytest.raises(UserError, match="changes the numbers that it stores"):
            truth_file.read(tmp_path / name)
    for name in ("g.tif", "g.bmp"):
        np.testing.assert_array_equal(truth_file.read(saved(tmp_path / name, labels)), labels)


def test_arrays_that_are_no_numbers(tmp_path):
    np.save(tmp_path / "c.npy", np.ones((2, 2), np.complex64))
    with pytest.raises(UserError, match="holds complex64"):
        truth_file.read(tmp_path / "c.npy")
    np.save(tmp_path / "h.npy", np.zeros((2, 2)))
    content = (tmp_path / "h.npy").read_bytes().replace(b"(2, 2), }" + b" " * 13, b"(9999999, 99999999), }")
    for damaged in (content, content.replace(b"'shape': (", b"'shape': ((")):
        (tmp_path / "h.npy").write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read as a NumPy array"):
            truth_file.read(tmp_path / "h.npy")


def test_photos_of_16_bits_need_one_white_for_all(tmp_path):
    root = folders.photos(tmp_path)
    for n in range(10):
        cv2.imwrite(str(root / f"images/{n}.png"), np.full((24, 40, 3), 200 + n * 300, np.uint16))
        (root / f"images/{n}.jpg").unlink()
    with pytest.raises(UserError, match=r"16-bit file .*: give the value of white as data\.folder\.white"):
        Folder(root, "val", {})[0]
    frames = Folder(root, "train", {"white": 4095})
    for frame in frames:
        expected = round((200 + int(frame["name"]) * 300) * 255 / 4095)
        assert np.unique(frame["image"]).tolist() == [expected]
    assert photo.read(root / "images/9.png", 4095).note == ""


def test_a_link_that_leads_back_is_not_followed(tmp_path):
    root = folders.photos(tmp_path)
    (root / "images/loop").symlink_to(root / "images")
    source = Folder(root, "train", {"image": "images/**/{n}.jpg", "val_share": 0.2})
    assert len(source) == 8


def test_a_pipe_among_the_pictures_is_no_file(tmp_path):
    root = folders.photos(tmp_path)
    os.mkfifo(root / "images/99.jpg")
    with pytest.raises(UserError, match=r"99\.jpg: cannot be read"):
        photo.read(root / "images/99.jpg")


def test_splits_that_no_pattern_uses(tmp_path):
    root = folders.photos(tmp_path)
    with pytest.raises(ValueError, match=r"data\.folder\.splits is .*no pattern has {split}"):
        Folder(root, "train", {"splits": {"train": "training"}})
    assert len(Folder(root, "train", {"splits": {"train": "", "val": ""}})) == 8
    (root / "train.txt").write_text("1\n2\n")
    (root / "val.txt").write_text("2\n3\n")
    with pytest.raises(UserError, match=r"train\.txt and .*val\.txt both have the frame '2'"):
        Folder(root, "train", {"splits": {"train": "train.txt", "val": "val.txt"}})


def test_lists_as_people_save_them(tmp_path):
    root = folders.photos(tmp_path)
    (root / "images/my photo.jpg").write_bytes((root / "images/0.jpg").read_bytes())
    text = "image;split;depth;weather\nimages/1.jpg; Train ;depth/1.png;rain\nimages/my photo.jpg;VAL;;sun\n"
    for encoding in ("utf-8-sig", "utf-16"):
        (root / "l.csv").write_text(text, encoding=encoding)
        (train,) = lists.read_list(root / "l.csv", root, "train", 0.2, ["depth"])
        (val,) = lists.read_list(root / "l.csv", root, "val", 0.2, ["depth"])
        assert (train.name, set(train.files)) == ("images/1", {"image", "depth"})
        assert val.files["image"].name == "my photo.jpg"
    (root / "val.txt").write_text("my photo\n")
    (root / "train.txt").write_text("0\n")
    splits = {"train": "train.txt", "val": "val.txt"}
    assert Folder(root, "val", {"splits": splits}).names == ["my photo"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,dpeth\nimages/1.jpg,depth/1.png\n", "the column 'dpeth' is no field: did you mean 'depth'"),
        ("image,split\nimages/1.jpg,train\nimages/2.jpg,\n", "frame 2: has no split, though others have"),
        ("image\n1\n", "image is .*/1, which is not there"),
    ],
)
def test_mistakes_in_lists(tmp_path, text, message):
    root = folders.photos(tmp_path)
    (root / "l.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        lists.read_list(root / "l.csv", root, "train", 0.2, ["depth"])


def test_tables_as_people_save_them(tmp_path):
    (tmp_path / "one.csv").write_text("name\nroad\ncar\n")
    assert [c.name for c in class_table.read(tmp_path / "one.csv").classes] == ["road", "car"]
    (tmp_path / "bom.json").write_text('["road", "car"]', encoding="utf-8-sig")
    assert len(class_table.read(tmp_path / "bom.json").classes) == 2
    (tmp_path / "e.csv").write_text("name,red,green,blue,evaluate\nroad,1,2,3,True\nvoid,0,0,0,False\n")
    table = class_table.read(tmp_path / "e.csv")
    assert [(c.name, c.color) for c in table.classes] == [("road", (1, 2, 3))]
    with pytest.raises(ValueError, match="give a whole number"):
        class_table.make([{"name": "a", "id": "inf"}])


def test_classes_from_the_command_line(tmp_path):
    root = folders.photos(tmp_path)
    field = {"kind": "labels", "files": "segmentation/*", "classes": "('a', 'b', 'c', 'd', 'e')"}
    source = Folder(root, "val", {"fields": {"segmentation": field}})
    assert source.fields["segmentation"].names == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_for_one_task_nothing_else_is_looked_for(tmp_path, task):
    config = folder_config.get_config(task)
    assert list(config.data.folder.fields) == [task]
    assert config.data.folder.splits.train == ""


def test_names_that_are_no_utf_8(tmp_path):
    root = folders.photos(tmp_path)
    (root / "images/0.jpg").rename(root / "images" / os.fsdecode(b"\xff\xfe.jpg"))
    from mtlflax import data
    from mtlflax.data import holdout

    source = Folder(root, "train", {})
    assert "8 frames" in data.describe(source)
    assert sum(len(part) for part in holdout.split(source, 0.3)) == 8


def test_a_big_endian_tiff_is_told_too(tmp_path):
    header = b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", 1) + struct.pack(">HHIHH", 259, 3, 1, 7, 0)
    (tmp_path / "j.tif").write_bytes(header + bytes(8))
    with pytest.raises(UserError, match="a TIFF file compressed as JPEG"):
        truth_file.read(tmp_path / "j.tif")
