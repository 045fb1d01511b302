"""The conditional VAE of models/cvae.py (read that first), with what makes photographs obey their label.

The ELBO and the order of this file are the textbook's. Three things are added:

1. A prior p(z | label) for each class: a Gaussian with a full covariance, because photographs of a class have
   less in common in their mean than in how their parts vary together. eps = T z + b, with T and b of the
   class, is N(0, I) whatever the class: it is the style. Another label for the same eps keeps the style.
2. A low-frequency DCT basis. A photograph needs hundreds of latents, more than networks learn to use alone.
   So before training z holds the lowest-frequency DCT coefficients of the image, and the decoder's output is
   the image with these coefficients. The networks learn corrections of both.
3. Blocks of 2 x 2 pixels: x has those of the image (B, C, H, W). The mean of each value is linear in all
   values before it in its block, not only in the colours of its own pixel. The networks have residual blocks
   and go down to a resolution of 1 x 1.

    encoder: x (B, 4 C, H/2, W/2), label (B,) -> features at H/2, H/4, ..., 1 x 1 -> mean, log_std (B, latent)
    decoder: z (B, latent), label (B,) -> features at 1 x 1, ..., H/4, H/2 -> params (B, n_params, H/2, W/2)
"""
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Config:
    n_class: int = 10           # filled from the data set
    channels: int = 1           # C of an image, filled from the data set
    size: tuple = (28, 28)      # (H, W) of an image, filled from the data set
    likelihood: Literal['bernoulli', 'logistic'] = 'bernoulli'  # of a pixel: black or white; 256 values
    width: int = 32             # channels at half the resolution; twice as many at a quarter, and so on
    latent: int = 32            # dimensions of z
    waves: int = 0              # DCT basis functions, at least one for each latent; 0: no DCT basis
    beta: float = 1.0           # weight of the KL divergence in the loss to minimise; 1 in the reported one
    beta_warmup: float = 0.1    # fraction of the run in which this weight grows from 0
    k: int = 1                  # importance samples per image in evaluation; more make the bound nll tighter

    def __post_init__(self):
        check(self)


def logistic_log_prob(params, x):
    """Return ln p of values x (B, C, H, W) in [-0.5, 0.5], by logistic distributions cut into 256 bins.
    As in models/cvae.py, but value c has a mean, a scale and c slopes, one for each value before it."""
    C = x.size(1)
    n_slopes = C * (C - 1) // 2
    mean, raw_scale, slopes = params.split([C, C, n_slopes], 1)
    residual = x - mean
    rows = slopes.split(list(range(C)), 1)                              # row c has c slopes: (B, c, H, W)
    shifts = []
    for c, row in enumerate(rows):
        products = row * residual[:, :c]                                # (B, c, H, W)
        shifts.append(products.sum(1))                                  # (B, H, W)
    residual = residual - torch.stack(shifts, 1)                        # (B, C, H, W)
    scale = raw_scale.sigmoid() / 4 + 5e-4                              # at least an eighth of a bin
    upper = (residual + 0.5 / 255) / scale
    lower = (residual - 0.5 / 255) / scale
    upper = upper.masked_fill(x > 0.499, math.inf)                      # the highest bin has no upper edge
    lower = lower.masked_fill(x < -0.499, -math.inf)                    # the lowest bin has no lower edge
    gap = -torch.expm1(lower - upper)                                   # 1 - exp(lower - upper)
    return F.logsigmoid(upper) + F.logsigmoid(-lower) + gap.log()


class Prior(nn.Module):
    """p(z | label): a Gaussian for each class, given by T and b such that eps = T z + b is N(0, I).
    T is lower triangular with a positive diagonal: T' T can be the inverse of any covariance (Cholesky)."""

    def __init__(self, n_class, latent):
        super().__init__()
        self.shared_factor = nn.Parameter(torch.zeros(latent, latent))
        self.class_factor = nn.Parameter(torch.zeros(n_class, latent, latent))
        self.log_diagonal = nn.Parameter(torch.zeros(n_class, latent))
        self.bias = nn.Parameter(torch.zeros(n_class, latent))

    def factors(self):
        """Return T of every class: (n_class, latent, latent)."""
        below_diagonal = (self.shared_factor + self.class_factor).tril(-1)
        return below_diagonal + self.log_diagonal.exp().diag_embed()

    def whiten(self, z, label):
        """Return eps = T z + b: (B, latent)."""
        with torch.autocast(z.device.type, enabled=False):
            # Multiply each z by the T of every class: to gather a T for each z would take more memory.
            per_class = z @ self.factors().mT                           # (n_class, B, latent)
        row = torch.arange(len(label), device=label.device)
        return per_class[label, row] + self.bias[label]

    def unwhiten(self, eps, label):
        """Return z such that T z + b = eps: (B, latent)."""
        T = self.factors()[label]                                       # (B, latent, latent)
        column = (eps - self.bias[label]).unsqueeze(2)                  # (B, latent, 1)
        z = torch.linalg.solve_triangular(T, column, upper=False)       # (B, latent, 1)
        return z.squeeze(2)

    def kl_divergence(self, mean, log_std, label):
        """Return KL(N(mean, std^2) || p(z | label)) in nats: (B,)."""
        # Whitening does not change it: it is that of N(T mean + b, S) and N(0, I), where S = T std^2 T'.
        eps_mean = self.whiten(mean, label)
        square_norms = self.factors().square().sum(1)                   # (n_class, latent), of T's columns
        variance = torch.exp(2 * log_std)
        trace_terms = variance * square_norms[label]                    # their sum is the trace of S
        log_det_terms = log_std + self.log_diagonal[label]              # their sum is ln det S / 2
        kl = (eps_mean**2 + trace_terms - 1) / 2 - log_det_terms        # (B, latent)
        return kl.sum(1)


