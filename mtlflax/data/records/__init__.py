"""A cache of a data set at training size, from which any frame is read in one go: `config.data.cache`.

A folder holds `manifest.json` and, for each split, `<split>.records`: frame after frame in records of one length, each
the bytes of all fields. Reading a frame is one `pread`, without a decoder: 54 µs for 0.79 MB (256×512), where a mapped
file took 33 µs and ArrayRecord 192 (2026-11-27, 2 cores of a Xeon, `python tests/benchmarks/cache_formats.py`). What is
read so does not count as this process's memory, as a mapped file's pages do, and no library is needed.

Images and labels are stored as they are, depth in 16-bit codes where that gives the very same float32 back, anything
else as it is declared; a field that a frame lacks is unknown throughout. What is read is bit-identical to what the
source gives.

`python -m mtlflax.data.records --config=… --out=DIR` makes a cache, `config.data.cache=DIR` uses it, and
`config.data.cache=auto` makes one at the first run, below `$MTLFLAX_CACHE`.

The embedded data set has a cache of its own, `data.streets.cache`, besides: it keeps label ids and disparity codes,
from which the samples of every class table and unit of depth are made, so that a scene is rendered once for all.
"""

from mtlflax.data.records.opening import cached
from mtlflax.data.records.reader import Records

__all__ = ["Records", "cached"]
