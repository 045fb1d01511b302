"""Your own pictures: a sub-folder per class, or `images/` and `masks/` whose files have the same names.

    python data/images/prepare.py --input=photos --out=animals      # then train.py --dataset=animals

    photos/cat/1.jpg, photos/cat/2.png, photos/dog/1.jpg    image, label: a class is a sub-folder
    photos/images/1.jpg, photos/masks/1.png                 image, mask: a class is a value of its one channel

Such folders in photos/train/, photos/val/ and perhaps photos/test/ are the splits; otherwise val and test are
drawn, always the same. The shorter side of a picture becomes `size`; the square in its middle is kept.
"""
import sys; sys.path.insert(0, __file__.rsplit('/', 3)[0])
from pathlib import Path

import numpy as np

import configurator, data
from configurator import Refused
from data import picture

# --- options
input = ''      # folder of the pictures
out = ''        # name of the data set
size = 128      # height and width, pixels
val = 0.1       # share of the pictures that is drawn for val or, from 1 on, their number; 0: no such split
test = 0.1      # the same for test


def below(folder):
    """The files below a folder, sorted, without hidden ones."""
    files = [file for file in folder.rglob('*') if file.is_file()]
    return sorted(file for file in files if not any(p[0] == '.' for p in file.relative_to(folder).parts))


def pairs(folder):
    """[[picture, its mask], ...] or [[picture, the name of its class], ...] of a folder, whichever it has.
    Raises Refused if that is neither, or if its pictures and masks do not pair."""
    images, masks, stems = folder / 'images', folder / 'masks', {}
    if not (images.is_dir() and masks.is_dir()):
        found = [[file, file.relative_to(folder).parts[0]] for file in below(folder) if file.parent != folder]
        if len({name for _, name in found}) < 2:
            raise Refused(f'{folder}: expected pictures in two sub-folders or more, a class each, or in '
                          'images/ and masks/', code=3)
        return found
    for kind in images, masks:
        for file in below(kind):
            stems.setdefault(file.relative_to(kind).with_suffix(''), []).append(file)
    for stem, files in stems.items():
        if [images in file.parents for file in files] != [True, False]:
            names = ', '.join(str(file.relative_to(folder)) for file in files)
            raise Refused(f'{folder}: expected one picture and one mask {stem}, found {names}', code=3)
    if not stems:
        raise Refused(f'{folder}: expected files in images/ and masks/, found none', code=3)
    return list(stems.values())


def drawn(files):
    """{split: its files}, drawn as the knobs ask. A share of the files is one of them at least."""
    val_test = [int(x) if x >= 1 else round(x * len(files)) or int(x > 0) for x in (val, test)]
    return {split: [files[i] for i in rows] for split, rows in picture.draw(len(files), *val_test).items()}


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).knobs)
    if not input or not out or (data.folder(out) / 'prepare.py').exists() or size < 1:
        raise Refused(f'--input={input} --out={out} --size={size}: expected a folder, a new name, and pixels')
    parts = [split for split in ('train', 'val', 'test') if Path(input, split).is_dir()]
    parts = parts if len(parts) > 1 else []         # one alone may be a class: trains
    if parts and parts[:2] != ['train', 'val']:
        raise Refused(f'{input}: expected train/ and val/, found {"/ and ".join(parts)}/', code=3)
    files = {split: pairs(Path(input, split)) for split in parts} or drawn(pairs(Path(input)))
    names = {split: {name for _, name in of if isinstance(name, str)} for split, of in files.items()}
    for split in parts:
        if names[split] - names['train'] or bool(names[split]) != bool(names['train']):
            raise Refused(f'{input}/{split}: expected what train/ has, {sorted(names["train"]) or "masks"}, '
                          f'found {sorted(names[split]) or "masks"}', code=3)
    classes, splits = sorted(set().union(*names.values())), {}
    for split, of in files.items():
        pictures, others = zip(*of)
        image, mask, whole = picture.read(pictures, size, None if classes else others)
        label = np.array([classes.index(name) for name in others])[whole] if classes else None
        splits[split] = {'image': image} | ({'label': label} if classes else {'mask': mask})
    info = {'n_class': len(classes), 'classes': classes}
    if not classes:
        codes = sorted({code for of in splits.values() for code in np.unique(of['mask']).tolist()})
        info = {'n_class': codes[-1] + 1, 'codes': codes}
        print(f'the masks hold {", ".join(map(str, codes))}, so n_class is {info["n_class"]}')
    options = {'input': input, 'size': size, 'val': val, 'test': test}
    picture.save(out, splits, info, options, [{'url': input}])
