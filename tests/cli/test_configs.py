"""Every config file, with every argument: it parses, builds, and its network runs."""

import dataclasses
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from helpers import trees
from helpers.commands import call
from ml_collections.config_flags.config_path import get_value

from configs import (
    adamt_net,
    common,
    cross_stitch,
    deeplabv3plus,
    dwa,
    equal,
    ewdw,
    gwgl,
    mtan,
    nddr_cnn,
    pad_net,
    pap_net,
    refinenet_lw,
    single_task,
    sluice,
    three_tasks,
)
from configs import weighting as any_weighting
from mtlflax import data, experiment, weighting
from mtlflax.data import cityscapes, field_json
from mtlflax.errors import UserError
from mtlflax.run import config_file, workdir

TOPOLOGIES = {
    "adamt_net": adamt_net,
    "cross_stitch": cross_stitch,
    "deeplabv3plus": deeplabv3plus,
    "mtan": mtan,
    "nddr_cnn": nddr_cnn,
    "pad_net": pad_net,
    "pap_net": pap_net,
    "refinenet_lw": refinenet_lw,
    "sluice": sluice,
}
FILES = {
    "dwa": dwa,
    "equal": equal,
    "ewdw": ewdw,
    "gwgl": gwgl,
    "single_task": single_task,
    "three_tasks": three_tasks,
    "weighting": any_weighting,
    **TOPOLOGIES,
}
# Tested in tests/data/test_folder_configs.py.
FOLDERS = {"mtan_protocol", "folder", "camvid", "kitti_semantic", "kitti_depth", "nyuv2", "virtual_kitti2", "vistas"}
SWEEPS = {"table1": 24, "all_methods": 34, "all_networks": 11, "fair": 108}  # runs of each
# Every argument of every file, and for one file every combination: the others share its code.
ARGUMENTS = [("dwa", argument) for argument in ("", "quick", *common.BACKBONES, "densenet121,quick")]
ARGUMENTS += [("equal", ""), ("equal", "quick")]
ARGUMENTS += [("ewdw", "quick"), ("gwgl", "quick"), ("three_tasks", "quick")]
ARGUMENTS += [(name, "quick") for name in TOPOLOGIES]
ARGUMENTS += [("weighting", f"{name},quick") for name in weighting.names()]
ARGUMENTS += [("single_task", f"{task}{rest}") for task in single_task.TASKS for rest in ("", ",quick")]


def test_every_config_file_is_tested():
    found = {path.stem for path in Path(common.__file__).parent.glob("*.py")} - {"common"}
    assert found == {*FILES, *FOLDERS, *SWEEPS, "search"}


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize("argument", ["", ":quick"])
def test_a_sweep_names_runs_whose_configs_load(name, argument):
    entries = config_file.load_sweep(f"configs/{name}.py{argument}")
    assert len({entry.name for entry in entries}) == len(entries) == SWEEPS[name]


