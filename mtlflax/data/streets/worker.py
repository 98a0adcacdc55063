"""A process of `cache`: renders the frames that it is asked for on stdin, and says so on stdout.

`python -m mtlflax.data.streets.worker FILE OFFSET SPLIT HEIGHT WIDTH SEED LENGTH`. It ends when stdin
does, so also when whoever started it is killed; what it still writes then is what anyone would write
there.
"""

import os
import signal
import sys

import cv2
import numpy as np

from mtlflax.data.streets import frame
from mtlflax.data.streets.cache import Key


def main() -> None:
    """Answers each line "START STOP" with "done", or "errno N" where the disk refuses."""
    path, offset, split, *numbers = sys.argv[1:]
    height, width, seed, length = map(int, numbers)
    key = Key(split, (height, width), seed, length)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes stdin
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
                os.fsync(file.fileno())  # before the frames are called done
            except OSError as error:
                print(f"errno {error.errno}", flush=True)
                return
            print("done", flush=True)


if __name__ == "__main__":
    main()
