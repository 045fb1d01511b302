"""Sentence pairs, a source and its translation: read from files, held out, cleaned and saved.

    val = list(parallel(Path('val.en'), Path('val.fr')))                    # [('Hi.', 'Salut !'), ...]
    save('mine', {'train': train, 'val': val}, tokenizer, ['en', 'fr'])     # `train` may be a generator

Validation and test pairs are never changed, so that BLEU can be compared with that of others: their ids
decode to the very lines of the files. Train may have millions of pairs, so only their ids are kept, and a
hash of each to find duplicates.
"""
import hashlib
import math
from array import array
from itertools import pairwise, zip_longest

import numpy as np

import data
from core.errors import UserError
from data.lines import read_lines

END = 1     # the id after a sentence; see data/bpe.py


# --- files

def read_pairs(files):
    """Yield the pairs of `files`: (source file, target file), or (file,) with two columns."""
    return columns(*files) if len(files) == 1 else parallel(*files)


def parallel(source, target):
    """Yield the pairs (line of `source`, line of `target`) of two files.

    Raises UserError, with both counts, if one of them has more lines.
    """
    for src, tgt in zip_longest(read_lines(source), read_lines(target)):
        if src is None or tgt is None:
            n_source = sum(1 for _ in read_lines(source))
            n_target = sum(1 for _ in read_lines(target))
            raise UserError(f'{source} has {n_source:,} lines, {target} has {n_target:,} lines: expected '
                            'equally many, each the translation of the other', code=3)
        yield src, tgt


def columns(file):
    """Yield the pairs of a file whose lines are SOURCE TAB TARGET; a third column, a license, is left out.

    Quotes are text. Raises UserError, with the line, for more or fewer columns.
    """
    for n, line in enumerate(read_lines(file), 1):
        found = line.split('\t')
        if not line.strip():
            continue
        if len(found) not in (2, 3):
            raise UserError(f'{file}: line {n:,}: expected SOURCE TAB TARGET, found {len(found)} column(s)',
                            code=3)
        yield found[0], found[1]


# --- what is held out, what is left out

def hash64(text):
    """Return 64 bits that stand for a sentence, without regard to the white space around it.

    Among ten million sentences the probability that two of them share theirs is 3e-6.
    """
    return int.from_bytes(hashlib.blake2b(text.strip().encode(), digest_size=8).digest(), 'big')


def hold_out(files, val, test):
    """Return {'val': pairs, 'test': pairs} of `files`, a list of what `read_pairs` takes.

    `val` and `test` are fractions of the different source sentences or, from 1 on, numbers of them; 0 is no
    such split. A source sentence is held out with all its pairs. Those with the lowest hashes are held out,
    so that the order of the lines does not matter. Pairs with an empty side are left out. Raises UserError
    unless train keeps a sentence.
    """
    hashes = (hash64(src) for src, _ in nonempty_pairs(files))
    hashes = np.unique(np.fromiter(hashes, np.uint64))          # ascending
    n_val = number_of(val, len(hashes))
    n_test = number_of(test, len(hashes))
    if min(val, test) < 0 or n_val + n_test >= len(hashes):
        raise UserError(f'val={val:g} and test={test:g}: expected numbers that leave train some of '
                        f'{len(hashes):,} source sentences')
    end_of_val = int(hashes[n_val])
    end_of_test = int(hashes[n_val + n_test])
    splits = {'val': [], 'test': []}
    for src, tgt in nonempty_pairs(files):
        value = hash64(src)
        if value < end_of_val:
            splits['val'].append((src, tgt))
        elif value < end_of_test:
            splits['test'].append((src, tgt))
    return {split: pairs for split, pairs in splits.items() if pairs}


def nonempty_pairs(files):
    """Yield the pairs of `files` of which neither side is empty."""
    for pair_files in files:
        for src, tgt in read_pairs(pair_files):
            if src.strip() and tgt.strip():
                yield src, tgt


def number_of(amount, n):
    """Return how many of `n` are meant by `amount`: a number or, below 1, a fraction, of at least one."""
    if 0 < amount < 1:
        return max(1, round(amount * n))
    return math.floor(amount)       # below 0 it stays so, which is an error later


def clean(pairs, held_out, seen, max_length, max_ratio, count):
    """Yield the `pairs` to train on, without the white space around them.

    held_out: hashes of the validation and test sources. seen: a set, to which the hashes of the pairs
    that are kept are added. Lengths are in characters. count: a Counter of the pairs that are kept and, of
    the others, of the first reason that applies.
    """
    for src, tgt in pairs:
        src = src.strip()
        tgt = tgt.strip()
        short, long = sorted([len(src), len(tgt)])
        pair = hash64(f'{src}\n{tgt}')
        if short == 0:
            reason = 'empty'
        elif long > max_length:
            reason = 'too long'
        elif long > max_ratio * short:
            reason = 'unlike in length'
        elif hash64(src) in held_out:
            reason = 'in val or test'
        elif pair in seen:
            reason = 'duplicate'
        else:
            reason = 'kept'
        count[reason] += 1
        if reason == 'kept':
            seen.add(pair)
            yield src, tgt


# --- data sets

class TokenRows:
    """Rows of ids for `data.save`, end to end in one array: 2 or 4 bytes per id, of which a list needs 8."""

    def __init__(self, vocab_size):
        self.flat = array('H' if vocab_size <= 2**16 else 'I')
        self.offsets = array('q', [0])

    def append(self, ids):
        self.flat.extend(ids)
        self.offsets.append(len(self.flat))

    def __len__(self):
        return len(self.offsets) - 1

    def __iter__(self):
        flat = np.asarray(self.flat)        # the same memory
        for start, stop in pairwise(self.offsets):
            yield flat[start:stop]


def save(out, splits, tokenizer, languages, info={}, options={}, source=[]):
    """Save {split: pairs} as ragged `src` and `tgt`; a row is the ids of a sentence and the end.

    Prints the number of pairs, their mean length, and how much of the vocabulary train uses. Raises UserError
    if a split has no pairs.
    """
    path = data.folder(out)
    rows = {}
    used = set()
    for split, pairs in splits.items():
        src_rows = TokenRows(tokenizer.vocab_size)
        tgt_rows = TokenRows(tokenizer.vocab_size)
        for pair in pairs:
            src, tgt = tokenizer.encode_all(pair)
            src_rows.append([*src, END])
            tgt_rows.append([*tgt, END])
            if split == 'train':
                used.update(src)
                used.update(tgt)
        if len(src_rows) == 0:
            raise UserError(f'{path}: no pair is left for {split}', code=3)
        rows[split] = {'src': src_rows, 'tgt': tgt_rows}
    info = {'vocab_size': tokenizer.vocab_size, 'languages': languages, 'too_long': 'drop', **info}
    data.save(out, rows, {'src': 'ragged', 'tgt': 'ragged'}, info, tokenizer.json(), options, source)

    counts = ' + '.join(f'{len(fields["src"]):,} {split}' for split, fields in rows.items())
    lengths = []
    for language, field in zip(languages, rows['train'].values()):
        lengths.append(f'{len(field.flat) / len(field):.1f} {language}')
    print(f'{path}: {counts} pairs; a pair of train has {" + ".join(lengths)} tokens on average, ends '
          f'included; {len(used):,} of {tokenizer.vocab_size:,} vocabulary entries occur in train')
