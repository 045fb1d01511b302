"""data/pairs.py: what is read, held out and left out, and ids that decode to the very text."""
from collections import Counter

import numpy as np
import pytest

import data
from core.errors import UserError
from data import bpe, pairs, tokenizers

NASTY = ['', ' two  blanks ', 'tab\tand\u2028line\u0085separators\x0c', '\ufeffmark',
         'l’été\u202f! naïve', '😀 日本語', '<|endoftext|>', "it's 12,345 &amp; \x00"]


def read_ids(path, split):
    """Return [(ids of src, ids of tgt), ...] of a split, its hashes verified, and its tokenizer."""
    meta = data.check(str(path), hashes=True)
    sides = []
    for field in 'src', 'tgt':
        flat = np.fromfile(f'{path}/{split}.{field}.bin', meta['splits'][split][field]['dtype'])
        offsets = np.fromfile(f'{path}/{split}.{field}.offsets.bin', '<i8')
        sides.append([row.tolist() for row in np.split(flat, offsets[1:-1])])
    return list(zip(*sides)), tokenizers.load(meta['tokenizer'])


def read_texts(path, split):
    """Return [(src, tgt), ...] of a split, after a proof that each row has a 1, at its end, and no 0."""
    found, tokenizer = read_ids(path, split)
    assert all(ids[-1] == 1 and min(ids[:-1], default=2) > 1 for pair in found for ids in pair)
    return [tuple(tokenizer.decode(ids) for ids in pair) for pair in found]


def body(lines):
    return ''.join(line + '\n' for line in lines).encode()


def write_both(path, pairs):
    """Write two files of lines, and return them."""
    for side, lines in zip(('en', 'fr'), zip(*pairs)):
        path.with_suffix(f'.{side}').write_bytes(body(lines))
    return path.with_suffix('.en'), path.with_suffix('.fr')


# --- files

@pytest.mark.parametrize('n, m', [(3, 5), (5, 3), (0, 1)])
def test_files_of_unequal_length_are_an_error_with_both_counts(tmp_path, n, m):
    (tmp_path / 'x.en').write_bytes(b'a\n' * n), (tmp_path / 'x.fr').write_bytes(b'b\n' * m)
    with pytest.raises(UserError, match=f'x.en has {n} lines, .*x.fr has {m} lines') as error:
        list(pairs.parallel(tmp_path / 'x.en', tmp_path / 'x.fr'))
    assert error.value.code == 3


@pytest.mark.parametrize('lines', [
    ['a cat\tun chat', ' a dog \t un\u2028chien', '"a\thé"'], ['Go.\tVa !\tCC-BY 2.0', 'Run\tCours'],
    ['a\rb\tc', '', 'd\te', '  ']])
def test_a_file_of_two_columns_has_the_pairs_of_two_files(tmp_path, lines):
    (tmp_path / 'my.tsv').write_bytes(body(lines))
    rows = [line.split('\t') for line in lines if line.strip()]
    found = list(pairs.read_pairs([tmp_path / 'my.tsv']))
    assert found == [tuple(row[:2]) for row in rows]
    assert list(pairs.read_pairs(write_both(tmp_path / 'x', found))) == found
    assert pairs.hold_out([[tmp_path / 'my.tsv']], 1, 0)['val'][0] in found


@pytest.mark.parametrize('lines, n', [(['a\tb', 'alone'], 1), (['a\tb', '12\ta\t13\tb'], 4)])
def test_more_or_fewer_columns_are_an_error_with_the_line(tmp_path, lines, n):
    (tmp_path / 'my.tsv').write_bytes(body(lines))
    with pytest.raises(UserError, match=f'my.tsv: line 2: expected SOURCE TAB TARGET, found {n} ') as error:
        list(pairs.read_pairs([tmp_path / 'my.tsv']))
    assert error.value.code == 3


# --- what is held out, what is left out

@pytest.mark.parametrize('pair, reason', [
    (('a cat', 'un chat'), 'kept'), ((' a dog\u202f', '\tun chien'), 'kept'), (('', 'un'), 'empty'),
    (('a', ' \u00a0 '), 'empty'), (('x' * 20, 'y' * 20), 'kept'), (('x' * 20, 'y' * 21), 'too long'),
    (('x' * 21, 'y' * 20), 'too long'), (('abc', 'd' * 9), 'kept'), (('abc', 'd' * 10), 'unlike in length'),
    (('abcdefghij', 'def'), 'unlike in length'), (('a fox ', 'le renard'), 'in val or test'),
    (('A fox', 'un renard'), 'kept'), (('the hen', 'la poule '), 'duplicate'),
    (('the hen', 'une poule'), 'kept')])
