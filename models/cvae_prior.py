"""The conditional VAE of models/cvae.py (read that first), with what makes photographs obey their label.

As there, the encoder gives the posterior q(z | x, label) and the decoder the likelihood p(x | z, label), and
training maximises the ELBO, a lower bound of ln p(x | label). Three things are added.

1. A prior p(z | label) for each class: a Gaussian with a learned mean and a full covariance. What photographs
   of a class have in common is less their mean than how their parts vary together: a covariance.
   eps = T z + b, with T and b of the class, whitens z: eps ~ N(0, I) whatever the class, so it is the style.
   Decoding the same eps with another label changes the class and keeps the style.
2. A low-frequency DCT basis. A photograph needs hundreds of latents, more than the networks learn to use by
   themselves. So z starts as the lowest-frequency DCT coefficients of the image, and the decoder's output
   starts as the low-frequency reconstruction from them. The networks learn corrections of both.
3. Blocks of 2 x 2 pixels. The mean of each value is linear in all values before it in its block, and not only
   in the colours of its own pixel. Residual blocks work at half the resolution and less, down to 1 x 1.

    image (B, C, H, W) -> x (B, 4 C, H/2, W/2)
    x, label (B,) -> features at H/2, H/4, H/8, 1 x 1 -> mean, log_std (B, latent) -> z <-> eps (B, latent)
    z, label (B,) -> features at 1 x 1, H/8, H/4, H/2 -> params (B, n_params, H/2, W/2) of the values
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
    n_layer: int = 1            # residual blocks at each resolution, in the encoder and in the decoder
    latent: int = 32            # dimensions of z
    waves: int = 0              # DCT basis functions, those of lowest frequency; 0: none
    beta: float = 1.0           # weight of the KL divergence in the loss to minimise; 1 in the reported one
    beta_warmup: float = 0.1    # fraction of the run in which this weight grows from 0
    k: int = 1                  # importance samples per image in evaluation; more make the bound nll tighter

    def __post_init__(self):
        check(self)


def logistic_log_prob(params, x):
    """Return ln p of values x (B, C, H, W) in [-0.5, 0.5], by logistic distributions cut into 256 bins.

    Salimans et al. 2017, equations 2 and 3. params: the means, the scales, and the slopes, which are stored
    row by row: of value 1 given 0; of 2 given 0 and 1; of 3 given 0, 1 and 2; ...
    """
    C = x.size(1)
    n_slopes = C * (C - 1) // 2
    mean, raw_scale, slopes = params.split([C, C, n_slopes], 1)
    residual = x - mean
    rows = slopes.split(list(range(C)), 1)                      # row c has c slopes
    shifts = []
    for c, row in enumerate(rows):
        shift = row * residual[:, :c]                           # (B, c, H, W)
        shifts.append(shift.sum(1))
    residual = x - (mean + torch.stack(shifts, 1))
    scale = raw_scale.sigmoid() / 4 + 5e-4                      # at least an eighth of a bin
    upper = (residual + 0.5 / 255) / scale
    lower = (residual - 0.5 / 255) / scale
    upper = upper.masked_fill(x > 0.499, math.inf)              # the highest bin has no upper edge
    lower = lower.masked_fill(x < -0.499, -math.inf)            # the lowest bin has no lower edge
    # sigmoid(upper) - sigmoid(lower) = sigmoid(upper) sigmoid(-lower) (1 - exp(lower - upper)): as a product,
    # because subtracting nearly equal numbers loses digits.
    log_width = torch.log(-torch.expm1(-1 / 255 / scale))
    log_width = log_width.masked_fill(x.abs() > 0.499, 0)
    log_upper = F.logsigmoid(upper)
    log_lower = F.logsigmoid(-lower)
    return log_upper + log_lower + log_width


def select_class(per_class, label):
    """Return the vector of each row's class: (B, n_class, n), (B,) -> (B, n)."""
    index = label[:, None, None]
    return per_class.take_along_dim(index, 1).squeeze(1)


