"""Images in a grid, with captions, as a PNG file: every pixel of an image becomes a square of pixels.

    save_grid(images, [['a cat 98%'], ['✗ a dog 51%', 'is a cat']], 'title', 'out.png')
"""
import math

import numpy as np
from matplotlib.figure import Figure

MISTAKE = 213, 94, 0    # vermilion of the colour-blind safe palette of Okabe & Ito (2008), RGB in 8 bits
DPI = 128

# Lengths in pixels.
LEFT = 20               # space to the left of the grid
TOP = 44                # space above it, for the title
BETWEEN = 20            # space between two columns
CAPTION = 60            # space below an image, for two lines of text
LINE = 21               # height of a line of text
LETTER = 9              # width of a letter, about
MIN_WIDTH = 500         # of the whole picture, so that a title fits
MAX_WIDTH = 1200        # of the whole picture: in a wider one a page would show the text too small to read
MAX_PIXELS = 2**24      # of the whole picture: matplotlib needs about 150 bytes for each
MAX_ROWS = 100          # of images: a higher grid becomes a square one


def as_many_as_rows(n):
    """Return the number of columns of a grid of n images that has about as many rows."""
    return math.ceil(math.sqrt(n))


def enlargement(images, columns):
    """Return how large to draw a pixel of images (n, C, H, W), so that each side has at least 160 pixels.

    In many columns the sides have fewer, so that the grid is at most MAX_WIDTH wide (or as wide as its images
    are), and of very many images too, so that it has at most MAX_PIXELS.
    """
    n, _, H, W = images.shape
    widest = (MAX_WIDTH - LEFT) // columns - BETWEEN        # pixels that a column may have
    scale = max(1, min(math.ceil(160 / min(H, W)), widest // W))
    while scale > 1 and n * (scale * W + BETWEEN) * (scale * H + CAPTION) > MAX_PIXELS:
        scale -= 1
    return scale


def save_grid(images, captions, title, file, columns=0):
    """Draw uint8 images (n, C, H, W) row by row, each above its caption, a list of up to two lines.

    If a caption begins with ✗ the image is a mistake: it gets a coloured frame and text. 0 columns: as many
    as rows, and so for more than MAX_ROWS rows. Of more than three channels the first three are drawn, of two
    the first. Raises OSError.
    """
    n = len(images)
    if columns == 0 or n > columns * MAX_ROWS:
        columns = as_many_as_rows(n)
    rows = math.ceil(n / columns)
    scale = enlargement(images, columns)
    channels = 3 if images.shape[1] >= 3 else 1
    images = images[:, :channels]
    images = images.repeat(scale, 2)
    images = images.repeat(scale, 3)
    _, _, H, W = images.shape
    cell_width = W + BETWEEN
    cell_height = H + CAPTION
    width = max(MIN_WIDTH, LEFT + columns * cell_width)
    height = TOP + rows * cell_height
    canvas = np.full((height, width, 3), 255, np.uint8)
    figure = Figure((width / DPI, height / DPI), dpi=DPI)

    def write(x, y, text, size=9, color='black'):
        figure.text(x / width, 1 - y / height, text, size=size, color=color, va='top', parse_math=False)

    write(LEFT, 12, title, size=10)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        x = LEFT + column * cell_width
        y = TOP + row * cell_height
        color = 'black'
        if captions[i][0].startswith('✗'):
            color = np.divide(MISTAKE, 255)
            canvas[y - 5:y + H + 5, x - 5:x + W + 5] = MISTAKE
        canvas[y:y + H, x:x + W] = image.transpose(1, 2, 0)
        y += H + 7
        for line in captions[i]:
            write(x, y, line, color=color)
            y += LINE
    figure.figimage(canvas)
    figure.savefig(file, dpi=DPI)
