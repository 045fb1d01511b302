"""data/images.py: files of every kind become arrays, rows are split, statistics are numpy's."""
import io
import os
import struct
import threading
import weakref
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import data
from core.errors import UserError
from data import images


def moments(values):
    """Return mean and std of each channel of images (N, C, H, W), as numpy has them."""
    channels = [channel / 255 for channel in values.swapaxes(0, 1)]
    return [channel.mean() for channel in channels], [channel.std() for channel in channels]


# --- data sets

def test_the_rows_of_the_splits_are_a_partition_and_always_the_same():
    rows = images.split_rows(1000, 100, 50)
    assert {split: len(of) for split, of in rows.items()} == {'train': 850, 'val': 100, 'test': 50}
    assert sorted(np.concatenate([*rows.values()])) == list(range(1000))
    assert all(np.array_equal(of, images.split_rows(1000, 100, 50)[split]) for split, of in rows.items())
    assert np.array_equal(rows['val'], images.split_rows(1000, 100)['val'])          # whatever else is drawn
    assert list(images.split_rows(10, 0)) == ['train'] and len(np.unique(np.diff(rows['val']))) > 5


@pytest.mark.parametrize('val, test', [(100, 50), (1, 1), (500, 490), (994, 0)])
def test_every_class_is_in_the_splits_in_proportion_and_in_train(val, test):
    sizes = [600, 300, 90, 7, 2, 1]
    classes = np.random.default_rng(0).permutation(np.repeat([*'abcdef'], sizes))
    rows = images.split_rows(1000, val, test, classes)
    assert {split: len(of) for split, of in rows.items()} == {
        split: n for split, n in (('train', 1000 - val - test), ('val', val), ('test', test)) if n}
    assert sorted(np.concatenate([*rows.values()])) == list(range(1000))
    assert set(classes[rows['train']]) == set('abcdef')
    for split, of in rows.items():
        for name, size in zip('abcdef', sizes):
            n = (classes[of] == name).sum()
            assert abs(n - size * len(of) / 1000) < 3, (split, name)


def test_one_class_is_split_as_none():
    rows = images.split_rows(100, 10, 20, ['x'] * 100)
    assert all(np.array_equal(of, images.split_rows(100, 10, 20)[split]) for split, of in rows.items())


@pytest.mark.parametrize('n', [1, 999, 1000, 2345])
def test_statistics_are_numpys(n):
    noise = np.random.default_rng(n).integers(0, 256, (n, 3, 4, 5), np.uint8)
    values = noise // np.uint8([[[1]], [[2]], [[9]]])
    assert np.allclose(images.statistics(values), moments(values), rtol=1e-12)


def test_a_flat_channel_can_be_divided_by(tmp_path, capsys):
    images.save(str(tmp_path / 'x'), {'train': {'image': np.full((4, 1, 2, 2), 7, np.uint8)}})
    info = data.check(str(tmp_path / 'x'))['info']
    assert np.allclose(info['mean'], 7 / 255) and info['std'] == [1 / 255]
    assert 'as well' not in capsys.readouterr().out


# --- files

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
GRAY = np.broadcast_to(PIXELS[..., :1], PIXELS.shape)
ALPHA = np.arange(54, dtype=np.uint8).reshape(6, 9) * 4
OVER_WHITE = PIXELS * (ALPHA[..., None] / 255) + 255 - ALPHA[..., None].astype(float)
CMYK = np.broadcast_to(np.uint8([200, 100, 0, 50]), (16, 16, 4))
NUMBERS = (np.arange(54, dtype=np.uint8) % 5).reshape(6, 9)
COLORS = PIXELS.reshape(-1, 3)[:5]


def paletted(numbers=NUMBERS):
    image = Image.fromarray(numbers).convert('P')
    image.putdata(numbers.ravel().tolist())
    image.putpalette(COLORS.ravel().tolist())
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
    ('grey.png', lambda f: Image.fromarray(PIXELS[..., 0]).save(f), GRAY, 0),
    ('16 bit.png', lambda f: Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257 + 100).save(f), GRAY, 0),
    ('16 bit.tif', lambda f: Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(f), GRAY, 0),
    ('rgba.png', lambda f: Image.fromarray(np.dstack([PIXELS, ALPHA])).save(f), OVER_WHITE, 1),
    ('grey and alpha.png', lambda f: Image.fromarray(np.dstack([PIXELS[..., 0], ALPHA])).save(f),
     GRAY * (ALPHA[..., None] / 255) + 255. - ALPHA[..., None], 1),
    ('palette.png', lambda f: paletted().save(f), COLORS[NUMBERS], 0),
    ('transparent palette.png', lambda f: paletted().save(f, transparency=2),
     np.where(NUMBERS[..., None] == 2, 255, COLORS[NUMBERS]), 0),
    ('1 bit.png', lambda f: Image.fromarray(NUMBERS > 2).save(f),
     np.repeat((NUMBERS[..., None] > 2) * 255, 3, 2), 0),
    ('grey.jpg', lambda f: Image.fromarray(np.full((16, 16), 77, np.uint8)).save(f),
     np.full((16, 16, 3), 77), 1),
    ('cmyk.jpg', cmyk, (255 - CMYK[..., :3]) * (1 - CMYK[..., 3:] / 255), 3),
    ('turned.png', turned, np.rot90(PIXELS, -1), 0)])
