"""U-Net (Ronneberger et al. 2015): which pixels of an image belong to the thing that it shows.

To know what is there takes all of the image; to know where it ends takes single pixels. The left side of a U
halves the image again and again, to see ever more of it at once; the right side doubles it again and, at each
level, is also given what the left side saw there, where edges are still sharp. Unlike the paper's, these
convolutions pad and are followed by batch normalisation: the answer is as large as the image, odd or even.

    image (B, C, H, W) -> (B, width, H, W) -------------------> (B, width, H, W) -> logits (B, 1, H, W)
                            down                                  up
                          (B, 2 width, H / 2, W / 2) -------> (B, 2 width, H / 2, W / 2)
                            down                                  up
                          (B, 4 width, H / 4, W / 4), the bottom, where depth is 2
"""
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Config:
    channels: int = 3               # of an image, filled from the data set
    size: tuple = ()                # of an image, (H, W) pixels, filled from the data set
    mean: tuple = (0.5, 0.5, 0.5)   # of each channel in [0, 1], filled from the data set
    std: tuple = (0.25, 0.25, 0.25)         # of each channel, filled from the data set
    codes: tuple = (1, 2, 3)        # in the masks, filled from the data set: a trimap's, or 0 for background
    foreground: Literal['pet', 'pet+border'] = 'pet'        # of a trimap: code 1, or 1 and 3
    down: Literal['maxpool', 'stride'] = 'maxpool'          # what halves: the maximum, or a convolution
    up: Literal['transpose', 'upsample'] = 'transpose'      # what doubles: a convolution, or interpolation
    objective: Literal['bce', 'dice', 'bce+dice'] = 'bce'   # what is minimised; the reported loss is bce
    width: int = 64                 # channels of the first level; each level below has twice as many
    depth: int = 4                  # halvings
    tta: Literal['none', 'flip'] = 'none'   # in evaluation: logits averaged with those of the mirrored image

    def __post_init__(self):
        problems = [f'{name} must be at least 1, got {getattr(self, name)}'
                    for name in ('channels', 'width', 'depth') if getattr(self, name) < 1]
        if not len(self.mean) == len(self.std) == self.channels:
            problems.append(f'mean is of {len(self.mean)} channels, std of {len(self.std)}, channels is '
                            f'{self.channels}')
        if self.size and min(self.size) < 2**self.depth:
            problems.append(too_small(self.size, self.depth))
        if 0 not in self.codes and not {*self.codes} <= {1, 2, 3}:
            problems.append(f'masks hold the codes {", ".join(map(str, self.codes))}: expected those of a '
                            'trimap, 1, 2, 3, or 0 for the background')
        if 0 in self.codes and self.foreground != 'pet':
            problems.append(f'foreground {self.foreground!r} is of trimaps; where masks hold the code 0, all '
                            'else is foreground')
        if problems:
            raise ValueError('\n'.join(problems))


def too_small(size, depth):
    return (f'images of {" x ".join(map(str, size))} pixels are too small for depth {depth}: expected '
            f'{2**depth} or more each way')


# --- objectives

def checked(target):
    """A boolean target as float32. Raises TypeError for another, as codes would train, to nonsense."""
    if target.dtype != torch.bool:
        raise TypeError(f'expected a boolean target, such as mask == 1, got {target.dtype}')
    return target.float()


def bce(logits, target):
    """Binary cross-entropy in nats, the mean over an image's pixels: logits (B, 1, H, W) of any dtype, target
    (B, 1, H, W) bool -> (B,) float32. Raises TypeError for a target of another dtype."""
    logits, target = logits.float(), checked(target)
    return F.binary_cross_entropy_with_logits(logits, target, reduction='none').mean((1, 2, 3))


def dice(logits, target):
    """1 - 2 sum(p t) / (sum(p) + sum(t)) over an image's pixels (Milletari et al. 2016, without squares).
    Arguments and result as of bce. One is added above and below: nothing found where nothing is costs 0."""
    p, t = logits.float().sigmoid(), checked(target)
    return 1 - (2 * (p * t).sum((1, 2, 3)) + 1) / ((p + t).sum((1, 2, 3)) + 1)


# --- parts

class Block(nn.Module):
    """Two 3 x 3 convolutions, the size kept."""

    def __init__(self, inner, outer):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inner, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.norm2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(x)))


class Upsample(nn.Module):
    """A 1 x 1 convolution, then interpolation: the other order gives the same, at four times the cost."""

    def __init__(self, inner, outer):
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, 1)

    def forward(self, x, output_size):
        return F.interpolate(self.conv(x), output_size, mode='bilinear')


