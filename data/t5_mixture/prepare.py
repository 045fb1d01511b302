"""Translation and summaries in one data set: the prefix of a source says what to do with it.

    python data/t5_mixture/prepare.py                       # half of the rows of train translate
    python data/t5_mixture/prepare.py --translate=0.8 --out=t5_mixture_80

The task that has too few rows for its fraction of train has each of them several times. val and test have
every row of both tasks once; test_translate and test_summarize are those of one task.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository
from itertools import cycle, islice

import configurator
from core.errors import UserError
from data import t5_tasks
from data.pairs import save

# --- options
translate = 0.5         # fraction of the rows of train that translate; the others summarize
max_words = 64          # of a section to summarize: what follows is left out
out = 't5_mixture'      # name of the data set


def mix(first, second, fraction):
    """Return rows of two lists, a `fraction` of them from the first, every row at least once.

    The list that is too short for its fraction is repeated.
    """
    n = max(len(first) / fraction, len(second) / (1 - fraction))        # rows of the mixture
    n_first = round(n * fraction)
    return [*islice(cycle(first), n_first), *islice(cycle(second), round(n) - n_first)]


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)     # the options above, as given
    if not 0 < translate < 1 or max_words < 1:
        raise UserError('expected a fraction translate between 0 and 1 and max_words of at least 1, '
                        f'got {translate} and {max_words}')
    tokenizer, info, source = t5_tasks.make_tokenizer()
    translations = t5_tasks.translation_pairs()
    summaries = t5_tasks.summary_pairs(max_words)
    splits = {
        'train': mix(translations['train'], summaries['train'], translate),
        'val': translations['val'] + summaries['val'],
        'test': translations['test'] + summaries['test'],
        'test_translate': translations['test'],
        'test_summarize': summaries['test'],
    }
    info['prefixes'] = [t5_tasks.TRANSLATE, t5_tasks.SUMMARIZE]
    save(out, splits, tokenizer, ['source', 'target'], info,
         {'translate': translate, 'max_words': max_words}, source)
