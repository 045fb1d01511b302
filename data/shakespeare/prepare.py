"""Tiny Shakespeare as a stream of characters, or any text of your own: the first 90% is train, the rest val.

    python data/shakespeare/prepare.py
    python data/shakespeare/prepare.py --input=diary.txt --out=diary      # then train.py --dataset=diary

The text must be UTF-8. A byte order mark is dropped, and CRLF or CR ends a line as LF does.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository
from pathlib import Path

import numpy as np

import configurator
import data
from core.errors import UserError
from data.download import fetch
from data.tokenizers import Characters

# --- options
input = ''              # a UTF-8 text file of your own; empty: Tiny Shakespeare, downloaded
out = 'shakespeare'     # name of the data set

URL = 'https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt'
SHA256 = '86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed'


def read_text(path):
    """Return the text of a file, with LF as the only end of line. Raises UserError if it is not text."""
    try:
        content = path.read_bytes()
        text = content.decode('utf-8-sig')
    except OSError as error:
        raise UserError(f'{path}: {error.strerror}', code=3)
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise UserError(f'{path}: expected UTF-8 text, found byte 0x{byte:02x} at {error.start:,}', code=3)
    text = text.replace('\r\n', '\n').replace('\r', '\n')
    if len(text) < 20:
        raise UserError(f'{path}: expected text, found {len(text)} characters', code=3)
    return text


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)     # the options above, as given
    taken = out == 'shakespeare' or (data.folder(out) / 'prepare.py').exists()
    if not out or input and taken:
        raise UserError(f'--out={out}: give your own text a name of its own, --out=NAME')
    file = Path(input) if input else fetch('shakespeare', 'input.txt', [URL], SHA256)
    text = read_text(file)
    tokenizer = Characters(''.join(sorted(set(text))))
    ids = np.array(tokenizer.encode(text))
    n_train = int(len(ids) * 0.9)
    splits = {'train': {'tokens': ids[:n_train]}, 'val': {'tokens': ids[n_train:]}}
    source = [{'url': input or URL, 'sha256': data.file_hash(file)}]
    data.save(out, splits, {'tokens': 'stream'}, {'vocab_size': tokenizer.vocab_size}, tokenizer.json(),
              {'input': input}, source)
    print(f'{data.folder(out)}: {n_train:,} + {len(ids) - n_train:,} characters, '
          f'{tokenizer.vocab_size} different ones')
