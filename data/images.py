"""Images: how files become arrays of one size, how rows are split, and how an image data set is saved.

    image, mask, decoded = read(files, 128, masks)      # uint8 (N, 3, 128, 128) and (N, 1, 128, 128)
    save('pets', {'train': {'image': image, 'mask': mask}}, {'n_class': 4})
"""
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps     # PIL comes with matplotlib

import data
from core.errors import UserError


# --- files

def load_rgb(file):
    """Return an image as it is meant to be seen, as PIL's 8-bit RGB. Raises what PIL raises for other files.

    It is turned as the camera says, white where it is transparent, and 16 bits become 8.
    """
    with Image.open(file) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith('I'):      # 16 bits of gray, which convert() would clip
            values = np.asarray(image).clip(0, 65535) / 257
            image = Image.fromarray(values.round().astype(np.uint8))
        if 'A' in image.getbands() or 'transparency' in image.info:
            image = image.convert('RGBA')
            white = Image.new('RGBA', image.size, 'white')
            image = Image.alpha_composite(white, image)
        return image.convert('RGB')


def load_mask(file):
    """Return a mask as it is stored, as PIL's 8-bit L: gray values or, with a palette, the colors' numbers.

    Raises UserError if it has several channels or other values, and what PIL raises for other files.
    """
    with Image.open(file) as image:
        one_channel = image.mode[0] in '1LPI' and len(image.getbands()) == 1
        if not one_channel or image.format == 'JPEG':
            raise UserError(f'{file}: expected a mask of one channel, stored without loss, found '
                            f'{image.format} {image.mode}', code=3)
        array = np.asarray(ImageOps.exif_transpose(image))
    low = array.min()
    high = array.max()
    if low < 0 or high > 255:
        raise UserError(f'{file}: expected values from 0 to 255, found {low} to {high}', code=3)
    return Image.fromarray(array.astype(np.uint8))


def resize_and_center_crop(image, size, method=Image.Resampling.BILINEAR):
    """Return PIL's `image` resized to fill `size`, (height, width), and cropped: (C, height, width) uint8.

    It is antialiased unless the method is NEAREST.
    """
    height, width = size
    array = np.array(ImageOps.fit(image, (width, height), method))
    if array.ndim == 2:
        return array[None]
    return array.transpose(2, 0, 1)


def read(files, size, masks=None):
    """Return images (N, 3, size, size), masks (N, 1, size, size) or None, and which files were decoded.

    Images are antialiased; a mask takes the nearest value. Which: (len(files),) bool; those that are not
    decoded are printed and left out. Raises UserError if none is left, and for a mask of another size than
    its image or that is no mask.
    """
    images = np.empty((len(files), 3, size, size), np.uint8)
    mask_values = np.empty((len(files), 1, size, size), np.uint8) if masks else None

    def read_row(i):
        """Fill row i; return what is wrong with its files, or None. The decoded files are not kept."""
        file = files[i]
        try:
            image = load_rgb(file)
            images[i] = resize_and_center_crop(image, (size, size))
            if masks:
                file = masks[i]
                mask = load_mask(file)
                if mask.size != image.size:
                    raise UserError(f'{file}: expected (width, height) {image.size} as of {files[i]}, '
                                    f'found {mask.size}', code=3)
                mask_values[i] = resize_and_center_crop(mask, (size, size), Image.Resampling.NEAREST)
        except (UserError, MemoryError):
            raise
        except Exception as error:      # PIL raises nearly everything, from SyntaxError to struct.error
            return f'  {file}: {type(error).__name__}: {error}'

    with ThreadPoolExecutor(os.cpu_count()) as pool:        # PIL releases the GIL while it decodes
        problems = list(pool.map(read_row, range(len(files))))
    decoded = np.array([problem is None for problem in problems])
    if decoded.all() and len(files):
        return images, mask_values, decoded
    lines = [f'{len(files) - decoded.sum()} of {len(files)} files do not decode:']
    lines += [problem for problem in problems if problem]
    if not decoded.any():
        raise UserError(*lines, code=3)
    print(*lines, sep='\n')
    return images[decoded], mask_values[decoded] if masks else None, decoded


# --- data sets

def split_rows(n, val, test=0):
    """Return {'train': rows, 'val': rows, 'test': rows} of `n` rows, ascending and always the same.

    `val` and `test` are numbers of rows; 0 is no such split. Raises UserError unless train keeps a row.
    """
    if min(val, test) < 0 or val + test >= n:
        raise UserError(f'val={val} and test={test}: expected numbers that leave train some of {n:,} images')
    order = np.random.default_rng(0).permutation(n)
    splits = {'train': order[val + test:], 'val': order[:val], 'test': order[val:val + test]}
    return {split: np.sort(rows) for split, rows in splits.items() if len(rows)}


def statistics(images):
    """Return mean and standard deviation of each channel of (N, C, H, W) uint8 images, in units of [0, 1]."""
    channels = images.shape[1]
    counts = np.zeros((channels, 256))          # of each value: exact, and without a large array of floats
    for i in range(0, len(images), 1000):
        for channel in range(channels):
            counts[channel] += np.bincount(images[i:i + 1000, channel].ravel(), minlength=256)
    value = np.arange(256) / 255
    frequency = counts / counts.sum(1, keepdims=True)                           # (C, 256)
    mean = frequency @ value                                                    # (C,)
    variance = (frequency * (value - mean[:, None])**2).sum(1)
    return mean, np.sqrt(variance)


def check_statistics(file, images, mean, std):
    """Raise UserError unless the statistics of `images` round to `mean` and `std`, '0.4914 0.4822 0.4465'."""
    for name, expected, found in zip(('mean', 'std'), (mean, std), statistics(images)):
        found = ' '.join(f'{x:.4f}' for x in found)
        if found != expected:
            raise UserError(f'{file}: expected images of {name} {expected}, found {found}', code=3)


def save(out, splits, info={}, options={}, source=[]):
    """Save {split: {'image': (N, C, H, W) uint8, ...}}, with the shape and the statistics of train in `info`.

    Prints the number of images, and how many of the other splits are also in train, byte by byte.
    """
    train = splits['train']['image']
    mean, std = statistics(train)
    std = std.clip(1 / 255)         # a model divides by it, and a channel may be constant
    info = {**info, 'channels': train.shape[1], 'size': train.shape[2:], 'mean': mean.tolist(),
            'std': std.tolist()}
    data.save(out, splits, info=info, options=options, source=source)

    hashes = {}
    for split, fields in splits.items():
        hashes[split] = [hashlib.sha256(image).digest() for image in fields['image']]
    in_train = set(hashes['train'])
    counts = ' + '.join(f'{len(images):,}' for images in hashes.values())
    line = f'{data.folder(out)}: {counts} images of {" x ".join(str(n) for n in train.shape[1:])}'
    repeated = []
    for split in splits:
        if split != 'train':
            repeated.append(f'{sum(image in in_train for image in hashes[split])} of {split}')
    if repeated:
        line += f'; {" and ".join(repeated)} are in train as well'
    print(line)
