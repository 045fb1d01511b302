"""Classify rows of the data set, or images of your own.

    python sample.py --out_dir=out/cifar10_cnn                      # a grid of test images with their classes
    python sample.py --out_dir=out/cifar10_cnn --start=cat.jpg      # the likeliest classes of an image
    python sample.py --out_dir=out/cifar10_cnn --start=photos       # of each image in a folder
    python sample.py --out_dir=out/cifar10_cnn --out=test.jsonl     # the probabilities of every test image
"""
import inspect
import json

import numpy as np
import torch

import data
from core.errors import UserError
from core.grid import LETTER, as_many_as_rows, enlargement, save_grid
from data.images import resize_and_center_crop
from samples import class_names, device_of, grid_title, load_split, open_image, out_problems, own_images
from samples import random_rows, show_each, warn_if_far, writing

# --- options of classes
start = ''              # an image file of your own to classify, a folder of them or a pattern, 'photos/*.jpg'
invert = False          # exchange dark and light in these images, as for dark ink if the model knows white
split = ''              # rows of the data set to use without a start; empty: test if there is one, else val
num_samples = 0         # images in the grid; 0: 25
out = ''                # FILE.png, a grid of images; FILE.jsonl, a line of probabilities for every row;
                        # empty: samples.png beside the checkpoint

LIMITS = {'num_samples': 400}


def problems(given):
    """Return a line for each mistake in the options, of which `given` were given."""
    lines = out_problems(out, '.png', '.jsonl')
    unused = [name for name in ('split', 'num_samples', 'out') if name in given]
    if start and unused:
        lines.append(f'{", ".join(unused)}: only for rows of the data set; start is an image of your own')
    if invert and not start:
        lines.append('invert: only for an image of your own, --start')
    return lines


@torch.no_grad()
def classify(net, data_split, rows):
    """Classify `rows` of a split, n ascending numbers.

    Return three lists: n true classes, n predicted classes, n lists of the n_class probabilities.
    """
    order = rows
    if data_split.ragged:
        order = data_split.sort_by_length(rows)     # little padding in a batch of texts
    true = []
    logits = []
    for i in range(0, len(order), 64):
        batch = data_split.batch(order[i:i + 64])
        true.append(batch.pop('label').cpu())
        logits.append(net.logits(**batch).cpu())
    back = torch.from_numpy(np.argsort(order))      # from that order to ascending numbers
    true = torch.cat(true)[back]
    logits = torch.cat(logits)[back]                # (n, n_class)
    return true.tolist(), logits.argmax(1).tolist(), logits.softmax(1).tolist()


def make_captions(images, true, predicted, probabilities, names):
    """Return the captions of images (n, C, H, W): the predicted class of each and its probability.

    A mistake is marked by ✗ and has a second line, the true class. Long names are cut.
    """
    width = images.shape[3] * enlargement(images, as_many_as_rows(len(images)))
    n_letters = max(3, width // LETTER - 5)         # 5 are for ' 100%'
    short = []
    for name in names:
        short.append(name if len(name) <= n_letters else f'{name[:n_letters - 1]}…')
    captions = []
    for t, p, row in zip(true, predicted, probabilities):
        text = f'{short[p]} {row[p]:.0%}'
        captions.append([text] if t == p else [f'✗ {text}', f'is {short[t]}'])
    return captions


@torch.no_grad()
def classify_file(net, file, size, names):
    """Print the five likeliest classes of the image in a file, resized to `size`, if any: (height, width)."""
    image, mode = open_image(file, net.config.channels)
    width, height = image.size
    H, W = size or (height, width)
    cropped = ', the center of it' if width * H != height * W else ''
    print(f'{file}: {width} x {height} {mode} -> {W} x {H} {image.mode}{cropped}')
    image = torch.from_numpy(resize_and_center_crop(image, (H, W)))                     # (C, H, W)
    if invert:
        image = 255 - image
    advice = '' if invert else '; to exchange dark and light: --invert'
    warn_if_far(file, image, net.config, advice)
    device = device_of(net)
    logits = net.logits(image[None].to(device))[0]                                      # (n_class,)
    best = logits.softmax(0).topk(min(5, len(names)))
    longest = max(len(name) for name in names)
    for probability, i in zip(best.values.tolist(), best.indices.tolist()):
        print(f'{names[i].ljust(longest)}  {probability:.4f}')


def file_names(data_split):
    """Return the name of the file that each row of a split was, or [] if meta.json does not tell."""
    for source in data.check(data_split.path).get('source', []):
        if data_split.name in source.get('files', []):
            return source['files'][data_split.name]
    return []


def save_lines(path, rows, true, predicted, probabilities, names=(), files=()):
    """Write a JSON line for each row to the file `path`.

    names: of the classes, or none. files: the one that each row of the split was, or none.
    """
    with writing(path), open(path, 'w', encoding='utf-8') as file:
        for i, row in enumerate(rows.tolist()):
            line = {'row': row}
            if files:
                line['file'] = files[row]
            line |= {'true': true[i], 'predicted': predicted[i]}
            if names:
                line |= {'true_name': names[true[i]], 'predicted_name': names[predicted[i]]}
            line['probabilities'] = [round(probability, 6) for probability in probabilities[i]]
            file.write(json.dumps(line) + '\n')


def show(net, checkpoint, folder, seed):
    """Classify the images `start` and print their classes; or rows of a split, and write a grid or lines."""
    fields = list(inspect.signature(net.logits).parameters)         # 'image', or the field of a text
    names = class_names(checkpoint, net.config.n_class)
    all_rows = out.endswith('.jsonl')
    if 'image' not in fields and not all_rows:
        raise UserError('the model does not read images; to classify every row: --out=FILE.jsonl')
    if start:
        size = checkpoint.get('info', {}).get('size')
        show_each(own_images(start), lambda file: classify_file(net, file, size, names))
        return
    device = device_of(net)
    block_size = getattr(net.config, 'block_size', 0)               # of texts
    data_split = load_split(checkpoint, split, [*fields, 'label'], device, block_size)
    rows = np.arange(data_split.size)
    if not all_rows:
        rows = random_rows(data_split, num_samples or 25, seed)
    true, predicted, probabilities = classify(net, data_split, rows)
    n_right = sum(t == p for t, p in zip(true, predicted))
    summary = f'{n_right:,} of {len(rows):,} right in {data_split.name}'
    if all_rows:
        save_lines(out, rows, true, predicted, probabilities, names, file_names(data_split))
    else:
        images = data_split.batch(rows)['image'].cpu().numpy()
        captions = make_captions(images, true, predicted, probabilities, names)
        file = out or folder / 'samples.png'
        with writing(file):
            save_grid(images, captions, grid_title(checkpoint, summary), file)
    tta = getattr(net.config, 'tta', 'none')
    print(f'{summary}, accuracy {n_right / len(rows):.4f}; test-time augmentation: {tta}')
