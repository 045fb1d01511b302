"""Toy tasks that a text-to-text model learns in a minute: copy, reverse or sort some letters.

    python data/toy/prepare.py
    python data/toy/prepare.py --tasks=sort --max_length=16 --out=sort

A source names its task, as T5 has it: "reverse: bca" becomes "acb". Nothing is downloaded. Val and test have
sources that train does not have.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository

import numpy as np

import configurator
import data
from core.errors import UserError
from data.tokenizers import Bytes

# --- options
tasks = 'copy,reverse,sort'     # one or more of them
max_length = 8                  # letters; the shortest source has one
n_train = 150_000               # rows to train on; val and test have 500 each
seed = 1337                     # of the letters
out = 'toy'                     # name of the data set

SOLVE = {       # task: what it makes of a list of letters
    'copy': list,
    'reverse': lambda letters: letters[::-1],
    'sort': sorted,
}
ALPHABET = list('abcdefghijklmnop')
END = 1         # the id after a text; the bytes 0 and 1 do not occur in it


def rows(rng, names):
    """Yield pairs (source, target) of random tasks on random letters, without end."""
    while True:
        task = rng.choice(names)
        letters = list(rng.choice(ALPHABET, rng.integers(1, max_length + 1)))
        target = SOLVE[task](letters)
        yield f'{task}: {"".join(letters)}', ''.join(target)


def encode(pairs):
    """Return the ids of pairs of texts as ragged fields: {'src': rows, 'tgt': rows}."""
    encoder = Bytes()
    src = [[*encoder.encode(source), END] for source, _ in pairs]
    tgt = [[*encoder.encode(target), END] for _, target in pairs]
    return {'src': src, 'tgt': tgt}


if __name__ == '__main__':
    options = configurator.read(__file__, sys.argv[1:]).options
    globals().update(options)
    names = tasks.split(',')
    if not set(names) <= SOLVE.keys() or not 6 <= max_length <= 100 or n_train < 1:
        raise UserError(f'expected tasks of {", ".join(SOLVE)}, max_length from 6 to 100, n_train from 1 on; '
                        f'got {tasks}, {max_length}, {n_train}')
    held_out = {}
    stream = rows(np.random.default_rng(seed), names)
    while len(held_out) < 1000:
        source, target = next(stream)
        if len(source) > 6 + len('copy: '):         # of shorter ones there are few, and train needs them
            held_out[source] = target
    train = []
    while len(train) < n_train:
        pair = next(stream)
        if pair[0] not in held_out:
            train.append(pair)
    pairs = list(held_out.items())
    splits = {'train': encode(train), 'val': encode(pairs[:500]), 'test': encode(pairs[500:])}
    tokenizer = Bytes()
    info = {'vocab_size': tokenizer.vocab_size, 'prefixes': [f'{name}: ' for name in names]}
    kinds = {'src': 'ragged', 'tgt': 'ragged'}
    meta_options = {name: options[name] for name in ('tasks', 'max_length', 'n_train', 'seed')}
    data.save(out, splits, kinds, info, tokenizer.json(), meta_options, [])
    print(f'{data.folder(out)}: {len(train):,} + 500 + 500 rows; {source!r} becomes {target!r}')
