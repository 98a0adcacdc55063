"""Where things are: ~ in every flag, modules of one's own beside a config file, and terminals that know ASCII only."""

import json

import pytest
from helpers import commands
from helpers.trees import write_tree

CONFIG = """
from configs import dwa


def get_config(arg=None):
    config = dwa.get_config("quick")
    config.data.name = "cityscapes"
    config.data.size = (32, 64)
    config.model.name = "helpers.tiny:tiny"
    config.epochs = 1.0
    config.batch_size = 4
    config.tasks = ("segmentation", "my_tasks:distance")
    return config
"""
TASKS = """
from mtlflax import tasks


def distance(config, fields):
    return tasks.depth(fields, "distance", reads="depth")
"""


def run(folder, *arguments, home, module="mtlflax.main", **environment):
    """Run the command in a folder, with neither the repository nor the config's folder on the path by itself."""
    return commands.run(arguments, module, cwd=folder, HOME=str(home), PYTHONSAFEPATH="1", **environment)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home folder with a run in ~/runs/a, of a config file with a task of its own beside it in ~/mine."""
    home = tmp_path_factory.mktemp("home")
    write_tree(home / "tree", size=(32, 64))
    (home / "mine").mkdir()
    (home / "mine" / "my.py").write_text(CONFIG)
    (home / "mine" / "my_tasks.py").write_text(TASKS)
    (home / "elsewhere").mkdir()
    flags = ("--config=~/mine/my.py", "--workdir=~/runs/a", "--config.data.root=~/tree")
    # On a terminal that knows ASCII only, too: "×" and "·" are in what a run says.
    output = run(home / "elsewhere", *flags, home=home, PYTHONIOENCODING="ascii")
    assert "val/segmentation/miou" in output
    return home


def test_home_is_found_in_every_flag(home):
    assert {path.name for path in home.iterdir()} == {"tree", "mine", "elsewhere", "runs"}
    assert not list((home / "elsewhere").iterdir())
    assert "val/distance/rmse" in json.loads((home / "runs" / "a" / "results.json").read_text())


def test_a_run_knows_where_its_modules_are(home, tmp_path):
    """A task named in the config file is found beside it; prediction finds it from the run, in any folder."""
    content = json.loads((home / "runs" / "a" / "config.json").read_text())
    assert content["modules"]["my_tasks"] == str(home / "mine")
    pictures = home / "tree" / "leftImg8bit" / "val" / "aachen"
    flags = ("--workdir=~/runs/a", f"--images={pictures}", f"--out={tmp_path}/maps")
    assert "5 pictures done, 0 skipped" in run(tmp_path, *flags, home=home, module="mtlflax.predict")
    assert len(list((tmp_path / "maps").glob("*_distance.png"))) == 5


def test_modules_in_the_current_folder_are_found(home, tmp_path):
    """Also where Python does not look there, as when a script is run."""
    (tmp_path / "other_tasks.py").write_text(TASKS)
    flags = ("--config=~/mine/my.py", "--config.data.root=~/tree", "--config.tasks=('other_tasks:distance',)")
    metric = ("--config.best.metric=val/distance/rmse", "--config.best.mode=min")
    run(tmp_path, *flags, *metric, home=home)
    results = json.loads((tmp_path / "runs" / "my" / "results.json").read_text())
    assert "val/distance/rmse" in results


def test_evaluation_finds_them_too(home, tmp_path):
    """With a config file of its own that lies elsewhere."""
    (tmp_path / "copy.py").write_text(CONFIG)
    flags = (f"--config={tmp_path}/copy.py", "--workdir=~/runs/a", "--config.data.root=~/tree", "--mode=evaluate")
    assert "val/segmentation/miou" in run(tmp_path, *flags, home=home)
