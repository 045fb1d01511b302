"""Score a model's summaries by ROUGE, decoded in three ways, beside the first words of the texts.

    python results/summaries.py --out_dir=out/t5_summarize

It prints a table for the test split, and ten summaries. How many first words to copy is chosen on val.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))    # the root of the repository

import configurator  # noqa: E402
from core.checkpoint import build_model, find_checkpoint, load_checkpoint  # noqa: E402
from core.errors import UserError  # noqa: E402
from core.rouge import rouge  # noqa: E402
from core.score import exact_match  # noqa: E402
from data import tokenizers  # noqa: E402
from samples import load_split, translation  # noqa: E402
from samples.translation import text_of, translate_ids  # noqa: E402

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
    for prefix in checkpoint.get('info', {}).get('prefixes', []):
        texts = [text.removeprefix(prefix) for text in texts]
    return sources, texts, references


def first_words(texts, n):
    """Return the first n words of each text."""
    return [' '.join(text.split()[:n]) for text in texts]


def scores(texts, references):
    """Return {column: cell} of a row of the table."""
    values = {name: f'{value:.1f}' for name, value in rouge(texts, references).items()}
    return values | {'exact match': f'{exact_match(texts, references):.1%}'}


def best_n_words(texts, references):
    """Return how many first words of the texts have the best ROUGE-1."""
    rouge_1 = {n: rouge(first_words(texts, n), references)['ROUGE-1'] for n in range(1, 11)}
    return max(rouge_1, key=rouge_1.get)


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)    # the options above, as given
    if not out_dir or shown < 1:
        raise UserError(f'which run? For example: --out_dir=out/t5_summarize; got {out_dir!r}, {shown} shown')
    checkpoint = load_checkpoint(find_checkpoint(out_dir))
    tokenizer = tokenizers.load(checkpoint['tokenizer'])
    net = build_model(checkpoint)
    _, val_texts, val_references = read(checkpoint, tokenizer, 'val')
    n_words = best_n_words(val_texts, val_references)
    sources, texts, references = read(checkpoint, tokenizer, 'test')

    def summarize(beam_size):
        """Return the model's summaries, as sample.py makes them with --beam; 0 draws at random."""
        translation.beam = beam_size
        translation.temperature = 1.0
        translation.top_k = top_k
        return [text_of(tokenizer, ids) for ids in translate_ids(net, sources, seed)]

    summaries = {
        f'the first {n_words} words': first_words(texts, n_words),
        'greedy': summarize(1),
        f'beam of {beam}': summarize(beam),
        f'sampled, top_k {top_k}, seed {seed}': summarize(0),
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
    for i in list(range(0, len(texts), step))[:shown]:
        beginning = ' '.join(texts[i].split()[:20])
        print(f'| {beginning} ... | {references[i]} | {summaries["greedy"][i]} |')
