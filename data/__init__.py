"""A data set is a folder of named arrays: `<split>.<field>.bin` (raw, little-endian) and `meta.json`, written last.

A field is of one of three kinds. fixed: the first axis is the row (images, labels). stream: one long run of tokens, of which
a row is a window. ragged: rows of different lengths end to end, with `<split>.<field>.offsets.bin` to tell them apart.

    save('toy', {'train': {'tokens': ids}, 'val': {'tokens': more}}, kinds={'tokens': 'stream'}, info={'vocab_size': 65})
    split = Split('toy', 'train', ['tokens'], block_size=64)
    split.batch(split.rows(step=0, batch_size=8, seed=0))       # {'tokens': (8, 65) int64}
"""
import concurrent.futures, contextlib, fcntl, hashlib, json, math, os, runpy, shlex, sys
from pathlib import Path

import numpy as np
import torch

from configurator import ROOT, Refused

FORMAT = 1
POOL = 100          # ragged rows are sorted by length within pools of so many batches
RESIDENT = 2e9      # bytes; a larger data set is memory-mapped


def folder(name):
    """Where the data set `name` is: data/<name> beside this file, or, if it has a slash in it, that path itself."""
    return Path(name) if '/' in name or os.sep in name else ROOT / 'data' / name


@contextlib.contextmanager
def locked(path):
    """Hold `path`/.lock; the kernel frees it when the process ends, however it ends."""
    path.mkdir(parents=True, exist_ok=True)
    with open(path / '.lock', 'wb') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- writing

def smallest(array):
    """`array` in the smallest unsigned type that holds it (checked, never wrapped); floats become float32."""
    array = np.asarray(array)
    if array.dtype.kind == 'f':
        return array.astype('<f4')
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low < 0 or high > 0xFFFFFFFF:
        raise ValueError(f'values from {low} to {high} do not fit an unsigned 32-bit integer')
    return array.astype('u1' if array.dtype == np.uint8 else '<u2' if high < 2**16 else '<u4', copy=False)


def save(name, splits, kinds={}, info={}, tokenizer=None, options={}, source=[]):
    """Write a data set: `splits` is {split: {field: rows}}, with an array for a fixed or stream field and a list of 1-D arrays
    for a ragged one; `kinds` names the fields that are not fixed. Until meta.json stands, nothing is taken for a data set."""
    path = folder(name)
    path.mkdir(parents=True, exist_ok=True)
    (path / 'meta.json').unlink(missing_ok=True)
    meta = {'format': FORMAT, 'splits': {}, 'info': info, 'tokenizer': tokenizer, 'options': options, 'source': source}
    for split, fields in splits.items():
        meta['splits'][split] = {}
        for field, rows in fields.items():
            kind = kinds.get(field, 'fixed')
            if kind == 'ragged':
                offsets = np.cumsum([0, *map(len, rows)], dtype='<i8')
                (path / f'{split}.{field}.offsets.bin').write_bytes(offsets.tobytes())
                rows = np.concatenate([*rows, np.zeros(0, np.uint8)])
            array = np.ascontiguousarray(smallest(rows))
            file = path / f'{split}.{field}.bin'
            array.tofile(file)
            meta['splits'][split][field] = {'kind': kind, 'dtype': array.dtype.name, 'shape': list(array.shape),
                                            'sha256': digest(file)}
            if kind == 'ragged':
                meta['splits'][split][field] |= {'rows': len(offsets) - 1,
                                                 'offsets_sha256': digest(path / f'{split}.{field}.offsets.bin')}
    (path / 'meta.json.tmp').write_text(json.dumps(meta, indent=1), encoding='utf-8')
    os.replace(path / 'meta.json.tmp', path / 'meta.json')
    return meta


def digest(file, kind='sha256'):
    """The hash of a file's bytes."""
    found = hashlib.new(kind, usedforsecurity=False)    # without the last word, machines under FIPS refuse md5
    with open(file, 'rb') as f:
        while chunk := f.read(2**20):
            found.update(chunk)
    return found.hexdigest()


# --- reading

def check(name, hashes=False):
    """The data set's meta.json, after comparing the size (hashes=True: the sha256 too) of every file with it. Raises Refused."""
    path = folder(str(name))
    try:
        meta = json.loads((path / 'meta.json').read_text(encoding='utf-8'))
        if meta['format'] != FORMAT:
            raise Refused(f'{path}/meta.json is of format {meta["format"]}, this code reads {FORMAT}: prepare it again', code=3)
        for split, fields in meta['splits'].items():
            for field, spec in fields.items():
                files = {f'{split}.{field}.bin': (np.dtype(spec['dtype']).itemsize * math.prod(spec['shape']), spec['sha256'])}
                if spec['kind'] == 'ragged':
                    files[f'{split}.{field}.offsets.bin'] = 8 * (spec['rows'] + 1), spec['offsets_sha256']
                for file, (size, sha256) in files.items():
                    found = (path / file).stat().st_size if (path / file).is_file() else 'no such file'
                    if found != size:
                        raise Refused(f'{path / file}: expected {size} bytes, found {found}: prepare the data set again', code=3)
                    if hashes and digest(path / file) != sha256:
                        raise Refused(f'{path / file}: its sha256 is not the one in meta.json: prepare it again', code=3)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f'{path}/meta.json is damaged ({type(error).__name__}: {error}): prepare the data set again', code=3)
    return meta


