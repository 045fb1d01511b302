"""models/cvae.py: its likelihoods and bounds against worked examples, torch.distributions and integrals.

What models/cvae_prior.py shares with it is tested here for both.
"""
import math
import re

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

import data
from conftest import events
from models import cvae, cvae_prior

CONFIGS = {
    'bernoulli': {'channels': 1, 'size': (12, 8)},
    'logistic': {'channels': 3, 'size': (8, 16)},
}


both_models = pytest.mark.parametrize('module', [cvae, cvae_prior], ids=['cvae', 'cvae_prior'])


def make(likelihood, module=cvae, **fields):
    """Return a small model away from its initialisation. A prior model of photographs has a DCT basis."""
    torch.manual_seed(0)
    fields = CONFIGS[likelihood] | {'likelihood': likelihood, 'width': 4, 'latent': 3, 'n_class': 5} | fields
    if module is cvae_prior and likelihood == 'logistic':
        fields['waves'] = 20
    net = module.Model(module.Config(**fields))
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
    return torch.arange(256).view(256, 1, 1) / 255


# --- the likelihoods

@pytest.mark.parametrize('C', [1, 3, 4])
@pytest.mark.parametrize('spread', [0.1, 2.0, 30.0])        # of params: 30 gives the extreme scales too
def test_the_probabilities_of_all_values_of_a_channel_sum_to_one(C, spread):
    torch.manual_seed(0)
    for _ in range(20):
        params = spread * torch.randn(1, 3 * C, 1, 1)
        params[:, :C] /= spread                             # means in the image
        params = params.expand(256, -1, -1, -1)
        other_channels = torch.randint(0, 256, (1, C, 1, 1)) / 255
        for c in range(C):
            x = other_channels.repeat(256, 1, 1, 1)
            x[:, c] = all_values()
            log_prob = cvae.logistic_log_prob(params, x)[:, c].double()
            assert torch.isfinite(log_prob).all()
            assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-3)


def test_the_probabilities_of_all_pairs_of_two_channels_sum_to_one():
    torch.manual_seed(0)
    values = torch.arange(256) / 255
    x = torch.cartesian_prod(values, values).view(-1, 2, 1, 1)
    params = torch.randn(1, 6, 1, 1).expand(len(x), -1, -1, -1)
    log_prob = cvae.logistic_log_prob(params, x).double().sum(1)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-3)


def test_a_logistic_probability_is_a_difference_of_two_sigmoids():
    rng = np.random.default_rng(0)
    params = rng.normal(size=(256, 9))
    value = rng.integers(0, 256, (256, 3))
    value[:, 0] = np.arange(256)
    x = value / 255

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    center = sigmoid(params[:, :3])
    scale = sigmoid(params[:, 3:6]) / 4 + 5e-4
    slope = params[:, 6:]
    residual = x - center
    mean = center.copy()
    mean[:, 1] += slope[:, 1] * residual[:, 0]              # green, given red
    mean[:, 2] += slope[:, 2] * residual[:, 1]              # blue, given green
    cdf_above = np.where(value == 255, 1, sigmoid((x + 0.5 / 255 - mean) / scale))
    cdf_below = np.where(value == 0, 0, sigmoid((x - 0.5 / 255 - mean) / scale))
    probability = cdf_above - cdf_below

    tensors = torch.tensor(params)[..., None, None].float(), torch.tensor(x)[..., None, None].float()
    found = cvae.logistic_log_prob(*tensors)[..., 0, 0].double().numpy()
    exact = probability > 1e-6                              # where float64 is precise enough
    assert exact.mean() > 0.9
    assert np.abs(found - np.log(probability.clip(1e-300)))[exact].max() < 1e-3


def test_the_gradient_of_a_logistic_likelihood_is_finite_everywhere():
    x = torch.cat([all_values(), all_values()]).view(1, 1, 16, 32)
    for mean in (-8.0, 0.0, 8.0):
        for raw_scale in (-30.0, 0.0, 30.0):
            params = torch.tensor([mean, raw_scale, 0.0]).view(1, 3, 1, 1).repeat(1, 1, 16, 32)
            params.requires_grad_()
            cvae.logistic_log_prob(params, x).sum().backward()
            assert torch.isfinite(params.grad).all()


