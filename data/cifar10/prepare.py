"""CIFAR-10 (Krizhevsky, 2009): 60,000 colour pictures of 32 x 32 in 10 classes, from the binary version.

    python data/cifar10/prepare.py

Of the 50,000 in the training batches 5,000, always the same, are val; the test batch is test. `--val=0` gives
all 50,000 to train, and leaves nothing to choose on.
"""
import sys; sys.path.insert(0, __file__.rsplit('/', 3)[0])

import numpy as np

import configurator, data
from configurator import Refused
from data import picture
from data.download import fetch, unpack

# --- options
val = 5000          # pictures of val, taken from the 50,000; 0: no such split
out = 'cifar10'     # name of the data set

URL = 'https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz'
MD5 = 'c32a1d4ab5d03f1284b67883e8d87530'
MEAN, STD = '0.4914 0.4822 0.4465', '0.2470 0.2435 0.2616'      # of the 50,000
CLASSES, *BATCHES = [f'cifar-10-batches-bin/{name}' for name in (
    'batches.meta.txt', *(f'data_batch_{i}.bin' for i in range(1, 6)), 'test_batch.bin')]


def records(blob, name):
    """The images (10000, 3, 32, 32) and labels (10000,) of a batch, uint8. Raises Refused for other bytes."""
    if len(blob) != 10_000 * 3073:
        raise Refused(f'{name}: expected 10,000 records of 3,073 bytes, found {len(blob):,} bytes', code=3)
    rows = np.frombuffer(blob, np.uint8).reshape(10_000, 3073)
    image, label = rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]
    if label.max() > 9:
        raise Refused(f'{name}: expected labels from 0 to 9, found {label.max()}', code=3)
    return image, label


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).knobs)
    rows = picture.draw(50_000, val)
    file = fetch('cifar10', 'cifar-10-binary.tar.gz', [URL], md5=MD5)
    members = dict(unpack(file, [CLASSES, *BATCHES], max_bytes=2e8))
    classes = members[CLASSES].decode('utf-8', 'replace').split()
    if len(classes) != 10:
        raise Refused(f'{file}: {CLASSES}: expected 10 names, found {len(classes)}', code=3)
    *batches, test = [records(members[name], f'{file}: {name}') for name in BATCHES]
    image, label = map(np.concatenate, zip(*batches))
    picture.published(file, image, MEAN, STD)
    splits = {split: {'image': image[of], 'label': label[of]} for split, of in rows.items()}
    splits['test'] = {'image': test[0], 'label': test[1]}
    picture.save(out, splits, {'n_class': 10, 'classes': classes}, {'val': val},
                 [{'url': URL, 'sha256': data.digest(file)}])
