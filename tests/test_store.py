"""data/store.py: what is written comes back, the smallest dtype, damage found by name; free memory."""
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import data
from conftest import TINY
from core.errors import UserError
from data import loading, store


# --- dtypes

@pytest.mark.parametrize('values, dtype', [
    ([0, 65535], 'uint16'), ([0, 65536], 'uint32'), ([70_000, 1], 'uint32'), ([2**32 - 1, 0], 'uint32'),
    (np.array([1, 255], np.uint8), 'uint8'), ([32768, 40000], 'uint16'),
    (np.array([2**31], '>i8'), 'uint32')])
def test_integers_take_the_smallest_dtype_and_come_back_as_they_were(tmp_path, values, dtype):
    for field, kind in ('label', 'fixed'), ('tokens', 'stream'), ('text', 'ragged'):
        rows = [values, values] if kind == 'ragged' else np.concatenate([values, values])
        data.save(str(tmp_path / 'x'), {'val': {field: rows}}, kinds={field: kind})
        meta = data.check(str(tmp_path / 'x'))
        assert meta['splits']['val'][field]['dtype'] == dtype
        raw = np.fromfile(tmp_path / f'x/val.{field}.bin', np.dtype(dtype).newbyteorder('<'))
        assert raw.tolist() == [*values, *values]
        block_size = 2 * len(values) - 1 if kind == 'stream' else 0
        split = data.load_split(str(tmp_path / 'x'), 'val', [field], block_size)
        batch = split.batch(split.evaluation_batches(9)[0])[field]
        assert batch.dtype == torch.int64 and batch.flatten().tolist() == [*values, *values]


def test_a_row_of_nothing_makes_no_floats_of_the_others(tmp_path):
    data.save(str(tmp_path / 'x'), {'val': {'text': [[2**24 + 1, 2], [], [3]]}}, kinds={'text': 'ragged'})
    assert data.check(str(tmp_path / 'x'))['splits']['val']['text']['dtype'] == 'uint32'
    batch = data.load_split(str(tmp_path / 'x'), 'val', ['text']).batch(np.arange(3))
    assert batch['text'].tolist() == [[2**24 + 1, 2], [0, 0], [3, 0]]


@pytest.mark.parametrize('values', [[-1, 5], [2**32], [2**40, 3]])
def test_integers_that_do_not_fit_are_an_error_and_leave_no_data_set(tmp_path, values):
    data.save(str(tmp_path / 'x'), {'train': {'label': [1, 2]}})
    with pytest.raises(ValueError, match='do not fit'):
        data.save(str(tmp_path / 'x'), {'train': {'label': values}})
    with pytest.raises(UserError):
        data.check(str(tmp_path / 'x'))


@pytest.mark.parametrize('array', [np.array([[0, 255], [3, 4]], np.uint8), np.array([[0, 65535], [40000, 1]]),
                                   np.array([[0, 2**32 - 1], [70_000, 1]]),
                                   np.array([[0.5, -1.25]], np.float32), np.array([[True, False]])])
def test_a_fixed_field_of_any_shape_comes_back_as_it_was(tmp_path, array):
    data.save(str(tmp_path / 'x'), {'val': {'mask': array}})
    split = data.load_split(str(tmp_path / 'x'), 'val', ['mask'])
    found = split.batch(np.arange(len(array)))['mask']
    assert found.tolist() == array.tolist()
    assert (found.dtype == torch.uint8) == (array.dtype == np.uint8)        # the model scales images


# --- writing

@pytest.mark.parametrize('place', ['file', 'file/x'])
def test_a_place_that_cannot_hold_a_data_set_is_an_error(tmp_path, place):
    (tmp_path / 'file').write_text('not a folder', encoding='utf-8')
    with pytest.raises(UserError, match=f'{place} cannot be written') as error:
        data.save(f'{tmp_path}/{place}', {'train': {'label': [1, 2]}})
    assert error.value.code == 4
    assert (tmp_path / 'file').read_text(encoding='utf-8') == 'not a folder'


@pytest.mark.parametrize('name', ['.', '..', './', './data/', '/'])
def test_a_data_set_among_the_code_is_an_error_and_nothing_is_written(tmp_path, monkeypatch, name):
    (tmp_path / 'data').mkdir()
    monkeypatch.setattr(store, 'ROOT', tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(f'{name} is no data set: expected a name')):
        data.save(name, {'train': {'label': [1, 2]}})
    assert [*tmp_path.rglob('*')] == [tmp_path / 'data']


