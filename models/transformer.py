"""The encoder-decoder transformer of "Attention Is All You Need" (Vaswani et al. 2017), for translation.

The encoder reads a sentence, every word looking at every other. The decoder writes another, word by word:
each looks at those before it, then at what the encoder made of the source, and says what comes next. In
training all words are written at once: the target moved one to the right goes in, the target should come out.

    src (B, S) -> x (B, S, n_embd) -> n_layer x EncoderLayer -> a memory of keys and values
    tgt (B, T) -> x (B, T, n_embd) -> n_layer x DecoderLayer, which look there -> logits (B, T, vocab_size)

Numbers in brackets are the paper's sections. Id 0 is padding, and the start token of a target; id 1 ends it.
"""
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Config:
    vocab_size: int = 8000          # of both languages together, filled from the data set
    block_size: int = 256           # tokens of the longest sentence
    n_layer: int = 6                # blocks of the encoder, and as many of the decoder
    n_head: int = 8                 # attention heads, n_embd / n_head wide
    n_embd: int = 512               # width of the residual streams (d_model)
    n_hidden: int = 2048            # width of the feed-forward's inner layer (d_ff)
    dropout: float = 0.1            # of the embeddings and of what each sub-layer adds, a share
    norm: Literal['pre', 'post'] = 'pre'    # where LayerNorm stands: before a sub-layer, or after, as in 2017
    tie: bool = True                # one matrix for source, target and output
    flash: Literal['auto', True, False] = 'auto'    # True: scaled_dot_product_attention; False: as the paper
                                    # writes it, faster on a CPU; auto: True on CUDA alone
    label_smoothing: float = 0.1    # share of the target spread over the vocabulary; not in the reported loss

    def __post_init__(self):
        names = 'vocab_size block_size n_layer n_head n_embd n_hidden'.split()
        problems = [f'{name} must be at least 1, got {getattr(self, name)}' for name in names
                    if getattr(self, name) < 1]
        problems += [f'{name} must be in [0, 1), got {getattr(self, name)}'
                     for name in ('dropout', 'label_smoothing') if not 0 <= getattr(self, name) < 1]
        if not problems and (self.n_embd % self.n_head or self.n_embd % 2):
            problems.append(f'n_embd {self.n_embd} must be even and divisible by n_head {self.n_head}')
        if problems:
            raise ValueError('\n'.join(problems))


def sinusoids(position, width):
    """Sines and cosines of each position (T,), of wavelengths from 2 pi to 10000 x 2 pi (3.5): (T, width)."""
    angle = position[:, None] * 10000.0 ** (-torch.arange(0, width, 2, device=position.device) / width)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


class Dropout(nn.Module):
    """What nn.Dropout does, in less time on a CPU."""

    def __init__(self, config):
        super().__init__()
        self.p = config.dropout

    def forward(self, x):
        if not self.training or not self.p:
            return x
        # rand_like of a bfloat16 would be too coarse: 1 / 256
        return x * (torch.rand(x.shape, device=x.device) >= self.p) / (1 - self.p)


