"""models/cvae_prior.py: its parts and bounds against numpy, torch.distributions and integrals."""
import math
import re

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, MultivariateNormal, kl_divergence
from torch.nn import functional as F

import data
from conftest import events
from models import cvae_prior

CONFIGS = {
    'bernoulli': {'channels': 1, 'size': (12, 8)},
    'logistic': {'channels': 3, 'size': (8, 16), 'waves': 20},
}


def make(likelihood, **fields):
    """Return a small model away from its initialisation."""
    torch.manual_seed(0)
    fields = CONFIGS[likelihood] | {'likelihood': likelihood, 'width': 4, 'latent': 3, 'n_class': 5} | fields
    net = cvae_prior.Model(cvae_prior.Config(**fields))
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return net


def random_batch(net, n=6):
    """Return images whose values are 0 or 255, which binarisation leaves as they are, and labels."""
    rng = np.random.default_rng(0)
    config = net.config
    image = 255 * rng.integers(0, 2, (n, config.channels, *config.size))
    label = rng.integers(0, config.n_class, n)
    return torch.from_numpy(image.astype(np.uint8)), torch.from_numpy(label)


def all_values():
    """Return the 256 values of a pixel: (256, 1, 1)."""
    return torch.arange(256).view(256, 1, 1) / 255 - 0.5


# --- the likelihood

