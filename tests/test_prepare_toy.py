"""data/toy/prepare.py: rows that copy, reverse and sort, held-out rows, errors for illegal options."""
import numpy as np
import pytest

import data
from data.tokenizers import Bytes


def texts(path, split, field):
    """Return the rows of a field as texts, without their ends."""
    reader = data.load_split(str(path), split, ['src', 'tgt'])
    rows = [reader.row(field, i) for i in range(reader.size)]
    assert all(row[-1] == 1 and 1 not in row[:-1] and 0 not in row for row in rows)
    return [Bytes().decode(row[:-1]) for row in rows]


def test_targets_are_the_copied_reversed_or_sorted_letters_and_val_and_test_are_held_out(launch, tmp_path):
    code, text = launch('data/toy/prepare.py', f'--out={tmp_path}/toy', '--n_train=500')
    assert code == 0, text
    solve = {'copy': str, 'reverse': lambda letters: letters[::-1],
             'sort': lambda letters: ''.join(sorted(letters))}
    sources = {}
    for split in 'train', 'val', 'test':
        sources[split] = texts(tmp_path / 'toy', split, 'src')
        for source, target in zip(sources[split], texts(tmp_path / 'toy', split, 'tgt'), strict=True):
            task, letters = source.split(': ')
            assert 1 <= len(letters) <= 8 and target == solve[task](letters)
    assert [len(rows) for rows in sources.values()] == [500, 500, 500]
    assert not set(sources['train']) & {*sources['val'], *sources['test']}
    assert not set(sources['val']) & set(sources['test'])
    assert {source.split()[0] for source in sources['train']} == {'copy:', 'reverse:', 'sort:'}


def test_the_same_seed_gives_the_same_rows(launch, tmp_path):
    for name in 'a', 'b':
        launch('data/toy/prepare.py', f'--out={tmp_path}/{name}', '--n_train=50', '--tasks=sort')
    a, b = (np.fromfile(tmp_path / name / 'train.src.bin', np.uint8) for name in 'ab')
    assert np.array_equal(a, b)


@pytest.mark.parametrize('option', ['--tasks=copy,turn', '--max_length=3', '--n_train=0', '--tasks='])
def test_illegal_options_are_an_error(launch, tmp_path, option):
    code, text = launch('data/toy/prepare.py', f'--out={tmp_path}/toy', option)
    assert code == 2 and 'expected tasks of copy, reverse, sort' in text and 'Traceback' not in text, text
