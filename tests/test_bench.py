"""bench.py: that it tells every part of a step, takes turns with a rival, and refuses what it cannot time."""
import re, subprocess, sys

import numpy as np
import pytest
import torch
from PIL import Image

import bench
from conftest import TINY
from test_augment import pictures

SMALL = '--batch_size=8', '--device=cpu', '--dtype=float32', '--flip=random', '--shift=2', '--steps=2'
CNN = '--model=cnn', '--width=4', *SMALL
UNET = '--model=unet', '--width=4', '--depth=2', *SMALL


def keys(*argv):
    """Where `Ours` would have it: a model of these arguments on its data."""
    return bench.Ours(bench.configurator.read(bench.ROOT / 'train.py', [a for a in argv if 'steps' not in a],
                                              bench.ROOT / 'config' / 'train_stdlib.py'))


def photos(path):
    """A data set of pictures and masks, whose files are in its raw/ as well: what is bright, to the right,
    has the code 3, the rest 1."""
    pictures(path)
    for folder in 'images', 'annotations/trimaps':
        (path / 'raw' / folder).mkdir(parents=True)
    for i in range(16):
        image, mask = np.full((20, 30, 3), 5 * i, np.uint8), np.ones((20, 30), np.uint8)
        image[:, 15:] += 150
        mask[:, 15:] = 3
        Image.fromarray(image).save(path / f'raw/images/{i:02}.jpg', quality=95)
        Image.fromarray(mask).save(path / f'raw/annotations/trimaps/{i:02}.png')


def test_the_parts_of_a_step_are_its_time(launch, toy):
    code, text = launch('bench.py', *TINY, f'--dataset={toy}', '--steps=3')
    assert code == 0, text
    whole, *parts = (float(n) for n in re.findall(r'([\d.]+) ms', text))
    assert len(parts) == 3 and sum(parts) == pytest.approx(whole, rel=0.5)      # medians do not add up
    assert re.search(r'[\d.]+ GFLOP a step: \d+% of a matrix product', text)


@pytest.mark.parametrize('argv', [CNN, UNET], ids=['labels', 'masks'])
def test_a_plain_loop_takes_turns(tmp_path, argv):
    photos(tmp_path / 'x')
    told = subprocess.run([sys.executable, bench.ROOT / 'bench.py', *argv, f'--dataset={tmp_path}/x',
                           '--against=plain'], capture_output=True, text=True, timeout=600)
    assert told.returncode == 0 and 'plain, in turns: ' in told.stdout, told.stderr
    assert 'loss to minimise' in told.stdout and not told.stderr


def test_a_picture_is_changed_with_its_mask_and_one_in_two_is_mirrored(tmp_path):
    photos(tmp_path / 'x')
    loaded = bench.Files(keys(*UNET, f'--dataset={tmp_path}/x'))
    assert len(loaded) == 16
    seen = [loaded[i] for i in 4 * [*range(16)]]
    for i, (image, mask) in enumerate(seen):
        assert image.shape == (3, 12, 12) and mask.shape == (1, 12, 12) and image.dtype == torch.uint8
        assert ((image[0] > 5 * (i % 16) + 75) == (mask[0] == 3)).float().mean() > 0.9
        assert set(mask.unique().tolist()) == {1, 3}
    assert 16 < sum(mask[0, 6, 10].item() == 3 for _, mask in seen) < 48
    plain = bench.Pictures(keys(*CNN, '--shift=0', f'--dataset={tmp_path}/x'))
    mirrored = [torch.equal(plain[0][0], plain.images[0].flip(2)) for _ in range(64)]
    assert 16 < sum(mirrored) < 48


@pytest.mark.parametrize('argv, words', [
    (['--steps=0'], 'steps must be at least 1, got 0'), (['--batch_size=41'], 'expected 1 to 40 rows'),
    (['--micro_batch_size=3'], 'a multiple of micro_batch_size 3'),
    (['--against=nowhere'], 'expected a checkout of nanoGPT'), (['--width=0'], 'width must be at least 1')])
def test_what_cannot_be_timed_is_refused(launch, tmp_path, argv, words):
    pictures(tmp_path / 'x')
    code, text = launch('bench.py', *CNN, f'--dataset={tmp_path}/x', *argv)
    assert code == 2 and words in text and 'Traceback' not in text, text


def test_plain_is_of_pictures(launch, toy):
    code, text = launch('bench.py', *TINY, f'--dataset={toy}', '--against=plain')
    assert code == 2 and 'expected a model of images and labels or masks, got gpt' in text, text
