"""Images: how files become arrays of one size, how rows are split, and how an image data set is saved.

    image, mask, decoded = read(files, 128, masks)      # uint8 (N, 3, 128, 128) and (N, 1, 128, 128)
    save('pets', {'train': {'image': image, 'mask': mask}}, {'n_class': 4})
"""
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin       # PIL comes with matplotlib

import data
from core.errors import UserError

PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY      # PIL refuses images with a long text
Transpose = Image.Transpose
TURNS = {       # EXIF's orientation: how to turn an image with it
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90}


# --- files

def open_turned(file):
    """Return the image in a file, turned as the camera says, and this turn or None.

    EXIF that cannot be read says nothing: the pixels are taken as they are stored.
    """
    with Image.open(file) as image:
        turn_of_tiff = TURNS.get(getattr(image, 'tag_v2', {}).get(ExifTags.Base.Orientation))
        image.load()            # PIL turns a TIFF here
        try:
            turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
        except Exception:       # PIL raises nearly everything, from SyntaxError to struct.error
            turn = None
        turned = image.copy() if turn is None else image.transpose(turn)
        turned.format = image.format
    return turned, turn_of_tiff if turn is None else turn


def load_rgb(file):
    """Return an image as it is meant to be seen, as PIL's 8-bit RGB. Raises what PIL raises for other files.

    It is turned as the camera says, and white where it is transparent; 16 bits become 8. Of several frames
    it is the first.
    """
    image, turn = open_turned(file)
    if image.mode[0] in 'IF':       # gray of other than 8 bits, which convert() would clip
        image = to_8_bits(image)
    if 'A' in image.getbands() or 'transparency' in image.info:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(white, image)
    rgb = image.convert('RGB')
    rgb.info['turn'] = turn
    return rgb


def to_8_bits(image):
    """Return a gray image of 16 bits as one of 8.

    Raises ValueError for floats and for values beyond 16 bits, whose white is unknown, and for values below
    4096, such as those of 12 bits, which would become nearly black.
    """
    values = np.asarray(image)
    low = values.min()
    high = values.max()
    if image.mode == 'F' or low < 0 or high > 65535 or 0 < high < 4096:
        raise ValueError(f'mode {image.mode}, values from {low:g} to {high:g}: expected 8 bits, or 16 bits '
                         'with white at 65535')
    return Image.fromarray((values / 257).round().astype(np.uint8))


def load_mask(file):
    """Return a mask as it is stored, as PIL's 8-bit L: gray values or, with a palette, the colors' numbers.

    Equal channels count as one. Raises UserError if channels differ, if the file's format is lossy or holds
    values other than 0 to 255, and what PIL raises for other files.
    """
    mask, turn = open_turned(file)
    array = np.asarray(mask)
    if mask.mode in ('RGB', 'RGBA', 'LA') or mask.format == 'GIF':     # whose colors have arbitrary numbers
        rgba = np.asarray(mask.convert('RGBA'))                 # (H, W, 4)
        equal = rgba[:, :, :3] == rgba[:, :, :1]
        if equal.all() and rgba[:, :, 3].min() == 255:          # opaque
            array = rgba[:, :, 0]
    if array.ndim > 2 or mask.mode == 'F' or mask.format == 'JPEG':
        raise UserError(f'{file}: expected a mask of one channel, or of equal ones, stored without loss, '
                        f'found {mask.format} {mask.mode}', code=3)
    low = array.min()
    high = array.max()
    if low < 0 or high > 255:
        raise UserError(f'{file}: expected values from 0 to 255, found {low} to {high}', code=3)
    gray = Image.fromarray(array.astype(np.uint8))
    gray.info['turn'] = turn
    return gray


def fit_mask(mask, image):
    """Return a mask turned as its image if only so it has its size, and whether it fits both ways.

    EXIF turns a photo, but a mask has none. If the photo was turned by 90 degrees, the size tells whether
    the mask was drawn on the pixels as they are stored; if by 180, nothing tells.
    """
    turn = image.info['turn']
    if turn is None or mask.info['turn'] is not None:
        return mask, False
    turned = mask.transpose(turn)
    if turned.size == image.size != mask.size:
        return turned, False
    return mask, turned.size == image.size


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
    unclear = []        # images that EXIF turns, as perhaps their masks

    def read_row(i):
        """Fill row i; return what is wrong with its files, or None. The decoded files are not kept."""
        file = files[i]
        try:
            image = load_rgb(file)
            images[i] = resize_and_center_crop(image, (size, size))
            if masks:
                file = masks[i]
                mask, fits_both_ways = fit_mask(load_mask(file), image)
                if fits_both_ways:
                    unclear.append(files[i])
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
    if unclear:
        print(f'{len(unclear)} images, such as {min(unclear)}, are turned by EXIF, their masks are not; '
              'if these were drawn on the pixels as stored, store the images without EXIF')
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

def split_rows(n, val, test=0, classes=None):
    """Return {'train': rows, 'val': rows, 'test': rows} of `n` rows, ascending and always the same.

    `val` and `test` are numbers of rows; 0 is no such split. classes: of each row, to be spread evenly; each
    one keeps a row in train if train is large enough. Raises UserError unless train keeps a row.
    """
    if min(val, test) < 0 or val + test >= n:
        raise UserError(f'val={val} and test={test}: expected numbers that leave train some of {n:,} images')
    order = np.random.default_rng(0).permutation(n)
    if classes is not None:
        order = spread_classes(order, np.asarray(classes))
    splits = {'train': order[val + test:], 'val': order[:val], 'test': order[val:val + test]}
    return {split: np.sort(rows) for split, rows in splits.items() if len(rows)}


def spread_classes(order, classes):
    """Return the rows of `order` (n,), moved: each part has every class in proportion, the end a row of each.

    Of the m rows of a class, one comes after 1/m of all rows, one after 2/m and so on. classes: (n,).
    """
    place = np.empty(len(order))
    for name in np.unique(classes):
        rows = order[classes[order] == name]
        place[rows] = np.arange(1, len(rows) + 1) / len(rows)
    return order[np.argsort(place[order], kind='stable')]


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
