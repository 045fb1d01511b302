"""models/cvae.py: its likelihoods and bounds against worked examples, numerical integrals and numpy."""
import math, re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from conftest import events
from data import picture
from models import cvae

KINDS = {'bernoulli': dict(channels=1, size=(12, 8), grids=0),      # the whole image's z alone
         'logistic': dict(channels=3, size=(8, 16), grids=3, local=2)}        # and a grid in every level


def make(likelihood, seed=0, **fields):
    """A small model away from its initialisation, where zeros hide much, but not far."""
    torch.manual_seed(seed)
    fields = KINDS[likelihood] | dict(likelihood=likelihood, width=4, latent=3, n_class=5) | fields
    net = cvae.Model(cvae.Config(**fields))
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return net


def batch(net, n=6, seed=0):
    """Images of black and white, which binarisation leaves as they are, and labels."""
    rng, c = np.random.default_rng(seed), net.config
    image = 255 * rng.integers(0, 2, (n, c.channels, *c.size))
    return torch.from_numpy(image.astype(np.uint8)), torch.from_numpy(rng.integers(0, c.n_class, n))


def observed(net, image):
    """What the net sees: blocks of 2 x 2 pixels side by side, (B, 4 C, H / 2, W / 2)."""
    return F.pixel_unshuffle(net.pixel.observe(image), 2)


def levels(C, n=256):
    """Every value of 8 bits in each of C channels: (256, C, 1, 1) uint8."""
    return torch.arange(n, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, C, 1, 1)


# --- likelihoods

@pytest.mark.parametrize('C', [1, 3, 4])
@pytest.mark.parametrize('spread', [0.1, 2.0, 30.0])        # of the parameters: the widest and narrowest too
def test_a_logistic_pixel_has_a_probability_of_one_over_all_values(C, spread):
    torch.manual_seed(0)
    pixel = cvae.Logistic(C)
    for _ in range(20):
        theta = spread * torch.randn(1, pixel.size, 1, 1)
        theta[:, :C] /= 10 * spread                         # means in the image or near it
        before = pixel.observe(torch.randint(0, 256, (1, C, 1, 1), dtype=torch.uint8))
        for c in range(C):
            x = before.expand(256, -1, -1, -1).clone()      # the others stay as they are
            x[:, c] = pixel.observe(levels(1))[:, 0]
            logp = pixel.log_prob(theta.expand(256, -1, -1, -1), x)[:, c].double()
            assert torch.isfinite(logp).all() and logp.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_all_colours_of_a_small_palette_sum_to_one():
    """The product over channels, each given those before it, is a distribution of colours."""
    torch.manual_seed(0)
    pixel, edge = cvae.Logistic(2), torch.arange(256, dtype=torch.uint8)
    image = torch.cartesian_prod(edge, edge).view(-1, 2, 1, 1)
    theta = torch.randn(1, pixel.size, 1, 1).expand(len(image), -1, -1, -1)
    logp = pixel.log_prob(theta, pixel.observe(image)).double().sum(1)
    assert logp.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_a_logistic_pixel_is_the_difference_of_two_sigmoids():
    torch.manual_seed(0)
    pixel = cvae.Logistic(3)
    theta = 0.3 * torch.randn(256, pixel.size, 1, 1)
    image = torch.randint(0, 256, (256, 3, 1, 1), dtype=torch.uint8)
    image[:, 0] = levels(1)[:, 0]
    x, t = image.double().numpy()[..., 0, 0] / 255 - 0.5, theta.double().numpy()[..., 0, 0]
    mean = t[:, :3].copy()                                  # red; green after it; blue after both
    mean[:, 1] += t[:, 6] * x[:, 0]
    mean[:, 2] += t[:, 7] * x[:, 0] + t[:, 8] * x[:, 1]
    scale = 1 / (1 + np.exp(-t[:, 3:6])) / 4 + 5e-4

    def below(edge):
        return 1 / (1 + np.exp(-(edge - mean) / scale))
    p = (np.where(x == 0.5, 1, below(x + 0.5 / 255)) - np.where(x == -0.5, 0, below(x - 0.5 / 255)))
    found = pixel.log_prob(theta, pixel.observe(image))[..., 0, 0].double().numpy()
    seen = p > 1e-6                                         # where the reference is exact
    assert seen.mean() > 0.9 and np.abs(found - np.log(p.clip(1e-300)))[seen].max() < 1e-3


