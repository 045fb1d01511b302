"""A conditional variational autoencoder (Kingma & Welling 2014, Sohn et al. 2015): draw an image of a class.

The encoder guesses which latent numbers z an image came from, the decoder makes an image of them. What is
maximised is a lower bound of ln p(image | label), the ELBO: how likely the image is given such a z, minus how
far the guess q(z | image, label) is from the prior N(0, 1), in nats. The prior is the same for every label,
so z holds what a label does not tell: decoded with another, it is another class in the same hand.

    image (B, C, H, W), label (B,) -> features of H / 2, H / 4, H / 8 and 1 x 1, as far as that divides
    label, z -> the levels upwards from 1 x 1, some with a z of their own -> distribution of every pixel

MNIST needs the z at 1 x 1 alone. Photographs have more to tell: with `grids` further levels have a z in every
place, guessed in the light of those above (Sønderby et al. 2016), so that layout comes before texture. What
is finer still no z need tell: of 2 x 2 pixels each may lean on the ones before it.
"""
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Config:
    n_class: int = 10               # filled from the data set
    channels: int = 1               # of an image, filled from the data set
    size: tuple = (28, 28)          # height and width of an image, filled from the data set
    likelihood: Literal['bernoulli', 'logistic'] = 'bernoulli'  # pixels drawn black or white; 8-bit values
    width: int = 32                 # filters at half the height and width; twice as many at a quarter, ...
    n_layer: int = 1                # blocks of each level of the encoder, and of the decoder
    latent: int = 32                # dimensions of the z of the whole image
    grids: int = 0                  # levels with a grid of z besides, the coarsest first, all at most
    local: int = 8                  # channels of such a grid
    beta: float = 1.0               # weight of the KL divergence in what is minimised; 1 in the reported loss
    beta_warmup: float = 0.1        # share of the run in which that weight grows from 0
    k: int = 1                      # samples of z per image in evaluation; more make the bound `nll` tighter

    def __post_init__(self):
        problems = [f'{name} must be at least {least}, got {getattr(self, name)}' for least, names in
                    ((1, 'n_class channels width n_layer latent local k'), (0, 'grids beta'))
                    for name in names.split() if getattr(self, name) < least]
        if not 0 <= self.beta_warmup <= 1:
            problems.append(f'beta_warmup must be in [0, 1], got {self.beta_warmup}')
        if any(n % 2 or n < 2 for n in self.size):
            problems.append(f'size must be of even numbers, got {" x ".join(map(str, self.size))}')
        if problems:
            raise ValueError('\n'.join(problems))


class Bernoulli:
    """Pixels that are 1 or 0, drawn anew each time an image is seen, 1 with the probability `brightness`."""

    def __init__(self, channels):
        self.size = channels                    # parameters in each place: the log odds

    def observe(self, image, draw=torch.bernoulli):
        """What is modelled of uint8 images: (B, C, H, W) of 0 and 1, drawn from the brightness in [0, 1]."""
        return draw(image / 255)

    def log_prob(self, theta, x):
        """Log probability in nats of each value: like x, (B, C, H, W)."""
        return -F.binary_cross_entropy_with_logits(theta, x, reduction='none')

    def expectation(self, theta):
        """(B, C, H, W) in [0, 1]: the probability of 1."""
        return theta.sigmoid()


