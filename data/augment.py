"""Data augmentation: random changes to images that keep their meaning (flip, zoom, shift, jitter, cutout).

The parameters are drawn on the CPU for all rows of a step, as a function of (seed, step). They are then
applied to a whole batch at once, on its device, and in the same way to every image field of a row: a mask
stays on its image.

    augment = Augment(flip='random', shift=4)
    rows = augment.sample_params(rows, epoch=0, step=7, seed=1337)      # AugmentedRows
    batch = augment.apply(batch, rows, mean)                            # {'image': (B, C, H, W), ...}
"""
import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F

from core.errors import UserError

FIBONACCI = np.uint64(0x9E3779B97F4A7C15)       # 2^64 / golden ratio


@dataclass
class AugmentedRows:
    """Rows with the parameters drawn for each of them; len, indexing and reshape work as on an array."""
    rows: np.ndarray        # (B,) row numbers
    flip: np.ndarray        # (B,) 1: mirrored left to right, 0: not
    shift: np.ndarray       # (B, 2) pixels down and to the right
    center: np.ndarray      # (B, 2) of the cutout, as fractions of height and width
    zoom: np.ndarray        # (B,) factor of enlargement
    jitter: np.ndarray      # (B, 3) factors of brightness, contrast and saturation

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return AugmentedRows(*[array[index] for array in self.arrays()])

    def reshape(self, *shape):
        """Return the same rows in another shape, such as (micro-batches, processes, rows)."""
        return AugmentedRows(*[array.reshape(*shape, *array.shape[1:]) for array in self.arrays()])

    def arrays(self):
        """Return the arrays in the order of their declaration."""
        return [getattr(self, field.name) for field in dataclasses.fields(self)]


@dataclass
class Augment:
    """The options, which are train.py's too, and what they do to a batch.

    flip: random mirrors each image with probability 1/2; alternating mirrors one half of the rows in even
    epochs and the other half in odd ones (Jordan 2024, arXiv:2404.00498).
    """
    flip: Literal['none', 'random', 'alternating'] = 'none'     # mirror images of train left to right
    shift: int = 0          # move images of train by at most this many pixels, vertically and horizontally
    cutout: int = 0         # side, in pixels, of a square erased in images of train (DeVries & Taylor 2017)
    zoom: float = 0.0       # enlarge or reduce images of train by a factor of at most 1 + zoom
    jitter: float = 0.0     # largest relative change of brightness, contrast, saturation of images of train

    def __post_init__(self):
        check(self)

    @classmethod
    def from_options(cls, options):
        """Return the Augment of train.py's options, a dict that has all fields and others."""
        return cls(**{field.name: options[field.name] for field in dataclasses.fields(cls)})

    @property
    def enabled(self):
        """Whether anything is changed at all."""
        return self.flip != 'none' or max(self.shift, self.cutout, self.zoom, self.jitter) > 0

    def sample_params(self, rows, epoch, step, seed):
        """Return AugmentedRows: the (B,) rows of a step's global batch with their random parameters."""
        B = len(rows)
        rng = np.random.default_rng((seed, step, 1))
        # Everything is drawn, needed or not, so that one option does not change what others draw.
        flip = rng.integers(2, size=B)
        shift = rng.integers(-self.shift, self.shift + 1, (B, 2))
        center = rng.random((B, 2))
        zoom = (1 + self.zoom) ** rng.uniform(-1, 1, B)
        jitter = 1 + self.jitter * rng.uniform(-1, 1, (B, 3))
        if self.flip == 'none':
            flip = np.zeros(B, np.int64)
        elif self.flip == 'alternating':
            flip = (half_of(rows) + epoch) % 2
        center = center.astype(np.float32)
        zoom = zoom.astype(np.float32)
        jitter = jitter.astype(np.float32)
        return AugmentedRows(rows, flip, shift, center, zoom, jitter)

    def apply(self, batch, rows, mean):
        """Return {field: tensor} with the parameters of `rows` applied to the images, fields (B, C, H, W).

        `mean` (C,), in [0, 1], is the color of the cutout.
        """
        device = next(iter(batch.values())).device
        flip = to_device(rows.flip, device)
        zoom = to_device(rows.zoom, device)
        shift = to_device(rows.shift, device)
        batch = dict(batch)
        for field, values in batch.items():
            if values.dim() == 4:
                mode = 'bilinear' if field == 'image' else 'nearest'    # a mask has no values in between
                batch[field] = affine(values, flip, zoom, shift, mode)
        if self.jitter:
            batch['image'] = color_jitter(batch['image'], to_device(rows.jitter, device))
        if self.cutout:
            batch['image'] = cutout(batch['image'], to_device(rows.center, device), self.cutout, mean)
        return batch


def half_of(rows):
    """Return 0 or 1 for each row, the half it belongs to: (B,) -> (B,) int64.

    Fibonacci hashing (Knuth, The Art of Computer Programming 3, section 6.4): the top bit of a product modulo
    2^64. So a class whose rows lie side by side, or at equal distances, is halved as well.
    """
    product = rows.astype(np.uint64) * FIBONACCI
    return (product >> np.uint64(63)).astype(np.int64)


