"""Time random reads of records by `pread`, from a mapped `.npy` file and from ArrayRecord: why the cache is as it is.

    python tests/benchmarks/cache_formats.py

Prints the median time per record, read whole, with the files in the page cache, and the growth of resident memory.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

COUNT = 400
SIZES = {"256×512": 256 * 512 * 6, "512×1024": 512 * 1024 * 6}  # bytes: image, labels and 16-bit depth


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def timed(read: Callable[[int], object]) -> str:
    order = np.random.default_rng(0).permutation(COUNT)
    for i in order:
        read(int(i))
    before, times = resident(), []
    for i in order:
        began = time.perf_counter()
        read(int(i))
        times.append(time.perf_counter() - began)
    return f"{1e6 * np.median(times):7.0f} µs, {(resident() - before) / 1e6:+6.0f} MB"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        for shape, length in SIZES.items():
            folder = Path(name) / str(length)
            folder.mkdir()
            data = np.random.default_rng(0).integers(0, 256, (COUNT, length), np.uint8)
            data.tofile(folder / "plain")
            np.save(folder / "mapped.npy", data)
            file = os.open(folder / "plain", os.O_RDONLY)

            def pread(i: int, file: int = file, length: int = length) -> bytearray:
                buffer = bytearray(length)
                os.preadv(file, [buffer], i * length)
                return buffer

            print(f"{shape}, {length / 1e6:.2f} MB: pread       {timed(pread)}")
            mapped = np.load(folder / "mapped.npy", mmap_mode="r")
            print(f"{shape}, {length / 1e6:.2f} MB: mapped      {timed(lambda i, mapped=mapped: np.array(mapped[i]))}")
            try:
                from array_record.python import array_record_module
            except ImportError:
                print("ArrayRecord is not installed", file=sys.stderr)
                continue
            path = str(folder / "array_record")
            writer = array_record_module.ArrayRecordWriter(path, "group_size:1,uncompressed")
            for row in data:
                writer.write(row.tobytes())
            writer.close()
            reader = array_record_module.ArrayRecordReader(path)
            print(f"{shape}, {length / 1e6:.2f} MB: ArrayRecord {timed(lambda i, reader=reader: reader.read([i]))}")


if __name__ == "__main__":
    main()
