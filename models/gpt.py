"""GPT, a decoder-only transformer (Radford et al. 2018, 2019): predict each token from the tokens before it.

Each block adds two things to the residual stream: what causal self-attention gathers from earlier positions,
and what an MLP computes at each position alone. What differs from GPT-2: rotary position embeddings (RoPE, Su
et al. 2021), LayerNorm of queries and keys (QK norm, Henry et al. 2020), LayerNorm after the embedding, no
learnable scale in LayerNorm, no biases, an untied head, exact GELU, no dropout of attention weights. Some of
it is measured in results/shakespeare_ablation.md.

    tokens (B, T + 1) -> x (B, T, n_embd) -> n_layer x Block -> logits (B, T, vocab_size)
"""
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Config:
    vocab_size: int = 50_257        # filled from the data set
    block_size: int = 256           # context length in tokens
    n_layer: int = 6                # number of blocks
    n_head: int = 3                 # attention heads, each n_embd // n_head wide, rounded down to even
    n_embd: int = 192               # width of the residual stream
    dropout: float = 0.0            # dropout rate of the embedding and of what each block adds
    output_dropout: float = 0.0     # dropout rate of what the head reads
    pos: Literal['rope', 'sinusoidal', 'learned', 'none'] = 'rope'  # positional encoding
    flash: Literal['auto', True, False] = 'auto'    # use scaled_dot_product_attention; auto: only on CUDA
    tie: bool = False               # one matrix for the embedding and the head
    n_frequent: int = 0             # adaptive softmax: the shortlist; ids sorted by frequency. 0: plain

    def __post_init__(self):
        check(self)

    @property
    def head_size(self):
        return self.n_embd // self.n_head // 2 * 2              # even, because RoPE rotates pairs


def norm(x):
    return F.layer_norm(x, (x.size(-1),))                       # no learnable scale, no bias


def rotary_angles(position, width):
    """Return position * 10000^(-2i / width) radians for i < width / 2: (..., T) -> (..., T, width / 2)."""
    frequency = 10000.0 ** (-torch.arange(0, width, 2, device=position.device) / width)
    return position[..., None] * frequency


def apply_rotary_emb(x, cos, sin):
    """Rotate each pair (x_i, x_{i + hs / 2}) by its position's angle: q . k then depends on distance only."""
    cos = cos.to(x.dtype)                                       # (..., T, hs / 2)
    sin = sin.to(x.dtype)                                       # (..., T, hs / 2)
    x1, x2 = x.chunk(2, dim=-1)                                 # (B, nh, T, hs / 2)
    y1 = x1 * cos - x2 * sin
    y2 = x1 * sin + x2 * cos
    return torch.cat([y1, y2], dim=-1)                          # (B, nh, T, hs)


def sinusoids(position, width):
    """Return the positional encoding of Vaswani et al. (2017), section 3.5: (..., T) -> (..., T, width)."""
    angle = rotary_angles(position, width)                      # (..., T, width / 2)
    pairs = torch.stack([angle.sin(), angle.cos()], dim=-1)     # (..., T, width / 2, 2)
    return pairs.flatten(-2)[..., :width]                       # an odd width drops the last cosine


