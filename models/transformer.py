"""The encoder-decoder transformer of "Attention Is All You Need" (Vaswani et al. 2017), for translation.

The encoder reads the source: every token attends to every other. The decoder predicts each target token from
the target tokens before it (causal self-attention) and from the source (cross-attention). What differs from
the paper: LayerNorm before each sub-layer (norm = 'post' is the paper's), embeddings initialised smaller.

    src (B, S) -> x (B, S, C) -> n_layer x EncoderLayer -> cross_kv: keys and values for each DecoderLayer
    tgt (B, T) -> x (B, T, C) -> n_layer x DecoderLayer, which also attend to cross_kv -> (B, T, vocab_size)

T queries attend to S keys: S source tokens, or in the decoder's self-attention P + T target tokens, of which
P were read before. C is n_embd, nh is n_head, hs is C / nh. Numbers in brackets are sections of the paper.
Token 1 ends a sentence; token 0 is padding, and the decoder reads it before the first token of a target.
"""
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Config:
    vocab_size: int = 8000          # of both languages together, filled from the data set
    block_size: int = 256           # tokens of the longest sentence
    n_layer: int = 6                # layers of the encoder, and as many of the decoder
    n_head: int = 8                 # attention heads, each n_embd / n_head wide
    n_embd: int = 512               # C, width of the residual stream (d_model)
    n_hidden: int = 2048            # hidden width of the feed-forward network (d_ff)
    pos: Literal['sinusoidal', 'learned', 'none'] = 'sinusoidal'    # positional encoding
    dropout: float = 0.1            # rate, on the embeddings and on what each sub-layer adds
    norm: Literal['pre', 'post'] = 'pre'            # LayerNorm before each sub-layer, or after it (the paper)
    tie: bool = True                # share one matrix between both embeddings and the head
    flash: Literal['auto', True, False] = 'auto'    # use scaled_dot_product_attention; auto: on CUDA only
    label_smoothing: float = 0.1    # epsilon of label smoothing; the reported loss is not smoothed

    def __post_init__(self):
        check(self)


def sinusoids(position, width):
    """Return the positional encoding (3.5) of positions (T,): sines and cosines in turn, (T, width)."""
    exponent = torch.arange(0, width, 2, device=position.device) / width    # (width / 2,)
    frequency = 10000.0 ** -exponent
    angle = torch.outer(position, frequency)                                # (T, width / 2)
    pairs = torch.stack([angle.sin(), angle.cos()], dim=-1)                 # (T, width / 2, 2)
    return pairs.flatten(1)                                                 # (T, width)


class Attention(nn.Module):
    """Multi-head attention (3.2). `mask` is -inf where a query may not see a key, elsewhere 0."""

    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.flash = config.flash
        C = config.n_embd
        self.q = nn.Linear(C, C)
        self.kv = nn.Linear(C, 2 * C)
        self.proj = nn.Linear(C, C)

    def queries(self, x):
        q = self.q(x).unflatten(2, (self.n_head, -1))                       # (B, T, nh, hs)
        return q.transpose(1, 2)                                            # (B, nh, T, hs)

    def keys_values(self, x, kv_cache=None):
        """Return keys and values of x (B, T, C). With a kv_cache, write them to its end; return it."""
        kv = self.kv(x).unflatten(2, (2, self.n_head, -1))                  # (B, T, 2, nh, hs)
        kv = kv.permute(2, 0, 3, 1, 4)                                      # (2, B, nh, T, hs)
        if kv_cache is not None:
            kv_cache[..., -kv.size(3):, :] = kv
            kv = kv_cache                   # (2, B, nh, P + T, hs), of P earlier tokens and of these
        return kv

    def attention_weights(self, x, kv, mask):
        """Return softmax(q k^T / sqrt(hs) + mask), equation 1: (B, nh, T, S)."""
        q = self.queries(x)
        scores = q / math.sqrt(q.size(-1)) @ kv[0].mT                       # (B, nh, T, S)
        return (scores + mask).softmax(-1)

    def forward(self, x, kv, mask):
        """Let x (B, T, C) attend to keys and values kv (2, B, nh, S, hs): (B, T, C)."""
        flash = self.flash
        if flash == 'auto':
            flash = x.is_cuda                                               # on a CPU equation 1 is faster
        if flash:
            y = F.scaled_dot_product_attention(self.queries(x), *kv, mask)
        else:
            y = self.attention_weights(x, kv, mask) @ kv[1]                 # (B, nh, T, hs)
        y = y.transpose(1, 2).flatten(2)                                    # (B, T, C)
        return self.proj(y)


