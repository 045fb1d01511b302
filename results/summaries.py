"""Score a model's summaries by ROUGE, decoded in three ways, beside the first words of the texts.

    python results/summaries.py --out_dir=out/t5_summarize

It prints a table for the test split, and ten summaries. How many first words to copy is chosen on val.
"""
import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))    # the root of the repository

import torch  # noqa: E402

import configurator  # noqa: E402
from core import search  # noqa: E402
from core.checkpoint import build_model, find_checkpoint, load_checkpoint  # noqa: E402
from core.errors import UserError  # noqa: E402
from core.rouge import rouge  # noqa: E402
from core.score import exact_match  # noqa: E402
from data import tokenizers  # noqa: E402
from samples import load_split  # noqa: E402
from samples.translation import text_of  # noqa: E402

# --- options
out_dir = ''            # the run folder of a model that summarizes
beam = 4                # beam size
top_k = 40              # of sampling, at temperature 1
seed = 1337             # of sampling
shown = 10              # summaries that are printed


def read(checkpoint, tokenizer, split):
    """Return the sources of a split as ids, and as texts without the name of the task, and the references."""
    reader = load_split(checkpoint, split, ('src', 'tgt'))
    sources = [reader.row('src', i) for i in range(reader.size)]
    references = [text_of(tokenizer, reader.row('tgt', i)) for i in range(reader.size)]
    texts = [text_of(tokenizer, ids) for ids in sources]
    for prefix in checkpoint['info'].get('prefixes', []):
        texts = [text.removeprefix(prefix) for text in texts]
    return sources, texts, references


def first_words(texts, n):
    """Return the first n words of each text."""
    return [' '.join(text.split()[:n]) for text in texts]


def scores(texts, references):
    """Return {column: cell} of a row of the table."""
    values = {name: f'{value:.1f}' for name, value in rouge(texts, references).items()}
    return values | {'exact match': f'{exact_match(texts, references):.1%}'}


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)    # the options above, as given
    if not out_dir:
        raise UserError('which run? For example: --out_dir=out/t5_summarize')
    checkpoint = load_checkpoint(find_checkpoint(out_dir))
    tokenizer = tokenizers.load(checkpoint['tokenizer'])
    net = build_model(checkpoint)
    _, val_texts, val_references = read(checkpoint, tokenizer, 'val')
    n_words = max(range(1, 11), key=lambda n: rouge(first_words(val_texts, n), val_references)['ROUGE-1'])
    sources, texts, references = read(checkpoint, tokenizer, 'test')

    def summarize(**options):
        """Return the model's summaries."""
        return [text_of(tokenizer, ids) for ids in search.translate(net, sources, **options)]

    generator = torch.Generator().manual_seed(seed)
    choose = functools.partial(search.sample, temperature=1.0, top_k=top_k, generator=generator)
    summaries = {
        f'the first {n_words} words': first_words(texts, n_words),
        'greedy': summarize(beam=1),
        f'beam of {beam}': summarize(beam=beam),
        f'sampled, top_k {top_k}, seed {seed}': summarize(beam=0, choose=choose),
    }
    rows = {name: scores(found, references) for name, found in summaries.items()}
    columns = list(rows['greedy'])
    print(f'| {len(references)} texts of test | ' + ' | '.join(columns) + ' |')
    print('| --- |' + ' --- |' * len(columns))
    for name, row in rows.items():
        print(f'| {name} | ' + ' | '.join(row.values()) + ' |')
    print()
    print('| text | heading | greedy |')
    print('| --- | --- | --- |')
    step = max(1, len(texts) // shown)
    for i in range(0, step * shown, step):
        beginning = ' '.join(texts[i].split()[:20])
        print(f'| {beginning} ... | {references[i]} | {summaries["greedy"][i]} |')
