"""Check a file of weights, or export a trained encoder for other programs.

    python -m mtlflax.models.pretrained --check FILE
    python -m mtlflax.models.pretrained --export WORKDIR --out FILE.safetensors

The first prints the content of the file and which encoder it fits. The second writes the encoder of a run's best
checkpoint with torchvision's names, without a classifier:
`network.load_state_dict(safetensors.torch.load_file(FILE), strict=False)` loads it there.
"""

from collections.abc import Sequence
from pathlib import Path

from mtlflax import command_line
from mtlflax.errors import UserError
from mtlflax.models.encoders import ENCODERS
from mtlflax.models.pretrained import conversion, files


def check(path: Path) -> str:
    """Describe the content of a file of weights, and which encoder it fits; UserError if it fits none."""
    weights = files.read(path)
    try:
        scheme, tensors, prefix, left_out = conversion.find(weights.tensors)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    untrained = ("running_mean", "running_var", "_tracked")
    trained = [value.size for name, value in tensors.items() if not name.endswith(untrained)]
    classifier = [value for name, value in tensors.items() if conversion.CLASSIFIER.fullmatch(name) and value.ndim == 2]
    types = sorted({str(value.dtype) for value in tensors.values()})
    lines = [
        f"{path}: {weights.format}, SHA-256 {weights.sha256}",
        f"  {len(tensors)} tensors ({', '.join(types)}), {sum(trained):,} parameters",
        f"  names: {scheme}" + (f", behind {prefix!r}" if prefix else ""),
        f"  classifier: {f'of {len(classifier[0])} classes' if classifier else 'none'}",
    ]
    if left_out:
        more = ", ..." if len(left_out) > 3 else ""
        lines.append(f"  left out: {len(left_out)} other tensors ({', '.join(left_out[:3])}{more})")
    fitting = conversion.fitting(weights.tensors)
    if fitting is None:
        found = {name: conversion.faults(name, weights.tensors) for name in ENCODERS}
        nearest = min(found, key=lambda name: sum(map(len, found[name].values())))
        lines.append(f"It fits none of {', '.join(ENCODERS)}. For {nearest}, the nearest: ")
        raise UserError("\n".join(lines) + conversion.describe(found[nearest]))
    return "\n".join([*lines, f"  fits: {fitting}"])


def export(workdir: Path, out: Path, path: str = "") -> str:
    """Write the encoder of a run with torchvision's names to a `.safetensors` or `.npz` file, and describe it.

    `path` is one of the network's encoders, if it has several. UserError without a run or such an encoder, or if the
    file cannot be written.
    """
    from mtlflax.run import predictor  # the one place where the models' package looks at runs, which stand above it

    run = predictor.load(workdir)
    paths: tuple[str, ...] = getattr(run.network.model, "encoders", ())
    if len(paths) == 1:
        path = path or paths[0]
    if path not in paths:
        raise UserError(f"the network has these encoders: {', '.join(paths) or 'none'}; name one with --encoder")
    variables = run.variables
    for part in path.split("/"):
        variables = {collection: tree[part] for collection, tree in variables.items()}
    tensors = conversion.export(run.network.config.model.backbone, variables)
    files.write(out, tensors)
    return f"{out}: {run.network.config.model.backbone}, step {run.step}, {len(tensors)} tensors"


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = command_line.Parser("mtlflax.models.pretrained", __doc__)
    path = command_line.path
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", type=path, metavar="FILE", help="describe it, and say which encoder it fits")
    action.add_argument("--export", type=path, metavar="WORKDIR", help="write the encoder of a run's best checkpoint")
    parser.add_argument("--out", type=path, metavar="FILE", help="for --export: a .safetensors or .npz file")
    parser.add_argument("--encoder", default="", help="for --export: which, if the network has several")
    options = parser.parse_args(argv)
    if options.check:
        if options.out or options.encoder:
            parser.error("--out and --encoder belong to --export")
        print(check(options.check))
        return
    if options.out is None:
        parser.error("--export needs --out")
    print(export(options.export, options.out, options.encoder))


if __name__ == "__main__":
    command_line.run(main)
