"""Export a trained network to a file that runs without this package.

    python -m mtlflax.export --workdir=DIR --out=FILE

FILE's suffix says the format, or --format does:

    FILE.stablehlo   StableHLO by jax.export, for CPUs, GPUs (CUDA) and TPUs; read it with mtlflax.export.load, or with
                     jax alone, up to six months newer
    FILE.onnx        ONNX (opset 18), for ONNX Runtime and others; needs the extra [onnx]

The network takes images, uint8 [B, H, W, 3] RGB of the size it was trained at, any number of them, and gives for each
task the output that predictions are made of, float32 [B, H, W, channels]: logits of the classes, depth in its unit. The
file also says which classes and unit these are. Before it is written, it is compared with the network.
"""

import argparse
from collections.abc import Sequence

from mtlflax import command_line
from mtlflax.export import formats
from mtlflax.run.predictor import load


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    options = _parse(argv)
    chosen = formats.find(options.out, options.format)
    run = load(options.workdir)
    difference = formats.export(run, options.out, chosen)
    height, width = run.network.size
    tasks = ", ".join(f"{task.name} ({task.channels})" for task in run.network.tasks)
    print(f"step {run.step}, images of {height}×{width}, tasks and channels: {tasks}")
    megabytes = options.out.stat().st_size / 1e6
    print(f"{options.out}: {chosen}, {megabytes:.3g} MB; differs from the network by at most {difference:.1g}")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = command_line.Parser("mtlflax.export", __doc__)
    path = command_line.path
    parser.add_argument("--workdir", type=path, required=True, metavar="DIR", help="the run to export")
    parser.add_argument("--out", type=path, required=True, metavar="FILE", help="the file to write")
    parser.add_argument("--format", choices=list(formats.FORMATS), default="", help="default: FILE's suffix")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command_line.run(main)
