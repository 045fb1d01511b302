"""A data set is a folder of named arrays: `<split>.<field>.bin`, raw and little-endian, and `meta.json`.

A field is of one of three kinds. fixed: the first axis is the row (images, labels). stream: one long run of
tokens, of which a row is a window. ragged: rows of different lengths, end to end, and where each one begins
in `<split>.<field>.offsets.bin`.

    save('toy', {'train': {'tokens': ids}, 'val': {'tokens': more}}, {'tokens': 'stream'}, {'vocab_size': 65})
    split = Split('toy', 'train', ['tokens'], block_size=64)
    split.batch(split.rows(step=0, batch_size=8, seed=0))       # {'tokens': (8, 65) int64}
"""
import concurrent.futures, fcntl, hashlib, json, math, os, runpy, shlex, sys
from pathlib import Path

import numpy as np
import torch

import configurator
from configurator import ROOT, Refused

FORMAT = 1
DTYPES = 'uint8', 'uint16', 'uint32', 'float32'
POOL = 100          # batches of ragged rows that are sorted by length together
RESIDENT = 2e9      # bytes; a larger data set is memory-mapped


def folder(name):
    """Where a data set is: data/<name> beside this file; a name with a slash in it is a path itself."""
    return Path(name) if os.sep in str(name) else ROOT / 'data' / name


def damaged(file, expected, found):
    return Refused(f'{file}: expected {expected}, found {found}: prepare the data set again', code=3)


# --- writing

def smallest(values):
    """`values` as an array of the smallest unsigned type that holds them (images stay uint8), or of float32.
    Raises ValueError for what does not fit, and never wraps."""
    array = np.asarray(values)
    if array.dtype.kind == 'f':
        return array.astype('<f4')
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low < 0 or high >= 2**32:
        raise ValueError(f'values from {low} to {high} do not fit an unsigned 32-bit integer')
    return array if array.dtype == np.uint8 else array.astype('<u2' if high < 2**16 else '<u4')


def save(name, splits, kinds={}, info={}, tokenizer=None, options={}, source=[]):
    """Write a data set. `splits` is {split: {field: rows}}: an array, or for a ragged field 1-D arrays;
    `kinds` names the fields that are not fixed. It is no data set until its meta.json stands. Raises Refused,
    code 4, if it cannot be written."""
    path = folder(name)
    meta = {'format': FORMAT, 'splits': {}, 'info': info, 'tokenizer': tokenizer, 'options': options,
            'source': source}
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / 'meta.json').unlink(missing_ok=True)
        for split, fields in splits.items():
            specs = meta['splits'][split] = {}
            if 'stream' not in kinds.values() and len({*map(len, fields.values())}) > 1:
                raise ValueError(f'the fields of {split} have different numbers of rows')
            for field, rows in fields.items():
                specs[field] = {'kind': kinds.get(field, 'fixed')}
                if specs[field]['kind'] == 'ragged':
                    offsets = np.cumsum([0, *map(len, rows)], dtype='<i8')
                    sha256 = put(path / f'{split}.{field}.offsets.bin', offsets)
                    specs[field] |= {'rows': len(rows), 'offsets_sha256': sha256}
                    rows = np.concatenate([row for row in rows if len(row)] or [np.zeros(0, np.uint8)])
                array = np.ascontiguousarray(smallest(rows))
                sha256 = put(path / f'{split}.{field}.bin', array)
                specs[field] |= {'dtype': array.dtype.name, 'shape': array.shape, 'sha256': sha256}
        put(path / 'meta.json', json.dumps(meta, indent=1).encode('utf-8'))
    except OSError as error:
        raise Refused(f'{path} cannot be written: {error.strerror or error}', code=4)


def put(file, content):
    """Write bytes or an array and return the sha256; who has the old file open keeps that."""
    temporary = file.with_name(f'{file.name}.tmp')
    try:
        temporary.write_bytes(content)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    return digest(file)


def digest(file, kind='sha256'):
    """The hash of a file's bytes."""
    found = hashlib.new(kind, usedforsecurity=False)    # or machines under FIPS refuse md5
    with open(file, 'rb') as f:
        while chunk := f.read(2**20):
            found.update(chunk)
    return found.hexdigest()


# --- checking

