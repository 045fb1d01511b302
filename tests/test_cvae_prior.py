"""models/cvae_prior.py: its parts against numpy and torch.distributions. Others are in tests/test_cvae.py."""
import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence
from torch.nn import functional as F

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

    net = make('bernoulli', size=(40, 52))
    image = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(-1, -1, 40, 52)
    x = net.preprocess(image)
    assert set(x.unique().tolist()) == {0, 1}
    assert not torch.equal(x, net.preprocess(image))        # drawn at each call
    assert (x.mean((1, 2, 3)) - torch.arange(256) / 255).abs().max() < 0.05
    assert torch.equal(net.preprocess(image, torch.round).mean((1, 2, 3)), (torch.arange(256) > 127).float())


# --- the prior

def randomize(prior):
    """Move a prior far from N(0, I). Return the Gaussian of each class by torch.distributions."""
    for p in prior.parameters():
        torch.nn.init.normal_(p, std=0.4)
    gaussians = []
    for T, b in zip(prior.factors(), prior.bias):
        mean = torch.linalg.solve(T, -b)
        gaussians.append(MultivariateNormal(mean, precision_matrix=T.T @ T))
    return gaussians


def make_prior(n=4, n_class=3):
    """Return a prior far from N(0, I), and the Gaussian of each class by torch.distributions."""
    torch.manual_seed(0)
    prior = cvae_prior.Prior(n_class, n)
    return prior, randomize(prior)