def test_a_path_with_a_slash_is_a_folder_anywhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data.save('./', {'train': {'label': [1, 2]}})
    data.save('../mine', {'train': {'label': [1, 2]}})
    assert (tmp_path / 'meta.json').exists() and (tmp_path.parent / 'mine/meta.json').exists()


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    file = tmp_path / 'x.bin'
    store.write_atomically(file, b'old')

    def fail(*args):
        raise OSError('disk full')
    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(OSError, match='disk full'):
        store.write_atomically(file, b'new')
    assert file.read_bytes() == b'old' and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize('n', [3, 5])
def test_fields_of_different_numbers_of_rows_are_an_error(tmp_path, n):
    fields = {'text': [[2], [2, 3], [4], [5, 6]], 'label': np.zeros(n, np.uint8)}
    with pytest.raises(ValueError, match='different numbers of rows'):      # one would get another's label
        data.save(str(tmp_path / 'x'), {'train': fields}, kinds={'text': 'ragged'}, info={'vocab_size': 9})


def test_meta_is_complete_and_its_hashes_are_those_of_the_files(tmp_path):
    data.save(str(tmp_path / 'x'), {'train': {'text': [[2], [3, 4]], 'label': [0, 1]}}, {'text': 'ragged'},
              {'n_class': 2}, {'kind': 'bytes'}, {'size': 3}, [{'url': 'here'}])
    meta = data.check(str(tmp_path / 'x'), hashes=True)
    assert list(meta) == ['format', 'splits', 'info', 'tokenizer', 'options', 'source']
    assert meta['format'] == 1 and meta['options'] == {'size': 3} and meta['source'] == [{'url': 'here'}]
    sha256 = [store.file_hash(tmp_path / f'x/train.{name}.bin') for name in ('text', 'text.offsets', 'label')]
    assert data.hashes(meta) == {'train.text': sha256[0] + sha256[1], 'train.label': sha256[2]}
    assert meta['splits']['train']['text'] == {'kind': 'ragged', 'rows': 2, 'offsets_sha256': sha256[1],
                                               'dtype': 'uint16', 'shape': [3], 'sha256': sha256[0]}


# --- damage

def cut(size):
    return lambda file: os.truncate(file, size if size >= 0 else file.stat().st_size + size)


def directory(file):
    file.unlink(), file.mkdir()


def beyond_the_vocabulary(file):
    """Change one token to 11, which a vocabulary of 11 lacks."""
    tokens = np.fromfile(file, '<u2')
    tokens[1234] = 11
    tokens.tofile(file)


FILES = {'odd length': (cut(-1), 'expected 5000 bytes, found 4999'),
         'whole tokens missing': (cut(-200), '5000.*4800'), 'empty': (cut(0), 'expected 5000 bytes, found 0'),
         'missing': (Path.unlink, 'expected 5000 bytes, found no such file'),
         'a directory': (directory, 'expected 5000 bytes, found'), 'longer': (cut(5002), '5000.*5002'),
         'beyond the vocabulary': (beyond_the_vocabulary, 'expected values below .*11, found 11')}


def meta_with(tokens={}, **changes):
    """Return a function that changes keys of meta.json, or of its train tokens; None removes a key."""
    def damage(file):
        meta = json.loads(file.read_text(encoding='utf-8'))
        for place, edits in (meta['splits']['train']['tokens'], tokens), (meta, changes):
            for key, value in edits.items():
                place[key] = value
                if value is None:
                    del place[key]
        file.write_text(json.dumps(meta), encoding='utf-8')
    return damage


def content(text):
    return lambda file: file.write_text(text, encoding='utf-8')


METAS = {'cut': cut(100), 'empty': cut(0), 'a directory': directory,
         'not JSON': content('hello'), 'another JSON': content('[1]'), 'null': content('null'),
         'not UTF-8': lambda file: file.write_bytes(b'{"format": "\xff"}'),
         'nested too deep': content('[' * 10**5),
         'other format': meta_with(format=2), 'no format': meta_with(format=None),
         'no splits': meta_with(splits=None), 'splits as text': meta_with(splits='train'),
         'no train': meta_with(splits={}), 'no info': meta_with(info=None),
         'no tokenizer': meta_with(tokenizer=None), 'no options': meta_with(options=None),
         'options a list': meta_with(options=[1]),
         'info a list': meta_with(info=[1]), 'vocabulary as text': meta_with(info={'vocab_size': 'eleven'}),
         'shape edited': meta_with(tokens={'shape': [2400]}),
         'shape as text': meta_with(tokens={'shape': '2500'}),
         'shape of another rank': meta_with(tokens={'shape': [50, 50]}),
         'no shape': meta_with(tokens={'shape': None}),
         'no such dtype': meta_with(tokens={'dtype': 'uint17'}),
         'wider dtype': meta_with(tokens={'dtype': 'uint32'}),
         'float of that size': meta_with(tokens={'dtype': 'float16'}),
         'no such kind': meta_with(tokens={'kind': 'streem'}),
         'kind of another': meta_with(tokens={'kind': 'ragged'}),
         'no hash': meta_with(tokens={'sha256': None})}