def check(name, hashes=False):
    """A data set's meta.json, after a comparison of every file's size (hashes=True: sha256 too) with it.
    Raises Refused, code 3, with the file, what was expected and what was found."""
    path, files = folder(name), []
    try:
        meta = json.loads((path / 'meta.json').read_text(encoding='utf-8'))
        if meta['format'] != FORMAT:
            raise damaged(path / 'meta.json', f'format {FORMAT}', meta['format'])
        meta['tokenizer'], meta['options'].items()
        if not all(isinstance(meta['info'].get(key, 0), int) for key in ('vocab_size', 'n_class')):
            raise ValueError('vocab_size or n_class is no integer')
        for split, fields in meta['splits'].items():
            rows = {spec.get('rows', spec['shape'][0]) for spec in fields.values()
                    if spec['kind'] != 'stream'}
            if len(rows) > 1:
                raise ValueError(f'the fields of {split} have different numbers of rows: {sorted(rows)}')
            for field, spec in fields.items():
                if (spec['kind'] not in ('fixed', 'stream', 'ragged') or spec['dtype'] not in DTYPES
                        or spec['kind'] != 'fixed' and len(spec['shape']) != 1):
                    raise ValueError(f'{split}.{field} is of an unknown kind, dtype or shape')
                size = np.dtype(spec['dtype']).itemsize * math.prod(spec['shape'])
                files.append((path / f'{split}.{field}.bin', size, spec['sha256']))
                if spec['kind'] == 'ragged':
                    file, size = path / f'{split}.{field}.offsets.bin', 8 * (spec['rows'] + 1)
                    files.append((file, size, spec['offsets_sha256']))
        for file, size, sha256 in files:
            found = f'{file.stat().st_size} bytes' if file.is_file() else 'no such file'
            if found != f'{size} bytes':
                raise damaged(file, f'{size} bytes', found)
            if hashes and digest(file) != sha256:
                raise damaged(file, f'sha256 {sha256}', digest(file))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path / 'meta.json', 'a whole meta.json', f'{type(error).__name__}: {error}')
    return meta


def ensure(name, prepare='', verify=False):
    """The meta.json of a data set; if it is not there one process prepares it while the others wait. Raises
    Refused if that cannot be, or if it was prepared with other options than those in `prepare`."""
    path, asked = folder(name), {}
    script = path / 'prepare.py'
    try:
        options = shlex.split(prepare)
    except ValueError as error:
        raise Refused(f'prepare={prepare!r}: {error}')
    if options:
        if not script.exists():
            raise Refused(f'{path} has no prepare.py to take prepare={prepare!r}')
        settings = configurator.read(script, options)
        asked = {key: settings.knobs[key] for key in settings.given}
    if not (path / 'meta.json').exists():
        if not script.exists():
            known = sorted(file.parent.name for file in (ROOT / 'data').glob('*/prepare.py'))
            raise Refused(f'there is no data set {path}; there are {", ".join(known)}',
                          'your own text: python data/shakespeare/prepare.py --input=FILE --out=NAME',
                          'your own pairs: python data/wmt_enfr/prepare.py --pairs=SOURCE,TARGET --out=NAME',
                          code=3)
        try:
            lock = open(path / '.lock', 'wb')
        except OSError as error:
            raise Refused(f'{path} is not prepared and cannot be written: {error.strerror}', code=4)
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)            # the kernel frees it, however this process ends
            if not (path / 'meta.json').exists():
                argv, sys.argv = sys.argv, [str(script), *options]
                runpy.run_path(sys.argv[0], run_name='__main__')
                sys.argv = argv
    meta = check(name, verify)
    there = {key: meta['options'].get(key) for key in asked}
    if there != asked:
        raise Refused(f'{path} was prepared with {there}, asked for is {asked}',
                      f'prepare it again: python {script} {prepare}', code=3)
    return meta


def hashes(meta):
    """What tells one data set from another: {'train.tokens': sha256, ...}."""
    return {f'{split}.{field}': spec['sha256'] + spec.get('offsets_sha256', '')
            for split, fields in meta['splits'].items() for field, spec in fields.items()}


# --- reading

