"""models/cvae.py: its likelihoods and bounds against worked examples, numerical integrals and numpy."""
import math, re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from conftest import events
from data import picture
from models import cvae

KINDS = {'bernoulli': dict(channels=1, size=(12, 8)),
         'logistic': dict(channels=3, size=(8, 16), waves=20)}      # of which the first are z


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
    mean, off = t[:, :3].copy(), x - t[:, :3]               # red; green after it; blue after both
    mean[:, 1] += t[:, 6] * off[:, 0]
    mean[:, 2] += t[:, 7] * off[:, 0] + t[:, 8] * off[:, 1]
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

@torch.no_grad()
def a_prior(n=4, classes=3):
    """One that is far from N(0, 1), and the normal distribution in torch's words of each of its classes."""
    torch.manual_seed(0)
    prior = cvae.Prior(classes, n)
    for p in prior.parameters():
        p.copy_(0.4 * torch.randn_like(p))
    T = prior.matrices()
    means = torch.linalg.solve(T, -prior.shift)
    return prior, [torch.distributions.MultivariateNormal(mean, precision_matrix=t.T @ t)
                   for mean, t in zip(means, T)]


@torch.no_grad()
def test_the_prior_of_a_class_is_a_normal_distribution_with_any_covariance():
    prior, normals = a_prior()
    label, z = torch.tensor([2, 0, 1, 1, 2]), torch.randn(5, 4)
    expected = torch.stack([normals[k].log_prob(row) for k, row in zip(label.tolist(), z)])
    assert torch.allclose(prior.log_prob(z, label) - 2 * math.log(2 * math.pi), expected, atol=1e-5)
    assert torch.allclose(prior.z(prior.hand(z, label), label), z, atol=1e-5)
    for k, normal in enumerate(normals):        # and the hand of what it draws is N(0, 1)
        hand = prior.hand(normal.sample((100_000,)), torch.full((100_000,), k))
        assert hand.mean(0).abs().max() < 0.02 and (hand.T.cov() - torch.eye(4)).abs().max() < 0.03


@torch.no_grad()
def test_the_divergence_is_that_of_torch_and_of_monte_carlo():
    prior, normals = a_prior()
    mean, log_std, label = torch.randn(3, 4), torch.randn(3, 4) / 2, torch.arange(3)
    found = prior.kl_divergence(mean, log_std, label)
    for k, normal in enumerate(normals):
        guess = torch.distributions.MultivariateNormal(mean[k], torch.diag(torch.exp(2 * log_std[k])))
        expected = torch.distributions.kl_divergence(guess, normal)
        assert found[k].item() == pytest.approx(expected.item(), rel=1e-4)
        z = guess.sample((200_000,))
        ratio = guess.log_prob(z) - normal.log_prob(z)
        assert found[k].item() == pytest.approx(ratio.mean().item(), rel=0.02)
    fresh, none = cvae.Prior(3, 4), torch.zeros(3, 4)       # N(0, 1) to begin with
    assert torch.equal(fresh.kl_divergence(none, none, label), torch.zeros(3))


@torch.no_grad()
def test_the_bound_from_one_sample_is_the_elbo_on_average():
    net = make('logistic').eval()
    image, label = batch(net, 2)
    total = net(image.repeat(2000, 1, 1, 1), label.repeat(2000))
    metrics = net.metrics(total)
    assert metrics['nll'].item() == pytest.approx(metrics['loss'].item(), abs=0.3) and metrics['kl'] > 1


@torch.no_grad()
def test_the_importance_weighted_bound_tightens_with_k_towards_the_truth():
    """With a z of one number the truth is an integral, here a sum over a fine grid."""
    net = make('bernoulli', latent=1).eval()
    net.guess.bias.data += torch.tensor([1.0, 2])           # beside the truth, and wide, so samples count
    image, label = batch(net, 1)
    grid, same = torch.linspace(-8, 8, 4001)[:, None], label.repeat(4001)
    theta = net.build(grid, same)
    logp = net.pixel.log_prob(theta, observed(net, image).expand(4001, -1, -1, -1)).sum((1, 2, 3))
    prior = net.prior.log_prob(grid, same) - math.log(2 * math.pi) / 2
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
    for one, two in zip(net.posterior(x, label), net.posterior(x, other)):
        assert not torch.allclose(one, two, atol=1e-4)
    z = torch.zeros(6, 3)
    assert not torch.allclose(net.build(z, label), net.build(z, other), atol=1e-4)
    assert not torch.allclose(net.prior.hand(z, label), net.prior.hand(z, other), atol=1e-4)


