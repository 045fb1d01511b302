"""data/images/prepare.py: what real folders look like, and that what was made of them is said."""
import json
import re
import unicodedata

import numpy as np
import pytest
from PIL import Image

from mirror import read_arrays
from test_prepare_own_images import animals, draw, masked, own  # noqa: F401, fixtures among them

NFC, NFD = (unicodedata.normalize(form, 'crème') for form in ('NFC', 'NFD'))


# --- splits and classes

@pytest.mark.parametrize('train, val, test', [
    ('train', 'validation', 'testing'), ('Training', 'valid', 'Test'), ('TRAIN', 'dev', 'test')])
def test_folders_of_splits_have_many_names(own, draw, tmp_path, train, val, test):
    for folder, n in (train, 5), (val, 3), (test, 2):
        animals(draw, n, f'{folder}/')
    draw('extra/ant/1.png', (1, 2, 3))
    text = own('--size=8')
    splits, meta = read_arrays(tmp_path / 'out')
    assert {split: len(fields['label']) for split, fields in splits.items()} == {
        'train': 10, 'val': 6, 'test': 4}
    assert meta['info']['classes'] == ['ant', 'zebra']
    assert f'photos: the splits are {train}, {val}, {test}\n' in text
    assert 'photos: not used: extra\n' in text


def test_the_classes_are_printed_with_their_numbers_in_each_split(own, draw):
    animals(draw, 20, classes=('ant', 'zebra'))
    draw('readme.png', 3)
    text = own('--size=4', '--val=4', '--test=6')
    for name in 'ant', 'zebra':
        assert f'  {name}: 15 train + 2 val + 3 test\n' in text
    assert 'photos: 1 files in no sub-folder are left out, such as readme.png\n' in text


def test_classes_that_have_the_same_sub_folders_are_an_error(own, draw):
    for split in 'fold1', 'fold2':
        animals(draw, 2, f'{split}/')
    text = own(code=3)
    assert 'like splits or masks, not like classes: fold1, fold2, each with ant, zebra\n' in text


@pytest.mark.parametrize('names', [('my-test', 'my-train'), ('train', 'train_masks'), ('Val', 'Val 2')])
def test_classes_with_names_of_splits_are_an_error(own, draw, names):
    animals(draw, 2, classes=names)
    assert f'these look like splits or masks, not like classes: {names[0]}' in own(code=3)


def test_two_folders_for_one_split_are_an_error(own, draw):
    for split in 'train', 'val', 'valid':
        animals(draw, 2, f'{split}/')
    assert 'photos: expected one of val, valid' in own(code=3)


def test_a_rare_class_stays_in_train(own, draw, tmp_path):
    for name, n in ('common', 30), ('rare', 2), ('single', 1), ('usual', 25):
        for i in range(n):
            draw(f'{name}/{i}.png', (i, 1, 1))
    text = own('--size=4', '--val=0.2', '--test=0.2')
    splits, meta = read_arrays(tmp_path / 'out')
    assert [len(fields['label']) for fields in splits.values()] == [34, 12, 12]
    counts = np.array([np.bincount(fields['label'], minlength=4) for fields in splits.values()])
    assert counts.sum(0).tolist() == [30, 2, 1, 25]
    assert counts[0].min() >= 1
    assert np.abs(counts[1:, [0, 3]] - [6, 5]).max() <= 1       # the large ones in proportion
    assert 'no model can learn' not in text


def test_a_class_without_a_row_in_train_is_named(own, draw, tmp_path):
    animals(draw, 10)
    for file in (tmp_path / 'photos/ant').rglob('*.png'):
        file.write_bytes(b'no image')
    text = own('--size=4', '--val=2', '--test=0')
    assert '  ant: 0 train + 0 val: no model can learn this class\n' in text
    assert re.search(r'  zebra: \d+ train \+ \d val\n', text)


