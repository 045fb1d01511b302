"""A small convolutional network that learns to classify images fast, after the speed runs on CIFAR-10 by
Page (2018, "How to Train Your ResNet") and Jordan (2024, arXiv:2404.00498).

A convolution finds local patterns; max pooling discards their exact position. Three groups of both find ever
larger patterns, and the head classifies an image by the strongest response to each of them.
The stem is fixed (not learned): it whitens patches of 2 x 2 pixels. The DCT-II is close to their principal
components, so its coefficients are almost uncorrelated; batch normalisation gives each of them variance 1.

    image (B, C, H, W) -> stem (B, 8 C, H - 1, W - 1) -> 3 x Group, each of which halves height and width
    (B, 4 width, h, w) -> global max pooling (B, 4 width) -> logits (B, n_class)
"""
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Config:
    n_class: int = 10           # filled from the data set
    channels: int = 3           # C of an image, filled from the data set
    size: tuple = ()            # (H, W) of an image in pixels, filled from the data set
    mean: tuple = (0.5, 0.5, 0.5)       # of each channel, for pixels in [0, 1], filled from the data set
    std: tuple = (0.25, 0.25, 0.25)     # of each channel, for pixels in [0, 1], filled from the data set
    width: int = 64             # filters of the first group; the other two have four times as many
    label_smoothing: float = 0.0        # epsilon of label smoothing; the reported loss is without it
    tta: Literal['none', 'flip', 'crop'] = 'none'   # test-time augmentation: average over 1, 2 or 6 views

    def __post_init__(self):
        check(self)


def dct_basis(*sizes):
    """Return the orthonormal DCT-II basis of arrays of shape `sizes`: (prod(sizes), *sizes).

    In one dimension, b_k(i) = sqrt(2 / n) cos(pi / n (i + 1/2) k), but b_0(i) = sqrt(1 / n) (Ahmed et al.
    1974, "Discrete Cosine Transform"). In several dimensions: every product of one b_k per dimension.
    """
    basis = torch.ones(1, 1)
    for n in sizes:
        k = torch.arange(n)[:, None]                                    # (n, 1), frequency
        i = torch.arange(n)                                             # (n,), position
        scale = torch.full((n, 1), math.sqrt(2 / n))
        scale[0] = math.sqrt(1 / n)
        cosines = scale * torch.cos(math.pi / n * (i + 0.5) * k)        # (n, n)
        basis = torch.kron(basis, cosines)                              # n times as many rows and columns
    return basis.view(-1, *sizes)