def ensure(name, prepare=''):
    """The meta.json of a data set, prepared first if it is not there. Raises Refused if that fails or `prepare` (options as on
    a command line) is not what it was prepared with."""
    path = folder(name)
    if not (path / 'meta.json').exists():
        if not (path / 'prepare.py').exists():
            ready = sorted(p.parent.name for p in (ROOT / 'data').glob('*/prepare.py'))
            raise Refused(f'there is no data set {path}', f'there are {", ".join(ready)}, and your own text: '
                          f'python data/shakespeare/prepare.py --input=FILE --out=NAME', code=3)
        with locked(path):
            if not (path / 'meta.json').exists():
                argv, sys.argv = sys.argv, [str(path / 'prepare.py'), *shlex.split(prepare)]
                runpy.run_path(sys.argv[0], run_name='__main__')
                sys.argv = argv
    meta = check(name)
    asked = dict(option.lstrip('-').split('=', 1) for option in shlex.split(prepare))
    wrong = [f'{key}: prepared with {meta["options"].get(key)!r}, asked for {value!r}'
             for key, value in asked.items() if str(meta['options'].get(key)) != value]
    if wrong:
        raise Refused(f'{path} was prepared otherwise:', *wrong, f'prepare it again: python {path}/prepare.py {prepare}', code=3)
    return meta


def hashes(meta):
    """What identifies the arrays: {'train.tokens': sha256, ...}."""
    return {f'{split}.{field}': spec['sha256'] for split, fields in meta['splits'].items() for field, spec in fields.items()}


