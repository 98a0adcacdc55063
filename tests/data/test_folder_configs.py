"""The configs of other data sets, on tiny trees laid out like them."""

import importlib
import json
import re

import numpy as np
import pytest
from helpers import folders
from helpers.folders import depth, image, labels

from configs import camvid, virtual_kitti2
from mtlflax import data, tasks
from mtlflax.data.samples import Checked

pytestmark = pytest.mark.quick

KITTI = "2011_09_26_drive_0001_sync"
SCENES = ("Scene01", "Scene20")


def colored(seed, entries):
    colors = np.array([entry["color"] for entry in entries], np.uint8)
    return colors[labels(seed, len(colors))]


def camvid_tree():
    for split in ("train", "val", "test"):
        for n in range(2):
            yield f"{split}/{split}_{n}.png", image(n)
            yield f"{split}annot/{split}_{n}.png", labels(n, 12)


def kitti_semantic_tree():
    for n in range(10):
        yield f"training/image_2/{n:06}_10.png", image(n)
        yield f"training/semantic/{n:06}_10.png", labels(n, 34)
        yield f"testing/image_2/{n:06}_10.png", image(n)


def kitti_depth_tree():
    for n in range(4):
        for drive in (KITTI, KITTI.replace("01_sync", "02_sync")):
            yield f"2011_09_26/{drive}/image_02/data/{n:010}.png", image(n)
            yield f"2011_09_26/{drive}/image_03/data/{n:010}.png", image(n)
    for split, drive in (("train", KITTI), ("val", KITTI.replace("01_sync", "02_sync"))):
        for n in (1, 2):
            yield f"{split}/{drive}/proj_depth/groundtruth/image_02/{n:010}.png", depth(n, measured=0.05)
            yield f"{split}/{drive}/proj_depth/groundtruth/image_03/{n:010}.png", depth(n, measured=0.05)


def nyuv2_tree():
    for split in ("train", "test"):
        for n in range(2):
            yield f"{split}/rgb/{split}{n:04}.png", image(n)
            yield f"{split}/depth/{split}{n:04}.png", depth(n)
            yield f"{split}/labels_13/{split}{n:04}.png", labels(n, 14)
            yield f"{split}/labels_40/{split}{n:04}.png", labels(n, 41)


def virtual_kitti2_tree():
    for scene in SCENES:
        for n in range(2):
            frames = f"{scene}/clone/frames"
            yield f"{frames}/rgb/Camera_0/rgb_{n:05}.jpg", image(n)
            yield f"{frames}/depth/Camera_0/depth_{n:05}.png", np.where(labels(n, 2) > 0, depth(n), np.uint16(65535))
            yield (
                f"{frames}/classSegmentation/Camera_0/classgt_{n:05}.png",
                colored(n, virtual_kitti2.CLASSES),
            )


def vistas_tree():
    for split in ("training", "validation"):
        for n in range(2):
            yield f"{split}/images/{split}{n}.jpg", image(n)
            yield f"{split}/v2.0/labels/{split}{n}.png", labels(n, 4)


def open_splits(name, root, arg=None):
    config = importlib.import_module(f"configs.{name}").get_config(arg)
    config.data.root, config.data.size = str(root), folders.SIZE
    training, evaluated = data.open_splits(config.data)
    read = [Checked(source, source.fields)[0] for source in (training, evaluated["val"])]
    assert read[0]["name"] != read[1]["name"]
    return config, training, evaluated["val"], read


NAMES = ("camvid", "kitti_semantic", "kitti_depth", "nyuv2", "virtual_kitti2", "vistas")


@pytest.mark.parametrize(
    ("name", "counts", "chosen"),
    [
        ("camvid", (2, 2), ("segmentation",)),
        ("kitti_semantic", (8, 2), ("segmentation",)),
        ("kitti_depth", (2, 2), ("depth",)),
        ("nyuv2", (2, 2), ("segmentation", "depth")),
        ("virtual_kitti2", (2, 2), ("segmentation", "depth")),
        ("vistas", (2, 2), ("segmentation",)),
    ],
)
def test_a_data_set_as_its_config_has_it(tmp_path, name, counts, chosen):
    folders.write(tmp_path, dict(globals()[f"{name}_tree"]()))
    if name == "vistas":
        rows = [{"name": f"a--{n}", "readable": n, "color": [i, 0, 0], "evaluate": i < 3} for i, n in enumerate("wxyz")]
        (tmp_path / "config_v2.0.json").write_text(json.dumps({"labels": rows, "version": "2.0"}))
    config, training, validation, samples = open_splits(name, tmp_path)
    assert (len(training), len(validation)) == counts
    assert tuple(task.name for task in tasks.from_config(config, training.fields)) == chosen
    json.loads(config.to_json())
    for sample in samples:
        if "segmentation" in chosen:
            found = np.unique(sample["segmentation"])
            known = len(training.fields["segmentation"].classes)
            assert found.tolist() == [*range(known), 255]
        if "depth" in chosen:
            measured = sample["depth"][sample["depth"] > 0]
            scale = {"kitti_depth": 1 / 256, "nyuv2": 1e-3, "virtual_kitti2": 1e-2}[name]
            assert (
                500 * scale <= measured.min() < measured.max() <= min(9000 * scale, 80 if name == "kitti_depth" else 90)
            )


def test_classes_are_those_of_the_data_set(tmp_path):
    folders.write(tmp_path, dict(camvid_tree()))
    _, training, _, _ = open_splits("camvid", tmp_path)
    assert training.fields["segmentation"].names == tuple(entry["name"] for entry in camvid.CLASSES[:-1])
    folders.write(tmp_path / "kitti", dict(kitti_semantic_tree()))
    _, training, _, _ = open_splits("kitti_semantic", tmp_path / "kitti")
    assert training.fields["segmentation"].names[::9] == ("road", "terrain", "bicycle")
    assert training.fields["segmentation"].classes[0].group == "flat"


@pytest.mark.parametrize("name", ["folder", "mtan_protocol", *NAMES])
def test_the_commands_of_a_docstring_work_as_they_stand(name):
    module = importlib.import_module(f"configs.{name}")
    lines = [line.strip() for line in module.__doc__.splitlines() if "mtlflax.main" in line]
    assert lines
    for line in lines:
        command = r"python -m mtlflax\.main --config=configs/(\w+)\.py(?::(\S+))? --config\.data\.root=\S+"
        found = re.fullmatch(command, line)
        assert found, line
        assert found[1] == name
        module.get_config(found[2])


def test_one_task_and_another_method(tmp_path):
    folders.write(tmp_path, dict(nyuv2_tree()))
    config, *_ = open_splits("nyuv2", tmp_path, "depth,quick")
    assert (config.tasks, config.best.metric, config.weighting.name) == (("depth",), "val/depth/rmse", "equal")
    config, *_ = open_splits("nyuv2", tmp_path, "famo,resnet18")
    assert (config.weighting.name, config.model.backbone) == ("famo", "resnet18")
