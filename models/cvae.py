"""A conditional variational autoencoder (Kingma & Welling 2014, Sohn et al. 2015): draw an image of a class.

The encoder guesses which latent numbers z an image came from, the decoder makes an image of them. What is
maximised is a lower bound of ln p(image | label), the ELBO: how likely the image is given such a z, minus how
far the guess q(z | image, label) is from the prior p(z | label), in nats. Each class has a prior of its own,
normal with any mean and covariance. Whitened by it z becomes a `hand`, N(0, 1) for every label: what a label
does not tell. Coloured by the prior of another class, the same hand draws that class.

    image (B, C, H, W), label (B,) -> features of H / 2, H / 4, H / 8, as far as that divides, then 1 x 1
        -> mean and deviation of z (B, latent) <-> hand (B, latent)
    z, label -> features of 1 x 1, ..., H / 4, H / 2 -> distribution of every pixel

A few numbers tell a digit; a photograph takes hundreds, more than nets find by themselves. So there z starts
as the strengths of the slowest cosine waves in the image; they make a sketch, which the nets correct.
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
    n_layer: int = 1                # residual blocks of each level, of encoder and decoder alike
    latent: int = 32                # dimensions of z
    waves: int = 0                  # cosine waves in the sketch an image starts from; 0: no sketch
    beta: float = 1.0               # weight of the KL divergence in what is minimised; 1 in the reported loss
    beta_warmup: float = 0.1        # share of the run in which that weight grows from 0
    k: int = 1                      # samples of z per image in evaluation; more make the bound `nll` tighter

    def __post_init__(self):
        problems = [f'{name} must be at least {least}, got {getattr(self, name)}' for least, names in
                    ((1, 'n_class channels width n_layer latent k'), (0, 'beta waves'))
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
    2017). The mean of a channel is linear in the channels before it: red tells much about green and, as the
    channels are those of 2 x 2 pixels, a pixel about the one beside it."""

    def __init__(self, channels):
        self.parts = channels, channels, channels * (channels - 1) // 2     # means, scales, slopes
        self.size = sum(self.parts)

    def observe(self, image, draw=None):
        """What is modelled of uint8 images: (B, C, H, W) in [-0.5, 0.5]; nothing is drawn."""
        return image / 255 - 0.5

    def means(self, theta, x):
        """The mean of each channel, given those before it in x: like x, (B, C, H, W)."""
        mean, _, slope = theta.split(self.parts, 1)
        off = x - mean
        shares = [slope[:, c * (c - 1) // 2:c * (c + 1) // 2] * off[:, :c] for c in range(x.size(1))]
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
        """(B, C, H, W), about [0, 1]: the mean, where those before are what was expected of them."""
        return theta[:, :self.parts[0]] + 0.5


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


def chosen(every, label):
    """Of each row of `every`, (B, n_class, n), the vector of its class: (B, n)."""
    return every.take_along_dim(label[:, None, None], 1)[:, 0]


class Prior(nn.Module):
    """p(z | label): normal, such that the hand T z + b is N(0, 1). T is lower triangular, for every precision
    matrix, the inverse of a covariance, is T' T of such a T. z and hand: (B, n)."""

    def __init__(self, n_class, n):
        super().__init__()
        self.common = nn.Parameter(torch.zeros(n, n))           # used below the diagonal of T: by all classes
        self.own = nn.Parameter(torch.zeros(n_class, n, n))     # and by each alone
        self.log_diagonal = nn.Parameter(torch.zeros(n_class, n))
        self.shift = nn.Parameter(torch.zeros(n_class, n))      # b

    def matrices(self):
        """T of every class, (n_class, n, n)."""
        return (self.common + self.own).tril(-1) + self.log_diagonal.exp().diag_embed()

    def hand(self, z, label):
        """T z + b: what labels (B,) do not tell of z."""
        with torch.autocast(z.device.type, enabled=False):
            every = torch.einsum('kij,bj->bki', self.matrices(), z) + self.shift        # with every label
        return chosen(every, label)

    def z(self, hand, label):
        """The inverse: z of a hand and labels (B,)."""
        every = (hand[:, None] - self.shift).permute(1, 2, 0)                           # (n_class, n, B)
        every = torch.linalg.solve_triangular(self.matrices(), every, upper=False)
        return chosen(every.permute(2, 0, 1), label)

    def log_prob(self, z, label):
        """ln p(z | label) + n ln(2 pi) / 2: (B,)."""
        return self.log_diagonal[label].sum(1) - self.hand(z, label).square().sum(1) / 2

    def kl_divergence(self, mean, log_std, label):
        """KL(N(mean, std^2) || p(z | label)) in nats, (B,): that of the hand, which has the mean T mean + b
        and the covariance T std^2 T', from N(0, 1) (as in Kingma & Welling 2014, appendix B)."""
        variance = torch.exp(2 * log_std) * self.matrices().square().sum(1)[label]      # sums to the trace
        square = self.hand(mean, label).square()
        return (variance + square - 1).sum(1) / 2 - (log_std + self.log_diagonal[label]).sum(1)


def waves(size, n):
    """The n slowest cosine waves (Ahmed et al. 1974) of images of size (C, H, W), each of length 1, and about
    how strong they are in photographs (Field 1987): (n, C, H, W) and (n,). They run along the channels, too:
    of red, green and blue the slowest is brightness, the others tell the colour."""
    bases = []
    for length in size:
        basis = torch.cos(math.pi / length * torch.arange(length)[:, None] * (torch.arange(length) + 0.5))
        bases.append(basis / basis.norm(dim=1, keepdim=True))
    c, y, x = (axis.flatten() for axis in torch.meshgrid(*map(torch.arange, size), indexing='ij'))
    speed = (1 + 2 * c) * (1 + (y**2 + x**2).sqrt())
    first = speed.argsort(stable=True)[:n]
    images = torch.einsum('nc,ny,nx->ncyx', *(basis[axis[first]] for basis, axis in zip(bases, (c, y, x))))
    return images, 0.12 * math.prod(size)**0.5 * speed[first]**-1.25    # z is about N(0, 1) on CIFAR-10


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
        self.pixel = {'bernoulli': Bernoulli, 'logistic': Logistic}[c.likelihood](4 * c.channels)
        self.stem = nn.Conv2d(4 * c.channels, c.width, 3, padding=1)
        self.label_seen = nn.Embedding(c.n_class, c.width)              # one-hot times a matrix
        self.levels = nn.ModuleList(Level(*level, c.n_layer) for level in zip(widths, widths[1:], strides))
        self.guess = zero(nn.Linear(widths[-1], 2 * c.latent))
        self.prior = Prior(c.n_class, c.latent)
        self.take = nn.Linear(c.latent, widths[-1])
        self.label_made = nn.Embedding(c.n_class, widths[-1])
        self.mix = nn.ModuleList(Block(widths[-1], 1) for _ in range(c.n_layer))    # of z and label
        self.head = zero(nn.Conv2d(c.width, self.pixel.size, 3, padding=1))
        if c.waves:
            images, strength = waves((c.channels, *c.size), c.waves)
            self.register_buffer('waves', F.pixel_unshuffle(images, 2).flatten(1), persistent=False)
            self.register_buffer('strength', strength, persistent=False)
            self.draw = zero(nn.Linear(c.latent, c.n_class * len(strength)))    # for each class
            self.sketched = nn.Conv2d(4 * c.channels, c.width, 3, padding=1)

    def posterior(self, x, label):
        """The encoder: mean and log standard deviation, at most 0, of z, (B, latent) float32 both. x is what
        was observed, 2 x 2 pixels stacked as channels: (B, 4 C, H / 2, W / 2)."""
        h = self.stem(x) + self.label_seen(label)[:, :, None, None]
        for level in self.levels:
            h = level.down(F.gelu(level.encoder(h)))
        mean, sharp = self.guess(F.gelu(h).flatten(1)).float().chunk(2, 1)
        if self.config.waves:
            n = self.config.latent
            seen = x.flatten(1) @ self.waves[:n].T / self.strength[:n]
            mean = mean + F.pad(seen, (0, n - seen.size(1)))
        return mean, F.logsigmoid(sharp)

    def build(self, z, label):
        """The decoder: parameters of every pixel's distribution, (B, pixel.size, H / 2, W / 2) float32."""
        c = self.config
        h = (self.take(z) + self.label_made(label))[:, :, None, None]
        for block in self.mix:
            h = block(h)
        for level in reversed(self.levels[1:]):
            h = level.decoder(level.up(F.gelu(h)))
        h = self.levels[0].up(F.gelu(h))
        if c.waves:
            drawn = chosen(self.draw(z).unflatten(1, (c.n_class, -1)), label)   # (B, waves)
            drawn = drawn + F.pad(z, (0, drawn.size(1) - c.latent))             # at first the slowest are z
            with torch.autocast(z.device.type, enabled=False):  # in bfloat16 means would be off by a bin
                sketch = (drawn * self.strength @ self.waves).unflatten(1, (-1, *h.shape[2:]))
            h = h + self.sketched(sketch)
        theta = self.head(F.gelu(self.levels[0].decoder(h))).float()
        if c.waves:                     # the first parameters are the means, or log odds
            theta = theta + F.pad(sketch, (0, 0, 0, 0, 0, theta.size(1) - sketch.size(1)))
        return theta

    def forward(self, image, label, progress=torch.ones(())):
        """Sums over images (B, C, H, W) uint8 and labels (B,), in nats: loss, to minimise; count, of images;
        reconstruction, what the pixels cost given z; kl, what z costs; and in evaluation nll, -ln p(image |
        label) from k samples of z: on average at least the truth, and the closer the larger k (Burda et al.
        2016, equation 8)."""
        c, x = self.config, F.pixel_unshuffle(self.pixel.observe(image), 2)
        mean, log_std = self.posterior(x, label)
        kl, k = self.prior.kl_divergence(mean, log_std, label).sum(), 1 if self.training else c.k
        reconstruction, weights = 0, []                         # ln p(x, z) / q(z) of each sample
        for _ in range(k):                                      # one after the other: k may be large
            e = torch.randn_like(mean)
            z = mean + log_std.exp() * e                        # the reparameterisation
            logp = self.pixel.log_prob(self.build(z, label), x).sum((1, 2, 3))
            reconstruction = reconstruction - logp.sum() / k
            if not self.training:
                logq = (-e**2 / 2 - log_std).sum(1)             # + n ln(2 pi) / 2, as the prior's
                weights.append(logp + self.prior.log_prob(z, label) - logq)
        beta = c.beta
        if self.training and c.beta_warmup:
            beta = c.beta * (progress / c.beta_warmup).clamp(max=1)
        loss = reconstruction + beta * kl
        sums = {'loss': loss, 'count': torch.full_like(loss, len(x)), 'reconstruction': reconstruction,
                'kl': kl}
        if not self.training:
            sums['nll'] = (math.log(k) - torch.stack(weights).logsumexp(0)).sum()
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
        """The hand (B, latent) of uint8 images (B, C, H, W) of labels (B,): the mean of the guess, or drawn
        from it if there is a `generator`. Where pixels are black or white, grey is rounded."""
        label = checked(label, self.config.n_class)
        z, log_std = self.posterior(F.pixel_unshuffle(self.pixel.observe(image, torch.round), 2), label)
        if generator:
            z = z + log_std.exp() * torch.randn(z.shape, generator=generator, device=z.device)
        return self.prior.hand(z, label)

    @torch.no_grad()
    def decode(self, hand, label):
        """The pictures of hands (B, latent) with labels (B,)."""
        z = self.prior.z(hand, checked(label, self.config.n_class))
        x = self.pixel.expectation(self.build(z, label))
        return (255 * F.pixel_shuffle(x, 2)).round().clamp(0, 255).byte()

    def sample(self, label, generator=None):
        """New pictures of labels (B,). `generator`, on the model's device, draws the hands."""
        hand = torch.randn(len(label), self.config.latent, generator=generator, device=label.device)
        return self.decode(hand, label)

    def reconstruct(self, image, label, given=None):
        """Images of labels (B,) made anew; with labels `given`, in the same hand but of another class."""
        return self.decode(self.encode(image, label), label if given is None else given)

    def interpolate(self, image_a, image_b, label, steps):
        """In a straight line between the hands of images of the same labels: (steps, B, C, H, W)."""
        a, b = self.encode(image_a, label), self.encode(image_b, label)
        return torch.stack([self.decode(a.lerp(b, t), label) for t in torch.linspace(0, 1, steps).tolist()])
