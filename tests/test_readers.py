"""data/readers.py: the rows of an epoch and the values of a batch, against naive references."""
import numpy as np
import pytest
import torch

import data
from core.errors import UserError
from data import readers


def stream(path, n, block_size, split='train'):
    """Return the reader of a stream of the tokens 0, 1, 2, ...: a token is its position."""
    data.save(str(path), {split: {'tokens': np.arange(n)}}, kinds={'tokens': 'stream'},
              info={'vocab_size': n})
    return data.load_split(str(path), split, ['tokens'], block_size)


def texts(path, lengths, split='train', info={}, **options):
    """Return ragged rows of these lengths, and their reader. Row i has the label i."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(2, 50, n) for n in lengths]
    data.save(str(path), {split: {'text': rows, 'label': np.arange(len(rows))}}, kinds={'text': 'ragged'},
              info={'vocab_size': 50, **info})
    return rows, data.load_split(str(path), split, ['text', 'label'], **options)


def occurrences(split, epochs, batch_size):
    """Return how often a row occurs in an epoch, at most, and the set of all rows of these epochs."""
    plans = [split.epoch_batches(epoch, batch_size, seed=1).flatten().tolist() for epoch in range(epochs)]
    return max(plan.count(row) for plan in plans for row in plan), {row for plan in plans for row in plan}


# --- streams

SIZES = [(2, 1), (3, 1), (9, 1), (5, 4), (6, 4), (8, 4), (9, 4), (11, 4), (12, 4), (13, 4), (17, 16),
         (48, 16), (49, 16), (100, 7), (257, 16), (1000, 33)]


@pytest.mark.parametrize('N, T', SIZES)
def test_an_epoch_of_a_stream_is_windows_side_by_side_from_a_random_offset_on(tmp_path, N, T):
    split = stream(tmp_path / 'x', N, T)
    n = max(1, (N - T) // T)
    possible = min(T, N - n * T)
    offsets = set()
    assert len(split) == n
    for epoch in range(40):
        plan = split.epoch_batches(epoch, 1, seed=3)
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


def test_the_windows_of_the_docstring(tmp_path):
    split = stream(tmp_path / 'x', 13, 4)
    plans = [split.epoch_batches(epoch, 1, seed=0) for epoch in range(20)]
    plan = next(plan for plan in plans if plan.min() == 3)
    assert sorted(split.batch(plan.flatten())['tokens'].tolist()) == [[3, 4, 5, 6, 7], [7, 8, 9, 10, 11]]


def test_the_order_of_windows_differs_from_epoch_to_epoch(tmp_path):
    split = stream(tmp_path / 'x', 1000, 10)
    orders = {tuple(np.argsort(split.epoch_batches(epoch, 1, seed=1).flatten())) for epoch in range(10)}
    assert len(orders) == 10 and tuple(range(len(split))) not in orders


@pytest.mark.parametrize('N, T', [*SIZES, (2, 8), (5, 8), (8, 8)])
def test_the_evaluation_of_a_stream_has_every_target_once(tmp_path, N, T):
    split = stream(tmp_path / 'x', N, T, split='val')
    for size in 1, 3, 64:
        windows = [split.batch(rows)['tokens'] for rows in split.evaluation_batches(size)]
        assert [target for w in windows for target in w[:, 1:].flatten().tolist()] == list(range(1, N))
        assert all(len(w) <= size and torch.equal(w[:, :-1] + 1, w[:, 1:]) for w in windows)
        rest = (N - 1) % T              # targets of the shorter last window, a batch of its own
        assert all(w.size(1) == T + 1 for w in windows[:-1])
        assert windows[-1].shape == (1, rest + 1) if rest else windows[-1].size(1) == T + 1
        assert all(map(np.array_equal, split.evaluation_batches(size), split.evaluation_batches(size)))


def test_steps_go_through_one_epoch_after_another(tmp_path):
    split = stream(tmp_path / 'x', 500, 7)
    per_epoch = len(split) // 8
    for epoch in range(3):
        plan = [split.rows(epoch * per_epoch + i, 8, seed=5) for i in range(per_epoch)]
        assert np.array_equal(plan, split.epoch_batches(epoch, 8, seed=5))


@pytest.mark.parametrize('kind', ['stream', 'ragged'])
def test_rows_are_a_function_of_seed_and_step_alone(tmp_path, kind):
    paths = tmp_path / 'one', tmp_path / 'other'
    one, other = (stream(p, 500, 7) if kind == 'stream' else texts(p, range(1, 60))[1] for p in paths)
    forward = [one.rows(step, 8, 5) for step in range(25)]
    np.random.seed(1), torch.manual_seed(1)
    backward = [other.rows(step, 8, 5) for step in reversed(range(25))][::-1]
    assert np.array_equal(forward, backward)
    assert not np.array_equal(forward, [one.rows(step, 8, 6) for step in range(25)])


def test_fewer_tokens_than_a_window_are_an_error_in_train_only(tmp_path):
    with pytest.raises(UserError, match='8 tokens.* block_size 8 needs.* 9') as error:
        stream(tmp_path / 'x', 8, 8)
    assert error.value.code == 3
    assert len(stream(tmp_path / 'x', 9, 8)) == 1
    assert len(stream(tmp_path / 'x', 8, 8, split='val').evaluation_batches(1)) == 1


# --- fixed and ragged fields

def test_the_fields_of_a_row_come_together_and_other_rows_are_left_out_each_time(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 3, 4, 4), np.uint8)
    labels = np.arange(10, dtype=np.uint8)
    data.save(str(tmp_path / 'x'), {'train': {'image': images, 'label': labels}}, info={'n_class': 10})
    split = data.load_split(str(tmp_path / 'x'), 'train', ['image', 'label'])
    assert occurrences(split, 20, 4) == (1, set(range(10))) and split.epoch_batches(0, 4, 1).shape == (2, 4)
    rows = split.epoch_batches(0, 4, 1)[1]
    batch = split.batch(rows)
    assert batch['image'].dtype == torch.uint8 and np.array_equal(batch['image'], images[rows])
    assert batch['label'].dtype == torch.int64 and batch['label'].tolist() == rows.tolist()
    assert np.concatenate(split.evaluation_batches(4)).tolist() == list(range(10))


@pytest.mark.parametrize('pad_to', [1, 8])
def test_a_ragged_batch_is_padded_to_its_own_longest_row(tmp_path, pad_to):
    rows, split = texts(tmp_path / 'x', np.random.default_rng(1).integers(1, 30, 50), pad_to=pad_to)
    for epoch in 0, 1:
        batches = [*split.epoch_batches(epoch, 5, 1), *split.evaluation_batches(5)]
        for numbers in [*batches, np.array([49]), np.array([49, 0])]:
            width = -(-max(len(rows[i]) for i in numbers) // pad_to) * pad_to
            expected = [[*rows[i], *[0] * (width - len(rows[i]))] for i in numbers]
            batch = split.batch(numbers)
            assert batch['text'].tolist() == expected and batch['text'].dtype == torch.int64
            assert batch['label'].tolist() == numbers.tolist()


def test_a_single_ragged_row_is_its_ids(tmp_path):
    rows, split = texts(tmp_path / 'x', [3, 0, 7], pad_to=8, block_size=5)
    assert [split.row('text', i) for i in range(3)] == [list(row[:5]) for row in rows]


def test_a_batch_larger_than_the_split_is_an_error_with_the_largest_possible_one(tmp_path):
    split = texts(tmp_path / 'x', range(1, 24))[1]
    assert split.steps_per_epoch(23) == 1 and split.steps_per_epoch(4) == 5
    with pytest.raises(UserError, match='has 23 rows, batch_size is 24: --batch_size=23$'):
        split.steps_per_epoch(24)


def test_every_ragged_row_is_evaluated_once(tmp_path):
    split = texts(tmp_path / 'x', np.random.default_rng(1).integers(0, 30, 50))[1]
    batches = split.evaluation_batches(8)
    assert sorted(np.concatenate(batches)) == list(range(50)) and all(len(rows) <= 8 for rows in batches)


def test_a_ragged_epoch_has_a_row_at_most_once_and_leaves_out_others_each_time(tmp_path):
    split = texts(tmp_path / 'x', range(1, 24))[1]
    assert split.epoch_batches(0, 4, 1).shape == (5, 4)
    assert occurrences(split, 40, 4) == (1, set(range(23)))     # the longest row as often as the others


def test_rows_of_similar_length_go_together_within_buckets(tmp_path, monkeypatch):
    rows, split = texts(tmp_path / 'x', np.random.default_rng(1).permutation(np.arange(1, 241)))
    lengths = np.array([len(row) for row in rows])

    def spans(epoch):
        return [(lengths[batch].min(), lengths[batch].max()) for batch in split.epoch_batches(epoch, 8, 1)]
    found = spans(0)                    # all rows are one bucket
    assert all(a[1] < b[0] for a, b in zip(sorted(found), sorted(found)[1:])) and found != sorted(found)
    monkeypatch.setattr(readers, 'BUCKET_BATCHES', 5)
    for epoch in 0, 1:
        found = sorted(spans(epoch))
        assert np.mean([high - low for low, high in found]) < 240 / 5
        assert any(a[1] > b[0] for a, b in zip(found, found[1:]))
    monkeypatch.setattr(readers, 'BUCKET_BATCHES', 1)
    assert np.mean([high - low for low, high in spans(0)]) > 240 / 2


def fraction_of_tokens(lengths, batches):
    """Return which fraction of these batches is not padding; `lengths` is [(rows,) of a field, ...]."""
    room = sum((n[batches].max(1) * batches.shape[1]).sum() for n in lengths)
    return sum(n[batches].sum() for n in lengths) / room


def test_little_of_a_ragged_epoch_is_padding(tmp_path):
    rows, split = texts(tmp_path / 'x', np.random.default_rng(1).integers(1, 60, 2000))
    lengths = [np.array([len(row) for row in rows])]
    in_order = np.arange(2000).reshape(-1, 16)
    assert fraction_of_tokens(lengths, split.epoch_batches(0, 16, 1)) > 0.95
    assert fraction_of_tokens(lengths, in_order) < 0.7


def test_little_of_pairs_of_similar_lengths_is_padding(tmp_path):
    rng = np.random.default_rng(0)
    src = rng.integers(5, 40, 4000)
    tgt = (src * rng.uniform(0.8, 1.4, 4000)).astype(int)
    rows = {'src': [np.full(n, 2) for n in src], 'tgt': [np.full(n, 2) for n in tgt]}
    data.save(str(tmp_path / 'x'), {'train': rows}, {'src': 'ragged', 'tgt': 'ragged'}, {'vocab_size': 9})
    split = data.load_split(str(tmp_path / 'x'), 'train', ['src', 'tgt'])
    assert fraction_of_tokens([src, tgt], split.epoch_batches(0, 32, 1)) > 0.88
    assert fraction_of_tokens([src, tgt], np.arange(4000).reshape(-1, 32)) < 0.7


def test_rows_are_sorted_by_the_longest_field_then_by_the_other_ascending_or_descending(tmp_path):
    rng = np.random.default_rng(0)
    src, tgt = ([np.full(n, 2) for n in rng.integers(1, most, 64)] for most in (9, 99))
    data.save(str(tmp_path / 'x'), {'train': {'src': src, 'tgt': tgt}},
              kinds={'src': 'ragged', 'tgt': 'ragged'}, info={'vocab_size': 9})
    split = data.load_split(str(tmp_path / 'x'), 'train', ['src', 'tgt'])
    order = split.sort_by_length(np.arange(64))
    keys = [(len(tgt[i]), len(src[i])) for i in order]
    assert keys == sorted(keys, key=lambda n: (n[0], n[1] if n[0] % 2 else -n[1]))
    batch = split.batch(order[:8])
    for field, rows in ('src', src), ('tgt', tgt):
        assert (batch[field] > 0).sum(1).tolist() == [len(rows[i]) for i in order[:8]]


def test_the_order_that_the_comment_gives(tmp_path):
    lengths = [(3, 1), (3, 6), (4, 1), (4, 6)]
    rows = {'tgt': [[2] * n for n, _ in lengths], 'src': [[2] * n for _, n in lengths]}
    data.save(str(tmp_path / 'x'), {'train': rows}, {'src': 'ragged', 'tgt': 'ragged'}, {'vocab_size': 9})
    split = data.load_split(str(tmp_path / 'x'), 'train', ['src', 'tgt'])
    order = split.sort_by_length(np.array([2, 0, 3, 1]))
    # both fields have 14 tokens in all, and then the last one counts as the longest
    assert split.lengths['src'].sum() == split.lengths['tgt'].sum()
    assert [lengths[i] for i in order] == [(3, 1), (3, 6), (4, 6), (4, 1)]


@pytest.mark.parametrize('split, info, kept', [
    ('train', {'too_long': 'drop'}, 10), ('train', {'too_long': 'cut'}, 20), ('train', {}, 20),
    ('val', {'too_long': 'drop'}, 20)])
def test_rows_that_are_too_long_are_dropped_in_train_if_info_says_so_else_cut(tmp_path, split, info, kept):
    rows, found = texts(tmp_path / 'x', range(1, 21), split, info, block_size=10)
    assert found.too_long == 10 and found.size == 20
    if split == 'train':
        assert len(found) == kept and occurrences(found, 1, 1)[1] == set(range(kept))
    assert sorted(np.concatenate(found.evaluation_batches(3))) == [*range(20)]      # none is dropped here
    batch = found.batch(np.arange(20))
    assert batch['text'].shape == (20, 10)
    for row, text in zip(rows, batch['text'].tolist()):
        assert text == [*row[:10], *[0] * (10 - len(row[:10]))]


def test_a_split_of_rows_that_are_all_too_long_is_an_error(tmp_path):
    with pytest.raises(UserError, match='block_size') as error:
        texts(tmp_path / 'x', [20, 30], info={'too_long': 'drop'}, block_size=10)
    assert error.value.code == 3


@pytest.mark.parametrize('kind', ['stream', 'ragged', 'fixed'])
def test_all_readers_have_one_face(tmp_path, kind):
    if kind == 'stream':
        fields = ['tokens']
        split = stream(tmp_path / 'x', 100, 9)
    else:
        fields = ['text', 'label'] if kind == 'ragged' else ['label']
        split = data.load_split(str(texts(tmp_path / 'x', range(1, 30))[1].path), 'train', fields)
    assert split.ragged == (kind == 'ragged') and split.name == 'train' and split.too_long == 0
    assert list(split.arrays) == fields and split.block_size in (0, 9)
    assert split.size == (100 if kind == 'stream' else 29) and len(split) == (10 if kind == 'stream' else 29)
    rows = split.rows(0, 4, 1)
    assert list(split.batch(rows)) == fields