class Logistic:
    """Pixels of 256 values: logistic distributions cut into bins, the outer two without end (Salimans et al.
    2017). The mean of a channel leans on the channels before it, for red tells much about green, and a pixel
    about the one beside it: the channels are those of 2 x 2 pixels."""

    def __init__(self, channels):
        self.parts = channels, channels, channels * (channels - 1) // 2     # means, scales, slopes
        self.size = sum(self.parts)

    def observe(self, image, draw=None):
        """What is modelled of uint8 images: (B, C, H, W) in [-0.5, 0.5]; nothing is drawn."""
        return image / 255 - 0.5

    def means(self, theta, x):
        """Of each channel, given those before it in x."""
        mean, _, slope = theta.split(self.parts, 1)
        shares = [slope[:, c * (c - 1) // 2:c * (c + 1) // 2] * x[:, :c] for c in range(x.size(1))]
        return mean + torch.stack([share.sum(1) for share in shares], 1)

    def log_prob(self, theta, x):
        """Log probability in nats of each value: like x, (B, C, H, W). Over all values it sums to 1."""
        scale = theta.split(self.parts, 1)[1].sigmoid() / 4 + 5e-4          # at least an eighth of a bin
        away = x - self.means(theta, x)
        above, below = (away + 0.5 / 255) / scale, (away - 0.5 / 255) / scale
        # sigmoid(above) - sigmoid(below) = sigmoid(above) sigmoid(-below) (1 - exp(below - above)): no small
        # difference of large numbers. In the outer bins one edge is infinite, and two factors are 1.
        first, last = x < -0.499, x > 0.499     # -0.5 and 0.5, but for rounding
        return (F.logsigmoid(above).masked_fill(last, 0) + F.logsigmoid(-below).masked_fill(first, 0)
                + torch.log(-torch.expm1(-1 / 255 / scale)).masked_fill(first | last, 0))

    def expectation(self, theta):
        """(B, C, H, W), about [0, 1]: the mean, each channel's from the means of those before it."""
        x = torch.zeros_like(theta[:, :self.parts[0]])
        for _ in range(self.parts[0]):
            x = self.means(theta, x)            # a round makes one more channel right
        return x + 0.5


def zero(layer):
    """The layer, with an output of 0 to begin with."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    """Two convolutions around a shortcut (He et al. 2016); the identity at first, so it needs no norm."""

    def __init__(self, width, kernel=3):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        self.conv2 = zero(nn.Conv2d(width, width, kernel, padding=kernel // 2))

    def forward(self, x):
        return x + self.conv2(F.gelu(self.conv1(F.gelu(x))))


def checked(label, n_class):
    """Labels (B,). Raises ValueError if one of them is no class."""
    if len(label) and not 0 <= label.min() <= label.max() < n_class:
        raise ValueError(f'labels must be from 0 to {n_class - 1}, got {label.min()} to {label.max()}')
    return label


def kl_divergence(mean, log_std):
    """KL(N(mean, std^2) || N(0, 1)) in nats, elementwise (Kingma & Welling 2014, appendix B)."""
    return (mean**2 + torch.expm1(2 * log_std)) / 2 - log_std


class Latent(nn.Module):
    """Where z meets the features of one resolution."""

    def __init__(self, width, n):
        super().__init__()
        self.guess = zero(nn.Conv2d(2 * width, 2 * n, 1))
        self.take = nn.Conv2d(n, width, 1)
        self.gate = nn.Conv2d(width, width, 1)

    def posterior(self, h, features):
        """Mean and log standard deviation, which is at most 0, the prior's, from what the decoder knows so
        far and what the encoder saw: (B, width, H, W) both -> (B, n, H, W) both, float32."""
        mean, sharp = self.guess(F.gelu(torch.cat([h, features], 1))).float().chunk(2, 1)
        return mean, F.logsigmoid(sharp)

    def add(self, h, z):
        """What is known, with z: as much of it as what is known lets in."""
        return h + self.gate(F.gelu(h)).sigmoid() * self.take(z)


class Level(nn.Module):
    """One resolution, on the encoder's way down and on the decoder's way up; `inner`: the width below."""

    def __init__(self, width, inner, stride, depth):
        super().__init__()
        self.encoder = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.down = nn.Conv2d(width, inner, stride, stride)
        self.up = nn.ConvTranspose2d(inner, width, stride, stride)
        self.decoder = nn.Sequential(*(Block(width) for _ in range(depth)))


class Model(nn.Module):
    monitor = 'loss', 'min'

    def __init__(self, config):
        super().__init__()
        self.config = c = config
        sizes = [[n // 2 for n in c.size]]
        while len(sizes) < 3 and not any(n % 2 for n in sizes[-1]):
            sizes.append([n // 2 for n in sizes[-1]])
        widths = [c.width * 2**i for i in range(len(sizes))]
        widths.append(max(2 * widths[-1], c.latent))                    # so that all of z gets through
        strides = [2] * (len(sizes) - 1) + [sizes[-1]]
        self.shapes = [(c.latent, 1, 1), *((c.local, *size) for size in sizes[::-1][:c.grids])]     # of z
        self.pixel = {'bernoulli': Bernoulli, 'logistic': Logistic}[c.likelihood](4 * c.channels)
        self.stem = nn.Conv2d(4 * c.channels, c.width, 3, padding=1)
        self.label_seen = nn.Embedding(c.n_class, c.width)              # one-hot times a matrix
        self.levels = nn.ModuleList(Level(*level, c.n_layer) for level in zip(widths, widths[1:], strides))
        self.latents = nn.ModuleList(Latent(width, n) for width, (n, *_) in zip(widths[::-1], self.shapes))
        self.label_made = nn.Embedding(c.n_class, widths[-1])
        self.mix = nn.ModuleList(Block(widths[-1], 1) for _ in range(c.n_layer))    # of z and label
        self.head = zero(nn.Conv2d(c.width, self.pixel.size, 3, padding=1))

    def features(self, x, label):
        """The encoder: features of every level, 1 x 1 first, of what was observed, 2 x 2 pixels side by side,
        (B, 4 C, H / 2, W / 2)."""
        h, features = self.stem(x) + self.label_seen(label)[:, :, None, None], []
        for level in self.levels:
            features.insert(0, level.encoder(h))
            h = level.down(F.gelu(features[0]))
        return [h, *features]

    def build(self, label, latent):
        """The decoder: parameters of every pixel's distribution, (B, pixel.size, H / 2, W / 2) float32, with
        the z of level i as `latent(i, h)` has it, where h is what was built so far."""
        h = self.label_made(label)[:, :, None, None]
        h = self.latents[0].add(h, latent(0, h))
        for block in self.mix:
            h = block(h)
        for i, level in enumerate(reversed(self.levels), 1):
            h = level.up(F.gelu(h))
            if i < len(self.latents):
                h = self.latents[i].add(h, latent(i, h))
            h = level.decoder(h)
        return self.head(F.gelu(h)).float()

    def infer(self, features, label, noise):
        """Build from the encoder's features: parameters of the pixels, z of every level, KL(q || p) in nats,
        (B,), and ln p(z) - ln q(z), (B,). `noise(mean)`: where in the guess z is, in standard deviations."""
        guesses = []

        def latent(i, h):
            mean, log_std = self.latents[i].posterior(h, features[i])
            e = noise(mean)
            guesses.append((mean + log_std.exp() * e, e, mean, log_std))        # the reparameterisation
            return guesses[-1][0]

        theta = self.build(label, latent)
        kl = sum(kl_divergence(mean, log_std).sum((1, 2, 3)) for _, _, mean, log_std in guesses)
        ratio = sum(((e**2 - z**2) / 2 + log_std).sum((1, 2, 3)) for z, e, _, log_std in guesses)
        return theta, [z for z, *_ in guesses], kl, ratio

    def forward(self, image, label, progress=torch.ones(())):
        """Sums over images (B, C, H, W) uint8 and labels (B,), in nats: loss, to minimise; count, of images;
        reconstruction, what the pixels cost given z; kl, what z costs; and in evaluation nll, -ln p(image |
        label) from k samples of z: on average at least the truth, and the closer the larger k (Burda et al.
        2016, equation 8)."""
        c, x = self.config, F.pixel_unshuffle(self.pixel.observe(image), 2)
        features, k = self.features(x, label), 1 if self.training else c.k
        reconstruction = kl = 0
        weight = torch.full_like(x[:, 0, 0, 0], -torch.inf)     # ln of the sum of p(x, z) / q(z)
        for _ in range(k):                                      # one after the other: k may be large
            theta, _, nats, ratio = self.infer(features, label, torch.randn_like)
            logp = self.pixel.log_prob(theta, x).sum((1, 2, 3))
            reconstruction, kl = reconstruction - logp.sum() / k, kl + nats.sum() / k
            weight = torch.logaddexp(weight, logp + ratio)
        beta = c.beta
        if self.training and c.beta_warmup:
            beta = c.beta * (progress / c.beta_warmup).clamp(max=1)
        loss = reconstruction + beta * kl
        sums = {'loss': loss, 'count': torch.full_like(loss, len(x)), 'reconstruction': reconstruction,
                'kl': kl}
        if not self.training:
            sums['nll'] = (math.log(k) - weight).sum()
        return sums

    def metrics(self, total):
        """Per image, in nats. loss: minus the ELBO. joint_nll: -ln p(image, label), labels equally likely;
        -ln p(image) is at most that, so it is what compares with models that know no labels."""
        names = [name for name in ('reconstruction', 'kl', 'nll') if name in total]
        c, mean = self.config, {name: total[name] / total['count'] for name in names}
        loss = mean['reconstruction'] + mean['kl']
        bits = loss / math.log(2) / (c.channels * math.prod(c.size))
        joint = {'joint_nll': mean['nll'] + math.log(c.n_class)} if 'nll' in mean else {}
        return {'loss': loss, 'bits_per_dim': bits, **mean, **joint}

    # Pictures, uint8 (B, C, H, W): every pixel's expectation, without its own noise. Of MNIST that is the
    # probability of white, as grey.

    @torch.no_grad()
    def encode(self, image, label, generator=None):
        """z of each level, [(B, n, h, w), ...], of uint8 images (B, C, H, W) of labels (B,), whose grey is
        rounded where pixels are black or white: the likeliest, or drawn if there is a `generator`."""
        def noise(mean):
            return torch.randn(mean.shape, generator=generator, device=mean.device)

        label = checked(label, self.config.n_class)
        features = self.features(F.pixel_unshuffle(self.pixel.observe(image, torch.round), 2), label)
        return self.infer(features, label, noise if generator else torch.zeros_like)[1]

    @torch.no_grad()
    def decode(self, latents, label):
        """The pictures of z as `encode` gives them, with labels (B,)."""
        label = checked(label, self.config.n_class)
        x = self.pixel.expectation(self.build(label, lambda i, h: latents[i]))
        return (255 * F.pixel_shuffle(x, 2)).round().clamp(0, 255).byte()

    def sample(self, label, generator=None):
        """New pictures of labels (B,). `generator`, on the model's device, draws z."""
        latents = [torch.randn(len(label), *shape, generator=generator, device=label.device)
                   for shape in self.shapes]
        return self.decode(latents, label)

    def reconstruct(self, image, label, given=None):
        """Images of labels (B,) made anew; with labels `given`, in the same hand but of another class."""
        return self.decode(self.encode(image, label), label if given is None else given)

    def interpolate(self, image_a, image_b, label, steps):
        """From images to other images of the same labels in a straight line of z: (steps, B, C, H, W)."""
        pairs = list(zip(self.encode(image_a, label), self.encode(image_b, label)))
        return torch.stack([self.decode([a.lerp(b, t) for a, b in pairs], label)
                            for t in torch.linspace(0, 1, steps).tolist()])