def dct_basis(size, n):
    """Return the n DCT-II basis functions of lowest frequency of images of `size` (C, H, W): (n, C, H, W).
    They are orthogonal (Ahmed et al. 1974). Their norms fall with the frequency, as amplitudes in photographs
    do (Field 1987), so that a photograph's coefficients are about N(0, 1)."""
    frequencies = torch.cartesian_prod(*map(torch.arange, size))        # (C H W, 3), in half periods
    kc, ky, kx = frequencies.T
    spatial = torch.sqrt(ky**2 + kx**2)
    magnitude = (1 + 2 * kc) * (1 + spatial)                            # differences of colours are weaker
    lowest = magnitude.argsort(stable=True)[:n]                         # (n,)
    cosines = []                                                        # (n, C), (n, H) and (n, W)
    for k, length in zip(frequencies[lowest].T, size):
        position = torch.arange(length) + 0.5
        angle = math.pi / length * k[:, None] * position                # (n, length)
        cosines.append(F.normalize(angle.cos()))
    basis = torch.einsum('nc,ny,nx->ncyx', *cosines)                    # (n, C, H, W), of norm 1
    # Chosen for CIFAR-10: 90% of the first 512 coefficients of its images have an RMS between 0.7 and 1.7.
    scale = 0.12 * math.prod(size)**0.5
    norm = scale * magnitude[lowest]**-1.25                             # (n,)
    return norm[:, None, None, None] * basis


class Block(nn.Module):
    """Two convolutions with a shortcut (He et al. 2016). conv2 starts at zero, so the block needs no norm."""

    def __init__(self, channels, kernel=3):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, kernel, padding='same')
        self.conv2 = nn.Conv2d(channels, channels, kernel, padding='same')

    def forward(self, x):
        h = self.conv1(F.gelu(x))
        return x + self.conv2(F.gelu(h))


class Stage(nn.Module):
    """The layers of encoder and decoder at one resolution, and between it and the next lower one."""

    def __init__(self, channels, next_channels, stride):
        super().__init__()
        self.encoder = nn.Sequential(Block(channels), nn.GELU())
        self.down = nn.Conv2d(channels, next_channels, stride, stride)
        self.up = nn.ConvTranspose2d(next_channels, channels, stride, stride)
        self.decoder = nn.Sequential(Block(channels), nn.GELU())


