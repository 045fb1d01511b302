"""The source text of Python's standard library as a stream of bytes: what every machine with Python has.

    python data/stdlib/prepare.py

Of the files in sorted order every 100th is val, whole, and the rest train; tests and what was installed later
are left out. Another version of Python is another data set, so meta.json keeps the version.
"""
import sys; sys.path.insert(0, __file__.rsplit('/', 3)[0])
import platform, sysconfig
from pathlib import Path

import numpy as np

import configurator, data
from data.tokenizer import Bytes

# --- options
out = 'stdlib'      # name of the data set

SKIP = {'test', 'tests', 'idle_test', 'site-packages', 'dist-packages', '__pycache__', 'lib2to3'}


def sources(root):
    """The texts of the modules below a folder, in the order of their paths."""
    for path in sorted(root.rglob('*.py'), key=lambda path: path.relative_to(root).as_posix()):
        if not SKIP & set(path.relative_to(root).parts):
            try:
                yield path.read_text(encoding='utf-8')      # every end of line becomes LF
            except (UnicodeDecodeError, OSError):
                continue                                    # a few are in another encoding


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).knobs)
    root = Path(sysconfig.get_path('stdlib'))
    texts = list(sources(root))
    if len(texts) < 100:
        raise configurator.Refused(f'{root} has only {len(texts)} source files: is it in a zip?', code=3)
    splits = {'train': [text for i, text in enumerate(texts) if i % 100], 'val': texts[::100]}
    ids = {split: np.frombuffer('\n'.join(of).encode('utf-8'), np.uint8) for split, of in splits.items()}
    data.save(out, {split: {'tokens': tokens} for split, tokens in ids.items()}, {'tokens': 'stream'},
              {'vocab_size': Bytes.vocab_size}, Bytes().json(), {'python': platform.python_version()})
    print(f'{data.folder(out)}: {len(ids["train"]):,} + {len(ids["val"]):,} bytes of {len(texts)} files')
