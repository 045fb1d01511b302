"""Your own images: a sub-folder per class, or `images/` and `masks/` whose files have the same names.

    python data/images/prepare.py --input=photos --out=animals      # then train.py --dataset=animals

    photos/cat/1.jpg, photos/cat/2.png, photos/dog/1.jpg    image, label: a class is a sub-folder
    photos/images/1.jpg, photos/masks/1.png                 image, mask: a class is a value of its one channel
    photos/1.jpg, photos/2.png                              image, label: one class, for a VAE

Such folders in photos/train/, photos/val/ and perhaps photos/test/ are the splits; otherwise val and test are
drawn, always the same, with every class in proportion. The shorter side of an image becomes `size`; the
square in its middle is kept. Links are followed. `source` in meta.json has the file of each row.
"""
import os
import re
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository
from pathlib import Path
from typing import NamedTuple

import numpy as np

import configurator
import data
from core.errors import UserError
from data import images
from data.folders import composed, entries, files_below, find_named, print_unused
from data.pairs import number_of

# --- options
input = ''      # folder of the images
out = ''        # name of the data set
size = 128      # height and width, in pixels
val = 0.1       # images drawn for val: a fraction or, from 1 on, a number; 0: no val
test = 0.1      # images drawn for test: a fraction or, from 1 on, a number; 0: no test
mask_suffix = '_mask'   # the name of a mask is that of its image, perhaps with this at its end

# What a folder may be named, in lower case.
SPLITS = {'train': ('train', 'training'), 'val': ('val', 'valid', 'validation', 'dev'),
          'test': ('test', 'testing')}
IMAGES = 'images', 'image', 'imgs', 'img'
MASKS = 'masks', 'mask', 'labels', 'label', 'annotations'


class Row(NamedTuple):
    image: Path
    mask: Path = None
    label: str = ''     # name of the class; '' if there is a mask


# --- rows

def find_classes(folder):
    """Return the Rows of a folder: a sub-folder is a class; without sub-folders, all images are of one class.

    Raises UserError for a single sub-folder, and for sub-folders that look like splits: by their names, or
    because they have the same sub-folders.
    """
    rows = []
    loose = []
    inner = []      # of each class, the names of the folders in it
    for path in entries(folder):
        if not path.is_dir():
            loose.append(path)
            continue
        files = files_below(path, (os.path.realpath(folder),))
        rows += [Row(file, label=composed(path.name)) for file in files]
        if files:
            inner.append({entry.name for entry in entries(path) if entry.is_dir()})
    classes = sorted({row.label for row in rows})
    if loose and not classes:
        print(f'{folder}: {len(loose):,} files and no sub-folders: all are of one class, "image"')
        return [Row(path, label='image') for path in loose]
    if len(classes) < 2:
        raise UserError(f'{folder}: expected images in two sub-folders or more, a class each, or in images/ '
                        f'and masks/, or in no sub-folder, found images in {", ".join(classes) or "none"}',
                        code=3)
    shared = sorted(set.intersection(*inner))
    if len(shared) > 1 or all(map(names_a_split, classes)):
        found = f'{", ".join(classes)}{", each with " if shared else ""}{", ".join(shared)}'
        raise UserError(f'{folder}: these look like splits or masks, not like classes: {found}',
                        'name splits train/, val/ and test/; images and masks images/ and masks/; classes, '
                        'and the sub-folders of each, differently', code=3)
    if loose:
        print(f'{folder}: {len(loose):,} files in no sub-folder are left out, such as {loose[0].name}')
    return rows


def names_a_split(name):
    """Return whether one of the words in a name is the name of a split, as in seg_train or train_masks."""
    words = re.split('[^a-z]+', name.lower())
    return not set(words).isdisjoint(sum(SPLITS.values(), ()))


def find_masks(image_folder, mask_folder):
    """Return the Rows of images and their masks. Raises UserError if they do not pair."""
    folder = image_folder.parent
    pairs = {}      # name, without the file's suffix: (files of images, files of masks)
    for file in files_below(image_folder):
        name = composed(file.relative_to(image_folder).with_suffix(''))
        pairs.setdefault(name, ([], []))[0].append(file)
    for file in files_below(mask_folder):
        name = composed(file.relative_to(mask_folder).with_suffix(''))
        if name not in pairs:
            name = name.removesuffix(mask_suffix)
        pairs.setdefault(name, ([], []))[1].append(file)
    for name, (image_files, mask_files) in pairs.items():
        if len(image_files) != 1 or len(mask_files) != 1:
            found = ', '.join(str(file.relative_to(folder)) for file in image_files + mask_files)
            raise UserError(f'{folder}: expected one image and one mask {name}, found {found}',
                            'if masks are named as their images with some end: --mask_suffix=END', code=3)
    if not pairs:
        raise UserError(f'{folder}: expected files in images/ and masks/, found none', code=3)
    return [Row(*image_files, *mask_files) for image_files, mask_files in pairs.values()]


