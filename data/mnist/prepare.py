"""MNIST (LeCun, Cortes and Burges, 1998): 70,000 grey pictures of handwritten digits, 28 x 28.

    python data/mnist/prepare.py

Of the 60,000 for training 5,000, always the same, are val; the 10,000 others are test. `--val=0` gives all
60,000 to train, and leaves nothing to choose on.
"""
import sys; sys.path.insert(0, __file__.rsplit('/', 3)[0])
import gzip, math, struct, zlib

import numpy as np

import configurator, data
from configurator import Refused
from data import picture
from data.download import fetch

# --- options
val = 5000      # pictures of val, taken from the 60,000; 0: no such split
out = 'mnist'   # name of the data set

URL = 'https://ossci-datasets.s3.amazonaws.com/mnist/'
FILES = {'train-images-idx3-ubyte.gz': ('f68b3c2dcbeaaa9fbdd348bbdeb94873', (60_000, 28, 28)),
         'train-labels-idx1-ubyte.gz': ('d53e105ee54ea40749a09fcbcd1e9432', (60_000,)),
         't10k-images-idx3-ubyte.gz': ('9fb629c4189551a2d022fa330f9573f3', (10_000, 28, 28)),
         't10k-labels-idx1-ubyte.gz': ('ec29112dd5afa0611ce80d1b7f02629c', (10_000,))}
MEAN, STD = '0.1307', '0.3081'      # of the 60,000


def idx(file, shape):
    """The uint8 array of this shape in a gzipped idx file: two zeros, 8 for uint8, the number of axes, the
    length of each as a big-endian int32, then the values. Raises Refused for other bytes."""
    header = struct.pack(f'>HBB{len(shape)}I', 0, 8, len(shape), *shape)
    size = len(header) + math.prod(shape)
    try:
        with gzip.open(file) as stream:
            blob = stream.read(size + 1)        # a bomb would go on
    except (OSError, EOFError, zlib.error) as error:
        raise Refused(f'{file}: expected a whole gzip file, found: {error}', code=3)
    found = blob[:len(header)]
    if found != header:
        raise Refused(f'{file}: expected the header {header.hex(" ", 4)}, found {found.hex(" ", 4)}', code=3)
    if len(blob) != size:
        found = 'more' if len(blob) > size else f'{len(blob):,}'
        raise Refused(f'{file}: expected {size:,} bytes, found {found}', code=3)
    return np.frombuffer(blob, np.uint8, offset=len(header)).reshape(shape)


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).knobs)
    rows = picture.draw(60_000, val)
    files = [fetch('mnist', name, [URL + name], md5=md5) for name, (md5, _) in FILES.items()]
    arrays = [idx(file, shape) for file, (_, shape) in zip(files, FILES.values())]
    for file, array in zip(files[1::2], arrays[1::2]):
        if array.max() > 9:
            raise Refused(f'{file}: expected labels from 0 to 9, found {array.max()}', code=3)
    image, label, test_image, test_label = arrays
    picture.published(files[0], image[:, None], MEAN, STD)
    splits = {split: {'image': image[of][:, None], 'label': label[of]} for split, of in rows.items()}
    splits['test'] = {'image': test_image[:, None], 'label': test_label}
    picture.save(out, splits, {'n_class': 10, 'classes': [*'0123456789']}, {'val': val},
                 [{'url': URL + file.name, 'sha256': data.digest(file)} for file in files])
