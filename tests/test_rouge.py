"""core/rouge.py: against the rouge-score package, where it is installed, and against values that it gave."""
import random

import pytest

from core.rouge import choose_tokenizer, common_subsequence, rouge, rouge_of_text, tokenize, tokenize_letters

STEMS = {'cats': 'cat', 'running': 'run', 'dogs': 'dog', 'barked': 'bark', 'loudly': 'loudli'}


def stem(line):
    """Return the words of a line as Porter's stemmer leaves those of the example."""
    return [STEMS.get(word, word) for word in tokenize(line)]


def test_an_example_equals_what_rouge_score_gave():
    found = rouge_of_text('Dogs barked. The cat ran.', 'The cats were running.\nDogs bark loudly.', stem)
    expected = {'ROUGE-1': (0.8, 0.571429, 0.666667), 'ROUGE-2': (0.5, 0.333333, 0.4),
                'ROUGE-L': (0.4, 0.285714, 0.333333), 'ROUGE-Lsum': (0.8, 0.571429, 0.666667)}
    assert found.keys() == expected.keys()
    for measure, values in expected.items():
        assert found[measure] == pytest.approx(values, abs=1e-6), measure


def test_by_hand():
    found = rouge_of_text('the the cat', 'the cat sat down')
    assert found['ROUGE-1'] == pytest.approx((2 / 3, 2 / 4, 4 / 7))     # the second `the` counts once
    assert found['ROUGE-2'] == pytest.approx((1 / 2, 1 / 3, 2 / 5))
    assert found['ROUGE-L'] == pytest.approx((2 / 3, 2 / 4, 4 / 7))
    assert rouge(['a b', 'c'], ['a b', 'd']) == {measure: 50 for measure in found}


@pytest.mark.parametrize('text, reference', [('', 'a'), ('a', ''), ('', ''), ('...', '!'), ('\n', 'x\n')])
def test_without_words_all_is_0(text, reference):
    assert set(rouge_of_text(text, reference).values()) == {(0.0, 0.0, 0.0)}


def test_words_of_other_languages_need_the_other_tokenizer():
    assert tokenize("L'Été, garçon 1,5") == ['l', 't', 'gar', 'on', '1', '5']
    assert tokenize_letters("L'Été, garçon 1,5") == ['l', 'été', 'garçon', '1', '5']
    assert rouge(['Été'], ['été'], 'letters')['ROUGE-1'] == 100 > rouge(['ô'], ['ô'])['ROUGE-1']
    assert choose_tokenizer(['Un café, déjà vu']) == 'letters'
    assert choose_tokenizer(['the café of ' + 'a hundred letters ' * 10]) == 'a-z0-9'
    assert choose_tokenizer(['']) == 'a-z0-9'


def test_a_subsequence_is_one_of_both_and_no_longer_one_exists():
    def longest(a, b):
        if not a or not b:
            return 0
        if a[0] == b[0]:
            return 1 + longest(a[1:], b[1:])
        return max(longest(a[1:], b), longest(a, b[1:]))

    rng = random.Random(0)
    for _ in range(200):
        a, b = ([rng.choice('abc') for _ in range(rng.randint(0, 7))] for _ in range(2))
        positions = common_subsequence(a, b)[::-1]
        rest = iter(b)
        assert positions == sorted(set(positions)) and all(a[i] in rest for i in positions)
        assert len(positions) == longest(a, b)


@pytest.mark.parametrize('texts, references', [([], []), (['a'], []), (['a'], ['b', 'c'])])
def test_texts_without_a_reference_are_an_error(texts, references):
    with pytest.raises(ValueError, match='give each text a reference'):
        rouge(texts, references)


def random_text(rng):
    """Return up to four lines of few different words, some with capitals and marks."""
    words = 'the The cat cats sat, on mat. is-was été 3 1,000 x_y'.split()
    lines = []
    for _ in range(rng.randint(0, 4)):
        lines.append(' '.join(rng.choice(words) for _ in range(rng.randint(0, 12))))
    return '\n'.join(lines)


def test_random_texts_score_as_in_rouge_score():
    scorer_module = pytest.importorskip('rouge_score.rouge_scorer')
    names = {'ROUGE-1': 'rouge1', 'ROUGE-2': 'rouge2', 'ROUGE-L': 'rougeL', 'ROUGE-Lsum': 'rougeLsum'}
    scorer = scorer_module.RougeScorer(list(names.values()))
    rng = random.Random(1)
    for _ in range(200):
        text, reference = random_text(rng), random_text(rng)
        expected = scorer.score(reference, text)
        for measure, values in rouge_of_text(text, reference).items():
            assert values == pytest.approx(tuple(expected[names[measure]])), (measure, text, reference)