class Prior(nn.Module):
    """p(z | label): a Gaussian for each class, given by T and b such that eps = T z + b is N(0, I).

    T' T is the inverse of the covariance. T is lower triangular with a positive diagonal: such a T exists for
    every covariance (Cholesky), and its determinant and inverse are cheap.
    """

    def __init__(self, n_class, latent):
        super().__init__()
        self.shared_factor = nn.Parameter(torch.zeros(latent, latent))
        self.class_factor = nn.Parameter(torch.zeros(n_class, latent, latent))
        self.log_diagonal = nn.Parameter(torch.zeros(n_class, latent))
        self.bias = nn.Parameter(torch.zeros(n_class, latent))

    def factors(self):
        """Return T of every class: (n_class, latent, latent)."""
        factors = self.shared_factor + self.class_factor                # used below the diagonal only
        diagonals = self.log_diagonal.exp().diag_embed()
        return factors.tril(-1) + diagonals

    def whiten(self, z, label):
        """Return eps = T z + b: (B, latent)."""
        with torch.autocast(z.device.type, enabled=False):
            # Each z times the T of every class: to gather the T of each z would take more memory.
            per_class = torch.einsum('kij,bj->bki', self.factors(), z)
            per_class = per_class + self.bias                           # (B, n_class, latent)
        return select_class(per_class, label)

    def unwhiten(self, eps, label):
        """Return z such that T z + b = eps: (B, latent)."""
        per_class = eps[:, None] - self.bias                            # (B, n_class, latent)
        per_class = per_class.permute(1, 2, 0)                          # (n_class, latent, B)
        per_class = torch.linalg.solve_triangular(self.factors(), per_class, upper=False)
        return select_class(per_class.permute(2, 0, 1), label)

    def log_prob(self, z, label):
        """Return ln p(z | label) without the constant -ln(2 pi) latent / 2: (B,)."""
        eps = self.whiten(z, label)
        log_det = self.log_diagonal[label].sum(1)
        return log_det - eps.square().sum(1) / 2

    def kl_divergence(self, mean, log_std, label):
        """Return KL(N(mean, std^2) || p(z | label)) in nats: (B,).

        Whitening does not change it: it is KL(N(T mean + b, T std^2 T') || N(0, I)), which needs the trace of
        this covariance (Kingma & Welling 2014, appendix B).
        """
        square_norms = self.factors().square().sum(1)                   # (n_class, latent), of T's columns
        trace_terms = torch.exp(2 * log_std) * square_norms[label]      # (B, latent)
        mean_terms = self.whiten(mean, label).square()
        log_det = (log_std + self.log_diagonal[label]).sum(1)
        return (trace_terms + mean_terms - 1).sum(1) / 2 - log_det


def dct_basis(size, n):
    """Return the n DCT-II basis functions of lowest frequency of images of `size` (C, H, W), and amplitudes.

    The functions (n, C, H, W) are orthonormal (Ahmed et al. 1974). Along the channels, frequency 0 is the
    brightness, and others are colours. In photographs (Field 1987), a coefficient is about N(0, amplitude^2).
    """
    frequencies = [torch.arange(length) for length in size]
    c, y, x = torch.cartesian_prod(*frequencies).T                      # (C H W,) each
    radius = (y**2 + x**2).sqrt()
    frequency = (1 + 2 * c) * (1 + radius)
    lowest = frequency.argsort(stable=True)[:n]
    cosines = []
    for length, axis in zip(size, (c, y, x)):
        position = torch.arange(length) + 0.5
        cosine = torch.cos(math.pi / length * axis[lowest, None] * position)    # (n, length)
        norm = cosine.norm(dim=1, keepdim=True)
        cosines.append(cosine / norm)
    basis = torch.einsum('nc,ny,nx->ncyx', *cosines)
    scale = 0.12 * math.prod(size)**0.5                                 # that of CIFAR-10
    amplitude = scale * frequency[lowest]**-1.25
    return basis, amplitude


