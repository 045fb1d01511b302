"""Pairs of sentences, one the translation of the other: how they are read, held out, cleaned and saved.

    val = list(parallel(Path('val.en'), Path('val.fr')))                    # [('Hi.', 'Salut !'), ...]
    save('mine', {'train': train, 'val': val}, tokenizer, ['en', 'fr'])     # `train` may be a generator

What is val or test is never changed, or BLEU would not be that of others: its ids decode to the very lines
of the files. Train is streamed: of a pair its ids are kept and, to find duplicates, a hash in a set.
"""
import gzip, hashlib, zlib
from array import array
from itertools import chain, pairwise, zip_longest

import numpy as np

import data
from configurator import Refused

END = 1     # the id after a sentence; see data/bpe.py


# --- files

def lines(file):
    """The lines of a UTF-8 file, or of a .gz of one, without a byte order mark and the line ends, LF or CRLF,
    and otherwise as they are. Raises Refused, the line named, if one is not UTF-8."""
    try:
        with gzip.open(file) if file.suffix == '.gz' else open(file, 'rb') as stream:
            for n, line in enumerate(stream, 1):        # bytes end at LF only, text would at U+2028 as well
                line = line.removesuffix(b'\n').removesuffix(b'\r')
                yield line.decode('utf-8-sig' if n == 1 else 'utf-8')
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise Refused(f'{file}: line {n:,}: expected UTF-8 text, found byte 0x{byte:02x}', code=3)
    except (OSError, EOFError, zlib.error) as error:
        raise Refused(f'{file}: {getattr(error, "strerror", None) or error}', code=3)


def parallel(source, target):
    """The pairs (line of `source`, line of `target`) of two files, in their order. Raises Refused, with both
    counts, if one has more lines than the other."""
    for src, tgt in zip_longest(lines(source), lines(target)):
        if src is None or tgt is None:
            found = [f'{file} has {sum(1 for _ in lines(file)):,} lines' for file in (source, target)]
            raise Refused(f'{", ".join(found)}: expected as many, line by line the translation', code=3)
        yield src, tgt


# --- what is held out, what is left out

def hashed(text):
    """64 bits that stand for a sentence, without regard to the white space around it: that some two of ten
    million sentences share theirs has a probability of 3e-6."""
    return int.from_bytes(hashlib.blake2b(text.strip().encode(), digest_size=8).digest(), 'big')


def draw(files, val, test):
    """{'val': pairs, 'test': pairs} of [(source file, target file), ...], without those that have an empty
    side: all pairs of a source sentence or none. `val` and `test` are shares of the different source
    sentences or, from 1 on, their numbers; 0 is no such split. Those of the lowest hashes are drawn, so the
    order of the lines does not matter. Raises Refused unless train keeps a sentence."""
    def whole():
        pairs = chain.from_iterable(parallel(*sides) for sides in files)
        return ((src, tgt) for src, tgt in pairs if src.strip() and tgt.strip())

    order = np.unique(np.fromiter((hashed(src) for src, _ in whole()), np.uint64))
    n_val, n_test = (int(x) if x >= 1 else round(x * len(order)) or int(x > 0) for x in (val, test))
    if min(val, test) < 0 or n_val + n_test >= len(order):
        raise Refused(f'val={val:g} and test={test:g}: expected numbers that leave train some of '
                      f'{len(order):,} source sentences')
    splits, after_val, after_test = {'val': [], 'test': []}, int(order[n_val]), int(order[n_val + n_test])
    for src, tgt in whole():
        if (number := hashed(src)) < after_test:
            splits['val' if number < after_val else 'test'].append((src, tgt))
    return {split: of for split, of in splits.items() if of}


def clean(pairs, held, seen, max_length, max_ratio, count):
    """Those of `pairs` to train on, without the white space around them. `held` are the hashes of the source
    sentences of val and test; `seen`, a set, takes those of the pairs that are kept. Lengths are characters.
    `count`, a Counter, is told how many pairs are kept and, of the others, the first reason that applies."""
    for src, tgt in pairs:
        src, tgt = src.strip(), tgt.strip()
        short, long = sorted([len(src), len(tgt)])
        pair = hashed(f'{src}\n{tgt}')
        reason = ('empty' if not short else 'too long' if long > max_length else
                  'unlike in length' if long > max_ratio * short else
                  'in val or test' if hashed(src) in held else 'duplicate' if pair in seen else 'kept')
        count[reason] += 1
        if reason == 'kept':
            seen.add(pair)
            yield src, tgt


# --- data sets

class Rows:
    """Rows of ids for `data.save`, end to end in one array of 2 or 4 bytes an id: a list has 8 and more."""

    def __init__(self, vocab_size):
        self.flat, self.offsets = array('H' if vocab_size <= 2**16 else 'I'), array('q', [0])

    def append(self, ids):
        self.flat.extend(ids)
        self.offsets.append(len(self.flat))

    def __len__(self):
        return len(self.offsets) - 1

    def __iter__(self):
        flat = np.asarray(self.flat)        # the same memory
        return (flat[start:stop] for start, stop in pairwise(self.offsets))


def save(out, splits, tokenizer, languages, info={}, options={}, source=[]):
    """Save {split: pairs} as ragged `src` and `tgt`, a row the ids of a sentence and the end. Say how many
    pairs there are, how long on average and of how many types. Raises Refused if a split has none."""
    rows, used = {}, set()
    for split, pairs in splits.items():
        fields = rows[split] = {field: Rows(tokenizer.vocab_size) for field in ('src', 'tgt')}
        for pair in pairs:
            for field, ids in zip(fields.values(), tokenizer.encode_all(pair)):
                field.append([*ids, END])
                used.update(ids if split == 'train' else [])
        if not len(fields['src']):
            raise Refused(f'{data.folder(out)}: no pair is left for {split}', code=3)
    info = {'vocab_size': tokenizer.vocab_size, 'languages': languages, 'too_long': 'drop', **info}
    data.save(out, rows, {'src': 'ragged', 'tgt': 'ragged'}, info, tokenizer.json(), options, source)
    number = ' + '.join(f'{len(fields["src"]):,} {split}' for split, fields in rows.items())
    length = ' + '.join(f'{len(field.flat) / len(field):.1f} {language}'
                        for field, language in zip(rows['train'].values(), languages))
    print(f'{data.folder(out)}: {number} pairs; one of train has {length} tokens, ends included; '
          f'{len(used):,} of {tokenizer.vocab_size:,} types occur there')
