"""Pretrained weights without torch: files, names, what does not fit, the hub, and the way into a network."""

import hashlib
import io
import json
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.goldens.make_encoder_goldens import state_dict
from helpers.torch_shapes import torch_shapes

from mtlflax import models
from mtlflax.errors import UserError
from mtlflax.models import pretrained
from mtlflax.models.pretrained.hub import PINNED


def weights(backbone):
    return state_dict(torch_shapes(backbone))


def assert_same_tensors(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(("suffix", "kind"), [(".npz", "NumPy (npz)"), (".safetensors", "safetensors")])
def test_what_is_written_is_read(suffix, kind, tmp_path):
    tensors = {
        "conv.weight": np.arange(24.0).reshape(2, 3, 4)[:, ::2],
        "bn.weight": np.float32([1.5]),
        "x": np.ones(()),
    }
    path = tmp_path / f"weights{suffix}"
    pretrained.write(path, tensors)
    read = pretrained.read(path)
    assert (read.path, read.format) == (path, kind)
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert all(value.dtype == np.float32 for value in read.tensors.values())
    assert_same_tensors(read.tensors, tensors)


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def test_safetensors_of_other_programs_are_read(tmp_path):
    half = np.array([1.5, -2.0, 0.25], np.float16)
    brain = np.array([[1.5, -3.0]], jnp.bfloat16)
    counter = np.int64(7)
    header = {
        "__metadata__": {"format": "pt"},
        "brain": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [6, 10]},
        "half": {"dtype": "F16", "shape": [3], "data_offsets": [0, 6]},
        "counter": {"dtype": "I64", "shape": [], "data_offsets": [10, 18]},
        "empty": {"dtype": "F32", "shape": [0, 3], "data_offsets": [18, 18]},
    }
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(header, half.tobytes() + brain.tobytes() + counter.tobytes()))
    tensors = pretrained.read(path).tensors
    assert_same_tensors(tensors, {"brain": brain, "half": half, "counter": counter, "empty": np.zeros((0, 3))})
    assert tensors["brain"].dtype == jnp.bfloat16


def entry(shape, offsets, dtype="F32"):
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def tar_of(name):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


