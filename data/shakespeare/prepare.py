"""Tiny Shakespeare as a stream of characters, or any text of your own: the first 90% is train, the rest val.

    python data/shakespeare/prepare.py
    python data/shakespeare/prepare.py --input=diary.txt --out=diary                    # then --dataset=diary
    python data/shakespeare/prepare.py --input=diary.txt --out=diary --tokenizer=gpt2   # to fine-tune GPT-2

The text must be UTF-8. A byte order mark is dropped, and CRLF or CR ends a line as LF does. What does not fit
into memory is for data/text/prepare.py.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository
from pathlib import Path
from typing import Literal

import numpy as np

import configurator
import data
from core.errors import UserError
from data import gpt2_bpe
from data.download import fetch
from data.tokenizers import Characters

# --- options
input = ''              # a UTF-8 text file of your own; empty: Tiny Shakespeare, downloaded
tokenizer: Literal['characters', 'gpt2'] = 'characters'     # gpt2: GPT-2's byte pairs
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
    if not out or input and taken or out == 'shakespeare' and tokenizer != 'characters':
        raise UserError(f'--out={out}: give another text or tokenizer a name of its own, --out=NAME')
    file = Path(input) if input else fetch('shakespeare', 'input.txt', [URL], SHA256)
    text = read_text(file)
    if tokenizer == 'gpt2':
        reader = gpt2_bpe.load(gpt2_bpe.fetch_vocabulary())
    else:
        reader = Characters(''.join(sorted(set(text))))
    n_train = int(len(text) * 0.9)
    parts = {'train': text[:n_train], 'val': text[n_train:]}
    splits = {split: {'tokens': np.array(reader.encode(part))} for split, part in parts.items()}
    source = [{'url': input or URL, 'sha256': data.file_hash(file)}]
    data.save(out, splits, {'tokens': 'stream'}, {'vocab_size': reader.vocab_size}, reader.json(),
              {'input': input, 'tokenizer': tokenizer}, source)
    counts = ' + '.join(f'{len(fields["tokens"]):,}' for fields in splits.values())
    print(f'{data.folder(out)}: {counts} {"characters" if tokenizer == "characters" else "tokens"}, '
          f'{reader.vocab_size:,} different ones')
