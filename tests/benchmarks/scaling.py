"""Weak scaling on simulated devices, and what a step sends: a line for 1, 2, 4 and 8 devices, as Markdown.

    python tests/benchmarks/scaling.py [--config=configs/dwa.py:resnet18,quick] [--frames=4] [--mappings=shard_map,pmap]

Each device has so many frames. The devices share this machine's cores, so N devices take N times as long at best: the
efficiency is the time of one frame with one device, over that with N. It shows what the mapping and the collectives
cost, not what a network between machines does; the bytes are those that each device gives to collectives. A time is
the median of the steps, the lower one of two rounds over all shapes.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/dwa.py:resnet18,quick")
    parser.add_argument("--frames", type=int, default=4, help="of each device")
    parser.add_argument("--mappings", default="shard_map,pmap")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    mappings = options.mappings.split(",")
    shapes = [(via, devices) for via in mappings for devices in (1, 2, 4, 8)]
    given = {
        (via, devices): [
            f"--config={options.config}",
            f"--config.batch_size={devices * options.frames}",
            f"--config.parallel={via}",
        ]
        for via, devices in shapes
    }
    with tempfile.TemporaryDirectory() as cache:
        seconds = dict.fromkeys(shapes, math.inf)
        for shape in [*shapes, *shapes]:
            found = measure([*given[shape], f"--steps={options.steps}"], shape[1], Path(cache))
            seconds[shape] = min(seconds[shape], found["median"])
    print(f"{options.config}, {options.frames} frames a device, {os.cpu_count()} cores\n")
    print("| devices | mapping | s / step | s / frame | efficiency | all-reduces | MiB sent |")
    print("|---|---|---|---|---|---|---|")
    for via, devices in shapes:
        traffic = " | "
        if via == "shard_map":
            sent = measure([*given[via, devices], "--what=compile", f"--devices={devices}"], devices)
            counts, sizes = (sum(sent[key].values()) for key in ("collectives", "collective_bytes"))
            traffic = f"{counts} | {sizes / 2**20:.3g}"
        taken = seconds[via, devices]
        efficiency = f"{taken / devices / options.frames:.3g} | {seconds[via, 1] * devices / taken:.2f}"
        print(f"| {devices} | {via} | {taken:.3g} | {efficiency} | {traffic} |", flush=True)


def measure(given: list[str], devices: int, cache: Path | None = None) -> dict[str, Any]:
    """Run the package's benchmark in a process of its own, with so many simulated devices; `cache` keeps programs."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
        environment["PYTHONPATH"] = str(REPOSITORY)
        if cache:
            environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        command = [sys.executable, "-m", "mtlflax.benchmark", *given, f"--out={out}"]
        subprocess.run(command, env=environment, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(out.read_text())
        return found


if __name__ == "__main__":
    main()