def test_a_logistic_pixel_expects_what_it_draws():
    """Against drawn values, channel by channel: z = mean + scale ln(u / (1 - u))."""
    torch.manual_seed(0)
    pixel, n = cvae.Logistic(3), 200_000
    theta = torch.randn(1, pixel.size, 1, 1)
    u = torch.rand(n, 3, 1, 1)
    x, scale = torch.zeros(n, 3, 1, 1), theta[:, 3:6].sigmoid() / 4 + 5e-4
    for c in range(3):
        x[:, c] = (pixel.means(theta.expand(n, -1, -1, -1), x) + scale * (u / (1 - u)).log())[:, c]
    assert torch.allclose(pixel.expectation(theta)[0], x.mean(0) + 0.5, atol=0.01)


def test_a_bernoulli_pixel_is_a_coin():
    torch.manual_seed(0)
    pixel, theta = cvae.Bernoulli(2), torch.randn(3, 2, 4, 5)
    for value in 0.0, 1.0:
        expected = (theta.sigmoid() if value else 1 - theta.sigmoid()).log()
        assert torch.allclose(pixel.log_prob(theta, torch.full_like(theta, value)), expected, atol=1e-6)
    assert torch.equal(pixel.expectation(theta), theta.sigmoid())


def test_binarisation_is_anew_each_time_as_often_white_as_bright():
    pixel, image = cvae.Bernoulli(1), levels(1).expand(-1, -1, 40, 50)
    x = pixel.observe(image)
    assert set(x.unique().tolist()) == {0, 1} and not torch.equal(x, pixel.observe(image))
    assert (x.mean((1, 2, 3)) - torch.arange(256) / 255).abs().max() < 0.05
    assert torch.equal(pixel.observe(image, torch.round), (image > 127).float())


# --- the bounds

@pytest.mark.parametrize('mean, std', [(0.0, 0.5), (1.5, 0.9), (-2.0, 0.1)])
def test_the_divergence_is_that_of_monte_carlo(mean, std):
    torch.manual_seed(0)
    z = mean + std * torch.randn(400_000, dtype=torch.float64)
    ratio = torch.distributions.Normal(mean, std).log_prob(z) - torch.distributions.Normal(0, 1).log_prob(z)
    found = cvae.kl_divergence(torch.tensor(mean), torch.tensor(std).log()).item()
    assert found == pytest.approx(ratio.mean().item(), rel=0.02)
    assert cvae.kl_divergence(torch.zeros(1), torch.zeros(1)).item() == 0


@pytest.mark.parametrize('likelihood', KINDS)
@torch.no_grad()
def test_the_weights_are_the_ratio_of_densities_whose_mean_is_minus_the_divergence(likelihood):
    net = make(likelihood)
    image, label = batch(net, 2)
    image, label = image.repeat(2000, 1, 1, 1), label.repeat(2000)
    features = net.features(observed(net, image), label)
    theta, latents, kl, ratio = net.infer(features, label, torch.randn_like)
    found, expected = -ratio.view(-1, 2).mean(0), kl.view(-1, 2).mean(0)
    assert torch.allclose(found, expected, rtol=0.02, atol=0.02 * expected.max().item())
    guess, e = net.latents[0].posterior(net.label_made(label)[:, :, None, None], features[0]), latents[0]
    normal = torch.distributions.Normal(guess[0], guess[1].exp())
    own = (torch.distributions.Normal(0, 1).log_prob(e) - normal.log_prob(e)).sum((1, 2, 3))
    if likelihood == 'bernoulli':                           # the only z there is
        assert torch.allclose(ratio, own, atol=1e-3)
    assert torch.equal(theta, net.build(label, lambda i, h: latents[i]))


@torch.no_grad()
def test_the_importance_weighted_bound_tightens_with_k_towards_the_truth():
    """With a z of one number the truth is an integral, here a sum over a fine grid."""
    net = make('bernoulli', latent=1).eval()
    net.latents[0].guess.bias.data += torch.tensor([1.0, 2])    # beside the truth, and wide, so samples count
    image, label = batch(net, 1)
    grid = torch.linspace(-8, 8, 4001).view(-1, 1, 1, 1)
    theta = net.build(label.repeat(4001), lambda i, h: grid)
    logp = net.pixel.log_prob(theta, observed(net, image).expand(4001, -1, -1, -1)).sum((1, 2, 3))
    prior = -grid.flatten()**2 / 2 - math.log(2 * math.pi) / 2
    truth = -torch.logsumexp(logp + prior + math.log(16 / 4000), 0).item()
    many, found, elbo = 500, {}, []
    for k in 1, 5, 50, 500:
        net.config.k = k
        total = net(image.repeat(many, 1, 1, 1), label.repeat(many))
        metrics = net.metrics(total)
        found[k], elbo = metrics['nll'].item(), [*elbo, metrics['loss'].item()]
    assert found[1] > found[5] + 0.01 and found[5] > found[50] > found[500] - 1e-3
    assert found[1] == pytest.approx(elbo[0], abs=0.2)      # of one sample it is the ELBO, drawn otherwise
    assert all(found[k] <= e + 0.2 for k, e in zip(found, elbo)) and found[500] < min(elbo) - 0.02
    assert found[500] == pytest.approx(truth, abs=0.02) and min(elbo) > truth


