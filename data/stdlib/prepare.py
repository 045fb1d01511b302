"""The source text of Python's own standard library as a stream of bytes: what every machine with Python has, no download.

    python data/stdlib/prepare.py

Of the files in sorted order every 100th is val, whole, and the rest train; tests and anything installed later are left out.
Another version of Python is another data set, so meta.json keeps the version.
"""
import sys; sys.path.insert(0, __file__.rsplit('data', 1)[0])
import platform, sysconfig
from pathlib import Path

import numpy as np

import configurator, data
from data.tokenizer import Bytes

# of this script
out = 'stdlib'      # name of the data set

SKIP = {'test', 'tests', 'idle_test', 'site-packages', 'dist-packages', '__pycache__', 'lib2to3'}


def sources():
    """The texts of the standard library's modules, in the order of their paths."""
    root = Path(sysconfig.get_path('stdlib'))
    for path in sorted(root.rglob('*.py'), key=lambda p: p.relative_to(root).as_posix()):
        if not SKIP & set(path.relative_to(root).parts):
            try:
                yield path.read_text(encoding='utf-8')      # universal newlines: LF
            except (UnicodeDecodeError, OSError):
                continue                                    # a few declare another encoding


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).knobs)
    texts = list(sources())
    if len(texts) < 100:
        raise configurator.Refused(f'{sysconfig.get_path("stdlib")} has only {len(texts)} source files: is it in a zip?', code=3)
    splits = {'train': [t for i, t in enumerate(texts) if i % 100], 'val': texts[::100]}
    splits = {split: np.frombuffer('\n'.join(t).encode('utf-8'), np.uint8) for split, t in splits.items()}
    data.save(out, {split: {'tokens': ids} for split, ids in splits.items()}, kinds={'tokens': 'stream'},
              info={'vocab_size': 256}, tokenizer=Bytes().json(), options={'python': platform.python_version()})
    print(f'{data.folder(out)}: {len(splits["train"]):,} + {len(splits["val"]):,} bytes of {len(texts)} files')
