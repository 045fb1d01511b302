"""The source text of Python's standard library as a stream of bytes: what every machine with Python has.

    python data/stdlib/prepare.py

Of the files in sorted order every 100th is val, as a whole, and the rest train; tests and what was installed
later are left out. Another version of Python is another data set, so meta.json keeps the version.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository
import platform
import sysconfig
from pathlib import Path

import numpy as np

import configurator
import data
from core.errors import UserError
from data.tokenizers import Bytes

# --- options
out = 'stdlib'      # name of the data set

SKIP = {'test', 'tests', 'idle_test', 'site-packages', 'dist-packages', '__pycache__', 'lib2to3'}


def read_sources(root):
    """Yield the texts of the modules below a folder, in the order of their paths."""
    paths = sorted(root.rglob('*.py'), key=lambda path: path.relative_to(root).as_posix())
    for path in paths:
        if SKIP.isdisjoint(path.relative_to(root).parts):
            try:
                yield path.read_text(encoding='utf-8')      # every end of line becomes LF
            except (UnicodeDecodeError, OSError):
                continue                                    # a few are in another encoding


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)     # the options above, as given
    root = Path(sysconfig.get_path('stdlib'))
    texts = list(read_sources(root))
    if len(texts) < 100:
        raise UserError(f'{root} has only {len(texts)} source files: is it in a zip?', code=3)
    train = [text for i, text in enumerate(texts) if i % 100 != 0]
    val = texts[::100]
    splits = {}
    for split, part in ('train', train), ('val', val):
        content = '\n'.join(part).encode('utf-8')
        splits[split] = {'tokens': np.frombuffer(content, np.uint8)}
    data.save(out, splits, {'tokens': 'stream'}, {'vocab_size': Bytes.vocab_size}, Bytes().json(),
              {'python': platform.python_version()})
    counts = ' + '.join(f'{len(fields["tokens"]):,}' for fields in splits.values())
    print(f'{data.folder(out)}: {counts} bytes of {len(texts)} files')
