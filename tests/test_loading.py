"""data/loading.py: which reader a split gets, what is an error, and memory maps."""
import numpy as np
import pytest
import torch

import data
from conftest import TINY, losses
from core.errors import UserError
from data import loading
from data.readers import Fixed, Ragged, Stream


@pytest.fixture
def all_kinds(tmp_path):
    """Return the path of a data set with a stream, ragged and fixed fields."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 70_000, 900)
    images = rng.integers(0, 256, (60, 2, 3), np.uint8)
    rows = [rng.integers(2, 70_000, n) for n in rng.integers(1, 20, 60)]
    fields = {'tokens': tokens, 'text': rows, 'image': images, 'label': np.arange(60)}
    data.save(str(tmp_path / 'x'), {'train': fields}, kinds={'tokens': 'stream', 'text': 'ragged'},
              info={'vocab_size': 70_000})
    return str(tmp_path / 'x')


KINDS = [(['tokens'], Stream), (['text', 'label'], Ragged), (['image', 'label'], Fixed)]


@pytest.mark.parametrize('fields, reader', KINDS)
def test_the_kinds_of_the_fields_choose_the_reader(all_kinds, fields, reader):
    assert type(data.load_split(all_kinds, 'train', fields, 12)) is reader


# --- memory maps

@pytest.mark.parametrize('fields, reader', KINDS)
def test_a_memory_map_gives_the_same_batches_read_ahead_or_not(all_kinds, monkeypatch, fields, reader):
    resident = data.load_split(all_kinds, 'train', fields, 12)
    monkeypatch.setattr(loading, 'RESIDENT', 0)
    mapped = data.load_split(all_kinds, 'train', fields, 12)
    assert resident.resident and not mapped.resident
    steps = [resident.rows(step, 6, 1) for step in range(25)]
    announced = {'the next': steps[1:] + [None], 'none': [None] * 25, 'others': steps[::-1]}
    for name, next_steps in announced.items():
        for rows, next_rows in zip(steps, next_steps):
            expected = resident.batch(rows, next_rows)
            found = mapped.batch(rows, next_rows)
            assert expected.keys() == found.keys() == set(fields)
            for field in fields:
                assert torch.equal(expected[field], found[field]), name
                assert expected[field].dtype == found[field].dtype
    for rows in resident.evaluation_batches(7):
        assert all(map(torch.equal, resident.batch(rows).values(), mapped.batch(rows).values()))


@pytest.mark.parametrize('resident', [2e9, 0])
def test_what_is_done_to_a_batch_is_not_done_to_the_data(all_kinds, monkeypatch, resident):
    monkeypatch.setattr(loading, 'RESIDENT', resident)
    split = data.load_split(all_kinds, 'train', ['image', 'label'])
    before = split.batch(np.arange(60))['image'].clone()
    split.batch(np.arange(60))['image'].zero_()
    assert torch.equal(split.batch(np.arange(60))['image'], before)
    data.check(all_kinds, hashes=True)


@pytest.mark.parametrize('free, resident', [(4 * 1800, True), (4 * 1799, False)])
def test_more_than_a_quarter_of_the_free_memory_is_mapped(tmp_path, monkeypatch, free, resident):
    data.save(str(tmp_path / 'x'), {'train': {'tokens': np.arange(900)}}, {'tokens': 'stream'})
    monkeypatch.setattr(data.loading, 'free_memory', lambda device: free)
    assert data.load_split(str(tmp_path / 'x'), 'train', ['tokens'], 9).resident == resident


def test_a_run_on_a_memory_map_is_the_same_run(launch, toy, tmp_path):
    for name, env in ('resident', {}), ('mapped', {'PATCH': 'test_loading.nothing_is_resident'}):
        code, text = launch('train.py', *TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/{name}', env=env)
        assert code == 0, text
    assert losses(tmp_path / 'resident') == losses(tmp_path / 'mapped') != {}


def nothing_is_resident():
    """Patched into a child."""
    loading.RESIDENT = 0


# --- errors

def test_fields_that_the_data_lack_are_an_error_with_both_lists(toy):
    with pytest.raises(UserError, match='the model reads image, label; .* has tokens'):
        data.load_split(toy, 'train', ['image', 'label'])


def test_a_split_that_is_not_there_is_an_error_with_those_that_are(toy):
    with pytest.raises(UserError, match='expected a split test, found train, val') as error:
        data.load_split(toy, 'test', ['tokens'], 16)
    assert error.value.code == 3


@pytest.mark.parametrize('fields, kinds', [({'tokens': np.zeros(0, int)}, {'tokens': 'stream'}),
                                           ({'tokens': np.ones(1, int)}, {'tokens': 'stream'}),
                                           ({'text': [np.zeros(0, int)]}, {'text': 'ragged'}),
                                           ({'label': np.zeros(0, int)}, {})])
def test_a_split_of_nothing_is_an_error(tmp_path, fields, kinds):
    data.save(str(tmp_path / 'x'), {'val': fields}, kinds=kinds, info={'vocab_size': 9, 'n_class': 9})
    with pytest.raises(UserError, match='val') as error:
        data.load_split(str(tmp_path / 'x'), 'val', list(fields), 4)
    assert error.value.code == 3


@pytest.mark.parametrize('field, limit', [('label', 'n_class'), ('src', 'vocab_size'), ('tgt', 'vocab_size')])
def test_values_beyond_what_info_allows_are_an_error(tmp_path, field, limit):
    kinds = {'src': 'stream', 'tgt': 'stream'}
    for highest in 6, 7:
        data.save(str(tmp_path / 'x'), {'val': {field: [3, highest, 0]}}, kinds, info={limit: 7})
        if highest == 6:
            data.load_split(str(tmp_path / 'x'), 'val', [field])
    with pytest.raises(UserError, match=f'val.{field}.bin: expected .*7, found 7') as error:
        data.load_split(str(tmp_path / 'x'), 'val', [field])
    assert error.value.code == 3


@pytest.mark.parametrize('info, scans', [({'vocab_size': 70_000}, 1), ({}, 0)])
def test_the_values_are_read_only_where_there_is_a_limit(tmp_path, monkeypatch, info, scans):
    count = []
    largest = np.memmap.max
    monkeypatch.setattr(np.memmap, 'max', lambda array: count.append(0) or largest(array), raising=False)
    fields = {'tokens': np.arange(900), 'image': np.zeros((900, 2), np.uint8)}
    data.save(str(tmp_path / 'x'), {'train': fields}, {'tokens': 'stream'}, info)
    data.load_split(str(tmp_path / 'x'), 'train', ['tokens'], 9)
    data.load_split(str(tmp_path / 'x'), 'train', ['image'])
    assert len(count) == scans


@pytest.mark.parametrize('change', [lambda o: o + 1, lambda o: [*o[:-1], o[-1] - 1],
                                    lambda o: [o[0], *o[1:-1][::-1], o[-1]], lambda o: [0, -1, *o[2:]]])
def test_damaged_offsets_are_an_error(tmp_path, change):
    rows = [np.full(n, 2) for n in (3, 4, 5, 6)]
    data.save(str(tmp_path / 'x'), {'train': {'text': rows}}, {'text': 'ragged'}, {'vocab_size': 9})
    file = tmp_path / 'x/train.text.offsets.bin'
    np.asarray(change(np.fromfile(file, '<i8')), '<i8').tofile(file)
    with pytest.raises(UserError, match='train.text.offsets.bin: expected .*found') as error:
        data.load_split(str(tmp_path / 'x'), 'train', ['text'])
    assert error.value.code == 3
