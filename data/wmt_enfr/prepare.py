"""English to French as at WMT 2014: newstest2013 is val, newstest2014 is test, train the corpora you ask for.

    python data/wmt_enfr/prepare.py                                     # WMT's own, millions of pairs
    python data/wmt_enfr/prepare.py --corpora=europarl,newstest         # newstest: those of 2008-2012
    python data/wmt_enfr/prepare.py --corpora=tatoeba --out=tatoeba     # short, everyday sentences
    python data/wmt_enfr/prepare.py --pairs=my.en,my.de --out=mine      # two files of your own, line by line

Of Tatoeba and of your own files a share is held out, all pairs of a source sentence or none. It is val and
test or, where Tatoeba is one corpus of several, tatoeba_val and tatoeba_test (train.py --eval_split).

A pair is left out of train if a side is empty, longer than max_length or longer than max_ratio times the
other, if its source sentence is held out, or if it was there before. What is held out stays as it is. The
byte pairs, of both languages together, are learnt on train alone.
"""
import sys; sys.path.insert(0, __file__.rsplit('/', 3)[0])
import html, re
from collections import Counter
from itertools import chain
from pathlib import Path

import configurator, data
from configurator import Refused
from data import bpe
from data.download import fetch, unpack
from data.pairs import clean, draw, hashed, parallel, save

# --- options
corpora = 'europarl,commentary,crawl'   # any of these, newstest and tatoeba
pairs = ''              # instead of corpora, your own two files: SOURCE,TARGET
val = 0.02              # share of the source sentences of tatoeba or pairs or, from 1 on, their number
test = 0.02             # the same for test
vocab_size = 16_000     # ids, all told; both languages share them
max_length = 500        # of a sentence in train, characters
max_ratio = 3.0         # of the longer to the shorter side of a pair in train, in characters
out = 'wmt_enfr'        # name of the data set


def sides(*stems):
    return [f'{stem}.{language}' for stem in stems for language in ('en', 'fr')]


WMT = 'https://www.statmt.org/wmt'
CORPORA = {     # where each is, and in which members
    'europarl': (f'{WMT}13/training-parallel-europarl-v7.tgz', sides('training/europarl-v7.fr-en')),
    'commentary': (f'{WMT}14/training-parallel-nc-v9.tgz', sides('training/news-commentary-v9.fr-en')),
    'crawl': (f'{WMT}13/training-parallel-commoncrawl.tgz', sides('commoncrawl.fr-en')),
    'newstest': (f'{WMT}14/dev.tgz', sides('dev/news-test2008', 'dev/newssyscomb2009', 'dev/newstest2009',
                                           'dev/newstest2010', 'dev/newstest2011', 'dev/newstest2012')),
    'tatoeba': ('https://www.manythings.org/anki/fra-eng.zip', ['fra.txt'])}
HELD = {
    'val': (f'{WMT}14/dev.tgz', sides('dev/newstest2013')),
    'test': (f'{WMT}14/test-full.tgz', ['test-full/newstest2014-fren-src.en.sgm',       # the source
                                        'test-full/newstest2014-fren-ref.fr.sgm'])}     # the reference
PUBLISHED = {'val': 3000, 'test': 3003}     # pairs
EUROPARL = 2_007_723                        # of the whole corpus


def plain(member, blob):
    """{file name: bytes} of a member as files of lines: an .sgm has segments, fra.txt English TAB French TAB
    licence. Raises Refused if a line of that has no French."""
    name = Path(member).name
    if name == 'fra.txt':
        rows = [line.split(b'\t') for line in blob.splitlines()]
        if wrong := [n for n, row in enumerate(rows, 1) if len(row) < 2]:
            raise Refused(f'{name}: line {wrong[0]:,}: expected English TAB French', code=3)
        return {file: b''.join(row[i] + b'\n' for row in rows) for i, file in enumerate(sides('tatoeba'))}
    if name.endswith('.sgm'):
        text = blob.decode('utf-8', 'surrogateescape')      # what is not UTF-8 is refused when it is read
        lines = [html.unescape(segment) + '\n' for segment in re.findall('<seg[^>]*>(.*?)</seg>', text)]
        return {name.removesuffix('.sgm'): ''.join(lines).encode('utf-8', 'surrogateescape')}
    return {name: blob}


