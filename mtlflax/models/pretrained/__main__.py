"""What a file of weights is and which encoder it fits; and a trained encoder, for other programs.

    python -m mtlflax.models.pretrained --check FILE
    python -m mtlflax.models.pretrained --export WORKDIR --out FILE.safetensors

The second writes the encoder of a run's best checkpoint by torchvision's names, without a classifier:
`network.load_state_dict(safetensors.torch.load_file(FILE), strict=False)` loads it there.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mtlflax.errors import UserError
from mtlflax.models.encoders import ENCODERS
from mtlflax.models.pretrained import conversion, files


def check(path: Path) -> str:
    """Says what a file of weights holds and which encoder it fits.

    Raises:
        UserError: it cannot be read, or fits none.
    """
    weights = files.read(path)
    scheme, tensors = conversion.rename(weights.tensors)
    trained = [
        value.size for name, value in tensors.items() if not name.endswith(("running_mean", "running_var", "_tracked"))
    ]
    classifier = [value for name, value in tensors.items() if conversion.CLASSIFIER.fullmatch(name) and value.ndim == 2]
    types = sorted({str(value.dtype) for value in tensors.values()})
    lines = [
        f"{path}: {weights.format}, SHA-256 {weights.sha256}",
        f"  {len(tensors)} tensors ({', '.join(types)}), {sum(trained):,} parameters",
        f"  names: {scheme}'s",
        f"  classifier: {f'of {len(classifier[0])} classes' if classifier else 'none'}",
    ]
    fitting = conversion.fitting(weights.tensors)
    if fitting is None:
        found = {name: conversion.faults(name, weights.tensors) for name in ENCODERS}
        nearest = min(found, key=lambda name: sum(map(len, found[name].values())))
        raise UserError(
            "\n".join(lines)
            + f"\nIt fits none of {', '.join(ENCODERS)}. What it would lack for a {nearest}, the nearest: "
            + conversion.describe(found[nearest])
        )
    return "\n".join([*lines, f"  fits: {fitting}"])


def export(workdir: Path, out: Path, path: str = "") -> str:
    """Writes a trained encoder by torchvision's names.

    Args:
        workdir: a run's folder.
        out: a `.safetensors` or `.npz` file.
        path: which of the network's encoders, where it has several.

    Returns:
        What was written, in words.

    Raises:
        UserError: no run there, no such encoder, or the file cannot be written.
    """
    from mtlflax import predict  # the one place where the models' package looks at runs, which stand above it

    run = predict.load(workdir)
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
    """The command line."""
    parser = argparse.ArgumentParser("python -m mtlflax.models.pretrained", description=__doc__.splitlines()[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", type=Path, metavar="FILE", help="say what it holds and which encoder it fits")
    action.add_argument("--export", type=Path, metavar="WORKDIR", help="write the encoder of a run's best checkpoint")
    parser.add_argument("--out", type=Path, metavar="FILE", help="of --export: a .safetensors or .npz file")
    parser.add_argument("--encoder", default="", help="of --export: which, where the network has several")
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
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
