"""The time of a training step of an image model, and of the same model in the loop of most tutorials.

    python results/against_plain.py config/train_cifar10_resnet20.py --steps=20

The two take turns, step by step: results/cifar10.md and results/unet.md have the numbers.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 2)[0])          # the root of the repository

import os
os.environ.setdefault('GOMP_SPINCOUNT', '3000')         # as train.py does

import contextlib
import multiprocessing
import signal
import statistics

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

import data
from core.errors import UserError
from data import images
from results.against import Ours, compare

# --- options of this script; all others are train.py's
steps = 20          # steps that are timed, after three that are not


class LabeledImages:
    """Images with labels, each mirrored or not, padded with black and cropped at random."""

    def __init__(self, split, shift):
        self.images = split.arrays['image'].cpu()       # (N, C, H, W) uint8
        self.labels = split.arrays['label'].cpu()       # (N,)
        self.shift = shift                              # pixels of padding

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        image = self.images[row].float() / 255
        C, H, W = image.shape
        if torch.rand(()) < 0.5:
            image = image.flip(2)
        y, x = torch.randint(2 * self.shift + 1, (2,)).tolist()
        image = F.pad(image, [self.shift] * 4)[:, y:y + H, x:x + W]
        return (image * 255).round().byte(), int(self.labels[row])      # our models normalize bytes


class MaskedImages:
    """Images with masks, each decoded from the files that prepare.py left in `raw`, resized and augmented."""

    def __init__(self, split, raw):
        self.masks = sorted(raw.glob('annotations/trimaps/*.png'))
        self.images = [raw / 'images' / f'{mask.stem}.jpg' for mask in self.masks]
        self.size = split.arrays['image'].shape[2:]     # height and width
        self.augment = split.augment
        self.mean = split.mean
        if not self.masks:
            raise UserError(f'{raw}: expected annotations/trimaps/*.png to decode, found none', code=3)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        image = images.resize_and_center_crop(images.load_rgb(self.images[row]), self.size)
        mask = images.load_mask(self.masks[row])
        mask = images.resize_and_center_crop(mask, self.size, images.Image.Resampling.NEAREST)
        batch = {'image': torch.from_numpy(image)[None], 'mask': torch.from_numpy(mask)[None]}
        if self.augment:
            seed = int(torch.randint(2**31, ()))        # the loader seeds torch: workers and epochs differ
            rows = self.augment.sample_params(np.array([row]), epoch=0, step=0, seed=seed)
            batch = self.augment.apply(batch, rows, self.mean)
        return batch['image'][0], batch['mask'][0]


class Plain:
    """The plain loop: float32, not compiled, channels first, torch's SGD, and a DataLoader whose two worker
    processes take one image after the other."""

    def __init__(self, ours):
        if ours.fields == ['image', 'label']:
            rows = LabeledImages(ours.split, ours.options['shift'])
        elif ours.fields == ['image', 'mask']:
            rows = MaskedImages(ours.split, data.folder(ours.options['dataset']) / 'raw')
        else:
            raise UserError(f'expected a model of images with labels or masks, got {ours.options["model"]}')
        loader = DataLoader(rows, ours.options['batch_size'], shuffle=True, num_workers=2, drop_last=True)
        self.batches = repeat(loader)
        self.net = ours.Model(ours.config).to(ours.device)
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
        self.device = ours.device

    def step(self, step):
        """Read the next batch and update the weights; return the loss."""
        batch = next(self.batches)
        sums = self.net(*[values.to(self.device) for values in batch])
        loss = sums['loss'] / sums['count']
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss


def repeat(loader):
    """Yield the batches of a loader, epoch after epoch."""
    while True:
        yield from loader


@contextlib.contextmanager
def stopped_workers():
    """Stop the worker processes meanwhile: they would read ahead on the cores that our step needs."""
    workers = multiprocessing.active_children()
    try:
        for worker in workers:
            os.kill(worker.pid, signal.SIGSTOP)
        yield
    finally:                                            # a stopped process could not be ended
        for worker in workers:
            os.kill(worker.pid, signal.SIGCONT)


if __name__ == '__main__':
    ours = Ours(__file__, sys.argv[1:])
    # Its batches come two at a time, from two workers: every other step waits longer, and a median misleads.
    compare(ours, 'plain loop', Plain(ours).step, statistics.mean, stopped_workers)
