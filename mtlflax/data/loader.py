"""From a source to batches of NumPy arrays, with Grain.

The examples of a run form one endless sequence: position i has its frame (reshuffled each epoch) and its random
numbers, whatever reads it. Global batch k is the positions k·B to k·B + B − 1; of N processes, process r takes every
N-th of them, from the r-th on. So runs on 1 and on N processes see the same batches, and to resume at step k is to
start there: nothing else needs to be saved.
"""

import functools
import multiprocessing
import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Self

import cv2
import grain
import numpy as np
from absl import flags

from mtlflax.data.samples import Batch, Checked, Padded, stack, stack_evaluation
from mtlflax.data.source import Field, Sample, Source
from mtlflax.errors import UserError

# Grain's threads and processes are the parallelism; OpenCV's own threads in each would fight them.
# Here, because worker processes import this module too.
cv2.setNumThreads(0)


class Batches:
    """An iterator over batches that can be closed, which `with` does.

    An error in reading ends and closes it. Closing stops the threads and processes behind it;
    leaving it open until the program ends is harmless.
    """

    def __init__(self, dataset: grain.IterDataset):
        # In a list, to be let go when it is closed: what Grain does on deletion fails, with a
        # traceback, once the interpreter is going down.
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
) -> Batches:
    """Return this process's part of the endless sequence of global batches, from a step on.

    Args:
        source: of samples; it may be smaller than a batch.
        fields: those that a batch holds, of those that the source declares.
        batch_size: of all processes together.
        seed: of the order of the frames and of the augmentation.
        augment: applied to each sample, with a random generator of the sample's position.
        start_step: the batch to begin with.
        process_index: which of the processes this is.
        process_count: how many take part.
        num_threads: that read in each process or worker, a batch each at a time; 0 = none, each
            batch is read when it is asked for.
        prefetch: how many batches are held ready, at least one a thread.
        num_workers: processes that read instead of this one, where threads are not enough; `source`
            and `augment` are pickled.

    Returns:
        An iterator over dicts: field name → array [b, ...], where b is batch_size / process_count. A field that a
        sample lacks is filled with the field's "unknown".

    Raises:
        UserError: the batch cannot be divided among the processes, there are no frames, or the seed is negative. While
            iterating: what reading a frame raises, or a frame is not as its fields declare.
    """
    if seed < 0:
        raise UserError(f"seed is {seed}: give a number of at least 0")
    local_size = _local_size(source, batch_size, process_count)
    dataset = grain.MapDataset.source(Checked(source, fields)).seed(seed).shuffle().repeat()
    if augment is not None:
        # Before the slice, so that the random numbers are those of the global position. The other
        # processes' samples cost nothing: elements are computed when they are asked for.
        dataset = dataset.random_map(augment)
    # There is no remainder to drop, but without it Grain overflows on the endless length.
    dataset = dataset[process_index::process_count].batch(
        local_size, drop_remainder=True, batch_fn=functools.partial(stack, fields)
    )
    dataset = dataset[start_step:].to_iter_dataset(_read_options(num_threads, prefetch))
    if num_workers:
        if not flags.FLAGS.is_parsed():  # Grain reads its flags here, even outside absl.app
            flags.FLAGS.mark_as_parsed()
        # Batches come through a pipe: shared memory is 64 MB in a container, and Grain 0.2.18 leaks
        # some of it when it is closed.
        dataset = grain.experimental.WithOptionsIterDataset(
            dataset, grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
        ).mp_prefetch(
            grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=1),
            worker_init_fn=_end_with_parent,
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
) -> Batches:
    """Return this process's part of one pass over the source: every frame exactly once.

    All processes get the same number of batches, all of one size; what is missing at the end is padding: frames of
    which nothing is known, with mask 0.

    Args:
        source: of samples.
        fields: as in `train_batches`.
        batch_size: of all processes together.
        process_index: which of the processes this is.
        process_count: how many take part.
        num_threads: as in `train_batches`.
        prefetch: as in `train_batches`.

    Returns:
        A finite iterator over dicts as those of `train_batches`, with `mask` float32 [b], 0 =
        padding, and `name`, a list of b strings.

    Raises:
        UserError: as in `train_batches`.
    """
    local_size = _local_size(source, batch_size, process_count)
    dataset = grain.MapDataset.source(Padded(Checked(source, fields), fields, batch_size))
    dataset = dataset[process_index::process_count].batch(
        local_size, batch_fn=functools.partial(stack_evaluation, fields)
    )
    return Batches(dataset.to_iter_dataset(_read_options(num_threads, prefetch)))


def _end_with_parent(worker_index: int, worker_count: int) -> None:
    """Let a worker process end when the one that started it does: Grain's would outlive one that is killed."""
    del worker_index, worker_count
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
        raise UserError(
            f"batch_size is {batch_size}: give a positive multiple of {process_count}, the number of processes"
        )
    if not len(source):
        raise UserError("the data set has no frames")
    return batch_size // process_count


def _read_options(num_threads: int, prefetch: int) -> grain.ReadOptions:
    # Set explicitly: Grain's default holds 500 elements ready, and an element is a batch here.
    return grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=max(prefetch, num_threads))
