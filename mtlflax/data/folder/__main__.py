"""Say what is in a data set in folders, before training on it.

    python -m mtlflax.data.folder --check --config=configs/folder.py --config.data.root=FOLDER

It reads every file, and names those that are broken, that lack a partner or that fit no frame. `--classes=FILE.json`
writes the classes that were found, to be given names and colors and to be read as
`--config.data.folder.fields.segmentation.classes=FILE.json`. The exit code is 1 if a file is broken.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from mtlflax import command_line
from mtlflax.data import statistics
from mtlflax.data.folder.source import Folder, open_folder
from mtlflax.data.source import Labels
from mtlflax.data.statistics import text
from mtlflax.errors import UserError, describe
from mtlflax.files import write_text
from mtlflax.run import config_file


def main(argv: Sequence[str]) -> int:
    """Run the command; returns 1 if something is broken."""
    parser = command_line.Parser("mtlflax.data.folder", __doc__ or "")
    parser.add_argument("--check", action="store_true", help="read all files and say what they hold (the default)")
    parser.add_argument("--config", metavar="FILE[:ARGUMENTS]", required=True, help="config file, as for mtlflax.main")
    parser.add_argument("--classes", type=command_line.path, metavar="FILE.json", help="write the classes there")
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="that read (default: 4)")
    options, overrides = parser.parse_known_args(argv)
    config = config_file.load(options.config, overrides).data
    if config.name != "folder":
        raise UserError(f"data.name is {config.name!r}: this command looks at folders (configs/folder.py)")
    broken = 0
    for split in ("train", "val"):
        try:
            source = open_folder(config, split, as_stored=True)
        except (ValueError, TypeError) as error:
            raise UserError(f"config: {describe(error)}") from error
        if split == "train" and options.classes:
            _write_classes(options.classes, source)
        with tqdm(total=len(source), desc=split, file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:
            counts = statistics.count(source, options.threads, bar.update)
        unused = [(key, paths) for key, paths in source.unused.items() if paths]
        lines = text.describe(split, counts, source.fields)
        lines += [f"  {len(paths)} files of {key} belong to no image: {text.some(paths)}" for key, paths in unused]
        print("\n".join(lines), flush=True)
        broken += len(counts.broken)
    return 1 if broken else 0


def _write_classes(path: Path, source: Folder) -> None:
    maps = [field for field in source.fields.values() if isinstance(field, Labels)]
    if not maps:
        raise UserError("--classes: no field holds labels")
    entries = [{"id": c.id, "name": c.name, "color": list(c.color)} for c in maps[0].classes]
    write_text(path, json.dumps(entries, indent=1) + "\n")
    print(f"{len(entries)} classes written to {path}")


if __name__ == "__main__":
    command_line.run(main)
