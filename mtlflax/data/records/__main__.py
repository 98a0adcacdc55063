"""Convert a data set once, at training size, to a form that is read fast: a cache.

    python -m mtlflax.data.records --config=configs/dwa.py --out=DIR [--threads=4] [--config.KEY=VALUE ...]
    python -m mtlflax.data.records --verify --out=DIR

Train with --config.data.cache=DIR. Run the same command again to go on after `kill -9`. `--verify` reads a cache and
compares its checksums.
"""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

from mtlflax import command_line, data, experiment
from mtlflax.data import records
from mtlflax.data.records import opening
from mtlflax.data.records.layout import Layout
from mtlflax.data.records.reader import read_manifest
from mtlflax.errors import UserError, describe
from mtlflax.run import config_file


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = command_line.Parser("mtlflax.data.records", __doc__ or "")
    parser.add_argument("--config", metavar="FILE[:ARGUMENTS]", help="config file, as for mtlflax.main")
    parser.add_argument("--out", type=command_line.path, metavar="DIR", required=True, help="the cache")
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="that read frames (default: 4)")
    parser.add_argument("--verify", action="store_true", help="compare a cache with its checksums")
    options, overrides = parser.parse_known_args(argv)
    if options.verify:
        verify(options.out)
        return
    if not options.config:
        parser.error("give --config, or --verify")
    config = experiment.resolve(config_file.load(options.config, overrides)).data
    if config.name == "mixture":
        raise UserError("a cache is of one data set: make one of each in data.mixture, with a config of its own")
    try:
        sources = {split: data.open_source(config.name, config, split) for split in ("train", "val")}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"config: {describe(error)}") from error
    wanted = opening.key(config, sources)
    opening.make(options.out, sources, wanted, max(1, options.threads), config.on_error)
    opening.check(options.out, wanted)
    for split in sources:
        made = records.Records(options.out, split)
        size = (options.out / f"{split}.records").stat().st_size
        print(f"{split}: {len(made)} frames, {size / 1e6:.1f} MB")
    print(f"train with --config.data.cache={options.out}")


def verify(folder: Path) -> None:
    """Read all records; UserError if a block is not what was written."""
    manifest = read_manifest(folder)
    for split, content in manifest["splits"].items():
        records.Records(folder, split)
        length = Layout.from_json(content["layout"]).length * content["block"]
        with open(folder / f"{split}.records", "rb") as file:
            for number, checksum in enumerate(content["checksums"]):
                if zlib.crc32(file.read(length)) != checksum:
                    first = content["names"][number * content["block"]]
                    raise UserError(f"{file.name}: is damaged at {first}: remove {folder}, and make it anew")
        print(f"{split}: {len(content['names'])} frames, as they were written")
    print(json.dumps(manifest["key"]["size"]))


if __name__ == "__main__":
    command_line.run(main)
