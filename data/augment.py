"""Random changes that keep what an image means: flip, zoom, shift, colour jitter, cutout.

What is done to a row is drawn with it, on the CPU, as a function of (seed, step); it is done to a whole batch
at once, on its device, and alike to all fields of the row that are images: a mask stays on its picture.
"""
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

DRAWN = np.dtype([('row', 'i8'), ('flip', 'i8'), ('shift', 'i8', 2), ('centre', 'f4', 2), ('zoom', 'f4'),
                  ('jitter', 'f4', 3)])


@dataclass
class Augment:
    flip: str       # none, random, or alternating: half of the rows, then the other half (Jordan 2024)
    shift: int      # pixels, at most, up or down and left or right; what moves in is the image reflected
    cutout: int     # side, in pixels, of a grey square somewhere on `image` alone (DeVries & Taylor 2017)
    zoom: float = 0.0       # made at most so much larger, a share, or smaller by as large a factor
    jitter: float = 0.0     # `image` alone: brightness, contrast and saturation are changed by such a share

    def __bool__(self):
        return self.flip != 'none' or max(self.shift, self.cutout, self.zoom, self.jitter) > 0

    def draw(self, rows, epoch, step, seed):
        """What is done to each of the (B,) `rows` of a step's global batch: records (B,) of type DRAWN."""
        rng, drawn = np.random.default_rng((seed, step, 1)), np.empty(len(rows), DRAWN)
        drawn['row'] = rows
        coin = rng.integers(2, size=len(rows))
        half = rows.astype('u8') * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(63)      # Fibonacci hashing
        drawn['flip'] = {'none': 0, 'random': coin, 'alternating': (half + epoch) % 2}[self.flip]
        drawn['shift'] = rng.integers(-self.shift, self.shift + 1, (len(rows), 2))
        drawn['centre'] = rng.random((len(rows), 2))
        drawn['zoom'] = (1 + self.zoom) ** rng.uniform(-1, 1, len(rows))
        drawn['jitter'] = 1 + self.jitter * rng.uniform(-1, 1, (len(rows), 3))
        return drawn

    def __call__(self, batch, drawn, mean):
        """`batch` with what was drawn done to its images, fields (B, C, H, W), on their device. `mean` (C,),
        in [0, 1], is the grey of cutout."""
        def place(name, values):
            tensor = torch.from_numpy(np.ascontiguousarray(drawn[name]))
            return tensor.to(values.device, non_blocking=values.is_cuda)

        batch = {field: moved(values, *(place(name, values) for name in ('flip', 'zoom', 'shift')),
                              'bilinear' if field == 'image' else 'nearest')
                 if values.dim() == 4 else values for field, values in batch.items()}
        if self.jitter:
            batch['image'] = jittered(batch['image'], place('jitter', batch['image']))
        if self.cutout:
            batch['image'] = cut_out(batch['image'], place('centre', batch['image']), self.cutout, mean)
        return batch


def moved(images, flip, zoom, shift, mode):
    """Images (B, C, H, W), mirrored left to right where flip (B,) is 1, `zoom` (B,) times as large about the
    middle, then moved by shift (B, 2) pixels, down and right. What moves in is the image reflected. mode:
    bilinear, or nearest for codes, of which none lies between two others."""
    B, _, H, W = images.shape
    y, x = (torch.linspace(-1, 1, n, device=images.device) for n in (H, W))     # where a pixel is,
    y = (y - shift[:, :1] * 2 / max(H - 1, 1)) / zoom[:, None]                          # and was: (B, H)
    x = (x - shift[:, 1:] * 2 / max(W - 1, 1)) / zoom[:, None] * (1 - 2 * flip[:, None])        # (B, W)
    origin = torch.stack([x[:, None].expand(B, H, W), y[:, :, None].expand(B, H, W)], 3)
    origin = 1 - ((origin + 1) % 4 - 2).abs()           # what lies beyond an edge is reflected there
    return as_before(F.grid_sample(images.float(), origin, mode, align_corners=True), images)


def jittered(images, factors):
    """Images (B, C, H, W), values 0 to 255, with brightness, contrast to the image's mean and distance of a
    pixel's colours from their mean multiplied by the `factors` (B, 3) (Howard 2013)."""
    brightness, contrast, saturation = factors.view(-1, 3, 1, 1, 1).unbind(1)
    x = images * brightness
    x = torch.lerp(x.mean((1, 2, 3), keepdim=True), x, contrast)
    return as_before(torch.lerp(x.mean(1, keepdim=True), x, saturation).clamp(0, 255), images)


def as_before(values, images):
    """`values` as numbers of the kind that the images have."""
    return (values if images.is_floating_point() else values.round()).to(images.dtype)


def cut_out(images, centre, side, mean):
    """Images (B, C, H, W) with a square of `side` pixels about `centre` (B, 2), in [0, 1), of one colour."""
    _, C, H, W = images.shape
    y = torch.arange(H, device=images.device) - (centre[:, :1] * H).long() + side // 2  # rows of the square
    x = torch.arange(W, device=images.device) - (centre[:, 1:] * W).long() + side // 2  # and columns
    inside = ((y >= 0) & (y < side))[:, None, :, None] & ((x >= 0) & (x < side))[:, None, None]
    grey = torch.tensor(mean).mul(255).round().to(images.device, images.dtype, non_blocking=images.is_cuda)
    return torch.where(inside, grey.view(C, 1, 1), images)
