"""A conditional variational autoencoder (Kingma & Welling 2014; Sohn et al. 2015): draw an image of a class.

The encoder gives the posterior q(z | x, label) of a latent z given pixels x, the decoder the likelihood
p(x | z, label). Both see the label, so z holds the style only. Training maximises the evidence lower bound:

    ELBO = E_q[ln p(x | z, label)] - KL(q(z | x, label) || p(z)) <= ln p(x | label), with prior p(z) = N(0, I)

    encoder: x (B, C, H, W), label (B,) -> features (B, n_features) -> mean, log_std (B, latent)
    decoder: z (B, latent), label (B,) -> features (B, n_features) -> params (B, n_params, H, W) of the pixels
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
    width: int = 32             # channels at half the resolution; twice as many at a quarter
    latent: int = 16            # dimensions of z
    beta: float = 1.0           # weight of the KL divergence in the loss to minimise; 1 in the reported one
    beta_warmup: float = 0.1    # fraction of the run in which this weight grows from 0
    k: int = 1                  # importance samples per image in evaluation; more make the bound nll tighter

    def __post_init__(self):
        check(self)


def logistic_log_prob(params, x):
    """Return ln p of pixels x (B, C, H, W) in [0, 1], by logistic distributions cut into 256 bins."""
    mean, raw_scale, slope = params.chunk(3, 1)
    residual = x - mean.sigmoid()
    # As in PixelCNN++ (Salimans et al. 2017, equation 3), but B depends on G alone, not on R too.
    before = F.pad(residual[:, :-1], (0, 0, 0, 0, 1, 0))        # the residual of the colour before; of R: 0
    residual = residual - slope * before
    scale = raw_scale.sigmoid() / 4 + 5e-4                      # at least an eighth of a bin
    upper = (residual + 0.5 / 255) / scale
    lower = (residual - 0.5 / 255) / scale
    upper = upper.masked_fill(x > 0.999, math.inf)              # the highest bin has no upper edge
    lower = lower.masked_fill(x < 0.001, -math.inf)             # the lowest bin has no lower edge
    # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)): a difference would lose digits.
    return F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(lower - upper))


class Model(nn.Module):
    monitor = 'loss', 'min'     # the metric that chooses best.pt: -ELBO
    makes = 'images'            # samples/images.py shows what it can do

    def __init__(self, config):
        super().__init__()
        self.config = config
        C = config.channels
        width = config.width
        H, W = config.size
        shape = 2 * width, H // 4, W // 4                       # of the features
        n_features = math.prod(shape)
        n_params = C if config.likelihood == 'bernoulli' else 3 * C
        self.encoder = nn.Sequential(
            nn.Conv2d(C, width, 4, 2, 1),                       # kernel 4, stride 2, padding 1: half the size
            nn.GELU(),
            nn.Conv2d(width, 2 * width, 4, 2, 1),               # (B, 2 width, H / 4, W / 4)
            nn.Flatten())                                       # (B, n_features)
        self.encoder_class_embed = nn.Embedding(config.n_class, n_features)
        self.to_posterior = nn.Linear(n_features, 2 * config.latent)
        self.from_latent = nn.Linear(config.latent, n_features)
        self.decoder_class_embed = nn.Embedding(config.n_class, n_features)
        self.decoder = nn.Sequential(
            nn.Unflatten(1, shape),                             # (B, 2 width, H / 4, W / 4)
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1),      # twice the size
            nn.GELU(),
            nn.ConvTranspose2d(width, n_params, 4, 2, 1))       # (B, n_params, H, W)

    def posterior(self, x, label):
        """Return mean and log standard deviation of q(z | x, label): two tensors (B, latent)."""
        h = F.gelu(self.encoder(x) + self.encoder_class_embed(label))           # (B, n_features)
        mean, raw_log_std = self.to_posterior(h).float().chunk(2, 1)
        return mean, F.logsigmoid(raw_log_std)                  # std < 1: never wider than the prior

    def decode(self, z, label):
        """Return the params of p(x | z, label): (B, n_params, H, W)."""
        h = F.gelu(self.from_latent(z) + self.decoder_class_embed(label))       # (B, n_features)
        return self.decoder(h).float()

    def forward(self, image, label, progress=torch.ones(())):
        """Return sums in nats over uint8 images (B, C, H, W) and labels (B,). -ELBO is reconstruction + kl;
        nll is the tighter bound of Burda et al. (2016, eq. 8). progress: fraction of the run that is over."""
        x = image / 255
        if self.config.likelihood == 'bernoulli':
            x = torch.bernoulli(x)                              # dynamic binarisation: drawn at each step
        mean, log_std = self.posterior(x, label)
        std = log_std.exp()
        kl = ((mean**2 + std**2 - 1) / 2 - log_std).sum()       # Kingma & Welling 2014, equation 10
        k = 1 if self.training else self.config.k
        reconstruction = 0
        log_weights = []
        for _ in range(k):
            eps = torch.randn_like(std)
            z = mean + std * eps                                # the reparameterisation trick
            params = self.decode(z, label)
            if self.config.likelihood == 'bernoulli':
                log_px = -F.binary_cross_entropy_with_logits(params, x, reduction='none')
            else:
                log_px = logistic_log_prob(params, x)
            log_px = log_px.sum((1, 2, 3))                      # (B,)
            log_pz = -z**2 / 2                                  # ln p(z) + c
            log_qz = -eps**2 / 2 - log_std                      # ln q(z | x, label) + c
            log_weights.append(log_px + (log_pz - log_qz).sum(1))
            reconstruction = reconstruction - log_px.sum() / k
        nll = math.log(k) - torch.stack(log_weights).logsumexp(0)   # - ln of the mean of p(x, z) / q(z | x)
        beta = self.config.beta
        if self.training and self.config.beta_warmup:
            beta = beta * (progress / self.config.beta_warmup).clamp(max=1)
        return {'loss': reconstruction + beta * kl, 'count': torch.full_like(kl, len(x)),
                'reconstruction': reconstruction, 'kl': kl, 'nll': nll.sum()}

    def metrics(self, total):
        """Return means per image in nats. loss is -ELBO; joint_nll bounds -ln p(x, label), hence -ln p(x)."""
        means = {name: total[name] / total['count'] for name in ('reconstruction', 'kl', 'nll')}
        loss = means['reconstruction'] + means['kl']
        n_values = self.config.channels * math.prod(self.config.size)
        return {'loss': loss, **means, 'bits_per_dim': loss / math.log(2) / n_values,
                'joint_nll': means['nll'] + math.log(self.config.n_class)}      # all classes equally likely

    @torch.no_grad()
    def encode(self, image, label, generator=None):
        """Return latents (B, latent) of uint8 images: the posterior's mean, or with a generator a sample."""
        x = image / 255
        if self.config.likelihood == 'bernoulli':
            x = x.round()                                       # binary as in training, but not random
        z, log_std = self.posterior(x, label)
        if generator:
            eps = torch.randn(z.shape, generator=generator, device=z.device)
            z = z + log_std.exp() * eps
        return z

    @torch.no_grad()
    def generate(self, z, label):
        """Return the expected images of latents (B, latent) and labels (B,): (B, C, H, W) uint8."""
        logits = self.decode(z, label)[:, :self.config.channels]        # of the mean, in both likelihoods
        return (255 * logits.sigmoid()).round().byte()

    def sample(self, label, generator=None):
        """Return new images of labels (B,): (B, C, H, W) uint8."""
        z = torch.randn(len(label), self.config.latent, generator=generator, device=label.device)
        return self.generate(z, label)

    def reconstruct(self, image, label, given=None):
        """Return images encoded with their own label and decoded with it or with the label `given`."""
        return self.generate(self.encode(image, label), label if given is None else given)


def check(config):
    """Raise ValueError, with a line per problem, for a configuration that cannot work."""
    problems = []
    for name in ('n_class', 'channels', 'width', 'latent', 'k'):
        if getattr(config, name) < 1:
            problems.append(f'{name} must be at least 1, got {getattr(config, name)}')
    if config.beta < 0:
        problems.append(f'beta must be at least 0, got {config.beta}')
    if not 0 <= config.beta_warmup <= 1:
        problems.append(f'beta_warmup must be in [0, 1], got {config.beta_warmup}')
    if any(length % 4 for length in config.size):
        problems.append(f'size must be multiples of 4, got {config.size}')
    if problems:
        raise ValueError('\n'.join(problems))
