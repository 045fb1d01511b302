"""The encoder-decoder transformer of "Attention Is All You Need" (Vaswani et al. 2017), for translation.

The encoder reads the source: every token attends to every other. The decoder predicts each target token from
the target tokens before it (causal self-attention) and from the source (cross-attention).

    src (B, S) -> x (B, S, C) -> n_layer x Layer -> memory: keys and values for each layer of the decoder
    tgt (B, T) -> x (B, T, C) -> n_layer x Layer, which also attend to memory -> logits (B, T, vocab_size)

C is n_embd, nh is n_head, hs is C / nh. Numbers in brackets are sections of the paper.
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
    dropout: float = 0.1            # rate, on the embeddings and on what each sub-layer adds
    norm: Literal['pre', 'post'] = 'pre'            # LayerNorm before each sub-layer, or after it (the paper)
    tie: bool = True                # share one matrix between both embeddings and the head
    flash: Literal['auto', True, False] = 'auto'    # use scaled_dot_product_attention; auto: on CUDA only
    label_smoothing: float = 0.1    # epsilon of label smoothing; the reported loss is not smoothed

    def __post_init__(self):
        check(self)


def sinusoids(position, width):
    """Return the positional encoding (3.5) of positions (T,): sines and cosines in turn, (T, width)."""
    frequency = 10000.0 ** (-torch.arange(0, width, 2, device=position.device) / width)
    angle = torch.outer(position, frequency)                                # (T, width / 2)
    pairs = torch.stack([angle.sin(), angle.cos()], dim=-1)                 # (T, width / 2, 2)
    return pairs.flatten(1)                                                 # (T, width)


class Attention(nn.Module):
    """Multi-head attention (3.2). `mask` is -inf where a query may not see a key, elsewhere 0."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        C = config.n_embd
        self.q = nn.Linear(C, C)
        self.kv = nn.Linear(C, 2 * C)
        self.proj = nn.Linear(C, C)

    def queries(self, x):
        q = self.q(x).unflatten(2, (self.config.n_head, -1))                # (B, T, nh, hs)
        return q.transpose(1, 2)                                            # (B, nh, T, hs)

    def keys_values(self, x):
        kv = self.kv(x).unflatten(2, (2, self.config.n_head, -1))           # (B, S, 2, nh, hs)
        return kv.permute(2, 0, 3, 1, 4)                                    # (2, B, nh, S, hs)

    def weights(self, x, kv, mask):
        """Return softmax(q k^T / sqrt(hs) + mask), equation 1: (B, nh, T, S)."""
        q = self.queries(x)
        k = kv[0]
        scores = q / math.sqrt(q.size(-1)) @ k.mT                           # (B, nh, T, S)
        return (scores + mask).softmax(-1)

    def forward(self, x, kv, mask):
        """Let x (B, T, C) attend to keys and values kv (2, B, nh, S, hs): (B, T, C)."""
        flash = self.config.flash
        if flash == 'auto':
            flash = x.is_cuda                                               # on a CPU equation 1 is faster
        if flash:
            y = F.scaled_dot_product_attention(self.queries(x), kv[0], kv[1], mask)
        else:
            y = self.weights(x, kv, mask) @ kv[1]                           # (B, nh, T, hs)
        y = y.transpose(1, 2).flatten(2)                                    # (B, T, C)
        return self.proj(y)


class AddNorm(nn.Module):
    """Dropout, residual connection and LayerNorm around a sub-layer ("Add & Norm" in figure 1)."""

    def __init__(self, config):
        super().__init__()
        self.pre = config.norm == 'pre'     # LayerNorm first: no long warmup is needed (Xiong et al. 2020)
        self.norm = nn.LayerNorm(config.n_embd)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x, sublayer):
        y = sublayer(self.norm(x) if self.pre else x)   # (B, T, C)
        x = x.to(y.dtype) + self.drop(y)                # under autocast x takes the dtype of y, bfloat16
        return x if self.pre else self.norm(x)


