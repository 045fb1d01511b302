"""results/against_*.py: our step is train.py's own, and the other loop reads what it should."""
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import data
from conftest import ROOT, TINY, events, image_data
from data.augment import Augment
from results.against_plain import LabeledImages, MaskedImages

SMALL = ('--batch_size=8', '--width=4', '--device=cpu', '--dtype=float32', '--flip=random', '--shift=2',
         '--learning_rate=1e-2')
CNN = '--model=cnn', *SMALL
UNET = '--model=unet', '--depth=2', *SMALL

# Stands in for nanoGPT's model.py: the same calls, and it keeps the tokens that it reads in a file.
NANOGPT = """
import torch
from dataclasses import dataclass

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embedding = torch.nn.Embedding(config.vocab_size, config.vocab_size)
        self.tokens = []

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), learning_rate, betas, weight_decay=weight_decay)

    def forward(self, x, target):
        self.tokens.append(torch.cat([x, target[:, -1:]], 1))
        torch.save(self.tokens, __file__ + '.tokens')
        return None, torch.nn.functional.cross_entropy(self.embedding(x).flatten(0, 1), target.flatten())
"""


@pytest.fixture
def nanogpt(tmp_path):
    """The folder of a stand-in for nanoGPT."""
    folder = tmp_path / 'nanoGPT'
    folder.mkdir()
    (folder / 'model.py').write_text(NANOGPT, encoding='utf-8')
    return folder


def save_photos(path):
    """Save a data set of images and masks, and their files in raw/: the right half is brighter, its mask 3.

    The left half of image i has the value 5 i, the mask 1.
    """
    image_data(path)
    for folder in 'images', 'annotations/trimaps':
        (path / 'raw' / folder).mkdir(parents=True)
    for i in range(16):
        image = np.full((20, 30, 3), 5 * i, np.uint8)
        mask = np.ones((20, 30), np.uint8)
        image[:, 15:] += 150
        mask[:, 15:] = 3
        Image.fromarray(image).save(path / f'raw/images/{i:02}.jpg', quality=95)
        Image.fromarray(mask).save(path / f'raw/annotations/trimaps/{i:02}.png')


