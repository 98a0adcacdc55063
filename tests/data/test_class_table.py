"""Class tables in every form that users have them."""

import json

import cv2
import numpy as np
import pytest

from mtlflax.data import class_table
from mtlflax.errors import UserError

pytestmark = pytest.mark.quick


def test_a_json_table_with_merged_and_ignored_ids(tmp_path):
    rows = [
        {"id": 7, "name": "road", "color": [128, 64, 128], "train_id": 0, "group": "flat"},
        {"id": 8, "name": "lane", "color": "#ff0000", "train_id": 0},
        {"id": 30, "name": "car", "train_id": 1},
        {"id": 0, "name": "void", "train_id": 255},
        {"id": 5, "name": "mist", "ignore": True},
    ]
    for content in (rows, {"labels": rows}, {"classes": rows}):
        (tmp_path / "t.json").write_text(json.dumps(content))
        table = class_table.read(tmp_path / "t.json")
        assert [(c.name, c.id, c.group) for c in table.classes] == [("road", 7, "flat"), ("car", 30, "")]
        assert table.classes[0].color == (128, 64, 128)
        assert (table.field.dtype, table.field.ignore) == ("uint8", 255)
        stored = np.array([[7, 8, 30], [0, 5, 255]], np.uint8)
        assert table.convert(stored).tolist() == [[0, 0, 1], [255, 255, 255]]
        with pytest.raises(ValueError, match="holds the value 9, which is not in the class table"):
            table.convert(np.array([[7, 9]], np.uint8))


@pytest.mark.parametrize(
    "text",
    [
        "id,name,color,ignore\n4,road,1 2 3,\n6,sky,#040506,no\n9,void,0 0 0,yes\n",
        "id;name;color;ignore\n4;road;(1, 2, 3);0\n6;sky;4 5 6;0\n9;void;0 0 0;1\n",
        "\ufeffID,Name,R,G,B,trainId\n6,sky,4,5,6,1\n4,road,1,2,3,0\n9,void,0,0,0,-1\n",
    ],
)
def test_csv_tables(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    table = class_table.read(tmp_path / "t.csv")
    assert [(c.name, c.id, c.color) for c in table.classes] == [("road", 4, (1, 2, 3)), ("sky", 6, (4, 5, 6))]
    colored = np.array([[[1, 2, 3], [4, 5, 6], [0, 0, 0]]], np.uint8)
    assert table.convert(colored).tolist() == [[0, 1, 255]]
    assert table.convert(np.array([[4, 6, 9]], np.uint16)).tolist() == [[0, 1, 255]]
    with pytest.raises(ValueError, match="the color #010203"):
        class_table.make([{"name": "x", "color": "#000000"}]).convert(colored)


def test_a_color_may_be_that_of_several_classes_if_no_file_has_it():
    table = class_table.make([{"name": name, "color": [1, 2, 3]} for name in "ab"])
    assert table.convert(np.array([[0, 1]], np.uint8)).tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="the color #010203, which is that of several classes"):
        table.convert(np.array([[[1, 2, 3]]], np.uint8))


def test_names_alone_are_numbered():
    table = class_table.make("abc")
    assert table.convert(np.array([[0.0, 2.0, 255.0]])).tolist() == [[0, 2, 255]]
    assert len({c.color for c in table.classes}) == 3
    with pytest.raises(ValueError, match="labels are integers"):
        table.convert(np.array([[0.5]]))


def test_many_classes_have_two_bytes():
    table = class_table.make([{"name": str(i)} for i in range(300)])
    assert (table.field.dtype, table.field.ignore) == ("uint16", 65535)
    assert table.convert(np.array([[0, 255, 299]], np.uint16)).tolist() == [[0, 255, 299]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "it has no entries"),
        ([{"id": 1}], "entry 1 has no name"),
        ([{"name": "a", "id": 1}, {"name": "b"}], "1 of 2 entries have an id"),
        ([{"name": "a", "id": 1}, {"name": "b", "id": 1}], "the id 1 is there twice"),
        ([{"name": "a", "id": "x"}], "id is 'x': give a whole number"),
        ([{"name": "a", "id": 1.5}], "id is 1.5"),
        ([{"name": "a", "color": [1, 2]}], "give three numbers"),
        ([{"name": "a", "color": [1, 2, 300]}], "give three numbers"),
        ([{"name": "a"}, {"name": "a"}], "'a' is in the table twice"),
        ([{"name": "a", "ignore": 1}], "all of its entries are ignored"),
    ],
)
def test_what_is_no_table(tmp_path, rows, message):
    (tmp_path / "t.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=rf"t.json: is no class table: .*{message}"):
        class_table.read(tmp_path / "t.json")


@pytest.mark.parametrize("text", ["", "{", "5", '{"a": 1}', "[1]", "[null]"])
def test_what_is_no_json_table(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match=r"t\.json: is no class table"):
        class_table.read(tmp_path / "t.json")


def test_classes_are_found(tmp_path):
    for name, values in (("a.png", [[0, 4], [255, 2]]), ("b.png", [[9, 9], [0, 0]])):
        cv2.imwrite(str(tmp_path / name), np.array(values, np.uint8))
    table = class_table.make(class_table.found(sorted(tmp_path.iterdir())))
    assert [(c.name, c.id) for c in table.classes] == [("0", 0), ("2", 2), ("4", 4), ("9", 9)]
    cv2.imwrite(str(tmp_path / "c.png"), np.random.default_rng(0).integers(0, 256, (50, 50, 3)).astype(np.uint8))
    with pytest.raises(UserError, match="more than 256 different labels: give a class table"):
        class_table.found([tmp_path / "c.png"])
    cv2.imwrite(str(tmp_path / "c.png"), np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    with pytest.raises(UserError, match="some hold colors"):
        class_table.found(sorted(tmp_path.iterdir()))
    table = class_table.make(class_table.found([tmp_path / "c.png"]))
    assert [c.name for c in table.classes] == ["#030201", "#060504"]