def feed_forward(config):
    """Return a position-wise feed-forward network (3.3): (B, T, C) -> (B, T, n_hidden) -> (B, T, C)."""
    return nn.Sequential(OrderedDict(
        fc=nn.Linear(config.n_embd, config.n_hidden),
        relu=nn.ReLU(),
        proj=nn.Linear(config.n_hidden, config.n_embd)))


class AddNorm(nn.Module):
    """What stands around a sub-layer ("Add & Norm" in figure 1): x -> after(x, sublayer(before(x))).

    That is x + sublayer(norm(x)) with norm = 'pre', and norm(x + sublayer(x)) with 'post'.
    """

    def __init__(self, config):
        super().__init__()
        self.pre = config.norm == 'pre'     # LayerNorm first: no long warmup is needed (Xiong et al. 2020)
        self.norm = nn.LayerNorm(config.n_embd)
        self.drop = nn.Dropout(config.dropout)

    def before(self, x):
        return self.norm(x) if self.pre else x

    def after(self, x, y):
        # Under autocast y is bfloat16; to add in its dtype takes less memory traffic.
        x = x.to(y.dtype) + self.drop(y)
        return x if self.pre else self.norm(x)


class EncoderLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = Attention(config)
        self.mlp = feed_forward(config)
        self.add1 = AddNorm(config)
        self.add2 = AddNorm(config)

    def forward(self, x, padding_mask):
        h = self.add1.before(x)                                             # (B, S, C)
        y = self.attention(h, self.attention.keys_values(h), padding_mask)
        x = self.add1.after(x, y)
        h = self.add2.before(x)
        return self.add2.after(x, self.mlp(h))


class DecoderLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = Attention(config)
        self.cross = Attention(config)
        self.mlp = feed_forward(config)
        self.add1 = AddNorm(config)
        self.add2 = AddNorm(config)
        self.add3 = AddNorm(config)

    def forward(self, x, causal_mask, cross_kv, padding_mask, kv_cache=None):
        """Return x (B, T, C), having attended to itself and kv_cache, and to cross_kv (2, B, nh, S, hs)."""
        h = self.add1.before(x)
        kv = self.attention.keys_values(h, kv_cache)                        # (2, B, nh, P + T, hs)
        x = self.add1.after(x, self.attention(h, kv, causal_mask))
        h = self.add2.before(x)
        x = self.add2.after(x, self.cross(h, cross_kv, padding_mask))
        h = self.add3.before(x)
        return self.add3.after(x, self.mlp(h))