def extract(archive, members):
    """The files [(English, French), ...] of a corpus, written beside its archive: read twice, they need no
    memory. Raises Refused as `unpack` does."""
    files = []
    for member, blob in unpack(archive, members, max_bytes=1e10):
        for name, text in plain(member, blob).items():
            files.append(archive.parent / name)
            files[-1].write_bytes(text)
    return list(zip(*(sorted(file for file in files if file.suffix == side) for side in ('.en', '.fr'))))


if __name__ == '__main__':
    settings = configurator.read(__file__, sys.argv[1:])
    globals().update(settings.knobs)
    own = [Path(file) for file in pairs.split(',')] if pairs else []
    asked = [] if own else corpora.split(',')
    if not {*asked} <= {*CORPORA} or len({*asked}) < len(asked):
        raise Refused(f'--corpora={corpora}: expected some of {",".join(CORPORA)}, each once')
    idle = ['corpora'] if own else ['val', 'test'] if 'tatoeba' not in asked else []
    if given := [name for name in idle if name in settings.given]:
        raise Refused(f'{" and ".join(given)}: of no use with --{"pairs" if own else "corpora"}='
                      f'{pairs or corpora}')
    if own and (len(own) != 2 or not out or out == 'wmt_enfr' or (data.folder(out) / 'prepare.py').exists()):
        raise Refused(f'--pairs={pairs} --out={out}: expected two files, SOURCE,TARGET, and a new name')
    news = asked not in ([], ['tatoeba'])
    where, archives = {name: CORPORA[name] for name in asked} | (HELD if news else {}), {}
    for name, (url, _) in where.items():        # all of them first: what cannot be had is known at once
        dataset = 'tatoeba' if name == 'tatoeba' else 'wmt_enfr'
        archives[url] = fetch(dataset, url.rsplit('/', 1)[1], [url])
    files = {name: extract(archives[url], members) for name, (url, members) in where.items()}
    files |= {'pairs': [own]} if own else {}
    splits = {}
    for split, number in PUBLISHED.items() if news else ():
        splits[split] = list(parallel(*files.pop(split)[0]))
        if len(splits[split]) != number:
            raise Refused(f'{split}: expected {number:,} pairs, found {len(splits[split]):,}', code=3)
    if drawn := files.get('tatoeba') or files.get('pairs'):
        splits |= {'tatoeba_' * news + split: of for split, of in draw(drawn, val, test).items()}
    held, counts = {hashed(src) for of in splits.values() for src, _ in of}, {}

    def train():
        """The pairs of train, read anew each time: once to learn from, once to encode."""
        seen = set()
        for name, corpus in files.items():
            every, counts[name] = chain.from_iterable(parallel(*both) for both in corpus), Counter()
            yield from clean(every, held, seen, max_length, max_ratio, counts[name])

    tokenizer = bpe.train(chain.from_iterable(train()), vocab_size)
    for name, count in counts.items():
        told = ', '.join(f'{n:,} {what}' for what, n in count.most_common())
        print(f'{name}: {count.total():,} pairs; {told}'
              + f'; published are {EUROPARL:,}' * (name == 'europarl' and count.total() != EUROPARL))
    languages = [file.name.removesuffix('.gz').rsplit('.')[-1] for file in own] or ['en', 'fr']
    options = {'corpora': corpora, 'pairs': pairs, 'val': val, 'test': test, 'vocab_size': vocab_size,
               'max_length': max_length, 'max_ratio': max_ratio}
    archives |= {str(file): file for file in own}
    source = [{'url': url, 'sha256': data.digest(file)} for url, file in archives.items()]
    save(out, {'train': train(), **splits}, tokenizer, languages, {'cleaning': counts}, options, source)