class Model(nn.Module):
    monitor = 'loss', 'min'     # the metric that chooses best.pt: -ELBO
    makes = 'images'            # samples/images.py shows what it can do

    def __init__(self, config):
        super().__init__()
        self.config = config
        n_class = config.n_class
        latent = config.latent
        width = config.width
        x_channels = 4 * config.channels
        n_params = x_channels                                   # logits
        if config.likelihood == 'logistic':
            n_params = x_channels * (x_channels + 3) // 2       # means, scales and slopes
        H, W = config.size
        widths = [width, 2 * width]                             # channels at H/2 and H/4
        strides = [2, (H // 4, W // 4)]                         # from H/2 to H/4, to 1 x 1
        if H % 8 == W % 8 == 0:
            widths.append(4 * width)                            # channels at H/8
            strides = [2, 2, (H // 8, W // 8)]                  # from H/2 to H/4, to H/8, to 1 x 1
        top = max(2 * widths[-1], latent)                       # channels at 1 x 1, at least as many as z has
        widths.append(top)
        self.stem = nn.Conv2d(x_channels, width, 3, padding=1)
        self.encoder_class_embed = nn.Embedding(n_class, width)
        self.stages = nn.ModuleList()                           # one for each resolution but 1 x 1
        for channels, next_channels, stride in zip(widths, widths[1:], strides):
            self.stages.append(Stage(channels, next_channels, stride))
        self.to_posterior = nn.Linear(top, 2 * latent)
        self.prior = Prior(n_class, latent)
        self.from_latent = nn.Linear(latent, top)
        self.decoder_class_embed = nn.Embedding(n_class, top)
        # At 1 x 1. In an nn.ModuleList like the stages, because Muon takes only the matrices inside one.
        self.bottleneck = nn.ModuleList([Block(top, kernel=1), nn.GELU()])
        self.head = nn.Conv2d(width, n_params, 3, padding=1)
        if config.waves:
            basis = dct_basis((config.channels, H, W), config.waves)
            basis = F.pixel_unshuffle(basis, 2)                 # (waves, 4 C, H/2, W/2)
            self.register_buffer('basis', basis, persistent=False)      # not in the state_dict: constant
            to_coefficients = nn.Linear(latent, n_class * config.waves)
            self.low_frequency = nn.ModuleDict({'to_coefficients': to_coefficients})  # as in checkpoints
            self.from_low_frequency = nn.Conv2d(x_channels, width, 3, padding=1)
        corrections = 'to_posterior', 'head', 'low_frequency'   # they and all conv2 start at zero
        for name, p in self.named_parameters():
            if 'conv2' in name or name.startswith(corrections):
                nn.init.zeros_(p)

    def preprocess(self, image, binarize=torch.bernoulli):
        """Return the values x whose likelihood is modelled: (B, C, H, W) uint8 -> (B, 4 C, H/2, W/2)."""
        x = image / 255
        if self.config.likelihood == 'bernoulli':
            x = binarize(x)                                     # 0 or 1; torch.bernoulli: with probability x
        else:
            x = x - 0.5
        return F.pixel_unshuffle(x, 2)

    def posterior(self, x, label):
        """Return mean and log standard deviation of q(z | x, label): two tensors (B, latent)."""
        class_embed = self.encoder_class_embed(label)           # (B, width)
        h = self.stem(x) + class_embed[:, :, None, None]        # (B, width, H/2, W/2)
        for stage in self.stages:
            h = stage.encoder(h)
            h = stage.down(h)                                   # after the last: (B, channels, 1, 1)
        h = F.gelu(h).flatten(1)                                # (B, channels)
        h = self.to_posterior(h).float()                        # (B, 2 latent)
        mean, raw_log_std = h.chunk(2, 1)
        if self.config.waves:
            basis = self.basis[:self.config.latent].flatten(1)  # (latent, C H W)
            products = x.flatten(1) @ basis.T                   # (B, latent)
            coefficients = products / basis.square().sum(1)     # of x: the basis is orthogonal
            mean = mean + coefficients
        return mean, F.logsigmoid(raw_log_std)      # std < 1 loses nothing: the prior's scale is learned

    def low_frequency_image(self, z, label):
        """Return the x whose DCT coefficients are z, then zeros, plus corrections: (B, 4 C, H/2, W/2)."""
        n_waves = self.config.waves
        corrections = self.low_frequency.to_coefficients(z)     # learned: (B, n_class * waves)
        corrections = corrections.unflatten(1, (-1, n_waves))   # (B, n_class, waves)
        row = torch.arange(len(label), device=label.device)
        padded = F.pad(z, (0, n_waves - self.config.latent))    # (B, waves)
        coefficients = corrections[row, label] + padded
        with torch.autocast(z.device.type, enabled=False):      # bfloat16 would move x by a bin
            return torch.einsum('bn,nchw->bchw', coefficients, self.basis)

    def decode(self, z, label):
        """Return the params of p(x | z, label): (B, n_params, H/2, W/2)."""
        h = self.from_latent(z) + self.decoder_class_embed(label)
        h = h[:, :, None, None]                                 # (B, channels, 1, 1)
        for layer in self.bottleneck:
            h = layer(h)
        first, *later = self.stages
        for stage in reversed(later):
            h = stage.up(h)
            h = stage.decoder(h)
        h = first.up(h)                                         # (B, width, H/2, W/2)
        if self.config.waves:
            low_frequency = self.low_frequency_image(z, label)  # (B, 4 C, H/2, W/2)
            h = h + self.from_low_frequency(low_frequency)
        h = first.decoder(h)
        params = self.head(h).float()                           # (B, n_params, H/2, W/2)
        if self.config.waves:
            n_means = low_frequency.size(1)                     # 4 C means, or logits, come first
            params[:, :n_means] += low_frequency
        return params

    def forward(self, image, label, progress=torch.ones(())):
        """Return the sums of models/cvae.py over uint8 images (B, C, H, W) and labels (B,), in nats."""
        config = self.config
        x = self.preprocess(image)
        mean, log_std = self.posterior(x, label)
        kl = self.prior.kl_divergence(mean, log_std, label).sum()
        std = log_std.exp()
        k = 1 if self.training else config.k
        reconstruction = 0
        log_weights = []
        for _ in range(k):
            noise = torch.randn_like(mean)
            z = mean + std * noise                              # the reparameterisation trick
            params = self.decode(z, label)
            if config.likelihood == 'bernoulli':
                log_px = -F.binary_cross_entropy_with_logits(params, x, reduction='none')
            else:
                log_px = logistic_log_prob(params, x)
            log_px = log_px.sum((1, 2, 3))                      # (B,)
            eps = self.prior.whiten(z, label)
            log_pz = self.prior.log_diagonal[label] - eps**2 / 2        # ln p(z | label) + c
            log_qz = -noise**2 / 2 - log_std                    # ln q(z | x, label) + c
            log_weights.append(log_px + (log_pz - log_qz).sum(1))
            reconstruction = reconstruction - log_px.sum() / k
        log_weights = torch.stack(log_weights)                  # (k, B), of p(x, z | label) / q(z | x, label)
        nll = math.log(k) - log_weights.logsumexp(0)            # - ln of their mean: (B,)
        beta = config.beta
        if self.training and config.beta_warmup:
            beta = beta * (progress / config.beta_warmup).clamp(max=1)
        loss = reconstruction + beta * kl
        count = torch.full_like(kl, len(x))
        return {'loss': loss, 'count': count, 'reconstruction': reconstruction, 'kl': kl, 'nll': nll.sum()}

    def metrics(self, total):
        """Return means per image in nats. loss is -ELBO; joint_nll bounds -ln p(x, label), hence -ln p(x)."""
        means = {name: total[name] / total['count'] for name in ('reconstruction', 'kl', 'nll')}
        loss = means['reconstruction'] + means['kl']
        n_values = self.config.channels * math.prod(self.config.size)
        bits_per_dim = loss / math.log(2) / n_values
        joint_nll = means['nll'] + math.log(self.config.n_class)        # all classes equally likely
        return {'loss': loss, **means, 'bits_per_dim': bits_per_dim, 'joint_nll': joint_nll}

    @torch.no_grad()
    def encode(self, image, label, generator=None):
        """Return eps (B, latent) of uint8 images: the posterior's mean, or with a generator a sample."""
        x = self.preprocess(image, torch.round)                 # binary as in training, but not random
        z, log_std = self.posterior(x, label)
        if generator:
            noise = torch.randn(z.shape, generator=generator, device=z.device)
            z = z + log_std.exp() * noise
        return self.prior.whiten(z, label)

    @torch.no_grad()
    def generate(self, eps, label):
        """Return the expected images of eps (B, latent) and labels (B,): (B, C, H, W) uint8."""
        z = self.prior.unwhiten(eps, label)
        params = self.decode(z, label)                          # (B, n_params, H/2, W/2)
        n_means = 4 * self.config.channels
        mean = params[:, :n_means]                              # (B, 4 C, H/2, W/2)
        if self.config.likelihood == 'bernoulli':
            mean = mean.sigmoid()
        else:
            mean = mean + 0.5
        image = F.pixel_shuffle(255 * mean, 2)                  # (B, C, H, W)
        return image.round().clamp(0, 255).byte()

    def sample(self, label, generator=None):
        """Return new images of labels (B,): (B, C, H, W) uint8."""
        shape = len(label), self.config.latent
        eps = torch.randn(shape, generator=generator, device=label.device)
        return self.generate(eps, label)

    def reconstruct(self, image, label, given=None):
        """Return images encoded with their own label and decoded with it or with the label `given`."""
        eps = self.encode(image, label)
        if given is not None:
            label = given
        return self.generate(eps, label)


def check(config):
    """Raise ValueError, with a line per problem, for a configuration that cannot work."""
    problems = []
    for name in ('n_class', 'channels', 'width', 'latent', 'k'):
        value = getattr(config, name)
        if value < 1:
            problems.append(f'{name} must be at least 1, got {value}')
    if config.beta < 0:
        problems.append(f'beta must be at least 0, got {config.beta}')
    if not 0 <= config.beta_warmup <= 1:
        problems.append(f'beta_warmup must be in [0, 1], got {config.beta_warmup}')
    if any(length % 4 for length in config.size):
        problems.append(f'size must be multiples of 4, got {config.size}')
    if config.waves and config.waves < config.latent:
        problems.append(f'waves must be 0 or at least latent={config.latent}, got {config.waves}')
    if problems:
        raise ValueError('\n'.join(problems))
