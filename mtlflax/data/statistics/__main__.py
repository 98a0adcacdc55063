"""Say what is in a data set, draw it, and write class weights for its rare classes.

    python -m mtlflax.data.statistics --config=configs/dwa.py --out=DIR [--config.KEY=VALUE ...]

It writes `index.html` with figures (PNG files beside it), `statistics.json`, and, from the training frames,
`class_weights_enet.json` and `class_weights_median_frequency.json`, which a loss takes as
--config.losses.class_weights=FILE. Frames that cannot be read are listed and left out.
"""

import dataclasses
import html
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mtlflax import command_line, data, experiment
from mtlflax.data import samples
from mtlflax.data.source import Depth, Labels, Source
from mtlflax.data.statistics import Counts, count, drawing, text, weights
from mtlflax.errors import UserError, describe
from mtlflax.files import plain_errors, write_json, write_text
from mtlflax.run import config_file

_VIEWS = 6  # frames that are drawn
_STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:0 auto;padding:1rem}"
    "img{max-width:100%;height:auto;background:#fff}pre{overflow-x:auto}figcaption{opacity:.8}"
)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = command_line.Parser("mtlflax.data.statistics", __doc__ or "")
    parser.add_argument("--config", metavar="FILE[:ARGUMENTS]", required=True, help="config file, as for mtlflax.main")
    parser.add_argument("--out", type=command_line.path, metavar="DIR", required=True, help="where to write")
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="that read frames (default: 4)")
    options, overrides = parser.parse_known_args(argv)
    drawing.check()
    config = experiment.resolve(config_file.load(options.config, overrides)).data
    try:
        training, evaluated = data.open_splits(config)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"config: {describe(error)}") from error
    sources = {"train": training, **evaluated}
    counted, lines = {}, []
    for split, source in sources.items():
        if prepare := getattr(source, "prepare", None):
            prepare()
        with tqdm(total=len(source), desc=split, file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:
            counted[split] = count(source, options.threads, bar.update)
        said = text.describe(split, counted[split], source.fields)
        print("\n".join(said), flush=True)
        lines += said
    with plain_errors(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
        figures = _draw(options.out, training, counted)
    write_json(options.out / "statistics.json", {split: _plain(dataclasses.asdict(c)) for split, c in counted.items()})
    title = f"{config.name} at {config.size[0]}×{config.size[1]}"
    write_text(options.out / "index.html", _page(title, figures, "\n".join(lines)))
    print(f"everything is in {options.out}: index.html, statistics.json, class weights")


def _draw(out: Path, training: Source, counted: Mapping[str, Counts]) -> dict[str, str]:
    """Write the figures and the class weights; return the figures: file → what it shows."""
    readable = samples.Readable(training, "skip")
    step = max(1, len(readable) // _VIEWS)
    chosen = [readable[i] for i in range(0, len(readable), step)][:_VIEWS]
    drawing.views(out / "views.png", chosen, training.fields)
    figures = {"views.png": "Training frames: the image, and each label map and depth; black is unknown"}
    for name, field in training.fields.items():
        of_classes = {split: counts.classes[name] for split, counts in counted.items() if name in counts.classes}
        of_depth = {split: counts.depths[name] for split, counts in counted.items() if name in counts.depths}
        if isinstance(field, Labels) and of_classes:
            drawing.classes(out / f"{name}.png", field, of_classes)
            figures[f"{name}.png"] = f"{name}: how many frames have each class, and the mean area that it covers there"
            if "train" in of_classes:
                _write_weights(out, name, field, counted["train"])
        elif isinstance(field, Depth) and of_depth:
            drawing.depth(out / f"{name}.png", field, of_depth)
            figures[f"{name}.png"] = f"{name}: how often each distance occurs, and how much of a frame is measured"
    return figures


def _write_weights(out: Path, name: str, field: Labels, counts: Counts) -> None:
    suffix = "" if name == "segmentation" else f"_{name}"
    for kind, function in weights.WEIGHTS.items():
        values = function(counts.classes[name])
        content = {c.name: round(float(value), 6) for c, value in zip(field.classes, values, strict=True)}
        write_text(out / f"class_weights_{kind}{suffix}.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    """Counts as JSON has them."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {"×".join(map(str, k)) if isinstance(k, tuple) else k: _plain(v) for k, v in value.items()}
    return value


def _page(title: str, figures: Mapping[str, str], said: str) -> str:
    shown = "".join(
        f'<figure><img src="{html.escape(file)}" alt="{html.escape(what)}"><figcaption>{html.escape(what)}</figcaption>'
        "</figure>"
        for file, what in figures.items()
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><h1>{html.escape(title)}</h1>{shown}<pre>{html.escape(said)}</pre></body></html>\n"
    )


if __name__ == "__main__":
    command_line.run(main)
