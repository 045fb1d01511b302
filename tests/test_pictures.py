"""Image data sets from archives and pictures made here: rows against numpy, damage refused by name."""
import gzip, hashlib, io, os, re, shutil, tarfile, threading, weakref

import numpy as np
import pytest
import torch
from PIL import Image

import data
from configurator import Refused
from data import picture

CLASSES = 'airplane automobile bird cat deer dog frog horse ship truck'.split()
ARCHIVE, INSIDE = 'cifar-10-binary.tar.gz', 'cifar-10-batches-bin/'
BATCHES = [f'{INSIDE}{name}.bin' for name in [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch']]
CIFAR10 = '0.4914 0.4822 0.4465', '0.2470 0.2435 0.2616'
IDX = {'train-images-idx3-ubyte.gz': (60_000, 28, 28), 'train-labels-idx1-ubyte.gz': (60_000,),
       't10k-images-idx3-ubyte.gz': (10_000, 28, 28), 't10k-labels-idx1-ubyte.gz': (10_000,)}
real = pytest.mark.skipif('DATA_MIRROR' not in os.environ,
                          reason='DATA_MIRROR is not set: no real data to test on')


def elsewhere():
    """Patched into a child: downloads are kept in another folder than the repository's."""
    from data import download
    download.__file__ = os.environ['ELSEWHERE'] + '/data/download.py'


@pytest.fixture
def prepare(launch, tmp_path):
    """prepare('mnist', {file: bytes}, ...): what the script says, with these files in its mirror."""
    def prepare(name, files, *argv, code=0):
        (tmp_path / 'mirror' / name).mkdir(parents=True, exist_ok=True)
        for file, body in files.items():
            (tmp_path / 'mirror' / name / file).write_bytes(body)
        sums = [f'{hashlib.sha256(body).hexdigest()}  {name}/{file}\n' for file, body in files.items()]
        (tmp_path / 'mirror/SHA256SUMS').write_text(''.join(sums), encoding='utf-8')
        found, text = launch(f'data/{name}/prepare.py', f'--out={tmp_path}/out', *argv, env={
            'DATA_MIRROR': f'{tmp_path}/mirror', 'PATCH': 'test_pictures.elsewhere',
            'ELSEWHERE': str(tmp_path)})
        assert found == code and 'Traceback' not in text, text
        assert code == 0 or not (tmp_path / 'out').exists()
        return text
    yield prepare
    for large in 'mirror', 'data', 'out':
        shutil.rmtree(tmp_path / large, ignore_errors=True)


def arrays(path):
    """({split: {field: array}}, meta) of a data set, its hashes verified."""
    meta = data.check(str(path), hashes=True)
    return {split: {field: np.fromfile(f'{path}/{split}.{field}.bin', spec['dtype']).reshape(spec['shape'])
                    for field, spec in fields.items()} for split, fields in meta['splits'].items()}, meta


def shapes(splits, field='image'):
    return {split: fields[field].shape for split, fields in splits.items()}


def moments(images):
    """Mean and std of each channel as numpy has them."""
    channels = [channel / 255 for channel in images.swapaxes(0, 1)]
    return [channel.mean() for channel in channels], [channel.std() for channel in channels]


def made(n, shape, mean, std):
    """`n` flat pictures, told apart by a few pixels, whose mean and std per channel round to these."""
    images, rng, grey = np.empty((n, *shape), np.uint8), np.random.default_rng(0), 128 / 255
    for channel, (m, s) in enumerate(zip(map(float, mean.split()), map(float, std.split()))):
        some = (m - m * m - s * s) / (grey - grey * grey)       # the shares of grey and white follow from
        white = m - some * grey                                 # both moments, the rest is black
        values = np.repeat(np.uint8([128, 255, 0]), [a := round(some * n), b := round(white * n), n - a - b])
        images[:, channel] = rng.permutation(values)[:, None, None]
    images[:, 0, 0, :16] ^= np.unpackbits(np.arange(n, dtype='>u2').view(np.uint8).reshape(n, 2), axis=1)
    return images, rng.integers(0, 10, n, np.uint8)


def rows(splits, images, labels):
    """{split: its rows} after a proof that train and val have every picture once, with its own label."""
    index = {image.tobytes(): i for i, image in enumerate(images)}
    found = {split: [index[image.tobytes()] for image in fields['image']]
             for split, fields in splits.items() if split != 'test'}
    assert sorted(sum(found.values(), [])) == list(range(len(images)))
    assert all(np.array_equal(splits[split]['label'], labels[of]) for split, of in found.items())
    return found


# --- CIFAR-10

def cifar(*batches, classes=CLASSES):
    """The bytes of an archive that has these batches under their official names."""
    body, names = io.BytesIO(), '\n'.join(classes).encode() + b'\n\n'
    with tarfile.open(fileobj=body, mode='w:gz', compresslevel=1) as tar:
        for name, blob in [(f'{INSIDE}batches.meta.txt', names), *zip(BATCHES, batches)]:
            member = tarfile.TarInfo(name)
            member.size = len(blob)
            tar.addfile(member, io.BytesIO(blob))
    return body.getvalue()


def test_cifar10_becomes_three_splits(prepare, tmp_path):
    images, labels = made(50_000, (3, 32, 32), *CIFAR10)
    others, more = made(10_000, (3, 32, 32), '0.5 0.4 0.4', '0.3 0.3 0.3')
    others[:, 1, -1, -1] = 77           # in none of `images`, but for the first hundred
    others[:100] = images[:100]
    batches = np.split(np.concatenate([images, others]).reshape(60_000, -1), 6)
    batches = [np.c_[label, batch].tobytes()
               for label, batch in zip(np.split(np.r_[labels, more], 6), batches)]
    text = prepare('cifar10', {ARCHIVE: cifar(*batches)})
    splits, meta = arrays(tmp_path / 'out')
    assert shapes(splits) == {'train': (45_000, 3, 32, 32), 'val': (5_000, 3, 32, 32),
                              'test': (10_000, 3, 32, 32)}
    found = rows(splits, images, labels)
    assert 24_000 < np.mean(found['val']) < 26_000      # drawn from all the batches
    assert np.array_equal(splits['test']['image'], others) and np.array_equal(splits['test']['label'], more)
    twice = sum(i in found['train'] for i in range(100))
    assert 0 < twice < 100 and f'0 of val and {twice} of test are in train as well' in text
    assert '45,000 + 5,000 + 10,000 pictures of 3 x 32 x 32' in text
    info = meta['info']
    assert (info['n_class'], info['classes'], info['channels'], info['size']) == (10, CLASSES, 3, [32, 32])
    assert np.allclose((info['mean'], info['std']), moments(splits['train']['image']), rtol=1e-9)
    assert meta['options'] == {'val': 5000} and ARCHIVE in meta['source'][0]['url']


EMPTY = bytes(10_000 * 3073)


@pytest.mark.parametrize('body, words', [
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
def test_a_damaged_or_foreign_cifar10_is_refused(prepare, body, words):
    assert re.search(words, prepare('cifar10', {ARCHIVE: body()}, code=3))


@pytest.mark.parametrize('name, val', [('cifar10', 50_000), ('mnist', 60_000), ('mnist', -1)])
def test_a_val_that_leaves_no_train_is_refused_before_any_download(prepare, name, val):
    assert f'val={val}' in prepare(name, {}, f'--val={val}', code=2)


# --- MNIST

def idx(array, kind=8):
    """The bytes of a gzipped idx file."""
    lengths = b''.join(n.to_bytes(4, 'big') for n in array.shape)
    return gzip.compress(bytes([0, 0, kind, array.ndim]) + lengths + array.tobytes(), 1)


def mnist(*parts):
    """The four files: of these arrays or bytes, and for None of zeros."""
    parts = [np.zeros(shape, np.uint8) if part is None else part for part, shape in zip(parts, IDX.values())]
    return {name: part if isinstance(part, bytes) else idx(part) for name, part in zip(IDX, parts)}


def test_mnist_becomes_three_splits_or_with_no_val_two(prepare, tmp_path):
    images, labels = made(60_000, (1, 28, 28), '0.1307', '0.3081')
    others, more = made(10_000, (1, 28, 28), '0.2', '0.3')
    files = mnist(images[:, 0], labels, others[:, 0], more)
    for val in 5000, 0:
        text = prepare('mnist', files, f'--val={val}')
        splits, meta = arrays(tmp_path / 'out')
        expected = {'train': (60_000 - val, 1, 28, 28), 'val': (val, 1, 28, 28), 'test': (10_000, 1, 28, 28)}
        assert shapes(splits) == {split: shape for split, shape in expected.items() if shape[0]}
        found = rows(splits, images, labels)
        assert np.array_equal(splits['test']['image'], others)
        assert np.array_equal(splits['test']['label'], more)
        assert meta['options'] == {'val': val} and ('of val' in text) == bool(val)
    assert found['train'] == list(range(60_000))
    info = meta['info']
    assert (info['n_class'], info['classes'], info['channels'], info['size']) == (
        10, [*'0123456789'], 1, [28, 28])
    assert np.allclose((info['mean'], info['std']), moments(images), rtol=1e-9)
    assert [source['url'].rsplit('/')[-1] for source in meta['source']] == list(IDX)


PICTURES, LABELS = (np.zeros(shape, np.uint8) for shape in [*IDX.values()][:2])


@pytest.mark.parametrize('parts, words', [
    pytest.param([b'<html>', None, None, None], 'train-images.*: expected a whole gzip file', id='page'),
    pytest.param([idx(PICTURES)[:-9], None, None, None],
                 'train-images.*: expected a whole gzip file', id='cut'),
    pytest.param([None, None, PICTURES[:9999], None],
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
def test_a_damaged_or_foreign_mnist_is_refused(prepare, parts, words):
    assert re.search(words, prepare('mnist', mnist(*parts), code=3), re.M)


# --- what they share

def test_a_draw_is_a_partition_and_always_the_same():
    rows = picture.draw(1000, 100, 50)
    assert {split: len(of) for split, of in rows.items()} == {'train': 850, 'val': 100, 'test': 50}
    assert sorted(np.concatenate([*rows.values()])) == list(range(1000))
    assert all(np.array_equal(of, picture.draw(1000, 100, 50)[split]) for split, of in rows.items())
    assert np.array_equal(rows['val'], picture.draw(1000, 100)['val'])          # whatever else is drawn
    assert list(picture.draw(10, 0)) == ['train'] and len(np.unique(np.diff(rows['val']))) > 5


@pytest.mark.parametrize('n', [1, 999, 1000, 2345])
def test_statistics_are_numpys(n):
    images = (np.random.default_rng(n).integers(0, 256, (n, 3, 4, 5), np.uint8)
              // np.uint8([[[1]], [[2]], [[9]]]))
    assert np.allclose(picture.statistics(images), moments(images), rtol=1e-12)


def test_a_flat_channel_can_be_divided_by(tmp_path, capsys):
    picture.save(str(tmp_path / 'x'), {'train': {'image': np.full((4, 1, 2, 2), 7, np.uint8)}})
    info = arrays(tmp_path / 'x')[1]['info']
    assert np.allclose(info['mean'], 7 / 255) and info['std'] == [1 / 255]
    assert 'as well' not in capsys.readouterr().out


# --- files

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
GREY = np.broadcast_to(PIXELS[..., :1], PIXELS.shape)
ALPHA = np.arange(54, dtype=np.uint8).reshape(6, 9) * 4
OVER_WHITE = PIXELS * (ALPHA[..., None] / 255) + 255 - ALPHA[..., None].astype(float)
CMYK = np.broadcast_to(np.uint8([200, 100, 0, 50]), (16, 16, 4))
NUMBERS = (np.arange(54, dtype=np.uint8) % 5).reshape(6, 9)
COLOURS = PIXELS.reshape(-1, 3)[:5]


def paletted(numbers=NUMBERS):
    image = Image.fromarray(numbers).convert('P')
    image.putdata(numbers.ravel().tolist())
    image.putpalette(COLOURS.ravel().tolist())
    return image


def cmyk(file):
    Image.fromarray(CMYK, 'CMYK').save(file, quality=100)


def turned(file):
    exif = Image.Exif()
    exif[0x0112] = 6            # the camera was held upright: to be seen turned by 90 degrees clockwise
    Image.fromarray(PIXELS).save(file, exif=exif)


@pytest.mark.parametrize('name, write, expected, tolerance', [
    ('rgb.png', lambda f: Image.fromarray(PIXELS).save(f), PIXELS, 0),
    ('rgb.webp', lambda f: Image.fromarray(PIXELS).save(f, lossless=True), PIXELS, 0),
    ('grey.png', lambda f: Image.fromarray(PIXELS[..., 0]).save(f), GREY, 0),
    ('16 bit.png', lambda f: Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257 + 100).save(f), GREY, 0),
    ('16 bit.tif', lambda f: Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(f), GREY, 0),
    ('rgba.png', lambda f: Image.fromarray(np.dstack([PIXELS, ALPHA])).save(f), OVER_WHITE, 1),
    ('grey and alpha.png', lambda f: Image.fromarray(np.dstack([PIXELS[..., 0], ALPHA])).save(f),
     GREY * (ALPHA[..., None] / 255) + 255. - ALPHA[..., None], 1),
    ('palette.png', lambda f: paletted().save(f), COLOURS[NUMBERS], 0),
    ('transparent palette.png', lambda f: paletted().save(f, transparency=2),
     np.where(NUMBERS[..., None] == 2, 255, COLOURS[NUMBERS]), 0),
    ('1 bit.png', lambda f: Image.fromarray(NUMBERS > 2).save(f),
     np.repeat((NUMBERS[..., None] > 2) * 255, 3, 2), 0),
    ('grey.jpg', lambda f: Image.fromarray(np.full((16, 16), 77, np.uint8)).save(f),
     np.full((16, 16, 3), 77), 1),
    ('cmyk.jpg', cmyk, (255 - CMYK[..., :3]) * (1 - CMYK[..., 3:] / 255), 3),
    ('turned.png', turned, np.rot90(PIXELS, -1), 0)])
def test_every_kind_of_picture_is_read_as_rgb(tmp_path, name, write, expected, tolerance):
    write(tmp_path / name)
    found = np.asarray(picture.rgb(tmp_path / name))
    assert found.dtype == np.uint8 and found.shape == expected.shape
    assert np.abs(found.astype(float) - expected).max() <= tolerance


@pytest.mark.parametrize('name, write, expected', [
    ('grey.png', lambda f: Image.fromarray(NUMBERS).save(f), NUMBERS),
    ('palette.png', lambda f: paletted().save(f), NUMBERS),
    ('2 bits.png', lambda f: paletted(NUMBERS % 3).save(f, bits=2), NUMBERS % 3),
    ('1 bit.png', lambda f: Image.fromarray(NUMBERS > 2).save(f), NUMBERS > 2),
    ('16 bit.png', lambda f: Image.fromarray(NUMBERS.astype(np.uint16)).save(f), NUMBERS)])
def test_a_mask_is_read_as_it_is_stored(tmp_path, name, write, expected):
    write(tmp_path / name)
    found = np.asarray(picture.codes(tmp_path / name))
    assert found.dtype == np.uint8 and np.array_equal(found, expected)


@pytest.mark.parametrize('name, image, words', [
    ('rgb.png', PIXELS, 'one channel.*found PNG RGB'),
    ('rgba.png', np.dstack([PIXELS, ALPHA]), 'found PNG RGBA'),
    ('grey.jpg', NUMBERS, 'without loss, found JPEG L'),
    ('16 bit.png', NUMBERS.astype(np.uint16) * 100, 'values from 0 to 255, found 0 to 400')])
def test_what_is_no_mask_is_refused_by_name(tmp_path, name, image, words):
    Image.fromarray(image).save(tmp_path / name)
    with pytest.raises(Refused, match=f'{name}: expected .*{words}') as refused:
        picture.codes(tmp_path / name)
    assert refused.value.code == 3


@pytest.mark.parametrize('height, width, size', [(80, 120, 20), (120, 90, 30), (40, 40, 40), (10, 15, 24)])
def test_pictures_are_antialiased_and_masks_take_the_nearest_value(tmp_path, height, width, size):
    rng = np.random.default_rng(0)
    image, mask = (rng.integers(0, 256, (height, width, 3), np.uint8),
                   rng.choice(np.uint8([0, 3, 200]), (height, width)))
    Image.fromarray(image).save(tmp_path / 'x.png'), Image.fromarray(mask).save(tmp_path / 'm.png')
    found, codes, whole = picture.read([tmp_path / 'x.png'], size, [tmp_path / 'm.png'])
    assert (found.shape == (1, 3, size, size) and codes.shape == (1, 1, size, size)
            and whole.tolist() == [True])
    side = min(height, width)
    small = height * size // side, width * size // side
    whole = torch.nn.functional.interpolate(torch.tensor(image).permute(2, 0, 1)[None].float(), small,
                                            mode='bilinear', antialias=True)
    top, left = ((n - size) // 2 for n in small)
    expected = whole[:, :, top:top + size, left:left + size]
    assert (torch.tensor(found) - expected).abs().max() <= 1.01
    rows, columns = ((n - side) / 2 + (np.arange(size) + 0.5) * side / size for n in (height, width))
    assert np.array_equal(codes[0, 0], mask[np.ix_(rows.astype(int), columns.astype(int))])


# --- one's own folder

@pytest.fixture
def own(launch, tmp_path):
    """own(*argv): what data/images/prepare.py says of the folder `tmp_path/photos`."""
    def own(*argv, code=0):
        found, text = launch('data/images/prepare.py', f'--input={tmp_path}/photos',
                             f'--out={tmp_path}/out', *argv)
        assert found == code and 'Traceback' not in text, text
        assert code == 0 or not (tmp_path / 'out').exists()
        return text
    return own


@pytest.fixture
def draw(tmp_path):
    """draw('cat/1.png', (1, 2, 3), (9, 6)): a picture of one colour or one code in the folder of photos."""
    def draw(name, colour, size=(9, 6)):
        file = tmp_path / 'photos' / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L' if isinstance(colour, int) else 'RGB', size, colour).save(file)
    return draw


def animals(draw, n=20, folder='', classes=('zebra', 'ant')):
    """The class k has the colours (100 k, i, i), where i is the number of the picture."""
    for k, name in enumerate(sorted(classes)):
        for i in range(n):
            draw(f'{folder}{name}/{"deep/" * (i % 2)}{i}.png', (100 * k, i, i), (9 + i, 6))


def test_sub_folders_are_classes(own, draw, tmp_path):
    animals(draw)
    draw('.hidden/1.png', (9, 9, 9)), draw('ant/._1.png', (9, 9, 9)), draw('loose.png', (9, 9, 9))
    text = own('--size=8')
    splits, meta = arrays(tmp_path / 'out')
    assert shapes(splits) == {'train': (32, 3, 8, 8), 'val': (4, 3, 8, 8), 'test': (4, 3, 8, 8)}
    colours = {split: fields['image'][:, :, 0, 0] for split, fields in splits.items()}
    assert all((fields['image'] == colours[split][:, :, None, None]).all()
               for split, fields in splits.items())
    assert sorted(map(tuple, np.concatenate([*colours.values()]))) == sorted(
        (100 * k, i, i) for k in range(2) for i in range(20))
    assert all(np.array_equal(fields['label'], colours[split][:, 0] // 100)
               for split, fields in splits.items())
    info = meta['info']
    assert (info['n_class'], info['classes'], info['channels'], info['size']) == (
        2, ['ant', 'zebra'], 3, [8, 8])
    assert np.allclose((info['mean'], info['std']), moments(splits['train']['image']), rtol=1e-9)
    assert '32 + 4 + 4 pictures of 3 x 8 x 8; 0 of val and 0 of test are in train as well' in text
    before = data.hashes(meta)
    own('--size=8')
    assert data.hashes(arrays(tmp_path / 'out')[1]) == before


@pytest.mark.parametrize('argv, sizes', [
    (['--val=0', '--test=0'], (40,)), (['--val=5', '--test=1'], (34, 5, 1)), (['--val=0.25'], (26, 10, 4)),
    (['--val=0.001', '--test=0'], (39, 1)), (['--val=0', '--test=0.5'], (20, 20))])
def test_val_and_test_are_shares_or_numbers(own, draw, tmp_path, argv, sizes):
    animals(draw)
    text = own('--size=4', *argv)
    splits, meta = arrays(tmp_path / 'out')
    assert tuple(len(fields['label']) for fields in splits.values()) == sizes
    assert {f'--{key}={value:g}' for key, value in meta['options'].items()
            if key in ('val', 'test')} >= {*argv}
    assert ('val' in splits) == ('of val' in text) == ('--val=0' not in argv)


def test_pictures_that_do_not_decode_are_listed_and_left_out(own, draw, tmp_path):
    animals(draw)
    whole = (tmp_path / 'photos/ant/2.png').read_bytes()
    (tmp_path / 'photos/ant/2.png').write_bytes(whole[:len(whole) // 2])
    (tmp_path / 'photos/ant/4.png').write_bytes(b'')
    (tmp_path / 'photos/zebra/notes.txt').write_text('no picture', encoding='utf-8')
    text = own('--size=8', '--test=0')
    splits = arrays(tmp_path / 'out')[0]
    assert sum(len(fields['label']) for fields in splits.values()) == 38
    assert all(np.array_equal(fields['label'], fields['image'][:, 0, 0, 0] // 100)
               for fields in splits.values())
    assert sum(map(int, re.findall(r'(\d+) of \d+ files do not decode', text))) == 3
    for name in 'ant/2.png', 'ant/4.png', 'zebra/notes.txt':
        assert f'  {tmp_path}/photos/{name}: ' in text


def test_if_none_decodes_it_is_refused(own, draw, tmp_path):
    for name in 'a/1.png', 'b/1.png':
        draw(name, (1, 2, 3))
        (tmp_path / 'photos' / name).write_bytes(b'\x89PNG')
    text = own('--val=0', '--test=0', code=3)
    assert '2 of 2 files do not decode' in text and 'a/1.png' in text


def test_pictures_of_val_and_test_that_are_in_train_too_are_counted(own, draw):
    for name in 'cat', 'dog':
        for i in range(10):
            draw(f'train/{name}/{i}.png', (i, 1, 1))
            draw(f'val/{name}/{i}.png', (i + 7, 1, 1))
        draw(f'test/{name}/0.png', (0, 0, 0))
    assert '20 + 20 + 2 pictures of 3 x 8 x 8; 6 of val and 0 of test' in own('--size=8')


def test_folders_of_splits_are_the_splits(own, draw, tmp_path):
    for split, n in ('train', 5), ('val', 3), ('test', 2):
        animals(draw, n, f'{split}/')
    own('--size=8')
    splits, meta = arrays(tmp_path / 'out')
    for split, n in ('train', 5), ('val', 3), ('test', 2):
        assert sorted(map(tuple, splits[split]['image'][:, :, 0, 0])) == sorted(
            (100 * k, i, i) for k in range(2) for i in range(n))
        assert np.array_equal(splits[split]['label'], splits[split]['image'][:, 0, 0, 0] // 100)
    assert meta['info']['classes'] == ['ant', 'zebra']


def masked(draw, n=10, folder=''):
    for i in range(n):
        draw(f'{folder}images/{i}.jpg', (20 * i,) * 3, (12 + i, 10))
        draw(f'{folder}masks/{i}.png', i % 3 * 2, (12 + i, 10))


def test_a_u_net_trains_on_ones_own_masks(own, draw, launch, tmp_path):
    masked(draw)
    own('--size=16')
    code, text = launch('train.py', '--model=unet', '--width=4', '--depth=2', '--batch_size=4',
                        '--max_iters=2', '--flip=random', '--device=cpu', f'--dataset={tmp_path}/out',
                        f'--out_dir={tmp_path}/run')
    assert code == 0 and 'foreground_share' in text, text


def test_files_are_decoded_in_parallel_and_none_is_kept(monkeypatch):
    refs, most, meet = [], [], threading.Barrier(2, timeout=600)

    def rgb(file):
        image = Image.new('RGB', (8, 8))
        refs.append(weakref.ref(image))
        most.append(sum(ref() is not None for ref in refs))
        if file < 2:
            meet.wait()             # a single worker would wait in vain
        return image
    monkeypatch.setattr(picture, 'rgb', rgb)
    monkeypatch.setattr(picture.os, 'cpu_count', lambda: 2)
    assert picture.read([*range(60)], 4)[2].all() and max(most) <= 6


@pytest.mark.parametrize('folders', [[''], ['train/', 'val/']])
def test_images_and_masks_go_together(own, draw, tmp_path, folders):
    for folder in folders:
        masked(draw, folder=folder)
    text = own('--size=8')
    splits, meta = arrays(tmp_path / 'out')
    expected = {'train': 8, 'val': 1, 'test': 1} if folders == [''] else {'train': 10, 'val': 10}
    assert shapes(splits, 'mask') == {split: (n, 1, 8, 8) for split, n in expected.items()}
    for fields in splits.values():
        numbers = (fields['image'][:, 0, 0, 0] / 20).round().astype(int)
        assert np.array_equal(fields['mask'], np.broadcast_to((numbers % 3 * 2)[:, None, None, None],
                                                              fields['mask'].shape))
    info = meta['info']
    assert (info['n_class'], info['codes'], info['channels'], info['size']) == (5, [0, 2, 4], 3, [8, 8])
    assert 'classes' not in info and '0, 2, 4' in text
    batch = data.Split(str(tmp_path / 'out'), 'val', ['image', 'mask']).batch(np.array([0]))
    assert batch['mask'].dtype == torch.uint8 and batch['mask'].shape == (1, 1, 8, 8)


def test_a_mask_that_does_not_decode_takes_its_picture_with_it(own, draw, tmp_path):
    masked(draw)
    (tmp_path / 'photos/masks/3.png').write_bytes(b'')
    text = own('--size=8', '--val=0', '--test=0')
    fields = arrays(tmp_path / 'out')[0]['train']
    assert f'  {tmp_path}/photos/masks/3.png: ' in text and '1 of 10' in text
    assert (fields['image'][:, 0, 0, 0] / 20).round().tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert fields['mask'][:, 0, 0, 0].tolist() == [0, 2, 4, 2, 4, 0, 2, 4, 0]


@pytest.mark.parametrize('damage, words', [
    (lambda draw, photos: draw('masks/3.png', (1, 2, 3), (15, 10)),
     'masks/3.png: .*one channel.*found PNG RGB'),
    (lambda draw, photos: draw('masks/3.png', 1, (14, 10)),
     r'masks/3.png: expected .*\(15, 10\) as of .*images/3.jpg, found \(14, 10\)'),
    (lambda draw, photos: (photos / 'masks/3.png').unlink(),
     'one picture and one mask 3, found images/3.jpg'),
    (lambda draw, photos: (photos / 'images/3.jpg').unlink(),
     'one picture and one mask 3, found masks/3.png'),
    (lambda draw, photos: draw('images/3.png', (1, 2, 3)),
     'mask 3, found images/3.jpg, images/3.png, masks/3.png'),
    (lambda draw, photos: draw('masks/3.bmp', 3), 'mask 3, found images/3.jpg, masks/3.bmp, masks/3.png'),
    (lambda draw, photos: [file.unlink() for file in photos.glob('*/*')],
     'photos: expected files in images/')])
def test_masks_that_do_not_fit_are_refused_by_name(own, draw, tmp_path, damage, words):
    masked(draw)
    damage(draw, tmp_path / 'photos')
    assert re.search(words, own(code=3))


@pytest.mark.parametrize('names, words', [
    ([], 'photos: expected pictures in two sub-folders or more'), (['1.png'], 'two sub-folders'),
    (['cat/1.png', '.dog/1.png'], 'two sub-folders'), (['images/1.png'], 'two sub-folders'),
    (['train/a/1.png', 'train/b/1.png', 'test/a/1.png'],
     'photos: expected train/ and val/, found train/ and test/'),
    (['train/a/1.png', 'train/b/1.png', 'val/a/1.png', 'val/c/1.png'],
     r"photos/val: expected what train/ has, \['a', 'b'\], found \['a', 'c'\]"),
    (['train/a/1.png', 'train/b/1.png', 'val/images/1.png', 'val/masks/1.png'], 'photos/val: .*found masks'),
    (['train/images/1.png', 'train/masks/1.png', 'val/a/1.png', 'val/b/1.png'],
     'photos/val: .*has, masks, found')])
def test_folders_of_another_layout_are_refused(own, draw, names, words):
    for name in names:
        draw(name, 7)
    assert re.search(words, own(code=3))


def test_one_folder_named_like_a_split_is_a_class(own, draw, tmp_path):
    animals(draw, 5, classes=('train', 'plane'))
    own('--size=4')
    assert arrays(tmp_path / 'out')[1]['info']['classes'] == ['plane', 'train']


@pytest.mark.parametrize('argv', [['--out='], ['--input='], ['--out=images'], ['--out=mnist'], ['--size=0'],
                                  ['--val=40'], ['--val=-1'], ['--val=0.5', '--test=0.5'], ['--size=big']])
def test_knobs_that_cannot_be_are_refused(own, draw, argv):
    animals(draw)
    assert argv[0][2:].split('=')[0] in own(*argv, code=2)


# --- the real thing, where DATA_MIRROR has it

@real
def test_the_real_cifar10(launch, tmp_path):
    code, text = launch('data/cifar10/prepare.py', f'--out={tmp_path}/out')
    assert code == 0 and '45,000 + 5,000 + 10,000' in text, text
    splits, meta = arrays(tmp_path / 'out')
    blobs = {}
    with tarfile.open(f'{os.environ["DATA_MIRROR"]}/cifar10/{ARCHIVE}') as tar:
        for name in BATCHES:
            blobs[name] = np.frombuffer(tar.extractfile(name).read(), np.uint8).reshape(10_000, 3073)
    test, train = blobs.pop(BATCHES[-1]), np.concatenate([*blobs.values()])
    rows(splits, train[:, 1:], train[:, 0])
    assert np.array_equal(np.c_[splits['test']['label'], splits['test']['image'].reshape(10_000, -1)], test)
    assert np.bincount(splits['test']['label']).tolist() == [1000] * 10 and meta['info']['classes'] == CLASSES
    # of nine tenths of the pictures: nearly those of all
    for name, published in zip(('mean', 'std'), CIFAR10):
        assert np.allclose(meta['info'][name], [float(x) for x in published.split()], atol=5e-4)
    shutil.rmtree(tmp_path / 'out')


@real
def test_the_real_mnist(launch, tmp_path):
    code, text = launch('data/mnist/prepare.py', f'--out={tmp_path}/out', '--val=0')
    assert code == 0 and '60,000 + 10,000' in text, text
    splits, meta = arrays(tmp_path / 'out')
    assert splits['train']['label'][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(splits['train']['label']).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert round(meta['info']['mean'][0], 4) == 0.1307 and round(meta['info']['std'][0], 4) == 0.3081
    zeros, ones = (splits['test']['image'][splits['test']['label'] == k, 0, 10:18, 12:16].mean()
                   for k in (0, 1))
    assert zeros < 60 < 120 < ones          # upright, and of the right labels: a zero is hollow


@real
def test_real_trimaps_as_masks(own, tmp_path):
    for kind, inside in ('images', 'images/'), ('annotations', 'annotations/trimaps/'):
        folder = tmp_path / 'photos' / {'images': 'images', 'annotations': 'masks'}[kind]
        folder.mkdir(parents=True)
        with tarfile.open(f'{os.environ["DATA_MIRROR"]}/pets/{kind}.tar.gz') as tar:
            for member in tar:
                name = member.name.rsplit('/', 1)[-1]
                if member.isreg() and member.name == inside + name and name[0] != '.' and '_1' in name:
                    (folder / name).write_bytes(tar.extractfile(member).read())
    own('--size=32', '--val=9', '--test=0')
    splits, meta = arrays(tmp_path / 'out')
    assert meta['info']['codes'] == [1, 2, 3] and meta['info']['n_class'] == 4
    image, mask = (splits['train'][field].astype(float) for field in ('image', 'mask'))
    assert len(splits['val']['mask']) == 9 and len(image) > 50
    middle, border = (mask == 1)[:, 0, 12:20, 12:20].mean(), (mask == 1)[:, 0, [0, -1]].mean()
    assert middle > 0.7 > 0.3 > border      # pets are in the middle of their pictures
