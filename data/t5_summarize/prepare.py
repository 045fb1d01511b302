"""Headings as summaries: the first words of a section of WikiText-2, and the heading above it.

    python data/t5_summarize/prepare.py
    python data/t5_summarize/prepare.py --max_words=128 --out=t5_summarize_128

A heading is a summary in a few words, and the text of WikiText-2 has thousands. Many are the same in many
articles ("Reception"), so a small model can learn some of it. The tokenizer is that of
data/t5_tasks.py.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository

import configurator
from core.errors import UserError
from data import t5_tasks
from data.pairs import save

# --- options
max_words = 64          # of a section: what follows is left out
out = 't5_summarize'    # name of the data set

if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)     # the options above, as given
    if max_words < 1:
        raise UserError(f'max_words must be at least 1, got {max_words}')
    tokenizer, info, source = t5_tasks.make_tokenizer()
    splits = t5_tasks.summary_pairs(max_words)
    info['prefixes'] = [t5_tasks.SUMMARIZE]
    save(out, splits, tokenizer, ['text', 'heading'], info, {'max_words': max_words}, source)