@pytest.mark.parametrize('likelihood', KINDS)
@torch.no_grad()
def test_metrics_are_of_images_and_of_their_numbers(likelihood):
    net = make(likelihood).eval()
    image, label = batch(net)
    sums = net(image, label)
    metrics, n = net.metrics(sums), image[0].numel()
    elbo = (sums['reconstruction'] + sums['kl']).item() / 6
    assert metrics['loss'].item() == pytest.approx(elbo) == pytest.approx(sums['loss'].item() / 6)
    assert metrics['bits_per_dim'].item() == pytest.approx(elbo / n / math.log(2))
    assert (metrics['joint_nll'] - metrics['nll']).item() == pytest.approx(math.log(5), abs=1e-3)
    assert sums['kl'] > 0 and 'nll' not in net.train()(image, label)


@pytest.mark.parametrize('fields, weights', [
    (dict(beta_warmup=0.5), {0.0: 0, 0.25: 0.5, 0.5: 1, 1.0: 1}),
    (dict(beta=3.0, beta_warmup=0.1), {0.05: 1.5, 0.5: 3}), (dict(beta=2.0, beta_warmup=0.0), {0.0: 2})])
@torch.no_grad()
def test_beta_is_minimised_warmed_up_and_never_reported(fields, weights):
    net = make('logistic', **fields)
    image, label = batch(net)
    for progress, weight in weights.items():
        sums = net(image, label, torch.tensor(progress))
        expected = sums['reconstruction'] + weight * sums['kl']
        assert sums['loss'].item() == pytest.approx(expected.item(), rel=1e-6)
        plain = (sums['reconstruction'] + sums['kl']).item() / 6
        assert net.metrics(sums)['loss'].item() == pytest.approx(plain, rel=1e-6)


# --- encoder and decoder

@pytest.mark.parametrize('name', ['label_seen', 'label_made'])
@torch.no_grad()
def test_a_one_hot_vector_times_the_matrix_is_the_embedding(name):
    embed, label = getattr(make('bernoulli'), name), torch.tensor([3, 0, 4, 3])
    assert torch.equal(F.one_hot(label, 5).float() @ embed.weight, embed(label))


@pytest.mark.parametrize('likelihood', KINDS)
@torch.no_grad()
def test_encoder_and_decoder_both_see_the_label(likelihood):
    net = make(likelihood)
    image, label = batch(net)
    x, other = observed(net, image), (label + 1) % 5
    for one, two in zip(net.features(x, label), net.features(x, other)):
        assert not torch.allclose(one, two, atol=1e-4)
    zeros = [torch.zeros(6, *shape) for shape in net.shapes]
    theta = [net.build(y, lambda i, h: zeros[i]) for y in (label, other)]
    assert not torch.allclose(*theta, atol=1e-4)


@pytest.mark.parametrize('size, grids', [
    ((28, 28), [(1, 1), (7, 7), (14, 14)]), ((32, 32), [(1, 1), (4, 4), (8, 8), (16, 16)]),
    ((2, 6), [(1, 1), (1, 3)]), ((40, 24), [(1, 1), (5, 3), (10, 6), (20, 12)]),
    ((64, 64), [(1, 1), (8, 8), (16, 16), (32, 32)])])
@torch.no_grad()
def test_every_level_halves_as_far_as_that_divides(size, grids):
    net = make('logistic', size=size)
    image, label = batch(net, 2)
    shapes = [tuple(z.shape[1:]) for z in net.encode(image, label)]
    assert shapes == net.shapes == [(3 if i == 0 else 2, *grid) for i, grid in enumerate(grids)]
    assert net.sample(label).shape == image.shape


