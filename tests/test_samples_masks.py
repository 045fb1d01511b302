"""samples/masks.py: sample.py with a U-Net of random parameters."""
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import data
from core.checkpoint import load_checkpoint
from core.grid import MISTAKE
from models import unet
from samples import masks
from sampling import save_run


def random_net(**fields):
    """Return a small U-Net whose predictions vary from pixel to pixel."""
    torch.manual_seed(0)
    net = unet.Model(unet.Config(width=4, depth=2, size=(12, 16), **fields))
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


@pytest.fixture
def trained(tmp_path):
    """(model, splits) of a data set `pets` of 12 x 16 pixels and a checkpoint in `run`."""
    rng = np.random.default_rng(0)
    splits = {}
    for split, n in (('train', 4), ('val', 5), ('test', 7)):
        splits[split] = {'image': rng.integers(0, 256, (n, 3, 12, 16), np.uint8),
                         'mask': rng.integers(1, 4, (n, 1, 12, 16), np.uint8)}
    info = {'mask_values': [1, 2, 3], 'size': [12, 16], 'mean': [0.5] * 3, 'std': [0.25] * 3, 'channels': 3}
    data.save(str(tmp_path / 'pets'), splits, info=info)
    net = random_net()
    save_run(tmp_path / 'run', 'unet', net, tmp_path / 'pets')
    return net, splits


@torch.no_grad()
def predict(net, image):
    """Return which pixels of images (n, 3, H, W) are foreground, as an array (n, H, W) of bool."""
    return net.predict(torch.from_numpy(image)).numpy()[:, 0] > 0.5


def read_panels(file, n, H, W):
    """Return the images of a grid of n rows and 4 columns, as large as they are: (n, 4, H, W, 3)."""
    canvas = np.asarray(Image.open(file).convert('RGB'))
    scale = math.ceil(160 / min(H, W))
    panels = np.empty((n, 4, H, W, 3), np.uint8)
    for i, j in itertools.product(range(n), range(4)):
        top = 44 + i * (H * scale + 60)
        left = 20 + j * (W * scale + 20)
        panels[i, j] = canvas[top:top + H * scale:scale, left:left + W * scale:scale]
    return panels


@pytest.mark.parametrize('split, n', [('val', 5), ('test', 7)])
def test_a_grid_shows_image_true_mask_predicted_mask_and_mistakes(trained, launch, tmp_path, split, n):
    net, splits = trained
    code, text = launch('sample.py', '--out_dir=run', '--out=x.png', f'--split={split}', f'--num_samples={n}',
                        cwd=tmp_path)
    assert (code, text) == (0, 'wrote x.png\n')
    image = splits[split]['image']
    true = splits[split]['mask'][:, 0] == 1
    predicted = predict(net, image)
    assert 0.1 < predicted.mean() < 0.9
    plain = image.transpose(0, 2, 3, 1)                                     # (n, H, W, 3)
    panels = read_panels(tmp_path / 'x.png', n, 12, 16)
    assert np.array_equal(panels[:, 0], plain)
    for column, where, color in ((1, true, masks.FOREGROUND), (2, predicted, masks.FOREGROUND),
                                 (3, predicted != true, MISTAKE)):
        shaded = ((plain.astype(float) + color) / 2).astype(np.uint8)
        assert np.array_equal(panels[:, column], np.where(where[..., None], shaded, plain)), column


def test_captions_have_the_dice_of_each_row_and_the_fraction_of_wrong_pixels(trained, tmp_path):
    net, splits = trained
    reader = data.load_split(str(tmp_path / 'pets'), 'test', ['image', 'mask'])
    images, captions, mean = masks.segment_rows(net, reader, np.array([1, 4]))
    assert images.shape == (8, 3, 12, 16)
    predicted = predict(net, splits['test']['image'][[1, 4]])
    true = splits['test']['mask'][[1, 4], 0] == 1
    dice = 2 * (predicted & true).sum((1, 2)) / (predicted.sum((1, 2)) + true.sum((1, 2)))
    wrong = (predicted != true).mean((1, 2))
    expected = []
    for i, row in enumerate([1, 4]):
        expected += [[f'row {row}'], ['true'], [f'predicted, Dice {dice[i]:.3f}'],
                     [f'wrong, {wrong[i]:.1%} of pixels']]
    assert captions == expected
    assert mean == pytest.approx(dice.mean())


@pytest.mark.parametrize('foreground', ['pet', 'pet+border'])
def test_the_title_of_a_grid_names_model_data_set_and_foreground(trained, monkeypatch, tmp_path, foreground):
    titles = []

    def save_grid(images, captions, title, file, columns):
        titles.append(title)

    monkeypatch.setattr(masks, 'save_grid', save_grid)
    net = random_net(foreground=foreground)
    masks.show(net, load_checkpoint(tmp_path / 'run/best.pt'), tmp_path, seed=1)
    assert titles[0].startswith(f'unet, pets: foreground {foreground}, mean Dice ')
    assert titles[0].endswith(' of 6 of test')


