"""CIFAR-10 (Krizhevsky 2009): 60,000 color images of 32 x 32 pixels in 10 classes, from the binary version.

    python data/cifar10/prepare.py

Of the 50,000 images in the training batches 5,000, always the same, are the validation set; the test batch is
the test set. With `--val=0` all 50,000 are for training, and no best model can be chosen.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository

import numpy as np

import configurator
import data
from core.errors import UserError
from data import images
from data.archive import unpack
from data.download import fetch

# --- options
val = 5000          # images of the validation set, taken from the 50,000; 0: none
out = 'cifar10'     # name of the data set

URL = 'https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz'
MD5 = 'c32a1d4ab5d03f1284b67883e8d87530'
FOLDER = 'cifar-10-batches-bin/'
CLASSES = FOLDER + 'batches.meta.txt'
TRAIN = [f'{FOLDER}data_batch_{i}.bin' for i in range(1, 6)]
TEST = FOLDER + 'test_batch.bin'
# Of the three channels of the 50,000 images, as published.
MEAN = '0.4914 0.4822 0.4465'
STD = '0.2470 0.2435 0.2616'


def read_batch(content, name):
    """Return the images (10000, 3, 32, 32) and labels (10000,) of a batch, uint8.

    A record is a byte for the label and 3,072 for the image. Raises UserError for other content.
    """
    size = len(content)
    if size != 10_000 * 3073:
        raise UserError(f'{name}: expected 10,000 records of 3,073 bytes, found {size:,} bytes', code=3)
    records = np.frombuffer(content, np.uint8).reshape(10_000, 3073)
    label = records[:, 0]
    if label.max() > 9:
        raise UserError(f'{name}: expected labels from 0 to 9, found {label.max()}', code=3)
    return records[:, 1:].reshape(-1, 3, 32, 32), label


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)     # the options above, as given
    rows = images.split_rows(50_000, val)
    archive = fetch('cifar10', 'cifar-10-binary.tar.gz', [URL], md5=MD5)
    members = dict(unpack(archive, [CLASSES, *TRAIN, TEST], max_bytes=2e8))
    classes = members[CLASSES].decode('utf-8', 'replace').split()
    if len(classes) != 10:
        raise UserError(f'{archive}: {CLASSES}: expected 10 names, found {len(classes)}', code=3)
    batches = [read_batch(members[name], f'{archive}: {name}') for name in TRAIN]
    test_image, test_label = read_batch(members[TEST], f'{archive}: {TEST}')
    image = np.concatenate([image for image, label in batches])
    label = np.concatenate([label for image, label in batches])
    images.check_statistics(archive, image, MEAN, STD)

    splits = {}
    for split, indices in rows.items():
        splits[split] = {'image': image[indices], 'label': label[indices]}
    splits['test'] = {'image': test_image, 'label': test_label}
    images.save(out, splits, {'n_class': 10, 'classes': classes}, {'val': val},
                [{'url': URL, 'sha256': data.file_hash(archive)}])
