"""Random changes of images that leave their meaning: mirrored, moved, with a piece blotted out.

What is done to a row is drawn with it, on the CPU, as a function of (seed, step); it is done to a whole batch
at once, on its device, and alike to all fields of the row that are images: a mask stays on its picture.
"""
from dataclasses import dataclass

import numpy as np
import torch

DRAWN = np.dtype([('row', 'i8'), ('flip', 'i8'), ('shift', 'i8', 2), ('centre', 'f4', 2)])


@dataclass
class Augment:
    flip: str       # none, random, or alternating: half of the rows, then the other half (Jordan 2024)
    shift: int      # pixels, at most, up or down and left or right; what moves in is the image reflected
    cutout: int     # side, in pixels, of a grey square somewhere on `image` alone (DeVries & Taylor 2017)

    def __bool__(self):
        return self.flip != 'none' or self.shift > 0 or self.cutout > 0

    def draw(self, rows, epoch, step, seed):
        """What is done to each of the (B,) `rows` of a step's global batch: records (B,) of type DRAWN."""
        rng, drawn = np.random.default_rng((seed, step, 1)), np.empty(len(rows), DRAWN)
        drawn['row'] = rows
        coin = rng.integers(2, size=len(rows))
        half = rows.astype('u8') * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(63)      # Fibonacci hashing
        drawn['flip'] = {'none': 0, 'random': coin, 'alternating': (half + epoch) % 2}[self.flip]
        drawn['shift'] = rng.integers(-self.shift, self.shift + 1, (len(rows), 2))
        drawn['centre'] = rng.random((len(rows), 2))
        return drawn

    def __call__(self, batch, drawn, mean):
        """`batch` with what was drawn done to its images, fields (B, C, H, W), on their device. `mean` (C,),
        in [0, 1], is the grey of cutout."""
        def place(name, values):
            return torch.from_numpy(np.ascontiguousarray(drawn[name])).to(values.device)

        batch = {field: moved(values, place('flip', values), place('shift', values))
                 if values.dim() == 4 else values for field, values in batch.items()}
        if self.cutout:
            image = batch['image']
            batch['image'] = blotted(image, place('centre', image), self.cutout, mean)
        return batch


def moved(images, flip, shift):
    """Images (B, C, H, W), mirrored left to right where flip (B,) is 1, then moved by shift (B, 2) pixels,
    down and right. One gather; channels are last in the memory of the result."""
    B, _, H, W = images.shape
    y, x = torch.arange(H, device=images.device), torch.arange(W, device=images.device)
    y, x = reflected(y - shift[:, :1], H), reflected(x - shift[:, 1:], W)               # (B, H), (B, W)
    x = torch.where(flip[:, None] > 0, W - 1 - x, x)
    rows = torch.arange(B, device=images.device)[:, None, None]
    return images[rows, :, y[:, :, None], x[:, None]].permute(0, 3, 1, 2)


def reflected(index, size):
    """Indices from -size to 2 size - 2, those outside of [0, size) reflected at the first or the last."""
    return size - 1 - (size - 1 - index.abs()).abs()


def blotted(images, centre, side, mean):
    """Images (B, C, H, W) with a square of `side` pixels about `centre` (B, 2), in [0, 1), of one colour."""
    _, C, H, W = images.shape
    size = torch.tensor([H, W], device=images.device)
    first = (centre * size).long() - side // 2                                          # (B, 2), upper left
    y = torch.arange(H, device=images.device) - first[:, :1]
    x = torch.arange(W, device=images.device) - first[:, 1:]
    inside = ((y >= 0) & (y < side))[:, None, :, None] & ((x >= 0) & (x < side))[:, None, None]
    grey = torch.tensor(mean, device=images.device).mul(255).round().to(images.dtype)
    return torch.where(inside, grey.view(C, 1, 1), images)
