"""The reader against naive references: the rows of an epoch, the values of a batch, the damage it refuses."""
import inspect, json, os, re, sys, textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import data
from configurator import ROOT, Refused
from conftest import TINY, losses


def stream(path, n, block_size, split='train'):
    """A stream of the tokens 0, 1, 2, ..., so that a token tells its position."""
    data.save(str(path), {split: {'tokens': np.arange(n)}}, kinds={'tokens': 'stream'},
              info={'vocab_size': n})
    return data.Split(str(path), split, ['tokens'], block_size)


def texts(path, lengths, split='train', info={}, **options):
    """Ragged rows of these lengths: (the rows, the Split). Row i has the label i."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(2, 50, n) for n in lengths]
    data.save(str(path), {split: {'text': rows, 'label': np.arange(len(rows))}}, kinds={'text': 'ragged'},
              info={'vocab_size': 50, **info})
    return rows, data.Split(str(path), split, ['text', 'label'], **options)


def seen(split, epochs, batch_size):
    """How often each row is met in an epoch, at most; and all the rows met in any of them."""
    plans = [split.plan(epoch, batch_size, seed=1).flatten().tolist() for epoch in range(epochs)]
    return max(plan.count(row) for plan in plans for row in plan), {row for plan in plans for row in plan}


# --- streams

SIZES = [(2, 1), (3, 1), (9, 1), (5, 4), (6, 4), (8, 4), (9, 4), (11, 4), (12, 4), (13, 4), (17, 16),
         (48, 16), (49, 16), (100, 7), (257, 16), (1000, 33)]


@pytest.mark.parametrize('N, T', SIZES)
def test_an_epoch_of_a_stream(tmp_path, N, T):
    split, n = stream(tmp_path / 'x', N, T), max(1, (N - T) // T)
    possible, offsets = min(T, N - n * T), set()
    assert len(split) == n
    for epoch in range(40):
        plan = split.plan(epoch, 1, seed=3)
        starts = np.sort(plan.flatten())
        assert plan.shape == (n, 1) and starts.tolist() == [starts[0] + i * T for i in range(n)]
        assert 0 <= starts[0] < possible
        offsets.add(int(starts[0]))
        windows = split.batch(starts)['tokens']
        assert windows.shape == (n, T + 1) and windows.dtype == torch.int64
        assert torch.equal(windows[:-1, -1], windows[1:, 0])            # neighbours share one token
        targets = windows[:, 1:].flatten().tolist()
        assert len(set(targets)) == len(targets) and N - 1 - len(targets) < 2 * T
    assert offsets == set(range(possible)) if possible <= 4 else len(offsets) > 4


def test_the_order_of_windows_differs_from_epoch_to_epoch(tmp_path):
    split = stream(tmp_path / 'x', 1000, 10)
    orders = {tuple(np.argsort(split.plan(epoch, 1, seed=1).flatten())) for epoch in range(10)}
    assert len(orders) == 10 and tuple(range(len(split))) not in orders


@pytest.mark.parametrize('N, T', [*SIZES, (2, 8), (5, 8), (8, 8)])
def test_evaluation_of_a_stream_has_every_target_once(tmp_path, N, T):
    split = stream(tmp_path / 'x', N, T, split='val')
    for size in 1, 3, 64:
        windows = [split.batch(rows)['tokens'] for rows in split.evaluation(size)]
        assert [target for w in windows for target in w[:, 1:].flatten().tolist()] == list(range(1, N))
        assert all(len(w) <= size and torch.equal(w[:, :-1] + 1, w[:, 1:]) for w in windows)
        rest = (N - 1) % T              # targets of the shorter last window, a batch of its own
        assert all(w.size(1) == T + 1 for w in windows[:-1])
        assert windows[-1].shape == (1, rest + 1) if rest else windows[-1].size(1) == T + 1
        assert all(map(np.array_equal, split.evaluation(size), split.evaluation(size)))


def test_steps_walk_through_one_plan_after_another(tmp_path):
    split = stream(tmp_path / 'x', 500, 7)
    per_epoch = len(split) // 8
    for epoch in range(3):
        plan = [split.rows(epoch * per_epoch + i, 8, seed=5) for i in range(per_epoch)]
        assert np.array_equal(plan, split.plan(epoch, 8, seed=5))


@pytest.mark.parametrize('kind', ['stream', 'ragged'])
def test_rows_are_a_function_of_seed_and_step_alone(tmp_path, kind):
    paths = tmp_path / 'one', tmp_path / 'other'
    one, other = (stream(p, 500, 7) if kind == 'stream' else texts(p, range(1, 60))[1] for p in paths)
    forward = [one.rows(step, 8, 5) for step in range(25)]
    np.random.seed(1), torch.manual_seed(1)
    backward = [other.rows(step, 8, 5) for step in reversed(range(25))][::-1]
    assert np.array_equal(forward, backward)
    assert not np.array_equal(forward, [one.rows(step, 8, 6) for step in range(25)])


def test_fewer_tokens_than_a_window_are_refused_in_train_only(tmp_path):
    with pytest.raises(Refused, match='8 tokens.* block_size 8 needs.* 9') as refused:
        stream(tmp_path / 'x', 8, 8)
    assert refused.value.code == 3
    assert len(stream(tmp_path / 'x', 9, 8)) == 1


# --- fixed and ragged fields

def test_fixed_rows_come_together_and_others_are_left_out_each_time(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (10, 3, 4, 4), np.uint8), np.arange(10, dtype=np.uint8)
    data.save(str(tmp_path / 'x'), {'train': {'image': images, 'label': labels}}, info={'n_class': 10})
    split = data.Split(str(tmp_path / 'x'), 'train', ['image', 'label'])
    assert seen(split, 20, 4) == (1, set(range(10))) and split.plan(0, 4, 1).shape == (2, 4)
    rows = split.plan(0, 4, 1)[1]
    batch = split.batch(rows)
    assert batch['image'].dtype == torch.uint8 and np.array_equal(batch['image'], images[rows])
    assert batch['label'].dtype == torch.int64 and batch['label'].tolist() == rows.tolist()
    assert np.concatenate(split.evaluation(4)).tolist() == list(range(10))


@pytest.mark.parametrize('pad_to', [1, 8])
def test_a_ragged_batch_is_padded_to_its_own_longest_row(tmp_path, pad_to):
    rows, split = texts(tmp_path / 'x', np.random.default_rng(1).integers(1, 30, 50), pad_to=pad_to)
    for epoch in 0, 1:
        for numbers in [*split.plan(epoch, 5, 1), *split.evaluation(5), np.array([49]), np.array([49, 0])]:
            width = -(-max(len(rows[i]) for i in numbers) // pad_to) * pad_to
            expected = [[*rows[i], *[0] * (width - len(rows[i]))] for i in numbers]
            batch = split.batch(numbers)
            assert batch['text'].tolist() == expected and batch['text'].dtype == torch.int64
            assert batch['label'].tolist() == numbers.tolist()


def test_every_ragged_row_is_evaluated_once(tmp_path):
    split = texts(tmp_path / 'x', np.random.default_rng(1).integers(0, 30, 50))[1]
    batches = split.evaluation(8)
    assert sorted(np.concatenate(batches)) == list(range(50)) and all(len(rows) <= 8 for rows in batches)


def test_a_ragged_epoch_has_a_row_at_most_once_and_leaves_out_others_each_time(tmp_path):
    split = texts(tmp_path / 'x', range(1, 24))[1]
    assert split.plan(0, 4, 1).shape == (5, 4)
    assert seen(split, 40, 4) == (1, set(range(23)))        # the longest row is no less worth than the others


def test_rows_of_similar_length_go_together_within_pools(tmp_path, monkeypatch):
    rows, split = texts(tmp_path / 'x', np.random.default_rng(1).permutation(np.arange(1, 241)))
    lengths = np.array(list(map(len, rows)))
    spans = [(lengths[batch].min(), lengths[batch].max()) for batch in split.plan(0, 8, 1)]     # one pool
    assert all(a[1] < b[0] for a, b in zip(sorted(spans), sorted(spans)[1:])) and spans != sorted(spans)
    monkeypatch.setattr(data, 'POOL', 5)
    for epoch in 0, 1:
        spans = sorted((lengths[batch].min(), lengths[batch].max()) for batch in split.plan(epoch, 8, 1))
        assert np.mean([high - low for low, high in spans]) < 240 / 5
        assert any(a[1] > b[0] for a, b in zip(spans, spans[1:]))
    monkeypatch.setattr(data, 'POOL', 1)
    assert np.mean([np.ptp(lengths[batch]) for batch in split.plan(0, 8, 1)]) > 240 / 2


def test_little_of_a_ragged_epoch_is_padding(tmp_path):
    rows, split = texts(tmp_path / 'x', np.random.default_rng(1).integers(1, 60, 2000))
    lengths = np.array(list(map(len, rows)))

    def share(plan):
        return 1 - lengths[plan].sum() / (lengths[plan].max(1) * plan.shape[1]).sum()
    assert share(split.plan(0, 16, 1)) < 0.05 < 0.3 < share(np.arange(2000).reshape(-1, 16))


def test_little_of_pairs_of_alike_lengths_is_padding(tmp_path):
    rng = np.random.default_rng(0)
    n = rng.integers(5, 40, 4000)
    lengths = {'src': n, 'tgt': (n * rng.uniform(0.8, 1.4, 4000)).astype(int)}
    rows = {field: [np.full(k, 2) for k in of] for field, of in lengths.items()}
    data.save(str(tmp_path / 'x'), {'train': rows}, {'src': 'ragged', 'tgt': 'ragged'}, {'vocab_size': 9})
    split = data.Split(str(tmp_path / 'x'), 'train', ['src', 'tgt'])

    def share(plan):
        room = sum((of[plan].max(1) * plan.shape[1]).sum() for of in lengths.values())
        return sum(of[plan].sum() for of in lengths.values()) / room
    assert share(split.plan(0, 32, 1)) > 0.88 > 0.7 > share(np.arange(4000).reshape(-1, 32))


def test_the_longest_field_sorts_first_the_other_up_and_down_in_turn(tmp_path):
    rng = np.random.default_rng(0)
    src, tgt = ([np.full(n, 2) for n in rng.integers(1, most, 64)] for most in (9, 99))
    data.save(str(tmp_path / 'x'), {'train': {'src': src, 'tgt': tgt}},
              kinds={'src': 'ragged', 'tgt': 'ragged'}, info={'vocab_size': 9})
    split = data.Split(str(tmp_path / 'x'), 'train', ['src', 'tgt'])
    order = split.by_length(np.arange(64))
    keys = [(len(tgt[i]), len(src[i])) for i in order]
    assert keys == sorted(keys, key=lambda n: (n[0], n[1] if n[0] % 2 else -n[1]))
    batch = split.batch(order[:8])
    assert all((batch[f] > 0).sum(1).tolist() == [len(rows[i]) for i in order[:8]] for f, rows in
               (('src', src), ('tgt', tgt)))


@pytest.mark.parametrize('split, info, kept', [
    ('train', {'too_long': 'drop'}, 10), ('train', {'too_long': 'cut'}, 20), ('train', {}, 20),
    ('val', {'too_long': 'drop'}, 20)])
def test_rows_that_are_too_long_are_dropped_in_train_if_asked_else_cut(tmp_path, split, info, kept):
    rows, found = texts(tmp_path / 'x', range(1, 21), split, info, block_size=10)
    if split == 'train':
        assert len(found) == kept and seen(found, 1, 1)[1] == set(range(kept))
    else:
        assert sorted(np.concatenate(found.evaluation(3))) == [*range(kept)]
    batch = found.batch(np.arange(20))
    assert batch['text'].shape == (20, 10)
    for row, text in zip(rows, batch['text'].tolist()):
        assert text == [*row[:10], *[0] * (10 - len(row[:10]))]


def test_a_split_of_rows_that_are_all_too_long_is_refused(tmp_path):
    with pytest.raises(Refused, match='block_size') as refused:
        texts(tmp_path / 'x', [20, 30], info={'too_long': 'drop'}, block_size=10)
    assert refused.value.code == 3


@pytest.mark.parametrize('change', [lambda o: o + 1, lambda o: [*o[:-1], o[-1] - 1],
                                    lambda o: [o[0], *o[1:-1][::-1], o[-1]], lambda o: [0, -1, *o[2:]]])
def test_damaged_offsets_are_refused(tmp_path, change):
    texts(tmp_path / 'x', [3, 4, 5, 6])
    file = tmp_path / 'x/train.text.offsets.bin'
    np.asarray(change(np.fromfile(file, '<i8')), '<i8').tofile(file)
    with pytest.raises(Refused, match='train.text.offsets.bin: expected .*found') as refused:
        data.Split(str(tmp_path / 'x'), 'train', ['text', 'label'])
    assert refused.value.code == 3


@pytest.mark.parametrize('other', [3, 5])
def test_fields_of_different_numbers_of_rows_are_refused(tmp_path, other):
    with pytest.raises((Refused, ValueError)):      # a row of the one would be paired with another's
        fields = {'text': [[2], [2, 3], [4], [5, 6]], 'label': np.zeros(other, np.uint8)}
        data.save(str(tmp_path / 'x'), {'train': fields}, kinds={'text': 'ragged'}, info={'vocab_size': 9})
        data.Split(str(tmp_path / 'x'), 'train', ['text', 'label'])


def test_a_field_the_model_reads_and_the_data_lack_is_refused_with_both_lists(toy):
    with pytest.raises(Refused, match='the model reads image, label; .* has tokens'):
        data.Split(toy, 'train', ['image', 'label'])


@pytest.mark.parametrize('fields, kinds', [({'tokens': np.zeros(0, int)}, {'tokens': 'stream'}),
                                           ({'tokens': np.ones(1, int)}, {'tokens': 'stream'}),
                                           ({'text': [np.zeros(0, int)]}, {'text': 'ragged'}),
                                           ({'label': np.zeros(0, int)}, {})])
def test_a_split_of_nothing_is_refused(tmp_path, fields, kinds):
    data.save(str(tmp_path / 'x'), {'val': fields}, kinds=kinds, info={'vocab_size': 9, 'n_class': 9})
    with pytest.raises(Refused, match='val') as refused:
        data.Split(str(tmp_path / 'x'), 'val', list(fields), 4)
    assert refused.value.code == 3


# --- types

@pytest.mark.parametrize('values, dtype', [
    ([0, 65535], 'uint16'), ([0, 65536], 'uint32'), ([70_000, 1], 'uint32'), ([2**32 - 1, 0], 'uint32'),
    (np.array([1, 255], np.uint8), 'uint8'), ([32768, 40000], 'uint16'),
    (np.array([2**31], '>i8'), 'uint32')])
def test_integers_take_the_smallest_type_and_come_back_as_they_were(tmp_path, values, dtype):
    for field, kind in ('label', 'fixed'), ('tokens', 'stream'), ('text', 'ragged'):
        rows = [values, values] if kind == 'ragged' else np.concatenate([values, values])
        data.save(str(tmp_path / 'x'), {'val': {field: rows}}, kinds={field: kind})
        meta = data.check(str(tmp_path / 'x'))
        assert meta['splits']['val'][field]['dtype'] == dtype
        raw = np.fromfile(tmp_path / f'x/val.{field}.bin', np.dtype(dtype).newbyteorder('<'))
        assert raw.tolist() == [*values, *values]
        split = data.Split(str(tmp_path / 'x'), 'val', [field],
                           2 * len(values) - 1 if kind == 'stream' else 0)
        batch = split.batch(split.evaluation(9)[0])[field]
        assert batch.dtype == torch.int64 and batch.flatten().tolist() == [*values, *values]


@pytest.mark.parametrize('place', ['file', 'file/x'])
def test_a_place_that_cannot_hold_a_data_set_is_refused(tmp_path, place):
    (tmp_path / 'file').write_text('no folder')
    with pytest.raises(Refused, match=f'{place} cannot be written') as refused:
        data.save(f'{tmp_path}/{place}', {'train': {'label': [1, 2]}})
    assert refused.value.code == 4 and (tmp_path / 'file').read_text() == 'no folder'


def test_a_row_of_nothing_makes_no_floats_of_the_others(tmp_path):
    data.save(str(tmp_path / 'x'), {'val': {'text': [[2**24 + 1, 2], [], [3]]}}, kinds={'text': 'ragged'})
    assert data.check(str(tmp_path / 'x'))['splits']['val']['text']['dtype'] == 'uint32'
    batch = data.Split(str(tmp_path / 'x'), 'val', ['text']).batch(np.arange(3))
    assert batch['text'].tolist() == [[2**24 + 1, 2], [0, 0], [3, 0]]


@pytest.mark.parametrize('values', [[-1, 5], [2**32], [2**40, 3]])
def test_integers_that_would_wrap_are_refused_and_leave_no_data_set(tmp_path, values):
    data.save(str(tmp_path / 'x'), {'train': {'label': [1, 2]}})
    with pytest.raises(ValueError, match='do not fit'):
        data.save(str(tmp_path / 'x'), {'train': {'label': values}})
    with pytest.raises(Refused):
        data.check(str(tmp_path / 'x'))


@pytest.mark.parametrize('array', [np.array([[0, 255], [3, 4]], np.uint8), np.array([[0, 65535], [40000, 1]]),
                                   np.array([[0, 2**32 - 1], [70_000, 1]]),
                                   np.array([[0.5, -1.25]], np.float32), np.array([[True, False]])])
def test_a_fixed_field_of_any_shape_comes_back_as_it_was(tmp_path, array):
    data.save(str(tmp_path / 'x'), {'val': {'mask': array}})
    split = data.Split(str(tmp_path / 'x'), 'val', ['mask'])
    found = split.batch(np.arange(len(array)))['mask']
    assert found.tolist() == array.tolist()
    assert (found.dtype == torch.uint8) == (array.dtype == np.uint8)        # the model scales images


# --- memory maps

def kinds(tmp_path):
    """A maker of Splits of each kind, and what a Split is asked for."""
    rng = np.random.default_rng(0)
    big, images = rng.integers(0, 70_000, 900), rng.integers(0, 256, (60, 2, 3), np.uint8)
    rows = [rng.integers(2, 70_000, n) for n in rng.integers(1, 20, 60)]
    data.save(str(tmp_path / 'x'),
              {'train': {'tokens': big, 'text': rows, 'image': images, 'label': np.arange(60)}},
              kinds={'tokens': 'stream', 'text': 'ragged'}, info={'vocab_size': 70_000})
    return {'stream': ['tokens'], 'ragged': ['text', 'label'], 'fixed': ['image', 'label']}


@pytest.mark.parametrize('kind', ['stream', 'ragged', 'fixed'])
def test_a_memory_map_gives_the_same_batches_read_ahead_or_not(tmp_path, monkeypatch, kind):
    fields = kinds(tmp_path)[kind]
    resident = data.Split(str(tmp_path / 'x'), 'train', fields, 12)
    monkeypatch.setattr(data, 'RESIDENT', 0)
    mapped = data.Split(str(tmp_path / 'x'), 'train', fields, 12)
    assert resident.resident and not mapped.resident
    steps = [resident.rows(step, 6, 1) for step in range(25)]
    aheads = {'the next': steps[1:] + [None], 'never': [None] * 25, 'another': steps[::-1]}
    for name, ahead in aheads.items():
        for rows, following in zip(steps, ahead):
            expected, found = resident.batch(rows, following), mapped.batch(rows, following)
            assert expected.keys() == found.keys() == set(fields)
            for field in fields:
                assert torch.equal(expected[field], found[field]), name
                assert expected[field].dtype == found[field].dtype
    for rows in resident.evaluation(7):
        assert all(map(torch.equal, resident.batch(rows).values(), mapped.batch(rows).values()))


def test_what_is_done_to_a_batch_is_not_done_to_the_data(tmp_path, monkeypatch):
    fields = kinds(tmp_path)['fixed']
    for limit in 2e9, 0:
        monkeypatch.setattr(data, 'RESIDENT', limit)
        split = data.Split(str(tmp_path / 'x'), 'train', fields)
        before = split.batch(np.arange(60))['image'].clone()
        split.batch(np.arange(60))['image'].zero_()
        assert torch.equal(split.batch(np.arange(60))['image'], before)
    data.check(str(tmp_path / 'x'), hashes=True)


def test_a_run_on_a_memory_map_is_the_same_run(launch, toy, tmp_path):
    for name, env in ('resident', {}), ('mapped', {'PATCH': 'test_data.nothing_is_resident'}):
        code, text = launch('train.py', *TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/{name}', env=env)
        assert code == 0, text
    assert losses(tmp_path / 'resident') == losses(tmp_path / 'mapped') != {}


def nothing_is_resident():
    """Patched into a child."""
    data.RESIDENT = 0


# --- damage

def cut(size):
    return lambda file: os.truncate(file, size if size >= 0 else file.stat().st_size + size)


def directory(file):
    file.unlink(), file.mkdir()


def beyond(file):
    """One token that the vocabulary of 11 lacks."""
    tokens = np.fromfile(file, '<u2')
    tokens[1234] = 11
    tokens.tofile(file)


FILES = {'odd length': (cut(-1), 'expected 5000 bytes, found 4999'),
         'whole tokens missing': (cut(-200), '5000.*4800'), 'empty': (cut(0), 'expected 5000 bytes, found 0'),
         'missing': (Path.unlink, 'expected 5000 bytes, found'),
         'a directory': (directory, 'expected 5000 bytes, found'), 'longer': (cut(5002), '5000.*5002'),
         'beyond the vocabulary': (beyond, 'expected values below .*11, found 11')}


def meta_with(tokens={}, **changes):
    """Rewrites keys of meta.json, None removes one; `tokens` are keys of what it says of train's tokens."""
    def damage(file):
        meta = json.loads(file.read_text(encoding='utf-8'))
        for place, edits in (meta['splits']['train']['tokens'], tokens), (meta, changes):
            for key, value in edits.items():
                place[key] = value
                if value is None:
                    del place[key]
        file.write_text(json.dumps(meta), encoding='utf-8')
    return damage


