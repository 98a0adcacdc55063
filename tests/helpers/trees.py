"""A few frames in Cityscapes' format, quickly."""

import json
from pathlib import Path

import cv2
import numpy as np


def write_tree(root: Path, *, train: int = 12, val: int = 5, size: tuple[int, int] = (32, 64)) -> Path:
    """Sky over road with a car: enough for a loop to run on."""
    rng = np.random.default_rng(0)
    height, width = size
    camera = {"extrinsic": {"baseline": 0.209313}, "intrinsic": {"fx": 2262.52}}
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            labels = np.full(size, 7, np.uint8)  # road
            labels[: height // 2] = 23  # sky
            left = rng.integers(0, width - 10)
            labels[height // 3 : height // 2 + 4, left : left + 10] = 26  # car
            image = (labels[..., None] * np.array([9, 7, 5]) + rng.integers(0, 20, (*size, 3))).astype(np.uint8)
            disparity = np.repeat(np.linspace(0, 90, height)[:, None], width, axis=1)
            codes = np.where(disparity >= 1, disparity * 256 + 1, 1).astype(np.uint16)
            codes[:2] = 0
            frame = f"aachen_{i:06d}_000019"
            for kind, ending, pixels in (
                ("leftImg8bit", "leftImg8bit", image),
                ("gtFine", "gtFine_labelIds", labels),
                ("disparity", "disparity", codes),
            ):
                folder = root / kind / split / "aachen"
                folder.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(folder / f"{frame}_{ending}.png"), pixels)
            folder = root / "camera" / split / "aachen"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{frame}_camera.json").write_text(json.dumps(camera))
    return root
