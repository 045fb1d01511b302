"""Residual networks (He et al. 2015) for small images: ResNet-20 to -56 and ResNet-18, -34 and -50.

A block adds to its input what two or three convolutions make of it. So many layers are as easy to train as
few: a block that is not needed leaves things as they are, and here every block begins so (Goyal et al. 2017).

    image (B, C, H, W) -> stem (B, width, H, W) -> blocks, in stages, each of them half as large and twice as
    wide as the one before -> mean over the image -> logits (B, n_class)
"""
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Config:
    n_class: int = 10               # filled from the data set
    channels: int = 3               # of an image, filled from the data set
    mean: tuple = (0.5, 0.5, 0.5)   # of each channel in [0, 1], filled from the data set
    std: tuple = (0.25, 0.25, 0.25)         # of each channel, filled from the data set
    arch: Literal['resnet20', 'resnet32', 'resnet44', 'resnet56', 'resnet18', 'resnet34', 'resnet50'] = (
        'resnet20')                 # a row of the table below
    label_smoothing: float = 0.0    # share of the target spread over the classes; not in the reported loss
    tta: Literal['none', 'flip', 'crop'] = 'none'   # in evaluation: logits averaged with the mirror image's;
                                    # crop: and with those of both moved by a pixel, up left and down right

    def __post_init__(self):
        problems = [f'{name} must be at least 1, got {getattr(self, name)}'
                    for name in ('n_class', 'channels') if getattr(self, name) < 1]
        if self.arch not in ARCHITECTURES:
            problems.append(f'arch {self.arch!r} does not exist; there are {", ".join(ARCHITECTURES)}')
        if not 0 <= self.label_smoothing < 1:
            problems.append(f'label_smoothing must be in [0, 1), got {self.label_smoothing}')
        if not len(self.mean) == len(self.std) == self.channels:
            problems.append(f'mean is of {len(self.mean)} channels, std of {len(self.std)}, channels is '
                            f'{self.channels}')
        if problems:
            raise ValueError('\n'.join(problems))


def conv(inner, outer, size, stride=1):
    return nn.Conv2d(inner, outer, size, stride, padding=size // 2, bias=False)


class Pad(nn.Module):
    """A shortcut without parameters: every other pixel, new channels of zeros (He et al. 2015, option A)."""

    def __init__(self, more):
        super().__init__()
        self.more = more

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.more))


def project(inner, outer, stride):
    """A shortcut that learns how to change the shape (option B)."""
    return nn.Sequential(conv(inner, outer, 1, stride), nn.BatchNorm2d(outer))


class Basic(nn.Module):
    """Two 3 x 3 convolutions (figure 5, left)."""
    expansion = 1

    def __init__(self, inner, width, stride, shortcut):
        super().__init__()
        self.conv1, self.norm1 = conv(inner, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.shortcut = shortcut
        nn.init.zeros_(self.norm2.weight)       # the block begins as its shortcut

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1 x 1 to fewer channels, 3 x 3, 1 x 1 to four times as many (figure 5, right). The 3 x 3
    has the stride, as in torchvision; in the paper the first 1 x 1 has it."""
    expansion = 4

    def __init__(self, inner, width, stride, shortcut):
        super().__init__()
        self.conv1, self.norm1 = conv(inner, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.shortcut = shortcut
        nn.init.zeros_(self.norm3.weight)       # the block begins as its shortcut

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


ARCHITECTURES = {   # block, width and number of blocks of each stage
    'resnet20': (Basic, {16: 3, 32: 3, 64: 3}),                         # section 4.2: 6 n + 2 layers
    'resnet32': (Basic, {16: 5, 32: 5, 64: 5}),
    'resnet44': (Basic, {16: 7, 32: 7, 64: 7}),
    'resnet56': (Basic, {16: 9, 32: 9, 64: 9}),
    'resnet18': (Basic, {64: 2, 128: 2, 256: 2, 512: 2}),               # table 1, 3 x 3 stem, no pooling
    'resnet34': (Basic, {64: 3, 128: 4, 256: 6, 512: 3}),
    'resnet50': (Bottleneck, {64: 3, 128: 4, 256: 6, 512: 3}),
}


class Model(nn.Module):
    monitor = 'accuracy', 'max'

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.register_buffer('mean', torch.tensor(config.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(config.std).view(-1, 1, 1), persistent=False)
        block, stages = ARCHITECTURES[config.arch]
        inner = min(stages)
        self.conv, self.norm = conv(config.channels, inner, 3), nn.BatchNorm2d(inner)
        self.blocks = nn.ModuleList()
        for width, depth in stages.items():
            for i in range(depth):
                outer, stride = block.expansion * width, 2 if i == 0 and width > min(stages) else 1
                shortcut = (nn.Identity() if (inner, stride) == (outer, 1) else
                            Pad(outer - inner) if len(stages) == 3 else project(inner, outer, stride))
                self.blocks.append(block(inner, width, stride, shortcut))
                inner = outer
        self.head = nn.Linear(inner, config.n_class)
        self.init()

    def init(self):
        """Kaiming's normal filters; a head of zeros, so that the first loss is ln n_class."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def look(self, x):
        """Logits of normalised images: (B, C, H, W) -> (B, n_class)."""
        x = F.relu(self.norm(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3))).float()

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
