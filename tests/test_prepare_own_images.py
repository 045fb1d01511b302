"""data/images/prepare.py: sub-folders are classes, images and masks pair, other layouts are errors."""
import os
import re
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import data
from mirror import read_arrays, real, shapes
from test_images import moments


@pytest.fixture
def own(launch, tmp_path):
    """own(*argv): what data/images/prepare.py prints about the folder `tmp_path/photos`."""
    def own(*argv, code=0):
        found, text = launch('data/images/prepare.py', f'--input={tmp_path}/photos',
                             f'--out={tmp_path}/out', *argv)
        assert found == code and 'Traceback' not in text, text
        assert code == 0 or not (tmp_path / 'out').exists()
        return text
    return own


@pytest.fixture
def draw(tmp_path):
    """draw('cat/1.png', (1, 2, 3), (9, 6)): write an image of one color, or a mask of one value."""
    def draw(name, color, size=(9, 6)):
        file = tmp_path / 'photos' / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L' if isinstance(color, int) else 'RGB', size, color).save(file)
    return draw


def animals(draw, n=20, folder='', classes=('zebra', 'ant')):
    """The class k has the colors (100 k, i, i), where i is the number of the image."""
    for k, name in enumerate(sorted(classes)):
        for i in range(n):
            draw(f'{folder}{name}/{"deep/" * (i % 2)}{i}.png', (100 * k, i, i), (9 + i, 6))


