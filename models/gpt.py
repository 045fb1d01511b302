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
from torch.nn.utils.rnn import pad_sequence


@dataclass
class Config:
    vocab_size: int = 65            # filled from the data set
    block_size: int = 256           # context length in tokens
    n_layer: int = 6                # number of blocks
    n_head: int = 3                 # attention heads, each n_embd // n_head wide, rounded down to even
    n_embd: int = 192               # width of the residual stream
    dropout: float = 0.0            # dropout rate of the embedding and of what each block adds
    pos: Literal['rope', 'sinusoidal', 'learned', 'none'] = 'rope'  # positional encoding
    flash: Literal['auto', True, False] = 'auto'    # use scaled_dot_product_attention; auto: only on CUDA
    tie: bool = False               # one matrix for the embedding and the head
    label_smoothing: float = 0.0    # epsilon of the loss that is minimised; the reported loss has none

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
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)                 # (..., T, hs / 2)
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
    """Multi-head self-attention. mask (B, 1, T, S) is -inf where a query may not see a key; None: causal."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        width = config.n_head * config.head_size                # nh * hs
        self.qkv = nn.Linear(config.n_embd, 3 * width, bias=False)
        self.proj = nn.Linear(width, config.n_embd, bias=False)

    def forward(self, x, rope, mask, kv_cache):
        B, T, _ = x.shape
        nh = self.config.n_head
        q, k, v = self.qkv(x).chunk(3, dim=-1)                  # (B, T, nh * hs)
        q = norm(q.view(B, T, nh, -1).transpose(1, 2))          # (B, nh, T, hs), QK norm: |q . k| <= hs
        k = norm(k.view(B, T, nh, -1).transpose(1, 2))          # (B, nh, T, hs)
        v = v.view(B, T, nh, -1).transpose(1, 2)                # (B, nh, T, hs)
        if rope is not None:
            q = apply_rotary_emb(q, *rope)
            k = apply_rotary_emb(k, *rope)
        if kv_cache is not None:                                # (2, B, nh, S, hs): the last T are new
            kv_cache[0, :, :, -T:] = k
            kv_cache[1, :, :, -T:] = v
            k = kv_cache[0]                                     # (B, nh, S, hs)
            v = kv_cache[1]                                     # (B, nh, S, hs)

        flash = x.is_cuda if self.config.flash == 'auto' else self.config.flash
        if flash:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        else:                                                   # the same, written out: faster on a CPU
            if mask is None:
                mask = torch.full((T, T), -torch.inf, dtype=q.dtype, device=x.device).triu(1)
            scores = q / math.sqrt(q.size(-1)) @ k.mT                           # (B, nh, T, S)
            weights = (scores + mask).softmax(-1).to(q.dtype)
            y = weights @ v                                                     # (B, nh, T, hs)
        return self.proj(y.transpose(1, 2).flatten(2))                          # (B, T, n_embd)


class MLP(nn.Module):
    """Position-wise feed-forward network."""

    def __init__(self, config):
        super().__init__()
        self.fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x):
        return self.proj(F.gelu(self.fc(x)))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = Attention(config)
        self.mlp = MLP(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x, rope, mask, kv_cache):
        y = self.drop(self.attention(norm(x), rope, mask, kv_cache))
        x = x.to(y.dtype) + y           # under autocast the residual stream becomes bfloat16 here
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
        for name, weight in self.named_parameters():
            std = 0.02
            if name.endswith('proj.weight'):    # as in GPT-2: depth does not enlarge the residual stream
                std = 0.02 / math.sqrt(2 * config.n_layer)
            nn.init.normal_(weight, std=std)

    def logits(self, tokens, position=None, mask=None, kv_cache=None):
        """Return next-token logits at every position: (B, T) ids -> (B, T, vocab_size), float32.

        Generation also gives each token's position, (B, T), a mask, and a cache of keys and values per block.
        """
        if position is None:
            position = torch.arange(tokens.size(1), device=tokens.device)       # (T,)
        if kv_cache is None:
            kv_cache = [None] * self.config.n_layer
        x = self.embed(tokens)                                                  # (B, T, n_embd)
        rope = None
        if self.config.pos == 'rope':
            angle = rotary_angles(position, self.config.head_size).unsqueeze(-3)    # (..., 1, T, hs / 2)
            rope = angle.cos(), angle.sin()
        elif self.config.pos == 'learned':
            x = x + self.embed_pos(position)
        elif self.config.pos == 'sinusoidal':
            x = x + 0.02 * sinusoids(position, self.config.n_embd)              # as small as x is at first
        x = self.drop(norm(x))
        for block, block_cache in zip(self.blocks, kv_cache):
            x = block(x, rope, mask, block_cache)
        return self.head(norm(x)).float()                                       # (B, T, vocab_size)

    def forward(self, tokens):
        """Return sums over windows (B, T + 1): `loss` to minimise, `count` of tokens, `nll` in nats."""
        logits = self.logits(tokens[:, :-1]).flatten(0, 1)                      # (B * T, vocab_size)
        target = tokens[:, 1:].flatten()                                        # (B * T,)
        epsilon = self.config.label_smoothing
        nll = F.cross_entropy(logits, target, reduction='sum')
        loss = nll
        if epsilon > 0:         # only then: over a large vocabulary, a second cross entropy is slow
            loss = F.cross_entropy(logits, target, reduction='sum', label_smoothing=epsilon)
        count = torch.full_like(nll, target.numel())
        return {'loss': loss, 'count': count, 'nll': nll}

    def metrics(self, total):
        """Return means from the sums over a whole split."""
        loss = total['nll'] / total['count']
        return {'loss': loss, 'perplexity': math.exp(min(loss, 700))}           # exp(710) overflows

    @torch.inference_mode()
    def generate(self, prompts, max_new_tokens, choose, cache=True):
        """Yield the next token of each prompt, (B,) ids, max_new_tokens times.

        prompts: B lists of ids. choose: a function from logits (B, vocab_size) to ids (B,). A context longer
        than block_size keeps its newer half. cache=False: the loop below, for prompts of one length.
        """
        if cache:
            yield from self.generate_cached(prompts, max_new_tokens, choose)
            return
        half = math.ceil(self.config.block_size / 2)
        tokens = torch.tensor(prompts, device=self.embed.weight.device)         # (B, T)
        for _ in range(max_new_tokens):
            if tokens.size(1) > self.config.block_size:
                tokens = tokens[:, -half:]
            logits = self.logits(tokens)[:, -1]                                 # (B, vocab_size)
            next_token = choose(logits)                                         # (B,)
            yield next_token
            tokens = torch.cat([tokens, next_token[:, None]], dim=1)            # (B, T + 1)

    @torch.inference_mode()
    def generate_cached(self, prompts, max_new_tokens, choose):
        """Yield what `generate` yields, but read each token once: its keys and values are kept."""
        config = self.config
        device = self.embed.weight.device
        half = math.ceil(config.block_size / 2)
        rows = [torch.tensor(prompt, device=device) for prompt in prompts]
        length = torch.tensor([len(row) for row in rows], device=device)        # (B,), without padding
        tokens = pad_sequence(rows, batch_first=True, padding_side='left')      # (B, S)
        shape = config.n_layer, 2, len(rows), config.n_head, config.block_size, config.head_size
        kv_cache = self.embed.weight.new_zeros(shape)
        n_cached = 0                            # how many columns of `tokens` have been read
        for _ in range(max_new_tokens):
            if tokens.size(1) > config.block_size:
                length = torch.where(length > config.block_size, half, length)
                tokens = tokens[:, -length.max():]
                n_cached = 0                    # positions have changed, and with them keys and values
            S = tokens.size(1)
            position = torch.arange(S, device=device) - (S - length)[:, None]   # (B, S), padding: negative
            # Padding takes the last position. Causality then hides it from every token, but it sees itself:
            # a softmax over no key at all would be NaN.
            position[position < 0] = config.block_size - 1
            query = position[:, n_cached:]                                      # (B, N), not in the cache
            causal = position[:, None, None, :] <= query[:, None, :, None]      # (B, 1, N, S)
            mask = torch.where(causal, 0.0, -torch.inf)
            logits = self.logits(tokens[:, n_cached:], query, mask, kv_cache[..., :S, :])
            next_token = choose(logits[:, -1])                                  # (B,)
            yield next_token
            tokens = torch.cat([tokens, next_token[:, None]], dim=1)            # (B, S + 1)
            length = length + 1
            n_cached = S


def check(config):
    """Raise ValueError, with a line per problem, for a configuration that cannot work."""
    problems = []
    for name in ('vocab_size', 'block_size', 'n_layer', 'n_head'):
        if getattr(config, name) < 1:
            problems.append(f'{name} must be at least 1, got {getattr(config, name)}')
    for name in ('dropout', 'label_smoothing'):
        if not 0 <= getattr(config, name) < 1:
            problems.append(f'{name} must be in [0, 1), got {getattr(config, name)}')
    if config.n_embd < 4 * config.n_head:       # LayerNorm leaves of 2 numbers only their order
        problems.append(f'n_embd {config.n_embd} leaves {config.n_head} heads fewer than 4 numbers each')
    if problems:
        raise ValueError('\n'.join(problems))
