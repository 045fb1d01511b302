"""Draw images of a class, or change the class of an image, with a conditional VAE: a grid for each `--grid`.

    python sample.py --out_dir=out/cvae_mnist                           # new images of every class
    python sample.py --out_dir=out/cvae_mnist --grid=wrong_label        # a 7 as a 3 in the same style

The model turns an image and its label into a latent eps (B, latent), which holds what the label does not say,
the style. It turns any eps, also one drawn from N(0, 1), and any label into an image.
"""
import json
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from core.errors import UserError
from core.grid import save_grid
from samples import class_names, device_of, grid_title, load_split, out_problems, random_rows, writing

# --- options of images
grid: Literal['prior', 'wrong_label', 'reconstruct', 'interpolate', 'style'] = 'prior'  # what is drawn
num_samples = 0         # prior: columns of the grid; style, interpolate: its rows; else its images;
                        # 0: 8 columns, 8 or 5 rows, 25 images
split = ''              # which rows of the data set; empty: test if there is one, else val
out = ''                # FILE.png; empty: named as the grid, beside the checkpoint

LIMITS = {'num_samples': 400}
N_STEPS = 9
TITLES = {
    'prior': 'new images, a class in each row',
    'wrong_label': 'left: an image of {split}, right: decoded with the given label',
    'reconstruct': 'left: an image of {split}, right: decoded with its own label',
    'interpolate': 'in each row from one image of {split} to another of its class',
    'style': 'in each row one style, with the label of every class',
}


def problems(given):
    """Return a line for each mistake in the options."""
    return out_problems(out, '.png')


def count(n_class):
    """Return num_samples or, if that is 0, what fits the grid. Raises UserError for more than 400 images.

    Of more than 400 classes, each may have one.
    """
    if grid in ('prior', 'style'):
        default = 8
        images_each = n_class
    elif grid == 'interpolate':
        default = 5
        images_each = N_STEPS
    else:
        default = 25
        images_each = 1
    limit = max(1, LIMITS['num_samples'] // images_each)
    if num_samples > limit:
        raise UserError(f'num_samples must be from 0 to {limit} in this grid, got {num_samples}')
    return num_samples or min(default, limit)


def random_other_label(label, n_class, generator):
    """Return for each label (B,) one of the n_class - 1 others, each with the same probability."""
    step = torch.randint(1, n_class, label.shape, generator=generator, device=label.device)
    return (label + step) % n_class


def random_other_rows(data_split, rows, seed):
    """Return for each row the number of another row of its class or, if there is none, its own."""
    rng = np.random.default_rng(seed)
    labels = data_split.arrays['label'].cpu().numpy()
    chosen = []
    for row in rows:
        same_class = np.flatnonzero(labels == labels[row])
        others = np.setdiff1d(same_class, row)
        chosen.append(rng.choice(others) if len(others) else row)
    return np.array(chosen)


def interpolate(net, image_a, image_b, label):
    """Return N_STEPS images on the straight line, in eps, between each two images: (n N_STEPS, C, H, W)."""
    eps_a = net.encode(image_a, label)
    eps_b = net.encode(image_b, label)
    steps = []
    for t in torch.linspace(0, 1, N_STEPS).tolist():
        steps.append(net.generate(eps_a.lerp(eps_b, t), label))         # (n, C, H, W)
    return torch.stack(steps, 1).flatten(0, 1)


def draw_new(net, names, generator):
    """Draw new images. Return them, their captions and the number of columns of the grid.

    prior: each row has images of one class. style: each row has an image of every class, all of the same eps.
    """
    n_class = len(names)
    n = count(n_class)
    classes = torch.arange(n_class, device=generator.device)
    if grid == 'prior':
        label = classes.repeat_interleave(n)
        images = net.sample(label, generator)
        columns = n
    else:
        label = classes.repeat(n)
        eps = torch.randn(n, net.config.latent, generator=generator, device=generator.device)
        images = net.generate(eps.repeat_interleave(n_class, 0), label)
        columns = n_class
    captions = [[names[i]] for i in label.tolist()]
    return images, captions, columns


def draw_changed(net, names, data_split, seed, generator):
    """Draw rows of a split and what the model makes of them.

    interpolate: each row goes, straight in eps, from an image to another one of its class. reconstruct and
    wrong_label: next to each image is its reconstruction with its own label, or with a wrong one. Return
    images, captions and columns, as `draw_new` does, and for wrong_label the labels of each image.
    """
    n = count(len(names))
    if num_samples > data_split.size:
        raise UserError(f'num_samples={n}: {data_split.name} has {data_split.size:,} rows')
    rows = random_rows(data_split, n, seed)
    batch = data_split.batch(rows)
    image = batch['image']                                              # (n, C, H, W)
    label = batch['label']
    if grid == 'wrong_label':
        if len(names) < 2:
            raise UserError(f'grid wrong_label: {names[0]} is the only class, so there is no wrong one')
        wrong = random_other_label(label, len(names), generator)
        reconstruction = net.reconstruct(image, label, wrong)
        captions = []
        pairs = []
        for true, given in zip(label.tolist(), wrong.tolist()):
            captions.append([f'true {names[true]}', f'given {names[given]}'])
            pairs.append({'true': true, 'given': given})
        return torch.cat([image, reconstruction], 3), captions, 0, pairs

    if grid == 'reconstruct':
        reconstruction = net.reconstruct(image, label)
        captions = [[f'{names[i]}, row {row}'] for i, row in zip(label.tolist(), rows)]
        return torch.cat([image, reconstruction], 3), captions, 0, []   # (n, C, H, 2 W)
    other_rows = random_other_rows(data_split, rows, seed)
    other_image = data_split.batch(other_rows)['image']
    images = interpolate(net, image, other_image, label)
    captions = []
    for i, row, other in zip(label.tolist(), rows, other_rows):
        captions += [[names[i], f'row {row}'], *[['']] * (N_STEPS - 2), [names[i], f'row {other}']]
    return images, captions, N_STEPS, []


def show(net, checkpoint, folder, seed):
    """Write the grid to `out`. For wrong_label, write the labels to the .json file beside it."""
    device = device_of(net)
    generator = torch.Generator(device).manual_seed(seed)
    names = class_names(checkpoint, net.config.n_class)
    pairs = []
    title = TITLES[grid]
    if grid in ('prior', 'style'):
        images, captions, columns = draw_new(net, names, generator)
    else:
        data_split = load_split(checkpoint, split, ('image', 'label'), device)
        images, captions, columns, pairs = draw_changed(net, names, data_split, seed, generator)
        title = title.format(split=data_split.name)
    file = Path(out or folder / f'{grid}.png')
    with writing(file):
        save_grid(images.cpu().numpy(), captions, grid_title(checkpoint, title), file, columns)
    if pairs:
        file = file.with_suffix('.json')
        with writing(file):
            file.write_text(json.dumps(pairs, indent=1) + '\n', encoding='utf-8')