def test_the_sweep_of_the_page_on_comparing_is_one(tmp_path):
    page = (Path(common.__file__).parents[1] / "docs" / "comparing.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    entries = config_file.load_sweep(str(tmp_path / "mine.py"))
    assert len(entries) == 6
    assert "famo/rate0.001/seed0" in {entry.name for entry in entries}
    assert "famo/rate0.001/seed0" in page


def test_the_paper_has_eight_models():
    entries = config_file.load_sweep("configs/table1.py:quick,seeds=1")
    assert len(entries) == 8
    assert {entry.config for entry in entries if "depth" in entry.name} == {
        f"configs/single_task.py:depth,{backbone},quick" for backbone in ("resnet18", "densenet121")
    }
    for argument, message in (("quik", "did you mean 'quick'"), ("seeds=0", "seeds=0: give"), ("seeds=x", "seeds=x")):
        with pytest.raises(UserError, match=message):
            config_file.load_sweep(f"configs/table1.py:{argument}")


@pytest.mark.parametrize("name", FILES)
def test_the_commands_of_a_docstring_work_as_they_stand(name):
    """Two blanks end a command; what comes behind is a remark."""
    lines = [line.strip() for line in FILES[name].__doc__.splitlines() if "mtlflax.main" in line]
    assert lines
    for line in lines:
        command = re.fullmatch(r"python -m mtlflax\.main --config=configs/(\w+)\.py(?::(\S+))?(?:  .*)?", line)
        assert command, line
        assert command[1] == name
        FILES[name].get_config(command[2])


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_a_config_builds(name, argument):
    config = FILES[name].get_config(argument)
    if name == "weighting":  # with dwa's network, which takes a second to trace: each method gets a small one
        config.model.name = "helpers.tiny:split"
    built = experiment.build(config)  # traces the network's initialization
    assert built.total_steps > 0
    images = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    outputs, _ = jax.eval_shape(built.model.init_with_output, jax.random.key(0), images)
    assert {task.name: (2, 64, 96, task.channels) for task in built.tasks} == {k: v.shape for k, v in outputs.items()}
    if "quick" in argument:
        assert config.data.name == "streets"
    if name == "weighting":
        return
    # The options of its network are keys, no more and no fewer: the U-Net's are not everybody's.
    of_loop = {"name", "parent", "heads", "axis_name"}
    attributes = {field.name for field in dataclasses.fields(built.model)} - of_loop
    given = config.model.to_dict()
    assert given.keys() == attributes | {"name", "pretrained", "start_from", "freeze"}
    assert {key: getattr(built.model, key) for key in attributes} == {key: given[key] for key in attributes}
    if name in TOPOLOGIES:
        assert given["name"] == name


@pytest.mark.parametrize("name", weighting.names())
def test_a_methods_options_are_keys_with_its_defaults(name):
    config = any_weighting.get_config(name).weighting
    assert {key: config[key] for key in config} == {"name": name, **weighting.options(name)}


def test_the_key_that_the_step_tells_of_is_there():
    """An odd number of frames a device: `--config.weighting.independent=False` is what the message says."""
    config = any_weighting.get_config("modo,quick")
    assert experiment.build(config).method.samples == 2
    config.weighting.independent = False
    assert experiment.build(config).method.samples == 0


def test_a_rate_that_falls_in_steps():
    config = dwa.get_config("quick")
    config.optimizer.update(schedule="steps", step_epochs=2.0, learning_rate=0.1)
    schedule = experiment.build(config).schedule  # 100 steps an epoch
    assert [round(float(schedule(step)), 6) for step in (0, 199, 200, 399)] == [0.1, 0.1, 0.05, 0.05]
    config.optimizer.schedule = "cosine"
    with pytest.raises(UserError, match=r"optimizer\.schedule is 'cosine': choose polynomial or steps"):
        experiment.build(config)


def test_options_without_a_default_value_can_be_set():
    config = any_weighting.get_config("dwa,quick")
    expected = {"name": "dwa", "temperature": 2.0, "steps_per_epoch": None, "window": None}
    assert experiment.resolve(config).weighting.to_dict() == expected
    config.weighting.window = 25
    with pytest.raises(TypeError):
        config.weighting.window = "many"


def test_the_unets_keys():
    assert dwa.get_config().model.to_dict() == {
        "name": "unet",
        "backbone": "resnet50",
        "pretrained": "auto",
        "start_from": "",
        "freeze": "",
        "attention": "gate",
        "decoder_channels": (256, 128, 64, 32, 16),
        "head_stride": 1,
        "remat": False,
        "dtype": "float32",
    }


def test_a_method_and_a_network_are_chosen_together():
    config = any_weighting.get_config("cagrad,mtan,quick")
    assert (config.weighting.name, config.weighting.level, config.model.name) == ("cagrad", "parameters", "mtan")
    assert "attention" not in config.model
    experiment.build(config)
    with pytest.raises(UserError, match="one network, not mtan and unet"):
        any_weighting.get_config("cagrad,mtan,unet")
    config = dwa.get_config("quick")
    config.model.name = "mtan"
    with pytest.raises(UserError, match=r"model\.attention is no option of mtan .*configs/weighting\.py:METHOD,mtan"):
        experiment.build(config)


def test_quick_leaves_the_options_of_a_network_of_ones_own():
    assert any_weighting.get_config("dwa,helpers.tiny:SplitNet,quick").model.width == 8
    assert any_weighting.get_config("dwa,pad_net,quick").model.width == 64


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def method(num_tasks):\n    pass\n", "weighting 'method' has no spec: decorate its factory"),
        ("@spec.gradient_balancing()\ndef method(num_tasks, *, x):\n    pass\n", "'method': option x has no default"),
    ],
)
def test_a_method_of_ones_own_that_is_not_whole_is_named(code, message, tmp_path, monkeypatch):
    name = f"of_one_s_own_{len(code)}"
    (tmp_path / f"{name}.py").write_text("from mtlflax.weighting import spec\n" + code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=message):
        any_weighting.get_config(f"{name}:method,quick")


