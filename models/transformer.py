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
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)       # (T, width)


class Attention(nn.Module):
    """Multi-head attention (3.2)."""

    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.flash = config.flash
        self.q = nn.Linear(config.n_embd, config.n_embd)
        self.kv = nn.Linear(config.n_embd, 2 * config.n_embd)
        self.proj = nn.Linear(config.n_embd, config.n_embd)

    def queries(self, x):
        q = self.q(x).unflatten(2, (self.n_head, -1))                       # (B, T, nh, hs)
        return q.transpose(1, 2)                                            # (B, nh, T, hs)

    def keys_values(self, x):
        kv = self.kv(x).unflatten(2, (2, self.n_head, -1))                  # (B, S, 2, nh, hs)
        return kv.permute(2, 0, 3, 1, 4)                                    # (2, B, nh, S, hs)

    def weights(self, x, kv, mask):
        """Return softmax(q k^T / sqrt(hs) + mask), equation 1: (B, nh, T, S). mask is -inf at hidden keys."""
        q = self.queries(x)
        scores = q / math.sqrt(q.size(-1)) @ kv[0].mT                       # (B, nh, T, S)
        return (scores + mask).softmax(-1)

    def forward(self, x, kv, mask):
        """Let x (B, T, C) attend to keys and values kv (2, B, nh, S, hs): (B, T, C)."""
        flash = x.is_cuda if self.flash == 'auto' else self.flash           # on a CPU equation 1 is faster
        if flash:
            y = F.scaled_dot_product_attention(self.queries(x), kv[0], kv[1], mask)
        else:
            y = self.weights(x, kv, mask) @ kv[1]                           # (B, nh, T, hs)
        return self.proj(y.transpose(1, 2).flatten(2))


class AddNorm(nn.Module):
    """Dropout, residual connection and LayerNorm around a sub-layer ("Add & Norm" in figure 1)."""

    def __init__(self, config):
        super().__init__()
        self.pre = config.norm == 'pre'
        self.norm = nn.LayerNorm(config.n_embd)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x, sublayer):
        y = sublayer(self.norm(x) if self.pre else x)   # pre: no long warmup is needed (Xiong et al. 2020)
        x = x.to(y.dtype) + self.drop(y)                # under autocast x takes the dtype of y, bfloat16
        return x if self.pre else self.norm(x)


class Layer(nn.Module):
    """A layer of the encoder or, with cross-attention, of the decoder (figure 1: left and right half)."""

    def __init__(self, config, is_decoder):
        super().__init__()
        self.attention = Attention(config)
        self.cross = Attention(config) if is_decoder else None
        self.mlp = nn.Sequential(OrderedDict(           # position-wise feed-forward network (3.3)
            fc=nn.Linear(config.n_embd, config.n_hidden),
            relu=nn.ReLU(),
            proj=nn.Linear(config.n_hidden, config.n_embd)))
        self.add1 = AddNorm(config)
        self.add2 = AddNorm(config)
        self.add3 = AddNorm(config) if is_decoder else None

    def forward(self, x, mask, memory=None, memory_mask=None, kv_cache=None):
        """Return x (B, T, C) after all sub-layers. `mask` is for self-attention, memory (2, B, nh, S, hs) and
        memory_mask for cross-attention. kv_cache (2, B, nh, P + T, hs): see Model.decode."""
        def self_attention(x):
            kv = self.attention.keys_values(x)
            if kv_cache is not None:
                kv_cache[..., -x.size(1):, :] = kv      # after the P tokens that are in the cache
                kv = kv_cache                           # (2, B, nh, P + T, hs)
            return self.attention(x, kv, mask)

        def cross_attention(x):
            return self.cross(x, memory, memory_mask)

        x = self.add1(x, self_attention)
        if self.cross is None:
            return self.add2(x, self.mlp)
        x = self.add2(x, cross_attention)
        return self.add3(x, self.mlp)


