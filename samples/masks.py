"""Segment rows of the data set, or images of your own, into foreground and background.

    python sample.py --out_dir=out/pets_mp_tr_bce                       # a grid of test images with masks
    python sample.py --out_dir=out/pets_mp_tr_bce --start=photo.jpg     # where the pet is
    python sample.py --out_dir=out/pets_mp_tr_bce --start=photos --out=pets     # on each image in a folder

Of an image of your own, two files are written: a drawing, and FILE_predicted_mask.png of the image's own
size, in which 255 is foreground and 0 is background.
"""
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F

from core.errors import UserError
from core.grid import MISTAKE, save_grid
from data.images import resize_and_center_crop
from samples import device_of, grid_title, load_split, names_several, open_image, out_problems, own_images
from samples import random_rows, show_each, warn_if_far, writing

# --- options of masks
start = ''              # an image file of your own to segment, a folder of them or a pattern, 'photos/*.jpg'
split = ''              # rows of the data set to use without a start; empty: test if there is one, else val
num_samples = 0         # rows of the grid, an image in each; 0: 6
out = ''                # FILE.png or, for several images of your own, a folder; empty: samples.png, or the
                        # folder samples, beside the checkpoint

LIMITS = {'num_samples': 100}
MAX_RATIO = 16
BLACK = 0, 0, 0
FOREGROUND = 0, 114, 178        # blue of the palette of core/grid.py


def problems(given):
    """Return a line for each mistake in the options, of which `given` were given."""
    lines = []
    if not start or not names_several(start):
        lines += out_problems(out, '.png')
    elif out.endswith('.png'):
        lines.append(f'out {out}: expected a folder, because start may name several images')
    unused = [name for name in ('split', 'num_samples') if name in given]
    if start and unused:
        lines.append(f'{", ".join(unused)}: only for rows of the data set; start is an image of your own')
    return lines


def shade(images, mask, color):
    """Return uint8 images (n, C, H, W) as RGB, mixed with a color where mask (n, 1, H, W) is true."""
    rgb = images[:, :3].expand(-1, 3, -1, -1).short()       # grey is the same in all channels
    color = torch.tensor(color, dtype=torch.short).view(3, 1, 1)
    return torch.where(mask, (rgb + color) // 2, rgb).byte()


@torch.no_grad()
def segment_file(net, file, size, out):
    """Write the image in a file twice, side by side: its foreground shaded, and its background in the dark.

    For the model, scale its shorter side to that of the training images' `size`; scale the mask back. It is
    written to a second file. Raises UserError for an image that is much longer than wide.
    """
    image, _ = open_image(file, net.config.channels)
    width, height = image.size
    if max(width, height) > MAX_RATIO * min(width, height):     # the scaled image would be very long
        raise UserError(f'--start={file}: {width} x {height} pixels: expected one side to be at most '
                        f'{MAX_RATIO} times the other', code=3)
    ratio = min(size or (height, width)) / min(height, width)
    small_size = round(height * ratio), round(width * ratio)
    small = torch.from_numpy(resize_and_center_crop(image, small_size))             # (C, h, w)
    warn_if_far(file, small, net.config)
    device = device_of(net)
    probability = net.predict(small[None].to(device)).cpu()                         # (1, 1, h, w)
    predicted = F.interpolate(probability, (height, width), mode='bilinear') > 0.5  # (1, 1, H, W)
    image = torch.from_numpy(resize_and_center_crop(image, (height, width)))[None]  # (1, C, H, W)
    foreground = shade(image, predicted, FOREGROUND)
    background = shade(image, ~predicted, BLACK)
    both = torch.cat([foreground, background], 3)[0]                                # (3, H, 2 W)
    fraction = predicted.float().mean()
    print(f'{file}: {width} x {height}, scaled to {small_size[1]} x {small_size[0]} for the model; '
          f'{fraction:.1%} of it is foreground')
    mask = 255 * predicted[0, 0].byte()                                             # (H, W)
    mask_file = out.with_name(f'{out.stem}_predicted_mask.png')
    with writing(mask_file):
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.numpy()).save(mask_file)
    with writing(out):
        Image.fromarray(both.permute(1, 2, 0).numpy()).save(out)


def segment_files(net, files, size, folder):
    """Write what `segment_file` writes for each of `files` to a folder. Raises UserError for their own."""
    if folder.resolve() in [file.parent.resolve() for file in files]:
        raise UserError(f'--out={folder}: expected another folder than that of the images')
    stems = [file.stem for file in files]

    def segment(file):
        name = file.stem if stems.count(file.stem) == 1 else file.name      # a.jpg beside a.png
        segment_file(net, file, size, folder / f'{name}.png')

    show_each(files, segment)


@torch.no_grad()
def segment_rows(net, data_split, rows):
    """Segment n `rows` of a split. Return four images of each, their captions, and the mean Dice.

    The images, (4 n, 3, H, W) uint8, are the row itself, its true mask, the predicted one, the difference.
    """
    batch = data_split.batch(rows)
    image = batch['image'].cpu()
    true = net.target(batch['mask']).cpu()                                          # (n, 1, H, W)
    predicted = net.predict(batch['image']).cpu() > 0.5                             # (n, 1, H, W)
    wrong = predicted != true
    n_wrong = wrong.sum((1, 2, 3))                                                  # (n,)
    total = predicted.sum((1, 2, 3)) + true.sum((1, 2, 3))
    dice = torch.where(total > 0, 1 - n_wrong / total, 1.0)             # 2 |P and T| = |P| + |T| - wrong
    nothing = torch.zeros_like(true)
    panels = [
        shade(image, nothing, BLACK),
        shade(image, true, FOREGROUND),
        shade(image, predicted, FOREGROUND),
        shade(image, wrong, MISTAKE)]
    captions = []
    for i, row in enumerate(rows):
        fraction = wrong[i].float().mean()
        captions.append([f'row {row}'])
        captions.append(['true'])
        captions.append([f'predicted, Dice {dice[i]:.3f}'])
        captions.append([f'wrong, {fraction:.1%} of pixels'])
    return torch.stack(panels, 1).flatten(0, 1), captions, dice.mean().item()


def show(net, checkpoint, folder, seed):
    """Write the foreground of the images `start`, or a grid of rows of a split, to `out`."""
    file = Path(out or folder / 'samples.png')
    size = checkpoint.get('info', {}).get('size')
    if start:
        files = own_images(start)
        if names_several(start):
            segment_files(net, files, size, Path(out or folder / 'samples'))
        else:
            segment_file(net, files[0], size, file)
        return
    device = device_of(net)
    data_split = load_split(checkpoint, split, ('image', 'mask'), device)
    rows = random_rows(data_split, num_samples or 6, seed)
    images, captions, dice = segment_rows(net, data_split, rows)
    title = f'foreground {net.foreground}, mean Dice {dice:.3f} of {len(rows)} of {data_split.name}'
    with writing(file):
        save_grid(images.numpy(), captions, grid_title(checkpoint, title), file, columns=4)
