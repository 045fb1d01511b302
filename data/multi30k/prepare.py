"""Multi30k (Elliott et al. 2016, 2017): 29,000 captions of photographs, in English and translated to French.

    python data/multi30k/prepare.py
    python data/multi30k/prepare.py --tokenizer=t5-small --out=multi30k_t5small     # to fine-tune t5-small

As published: nothing is cleaned, lower-cased or tokenized, so BLEU on test (2016) and test2017 compares with
that of others who leave it so. The BPE, of both languages together, is learned on train alone.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository
from itertools import chain

import configurator
import data
from data import bpe, pretrained
from data.download import fetch
from data.pairs import parallel, save

# --- options
vocab_size = 4000       # ids in total, shared by English and French
tokenizer = ''          # a folder with the tokenizer of a pretrained model; empty: a BPE learned on train
prefix = ''             # text before every English sentence, which names the task, as T5 has it
out = 'multi30k'        # name of the data set

URL = 'https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/'
FILES = {       # split: NAME, and the sha256 of NAME.en.gz and NAME.fr.gz
    'train': ('train',
        'd79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f',
        '622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c'),
    'val': ('val',
        '14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28',
        'ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9'),
    'test': ('test_2016_flickr',
        '611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9',
        '6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90'),
    'test2017': ('test_2017_flickr',
        '76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074',
        '3ba671ceb2299f3304ffafefea7a833d08632fbaf0ba18546f8a2ec2391af496')}


def fetch_pairs():
    """Return the pairs of each split, {split: [(English, French), ...]}, and where they came from."""
    splits = {}
    source = []
    for split, (name, *hashes) in FILES.items():
        files = []
        for language, sha256 in zip(('en', 'fr'), hashes):
            file = f'{name}.{language}.gz'
            files.append(fetch('multi30k', file, [URL + file], sha256))
            source.append({'url': URL + file, 'sha256': data.file_hash(files[-1])})
        splits[split] = list(parallel(*files))
    return splits, source


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)     # the options above, as given
    splits, source = fetch_pairs()
    for split, pairs in splits.items():
        splits[split] = [(prefix + src, tgt) for src, tgt in pairs]
    info = {'prefixes': [prefix] if prefix else []}
    if tokenizer:
        reader = pretrained.read_tokenizer(tokenizer)
        info['vocab_size'] = pretrained.read_config(tokenizer)['vocab_size']    # rows of its embedding
    else:
        reader = bpe.train(chain.from_iterable(splits['train']), vocab_size)
    options = {'vocab_size': vocab_size, 'tokenizer': tokenizer, 'prefix': prefix}
    save(out, splits, reader, ['en', 'fr'], info, options, source)

    train = set(splits['train'])
    repeated = []
    for split in 'val', 'test', 'test2017':
        repeated.append(f'{sum(pair in train for pair in splits[split])} of {split}')
    print(f'{", ".join(repeated)} are in train as well')