class Attention(nn.Module):
    """Queries look keys up and gather their values, in n_head independent ways (3.2)."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.q = nn.Linear(config.n_embd, config.n_embd)
        self.kv = nn.Linear(config.n_embd, 2 * config.n_embd)
        self.proj = nn.Linear(config.n_embd, config.n_embd)

    def keys_values(self, x):
        """The keys and values of (B, S, C): (2, B, nh, S, hs)."""
        return self.kv(x).unflatten(2, (2, self.config.n_head, -1)).permute(2, 0, 3, 1, 4)

    def queries(self, x):
        """The queries of (B, T, C): (B, nh, T, hs)."""
        return self.q(x).unflatten(2, (self.config.n_head, -1)).transpose(1, 2)

    def weights(self, x, kv, mask):
        """softmax(q k^T / sqrt(hs) + mask), where -inf is for what a query may not see: (B, nh, T, S)."""
        q = self.queries(x)
        return (q / math.sqrt(q.size(-1)) @ kv[0].mT + mask).softmax(-1).to(q.dtype)        # equation (1)

    def forward(self, x, kv, mask):
        flash = x.is_cuda if self.config.flash == 'auto' else self.config.flash
        y = (F.scaled_dot_product_attention(self.queries(x), *kv, mask) if flash
             else self.weights(x, kv, mask) @ kv[1])
        return self.proj(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """What each position makes of what it gathered (3.3)."""

    def __init__(self, config):
        super().__init__()
        self.fc = nn.Linear(config.n_embd, config.n_hidden)
        self.proj = nn.Linear(config.n_hidden, config.n_embd)

    def forward(self, x):
        return self.proj(F.relu(self.fc(x)))


class AddNorm(nn.Module):
    """What figure 1 draws around every sub-layer. Normed before it, the stream itself stays free, and a long
    warmup is not needed (Xiong et al. 2020)."""

    def __init__(self, config):
        super().__init__()
        self.pre = config.norm == 'pre'
        self.norm = nn.LayerNorm(config.n_embd)
        self.drop = Dropout(config)

    def forward(self, x, sublayer):
        y = self.drop(sublayer(self.norm(x) if self.pre else x))
        x = x.to(y.dtype) + y               # under autocast the stream takes its branches' dtype
        return x if self.pre else self.norm(x)


class EncoderLayer(nn.Module):
    """Figure 1, left."""

    def __init__(self, config):
        super().__init__()
        self.attention, self.mlp = Attention(config), FeedForward(config)
        self.add1, self.add2 = AddNorm(config), AddNorm(config)

    def forward(self, x, padding):
        x = self.add1(x, lambda x: self.attention(x, self.attention.keys_values(x), padding))
        return self.add2(x, self.mlp)


class DecoderLayer(nn.Module):
    """Figure 1, right."""

    def __init__(self, config):
        super().__init__()
        self.attention, self.cross, self.mlp = Attention(config), Attention(config), FeedForward(config)
        self.add1, self.add2, self.add3 = AddNorm(config), AddNorm(config), AddNorm(config)

    def forward(self, x, future, memory, padding, past=None):
        def look_back(x):
            kv = self.attention.keys_values(x)
            if past is not None:            # the cache: of all tokens, the last T are new
                past[..., -x.size(1):, :] = kv
                kv = past
            return self.attention(x, kv, future)

        x = self.add1(x, look_back)
        x = self.add2(x, lambda x: self.cross(x, memory, padding))
        return self.add3(x, self.mlp)


class Model(nn.Module):
    monitor = 'loss', 'min'

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_src = nn.Embedding(config.vocab_size, config.n_embd)
        self.embed_tgt = self.embed_src if config.tie else nn.Embedding(config.vocab_size, config.n_embd)
        self.drop = Dropout(config)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.n_layer))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_layer))
        last = nn.LayerNorm if config.norm == 'pre' else nn.Identity
        self.norm_src, self.norm_tgt = last(config.n_embd), last(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie:
            self.head.weight = self.embed_src.weight                            # (3.4)
        self.init()

    def init(self):
        """Glorot & Bengio (2010) for matrices, zero for biases; embeddings that, once scaled, are about as
        large as the positions added to them, and as rows of the head a first guess close to uniform."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for embed in self.embed_src, self.embed_tgt:
            nn.init.normal_(embed.weight, std=0.5 / math.sqrt(self.config.n_embd))

    def embed(self, embedding, tokens, past=0):
        """Embeddings with positions: (B, T) ids, of which `past` came before -> (B, T, C)."""
        position = torch.arange(past, past + tokens.size(1), device=tokens.device)
        width = self.config.n_embd
        return self.drop(embedding(tokens) * math.sqrt(width) + sinusoids(position, width))

    def encode(self, src):
        """What is remembered of (B, S) `src`, each row an end at least: for every block of the decoder, keys
        and values (2, B, nh, S, hs); and (B, 1, 1, S), -inf where there is padding."""
        padding = torch.where(src != 0, 0.0, -torch.inf)[:, None, None]
        x = self.embed(self.embed_src, src)
        for block in self.encoder:
            x = block(x, padding)
        x = self.norm_src(x)
        return [block.cross.keys_values(x) for block in self.decoder], padding

    def decode(self, tokens, memory, padding, past=None):
        """Logits of what follows each of (B, T) `tokens`, the target with a 0 before it: (B, T, vocab_size),
        float32. memory, padding: what `encode` gave. past: for every block the keys and values (2, B, nh,
        P + T, hs) of P tokens before these, with room for these, which is filled; None if there are none."""
        T = tokens.size(1)
        P = past[0].size(3) - T if past else 0
        future = torch.full((T, P + T), -torch.inf, device=tokens.device).triu(P + 1)
        x = self.embed(self.embed_tgt, tokens, P)
        for i, block in enumerate(self.decoder):
            x = block(x, future, memory[i], padding, past[i] if past else None)
        return self.head(self.norm_tgt(x)).float()

    def logits(self, src, tgt):
        """(B, S) and (B, T) ids -> (B, T, vocab_size), of each token of `tgt` given those before it."""
        return self.decode(F.pad(tgt[:, :-1], (1, 0)), *self.encode(src))

    def forward(self, src, tgt):
        """Sums over the tokens of targets (B, T), padding left out: loss, to minimise; count; nll, negative
        log likelihood; correct, those that are likeliest; of both fields real, tokens, and room, with it."""
        logits, target = self.logits(src, tgt).flatten(0, 1), tgt.flatten()
        real = target != 0
        log_p = F.log_softmax(logits, -1)
        nll = F.nll_loss(log_p, target, ignore_index=0, reduction='sum')
        spread = -(log_p.sum(-1) * real).sum() / log_p.size(-1)     # the cross-entropy to a uniform target
        smoothing, count = self.config.label_smoothing, real.float().sum()
        return {'loss': (1 - smoothing) * nll + smoothing * spread, 'count': count, 'nll': nll,
                'correct': ((log_p.argmax(-1) == target) & real).float().sum(),
                'real': (src != 0).float().sum() + count,
                'room': torch.full_like(nll, src.numel() + tgt.numel())}

    def metrics(self, total):
        loss = total['nll'] / total['count']
        return {'loss': loss, 'perplexity': math.exp(min(loss, 700)),
                'accuracy': total['correct'] / total['count'], 'real_tokens': total['real'] / total['room']}

    @torch.no_grad()
    def attention(self, src, tgt):
        """Who looks at whom: {'encoder': (n_layer, B, nh, S, S), 'decoder': (n_layer, B, nh, T, T), 'cross':
        (n_layer, B, nh, T, S)}, shares that sum to 1; row t is what token t of `tgt` was made from. In
        evaluation mode, or what is dropped is drawn anew."""
        places = {'encoder': [block.attention for block in self.encoder],
                  'decoder': [block.attention for block in self.decoder],
                  'cross': [block.cross for block in self.decoder]}
        found, hooks = {name: [] for name in places}, []
        for name, modules in places.items():
            def keep(module, args, _, weights=found[name]):
                weights.append(module.weights(*args))
            hooks += [module.register_forward_hook(keep) for module in modules]
        self.logits(src, tgt)
        for hook in hooks:
            hook.remove()
        return {name: torch.stack(weights) for name, weights in found.items()}