class Split:
    """The rows of one split. A row is a number: its index or, in a stream, the place where its window begins.

    `fields` are the arrays to read; `block_size` (T) is the window of a stream and the longest ragged row, in
    tokens. A data set of at most 2 GB and a quarter of the free memory lives on `device`; a larger one is
    memory-mapped. `augment` changes its images. Raises Refused for fields that are not there, values beyond
    the vocabulary, a split too small for one row, and what cannot be augmented.
    """

    def __init__(self, name, split, fields, block_size=0, device='cpu', pad_to=1, augment=None):
        self.name, self.block_size, self.pad_to, self.device = split, block_size, pad_to, torch.device(device)
        meta, path = check(name), folder(name)
        specs, info = meta['splits'].get(split), meta['info']
        if not specs:
            raise damaged(path / 'meta.json', f'a split {split}', ', '.join(meta['splits']) or 'none')
        if not set(fields) <= set(specs):
            raise Refused(f'the model reads {", ".join(fields)}; {path} has {", ".join(specs)}')
        self.kind = {field: specs[field]['kind'] for field in fields}
        self.ragged = [field for field in fields if self.kind[field] == 'ragged']
        self.stream = 'stream' in self.kind.values()
        arrays, self.starts, self.lengths = {}, {}, {}
        for field, kind in self.kind.items():
            file, shape = path / f'{split}.{field}.bin', tuple(specs[field]['shape'])
            if not math.prod(shape):
                raise damaged(file, 'rows', 'none')
            array = arrays[field] = np.memmap(file, specs[field]['dtype'], 'c', shape=shape)
            limit = info.get('n_class' if field == 'label' else 'vocab_size', math.inf)
            if (field == 'label' or kind != 'fixed') and array.max() >= limit:
                raise damaged(file, f'values below {limit}', array.max())
            if kind == 'ragged':
                file = path / f'{split}.{field}.offsets.bin'
                offsets = np.fromfile(file, '<i8')
                if offsets[0] or (np.diff(offsets) < 0).any() or offsets[-1] != len(array):
                    raise damaged(file, f'a rise from 0 to {len(array)}', offsets)
                self.starts[field], self.lengths[field] = offsets[:-1], np.diff(offsets)
        self.augment, self.mean = augment, info.get('mean')
        sizes = [a.shape[2:] for field, a in arrays.items() if self.kind[field] == 'fixed' and a.ndim == 4]
        if augment and not (sizes and augment.shift < min(map(min, sizes)) and len({*sizes}) == 1):
            raise Refused(f'flip, zoom and the like are of images of one size, larger than shift '
                          f'{augment.shift}; those of {path} are of sizes {sizes}')
        if augment and (augment.cutout or augment.jitter) and not (self.mean and 'image' in fields):
            raise Refused(f'cutout and jitter are of a field `image` with a `mean`, which {path} lacks')
        self.resident = sum(a.nbytes for a in arrays.values()) <= min(RESIDENT, free_memory(self.device) / 4)
        self.arrays = {}
        for field, array in arrays.items():
            if array.itemsize > 1:      # torch half supports uint16 and uint32: the same bits, as signed
                array = array.view(array.dtype.str.replace('u', 'i'))
            tensor = torch.from_numpy(array)
            self.arrays[field] = tensor.to(self.device, copy=True) if self.resident else tensor
        self.size = len(self.lengths[self.ragged[0]] if self.ragged else arrays[fields[0]])  # or tokens
        self.indices = np.arange(0 if self.stream else self.size)
        self.too_long = 0               # ragged rows that are cut, or in train dropped if info says so
        if self.ragged and block_size:
            long = np.any([n > block_size for n in self.lengths.values()], axis=0)
            self.too_long = int(long.sum())
            if split == 'train' and info.get('too_long') == 'drop':
                self.indices = self.indices[~long]
            self.lengths = {field: np.minimum(n, block_size) for field, n in self.lengths.items()}
        if not self.stream and not len(self.indices):
            raise Refused(f'{path}: all rows of {split} are longer than block_size {block_size}', code=3)
        if self.stream and self.size < (block_size + 1 if split == 'train' else 2):
            raise Refused(f'{path}: {split} has {self.size:,} tokens, block_size {block_size} needs '
                          f'{block_size + 1:,}: more text, or --block_size={self.size // 2}', code=3)
        self._plan = self._ahead = None, None
        self._asynchronous = self.device.type == 'cuda'     # elsewhere a copy may outlive its source
        self._reader = None if self.resident else concurrent.futures.ThreadPoolExecutor(1)

    def __len__(self):
        """Rows of an epoch."""
        T = self.block_size
        return max(1, (self.size - T) // T) if self.stream else len(self.indices)

    # Which rows are functions of (seed, epoch) and (seed, step): there is no state to keep for a resume.

    def plan(self, epoch, batch_size, seed):
        """The batches of an epoch: (n // batch_size, batch_size) rows. Others are left out each time; of a
        stream, whose windows share one token with their neighbours, fewer than 2 T targets."""
        rng, n, T = np.random.default_rng((seed, epoch, 0)), len(self), self.block_size
        if self.stream:
            rows = rng.integers(min(T, self.size - n * T)) + T * rng.permutation(n)
        else:
            rows = self.indices[rng.permutation(n)]
        rows = rows[:n // batch_size * batch_size]
        if not self.ragged:
            return rows.reshape(-1, batch_size)
        pool = POOL * batch_size
        rows = np.concatenate([self.by_length(rows[i:i + pool]) for i in range(0, len(rows), pool)])
        return rng.permutation(rows.reshape(-1, batch_size))

    def by_length(self, rows):
        """`rows` sorted by length, that of the longest field first, those of another up and down in turn, so
        that neighbours are always alike; as they are if they have no lengths."""
        if not self.ragged:
            return rows
        *others, longest = sorted((self.lengths[field][rows] for field in self.ragged), key=np.sum)
        return rows[np.lexsort([*(np.where(longest % 2, n, -n) for n in others), longest])]

    def rows(self, step, batch_size, seed):
        """The global batch of a step: (batch_size,) rows, with how they are augmented if they are."""
        epoch, i = divmod(step, len(self) // batch_size)
        key = epoch, batch_size, seed
        if self._plan[0] != key:
            self._plan = key, self.plan(*key)
        rows = self._plan[1][i]
        return self.augment.draw(rows, epoch, step, seed) if self.augment else rows

    def evaluation(self, batch_size):
        """All rows once, in batches of at most `batch_size`; of a stream all N - 1 targets, with what is left
        of them as a shorter window in a batch of its own."""
        if self.stream:
            rows, whole = np.arange(0, self.size - 1, self.block_size), (self.size - 1) // self.block_size
        else:
            rows, whole = self.by_length(np.arange(self.size)), self.size
        batches = np.split(rows, [*range(batch_size, whole, batch_size), whole])
        return [batch for batch in batches if len(batch)]

    def batch(self, rows, ahead=None):
        """The fields of `rows` on the device: tokens and labels as int64, images and masks as stored.
        Of a memory map, the rows `ahead`, to be asked for next, are read meanwhile."""
        if rows.dtype.names:
            plain = self.batch(rows['row'], None if ahead is None else ahead['row'])
            return self.augment(plain, rows, self.mean)
        if self.resident:
            return self._gather(rows)
        expected, future = self._ahead
        batch = future.result() if future and np.array_equal(expected, rows) else self._gather(rows)
        self._ahead = ahead, None if ahead is None else self._reader.submit(self._gather, ahead)
        return {field: values.to(self.device, non_blocking=self._asynchronous)
                for field, values in batch.items()}

    def row(self, field, i):
        """Row i of a ragged field: its ids, a list, without padding."""
        return self._field(field, np.array([i]))[0, :self.lengths[field][i]].tolist()

    def _gather(self, rows):
        return {field: self._field(field, rows) for field in self.arrays}

    def _field(self, field, rows):
        """One field of `rows`, on its array's device, in pinned memory if it has to travel from there."""
        array, kind = self.arrays[field], self.kind[field]

        def place(numbers):
            tensor = torch.from_numpy(np.ascontiguousarray(numbers))
            return tensor.to(array.device, non_blocking=self._asynchronous)

        if kind == 'stream':
            width = min(self.block_size, self.size - 1 - int(rows.max()))
            values = array[place(rows)[:, None] + torch.arange(width + 1, device=array.device)]  # (B, T + 1)
        elif kind == 'ragged':
            lengths = self.lengths[field][rows]
            width = -(-max(1, int(lengths.max())) // self.pad_to) * self.pad_to
            width = min(width, self.block_size or width)
            column = torch.arange(width, device=array.device)
            at = place(self.starts[field][rows])[:, None] + column                      # (B, width)
            values = array[at.clamp(max=len(array) - 1)]
            values = values.masked_fill(column >= place(lengths)[:, None], 0)           # 0 is padding
        else:
            values = array[place(rows)]
        pixels = kind == 'fixed' and values.dim() > 1 and values.element_size() == 1
        if not pixels and not values.is_floating_point():
            values = values.long() & 2 ** (8 * values.element_size()) - 1               # unsigned again
        return values.pin_memory() if self.device.type == 'cuda' and not self.resident else values


def free_memory(device):
    """Bytes free on a device; of a CPU where the system tells, else infinity."""
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (ValueError, OSError):
        return math.inf
