"""What a trained model produces. `Model.makes` names the kind, and samples/<kind>.py is its code:

    text  translation  labels  classes  masks  images

The variables at the top of such a file are the options of that kind; sample.py sets them. Each file has

    LIMITS                                  the largest legal value of its numbers; the smallest is 0
    problems(given)                         a line for each mistake in the options; `given`: those given
    show(net, checkpoint, folder, seed)     print samples or write them to a file, by default in `folder`
    preview(net, tokenizer, split)          text and translation only: a short sample for the log of a run

Here is what several kinds share.
"""
import contextlib
import glob
import os
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

import data
from core.errors import UserError
from data import tokenizers
from data.folders import entries
from data.lines import name_errors, read_text, to_text

KINDS = 'text', 'translation', 'labels', 'classes', 'masks', 'images'


def preview(net, meta, split):
    """Return a short sample of text or translations between two rules, for the log of a training run.

    meta: the data set's. split: for a translation, its first rows are translated. Return '' for other models.
    """
    tokenizer = tokenizers.load(meta['tokenizer'])
    if net.makes not in ('text', 'translation') or tokenizer is None:
        return ''
    training = net.training
    net.eval()
    text = import_module(f'samples.{net.makes}').preview(net, tokenizer, split)
    net.train(training)
    rule = '-' * 80
    return f'{rule}\n{text.strip()}\n{rule}'


def device_of(net):
    """Return the device of a model's weights."""
    return next(net.parameters()).device


# --- options

def out_of_range(options, limits):
    """Return a line for each option that is not from 0 to its limit. Both are dicts by name."""
    problems = []
    for name, limit in limits.items():
        if not 0 <= options[name] <= limit:
            problems.append(f'{name} must be from 0 to {limit}, got {options[name]}')
    return problems


def out_problems(out, *endings):
    """Return a line for each reason why no file with one of `endings`, or any, can be written to `out`."""
    problems = []
    if out and endings and not out.endswith(endings):
        problems.append(f'out must end in {" or in ".join(endings)}, got {out!r}')
    if os.path.isdir(out):
        problems.append(f'out {out} is a folder')
    if not os.path.isdir(Path(out).parent):
        problems.append(f'out {out}: there is no such folder')
    return problems


# --- input

def read_prompt(start):
    """Return the text that the option `start` stands for: itself, FILE:path for a file's, - for stdin's.

    Raises UserError, code 3, with the line, if it cannot be read or is not UTF-8.
    """
    name = f'--start={start}'
    if start.startswith('FILE:'):
        return read_text(Path(start.removeprefix('FILE:')), name)
    if start == '-':
        with name_errors(name):
            if sys.stdin is None:
                raise UserError(f'{name}: the standard input is closed', code=3)
            return to_text(sys.stdin.buffer.read(), name)
    return start


def open_image(file, channels):
    """Return the image in a file, as PIL's grey image (1 channel) or RGB image, and the mode it is stored in.

    Raises UserError, code 3, if the file does not exist or is not an image.
    """
    from PIL import Image           # here, because the kinds that make text need no PIL
    from data.images import load_rgb
    try:
        with Image.open(file) as image:
            mode = image.mode
        image = load_rgb(file)
    except Exception as error:      # PIL raises nearly everything, from SyntaxError to struct.error
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f'--start={file}: {reason}', code=3)
    return image.convert('L' if channels == 1 else 'RGB'), mode


def names_several(start):
    """Return whether `start` is a folder or a pattern such as 'photos/*.jpg', not the name of one file."""
    path = Path(start).expanduser()
    is_pattern = any(letter in start for letter in '*?[')
    return path.is_dir() if path.exists() else is_pattern


