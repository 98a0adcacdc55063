"""The pictures of a report: for each frame and task, what every model made of it, side by side."""

import base64
import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mtlflax.report.table import Row
from mtlflax.tasks import pictures

_WIDEST = 512  # pixels of a picture
KEY = "Below the image its truth, and below each prediction its errors: gray is right, red is wrong, black is unknown."


class Drawn(NamedTuple):
    """What a model made of a frame, for one task: pictures uint8 [H, W, 3], BGR."""

    row: Row
    step: int
    image: np.ndarray
    truth: np.ndarray
    made: list[np.ndarray]  # the prediction, and its errors unless the run has not drawn them


def figures(rows: Sequence[Row]) -> str:
    """Return HTML: a heading and a row of figures for each frame and task; '' without pictures."""
    groups: dict[tuple[bytes, str], list[Drawn]] = {}
    frames: dict[bytes, int] = {}
    for row in rows:
        for task, drawn in _drawn(row):
            frame = drawn.image.tobytes()
            frames.setdefault(frame, len(frames) + 1)
            groups.setdefault((frame, task), []).append(drawn)
    found = []
    for (frame, task), models in sorted(groups.items(), key=lambda item: frames[item[0][0]]):
        first = _figure([models[0].image, models[0].truth], "image, truth")
        made = [_figure(drawn.made, f"{drawn.row.label}, step {drawn.step}") for drawn in models]
        title = f"Frame {frames[frame]}, {html.escape(task)}"
        found.append(f'<h3>{title}</h3><div class="pictures">{first}{"".join(made)}</div>')
    return f"<p>{KEY}</p>{''.join(found)}" if found else ""


def _drawn(row: Row) -> Iterator[tuple[str, Drawn]]:
    """What is in the last panel that a row's first run has written: task → of each frame."""
    found = [path for path in (row.runs[0].workdir / "pictures").glob("*.png") if re.search(r"_\d+$", path.stem)]
    for path in sorted(found, key=_step, reverse=True):
        panel = cv2.imread(str(path))
        if panel is not None:  # else one that is damaged, or being written
            break
    else:
        return
    if not row.tasks:
        return
    step, size = _step(path), tuple(row.runs[0].config["data"]["size"])
    for image, *maps in pictures.cut(panel, (size[0], size[1])):
        with_errors = len(maps) == sum(3 if task.errors else 2 for task in row.tasks)
        for task in row.tasks:
            count = 3 if with_errors and task.errors else 2
            (truth, *made), maps = maps[:count], maps[count:]
            yield task.name, Drawn(row, step, image, truth, made)


def _step(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def _figure(stacked: Sequence[np.ndarray], caption: str) -> str:
    picture = np.concatenate(stacked)
    if picture.shape[1] > _WIDEST:
        size = (_WIDEST, round(picture.shape[0] * _WIDEST / picture.shape[1]))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    data = base64.b64encode(cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, 90])[1].tobytes()).decode()
    caption = html.escape(caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/webp;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )
