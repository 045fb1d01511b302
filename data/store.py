"""The array store: how a data set is written to its folder, and checked when it is read again.

    save('toy', {'train': {'tokens': ids}, 'val': {'tokens': more}}, {'tokens': 'stream'}, {'vocab_size': 65})
    meta = check('toy')         # data/toy/meta.json, after a look at every file
"""
import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np

from configurator import ROOT
from core.errors import UserError
from core.lock import lock

FORMAT = 1
KINDS = 'fixed', 'stream', 'ragged'
DTYPES = 'uint8', 'uint16', 'uint32', 'float32'


def folder(name):
    """Return the folder of a data set: data/<name>, or `name` itself if it is a path, with a slash.

    Raises UserError for data/ and the folders above it, such as `..`: the files would lie among the code.
    """
    path = Path(name) if os.sep in str(name) else ROOT / 'data' / name
    if name and (ROOT / 'data').resolve().is_relative_to(path.resolve()):
        raise UserError(f'{name} is no data set: expected a name, or a path with a slash')
    return path


def damaged(file, expected, found):
    """Return the error for a file that is not as meta.json describes it."""
    return UserError(f'{file}: expected {expected}, found {found}: prepare the data set again', code=3)


# --- writing

def to_smallest_dtype(values):
    """Return an array of the smallest unsigned dtype that holds `values`, or of float32 for floats.

    uint8 is kept for images alone; other integers become uint16 or uint32, little-endian. Raises ValueError
    for values that do not fit; nothing wraps around.
    """
    array = np.asarray(values)
    if array.dtype.kind == 'f':
        return array.astype('<f4')
    low = int(array.min()) if array.size else 0
    high = int(array.max()) if array.size else 0
    if low < 0 or high >= 2**32:
        raise ValueError(f'values from {low} to {high} do not fit an unsigned 32-bit integer')
    if array.dtype == np.uint8:
        return array
    return array.astype('<u2' if high < 2**16 else '<u4')


def save(name, splits, kinds={}, info={}, tokenizer=None, options={}, source=[]):
    """Write a data set. Its meta.json is written last: without it the folder is not a data set.

    `splits` is {split: {field: rows}}, where rows are an array, or 1-D arrays for a ragged field. `kinds` is
    {field: kind} of the fields that are not 'fixed'. Raises UserError, code 4, if the disk cannot be written.
    """
    path = folder(name)
    specs = {}
    try:
        path.mkdir(parents=True, exist_ok=True)
        with lock(path, wait=True, name='.saving'):         # two that save at once would mix their files
            (path / 'meta.json').unlink(missing_ok=True)
            for split, fields in splits.items():
                specs[split] = write_split(path, split, fields, kinds)
            write_meta(path, specs, info, tokenizer, options, source)
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror or error}', code=4)


def write_meta(path, splits, info={}, tokenizer=None, options={}, source=[]):
    """Write meta.json: `splits` is {split: {field: what `write_field` returns}}."""
    meta = {'format': FORMAT, 'splits': splits, 'info': info, 'tokenizer': tokenizer, 'options': options,
            'source': source}
    write_atomically(path / 'meta.json', json.dumps(meta, indent=1).encode('utf-8'))


def write_split(path, split, fields, kinds):
    """Write the fields of a split. Return {field: what `write_field` returns}."""
    lengths = {len(rows) for rows in fields.values()}
    if len(lengths) > 1 and 'stream' not in kinds.values():
        raise ValueError(f'the fields of {split} have different numbers of rows')
    specs = {}
    for field, rows in fields.items():
        specs[field] = write_field(path, f'{split}.{field}', rows, kinds.get(field, 'fixed'))
    return specs


def write_field(path, name, rows, kind):
    """Write the files of the field `name`, 'split.field'. Return what meta.json has to say about them."""
    spec = {'kind': kind}
    if kind == 'ragged':
        offsets = np.cumsum([0, *map(len, rows)], dtype='<i8')      # where each row begins, and the end
        spec['rows'] = len(rows)
        spec['offsets_sha256'] = write_atomically(path / f'{name}.offsets.bin', offsets)
        filled = [row for row in rows if len(row)]      # numpy takes an empty list for floats
        rows = np.concatenate(filled) if filled else np.zeros(0, np.uint8)
    array = np.ascontiguousarray(to_smallest_dtype(rows))
    spec['dtype'] = array.dtype.name
    spec['shape'] = array.shape
    spec['sha256'] = write_atomically(path / f'{name}.bin', array)
    return spec


