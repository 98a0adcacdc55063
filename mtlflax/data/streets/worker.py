"""A worker process of `cache`: renders the frames that are requested on stdin, and reports on stdout.

    python -m mtlflax.data.streets.worker FILE OFFSET SPLIT HEIGHT WIDTH SEED LENGTH

It exits at the end of stdin, so also when its parent is killed. What it may still write then is harmless: a frame has
the same bits whoever renders it.
"""

import os
import signal
import sys

import cv2
import numpy as np

from mtlflax.data.streets import frame
from mtlflax.data.streets.cache import Key


def main() -> None:
    """Answer each line "START STOP" with "done", or with "errno N" if writing fails."""
    path, offset, split, *numbers = sys.argv[1:]
    height, width, seed, length = map(int, numbers)
    key = Key(split, (height, width), seed, length)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and closes stdin
    cv2.setNumThreads(0)
    record = np.zeros((), key.record)
    with open(path, "r+b", buffering=0) as file:
        for line in sys.stdin:
            start, stop = map(int, line.split())
            try:
                for index in range(start, stop):
                    made = frame.make(key.seed, key.split, index, key.size)
                    record["image"], record["label"] = made.image, made.label
                    record["codes"] = made.codes
                    record["focal_baseline"] = made.camera.focal_baseline
                    os.pwrite(file.fileno(), record.tobytes(), int(offset) + index * record.nbytes)
                os.fsync(file.fileno())  # before reporting the frames as done
            except OSError as error:
                print(f"errno {error.errno}", flush=True)
                return
            print("done", flush=True)


if __name__ == "__main__":
    main()
