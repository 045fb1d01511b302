"""core/grid.py: every pixel of every image is in the grid, and a caption below each."""
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from core import grid


def read_png(path):
    """Return the pixels of an image file: (height, width, 3)."""
    return np.asarray(Image.open(path).convert('RGB'))


def find(canvas, image):
    """Return where an image (C, H, W) is drawn in a canvas, or None: (y, x, height, width), in pixels.

    It is enlarged by the smallest whole number that gives it 160 pixels each way.
    """
    scale = -(-160 // min(image.shape[1:]))
    enlarged = np.kron(image.transpose(1, 2, 0), np.ones((scale, scale, 1), np.uint8))
    H, W = enlarged.shape[:2]
    first_pixel = (canvas[:-H, :-W] == enlarged[0, 0]).all(2)
    last_pixel = (canvas[H - 1:-1, W - 1:-1] == enlarged[-1, -1]).all(2)
    for y, x in np.argwhere(first_pixel & last_pixel):
        if (canvas[y:y + H, x:x + W] == enlarged).all():
            return y, x, H, W


@pytest.mark.parametrize('C, H, W', [(3, 8, 8), (1, 28, 28), (3, 12, 9), (4, 8, 8)])
def test_a_grid_shows_every_pixel_and_frames_the_mistakes(tmp_path, C, H, W):
    images = np.random.default_rng(0).integers(0, 256, (7, C, H, W)).astype(np.uint8)
    right = ['right']
    wrong = ['✗ wrong', 'is right']
    captions = [right, wrong, right, right, wrong, right, ['']]
    grid.save_grid(images, captions, 'title', tmp_path / 'x.png')
    canvas = read_png(tmp_path / 'x.png')
    places = []
    for image, caption in zip(images, captions):
        y, x, h, w = find(canvas, image[:3] if C > 1 else image.repeat(3, 0))
        mistake = len(caption) == 2
        frame = [canvas[y - 3, x:x + w], canvas[y + h + 2, x:x + w],
                 canvas[y:y + h, x - 3], canvas[y:y + h, x + w + 2]]
        assert (np.concatenate(frame) == (grid.MISTAKE if mistake else 255)).all()
        below = canvas[y + h + 6:y + h + 56, x:x + w]
        assert (below[:22] < 250).any() == (caption != [''])        # the first line of the caption
        assert (below[22:] < 250).any() == mistake                  # the second
        places.append((y, x))
    assert places == sorted(places)                                 # row by row
    assert len({y for y, _ in places}) == 3                         # 3 x 3


@pytest.mark.parametrize('columns, rows', [(1, 6), (2, 3), (5, 2), (6, 1), (0, 2)])
def test_a_grid_has_the_columns_asked_for_or_about_as_many_as_rows(tmp_path, columns, rows):
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8)).astype(np.uint8)
    grid.save_grid(images, [['x']] * 6, 'title', tmp_path / 'x.png', columns)
    canvas = read_png(tmp_path / 'x.png')
    assert len({find(canvas, image)[0] for image in images}) == rows


def test_title_and_captions_are_written_as_they_are(tmp_path, monkeypatch):
    written = []
    text = Figure.text

    def spy(self, x, y, s, **style):
        written.append(s)
        return text(self, x, y, s, **style)

    monkeypatch.setattr(Figure, 'text', spy)
    captions = [['an apple 99%'], ['✗ an apple 50%', r'is $\x$']]           # mathtext would fail at \x
    grid.save_grid(np.zeros((2, 3, 8, 8), np.uint8), captions, 'the title', tmp_path / 'x.png')
    assert written == ['the title', 'an apple 99%', '✗ an apple 50%', r'is $\x$']


@pytest.mark.parametrize('n, scale', [(1, 20), (25, 20), (100, 12), (400, 4), (1600, 1), (9000, 1)])
def test_of_very_many_images_each_is_drawn_smaller(n, scale):
    images = np.zeros((n, 1, 8, 8), np.uint8)
    assert grid.enlargement(images, grid.as_many_as_rows(n)) == scale
    width = grid.LEFT + grid.as_many_as_rows(n) * (8 * scale + grid.BETWEEN)
    assert width <= grid.MAX_WIDTH or scale == 1


def test_an_image_of_very_many_pixels_is_drawn_as_it_is():
    assert grid.enlargement(np.zeros((1, 3, 150, 5000), np.uint8), 1) == 1


def test_a_grid_that_is_too_high_becomes_a_square(tmp_path):
    images = np.full((150, 1, 8, 8), 7, np.uint8)
    grid.save_grid(images, [['x']] * 150, 'title', tmp_path / 'x.png', columns=1)
    height, width, _ = read_png(tmp_path / 'x.png').shape
    assert width == grid.LEFT + 13 * (64 + grid.BETWEEN)
    assert height == grid.TOP + 12 * (64 + grid.CAPTION)