def test_an_image_of_your_own_is_drawn_with_its_foreground_and_its_background(trained, launch, tmp_path):
    net, splits = trained
    image = splits['test']['image'][:1]
    plain = image[0].transpose(1, 2, 0)                                     # (H, W, 3)
    Image.fromarray(plain).save(tmp_path / 'own.png')
    code, text = launch('sample.py', '--out_dir=run', '--start=own.png', '--out=x.png', cwd=tmp_path)
    predicted = predict(net, image)[0]
    assert 0 < predicted.mean() < 1
    assert code == 0
    assert f'{predicted.mean():.1%} of it is foreground' in text
    shaded = (plain.astype(float) + masks.FOREGROUND) / 2
    left = np.where(predicted[..., None], shaded, plain)
    right = np.where(predicted[..., None], plain, plain / 2)
    with Image.open(tmp_path / 'x.png') as drawn:
        assert np.array_equal(np.asarray(drawn), np.concatenate([left, right], 1).astype(np.uint8))


def test_an_image_of_your_own_keeps_its_size(trained, launch, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (60, 41, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'own.png')
    code, text = launch('sample.py', '--out_dir=run', '--start=own.png', cwd=tmp_path)
    assert code == 0, text
    assert 'own.png: 41 x 60, scaled to 12 x 18 for the model; ' in text
    assert text.endswith('wrote run/samples.png\n')
    with Image.open(tmp_path / 'run/samples.png') as image:
        assert image.size == (82, 60)


@pytest.mark.parametrize('out', ['', 'x.png'])
def test_the_mask_of_an_image_is_a_file_of_its_own(trained, launch, tmp_path, out):
    net, splits = trained
    image = splits['test']['image'][:1]
    Image.fromarray(image[0].transpose(1, 2, 0)).save(tmp_path / 'own.png')
    code, text = launch('sample.py', '--out_dir=run', '--start=own.png', f'--out={out}', cwd=tmp_path)
    assert code == 0, text
    file = 'x_predicted_mask.png' if out else 'run/samples_predicted_mask.png'
    assert f'wrote {file}\n' in text
    with Image.open(tmp_path / file) as mask:
        assert mask.mode == 'L'
        assert np.array_equal(np.asarray(mask), 255 * predict(net, image)[0])


@pytest.mark.parametrize('given', ['photos', 'photos/*'])
@pytest.mark.parametrize('out', ['', 'new/pets'])
def test_all_images_of_a_folder_or_pattern_are_segmented(trained, launch, tmp_path, given, out):
    net, splits = trained
    (tmp_path / 'photos').mkdir()
    for i, name in enumerate(['a.png', 'b.bmp', 'b.png']):
        image = splits['test']['image'][i]
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / 'photos' / name)
    (tmp_path / 'photos/c.txt').write_text('no image', encoding='utf-8')
    code, text = launch('sample.py', '--out_dir=run', f'--start={given}', f'--out={out}', cwd=tmp_path)
    assert code == 0, text
    assert '--start=photos/c.txt: cannot identify' in text
    folder = tmp_path / (out or 'run/samples')
    names = ['a', 'b.bmp', 'b.png']                             # the suffix tells those of b apart
    expected = []
    for i, name in enumerate(names):
        expected += [f'{name}.png', f'{name}_predicted_mask.png']
        with Image.open(folder / f'{name}_predicted_mask.png') as mask:
            assert np.array_equal(np.asarray(mask), 255 * predict(net, splits['test']['image'][i:i + 1])[0])
    assert sorted(file.name for file in folder.iterdir()) == sorted(expected)


@pytest.mark.parametrize('size', [(400, 1), (2, 33), (3000, 1)])
def test_an_image_that_is_much_longer_than_wide_is_an_error(trained, launch, tmp_path, size):
    Image.new('RGB', size, 'gray').save(tmp_path / 'line.png')
    code, text = launch('sample.py', '--out_dir=run', '--start=line.png', cwd=tmp_path)
    assert code == 3
    assert f'line.png: {size[0]} x {size[1]} pixels: expected one side to be at most 16 times' in text
    Image.new('RGB', (32, 2), 'gray').save(tmp_path / 'line.png')
    code, text = launch('sample.py', '--out_dir=run', '--start=line.png', cwd=tmp_path)
    assert code == 0, text


def test_an_image_much_brighter_than_those_of_the_training_is_told(trained, launch, tmp_path):
    Image.new('RGB', (16, 12), 'white').save(tmp_path / 'own.png')
    code, text = launch('sample.py', '--out_dir=run', '--start=own.png', cwd=tmp_path)
    assert code == 0
    assert 'own.png: much brighter than the images of the training, mean 1.00, theirs 0.50' in text


@pytest.mark.parametrize('argv, code, message', [
    (['--start=pets', '--out=x.png'], 2, 'out x.png: expected a folder'),
    (['--start=pets', '--out=pets'], 2, '--out=pets: expected another folder than that of the images'),
    (['--num_samples=101'], 2, 'from 0 to 100'),
    (['--start=none.png'], 3, 'none.png'),
    (['--start=none.png', '--split=val', '--num_samples=2'], 2, 'split, num_samples: only for rows'),
    (['--out=x.jsonl'], 2, 'must end in .png'),
    (['--beam=2'], 2, 'beam is not an option')])
def test_what_cannot_be_drawn_is_an_error(trained, launch, tmp_path, argv, code, message):
    found, text = launch('sample.py', '--out_dir=run', *argv, cwd=tmp_path)
    assert found == code, text
    assert message in text
    assert 'Traceback' not in text
