"""data/pets: rows against the files they were made of, damage named, from archives made here."""
import io
import re
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import data
from data.augment import Augment
from mirror import prepare, prepare_real, read_arrays, real, shapes

TRAINVAL, TEST = [f'Abyssinian_{i}' for i in range(20)], [f'pug_{i}' for i in range(5)]
TRIMAP = np.repeat(np.uint8([[2, 2, 2, 2], [2, 3, 3, 2], [3, 1, 1, 3], [1, 1, 1, 1]]), 2, 0).repeat(2, 1)


def encoded(array):
    body = io.BytesIO()
    Image.fromarray(array).save(body, 'PNG')
    return body.getvalue()


def red(i, n=8):
    """Image i, n pixels wide and high, recognised by its red."""
    return np.broadcast_to(np.uint8([10 * i, 1, 1]), (n, n, 3))


def members():
    """{name in an archive: bytes}: what the official ones hold, by kind, in an order that is no list's."""
    names = {'trainval': TRAINVAL, 'test': TEST}
    files = {f'annotations/{name}.txt': ''.join(f'{x} 1 1 1\n' for x in of).encode()
             for name, of in names.items()}
    files |= {'annotations/README': b'x', 'images/Abyssinian_1.mat': b'x', 'annotations/xmls/pug_1.xml': b'x',
              'annotations/trimaps/._pug_1.png': b'x'}
    for i, name in [*enumerate([*TRAINVAL, *TEST, 'unlisted'])][::-1]:
        files[f'images/{name}.jpg'] = encoded(red(i))       # a PNG, as some of the official ones are
        files[f'annotations/trimaps/{name}.png'] = encoded(np.roll(TRIMAP, i, 1))
    return files


def archives(files):
    """The two archives that hold these members."""
    packed = {}
    for kind in 'images', 'annotations':
        body = io.BytesIO()
        with tarfile.open(fileobj=body, mode='w:gz') as tar:
            for name, blob in files.items():
                if name.startswith(kind):
                    member = tarfile.TarInfo(name)
                    member.size = len(blob)
                    tar.addfile(member, io.BytesIO(blob))
        packed[f'pets/{kind}.tar.gz'] = body.getvalue()
    return packed


def numbers(fields):
    """Which images these are, after a proof that each has its own mask."""
    found = (fields['image'][:, 0, 0, 0] / 10).round().astype(int).tolist()
    assert all(np.array_equal(mask[0], np.roll(TRIMAP, i, 1)) for i, mask in zip(found, fields['mask']))
    return found


def test_the_official_lists_become_three_splits(prepare, tmp_path):
    text = prepare('pets', archives(members()), '--size=8')
    splits, meta = read_arrays(tmp_path / 'out')
    assert shapes(splits) == {'train': (18, 3, 8, 8), 'val': (2, 3, 8, 8), 'test': (5, 3, 8, 8)}
    found = {split: numbers(fields) for split, fields in splits.items()}
    assert sorted(found['train'] + found['val']) == [*range(20)] and found['test'] == [*range(20, 25)]
    assert '18 + 2 + 5 images of 3 x 8 x 8; 0 of val and 0 of test' in text
    assert 'trainval and test: 20 and 5 images; published are 3,680 and 3,669: no result compares' in text
    info = meta['info']
    assert (info['codes'], info['n_class'], info['size']) == ([1, 2, 3], 4, [8, 8])
    assert meta['options'] == {'size': 8, 'val': 0.1}
    prepare('pets', archives(members()), '--size=8', '--val=0')
    assert numbers(read_arrays(tmp_path / 'out')[0]['train']) == [*range(20)]


def test_masks_are_resized_without_values_in_between(prepare, tmp_path):
    prepare('pets', archives(members()), '--size=4')
    for fields in read_arrays(tmp_path / 'out')[0].values():
        for image, mask in zip(fields['image'], fields['mask']):
            i = round(image[0, 0, 0] / 10)
            assert np.array_equal(mask[0], np.roll(TRIMAP, i, 1)[1::2, 1::2])


def test_images_that_do_not_decode_are_listed_and_left_out(prepare, tmp_path):
    files = members()
    files['images/pug_1.jpg'] = files['images/pug_1.jpg'][:40]
    files['annotations/trimaps/pug_3.png'] = b'GIF89a'
    text = prepare('pets', archives(files), '--size=8')
    assert numbers(read_arrays(tmp_path / 'out')[0]['test']) == [20, 22, 24]
    for message in '2 of 5 files do not decode', 'images/pug_1.jpg: ', 'trimaps/pug_3.png: ':
        assert message in text