def test_three_tasks_take_another_network():
    config = three_tasks.get_config("pad_net,quick")
    assert (config.model.name, config.model.width) == ("pad_net", 64)
    assert experiment.build(config).model.heads.keys() == {"segmentation", "depth", "normals"}
    assert three_tasks.get_config("quick").model.name == "unet"


def test_normals_are_not_derived_from_zoomed_depth():
    assert three_tasks.get_config().data.augment.scales == (1.0,)


def test_one_frame_of_one_pixel_cannot_be_normalised():
    config = any_weighting.get_config("equal,deeplabv3plus,quick")
    config.batch_size = 1
    with pytest.raises(UserError, match="batch normalization of a single value"):
        experiment.build(config)
    config = dwa.get_config("quick")
    config.batch_size = 1
    experiment.build(config)


def test_the_recipe_is_the_papers():
    config = dwa.get_config()
    expected = {
        "optimizer.name": "adam",
        "optimizer.learning_rate": 1e-4,
        "optimizer.power": 0.9,
        "batch_size": 8,
        "epochs": 100.0,
        "best.from_epoch": 80.0,
        "data.size": (128, 256),
        "data.classes": 19,
        "data.depth": "normalised_disparity",
        "model.backbone": "resnet50",
        "weighting.name": "dwa",
    }
    assert {key: get_value(key, config) for key in expected} == expected
    single = single_task.get_config("depth")
    assert (single.epochs, single.best.from_epoch, single.best.mode) == (85.0, 70.0, "min")


@pytest.mark.parametrize(
    ("module", "argument", "named"),
    [
        (dwa, "quik", "quik"),
        (dwa, "quick,quick", "twice"),
        (dwa, "resnet18,resnet50", "one encoder"),
        (dwa, "depth", "unknown config argument 'depth'"),
        (single_task, "quick", "one task"),
        (single_task, "segmentation,depth", "one task"),
    ],
)
def test_a_wrong_argument_is_named(module, argument, named):
    with pytest.raises(UserError, match=named):
        module.get_config(argument)


def resume(folder, root, **data):
    """Record a run as the loop does; raises what a resumed one would."""
    config = dwa.get_config("quick")
    config.data.update(name="cityscapes" if root else "streets", root=str(root), size=(16, 32), **data)
    built = experiment.build(config)
    workdir.record(built.config, folder, fields=field_json.to_json(built.fields), **built.facts)
    (folder / "checkpoints" / "5").mkdir(parents=True, exist_ok=True)


def test_a_run_resumes_where_the_same_frames_lie_and_nowhere_else(tmp_path, capsys):
    """Another folder with the same frames is a note; as many frames of other names are an error that names them."""
    first = trees.write_tree(tmp_path / "first", train=3, val=2, size=(16, 32))
    resume(tmp_path / "run", first)
    resume(tmp_path / "run", first)
    assert "NOTE" not in capsys.readouterr().out
    shutil.copytree(first, tmp_path / "moved")
    resume(tmp_path / "run", tmp_path / "moved")
    assert (
        f"began on {first}; the data is now {tmp_path / 'moved'}, with frames of the same names"
        in capsys.readouterr().out
    )
    for path in (tmp_path / "moved").glob("*/val/*/aachen_000001_*"):
        path.rename(path.with_name(path.name.replace("aachen_000001", "aachen_000007")))
    with pytest.raises(UserError) as error:
        resume(tmp_path / "run", tmp_path / "moved")
    (line,) = str(error.value).splitlines()[1:-1]
    there, here = (f"2 frames, aachen_000000_000019 to aachen_00000{i}_000019" for i in (1, 7))
    assert re.fullmatch(rf"  facts\.val_frames: '{there}, \w{{12}}' there, '{here}, \w{{12}}' here", line)


def test_a_field_that_no_task_reads_may_come_later(tmp_path):
    """As where the package of the disparities is unpacked during a run of segmentation alone."""
    root = trees.write_tree(tmp_path / "tree", train=3, val=2, size=(16, 32))
    (root / "disparity").rename(tmp_path / "disparity")
    config = single_task.get_config("segmentation,quick")
    config.data.update(name="cityscapes", root=str(root), size=(16, 32))
    for _ in range(2):
        built = experiment.build(config)
        workdir.record(built.config, tmp_path / "run", fields=field_json.to_json(built.fields), **built.facts)
        (tmp_path / "run" / "checkpoints" / "5").mkdir(parents=True, exist_ok=True)
        if (tmp_path / "disparity").exists():
            (tmp_path / "disparity").rename(root / "disparity")
    assert "depth" in built.fields


