"""BLEU: how similar translations are to those that people wrote. The number is exactly that of sacrebleu.

n-grams are counted over all lines of a corpus and divided once. The mean of the lines' scores is another
number, which cannot be compared with it.
"""
import math
import re
from collections import Counter

import regex        # for \p{Thai}; comes with tiktoken

MAX_N = 4           # of the n-grams

# The rules of NIST's mteval-v13a, in their order.
REPLACEMENTS = [('<skipped>', ''), ('-\n', ''), ('\n', ' '),
                ('&quot;', '"'), ('&amp;', '&'), ('&lt;', '<'), ('&gt;', '>')]      # so &amp;lt; becomes <
PATTERNS = [
    (r'([!-&(-+/:-@[-`{-~])', r' \1 '),         # separate every ASCII mark but ' , - .
    (r'([^0-9])([.,])', r'\1 \2 '),             # separate . and , unless they follow a digit
    (r'([.,])([^0-9])', r' \1 \2'),             # ... and unless they precede one: 1,000.5 is one token
    (r'([0-9])(-)', r'\1 \2 ')]                 # separate - after a digit: 1990 - 95, but well-known

# Letters of scripts that are written without spaces between words.
SCRIPTS = 'Han Hiragana Katakana Thai Lao Khmer Myanmar Tibetan'.split()
UNSPACED = regex.compile('[' + ''.join(f'\\p{{{script}}}' for script in SCRIPTS) + ']')


def tokenize(line):
    """Split a line into tokens by the rules of mteval-v13a for Western languages, sacrebleu's '13a'.

    Case is kept. Characters other than ASCII are not separated: “ or 。 stays with its word. The matches of a
    pattern do not overlap, as in the original: a..5 gives a . .5; with look-around it would give a . . 5.
    """
    line = line.rstrip()                        # first, so that a - at the very end is not a hyphenation
    for old, new in REPLACEMENTS:
        line = line.replace(old, new)
    line = f' {line} '                          # so that a mark at either end has a neighbour, too
    for pattern, new in PATTERNS:
        line = re.sub(pattern, new, line)
    return line.split()


def tokenize_characters(line):
    """Split a line into its characters without white space, as sacrebleu's 'char' does."""
    return list(''.join(line.split()))


TOKENIZERS = {'13a': tokenize, 'char': tokenize_characters}


def choose_tokenizer(lines):
    """Return 'char' if most letters of the lines are of scripts without spaces between words, else '13a'.

    For 13a a Chinese sentence is one word, and without four words in a line there is no 4-gram.
    """
    text = ''.join(lines)
    n_letter = len(regex.findall(r'\p{L}', text))
    n_unspaced = len(UNSPACED.findall(text))
    return 'char' if 2 * n_unspaced > n_letter else '13a'


def count_ngrams(tokens, n):
    """Return how often each sequence of n tokens occurs."""
    shifted = [tokens[i:] for i in range(n)]
    return Counter(zip(*shifted))


def bleu(hypotheses, references, tokenizer='13a'):
    """Return corpus BLEU-4 in [0, 100], cased (Papineni et al. 2002, Post 2018).

    hypotheses: a list of strings. references: for each of them a string, or a list of one or more strings.
    tokenizer: a key of TOKENIZERS, which are named as sacrebleu's.
    Raises ValueError if there are no hypotheses, more or fewer of them than references, or an empty list.

    BLEU = BP (p1 p2 p3 p4)^(1/4). p_n is the fraction of the hypotheses' n-grams that a reference has, each
    counted at most as often as in the reference that has most of it. BP = min(1, e^(1 - r/c)) is the brevity
    penalty for c tokens in the hypotheses and r in the references: for each line those of the reference that
    is closest in length, or the shorter of two. The first numerator that is 0 becomes 1/2, the next 1/4, ...
    (Chen & Cherry 2014, method 3). A corpus without a matching word scores 0, and so does one without a
    hypothesis of four tokens.
    """
    references = [[line] if isinstance(line, str) else line for line in references]
    if not hypotheses or len(hypotheses) != len(references) or not all(references):
        raise ValueError(f'{len(hypotheses)} hypotheses, {len(references)} lines of references, of which '
                         f'{references.count([])} are empty: give each hypothesis one reference or more')
    split = TOKENIZERS[tokenizer]
    matches = [0] * MAX_N
    totals = [0] * MAX_N
    hypothesis_length = 0
    reference_length = 0
    for hypothesis, candidates in zip(hypotheses, references):
        hypothesis = split(hypothesis)
        candidates = [split(reference) for reference in candidates]
        length = len(hypothesis)
        hypothesis_length += length
        lengths = [len(reference) for reference in candidates]
        reference_length += min(lengths, key=lambda n: (abs(n - length), n))
        for i in range(MAX_N):
            ngrams = count_ngrams(hypothesis, i + 1)
            most = Counter()
            for reference in candidates:
                most |= count_ngrams(reference, i + 1)      # | of Counters is the larger count of each
            matches[i] += (ngrams & most).total()           # & is the smaller
            totals[i] += ngrams.total()
    if matches[0] == 0 or totals[-1] == 0:
        return 0.0

    log_precision = 0.0
    zeros = 0
    for match, total in zip(matches, totals):
        if match == 0:
            zeros += 1
            match = 0.5**zeros
        log_precision += math.log(match / total) / MAX_N
    log_brevity_penalty = min(0, 1 - reference_length / hypothesis_length)
    return 100 * math.exp(log_brevity_penalty + log_precision)


def exact_match(texts, references):
    """Return the fraction of the texts that are equal to their reference."""
    equal = [text == reference for text, reference in zip(texts, references, strict=True)]
    return sum(equal) / len(equal)