LIST, MASK = 'annotations/test.txt', 'annotations/trimaps/pug_1.png'
BROKEN = [(f'images/{name}.jpg', b'x') for name in TEST]


@pytest.mark.parametrize('changes, message', [
    pytest.param([(name, None) for name in members() if 'trimaps' in name],
                 r'annotations.tar.gz: it has no annotations/trimaps', id='no trimaps'),
    pytest.param([(name, None) for name in members() if '.jpg' in name],
                 'images.tar.gz: it has no', id='no images'),
    pytest.param([(LIST, None)], 'annotations.tar.gz: it has no annotations/test.txt', id='no list'),
    pytest.param([(LIST, b'\n')], 'test.txt: expected names .* found none', id='empty list'),
    pytest.param([(LIST, b'pug_1 1\npug_9 1\n')],
                 'test.txt: expected .* found images/pug_9.jpg, .*/pug_9.png', id='unknown name'),
    pytest.param([(LIST, b'../images/pug_1 1\n')], r'test.txt: expected .* found images/\.\./', id='way out'),
    pytest.param([('images/pug_1.jpg', None)], 'test.txt: expected .* found images/pug_1.jpg$', id='image'),
    pytest.param([(MASK, None)], 'test.txt: expected .* found annotations/trimaps/pug_1.png$', id='mask'),
    pytest.param([(MASK, encoded(TRIMAP * 85))], r'pug_1.png: expected .*\(1, 2, 3\), found \[ *85 170 255\]',
                 id='values'),
    pytest.param([(MASK, encoded(TRIMAP - 1))], r'pug_1.png: expected .* found \[0 1 2\]', id='from zero'),
    pytest.param([(MASK, encoded(np.dstack([TRIMAP, TRIMAP, 3 - TRIMAP])))],
                 'pug_1.png: .*one channel.*PNG RGB', id='channels'),
    pytest.param([(MASK, encoded(TRIMAP[:, :6]))],
                 r'pug_1.png: expected .*\(8, 8\) as of .*pug_1.jpg, found \(6, 8\)', id='size'),
    pytest.param(BROKEN, '5 of 5 files do not decode', id='none decodes')])
def test_what_does_not_fit_is_an_error_with_its_name(prepare, changes, message):
    files = {name: blob for name, blob in (members() | dict(changes)).items() if blob is not None}
    assert re.search(message, prepare('pets', archives(files), '--size=8', code=3), re.M)


@pytest.mark.parametrize('argv', [['--size=0'], ['--val=1'], ['--val=-0.1']])
def test_options_that_cannot_be_are_an_error_before_any_download(prepare, argv):
    assert argv[0] in prepare('pets', {}, *argv, code=2)


@pytest.mark.parametrize('augment', [Augment('random', shift=3), Augment('alternating', cutout=3)])
def test_what_is_done_to_an_image_is_done_to_its_mask(tmp_path, augment):
    mask = np.random.default_rng(0).integers(1, 4, (40, 1, 9, 8), np.uint8)
    image = np.concatenate([mask * 40, mask * 80, mask], 1)
    data.save(str(tmp_path / 'x'), {'train': {'image': image, 'mask': mask}}, info={'mean': [0.0, 1.0, 0.0]})
    split, seen = data.load_split(str(tmp_path / 'x'), 'train', ['image', 'mask'], augment=augment), set()
    for step in range(4):
        rows = split.rows(step, 20, seed=0)
        batch = split.batch(rows)
        whole = batch['image'][:, 2] > 0            # not cut out, which a mask never is
        assert torch.equal(batch['mask'][:, 0][whole], batch['image'][:, 2][whole])
        assert batch['mask'].min() > 0 and bool(whole.all()) == (augment.cutout == 0)
        seen |= {one.tobytes() for one in batch['mask'].numpy()}
    assert len(seen) > 40


@real
def test_the_real_pets(prepare_real, tmp_path):
    assert 'are in train as well' in prepare_real('pets', '--size=32')
    splits, meta = read_arrays(tmp_path / 'out')
    n = {split: len(fields['image']) for split, fields in splits.items()}
    assert n['val'] == pytest.approx(0.1 * (n['train'] + n['val']), abs=2) and n['test'] > 0
    fraction = {code: (splits['test']['mask'] == code).mean() for code in meta['info']['codes']}
    assert sum(fraction.values()) == pytest.approx(1)
    assert 0.25 < fraction[1] < 0.4 and 0.05 < fraction[3] < 0.2
    pet = splits['test']['mask'][:, 0] == 1
    assert pet[:, 12:20, 12:20].mean() > 0.7 > 0.3 > pet[:, [0, -1]].mean()     # in the middle of its image