def test_each_reason_to_leave_a_pair_out(pair, reason):
    count, seen = Counter(), {pairs.hash64('the hen\nla poule')}
    kept = list(pairs.clean([pair], {pairs.hash64('a fox')}, seen, 20, 3, count))
    assert kept == [(pair[0].strip(), pair[1].strip())] * (reason == 'kept') and count == {reason: 1}


def test_of_a_pair_that_occurs_twice_one_is_kept():
    count = Counter()
    assert list(pairs.clean([('a', 'b'), ('a', 'b '), ('a', 'c'), ('a', 'b')], set(), set(), 9, 9, count)) \
        == [('a', 'b'), ('a', 'c')]
    assert count == {'kept': 2, 'duplicate': 2}


SENTENCES = [(f'sentence {i // 3 * 7919 % 1000}', f'phrase {i}') for i in range(900)]    # 300 different ones


@pytest.mark.parametrize('val, test, n', [
    (0.1, 0.2, (30, 60)), (5, 10, (5, 10)), (1, 0, (1, 0)), (0, 0, (0, 0)), (1e-9, 298, (1, 298))])
def test_a_source_sentence_is_held_out_with_all_its_pairs_or_not_at_all(tmp_path, val, test, n):
    files = [write_both(tmp_path / 'a', SENTENCES[:400]),
             write_both(tmp_path / 'b', [*SENTENCES[400:], ('', 'x'), ('y', ' ')])]
    splits = pairs.hold_out(files, val, test)
    assert list(splits) == [split for split, of in zip(('val', 'test'), n) if of]
    drawn = [{src for src, _ in splits.get(split, [])} for split in ('val', 'test')]
    assert tuple(map(len, drawn)) == n and not drawn[0] & drawn[1]
    for split, sources in zip(('val', 'test'), drawn):      # all pairs of a sentence, in their order
        assert splits.get(split, []) == [pair for pair in SENTENCES if pair[0] in sources]
    backwards = pairs.hold_out([write_both(tmp_path / 'c', SENTENCES[::-1])], val, test)
    assert backwards == {split: of[::-1] for split, of in splits.items()}


@pytest.mark.parametrize('val, test', [(300, 0), (150, 150), (-1, 0), (0.1, -0.1), (0.5, 0.5)])
def test_to_leave_no_train_is_an_error(tmp_path, val, test):
    with pytest.raises(UserError, match=f'val={val:g} and test={test:g}: .* of 300 source sentences'):
        pairs.hold_out([write_both(tmp_path / 'a', SENTENCES)], val, test)


# --- saving

def test_ids_decode_to_the_very_text(tmp_path):
    easy, nasty = [('the cat', 'the hat')] * 2, list(zip(NASTY, NASTY[::-1]))
    tok = bpe.train(['the cat', 'the hat'] * 3, 262)
    pairs.save(str(tmp_path / 'x'), {'train': iter(easy), 'val': nasty}, tok, ['en', 'fr'])
    assert read_texts(tmp_path / 'x', 'train') == easy and read_texts(tmp_path / 'x', 'val') == nasty
    assert read_ids(tmp_path / 'x', 'train')[0][0][0] == [*tok.encode('the cat'), 1]
    info = data.check(str(tmp_path / 'x'))['info']
    assert info == {'vocab_size': 262, 'languages': ['en', 'fr'], 'too_long': 'drop'}
    batch = data.load_split(str(tmp_path / 'x'), 'val', ['src', 'tgt'], 64).batch(np.array([0, 5]))
    assert batch['src'].tolist()[0] == [1] + [0] * (batch['src'].shape[1] - 1)


def test_ids_take_two_or_four_bytes():
    small, large = pairs.TokenRows(2**16), pairs.TokenRows(2**16 + 1)
    for made in small, large:
        made.append([2, 65535, 1]), made.append([1])
        assert [row.tolist() for row in made] == [[2, 65535, 1], [1]] and len(made) == 2
    assert (small.flat.itemsize, large.flat.itemsize) == (2, 4)
