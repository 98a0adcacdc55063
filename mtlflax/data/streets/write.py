"""The data set written in the official Cityscapes layout, for any program that reads Cityscapes."""

import json
import multiprocessing
import os
import signal
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from mtlflax.data import labels
from mtlflax.data.streets import frame as frames
from mtlflax.data.streets import frame_name, version
from mtlflax.data.streets.progress import Progress
from mtlflax.errors import UserError

MARK = "streets.json"
_THINGS = np.array([row.has_instances for row in labels.LABELS if row.id >= 0])
# Blue, green, red, alpha: the order of OpenCV.
_COLORS = np.array([(*row.color[::-1], 255) for row in labels.LABELS if row.id >= 0], np.uint8)


def write_tree(root: Path, size: tuple[int, int], counts: Mapping[str, int], seed: int = 0, jobs: int = 1) -> None:
    """Write frames, and remove frames of an earlier call that are not among them.

    Args:
        root: a new or empty folder, or a tree that this function wrote.
        size: (H, W).
        counts: number of frames per split.
        seed: seed of the data set.
        jobs: number of processes.

    Raises:
        UserError: the folder holds other files, or cannot be written.
    """
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: is a file; choose a folder with --out")
    if root.is_dir() and any(root.iterdir()) and not (root / MARK).is_file():
        raise UserError(
            f"{root}: is not empty and was not written by mtlflax.data.streets; choose another folder with --out"
        )
    about = {"size": size, "seed": seed, **counts, "renderer": version.digest()}
    tasks = [(split, index) for split, count in counts.items() for index in range(count)]
    try:
        root.mkdir(parents=True, exist_ok=True)
        _replace(root / MARK, json.dumps(about, indent=2).encode())
        _remove_others(root, {frame_name(*task) for task in tasks})
        write = partial(_write_frame, root, size, seed)
        with Progress(f"writing streets into {root}", len(tasks)) as progress:
            if jobs == 1:
                for task in tasks:
                    write(*task)
                    progress.update()
                return
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(min(jobs, len(tasks) or 1), context, _single) as pool:
                left = {pool.submit(write, *task) for task in tasks}
                try:
                    while left:
                        done, left = wait(left, return_when=FIRST_COMPLETED)
                        for future in done:
                            future.result()
                            progress.update()
                except BaseException:
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise
    except OSError as error:
        raise UserError(f"{error.filename or root}: cannot be written ({error.strerror})") from error


def _single() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent shuts the pool down, after the frames in progress
    cv2.setNumThreads(0)


def _write_frame(root: Path, size: tuple[int, int], seed: int, split: str, index: int) -> None:
    frame = frames.make(seed, split, index, size)
    name = frame_name(split, index)
    instances = frame.label.astype(np.uint16)
    things = _THINGS[frame.label]
    instances[things] = instances[things] * 1000 + frame.instance[things]
    pictures = {
        ("leftImg8bit", "leftImg8bit"): cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR),
        ("gtFine", "gtFine_labelIds"): frame.label,
        ("gtFine", "gtFine_instanceIds"): instances,
        ("gtFine", "gtFine_color"): _COLORS[frame.label],
        ("disparity", "disparity"): frame.codes,
    }
    for (kind, ending), picture in pictures.items():
        encoded = cv2.imencode(".png", picture)[1]
        _replace(_folder(root, kind, split) / f"{name}_{ending}.png", encoded.tobytes())
    camera = json.dumps(frame.camera.json(), indent=4)
    _replace(_folder(root, "camera", split) / f"{name}_camera.json", camera.encode())


def _folder(root: Path, kind: str, split: str) -> Path:
    return root / kind / split / f"streets-{split}"


def _replace(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _remove_others(root: Path, names: set[str]) -> None:
    """Remove frames of an earlier call, and the temporary files of one that was killed."""
    for kind in ("leftImg8bit", "gtFine", "disparity", "camera"):
        for path in root.glob(f"{kind}/*/streets-*/*"):
            if path.name.startswith(("streets-", ".")) and "_".join(path.name.split("_")[:3]) not in names:
                path.unlink()
