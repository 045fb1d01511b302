"""data/bpe.py: learning against counting again at every merge, encoding against the definition."""
import itertools
import json
import os
import random
import subprocess
import sys
from collections import Counter

import pytest
import regex

from conftest import ROOT
from core.errors import UserError
from data import bpe, tokenizers

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"    # as published
TEXT = """It's the thin thing that they'd think; the thing's the thing, isn't it?  "L'été, l'été!"
    Straße 12, straße 123: aaaaaaa aaa banana bananas\t\tthe 😀😀 the 😀 日本語 日本\r\n\r\n    the end
"""


def joined(word, pair):
    """Return a list of tokens with `pair` joined, from left to right."""
    out = []
    i = 0
    while i < len(word):
        found = tuple(word[i:i + 2]) == pair
        out.append(pair[0] + pair[1] if found else word[i])
        i += 1 + found
    return out


def naive(words, n_merge):
    """Return the merges of {word: count}, all pairs counted again each time."""
    age = {bytes([i]): i for i in range(256)}
    words = [([bytes([b]) for b in word], n) for word, n in words.items()]
    for _ in range(n_merge):
        count = Counter()
        for word, n in words:
            for pair in itertools.pairwise(word):
                count[pair] += n
        pair = max(count, key=lambda p: (count[p], -age[p[0]], -age[p[1]]), default=None)
        if not pair or count[pair] < 2:
            break
        assert pair[0] + pair[1] not in age     # or bytes would not name a token
        age[pair[0] + pair[1]] = len(age)
        words = [(joined(word, pair), n) for word, n in words]
    return list(age)[256:]


