"""English to French as at WMT 2014: newstest2013 is val, newstest2014 is test, train the corpora you ask for.

    python data/wmt_enfr/prepare.py                                     # WMT's own, millions of pairs
    python data/wmt_enfr/prepare.py --corpora=europarl,newstest         # newstest: those of 2008-2012
    python data/wmt_enfr/prepare.py --corpora=tatoeba --out=tatoeba     # short, everyday sentences
    python data/wmt_enfr/prepare.py --pairs=my.en,my.de --out=mine      # two files of your own, line by line
    python data/wmt_enfr/prepare.py --pairs=my.tsv --out=mine           # or one, SOURCE TAB TARGET per line

Of Tatoeba and of your own files a part is held out, each source sentence with all its pairs. It is val and
test or, where Tatoeba is one corpus of several, tatoeba_val and tatoeba_test (train.py --eval_split).

A pair is left out of train if a side is empty, longer than max_length or longer than max_ratio times the
other, if its source sentence is held out, or if it was there before. What is held out is not changed. The
BPE, of both languages together, is learned on train alone, or that of another data set or run is taken.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository
import html
import re
from collections import Counter
from itertools import chain, islice
from pathlib import Path

import configurator
import data
from core.checkpoint import find_checkpoint, load_checkpoint
from core.errors import UserError
from data import bpe, store, tokenizers
from data.archive import unpack
from data.download import fetch
from data.pairs import clean, hash64, hold_out, read_pairs, save

# --- options
corpora = 'europarl,commentary,crawl'   # any of these, newstest and tatoeba
pairs = ''              # instead of corpora, your own two files: SOURCE,TARGET; or one with two columns
val = 0.02              # source sentences of tatoeba or pairs: a fraction or, from 1 on, a number
test = 0.02             # the same for test
vocab_size = 16_000     # ids in total, shared by both languages
tokenizer = ''          # a data set, run folder or checkpoint whose BPE is taken; empty: one learned on train
max_length = 500        # of a sentence in train, in characters
max_ratio = 3.0         # of the longer to the shorter side of a pair in train, in characters
out = 'wmt_enfr'        # name of the data set

WMT = 'https://www.statmt.org/wmt'
TATOEBA = 'https://www.manythings.org/anki/fra-eng.zip'
NEWSTEST = 'news-test2008 newssyscomb2009 newstest2009 newstest2010 newstest2011 newstest2012'.split()


def both(*stems):
    """Return the names of an English and a French file for each stem."""
    names = []
    for stem in stems:
        names += [f'{stem}.en', f'{stem}.fr']
    return names


CORPORA = {     # name: archive, and the files in it
    'europarl': (f'{WMT}13/training-parallel-europarl-v7.tgz', both('training/europarl-v7.fr-en')),
    'commentary': (f'{WMT}14/training-parallel-nc-v9.tgz', both('training/news-commentary-v9.fr-en')),
    'crawl': (f'{WMT}13/training-parallel-commoncrawl.tgz', both('commoncrawl.fr-en')),
    'newstest': (f'{WMT}14/dev.tgz', both(*[f'dev/{name}' for name in NEWSTEST])),
    'tatoeba': (TATOEBA, ['fra.txt'])}
HELD_OUT = {
    'val': (f'{WMT}14/dev.tgz', both('dev/newstest2013')),
    'test': (f'{WMT}14/test-full.tgz', ['test-full/newstest2014-fren-src.en.sgm',       # the source
                                        'test-full/newstest2014-fren-ref.fr.sgm'])}     # the reference
PUBLISHED = {'val': 3000, 'test': 3003, 'europarl': 2_007_723}      # pairs
FILTERS = {'too long': 'max_length', 'unlike in length': 'max_ratio'}   # why a pair is left out: the option


def check_options(given, names, own_files):
    """Raise UserError for options that cannot be, or have no effect. `given` are the names of those given."""
    if not set(names) <= set(CORPORA) or len(set(names)) < len(names):
        raise UserError(f'--corpora={corpora}: expected some of {",".join(CORPORA)}, each once')
    without_effect = []
    if own_files:
        without_effect = ['corpora']
    elif 'tatoeba' not in names:
        without_effect = ['val', 'test']
    wrong = [name for name in without_effect if name in given]
    if wrong:
        other = f'--pairs={pairs}' if own_files else f'--corpora={corpora}'
        raise UserError(f'{" and ".join(wrong)}: without effect beside {other}')
    if tokenizer and 'vocab_size' in given:
        raise UserError(f'vocab_size: without effect beside --tokenizer={tokenizer}')
    taken = out == 'wmt_enfr' or (data.folder(out) / 'prepare.py').exists()
    if own_files and (len(own_files) > 2 or not out or taken):
        raise UserError(f'--pairs={pairs} --out={out}: expected two files, SOURCE,TARGET, or one with two '
                        'columns, and a new name')


def find_own_files():
    """Return the one or two files that `pairs` names. Their names may have commas."""
    parts = pairs.split(',')
    readings = [[pairs]]
    for i in range(1, len(parts)):
        readings.append([','.join(parts[:i]), ','.join(parts[i:])])
    for names in [*readings, parts]:
        files = [Path(name) for name in names]
        if all(file.exists() for file in files):
            break
    return files            # if no reading has only files that exist: what stands between the commas


def read_tokenizer(name):
    """Return the BPE of a data set, run folder or checkpoint, and the vocabulary size of its models."""
    if (data.folder(name) / 'meta.json').exists():
        found = store.read_meta(name)
        sizes = found['info']
    elif not Path(name).exists() and not name.startswith('hf:'):
        raise UserError(f'--tokenizer={name}: there is no such data set, run folder or checkpoint')
    else:
        found = load_checkpoint(find_checkpoint(name))
        sizes = found['config']
    kind = found['tokenizer'] and found['tokenizer']['kind']
    if kind not in ('bpe', 'unigram'):      # others have no ids for padding and end
        raise UserError(f'--tokenizer={name}: expected a BPE as translation models have it, found {kind}')
    return tokenizers.load(found['tokenizer']), sizes['vocab_size']


def extract(archive, members):
    """Return the files of a corpus, as `read_pairs` takes them, which are written to raw/ of the data set.

    They are read twice, and may be larger than the memory. Raises UserError as `unpack` does.
    """
    raw = data.folder(out) / 'raw'          # the archive may lie in a mirror, which is only to be read
    try:
        raw.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{raw} cannot be written: {error.strerror}', code=4)
    files = []
    for member, content in unpack(archive, members, max_bytes=1e10):
        file = raw / Path(member).name.removesuffix('.sgm')
        file.write_bytes(read_segments(content) if member.endswith('.sgm') else content)
        files.append(file)
    if members == ['fra.txt']:              # English TAB French TAB license
        return [files]
    english = sorted(file for file in files if file.suffix == '.en')
    french = sorted(file for file in files if file.suffix == '.fr')
    return list(zip(english, french))


def read_segments(sgm):
    """Return the segments of an .sgm file, a line each. All are bytes."""
    text = sgm.decode('utf-8', 'surrogateescape')       # other bytes are an error when it is read
    segments = re.findall('<seg[^>]*>(.*?)</seg>', text)
    lines = ''.join(html.unescape(segment) + '\n' for segment in segments)
    return lines.encode('utf-8', 'surrogateescape')


def fetch_files(wanted):
    """Return {name: files of a corpus} and {url: archive} of what is wanted."""
    archives = {}
    for url, members in wanted.values():        # all of them first: what cannot be had is known at once
        dataset = 'tatoeba' if url == TATOEBA else 'wmt_enfr'
        archives[url] = fetch(dataset, url.rsplit('/', 1)[1], [url])
    files = {name: extract(archives[url], members) for name, (url, members) in wanted.items()}
    return files, archives


def read_held_out(files, is_wmt):
    """Return {split: pairs} of what is held out: WMT's own, a part of Tatoeba, a part of your own files."""
    splits = {}
    if is_wmt:
        for split in 'val', 'test':
            [pair_files] = files[split]
            splits[split] = list(read_pairs(pair_files))
            found = len(splits[split])
            if found != PUBLISHED[split]:
                raise UserError(f'{split}: expected {PUBLISHED[split]:,} pairs, found {found:,}', code=3)
    for name in 'tatoeba', 'pairs':
        if name in files:
            for split, sentences in hold_out(files[name], val, test).items():
                splits[f'tatoeba_{split}' if is_wmt else split] = sentences
    return splits