def test_a_class_that_is_a_link_is_read_and_a_broken_link_is_listed(own, draw, tmp_path):
    animals(draw, 4)
    draw('../elsewhere/owl/1.png', (1, 2, 3))
    (tmp_path / 'photos/owl').symlink_to(tmp_path / 'elsewhere/owl')
    (tmp_path / 'photos/ant/lost.png').symlink_to(tmp_path / 'unplugged')
    text = own('--size=4', '--val=0', '--test=0')
    assert read_arrays(tmp_path / 'out')[1]['info']['classes'] == ['ant', 'owl', 'zebra']
    assert '1 of 10 files do not decode' in text and 'ant/lost.png: FileNotFoundError' in text


def test_class_names_may_be_composed_or_decomposed(own, draw, tmp_path):
    for split, name in ('train', NFC), ('val', NFD):
        animals(draw, 2, f'{split}/', (name, 'thé'))
    own('--size=4')
    assert read_arrays(tmp_path / 'out')[1]['info']['classes'] == [NFC, 'thé']


def test_images_without_classes_are_of_one_class(own, draw, launch, tmp_path):
    for i in range(20):
        draw(f'{i}.png', (i, 2 * i, 3 * i))
    text = own('--size=8', '--val=4', '--test=0')
    splits, meta = read_arrays(tmp_path / 'out')
    assert 'photos: 20 files and no sub-folders: all are of one class, "image"\n' in text
    assert meta['info']['n_class'] == 1 and meta['info']['classes'] == ['image']
    assert splits['train']['label'].tolist() == [0] * 16
    code, text = launch('train.py', '--model=cvae', '--likelihood=logistic', '--width=4', '--batch_size=4',
                        '--max_iters=2', '--device=cpu', f'--dataset={tmp_path}/out',
                        f'--out_dir={tmp_path}/run')
    assert code == 0, text
    for grid, code in ('prior', 0), ('style', 0), ('wrong_label', 2):
        found, text = launch('sample.py', f'--out_dir={tmp_path}/run', f'--grid={grid}', '--split=val',
                             '--num_samples=4', '--device=cpu')
        assert found == code, text
    assert 'image is the only class' in text


@pytest.mark.parametrize('input, reason', [
    ('none', 'No such file or directory'), ('photos.zip', 'Not a directory'), ('~/none', 'No such file')])
def test_an_input_that_is_no_folder_is_an_error_with_the_reason(launch, tmp_path, input, reason):
    (tmp_path / 'photos.zip').write_bytes(b'PK')
    code, text = launch('data/images/prepare.py', f'--input={input}', f'--out={tmp_path}/out', cwd=tmp_path)
    assert code == 3
    assert reason in text and '~' not in text and 'Traceback' not in text


def test_meta_json_has_the_file_of_each_row(own, draw, tmp_path):
    animals(draw)
    (tmp_path / 'photos/ant/2.png').write_bytes(b'')
    own('--size=4')
    splits, meta = read_arrays(tmp_path / 'out')
    files = meta['source'][0]['files']
    for split, fields in splits.items():
        assert len(files[split]) == len(fields['label'])
        for file, image, label in zip(files[split], fields['image'], fields['label']):
            assert file.startswith(('ant/', 'zebra/')[label])
            assert int(re.search(r'(\d+)\.png', file)[1]) == image[1, 0, 0]


# --- masks

@pytest.mark.parametrize('image_folder, mask_folder, end, argv', [
    ('imgs', 'masks', '_mask', []), ('Images', 'Labels', '', []), ('images', 'masks', '-seg', ['-seg'])])
def test_masks_may_have_an_end_of_their_own(own, draw, tmp_path, image_folder, mask_folder, end, argv):
    for i in range(6):
        draw(f'{image_folder}/deep/{i}.jpg', (20 * i,) * 3)
        draw(f'{mask_folder}/deep/{i}{end}.gif', i % 3)
    own('--size=6', '--val=0', '--test=0', *[f'--mask_suffix={suffix}' for suffix in argv])
    splits, meta = read_arrays(tmp_path / 'out')
    assert splits['train']['mask'][:, 0, 0, 0].tolist() == [0, 1, 2, 0, 1, 2]
    assert meta['source'][0]['files']['train'] == [f'{image_folder}/deep/{i}.jpg' for i in range(6)]