def by_rank(word, merges):
    """Return the tokens of a word: join the leftmost neighbours that are the oldest merge, until none are."""
    rank = {token: i for i, token in enumerate(merges)}
    word = [bytes([b]) for b in word]
    while True:
        found = [(rank[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(word)) if a + b in rank]
        if not found:
            return word
        i = min(found)[1]
        word[i:i + 2] = [word[i] + word[i + 1]]


def counted(text):
    return {word.encode(): n for word, n in Counter(regex.findall(GPT2, text)).items()}


@pytest.fixture(scope='module')
def trained():
    return bpe.train([TEXT], 258 + 30)


def test_random_bytes_come_back(trained):
    rng = random.Random(0)
    for n in range(300):
        raw = rng.randbytes(n)
        assert trained.decode(trained.encode(raw.decode('latin-1'))) == raw.decode('latin-1')
        assert trained.decode([2 + byte for byte in raw]) == raw.decode('utf-8', errors='replace')


# --- learning

def test_the_example_of_the_paper_by_hand():
    words = {b'low': 5, b'lower': 2, b'newest': 6, b'widest': 3}
    merges = b'es est lo low ew new newest dest idest widest er lower'.split()
    assert bpe.learn(words, 99) == merges
    assert bpe.learn(words, 5) == merges[:5] and bpe.learn(words, 0) == []


def test_ties_go_to_the_older_left_then_to_the_older_right_token():
    assert bpe.learn({b'cb': 2, b'bc': 2, b'ba': 2}, 3) == [b'ba', b'bc', b'cb']
    assert bpe.learn({b'xy': 9, b'xyb': 2, b'zb': 2, b'zxy': 2}, 4) == [b'xy', b'zb', b'zxy', b'xyb']


def test_it_learns_what_counting_again_learns():
    merges = naive(counted(TEXT), 999)
    assert len(merges) > 30
    assert bpe.train([TEXT], 9999).merges == merges
    assert bpe.train(iter([TEXT]), 258 + 30).merges == merges[:30]


@pytest.mark.parametrize('alphabet', ['a', 'ab', 'abc', 'abcdefgh', '\0\x7f\x80\xff'])
def test_it_learns_what_counting_again_learns_on_random_words(alphabet):
    rng = random.Random(0)
    for _ in range(30):
        words = {''.join(rng.choices(alphabet, k=rng.randint(1, 12))).encode('latin-1'): rng.randint(1, 4)
                 for _ in range(12)}
        assert bpe.learn(words, 40) == naive(words, 40), words


def test_nothing_matters_but_the_counts():
    lines = TEXT.splitlines(keepends=True)
    assert bpe.train(lines, 999).merges == bpe.train((line for line in reversed(lines)), 999).merges


def test_the_seed_of_hashes_does_not_matter():
    code = 'import sys; from data import bpe; print(bpe.train([sys.stdin.read()], 400).json())'
    runs = [subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, env={**os.environ, 'PYTHONUTF8': '1',
                             'PYTHONHASHSEED': seed}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for seed in ('1', '2')]
    first, second = [run.communicate(TEXT.encode())[0] for run in runs]
    assert first == second and b"'kind': 'bpe'" in first


def test_a_vocabulary_that_is_smaller_than_asked_for_is_printed(capsys):
    short = bpe.train(['aaaa bb bb'], 300, n_sentinel=3)
    assert short.merges == [b'aa', b' b', b' bb'] and short.vocab_size == 2 + 256 + 3 + 3
    assert '3 merges instead of 39, and 264 ids' in capsys.readouterr().out


def test_a_vocabulary_of_the_size_asked_for_is_not_printed(capsys):
    assert bpe.train([TEXT], 270, n_sentinel=2).vocab_size == 270
    assert len(bpe.train([], 258).merges) == 0
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('vocab_size, n_sentinel', [(257, 0), (0, 0), (-1, 0), (357, 100)])
def test_a_vocabulary_without_room_for_the_bytes_is_an_error(vocab_size, n_sentinel):
    with pytest.raises(UserError, match=f'vocab_size={vocab_size}: .* {258 + n_sentinel}'):
        bpe.train([TEXT], vocab_size, n_sentinel)


# --- encoding

TEXTS = ['', ' ', '\n', 'the', TEXT, 'é e\u0301 \u200d', '👩‍👩‍👧‍👦 🇫🇷', '\0\x01\x1b\x7f\x85\ufeff\ufffd',
         'שלום عليكم', '\r\n \t\u2028\u3000 x', 'a' * 100_000, 'the' * 9999, ' ' * 1_500_000 + 'a',
         '\n' * 999, "'" * 999, '<|endoftext|> <pad> </s> <extra_id_0>', '\U0010ffff\ue000',
         ''.join(map(chr, [*range(0xd800), *range(0xe000, 0x110000, 17)]))]


@pytest.mark.parametrize('text', TEXTS, ids=lambda text: ascii(text[:9]))
def test_every_text_comes_back(trained, text):
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert all(2 <= i < 258 + 30 for i in ids)


def test_encoding_is_merging_by_rank(trained):
    words = [word.encode() for word in regex.findall(GPT2, TEXT)]
    expected = [token for word in words for token in by_rank(word, trained.merges)]
    ids = trained.encode(TEXT)
    assert [trained.tokens[i] for i in ids] == expected
    assert len(ids) < 0.6 * len(TEXT.encode())
    assert trained.encode_all([TEXT, '', 'the']) == [ids, [], trained.encode('the')]


def test_encoding_is_merging_by_rank_on_random_words():
    rng = random.Random(0)
    for _ in range(30):
        words = [''.join(rng.choices('ab', k=rng.randint(1, 12))) for _ in range(20)]
        tokens = bpe.BPE(bpe.learn(Counter(word.encode() for word in words), 30))
        for word in words + [''.join(rng.choices('ab', k=200))]:
            assert [tokens.tokens[i] for i in tokens.encode(word)] == by_rank(word.encode(), tokens.merges)


def test_ids_are_padding_end_bytes_merges_and_sentinels():
    tokens = bpe.BPE([b'th', b'the'], n_sentinel=2)
    assert tokens.vocab_size == 262
    assert tokens.encode('the that\xff') == [259, 2 + 32, 258, 2 + 97, 2 + 116, 2 + 0xc3, 2 + 0xbf]
    assert tokens.decode([0, 259, 1, 260, 2 + 32, 261, 258, 0]) == 'the<extra_id_1> <extra_id_0>th'
    assert tokens.encode('the<extra_id_1> <extra_id_0><extra_id_2>')[:4] == [259, 260, 2 + 32, 261]
    assert tokens.decode(tokens.encode('<extra_id_2> <extra_id_')) == '<extra_id_2> <extra_id_'
    assert tokens.decode([2 + 0xc3, 259, 2 + 0xf0]) == '\ufffdthe\ufffd'
    assert tokens.begin() == [2 + 10]


def test_text_that_is_not_utf_8_is_an_error(trained):
    text = 'abc \udce9'
    for call in (lambda: trained.encode(text), lambda: trained.encode_all(['abc', text]),
                 lambda: bpe.train([text], 999)):
        with pytest.raises(UserError, match='expected UTF-8'):
            call()


def test_in_lower_case_capitals_do_not_matter():
    lower = bpe.train([TEXT.upper()], 290, lowercase=True)
    assert lower.merges == bpe.train([TEXT.upper().lower()], 290).merges
    assert lower.encode(TEXT.upper()) == lower.encode(TEXT.upper().lower())
    assert tokenizers.load(lower.json()).encode('GOOD') == lower.encode('good')


# --- as JSON

@pytest.mark.parametrize('n_sentinel', [0, 100])
def test_json_keeps_all_of_it(trained, n_sentinel):
    whole = bpe.BPE(trained.merges + [b' %20\xff\0"\\', b'+ +'], n_sentinel)
    text = json.dumps(whole.json())
    back = tokenizers.load(json.loads(text))
    assert back.tokens == whole.tokens and back.json() == whole.json() and back.n_sentinel == n_sentinel
    assert back.encode(TEXT) == whole.encode(TEXT) and back.vocab_size == 258 + 32 + n_sentinel
    older = {'kind': 'bpe', 'merges': '', 'n_sentinel': 0}
    assert tokenizers.load(older).lowercase is False
    assert text.isascii() and len(text) < 99 + 3 * sum(len(token) + 1 for token in whole.merges)


def test_json_may_have_no_merges(trained):
    assert tokenizers.load(bpe.BPE([]).json()).encode('hé') == [2 + b for b in 'hé'.encode()]


@pytest.mark.parametrize('damaged', [{}, {'merges': 'a'}, {'merges': ['a'], 'n_sentinel': 0},
                                     {'merges': 'a', 'n_sentinel': '0'}])
def test_damaged_json_is_an_error(damaged):
    with pytest.raises(UserError, match='no such tokenizer'):
        tokenizers.load({'kind': 'bpe', **damaged})
