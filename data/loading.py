"""Loading: from the files of a split to the reader that makes batches of it."""
import inspect
import math

import numpy as np
import torch

from core.errors import UserError
from data import store
from data.augment import check_images
from data.readers import Fixed, Ragged, Stream

RESIDENT = 2e9                      # bytes; a larger data set is memory-mapped
MEMORY_INFO = '/proc/meminfo'       # Linux


def fields_of(forward, meta):
    """Return the fields to load for a model's forward: of forward(self, image, label) image and label.

    A parameter with a default is a field that a data set may lack. `progress` is no field: train.py passes it
    itself. meta: of the data set.
    """
    names = []
    missing = []
    for name, parameter in inspect.signature(forward).parameters.items():
        if name in ('self', 'progress'):
            continue
        if name in meta['splits'].get('train', {}) or parameter.default is parameter.empty:
            names.append(name)
        else:
            missing.append(name)
    return names or missing             # if all are missing, load_split says so


def load_split(name, split, fields, block_size=0, device='cpu', pad_to=1, augment=None):
    """Return the Fixed, Stream or Ragged that reads `fields` of one split of a data set.

    A data set of at most 2 GB and a quarter of the free memory is kept on `device`; a larger one is
    memory-mapped. Raises UserError for fields that are not there, damaged files, values beyond the vocabulary
    or the classes, a split too small for one row, and images that cannot be augmented.
    """
    path = store.folder(name)
    meta = store.read_meta(name)
    info = meta['info']
    specs = meta['splits'].get(split)
    if not specs:
        found = ', '.join(meta['splits']) or 'none'
        raise store.damaged(path / 'meta.json', f'a split {split}', found)
    if not set(fields) <= set(specs):
        raise UserError(f'the model reads {", ".join(fields)}; {path} has {", ".join(specs)}')

    kinds = {field: specs[field]['kind'] for field in fields}
    arrays = {}
    offsets = {}
    for field, kind in kinds.items():
        limit = value_limit(field, kind, info)
        arrays[field] = open_array(path, f'{split}.{field}', specs[field], limit)
        if kind == 'ragged':
            offsets[field] = open_offsets(path, f'{split}.{field}', specs[field])
    if augment and not augment.enabled:
        augment = None
    if augment:
        sizes = {field: array.shape[2:] for field, array in arrays.items() if array.ndim == 4}
        check_images(augment, path, sizes, info.get('mean'))

    device = torch.device(device)
    resident, tensors = to_tensors(arrays, device)
    first = specs[fields[0]]
    size = first.get('rows', first['shape'][0])
    common = {'path': path, 'name': split, 'size': size, 'arrays': tensors, 'resident': resident,
              'device': device, 'block_size': block_size, 'augment': augment, 'mean': info.get('mean')}
    if 'stream' in kinds.values():
        return Stream(**common)
    if 'ragged' in kinds.values():
        drop_too_long = split == 'train' and info.get('too_long') == 'drop'     # val and test are cut
        return Ragged(**common, offsets=offsets, pad_to=pad_to, drop_too_long=drop_too_long)
    return Fixed(**common)


def load_splits(name, fields, block_size, device, pad_to, augment, log):
    """Return {split: reader} of all splits of a data set, train first; only train is augmented.

    log: a function that prints a line, here how many rows are too long for block_size. Raises UserError as
    `load_split` does, also if there is no train.
    """
    splits = {}
    names = ['train', *store.read_meta(name)['splits']]
    for split in dict.fromkeys(names):                      # each once, in this order
        reader = load_split(name, split, fields, block_size, device, pad_to,
                            augment if split == 'train' else None)
        if reader.too_long:
            done = 'dropped' if len(reader) < reader.size else 'cut'
            log(f'{reader.too_long:,} rows of {split}, longer than block_size {block_size}, are {done}')
        splits[split] = reader
    return splits


def value_limit(field, kind, info):
    """Return the number that labels or tokens have to be below, or None where there is none."""
    if field == 'label':
        return info.get('n_class')
    if kind != 'fixed':
        return info.get('vocab_size')
    return None


def open_array(path, name, spec, limit):
    """Return the memory map of a field, 'split.field'. Raises UserError if its file is damaged."""
    file = path / f'{name}.bin'
    store.check_file(file, store.array_bytes(spec))
    if math.prod(spec['shape']) == 0:
        raise store.damaged(file, 'rows', 'none')
    array = np.memmap(file, spec['dtype'], 'c', shape=tuple(spec['shape']))     # c: nothing is written back
    # A value beyond the limit would be an index out of range in the model, on a GPU a crash without a reason.
    # To find the largest one reads the whole file, so this is left out where there is no limit.
    if limit is not None and array.max() >= limit:
        raise store.damaged(file, f'values below {limit}', array.max())
    return array


def open_offsets(path, name, spec):
    """Return where the rows of a ragged field begin, and where the last one ends: (rows + 1,) int64."""
    file = path / f'{name}.offsets.bin'
    store.check_file(file, store.offsets_bytes(spec))
    offsets = np.fromfile(file, '<i8')
    end = spec['shape'][0]
    falling = np.any(offsets[1:] < offsets[:-1])        # a difference may overflow
    if offsets[0] != 0 or offsets[-1] != end or falling:
        raise store.damaged(file, f'a rise from 0 to {end}', offsets)
    return offsets


def to_tensors(arrays, device):
    """Return whether the arrays fit on the device, and {field: tensor}: there, else memory-mapped."""
    size = sum(array.nbytes for array in arrays.values())
    resident = size <= min(RESIDENT, free_memory(device) / 4)
    tensors = {}
    for field, array in arrays.items():
        if array.dtype in ('uint16', 'uint32'):     # torch hardly supports them: see to_int64
            array = array.view(f'i{array.itemsize}')
        tensors[field] = torch.from_numpy(array)
        if resident:
            tensors[field] = tensors[field].to(device, copy=True)
    return resident, tensors


def free_memory(device):
    """Return the free bytes of a device; infinity where the system does not tell.

    On Linux this is MemAvailable, not MemFree: files in the page cache give way to an array.
    """
    device = torch.device(device)
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open(MEMORY_INFO, encoding='utf-8') as lines:
            for line in lines:
                if line.startswith('MemAvailable:'):
                    return 1024 * int(line.split()[1])      # the file counts in units of 1024 bytes
    except OSError:
        pass
    return math.inf
