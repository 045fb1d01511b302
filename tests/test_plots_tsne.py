"""plots/tsne.py: the probabilities, the gradient, and pictures of points whose clusters are known."""
import dataclasses
import math

import numpy as np
import pytest
import torch

import data
from conftest import image_data
from core.checkpoint import FORMAT, save_checkpoint
from core.errors import UserError
from models import cnn, gpt
from plots.tsne import features, joint_probabilities, kl_and_gradient, principal_components, tsne


def clouds(n=50, distance=10.0):
    """Return three Gaussian clouds of n points in five dimensions, and which cloud each point is of."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(3).repeat_interleave(n)
    centre = distance * torch.eye(5)[:3]
    return centre[label] + torch.randn(3 * n, 5, generator=generator), label


def silhouette(places, label):
    """Return the mean of (b - a) / max(a, b): a, b are the mean distances to one's own and the next cloud."""
    distance = torch.cdist(places, places)
    values = []
    for i in range(len(places)):
        own = distance[i][label == label[i]].sum() / ((label == label[i]).sum() - 1)
        others = min(distance[i][label == other].mean() for other in set(label.tolist()) - {int(label[i])})
        values.append((others - own) / max(others, own))
    return float(sum(values) / len(values))


def test_probabilities_are_symmetric_and_have_the_perplexity():
    x, _ = clouds()
    p = joint_probabilities(x, 20)
    assert torch.allclose(p, p.T) and (p.diagonal() == 0).all() and abs(p.sum() - 1) < 1e-12
    # In a regular pentagon p(j | i) is symmetric, so it can be told from p.
    angle = 2 * math.pi * torch.arange(5) / 5
    pentagon = torch.stack([angle.cos(), angle.sin()], 1)
    conditional = 5 * joint_probabilities(pentagon, 3.0)[0]         # p(j | i) = p(i | j) by symmetry
    entropy = -(conditional[1:] * conditional[1:].log()).sum()
    assert math.exp(entropy) == pytest.approx(3.0, rel=1e-4)


def test_points_that_are_equal_or_far_away_have_probabilities_too():
    x = torch.zeros(20, 3)
    x[10:] = 1e4 * torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    p = joint_probabilities(x, 5)
    assert torch.isfinite(p).all() and abs(p.sum() - 1) < 1e-12


@pytest.mark.parametrize('exaggeration', [1, 12])
def test_the_gradient_is_that_of_autograd(exaggeration):
    x, _ = clouds(5)
    p = joint_probabilities(x, 4)
    y = torch.randn(15, 2, dtype=torch.double, generator=torch.Generator().manual_seed(1), requires_grad=True)
    w = 1 / (1 + torch.cdist(y, y).square())
    w = w * (1 - torch.eye(15))
    # exaggeration p does not add up to 1: what falls is sum(e p ln(e p / w)) + ln(sum(w))
    objective = torch.special.xlogy(exaggeration * p, exaggeration * p / (w + torch.eye(15))).sum()
    objective = objective + w.sum().log()
    objective.backward()
    kl, gradient = kl_and_gradient(p, y.detach(), exaggeration)
    assert torch.allclose(gradient, y.grad, atol=1e-8)
    q = w / w.sum()
    expected = sum(p[i, j] * (p[i, j] / q[i, j]).log() for i in range(15) for j in range(15) if i != j)
    assert kl.item() == pytest.approx(expected.item(), rel=1e-6)


def test_three_clouds_stay_apart_and_the_picture_is_always_the_same():
    x, label = clouds()
    mixed = 1e-4 * torch.randn(150, 2, generator=torch.Generator().manual_seed(2))
    assert silhouette(mixed, label) < 0
    places, _ = tsne(x, perplexity=20, start=mixed)
    assert silhouette(places, label) > 0.5
    places, kl = tsne(x, perplexity=20)
    assert silhouette(places, label) > 0.5
    again, _ = tsne(x, perplexity=20)
    assert torch.equal(places, again)
    start, _ = kl_and_gradient(joint_probabilities(x, 20), principal_components(x))
    assert 0 < kl < start


def test_too_few_points_are_an_error():
    with pytest.raises(UserError, match='30 points are too few for a perplexity of 30'):
        tsne(torch.randn(30, 4))


def test_the_divergence_is_that_of_scikit_learn():
    manifold = pytest.importorskip('sklearn.manifold')
    digits = pytest.importorskip('sklearn.datasets').load_digits()
    x = torch.tensor(digits.data[:500])
    start = principal_components(x)
    theirs = manifold.TSNE(method='exact', init=start.numpy().astype(np.float64), perplexity=30)
    theirs.fit(digits.data[:500])
    _, kl = tsne(x, 30, start=start)
    assert kl == pytest.approx(theirs.kl_divergence_, rel=0.05)


# --- models

def save(folder, net, dataset='', tokenizer=None):
    """Save a model as a run that was trained on a data set."""
    folder.mkdir()
    keys = {'model': type(net).__module__.split('.')[1], 'dataset': dataset}
    hashes = data.hashes(data.check(dataset)) if dataset else {}
    checkpoint = {'format': FORMAT, 'step': 0, 'keys': keys, 'tokenizer': tokenizer, 'data': hashes,
                  'model': net.state_dict(), 'config': dataclasses.asdict(net.config)}
    save_checkpoint(folder / 'best.pt', checkpoint)


@torch.no_grad()
def test_features_are_what_the_head_reads(tmp_path):
    image_data(tmp_path / 'images')
    torch.manual_seed(0)
    net = cnn.Model(cnn.Config(n_class=3, width=4, tta='flip')).eval()
    torch.nn.init.normal_(net.head.weight)
    split = data.load_split(str(tmp_path / 'images'), 'train', ['image', 'label'])
    rows = np.arange(30)
    found = features(net, split, rows)
    assert torch.allclose(net.head(found), net.logits(split.batch(rows)['image']), atol=1e-4)


def test_the_script_draws_images_and_tokens(launch, tmp_path):
    image_data(tmp_path / 'images')
    save(tmp_path / 'cnn', cnn.Model(cnn.Config(n_class=3, width=4)), f'{tmp_path}/images')
    tokenizer = {'kind': 'bytes'}
    save(tmp_path / 'gpt', gpt.Model(gpt.Config(vocab_size=256, n_layer=1, n_head=1, n_embd=8)),
         tokenizer=tokenizer)
    for name in 'cnn', 'gpt':
        code, text = launch('plot.py', '--what=tsne', tmp_path / name, '--points=40', '--perplexity=5',
                            f'--out={tmp_path}/{name}.png')
        assert code == 0 and (tmp_path / f'{name}.png').read_bytes().startswith(b'\x89PNG'), text
    for option in '--points=0', '--points=-1', '--perplexity=0', '--perplexity=100':
        code, text = launch('plot.py', '--what=tsne', tmp_path / 'gpt', '--points=40', option)
        assert code == 2 and 'points' in text and 'Traceback' not in text, text