@pytest.mark.parametrize('size, below', [
    ((28, 28), [(14, 14), (7, 7)]), ((32, 32), [(16, 16), (8, 8), (4, 4)]), ((2, 6), [(1, 3)]),
    ((40, 24), [(20, 12), (10, 6), (5, 3)]), ((64, 64), [(32, 32), (16, 16), (8, 8)])])
@torch.no_grad()
def test_every_level_halves_as_far_as_that_divides(size, below):
    net = make('logistic', size=size)
    image, label = batch(net, 2)
    seen = []
    for level in net.levels:
        level.encoder.register_forward_hook(lambda module, args, h: seen.append(tuple(h.shape[2:])))
    assert net.encode(image, label).shape == (2, 3) and seen == below
    assert net.sample(label).shape == image.shape


# --- the sketch

@pytest.mark.parametrize('size', [(3, 8, 16), (1, 6, 6)])
def test_waves_are_a_basis_from_slow_to_fast(size):
    n = math.prod(size)
    images, strength = cvae.waves(size, 10 * n)             # more than there are: all
    assert images.shape == (n, *size) and strength.shape == (n,)
    assert torch.allclose(images.flatten(1) @ images.flatten(1).T, torch.eye(n), atol=1e-5)
    assert torch.allclose(images[0], torch.full(size, n**-0.5)) and (strength.diff() <= 0).all()
    turns = (images.diff(dim=3).sign().diff(dim=3) != 0).float().mean((1, 2, 3))
    assert turns[:n // 4].mean() < turns[-n // 4:].mean()
    few, _ = cvae.waves(size, 5)
    assert torch.equal(few, images[:5])


@torch.no_grad()
def test_to_begin_with_a_picture_of_slow_waves_is_its_own_sketch():
    """z is how strong they are, so what is made anew is the picture but for its fast waves."""
    torch.manual_seed(0)
    net = cvae.Model(cvae.Config(channels=3, size=(8, 16), likelihood='logistic', width=4, latent=9,
                                 waves=20))
    images, strength = cvae.waves((3, 8, 16), 20)
    strong, label = torch.randn(4, 20) * strength, torch.arange(4)
    slow, fast = (torch.einsum('bn,nchw->bchw', strong[:, part], images[part]) / 4 + 0.5
                  for part in (slice(9), slice(9, None)))
    image = (255 * (slow + fast - 0.5)).round().clamp(0, 255).byte()
    hand = net.encode(image, label)
    inside = (slow + fast - 0.5).clamp(0, 1) - 0.5
    assert torch.allclose(hand, torch.einsum('bchw,nchw->bn', inside, images[:9]) / strength[:9], atol=0.02)
    found = net.decode(hand, label).float()
    projected = torch.einsum('bn,nchw->bchw', hand * strength[:9], images[:9]) + 0.5
    assert (found - (255 * projected).clamp(0, 255)).abs().max() < 1
    assert (found - image).abs().mean() > 1                 # the fast ones are not in it


@torch.no_grad()
def test_each_class_draws_a_sketch_of_its_own():
    net, z, label = make('logistic'), torch.randn(5, 3), torch.arange(5)
    before = net.build(z, label)
    net.draw.bias.view(5, 20)[2] += 1
    changed = (net.build(z, label) != before).flatten(1).any(1)
    assert changed.tolist() == [False, False, True, False, False]


@pytest.mark.parametrize('likelihood', KINDS)
def test_under_autocast_a_sketch_keeps_its_values_and_it_compiles(likelihood):
    torch.manual_seed(0)
    net = cvae.Model(cvae.Config(**KINDS[likelihood] | dict(n_class=5, likelihood=likelihood, width=4,
                                                            latent=9, waves=20)))
    (image, label), z = batch(net), 2 * torch.randn(6, 9)
    expected = net.build(z, label)
    with torch.autocast('cpu', torch.bfloat16):
        assert (net.build(z, label) - expected).abs().max() < 0.1 / 255     # a tenth of a bin
        torch.manual_seed(1)                                # of z, and of the coins
        eager = net(image, label)
        torch._dynamo.reset()
        torch.manual_seed(1)
        found = torch.compile(net, fullgraph=True, backend='eager')(image, label)
    assert found.keys() == eager.keys() and all(value.dtype == torch.float32 for value in found.values())
    assert all(torch.allclose(found[name], eager[name], rtol=1e-5) for name in eager)


def test_a_sketch_may_have_fewer_waves_than_z_has_numbers():
    net = make('logistic', size=(2, 2), latent=30, waves=50)        # 12 are all there are
    image, label = batch(net)
    sums = net(image, label)
    sums['loss'].backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())
    assert net.reconstruct(image, label).shape == image.shape