METAS = {'cut': cut(100), 'empty': cut(0), 'a directory': directory,
         'not JSON': lambda f: f.write_text('hello'), 'another JSON': lambda f: f.write_text('[1]'),
         'null': lambda f: f.write_text('null'), 'not UTF-8': lambda f: f.write_bytes(b'{"format": "\xff"}'),
         'nested too deep': lambda f: f.write_text('[' * 10**5),
         'other format': meta_with(format=2), 'no format': meta_with(format=None),
         'no splits': meta_with(splits=None), 'splits as text': meta_with(splits='train'),
         'no train': meta_with(splits={}), 'no info': meta_with(info=None),
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


def refuses(toy):
    """The message with which reading the toy data set is refused, by check or by a Split."""
    with pytest.raises(Refused) as refused:
        data.check(toy)
        data.Split(toy, 'train', ['tokens'], 16)
    assert refused.value.code == 3
    return str(refused.value)


@pytest.mark.parametrize('name', FILES)
def test_a_damaged_file_is_refused_by_name_with_expected_and_found(toy, name):
    damage, words = FILES[name]
    damage(Path(toy, 'train.tokens.bin'))
    assert re.search(f'train.tokens.bin: .*{words}', refuses(toy))


@pytest.mark.parametrize('field, limit', [('label', 'n_class'), ('src', 'vocab_size'), ('tgt', 'vocab_size')])
def test_values_beyond_what_info_says_are_refused(tmp_path, field, limit):
    kinds = {'src': 'stream', 'tgt': 'stream'}
    for highest in 6, 7:
        data.save(str(tmp_path / 'x'), {'val': {field: [3, highest, 0]}}, kinds, info={limit: 7})
        if highest == 6:
            data.Split(str(tmp_path / 'x'), 'val', [field])
    with pytest.raises(Refused, match=f'val.{field}.bin: expected .*7, found 7') as refused:
        data.Split(str(tmp_path / 'x'), 'val', [field])
    assert refused.value.code == 3


@pytest.mark.parametrize('name', METAS)
def test_a_damaged_meta_is_refused_by_name(toy, name):
    METAS[name](Path(toy, 'meta.json'))
    assert toy in refuses(toy)


def train_renamed(file):
    file.write_text(file.read_text(encoding='utf-8').replace('"train"', '"trian"'), encoding='utf-8')
    for path in file.parent.glob('train.*'):
        path.rename(path.with_name('trian.tokens.bin'))


@pytest.mark.parametrize('file, damage', [
    ('train.tokens.bin', cut(-1)), ('train.tokens.bin', beyond), ('val.tokens.bin', cut(0)),
    ('val.tokens.bin', directory), ('meta.json', cut(100)), ('meta.json', METAS['no info']),
    ('meta.json', meta_with(tokenizer=None)), ('meta.json', train_renamed)])
def test_train_refuses_damaged_data_before_it_writes(launch, toy, tmp_path, file, damage):
    damage(Path(toy, file))
    code, text = launch('train.py', *TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/run')
    assert code == 3 and toy in text and 'Traceback' not in text, text
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('file', ['train.text.bin', 'train.text.offsets.bin', 'train.label.bin'])
def test_hashes_find_a_changed_byte_that_sizes_do_not(tmp_path, file):
    texts(tmp_path / 'x', [3, 4, 5])
    data.check(str(tmp_path / 'x'), hashes=True)
    raw = bytearray((tmp_path / 'x' / file).read_bytes())
    raw[2] ^= 1
    (tmp_path / 'x' / file).write_bytes(raw)
    data.check(str(tmp_path / 'x'))
    with pytest.raises(Refused, match=f'{file}: .*sha256') as refused:
        data.check(str(tmp_path / 'x'), hashes=True)
    assert refused.value.code == 3


# --- preparation

PREPARE = '''
import os, sys, time
from pathlib import Path
import numpy as np
import configurator, data

size = 64       # of something
flip = False    # something else

if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).knobs)
    with open(Path(__file__).with_name('prepared'), 'a') as file:
        file.write('once ')
    time.sleep(float(os.environ.get('SLOWLY', 0)))
    ids = np.arange(2000) % 11
    data.save(str(Path(__file__).parent), {'train': {'tokens': ids}, 'val': {'tokens': ids[:99]}},
              kinds={'tokens': 'stream'}, info={'vocab_size': 11}, options={'size': size, 'flip': flip},
              tokenizer={'kind': 'characters', 'characters': '\\nabcdefghij'})
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The path of a data set that is not prepared yet."""
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)      # which prepare.py sets
    (tmp_path / 'own').mkdir()
    (tmp_path / 'own/prepare.py').write_text(PREPARE)
    return str(tmp_path / 'own')


def test_what_is_not_there_is_prepared_and_other_options_are_refused_with_both(own):
    assert data.ensure(own, '--size=32')['options']['size'] == 32
    assert data.ensure(own, '--size=32') == data.ensure(own)
    with pytest.raises(Refused, match='(?s)prepared with.*32.*asked for.*128') as refused:
        data.ensure(own, '--size=128 --flip=False')
    assert refused.value.code == 3 and 'prepare.py --size=128' in str(refused.value)
    assert Path(own, 'prepared').read_text() == 'once '


@pytest.mark.parametrize('options', ['--flip', '--size=32 --flip=True', '--size=3.2e1'])
def test_options_mean_what_they_mean_to_the_script(own, options):
    meta = data.ensure(own, options)
    assert data.ensure(own, options) == meta


@pytest.mark.parametrize('options', ['--size', '--sise=3', "--size='3", 'size=3', '--size=x'])
def test_options_that_are_none_are_refused_in_words(launch, own, tmp_path, options):
    argv = [*TINY, f'--dataset={own}', f'--prepare={options}', f'--out_dir={tmp_path}/run']
    for state in 'not prepared', 'prepared':
        code, text = launch('train.py', *argv)
        assert code in (2, 3) and 'Traceback' not in text, text
        data.ensure(own)


def test_two_runs_that_need_the_same_data_prepare_it_once(start, own, tmp_path):
    runs = [start('train.py', *TINY, f'--dataset={own}', f'--out_dir={tmp_path}/{i}', '--max_iters=2',
                  env={'SLOWLY': '0.5'}) for i in range(2)]
    assert [process.wait() for process in runs] == [0, 0], runs[0].text + runs[1].text
    assert Path(own, 'prepared').read_text() == 'once '


def test_without_the_data_and_a_network_it_says_so(launch, tmp_path):
    (tmp_path / 'far').mkdir(), (tmp_path / 'mirror').mkdir()
    (tmp_path / 'far/prepare.py').write_text(
        "import sys\nfrom data.download import fetch\n"
        f"fetch('far', 'a.txt', ['http://127.0.0.1:9/a.txt'], '{'ab' * 32}', folder='{tmp_path}/raw')\n")
    code, text = launch('train.py', *TINY, f'--dataset={tmp_path}/far', f'--out_dir={tmp_path}/run',
                        env={'DATA_MIRROR': str(tmp_path / 'mirror')})
    assert code == 3 and 'Traceback' not in text, text
    for word in 'DATA_MIRROR', 'a.txt', 'ab' * 32, str(tmp_path / 'raw'), 'python train.py':
        assert word in text, word
    assert not (tmp_path / 'run').exists()


def test_a_data_set_that_is_nowhere_is_refused_with_those_that_are(launch, tmp_path):
    code, text = launch('train.py', '--dataset=nowhere', f'--out_dir={tmp_path}/run')
    assert code == 3 and 'nowhere' in text and 'shakespeare' in text and 'stdlib' in text, text
    assert not (tmp_path / 'run').exists() and not (ROOT / 'data/nowhere').exists()


# --- anyone's own text

def elsewhere():
    """Patched into a child: the repository's data are in another folder."""
    data.ROOT = Path(os.environ['ELSEWHERE'])


def prepare(launch, tmp_path, raw):
    (tmp_path / 'own text.txt').write_bytes(raw)
    return launch('data/shakespeare/prepare.py', f'--input={tmp_path}/own text.txt', f'--out={tmp_path}/mine')


LINE = 'Ünïcödé, “quoted”: one line of a text.'


@pytest.mark.parametrize('raw, text', [(f'{LINE}\n', f'{LINE}\n'), (f'\ufeff{LINE}', LINE),
                                       (f'{LINE}\r\n{LINE}\r{LINE}\n\r{LINE}',
                                        f'{LINE}\n{LINE}\n{LINE}\n\n{LINE}'),
                                       (f'{LINE}\u2028\x0b\ufeff{LINE}', f'{LINE}\u2028\x0b\ufeff{LINE}')])
def test_own_text_has_one_meaning(launch, tmp_path, raw, text):
    code, output = prepare(launch, tmp_path, raw.encode('utf-8'))
    assert code == 0, output
    meta = data.check(str(tmp_path / 'mine'), hashes=True)
    ids = [np.fromfile(tmp_path / f'mine/{split}.tokens.bin', '<u2') for split in ('train', 'val')]
    characters = meta['tokenizer']['characters']
    assert ''.join(characters[i] for part in ids for i in part) == text
    assert len(ids[0]) == int(0.9 * len(text))
    assert characters == ''.join(sorted(set(text))) and meta['info']['vocab_size'] == len(characters)


@pytest.mark.parametrize('raw, words', [(b'', 'found 0 characters'), (b'\xef\xbb\xbf', 'found 0 characters'),
                                        (b'tiny', '4 characters'),
                                        (b'abc' * 99 + b'\xe9' + b'abc' * 99, '0xe9 at 297'),
                                        (LINE.encode('utf-16'), '0xff at 0')])
def test_what_is_no_text_is_refused(launch, tmp_path, raw, words):
    code, output = prepare(launch, tmp_path, raw)
    assert code == 3 and words in output and 'own text.txt' in output and output.count('\n') == 1, output
    assert not (tmp_path / 'mine').exists()


@pytest.mark.parametrize('input', ['missing.txt', ''])
def test_input_that_is_no_file_is_refused(launch, tmp_path, input):
    code, output = launch('data/shakespeare/prepare.py', f'--input={tmp_path}/{input}',
                          f'--out={tmp_path}/mine')
    assert code == 3 and str(tmp_path) in output and 'Traceback' not in output, output


@pytest.mark.parametrize('more', [[], ['--out=']])
def test_own_text_needs_a_name(launch, tmp_path, more):
    (tmp_path / 'own.txt').write_text(LINE * 9, encoding='utf-8')
    code, output = launch('data/shakespeare/prepare.py', f'--input={tmp_path}/own.txt', *more,
                          env={'PATCH': 'test_data.elsewhere', 'ELSEWHERE': str(tmp_path / 'repository')})
    assert code == 2 and '--out=NAME' in output, output
    assert not (tmp_path / 'repository').exists()


def test_a_named_text_lands_in_data_and_is_trained_on_by_that_name(launch, tmp_path):
    (tmp_path / 'own.txt').write_text(f'{LINE}\n' * 99, encoding='utf-8')
    there = {'PATCH': 'test_data.elsewhere', 'ELSEWHERE': str(tmp_path)}
    code, output = launch('data/shakespeare/prepare.py', f'--input={tmp_path}/own.txt', '--out=diary',
                          env=there)
    assert code == 0 and (tmp_path / 'data/diary/meta.json').exists(), output
    code, output = launch('train.py', *TINY, '--dataset=diary', f'--out_dir={tmp_path}/run', env=there)
    assert code == 0, output


def test_text_shorter_than_a_window_is_refused_with_advice_that_helps(launch, tmp_path):
    code, output = prepare(launch, tmp_path, f'{LINE}\n'.encode() * 5)
    assert code == 0, output
    argv = ['--n_layer=1', '--n_head=1', '--n_embd=8', '--max_iters=2', '--device=cpu',
            f'--dataset={tmp_path}/mine', f'--out_dir={tmp_path}/run', '--block_size=256']
    code, output = launch('train.py', *argv)
    assert code == 3 and output.count('\n') == 1 and '256' in output, output
    assert not (tmp_path / 'run').exists()
    for _ in range(3):      # do as one is told, until it is content
        advice = [word.rstrip('.,;') for word in output.split() if word.startswith('--') and '=' in word]
        argv += advice
        code, output = launch('train.py', *argv)
        if code == 0:
            break
    assert code == 0, output


def test_the_standard_library_is_a_stream_of_its_bytes(launch, tmp_path):
    code, output = launch('data/stdlib/prepare.py', f'--out={tmp_path}/lib')
    assert code == 0, output
    meta = data.check(str(tmp_path / 'lib'), hashes=True)
    assert meta['info']['vocab_size'] == 256 and meta['tokenizer'] == {'kind': 'bytes'}
    train = (tmp_path / 'lib/train.tokens.bin').read_bytes()
    assert inspect.getsource(textwrap).encode() in train + (tmp_path / 'lib/val.tokens.bin').read_bytes()
    assert b'\r' not in train and len(train) > 10**6


# --- the real thing, where DATA_MIRROR has it

@pytest.mark.skipif('DATA_MIRROR' not in os.environ, reason='DATA_MIRROR is not set: no real data to test on')
def test_tiny_shakespeare_is_cut_as_nanogpts(launch, tmp_path):
    code, output = launch('data/shakespeare/prepare.py', f'--out={tmp_path}/shakespeare')
    assert code == 0, output
    meta = data.check(tmp_path / 'shakespeare', hashes=True)
    assert meta['info']['vocab_size'] == 65
    assert [meta['splits'][name]['tokens']['shape'] for name in ('train', 'val')] == [[1003854], [111540]]
