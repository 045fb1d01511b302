"""core/score.py: BLEU against sacrebleu, where it is installed, and against values that it gave."""
import gzip
import os
import random
import string
from pathlib import Path

import pytest

from core import score

# Text that is hard for the 13a rules, of so few words that hypothesis and reference share n-grams.
PIECES = 'the a cat dog sat on mat The is was of to and it'.split() * 3 + (
    "it's well-known 1,000.5 3-4 1990-95 a..5 .5 5. -5 e.g. U.S. ... ., ,. 1.,2 1,2,3 3.a a.3 -- - 'x' \" "
    '&quot; &amp; &lt; &gt; &amp;lt; &nbsp; <skipped> co-\nop \n (x) [y] {z} a/b c:d; e=f+g x_y ~ ^ ` | \\ '
    '$5 50% #1 @me *! ? <b> naïve 東京。 “quoted” – ½ ٣.٤ ٣- e\u0301 🙂 x\u00a0y x\u3000y x\u2028y '
    'x\ty x\x1cy x\ry').split(' ')

# (hypotheses, references, what sacrebleu 2.6.0 gives)
EXAMPLES = [
    # p = 5/6, 3/5, 1/4 and, for 0/3, (1/2)/3: the product is 1/48, without a penalty: 100 / 48^(1/4)
    (['the cat sat on the mat'], ['the cat is on the mat'], 37.99178428257963),
    # Papineni's: a reference has two `the`, so 2/7, and three zeros, so (1/2)/6, (1/4)/5, (1/8)/4
    (['the the the the the the the'], [['the cat is on the mat', 'there is a cat on the mat']],
     7.809849842300637),
    (['It is a guide to action which ensures that the military always obeys the commands of the party.'],
     [['It is a guide to action that ensures that the military will forever heed Party commands.',
       'It is the guiding principle which guarantees the military forces always being under the command of '
       'the Party.',
       'It is the practical guide for the army always to heed the directions of the party.']],
     54.017258985951415),
    (['a b c d e'], [['a b c d e f', 'a b c d']], 100),                 # a tie: 4 is as close as 6
    (['a b c d e'], [['a b c d e f g', 'a b c d e f']], 81.87307530779823),     # all there, but 5 of 6
    (['a b c d', '', 'It costs $1,000.50, right?'],
     ['a b c d e f', 'nothing here', ['It costs $1,000.50.', 'That is $1,000.50, right?']],
     65.74265373327447),
]


def sacrebleu_score(hypotheses, references):
    """Return sacrebleu's BLEUScore. It wants the first references of all lines, then the second ones, ..."""
    metric = pytest.importorskip('sacrebleu').BLEU()
    lists = [[line] if isinstance(line, str) else line for line in references]
    most = max(len(line) for line in lists)
    padded = [line + [None] * (most - len(line)) for line in lists]
    return metric.corpus_score(hypotheses, list(zip(*padded)))


def random_sentence(rng, most=25):
    """Return up to `most` random pieces, with or without a space between them."""
    parts = [rng.choice(PIECES) + rng.choice(['', ' ', ' ', '  ']) for _ in range(rng.randint(0, most))]
    return ''.join(parts)


def damage(rng, text, noise):
    """Return a text in which a fraction of the words is dropped, doubled or replaced."""
    words = []
    for word in text.split(' '):
        if rng.random() >= noise:
            words.append(word)
        else:
            words += rng.choice([[], [word] * 2, [rng.choice(PIECES)]])
    return ' '.join(words)


def random_corpus(rng, lines, most_references):
    """Return hypotheses, each a damaged reference or another text, and one or more references for each."""
    noise = rng.choice([0, 0.1, 0.3, 0.7])
    hypotheses = []
    references = []
    for _ in range(lines):
        line = [random_sentence(rng) for _ in range(rng.randint(1, most_references))]
        copy = damage(rng, rng.choice(line), noise)
        hypotheses.append(rng.choice([copy, copy, copy, random_sentence(rng), random_sentence(rng, 3), '']))
        references.append(line if most_references > 1 else line[0])
    return hypotheses, references


@pytest.mark.parametrize('lines, corpora', [(1, 400), (2, 200), (5, 60), (30, 8), (200, 1)])
@pytest.mark.parametrize('most_references', [1, 2, 4])
def test_bleu_is_that_of_sacrebleu(lines, corpora, most_references):
    rng = random.Random(1000 * lines + most_references)
    n_partial = 0
    for _ in range(corpora):
        hypotheses, references = random_corpus(rng, lines, most_references)
        expected = sacrebleu_score(hypotheses, references).score
        assert score.bleu(hypotheses, references) == pytest.approx(expected, rel=0, abs=1e-9)
        n_partial += 0 < expected < 100 - 1e-9
    assert n_partial > corpora // 4


@pytest.mark.parametrize('order', range(5))
def test_zeros_of_each_order_are_smoothed_as_by_sacrebleu(order):
    rng = random.Random(order)
    for _ in range(50):
        words = [f'w{i}' for i in range(rng.randint(12, 20))]
        hypothesis = []
        for i in 8, 0, 4:                       # runs of exactly `order` words in common
            hypothesis += words[i:i + order] + ['x'] * rng.randint(1, 3)
        pair = [' '.join(hypothesis) + ' y y'], [' '.join(words)]
        expected = sacrebleu_score(*pair)
        assert [count > 0 for count in expected.counts] == [n <= order for n in range(1, 5)]
        assert score.bleu(*pair) == pytest.approx(expected.score, rel=0, abs=1e-9)