def find_rows(folder):
    """Return the Rows of a folder, of images and masks or of images and classes, whichever it has."""
    image_folder = find_named(folder, IMAGES)
    mask_folder = find_named(folder, MASKS)
    if image_folder and mask_folder:
        print_unused(folder, (image_folder, mask_folder))
        return find_masks(image_folder, mask_folder)
    return find_classes(folder)


def find_splits(folder):
    """Return {split: Rows}.

    Raises UserError if the folders of the splits do not have the same kind of files, or other classes.
    """
    found = {split: find_named(folder, names) for split, names in SPLITS.items()}
    folders = {split: path for split, path in found.items() if path}
    if len(folders) < 2:        # a single one may be a class: trains
        rows = find_rows(folder)
        n = len(rows)
        labels = [row.label for row in rows]
        splits = images.split_rows(n, number_of(val, n), number_of(test, n), labels)
        return {split: [rows[i] for i in indices] for split, indices in splits.items()}
    names = [path.name for path in folders.values()]
    if not found['train'] or not found['val']:
        raise UserError(f'{folder}: expected train/ and val/, found {"/ and ".join(names)}/', code=3)
    print(f'{folder}: the splits are {", ".join(names)}')
    print_unused(folder, folders.values())
    splits = {split: find_rows(path) for split, path in folders.items()}
    expected = class_names(splits['train'])
    for split, rows in splits.items():
        classes = class_names(rows)
        if not set(classes) <= set(expected) or bool(classes) != bool(expected):
            raise UserError(f'{folders[split]}: expected what {names[0]}/ has, {expected or "masks"}, found '
                            f'{classes or "masks"}', code=3)
    return splits


def class_names(rows):
    """Return the sorted names of the classes of Rows: [] if they have masks."""
    return sorted({row.label for row in rows} - {''})


def read_split(rows, classes):
    """Return the fields of a split, and the image files of those rows that decode."""
    files = [row.image for row in rows]
    if classes:
        image, _, decoded = images.read(files, size)
        label = np.array([classes.index(row.label) for row in rows])
        fields = {'image': image, 'label': label[decoded]}
    else:
        image, mask, decoded = images.read(files, size, [row.mask for row in rows])
        fields = {'image': image, 'mask': mask}
    return fields, [file for file, is_whole in zip(files, decoded) if is_whole]


# --- what was found

def print_classes(splits, classes):
    """Print how many images of each class the splits have, and of which class train has none."""
    counts = {}     # split: (n_class,)
    for split, fields in splits.items():
        counts[split] = np.bincount(fields['label'], minlength=len(classes))
    print(f'images of {len(classes)} classes:')
    for number, name in enumerate(classes):
        numbers = ' + '.join(f'{counts[split][number]:,} {split}' for split in splits)
        missing = ': no model can learn this class' if counts['train'][number] == 0 else ''
        print(f'  {name}: {numbers}{missing}')


def print_codes(codes):
    """Print which values masks hold, and what models/unet.py makes of them."""
    names = [str(code) for code in codes]
    if len(names) > 12:         # the soft edge of a mask, perhaps
        names[4:-4] = ['...']
    if 0 in codes:
        meaning = f'0 is background and one foreground is {", ".join(names[1:]) or "missing"}'
    elif {1, 2, 3}.issuperset(codes):
        meaning = 'a trimap, in which 1 is foreground, 2 background and 3 the border between them'
    else:
        meaning = 'it takes 0 for background, or 1, 2 and 3 of a trimap, but not these'
    print(f'the masks hold {", ".join(names)}; to a U-Net, {meaning}')


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)     # the options above, as given
    taken = (data.folder(out) / 'prepare.py').exists()
    if not input or not out or taken or size < 1:
        raise UserError(f'--input={input} --out={out} --size={size}: expected a folder, a new name, and '
                        'pixels')
    folder = Path(input)
    rows = find_splits(folder)
    classes = class_names(sum(rows.values(), []))
    splits = {}
    files = {}
    for split in rows:
        splits[split], split_files = read_split(rows[split], classes)
        files[split] = [str(file.relative_to(folder)) for file in split_files]
    if classes:
        info = {'n_class': len(classes), 'classes': classes}
        print_classes(splits, classes)
    else:
        values = [np.unique(fields['mask']) for fields in splits.values()]
        codes = np.unique(np.concatenate(values)).tolist()
        info = {'n_class': codes[-1] + 1, 'codes': codes}
        print_codes(codes)
    options = {'input': input, 'size': size, 'val': val, 'test': test, 'mask_suffix': mask_suffix}
    images.save(out, splits, info, options, [{'url': input, 'files': files}])