def test_the_end_of_a_mask_is_kept_if_an_image_has_it(own, draw, tmp_path):
    for name, color in ('face', 40), ('face_mask', 80):
        draw(f'images/{name}.jpg', (color,) * 3)
        draw(f'masks/{name}.png', color // 40)
    own('--size=4', '--val=0', '--test=0')
    fields = read_arrays(tmp_path / 'out')[0]['train']
    assert (fields['image'][:, 0, 0, 0] / 40).round().tolist() == [1, 2]
    assert fields['mask'][:, 0, 0, 0].tolist() == [1, 2]


def test_a_mask_of_another_end_is_an_error_that_names_the_option(own, draw):
    draw('images/1.jpg', (1, 2, 3)), draw('masks/1_segmented.png', 1)
    text = own(code=3)
    assert 'one image and one mask 1, found images/1.jpg' in text and '--mask_suffix=' in text


def test_composed_and_decomposed_names_are_a_pair(own, draw, tmp_path):
    draw(f'images/{NFC}.jpg', (1, 2, 3)), draw(f'masks/{NFD}.png', 1)
    own('--size=4', '--val=0', '--test=0')
    assert read_arrays(tmp_path / 'out')[0]['train']['mask'].tolist() == [[[[1] * 4] * 4]]


@pytest.mark.parametrize('codes, line', [
    ([0, 4, 7], '0, 4, 7; to a U-Net, 0 is background and one foreground is 4, 7\n'),
    ([0], '0; to a U-Net, 0 is background and one foreground is missing'),
    ([1, 2], '1, 2; to a U-Net, a trimap, in which 1 is foreground, 2 background'),
    ([128, 255], '128, 255; to a U-Net, it takes 0 for background, or 1, 2 and 3 of a trimap, but not these'),
    ([*range(0, 250, 10)], '0, 10, 20, 30, ..., 210, 220, 230, 240; to a U-Net, 0 is background')])
def test_what_the_codes_of_masks_mean_is_said(own, draw, codes, line):
    for i, code in enumerate(codes):
        draw(f'images/{i}.jpg', (1, 2, 3)), draw(f'masks/{i}.png', code)
    assert f'the masks hold {line}' in own('--size=4', '--val=0', '--test=0')


def save_turned(folder, size, orientation, suffix='jpg'):
    """Write an image with EXIF and a mask drawn on its pixels as they are stored: a bright rectangle."""
    mask = np.zeros(size[::-1], np.uint8)
    mask[:size[1] // 3, :size[0] // 2] = 1
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in 'images', 'masks':
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask * 200).convert('RGB').save(folder / f'images/1.{suffix}', quality=95, exif=exif)
    Image.fromarray(mask).save(folder / 'masks/1.png')


@pytest.mark.parametrize('orientation, suffix', [(5, 'jpg'), (6, 'png'), (7, 'jpg'), (8, 'jpg'), (6, 'tif')])
def test_the_size_tells_that_a_mask_is_to_be_turned_as_its_image(own, tmp_path, orientation, suffix):
    save_turned(tmp_path / 'photos', (48, 32), orientation, suffix)
    text = own('--size=32', '--val=0', '--test=0')
    fields = read_arrays(tmp_path / 'out')[0]['train']
    bright = fields['image'][:, :1] > 100
    assert 0.05 < bright.mean() < 0.5
    assert (bright == fields['mask']).mean() > 0.97             # JPEG blurs the edge
    assert 'EXIF' not in text


@pytest.mark.parametrize('size, orientation, suffix', [
    ((48, 32), 3, 'jpg'), ((48, 32), 2, 'jpg'), ((32, 32), 6, 'jpg'), ((48, 32), 4, 'tif')])
def test_if_nothing_tells_whether_a_mask_is_to_be_turned_it_is_said(own, tmp_path, size, orientation, suffix):
    save_turned(tmp_path / 'photos', size, orientation, suffix)
    text = own('--size=32', '--val=0', '--test=0')
    assert re.search(f'1 images, such as .*photos/images/1.{suffix}, are turned by EXIF, their', text)


def test_no_turn_is_not_worth_a_word(own, draw, tmp_path):
    save_turned(tmp_path / 'photos', (48, 32), 1)
    assert 'EXIF' not in own('--size=32', '--val=0', '--test=0')
    assert json.loads((tmp_path / 'out/meta.json').read_text())['options']['mask_suffix'] == '_mask'
