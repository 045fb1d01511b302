"""Oxford-IIIT Pets (Parkhi et al. 2012): cats and dogs of 37 breeds, each image with its mask, a trimap.

    python data/pets/prepare.py

A mask keeps the values of its trimap: 1 is pet, 2 background, 3 the border between them. Of the 3,680 images
of the list trainval a tenth, always the same, is val; the 3,669 of the list test are test. The shorter side
of an image becomes `size`; the square in its middle is kept. The files stay in raw/, to be looked at.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository

import numpy as np

import configurator
import data
from core.errors import UserError
from data import images
from data.archive import unpack
from data.download import fetch

# --- options
size = 128      # height and width, in pixels
val = 0.1       # fraction of trainval that is val; 0: no val
out = 'pets'    # name of the data set

HOSTS = 'https://thor.robots.ox.ac.uk/datasets/pets/', 'https://www.robots.ox.ac.uk/~vgg/data/pets/data/'
MD5 = {'images.tar.gz': '5c4f3ee8e5d25df40f4fd59a7f44e54c',
       'annotations.tar.gz': '95a8c909bbe2e81eed6a22bccdf3f68f'}
LISTS = {'annotations/trainval.txt': 3680, 'annotations/test.txt': 3669}    # with the number of images
MASK_VALUES = 1, 2, 3


def unpack_beside(archive, names, max_bytes):
    """Write the files of an archive that match `names` beside it: {name in the archive: file}."""
    files = {}
    for name, content in unpack(archive, names, max_bytes):
        file = archive.parent / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        files[name] = file
    return files


def read_list(files, name):
    """Return [(image file, trimap file), ...] of a list, whose lines are like 'Abyssinian_100 1 1 1'.

    Raises UserError for an empty list, and if the archives lack one of its files.
    """
    lines = files[name].read_text(encoding='utf-8', errors='replace').splitlines()
    stems = [line.split()[0] for line in lines if line.strip()]
    pairs = [(f'images/{stem}.jpg', f'annotations/trimaps/{stem}.png') for stem in stems]
    missing = []
    for pair in pairs:
        missing += [file for file in pair if file not in files]
    if missing or not pairs:
        found = ', '.join(missing[:3]) or 'none'
        raise UserError(f'{files[name]}: expected names of files that the archives have, found {found}',
                        code=3)
    return [(files[image], files[trimap]) for image, trimap in pairs]


def read_split(pairs):
    """Return the fields of a split. Raises UserError for a mask that is not a trimap."""
    image_files, trimap_files = zip(*pairs)
    image, mask, decoded = images.read(image_files, size, trimap_files)
    for file, values in zip(np.array(trimap_files)[decoded], mask):
        if not np.isin(values, MASK_VALUES).all():
            raise UserError(f'{file}: expected a trimap, of the values {MASK_VALUES}, found '
                            f'{np.unique(values)}', code=3)
    return {'image': image, 'mask': mask}


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)     # the options above, as given
    if size < 1 or not 0 <= val < 1:
        raise UserError(f'--size={size} --val={val}: expected pixels and a fraction below 1')
    archives = {}
    for name, md5 in MD5.items():
        archives[name] = fetch('pets', name, [host + name for host in HOSTS], md5=md5)
    files = unpack_beside(archives['annotations.tar.gz'], [*LISTS, 'annotations/trimaps/[!.]*.png'], 5e8)
    files |= unpack_beside(archives['images.tar.gz'], ['images/[!.]*.jpg'], 2e9)
    trainval, test = [read_list(files, name) for name in LISTS]
    published = tuple(LISTS.values())
    if (len(trainval), len(test)) != published:
        print(f'trainval and test: {len(trainval):,} and {len(test):,} images; published are '
              f'{published[0]:,} and {published[1]:,}: no result compares with published ones')

    rows = images.split_rows(len(trainval), round(val * len(trainval)))
    splits = {}
    for split, indices in rows.items():
        splits[split] = read_split([trainval[i] for i in indices])
    splits['test'] = read_split(test)
    source = [{'url': HOSTS[0] + name, 'sha256': data.file_hash(file)} for name, file in archives.items()]
    images.save(out, splits, {'n_class': 4, 'codes': MASK_VALUES}, {'size': size, 'val': val}, source)
