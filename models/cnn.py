"""A small convolutional network that is fast to train, for images of any channels, from 9 x 9 pixels up.

Convolutions look for patterns, pooling forgets where exactly they were, and so three times over; the
strongest of what is left (global max pooling) is read off by one linear map. After the speed runs on CIFAR-10
by Jordan (2024) and Page (2018), with a stem that learns nothing: the cosines of 2 x 2 patches, across
colours too, are close to their principal components (Ahmed et al. 1974), and batch normalisation makes them
of one size: whitening.

    image (B, C, H, W) -> cosines (B, 8 C, H - 1, W - 1) -> 3 x Group, each half as large -> maxima
    (B, 4 width) -> logits (B, n_class)
"""
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Config:
    n_class: int = 10               # filled from the data set
    channels: int = 3               # of an image, filled from the data set
    size: tuple = ()                # of an image, (H, W) pixels, filled from the data set
    mean: tuple = (0.5, 0.5, 0.5)   # of each channel in [0, 1], filled from the data set
    std: tuple = (0.25, 0.25, 0.25)         # of each channel, filled from the data set
    width: int = 64                 # filters of the first group; the others have four times as many
    label_smoothing: float = 0.0    # share of the target spread over the classes; not in the reported loss
    tta: Literal['none', 'flip', 'crop'] = 'none'   # in evaluation: logits averaged with the mirror image's;
                                    # crop: and with those of both moved by a pixel, up left and down right

    def __post_init__(self):
        problems = [f'{name} must be at least 1, got {getattr(self, name)}'
                    for name in ('n_class', 'channels', 'width') if getattr(self, name) < 1]
        if not 0 <= self.label_smoothing < 1:
            problems.append(f'label_smoothing must be in [0, 1), got {self.label_smoothing}')
        if not len(self.mean) == len(self.std) == self.channels:
            problems.append(f'mean is of {len(self.mean)} channels, std of {len(self.std)}, channels is '
                            f'{self.channels}')
        if self.size and min(self.size) < 9:
            problems.append(f'images of {" x ".join(map(str, self.size))} pixels are too small: expected 9 '
                            'or more each way')
        if problems:
            raise ValueError('\n'.join(problems))


def cosines(*sizes):
    """The discrete cosine transform of arrays of these sizes: an orthogonal matrix whose rows have the shape
    `sizes`. Of three colours it takes brightness, red - blue and green - magenta."""
    basis = torch.ones(1, 1)
    for n in sizes:
        k, i = torch.arange(n)[:, None], torch.arange(n)
        one = torch.cos(math.pi / n * (i + 0.5) * k) * torch.where(k == 0, math.sqrt(1 / n), math.sqrt(2 / n))
        basis = torch.kron(basis, one)
    return basis.view(-1, *sizes)


class Conv(nn.Conv2d):
    """3 x 3, the size kept, without bias; as many filters as can be begin as the identity."""

    def __init__(self, inner, outer):
        super().__init__(inner, outer, 3, padding='same', bias=False)
        nn.init.dirac_(self.weight[:inner])


class Group(nn.Module):
    """Two convolutions; half the height and width."""

    def __init__(self, inner, outer):
        super().__init__()
        self.conv1, self.norm1 = Conv(inner, outer), nn.BatchNorm2d(outer)
        self.conv2, self.norm2 = Conv(outer, outer), nn.BatchNorm2d(outer)

    def forward(self, x):
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))      # (B, outer, H / 2, W / 2)
        return F.gelu(self.norm2(self.conv2(x)))


class Model(nn.Module):
    monitor = 'accuracy', 'max'

    def __init__(self, config):
        super().__init__()
        self.config = config
        patch, widths = cosines(config.channels, 2, 2), [config.width, 4 * config.width, 4 * config.width]
        self.register_buffer('mean', torch.tensor(config.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(config.std).view(-1, 1, 1), persistent=False)
        self.register_buffer('patch', torch.cat([patch, -patch]), persistent=False)     # (8 C, C, 2, 2)
        self.norm = nn.BatchNorm2d(len(self.patch), affine=False)   # the stem learns nothing: no way back
        self.groups = nn.ModuleList(map(Group, [len(self.patch), *widths], widths))
        self.head = nn.Linear(widths[-1], config.n_class)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def look(self, x):
        """Logits of normalised images: (B, C, H, W) -> (B, n_class)."""
        x = F.gelu(self.norm(F.conv2d(x, self.patch)))
        for group in self.groups:
            x = group(x)
        return self.head(x.amax((2, 3))).float()

    def logits(self, image):
        """(B, C, H, W) uint8 -> (B, n_class) float32."""
        x = (image / 255 - self.mean) / self.std
        views, tta = [x], 'none' if self.training else self.config.tta
        if tta == 'crop':
            x = F.pad(x, (1, 1, 1, 1), 'reflect')
            views += [x[:, :, 2:, 2:], x[:, :, :-2, :-2]]
        if tta != 'none':
            views += [x.flip(3) for x in views]
        return sum(map(self.look, views)) / len(views)

    def forward(self, image, label):
        """Sums over images (B, C, H, W) uint8 and labels (B,): loss, to minimise; count, of images; nll,
        negative log likelihood; correct; in evaluation confusion, the matrix (true, predicted)."""
        logits, n = self.logits(image), self.config.n_class
        nll = loss = F.cross_entropy(logits, label, reduction='sum')
        if smoothing := self.config.label_smoothing:
            loss = F.cross_entropy(logits, label, reduction='sum', label_smoothing=smoothing)
        predicted = logits.argmax(1)
        sums = {'loss': loss, 'count': torch.full_like(nll, len(label)), 'nll': nll,
                'correct': (predicted == label).float().sum()}
        if not self.training:
            sums['confusion'] = torch.bincount(label * n + predicted, minlength=n * n).float().view(n, n)
        return sums

    def metrics(self, total):
        metrics = {'loss': total['nll'] / total['count'], 'accuracy': total['correct'] / total['count']}
        if 'confusion' in total:
            hits, all = total['confusion'].diagonal(), total['confusion'].sum(1)
            metrics |= {'views': {'none': 1, 'flip': 2, 'crop': 6}[self.config.tta],
                        'class_accuracy': hits / all.clamp(min=1), 'confusion': total['confusion']}
        return metrics