def test_every_kind_of_image_is_read_as_rgb(tmp_path, name, write, expected, tolerance):
    write(tmp_path / name)
    found = np.asarray(images.load_rgb(tmp_path / name))
    assert found.dtype == np.uint8 and found.shape == expected.shape
    assert np.abs(found.astype(float) - expected).max() <= tolerance


TURNED = {1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1],
          5: PIXELS.swapaxes(0, 1), 6: np.rot90(PIXELS, -1), 7: np.rot90(PIXELS, 2).swapaxes(0, 1),
          8: np.rot90(PIXELS)}


@pytest.mark.parametrize('orientation', [*TURNED, 0, 9])
def test_an_image_is_turned_as_the_camera_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / 'x.png', exif=exif)
    expected = TURNED.get(orientation, PIXELS)
    assert np.array_equal(np.asarray(images.load_rgb(tmp_path / 'x.png')), expected)


def with_chunk(kind, content):
    """Return a PNG of PIXELS with another chunk before the pixels, well-formed whatever its content is."""
    body = io.BytesIO()
    Image.fromarray(PIXELS).save(body, 'PNG')
    whole = body.getvalue()
    at = whole.index(b'IDAT') - 4
    checksum = zlib.crc32(kind + content)
    return b''.join([whole[:at], struct.pack('>I', len(content)), kind, content, struct.pack('>I', checksum),
                     whole[at:]])


@pytest.mark.parametrize('kind, content', [
    (b'eXIf', b'no EXIF'), (b'eXIf', b''), (b'eXIf', b'MM\0*\0\0\0\x08\0\x01\x01\x12'),
    (b'iTXt', b'prompt\0\1\0\0\0' + zlib.compress(b'a long text ' * 200_000)),
    (b'iCCP', b'name\0\0no profile'), (b'tEXt', b'no separator'), (b'zTXt', b'key\0\0not compressed'),
    (b'pHYs', bytes(9)), (b'gAMA', bytes(4))])
def test_damaged_metadata_do_not_decide_on_the_pixels(tmp_path, kind, content):
    (tmp_path / 'x.png').write_bytes(with_chunk(kind, content))
    assert np.array_equal(np.asarray(images.load_rgb(tmp_path / 'x.png')), PIXELS)


def test_an_image_is_turned_even_if_the_rest_of_its_exif_cannot_be_written(tmp_path):
    # The maker, 0x010f, should be text: here it is two fractions, as some phones write it.
    entries = struct.pack('>HHIIHHIHH', 0x010f, 5, 2, 38, 0x0112, 3, 1, 6, 0)
    exif = b'MM\0*' + struct.pack('>IH', 8, 2) + entries + struct.pack('>5I', 0, 1, 2, 3, 4)
    Image.fromarray(PIXELS).resize((90, 60)).save(tmp_path / 'x.jpg', exif=b'Exif\0\0' + exif)
    assert images.load_rgb(tmp_path / 'x.jpg').size == (60, 90)


@pytest.mark.parametrize('values, message', [
    (np.linspace(0, 1, 54, dtype=np.float32), 'mode F, values from 0 to 1: expected 8 bits, or 16 bits'),
    (np.full(54, np.nan, np.float32), 'mode F'),
    (np.arange(54, dtype=np.uint16) * 77, 'mode I;16, values from 0 to 4081'),
    (np.arange(54, dtype=np.int32) * 2000, 'mode I, values from 0 to 106000'),
    (np.arange(54, dtype=np.int32) * 1000 - 9, 'mode I, values from -9 to 52991'),
    (np.arange(54, dtype=np.int32), 'mode I, values from 0 to 53')])
def test_values_whose_white_is_unknown_are_an_error(tmp_path, values, message):
    Image.fromarray(values.reshape(6, 9)).save(tmp_path / 'x.tif')
    with pytest.raises(ValueError, match=message):
        images.load_rgb(tmp_path / 'x.tif')