def to_device(values, device):
    """Return an array or tensor as a tensor on a device."""
    if isinstance(values, np.ndarray):
        values = torch.from_numpy(np.ascontiguousarray(values))
    return values.to(device, non_blocking=device.type == 'cuda')    # on MPS the source could go away first


def affine(images, flip, zoom, shift, mode):
    """Return images (B, C, H, W) mirrored where flip (B,) is 1, zoomed about the middle, then shifted.

    zoom (B,) is a factor, shift (B, 2) is pixels down and to the right. What enters at an edge is the
    reflection of the image. mode: 'bilinear' or 'nearest'.
    """
    B, C, H, W = images.shape
    device = images.device
    sign = 1 - 2 * flip[:, None]                # (B, 1)
    zoom = zoom[:, None]                        # (B, 1)
    shift = shift * 2                           # in coordinates, which go from -1 to 1 over the image
    shift_y = shift[:, :1] / max(H - 1, 1)      # (B, 1)
    shift_x = shift[:, 1:] / max(W - 1, 1)      # (B, 1)
    y = torch.linspace(-1, 1, H, device=device)         # (H,) where a pixel of the result is ...
    x = torch.linspace(-1, 1, W, device=device)         # (W,)
    y = (y - shift_y) / zoom                    # (B, H) ... and where it comes from
    x = (x - shift_x) / zoom * sign             # (B, W)
    y = y[:, :, None].expand(B, H, W)
    x = x[:, None].expand(B, H, W)
    origin = torch.stack([x, y], 3)             # (B, H, W, 2)
    origin = 1 - ((origin + 1) % 4 - 2).abs()           # reflected at -1 and 1, however far outside
    result = F.grid_sample(images.float(), origin, mode, align_corners=True)
    return cast_like(result, images)


def color_jitter(images, factors):
    """Return images (B, C, H, W), values 0 to 255, with factors (B, 3) applied (Howard 2013).

    They scale, one after the other: all values (brightness), their distance to the mean of the image
    (contrast), and the distance of a pixel's channels to their mean (saturation).
    """
    brightness, contrast, saturation = factors.view(-1, 3, 1, 1, 1).unbind(1)   # each (B, 1, 1, 1)
    x = images * brightness
    mean = x.mean((1, 2, 3), keepdim=True)              # (B, 1, 1, 1)
    x = torch.lerp(mean, x, contrast)
    gray = x.mean(1, keepdim=True)                      # (B, 1, H, W)
    x = torch.lerp(gray, x, saturation)
    return cast_like(x.clamp(0, 255), images)


def cutout(images, center, side, mean):
    """Return images (B, C, H, W), each with a square of one color: `side` pixels wide, about center (B, 2).

    center is in fractions of height and width; mean (C,), in [0, 1], is the color.
    """
    B, C, H, W = images.shape
    top = (center[:, :1] * H).long() - side // 2        # (B, 1)
    left = (center[:, 1:] * W).long() - side // 2       # (B, 1)
    y = torch.arange(H, device=images.device)           # (H,)
    x = torch.arange(W, device=images.device)           # (W,)
    rows = (y >= top) & (y < top + side)                # (B, H)
    columns = (x >= left) & (x < left + side)           # (B, W)
    inside = rows[:, :, None] & columns[:, None]        # (B, H, W)
    inside = inside[:, None]                            # (B, 1, H, W)
    color = np.round(np.array(mean, np.float32) * 255)
    color = to_device(color, images.device).to(images.dtype)
    return torch.where(inside, color.view(C, 1, 1), images)


def cast_like(values, images):
    """Return `values` in the dtype of `images`, rounded where that is an integer."""
    if images.is_floating_point():
        return values.to(images.dtype)
    return values.round().to(images.dtype)


def check(augment):
    """Raise ValueError, with a line per problem, for options out of range."""
    problems = []
    if augment.flip not in ('none', 'random', 'alternating'):
        problems.append(f'flip must be none, random or alternating, got {augment.flip}')
    for name in 'shift', 'cutout', 'zoom':
        if getattr(augment, name) < 0:
            problems.append(f'{name} must be at least 0, got {getattr(augment, name)}')
    if not 0 <= augment.jitter <= 1:
        problems.append(f'jitter must be from 0 to 1, got {augment.jitter}')
    if problems:
        raise ValueError('\n'.join(problems))


def check_images(augment, path, sizes, mean):
    """Raise UserError if the images of the data set in `path` cannot be augmented.

    `sizes` is {field: (height, width)} of the image fields, `mean` the mean of each channel or None.
    """
    different = set(sizes.values())
    smallest = min([min(size) for size in different], default=0)
    if len(different) != 1 or augment.shift >= smallest:
        raise UserError(f'augmentation (flip, shift, cutout, zoom, jitter) needs images of one size, larger '
                        f'than shift {augment.shift}; those of {path} have the sizes {sizes}')
    if (augment.cutout or augment.jitter) and not (mean and 'image' in sizes):
        raise UserError(f'cutout and jitter need a field `image` and its `mean`, which {path} lacks')