def zero_init(layer):
    """Set weight and bias to zero, so that a correction starts at zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


class LowFrequency(nn.Module):
    """The low-frequency part of x (B, 4 C, H/2, W/2), as DCT coefficients in units of their amplitudes."""

    def __init__(self, config):
        super().__init__()
        size = (config.channels, *config.size)
        basis, amplitude = dct_basis(size, config.waves)
        basis = F.pixel_unshuffle(basis, 2)                             # (waves, 4 C, H/2, W/2)
        self.register_buffer('basis', basis, persistent=False)          # not in the state_dict: constant
        self.register_buffer('amplitude', amplitude, persistent=False)
        self.latent = config.latent
        n_corrections = config.n_class * len(basis)
        self.to_coefficients = nn.Linear(config.latent, n_corrections)
        zero_init(self.to_coefficients)

    def coefficients(self, x):
        """Return the lowest coefficients of x, and zeros where there are fewer than latents: (B, latent)."""
        n = self.latent
        basis = self.basis[:n].flatten(1)
        coefficients = x.flatten(1) @ basis.T
        coefficients = coefficients / self.amplitude[:n]
        return F.pad(coefficients, (0, n - len(basis)))

    def reconstruction(self, z, label):
        """Return the x whose coefficients are z, corrected and continued as learned for the class."""
        n = len(self.basis)
        per_class = self.to_coefficients(z).unflatten(1, (-1, n))       # (B, n_class, n)
        corrections = select_class(per_class, label)
        coefficients = corrections + F.pad(z, (0, n - self.latent))
        with torch.autocast(z.device.type, enabled=False):              # bfloat16 would move x by a bin
            x = coefficients * self.amplitude @ self.basis.flatten(1)
        return x.unflatten(1, self.basis.shape[1:])


class Block(nn.Module):
    """Two convolutions around a shortcut (He et al. 2016). It starts as the identity, so it needs no norm."""

    def __init__(self, channels, kernel=3):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, kernel, padding='same')
        self.conv2 = nn.Conv2d(channels, channels, kernel, padding='same')
        zero_init(self.conv2)

    def forward(self, x):
        h = self.conv1(F.gelu(x))
        return x + self.conv2(F.gelu(h))


def blocks(channels, n):
    """Return n residual blocks in a row."""
    layers = [Block(channels) for _ in range(n)]
    return nn.Sequential(*layers)


class Stage(nn.Module):
    """One resolution: the encoder's blocks and downsampling, the decoder's upsampling and blocks."""

    def __init__(self, channels, next_channels, factor, n_layer):
        super().__init__()
        self.encoder = blocks(channels, n_layer)
        self.down = nn.Conv2d(channels, next_channels, factor, factor)
        self.up = nn.ConvTranspose2d(next_channels, channels, factor, factor)
        self.decoder = blocks(channels, n_layer)


def downsampling_factors(height, width):
    """Return the factor of each stage: twice 2, as long as both sides are even, then what leads to 1 x 1.

    14 x 14 -> 7 x 7 -> 1 x 1: [(2, 2), (7, 7)]. 16 x 16 -> 8 x 8 -> 4 x 4 -> 1 x 1: [(2, 2), (2, 2), (4, 4)].
    """
    factors = []
    while len(factors) < 2 and height % 2 == width % 2 == 0:
        factors.append((2, 2))
        height //= 2
        width //= 2
    return [*factors, (height, width)]


class Model(nn.Module):
    monitor = 'loss', 'min'     # the metric that chooses best.pt: -ELBO
    makes = 'images'            # samples/images.py shows what it can do

    def __init__(self, config):
        super().__init__()
        self.config = config
        C = 4 * config.channels                                 # of x
        n_slopes = C * (C - 1) // 2
        n_params = C if config.likelihood == 'bernoulli' else 2 * C + n_slopes
        H, W = config.size
        factors = downsampling_factors(H // 2, W // 2)
        widths = [config.width]
        for _ in factors:
            widths.append(2 * widths[-1])
        widths[-1] = max(widths[-1], config.latent)             # at 1 x 1, at least as wide as z
        self.stem = nn.Conv2d(C, config.width, 3, padding=1)
        self.encoder_class_embed = nn.Embedding(config.n_class, config.width)
        self.stages = nn.ModuleList()
        for channels, next_channels, factor in zip(widths, widths[1:], factors):
            stage = Stage(channels, next_channels, factor, config.n_layer)
            self.stages.append(stage)
        self.to_posterior = nn.Linear(widths[-1], 2 * config.latent)
        self.prior = Prior(config.n_class, config.latent)
        self.from_latent = nn.Linear(config.latent, widths[-1])
        self.decoder_class_embed = nn.Embedding(config.n_class, widths[-1])
        self.bottleneck = nn.ModuleList()
        for _ in range(config.n_layer):
            self.bottleneck.append(Block(widths[-1], kernel=1))
        self.head = nn.Conv2d(config.width, n_params, 3, padding=1)
        zero_init(self.to_posterior)
        zero_init(self.head)
        if config.waves:
            self.low_frequency = LowFrequency(config)
            self.from_low_frequency = nn.Conv2d(C, config.width, 3, padding=1)

    def preprocess(self, image, binarize=torch.bernoulli):
        """Return the values x whose likelihood is modelled: (B, C, H, W) uint8 -> (B, 4 C, H/2, W/2)."""
        x = image / 255
        if self.config.likelihood == 'bernoulli':
            x = binarize(x)                                     # dynamic binarisation: drawn at each step
        else:
            x = x - 0.5
        return F.pixel_unshuffle(x, 2)

    def posterior(self, x, label):
        """Return mean and log standard deviation of q(z | x, label): two tensors (B, latent)."""
        embed = self.encoder_class_embed(label)
        h = self.stem(x) + embed[:, :, None, None]              # (B, width, H/2, W/2)
        for stage in self.stages:
            h = stage.encoder(h)
            h = stage.down(F.gelu(h))                           # after the last: (B, channels, 1, 1)
        h = F.gelu(h).flatten(1)                                # (B, channels)
        h = self.to_posterior(h)
        mean, raw_log_std = h.float().chunk(2, 1)
        if self.config.waves:
            mean = mean + self.low_frequency.coefficients(x)
        return mean, F.logsigmoid(raw_log_std)                  # std < 1

    def decode(self, z, label):
        """Return the params of p(x | z, label): (B, n_params, H/2, W/2)."""
        h = self.from_latent(z) + self.decoder_class_embed(label)
        h = h[:, :, None, None]                                 # (B, channels, 1, 1)
        for block in self.bottleneck:
            h = block(h)
        for stage in reversed(self.stages[1:]):
            h = stage.up(F.gelu(h))
            h = stage.decoder(h)
        first = self.stages[0]
        h = first.up(F.gelu(h))                                 # (B, width, H/2, W/2)
        if self.config.waves:
            low_frequency = self.low_frequency.reconstruction(z, label)
            h = h + self.from_low_frequency(low_frequency)
        h = first.decoder(h)
        params = self.head(F.gelu(h)).float()
        if self.config.waves:                                   # the first 4 C params are means, or logits
            n_others = params.size(1) - low_frequency.size(1)
            low_frequency = F.pad(low_frequency, (0, 0, 0, 0, 0, n_others))
            params = params + low_frequency
        return params

    def forward(self, image, label, progress=torch.ones(())):
        """Return sums over images (B, C, H, W) uint8 and labels (B,), in nats. reconstruction + kl is -ELBO.
        In evaluation, nll bounds -ln p(x | label) more tightly, by k importance samples (Burda et al. 2016,
        equation 8)."""
        config = self.config
        x = self.preprocess(image)
        mean, log_std = self.posterior(x, label)
        kl = self.prior.kl_divergence(mean, log_std, label).sum()
        k = 1 if self.training else config.k
        reconstruction = 0
        log_weights = []
        for _ in range(k):
            noise = torch.randn_like(mean)
            z = mean + log_std.exp() * noise                    # the reparameterisation trick
            params = self.decode(z, label)
            if config.likelihood == 'bernoulli':
                log_px = -F.binary_cross_entropy_with_logits(params, x, reduction='none')
            else:
                log_px = logistic_log_prob(params, x)
            log_px = log_px.sum((1, 2, 3))                      # (B,)
            reconstruction = reconstruction - log_px.sum() / k
            if not self.training:
                log_pz = self.prior.log_prob(z, label)
                log_qz = (-noise**2 / 2 - log_std).sum(1)       # without the same constant
                log_weights.append(log_px + log_pz - log_qz)
        beta = config.beta
        if self.training and config.beta_warmup:
            beta = beta * (progress / config.beta_warmup).clamp(max=1)
        loss = reconstruction + beta * kl
        sums = {
            'loss': loss,
            'count': torch.full_like(loss, len(x)),
            'reconstruction': reconstruction,
            'kl': kl,
        }
        if not self.training:
            nll = math.log(k) - torch.stack(log_weights).logsumexp(0)
            sums['nll'] = nll.sum()
        return sums

    def metrics(self, total):
        """Return means per image in nats: loss is -ELBO, whatever beta; joint_nll bounds -ln p(x, label)."""
        means = {name: total[name] / total['count'] for name in total}
        n_values = self.config.channels * math.prod(self.config.size)
        means['loss'] = means['reconstruction'] + means['kl']
        means['bits_per_dim'] = means['loss'] / math.log(2) / n_values
        if 'nll' in means:
            means['joint_nll'] = means['nll'] + math.log(self.config.n_class)
        del means['count']
        return means

    @torch.no_grad()
    def encode(self, image, label, generator=None):
        """Return eps (B, latent) of uint8 images: the posterior's mean, or with a generator a sample."""
        x = self.preprocess(image, torch.round)
        z, log_std = self.posterior(x, label)
        if generator:
            noise = torch.randn(z.shape, generator=generator, device=z.device)
            z = z + log_std.exp() * noise
        return self.prior.whiten(z, label)

    @torch.no_grad()
    def generate(self, eps, label):
        """Return the expected images of eps (B, latent) and labels (B,): (B, C, H, W) uint8."""
        z = self.prior.unwhiten(eps, label)
        params = self.decode(z, label)
        mean = params[:, :4 * self.config.channels]
        if self.config.likelihood == 'bernoulli':
            mean = mean.sigmoid()
        else:
            mean = mean + 0.5
        image = F.pixel_shuffle(255 * mean, 2)                  # (B, C, H, W)
        return image.round().clamp(0, 255).byte()

    def sample(self, label, generator=None):
        """Return new images of labels (B,): (B, C, H, W) uint8."""
        shape = (len(label), self.config.latent)
        eps = torch.randn(shape, generator=generator, device=label.device)
        return self.generate(eps, label)

    def reconstruct(self, image, label, given=None):
        """Return images encoded with their own label and decoded with it or with the label `given`."""
        eps = self.encode(image, label)
        return self.generate(eps, label if given is None else given)


def check(config):
    """Raise ValueError, with a line per problem, for a configuration that cannot work."""
    problems = []
    for name in ('n_class', 'channels', 'width', 'n_layer', 'latent', 'k'):
        if getattr(config, name) < 1:
            problems.append(f'{name} must be at least 1, got {getattr(config, name)}')
    for name in ('beta', 'waves'):
        if getattr(config, name) < 0:
            problems.append(f'{name} must be at least 0, got {getattr(config, name)}')
    if not 0 <= config.beta_warmup <= 1:
        problems.append(f'beta_warmup must be in [0, 1], got {config.beta_warmup}')
    if any(length % 2 or length < 2 for length in config.size):
        problems.append(f'size must be of even numbers, got {config.size}')
    if problems:
        raise ValueError('\n'.join(problems))