class Attention(nn.Module):
    """Causal multi-head self-attention: a position gathers from itself and those before it."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        width = config.n_head * config.head_size
        self.qkv = nn.Linear(config.n_embd, 3 * width, bias=False)
        self.proj = nn.Linear(width, config.n_embd, bias=False)

    def forward(self, x, rope, kv_cache):
        """Return y (B, T, n_embd) of x (B, T, n_embd). A kv_cache (2, B, nh, S, hs) begins with the keys and
        values of S - T earlier positions; those of x are written to its end."""
        B, T, _ = x.shape
        nh = self.config.n_head
        hs = self.config.head_size
        q, k, v = self.qkv(x).chunk(3, dim=-1)                  # (B, T, nh * hs)
        q = q.view(B, T, nh, hs).transpose(1, 2)                # (B, nh, T, hs)
        k = k.view(B, T, nh, hs).transpose(1, 2)                # (B, nh, T, hs)
        v = v.view(B, T, nh, hs).transpose(1, 2)                # (B, nh, T, hs)
        q = norm(q)                                             # QK norm: |q . k| is at most hs
        k = norm(k)
        if rope is not None:
            q = apply_rotary_emb(q, *rope)
            k = apply_rotary_emb(k, *rope)
        if kv_cache is not None:
            kv_cache[..., -T:, :] = torch.stack([k, v])
            k, v = kv_cache.unbind()                            # (B, nh, S, hs): old and new
        S = k.size(2)                                           # without a cache S = T

        flash = self.config.flash
        if flash == 'auto':
            flash = x.is_cuda                                   # on a CPU the formula below is faster
        if flash and S == T:        # for T < S is_causal is wrong: it lets query t see the keys 0 ... t only
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q / math.sqrt(hs) @ k.mT                   # (B, nh, T, S)
            # Query t stands at position S - T + t and sees no later key.
            causal_mask = scores.new_full((T, S), -torch.inf).triu(1 + S - T)
            weights = (scores + causal_mask).softmax(-1)
            y = weights @ v                                     # (B, nh, T, hs)
        y = y.transpose(1, 2).flatten(2)                        # (B, T, nh * hs)
        return self.proj(y)                                     # (B, T, n_embd)


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x):
        x = F.gelu(self.fc(x))                                  # (B, T, 4 * n_embd)
        return self.proj(x)                                     # (B, T, n_embd)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = Attention(config)
        self.mlp = MLP(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x, rope, kv_cache):
        y = self.drop(self.attention(norm(x), rope, kv_cache))
        # Under autocast y is bfloat16. To add in its dtype keeps the residual stream in bfloat16: less memory
        # traffic, the same loss (results/shakespeare_ablation.md).
        x = x.to(y.dtype) + y
        return x + self.drop(self.mlp(norm(x)))


class Model(nn.Module):
    monitor = 'loss', 'min'     # the metric that chooses best.pt
    makes = 'text'              # samples/text.py shows what it can do

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        if config.pos == 'learned':
            self.embed_pos = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.drop = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie:
            self.head.weight = self.embed.weight
        n = config.n_frequent
        if n:
            # A softmax over many words costs more than the blocks. Of an adaptive one (Grave et al. 2017) the
            # first softmax is over the n most frequent words and two clusters of rarer words. A rare word
            # has p(cluster) p(word | cluster): the logits of a cluster are computed only where the target is
            # in it, and from fewer features. Its matrices are in a ModuleList, so Muon trains them.
            cutoffs = [n, 9 * n]            # where the clusters begin
            self.head = nn.AdaptiveLogSoftmaxWithLoss(config.n_embd, config.vocab_size, cutoffs)
        for name, weight in self.named_parameters():
            std = 0.02
            # The blocks make 2 n_layer additions to the residual stream. These smaller weights keep its
            # variance independent of depth (GPT-2).
            if name.endswith('proj.weight'):
                std = 0.02 / math.sqrt(2 * config.n_layer)
            nn.init.normal_(weight, std=std)

    def features(self, tokens, kv_cache=None):
        """Return what the head reads at every position: (B, T) ids -> x (B, T, n_embd).

        A kv_cache (n_layer, 2, B, nh, S, hs) begins with the keys and values of S - T earlier tokens; those
        of `tokens` are written to its end.
        """
        T = tokens.size(1)
        S = T if kv_cache is None else kv_cache.size(-2)
        caches = [None] * self.config.n_layer if kv_cache is None else kv_cache
        position = torch.arange(S - T, S, device=tokens.device)                 # (T,)
        x = self.embed(tokens)                                                  # (B, T, n_embd)
        rope = None
        if self.config.pos == 'rope':
            angle = rotary_angles(position, self.config.head_size)              # (T, hs / 2)
            rope = angle.cos(), angle.sin()
        elif self.config.pos == 'learned':
            x = x + self.embed_pos(position)
        elif self.config.pos == 'sinusoidal':
            # The embeddings start with a standard deviation of 0.02: sinusoids up to 1 would drown them.
            x = x + 0.02 * sinusoids(position, self.config.n_embd)
        x = self.drop(norm(x))
        for block, block_cache in zip(self.blocks, caches):
            x = block(x, rope, block_cache)
        return F.dropout(norm(x), self.config.output_dropout, self.training)

    def logits(self, tokens, kv_cache=None):
        """Return next-token logits at every position: (B, T) ids -> (B, T, vocab_size), float32.

        An adaptive softmax gives ln p, which are logits as well: their softmax is p.
        """
        x = self.features(tokens, kv_cache)                                     # (B, T, n_embd)
        if self.config.n_frequent:
            log_p = self.head.log_prob(x.flatten(0, 1).float())                 # (B * T, vocab_size)
            return log_p.view(*tokens.shape, -1)
        return self.head(x).float()                                             # (B, T, vocab_size)

    def nll(self, x, target):
        """Return the sum of -ln p(target) in nats over features x (n, n_embd) and targets (n,)."""
        if self.config.n_frequent:
            with torch.autocast(x.device.type, enabled=False):  # the module needs one dtype in all its parts
                nll = -self.head(x.float(), target).output.sum()
            # A cluster without a target would have no gradient, which the optimizer and DDP need.
            return nll + 0 * sum(weight.sum() for weight in self.head.parameters())
        return F.cross_entropy(self.head(x).float(), target, reduction='sum')

    def forward(self, tokens):
        """Return sums over windows (B, T + 1): `loss` in nats and `count` of tokens."""
        x = self.features(tokens[:, :-1])                                       # (B, T, n_embd)
        target = tokens[:, 1:].flatten()                                        # (B * T,)
        loss = self.nll(x.flatten(0, 1), target)
        count = torch.full_like(loss, target.numel())   # a tensor: sums travel between processes together
        return {'loss': loss, 'count': count}

    def metrics(self, total):
        """Return means from the sums over a whole split."""
        loss = total['loss'] / total['count']
        return {'loss': loss, 'perplexity': math.exp(min(loss, 700))}           # exp(710) overflows

    def empty_kv_cache(self, batch_size):
        """Return a kv_cache for block_size tokens: (n_layer, 2, B, nh, block_size, hs)."""
        config = self.config
        shape = config.n_layer, 2, batch_size, config.n_head, config.block_size, config.head_size
        return self.embed.weight.new_zeros(shape)


def check(config):
    """Raise ValueError, with a line per problem, for a configuration that cannot work."""
    problems = []
    for name in ('vocab_size', 'block_size', 'n_layer', 'n_head'):
        if getattr(config, name) < 1:
            problems.append(f'{name} must be at least 1, got {getattr(config, name)}')
    n = config.n_frequent
    if n < 0 or n and not n * 9 < config.vocab_size:
        problems.append(f'n_frequent must be 0 or less than a ninth of the {config.vocab_size} ids, got {n}')
    if n and config.tie:
        problems.append('tie needs a plain softmax, n_frequent=0')
    if n and config.n_embd < 16:        # the last cluster reads n_embd / 16 features
        problems.append(f'n_frequent needs n_embd of at least 16, got {config.n_embd}')
    for name in ('dropout', 'output_dropout'):
        if not 0 <= getattr(config, name) < 1:
            problems.append(f'{name} must be in [0, 1), got {getattr(config, name)}')
    if config.n_embd < 4 * config.n_head:       # QK norm of 2 numbers is always (1, -1) or (-1, 1)
        problems.append(f'n_embd {config.n_embd} leaves {config.n_head} heads fewer than 4 numbers each')
    if problems:
        raise ValueError('\n'.join(problems))
