"""Scores: BLEU against sacrebleu where it is installed, and against values that it gave."""
import gzip, os, random, string
from pathlib import Path

import pytest

import score

# What the 13a rules could trip over, and few enough words that n-grams meet.
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
    """sacrebleu's BLEUScore; it wants the references the other way round, and None where a line has fewer."""
    metric = pytest.importorskip('sacrebleu').BLEU()
    lists = [[several] if isinstance(several, str) else several for several in references]
    most = max(map(len, lists))
    streams = [*zip(*(several + [None] * (most - len(several)) for several in lists))]
    return metric.corpus_score(hypotheses, streams)


def sentence(rng, most=25):
    """Up to `most` random pieces, with or without a space between them."""
    return ''.join(rng.choice(PIECES) + rng.choice(('', ' ', ' ', '  ')) for _ in range(rng.randint(0, most)))


def corpus(rng, lines, several):
    """Hypotheses: another sentence, or a reference with words dropped, doubled, exchanged."""
    hypotheses, references, noise = [], [], rng.choice([0, 0.1, 0.3, 0.7])
    for _ in range(lines):
        references.append([sentence(rng) for _ in range(rng.randint(1, several))])
        words = [rng.choice([[], [word] * 2, [rng.choice(PIECES)]]) if rng.random() < noise else [word]
                 for word in rng.choice(references[-1]).split(' ')]
        copy = ' '.join(word for some in words for word in some)
        hypotheses.append(rng.choice([copy, copy, copy, sentence(rng), sentence(rng, 3), '']))
    return hypotheses, references if several > 1 else [reference for reference, in references]


@pytest.mark.parametrize('lines, corpora', [(1, 400), (2, 200), (5, 60), (30, 8), (200, 1)])
@pytest.mark.parametrize('several', [1, 2, 4])
def test_bleu_is_that_of_sacrebleu(lines, corpora, several):
    rng, positive = random.Random(1000 * lines + several), 0
    for _ in range(corpora):
        hypotheses, references = corpus(rng, lines, several)
        expected = sacrebleu_score(hypotheses, references).score
        assert score.bleu(hypotheses, references) == pytest.approx(expected, rel=0, abs=1e-9)
        positive += 0 < expected < 100 - 1e-9
    assert positive > corpora // 4


@pytest.mark.parametrize('order', range(5))
def test_zeros_of_each_order_are_smoothed_as_by_sacrebleu(order):
    rng = random.Random(order)
    for _ in range(50):                         # runs of exactly `order` words in common
        words = [f'w{i}' for i in range(rng.randint(12, 20))]
        runs = [words[i:i + order] + ['x'] * rng.randint(1, 3) for i in (8, 0, 4)]
        pair = [' '.join(word for run in runs for word in run) + ' y y'], [' '.join(words)]
        expected = sacrebleu_score(*pair)
        assert [count > 0 for count in expected.counts] == [n <= order for n in range(1, 5)]
        assert score.bleu(*pair) == pytest.approx(expected.score, rel=0, abs=1e-9)


def test_tokens_are_those_of_sacrebleu():
    pytest.importorskip('sacrebleu')
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    tokenizer, rng = Tokenizer13a(), random.Random(0)
    lines = [sentence(rng) for _ in range(1000)] + [chr(i) + 'a' + chr(i) for i in range(0x3100)]
    for line in lines + [''.join(rng.choices('a1.,-&;\n <', k=12)) for _ in range(3000)]:
        assert score.tokenize(line) == tokenizer(line.rstrip()).split(), line


@pytest.mark.parametrize('line, tokens', [
    ('', ''), (' \n', ''), ('Hello, World!', 'Hello , World !'), ("it's well-known", "it's well-known"),
    ('1,000.5 3.a a.3', '1,000.5 3 . a a . 3'), ('1990-95 -5', '1990 - 95 -5'), ('.5 5.', '. 5 5 .'),
    ('a..5', 'a . .5'), ('1.,2', '1 . , 2'), ('co-\nop a\nb x-\n', 'coop a b x-'),
    ('a<skipped>b &quot;x&quot; &lt;i&gt; R&amp;D &amp;lt; &nbsp;', 'ab " x " < i > R & D < & nbsp ;'),
    ('“naïve” 東京。 x\u00a0y', '“naïve” 東京。 x y')])
def test_tokens_as_stated(line, tokens):
    assert score.tokenize(line) == tokens.split()


@pytest.mark.parametrize('mark', string.punctuation)
def test_a_mark_within_a_word_stands_alone_unless_it_may_belong_there(mark):
    assert score.tokenize(f'a{mark}b') == ([f'a{mark}b'] if mark in "'-" else ['a', mark, 'b'])


@pytest.mark.parametrize('hypotheses, references, expected', EXAMPLES)
def test_bleu_as_stated(hypotheses, references, expected):
    assert score.bleu(hypotheses, references) == pytest.approx(expected, rel=0, abs=1e-9)


def test_identity_is_100_and_nothing_is_0():
    lines = ['the cat sat on the mat', 'a dog', '', 'It is 5 o\'clock, he said.']
    assert score.bleu(lines, lines) == 100
    assert score.bleu(lines, [['another one', line] for line in lines]) == 100
    assert score.bleu([''] * 4, lines) == score.bleu([''], ['']) == 0
    assert score.bleu(['x y z v w'], lines[:1]) == 0
    assert score.bleu(['a big dog'], ['a big dog']) == 0        # no four words in a row: p4 is 0 / 0


def test_the_order_of_the_pairs_and_of_a_lines_references_does_not_matter():
    rng = random.Random(0)
    hypotheses, references = corpus(rng, 40, 3)
    expected, pairs = score.bleu(hypotheses, references), [*zip(hypotheses, references)]
    assert 0 < expected < 100
    for _ in range(5):
        rng.shuffle(pairs)
        assert score.bleu(*zip(*((h, rng.sample(several, len(several))) for h, several in pairs))) == expected
    rolled = references[1:] + references[:1]
    assert score.bleu(hypotheses, rolled) < expected / 2        # which pairs they are does


@pytest.mark.parametrize('hypotheses, references', [
    ([], []), (['a'], []), ([], ['a']), (['a', 'b'], ['a']), (['a'], ['a', 'b']), (['a', 'b'], ['a', []])])
def test_lines_that_are_no_pairs_are_refused(hypotheses, references):
    with pytest.raises(ValueError, match=f'{len(hypotheses)} hypotheses, {len(references)} lines'):
        score.bleu(hypotheses, references)


@pytest.mark.skipif('DATA_MIRROR' not in os.environ, reason='DATA_MIRROR is not set: no real test set')
def test_damaged_copies_of_a_real_test_set_score_as_by_sacrebleu(copies=5):
    file = Path(os.environ['DATA_MIRROR'], 'multi30k/test_2016_flickr.fr.gz')
    lines, rng = gzip.decompress(file.read_bytes()).decode().splitlines(), random.Random(0)
    for _ in range(copies):
        noise = rng.random()
        damaged = [' '.join(word for word in line.split() if rng.random() > noise / 3) for line in lines]
        expected = sacrebleu_score(damaged, lines).score
        assert score.bleu(damaged, lines) == pytest.approx(expected, rel=0, abs=0.01)
