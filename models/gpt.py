"""A decoder-only transformer (Radford et al. 2018), modern and small.

Predict the next token from those before it. Each block adds to a residual stream what attention gathers from
earlier positions, then what an MLP makes of each position alone. New since GPT-2: rotary positions (Su et al.
2021), normed queries and keys (Henry et al. 2020), and neither biases nor gains. What this buys:
results/shakespeare_ablation.md.

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
    vocab_size: int = 65            # filled from the data set
    block_size: int = 256           # T, tokens of context
    n_layer: int = 6                # blocks
    n_head: int = 3                 # attention heads; a head is n_embd // n_head wide, rounded down to even
    n_embd: int = 192               # width of the residual stream
    dropout: float = 0.0            # of what each block adds and of the embedding, a share
    pos: Literal['rope', 'sinusoidal', 'learned', 'none'] = 'rope'  # how a position is told
    flash: Literal['auto', True, False] = 'auto'    # True: scaled_dot_product_attention; False: as the paper
                                    # writes it, faster on a CPU; auto: True on CUDA alone
    tie: bool = False               # one matrix for embedding and output
    label_smoothing: float = 0.0    # share of the target spread over the vocabulary; not in the reported loss

    def __post_init__(self):
        problems = [f'{name} must be at least 1, got {getattr(self, name)}'
                    for name in ('vocab_size', 'block_size', 'n_layer', 'n_head') if getattr(self, name) < 1]
        problems += [f'{name} must be in [0, 1), got {getattr(self, name)}'
                     for name in ('dropout', 'label_smoothing') if not 0 <= getattr(self, name) < 1]
        if self.n_embd < 4 * self.n_head:       # of two normed numbers nothing but the order is left
            problems.append(f'n_embd {self.n_embd} gives {self.n_head} heads less than four numbers each')
        if problems:
            raise ValueError('\n'.join(problems))

    @property
    def head_size(self):
        return self.n_embd // self.n_head // 2 * 2


def norm(x):
    return F.layer_norm(x, (x.size(-1),))


def angles(position, width):
    """Angle of each position at width / 2 frequencies of 10000^(-2i / width) radians: (..., width / 2)."""
    return position[..., None] * 10000.0 ** (-torch.arange(0, width, 2, device=position.device) / width)


def rotate(x, cos, sin):
    """Turn each pair (x_i, x_{i + hs / 2}) by its position's angle: scores then depend on distance alone.
    cos and sin (..., T, hs) are of minus the angle in their first half, of the angle in their second."""
    return x * cos.to(x.dtype) + x.roll(x.size(-1) // 2, -1) * sin.to(x.dtype)


class Attention(nn.Module):
    """Every position gathers values from those before it, in n_head independent ways."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        inner = config.n_head * config.head_size
        self.qkv = nn.Linear(config.n_embd, 3 * inner, bias=False)
        self.proj = nn.Linear(inner, config.n_embd, bias=False)

    def forward(self, x, rope, mask, past=None):
        B, T, _ = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.config.n_head, -1).permute(2, 0, 3, 1, 4)  # (3, B, nh, T, hs)
        qk, v = norm(qkv[:2]), qkv[2]
        q, k = rotate(qk, *rope) if rope else qk
        if past is not None:                                    # the cache: of S tokens, the last T are new
            past[0, :, :, -T:], past[1, :, :, -T:] = k, v
            k, v = past                                                                 # (B, nh, S, hs)
        flash = x.is_cuda if self.config.flash == 'auto' else self.config.flash
        y = (F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None) if flash
             else self.weights(q, k, mask) @ v)
        return self.proj(y.transpose(1, 2).reshape(B, T, -1))

    def weights(self, q, k, mask):
        """softmax(q k^T / sqrt(hs) + mask), where -inf is for what a query may not see: (B, nh, T, S)."""
        if mask is None:
            mask = torch.full((q.size(2), k.size(2)), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
        return (q / math.sqrt(q.size(-1)) @ k.mT + mask).softmax(-1).to(q.dtype)


class MLP(nn.Module):
    """What each position makes of what it gathered."""

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

    def forward(self, x, rope, mask, past=None):
        y = self.drop(self.attention(norm(x), rope, mask, past))
        x = x.to(y.dtype) + y               # under autocast the stream takes its branches' dtype
        return x + self.drop(self.mlp(norm(x)))


class Model(nn.Module):
    monitor = 'loss', 'min'

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
        self.init()

    def init(self):
        """GPT-2's: normal weights, smaller where they close a block, so that depth does not swell x."""
        for name, weight in self.named_parameters():
            depth = 2 * self.config.n_layer if name.endswith('proj.weight') else 1
            nn.init.normal_(weight, std=0.02 / math.sqrt(depth))

    def logits(self, tokens):
        """Next-token logits at every position: (B, T) ids -> (B, T, vocab_size), float32."""
        return self.continued(tokens, torch.arange(tokens.size(1), device=tokens.device))

    def continued(self, tokens, position, mask=None, past=None):
        """Logits of (B, T) `tokens` at `position`, (T,) or (B, T). `mask` (B, 1, T, S) is -inf where a query
        may not look; None: ahead of itself. `past` (n_layer, 2, B, nh, S, hs) has the keys and values of
        those before and is given the T new ones at its end; None if there are none before."""
        x, rope = self.embed(tokens), None
        if self.config.pos == 'learned':
            x = x + self.embed_pos(position)
        elif self.config.pos == 'sinusoidal':
            angle = angles(position, self.config.n_embd)                        # Vaswani et al. 2017, 3.5
            wave = torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[..., :x.size(-1)]
            x = x + 0.02 * wave             # as large as the embeddings are at first
        elif self.config.pos == 'rope':
            angle = angles(position, self.config.head_size).unsqueeze(-3)       # (..., 1, T, hs / 2)
            angle = torch.cat([-angle, angle], -1)                              # (..., 1, T, hs)
            rope = angle.cos(), angle.sin()
        x = self.drop(norm(x))
        for i, block in enumerate(self.blocks):
            x = block(x, rope, mask, None if past is None else past[i])
        return self.head(norm(x)).float()

    def forward(self, tokens):
        """Sums over windows (B, T + 1): loss, to minimise; count, of tokens; nll, negative log likelihood."""
        logits, target = self.logits(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()
        nll = loss = F.cross_entropy(logits, target, reduction='sum')
        if smoothing := self.config.label_smoothing:
            loss = F.cross_entropy(logits, target, reduction='sum', label_smoothing=smoothing)
        return {'loss': loss, 'count': torch.full_like(nll, target.numel()), 'nll': nll}

    def metrics(self, total):
        loss = total['nll'] / total['count']
        return {'loss': loss, 'perplexity': math.exp(min(loss, 700))}

    @torch.inference_mode()
    def generate(self, prompts, max_new_tokens, choose, cache=True):
        """Yield (B,) new ids, `max_new_tokens` times; stop whenever you have seen enough.

        prompts: lists of ids, not empty, of different lengths if need be; choose: (B, V) logits -> (B,) ids.
        A full context drops its older half and reads the rest anew. cache=False reads all of it every time.
        """
        device, c = self.embed.weight.device, self.config
        past = torch.zeros(c.n_layer, 2, len(prompts), c.n_head, c.block_size, c.head_size, device=device)
        longest, read = max(map(len, prompts)), 0                           # tokens read into the cache
        tokens = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
        start = torch.tensor([longest - len(p) for p in prompts], device=device)            # of the prompts
        for _ in range(max_new_tokens):
            if tokens.size(1) > c.block_size:
                drop = tokens.size(1) - (c.block_size + 1) // 2
                tokens, start, read = tokens[:, drop:], (start - drop).clamp(min=0), 0
            slot = torch.arange(tokens.size(1), device=device)              # (S,)
            new = slot[read:]                                               # (N,), those not in the cache
            seen = (new[:, None] >= slot) & (slot >= start[:, None, None]) | (new[:, None] == slot)
            mask = torch.where(seen, 0.0, -torch.inf)[:, None]
            position = (new - start[:, None]).clamp(min=0)                  # (B, N)
            room = past[..., :len(slot), :] if cache else None
            yield (chosen := choose(self.continued(tokens[:, read:], position, mask, room)[:, -1]))
            tokens, read = torch.cat([tokens, chosen[:, None]], 1), len(slot) * cache
