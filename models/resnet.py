"""Residual networks (He et al. 2015, arXiv:1512.03385) for small images: ResNet-20 to 56, ResNet-18 to 50.

A block returns y + shortcut(x): its convolutions learn only y, what to add to the input. So a deep network
trains as easily as a shallow one: a block that is not needed can learn y = 0. Here every block starts so.

    image (B, C, H, W) -> stem (B, width, H, W) -> stages of blocks; each stage but the first halves H and W
    and doubles the width (B, channels, h, w) -> global average pooling (B, channels) -> logits (B, n_class)
"""
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Config:
    n_class: int = 10           # filled from the data set
    channels: int = 3           # C of an image, filled from the data set
    mean: tuple = (0.5, 0.5, 0.5)       # of each channel, for pixels in [0, 1], filled from the data set
    std: tuple = (0.25, 0.25, 0.25)     # of each channel, for pixels in [0, 1], filled from the data set
    arch: Literal['resnet20', 'resnet32', 'resnet44', 'resnet56',
                  'resnet18', 'resnet34', 'resnet50'] = 'resnet20'      # the number is that of layers
    label_smoothing: float = 0.0        # epsilon of label smoothing; the reported loss is without it
    tta: Literal['none', 'flip', 'crop'] = 'none'   # test-time augmentation: average over 1, 2 or 6 views

    def __post_init__(self):
        check(self)


def conv(in_channels, out_channels, kernel_size, stride=1):
    """Return a convolution without bias: (B, in_channels, H, W) -> (B, out_channels, H/stride, W/stride)."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)


class ZeroPadShortcut(nn.Module):
    """Take every second pixel and append as many channels of zeros: (B, C, H, W) -> (B, 2 C, H/2, W/2)."""

    def forward(self, x):
        x = x[..., ::2, ::2]                            # (B, C, H/2, W/2)
        return F.pad(x, (0, 0, 0, 0, 0, x.size(1)))     # (B, 2 C, H/2, W/2)


def make_shortcut(kind, in_channels, out_channels, stride):
    """Return the identity if the shape stays as it is, else a shortcut of this kind (section 3.3)."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    if kind == 'zero-pad':
        return ZeroPadShortcut()                                # option A, without parameters
    projection = conv(in_channels, out_channels, 1, stride)     # option B, W_s in equation (2)
    return nn.Sequential(projection, nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions (figure 5, left): (B, C, H, W) -> (B, width, H/stride, W/stride)."""
    expansion = 1

    def __init__(self, in_channels, width, stride, shortcut_kind):
        super().__init__()
        self.conv1 = conv(in_channels, width, 3, stride)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = make_shortcut(shortcut_kind, in_channels, width, stride)
        nn.init.zeros_(self.norm2.weight)       # start with y = 0 (Goyal et al. 2017, arXiv:1706.02677)

    def forward(self, x):
        y = self.conv1(x)                       # (B, width, H/stride, W/stride)
        y = F.relu(self.norm1(y))
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut(x))     # equation (1); (2) if the shortcut is a projection


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions (figure 5, right): (B, C, H, W) -> (B, 4 width, H/stride, ...)."""
    expansion = 4

    def __init__(self, in_channels, width, stride, shortcut_kind):
        super().__init__()
        self.conv1 = conv(in_channels, width, 1)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)      # as in torchvision; in the paper conv1 has the stride
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, 4 * width, 1)
        self.norm3 = nn.BatchNorm2d(4 * width)
        self.shortcut = make_shortcut(shortcut_kind, in_channels, 4 * width, stride)
        nn.init.zeros_(self.norm3.weight)       # start with y = 0

    def forward(self, x):
        y = self.conv1(x)                       # (B, width, H, W)
        y = F.relu(self.norm1(y))
        y = self.conv2(y)                       # (B, width, H/stride, W/stride)
        y = F.relu(self.norm2(y))
        y = self.norm3(self.conv3(y))           # (B, 4 width, H/stride, W/stride)
        return F.relu(y + self.shortcut(x))


ARCHITECTURES = {   # name: (block, width of the first stage, number of blocks in each stage, shortcut)
    'resnet20': (BasicBlock, 16, (3, 3, 3), 'zero-pad'),            # section 4.2 (CIFAR-10): 6n + 2 layers
    'resnet32': (BasicBlock, 16, (5, 5, 5), 'zero-pad'),
    'resnet44': (BasicBlock, 16, (7, 7, 7), 'zero-pad'),
    'resnet56': (BasicBlock, 16, (9, 9, 9), 'zero-pad'),
    'resnet18': (BasicBlock, 64, (2, 2, 2, 2), 'projection'),       # table 1 (ImageNet), but with the stem
    'resnet34': (BasicBlock, 64, (3, 4, 6, 3), 'projection'),       # of section 4.2: 3 x 3, no pooling
    'resnet50': (Bottleneck, 64, (3, 4, 6, 3), 'projection'),
}


class Model(nn.Module):
    monitor = 'accuracy', 'max'     # the metric that chooses best.pt
    makes = 'classes'               # samples/classes.py shows what it can do

    def __init__(self, config):
        super().__init__()
        self.config = config
        mean = torch.tensor(config.mean)[:, None, None]         # (C, 1, 1)
        std = torch.tensor(config.std)[:, None, None]           # (C, 1, 1)
        self.register_buffer('mean', mean, persistent=False)    # not in state_dict: config has it
        self.register_buffer('std', std, persistent=False)
        Block, first_width, depths, shortcut_kind = ARCHITECTURES[config.arch]
        self.conv = conv(config.channels, first_width, 3)
        self.norm = nn.BatchNorm2d(first_width)
        self.blocks = nn.ModuleList()
        in_channels = first_width
        for stage, depth in enumerate(depths):
            width = first_width * 2**stage      # each stage doubles the width
            stride = 1 if stage == 0 else 2     # and each but the first begins by halving H and W
            out_channels = Block.expansion * width
            self.blocks.append(Block(in_channels, width, stride, shortcut_kind))
            for _ in range(depth - 1):
                self.blocks.append(Block(out_channels, width, 1, shortcut_kind))
            in_channels = out_channels          # of the next stage
        self.head = nn.Linear(out_channels, config.n_class)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):   # He (Kaiming) normal initialisation, arXiv:1502.01852
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
        nn.init.zeros_(self.head.weight)        # start at the uniform distribution: the loss is ln n_class
        nn.init.zeros_(self.head.bias)

    def view_logits(self, x):
        """Return the logits of one view, which is normalised: (B, C, H, W) -> (B, n_class) float32."""
        x = self.conv(x)                        # (B, width, H, W)
        x = F.relu(self.norm(x))
        for block in self.blocks:
            x = block(x)                        # after the last: (B, channels, h, w)
        x = x.mean((2, 3))                      # (B, channels)
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
    if min(config.n_class, config.channels) < 1:
        problems.append(f'n_class {config.n_class} and channels {config.channels} must be at least 1')
    if config.arch not in ARCHITECTURES:
        problems.append(f'arch {config.arch!r} does not exist; there are {", ".join(ARCHITECTURES)}')
    if not 0 <= config.label_smoothing < 1:
        problems.append(f'label_smoothing must be in [0, 1), got {config.label_smoothing}')
    if not len(config.mean) == len(config.std) == config.channels:
        problems.append(f'channels is {config.channels}, mean has {len(config.mean)}, std {len(config.std)}')
    if problems:
        raise ValueError('\n'.join(problems))