def test_reconstruction_and_kl_are_those_of_torch_distributions(monkeypatch):
    monkeypatch.setattr(torch, 'randn_like', torch.ones_like)           # z = mean + std
    net = make('bernoulli')
    image, label = random_batch(net)
    sums = net(image, label)
    x = image / 255
    mean, log_std = net.posterior(x, label)
    posterior = Normal(mean, log_std.exp())
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    likelihood = Bernoulli(logits=net.decode(mean + log_std.exp(), label))
    assert sums['kl'].item() == pytest.approx(kl_divergence(posterior, prior).sum().item(), rel=1e-5)
    assert sums['reconstruction'].item() == pytest.approx(-likelihood.log_prob(x).sum().item(), rel=1e-5)
    assert sums['count'] == 6


def test_binarisation_is_drawn_at_each_call_with_the_brightness_as_probability():
    net = make('bernoulli', size=(40, 52))
    seen = []
    net.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    image = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(-1, -1, 40, 52)
    label = torch.zeros(256, dtype=torch.long)
    for _ in range(2):
        net(image, label)
    first, second = seen
    assert set(first.unique().tolist()) == {0, 1}
    assert not torch.equal(first, second)
    assert (first.mean((1, 2, 3)) - torch.arange(256) / 255).abs().max() < 0.05


# --- the bounds

@both_models
@torch.no_grad()
def test_with_one_sample_the_importance_weighted_bound_is_the_elbo_on_average(module):
    net = make('logistic', module).eval()
    image, label = random_batch(net, 2)
    metrics = net.metrics(net(image.repeat(2000, 1, 1, 1), label.repeat(2000)))
    tolerance = 0.1 if module is cvae else 0.3
    assert metrics['nll'].item() == pytest.approx(metrics['loss'].item(), abs=tolerance)
    assert metrics['kl'] > tolerance


@both_models
@torch.no_grad()
def test_the_importance_weighted_bound_tightens_with_k_towards_the_truth(module):
    """With one latent the truth is an integral over z, here a sum over a fine grid."""
    net = make('bernoulli', module, latent=1, width=16 if module is cvae else 4).eval()
    net.to_posterior.bias.data += torch.tensor([1.0, 2])        # not the true posterior: samples matter
    image, label = random_batch(net, 1)
    grid = torch.linspace(-8, 8, 4001)[:, None]
    labels = label.repeat(4001)
    logits = net.decode(grid, labels)
    if module is cvae:
        x = image / 255
        log_prior = Normal(0, 1).log_prob(grid[:, 0])
    else:
        x = net.preprocess(image)
        T = net.prior.factors()[label, 0, 0]                    # of one dimension: a number
        eps = T * grid[:, 0] + net.prior.bias[label, 0]
        log_prior = Normal(0, 1).log_prob(eps) + T.log()
    log_likelihood = Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3))
    truth = -((log_likelihood + log_prior).logsumexp(0) + math.log(16 / 4000)).item()
    nll = {}
    elbo = {}
    for k in (1, 5, 50, 500):
        net.config.k = k
        metrics = net.metrics(net(image.repeat(200, 1, 1, 1), label.repeat(200)))
        nll[k] = metrics['nll'].item()
        elbo[k] = metrics['loss'].item()
    assert nll[1] > nll[5] + 0.01
    assert nll[5] > nll[50]
    assert nll[50] > nll[500] - 0.01
    assert nll[1] == pytest.approx(elbo[1], abs=0.2)            # the KL divergence is exact in one of them
    assert nll[500] < min(elbo.values()) - 0.02
    assert nll[500] == pytest.approx(truth, abs=0.02)