@pytest.mark.parametrize('C', [1, 3, 4])
@pytest.mark.parametrize('spread', [0.1, 2.0, 30.0])        # of params: 30 gives the extreme scales too
def test_the_probabilities_of_all_values_of_a_channel_sum_to_one(C, spread):
    torch.manual_seed(0)
    for _ in range(20):
        params = spread * torch.randn(1, 2 * C + C * (C - 1) // 2, 1, 1)
        params[:, :C] /= 10 * spread                        # means in the image or near it
        params = params.expand(256, -1, -1, -1)
        other_channels = torch.randint(0, 256, (1, C, 1, 1)) / 255 - 0.5
        for c in range(C):
            x = other_channels.repeat(256, 1, 1, 1)
            x[:, c] = all_values()
            log_prob = cvae_prior.logistic_log_prob(params, x)[:, c].double()
            assert torch.isfinite(log_prob).all()
            assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_the_probabilities_of_all_pairs_of_two_channels_sum_to_one():
    torch.manual_seed(0)
    values = torch.arange(256) / 255 - 0.5
    x = torch.cartesian_prod(values, values).view(-1, 2, 1, 1)
    params = torch.randn(1, 5, 1, 1).expand(len(x), -1, -1, -1)
    log_prob = cvae_prior.logistic_log_prob(params, x).double().sum(1)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_a_logistic_probability_is_a_difference_of_two_sigmoids():
    rng = np.random.default_rng(0)
    params = 0.3 * rng.normal(size=(256, 9))
    value = rng.integers(0, 256, (256, 3))
    value[:, 0] = np.arange(256)
    x = value / 255 - 0.5

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    residual = x - params[:, :3]
    mean = params[:, :3].copy()
    mean[:, 1] += params[:, 6] * residual[:, 0]                                     # green, given red
    mean[:, 2] += params[:, 7] * residual[:, 0] + params[:, 8] * residual[:, 1]     # blue, given both
    scale = sigmoid(params[:, 3:6]) / 4 + 5e-4
    cdf_above = np.where(value == 255, 1, sigmoid((x + 0.5 / 255 - mean) / scale))
    cdf_below = np.where(value == 0, 0, sigmoid((x - 0.5 / 255 - mean) / scale))
    probability = cdf_above - cdf_below

    tensors = torch.tensor(params)[..., None, None].float(), torch.tensor(x)[..., None, None].float()
    found = cvae_prior.logistic_log_prob(*tensors)[..., 0, 0].double().numpy()
    exact = probability > 1e-6                              # where float64 is precise enough
    assert exact.mean() > 0.9
    assert np.abs(found - np.log(probability.clip(1e-300)))[exact].max() < 1e-3


def test_preprocessing_stacks_blocks_of_2_x_2_pixels_and_binarises_where_the_likelihood_is_bernoulli():
    net = make('logistic')
    image = torch.arange(3 * 8 * 16, dtype=torch.uint8).view(1, 3, 8, 16)
    x = net.preprocess(image)
    assert x.shape == (1, 12, 4, 8)
    block = image[0, 1, 2:4, 6:8].flatten()                 # of channel 1, at position (1, 3)
    assert torch.equal(x[0, 4:8, 1, 3], block / 255 - 0.5)

    net = make('bernoulli', size=(40, 50))
    image = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(-1, -1, 40, 50)
    x = net.preprocess(image)
    assert set(x.unique().tolist()) == {0, 1}
    assert not torch.equal(x, net.preprocess(image))        # drawn at each call
    assert (x.mean((1, 2, 3)) - torch.arange(256) / 255).abs().max() < 0.05
    assert torch.equal(net.preprocess(image, torch.round).mean((1, 2, 3)), (torch.arange(256) > 127).float())


# --- the prior

def make_prior(n=4, n_class=3):
    """Return a prior far from N(0, I), and the Gaussian of each class by torch.distributions."""
    torch.manual_seed(0)
    prior = cvae_prior.Prior(n_class, n)
    for p in prior.parameters():
        torch.nn.init.normal_(p, std=0.4)
    gaussians = []
    for T, b in zip(prior.factors(), prior.bias):
        mean = torch.linalg.solve(T, -b)
        gaussians.append(MultivariateNormal(mean, precision_matrix=T.T @ T))
    return prior, gaussians


@torch.no_grad()
def test_the_prior_of_a_class_is_a_gaussian_with_a_full_covariance():
    prior, gaussians = make_prior()
    label = torch.tensor([2, 0, 1, 1, 2])
    z = torch.randn(5, 4)
    expected = torch.stack([gaussians[k].log_prob(row) for k, row in zip(label.tolist(), z)])
    constant = -math.log(2 * math.pi) * 4 / 2
    assert torch.allclose(prior.log_prob(z, label) + constant, expected, atol=1e-5)
    for gaussian in gaussians:
        off_diagonal = gaussian.covariance_matrix - gaussian.covariance_matrix.diagonal().diag_embed()
        assert off_diagonal.abs().max() > 0.1


@torch.no_grad()
def test_whitening_makes_the_prior_of_every_class_standard_normal_and_unwhitening_is_its_inverse():
    prior, gaussians = make_prior()
    label = torch.tensor([2, 0, 1, 1, 2])
    z = torch.randn(5, 4)
    assert torch.allclose(prior.unwhiten(prior.whiten(z, label), label), z, atol=1e-5)
    for k, gaussian in enumerate(gaussians):
        eps = prior.whiten(gaussian.sample((100_000,)), torch.full((100_000,), k))
        assert eps.mean(0).abs().max() < 0.02
        assert (eps.T.cov() - torch.eye(4)).abs().max() < 0.03


@torch.no_grad()
def test_the_kl_divergence_is_that_of_torch_distributions_and_of_monte_carlo():
    prior, gaussians = make_prior()
    mean = torch.randn(3, 4)
    log_std = torch.randn(3, 4) / 2
    found = prior.kl_divergence(mean, log_std, torch.arange(3))
    for k, gaussian in enumerate(gaussians):
        posterior = MultivariateNormal(mean[k], torch.diag(torch.exp(2 * log_std[k])))
        assert found[k].item() == pytest.approx(kl_divergence(posterior, gaussian).item(), rel=1e-4)
        z = posterior.sample((200_000,))
        estimate = (posterior.log_prob(z) - gaussian.log_prob(z)).mean()
        assert found[k].item() == pytest.approx(estimate.item(), rel=0.02)


def test_the_prior_starts_as_a_standard_normal_distribution():
    prior = cvae_prior.Prior(3, 4)
    zeros = torch.zeros(3, 4)
    label = torch.arange(3)
    z = torch.randn(3, 4)
    assert torch.equal(prior.kl_divergence(zeros, zeros, label), torch.zeros(3))
    assert torch.equal(prior.whiten(z, label), z)


# --- the DCT basis

@pytest.mark.parametrize('size', [(3, 8, 16), (1, 6, 6)])
def test_the_dct_basis_is_orthonormal_and_ordered_by_frequency(size):
    n = math.prod(size)
    basis, amplitude = cvae_prior.dct_basis(size, 10 * n)       # there are only n
    assert basis.shape == (n, *size)
    assert amplitude.shape == (n,)
    assert torch.allclose(basis.flatten(1) @ basis.flatten(1).T, torch.eye(n), atol=1e-5)
    assert torch.allclose(basis[0], torch.full(size, n**-0.5))  # frequency 0 is constant
    assert (amplitude.diff() <= 0).all()
    slope_changes = (basis.diff(dim=3).sign().diff(dim=3) != 0).float().mean((1, 2, 3))
    assert slope_changes[:n // 4].mean() < slope_changes[-n // 4:].mean()
    lowest, _ = cvae_prior.dct_basis(size, 5)
    assert torch.equal(lowest, basis[:5])


def test_the_dct_basis_has_the_cosines_of_its_definition():
    basis, _ = cvae_prior.dct_basis((2, 3, 4), 24)
    cosines = []
    for kc in range(2):
        for ky in range(3):
            for kx in range(4):
                c, y, x = np.meshgrid(np.arange(2), np.arange(3), np.arange(4), indexing='ij')
                wave = (np.cos(np.pi / 2 * kc * (c + 0.5)) * np.cos(np.pi / 3 * ky * (y + 0.5))
                        * np.cos(np.pi / 4 * kx * (x + 0.5)))
                cosines.append(wave / np.sqrt((wave**2).sum()))
    products = basis.flatten(1).double().numpy() @ np.stack(cosines).reshape(24, 24).T
    assert np.allclose(np.sort(products, 1)[:, -1], 1, atol=1e-6)       # each is one of them
    assert sorted(products.argmax(1)) == list(range(24))                # and none is missing


@torch.no_grad()
def test_at_initialisation_an_image_is_reconstructed_from_its_lowest_frequencies():
    """z has its lowest coefficients, so the reconstruction is the image without its higher frequencies."""
    torch.manual_seed(0)
    config = cvae_prior.Config(channels=3, size=(8, 16), likelihood='logistic', width=4, latent=9, waves=20)
    net = cvae_prior.Model(config)
    basis, amplitude = cvae_prior.dct_basis((3, 8, 16), 20)
    coefficients = torch.randn(4, 20) * amplitude / 4
    pixels = torch.einsum('bn,nchw->bchw', coefficients, basis) + 0.5
    image = (255 * pixels).round().clamp(0, 255).byte()
    label = torch.arange(4)

    eps = net.encode(image, label)
    expected = torch.einsum('bchw,nchw->bn', pixels.clamp(0, 1) - 0.5, basis[:9]) / amplitude[:9]
    assert torch.allclose(eps, expected, atol=0.02)

    projected = torch.einsum('bn,nchw->bchw', eps * amplitude[:9], basis[:9]) + 0.5
    reconstruction = net.generate(eps, label).float()
    assert (reconstruction - (255 * projected).clamp(0, 255)).abs().max() < 1
    assert (reconstruction - image).abs().mean() > 1        # coefficients 10 to 20 are not in it


@torch.no_grad()
def test_each_class_has_its_own_corrections_of_the_coefficients():
    net = make('logistic')
    z = torch.randn(5, 3)
    label = torch.arange(5)
    before = net.decode(z, label)
    net.low_frequency.to_coefficients.bias.view(5, 20)[2] += 1
    changed = (net.decode(z, label) != before).flatten(1).any(1)
    assert changed.tolist() == [False, False, True, False, False]


def test_there_may_be_fewer_dct_coefficients_than_latents():
    net = make('logistic', size=(2, 2), latent=30, waves=50)        # 12 is all there are
    image, label = random_batch(net)
    sums = net(image, label)
    sums['loss'].backward()
    for name, p in net.named_parameters():
        assert p.grad.abs().sum() > 0, name
    assert net.reconstruct(image, label).shape == image.shape


# --- the bounds

def test_reconstruction_is_that_of_torch_distributions(monkeypatch):
    monkeypatch.setattr(torch, 'randn_like', torch.ones_like)       # z = mean + std
    net = make('bernoulli')
    image, label = random_batch(net)
    sums = net(image, label)
    x = F.pixel_unshuffle(image / 255, 2)
    mean, log_std = net.posterior(x, label)
    likelihood = Bernoulli(logits=net.decode(mean + log_std.exp(), label))
    assert sums['reconstruction'].item() == pytest.approx(-likelihood.log_prob(x).sum().item(), rel=1e-5)
    kl = net.prior.kl_divergence(mean, log_std, label).sum()
    assert sums['kl'].item() == pytest.approx(kl.item(), rel=1e-5)
    assert sums['count'] == 6


@torch.no_grad()
def test_with_one_sample_the_importance_weighted_bound_is_the_elbo_on_average():
    net = make('logistic').eval()
    image, label = random_batch(net, 2)
    metrics = net.metrics(net(image.repeat(2000, 1, 1, 1), label.repeat(2000)))
    assert metrics['nll'].item() == pytest.approx(metrics['loss'].item(), abs=0.3)
    assert metrics['kl'] > 1


@torch.no_grad()
def test_the_importance_weighted_bound_tightens_with_k_towards_the_truth():
    """With one latent the truth is an integral over z, here a sum over a fine grid."""
    net = make('bernoulli', latent=1).eval()
    net.to_posterior.bias.data += torch.tensor([1.0, 2])        # not the true posterior: samples matter
    image, label = random_batch(net, 1)
    x = net.preprocess(image)
    grid = torch.linspace(-8, 8, 4001)[:, None]
    labels = label.repeat(4001)
    log_likelihood = Bernoulli(logits=net.decode(grid, labels)).log_prob(x).sum((1, 2, 3))
    log_prior = net.prior.log_prob(grid, labels) - math.log(2 * math.pi) / 2
    truth = -((log_likelihood + log_prior).logsumexp(0) + math.log(16 / 4000)).item()
    nll = {}
    elbo = {}
    for k in (1, 5, 50, 500):
        net.config.k = k
        metrics = net.metrics(net(image.repeat(500, 1, 1, 1), label.repeat(500)))
        nll[k] = metrics['nll'].item()
        elbo[k] = metrics['loss'].item()
    assert nll[1] > nll[5] + 0.01
    assert nll[5] > nll[50]
    assert nll[50] > nll[500] - 1e-3
    assert nll[1] == pytest.approx(elbo[1], abs=0.2)            # the KL divergence is exact in one of them
    assert nll[500] < min(elbo.values()) - 0.02
    assert nll[500] == pytest.approx(truth, abs=0.02)


@pytest.mark.parametrize('likelihood', CONFIGS)
@torch.no_grad()
def test_metrics_are_means_per_image_and_per_value(likelihood):
    net = make(likelihood).eval()
    image, label = random_batch(net)
    sums = net(image, label)
    metrics = net.metrics(sums)
    elbo = (sums['reconstruction'] + sums['kl']).item() / 6
    assert set(metrics) == {'loss', 'bits_per_dim', 'reconstruction', 'kl', 'nll', 'joint_nll'}
    assert metrics['loss'].item() == pytest.approx(elbo)
    assert metrics['bits_per_dim'].item() == pytest.approx(elbo / image[0].numel() / math.log(2))
    assert metrics['joint_nll'].item() == pytest.approx(metrics['nll'].item() + math.log(5))
    assert 'nll' not in net.train()(image, label)


@pytest.mark.parametrize('fields, weights', [
    ({'beta_warmup': 0.5}, {0.0: 0, 0.25: 0.5, 0.5: 1, 1.0: 1}),
    ({'beta': 3.0, 'beta_warmup': 0.1}, {0.05: 1.5, 0.5: 3}),
    ({'beta': 2.0, 'beta_warmup': 0.0}, {0.0: 2})])
@torch.no_grad()
def test_beta_grows_with_progress_in_the_loss_to_minimise_and_is_one_in_the_reported_loss(fields, weights):
    net = make('logistic', **fields)
    image, label = random_batch(net)
    for progress, weight in weights.items():
        sums = net(image, label, torch.tensor(progress))
        expected = sums['reconstruction'] + weight * sums['kl']
        reported = (sums['reconstruction'] + sums['kl']).item() / 6
        assert sums['loss'].item() == pytest.approx(expected.item(), rel=1e-6)
        assert net.metrics(sums)['loss'].item() == pytest.approx(reported, rel=1e-6)


# --- encoder and decoder

@pytest.mark.parametrize('likelihood', CONFIGS)
@torch.no_grad()
def test_encoder_decoder_and_prior_all_see_the_label(likelihood):
    net = make(likelihood)
    image, label = random_batch(net)
    x = net.preprocess(image)
    other = (label + 1) % 5
    for one, two in zip(net.posterior(x, label), net.posterior(x, other)):
        assert not torch.allclose(one, two, atol=1e-4)
    z = torch.zeros(6, 3)
    assert not torch.allclose(net.decode(z, label), net.decode(z, other), atol=1e-4)
    assert not torch.allclose(net.prior.whiten(z, label), net.prior.whiten(z, other), atol=1e-4)


@pytest.mark.parametrize('size, resolutions', [
    ((28, 28), [(14, 14), (7, 7)]),
    ((32, 32), [(16, 16), (8, 8), (4, 4)]),
    ((2, 6), [(1, 3)]),
    ((40, 24), [(20, 12), (10, 6), (5, 3)]),
    ((64, 64), [(32, 32), (16, 16), (8, 8)])])
@torch.no_grad()
def test_each_stage_has_half_the_resolution_as_long_as_it_is_even(size, resolutions):
    net = make('logistic', size=size)
    image, label = random_batch(net, 2)
    seen = []
    for stage in net.stages:
        stage.encoder.register_forward_hook(lambda module, args, h: seen.append(tuple(h.shape[2:])))
    assert net.encode(image, label).shape == (2, 3)
    assert seen == resolutions
    assert net.sample(label).shape == image.shape


@pytest.mark.parametrize('likelihood', CONFIGS)
def test_under_autocast_low_frequencies_keep_float32_and_it_compiles(likelihood):
    torch.manual_seed(0)
    fields = CONFIGS[likelihood] | {'waves': 20}
    config = cvae_prior.Config(n_class=5, likelihood=likelihood, width=4, latent=9, **fields)
    net = cvae_prior.Model(config)
    image, label = random_batch(net)
    z = 2 * torch.randn(6, 9)
    params = net.decode(z, label)
    with torch.autocast('cpu', torch.bfloat16):
        assert (net.decode(z, label) - params).abs().max() < 0.1 / 255      # a tenth of a bin
        torch.manual_seed(1)
        expected = net(image, label)
        torch._dynamo.reset()
        torch.manual_seed(1)
        found = torch.compile(net, fullgraph=True, backend='eager')(image, label)
    for name in expected:
        assert found[name].dtype == torch.float32
        assert torch.allclose(found[name], expected[name], rtol=1e-5)


# --- images

@torch.no_grad()
def test_images_are_encoded_and_generated_through_the_prior_of_their_label():
    net = make('logistic').eval()
    for p in net.prior.parameters():
        torch.nn.init.normal_(p, std=0.4)
    image, label = random_batch(net)
    z, _ = net.posterior(net.preprocess(image), label)
    T = net.prior.factors()[label]
    eps = torch.einsum('bij,bj->bi', T, z) + net.prior.bias[label]
    assert torch.allclose(net.encode(image, label), eps, atol=1e-4)
    means = net.decode(z, label)[:, :12]
    expected = 255 * F.pixel_shuffle(means + 0.5, 2).clamp(0, 1)
    assert (net.generate(eps, label) - expected).abs().max() < 0.51


@torch.no_grad()
def test_a_generated_image_is_the_mean_of_the_likelihood():
    """Against values drawn channel by channel: mean + scale ln(u / (1 - u))."""
    net = make('logistic', size=(2, 2), channels=1, waves=0)
    eps = torch.randn(1, 3)
    label = torch.tensor([2])
    mean, raw_scale, slopes = net.decode(net.prior.unwhiten(eps, label), label).split([4, 4, 6], 1)
    u = torch.rand(100_000, 4, 1, 1)
    x = mean + (u / (1 - u)).log() * (raw_scale.sigmoid() / 4 + 5e-4)
    for i, (c, before) in enumerate([(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]):
        x[:, c] += slopes[:, i] * (x[:, before] - mean[:, before])
    expected = 255 * F.pixel_shuffle(x.mean(0) + 0.5, 2)
    assert (net.generate(eps, label)[0] - expected).abs().max() < 2


@pytest.mark.parametrize('likelihood', CONFIGS)
def test_images_repeat_with_their_seed(likelihood):
    net = make(likelihood).eval()
    label = torch.tensor([0, 1, 2, 2])
    first, again, other = (net.sample(label, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.dtype == torch.uint8
    assert first.shape == (4, net.config.channels, *net.config.size)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    grey = torch.arange(first.numel()).byte().view(first.shape)         # is rounded, not binarised at random
    assert torch.equal(net.reconstruct(grey, label), net.reconstruct(grey, label))


@torch.no_grad()
def test_encode_returns_the_mean_of_the_posterior_or_samples_of_it():
    net = make('bernoulli').eval()
    image, label = random_batch(net, 1)
    mean = net.encode(image, label)[0]
    _, log_std = net.posterior(net.preprocess(image), label)
    T = net.prior.factors()[label[0]]
    repeated = image.repeat(20_000, 1, 1, 1), label.repeat(20_000)
    eps = net.encode(*repeated, torch.Generator().manual_seed(3))
    assert torch.equal(eps, net.encode(*repeated, torch.Generator().manual_seed(3)))
    assert torch.allclose(eps.mean(0), mean, atol=0.03)
    assert torch.allclose(eps.T.cov(), T @ torch.diag(log_std[0].exp()**2) @ T.T, atol=0.03)


@pytest.mark.parametrize('likelihood', CONFIGS)
def test_a_given_label_changes_the_decoding_only(likelihood):
    net = make(likelihood).eval()
    image, label = random_batch(net)
    eps = net.encode(image, label)
    other = (label + 1) % 5
    assert torch.equal(net.reconstruct(image, label), net.generate(eps, label))
    assert torch.equal(net.reconstruct(image, label, given=other), net.generate(eps, other))
    assert not torch.equal(net.generate(eps, label), net.generate(eps, other))


@pytest.mark.parametrize('label', [-1, 5])
def test_a_label_that_is_not_a_class_is_an_error(label):
    net = make('bernoulli').eval()
    image, own = random_batch(net, 1)
    wrong = torch.tensor([label])
    for call in (lambda: net.sample(wrong), lambda: net.encode(image, wrong), lambda: net(image, wrong)):
        with pytest.raises((IndexError, RuntimeError), match='out of'):
            call()


def test_what_the_label_determines_is_learned_from_the_label():
    """Class 0 is black and class 1 is white: the decoder obeys a given label, and z has nothing to hold."""
    torch.manual_seed(0)
    net = cvae_prior.Model(cvae_prior.Config(n_class=2, size=(4, 4), width=8, latent=2, beta_warmup=0.0))
    label = torch.arange(2).repeat(8)
    image = (255 * label).byte().view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(100):
        loss = net(image, label)['loss'] / 16
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5
    changed = net.reconstruct(image, label, given=1 - label)
    for images in (net.sample(label), net.reconstruct(image, label), 255 - changed):
        assert (images.float() - image).abs().mean() < 10


# --- options and training

@pytest.mark.parametrize('field, value, message', [
    ('n_class', 0, 'n_class must be at least 1, got 0'),
    ('channels', 0, 'channels must be at least 1, got 0'),
    ('width', 0, 'width must be at least 1, got 0'),
    ('n_layer', 0, 'n_layer must be at least 1, got 0'),
    ('latent', 0, 'latent must be at least 1, got 0'),
    ('k', 0, 'k must be at least 1, got 0'),
    ('beta', -1.0, 'beta must be at least 0, got -1.0'),
    ('waves', -1, 'waves must be at least 0, got -1'),
    ('beta_warmup', 1.5, 'beta_warmup must be in .0, 1., got 1.5'),
    ('size', (28, 27), 'even numbers, got .28, 27'),
    ('size', (28, 0), 'even numbers, got .28, 0')])
def test_a_config_that_cannot_work_is_an_error(field, value, message):
    with pytest.raises(ValueError, match=message):
        cvae_prior.Config(**{field: value})


def test_train_py_minimises_what_progress_says_and_evaluates_with_more_samples(launch, tmp_path):
    rng = np.random.default_rng(0)
    splits = {}
    for split, n in (('train', 40), ('val', 11)):
        image = rng.integers(0, 256, (n, 3, 8, 12), np.uint8)
        splits[split] = {'image': image, 'label': np.arange(n) % 4}
    data.save(str(tmp_path / 'x'), splits, info={'n_class': 4, 'channels': 3, 'size': [8, 12]})
    run = f'--out_dir={tmp_path}/run'
    code, text = launch('train.py', '--model=cvae_prior', '--likelihood=logistic', '--width=4', '--waves=40',
                        '--beta_warmup=1.0', '--k=2', f'--dataset={tmp_path}/x', run, '--batch_size=8',
                        '--max_iters=4', '--log_interval=1', '--dtype=float32', '--device=cpu')
    assert code == 0, text
    lines = events(tmp_path / 'run')
    assert len(lines) == 4
    for line in lines:
        expected = line['reconstruction'] + (line['step'] - 1) / 4 * line['kl']
        assert line['objective'] == pytest.approx(expected, rel=1e-5)
    assert math.isfinite(events(tmp_path / 'run', 'eval')[-1]['joint_nll'])
    nll = {}
    for k in (1, 50):
        code, text = launch('train.py', '--eval_only', '--model=cvae_prior', f'--k={k}', run)
        assert code == 0, text
        nll[k] = float(re.search(r', nll ([\d.]+)', text)[1])
    assert nll[50] < nll[1]