BROKEN = {
    "header longer than the file": (safetensors({}, length=100), "damaged"),
    "numbers missing": (safetensors(entry([4], [0, 16]), b"\0" * 12), "damaged"),
    "offsets backwards": (safetensors(entry([2], [8, 0]), b"\0" * 8), "damaged"),
    "offsets negative": (safetensors(entry([2], [-8, 0]), b"\0" * 8), "damaged"),
    "too few bytes for the shape": (safetensors(entry([4], [0, 8]), b"\0" * 8), "damaged"),
    "unknown type": (safetensors(entry([4], [0, 4], "F8_E4M3"), b"\0" * 4), "a type that is not known here: F8_E4M3"),
    "header without a shape": (safetensors({"a": {"dtype": "F32"}}), "damaged"),
    "header that is no JSON": (safetensors(b"{'a'"), "damaged"),
    "npz cut short": (npz(a=np.ones(100))[:-30], "damaged"),
    "npz of objects": (npz(a=np.array([{}])), "allow_pickle"),
    "a plain pickle": (pickle.dumps({"a": 1}), "neither PyTorch"),
    "a web page": (b"<!DOCTYPE html>", "begins with b'<!DOCTYPE"),
    "a shape of two unknowns": (safetensors(entry([-1, -1], [0, 4]), b"\0" * 4), "damaged"),
    "a shape that is none": (safetensors(entry("x", [0, 4]), b"\0" * 4), "damaged"),
    "an entry that is none": (safetensors({"a": [1, 2]}), "damaged"),
    "an empty archive": (b"PK\5\6" + b"\0" * 18, "an archive of nothing"),
    "nothing": (b"", "is not a file of weights: it is empty"),
    "a tar archive": (
        tar_of("storages"),
        r"tar archive, perhaps from PyTorch 0\.1.* load it with PyTorch .* save it again",
    ),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_one_message(fault, tmp_path):
    content, said = BROKEN[fault]
    path = tmp_path / "resnet50.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        pretrained.read(path)
    assert str(path) in str(error.value)


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.pth: cannot be read \(No such file"):
        pretrained.read(tmp_path / "nothing.pth")
    with pytest.raises(UserError, match="Is a directory"):
        pretrained.read(tmp_path)
    with pytest.raises(UserError, match=r"ends in \.safetensors or \.npz"):
        pretrained.write(tmp_path / "x.pth", {})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/x\.npz"):
        pretrained.write(tmp_path / "file" / "x.npz", {})


# ---------------------------------------------------------------- names and fit


def hugging_face(name):
    """transformers' name for torchvision's, written down from a listing of microsoft/resnet-50's."""
    if name.startswith("fc."):
        return name.replace("fc.", "classifier.1.")
    if match := re.fullmatch(r"(conv1|bn1)\.(.+)", name):
        kind = {"conv1": "convolution", "bn1": "normalization"}[match[1]]
        return f"resnet.embedder.embedder.{kind}.{match[2]}"
    stage, block, part, leaf = re.fullmatch(r"layer(\d)\.(\d+)\.(conv\d|bn\d|downsample\.\d)\.(.+)", name).groups()
    kind = "convolution" if part.startswith("conv") or part == "downsample.0" else "normalization"
    where = "shortcut" if part.startswith("down") else f"layer.{int(part[-1]) - 1}"
    return f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}.{where}.{kind}.{leaf}"


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_hugging_face_names(backbone):
    tensors = weights(backbone) | {"fc.weight": np.ones((5, 512)), "fc.bias": np.ones(5)}
    tensors["layer1.0.bn1.num_batches_tracked"] = np.int64(3)
    theirs = {hugging_face(name): value for name, value in tensors.items()}
    assert "resnet.encoder.stages.2.layers.0.shortcut.normalization.running_var" in theirs
    jax.tree.map(np.testing.assert_array_equal, *(pretrained.convert(backbone, t) for t in (tensors, theirs)))
    without_head = {name.removeprefix("resnet."): value for name, value in theirs.items() if "classifier" not in name}
    assert pretrained.fitting(without_head) == backbone


def test_old_densenet_names_and_data_parallel():
    tensors = weights("densenet121")
    old = {}
    for name, value in tensors.items():
        if "denselayer" in name:
            name = re.sub(r"(norm|conv)([12])", r"\1.\2", name)
        old[f"module.{name}"] = value
    assert "module.features.denseblock1.denselayer1.norm.1.weight" in old
    jax.tree.map(np.testing.assert_array_equal, *(pretrained.convert("densenet121", t) for t in (tensors, old)))


@pytest.mark.parametrize("backbone", models.ENCODERS)
def test_an_encoder_survives_the_way_out_and_in(backbone):
    tensors = weights(backbone)
    variables = pretrained.convert(backbone, tensors)
    expected = jax.eval_shape(models.encoder(backbone).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    jax.tree.map(lambda ours, theirs: ours.shape == theirs.shape or pytest.fail("shapes differ"), variables, expected)
    assert_same_tensors(pretrained.export(backbone, variables), tensors)
    assert pretrained.fitting(tensors) == backbone


def test_what_does_not_fit_is_named():
    state = weights("resnet18")
    with pytest.raises(UserError, match=r"not for resnet50: .* They are for resnet18: use that backbone"):
        pretrained.convert("resnet50", state)
    with pytest.raises(UserError, match=r"not for densenet121: .* They are for resnet18"):
        pretrained.convert("densenet121", state)
    missing = {name: value for name, value in state.items() if name != "layer1.0.conv1.weight"}
    with pytest.raises(UserError, match=r"1 missing \(layer1\.0\.conv1\.weight\)\. They fit no encoder"):
        pretrained.convert("resnet18", missing)
    with pytest.raises(UserError, match=r"1 surplus \(layer9\.weight\)"):
        pretrained.convert("resnet18", {**state, "layer9.weight": np.zeros(3)})
    with pytest.raises(UserError, match=r"1 misshapen \(conv1\.weight is \(64, 3, 5, 5\), not \(64, 3, 7, 7\)\)"):
        pretrained.convert("resnet18", {**state, "conv1.weight": np.zeros((64, 3, 5, 5))})
    with pytest.raises(UserError, match=r"1 misshapen \(bn1\.bias is int8, not floating point\)"):
        pretrained.convert("resnet18", {**state, "bn1.bias": np.zeros(64, np.int8)})
    with pytest.raises(UserError, match=r"known for the built-in encoders \(resnet18, .*\), not for resnet19"):
        pretrained.convert("resnet19", state)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("conv1.weight", np.nan, r"conv1\.weight has values that are not finite"),
        ("bn1.bias", np.inf, r"bn1\.bias has values that are not finite"),
        ("bn1.running_var", -1e-3, r"bn1\.running_var has negative variances"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_numbers_that_no_training_gives_are_named(name, value, said, dtype):
    state = {key: tensor.astype(dtype) for key, tensor in weights("resnet18").items()}
    state[name] = state[name].copy()
    state[name].flat[-1] = value
    with pytest.raises(UserError, match=rf"not for resnet18: 1 spoilt \({said}\)"):
        pretrained.convert("resnet18", state)


# Of larger networks: what the encoder's names begin with, and names of other tensors.
CHECKPOINTS = {
    "DataParallel": ("module.", []),
    "a classifier": ("model.backbone.", ["model.head.fc.weight"]),
    "torchvision's DeepLab": ("backbone.", ["classifier.4.weight", "classifier.0.convs.0.0.weight"]),
    "MMSegmentation": ("backbone.", ["decode_head.conv_seg.weight", "auxiliary_head.convs.0.conv.weight"]),
    "a Faster R-CNN": (
        "backbone.body.",
        ["backbone.fpn.inner_blocks.0.0.weight", "rpn.head.bbox_pred.bias"],
    ),
    "MoCo": ("module.encoder_q.", ["module.queue", "module.queue_ptr"]),
    "DINO's teacher": ("teacher.backbone.", ["teacher.head.mlp.0.weight"]),
}


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("backbone", ["resnet18", "densenet121"])
def test_an_encoder_is_found_in_a_larger_checkpoint(backbone, checkpoint):
    prefix, others = CHECKPOINTS[checkpoint]
    state = weights(backbone)
    larger = dict.fromkeys(others, np.zeros(1)) | {prefix + name: value for name, value in state.items()}
    jax.tree.map(np.testing.assert_array_equal, *(pretrained.convert(backbone, t) for t in (state, larger)))
    found = pretrained.find(larger)
    assert (found.prefix, found.left_out) == (prefix, others)
    assert pretrained.fitting(larger) == backbone


def test_an_encoder_by_other_names_is_found_in_a_larger_checkpoint():
    state = weights("resnet18")
    theirs = {f"model.{hugging_face(name)}": value for name, value in state.items()} | {"head.weight": np.zeros(1)}
    jax.tree.map(np.testing.assert_array_equal, *(pretrained.convert("resnet18", t) for t in (state, theirs)))


def test_several_encoders_are_an_error_that_names_them():
    state = weights("resnet18")
    both = {f"module.encoder_{which}.{name}": value for which in "qk" for name, value in state.items()}
    with pytest.raises(UserError, match=r"encoders, whose names begin with 'module\.encoder_k\.' and 'module\.enc"):
        pretrained.convert("resnet18", both)


def test_where_weights_are_from_names_the_prefix(tmp_path):
    path = tmp_path / "segmentation.npz"
    state = {f"backbone.{name}": value for name, value in weights("resnet18").items()}
    pretrained.write(path, state | {"classifier.4.weight": np.zeros(1)})
    variables, origin = pretrained.load(str(path), "resnet18")
    jax.tree.map(np.testing.assert_array_equal, variables, pretrained.convert("resnet18", weights("resnet18")))
    assert origin.endswith(", backbone.*, 1 other tensors left out)")


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    """On a full disk, here a limit on the size of a file."""
    path = tmp_path / "encoder.safetensors"
    pretrained.write(path, {"a": np.ones(3)})
    before = path.read_bytes()
    script = (
        "import resource, signal, sys; import numpy as np; from mtlflax.models import pretrained\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        pretrained.write(path, {'a': np.ones(10**6)})\n"
        "    except pretrained.UserError as error:\n"
        "        print(error)\n"
    )
    new = tmp_path / "new.npz"
    done = subprocess.run([sys.executable, "-c", script, path, new], capture_output=True, text=True, check=True)
    assert [line.split(":")[0] for line in done.stdout.splitlines()[::2]] == [f"cannot write {p}" for p in (path, new)]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_two_tensors_of_one_name_are_refused():
    state = weights("resnet18")
    with pytest.raises(UserError, match=r"1 surplus \(module\.conv1\.weight\)"):
        pretrained.convert("resnet18", {**state, "module.conv1.weight": np.zeros((64, 3, 7, 7))})
    with pytest.raises(UserError, match=r"two tensors for conv1\.weight, one of them named embedder\.embedder\.conv"):
        pretrained.convert("resnet18", {**state, "embedder.embedder.convolution.weight": np.zeros((64, 3, 7, 7))})


def test_half_precision_is_widened():
    state = weights("resnet18")
    brain = {name: value.astype(jnp.bfloat16) for name, value in state.items()}
    kernel = pretrained.convert("resnet18", brain)["params"]["conv1"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(kernel.transpose(3, 2, 0, 1), state["conv1.weight"], rtol=2**-8)


# ---------------------------------------------------------------- the hub


class Hub(types.ModuleType):
    """`huggingface_hub` as far as it is used: a folder instead of a network."""

    def __init__(self, folder):
        super().__init__("huggingface_hub")
        self.folder, self.asked, self.error = folder, [], None
        self.errors = types.ModuleType("huggingface_hub.errors")
        # Its hierarchy, as of 2.4.
        http = type("HfHubHTTPError", (OSError,), {})
        entry = type("EntryNotFoundError", (Exception,), {})
        for name, bases in (
            ("RepositoryNotFoundError", (http,)),
            ("RevisionNotFoundError", (http,)),
            ("HFValidationError", (ValueError,)),
            ("RemoteEntryNotFoundError", (http, entry)),
            ("LocalEntryNotFoundError", (FileNotFoundError, entry)),
            ("OfflineModeIsEnabled", (ConnectionError,)),
        ):
            setattr(self.errors, name, type(name, bases, {}))
        self.errors.EntryNotFoundError = entry

    def hf_hub_download(self, repository, filename, *, revision):
        self.asked.append((repository, filename, revision))
        if self.error:
            raise getattr(self.errors, self.error)("what the hub says\nin several lines")
        return str(self.folder / "model.safetensors")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    module = Hub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", module.errors)
    return module


def test_weights_come_by_name(hub, tmp_path):
    pretrained.write(tmp_path / "model.safetensors", weights("resnet18"))
    digest = pretrained.read(tmp_path / "model.safetensors").sha256
    variables, origin = pretrained.load("timm/ours", "resnet18")
    jax.tree.map(np.testing.assert_array_equal, variables, pretrained.convert("resnet18", weights("resnet18")))
    assert origin == f"timm/ours (SHA-256 {digest})"
    pretrained.load("someone/resnet-18@v1.2", "resnet18")
    assert hub.asked == [
        ("timm/ours", "model.safetensors", "main"),
        ("someone/resnet-18", "model.safetensors", "v1.2"),
    ]
    with pytest.raises(
        UserError, match=r"someone/resnet-18: these weights are not for resnet34.*They are for resnet18"
    ):
        pretrained.load("someone/resnet-18", "resnet34")


def test_a_name_whose_file_is_known_is_held_to_it(hub, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"something else")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(
        UserError, match=rf"begins with {digest[:12]}, not 5d061a3c593d.*resnet50\.tv_in1k@main to accept any"
    ):
        pretrained.download("timm/resnet50.tv_in1k")
    assert pretrained.download("timm/resnet50.tv_in1k@main") == path
    commit, _ = PINNED["timm/resnet50.tv_in1k"]
    assert hub.asked == [("timm/resnet50.tv_in1k", "model.safetensors", revision) for revision in (commit, "main")]


def test_a_file_that_exists_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pretrained.is_name("weights/encoder")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "encoder").write_bytes(b"")
    assert not pretrained.is_name("weights/encoder")
    for meant_as_a_file in ("weights/resnet18.pth.tar", "weights/last.ckpt", "weights/resnet18.PTH"):
        assert not pretrained.is_name(meant_as_a_file)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("RepositoryNotFoundError", r"has no timm/x@v2 \(or it is private\), and no such file exists"),
        ("RevisionNotFoundError", "has no timm/x@v2"),
        ("HFValidationError", "has no timm/x@v2"),
        ("RemoteEntryNotFoundError", r"timm/x@v2 on the Hugging Face hub has no model\.safetensors"),
        ("LocalEntryNotFoundError", "timm/x@v2 cannot be downloaded from the Hugging Face hub: what the hub says$"),
        ("OfflineModeIsEnabled", "cannot be downloaded"),
    ],
)
def test_what_the_hub_cannot_give_is_said(error, said, hub):
    hub.error = error
    with pytest.raises(UserError, match=said):
        pretrained.download("timm/x@v2")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install huggingface_hub$"):
        pretrained.download("timm/resnet50.tv_in1k")


def test_every_encoder_has_a_name_on_the_hub():
    assert list(pretrained.DEFAULTS) == list(models.ENCODERS)
    assert all(pretrained.is_name(name) and backbone in name for backbone, name in pretrained.DEFAULTS.items())


# ---------------------------------------------------------------- into a network


def test_encoders_are_put_where_the_network_has_them():
    encoder = {"params": {"conv1": {"kernel": np.ones((2, 3))}}, "batch_stats": {"bn1": {"mean": np.ones(3)}}}
    network = {
        kind: {"encoder_a": zeros, "encoder_b": {"inner": zeros}, "head": {"x": np.zeros(1)}}
        for kind, zeros in jax.tree.map(np.zeros_like, encoder).items()
    }
    result = pretrained.put(network, encoder, ("encoder_a", "encoder_b/inner"))
    for kind, tree in encoder.items():
        expected = {"encoder_a": tree, "encoder_b": {"inner": tree}, "head": {"x": np.zeros(1)}}
        jax.tree.map(np.testing.assert_array_equal, result[kind], expected)
    one = pretrained.put(network, encoder, ("encoder_a",))
    assert not one["params"]["encoder_b"]["inner"]["conv1"]["kernel"].any()
    for path in ("encoder", "encoder_b", "head"):
        with pytest.raises(ValueError, match=f"another encoder at {path} than"):
            pretrained.put(network, encoder, (path,))


@pytest.mark.parametrize("backbone", ["resnet18", "densenet121"])
def test_a_unet_takes_its_encoder(backbone):
    model = models.get("unet", backbone=backbone, heads={"depth": 1})
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    encoder = pretrained.convert(backbone, weights(backbone))
    result = pretrained.put(variables, encoder, model.encoders)
    assert jax.tree.structure(result) == jax.tree.structure(variables)
    for kind, tree in encoder.items():
        jax.tree.map(np.testing.assert_array_equal, result[kind]["encoder"], tree)
    with pytest.raises(ValueError, match="another encoder at encoder"):
        pretrained.put(variables, pretrained.convert("resnet34", weights("resnet34")), model.encoders)
