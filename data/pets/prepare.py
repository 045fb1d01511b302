"""Oxford-IIIT Pets (Parkhi et al. 2012): cats and dogs of 37 breeds, each picture with its mask, a trimap.

    python data/pets/prepare.py

A mask keeps the codes of its trimap: 1 is pet, 2 background, 3 the border between them. Of the 3,680 pictures
of the list trainval a tenth, always the same, is val; the 3,669 of the list test are test. The shorter side
of a picture becomes `size`; the square in its middle is kept. The files themselves stay in raw/, to be seen.
"""
import sys; sys.path.insert(0, __file__.rsplit('/', 3)[0])

import numpy as np

import configurator, data
from configurator import Refused
from data import picture
from data.download import fetch, unpack

# --- options
size = 128      # height and width, pixels
val = 0.1       # share of trainval that is val; 0: no such split
out = 'pets'    # name of the data set

HOSTS = 'https://thor.robots.ox.ac.uk/datasets/pets/', 'https://www.robots.ox.ac.uk/~vgg/data/pets/data/'
IMAGES, ANNOTATIONS = 'images.tar.gz', 'annotations.tar.gz'
MD5 = {IMAGES: '5c4f3ee8e5d25df40f4fd59a7f44e54c', ANNOTATIONS: '95a8c909bbe2e81eed6a22bccdf3f68f'}
LISTS = [f'annotations/{name}.txt' for name in ('trainval', 'test')]
PUBLISHED = 3680, 3669     # pictures of trainval and test
CODES = 1, 2, 3


def unpacked(archive, names, max_bytes):
    """What `names` allows of an archive as files beside it: {its name in the archive: file}."""
    files = {}
    for name, blob in unpack(archive, names, max_bytes):
        files[name] = archive.parent / name
        files[name].parent.mkdir(parents=True, exist_ok=True)
        files[name].write_bytes(blob)
    return files


def pairs(files, name):
    """[(picture, its trimap), ...] of the list `name`, whose lines are 'Abyssinian_100 1 1 1'. Raises Refused
    for an empty list, and if the archives lack one of these files."""
    lines = files[name].read_text(encoding='utf-8', errors='replace').splitlines()
    stems = [line.split()[0] for line in lines if line.strip()]
    named = [(f'images/{stem}.jpg', f'annotations/trimaps/{stem}.png') for stem in stems]
    missing = [file for pair in named for file in pair if file not in files]
    if missing or not named:
        raise Refused(f'{files[name]}: expected names of files that the archives have, found '
                      + (', '.join(missing[:3]) or 'none'), code=3)
    return [(files[image], files[trimap]) for image, trimap in named]


def arrays(pairs):
    """The fields of a split. Raises Refused for a mask that is no trimap."""
    images, trimaps = zip(*pairs)
    image, mask, whole = picture.read(images, size, trimaps)
    for file, one in zip(np.array(trimaps)[whole], mask):
        if not np.isin(one, CODES).all():
            raise Refused(f'{file}: expected a trimap, of the codes {CODES}, found {np.unique(one)}', code=3)
    return {'image': image, 'mask': mask}


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).knobs)
    if size < 1 or not 0 <= val < 1:
        raise Refused(f'--size={size} --val={val}: expected pixels and a share below 1')
    archives = {name: fetch('pets', name, [host + name for host in HOSTS], md5=MD5[name]) for name in MD5}
    files = unpacked(archives[ANNOTATIONS], [*LISTS, 'annotations/trimaps/[!.]*.png'], max_bytes=5e8)
    files |= unpacked(archives[IMAGES], ['images/[!.]*.jpg'], max_bytes=2e9)
    trainval, test = (pairs(files, name) for name in LISTS)
    if (len(trainval), len(test)) != PUBLISHED:
        print(f'trainval and test: {len(trainval):,} and {len(test):,} pictures; published are '
              f'{" and ".join(map("{:,}".format, PUBLISHED))}: no figure compares with published ones')
    rows = picture.draw(len(trainval), round(val * len(trainval)))
    splits = {split: arrays([trainval[i] for i in of]) for split, of in rows.items()}
    splits['test'] = arrays(test)
    picture.save(out, splits, {'n_class': 4, 'codes': CODES}, {'size': size, 'val': val},
                 [{'url': HOSTS[0] + name, 'sha256': data.digest(file)} for name, file in archives.items()])
