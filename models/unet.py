"""U-Net (Ronneberger et al. 2015, arXiv:1505.04597): segment an image into foreground and background.

To know what an image shows takes a wide view; to know where it ends takes full resolution. The encoder halves
the resolution `depth` times, to see more and more of the image at once. The decoder doubles it again. At each
level, a skip connection gives the decoder the encoder's features of that resolution, with their sharp edges.
Unlike the paper's, these convolutions keep the size, by padding, and are followed by batch normalisation.

    image (B, C, H, W) -> (B, width, H, W) ------ skip ------> (B, width, H, W) -> logits (B, 1, H, W)
                             | down                               ^ up
                          (B, 2 width, H/2, W/2) - skip ------> (B, 2 width, H/2, W/2)
                             | down                               ^ up
                          (B, 4 width, H/4, W/4) -----------------+    the bottom, for depth = 2
"""
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Config:
    channels: int = 3           # C of an image, filled from the data set
    size: tuple = ()            # (H, W) of an image in pixels, filled from the data set
    mean: tuple = (0.5, 0.5, 0.5)       # of each channel, for pixels in [0, 1], filled from the data set
    std: tuple = (0.25, 0.25, 0.25)     # of each channel, for pixels in [0, 1], filled from the data set
    codes: tuple = (1, 2, 3)      # of the masks, filled from the data set: a trimap's, or 0 and others
    foreground: Literal['pet', 'pet+border'] = 'pet'        # in a trimap: value 1, or values 1 and 3
    down: Literal['maxpool', 'stride'] = 'maxpool'          # downsampling: max pooling, strided convolution
    up: Literal['transpose', 'upsample'] = 'transpose'      # upsampling: transposed convolution, bilinear
    objective: Literal['bce', 'dice', 'bce+dice'] = 'bce'   # loss to minimise; the reported one is always bce
    width: int = 64             # channels of the first level; each level below has twice as many
    depth: int = 4              # number of downsampling steps
    tta: Literal['none', 'flip'] = 'none'       # in evaluation, average the logits with the mirrored image's

    def __post_init__(self):
        check(self)


class Block(nn.Module):
    """Two 3 x 3 convolutions: (B, in_channels, H, W) -> (B, out_channels, H, W)."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)     # the norm has a bias
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(x)))


class Upsample(nn.Module):
    """A 1 x 1 convolution, then bilinear interpolation: (B, in_channels, h, w) -> (B, out_channels, H, W)."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x, output_size):
        x = self.conv(x)        # the other order gives the same result, at four times the cost
        return F.interpolate(x, output_size, mode='bilinear')


def dice_loss(logits, target):
    """Return 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1), the sums over an image's N pixels: (B, N) -> (B,).
    This is the soft Dice loss of Milletari et al. 2016 (arXiv:1606.04797) without squares; 0 if p = t = 0."""
    p = logits.sigmoid()
    intersection = (p * target).sum(1)
    total = (p + target).sum(1)
    return 1 - (2 * intersection + 1) / (total + 1)