def test_sub_folders_are_classes(own, draw, tmp_path):
    animals(draw)
    draw('.hidden/1.png', (9, 9, 9)), draw('ant/._1.png', (9, 9, 9)), draw('loose.png', (9, 9, 9))
    text = own('--size=8')
    splits, meta = read_arrays(tmp_path / 'out')
    assert shapes(splits) == {'train': (32, 3, 8, 8), 'val': (4, 3, 8, 8), 'test': (4, 3, 8, 8)}
    colors = {split: fields['image'][:, :, 0, 0] for split, fields in splits.items()}
    assert all((fields['image'] == colors[split][:, :, None, None]).all()
               for split, fields in splits.items())
    assert sorted(map(tuple, np.concatenate([*colors.values()]))) == sorted(
        (100 * k, i, i) for k in range(2) for i in range(20))
    assert all(np.array_equal(fields['label'], colors[split][:, 0] // 100)
               for split, fields in splits.items())
    info = meta['info']
    assert (info['n_class'], info['classes'], info['channels'], info['size']) == (
        2, ['ant', 'zebra'], 3, [8, 8])
    assert np.allclose((info['mean'], info['std']), moments(splits['train']['image']), rtol=1e-9)
    assert '32 + 4 + 4 images of 3 x 8 x 8; 0 of val and 0 of test are in train as well' in text
    before = data.hashes(meta)
    own('--size=8')
    assert data.hashes(read_arrays(tmp_path / 'out')[1]) == before


@pytest.mark.parametrize('argv, sizes', [
    (['--val=0', '--test=0'], (40,)), (['--val=5', '--test=1'], (34, 5, 1)), (['--val=0.25'], (26, 10, 4)),
    (['--val=0.001', '--test=0'], (39, 1)), (['--val=0', '--test=0.5'], (20, 20))])
def test_val_and_test_are_fractions_or_numbers(own, draw, tmp_path, argv, sizes):
    animals(draw)
    text = own('--size=4', *argv)
    splits, meta = read_arrays(tmp_path / 'out')
    assert tuple(len(fields['label']) for fields in splits.values()) == sizes
    assert {f'--{key}={value:g}' for key, value in meta['options'].items()
            if key in ('val', 'test')} >= {*argv}
    assert ('val' in splits) == ('of val' in text) == ('--val=0' not in argv)


def test_images_that_do_not_decode_are_listed_and_left_out(own, draw, tmp_path):
    animals(draw)
    whole = (tmp_path / 'photos/ant/2.png').read_bytes()
    (tmp_path / 'photos/ant/2.png').write_bytes(whole[:len(whole) // 2])
    (tmp_path / 'photos/ant/4.png').write_bytes(b'')
    (tmp_path / 'photos/zebra/notes.txt').write_text('not an image', encoding='utf-8')
    text = own('--size=8', '--test=0')
    splits = read_arrays(tmp_path / 'out')[0]
    assert sum(len(fields['label']) for fields in splits.values()) == 38
    assert all(np.array_equal(fields['label'], fields['image'][:, 0, 0, 0] // 100)
               for fields in splits.values())
    assert sum(map(int, re.findall(r'(\d+) of \d+ files do not decode', text))) == 3
    for name in 'ant/2.png', 'ant/4.png', 'zebra/notes.txt':
        assert f'  {tmp_path}/photos/{name}: ' in text


def test_if_none_decodes_it_is_an_error(own, draw, tmp_path):
    for name in 'a/1.png', 'b/1.png':
        draw(name, (1, 2, 3))
        (tmp_path / 'photos' / name).write_bytes(b'\x89PNG')
    text = own('--val=0', '--test=0', code=3)
    assert '2 of 2 files do not decode' in text and 'a/1.png' in text


def test_images_of_val_and_test_that_are_in_train_too_are_counted(own, draw):
    for name in 'cat', 'dog':
        for i in range(10):
            draw(f'train/{name}/{i}.png', (i, 1, 1))
            draw(f'val/{name}/{i}.png', (i + 7, 1, 1))
        draw(f'test/{name}/0.png', (0, 0, 0))
    assert '20 + 20 + 2 images of 3 x 8 x 8; 6 of val and 0 of test' in own('--size=8')


def test_folders_of_splits_are_the_splits(own, draw, tmp_path):
    for split, n in ('train', 5), ('val', 3), ('test', 2):
        animals(draw, n, f'{split}/')
    own('--size=8')
    splits, meta = read_arrays(tmp_path / 'out')
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
    assert code == 0 and 'dice' in text, text


@pytest.mark.parametrize('folders', [[''], ['train/', 'val/']])
def test_images_and_masks_go_together(own, draw, tmp_path, folders):
    for folder in folders:
        masked(draw, folder=folder)
    text = own('--size=8')
    splits, meta = read_arrays(tmp_path / 'out')
    expected = {'train': 8, 'val': 1, 'test': 1} if folders == [''] else {'train': 10, 'val': 10}
    assert shapes(splits, 'mask') == {split: (n, 1, 8, 8) for split, n in expected.items()}
    for fields in splits.values():
        numbers = (fields['image'][:, 0, 0, 0] / 20).round().astype(int)
        assert np.array_equal(fields['mask'], np.broadcast_to((numbers % 3 * 2)[:, None, None, None],
                                                              fields['mask'].shape))
    info = meta['info']
    assert (info['n_class'], info['codes'], info['channels'], info['size']) == (5, [0, 2, 4], 3, [8, 8])
    assert 'classes' not in info and '0, 2, 4' in text
    batch = data.load_split(str(tmp_path / 'out'), 'val', ['image', 'mask']).batch(np.array([0]))
    assert batch['mask'].dtype == torch.uint8 and batch['mask'].shape == (1, 1, 8, 8)


def test_a_mask_that_does_not_decode_takes_its_image_with_it(own, draw, tmp_path):
    masked(draw)
    (tmp_path / 'photos/masks/3.png').write_bytes(b'')
    text = own('--size=8', '--val=0', '--test=0')
    fields = read_arrays(tmp_path / 'out')[0]['train']
    assert f'  {tmp_path}/photos/masks/3.png: ' in text and '1 of 10' in text
    assert (fields['image'][:, 0, 0, 0] / 20).round().tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert fields['mask'][:, 0, 0, 0].tolist() == [0, 2, 4, 2, 4, 0, 2, 4, 0]


@pytest.mark.parametrize('damage, message', [
    (lambda draw, photos: draw('masks/3.png', (1, 2, 3), (15, 10)),
     'masks/3.png: .*one channel.*found PNG RGB'),
    (lambda draw, photos: draw('masks/3.png', 1, (14, 10)),
     r'masks/3.png: expected .*\(15, 10\) as of .*images/3.jpg, found \(14, 10\)'),
    (lambda draw, photos: (photos / 'masks/3.png').unlink(),
     'one image and one mask 3, found images/3.jpg'),
    (lambda draw, photos: (photos / 'images/3.jpg').unlink(),
     'one image and one mask 3, found masks/3.png'),
    (lambda draw, photos: draw('images/3.png', (1, 2, 3)),
     'mask 3, found images/3.jpg, images/3.png, masks/3.png'),
    (lambda draw, photos: draw('masks/3.bmp', 3), 'mask 3, found images/3.jpg, masks/3.bmp, masks/3.png'),
    (lambda draw, photos: [file.unlink() for file in photos.glob('*/*')],
     'photos: expected files in images/')])
def test_masks_that_do_not_fit_are_an_error_with_their_name(own, draw, tmp_path, damage, message):
    masked(draw)
    damage(draw, tmp_path / 'photos')
    assert re.search(message, own(code=3))


@pytest.mark.parametrize('names, message', [
    ([], 'photos: No such file or directory'),
    (['cat/1.png', '.dog/1.png'], 'photos: expected images in two sub-folders or more.*found images in cat$'),
    (['images/1.png'], 'two sub-folders'), (['.a/1.png'], 'two sub-folders .*found images in none'),
    (['train/a/1.png', 'train/b/1.png', 'test/a/1.png'],
     'photos: expected train/ and val/, found train/ and test/'),
    (['train/a/1.png', 'train/b/1.png', 'val/a/1.png', 'val/c/1.png'],
     r"photos/val: expected what train/ has, \['a', 'b'\], found \['a', 'c'\]"),
    (['train/a/1.png', 'train/b/1.png', 'val/images/1.png', 'val/masks/1.png'], 'photos/val: .*found masks'),
    (['train/images/1.png', 'train/masks/1.png', 'val/a/1.png', 'val/b/1.png'],
     'photos/val: .*has, masks, found')])
def test_folders_of_another_layout_are_an_error(own, draw, names, message):
    for name in names:
        draw(name, 7)
    assert re.search(message, own(code=3), re.M)


def test_one_folder_named_like_a_split_is_a_class(own, draw, tmp_path):
    animals(draw, 5, classes=('train', 'plane'))
    own('--size=4')
    assert read_arrays(tmp_path / 'out')[1]['info']['classes'] == ['plane', 'train']


@pytest.mark.parametrize('argv', [['--out='], ['--input='], ['--out=images'], ['--out=mnist'], ['--size=0'],
                                  ['--val=40'], ['--val=-1'], ['--val=0.5', '--test=0.5'], ['--size=big']])
def test_options_that_cannot_be_are_an_error(own, draw, argv):
    animals(draw)
    assert argv[0][2:].split('=')[0] in own(*argv, code=2)


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
    splits, meta = read_arrays(tmp_path / 'out')
    assert meta['info']['codes'] == [1, 2, 3] and meta['info']['n_class'] == 4
    image, mask = (splits['train'][field].astype(float) for field in ('image', 'mask'))
    assert len(splits['val']['mask']) == 9 and len(image) > 50
    middle, border = (mask == 1)[:, 0, 12:20, 12:20].mean(), (mask == 1)[:, 0, [0, -1]].mean()
    assert middle > 0.7 > 0.3 > border      # pets are in the middle of their images
