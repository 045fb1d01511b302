"""What generated text is worth beside what people wrote: BLEU, the very number that sacrebleu prints.

A corpus has one score: n-grams are counted over all of its lines and divided once. A mean of the lines'
scores is another, incomparable number.
"""
import functools, math, operator, re
from collections import Counter

MARKUP = (('<skipped>', ''), ('-\n', ''), ('\n', ' '),
          ('&quot;', '"'), ('&amp;', '&'), ('&lt;', '<'), ('&gt;', '>'))
PUNCTUATION = (
    (r'([!-&(-+/:-@[-`{-~])', r' \1 '),         # every ASCII mark but ' , - . stands alone
    (r'([^0-9])([.,])', r'\1 \2 '),             # . and , do unless they follow a digit
    (r'([.,])([^0-9])', r' \1 \2'),             # ... and unless they precede one: 1,000.5 is one token
    (r'([0-9])(-)', r'\1 \2 '))                 # - does after a digit: 1990 - 95, but well-known


def tokenize(line):
    """The tokens of a line by the rules of NIST's mteval-v13a for Western languages, sacrebleu's '13a'.

    Case is kept, and so is what is no ASCII: “ or 。 stays with its word. The matches of a rule do not
    overlap, as in the original: a..5 gives a . .5, where looking around would give a . . 5.
    """
    line = line.rstrip()                        # first, so that a - at the end of all is not a hyphenation
    for old, new in MARKUP:                     # in this order: &amp;lt; is <
        line = line.replace(old, new)
    line = f' {line} '                          # a mark at either end has a neighbour, too
    for pattern, new in PUNCTUATION:
        line = re.sub(pattern, new, line)
    return line.split()


def ngrams(tokens, n):
    """How often each run of n tokens occurs."""
    return Counter(zip(*(tokens[i:] for i in range(n))))


def bleu(hypotheses, references):
    """Corpus BLEU-4 in [0, 100], cased, tokenised by 13a (Papineni et al. 2002; settings of Post 2018).

    hypotheses: a list of strings. references: for each of them a string, or a list of one or more.
    Raises ValueError for no hypotheses, for other numbers of them than of references, or for an empty list.

    BLEU = BP (p1 p2 p3 p4)^(1/4). p_n is the share of the hypotheses' n-grams that a reference has, too, each
    counted at most as often as in the reference that has most of it; BP = min(1, e^(1 - r/c)) for c tokens
    in the hypotheses and r in the references, of each line the closest in length (the shorter of two).
    Numerators of 0 become 1/2, 1/4, ... in turn (Chen & Cherry 2014, method 3; NIST's). A corpus without a
    matching word, or in which no hypothesis has four tokens, scores 0.
    """
    references = [[several] if isinstance(several, str) else several for several in references]
    if not hypotheses or len(hypotheses) != len(references) or not all(references):
        raise ValueError(f'{len(hypotheses)} hypotheses, {len(references)} lines of references, of which '
                         f'{references.count([])} are empty: give each hypothesis one reference or more')
    matches, totals, c, r = [0] * 4, [0] * 4, 0, 0
    for hypothesis, several in zip(hypotheses, references):
        hypothesis, several = tokenize(hypothesis), [tokenize(reference) for reference in several]
        c += len(hypothesis)
        r += min((len(reference) for reference in several), key=lambda n: (abs(n - len(hypothesis)), n))
        for i in range(4):
            found = ngrams(hypothesis, i + 1)
            most = functools.reduce(operator.or_, (ngrams(reference, i + 1) for reference in several))
            matches[i] += (found & most).total()
            totals[i] += found.total()
    if not matches[0] or not totals[3]:
        return 0.0
    zeros, log_precision = 0, 0.0
    for match, total in zip(matches, totals):
        zeros += not match
        log_precision += math.log((match or 0.5**zeros) / total) / 4
    return 100 * math.exp(min(0, 1 - r / c) + log_precision)
