"""sample.py on a conditional VAE: grids, wrong labels, and what a judge makes of them."""
import dataclasses, json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import data, run, sample
from configurator import Refused
from models import cnn, cvae

CLASSES = ['plane', 'boat', 'frog', 'cat']


def save(folder, name, net, dataset):
    meta = data.check(dataset)
    folder.mkdir(exist_ok=True)
    run.write(folder / 'best.pt', {
        'format': run.FORMAT, 'step': 0, 'tokenizer': None, 'model': net.state_dict(), 'info': meta['info'],
        'keys': {'model': name, 'dataset': str(dataset)}, 'config': dataclasses.asdict(net.config),
        'data': data.hashes(meta)})
    return net.eval()


def paint(path, seed=0):
    rng, splits = np.random.default_rng(seed), {}
    for split, n in (('train', 40), ('val', 10), ('test', 30)):
        splits[split] = {'image': rng.integers(0, 256, (n, 1, 12, 12), np.uint8),
                         'label': (np.arange(n) % 4).astype(np.uint8)}
    data.save(str(path), splits, info={'n_class': 4, 'classes': CLASSES, 'channels': 1, 'size': [12, 12],
                                       'mean': [0.5], 'std': [0.25]})
    return splits


@pytest.fixture
def trained(tmp_path):
    """The splits of a data set; an untrained, decided VAE in vae/ and a judge in judge/ know it."""
    splits = paint(tmp_path / 'paint')
    torch.manual_seed(0)
    vae = cvae.Model(cvae.Config(n_class=4, size=(12, 12), width=4, latent=3))
    critic = cnn.Model(cnn.Config(n_class=4, channels=1, mean=(0.5,), std=(0.25,), width=4))
    for net in vae, critic:
        for p in net.parameters():
            p.data += 0.3 * torch.randn_like(p)
    return (splits, save(tmp_path / 'vae', 'cvae', vae, tmp_path / 'paint'),
            save(tmp_path / 'judge', 'cnn', critic, tmp_path / 'paint'))


@pytest.fixture
def drawn(trained, tmp_path, monkeypatch):
    """drawn(knob=value, ...): the pictures, captions and columns of the grid that those ask for."""
    def drawn(**knobs):
        seen = []
        monkeypatch.setattr(sample, 'tiles', lambda images, captions, title, file, columns: seen.append(
            (images, captions, columns)))
        knobs = dict(out_dir=str(tmp_path / 'vae'), device='cpu', out=str(tmp_path / 'x.png')) | knobs
        for name, value in knobs.items():
            monkeypatch.setattr(sample, name, value)
        sample.imagine(trained[1], run.read(tmp_path / 'vae/best.pt'))
        return seen[0]
    return drawn


def test_a_wrong_label_is_any_other_as_often(trained):
    label = torch.arange(4).repeat(3000)
    other = sample.another(label, 4, torch.Generator().manual_seed(0))
    count = torch.bincount(label * 4 + other, minlength=16).view(4, 4)
    assert not count.diagonal().any()
    assert ((count + 1000 * torch.eye(4) - 1000).abs() < 120).all()         # 26 is one standard deviation


def test_cells_of_wrong_labels_show_input_and_output_and_both_labels(drawn, trained, tmp_path):
    splits, net, _ = trained
    images, captions, _ = drawn(grid='wrong_label')
    pairs = json.loads((tmp_path / 'x.json').read_text(encoding='utf-8'))
    assert images.shape == (25, 1, 12, 24) and len(pairs) == len(captions) == 25
    for image, pair, [caption] in zip(images, pairs, captions):
        row = np.flatnonzero((splits['test']['image'] == image[:, :, :12]).all((1, 2, 3)))
        assert len(row) == 1 and splits['test']['label'][row[0]] == pair['true'] != pair['given']
        assert caption == f'true {CLASSES[pair["true"]]} -> given {CLASSES[pair["given"]]}'
    image, label, given = torch.from_numpy(images[..., :12]), *(
        torch.tensor([pair[name] for pair in pairs]) for name in ('true', 'given'))
    assert np.array_equal(images[..., 12:], net.reconstruct(image, label, given).numpy())
    assert not np.array_equal(images[..., 12:], net.reconstruct(image, label).numpy())
    again, *_ = drawn(grid='wrong_label')
    assert np.array_equal(images, again)                                    # the same seed, to the bit
    other, *_ = drawn(grid='wrong_label', seed=7)
    assert not np.array_equal(images, other)


