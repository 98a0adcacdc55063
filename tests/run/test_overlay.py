"""The overlay shows class colors, whatever the order of the tasks."""

import cv2
import numpy as np
from helpers.batches import FIELDS

from mtlflax import tasks
from mtlflax.run import map_files


def test_the_overlay_is_of_the_classes_in_any_order_of_the_tasks(tmp_path):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (16, 24, 3), np.uint8)
    chosen = (tasks.segmentation(FIELDS), tasks.depth(FIELDS))
    predictions = {task.name: rng.random((4, 6, task.channels), np.float32) for task in chosen}
    written = []
    for order, name in ((chosen, "a"), (chosen[::-1], "b"), (chosen[1:], "c")):
        map_files.write_maps(picture, predictions, order, tmp_path / name)
        written.append(cv2.imread(str(tmp_path / f"{name}_overlay.png")))
    np.testing.assert_array_equal(written[0], written[1])
    assert (written[0] != written[2]).any()  # the depth's, where there are no classes
