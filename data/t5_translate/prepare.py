"""Multi30k as a task of T5, with the tokenizer of data/t5_tasks.py.

    python data/t5_translate/prepare.py

data/multi30k_t5 has the same rows and a smaller vocabulary, learned on them alone.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository

import configurator
from data import t5_tasks
from data.pairs import save

# --- options
out = 't5_translate'    # name of the data set

if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)     # the options above, as given
    tokenizer, info, source = t5_tasks.make_tokenizer()
    splits = t5_tasks.translation_pairs()
    info['prefixes'] = [t5_tasks.TRANSLATE]
    save(out, splits, tokenizer, ['en', 'fr'], info, {}, source)
