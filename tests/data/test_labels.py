"""The label table against the official one."""

import numpy as np
import pytest
from cityscapesscripts.helpers import labels as official

from mtlflax.data import labels
from mtlflax.data.source import Class


def test_table_is_the_official_one():
    assert [tuple(label) for label in labels.LABELS] == [(*label[:6], label.color) for label in official.labels]


def test_train_ids():
    expected = np.full(256, 255)
    for label in official.labels:
        if label.id >= 0:
            expected[label.id] = label.trainId
    np.testing.assert_array_equal(labels.TRAIN_ID_LUT, expected)
    assert labels.TRAIN_ID_LUT.dtype == np.uint8


def test_categories():
    expected = np.full(256, 255)
    for label in official.labels:
        if label.id >= 0 and label.category != "void":
            expected[label.id] = label.categoryId - 1
    np.testing.assert_array_equal(labels.CATEGORY_LUT, expected)
    for index, (name, category) in enumerate(zip(labels.CATEGORY_NAMES, labels.table(7), strict=True)):
        assert official.category2labels[name][0].categoryId == index + 1
        assert category.name == name
        assert category.color in {label.color for label in official.category2labels[name]}


def test_what_follows_from_a_train_id():
    for train_id in range(19):
        label = official.trainId2label[train_id]
        assert labels.TRAIN_NAMES[train_id] == label.name
        assert tuple(labels.TRAIN_COLORS[train_id]) == label.color
        assert labels.TRAIN_TO_CATEGORY[train_id] == label.categoryId - 1
        assert labels.LABEL_ID_LUT[train_id] == label.id
        expected = Class(label.name, label.color, group=label.category, id=label.id)
        assert labels.table(19)[train_id] == expected
    assert labels.LABEL_ID_LUT[255] == 0


def test_tables_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        labels.TRAIN_ID_LUT[0] = 1


@pytest.mark.parametrize(
    ("classes", "lut", "first"),
    [(19, labels.TRAIN_ID_LUT, "road"), (7, labels.CATEGORY_LUT, "flat"), (34, labels.LABEL_LUT, "unlabeled")],
)
def test_choice_of_classes(classes, lut, first):
    assert labels.lut(classes) is lut
    assert labels.table(classes)[0].name == first
    assert len(labels.table(classes)) == classes
    for function in (labels.lut, labels.table):
        with pytest.raises(ValueError, match="choose 19"):
            function(20)
