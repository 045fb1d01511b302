"""GPT-2 (Radford et al. 2019) as it was published: with OpenAI's weights it computes OpenAI's logits.

    model = Model.from_pretrained('gpt2')       # a folder in Hugging Face's format

Unlike models/gpt.py it has learned positions, no QK norm, no LayerNorm after the embedding, LayerNorm with
scale and bias, biases in all linear layers, dropout of attention weights, GELU's approximation by tanh, and
weight tying: the head is the embedding's matrix.

    tokens (B, T + 1) -> x (B, T, C) -> n_layer x Block -> logits (B, T, vocab_size)

T counts tokens, C is n_embd, nh is n_head, hs is C / nh.
"""
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from data import pretrained_gpt2

SIZES = {       # values of the fields that are not given
    'custom': {},
    '124M': dict(n_layer=12, n_head=12, n_embd=768),        # gpt2: 124,439,808 parameters
    '350M': dict(n_layer=24, n_head=16, n_embd=1024),       # gpt2-medium: 354,823,168
    '774M': dict(n_layer=36, n_head=20, n_embd=1280),       # gpt2-large: 774,030,080
    '1.5B': dict(n_layer=48, n_head=25, n_embd=1600),       # gpt2-xl: 1,557,611,200
}


@dataclass
class Config:
    vocab_size: int = 50_257        # filled from the data set
    block_size: int = 1024          # context length in tokens
    size: Literal['custom', '124M', '350M', '774M', '1.5B'] = '124M'    # fields that are 0 take its values
    n_layer: int = 0                # number of blocks
    n_head: int = 0                 # attention heads, each n_embd / n_head wide
    n_embd: int = 0                 # C, width of the residual stream
    dropout: float = 0.0            # rate, of embeddings, attention weights and what each sub-layer adds

    def __post_init__(self):
        if self.size not in SIZES:
            raise ValueError(f'size {self.size!r} does not exist; there are {", ".join(SIZES)}')
        for name, value in SIZES[self.size].items():
            setattr(self, name, getattr(self, name) or value)
        check(self)


class Attention(nn.Module):
    """Causal multi-head self-attention: a position gathers from itself and those before it."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x, kv_cache):
        """Return y (B, T, C) of x (B, T, C). A kv_cache (2, B, nh, S, hs) begins with the keys and values of
        S - T earlier positions; those of x are written to its end."""
        T = x.size(1)
        qkv = self.qkv(x).unflatten(2, (3, self.config.n_head, -1))         # (B, T, 3, nh, hs)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                                # (B, nh, T, hs)
        if kv_cache is not None:
            kv_cache[..., -T:, :] = torch.stack([k, v])
            k, v = kv_cache.unbind()                                        # (B, nh, S, hs)
        S = k.size(2)
        mask = None
        if S > T:           # query t stands at position S - T + t; is_causal would let it see 0 ... t only
            mask = torch.ones(T, S, dtype=torch.bool, device=x.device).tril(S - T)
        dropout = self.config.dropout if self.training else 0.0
        # models/gpt.py writes it out. At 1,024 tokens this is faster on a CPU, too (results/gpt2.md).
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=S == T)        # (B, nh, T, hs)
        y = y.transpose(1, 2).flatten(2)                                    # (B, T, C)
        return self.proj(y)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.norm1 = nn.LayerNorm(C)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(C)
        self.fc = nn.Linear(C, 4 * C)
        self.proj = nn.Linear(4 * C, C)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x, kv_cache):
        x = x + self.drop(self.attention(self.norm1(x), kv_cache))
        y = F.gelu(self.fc(self.norm2(x)), approximate='tanh')              # (B, T, 4C)
        return x + self.drop(self.proj(y))


class Model(nn.Module):
    monitor = 'loss', 'min'     # the metric that chooses best.pt
    makes = 'text'              # samples/text.py shows what it can do

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        self.embed_pos = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.head.weight = self.embed.weight
        for name, weight in self.named_parameters():
            if name.endswith('bias'):
                nn.init.zeros_(weight)
            elif name.endswith('proj.weight'):      # adds to the residual stream, as 2 n_layer matrices do
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * config.n_layer))
            elif 'norm' not in name:                # a norm's weight begins at 1
                nn.init.normal_(weight, std=0.02)

    def logits(self, tokens, kv_cache=None):
        """Return next-token logits at every position: (B, T) ids -> (B, T, vocab_size), float32.

        A kv_cache (n_layer, 2, B, nh, S, hs) begins with the keys and values of S - T earlier tokens; those
        of `tokens` are written to its end.
        """
        T = tokens.size(1)
        S = T if kv_cache is None else kv_cache.size(-2)
        caches = [None] * self.config.n_layer if kv_cache is None else kv_cache
        position = torch.arange(S - T, S, device=tokens.device)             # (T,)
        x = self.drop(self.embed(tokens) + self.embed_pos(position))        # (B, T, C)
        for block, block_cache in zip(self.blocks, caches):
            x = block(x, block_cache)
        return self.head(self.norm(x)).float()                              # (B, T, vocab_size)

    def forward(self, tokens):
        """Return sums over windows (B, T + 1): `loss` in nats and `count` of tokens."""
        logits = self.logits(tokens[:, :-1]).flatten(0, 1)                  # (B * T, vocab_size)
        target = tokens[:, 1:].flatten()                                    # (B * T,)
        loss = F.cross_entropy(logits, target, reduction='sum')
        return {'loss': loss, 'count': torch.full_like(loss, target.numel())}

    def metrics(self, total):
        """Return means from the sums over a whole split."""
        loss = total['loss'] / total['count']
        return {'loss': loss, 'perplexity': math.exp(min(loss, 700))}       # exp(710) overflows

    def empty_kv_cache(self, batch_size):
        """Return a kv_cache for block_size tokens: (n_layer, 2, B, nh, block_size, hs)."""
        config = self.config
        hs = config.n_embd // config.n_head
        shape = config.n_layer, 2, batch_size, config.n_head, config.block_size, hs
        return self.embed.weight.new_zeros(shape)

    @classmethod
    def from_pretrained(cls, folder):
        """Load the model from a folder in Hugging Face's format. Return it in eval mode."""
        fields, weights = pretrained_gpt2.read(folder)
        model = cls(Config(**fields))
        pretrained_gpt2.load_weights(model, weights)
        return model.eval()


def check(config):
    """Raise ValueError, with a line per problem, for a configuration that cannot work."""
    problems = []
    for name in ('vocab_size', 'block_size', 'n_layer', 'n_head', 'n_embd'):
        if getattr(config, name) < 1:
            problems.append(f'{name} must be at least 1, got {getattr(config, name)}')
    if not 0 <= config.dropout < 1:
        problems.append(f'dropout must be in [0, 1), got {config.dropout}')
    if config.n_head > 0 and config.n_embd % config.n_head:
        problems.append(f'n_embd {config.n_embd} must be divisible by n_head, {config.n_head}')
    if problems:
        raise ValueError('\n'.join(problems))