def launch_plain(*argv):
    """Run against_plain.py; return what it prints. It has worker processes, which `launch` cannot have."""
    command = [sys.executable, str(ROOT / 'results' / 'against_plain.py'), *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def printed_loss(text):
    """Return the mean loss of our last ten steps."""
    return float(re.search(r'last ten of \d+ steps: ours ([\d.]+)', text)[1])


def loss_of_train(launch, out_dir, *argv):
    """Return the mean loss of the last ten of 20 steps of train.py, at a constant learning rate."""
    code, text = launch('train.py', *argv, f'--out_dir={out_dir}', '--max_iters=20', '--log_interval=1',
                        '--schedule=constant', '--warmup_iters=0', '--warmup_fraction=0')
    assert code == 0, text
    losses = [line['objective'] for line in events(out_dir)]
    assert len(losses) == 20
    return np.mean(losses[-10:])


def test_our_step_beside_nanogpt_is_that_of_train(launch, toy, nanogpt, tmp_path):
    argv = *TINY, f'--dataset={toy}'
    code, text = launch('results/against_nanogpt.py', *argv, f'--nanogpt={nanogpt}', '--steps=17')
    assert code == 0, text
    assert re.search(r'nanoGPT: [\d.]+ ms per step \(median of 17\)', text)
    assert printed_loss(text) == pytest.approx(loss_of_train(launch, tmp_path / 'run', *argv), abs=1e-4)


def test_nanogpt_reads_the_same_batches(launch, toy, nanogpt):
    code, text = launch('results/against_nanogpt.py', *TINY, f'--dataset={toy}', f'--nanogpt={nanogpt}',
                        '--steps=2')
    assert code == 0, text
    split = data.load_split(toy, 'train', ['tokens'], block_size=16)
    batches = torch.load(nanogpt / 'model.py.tokens')
    assert len(batches) == 5                    # the first three steps are not timed
    for step, tokens in enumerate(batches):
        rows = split.rows(step, batch_size=8, seed=1337)
        assert torch.equal(tokens, split.batch(rows)['tokens'])


@pytest.mark.parametrize('argv', [CNN, UNET], ids=['labels', 'masks'])
def test_our_step_beside_a_plain_loop_is_that_of_train(launch, tmp_path, argv):
    save_photos(tmp_path / 'x')
    argv = *argv, f'--dataset={tmp_path}/x'
    text = launch_plain(*argv, '--steps=17')
    assert re.search(r'plain loop: [\d.]+ ms per step \(mean of 17\)', text)
    assert printed_loss(text) == pytest.approx(loss_of_train(launch, tmp_path / 'run', *argv), abs=1e-4)


def test_a_decoded_image_and_its_mask_are_mirrored_together_in_half_of_the_cases(tmp_path):
    save_photos(tmp_path / 'x')
    augment = Augment(flip='random', shift=2)
    split = data.load_split(str(tmp_path / 'x'), 'train', ['image', 'mask'], augment=augment)
    images = MaskedImages(split, tmp_path / 'x' / 'raw')
    assert len(images) == 16
    mirrored = 0
    for i in 4 * [*range(16)]:
        image, mask = images[i]
        assert image.shape == (3, 12, 12) and image.dtype == torch.uint8
        assert mask.shape == (1, 12, 12) and set(mask.unique().tolist()) == {1, 3}
        bright = image[0] > 5 * i + 75
        assert (bright == (mask[0] == 3)).float().mean() > 0.9
        mirrored += mask[0, 6, 10].item() == 1
    assert 16 < mirrored < 48


def test_a_labeled_image_is_mirrored_and_moved(tmp_path):
    made = image_data(tmp_path / 'x')['train']
    split = data.load_split(str(tmp_path / 'x'), 'train', ['image', 'label'])
    padded = np.pad(made['image'][5], [(0, 0), (1, 1), (1, 1)])         # (3, 14, 14)
    expected = set()
    for image in padded, padded[:, :, ::-1]:
        for y, x in np.ndindex(3, 3):
            expected.add(image[:, y:y + 12, x:x + 12].tobytes())
    images = LabeledImages(split, shift=1)
    assert len(images) == 40
    seen = set()
    for _ in range(400):
        image, label = images[5]
        assert label == 1
        seen.add(image.numpy().tobytes())
    assert len(expected) == 18 and seen == expected


@pytest.mark.parametrize('script, argv, words', [
    ('nanogpt', ['--nanogpt=nowhere'], '--nanogpt=nowhere: expected a checkout of nanoGPT'),
    ('nanogpt', ['--steps=0'], 'steps must be at least 1, got 0'),
    ('nanogpt', ['--batch_size=1000'], 'batch_size must be from 1 to'),
    ('nanogpt', ['--againts=plain'], 'againts is not an option'),
    ('plain', [], 'expected a model of images with labels or masks, got gpt')])
def test_what_cannot_be_compared_is_an_error(launch, toy, script, argv, words):
    code, text = launch(f'results/against_{script}.py', *TINY, f'--dataset={toy}', *argv)
    assert code == 2 and words in text and 'Traceback' not in text, text


def test_another_model_beside_nanogpt_is_an_error(launch, nanogpt, tmp_path):
    image_data(tmp_path / 'x')
    code, text = launch('results/against_nanogpt.py', *CNN, f'--dataset={tmp_path}/x', f'--nanogpt={nanogpt}')
    assert code == 2 and 'nanoGPT compares with the models gpt and gpt2, got cnn' in text, text


def test_masks_without_their_files_are_an_error(launch, tmp_path):
    image_data(tmp_path / 'x')
    code, text = launch('results/against_plain.py', *UNET, f'--dataset={tmp_path}/x')
    assert code == 3 and 'annotations/trimaps/*.png to decode, found none' in text, text


def test_a_memory_map_is_timed_beside_memory(launch, toy):
    code, text = launch('results/memory_mapped.py', *TINY, f'--dataset={toy}', '--gigabytes=0.001',
                        '--steps=2', '--rounds=2')
    assert code == 0 and '0.001 GB: memory map' in text and 'in 2 rounds of 2 steps' in text, text