def write_atomically(file, content):
    """Write bytes or an array, all or nothing, and return the sha256.

    A process that has the old file open keeps the old content.
    """
    temporary = file.with_name(f'{file.name}.tmp')
    temporary.unlink(missing_ok=True)           # a symbolic link here would be written through
    try:
        with open(temporary, 'xb') as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        sha256 = file_hash(temporary)
        if sha256 != hashlib.sha256(content).hexdigest():
            raise OSError(f'{temporary} does not read back as it was written')
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    return sha256


def file_hash(file, algorithm='sha256'):
    """Return the hash of a file's bytes, in hexadecimal digits."""
    digest = hashlib.new(algorithm)
    with open(file, 'rb') as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


# --- checking

def check(name, hashes=False):
    """Return a data set's meta.json after comparing the size of every file with it; `hashes`: sha256 too.

    Raises UserError, code 3, with the file, what was expected and what was found.
    """
    path = folder(name)
    meta = read_meta(name)
    for split, fields in meta['splits'].items():
        for field, spec in fields.items():
            sha256 = spec['sha256'] if hashes else ''
            check_file(path / f'{split}.{field}.bin', array_bytes(spec), sha256)
            if spec['kind'] == 'ragged':
                sha256 = spec['offsets_sha256'] if hashes else ''
                check_file(path / f'{split}.{field}.offsets.bin', offsets_bytes(spec), sha256)
    return meta


def read_meta(name):
    """Return a data set's meta.json. Raises UserError, code 3, if it is not what `save` writes."""
    file = folder(name) / 'meta.json'
    try:
        meta = json.loads(file.read_text(encoding='utf-8'))
        check_meta(meta)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(file, 'a whole meta.json', f'{type(error).__name__}: {error}')
    return meta


def check_meta(meta):
    """Raise an error unless `meta` describes a data set completely and without contradiction."""
    if meta['format'] != FORMAT:
        raise ValueError(f'expected format {FORMAT}, found {meta["format"]}')
    missing = {'splits', 'info', 'tokenizer', 'options'} - meta.keys()
    if missing:
        raise ValueError(f'without {", ".join(sorted(missing))}')
    for key in 'splits', 'info', 'options':
        if not isinstance(meta[key], dict):
            raise TypeError(f'{key} is not an object')
    for key in 'vocab_size', 'n_class':
        if not isinstance(meta['info'].get(key, 0), int):
            raise TypeError(f'{key} is not an integer')
    for split, fields in meta['splits'].items():
        rows = set()
        for field, spec in fields.items():
            check_spec(f'{split}.{field}', spec)
            if spec['kind'] != 'stream':
                rows.add(spec['rows'] if spec['kind'] == 'ragged' else spec['shape'][0])
        if len(rows) > 1:
            raise ValueError(f'the fields of {split} have different numbers of rows: {sorted(rows)}')


def check_spec(name, spec):
    """Raise an error unless `spec` describes the field `name` as `write_field` does."""
    keys = {'kind', 'dtype', 'shape', 'sha256'}
    if spec['kind'] == 'ragged':
        keys |= {'rows', 'offsets_sha256'}
    missing = keys - spec.keys()
    if missing:
        raise ValueError(f'{name} is without {", ".join(sorted(missing))}')
    whole = all(isinstance(n, int) and n >= 0 for n in [*spec['shape'], spec.get('rows', 0)])
    has_hashes = isinstance(spec['sha256'], str) and isinstance(spec.get('offsets_sha256', ''), str)
    flat = spec['kind'] == 'fixed' or len(spec['shape']) == 1
    if not (spec['kind'] in KINDS and spec['dtype'] in DTYPES and whole and flat and has_hashes):
        raise ValueError(f'{name} has an unknown kind, dtype, shape or hash')


def array_bytes(spec):
    """Return how many bytes the array of a field has."""
    return np.dtype(spec['dtype']).itemsize * math.prod(spec['shape'])


def offsets_bytes(spec):
    """Return how many bytes the offsets of a ragged field have: rows + 1 integers of 8 bytes."""
    return 8 * (spec['rows'] + 1)


def check_file(file, size, sha256=''):
    """Raise UserError unless a file has `size` bytes and, if one is given, this sha256."""
    try:
        found = f'{file.stat().st_size} bytes' if file.is_file() else 'no such file'
        if found != f'{size} bytes':
            raise damaged(file, f'{size} bytes', found)
        if sha256 and file_hash(file) != sha256:
            raise damaged(file, f'sha256 {sha256}', file_hash(file))
    except OSError as error:
        raise damaged(file, f'{size} bytes', error.strerror)


def hashes(meta):
    """Return what identifies the content of a data set: {'train.tokens': sha256, ...}."""
    found = {}
    for split, fields in meta['splits'].items():
        for field, spec in fields.items():
            found[f'{split}.{field}'] = spec['sha256'] + spec.get('offsets_sha256', '')
    return found
