"""The label table of Cityscapes, and the look-up tables between its three numberings.

*Label ids* (0 to 33) are what the files hold, *train ids* (0 to 18, 255 = ignore) the 19 classes that are scored, and
*categories* (0 to 6, 255 = ignore) the 7 groups without void. Names, numbers and colors are those of the official
`cityscapesscripts.helpers.labels`.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from mtlflax.data.source import Class

IGNORE = 255


class Label(NamedTuple):
    """One row of the official table."""

    name: str  # as the official scripts spell it
    id: int  # the value in `_labelIds.png`; -1 is never drawn
    train_id: int  # 0 to 18 where scored; else 255, or -1 for the label that is never drawn
    category: str  # "void" or one of `CATEGORY_NAMES`
    category_id: int  # the official one: 0 = void, 1 = flat, ... 7 = vehicle
    has_instances: bool  # whether `_instanceIds.png` counts its objects one by one
    color: tuple[int, int, int]  # RGB of `_color.png`


# The rows in the order of the ids: name, whether scored, color. The rest follows from the order.
_TABLE: dict[str, tuple[tuple[str, bool, tuple[int, int, int]], ...]] = {
    "void": (
        ("unlabeled", False, (0, 0, 0)),
        ("ego vehicle", False, (0, 0, 0)),
        ("rectification border", False, (0, 0, 0)),
        ("out of roi", False, (0, 0, 0)),
        ("static", False, (0, 0, 0)),
        ("dynamic", False, (111, 74, 0)),
        ("ground", False, (81, 0, 81)),
    ),
    "flat": (
        ("road", True, (128, 64, 128)),
        ("sidewalk", True, (244, 35, 232)),
        ("parking", False, (250, 170, 160)),
        ("rail track", False, (230, 150, 140)),
    ),
    "construction": (
        ("building", True, (70, 70, 70)),
        ("wall", True, (102, 102, 156)),
        ("fence", True, (190, 153, 153)),
        ("guard rail", False, (180, 165, 180)),
        ("bridge", False, (150, 100, 100)),
        ("tunnel", False, (150, 120, 90)),
    ),
    "object": (
        ("pole", True, (153, 153, 153)),
        ("polegroup", False, (153, 153, 153)),
        ("traffic light", True, (250, 170, 30)),
        ("traffic sign", True, (220, 220, 0)),
    ),
    "nature": (("vegetation", True, (107, 142, 35)), ("terrain", True, (152, 251, 152))),
    "sky": (("sky", True, (70, 130, 180)),),
    "human": (("person", True, (220, 20, 60)), ("rider", True, (255, 0, 0))),
    "vehicle": (
        ("car", True, (0, 0, 142)),
        ("truck", True, (0, 0, 70)),
        ("bus", True, (0, 60, 100)),
        ("caravan", False, (0, 0, 90)),
        ("trailer", False, (0, 0, 110)),
        ("train", True, (0, 80, 100)),
        ("motorcycle", True, (0, 0, 230)),
        ("bicycle", True, (119, 11, 32)),
    ),
}
CATEGORY_NAMES = tuple(_TABLE)[1:]


def _labels() -> Iterable[Label]:
    label_id, train_id = 0, 0
    for category_id, (category, rows) in enumerate(_TABLE.items()):
        instances = category in ("human", "vehicle")
        for name, scored, color in rows:
            number = train_id if scored else IGNORE
            yield Label(name, label_id, number, category, category_id, instances, color)
            label_id += 1
            train_id += scored
    # Licence plates exist in the polygons only: their pixels in `_labelIds.png` stay the car's.
    yield Label("license plate", -1, -1, "vehicle", 7, False, (0, 0, 142))


def _lookup(pairs: Mapping[int, int], default: int) -> np.ndarray:
    table = np.full(256, default, np.uint8)
    table[list(pairs)] = list(pairs.values())
    table.setflags(write=False)
    return table


LABELS = tuple(_labels())
NUM_LABEL_IDS = len(LABELS) - 1  # those that are drawn
_scored = [label for label in LABELS if 0 <= label.train_id < IGNORE]
_in_category = [label for label in LABELS[:-1] if label.category_id > 0]

# uint8 [256], indexed by label id. Unscored labels of a category (parking, caravan, ...) belong to it all the same.
TRAIN_ID_LUT = _lookup({label.id: label.train_id for label in _scored}, IGNORE)
CATEGORY_LUT = _lookup({label.id: label.category_id - 1 for label in _in_category}, IGNORE)
LABEL_LUT = _lookup({label.id: label.id for label in LABELS if label.id >= 0}, IGNORE)
# uint8 [256], indexed by train id, for results as the official evaluator wants them: it fails on a predicted 255.
LABEL_ID_LUT = _lookup({label.train_id: label.id for label in _scored}, 0)
TRAIN_TO_CATEGORY = CATEGORY_LUT[[label.id for label in _scored]]  # uint8 [19]
TRAIN_NAMES = tuple(label.name for label in _scored)
TRAIN_COLORS = np.array([label.color for label in _scored], np.uint8)  # [19, 3]


def lut(classes: int) -> np.ndarray:
    """Return the table from label ids to 19, 7 or 34 classes: uint8 [256], 255 = ignore; ValueError for others."""
    luts = {19: TRAIN_ID_LUT, 7: CATEGORY_LUT, NUM_LABEL_IDS: LABEL_LUT}
    if classes not in luts:
        raise ValueError(f"classes is {classes!r}: choose 19 (train ids), 7 (categories) or 34 (all label ids)")
    return luts[classes]


def table(classes: int) -> tuple[Class, ...]:
    """Return the class table of the 19 train ids, whose groups are the categories, of the 7 categories, or all 34."""
    lut(classes)
    if classes == len(_scored):
        return tuple(Class(label.name, label.color, group=label.category, id=label.id) for label in _scored)
    if classes == NUM_LABEL_IDS:  # without categories: void is none
        return tuple(Class(label.name, label.color, id=label.id) for label in LABELS if label.id >= 0)
    # A category has the color of its first scored class.
    colors = {label.category: label.color for label in reversed(_scored)}
    return tuple(Class(category, colors[category]) for category in CATEGORY_NAMES)