@torch.no_grad()
def test_the_prior_of_a_class_is_a_gaussian_with_a_full_covariance():
    prior, gaussians = make_prior()
    label = torch.tensor([2, 0, 1, 1, 2])
    z = torch.randn(5, 4)
    expected = torch.stack([gaussians[k].log_prob(row) for k, row in zip(label.tolist(), z)])
    log_prob = Normal(0, 1).log_prob(prior.whiten(z, label)) + prior.log_diagonal[label]
    assert torch.allclose(log_prob.sum(1), expected, atol=1e-5)
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
def test_the_dct_basis_is_orthogonal_and_ordered_by_frequency(size):
    n = math.prod(size)
    basis = cvae_prior.dct_basis(size, 10 * n)                  # there are only n
    assert basis.shape == (n, *size)
    norm = basis.flatten(1).norm(dim=1)
    assert (norm.diff() <= 1e-6 * norm[0]).all()
    unit = basis.flatten(1) / norm[:, None]
    assert torch.allclose(unit @ unit.T, torch.eye(n), atol=1e-5)
    assert torch.allclose(unit[0], torch.full((n,), n**-0.5))   # frequency 0 is constant
    slope_changes = (basis.diff(dim=3).sign().diff(dim=3) != 0).float().mean((1, 2, 3))
    assert slope_changes[:n // 4].mean() < slope_changes[-n // 4:].mean()
    assert torch.equal(cvae_prior.dct_basis(size, 5), basis[:5])


def test_the_dct_basis_has_the_cosines_of_its_definition():
    basis = cvae_prior.dct_basis((2, 3, 4), 24).flatten(1)
    basis = basis / basis.norm(dim=1, keepdim=True)
    cosines = []
    for kc in range(2):
        for ky in range(3):
            for kx in range(4):
                c, y, x = np.meshgrid(np.arange(2), np.arange(3), np.arange(4), indexing='ij')
                wave = (np.cos(np.pi / 2 * kc * (c + 0.5)) * np.cos(np.pi / 3 * ky * (y + 0.5))
                        * np.cos(np.pi / 4 * kx * (x + 0.5)))
                cosines.append(wave / np.sqrt((wave**2).sum()))
    products = basis.double().numpy() @ np.stack(cosines).reshape(24, 24).T
    assert np.allclose(np.sort(products, 1)[:, -1], 1, atol=1e-6)       # each is one of them
    assert sorted(products.argmax(1)) == list(range(24))                # and none is missing


@torch.no_grad()
def test_at_initialisation_an_image_is_reconstructed_from_its_lowest_frequencies():
    """z has its lowest coefficients, so the reconstruction is the image without its higher frequencies."""
    torch.manual_seed(0)
    config = cvae_prior.Config(channels=3, size=(8, 16), likelihood='logistic', width=4, latent=9, waves=20)
    net = cvae_prior.Model(config)
    basis = cvae_prior.dct_basis((3, 8, 16), 20)
    coefficients = torch.randn(4, 20) / 4
    pixels = torch.einsum('bn,nchw->bchw', coefficients, basis) + 0.5
    image = (255 * pixels).round().clamp(0, 255).byte()
    label = torch.arange(4)

    eps = net.encode(image, label)
    expected = (pixels.clamp(0, 1) - 0.5).flatten(1) @ torch.linalg.pinv(basis[:9].flatten(1))
    assert torch.allclose(eps, expected, atol=0.02)

    projected = torch.einsum('bn,nchw->bchw', eps, basis[:9]) + 0.5
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


def test_every_parameter_gets_a_gradient_with_a_dct_basis_too():
    net = make('logistic')
    image, label = random_batch(net, 20)
    net(image, label)['loss'].backward()
    for name, p in net.named_parameters():
        assert p.grad.abs().sum() > 0, name


# --- the bound

def test_all_terms_of_the_bounds_are_those_of_torch_distributions(monkeypatch):
    monkeypatch.setattr(torch, 'randn_like', torch.ones_like)       # z = mean + std
    net = make('bernoulli')
    gaussians = randomize(net.prior)
    image, label = random_batch(net)
    sums = net(image, label)
    x = F.pixel_unshuffle(image / 255, 2)
    mean, log_std = net.posterior(x, label)
    std = log_std.exp()
    z = mean + std
    log_px = Bernoulli(logits=net.decode(z, label)).log_prob(x).sum((1, 2, 3))
    log_qz = Normal(mean, std).log_prob(z).sum(1)
    log_pz = torch.stack([gaussians[c].log_prob(row) for c, row in zip(label.tolist(), z)])
    kl = net.prior.kl_divergence(mean, log_std, label).sum()
    assert sums['reconstruction'].item() == pytest.approx(-log_px.sum().item(), rel=1e-5)
    assert sums['kl'].item() == pytest.approx(kl.item(), rel=1e-5)
    assert sums['nll'].item() == pytest.approx((log_qz - log_pz - log_px).sum().item(), rel=1e-5)
    assert sums['count'] == 6


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
    ((12, 8), [(6, 4), (3, 2)]),
    ((40, 24), [(20, 12), (10, 6), (5, 3)]),
    ((64, 64), [(32, 32), (16, 16), (8, 8)])])
@torch.no_grad()
def test_each_stage_has_half_the_resolution(size, resolutions):
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
    randomize(net.prior)
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
    net = make('logistic', size=(4, 4), channels=1, waves=0)
    eps = torch.randn(1, 3)
    label = torch.tensor([2])
    mean, raw_scale, slopes = net.decode(net.prior.unwhiten(eps, label), label).split([4, 4, 6], 1)
    u = torch.rand(100_000, 4, 2, 2)
    x = mean + (u / (1 - u)).log() * (raw_scale.sigmoid() / 4 + 5e-4)
    for i, (c, before) in enumerate([(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]):
        x[:, c] += slopes[:, i] * (x[:, before] - mean[:, before])
    expected = 255 * F.pixel_shuffle(x.mean(0) + 0.5, 2)
    assert (net.generate(eps, label)[0] - expected).abs().max() < 2


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


# --- options

@pytest.mark.parametrize('fields', [
    {'waves': 31}, {'waves': -1}])
def test_a_number_of_dct_basis_functions_below_latent_or_above_the_number_of_values_is_an_error(fields):
    with pytest.raises(ValueError, match='waves must be 0 or at least latent=.*, got'):
        cvae_prior.Config(**fields)