class Model(nn.Module):
    monitor = 'loss', 'min'     # the metric that chooses best.pt
    makes = 'translation'       # samples/translation.py shows what it can do

    def __init__(self, config):
        super().__init__()
        self.config = config
        C = config.n_embd
        self.embed_src = nn.Embedding(config.vocab_size, C)
        self.embed_tgt = self.embed_src
        if not config.tie:
            self.embed_tgt = nn.Embedding(config.vocab_size, C)
        if config.pos == 'learned':
            self.embed_pos = nn.Embedding(config.block_size, C)             # of source and target
        self.drop = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.n_layer))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_layer))
        last_norm = nn.LayerNorm if config.norm == 'pre' else nn.Identity   # post: layers end with a norm
        self.norm_src = last_norm(C)
        self.norm_tgt = last_norm(C)
        self.head = nn.Linear(C, config.vocab_size, bias=False)
        if config.tie:
            self.head.weight = self.embed_src.weight                        # (3.4)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)                      # Glorot & Bengio (2010)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Small at first, for two reasons: `embed` multiplies by sqrt(C), so embeddings become about as large
        # as the sinusoids; and a head with small weights gives small logits, a nearly uniform prediction.
        for embedding in (self.embed_src, self.embed_tgt):
            nn.init.normal_(embedding.weight, std=0.5 / math.sqrt(C))

    def embed(self, embedding, tokens, start=0):
        """Return embeddings plus positional encoding: ids (B, T) at positions from `start` -> (B, T, C)."""
        position = start + torch.arange(tokens.size(1), device=tokens.device)   # (T,)
        x = embedding(tokens) * math.sqrt(self.config.n_embd)                   # (B, T, C)
        if self.config.pos == 'sinusoidal':
            x = x + sinusoids(position, x.size(2))
        elif self.config.pos == 'learned':
            x = x + self.embed_pos(position)
        return self.drop(x)

    def encode(self, src):
        """Return what `decode` needs of src (B, S): cross_kv, for each layer of the decoder the keys and
        values (2, B, nh, S, hs) of the source, and padding_mask. A row of padding alone would give NaN."""
        padding_mask = torch.where(src != 0, 0.0, -torch.inf)   # (B, S): no query may see padding
        padding_mask = padding_mask[:, None, None]              # (B, 1, 1, S)
        x = self.embed(self.embed_src, src)                     # (B, S, C)
        for layer in self.encoder:
            x = layer(x, padding_mask)
        x = self.norm_src(x)
        cross_kv = [layer.cross.keys_values(x) for layer in self.decoder]
        return cross_kv, padding_mask

    def decode(self, tokens, cross_kv, padding_mask, kv_cache=None):
        """Return logits of the token that follows each of `tokens` (B, T): (B, T, vocab_size), float32.
        kv_cache: for each layer (2, B, nh, P + T, hs), keys and values of P tokens before these, and room for
        those of `tokens`, which are written here. None: no tokens before."""
        T = tokens.size(1)
        P = kv_cache[0].size(3) - T if kv_cache else 0
        caches = kv_cache or [None] * self.config.n_layer
        x = self.embed(self.embed_tgt, tokens, start=P)                     # (B, T, C)
        causal_mask = x.new_full((T, P + T), -torch.inf).triu(P + 1)        # row t sees columns 0 ... P + t
        for layer, layer_cross_kv, layer_cache in zip(self.decoder, cross_kv, caches):
            x = layer(x, causal_mask, layer_cross_kv, padding_mask, layer_cache)
        x = self.norm_tgt(x)
        return self.head(x).float()

    def logits(self, src, tgt):
        """Return the logits of every token of tgt (B, T) given src (B, S) and the tokens before it."""
        shifted = F.pad(tgt[:, :-1], (1, 0))                    # 0, then tgt without its last token
        return self.decode(shifted, *self.encode(src))          # (B, T, vocab_size)

    def forward(self, src, tgt):
        """Return sums over the target tokens tgt (B, T), padding excluded, given src (B, S): `loss` to
        minimise, `count` of tokens, `nll`, not smoothed, in nats, and `correct` (top-1) predictions.
        `n_tokens` counts the tokens of src and tgt, `n_padded` the same with padding."""
        logits = self.logits(src, tgt).flatten(0, 1)            # (B * T, vocab_size)
        target = tgt.flatten()                                  # (B * T,)
        not_padding = target != 0
        smoothing = self.config.label_smoothing
        loss = F.cross_entropy(logits, target, ignore_index=0, reduction='sum', label_smoothing=smoothing)
        nll = F.cross_entropy(logits.detach(), target, ignore_index=0, reduction='sum')     # only reported
        is_correct = (logits.argmax(-1) == target) & not_padding
        correct = is_correct.float().sum()
        count = not_padding.float().sum()
        n_tokens = src.count_nonzero() + count                  # 0 is padding
        n_padded = torch.full_like(nll, src.numel() + tgt.numel())
        return {'loss': loss, 'count': count, 'nll': nll, 'correct': correct,
                'n_tokens': n_tokens, 'n_padded': n_padded}

    def metrics(self, total):
        """Return means from the sums over a whole split. real_tokens: the fraction that is not padding."""
        loss = total['nll'] / total['count']
        perplexity = math.exp(min(loss, 700))                   # exp(710) overflows
        accuracy = total['correct'] / total['count']
        real_tokens = total['n_tokens'] / total['n_padded']
        return {'loss': loss, 'perplexity': perplexity, 'accuracy': accuracy, 'real_tokens': real_tokens}


def check(config):
    """Raise ValueError, with a line per problem, for a configuration that cannot work."""
    problems = []
    for name in ('vocab_size', 'block_size', 'n_layer', 'n_head', 'n_embd', 'n_hidden'):
        value = getattr(config, name)
        if value < 1:
            problems.append(f'{name} must be at least 1, got {value}')
    for name in ('dropout', 'label_smoothing'):
        rate = getattr(config, name)
        if not 0 <= rate < 1:
            problems.append(f'{name} must be in [0, 1), got {rate}')
    if not problems and (config.n_embd % config.n_head or config.n_embd % 2):
        problems.append(f'n_embd {config.n_embd} must be even and divisible by n_head {config.n_head}')
    if problems:
        raise ValueError('\n'.join(problems))