def own_images(start):
    """Return the files that `start` names: itself, those in a folder, or those that match a pattern.

    Raises UserError, code 3, if a folder has none.
    """
    path = Path(start).expanduser()
    files = [path]          # also if there is no such file: then to open it is an error
    if path.is_dir():
        files = [file for file in entries(path) if not file.is_dir()]
    elif names_several(start):
        files = sorted(Path(file) for file in glob.glob(str(path))) or [path]
    if not files:
        raise UserError(f'--start={start}: there are no files in this folder', code=3)
    return files


def show_each(files, show):
    """Call show(file) for each file. If there are several, what is wrong with one is printed.

    Raises UserError if no file is right, or if nothing can be written.
    """
    n_wrong = 0
    for file in files:
        try:
            show(file)
        except UserError as error:
            if len(files) == 1 or error.code == 4:
                raise
            print(error, file=sys.stderr)
            n_wrong += 1
    if n_wrong == len(files):
        raise UserError(f'none of these {n_wrong} files is an image that the model can read', code=3)


def warn_if_far(file, image, config, advice=''):
    """Print a line if uint8 image (C, H, W) is much brighter or darker than those of the training.

    That is, if its mean is more than a standard deviation of their pixels away from theirs.
    """
    if not hasattr(config, 'mean'):
        return
    mean = torch.tensor(config.mean)                            # (C,)
    found = image.float().mean((1, 2)) / 255                    # (C,)
    distance = ((found - mean) / torch.tensor(config.std)).mean()
    if abs(distance) > 1:
        word = 'brighter' if distance > 0 else 'darker'
        print(f'{file}: much {word} than the images of the training, mean {found.mean():.2f}, theirs '
              f'{mean.mean():.2f}: the answer may be wrong{advice}', file=sys.stderr)


def load_split(checkpoint, name, fields, device='cpu', block_size=0):
    """Return a split of the data set that the model was trained on. No name: test if there is one, else val.

    Raises UserError, code 3, if the data set is not here, or if its data have changed since the training.
    """
    dataset = checkpoint['keys'].get('dataset', '')
    path = data.folder(dataset)
    if not (path / 'meta.json').exists():
        lines = [f'the data set that the model was trained on is not here: {path}']
        if (path / 'prepare.py').exists():
            options = checkpoint['keys'].get('prepare', '')
            lines.append(f'to make it: python {path}/prepare.py {options}')
        raise UserError(*lines, 'a text or image of your own needs none: --start=FILE', code=3)
    meta = data.check(dataset)
    if not name:
        preferred = ['test', 'val', *meta['splits']]
        name = next(split for split in preferred if split in meta['splits'])
    if name not in meta['splits']:
        raise UserError(f'split {name!r}: {dataset} has {", ".join(meta["splits"])}')
    found = data.hashes(meta)
    expected = checkpoint.get('data', {})
    changed = []
    for field in fields:
        key = f'{name}.{field}'
        if found.get(key) != expected.get(key):
            changed.append(field)
    if changed:
        raise UserError(f'{path} is not what the model was trained on: {" and ".join(changed)} of {name} '
                        'changed since; prepare it as it was then', code=3)
    return data.load_split(dataset, name, fields, block_size, device)


def random_rows(split, n, seed):
    """Return n different rows of a split in ascending order, or all of them if there are fewer."""
    order = np.random.default_rng(seed).permutation(split.size)
    return np.sort(order[:n])


# --- output

@contextlib.contextmanager
def writing(file):
    """Print that a file was written, or raise UserError, code 4, if it cannot be."""
    try:
        yield
    except OSError as error:
        raise UserError(f'--out={file} cannot be written: {error.strerror or error}', code=4)
    print(f'wrote {file}')


def grid_title(checkpoint, text):
    """Return the title of a grid: model, data set, and `text`."""
    keys = checkpoint['keys']
    return f'{keys["model"]}, {Path(keys["dataset"]).name}: {text}'


def class_names(checkpoint, n_class):
    """Return the names of the classes, or their numbers if the data set has none."""
    names = checkpoint.get('info', {}).get('classes')
    return names or [str(i) for i in range(n_class)]