def test_tokens_are_those_of_sacrebleu():
    pytest.importorskip('sacrebleu')
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    tokenizer = Tokenizer13a()
    rng = random.Random(0)
    lines = [random_sentence(rng) for _ in range(1000)]
    lines += [chr(i) + 'a' + chr(i) for i in range(0x3100)]
    lines += [''.join(rng.choices('a1.,-&;\n <', k=12)) for _ in range(3000)]
    for line in lines:
        assert score.tokenize(line) == tokenizer(line.rstrip()).split(), line


@pytest.mark.parametrize('line, tokens', [
    ('', ''),
    (' \n', ''),
    ('Hello, World!', 'Hello , World !'),
    ("it's well-known", "it's well-known"),
    ('1,000.5 3.a a.3', '1,000.5 3 . a a . 3'),
    ('1990-95 -5', '1990 - 95 -5'),
    ('.5 5.', '. 5 5 .'),
    ('a..5', 'a . .5'),
    ('1.,2', '1 . , 2'),
    ('co-\nop a\nb x-\n', 'coop a b x-'),
    ('a<skipped>b &quot;x&quot; &lt;i&gt; R&amp;D &amp;lt; &nbsp;', 'ab " x " < i > R & D < & nbsp ;'),
    ('“naïve” 東京。 x\u00a0y', '“naïve” 東京。 x y')])
def test_tokens_of_examples(line, tokens):
    assert score.tokenize(line) == tokens.split()


@pytest.mark.parametrize('mark', string.punctuation)
def test_an_ascii_mark_within_a_word_is_separated_unless_it_is_an_apostrophe_or_hyphen(mark):
    expected = [f'a{mark}b'] if mark in "'-" else ['a', mark, 'b']
    assert score.tokenize(f'a{mark}b') == expected


@pytest.mark.parametrize('hypotheses, references, expected', EXAMPLES)
def test_bleu_of_examples(hypotheses, references, expected):
    assert score.bleu(hypotheses, references) == pytest.approx(expected, rel=0, abs=1e-9)


def test_identical_text_scores_100_and_text_without_a_common_word_0():
    lines = ['the cat sat on the mat', 'a dog', '', "It is 5 o'clock, he said."]
    assert score.bleu(lines, lines) == 100
    assert score.bleu(lines, [['another one', line] for line in lines]) == 100
    assert score.bleu([''] * 4, lines) == 0
    assert score.bleu([''], ['']) == 0
    assert score.bleu(['x y z v w'], lines[:1]) == 0
    assert score.bleu(['a big dog'], ['a big dog']) == 0        # no sequence of four words: p4 is 0 / 0


def test_the_order_of_lines_and_of_a_lines_references_does_not_matter():
    rng = random.Random(0)
    hypotheses, references = random_corpus(rng, 40, 3)
    expected = score.bleu(hypotheses, references)
    assert 0 < expected < 100
    pairs = list(zip(hypotheses, references))
    for _ in range(5):
        rng.shuffle(pairs)
        shuffled = [rng.sample(line, len(line)) for _, line in pairs]
        assert score.bleu([hypothesis for hypothesis, _ in pairs], shuffled) == expected
    shifted = references[1:] + references[:1]
    assert score.bleu(hypotheses, shifted) < expected / 2       # but it matters which of them are a pair


@pytest.mark.parametrize('hypotheses, references', [
    ([], []), (['a'], []), ([], ['a']), (['a', 'b'], ['a']), (['a'], ['a', 'b']), (['a', 'b'], ['a', []])])
def test_a_hypothesis_without_a_reference_is_an_error(hypotheses, references):
    with pytest.raises(ValueError, match=f'{len(hypotheses)} hypotheses, {len(references)} lines'):
        score.bleu(hypotheses, references)


CHINESE = ['老师今天早上在公园里看报纸。', 'DNA 由两条链组成,长 2 米。', '他 很 高兴']


@pytest.mark.parametrize('language, lines', [
    ('zh', CHINESE), ('ja', ['テレビを見ています。', 'これはPythonの本です']),
    ('th', ['แมวกำลังนอนหลับ', 'ฉันชอบกินข้าว'])])
def test_text_without_spaces_is_scored_by_characters_as_by_sacrebleu(language, lines):
    assert score.choose_tokenizer(lines) == 'char'
    assert score.bleu(lines, lines, 'char') == pytest.approx(100)
    metric = pytest.importorskip('sacrebleu').BLEU(tokenize='char')
    rng = random.Random(0)
    for _ in range(50):
        damaged = [''.join(c for c in line if rng.random() > 0.2) for line in lines]
        expected = metric.corpus_score(damaged, [lines]).score
        assert score.bleu(damaged, lines, 'char') == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize('lines', [
    ['Der Zug fährt ab.', 'Il est 5 h'], ['저는 학교에 갑니다.'], ['Он читает газету'], ['يقرأ الجريدة'], [''], [],
    ['The word 猫 means cat in Japanese.']])
def test_text_with_spaces_is_scored_by_13a(lines):
    assert score.choose_tokenizer(lines) == '13a'


@pytest.mark.skipif('DATA_MIRROR' not in os.environ, reason='DATA_MIRROR is not set: no real test set')
def test_damaged_copies_of_a_real_test_set_score_as_by_sacrebleu():
    file = Path(os.environ['DATA_MIRROR'], 'multi30k/test_2016_flickr.fr.gz')
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    rng = random.Random(0)
    for _ in range(5):
        noise = rng.random()
        damaged = []
        for line in lines:
            damaged.append(' '.join(word for word in line.split() if rng.random() > noise / 3))
        expected = sacrebleu_score(damaged, lines).score
        assert score.bleu(damaged, lines) == pytest.approx(expected, rel=0, abs=0.01)


def test_exact_match_is_the_fraction_of_equal_texts():
    assert score.exact_match(['a b', 'c', 'd'], ['a b', 'C', 'd ']) == 1 / 3