def test_frames_that_differ_in_the_middle_are_told_apart(tmp_path):
    root = trees.write_tree(tmp_path / "tree", train=4, val=1, size=(16, 32))
    described = [data.describe(cityscapes.Cityscapes(root, "train"))]
    for path in root.glob("*/train/*/aachen_000002_*"):
        path.rename(path.with_name(path.name.replace("_000019_", "_000020_")))
    described.append(data.describe(cityscapes.Cityscapes(root, "train")))
    assert described[0].rpartition(", ")[0] == described[1].rpartition(", ")[0]
    assert described[0] != described[1]


def test_other_frames_of_streets_are_other_options(tmp_path, monkeypatch):
    monkeypatch.setenv("MTLFLAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CITYSCAPES_DATASET", raising=False)
    resume(tmp_path / "run", "", streets={"train": 2, "val": 1, "seed": 0})
    resume(tmp_path / "run", "", streets={"train": 2, "val": 1, "seed": 0})
    with pytest.raises(UserError, match=r"data\.streets\.seed: 0 there, 1 here"):
        resume(tmp_path / "run", "", streets={"train": 2, "val": 1, "seed": 1})
    with pytest.raises(
        UserError, match=r"facts\.train_frames: '2 frames, .* '3 frames, streets-train_000000_000019 to"
    ):
        resume(tmp_path / "run", "", streets={"train": 3, "val": 1, "seed": 0})


COMMON = "from configs import common\n\ndef get_config(arg=None):\n    config = common.get_config({'name': 'equal'})\n"
IN_THE_FILE = {
    "a new key": (COMMON + "    config.losses.dpeth = 'l2'\n", r"line 5: AttributeError: Key .dpeth. does not exist"),
    "a key that is not there": (COMMON + "    config.losses.dpeth\n", r"line 5: AttributeError: .*dpeth"),
    "an item that is not there": (COMMON + "    return config[{}['b']]\n", r"line 5: KeyError: b"),
    "a value of another type": (COMMON + "    config.epochs = 'many'\n", r"line 5: TypeError: .*epochs"),
    "a wrong value": ("def get_config(arg=None):\n    return int('x')\n", r"line 2: ValueError: .*'x'"),
    "another error": ("import numpy\n\nnumpy.zeros(3)[4]\n", r"line 3: IndexError: .* 4 "),
    "syntax": ("def get_config(arg=None)\n    return 1\n", r"line 1: expected ':'"),
    "import": ("import nothing_of_this_name\n", r"line 1: ModuleNotFoundError: .*nothing_of_this_name"),
    "a file that is not there": (
        "def get_config(arg):\n    open('/nowhere')\n",
        r"line 2: FileNotFoundError: .*/nowhere",
    ),
    "one at the import": ("open('/nowhere')\n", r"No such file or directory: '/nowhere'"),
    "no function": ("X = 1\n", r"has no function get_config"),
    "no argument": ("def get_config():\n    return 1\n", r"get_config\(\) takes 0 positional"),
    "no ConfigDict": ("def get_config(arg=None):\n    return {}\n", r"get_config returns a dict"),
}


def test_a_line_is_named_in_a_file_that_is_given_by_a_relative_path(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(IN_THE_FILE["a wrong value"][0])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^mine\.py, line 2: ValueError"):
        config_file.load("mine.py:quick")


def parse_error(*arguments):
    """What the command says of a mistake in its arguments: one line, and no traceback."""
    said = call(arguments, code=2)
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    return said


@pytest.mark.parametrize("mistake", IN_THE_FILE)
def test_an_error_in_a_config_file_is_told_with_its_line(mistake, tmp_path):
    content, expected = IN_THE_FILE[mistake]
    path = tmp_path / "mine.py"
    path.write_text(content)
    # An override beside it is not to blame.
    overrides = [] if mistake == "no ConfigDict" else ["--config.epochs=3"]
    said = parse_error(f"--config={path}:quick", *overrides)
    assert re.match(rf"error: {path}[:,] .*{expected}", said), said
    assert "the config has no key" not in said


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("--config.losess.depth=l2", "error: the config has no key 'losess'. Did you mean \"losses\""),
        ("--config.model.bakcbone=x", "error: the config has no key 'bakcbone'. Did you mean \"backbone\""),
        ("--config.epochs=many", "error: flag --config.epochs=many: could not convert"),
        ("--cofnig.epochs=1", "error: Unknown command line flag 'cofnig.epochs'"),
    ],
)
def test_a_wrong_key_on_the_command_line_is_not_the_files_mistake(override, expected, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(COMMON + "    return config\n")
    assert parse_error(f"--config={path}", override).startswith(expected)
