"""Tiny Shakespeare as a stream of characters, or any text of your own: the first 90% is train, the rest val.

    python data/shakespeare/prepare.py
    python data/shakespeare/prepare.py --input=diary.txt --out=diary                    # then --dataset=diary
    python data/shakespeare/prepare.py --input=diary.txt --out=diary --tokenizer=gpt2   # to fine-tune GPT-2

The text must be UTF-8. Byte order marks at the beginning of a line are dropped, and CRLF or CR ends a line as
LF does. What does not fit into memory is for data/text/prepare.py.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository
import re
from pathlib import Path
from typing import Literal

import numpy as np

import configurator
import data
from core.errors import UserError
from data import gpt2_bpe
from data.download import fetch
from data.lines import read_text, unify_newlines
from data.tokenizers import Characters

# --- options
input = ''              # a UTF-8 text file of your own; empty: Tiny Shakespeare, downloaded
tokenizer: Literal['characters', 'gpt2'] = 'characters'     # gpt2: GPT-2's byte pairs
out = 'shakespeare'     # name of the data set

URL = 'https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt'
OWN_NAMES = {'shakespeare': 'characters', 'shakespeare_gpt2': 'gpt2'}   # with a prepare.py, and its tokenizer
SHA256 = '86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed'
PIECE = 2**22           # characters that are encoded at a time
MEMORY = 10             # bytes per byte of text, at most
# Where a text can be cut without changing its ids: anywhere, or before a blank or new line: GPT-2 cuts there.
CUT = {'characters': re.compile(''), 'gpt2': re.compile(r'\S(?=[ \n])')}


def read_stream(path):
    """Return the text of a file, with LF as the only end of line. Raises UserError if it is not text."""
    need = MEMORY * path.stat().st_size if path.is_file() else 0
    if need > data.free_memory('cpu'):
        raise UserError(f'{path}: about {need / 1e9:.1f} GB of memory are needed, which are not free',
                        f'without: python data/text/prepare.py --input={path} --out=NAME', code=5)
    text = unify_newlines(read_text(path))
    text = text.replace('\n\ufeff', '\n')          # a byte order mark that `cat a.txt b.txt` leaves inside
    if len(text) < 20:
        raise UserError(f'{path}: expected text, found {len(text)} characters', code=3)
    return text


def encode(reader, text, begin, end):
    """Return the ids of text[begin:end] as an array; they are those of the whole text.

    Python's list of ids takes 8 bytes and more for each, so it is made of PIECE characters at a time.
    """
    dtype = np.uint16 if reader.vocab_size <= 2**16 else np.uint32
    ids = []
    while begin < end:
        cut = CUT[tokenizer].search(text, begin + PIECE, end)
        stop = cut.end() if cut else end
        ids.append(np.array(reader.encode(text[begin:stop]), dtype))
        begin = stop
    return np.concatenate(ids)


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)     # the options above, as given
    is_own = not input and OWN_NAMES.get(out) == tokenizer
    taken = out in OWN_NAMES or (data.folder(out) / 'prepare.py').exists()
    if not out or taken and not is_own:
        raise UserError(f'--out={out}: give another text or tokenizer a name of its own, --out=NAME')
    file = Path(input) if input else fetch('shakespeare', 'input.txt', [URL], SHA256)
    text = read_stream(file)
    if tokenizer == 'gpt2':
        reader = gpt2_bpe.load(gpt2_bpe.fetch_vocabulary())
    else:
        reader = Characters(''.join(sorted(set(text))))
    n_train = int(len(text) * 0.9)
    splits = {'train': {'tokens': encode(reader, text, 0, n_train)},
              'val': {'tokens': encode(reader, text, n_train, len(text))}}
    source = [{'url': input or URL, 'sha256': data.file_hash(file)}]
    data.save(out, splits, {'tokens': 'stream'}, {'vocab_size': reader.vocab_size}, reader.json(),
              {'input': input, 'tokenizer': tokenizer}, source)
    counts = ' + '.join(f'{len(fields["tokens"]):,}' for fields in splits.values())
    unit = 'characters' if tokenizer == 'characters' else 'tokens'
    print(f'{data.folder(out)}: {counts} {unit}, a vocabulary of {reader.vocab_size:,}')
