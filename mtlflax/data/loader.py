"""From a source to batches of NumPy arrays, with Grain.

The examples of a run form one endless sequence: position i has its frame (reshuffled each epoch, drawn by its classes,
or of one of several sources) and its random numbers, whatever reads it. Global batch k is the positions k·B to k·B + B
− 1; of N processes, process r takes the r-th N-th of them. So runs on 1 and on N processes see the same batches, in the
same order, and resuming at step k needs no more than k.
"""

import functools
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Self

import cv2
import grain
import numpy as np
from absl import flags

from mtlflax.data.balance import Balanced
from mtlflax.data.mixture import Mixture, Proportions
from mtlflax.data.samples import Batch, Checked, Padded, Readable, stack, stack_evaluation
from mtlflax.data.source import Field, Sample, Source
from mtlflax.errors import UserError

# OpenCV's own threads would fight with Grain's. Here, because worker processes import this module too.
cv2.setNumThreads(0)


class Batches:
    """An iterator over batches that `close`, or leaving a `with` block, ends, as does an error in reading.

    Closing stops the threads and processes behind it; leaving it open until the program ends is harmless.
    """

    def __init__(self, dataset: grain.IterDataset):
        # In a list, to be let go when it is closed: what Grain does on deletion fails once the interpreter goes down.
        self._iterators = [iter(dataset)]
        self._finalizer = weakref.finalize(self, _close, self._iterators)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if not self._iterators:
            raise StopIteration
        try:
            return next(self._iterators[0])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads and processes; there are no further batches."""
        self._finalizer()


def train_batches(
    source: Source,
    fields: Mapping[str, Field],
    *,
    batch_size: int,
    seed: int,
    augment: Callable[[Sample, np.random.Generator], Sample] | None = None,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 4,
    prefetch: int = 4,
    num_workers: int = 0,
    on_error: str = "raise",
) -> Batches:
    """Return this process's part of the endless sequence of global batches, from `start_step` on.

    A batch is a dict: name of one of `fields` → array [b, ...], where b is batch_size / process_count. A field that a
    sample lacks is filled with the field's "unknown". The source may be smaller than a batch.

    `augment` is given each sample and a random generator of its position. `num_threads` of each process read a batch
    each (0: batches are read when asked for), and `prefetch` batches are held ready, at least one a thread. With
    `num_workers`, so many processes read instead of this one; `source` and `augment` are pickled. With `on_error`
    "skip", the next frame stands for one that cannot be read, which is named.

    Raises:
        UserError: the batch cannot be divided among the processes, there are no frames, or the seed is negative. While
            iterating: what reading a frame raises, or a frame is not as its fields declare.
    """
    if seed < 0:
        raise UserError(f"seed is {seed}: give a number of at least 0")
    local_size = _local_size(source, batch_size, process_count)
    if isinstance(source, Mixture) and sum(source.per_batch.values()) != batch_size:
        shown = " + ".join(map(str, source.per_batch.values()))
        raise UserError(f"batch_size is {batch_size}, but data.mixture has {shown} frames in a batch")
    dataset = _sequence(source, fields, seed, on_error)
    if augment is not None:
        # Before the slice, so that the random numbers are those of the global position.
        dataset = dataset.seed(seed).random_map(augment) if _is_selected(source) else dataset.random_map(augment)
    # There is no remainder to drop, but without it Grain overflows on the endless length.
    dataset = dataset.batch(local_size, drop_remainder=True, batch_fn=functools.partial(stack, fields))
    dataset = dataset[process_index::process_count][start_step:].to_iter_dataset(_read_options(num_threads, prefetch))
    if num_workers:
        if not flags.FLAGS.is_parsed():  # Grain reads its flags here, even outside absl.app
            flags.FLAGS.mark_as_parsed()
        # Through a pipe: shared memory is 64 MB in a container, and Grain 0.2.18 leaks some when it is closed.
        dataset = grain.experimental.WithOptionsIterDataset(
            dataset, grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
        ).mp_prefetch(
            grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=1),
            worker_init_fn=_begin_worker,
        )
    return Batches(dataset)


def evaluation_batches(
    source: Source,
    fields: Mapping[str, Field],
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 4,
    prefetch: int = 4,
    truth_size: tuple[int, int] | None = None,
    on_error: str = "raise",
) -> Batches:
    """Return this process's part of one pass over the source: every frame exactly once.

    Arguments, batches and exceptions are as in `train_batches`, with `mask` float32 [b] and `name`, a list of b
    strings, in each batch. All processes get the same number of batches, all of one size: what is missing at the end is
    padding, frames of which nothing is known, with mask 0, and so are frames that cannot be read, if they are to be
    skipped. `truth_size` is (H, W) of all that is no image, if it is not the images' size.
    """
    local_size = _local_size(source, batch_size, process_count)
    frames = Readable(Checked(source, fields, truth_size), on_error)
    dataset = grain.MapDataset.source(Padded(frames, fields, batch_size))
    stacked = functools.partial(stack_evaluation, fields)
    dataset = dataset[process_index::process_count].batch(local_size, batch_fn=stacked)
    return Batches(dataset.to_iter_dataset(_read_options(num_threads, prefetch)))


def _sequence(source: Source, fields: Mapping[str, Field], seed: int, on_error: str) -> grain.MapDataset:
    """The endless sequence of a source's frames: reshuffled in each epoch, or in an order of its own."""
    if isinstance(source, Mixture):
        # Sources of one length would otherwise be shuffled alike.
        parts = [_sequence(part, fields, seed + 1000 * i, on_error) for i, part in enumerate(source.parts.values())]
        return grain.MapDataset.select_from_datasets(parts, Proportions(list(source.per_batch.values())))
    frames = grain.MapDataset.source(Readable(Checked(source, fields), on_error))
    if isinstance(source, Balanced):
        return grain.MapDataset.select_from_datasets([frames], source.order(seed))
    return frames.seed(seed).shuffle().repeat()


def _is_selected(source: Source) -> bool:
    return isinstance(source, Mixture | Balanced)


def _begin_worker(worker_index: int, worker_count: int) -> None:
    """Let a worker process end when the one that started it does, and at no signal.

    Grain's would outlive one that is killed; and a signal to all processes at once would have a worker end in the
    middle of a batch, for whose rest the other waits.
    """
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()  # the system tells, however it ended
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def _close(iterators: list[Any]) -> None:
    while iterators:
        iterators.pop().close()


def _local_size(source: Source, batch_size: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise UserError(f"batch_size is {batch_size}: give a multiple of {process_count}, the number of processes")
    if not len(source):
        raise UserError("the data set has no frames")
    return batch_size // process_count


def _read_options(num_threads: int, prefetch: int) -> grain.ReadOptions:
    # Set explicitly: Grain's default holds 500 elements ready, and an element is a batch here.
    return grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=max(prefetch, num_threads))
