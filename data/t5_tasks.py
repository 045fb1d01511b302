"""Tasks for one T5. They share a tokenizer, so that a model trained on one can go on with another.

    t5_spans        WikiText-2 as a stream of tokens, whose spans the model corrupts
    t5_translate    'translate English to French: A dog runs.' -> 'Un chien court.', of Multi30k
    t5_summarize    'summarize: ' and the first words of a section -> its heading, of WikiText-2
    t5_mixture      the rows of the last two

Each has a prepare.py in its folder of data/. Here is what they share.
"""
import re
from itertools import chain

from data import bpe
from data.multi30k.prepare import fetch_pairs
from data.spans import N_SENTINEL
from data.wikitext2.prepare import fetch_texts

TRANSLATE = 'translate English to French: '
SUMMARIZE = 'summarize: '
VOCAB_SIZE = 8000       # ids of the tokenizer, sentinels among them

# A line such as ' = = Early life = = ': as many signs as the section is deep, on either side.
HEADING = re.compile(r'(?:= )+(.+?)(?: =)+')


def make_tokenizer():
    """Return a BPE learned on the training texts of all tasks, the `info` that a model needs of it, and where
    the texts came from.
    """
    texts, source = fetch_texts()
    pairs, more_source = fetch_pairs()
    captions = chain.from_iterable(pairs['train'])
    tokenizer = bpe.train(chain(texts['train'].splitlines(keepends=True), captions), VOCAB_SIZE, N_SENTINEL)
    info = {'vocab_size': tokenizer.vocab_size, 'sentinel': tokenizer.vocab_size - 1}
    return tokenizer, info, source + more_source


def translation_pairs():
    """Return {split: [(English with the name of the task, French), ...]}."""
    splits, _ = fetch_pairs()
    for split, pairs in splits.items():
        splits[split] = [(TRANSLATE + english, french) for english, french in pairs]
    return splits


def summary_pairs(max_words):
    """Return {split: [(first words with the name of the task, heading), ...]}."""
    texts, _ = fetch_texts()
    return {split: list(find_summaries(text, max_words)) for split, text in texts.items()}


def find_summaries(text, max_words):
    """Yield (the first words of a section's first paragraph, its heading) from a text of WikiText-2.

    Sections without a paragraph of their own are left out, and headings that have no word but <unk>.
    """
    heading = ''
    for line in text.split('\n'):
        line = line.strip()
        if not line:
            continue
        match = HEADING.fullmatch(line)
        if match:
            heading = match[1]
            continue
        if set(heading.split()) - {'<unk>'}:
            words = line.split()[:max_words]
            yield SUMMARIZE + ' '.join(words), heading
        heading = ''                    # the paragraphs that follow are not the first