class Model(nn.Module):
    monitor = 'loss', 'min'     # the metric that chooses best.pt
    makes = 'translation'       # samples/translation.py shows what it can do

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_src = nn.Embedding(config.vocab_size, config.n_embd)
        self.embed_tgt = self.embed_src if config.tie else nn.Embedding(config.vocab_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(Layer(config, is_decoder=False) for _ in range(config.n_layer))
        self.decoder = nn.ModuleList(Layer(config, is_decoder=True) for _ in range(config.n_layer))
        last_norm = nn.LayerNorm if config.norm == 'pre' else nn.Identity   # post: each layer ends with one
        self.norm_src = last_norm(config.n_embd)
        self.norm_tgt = last_norm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie:
            self.head.weight = self.embed_src.weight                        # (3.4)
        self.init_weights()

    def init_weights(self):
        """Initialise matrices as Glorot & Bengio (2010). Embeddings, once scaled, are about as large as the
        positional encoding; as rows of the head they make the first prediction nearly uniform."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for embedding in (self.embed_src, self.embed_tgt):
            nn.init.normal_(embedding.weight, std=0.5 / math.sqrt(self.config.n_embd))

    def embed(self, embedding, tokens, start=0):
        """Return embeddings plus positional encoding: ids (B, T) at positions from `start` -> (B, T, C)."""
        position = torch.arange(start, start + tokens.size(1), device=tokens.device)
        x = embedding(tokens) * math.sqrt(self.config.n_embd)
        return self.drop(x + sinusoids(position, self.config.n_embd))

    def encode(self, src):
        """Return what `decode` needs of src (B, S), in which no row is all padding: memory, keys and values
        (2, B, nh, S, hs) for each layer of the decoder, and padding_mask (B, 1, 1, S), -inf at padding."""
        padding_mask = torch.where(src != 0, 0.0, -torch.inf)[:, None, None]
        x = self.embed(self.embed_src, src)
        for layer in self.encoder:
            x = layer(x, padding_mask)
        x = self.norm_src(x)
        memory = [layer.cross.keys_values(x) for layer in self.decoder]
        return memory, padding_mask

    def decode(self, tokens, memory, padding_mask, kv_cache=None):
        """Return logits of the token that follows each of `tokens` (B, T): (B, T, vocab_size), float32.

        kv_cache: for each layer (2, B, nh, P + T, hs). The first P places hold the keys and values of the
        tokens before these; the last T are for those of `tokens` and are filled here. None: no tokens before.
        """
        T = tokens.size(1)
        P = kv_cache[0].size(3) - T if kv_cache else 0
        causal_mask = torch.full((T, P + T), -torch.inf, device=tokens.device).triu(P + 1)
        x = self.embed(self.embed_tgt, tokens, start=P)
        for i, layer in enumerate(self.decoder):
            x = layer(x, causal_mask, memory[i], padding_mask, kv_cache[i] if kv_cache else None)
        return self.head(self.norm_tgt(x)).float()

    def logits(self, src, tgt):
        """Return the logits of every token of tgt (B, T) given src (B, S) and the tokens before it."""
        memory, padding_mask = self.encode(src)
        shifted = F.pad(tgt[:, :-1], (1, 0))                    # 0, then tgt without its last token
        return self.decode(shifted, memory, padding_mask)       # (B, T, vocab_size)

    def forward(self, src, tgt):
        """Return sums over the tokens of tgt (B, T), padding excluded, given src (B, S).

        loss: cross-entropy with label smoothing, which is minimised. nll: cross-entropy without it.
        count: number of tokens of tgt. correct: how many of them have the largest logit (top-1 correct).
        real: number of tokens of src and tgt together. room: the same, padding included.
        """
        logits = self.logits(src, tgt).flatten(0, 1)            # (B * T, vocab_size)
        target = tgt.flatten()                                  # (B * T,)
        not_padding = target != 0
        smoothing = self.config.label_smoothing
        loss = F.cross_entropy(logits, target, ignore_index=0, reduction='sum', label_smoothing=smoothing)
        nll = F.cross_entropy(logits, target, ignore_index=0, reduction='sum')
        correct = (logits.argmax(-1) == target) & not_padding
        count = not_padding.float().sum()
        return {'loss': loss, 'count': count, 'nll': nll, 'correct': correct.float().sum(),
                'real': (src != 0).float().sum() + count,
                'room': torch.full_like(nll, src.numel() + tgt.numel())}

    def metrics(self, total):
        """Return means from the sums over a whole split."""
        loss = total['nll'] / total['count']
        return {'loss': loss, 'perplexity': math.exp(min(loss, 700)),       # exp(710) overflows
                'accuracy': total['correct'] / total['count'], 'real_tokens': total['real'] / total['room']}

    @torch.no_grad()
    def attention(self, src, tgt):
        """Return the attention weights of all heads: encoder (n_layer, B, nh, S, S), decoder (n_layer, B, nh,
        T, T), cross (n_layer, B, nh, T, S). Row t of the last two predicts tgt[:, t]. Call eval() first."""
        maps = []

        def record(module, args, output):
            maps.append(module.weights(*args))

        hooks = [m.register_forward_hook(record) for m in self.modules() if isinstance(m, Attention)]
        self.logits(src, tgt)
        for hook in hooks:
            hook.remove()
        n = self.config.n_layer     # maps: n of the encoder, then self- and cross-attention take turns
        return {'encoder': torch.stack(maps[:n]), 'decoder': torch.stack(maps[n::2]),
                'cross': torch.stack(maps[n + 1::2])}


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