def test_sixteen_bits_may_be_dim_or_all_black(tmp_path):
    for value in 0, 257 * 16, 65535:
        Image.fromarray(np.full((6, 9), value, np.uint16)).save(tmp_path / 'x.tif')
        assert (np.asarray(images.load_rgb(tmp_path / 'x.tif')) == value // 257).all()


@pytest.mark.parametrize('name, write, expected', [
    ('three channels.png', lambda f: Image.fromarray(np.dstack([NUMBERS] * 3)).save(f), NUMBERS),
    ('opaque.png', lambda f: Image.fromarray(NUMBERS * 60).convert('RGBA').save(f), NUMBERS * 60),
    ('gray and opaque.png', lambda f: Image.fromarray(NUMBERS).convert('LA').save(f), NUMBERS),
    ('three channels.bmp', lambda f: Image.fromarray(np.dstack([NUMBERS] * 3)).save(f), NUMBERS),
    ('white.gif', lambda f: Image.new('L', (9, 6), 255).save(f), np.full((6, 9), 255)),
    ('black and white.gif', lambda f: Image.fromarray(NUMBERS // 4 * 255).save(f), NUMBERS // 4 * 255),
    ('grey.png', lambda f: Image.fromarray(NUMBERS).save(f), NUMBERS),
    ('palette.png', lambda f: paletted().save(f), NUMBERS),
    ('2 bits.png', lambda f: paletted(NUMBERS % 3).save(f, bits=2), NUMBERS % 3),
    ('1 bit.png', lambda f: Image.fromarray(NUMBERS > 2).save(f), NUMBERS > 2),
    ('16 bit.png', lambda f: Image.fromarray(NUMBERS.astype(np.uint16)).save(f), NUMBERS)])
def test_a_mask_is_read_as_it_is_stored(tmp_path, name, write, expected):
    write(tmp_path / name)
    found = np.asarray(images.load_mask(tmp_path / name))
    assert found.dtype == np.uint8 and np.array_equal(found, expected)


@pytest.mark.parametrize('name, image, message', [
    ('rgb.png', PIXELS, 'one channel.*found PNG RGB'),
    ('rgba.png', np.dstack([PIXELS, ALPHA]), 'found PNG RGBA'),
    ('shape in alpha.png', np.dstack([NUMBERS, NUMBERS, NUMBERS, ALPHA]), 'found PNG RGBA'),
    ('float.tif', NUMBERS.astype(np.float32), 'found TIFF F'),
    ('grey.jpg', NUMBERS, 'without loss, found JPEG L'),
    ('16 bit.png', NUMBERS.astype(np.uint16) * 100, 'values from 0 to 255, found 0 to 400')])
def test_what_is_not_a_mask_is_an_error_with_its_name(tmp_path, name, image, message):
    Image.fromarray(image).save(tmp_path / name)
    with pytest.raises(UserError, match=f'{name}: expected .*{message}') as error:
        images.load_mask(tmp_path / name)
    assert error.value.code == 3


@pytest.mark.parametrize('height, width, size', [(80, 120, 20), (120, 90, 30), (40, 40, 40), (10, 15, 24)])
def test_images_are_antialiased_and_masks_take_the_nearest_value(tmp_path, height, width, size):
    rng = np.random.default_rng(0)
    image, mask = (rng.integers(0, 256, (height, width, 3), np.uint8),
                   rng.choice(np.uint8([0, 3, 200]), (height, width)))
    Image.fromarray(image).save(tmp_path / 'x.png'), Image.fromarray(mask).save(tmp_path / 'm.png')
    found, found_mask, decoded = images.read([tmp_path / 'x.png'], size, [tmp_path / 'm.png'])
    assert found.shape == (1, 3, size, size) and found_mask.shape == (1, 1, size, size)
    assert decoded.tolist() == [True]
    side = min(height, width)
    small = height * size // side, width * size // side
    whole = torch.nn.functional.interpolate(torch.tensor(image).permute(2, 0, 1)[None].float(), small,
                                            mode='bilinear', antialias=True)
    top, left = ((n - size) // 2 for n in small)
    expected = whole[:, :, top:top + size, left:left + size]
    assert (torch.tensor(found) - expected).abs().max() <= 1.01
    rows, columns = ((n - side) / 2 + (np.arange(size) + 0.5) * side / size for n in (height, width))
    assert np.array_equal(found_mask[0, 0], mask[np.ix_(rows.astype(int), columns.astype(int))])


def test_files_are_decoded_in_parallel_and_none_is_kept(monkeypatch):
    refs, most, meet = [], [], threading.Barrier(2, timeout=600)

    def load_rgb(file):
        image = Image.new('RGB', (8, 8))
        refs.append(weakref.ref(image))
        most.append(sum(ref() is not None for ref in refs))
        if file < 2:
            meet.wait()             # a single worker would wait in vain
        return image
    monkeypatch.setattr(images, 'load_rgb', load_rgb)
    monkeypatch.setattr(os, 'cpu_count', lambda: 2)
    assert images.read([*range(60)], 4)[2].all() and max(most) <= 6


def test_a_list_of_no_files_is_an_error():
    with pytest.raises(UserError, match='0 of 0 files'):
        images.read([], 4)


@pytest.mark.parametrize('size', [(8, 12), (12, 8), (5, 5)])
def test_the_middle_of_an_image_is_kept(size):
    image = Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10))
    found = images.resize_and_center_crop(image, size)
    assert found.shape == (1, *size) and found.dtype == np.uint8
    assert abs(found.mean() - 49.5) < 1 and np.abs(found + np.flip(found, (1, 2)) - 99.).max() <= 1


@pytest.mark.parametrize('n, val, test', [(10, 10, 0), (10, 5, 5), (10, -1, 0), (10, 0, -1)])
def test_to_leave_no_train_is_an_error(n, val, test):
    with pytest.raises(UserError, match=f'val={val} and test={test}: .* some of 10 images'):
        images.split_rows(n, val, test)
