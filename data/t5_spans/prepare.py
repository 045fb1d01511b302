"""WikiText-2 as a stream of tokens for span corruption, with the tokenizer of data/t5_tasks.py.

    python data/t5_spans/prepare.py

The model corrupts other spans in every step (data/spans.py), so nothing is corrupted here.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository

import numpy as np

import configurator
import data
from data import t5_tasks

# --- options
out = 't5_spans'        # name of the data set

if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)     # the options above, as given
    tokenizer, info, source = t5_tasks.make_tokenizer()
    texts, _ = t5_tasks.fetch_texts()
    splits = {split: {'tokens': np.array(tokenizer.encode(text))} for split, text in texts.items()}
    data.save(out, splits, {'tokens': 'stream'}, info, tokenizer.json(), {}, source)
    counts = ', '.join(f'{len(fields["tokens"]):,} of {split}' for split, fields in splits.items())
    print(f'{data.folder(out)}: {counts} tokens')
