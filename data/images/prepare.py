"""Your own images: a sub-folder per class, or `images/` and `masks/` whose files have the same names.

    python data/images/prepare.py --input=photos --out=animals      # then train.py --dataset=animals

    photos/cat/1.jpg, photos/cat/2.png, photos/dog/1.jpg    image, label: a class is a sub-folder
    photos/images/1.jpg, photos/masks/1.png                 image, mask: a class is a value of its one channel

Such folders in photos/train/, photos/val/ and perhaps photos/test/ are the splits; otherwise val and test are
drawn, always the same. The shorter side of an image becomes `size`; the square in its middle is kept.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository
from pathlib import Path

import numpy as np

import configurator
import data
from core.errors import UserError
from data import images
from data.pairs import number_of

# --- options
input = ''      # folder of the images
out = ''        # name of the data set
size = 128      # height and width, in pixels
val = 0.1       # images drawn for val: a fraction or, from 1 on, a number; 0: no val
test = 0.1      # images drawn for test: a fraction or, from 1 on, a number; 0: no test


def files_below(folder):
    """Return the files below a folder, sorted, without hidden ones."""
    files = []
    for file in folder.rglob('*'):
        hidden = any(part.startswith('.') for part in file.relative_to(folder).parts)
        if file.is_file() and not hidden:
            files.append(file)
    return sorted(files)


def find_classes(folder):
    """Return [(image file, name of its class), ...]. Raises UserError for fewer than two sub-folders."""
    files = [file for file in files_below(folder) if file.parent != folder]
    found = [(file, file.relative_to(folder).parts[0]) for file in files]
    if len({name for file, name in found}) < 2:
        raise UserError(f'{folder}: expected images in two sub-folders or more, a class each, or in images/ '
                        'and masks/', code=3)
    return found


def find_masks(folder):
    """Return [(image file, mask file), ...] of images/ and masks/. Raises UserError if they do not pair."""
    pairs = {}      # path without the suffix: files
    for kind in folder / 'images', folder / 'masks':
        for file in files_below(kind):
            stem = file.relative_to(kind).with_suffix('')
            pairs.setdefault(stem, []).append(file)
    for stem, files in pairs.items():
        is_image = [folder / 'images' in file.parents for file in files]
        if is_image != [True, False]:
            names = ', '.join(str(file.relative_to(folder)) for file in files)
            raise UserError(f'{folder}: expected one image and one mask {stem}, found {names}', code=3)
    if not pairs:
        raise UserError(f'{folder}: expected files in images/ and masks/, found none', code=3)
    return list(pairs.values())


def find_pairs(folder):
    """Return [(image file, mask file or name of its class), ...], whichever a folder has."""
    has_masks = (folder / 'images').is_dir() and (folder / 'masks').is_dir()
    return find_masks(folder) if has_masks else find_classes(folder)


def find_splits(folder):
    """Return {split: [(image file, mask file or name of its class), ...]}.

    Raises UserError if the folders of the splits do not have the same kind of files, or other classes.
    """
    names = [split for split in ('train', 'val', 'test') if (folder / split).is_dir()]
    if len(names) < 2:          # a single one may be a class: trains
        pairs = find_pairs(folder)
        n = len(pairs)
        rows = images.split_rows(n, number_of(val, n), number_of(test, n))
        return {split: [pairs[i] for i in indices] for split, indices in rows.items()}
    if names[:2] != ['train', 'val']:
        raise UserError(f'{folder}: expected train/ and val/, found {"/ and ".join(names)}/', code=3)
    splits = {split: find_pairs(folder / split) for split in names}
    expected = class_names(splits['train'])
    for split, pairs in splits.items():
        found = class_names(pairs)
        if found - expected or bool(found) != bool(expected):
            raise UserError(f'{folder}/{split}: expected what train/ has, {sorted(expected) or "masks"}, '
                            f'found {sorted(found) or "masks"}', code=3)
    return splits


def class_names(pairs):
    """Return the set of the names of classes in [(image file, mask file or name), ...]: empty for masks."""
    return {name for file, name in pairs if isinstance(name, str)}


def read_split(pairs, classes):
    """Return the fields of a split."""
    files, others = zip(*pairs)
    if not classes:
        image, mask, decoded = images.read(files, size, others)
        return {'image': image, 'mask': mask}
    image, mask, decoded = images.read(files, size)
    label = np.array([classes.index(name) for name in others])
    return {'image': image, 'label': label[decoded]}


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)     # the options above, as given
    taken = (data.folder(out) / 'prepare.py').exists()
    if not input or not out or taken or size < 1:
        raise UserError(f'--input={input} --out={out} --size={size}: expected a folder, a new name, and '
                        'pixels')
    pairs = find_splits(Path(input))
    classes = set()
    for split in pairs:
        classes |= class_names(pairs[split])
    classes = sorted(classes)
    splits = {split: read_split(pairs[split], classes) for split in pairs}
    if classes:
        info = {'n_class': len(classes), 'classes': classes}
    else:
        values = [np.unique(fields['mask']) for fields in splits.values()]
        values = np.unique(np.concatenate(values)).tolist()
        info = {'n_class': values[-1] + 1, 'codes': values}
        print(f'the masks hold {", ".join(map(str, values))}, so n_class is {info["n_class"]}')
    options = {'input': input, 'size': size, 'val': val, 'test': test}
    images.save(out, splits, info, options, [{'url': input}])