@pytest.mark.parametrize('likelihood', KINDS)
def test_pictures_repeat_with_their_seed(likelihood):
    net, label = make(likelihood).eval(), torch.tensor([0, 1, 2, 2])
    once, again, other = (net.sample(label, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert once.dtype == torch.uint8 and once.shape == (4, net.config.channels, *net.config.size)
    assert torch.equal(once, again) and not torch.equal(once, other)
    grey = torch.arange(once.numel()).byte().view(once.shape)
    assert torch.equal(*(net.reconstruct(grey, label) for _ in range(2)))


@torch.no_grad()
def test_pictures_go_through_the_prior_of_their_label():
    net = make('logistic').eval()
    for p in net.prior.parameters():
        p.copy_(0.4 * torch.randn_like(p))
    image, label = batch(net)
    z, T = net.posterior(observed(net, image), label)[0], net.prior.matrices()[label]
    hand = torch.einsum('bij,bj->bi', T, z) + net.prior.shift[label]
    assert torch.allclose(net.encode(image, label), hand, atol=1e-4)
    expected = 255 * F.pixel_shuffle(net.pixel.expectation(net.build(z, label)), 2).clamp(0, 1)
    assert (net.decode(hand, label) - expected).abs().max() < 0.51


@torch.no_grad()
def test_a_hand_is_drawn_around_the_likeliest_and_repeats_with_its_seed():
    net = make('bernoulli').eval()
    image, label = (part.repeat_interleave(4000, 0) for part in batch(net, 1))
    once, again = (net.encode(image, label, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(once, again)
    T = net.prior.matrices()[label[0]]
    std = net.posterior(observed(net, image[:1]), label[:1])[1].exp()
    assert torch.allclose(once.mean(0), net.encode(image[:1], label[:1])[0], atol=0.06)
    assert torch.allclose(once.T.cov(), T @ torch.diag(std[0]**2) @ T.T, atol=0.06)


@pytest.mark.parametrize('likelihood', KINDS)
def test_another_label_changes_the_decoding_alone_and_a_line_joins_two_images(likelihood):
    net = make(likelihood).eval()
    image, label = batch(net)
    hand, other = net.encode(image, label), (label + 1) % 5
    assert torch.equal(net.reconstruct(image, label), net.decode(hand, label))
    assert torch.equal(net.reconstruct(image, label, given=other), net.decode(hand, other))
    assert not torch.equal(net.decode(hand, label), net.decode(hand, other))
    line = net.interpolate(image, image.flip(0), label, 5)
    assert line.shape == (5, *image.shape)
    assert torch.equal(line[0], net.decode(hand, label))
    assert torch.equal(line[-1], net.reconstruct(image.flip(0), label))
    half = (hand + net.encode(image.flip(0), label)) / 2
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
    (dict(n_class=0), 'n_class'), (dict(k=0), 'k must be at least 1'), (dict(waves=-1), 'waves must'),
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
    code, text = launch('train.py', '--model=cvae', '--likelihood=logistic', '--width=4', '--waves=40',
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
