"""WikiText-2 (Merity et al. 2017, arXiv:1609.07843): good Wikipedia articles as a stream of tokens.

    python data/wikitext2/prepare.py                                    # words, as published figures count
    python data/wikitext2/prepare.py --tokenizer=bpe --out=wikitext2_bpe
    python data/wikitext2/prepare.py --tokenizer=gpt2 --out=wikitext2_gpt2

The files have words between spaces, and <unk> for rare ones. Published perplexities are per word and count
the end of a line as a word, <eos>: 33,278 types; 2,088,628, 217,646 and 245,569 words in train, val and test.
Other tokenizers read the same text, <unk> included. info['words'] has these numbers: exp(total nll / words)
is the perplexity per word, which compares between tokenizers.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository
from collections import Counter
from typing import Literal

import numpy as np

import configurator
import data
from core.errors import UserError
from data import bpe, gpt2_bpe
from data.archive import unpack
from data.download import fetch
from data.tokenizers import END_OF_LINE, UNKNOWN, Words

# --- options
tokenizer: Literal['words', 'bpe', 'gpt2'] = 'words'    # bpe: learned on train; gpt2: GPT-2's byte pairs
vocab_size = 8000       # ids in total, of bpe
out = 'wikitext2'       # name of the data set

URL = 'https://wikitext.smerity.com/wikitext-2-v1.zip'
MD5 = '542ccefacc6c27f945fb54453812b3cd'
FILES = {'train': 'wikitext-2/wiki.train.tokens', 'val': 'wikitext-2/wiki.valid.tokens',
         'test': 'wikitext-2/wiki.test.tokens'}


def fetch_texts():
    """Return the text of each split, {split: text}, and where it came from, for meta.json."""
    archive = fetch('wikitext2', 'wikitext-2-v1.zip', [URL], md5=MD5)
    members = dict(unpack(archive, list(FILES.values()), max_bytes=1e8))
    texts = {split: members[name].decode('utf-8') for split, name in FILES.items()}
    return texts, [{'url': URL, 'sha256': data.file_hash(archive)}]


def make_tokenizer(train):
    """Return the tokenizer that the options name. Words come with the most frequent first."""
    if tokenizer == 'gpt2':
        return gpt2_bpe.load(gpt2_bpe.fetch_vocabulary())
    if tokenizer == 'bpe':
        return bpe.train(train.splitlines(keepends=True), vocab_size)
    count = Counter({UNKNOWN: 0, END_OF_LINE: train.count('\n')})
    count.update(train.split())
    return Words([word for word, n in count.most_common()])


def count_words(text):
    """Return the number of words of a text, where the end of a line is one."""
    return len(text.split()) + text.count('\n')


if __name__ == '__main__':
    settings = configurator.read(__file__, sys.argv[1:])
    globals().update(settings.options)          # the options above, as given
    if 'vocab_size' in settings.given and tokenizer != 'bpe':
        raise UserError(f'--vocab_size={vocab_size}: only for --tokenizer=bpe')
    texts, source = fetch_texts()
    reader = make_tokenizer(texts['train'])
    splits = {split: {'tokens': np.array(reader.encode(text))} for split, text in texts.items()}
    words = {split: count_words(text) for split, text in texts.items()}
    data.save(out, splits, {'tokens': 'stream'}, {'vocab_size': reader.vocab_size, 'words': words},
              reader.json(), {'tokenizer': tokenizer, 'vocab_size': vocab_size}, source)
    print(f'{data.folder(out)}: a vocabulary of {reader.vocab_size:,}')
    for split, n in words.items():
        n_tokens = len(splits[split]['tokens'])
        print(f'  {split}: {n:,} words, {n_tokens:,} tokens, {n_tokens / n:.4f} per word')
