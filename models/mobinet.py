"""A binary MobileNet for small images, after MoBiNet (Phan et al. 2020, arXiv:1907.12629).

The convolutions of its blocks have binary weights, +a or -a, and binary inputs, +1 or -1: a multiplication
is the XNOR of two bits. A binary depthwise 3 x 3 convolution has only 10 different outputs. With K-dependency
an output channel sees k channels, which makes 9 k + 1. Skip connections carry real numbers past the binary
convolutions. The stem and the classifier have real weights.

K-dependency and the names pre-, mid- and post-block (where the skip is) are the paper's. The paper has no
code and no result on CIFAR-10. What exactly `mid` skips and the order inside a block are ours, after ReActNet
(Liu et al. 2020, arXiv:2003.03488): sign(x + b), binary convolution, BatchNorm, skip, PReLU.

    image (B, C, H, W) -> stem (B, 32 width, H, W) -> 13 blocks, four of which halve H and W
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
    width: float = 1.0          # width multiplier: scales the number of channels of every layer
    block: Literal['none', 'pre', 'mid', 'post', 'both'] = 'mid'    # skip: nothing, 3 x 3, all, 1 x 1, each
    k: int = 4                  # channels that an output channel of a 3 x 3 convolution sees; 1: depthwise
    weights: Literal['real', 'binary'] = 'binary'   # real: the first of two stages; inputs are signs in both
    sign_bias: bool = True      # learn b in sign(x + b); False: b is 0
    prelu: bool = True          # learn the slopes of PReLU, which start at 1; False: they stay 1
    label_smoothing: float = 0.0        # epsilon of label smoothing; the reported loss is without it
    tta: Literal['none', 'flip', 'crop'] = 'none'   # test-time augmentation: average over 1, 2 or 6 views

    def __post_init__(self):
        check(self)


class Sign(torch.autograd.Function):
    """The sign of x: +1 where x >= 0, else -1. It has a straight-through gradient, since its own is 0.

    For |x| < 1 that is the gradient of x (2 - |x|), which is close to the sign; elsewhere it is 0 (Liu et al.
    2018, arXiv:1808.00278).
    """

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        bit = (x >= 0).to(x.dtype)
        return 2 * bit - 1                      # unlike torch.sign, not 0 at 0

    @staticmethod
    def backward(ctx, grad):
        x, = ctx.saved_tensors
        slope = 2 - 2 * x.abs()
        return grad * slope.clamp(min=0)


def binarize(weight):
    """Return mean |W| times the sign of W, with the mean over an output channel: (out, in, h, w) -> the same.

    The scale is that of Rastegari et al. 2016 (arXiv:1603.05279). The gradient passes unchanged where
    |W| <= 1, and is 0 elsewhere (Courbariaux et al. 2016, arXiv:1602.02830).
    """
    scale = weight.abs().mean((1, 2, 3), keepdim=True)      # (out, 1, 1, 1)
    bit = (weight >= 0).to(weight.dtype)
    binary = scale * (2 * bit - 1)
    clipped = weight.clamp(-1, 1)
    return binary.detach() + (clipped - clipped.detach())   # the value of binary, the gradient of clipped


class BinaryConv(nn.Conv2d):
    """Convolution of sign(x + b): (B, in_channels, H, W) -> (B, out_channels, H/stride, W/stride)."""

    def __init__(self, in_channels, out_channels, kernel_size, stride, groups, config):
        super().__init__(in_channels, out_channels, kernel_size, stride, groups=groups, bias=False)
        self.binary = config.weights == 'binary'
        zeros = torch.zeros(in_channels, 1, 1)
        self.b = nn.Parameter(zeros, requires_grad=config.sign_bias)

    def forward(self, x):
        x = Sign.apply(x + self.b)
        border = self.kernel_size[0] // 2
        x = F.pad(x, [border] * 4, value=1.0)       # the sign of 0; a border of 0 would be a third value
        weight = binarize(self.weight) if self.binary else self.weight
        return F.conv2d(x, weight, None, self.stride, groups=self.groups)


class Block(nn.Module):
    """A binary separable convolution: (B, in_channels, H, W) -> (B, out_channels, H/stride, W/stride).

    ReActNet adds two more biases, before and after PReLU. They are not needed: the first would only add to
    BatchNorm's bias, the second to the next b and, where x is skipped, to the next BatchNorm's bias.
    """

    def __init__(self, in_channels, out_channels, stride, config):
        super().__init__()
        self.block = config.block
        self.pool = nn.AvgPool2d(stride, ceil_mode=True)    # for the skip past a stride
        self.copies = out_channels // in_channels           # for the skip past more channels: 1 or 2
        groups = in_channels // config.k
        self.conv1 = BinaryConv(in_channels, in_channels, 3, stride, groups, config)
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv2 = BinaryConv(in_channels, out_channels, 1, 1, 1, config)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.prelu1 = nn.PReLU(in_channels, 1.0)
        self.prelu2 = nn.PReLU(out_channels, 1.0)
        self.prelu1.requires_grad_(config.prelu)
        self.prelu2.requires_grad_(config.prelu)
        # Start as the skip alone, with PReLU as the identity: 26 random binary layers would hide the image.
        if self.block in ('pre', 'both'):
            nn.init.zeros_(self.norm1.weight)
        if self.block in ('mid', 'post', 'both'):
            nn.init.zeros_(self.norm2.weight)

    def forward(self, x):
        y = self.norm1(self.conv1(x))           # (B, in_channels, H/stride, W/stride)
        x = self.pool(x)                        # (B, in_channels, H/stride, W/stride)
        if self.block in ('pre', 'both'):
            y = y + x                                   # past the 3 x 3 convolution
        y = self.prelu1(y)
        z = self.norm2(self.conv2(y))           # (B, out_channels, H/stride, W/stride)
        if self.block in ('post', 'both'):
            z = z + torch.cat([y] * self.copies, 1)     # past the 1 x 1 convolution
        if self.block == 'mid':
            z = z + torch.cat([x] * self.copies, 1)     # past both
        return self.prelu2(z)


LAYERS = (      # (output channels at width 1, stride), as in models/mobilenet.py
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
            self.blocks.append(Block(in_channels, out_channels, stride, config))
            in_channels = out_channels          # of the next block
        self.head = nn.Linear(in_channels, config.n_class)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):   # He (Kaiming) normal initialisation, arXiv:1502.01852
                nn.init.kaiming_normal_(module.weight, nonlinearity='relu')
        nn.init.zeros_(self.head.weight)        # start at the uniform distribution: the loss is ln n_class
        nn.init.zeros_(self.head.bias)

    def view_logits(self, x):
        """Return the logits of one view, which is normalised: (B, C, H, W) -> (B, n_class) float32."""
        x = self.norm(self.conv(x))             # (B, 32 width, H, W)
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
    first = 32 * config.width       # channels of the stem; all others are multiples of it
    if config.k < 1 or first < 1 or first % config.k > 0:
        problems.append(f'32 * width must be a multiple of k, got width {config.width} and k {config.k}')
    if not 0 <= config.label_smoothing < 1:
        problems.append(f'label_smoothing must be in [0, 1), got {config.label_smoothing}')
    if not len(config.mean) == len(config.std) == config.channels:
        problems.append(f'channels is {config.channels}, mean has {len(config.mean)}, std {len(config.std)}')
    if problems:
        raise ValueError('\n'.join(problems))