@pytest.mark.parametrize('likelihood', KINDS)
def test_pictures_repeat_with_their_seed(likelihood):
    net, label = make(likelihood).eval(), torch.tensor([0, 1, 2, 2])
    once, again, other = (net.sample(label, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert once.dtype == torch.uint8 and once.shape == (4, net.config.channels, *net.config.size)
    assert torch.equal(once, again) and not torch.equal(once, other)
    grey = torch.arange(once.numel()).byte().view(once.shape)
    assert torch.equal(*(net.reconstruct(grey, label) for _ in range(2)))


def test_z_is_drawn_around_the_likeliest_and_repeats_with_its_seed():
    net = make('bernoulli').eval()
    image, label = (part.repeat_interleave(4000, 0) for part in batch(net, 2))
    once, again = (net.encode(image, label, torch.Generator().manual_seed(3))[0] for _ in range(2))
    assert torch.equal(once, again)
    means, stds = (of(once.view(2, 4000, -1), 1) for of in (torch.mean, torch.std))
    likeliest = net.encode(image, label)[0].view(2, 4000, -1)[:, 0]
    assert torch.allclose(means, likeliest, atol=0.06) and (stds > 0.1).all() and (stds < 1.05).all()


@pytest.mark.parametrize('likelihood', KINDS)
def test_another_label_changes_the_decoding_alone_and_a_line_joins_two_images(likelihood):
    net = make(likelihood).eval()
    image, label = batch(net)
    latents, other = net.encode(image, label), (label + 1) % 5
    assert torch.equal(net.reconstruct(image, label), net.decode(latents, label))
    assert torch.equal(net.reconstruct(image, label, given=other), net.decode(latents, other))
    assert not torch.equal(net.decode(latents, label), net.decode(latents, other))
    line = net.interpolate(image, image.flip(0), label, 5)
    assert line.shape == (5, *image.shape)
    assert torch.equal(line[0], net.decode(latents, label))
    assert torch.equal(line[-1], net.reconstruct(image.flip(0), label))
    half = [(a + b) / 2 for a, b in zip(latents, net.encode(image.flip(0), label))]
    assert (line[2].int() - net.decode(half, label).int()).abs().max() <= 1


@pytest.mark.parametrize('label', [-1, 5])
def test_a_label_that_is_no_class_is_refused(label):
    net = make('bernoulli').eval()
    (image, own), wrong = batch(net, 1), torch.tensor([label])
    for call in (lambda: net.sample(wrong), lambda: net.reconstruct(image, wrong),
                 lambda: net.reconstruct(image, own, wrong)):
        with pytest.raises(ValueError, match=f'labels must be from 0 to 4, got {label}'):
            call()


def test_what_the_label_decides_is_learned_from_the_label():
    """Classes of one colour each: the decoder obeys a given label, and z has nothing to tell."""
    torch.manual_seed(0)
    net = cvae.Model(cvae.Config(n_class=2, size=(4, 4), width=8, latent=2, beta_warmup=0.0))
    label = torch.arange(2).repeat(8)
    image = (255 * label).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(100):
        loss = net(image, label)['loss'] / 16
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5
    mistaken = net.reconstruct(image, label, given=1 - label)
    for pictures in net.sample(label), net.reconstruct(image, label), 255 - mistaken:
        assert (pictures.float() - image).abs().mean() < 10


@pytest.mark.parametrize('fields, words', [
    (dict(n_class=0), 'n_class'), (dict(k=0), 'k must be at least 1'), (dict(grids=-1), 'grids'),
    (dict(local=0), 'local'),
    (dict(latent=0), 'latent'), (dict(beta=-1.0), 'beta must'), (dict(beta_warmup=1.5), 'beta_warmup'),
    (dict(size=(28, 27)), 'even numbers, got 28 x 27')])
def test_impossible_configs_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        cvae.Config(**fields)


def test_train_py_trains_it_and_minimises_what_progress_asks(launch, tmp_path):
    rng = np.random.default_rng(0)
    picture.save(str(tmp_path / 'x'), {
        split: {'image': rng.integers(0, 256, (n, 3, 8, 12)).astype(np.uint8), 'label': np.arange(n) % 4}
        for split, n in (('train', 40), ('val', 11))}, {'n_class': 4})
    code, text = launch('train.py', '--model=cvae', '--likelihood=logistic', '--width=4', '--grids=2',
                        '--beta_warmup=1.0', '--k=2', f'--dataset={tmp_path}/x', f'--out_dir={tmp_path}/run',
                        '--batch_size=8', '--max_iters=4', '--log_interval=1', '--dtype=float32')
    assert code == 0, text
    for line in events(tmp_path / 'run'):
        expected = line['reconstruction'] + (line['step'] - 1) / 4 * line['kl']
        assert line['objective'] == pytest.approx(expected, rel=1e-5)
    assert math.isfinite(events(tmp_path / 'run', 'eval')[-1]['joint_nll'])
    words = [launch('train.py', '--eval_only', '--model=cvae', f'--k={k}',
                    f'--out_dir={tmp_path}/run')[1] for k in (1, 50)]
    one, fifty = (float(re.search(r', nll ([\d.]+)', text)[1]) for text in words)
    assert fifty < one