class Split:
    """The rows of one split. A row is a number: an index (fixed, ragged), or the position where a window starts (stream).

    `fields` are the arrays to read, `block_size` (T) the window of a stream and the longest row of a ragged field, in tokens.
    A data set of at most 2 GB and a quarter of the free device memory lives on `device`; a larger one is memory-mapped.
    Raises Refused for fields that are not there, tokens beyond the vocabulary and a split too small for one row.
    """

    def __init__(self, name, split, fields, block_size=0, device='cpu', pad_to=1):
        self.path, self.split, self.block_size, self.pad_to = folder(name), split, block_size, pad_to
        self.device = torch.device(device)
        meta = check(name)
        specs = meta['splits'][split]
        missing = [f for f in fields if f not in specs]
        if missing:
            raise Refused(f'the model reads {", ".join(fields)}; {self.path} has {", ".join(specs)}', code=2)
        self.kind = {f: specs[f]['kind'] for f in fields}
        limits = {'tokens': 'vocab_size', 'src': 'vocab_size', 'tgt': 'vocab_size', 'text': 'vocab_size', 'label': 'n_class'}
        arrays = {f: np.memmap(self.path / f'{split}.{f}.bin', specs[f]['dtype'], 'c', shape=tuple(specs[f]['shape']))
                  for f in fields}
        for field, array in arrays.items():
            limit = meta['info'].get(limits.get(field), math.inf)
            if array.size and array.max() >= limit:
                raise Refused(f'{self.path}/{split}.{field}.bin: expected values below {limits[field]} {limit}, '
                              f'found {array.max()}: prepare the data set again', code=3)
        self.resident = sum(a.nbytes for a in arrays.values()) <= min(RESIDENT, free_memory(self.device) / 4)
        self.arrays = {f: self._tensor(a) for f, a in arrays.items()}

        self.ragged = [f for f in fields if self.kind[f] == 'ragged']
        self.offsets = {f: np.fromfile(self.path / f'{split}.{f}.offsets.bin', '<i8') for f in self.ragged}
        self.lengths = {f: np.diff(o) for f, o in self.offsets.items()}
        for f, offsets in self.offsets.items():
            if offsets[0] != 0 or offsets[-1] != len(arrays[f]) or self.lengths[f].min(initial=0) < 0:
                raise Refused(f'{self.path}/{split}.{f}.offsets.bin: expected offsets from 0 up to {len(arrays[f])}, '
                              f'found {offsets[0]} to {offsets[-1]}: prepare the data set again', code=3)
        self.stream = 'stream' in self.kind.values()
        self.size = len(arrays[fields[0]]) if not self.ragged else len(self.lengths[self.ragged[0]])  # tokens of a stream
        self.indices = np.arange(0 if self.stream else self.size)
        if self.ragged and block_size:              # rows that are too long: dropped in train if info says so, else cut
            long = np.any([n > block_size for n in self.lengths.values()], axis=0)
            self.too_long = int(long.sum())
            if split == 'train' and meta['info'].get('too_long') == 'drop':
                self.indices = self.indices[~long]
            self.lengths = {f: np.minimum(n, block_size) for f, n in self.lengths.items()}
        if self.stream and self.size < 2 or not self.size:
            raise Refused(f'{self.path}/{split}.{fields[0]}.bin is empty', code=3)
        if self.stream and split == 'train' and self.size <= block_size:
            raise Refused(f'{self.path}: the train split has {self.size:,} tokens; block_size {block_size} needs at least '
                          f'{block_size + 1}: give more text or --block_size={max(1, self.size // 2)}', code=3)
        self._plan = self._ahead = None, None
        self._reader = None if self.resident else concurrent.futures.ThreadPoolExecutor(1)

    def __len__(self):
        """Rows of one epoch."""
        return max(1, (self.size - self.block_size) // self.block_size) if self.stream else len(self.indices)

    def _tensor(self, array):
        """`array` as a tensor; uint16 and uint32, which torch half supports, as the signed type of the same bits."""
        tensor = torch.from_numpy(array.view(array.dtype.str.replace('u', 'i')) if array.itemsize > 1 else array)
        return tensor.to(self.device, copy=True) if self.resident else tensor

    # Which rows: functions of (seed, epoch) and (seed, step), so that there is no state to keep for a resume.

    def plan(self, epoch, batch_size, seed):
        """All global batches of an epoch: (n // batch_size, batch_size) rows, other ones left out each time."""
        rng = np.random.default_rng((seed, epoch, 0))
        n, T = len(self), self.block_size
        if self.stream:
            offset = rng.integers(min(T, self.size - n * T))
            rows = offset + T * rng.permutation(n)
        else:
            rows = self.indices[rng.permutation(n)]
        steps = n // batch_size
        if not self.ragged:
            return rows[:steps * batch_size].reshape(steps, batch_size)
        pools = [self.by_length(rows[i:i + POOL * batch_size]) for i in range(0, n, POOL * batch_size)]
        batches = [pool[i:i + batch_size] for pool in pools for i in range(0, len(pool) - batch_size + 1, batch_size)]
        return np.stack(batches)[rng.permutation(len(batches))]

    def by_length(self, rows):
        """`rows` sorted by length, by that of the longest field first."""
        fields = sorted(self.ragged, key=lambda f: self.lengths[f].sum())
        return rows[np.lexsort([self.lengths[f][rows] for f in fields])]

    def rows(self, step, batch_size, seed):
        """The global batch of a step: (batch_size,) rows."""
        epoch, i = divmod(step, len(self) // batch_size)
        if self._plan[0] != (epoch, batch_size, seed):      # one plan per epoch
            self._plan = (epoch, batch_size, seed), self.plan(epoch, batch_size, seed)
        return self._plan[1][i]

    def evaluation(self, batch_size):
        """Every row once, in batches of at most `batch_size`: of a stream all N - 1 targets, a shorter last window by itself."""
        if self.stream:
            starts = np.arange(0, self.size - 1, self.block_size)
            whole = starts[starts + self.block_size < self.size]
            return [whole[i:i + batch_size] for i in range(0, len(whole), batch_size)] + [starts[len(whole):]][:len(starts) - len(whole)]
        rows = self.by_length(np.arange(self.size)) if self.ragged else np.arange(self.size)
        return [rows[i:i + batch_size] for i in range(0, len(rows), batch_size)]

    def batch(self, rows, ahead=None):
        """The fields of `rows` on the device: tokens and labels as int64, images and masks as they are stored. Of a memory
        map, the rows `ahead`, which will be asked for next, are read meanwhile."""
        if self.resident:
            return {field: self._gather(field, rows) for field in self.arrays}
        read = lambda rows: {field: self._gather(field, rows) for field in self.arrays}
        key, future = self._ahead
        batch = future.result() if future and np.array_equal(key, rows) else read(rows)
        self._ahead = (ahead, self._reader.submit(read, ahead)) if ahead is not None else (None, None)
        return {field: values.to(self.device, non_blocking=True) for field, values in batch.items()}

    def _gather(self, field, rows):
        array, kind = self.arrays[field], self.kind[field]
        place = lambda numbers: torch.from_numpy(np.ascontiguousarray(numbers)).to(array.device, non_blocking=True)
        if kind == 'stream':
            width = min(self.block_size, self.size - 1 - int(rows.max()))
            values = array[place(rows)[:, None] + torch.arange(width + 1, device=array.device)]         # (B, T + 1)
        elif kind == 'ragged':
            lengths = self.lengths[field][rows]
            width = -(-int(lengths.max()) // self.pad_to) * self.pad_to
            column = torch.arange(width, device=array.device)
            at = place(self.offsets[field][rows])[:, None] + column                                     # (B, width)
            values = array[at.clamp(max=len(array) - 1)].masked_fill(column >= place(lengths)[:, None], 0)  # 0 is padding
        else:
            values = array[place(rows)]
        if kind != 'fixed' or values.dim() == 1 and not values.is_floating_point():
            values = values.long() & 2 ** (8 * array.element_size()) - 1                                # unsigned again
        return values.pin_memory() if self.device.type == 'cuda' and not self.resident else values


def free_memory(device):
    """Bytes free on `device`; of a CPU where the system tells, else no bound."""
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    known = hasattr(os, 'sysconf') and 'SC_AVPHYS_PAGES' in os.sysconf_names
    return os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') if known else math.inf