def error_of(*calls):
    """Return the message of the UserError, code 3, that one of the calls raises."""
    with pytest.raises(UserError) as error:
        for call in calls:
            call()
    assert error.value.code == 3
    return str(error.value)


@pytest.mark.parametrize('name', FILES)
def test_a_damaged_file_is_named_with_what_was_expected_and_found(toy, name):
    damage, message = FILES[name]
    damage(Path(toy, 'train.tokens.bin'))
    found = error_of(lambda: data.load_split(toy, 'train', ['tokens'], 16))
    assert re.search(f'train.tokens.bin: .*{message}', found)
    if name != 'beyond the vocabulary':         # which is found when the values are read
        assert re.search(f'train.tokens.bin: .*{message}', error_of(lambda: data.check(toy)))


@pytest.mark.parametrize('name', METAS)
def test_a_damaged_meta_is_an_error_with_its_name(toy, name):
    METAS[name](Path(toy, 'meta.json'))
    load = lambda: data.load_split(toy, 'train', ['tokens'], 16)        # noqa: E731
    assert toy in error_of(load)
    assert toy in error_of(lambda: data.check(toy), load)


@pytest.mark.parametrize('other', [3, 5])
def test_a_meta_with_different_numbers_of_rows_is_an_error(tmp_path, other):
    data.save(str(tmp_path / 'x'), {'train': {'label': [0] * other, 'mask': [0] * other}})
    data.save(str(tmp_path / 'y'), {'train': {'label': [0] * 4}})
    meta = json.loads((tmp_path / 'x/meta.json').read_text(encoding='utf-8'))
    meta['splits']['train']['label'] = data.check(str(tmp_path / 'y'))['splits']['train']['label']
    (tmp_path / 'x/meta.json').write_text(json.dumps(meta), encoding='utf-8')
    assert 'different numbers of rows' in error_of(lambda: data.check(str(tmp_path / 'x')))


def rename_train(file):
    file.write_text(file.read_text(encoding='utf-8').replace('"train"', '"trian"'), encoding='utf-8')
    for path in file.parent.glob('train.*'):
        path.rename(path.with_name('trian.tokens.bin'))


@pytest.mark.parametrize('file, damage', [
    ('train.tokens.bin', cut(-1)), ('train.tokens.bin', beyond_the_vocabulary), ('val.tokens.bin', cut(0)),
    ('val.tokens.bin', directory), ('meta.json', cut(100)), ('meta.json', METAS['no info']),
    ('meta.json', METAS['no tokenizer']), ('meta.json', rename_train)])
def test_train_finds_damaged_data_before_it_writes(launch, toy, tmp_path, file, damage):
    damage(Path(toy, file))
    code, text = launch('train.py', *TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/run')
    assert code == 3 and toy in text and 'Traceback' not in text, text
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('file', ['train.text.bin', 'train.text.offsets.bin', 'train.label.bin'])
def test_hashes_find_a_changed_byte_that_sizes_do_not(tmp_path, file):
    fields = {'text': [[2, 3], [4], [5, 6]], 'label': [0, 1, 2]}
    data.save(str(tmp_path / 'x'), {'train': fields}, {'text': 'ragged'})
    data.check(str(tmp_path / 'x'), hashes=True)
    raw = bytearray((tmp_path / 'x' / file).read_bytes())
    raw[2] ^= 1
    (tmp_path / 'x' / file).write_bytes(raw)
    data.check(str(tmp_path / 'x'))
    assert re.search(f'{file}: .*sha256', error_of(lambda: data.check(str(tmp_path / 'x'), hashes=True)))


# --- memory

def test_the_free_memory_of_linux_is_what_is_available_not_what_is_unused(tmp_path, monkeypatch):
    text = 'MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    9000 kB\nBuffers:  7 kB\n'
    (tmp_path / 'meminfo').write_text(text, encoding='utf-8')
    monkeypatch.setattr(loading, 'MEMORY_INFO', tmp_path / 'meminfo')
    assert data.free_memory('cpu') == data.free_memory(torch.device('cpu')) == 9000 * 1024


def test_the_free_memory_is_unlimited_where_the_system_does_not_report_it(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, 'MEMORY_INFO', tmp_path / 'nothing')
    assert data.free_memory('cpu') == math.inf


def test_the_free_memory_of_this_machine_is_a_part_of_it():
    total = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    free = data.free_memory('cpu')
    assert free == math.inf or 0 < free <= total