class Group(nn.Module):
    """Two 3 x 3 convolutions and max pooling: (B, in_channels, H, W) -> (B, out_channels, H // 2, W // 2)."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding='same', bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding='same', bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        for conv in (self.conv1, self.conv2):
            # Dirac (identity) initialisation of the first in_channels filters: they pass their input on.
            nn.init.dirac_(conv.weight[:conv.in_channels])

    def forward(self, x):
        x = F.max_pool2d(self.conv1(x), 2)      # (B, out_channels, H // 2, W // 2)
        x = F.gelu(self.norm1(x))
        x = self.conv2(x)
        return F.gelu(self.norm2(x))


class Model(nn.Module):
    monitor = 'accuracy', 'max'     # the metric that chooses best.pt
    makes = 'classes'               # samples/classes.py shows what it can do

    def __init__(self, config):
        super().__init__()
        self.config = config
        mean = torch.tensor(config.mean)[:, None, None]         # (C, 1, 1)
        std = torch.tensor(config.std)[:, None, None]           # (C, 1, 1)
        dct = dct_basis(config.channels, 2, 2)                  # (4 C, C, 2, 2)
        stem = torch.cat([dct, -dct])           # (8 C, C, 2, 2), both signs: GELU suppresses negative values
        self.register_buffer('mean', mean, persistent=False)    # not in state_dict: config has it
        self.register_buffer('std', std, persistent=False)
        self.register_buffer('stem', stem, persistent=False)
        self.norm = nn.BatchNorm2d(len(stem), affine=False)     # affine=False: no learnable scale or bias
        width = config.width
        channels = [len(stem), width, 4 * width, 4 * width]
        self.groups = nn.ModuleList(Group(i, o) for i, o in zip(channels, channels[1:]))
        self.head = nn.Linear(channels[-1], config.n_class)
        nn.init.zeros_(self.head.weight)        # start at the uniform distribution: the loss is ln n_class
        nn.init.zeros_(self.head.bias)

    def view_logits(self, x):
        """Return the logits of one view, which is normalised: (B, C, H, W) -> (B, n_class) float32."""
        x = F.conv2d(x, self.stem)              # (B, 8 C, H - 1, W - 1)
        x = F.gelu(self.norm(x))
        for group in self.groups:
            x = group(x)                        # after the last: (B, 4 width, h, w)
        x = x.amax((2, 3))                      # (B, 4 width)
        return self.head(x).float()             # (B, n_class)

    def logits(self, image):
        """Return logits, in evaluation averaged over views: (B, C, H, W) uint8 -> (B, n_class) float32."""
        x = (image / 255 - self.mean) / self.std
        tta = self.config.tta
        if self.training or tta == 'none':
            return self.view_logits(x)
        views = [x]
        if tta == 'crop':
            padded = F.pad(x, (1, 1, 1, 1), 'reflect')          # (B, C, H + 2, W + 2)
            views.append(padded[..., 2:, 2:])                   # x moved by one pixel, up and left
            views.append(padded[..., :-2, :-2])                 # x moved by one pixel, down and right
        views += [view.flip(3) for view in views]               # the mirror image of each
        logits = [self.view_logits(view) for view in views]
        return sum(logits) / len(logits)

    def forward(self, image, label):
        """Return sums over images (B, C, H, W) uint8 and labels (B,): `loss` is minimised, `nll` is the same
        without label smoothing; `confusion`, in evaluation only, counts (true, predicted) classes."""
        logits = self.logits(image)
        epsilon = self.config.label_smoothing
        loss = F.cross_entropy(logits, label, reduction='sum', label_smoothing=epsilon)
        nll = F.cross_entropy(logits.detach(), label, reduction='sum')     # reported, never minimised
        count = torch.full_like(nll, len(label))
        predicted = logits.argmax(1)                            # (B,)
        correct = (predicted == label).float().sum()
        sums = {'loss': loss, 'count': count, 'nll': nll, 'correct': correct}
        if not self.training:
            n = self.config.n_class
            pairs = torch.bincount(n * label + predicted, minlength=n * n)      # (n * n,)
            sums['confusion'] = pairs.float().view(n, n)
        return sums

    def metrics(self, total):
        """Return means from the sums over a whole split; in evaluation also the accuracy of each class."""
        loss = total['nll'] / total['count']
        accuracy = total['correct'] / total['count']
        metrics = {'loss': loss, 'accuracy': accuracy}
        if 'confusion' in total:
            confusion = total['confusion']                      # (n_class, n_class)
            correct = confusion.diagonal()
            count = confusion.sum(1)
            metrics['views'] = {'none': 1, 'flip': 2, 'crop': 6}[self.config.tta]
            metrics['class_accuracy'] = correct / count.clamp(min=1)            # 0 for a class without images
            metrics['confusion'] = confusion
        return metrics


def check(config):
    """Raise ValueError, with a line per problem, for a configuration that cannot work."""
    problems = []
    for name in ('n_class', 'channels', 'width'):
        if getattr(config, name) < 1:
            problems.append(f'{name} must be at least 1, got {getattr(config, name)}')
    if not 0 <= config.label_smoothing < 1:
        problems.append(f'label_smoothing must be in [0, 1), got {config.label_smoothing}')
    if not len(config.mean) == len(config.std) == config.channels:
        problems.append(f'channels is {config.channels}, mean has {len(config.mean)}, std {len(config.std)}')
    if config.size and min(config.size) < 9:        # the stem leaves 8 of 9 pixels, the groups 1 of 8
        problems.append(f'images of {config.size} pixels are too small: expected at least 9 x 9')
    if problems:
        raise ValueError('\n'.join(problems))
