"""Print a hash of ten fixed-seed steps' losses and of the final parameters, for a few configs.

    python tests/fixed_seed.py [NAME ...]

A refactoring that should change nothing keeps these hashes on the same machine. (Other CPUs round differently, so the
hashes are compared before and after a change, and are not kept in the repository.)
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

RUNS = {
    "loss_balancing": "configs/dwa.py:quick",
    "gradient_norms": "configs/weighting.py:gradnorm,quick",
    "gradient_balancing": "configs/weighting.py:cagrad,quick",
    "no_split": "configs/cross_stitch.py:quick",
}
SHORT = ("epochs=1.0", "data.streets.train=40", "data.streets.val=8", "log_every=1", "evaluate_every=1.0")


def run(config: str, folder: Path) -> tuple[str, str]:
    """The hashes of the losses and of the parameters."""
    options = [f"--config.{option}" for option in SHORT]
    command = [sys.executable, "-m", "mtlflax.main", f"--config={config}", f"--workdir={folder}", *options]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[1])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "redone_steps" not in line]  # which has the times
    losses = [sorted((k, v) for k, v in line.items() if k.startswith("train/loss")) for line in lines]
    state = ocp.StandardCheckpointer().restore((folder / "checkpoints" / "10" / "state").absolute())
    parameters = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state["params"]):
        parameters.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return hashlib.sha256(json.dumps(losses).encode()).hexdigest()[:16], parameters.hexdigest()[:16]


if __name__ == "__main__":
    for name in sys.argv[1:] or RUNS:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name:<20} losses {{}}  parameters {{}}".format(*run(RUNS[name], Path(folder) / "run")), flush=True)
