"""samples/images.py: what each grid shows, with a stand-in for a VAE; and sample.py with a real one."""
import importlib
import json
import types

import numpy as np
import pytest
import torch
from torch import nn

import data
from core.checkpoint import load_checkpoint
from core.errors import UserError
from samples import images
from sampling import save_run

CLASSES = ['plane', 'boat', 'frog', 'cat']


def save_images(path):
    """Write a data set of noise, in which the label of row i is i % 4. Return {split: {field: rows}}."""
    rng = np.random.default_rng(0)
    splits = {}
    for split, n in (('train', 40), ('val', 10), ('test', 30)):
        splits[split] = {'image': rng.integers(0, 256, (n, 1, 12, 12), np.uint8),
                         'label': (np.arange(n) % 4).astype(np.uint8)}
    info = {'n_class': 4, 'classes': CLASSES, 'channels': 1, 'size': [12, 12], 'mean': [0.5], 'std': [0.25]}
    data.save(str(path), splits, info=info)
    return splits


class StandIn(nn.Module):
    """What a VAE offers. An image shows what it was made from: its first pixel the label, the others eps."""

    def __init__(self):
        super().__init__()
        self.config = types.SimpleNamespace(n_class=4, latent=143)
        self.parameter = nn.Parameter(torch.zeros(1))

    def generate(self, eps, label):
        pixels = torch.cat([label[:, None], (eps * 32 + 128).clamp(0, 255)], 1)
        return pixels.byte().view(-1, 1, 12, 12)

    def sample(self, label, generator):
        eps = torch.randn(len(label), 143, generator=generator)
        return self.generate(eps, label)

    def encode(self, image, label):
        return (image.flatten(1)[:, 1:].float() - 128) / 32

    def reconstruct(self, image, label, new_label=None):
        eps = self.encode(image, label)
        return self.generate(eps, label if new_label is None else new_label)


def random_net(name):
    """Return a small model of models/<name>.py with random parameters."""
    module = importlib.import_module(f'models.{name}')
    torch.manual_seed(0)
    net = module.Model(module.Config(n_class=4, size=(12, 12), width=4, latent=3))
    for p in net.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return net.eval()


@pytest.fixture
def splits(tmp_path):
    """The splits of the data set that is in images/; the checkpoint in run/ is of a model trained on it."""
    splits = save_images(tmp_path / 'images')
    save_run(tmp_path / 'run', 'cvae', random_net('cvae'), tmp_path / 'images')
    return splits


@pytest.fixture
def drawn(splits, tmp_path, monkeypatch):
    """drawn(grid='prior', ...): the images, captions and columns of the grid that these options ask for."""
    def drawn(seed=1337, **options):
        grids = []

        def save_grid(images, captions, title, file, columns):
            grids.append((images, captions, columns))

        monkeypatch.setattr(images, 'save_grid', save_grid)
        for name, value in (dict(num_samples=0, split='', out=f'{tmp_path}/x.png') | options).items():
            monkeypatch.setattr(images, name, value)
        images.show(StandIn(), load_checkpoint(tmp_path / 'run/best.pt'), tmp_path, seed)
        return grids[0]
    return drawn


def row_number(splits, image):
    """Return the row of the test split that an image (1, 12, 12) is. Its first pixel may be another."""
    pixels = splits['test']['image'].reshape(-1, 144)
    row, = np.flatnonzero((pixels[:, 1:] == image.ravel()[1:]).all(1))
    return row


def test_a_wrong_label_is_each_of_the_others_with_the_same_probability():
    label = torch.arange(4).repeat(3000)
    other = images.random_other_label(label, 4, torch.Generator().manual_seed(0))
    count = torch.bincount(label * 4 + other, minlength=16).view(4, 4)
    assert not count.diagonal().any()
    expected = 1000 * (1 - torch.eye(4))
    assert ((count - expected).abs() < 120).all()                           # a standard deviation is 26


@pytest.mark.parametrize('grid, shape, columns', [
    ('prior', (32, 1, 12, 12), 8), ('style', (32, 1, 12, 12), 4), ('reconstruct', (25, 1, 12, 24), 0),
    ('wrong_label', (25, 1, 12, 24), 0), ('interpolate', (45, 1, 12, 12), 9)])
def test_every_grid_has_its_size_and_is_decided_by_the_seed(drawn, grid, shape, columns):
    found, captions, found_columns = drawn(grid=grid)
    assert found.shape == shape
    assert len(captions) == len(found)
    assert found_columns == columns
    assert np.array_equal(found, drawn(grid=grid)[0])
    assert not np.array_equal(found, drawn(grid=grid, seed=7)[0])


def test_a_row_of_prior_has_one_class_and_different_eps(drawn):
    found, captions, _ = drawn(grid='prior')
    pixels = found.reshape(4, 8, 144)
    for label in range(4):
        assert (pixels[label, :, 0] == label).all()
        assert len({eps.tobytes() for eps in pixels[label, :, 1:]}) == 8
        assert captions[8 * label:8 * label + 8] == [[CLASSES[label]]] * 8


def test_a_row_of_style_has_every_class_and_one_eps(drawn):
    found, captions, _ = drawn(grid='style', num_samples=5)
    pixels = found.reshape(5, 4, 144)
    assert (pixels[:, :, 0] == np.arange(4)).all()
    assert (pixels[:, :, 1:] == pixels[:, :1, 1:]).all()
    assert len({eps.tobytes() for eps in pixels[:, 0, 1:]}) == 5
    assert captions == [[name] for name in CLASSES] * 5