def read_train(corpora_files, held_out, counts):
    """Yield the cleaned pairs of train. `counts` becomes {corpus: Counter of why pairs are left out}."""
    seen = set()
    for name, files in corpora_files.items():
        counts[name] = Counter()
        for pair_files in files:
            yield from clean(read_pairs(pair_files), held_out, seen, max_length, max_ratio, counts[name])


def print_counts(counts):
    """Print what `clean` has counted in each corpus, and which option leaves out over a tenth of it."""
    for name, count in counts.items():
        reasons = ', '.join(f'{n:,} {reason}' for reason, n in count.most_common())
        line = f'{name}: {count.total():,} pairs; {reasons}'
        if count.total() != PUBLISHED.get(name, count.total()):
            line += f'; published are {PUBLISHED[name]:,}'
        print(line)
        for reason, option in FILTERS.items():
            fraction = count[reason] / max(1, count.total())
            limit = globals()[option]
            if fraction > 0.1:
                print(f'  {fraction:.0%} are {reason}, by {option} {limit:g}; to keep more of them: '
                      f'--{option}={3 * limit:g}')


if __name__ == '__main__':
    settings = configurator.read(__file__, sys.argv[1:])
    globals().update(settings.options)          # the options above, as given
    own_files = find_own_files() if pairs else []
    names = [] if pairs else corpora.split(',')
    check_options(settings.given, names, own_files)
    if tokenizer:
        reader, n_id = read_tokenizer(tokenizer)

    is_wmt = names not in ([], ['tatoeba'])     # whether val and test are those of WMT
    wanted = {name: CORPORA[name] for name in names}
    if is_wmt:
        wanted |= HELD_OUT
    files, archives = fetch_files(wanted)
    if own_files:
        files['pairs'] = [own_files]
        archives = {str(file): file for file in own_files}
        for src, tgt in islice(read_pairs(own_files), 1):
            print(f'the first pair: {src[:60]!r}, {tgt[:60]!r}')
    splits = read_held_out(files, is_wmt)
    held_out = set()
    for sentences in splits.values():
        held_out.update(hash64(src) for src, tgt in sentences)

    # Train is read twice, as it may be larger than the memory: to learn the BPE, and to encode.
    train_files = {name: files[name] for name in files if name not in HELD_OUT}
    counts = {}
    texts = chain.from_iterable(read_train(train_files, held_out, counts))
    first = list(islice(texts, 1))
    if tokenizer:
        for _ in texts:                         # only to count what is left out
            pass
    elif first:
        reader = bpe.train(chain(first, texts), vocab_size)
        n_id = reader.vocab_size
    print_counts(counts)
    if not first:
        raise UserError('no pair is left for train', code=3)
    splits = {'train': read_train(train_files, held_out, counts), **splits}
    languages = ['en', 'fr']
    if len(own_files) == 1:
        languages = ['source', 'target']
    elif own_files:
        languages = [file.name.removesuffix('.gz').rsplit('.')[-1] for file in own_files]
    options = {'corpora': corpora, 'pairs': pairs, 'val': val, 'test': test, 'vocab_size': vocab_size,
               'max_length': max_length, 'max_ratio': max_ratio, 'tokenizer': tokenizer}
    source = [{'url': url, 'sha256': data.file_hash(file)} for url, file in archives.items()]
    save(out, splits, reader, languages, {'cleaning': counts, 'vocab_size': n_id}, options, source)