@pytest.mark.parametrize('grid, shape, columns', [
    ('prior', (32, 1, 12, 12), 8), ('style', (32, 1, 12, 12), 4), ('reconstruct', (25, 1, 12, 24), 0),
    ('interpolate', (45, 1, 12, 12), 9)])
def test_every_grid_has_its_cells_and_its_seed(drawn, grid, shape, columns):
    images, captions, found = drawn(grid=grid)
    assert images.shape == shape and images.dtype == np.uint8 and len(captions) == len(images)
    assert found == columns
    assert np.array_equal(images, drawn(grid=grid)[0])
    if grid == 'prior':
        assert [caption for caption, in captions] == [name for name in CLASSES for _ in range(8)]
    if grid == 'style':         # one hand in a row, so a row differs by its labels alone
        assert [caption for caption, in captions] == CLASSES * 8


def test_a_row_has_one_label_in_prior_and_one_hand_in_style(drawn, trained):
    net = trained[1]
    for p in net.prior.parameters():        # for now a hand is z, whatever the label
        p.data.zero_()
    for grid, rows, differs in ('prior', 4, net.take), ('style', 8, net.label_made):
        kept = differs.weight.data.clone()
        differs.weight.data.zero_()         # what differs along a row: without it the row is one picture
        images = drawn(grid=grid)[0].reshape(rows, -1, 144)
        assert (images == images[:, :1]).all() and len({row[0].tobytes() for row in images}) > 1
        differs.weight.data.copy_(kept)


def test_reconstructions_stand_beside_their_pictures(drawn, trained):
    splits, net, _ = trained
    images, captions, _ = drawn(grid='reconstruct')
    rows = [int(caption.rsplit(' ', 1)[1]) for caption, in captions]
    image, label = (torch.from_numpy(splits['test'][name][rows]) for name in ('image', 'label'))
    assert np.array_equal(images[..., :12], image)
    assert np.array_equal(images[..., 12:], net.reconstruct(image, label.long()).numpy())


def test_interpolations_end_at_the_reconstructions(drawn, trained):
    splits, net, _ = trained
    images, captions, _ = drawn(grid='interpolate', num_samples=3)
    assert images.shape[0] == 27
    row = int(captions[0][0].rsplit(' ', 1)[1])
    rows = [int(captions[9 * i][0].rsplit(' ', 1)[1]) for i in range(3)]
    image, label = (torch.from_numpy(splits['test'][name][rows]) for name in ('image', 'label'))
    first = net.reconstruct(image, label.long())
    assert np.array_equal(images[::9], first.numpy()) and row == rows[0]


def test_more_images_than_there_are_are_refused(drawn):
    with pytest.raises(Refused, match='num_samples=31: test has 30 rows'):
        drawn(grid='reconstruct', num_samples=31)


def test_a_split_of_fewer_images_than_a_grid_has_is_drawn_whole(drawn):
    images, captions, _ = drawn(grid='reconstruct', split='val')
    assert len(images) == len(captions) == 10


def test_grids_are_written(trained, launch, tmp_path):
    for grid in 'prior', 'wrong_label':
        code, text = launch('sample.py', '--out_dir=vae', f'--grid={grid}', '--device=cpu', cwd=tmp_path)
        assert code == 0 and text.startswith(f'wrote vae/{grid}.png'), text
        assert (tmp_path / f'vae/{grid}.png').read_bytes()[:4] == b'\x89PNG'
        before = {path: path.read_bytes() for path in (tmp_path / 'vae').glob(f'{grid}.*')}
        launch('sample.py', '--out_dir=vae', f'--grid={grid}', '--device=cpu', cwd=tmp_path)
        assert before == {path: path.read_bytes() for path in before}


