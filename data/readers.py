"""The readers: they choose the rows of a step and make batches of them on a device.

    split = data.load_split('cifar10', 'train', ['image', 'label'])
    rows = split.rows(step=0, batch_size=64, seed=1337)     # (64,) row numbers
    batch = split.batch(rows)                               # {'image': (64, 3, 32, 32), 'label': (64,)}

Fixed, Stream and Ragged are for the three kinds of field; all have the methods of Split. The rows of a step
are a function of (seed, step): there is no state to save, and a resumed run reads the same batches.
"""
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from core.errors import UserError
from data.augment import Augment, AugmentedRows, to_device

BUCKET_BATCHES = 100    # batches of ragged rows that are sorted by length together


@dataclass(eq=False)
class Split:
    """One split of a data set: the rows of each step, and batches of them.

    Each reader says what a row is by four methods of its own: __len__ (the number of rows of an epoch),
    shuffle (these rows in random order), read (one field of some rows), and evaluation_batches.
    """
    path: Path              # folder of the data set, for messages
    name: str               # train, val, ...
    size: int               # rows; of a stream, tokens
    arrays: dict            # {field: tensor}
    resident: bool          # whether the arrays are on `device`, or memory-mapped
    device: torch.device    # where batches go
    block_size: int         # T, in tokens: the window of a stream, the longest row of a ragged field
    augment: Augment        # or None
    mean: list              # of each channel of the images, in [0, 1], or None
    ragged = False          # whether rows have different lengths
    too_long = 0            # rows longer than block_size

    def __post_init__(self):
        self._epoch = None          # (epoch, batch_size, seed) of _epoch_rows
        self._epoch_rows = None     # (steps, batch_size), the rows of each step of that epoch
        self._next_rows = None      # the rows that a thread of _reader is reading ahead ...
        self._next_batch = None     # ... and the future that will have their batch
        self._reader = None if self.resident else ThreadPoolExecutor(1)

    def steps_per_epoch(self, batch_size):
        """Return the number of whole batches of an epoch. Raises UserError if there is none."""
        if len(self) < batch_size:
            raise UserError(f'{self.path}: {self.name} has {len(self)} rows, batch_size is {batch_size}: '
                            f'--batch_size={len(self)}')
        return len(self) // batch_size

    def rows(self, step, batch_size, seed):
        """Return the rows of a step's global batch, (batch_size,); AugmentedRows if they are augmented."""
        epoch, i = divmod(step, len(self) // batch_size)
        if self._epoch != (epoch, batch_size, seed):
            self._epoch = epoch, batch_size, seed
            self._epoch_rows = self.epoch_batches(epoch, batch_size, seed)
        rows = self._epoch_rows[i]
        if self.augment:
            return self.augment.sample_params(rows, epoch, step, seed)
        return rows

    def epoch_batches(self, epoch, batch_size, seed):
        """Return the rows of each step of an epoch: (len(self) // batch_size, batch_size).

        A row occurs at most once. Rows that do not fill a batch are left out, others in each epoch.
        """
        rng = np.random.default_rng((seed, epoch, 0))
        rows = self.shuffle(rng)[:len(self) // batch_size * batch_size]
        return self.make_batches(rows, batch_size, rng)

    def make_batches(self, rows, batch_size, rng):
        """Return shuffled rows as batches: (n,) -> (n // batch_size, batch_size)."""
        return rows.reshape(-1, batch_size)

    def batch(self, rows, next_rows=None):
        """Return {field: tensor} of `rows` on the device: tokens and labels in int64, images as stored.

        A memory map reads `next_rows`, those of the next call, ahead, while the device computes.
        """
        if isinstance(rows, AugmentedRows):
            if next_rows is not None:
                next_rows = next_rows.rows
            batch = self.batch(rows.rows, next_rows)
            return self.augment.apply(batch, rows, self.mean)
        if self.resident:
            return self.gather(rows)
        if self._next_batch is not None and np.array_equal(self._next_rows, rows):
            batch = self._next_batch.result()
        else:
            batch = self.gather(rows)
        self._next_rows = next_rows
        self._next_batch = None if next_rows is None else self._reader.submit(self.gather, next_rows)
        return {field: to_device(values, self.device) for field, values in batch.items()}

    def gather(self, rows):
        """Return {field: tensor} of `rows` on the device of the arrays."""
        batch = {field: self.read(field, rows) for field in self.arrays}
        if self.device.type == 'cuda' and not self.resident:
            return {field: values.pin_memory() for field, values in batch.items()}      # can be copied faster
        return batch


class Fixed(Split):
    """Rows of one shape, along the first axis of the arrays: images, labels, masks."""

    def __post_init__(self):
        super().__post_init__()
        self.indices = np.arange(self.size)     # the rows of an epoch

    def __len__(self):
        return len(self.indices)

    def shuffle(self, rng):
        """Return the rows of an epoch in random order."""
        return self.indices[rng.permutation(len(self))]

    def evaluation_batches(self, batch_size):
        """Return a list of batches, (batch_size,) rows or fewer, with every row once."""
        return cut(np.arange(self.size), batch_size)    # not self.indices: an evaluation drops no row

    def read(self, field, rows):
        """Return one field of `rows`: (B, ...)."""
        array = self.arrays[field]
        values = array[to_device(rows, array.device)]
        is_pixels = values.dim() > 1 and values.dtype == torch.uint8    # stay uint8: the model scales them
        return values if is_pixels else to_int64(values)


class Stream(Split):
    """Windows of one long run of N tokens. A row is the position where its window begins.

    A window has T + 1 tokens, T inputs and the targets, one token further. So neighbours share a token, and
    every target counts once. With N = 13 and T = 4 an epoch has n = 2 windows; at offset 3 they are:

        tokens   0 1 2 3 4 5 6 7 8 9 10 11 12
        row 3          3 4 5 6 7
        row 7                  7 8 9 10 11
    """

    def __post_init__(self):
        super().__post_init__()
        T = self.block_size
        needed = T + 1 if self.name == 'train' else 2
        if self.size < needed:
            raise UserError(f'{self.path}: {self.name} has {self.size:,} tokens, block_size {T} needs '
                            f'{needed:,}: more text, or --block_size={self.size // 2}', code=3)

    def __len__(self):
        return max(1, (self.size - self.block_size) // self.block_size)

    def shuffle(self, rng):
        """Cut the stream into n windows from a random offset below T on; return them in random order."""
        n = len(self)
        T = self.block_size
        offset = rng.integers(min(T, self.size - n * T))    # each epoch leaves out other targets, < 2 T
        return offset + T * rng.permutation(n)

    def evaluation_batches(self, batch_size):
        """Return a list of batches with all N - 1 targets once; a shorter window is a batch of its own."""
        T = self.block_size
        rows = np.arange(0, self.size - 1, T)
        whole = (self.size - 1) // T
        return cut(rows[:whole], batch_size) + cut(rows[whole:], 1)

    def read(self, field, rows):
        """Return the windows that begin at `rows`: (B, T + 1), or shorter at the end of the stream."""
        array = self.arrays[field]
        width = min(self.block_size + 1, self.size - int(rows.max()))
        start = to_device(rows, array.device)[:, None]                  # (B, 1)
        position = start + torch.arange(width, device=array.device)     # (B, width)
        return to_int64(array[position])


@dataclass(eq=False)
class Ragged(Fixed):
    """Rows of which some fields have different lengths. A batch is padded with 0 to its longest row."""
    offsets: dict           # {field: (rows + 1,)}: where rows begin in the array, and where the last one ends
    pad_to: int             # the length of a batch is a multiple of it, in tokens
    drop_too_long: bool     # whether an epoch leaves out rows longer than block_size; else they are cut
    ragged = True

    def __post_init__(self):
        super().__post_init__()
        self.lengths = {field: np.diff(offsets) for field, offsets in self.offsets.items()}
        T = self.block_size or max(lengths.max() for lengths in self.lengths.values())
        too_long = np.any([lengths > T for lengths in self.lengths.values()], axis=0)   # (rows,)
        self.too_long = int(too_long.sum())
        if self.drop_too_long:
            self.indices = self.indices[~too_long]
        if not len(self.indices):
            raise UserError(f'{self.path}: all rows of {self.name} are longer than block_size {T}', code=3)
        self.lengths = {field: np.minimum(lengths, T) for field, lengths in self.lengths.items()}

    def make_batches(self, rows, batch_size, rng):
        """Return batches of rows of similar length, with little padding (bucketing by length)."""
        buckets = cut(rows, BUCKET_BATCHES * batch_size)
        rows = np.concatenate([self.sort_by_length(bucket) for bucket in buckets])
        return rng.permutation(rows.reshape(-1, batch_size))

    def evaluation_batches(self, batch_size):
        """Return a list of batches with every row once: one that is too long is cut here, never dropped."""
        return cut(self.sort_by_length(np.arange(self.size)), batch_size)

    def sort_by_length(self, rows):
        """Return `rows` sorted by the length of the field with the most tokens, then by the other lengths."""
        lengths = [length[rows] for length in self.lengths.values()]        # (n,) of each field
        *others, longest = sorted(lengths, key=np.sum)
        # Where the first length is odd the others ascend, where it is even they descend: (3, 1) (3, 6) (4, 6)
        # (4, 1). Without the jump from (3, 6) to (4, 1) a batch of both lengths has fewer padded tokens.
        keys = [np.where(longest % 2 == 1, other, -other) for other in others]
        return rows[np.lexsort([*keys, longest])]       # lexsort sorts by its last key first

    def read(self, field, rows):
        """Return one field of `rows`, padded with 0: (B, longest row of the batch)."""
        if field not in self.lengths:
            return super().read(field, rows)
        array = self.arrays[field]
        lengths = self.lengths[field][rows]
        width = math.ceil(max(1, lengths.max()) / self.pad_to) * self.pad_to
        width = min(width, self.block_size or width)
        column = torch.arange(width, device=array.device)               # (width,)
        start = to_device(self.offsets[field][rows], array.device)[:, None]     # (B, 1)
        position = (start + column).clamp(max=len(array) - 1)           # (B, width)
        is_padding = column >= to_device(lengths, array.device)[:, None]
        return to_int64(array[position].masked_fill(is_padding, 0))

    def row(self, field, i):
        """Return row i of a ragged field: a list of ids, without padding."""
        return self.read(field, np.array([i]))[0, :self.lengths[field][i]].tolist()


def cut(rows, size):
    """Return an array cut into parts of `size`, the last of which may be shorter."""
    return [rows[i:i + size] for i in range(0, len(rows), size)]


def to_int64(values):
    """Return integers as int64, which an index has to be; floats as they are."""
    if values.is_floating_point():
        return values
    # torch has hardly any operation for uint16 and uint32: loading.py lets it read their bits as int16 and
    # int32. A value in the upper half is then negative, 65,535 is -1; & removes the sign.
    bits = 8 * values.element_size()
    return values.long() & (2**bits - 1)
