"""MNIST (LeCun, Cortes and Burges 1998): 70,000 gray images of handwritten digits, 28 x 28 pixels.

    python data/mnist/prepare.py

Of the 60,000 training images 5,000, always the same, are the validation set; the 10,000 others are the test
set. With `--val=0` all 60,000 are for training, and no best model can be chosen.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository
import gzip
import math
import struct
import zlib

import numpy as np

import configurator
import data
from core.errors import UserError
from data import images
from data.download import fetch

# --- options
val = 5000      # images of the validation set, taken from the 60,000; 0: none
out = 'mnist'   # name of the data set

URL = 'https://ossci-datasets.s3.amazonaws.com/mnist/'
FILES = {       # file: its md5 and the shape of its array
    'train-images-idx3-ubyte.gz': ('f68b3c2dcbeaaa9fbdd348bbdeb94873', (60_000, 28, 28)),
    'train-labels-idx1-ubyte.gz': ('d53e105ee54ea40749a09fcbcd1e9432', (60_000,)),
    't10k-images-idx3-ubyte.gz': ('9fb629c4189551a2d022fa330f9573f3', (10_000, 28, 28)),
    't10k-labels-idx1-ubyte.gz': ('ec29112dd5afa0611ce80d1b7f02629c', (10_000,))}
# Of the 60,000 images, as published.
MEAN = '0.1307'
STD = '0.3081'


def read_idx(file, shape):
    """Return the uint8 array of this shape in a gzipped idx file. Raises UserError for other content.

    The header is two zeros, 8 for uint8, the number of axes, and the length of each as a big-endian int32.
    """
    header = struct.pack(f'>HBB{len(shape)}I', 0, 8, len(shape), *shape)
    size = len(header) + math.prod(shape)
    try:
        with gzip.open(file) as stream:
            content = stream.read(size + 1)     # no more: it could be endless
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f'{file}: expected a whole gzip file, found: {error}', code=3)
    found = content[:len(header)]
    if found != header:
        raise UserError(f'{file}: expected the header {header.hex(" ", 4)}, found {found.hex(" ", 4)}',
                        code=3)
    if len(content) != size:
        found = 'more' if len(content) > size else f'{len(content):,}'
        raise UserError(f'{file}: expected {size:,} bytes, found {found}', code=3)
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def check_labels(file, label):
    """Raise UserError unless the labels in a file are digits."""
    if label.max() > 9:
        raise UserError(f'{file}: expected labels from 0 to 9, found {label.max()}', code=3)


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)     # the options above, as given
    rows = images.split_rows(60_000, val)
    files = [fetch('mnist', name, [URL + name], md5=md5) for name, (md5, shape) in FILES.items()]
    arrays = [read_idx(file, shape) for file, (md5, shape) in zip(files, FILES.values())]
    image, label, test_image, test_label = arrays
    check_labels(files[1], label)
    check_labels(files[3], test_label)
    image = image[:, None]              # (60000, 1, 28, 28)
    test_image = test_image[:, None]    # (10000, 1, 28, 28)
    images.check_statistics(files[0], image, MEAN, STD)

    splits = {}
    for split, indices in rows.items():
        splits[split] = {'image': image[indices], 'label': label[indices]}
    splits['test'] = {'image': test_image, 'label': test_label}
    source = [{'url': URL + file.name, 'sha256': data.file_hash(file)} for file in files]
    images.save(out, splits, {'n_class': 10, 'classes': list('0123456789')}, {'val': val}, source)