class Model(nn.Module):
    monitor = 'dice', 'max'     # the metric that chooses best.pt
    makes = 'masks'             # samples/masks.py shows what it can do

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.foreground = 'nonzero' if 0 in config.codes else config.foreground       # for captions
        self.register_buffer('mean', torch.tensor(config.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(config.std).view(-1, 1, 1), persistent=False)
        widths = [config.width * 2**level for level in range(config.depth)]     # of the levels with a skip
        self.encoder = nn.ModuleList([Block(config.channels, config.width)])
        self.encoder.extend(Block(n, 2 * n) for n in widths)                    # the last one is the bottom
        if config.down == 'maxpool':
            self.down = nn.ModuleList(nn.MaxPool2d(2) for n in widths)
        else:
            self.down = nn.ModuleList(nn.Conv2d(n, n, 2, stride=2) for n in widths)
        widths.reverse()                                                        # the decoder goes upwards
        if config.up == 'transpose':
            self.up = nn.ModuleList(nn.ConvTranspose2d(2 * n, n, 2, stride=2) for n in widths)
        else:
            self.up = nn.ModuleList(Upsample(2 * n, n) for n in widths)
        self.decoder = nn.ModuleList(Block(2 * n, n) for n in widths)           # n of the skip, n of `up`
        self.head = nn.Conv2d(config.width, 1, 1)
        nn.init.zeros_(self.head.weight)        # every probability starts at 1/2: the first loss is ln 2
        nn.init.zeros_(self.head.bias)

    def view_logits(self, x):
        """Return the logits of one view, which is normalised: (B, C, H, W) -> (B, 1, H, W) float32."""
        skips = []
        for block, down in zip(self.encoder, self.down):    # zip stops before the bottom, which has no `down`
            x = block(x)                                    # (B, n, H, W); n = width * 2**level
            skips.append(x)
            x = down(x)                                     # (B, n, H // 2, W // 2)
        x = self.encoder[-1](x)                             # (B, 2 n, H // 2, W // 2), the bottom
        for up, block in zip(self.up, self.decoder):
            skip = skips.pop()                              # (B, n, H, W)
            x = up(x, output_size=skip.shape[2:])           # (B, n, H, W), where 8 pixels become 16 or 17
            x = torch.cat([skip, x], 1)                     # (B, 2 n, H, W)
            x = block(x)                                    # (B, n, H, W)
        return self.head(x).float()                         # (B, 1, H, W)

    def logits(self, image):
        """Return the logit of foreground at each pixel: (B, C, H, W) uint8 -> (B, 1, H, W) float32."""
        x = (image / 255 - self.mean) / self.std
        logits = self.view_logits(x)
        if self.config.tta == 'flip' and not self.training:
            mirrored = self.view_logits(x.flip(3))
            logits = (logits + mirrored.flip(3)) / 2
        return logits

    def predict(self, image):
        """Return the probability of foreground at each pixel: (B, C, H, W) uint8 -> (B, 1, H, W) float32."""
        return self.logits(image).sigmoid()

    def target(self, mask):
        """Return which pixels are foreground: (B, 1, H, W) of `codes` -> (B, 1, H, W) bool."""
        if 0 in self.config.codes:        # not a trimap: 0 is background
            return mask > 0
        if self.config.foreground == 'pet':     # a trimap: 1 is pet, 2 background, 3 the border between them
            return mask == 1
        return mask != 2

    def forward(self, image, mask):
        """Return sums over images (B, C, H, W) uint8 and masks (B, 1, H, W): loss / count is minimised."""
        logits = self.logits(image).flatten(1)                  # (B, N), N = H W
        target = self.target(mask).flatten(1).float()           # (B, N), T as 0 and 1
        nll = F.binary_cross_entropy_with_logits(logits, target, reduction='none').mean(1)      # (B,)
        soft_dice = dice_loss(logits, target)                   # (B,)
        loss = {'bce': nll, 'dice': soft_dice, 'bce+dice': nll + soft_dice}[self.config.objective].sum()
        predicted = (logits > 0).float()                        # (B, N), P as 0 and 1: probability above 1/2
        intersection = (predicted * target).sum(1)              # (B,)
        union = torch.maximum(predicted, target).sum(1)         # (B,)
        dice = 2 * intersection / (intersection + union)        # |P| + |T| = |P and T| + |P or T|
        dice = torch.where(union > 0, dice, 1.0)                # 0 / 0: no foreground, and none predicted
        fraction = target.mean(1)                               # (B,)
        all_foreground_dice = 2 * fraction / (1 + fraction)     # P is every pixel, so |P and T| = |T|
        return {
            'loss': loss,
            'count': torch.full_like(loss, len(image)),
            'nll': nll.sum(),
            'dice': dice.sum(),
            'all_foreground_dice': all_foreground_dice.sum(),
            'intersection': intersection.sum(),
            'union': union.sum(),
            'correct': (predicted == target).float().sum(),
            'foreground': target.sum(),
            'pixels': torch.full_like(loss, target.numel())}

    def metrics(self, total):
        """Return the metrics of a split from its sums. P: pixels predicted as foreground, T: the true ones.

        loss: binary cross-entropy in nats. accuracy: the fraction of pixels that are right.
        dice: 2 |P and T| / (|P| + |T|) of each image (Dice 1945), then the mean; 1 if P and T are empty.
        iou: |P and T| / |P or T| (Jaccard 1912) of the whole split, as in PASCAL VOC; 1 if P and T are empty.
        all_foreground_dice: the dice of a baseline that predicts foreground everywhere.
        foreground_fraction: foreground / all pixels, which is also the iou and accuracy of that baseline."""
        return {
            'loss': total['nll'] / total['count'],
            'dice': total['dice'] / total['count'],
            'iou': total['intersection'] / total['union'] if total['union'] > 0 else 1.0,
            'accuracy': total['correct'] / total['pixels'],
            'all_foreground_dice': total['all_foreground_dice'] / total['count'],
            'foreground_fraction': total['foreground'] / total['pixels']}


def check(config):
    """Raise ValueError, with a line per problem, for a configuration that cannot work."""
    problems = []
    for name in ('channels', 'width', 'depth'):
        if getattr(config, name) < 1:
            problems.append(f'{name} must be at least 1, got {getattr(config, name)}')
    if not len(config.mean) == len(config.std) == config.channels:
        problems.append(f'channels is {config.channels}, mean has {len(config.mean)}, std {len(config.std)}')
    if config.size and min(config.size) < 2**config.depth:
        problems.append(f'images of {config.size[0]} x {config.size[1]} pixels are too small for depth '
                        f'{config.depth}: expected {2**config.depth} or more each way')
    if 0 in config.codes:
        if config.foreground != 'pet':
            problems.append(f'foreground {config.foreground!r} needs trimaps; here all but 0 is foreground')
    elif not {1, 2, 3}.issuperset(config.codes):
        problems.append(f'codes {config.codes}: expected 1, 2, 3 of a trimap or 0 for background')
    if problems:
        raise ValueError('\n'.join(problems))