class Model(nn.Module):
    monitor = 'dice', 'max'

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.foreground = 'foreground' if 0 in config.codes else config.foreground      # in words
        self.register_buffer('mean', torch.tensor(config.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(config.std).view(-1, 1, 1), persistent=False)
        down = {'maxpool': lambda n: nn.MaxPool2d(2), 'stride': lambda n: nn.Conv2d(n, n, 2, stride=2)}
        up = {'transpose': lambda inner, outer: nn.ConvTranspose2d(inner, outer, 2, stride=2),
              'upsample': Upsample}
        *above, bottom = [config.width * 2**level for level in range(config.depth + 1)]
        self.encoder = nn.ModuleList(map(Block, [config.channels, *above], [*above, bottom]))
        self.down = nn.ModuleList(map(down[config.down], above))
        self.up = nn.ModuleList(up[config.up](2 * n, n) for n in above[::-1])
        self.decoder = nn.ModuleList(Block(2 * n, n) for n in above[::-1])
        self.head = nn.Conv2d(config.width, 1, 1)
        nn.init.zeros_(self.head.weight)        # the first loss is ln 2
        nn.init.zeros_(self.head.bias)

    def look(self, x):
        """Logits of normalised images: (B, C, H, W) -> (B, 1, H, W)."""
        first, *deeper = self.encoder
        x, skips = first(x), []
        for down, block in zip(self.down, deeper):
            skips.append(x)
            x = block(down(x))
        for up, block in zip(self.up, self.decoder):
            skip = skips.pop()
            x = up(x, output_size=skip.shape[2:])       # of 17 pixels 8 are left, which become 17 again
            x = block(torch.cat([skip, x], 1))
        return self.head(x).float()

    def logits(self, image):
        """(B, C, H, W) uint8 -> (B, 1, H, W) float32. Raises ValueError for images too small for `depth`."""
        if min(image.shape[2:]) < 2**self.config.depth:
            raise ValueError(too_small(image.shape[2:], self.config.depth))
        x = (image / 255 - self.mean) / self.std
        y = self.look(x)
        if self.config.tta == 'flip' and not self.training:
            y = (y + self.look(x.flip(3)).flip(3)) / 2
        return y

    def predict(self, image):
        """The probability that a pixel is foreground: (B, C, H, W) uint8 -> (B, 1, H, W) float32."""
        return self.logits(image).sigmoid()

    def target(self, mask):
        """Which pixels are foreground: (B, 1, H, W) codes -> bool."""
        if 0 in self.config.codes:
            return mask > 0
        return mask == 1 if self.config.foreground == 'pet' else mask != 2

    def forward(self, image, mask):
        """Sums over images (B, C, H, W) uint8 and their masks (B, 1, H, W), codes: loss, to minimise; count,
        of images; nll, bce; dice, of images, 1 for nothing found where nothing is; constant, that of `all is
        foreground`; and numbers of pixels."""
        logits, target = self.logits(image), self.target(mask)
        nll, soft = bce(logits, target), dice(logits, target)                           # (B,)
        loss = {'bce': nll, 'dice': soft, 'bce+dice': nll + soft}[self.config.objective].sum()
        found = logits > 0
        both, either = (x.sum((1, 2, 3)).float() for x in (found & target, found | target))    # (B,)
        hard = torch.where(either > 0, 2 * both / (both + either), 1.0)
        share = target.float().mean((1, 2, 3))
        return {'loss': loss, 'count': torch.full_like(loss, len(image)), 'nll': nll.sum(),
                'dice': hard.sum(), 'constant': (2 * share / (1 + share)).sum(), 'both': both.sum(),
                'either': either.sum(), 'correct': target.numel() - (either - both).sum(),
                'foreground': target.sum().float(),
                'pixels': torch.full_like(loss, target.numel())}

    def metrics(self, total):
        """bce in nats; the mean Dice of the images, and what it is for the answer `all is foreground`; of all
        pixels of the set the IoU of the foreground, the accuracy, and the share of foreground, which is the
        IoU and the accuracy of that answer."""
        return {'loss': total['nll'] / total['count'], 'dice': total['dice'] / total['count'],
                'constant_dice': total['constant'] / total['count'], 'iou': total['both'] / total['either'],
                'accuracy': total['correct'] / total['pixels'],
                f'{self.foreground}_share': total['foreground'] / total['pixels']}