@both_models
@pytest.mark.parametrize('likelihood', CONFIGS)
@torch.no_grad()
def test_metrics_are_means_per_image_and_per_value(likelihood, module):
    net = make(likelihood, module).eval()
    image, label = random_batch(net)
    sums = net(image, label)
    metrics = net.metrics(sums)
    elbo = (sums['reconstruction'] + sums['kl']).item() / 6
    assert set(metrics) == {'loss', 'bits_per_dim', 'reconstruction', 'kl', 'nll', 'joint_nll'}
    assert metrics['loss'].item() == pytest.approx(elbo)
    assert metrics['bits_per_dim'].item() == pytest.approx(elbo / image[0].numel() / math.log(2))
    assert metrics['joint_nll'].item() == pytest.approx(metrics['nll'].item() + math.log(5))


@both_models
@pytest.mark.parametrize('fields, weights', [
    ({'beta_warmup': 0.5}, {0.0: 0, 0.25: 0.5, 0.5: 1, 1.0: 1}),
    ({'beta': 3.0, 'beta_warmup': 0.1}, {0.05: 1.5, 0.5: 3}),
    ({'beta': 2.0, 'beta_warmup': 0.0}, {0.0: 2})])
@torch.no_grad()
def test_beta_grows_with_progress_in_the_objective_and_is_one_in_the_reported_loss(module, fields, weights):
    net = make('logistic', module, **fields)
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
def test_encoder_and_decoder_both_see_the_label(likelihood):
    net = make(likelihood)
    image, label = random_batch(net)
    other = (label + 1) % 5
    for one, two in zip(net.posterior(image / 255, label), net.posterior(image / 255, other)):
        assert not torch.allclose(one, two, atol=1e-4)
    z = torch.zeros(6, 3)
    assert not torch.allclose(net.decode(z, label), net.decode(z, other), atol=1e-4)


@pytest.mark.parametrize('size', [(4, 8), (28, 28), (32, 32)])
@torch.no_grad()
def test_images_of_every_multiple_of_4_are_encoded_and_generated(size):
    net = make('logistic', size=size)
    image, label = random_batch(net, 2)
    assert net.encode(image, label).shape == (2, 3)
    assert net.decode(torch.zeros(2, 3), label).shape == (2, 9, *size)
    assert net.sample(label).shape == image.shape


@pytest.mark.parametrize('likelihood', CONFIGS)
def test_under_autocast_the_sums_are_float32_and_it_compiles(likelihood):
    net = make(likelihood)
    image, label = random_batch(net)
    with torch.autocast('cpu', torch.bfloat16):
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
def test_a_generated_image_is_the_mean_of_the_likelihood():
    """For the logistic likelihood, against values drawn channel by channel: mean + scale ln(u / (1 - u))."""
    net = make('logistic', size=(4, 4))
    z = torch.randn(1, 3)
    label = torch.tensor([2])
    mean, raw_scale, slope = net.decode(z, label).chunk(3, 1)
    u = torch.rand(100_000, 3, 4, 4)
    noise = (u / (1 - u)).log() * (raw_scale.sigmoid() / 4 + 5e-4)
    x = mean.sigmoid() + noise
    for c in (1, 2):
        x[:, c] += slope[:, c] * (x[:, c - 1] - mean[:, c - 1].sigmoid())
    assert (net.generate(z, label)[0] - 255 * x.mean(0)).abs().max() < 2

    net = make('bernoulli')
    expected = 255 * net.decode(z, label).sigmoid()
    assert (net.generate(z, label) - expected).abs().max() < 0.51


