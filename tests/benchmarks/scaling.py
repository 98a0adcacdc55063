"""Weak scaling on simulated devices, and what a step sends: a line for 1, 2, 4 and 8 devices, as Markdown.

    python tests/benchmarks/scaling.py [--config=configs/dwa.py:resnet18,quick] [--frames=1] [--mappings=shard_map,pmap]

Each device has so many frames. The devices share this machine's cores, so N devices take N times as long at best: the
efficiency is the time of one frame with one device, over that with N. It shows what the mapping and the collectives
cost, not what a network between machines does; the bytes are those that each device gives to collectives.
"""

import argparse
import json
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
    parser.add_argument("--frames", type=int, default=1, help="of each device")
    parser.add_argument("--mappings", default="shard_map,pmap")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    print(f"{options.config}, {options.frames} frames a device, {os.cpu_count()} cores\n")
    print("| devices | mapping | s / step | s / frame | efficiency | all-reduces | MiB sent |")
    print("|---|---|---|---|---|---|---|")
    for via in options.mappings.split(","):
        alone = 0.0
        for devices in (1, 2, 4, 8):
            given = [f"--config={options.config}", f"--config.batch_size={devices * options.frames}"]
            given.append(f"--config.parallel={via}")
            seconds = measure([*given, f"--steps={options.steps}"], devices)["median"]
            sent = measure([*given, "--what=compile", f"--devices={devices}"], devices) if via == "shard_map" else {}
            per_frame = seconds / devices / options.frames
            alone = alone or per_frame
            counts, sizes = (sum(sent.get(key, {}).values()) for key in ("collectives", "collective_bytes"))
            traffic = f"{counts} | {sizes / 2**20:.3g}" if sent else " | "
            print(
                f"| {devices} | {via} | {seconds:.3g} | {per_frame:.3g} | {alone / per_frame:.2f} | {traffic} |",
                flush=True,
            )


def measure(given: list[str], devices: int) -> dict[str, Any]:
    """Run the package's benchmark in a process of its own, with so many simulated devices."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
        environment["PYTHONPATH"] = str(REPOSITORY)
        command = [sys.executable, "-m", "mtlflax.benchmark", *given, f"--out={out}"]
        subprocess.run(command, env=environment, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(out.read_text())
        return found


if __name__ == "__main__":
    main()
