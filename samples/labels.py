"""Classify texts: your own, one on each line, or rows of the data set.

    python sample.py --out_dir=out/imdb --start='A film to forget.' --words=3
    python sample.py --out_dir=out/imdb --start=FILE:mail.txt
    python sample.py --out_dir=out/imdb                             # ten texts of the test set
    python sample.py --out_dir=out/imdb --out=test.jsonl            # the probabilities of every test text
"""
import re
import sys

import numpy as np
import torch

from core.errors import UserError
from data import tokenizers
from data.lines import split_lines
from samples import class_names, device_of, load_split, out_problems, random_rows, read_prompt
from samples.classes import classify, save_lines

# --- options of labels
start = ''              # texts to classify, one on each line; FILE:path for those of a file, - for stdin's
words = 0               # words to print of each text of yours, those that attention weighs most
split = ''              # rows of the data set to use without a start; empty: test if there is one, else val
num_samples = 0         # how many of these rows to print; 0: ten
out = ''                # FILE.jsonl, a line of probabilities for every row; empty: some rows are printed

LIMITS = {'words': 1000, 'num_samples': 10_000}
WORD = re.compile(r'\s*\S+')
WIDTH = 70              # characters that are printed of a text


def problems(given):
    """Return a line for each mistake in the options, of which `given` were given."""
    lines = out_problems(out, '.jsonl')
    unused = [name for name in ('split', 'num_samples', 'out') if name in given]
    if start and unused:
        lines.append(f'{", ".join(unused)}: only for rows of the data set; start is text of your own')
    if words and not start:
        lines.append('words: only for text of your own, --start')
    return lines


def likeliest(probabilities, names):
    """Return 'positive 0.9731, negative 0.0269': the five likeliest classes and their probabilities."""
    best = sorted(range(len(names)), key=lambda i: -probabilities[i])[:5]
    return ', '.join(f'{names[i]} {probabilities[i]:.4f}' for i in best)


def shortened(text):
    """Return a text in one line, cut to what can be printed."""
    line = ' '.join(text.split())
    return line if len(line) <= WIDTH else f'{line[:WIDTH - 1]}…'


# --- texts of one's own

def attention_to_tokens(net, text):
    """Return how much attention each token of text (1, T) gets in the last block: a list of T numbers.

    It is the mean over heads and over the tokens that attend; if the model pools the class token alone, only
    that token counts. What the class token itself gets is left out, so the sum is below 1.
    """
    module = net.blocks[-1].attention
    weights = []

    def record(module, arguments, output):
        x, mask, rope = arguments
        q, k, _ = module.queries_keys_values(x, rope)
        weights.append(module.attention_weights(q, k, mask)[0])     # (nh, 1 + n, 1 + n)

    hook = module.register_forward_hook(record)
    net.logits(text)
    hook.remove()
    attention = torch.zeros(text.size(1))
    for i, part in enumerate(weights):          # part i has the tokens i, i + n_parts, ... (Model.parts)
        mean = part.mean(0)                                         # (1 + n, 1 + n)
        row = mean[0] if net.config.pool == 'first' else mean.mean(0)       # (1 + n,), the class token first
        attention[i::len(weights)] = row[1:] / len(weights)
    return attention.tolist()


def heaviest_words(line, tokenizer, weights):
    """Return the `words` words of a text whose tokens get most attention, [(word, sum), ...].

    weights: of the tokens that the model has read. No token is part of two words.
    """
    found = []
    begin = 0
    for word in WORD.findall(line):
        end = begin + len(tokenizer.encode(word))
        found.append((word.strip(), sum(weights[begin:end])))
        begin = end
    found.sort(key=lambda pair: -pair[1])
    return found[:words]


@torch.no_grad()
def classify_lines(net, lines, tokenizer, names):
    """Print the likeliest classes of each line and, if `words` says so, the words with most attention."""
    block_size = net.config.block_size
    device = device_of(net)
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        ids = tokenizer.encode(line)
        if len(ids) > block_size:
            print(f'line {number} has {len(ids)} tokens, the model reads the first {block_size} of them',
                  file=sys.stderr)
            ids = ids[:block_size]
        if not ids:
            print(f'line {number} is empty', file=sys.stderr)
            continue
        text = torch.tensor([ids], device=device)                   # (1, T)
        probabilities = net.logits(text)[0].softmax(0).tolist()
        print(f'{likeliest(probabilities, names)}: {shortened(line)}')
        if words:
            weights = attention_to_tokens(net, text)
            found = heaviest_words(line, tokenizer, weights)
            print('    ' + ', '.join(f'{word} {weight:.3f}' for word, weight in found))


# --- rows of the data set

def print_rows(data_split, rows, tokenizer, true, predicted, probabilities, names):
    """Print some rows: ✗ before a mistake, with the true class; the likeliest classes; the text."""
    for i, row in enumerate(rows):
        ids = data_split.row('text', row)
        text = tokenizer.decode(ids)
        mark = '' if true[i] == predicted[i] else f'✗ is {names[true[i]]}: '
        print(f'{mark}{likeliest(probabilities[i], names)}: {shortened(text)}')


def show(net, checkpoint, folder, seed):
    """Classify the lines of `start`, or rows of a split; print them or write all to a file."""
    tokenizer = tokenizers.load(checkpoint['tokenizer'])
    if tokenizer is None:
        raise UserError('the model has no tokenizer, so it cannot read text')
    names = class_names(checkpoint, net.config.n_class)
    if start:
        lines = split_lines(read_prompt(start))
        classify_lines(net, lines, tokenizer, names)
        return
    data_split = load_split(checkpoint, split, ['text', 'label'], device_of(net), net.config.block_size)
    rows = np.arange(data_split.size)
    if not out:
        rows = random_rows(data_split, num_samples or 10, seed)
    true, predicted, probabilities = classify(net, data_split, rows)
    if out:
        save_lines(out, rows, true, predicted, probabilities, names)
    else:
        print_rows(data_split, rows, tokenizer, true, predicted, probabilities, names)
    n_right = sum(t == p for t, p in zip(true, predicted))
    print(f'{n_right:,} of {len(rows):,} right in {data_split.name}, accuracy {n_right / len(rows):.4f}')