class Layer(nn.Module):
    """A layer of the encoder or, with cross-attention, of the decoder (figure 1: left and right half)."""

    def __init__(self, config, is_decoder):
        super().__init__()
        C = config.n_embd
        self.attention = Attention(config)
        self.cross = Attention(config) if is_decoder else None
        self.mlp = nn.Sequential(OrderedDict(           # position-wise feed-forward network (3.3)
            fc=nn.Linear(C, config.n_hidden),
            relu=nn.ReLU(),
            proj=nn.Linear(config.n_hidden, C)))
        self.add1 = AddNorm(config)
        self.add2 = AddNorm(config)
        self.add3 = AddNorm(config) if is_decoder else None

    def forward(self, x, mask, memory=None, memory_mask=None, kv_cache=None):
        """Return x (B, T, C) after all sub-layers. `mask` and kv_cache are for self-attention,
        memory (2, B, nh, S, hs) and memory_mask for cross-attention."""
        def self_attention(x):
            kv = self.attention.keys_values(x)          # (2, B, nh, T, hs)
            if kv_cache is not None:                    # (2, B, nh, P + T, hs)
                T = x.size(1)
                kv_cache[..., -T:, :] = kv              # after P earlier tokens
                kv = kv_cache
            return self.attention(x, kv, mask)

        x = self.add1(x, self_attention)
        if self.cross is None:
            return self.add2(x, self.mlp)
        x = self.add2(x, lambda x: self.cross(x, memory, memory_mask))
        return self.add3(x, self.mlp)


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
        self.drop = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(Layer(config, is_decoder=False) for _ in range(config.n_layer))
        self.decoder = nn.ModuleList(Layer(config, is_decoder=True) for _ in range(config.n_layer))
        last_norm = nn.LayerNorm if config.norm == 'pre' else nn.Identity   # post: each layer ends with one
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
        # Embeddings, times sqrt(C), are about as large as the positional encoding. As rows of the head they
        # make the first prediction nearly uniform.
        for embedding in (self.embed_src, self.embed_tgt):
            nn.init.normal_(embedding.weight, std=0.5 / math.sqrt(C))

    def embed(self, embedding, tokens, start=0):
        """Return embeddings plus positional encoding: ids (B, T) at positions from `start` -> (B, T, C)."""
        C = self.config.n_embd
        position = start + torch.arange(tokens.size(1), device=tokens.device)   # (T,)
        x = embedding(tokens) * math.sqrt(C)
        return self.drop(x + sinusoids(position, C))

    def encode(self, src):
        """Return what `decode` needs of src (B, S), in which no row is all padding: memory, keys and values
        (2, B, nh, S, hs) for each layer of the decoder, and padding_mask (B, 1, 1, S), -inf at padding."""
        padding_mask = torch.where(src != 0, 0.0, -torch.inf)   # (B, S)
        padding_mask = padding_mask[:, None, None]              # (B, 1, 1, S)
        x = self.embed(self.embed_src, src)                     # (B, S, C)
        for layer in self.encoder:
            x = layer(x, padding_mask)
        x = self.norm_src(x)
        memory = [layer.cross.keys_values(x) for layer in self.decoder]
        return memory, padding_mask

    def decode(self, tokens, memory, padding_mask, kv_cache=None):
        """Return logits of the token that follows each of `tokens` (B, T): (B, T, vocab_size), float32.

        kv_cache: for each layer (2, B, nh, P + T, hs). It holds the keys and values of P tokens before these;
        those of `tokens` are written to the last T places. None: no tokens before.
        """
        T = tokens.size(1)
        P = kv_cache[0].size(3) - T if kv_cache else 0
        kv_cache = kv_cache or [None] * self.config.n_layer
        x = self.embed(self.embed_tgt, tokens, start=P)                     # (B, T, C)
        causal_mask = x.new_full((T, P + T), -torch.inf).triu(P + 1)        # row t sees columns 0 ... P + t
        for layer, layer_memory, layer_cache in zip(self.decoder, memory, kv_cache):
            x = layer(x, causal_mask, layer_memory, padding_mask, layer_cache)
        x = self.norm_tgt(x)
        return self.head(x).float()

    def logits(self, src, tgt):
        """Return the logits of every token of tgt (B, T) given src (B, S) and the tokens before it."""
        memory, padding_mask = self.encode(src)
        shifted = F.pad(tgt[:, :-1], (1, 0))                    # 0, then tgt without its last token
        return self.decode(shifted, memory, padding_mask)       # (B, T, vocab_size)

    def forward(self, src, tgt):
        """Return sums over the tokens of tgt (B, T), padding excluded, given src (B, S): `loss` to minimise,
        `count` of tokens, `nll` in nats, `correct`, how many tokens have the largest logit. `real` is the
        number of tokens of src and tgt together, `room` the same with padding."""
        logits = self.logits(src, tgt).flatten(0, 1)            # (B * T, vocab_size)
        target = tgt.flatten()                                  # (B * T,)
        not_padding = target != 0
        smoothing = self.config.label_smoothing
        loss = F.cross_entropy(logits, target, ignore_index=0, reduction='sum', label_smoothing=smoothing)
        nll = F.cross_entropy(logits, target, ignore_index=0, reduction='sum')
        is_correct = (logits.argmax(-1) == target) & not_padding
        correct = is_correct.float().sum()
        count = not_padding.float().sum()
        real = src.count_nonzero() + count                      # 0 is padding
        room = torch.full_like(nll, src.numel() + tgt.numel())
        return {'loss': loss, 'count': count, 'nll': nll, 'correct': correct, 'real': real, 'room': room}

    def metrics(self, total):
        """Return means from the sums over a whole split. real_tokens: the fraction that is not padding."""
        loss = total['nll'] / total['count']
        perplexity = math.exp(min(loss, 700))                   # exp(710) overflows
        accuracy = total['correct'] / total['count']
        real_tokens = total['real'] / total['room']
        return {'loss': loss, 'perplexity': perplexity, 'accuracy': accuracy, 'real_tokens': real_tokens}


def check(config):
    """Raise ValueError, with a line per problem, for a configuration that cannot work."""
    problems = []
    for name in ('vocab_size', 'block_size', 'n_layer', 'n_head', 'n_embd', 'n_hidden'):
        if getattr(config, name) < 1:
            problems.append(f'{name} must be at least 1, got {getattr(config, name)}')
    for name in ('dropout', 'label_smoothing'):
        if not 0 <= getattr(config, name) < 1:
            problems.append(f'{name} must be in [0, 1), got {getattr(config, name)}')
    if not problems and (config.n_embd % config.n_head or config.n_embd % 2):
        problems.append(f'n_embd {config.n_embd} must be even and divisible by n_head {config.n_head}')
    if problems:
        raise ValueError('\n'.join(problems))