@both_models
@pytest.mark.parametrize('likelihood', CONFIGS)
def test_images_repeat_with_their_seed(likelihood, module):
    net = make(likelihood, module).eval()
    label = torch.tensor([0, 1, 2, 2])
    first, again, other = (net.sample(label, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.dtype == torch.uint8
    assert first.shape == (4, net.config.channels, *net.config.size)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    grey = torch.arange(first.numel()).byte().view(first.shape)         # is not binarised at random
    assert torch.equal(net.reconstruct(grey, label), net.reconstruct(grey, label))


@torch.no_grad()
def test_encode_returns_the_mean_of_the_posterior_or_samples_of_it():
    net = make('bernoulli').eval()
    image, label = random_batch(net, 1)
    mean, log_std = net.posterior(image / 255, label)
    assert torch.equal(net.encode(image, label), mean)
    assert torch.equal(net.encode(image // 2 + 50, label), mean)        # 50 and 177 are rounded to 0 and 255
    repeated = image.repeat(20_000, 1, 1, 1), label.repeat(20_000)
    z = net.encode(*repeated, torch.Generator().manual_seed(3))
    assert torch.equal(z, net.encode(*repeated, torch.Generator().manual_seed(3)))
    assert torch.allclose(z.mean(0), mean[0], atol=0.03)
    assert torch.allclose(z.T.cov(), torch.diag(log_std[0].exp()**2), atol=0.03)


@both_models
@pytest.mark.parametrize('likelihood', CONFIGS)
def test_a_given_label_changes_the_decoding_only(likelihood, module):
    net = make(likelihood, module).eval()
    image, label = random_batch(net)
    z = net.encode(image, label)
    other = (label + 1) % 5
    assert torch.equal(net.reconstruct(image, label), net.generate(z, label))
    assert torch.equal(net.reconstruct(image, label, given=other), net.generate(z, other))
    assert not torch.equal(net.generate(z, label), net.generate(z, other))


@both_models
@pytest.mark.parametrize('label', [-1, 5])
def test_a_label_that_is_not_a_class_is_an_error(label, module):
    net = make('bernoulli', module).eval()
    image, own = random_batch(net, 1)
    wrong = torch.tensor([label])
    for call in (lambda: net.sample(wrong), lambda: net.encode(image, wrong), lambda: net(image, wrong)):
        with pytest.raises(IndexError):
            call()


@both_models
def test_what_the_label_determines_is_learned_from_the_label(module):
    """Class 0 is black and class 1 is white: the decoder obeys a given label, and z has nothing to hold."""
    torch.manual_seed(0)
    net = module.Model(module.Config(n_class=2, size=(4, 4), width=8, latent=2, beta_warmup=0.0))
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

@both_models
@pytest.mark.parametrize('field, value, message', [
    ('n_class', 0, 'n_class must be at least 1, got 0'),
    ('channels', 0, 'channels must be at least 1, got 0'),
    ('width', 0, 'width must be at least 1, got 0'),
    ('latent', 0, 'latent must be at least 1, got 0'),
    ('k', 0, 'k must be at least 1, got 0'),
    ('beta', -1.0, 'beta must be at least 0, got -1.0'),
    ('beta_warmup', 1.5, 'beta_warmup must be in .0, 1., got 1.5'),
    ('size', (28, 30), 'multiples of 4, got .28, 30')])
def test_a_config_that_cannot_work_is_an_error(module, field, value, message):
    with pytest.raises(ValueError, match=message):
        module.Config(**{field: value})


def test_train_py_minimises_what_progress_says_and_evaluates_with_more_samples(launch, tmp_path):
    rng = np.random.default_rng(0)
    splits = {}
    for split, n in (('train', 40), ('val', 11)):
        image = rng.integers(0, 256, (n, 3, 8, 12), np.uint8)
        splits[split] = {'image': image, 'label': np.arange(n) % 4}
    data.save(str(tmp_path / 'x'), splits, info={'n_class': 4, 'channels': 3, 'size': [8, 12]})
    run = f'--out_dir={tmp_path}/run'
    code, text = launch('train.py', '--model=cvae', '--likelihood=logistic', '--width=4', '--beta_warmup=1.0',
                        '--k=2', f'--dataset={tmp_path}/x', run, '--batch_size=8', '--max_iters=4',
                        '--log_interval=1', '--dtype=float32', '--device=cpu')
    assert code == 0, text
    lines = events(tmp_path / 'run')
    assert len(lines) == 4
    for line in lines:
        expected = line['reconstruction'] + (line['step'] - 1) / 4 * line['kl']
        assert line['objective'] == pytest.approx(expected, rel=1e-5)
    assert math.isfinite(events(tmp_path / 'run', 'eval')[-1]['joint_nll'])
    nll = {}
    for k in (1, 50):
        code, text = launch('train.py', '--eval_only', '--model=cvae', f'--k={k}', run)
        assert code == 0, text
        nll[k] = float(re.search(r', nll ([\d.]+)', text)[1])
    assert nll[50] < nll[1]
