"""IMDB (Maas et al. 2011): 50,000 film reviews, positive or negative; or any labelled texts of your own.

    python data/imdb/prepare.py
    python data/imdb/prepare.py --input=mail.tsv --out=mail             # then train.py --dataset=mail
    python data/imdb/prepare.py --input=mail.csv --text=2 --label=1 --out=mail      # no names in line 1

The official 25,000 reviews of test are test. Their films are not those of train, so val is drawn from the
25,000 of train film by film. If val shared films with train, a model that has learned whether people like
this film would do well on val and not on test, and nobody would see that it overfits.

A file of your own has a row per text, with the name of its class. Of its texts val and test are drawn, but
for one of each class. A text that occurs several times is drawn with all its copies. The BPE is learned on
train alone.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository
from pathlib import Path
from typing import Literal

import configurator
import data
from core.errors import UserError
from data.archive import unpack
from data.download import fetch
from data.texts import Row, hold_out, read_table, save

# --- options
input = ''              # a TSV or CSV file of your own; empty: IMDB, downloaded
text = 'text'           # its column of texts: a name in the first line, or a number from 1 on
label = 'label'         # its column of classes: a name in the first line, or a number from 1 on
header = False          # the first line has names, although both columns are given as numbers
delimiter: Literal['auto', 'tab', 'comma', 'semicolon', 'bar'] = 'auto'     # auto: by the file's name or text
quotes = True           # quotes enclose a column; False: they are text like any other
val = 0.1               # films (or own texts) drawn for val: a fraction or, from 1 on, a number; 0: no val
test = 0.1              # the same for test, of a file of your own
seed = 0                # of what is drawn
vocab_size = 32_000     # ids in total
lowercase = True        # 'Good' and 'good' are one word
out = 'imdb'            # name of the data set

URL = 'https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz'
MD5 = '7c2ac02c03563afcf9b574c7e56c153a'
TABLE_OPTIONS = 'text', 'label', 'header', 'delimiter', 'quotes', 'test'


def check_options(given):
    """Raise UserError for options that cannot be, or have no effect. `given` are the names of those given."""
    unused = [name for name in TABLE_OPTIONS if name in given]
    if unused and not input:
        raise UserError(f'{" and ".join(unused)}: without effect on IMDB, only for --input=FILE')
    taken = out == 'imdb' or (data.folder(out) / 'prepare.py').exists()
    if not out or input and taken:
        raise UserError(f'--out={out}: give your own texts a name of their own, --out=NAME')


def read_imdb(archive):
    """Return {'train': Rows, 'test': Rows}; the group of a Row of train is its film.

    A review's HTML line breaks become new lines.
    """
    patterns = 'aclImdb/*/neg/*.txt', 'aclImdb/*/pos/*.txt', 'aclImdb/train/urls_*.txt'
    members = dict(unpack(archive, patterns, max_bytes=1e9))
    films = {}          # label -> a line for each review of train, from review 0 on: the page of its film
    for label in 'neg', 'pos':
        films[label] = members.pop(f'aclImdb/train/urls_{label}.txt').decode('utf-8').split()
    film_of = {}        # text -> film of its first copy, so that all copies are in one group
    splits = {'train': [], 'test': []}
    for name in sorted(members):
        _, split, label, file = name.split('/')
        text = members[name].decode('utf-8').replace('<br />', '\n').strip()
        group = ''
        if split == 'train':
            number = int(file.split('_')[0])                    # 200_8.txt: review 200, 8 of 10 stars
            group = film_of.setdefault(text, films[label][number])
        splits[split].append(Row(text, label, name, group))
    return splits


if __name__ == '__main__':
    settings = configurator.read(__file__, sys.argv[1:])
    globals().update(settings.options)          # the options above, as given
    check_options(settings.given)
    if input:
        file = Path(input)
        rows = read_table(file, text, label, header, delimiter, quotes)
        splits = hold_out(rows, val, test, seed)
    else:
        file = fetch('imdb', 'aclImdb_v1.tar.gz', [URL], md5=MD5)
        official = read_imdb(file)
        splits = hold_out(official['train'], val, 0, seed)
        splits['test'] = official['test']
    options = {'input': input, 'val': val, 'seed': seed, 'vocab_size': vocab_size, 'lowercase': lowercase}
    if input:
        options |= {name: settings.options[name] for name in TABLE_OPTIONS}
    save(out, splits, vocab_size, lowercase, options, [{'url': input or URL, 'sha256': data.file_hash(file)}])
