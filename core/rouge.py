"""ROUGE: how much a summary has in common with one that a person wrote (Lin 2004, "ROUGE: A Package for
Automatic Evaluation of Summaries"). The numbers are those of the rouge-score package without stemming.

    ROUGE-1, ROUGE-2    words and pairs of neighbouring words
    ROUGE-L             the longest common subsequence: words in the same order, with gaps
    ROUGE-Lsum          the same, line by line: a word of the reference counts if any line of the summary has
                        it in a longest common subsequence with its line
"""
import re
from collections import Counter

from core.score import count_ngrams


def tokenize(text):
    """Return the words of an English text in lower case. What is not a-z or 0-9 separates: é, too."""
    return re.findall('[a-z0-9]+', text.lower())


def tokenize_letters(text):
    r"""Return the words of a text of any language in lower case, r'\w+': été is one word."""
    return re.findall(r'\w+', text.lower())


TOKENIZERS = {'a-z0-9': tokenize, 'letters': tokenize_letters}      # numbers of two are not comparable


def choose_tokenizer(lines):
    """Return 'letters' if of a hundred letters of the lines more than one is not a to z, else 'a-z0-9'."""
    letters = [letter for letter in ''.join(lines).lower() if letter.isalpha()]
    n_other = sum(letter > 'z' for letter in letters)
    return 'letters' if 100 * n_other > len(letters) else 'a-z0-9'


def precision_recall_f1(n_common, n_text, n_reference):
    """Return precision, recall and F1, from 0 to 1, of n_common matches between a text and a reference."""
    precision = n_common / max(n_text, 1)
    recall = n_common / max(n_reference, 1)
    f1 = 2 * precision * recall / (precision + recall) if n_common else 0.0
    return precision, recall, f1


def rouge_n(text, reference, n):
    """Return precision, recall and F1 of the n-grams of two lists of words."""
    text = count_ngrams(text, n)
    reference = count_ngrams(reference, n)
    common = (text & reference).total()             # & is the smaller count of each
    return precision_recall_f1(common, text.total(), reference.total())


def common_subsequence(reference, text):
    """Return the positions in `reference` of its longest common subsequence with `text`, from the end.

    length[i][j] is that of the first i words of the reference and the first j of the text.
    """
    length = [[0] * (len(text) + 1) for _ in range(len(reference) + 1)]
    for i, word in enumerate(reference, start=1):
        for j, other in enumerate(text, start=1):
            if word == other:
                length[i][j] = length[i - 1][j - 1] + 1
            else:
                length[i][j] = max(length[i - 1][j], length[i][j - 1])
    positions = []
    i, j = len(reference), len(text)
    while i and j:
        if reference[i - 1] == text[j - 1]:
            i -= 1
            j -= 1
            positions.append(i)
        elif length[i][j - 1] > length[i - 1][j]:
            j -= 1
        else:                           # of two subsequences of one length, that with earlier words
            i -= 1
    return positions


def rouge_lsum(text, reference):
    """Return precision, recall and F1 of two lists of lines, which are lists of words."""
    unmatched = Counter(word for line in text for word in line)
    unmatched_in_reference = Counter(word for line in reference for word in line)
    n_text = unmatched.total()
    n_reference = unmatched_in_reference.total()
    common = 0
    for line in reference:
        union = set()
        for other in text:
            union.update(common_subsequence(line, other))
        for position in union:
            word = line[position]
            if unmatched[word] and unmatched_in_reference[word]:
                unmatched[word] -= 1
                unmatched_in_reference[word] -= 1
                common += 1
    return precision_recall_f1(common, n_text, n_reference)


def rouge_of_text(text, reference, split=tokenize):
    """Return {measure: (precision, recall, F1)} of a text and its reference. split: a line to its words."""
    lines = [split(line) for line in text.split('\n') if line]
    reference_lines = [split(line) for line in reference.split('\n') if line]
    words = [word for line in lines for word in line]
    reference_words = [word for line in reference_lines for word in line]
    n_common = len(common_subsequence(reference_words, words))
    return {
        'ROUGE-1': rouge_n(words, reference_words, 1),
        'ROUGE-2': rouge_n(words, reference_words, 2),
        'ROUGE-L': precision_recall_f1(n_common, len(words), len(reference_words)),
        'ROUGE-Lsum': rouge_lsum(lines, reference_lines),
    }


def rouge(texts, references, tokenizer='a-z0-9'):
    """Return {measure: mean F1 of the texts in [0, 100]}.

    references: for each text a string. tokenizer: a key of TOKENIZERS. Raises ValueError unless there are
    texts, and as many references.
    """
    if not texts or len(texts) != len(references):
        raise ValueError(f'{len(texts)} texts, {len(references)} references: give each text a reference')
    total = Counter()
    for text, reference in zip(texts, references):
        for measure, (_, _, f1) in rouge_of_text(text, reference, TOKENIZERS[tokenizer]).items():
            total[measure] += f1
    return {measure: 100 * value / len(texts) for measure, value in total.items()}
