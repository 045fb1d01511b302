"""data/cifar10 and data/mnist: rows against numpy, damage named, from archives made here."""
import gzip
import io
import os
import re
import tarfile

import numpy as np
import pytest

from mirror import prepare, prepare_real, read_arrays, real, shapes
from test_images import moments

CLASSES = 'airplane automobile bird cat deer dog frog horse ship truck'.split()
ARCHIVE, INSIDE = 'cifar-10-binary.tar.gz', 'cifar-10-batches-bin/'
BATCHES = [f'{INSIDE}{name}.bin' for name in [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch']]
CIFAR10 = '0.4914 0.4822 0.4465', '0.2470 0.2435 0.2616'
IDX = {'train-images-idx3-ubyte.gz': (60_000, 28, 28), 'train-labels-idx1-ubyte.gz': (60_000,),
       't10k-images-idx3-ubyte.gz': (10_000, 28, 28), 't10k-labels-idx1-ubyte.gz': (10_000,)}


def make_flat_images(n, shape, mean, std):
    """Return `n` flat images, distinct by a few pixels, whose channels have this mean and std, and labels."""
    images = np.empty((n, *shape), np.uint8)
    rng = np.random.default_rng(0)
    gray = 128 / 255
    for channel, (m, s) in enumerate(zip(map(float, mean.split()), map(float, std.split()))):
        n_gray = (m - m * m - s * s) / (gray - gray * gray) * n     # both moments determine how many images
        n_white = m * n - n_gray * gray                             # are gray and white; the rest is black
        counts = [round(n_gray), round(n_white)]
        values = np.repeat(np.uint8([128, 255, 0]), [*counts, n - sum(counts)])
        images[:, channel] = rng.permutation(values)[:, None, None]
    images[:, 0, 0, :16] ^= np.unpackbits(np.arange(n, dtype='>u2').view(np.uint8).reshape(n, 2), axis=1)
    return images, rng.integers(0, 10, n, np.uint8)


def find_rows(splits, images, labels):
    """Return {split: its rows}, after a proof that train and val have every image once, with its label."""
    index = {image.tobytes(): i for i, image in enumerate(images)}
    found = {split: [index[image.tobytes()] for image in fields['image']]
             for split, fields in splits.items() if split != 'test'}
    assert sorted(sum(found.values(), [])) == list(range(len(images)))
    assert all(np.array_equal(splits[split]['label'], labels[of]) for split, of in found.items())
    return found


# --- CIFAR-10

def cifar(*batches, classes=CLASSES):
    """Return the bytes of an archive that has these batches under their official names."""
    body, names = io.BytesIO(), '\n'.join(classes).encode() + b'\n\n'
    with tarfile.open(fileobj=body, mode='w:gz', compresslevel=1) as tar:
        for name, blob in [(f'{INSIDE}batches.meta.txt', names), *zip(BATCHES, batches)]:
            member = tarfile.TarInfo(name)
            member.size = len(blob)
            tar.addfile(member, io.BytesIO(blob))
    return body.getvalue()


def test_cifar10_becomes_three_splits(prepare, tmp_path):
    images, labels = make_flat_images(50_000, (3, 32, 32), *CIFAR10)
    others, more = make_flat_images(10_000, (3, 32, 32), '0.5 0.4 0.4', '0.3 0.3 0.3')
    others[:, 1, -1, -1] = 77           # in none of `images`, but for the first hundred
    others[:100] = images[:100]
    batches = np.split(np.concatenate([images, others]).reshape(60_000, -1), 6)
    batches = [np.c_[label, batch].tobytes()
               for label, batch in zip(np.split(np.r_[labels, more], 6), batches)]
    text = prepare('cifar10', {'cifar10/' + ARCHIVE: cifar(*batches)})
    splits, meta = read_arrays(tmp_path / 'out')
    assert shapes(splits) == {'train': (45_000, 3, 32, 32), 'val': (5_000, 3, 32, 32),
                              'test': (10_000, 3, 32, 32)}
    found = find_rows(splits, images, labels)
    assert 24_000 < np.mean(found['val']) < 26_000      # drawn from all the batches
    assert np.array_equal(splits['test']['image'], others) and np.array_equal(splits['test']['label'], more)
    twice = sum(i in found['train'] for i in range(100))
    assert 0 < twice < 100 and f'0 of val and {twice} of test are in train as well' in text
    assert '45,000 + 5,000 + 10,000 images of 3 x 32 x 32' in text
    info = meta['info']
    assert (info['n_class'], info['classes'], info['channels'], info['size']) == (10, CLASSES, 3, [32, 32])
    assert np.allclose((info['mean'], info['std']), moments(splits['train']['image']), rtol=1e-9)
    assert meta['options'] == {'val': 5000} and ARCHIVE in meta['source'][0]['url']


EMPTY = bytes(10_000 * 3073)


@pytest.mark.parametrize('body, message', [
    pytest.param(lambda: b'<html>', f'{ARCHIVE}: .*Not a gzipped file', id='page'),
    pytest.param(lambda: cifar(*[EMPTY] * 6)[:-1000], f'{ARCHIVE}: .*ended before', id='cut'),
    pytest.param(lambda: cifar(*[b''] * 5), f'{ARCHIVE}: it has no .*/test_batch.bin', id='member'),
    pytest.param(lambda: cifar(*[EMPTY[1:]] * 6),
                 'data_batch_1.bin: expected 10,000 records of 3,073 bytes, found 30,729,999', id='short'),
    pytest.param(lambda: cifar(*[EMPTY + bytes(10_000)] * 6),
                 'data_batch_1.bin: .*found 30,740,000', id='100'),
    pytest.param(lambda: cifar(EMPTY, *[b''] * 5), 'data_batch_2.bin: .*found 0 bytes', id='empty'),
    pytest.param(lambda: cifar(EMPTY[3073:] + b'\x0a' + EMPTY[:3072], *[b''] * 5),
                 'data_batch_1.bin: expected labels from 0 to 9, found 10', id='label'),
    pytest.param(lambda: cifar(*[b''] * 6, classes=CLASSES[1:]),
                 'meta.txt: expected 10 names, found 9', id='names'),
    pytest.param(lambda: cifar(*[EMPTY] * 6),
                 'mean 0.4914 0.4822 0.4465, found 0.0000 0.0000', id='foreign')])
def test_a_damaged_or_foreign_cifar10_is_an_error(prepare, body, message):
    assert re.search(message, prepare('cifar10', {'cifar10/' + ARCHIVE: body()}, code=3))


@pytest.mark.parametrize('name, val', [('cifar10', 50_000), ('mnist', 60_000), ('mnist', -1)])
def test_a_val_that_leaves_no_train_is_an_error_before_any_download(prepare, name, val):
    assert f'val={val}' in prepare(name, {}, f'--val={val}', code=2)


# --- MNIST

def idx(array, kind=8):
    """Return the bytes of a gzipped idx file."""
    lengths = b''.join(n.to_bytes(4, 'big') for n in array.shape)
    return gzip.compress(bytes([0, 0, kind, array.ndim]) + lengths + array.tobytes(), 1)


def mnist(*parts):
    """Return the four files: of these arrays or bytes, and for None of zeros."""
    files = {}
    for part, (name, shape) in zip(parts, IDX.items()):
        array = np.zeros(shape, np.uint8) if part is None else part
        files[f'mnist/{name}'] = part if isinstance(part, bytes) else idx(array)
    return files


def test_mnist_becomes_three_splits_or_with_no_val_two(prepare, tmp_path):
    images, labels = make_flat_images(60_000, (1, 28, 28), '0.1307', '0.3081')
    others, more = make_flat_images(10_000, (1, 28, 28), '0.2', '0.3')
    files = mnist(images[:, 0], labels, others[:, 0], more)
    for val in 5000, 0:
        text = prepare('mnist', files, f'--val={val}')
        splits, meta = read_arrays(tmp_path / 'out')
        expected = {'train': (60_000 - val, 1, 28, 28), 'val': (val, 1, 28, 28), 'test': (10_000, 1, 28, 28)}
        assert shapes(splits) == {split: shape for split, shape in expected.items() if shape[0]}
        found = find_rows(splits, images, labels)
        assert np.array_equal(splits['test']['image'], others)
        assert np.array_equal(splits['test']['label'], more)
        assert meta['options'] == {'val': val} and ('of val' in text) == bool(val)
    assert found['train'] == list(range(60_000))
    info = meta['info']
    assert (info['n_class'], info['classes'], info['channels'], info['size']) == (
        10, [*'0123456789'], 1, [28, 28])
    assert np.allclose((info['mean'], info['std']), moments(images), rtol=1e-9)
    assert [source['url'].rsplit('/')[-1] for source in meta['source']] == list(IDX)


IMAGES, LABELS = (np.zeros(shape, np.uint8) for shape in [*IDX.values()][:2])


@pytest.mark.parametrize('parts, message', [
    pytest.param([b'<html>', None, None, None], 'train-images.*: expected a whole gzip file', id='page'),
    pytest.param([idx(IMAGES)[:-9], None, None, None],
                 'train-images.*: expected a whole gzip file', id='cut'),
    pytest.param([None, None, IMAGES[:9999], None],
                 't10k-images.*header 00000803 00002710 .* found 00000803 0000270f', id='count'),
    pytest.param([None, LABELS[:, None], None, None],
                 'train-labels.*header 00000801 .* found 00000802', id='axes'),
    pytest.param([None, idx(LABELS, kind=9), None, None], 'train-labels.*found 00000901', id='kind'),
    pytest.param([None, gzip.compress(b''), None, None],
                 'train-labels.*00000801 0000ea60, found *$', id='empty'),
    pytest.param([None, gzip.compress(gzip.decompress(idx(LABELS))[:-1]), None, None],
                 'train-labels.*: expected 60,008 bytes, found 60,007$', id='short'),
    pytest.param([None, gzip.compress(gzip.decompress(idx(LABELS)) + b'xy'), None, None],
                 'train-labels.*: expected 60,008 bytes, found more', id='long'),
    pytest.param([None, LABELS + 10, None, None],
                 'train-labels.*: expected labels from 0 to 9, found 10', id='label'),
    pytest.param([None] * 4, 'train-images.*: expected .* mean 0.1307, found 0.0000', id='foreign')])
def test_a_damaged_or_foreign_mnist_is_an_error(prepare, parts, message):
    assert re.search(message, prepare('mnist', mnist(*parts), code=3), re.M)


# --- the real thing, where DATA_MIRROR has it

@real
def test_the_real_cifar10(prepare_real, tmp_path):
    assert '45,000 + 5,000 + 10,000' in prepare_real('cifar10')
    splits, meta = read_arrays(tmp_path / 'out')
    blobs = {}
    with tarfile.open(f'{os.environ["DATA_MIRROR"]}/cifar10/{ARCHIVE}') as tar:
        for name in BATCHES:
            blobs[name] = np.frombuffer(tar.extractfile(name).read(), np.uint8).reshape(10_000, 3073)
    test, train = blobs.pop(BATCHES[-1]), np.concatenate([*blobs.values()])
    find_rows(splits, train[:, 1:], train[:, 0])
    assert np.array_equal(np.c_[splits['test']['label'], splits['test']['image'].reshape(10_000, -1)], test)
    assert np.bincount(splits['test']['label']).tolist() == [1000] * 10 and meta['info']['classes'] == CLASSES
    # of nine tenths of the images: nearly those of all
    for name, published in zip(('mean', 'std'), CIFAR10):
        assert np.allclose(meta['info'][name], [float(x) for x in published.split()], atol=5e-4)


@real
def test_the_real_mnist(prepare_real, tmp_path):
    assert '60,000 + 10,000' in prepare_real('mnist', '--val=0')
    splits, meta = read_arrays(tmp_path / 'out')
    assert splits['train']['label'][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(splits['train']['label']).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert round(meta['info']['mean'][0], 4) == 0.1307 and round(meta['info']['std'][0], 4) == 0.3081
    zeros, ones = (splits['test']['image'][splits['test']['label'] == k, 0, 10:18, 12:16].mean()
                   for k in (0, 1))
    assert zeros < 60 < 120 < ones          # upright, and of the right labels: a zero is hollow
