"""Translate or summarize texts, one on each line, or a split of the data set.

    python sample.py --out_dir=out/multi30k --start='A dog runs.'
    python sample.py --out_dir=out/multi30k --start=FILE:english.txt --out=french.txt
    python sample.py --out_dir=out/multi30k --split=test --beam=4 --bleu
    python sample.py --out_dir=out/t5_summarize --split=test --rouge
    python sample.py --out_dir=out/t5_spans --start='The capital of <extra_id_0> is Paris .'
"""
import functools
import sys
import time
from pathlib import Path

import numpy as np
import torch

import core.rouge
from core import score, search
from core.errors import UserError
from core.facts import duration
from data import spans, tokenizers
from data.lines import split_lines
from samples import device_of, load_split, out_problems, read_prompt, writing

# --- options of translation
start = ''              # lines to translate; FILE:path to read them from a file, - from the standard input
split = ''              # rows of the data set to use without a start; empty: test if there is one, else val
out = ''                # file to write the translations to, one on each line; empty: they are printed
bleu = False            # print BLEU, how similar the translations of a split are to its references, and how
                        # many are equal to theirs
rouge = False           # print ROUGE, the same for summaries
beam = 4                # beam size of the search; 1: greedy; 0: sample at random, by the options below
length_penalty = 0.6    # of beam search; the larger, the more it favours long translations
temperature = 0.8       # below 1 safer, above 1 wilder, 0 always the likeliest token
top_k = 0               # choose among the k likeliest tokens only; 0: among all
top_p = 1.0             # choose among the fewest tokens that together have this probability; 0: the likeliest
min_p = 0.0             # choose among tokens of at least this fraction of the likeliest's probability; 0: all
cache = True            # keep keys and values of earlier tokens; False: the same text, slower, to compare

LIMITS = {'beam': 1000, 'length_penalty': 10, 'temperature': 1e9, 'top_k': 10**9, 'top_p': 1, 'min_p': 1}


def problems(given):
    """Return a line for each mistake in the options, of which `given` were given."""
    lines = out_problems(out)
    if start and (split or bleu or rouge):
        lines.append('start is text of your own; split, bleu and rouge are for rows of the data set')
    unused = [name for name in ('temperature', 'top_k', 'top_p', 'min_p') if name in given]
    if beam and unused:
        lines.append(f'{", ".join(unused)}: only used for sampling at random, --beam=0')
    return lines


def make_sampler(net, seed):
    """Return the function that draws the next token, as the options say: logits (B, V) -> tokens (B,)."""
    device = device_of(net)
    generator = torch.Generator(device).manual_seed(seed)
    return functools.partial(search.sample, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
                             generator=generator)


def translate_ids(net, sources, seed):
    """Translate lists of ids, as the options say. Cut those that are too long; leave empty ones empty."""
    block_size = net.config.block_size
    full = []
    for number, ids in enumerate(sources, start=1):
        if len(ids) > block_size:
            print(f'line {number} has {len(ids)} tokens, it is cut to {block_size}', file=sys.stderr)
            ids = ids[:block_size - 1] + [search.END]
        if len(ids) > 1:
            full.append(ids)
    choose = make_sampler(net, seed)
    translations = iter(search.translate(net, full, beam, length_penalty, choose, cache=cache))
    return [next(translations) if len(ids) > 1 else [] for ids in sources]


def text_of(tokenizer, ids):
    """Return the text of ids, without the end, which the rows of a data set have."""
    return tokenizer.decode([i for i in ids if i != search.END])


def warn_of_prefixes(lines, prefixes):
    """Print a warning for lines without a prefix that names a task of the training, if it had prefixes."""
    unknown = [line for line in lines if not line.startswith(tuple(prefixes))]
    if prefixes and unknown:
        known = ', '.join(repr(prefix) for prefix in prefixes)
        print(f'WARNING: {unknown[0][:40]!r} begins with none of the task prefixes of the training: {known}',
              file=sys.stderr)


