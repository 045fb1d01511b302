"""Pictures: how files become arrays of one size, how val and test are drawn, how an image data set is saved.

    image, mask, whole = read(files, 128, masks)        # uint8 (N, 3, 128, 128) and (N, 1, 128, 128)
    save('pets', {'train': {'image': image, 'mask': mask}}, {'n_class': 4})
"""
import concurrent.futures, hashlib, os

import numpy as np
from PIL import Image, ImageOps

import data
from configurator import Refused


# --- files

def rgb(file):
    """A picture as it is meant to be seen, as PIL's 8-bit RGB: turned as the camera says, white where it is
    transparent, 16 bits rounded to 8. Raises whatever PIL raises for what it cannot decode."""
    with Image.open(file) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode[0] == 'I':        # 16 bits of grey, which convert() would clip
            image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
        if 'A' in image.getbands() or 'transparency' in image.info:
            image = image.convert('RGBA')
            image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
        return image.convert('RGB')


def codes(file):
    """A mask as it is stored, as PIL's 8-bit L: values of grey or, with a palette, numbers of its colours.
    Raises Refused if it has other channels or values than that, else what PIL raises."""
    with Image.open(file) as image:
        if image.mode[0] not in '1LPI' or len(image.getbands()) > 1 or image.format == 'JPEG':
            raise Refused(f'{file}: expected a mask of one channel, stored without loss, found '
                          f'{image.format} {image.mode}', code=3)
        array = np.asarray(ImageOps.exif_transpose(image))
        if array.min() < 0 or array.max() > 255:
            raise Refused(f'{file}: expected values from 0 to 255, found {array.min()} to {array.max()}',
                          code=3)
        return Image.fromarray(array.astype(np.uint8))


def fitted(image, size, method=Image.Resampling.BILINEAR):
    """The middle of PIL's `image`, resized to fill `size`, (height, width): (C, height, width) uint8, and
    antialiased unless the method is NEAREST."""
    array = np.array(ImageOps.fit(image, size[::-1], method))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def read(files, size, masks=None):
    """Pictures (N, 3, size, size), antialiased; masks (N, 1, size, size), the nearest value, or None; and
    which of `files` these are, (len(files),) bool: what does not decode is listed and left out. Raises
    Refused if none is left, and for a mask that is none or not of its picture's size."""
    image = np.empty((len(files), 3, size, size), np.uint8)
    mask = np.empty((len(files), 1, size, size), np.uint8) if masks else None

    def one(i):
        """Row i: what is wrong with it, or None. Only that row outlives the call, not the decoded files."""
        file = files[i]
        try:
            picture = rgb(file)
            image[i] = fitted(picture, (size, size))
            if masks:
                file = masks[i]
                other = codes(file)
                if other.size != picture.size:
                    raise Refused(f'{file}: expected (width, height) {picture.size} as of {files[i]}, '
                                  f'found {other.size}', code=3)
                mask[i] = fitted(other, (size, size), Image.Resampling.NEAREST)
        except (Refused, MemoryError):
            raise
        except Exception as error:      # PIL raises nearly everything, from SyntaxError to struct.error
            return f'  {file}: {type(error).__name__}: {error}'

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:     # PIL works without the GIL
        flaws = list(pool.map(one, range(len(files))))
    whole = np.array([flaw is None for flaw in flaws])
    lines = [f'{len(files) - whole.sum()} of {len(files)} files do not decode:', *filter(None, flaws)]
    if not whole.any():
        raise Refused(*lines, code=3)
    if whole.all():
        return image, mask, whole
    print(*lines, sep='\n')
    return image[whole], mask[whole] if masks else None, whole


# --- data sets

def draw(n, val, test=0):
    """The rows of each split, {'train': rows, 'val': rows, 'test': rows}, ascending: `val` and `test` of `n`
    rows, always the same ones. A split of none is left out. Raises Refused unless train keeps a row."""
    if min(val, test) < 0 or val + test >= n:
        raise Refused(f'val={val} and test={test}: expected numbers that leave train some of {n:,} pictures')
    order = np.random.default_rng(0).permutation(n)
    rows = {'train': order[val + test:], 'val': order[:val], 'test': order[val:val + test]}
    return {split: np.sort(of) for split, of in rows.items() if len(of)}


def statistics(images):
    """Mean and standard deviation of each channel of (N, C, H, W) uint8 images, in units of [0, 1]."""
    counts, value = np.zeros((images.shape[1], 256)), np.arange(256) / 255
    for i in range(0, len(images), 1000):       # counts are exact, and need no large array of floats
        channels = images[i:i + 1000].swapaxes(0, 1)
        counts += [np.bincount(channel.ravel(), minlength=256) for channel in channels]
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ value
    return mean, np.sqrt((share * (value - mean[:, None])**2).sum(1))


def published(file, images, mean, std):
    """Raises Refused if the statistics of `images` do not round to those published, '0.4914 0.4822 ...'."""
    for name, expected, found in zip(('mean', 'std'), (mean, std), statistics(images)):
        found = ' '.join(f'{x:.4f}' for x in found)
        if found != expected:
            raise Refused(f'{file}: expected pictures of {name} {expected}, found {found}', code=3)


def save(out, splits, info={}, options={}, source=[]):
    """Save {split: {'image': (N, C, H, W) uint8, ...}}, with the shape and the statistics of train in `info`.
    Say how many pictures there are, and how many of val and test are in train as well, byte by byte."""
    train = splits['train']['image']
    mean, std = statistics(train)
    info = {**info, 'channels': train.shape[1], 'size': train.shape[2:], 'mean': mean.tolist(),
            'std': std.clip(1 / 255).tolist()}      # a channel without contrast is divided by it, too
    data.save(out, splits, info=info, options=options, source=source)
    hashes = {split: [hashlib.sha256(x).digest() for x in of['image']] for split, of in splits.items()}
    known, number = set(hashes['train']), ' + '.join(f'{len(of):,}' for of in hashes.values())
    again = [f'{sum(x in known for x in hashes[split])} of {split}' for split in splits if split != 'train']
    print(f'{data.folder(out)}: {number} pictures of {" x ".join(map(str, train.shape[1:]))}'
          + f'; {" and ".join(again)} are in train as well' * bool(again))