def test_a_reconstruction_is_beside_its_image(drawn, splits):
    found, captions, _ = drawn(grid='reconstruct')
    for image, [caption] in zip(found, captions):
        row = row_number(splits, image[:, :, :12])
        label = splits['test']['label'][row]
        assert caption == f'{CLASSES[label]}, row {row}'
        assert np.array_equal(image[:, :, :12], splits['test']['image'][row])
        assert image[0, 0, 12] == label
        assert row_number(splits, image[:, :, 12:]) == row


def test_wrong_labels_are_in_captions_and_in_a_file(drawn, splits, tmp_path):
    found, captions, _ = drawn(grid='wrong_label')
    pairs = json.loads((tmp_path / 'x.json').read_text(encoding='utf-8'))
    assert len(pairs) == 25
    for image, pair, caption in zip(found, pairs, captions):
        row = row_number(splits, image[:, :, :12])
        assert splits['test']['label'][row] == pair['true']
        assert pair['true'] != pair['given']
        assert image[0, 0, 12] == pair['given']
        assert caption == [f'true {CLASSES[pair["true"]]}', f'given {CLASSES[pair["given"]]}']


def test_an_interpolation_goes_from_one_image_to_another_of_its_class(drawn, splits):
    found, captions, _ = drawn(grid='interpolate', num_samples=3)
    assert len(found) == 27
    for i in range(3):
        first = row_number(splits, found[9 * i])
        last = row_number(splits, found[9 * i + 8])
        assert first != last
        assert first % 4 == last % 4                                        # their labels
        middle = found[9 * i + 4].ravel()[1:].astype(float)
        mean = (found[9 * i].astype(float) + found[9 * i + 8]).ravel()[1:] / 2
        assert np.abs(middle - mean).max() <= 1
        name = CLASSES[first % 4]
        expected = [[name, f'row {first}'], *[['']] * 7, [name, f'row {last}']]
        assert captions[9 * i:9 * i + 9] == expected


def test_the_only_image_of_its_class_is_interpolated_with_itself():
    split = types.SimpleNamespace(arrays={'label': torch.tensor([0, 1, 1, 2])})
    others = images.random_other_rows(split, np.array([0, 1, 2, 3]), seed=0)
    assert others.tolist() == [0, 2, 1, 3]


def test_more_rows_than_there_are_are_an_error_if_asked_for(drawn):
    with pytest.raises(UserError, match='num_samples=31: test has 30 rows'):
        drawn(grid='reconstruct', num_samples=31)
    found, captions, _ = drawn(grid='reconstruct', split='val')
    assert len(found) == 10
    assert len(captions) == 10


@pytest.mark.parametrize('grid, limit', [
    ('prior', 100), ('style', 100), ('interpolate', 44), ('reconstruct', 400), ('wrong_label', 400)])
def test_a_grid_has_at_most_400_images(drawn, grid, limit):
    with pytest.raises(UserError, match=f'must be from 0 to {limit} in this grid, got {limit + 1}'):
        drawn(grid=grid, num_samples=limit + 1)


def test_a_grid_of_many_classes_has_at_most_400_images(monkeypatch):
    for grid, default in ('prior', 8), ('style', 8), ('reconstruct', 25):
        monkeypatch.setattr(images, 'grid', grid)
        assert images.count(10) == default
        assert images.count(200) == min(default, 25 if grid == 'reconstruct' else 2)
    monkeypatch.setattr(images, 'grid', 'prior')
    assert images.count(500) == 1


# --- real models

@pytest.mark.parametrize('grid', ['prior', 'wrong_label', 'reconstruct', 'interpolate', 'style'])
@pytest.mark.parametrize('name', ['cvae', 'cvae_prior'])
def test_a_real_model_draws_every_grid_twice_the_same(splits, monkeypatch, tmp_path, name, grid):
    monkeypatch.setattr(images, 'grid', grid)
    net = random_net(name)
    save_run(tmp_path / name, name, net, tmp_path / 'images')
    checkpoint = load_checkpoint(tmp_path / name / 'best.pt')
    images.show(net, checkpoint, tmp_path / name, seed=1)
    files = {path: path.read_bytes() for path in (tmp_path / name).glob(f'{grid}.*')}
    assert len(files) == (2 if grid == 'wrong_label' else 1)
    assert files[tmp_path / name / f'{grid}.png'].startswith(b'\x89PNG')
    images.show(net, checkpoint, tmp_path / name, seed=1)
    assert files == {path: path.read_bytes() for path in files}


@pytest.mark.parametrize('name', ['cvae', 'cvae_prior'])
def test_an_interpolation_ends_at_the_reconstructions(splits, name):
    net = random_net(name)
    image = torch.from_numpy(splits['test']['image'][:8])
    label = torch.from_numpy(splits['test']['label'][:4]).long()
    found = images.interpolate(net, image[:4], image[4:], label).view(4, 9, 1, 12, 12)
    assert torch.equal(found[:, 0], net.reconstruct(image[:4], label))
    assert torch.equal(found[:, 8], net.reconstruct(image[4:], label))


def test_sample_writes_the_grid_beside_the_checkpoint(splits, launch, tmp_path):
    argv = '--out_dir=run', '--grid=wrong_label', '--num_samples=4', '--device=cpu'
    code, text = launch('sample.py', *argv, cwd=tmp_path)
    assert (code, text) == (0, 'wrote run/wrong_label.png\nwrote run/wrong_label.json\n')
    code, text = launch('sample.py', *argv, '--grid=wrong', cwd=tmp_path)
    assert code == 2
    assert "expected one of 'prior', 'wrong_label'" in text
