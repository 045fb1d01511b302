"""Tiny Shakespeare as a stream of characters, or any text of your own: the first 90 % is train, the rest val.

    python data/shakespeare/prepare.py
    python data/shakespeare/prepare.py --input=diary.txt --out=diary      # then train.py --dataset=diary

The text must be UTF-8. A byte order mark is dropped, and CRLF or CR ends a line as LF does.
"""
import sys; sys.path.insert(0, __file__.rsplit('/', 3)[0])
from pathlib import Path

import numpy as np

import configurator, data
from configurator import Refused
from data.download import fetch
from data.tokenizer import Characters

# --- options
input = ''              # a UTF-8 text file of your own; empty: Tiny Shakespeare, downloaded
out = 'shakespeare'     # name of the data set

URL = 'https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt'
SHA256 = '86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed'


def text_of(path):
    """The text of a file, with one meaning for every end of line. Raises Refused if it is not text."""
    try:
        raw = Path(path).read_bytes()
        text = raw.decode('utf-8-sig').replace('\r\n', '\n').replace('\r', '\n')
    except OSError as error:
        raise Refused(f'{path}: {error.strerror}', code=3)
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        raise Refused(f'{path}: expected UTF-8 text, found byte 0x{byte:02x} at {error.start:,}', code=3)
    if len(text) < 20:
        raise Refused(f'{path}: expected text, found {len(text)} characters', code=3)
    return text


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).knobs)
    if not out or input and (out == 'shakespeare' or (data.folder(out) / 'prepare.py').exists()):
        raise Refused(f'--out={out}: give your own text a name of its own, --out=NAME')
    file = Path(input) if input else fetch('shakespeare', 'input.txt', [URL], SHA256)
    text = text_of(file)
    tokenizer = Characters(''.join(sorted(set(text))))
    ids = np.array(tokenizer.encode(text))
    cut = int(len(ids) * 0.9)
    data.save(out, {'train': {'tokens': ids[:cut]}, 'val': {'tokens': ids[cut:]}}, {'tokens': 'stream'},
              {'vocab_size': tokenizer.vocab_size}, tokenizer.json(), {'input': input},
              [{'url': input or URL, 'sha256': data.digest(file)}])
    print(f'{data.folder(out)}: {cut:,} + {len(ids) - cut:,} characters of {tokenizer.vocab_size} kinds')
