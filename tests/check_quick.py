"""Checks what the quick main job must reach: `python tests/check_quick.py WORKDIR`."""

import json
import sys
from pathlib import Path

MIOU, SHARE = 0.30, 0.6


def main(workdir: str) -> int:
    """Returns the exit code."""
    results = json.loads((Path(workdir) / "results.json").read_text())
    miou = results["val/segmentation/miou"]
    share = results["val/depth/rmse"] / results["val/depth/rmse_constant"]
    lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    weights = [line["train/weight/depth"] for line in lines if "train/weight/depth" in line]
    assert weights[0] == 1 != weights[-1], "dynamic weight averaging never came to act"
    good = miou >= MIOU and share <= SHARE
    print(
        f"{'ok' if good else 'TOO WEAK'}: mIoU {miou:.3f} (at least {MIOU}), "
        f"depth RMSE {share:.2f} of the best constant's (at most {SHARE})"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