def test_a_judge_says_what_it_sees(trained, launch, tmp_path):
    splits, _, critic = trained
    code, text = launch('sample.py', '--out_dir=vae', '--judge=judge', '--device=cpu', cwd=tmp_path)
    assert code == 0, text
    lines = text.splitlines()
    assert len(lines) == 5 and [int(line.rsplit(' ', 1)[1].replace(',', '')) for line in lines] == [
        30, 4000, 30, 30, 30]
    with torch.no_grad():
        right = critic.logits(torch.from_numpy(splits['test']['image'])).argmax(1).numpy()
    assert f'{(right == splits["test"]["label"]).mean():.4f}' in lines[0]


class Told:
    """A VAE and a judge of what a label writes into a picture: a new one of 0 says 1; asked for 2, the true
    one."""

    def __init__(self, config):
        self.config = config

    def write(self, label):
        return label.byte().view(-1, 1, 1, 1).expand(-1, 1, 12, 12)

    def sample(self, label, generator):
        return self.write(label.clamp(min=1))

    def reconstruct(self, image, label, given):
        return self.write(given.where(given != 2, label))

    def encode(self, image, label, generator=None):
        return F.one_hot(label, 4).float()

    def logits(self, image):
        return F.one_hot(image[:, 0, 0, 0].long() % 4, 4).float()


def test_the_shares_of_a_judge_are_what_they_say(trained, monkeypatch, capsys, tmp_path):
    splits, net, _ = trained
    told, test = Told(net.config), splits['test']
    for name, value in dict(out_dir=str(tmp_path / 'vae'), judge=str(tmp_path / 'judge'),
                            device='cpu').items():
        monkeypatch.setattr(sample, name, value)
    monkeypatch.setattr(sample.configurator, 'build', lambda *_: told)
    sample.obey(told, run.read(tmp_path / 'vae/best.pt'))
    real, new, other, still, linear = (float(line.rsplit(' of ', 1)[0].split()[-1])
                                       for line in capsys.readouterr().out.splitlines())
    assert real == pytest.approx((test['image'][:, 0, 0, 0] % 4 == test['label']).mean(), abs=1e-4)
    assert new == 0.75 and linear == 1
    assert 0 < still < 0.5 and other == pytest.approx(1 - still, abs=2e-4)


def test_a_judge_that_is_no_classifier_is_refused(trained, launch, tmp_path):
    code, text = launch('sample.py', '--out_dir=vae', '--judge=vae', '--device=cpu', cwd=tmp_path)
    assert code == 2 and 'vae is no classifier of 4 classes' in text, text


def test_a_judge_of_other_data_is_refused(trained, launch, tmp_path):
    paint(tmp_path / 'other', seed=1)
    save(tmp_path / 'stranger', 'cnn', trained[2], tmp_path / 'other')
    code, text = launch('sample.py', '--out_dir=vae', '--judge=stranger', '--device=cpu', cwd=tmp_path)
    assert code == 2 and 'stranger was trained on other data than vae' in text, text
    code, text = launch('sample.py', '--out_dir=vae', '--judge=judge', '--grid=style', cwd=tmp_path)
    assert code == 2 and text == 'grid: of no use to a judge\n'


def test_a_probe_finds_what_is_linear_and_nothing_in_noise():
    torch.manual_seed(0)
    label = torch.arange(4).repeat(250)
    z = torch.randn(1000, 5)
    assert 0.15 < (sample.probe(z[:500], label[:500], 4)(z[500:]) == label[500:]).float().mean() < 0.4
    z[torch.arange(1000), label] += 9
    assert (sample.probe(z[:500], label[:500], 4)(z[500:]) == label[500:]).float().mean() > 0.99
