"""Segment rows of the data set, or an image of your own, into foreground and background.

    python sample.py --out_dir=out/pets_mp_tr_bce                       # a grid of test images with masks
    python sample.py --out_dir=out/pets_mp_tr_bce --start=photo.jpg     # where the pet is
"""
import torch
from PIL import Image
from torch.nn import functional as F

from core.grid import MISTAKE, save_grid
from data.images import resize_and_center_crop
from samples import device_of, grid_title, load_split, open_image, out_problems, random_rows, writing

# --- options of masks
start = ''              # an image file of your own to segment
split = ''              # rows of the data set to use without a start; empty: test if there is one, else val
num_samples = 0         # rows of the grid, an image in each; 0: 6
out = ''                # FILE.png; empty: samples.png beside the checkpoint

LIMITS = {'num_samples': 100}
BLACK = 0, 0, 0
FOREGROUND = 0, 114, 178        # blue of the palette of core/grid.py


def problems(given):
    """Return a line for each mistake in the options, of which `given` were given."""
    lines = out_problems(out, '.png')
    unused = [name for name in ('split', 'num_samples') if name in given]
    if start and unused:
        lines.append(f'{", ".join(unused)}: only for rows of the data set; start is an image of your own')
    return lines


def shade(images, mask, color):
    """Return uint8 images (n, C, H, W) as RGB, mixed with a color where mask (n, 1, H, W) is true."""
    rgb = images[:, :3].expand(-1, 3, -1, -1).float()       # grey is the same in all channels
    color = torch.tensor(color).view(3, 1, 1)
    return torch.where(mask, (rgb + color) / 2, rgb).byte()


@torch.no_grad()
def segment_file(net, file, size, out):
    """Write the image in a file twice, side by side: its foreground shaded, and its background in the dark.

    For the model, scale its shorter side to that of the training images' `size`; scale the mask back.
    """
    image, _ = open_image(file, net.config.channels)
    width, height = image.size
    ratio = min(size or (height, width)) / min(height, width)
    small_size = round(height * ratio), round(width * ratio)
    small = torch.from_numpy(resize_and_center_crop(image, small_size))             # (C, h, w)
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
    with writing(out):
        Image.fromarray(both.permute(1, 2, 0).numpy()).save(out)


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
    """Write the foreground of the image `start`, or a grid of rows of a split, to `out`."""
    file = out or folder / 'samples.png'
    if start:
        segment_file(net, start, checkpoint.get('info', {}).get('size'), file)
        return
    device = device_of(net)
    data_split = load_split(checkpoint, split, ('image', 'mask'), device)
    rows = random_rows(data_split, num_samples or 6, seed)
    images, captions, dice = segment_rows(net, data_split, rows)
    title = f'foreground {net.foreground}, mean Dice {dice:.3f} of {len(rows)} of {data_split.name}'
    with writing(file):
        save_grid(images.numpy(), captions, grid_title(checkpoint, title), file, columns=4)
