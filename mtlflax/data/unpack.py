"""Unpack Cityscapes' packages as they are downloaded, check them, and say what is missing.

    python -m mtlflax.data.unpack --packages=DOWNLOADS --out=ROOT [--only=leftImg8bit,gtFine,disparity,camera]

DOWNLOADS holds zip files of www.cityscapes-dataset.com/downloads (leftImg8bit_trainvaltest.zip, ...). Every file is
compared with its checksum in the package; files that are there already, whole, are left alone, so that the command can
be run again after it was stopped. The exit code is 1 if something is damaged or missing.
"""

import shutil
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from mtlflax import command_line
from mtlflax.errors import UserError
from mtlflax.files import plain_errors

# Frames of each split, as the data set's paper counts them.
FRAMES = {"train": 2975, "val": 500, "test": 1525, "train_extra": 19998}
KINDS = ("leftImg8bit", "gtFine", "gtCoarse", "disparity", "camera")
_ENDINGS = {
    "leftImg8bit": "_leftImg8bit.png",
    "gtFine": "_gtFine_labelIds.png",
    "gtCoarse": "_gtCoarse_labelIds.png",
    "disparity": "_disparity.png",
    "camera": "_camera.json",
}


def main(argv: Sequence[str]) -> int:
    """Run the command; returns 1 if something is damaged or missing."""
    parser = command_line.Parser("mtlflax.data.unpack", __doc__ or "")
    parser.add_argument("--packages", type=command_line.path, metavar="DIR", required=True, help="where the zips lie")
    parser.add_argument("--out", type=command_line.path, metavar="ROOT", required=True, help="where to unpack them")
    everything = ",".join(KINDS)
    parser.add_argument("--only", default=everything, metavar="KINDS", help=f"some of {everything}")
    options = parser.parse_args(argv)
    kinds = tuple(kind.strip() for kind in options.only.split(",") if kind.strip())
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"--only={options.only}: {unknown[0]} is none of {', '.join(KINDS)}")
    packages = find(options.packages, kinds)
    if options.only == everything and not any(path.name.startswith("gtCoarse") for path in packages):
        kinds = tuple(kind for kind in kinds if kind != "gtCoarse")  # most do without
    wrong = []
    for path in packages:
        made, kept, damaged = unpack(path, options.out, kinds)
        print(f"{path.name}: {made} files unpacked, {kept} there before", flush=True)
        wrong += damaged
    wrong += missing(options.out, kinds)
    for line in wrong:
        print(line)
    if not wrong:
        print(f"{options.out} is whole: train with CITYSCAPES_DATASET={options.out}")
    return 1 if wrong else 0


def find(folder: Path, kinds: Iterable[str]) -> list[Path]:
    """Return the packages of some kinds in a folder; UserError if there are none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    found = [path for path in sorted(folder.glob("*.zip")) if path.name.split("_")[0].removesuffix(".zip") in kinds]
    if not found:
        raise UserError(f"{folder}: holds no package of {', '.join(kinds)} (leftImg8bit_trainvaltest.zip, ...)")
    return found


def unpack(path: Path, out: Path, kinds: Iterable[str]) -> tuple[int, int, list[str]]:
    """Unpack a package; return how many files were written, how many were there, and what is damaged."""
    made = kept = 0
    damaged = []
    try:
        package = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        return 0, 0, [f"{path}: is no whole zip file ({error}): download it again"]
    with package:
        if not any(entry.filename.split("/")[0] in kinds for entry in package.infolist()):
            return 0, 0, [f"{path}: holds no folder {' or '.join(kinds)}: it is no Cityscapes package as downloaded"]
        entries = [entry for entry in package.infolist() if not entry.is_dir()]
        for entry in tqdm(entries, desc=path.name, file=sys.stderr, disable=not sys.stderr.isatty(), leave=False):
            name = PurePosixPath(entry.filename)
            if not name.parts or name.is_absolute() or ".." in name.parts:
                damaged.append(f"{path}: holds {entry.filename!r}, outside its own folder: it is no Cityscapes package")
                continue
            if name.parts[0] not in kinds:
                continue  # the licence and the README
            target = out / name
            if target.is_file() and target.stat().st_size == entry.file_size and _crc(target) == entry.CRC:
                kept += 1
                continue
            temporary = target.with_name(f".{target.name}.part")
            try:
                with plain_errors(target):
                    target.parent.mkdir(parents=True, exist_ok=True)
                with package.open(entry) as source, plain_errors(target), open(temporary, "wb") as file:
                    shutil.copyfileobj(source, file)
                temporary.replace(target)
                made += 1
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
                # The last two: it is encrypted, or compressed in a way that zipfile does not know.
                temporary.unlink(missing_ok=True)
                damaged.append(f"{path}: {entry.filename} is damaged ({error}): download it again")
    return made, kept, damaged


def missing(root: Path, kinds: Iterable[str]) -> list[str]:
    """Return lines about splits that lack frames, or files of frames."""
    lines = []
    images = _count(root, "leftImg8bit")
    if not any(images.values()):
        lines.append(f"MISSING leftImg8bit: {root} has no frames: unpack leftImg8bit_trainvaltest.zip")
    for kind in kinds:
        there = _count(root, kind)
        for split, wanted in FRAMES.items():
            if kind == "gtFine" and split == "train_extra":
                continue
            if kind == "gtCoarse" and split == "test":
                continue
            expected = wanted if kind == "leftImg8bit" else images[split]
            if there[split] < expected and (there[split] or kind != "leftImg8bit") and expected:
                package = "gtCoarse.zip" if kind == "gtCoarse" else f"{kind}_{_package(split)}.zip"
                lines.append(f"MISSING {kind}/{split}: {there[split]} of {expected} frames: unpack {package}")
    return lines


def _package(split: str) -> str:
    return "trainextra" if split == "train_extra" else "trainvaltest"


def _count(root: Path, kind: str) -> Counter[str]:
    """Split → frames that have a file of a kind."""
    folder = root / kind
    counts: Counter[str] = Counter()
    for split in FRAMES:
        counts[split] = sum(
            1 for path in (folder / split).glob(f"*/*{_ENDINGS[kind]}") if not path.name.startswith(".")
        )
    return counts


def _crc(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            value = zlib.crc32(part, value)
    return value


if __name__ == "__main__":
    command_line.run(main)