def show(net, checkpoint, folder, seed):
    """Print the translations or write them to `out`; print their BLEU, if asked to."""
    tokenizer = tokenizers.load(checkpoint['tokenizer'])
    if tokenizer is None:
        raise UserError('the model has no tokenizer, so it cannot translate text')
    references = []
    if start:
        lines = split_lines(read_prompt(start))
        warn_of_prefixes(lines, checkpoint.get('info', {}).get('prefixes', []))
        sources = [tokenizer.encode(line) + [search.END] for line in lines]
        name = ''
    elif any(key.endswith('.tokens') for key in checkpoint.get('data', {})):
        raise UserError('the model was trained on text alone, so its data set has no sources; give it one, '
                        'such as --start="The capital of <extra_id_0> is Paris ."')
    else:
        pairs = load_split(checkpoint, split, ('src', 'tgt'))
        sources = [pairs.row('src', i) for i in range(pairs.size)]
        references = [text_of(tokenizer, pairs.row('tgt', i)) for i in range(pairs.size)]
        name = pairs.name

    start_time = time.monotonic()
    texts = []
    for ids in translate_ids(net, sources, seed):
        texts.append(tokenizer.decode(ids).replace('\n', ' '))      # line n is the translation of line n
    seconds = time.monotonic() - start_time
    output = ''.join(f'{text}\n' for text in texts)
    if out:
        with writing(out):
            Path(out).write_text(output, encoding='utf-8')
    elif not bleu and not rouge:
        print(output, end='')
    if bleu or rouge:
        print_scores(texts, references, name, seed, seconds)
        if checkpoint['tokenizer']['kind'] == 'unigram':        # which does not know all letters
            print('references are as the tokenizer decodes them, so compare these numbers with no others')


def print_scores(texts, references, name, seed, seconds):
    """Print BLEU and ROUGE, those that were asked for, of the texts of a split `name`."""
    method = f'beam {beam}, length_penalty {length_penalty}'
    if beam == 1:
        method = 'greedy'
    elif beam == 0:
        method = (f'sampled at temperature {temperature}, top_k {top_k}, top_p {top_p}, min_p {min_p}, '
                  f'seed {seed}')
    exact_match = score.exact_match(texts, references)
    facts = f'{method}, at most 2 S + 10 tokens; {duration(seconds)}; exact match {exact_match:.2%}'
    if bleu:
        tokenization = score.choose_tokenizer(references)
        value = score.bleu(texts, references, tokenization)
        print(f'BLEU {value:.2f} of {len(texts):,} lines of {name}, cased, {tokenization}; {facts}')
        if tokenization == 'char':
            print('char: most references have no spaces between words, so each character counts as a word')
    if rouge:
        tokenization = core.rouge.choose_tokenizer(references)
        values = core.rouge.rouge(texts, references, tokenization)
        numbers = ', '.join(f'{measure} {value:.2f}' for measure, value in values.items())
        print(f'{numbers} of {len(texts):,} lines of {name}, F1, words as {tokenization}, lower case, no '
              f'stemming; {facts}')


def preview(net, tokenizer, split):
    """Return the first rows of a split, each as its source, what the model makes of it, and the reference.

    Of text alone: the beginning of its first row without some spans, and those spans.
    """
    if 'tokens' in split.arrays:
        tokens = split.batch(np.array([0]))['tokens'][:, :100]
        src, tgt = spans.corrupt(tokens, net.config.sentinel)
        sources = src.tolist()
        references = tgt.tolist()
    else:
        rows = range(min(3, split.size))
        sources = [split.row('src', i) for i in rows]
        references = [split.row('tgt', i) for i in rows]
    translations = search.translate(net, sources)
    paragraphs = []
    for texts in zip(sources, translations, references):
        paragraphs.append('\n'.join(text_of(tokenizer, ids) for ids in texts))
    return '\n\n'.join(paragraphs)
