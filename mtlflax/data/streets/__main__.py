"""`python -m mtlflax.data.streets --out=ROOT`: writes the embedded data set as a Cityscapes tree."""

import argparse
import os
import re
import sys
from collections.abc import Sequence

from mtlflax import command_line
from mtlflax.data.streets import write


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)[x×](\d+)", text)
    if not match or not all(8 <= int(n) <= 8192 for n in match.groups()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size: give HEIGHTxWIDTH, each from 8 to 8192, such as 1024x2048"
        )
    return int(match[1]), int(match[2])


def _count(text: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to 999999")
    return int(text)


def main(argv: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    parser = command_line.Parser(
        "mtlflax.data.streets",
        "Write procedural street scenes as a Cityscapes tree: pictures, gtFine, disparity, camera.\n"
        "Scenes that an earlier call wrote there are replaced.",
    )
    parser.add_argument("--out", required=True, metavar="ROOT", type=command_line.path, help="the tree's folder")
    parser.add_argument("--size", default="1024x2048", type=_size, help="HEIGHTxWIDTH (%(default)s)")
    parser.add_argument("--train", default=20, type=_count, help="training frames (%(default)s)")
    parser.add_argument("--val", default=5, type=_count, help="validation frames (%(default)s)")
    parser.add_argument("--seed", default=0, type=_count, help="another seed, another city (0)")
    parser.add_argument("--jobs", default=os.cpu_count(), type=_count, help="processes (all cores)")
    flags = parser.parse_args(argv)
    counts = {"train": flags.train, "val": flags.val}
    try:
        write.write_tree(flags.out, flags.size, counts, flags.seed, max(flags.jobs, 1))
    except KeyboardInterrupt:
        print(f"stopped; {flags.out} holds the frames that were finished", file=sys.stderr)
        return 130
    print(f"{flags.out}: {flags.train} training and {flags.val} validation frames of streets")
    return 0


if __name__ == "__main__":
    command_line.run(main)
