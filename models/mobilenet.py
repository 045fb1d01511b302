"""MobileNet (Howard et al. 2017, arXiv:1704.04861) for small images: convolutions in two cheap steps.

A depthwise 3 x 3 convolution filters each channel alone; a pointwise (1 x 1) convolution mixes the channels.
Both together cost 1/n + 1/9 of the multiply-adds of one 3 x 3 convolution with n output channels (section
3.1). Each step is followed by batch normalisation and ReLU.

    image (B, C, H, W) -> stem (B, 32 width, H, W) -> 13 separable convolutions, four of which halve H and W
    (B, 1024 width, H/16, W/16) -> global average pooling (B, 1024 width) -> logits (B, n_class)
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
    width: float = 1.0          # width multiplier alpha: scales the number of channels of every layer
    label_smoothing: float = 0.0        # epsilon of label smoothing; the reported loss is without it
    tta: Literal['none', 'flip', 'crop'] = 'none'   # test-time augmentation: average over 1, 2 or 6 views

    def __post_init__(self):
        check(self)


class SeparableConv(nn.Module):
    """A 3 x 3 for each channel, then a 1 x 1: (B, in_channels, H, W) -> (B, out_channels, H/stride, ...)."""

    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False)
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        x = self.depthwise(x)           # (B, in_channels, H/stride, W/stride)
        x = F.relu(self.norm1(x))
        x = self.pointwise(x)           # (B, out_channels, H/stride, W/stride)
        return F.relu(self.norm2(x))    # figure 3, right


LAYERS = (      # table 1: (output channels at width 1, stride); there the stem has stride 2, for 224 x 224
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1),
    (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1))


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
        in_channels = int(32 * config.width)
        self.conv = nn.Conv2d(config.channels, in_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(in_channels)
        self.blocks = nn.ModuleList()
        for channels, stride in LAYERS:
            out_channels = int(channels * config.width)
            self.blocks.append(SeparableConv(in_channels, out_channels, stride))
            in_channels = out_channels          # of the next block
        self.head = nn.Linear(in_channels, config.n_class)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):   # He (Kaiming) normal initialisation, arXiv:1502.01852
                nn.init.kaiming_normal_(module.weight, nonlinearity='relu')
        nn.init.zeros_(self.head.weight)        # start at the uniform distribution: the loss is ln n_class
        nn.init.zeros_(self.head.bias)

    def view_logits(self, x):
        """Return the logits of one view, which is normalised: (B, C, H, W) -> (B, n_class) float32."""
        x = self.conv(x)                        # (B, 32 width, H, W)
        x = F.relu(self.norm(x))
        for block in self.blocks:
            x = block(x)                        # after the last: (B, 1024 width, h, w)
        x = x.mean((2, 3))                      # (B, 1024 width)
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
    if 32 * config.width < 1:
        problems.append(f'width must be at least 1/32, got {config.width}')
    if not 0 <= config.label_smoothing < 1:
        problems.append(f'label_smoothing must be in [0, 1), got {config.label_smoothing}')
    if not len(config.mean) == len(config.std) == config.channels:
        problems.append(f'channels is {config.channels}, mean has {len(config.mean)}, std {len(config.std)}')
    if problems:
        raise ValueError('\n'.join(problems))
