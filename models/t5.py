"""T5, the text-to-text transformer (Raffel et al. 2020, arXiv:1910.10683): from pairs, or from text alone.

What differs from models/transformer.py: RMSNorm before each sub-layer (no mean, no bias); learned biases for
relative positions in place of positional encodings; scores that are not divided by sqrt(hs); no biases in
linear layers; a head that reads x / sqrt(C); more dropout: of attention weights, of hidden units, and at both
ends of each stack. Version 1.1 has a gated GELU in place of ReLU, and an untied head that reads x as it is.

    src (B, S) -> x (B, S, C) -> n_layer x Layer -> cross_kv: keys and values for each layer of the decoder
    tgt (B, T) -> x (B, T, C) -> n_layer_decoder x Layer, which also attend to cross_kv -> (B, T, vocab_size)

Source and target are sentences and their translations, or whatever the prefix of the source names. From text
alone T5 learns by span corruption: spans are cut out of the source, and are the target (data/spans.py).

S and T count tokens, C is n_embd, nh is n_head, hs is d_kv; nh * hs may differ from C.
Token 1 ends a sentence; token 0 is padding, and the decoder reads it before the first token of a target.
"""
import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from data import pretrained_t5, spans

Linear = partial(nn.Linear, bias=False)
RMSNorm = partial(nn.RMSNorm, eps=1e-6)     # x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019)


VERSION_1_0 = dict(gated=False, tie=True, scale_head=True)
VERSION_1_1 = dict(gated=True, tie=False, scale_head=False)
SIZES = {       # values of the fields that are not given
    'custom': {},
    'tiny': VERSION_1_0 | dict(n_layer=3, n_head=4, n_embd=256, d_kv=64, d_ff=1024),        # ours, for a CPU
    't5-small': VERSION_1_0 | dict(n_layer=6, n_head=8, n_embd=512, d_kv=64, d_ff=2048),    # 60.5 M weights
    't5-base': VERSION_1_0 | dict(n_layer=12, n_head=12, n_embd=768, d_kv=64, d_ff=3072),   # 222.9 M
    't5-v1_1-small': VERSION_1_1 | dict(n_layer=8, n_head=6, n_embd=512, d_kv=64, d_ff=1024),       # 77.0 M
    't5-v1_1-base': VERSION_1_1 | dict(n_layer=12, n_head=12, n_embd=768, d_kv=64, d_ff=2048),      # 247.6 M
}


@dataclass
class Config:
    vocab_size: int = 8000          # of source and target together, filled from the data set
    sentinel: int = 0               # id of the first of 100 sentinels, filled from the data set; the others
                                    # count down from it. 0: there are none
    block_size: int = 256           # tokens of the longest sentence, or of text whose spans are corrupted
    size: Literal['custom', 'tiny', 't5-small', 't5-base',
                  't5-v1_1-small', 't5-v1_1-base'] = 'tiny'     # fields that are 0 or auto take its values
    n_layer: int = 0                # layers of the encoder
    n_layer_decoder: int = 0        # layers of the decoder; 0: as many as the encoder has
    n_head: int = 0                 # attention heads
    n_embd: int = 0                 # C, width of the residual stream (d_model)
    d_kv: int = 0                   # hs, width of a head
    d_ff: int = 0                   # hidden width of the feed-forward network
    gated: Literal['auto', True, False] = 'auto'        # gated GELU in place of ReLU
    tie: Literal['auto', True, False] = 'auto'          # share the matrix of the embedding with the head
    scale_head: Literal['auto', True, False] = 'auto'   # the head reads x / sqrt(n_embd), not x
    n_bucket: int = 32              # buckets of relative positions
    max_distance: int = 128         # all distances from here on share a bucket, in tokens
    dropout: float = 0.1            # rate, on attention weights, hidden units and the residual stream
    flash: Literal['auto', True, False] = 'auto'        # use scaled_dot_product_attention; auto: on CUDA only
    label_smoothing: float = 0.0    # epsilon of label smoothing; the reported loss is not smoothed

    def __post_init__(self):
        if self.size not in SIZES:
            raise ValueError(f'size {self.size!r} does not exist; there are {", ".join(SIZES)}')
        for name, value in SIZES[self.size].items():
            if getattr(self, name) == getattr(Config, name):    # the default, 0 or auto
                setattr(self, name, value)
        self.n_layer_decoder = self.n_layer_decoder or self.n_layer
        check(self)


def relative_bucket(offset, is_causal, n_bucket, max_distance):
    """Return the bucket of each offset, the position of a key minus that of the query (section 2.1).

    Half of the buckets hold one distance each, from 0 on; the others hold ranges that widen by a constant
    factor, up to max_distance. Earlier and later keys have half of the buckets each. If is_causal, later keys
    are hidden, and earlier keys have all buckets.
    """
    first = 0
    distance = (-offset).clamp(min=0)
    if not is_causal:
        n_bucket = n_bucket // 2
        first = n_bucket * (offset > 0)
        distance = offset.abs()
    n_exact = n_bucket // 2
    log_ratio = torch.log(distance.clamp(min=1) / n_exact)
    progress = log_ratio / math.log(max_distance / n_exact)     # 0 at n_exact, 1 at max_distance
    bucket = n_exact + (progress * (n_bucket - n_exact)).long()
    bucket = bucket.clamp(max=n_bucket - 1)
    return first + torch.where(distance < n_exact, distance, bucket)


class Attention(nn.Module):
    """Multi-head attention. `bias` is added to the scores: of a hidden key it is -inf."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        C = config.n_embd
        width = config.n_head * config.d_kv             # nh * hs
        self.q = Linear(C, width)
        self.k = Linear(C, width)
        self.v = Linear(C, width)
        self.o = Linear(width, C)

    def heads(self, x):
        heads = x.unflatten(2, (self.config.n_head, -1))                    # (B, T, nh, hs)
        return heads.transpose(1, 2)                                        # (B, nh, T, hs)

    def keys_values(self, x, kv_cache=None):
        """Return keys and values of x (B, T, C). With a kv_cache, write them to its end; return it."""
        k = self.heads(self.k(x))
        v = self.heads(self.v(x))
        kv = torch.stack([k, v])                                            # (2, B, nh, T, hs)
        if kv_cache is not None:
            kv_cache[..., -kv.size(3):, :] = kv
            kv = kv_cache                   # (2, B, nh, P + T, hs), of P earlier tokens and of these
        return kv

    def attention_weights(self, x, kv, bias):
        """Return softmax(q k^T + bias): (B, nh, T, S)."""
        q = self.heads(self.q(x))
        scores = q @ kv[0].mT + bias                                        # (B, nh, T, S)
        return scores.softmax(-1)

    def forward(self, x, kv, bias):
        """Let x (B, T, C) attend to keys and values kv (2, B, nh, S, hs): (B, T, C)."""
        flash = self.config.flash
        if flash == 'auto':
            flash = x.is_cuda
        dropout = self.config.dropout if self.training else 0.0
        if flash:
            q = self.heads(self.q(x))
            y = F.scaled_dot_product_attention(q, kv[0], kv[1], bias, dropout, scale=1.0)
        else:
            weights = F.dropout(self.attention_weights(x, kv, bias), dropout)
            y = weights @ kv[1]                                             # (B, nh, T, hs)
        y = y.transpose(1, 2).flatten(2)                                    # (B, T, nh * hs)
        return self.o(y)


class MLP(nn.Module):
    """Position-wise feed-forward network: ReLU, or a gated GELU (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config):
        super().__init__()
        self.fc = Linear(config.n_embd, config.d_ff)
        self.gate = Linear(config.n_embd, config.d_ff) if config.gated else None
        self.proj = Linear(config.d_ff, config.n_embd)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x):
        h = self.fc(x)                                                      # (B, T, d_ff)
        if self.gate is None:
            h = F.relu(h)
        else:
            h = h * F.gelu(self.gate(x), approximate='tanh')
        return self.proj(self.drop(h))


class Layer(nn.Module):
    """A layer of the encoder or, with cross-attention, of the decoder."""

    def __init__(self, config, is_decoder):
        super().__init__()
        C = config.n_embd
        self.attention = Attention(config)
        self.cross = Attention(config) if is_decoder else None
        self.mlp = MLP(config)
        self.norm_attention = RMSNorm(C)
        self.norm_cross = RMSNorm(C) if is_decoder else None
        self.norm_mlp = RMSNorm(C)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x, bias, cross_kv=None, padding_mask=None, kv_cache=None):
        """Return x (B, T, C) after self-attention with `bias` and kv_cache, in the decoder cross-attention to
        cross_kv (2, B, nh, S, hs) with padding_mask, and the feed-forward network."""
        h = self.norm_attention(x)
        kv = self.attention.keys_values(h, kv_cache)                        # (2, B, nh, P + T, hs)
        y = self.attention(h, kv, bias)
        x = x + self.drop(y)
        if self.cross is not None:
            h = self.norm_cross(x)
            y = self.cross(h, cross_kv, padding_mask)
            x = x + self.drop(y)
        h = self.norm_mlp(x)
        return x + self.drop(self.mlp(h))


class Model(nn.Module):
    monitor = 'loss', 'min'     # the metric that chooses best.pt
    makes = 'translation'       # samples/translation.py shows what it can do

    def __init__(self, config):
        super().__init__()
        self.config = config
        C = config.n_embd
        self.embed = nn.Embedding(config.vocab_size, C)
        self.bias_src = nn.Embedding(config.n_bucket, config.n_head)    # for all layers of the encoder
        self.bias_tgt = nn.Embedding(config.n_bucket, config.n_head)    # for all layers of the decoder
        self.drop = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(Layer(config, is_decoder=False) for _ in range(config.n_layer))
        self.decoder = nn.ModuleList(Layer(config, is_decoder=True) for _ in range(config.n_layer_decoder))
        self.norm_src = RMSNorm(C)
        self.norm_tgt = RMSNorm(C)
        self.head = Linear(C, config.vocab_size)
        # Normal, with a variance of 1 / (width of what the matrix reads). For queries it is divided by hs,
        # because the scores are not divided by sqrt(hs). The authors' T5X does so too.
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                scale = config.d_kv if name.endswith('.q') else 1
                nn.init.normal_(module.weight, std=(scale * module.in_features) ** -0.5)
        nn.init.normal_(self.bias_src.weight, std=C ** -0.5)
        nn.init.normal_(self.bias_tgt.weight, std=C ** -0.5)
        nn.init.normal_(self.embed.weight, std=1.0)
        if config.tie:
            self.head.weight = self.embed.weight

    def relative_bias(self, table, T, S, is_causal):
        """Return the bias that each head adds to its scores: (1, nh, T, S). The queries are at the last T of
        the S positions. `table` has a row for each bucket and a column for each head."""
        position = torch.arange(S, device=table.weight.device)
        offset = position - position[S - T:, None]                          # (T, S)
        bucket = relative_bucket(offset, is_causal, self.config.n_bucket, self.config.max_distance)
        bias = table(bucket)                                                # (T, S, nh)
        return bias.permute(2, 0, 1)[None]

    def encode(self, src):
        """Return what `decode` needs of src (B, S): cross_kv, for each layer of the decoder the keys and
        values (2, B, nh, S, hs) of the encoded source, and padding_mask (B, 1, 1, S), -inf at padding."""
        S = src.size(1)
        # A row of padding alone sees its padding: a softmax over no key would be NaN.
        is_empty = (src == 0).all(1, keepdim=True)              # (B, 1)
        visible = (src != 0) | is_empty                         # (B, S)
        padding_mask = torch.where(visible, 0.0, -torch.inf)    # (B, S)
        padding_mask = padding_mask[:, None, None]              # (B, 1, 1, S)
        bias = self.relative_bias(self.bias_src, S, S, is_causal=False)     # (1, nh, S, S)
        bias = bias + padding_mask                              # (B, nh, S, S)
        x = self.drop(self.embed(src))                          # (B, S, C)
        for layer in self.encoder:
            x = layer(x, bias)
        x = self.drop(self.norm_src(x))
        cross_kv = [layer.cross.keys_values(x) for layer in self.decoder]
        return cross_kv, padding_mask

    def decode(self, tokens, cross_kv, padding_mask, kv_cache=None):
        """Return logits of the token that follows each of `tokens` (B, T): (B, T, vocab_size), float32.
        kv_cache: for each layer (2, B, nh, P + T, hs), keys and values of P tokens before these, and room for
        those of `tokens`, which are written here. None: no tokens before."""
        T = tokens.size(1)
        P = kv_cache[0].size(3) - T if kv_cache else 0
        caches = kv_cache or [None] * self.config.n_layer_decoder
        x = self.drop(self.embed(tokens))                                   # (B, T, C)
        causal_mask = x.new_full((T, P + T), -torch.inf).triu(P + 1)        # row t sees columns 0 ... P + t
        bias = self.relative_bias(self.bias_tgt, T, P + T, is_causal=True)  # (1, nh, T, P + T)
        bias = bias + causal_mask
        for layer, layer_cross_kv, layer_cache in zip(self.decoder, cross_kv, caches):
            x = layer(x, bias, layer_cross_kv, padding_mask, layer_cache)
        x = self.drop(self.norm_tgt(x))
        if self.config.scale_head:
            x = x / math.sqrt(self.config.n_embd)
        return self.head(x).float()

    def logits(self, src, decoder_input):
        """Return the logits of the token after each of decoder_input (B, T): (B, T, vocab_size)."""
        return self.decode(decoder_input, *self.encode(src))

    def forward(self, src=None, tgt=None, tokens=None):
        """Return sums over the target tokens tgt (B, T), padding excluded, given src (B, S): `loss` to
        minimise, `count` of tokens, `nll`, not smoothed, in nats, and `correct` (top-1) predictions. Of
        `tokens` (B, T + 1), windows of a text that share one token, the spans of T are the target."""
        if tokens is not None:
            src, tgt = spans.corrupt(tokens[:, 1:], self.config.sentinel)       # windows share a token
        decoder_input = F.pad(tgt[:, :-1], (1, 0))              # 0, then tgt without its last token
        logits = self.logits(src, decoder_input).flatten(0, 1)  # (B * T, vocab_size)
        target = tgt.flatten()                                  # (B * T,)
        not_padding = target != 0
        smoothing = self.config.label_smoothing
        loss = F.cross_entropy(logits, target, ignore_index=0, reduction='sum', label_smoothing=smoothing)
        nll = F.cross_entropy(logits.detach(), target, ignore_index=0, reduction='sum')     # only reported
        is_correct = (logits.argmax(-1) == target) & not_padding
        correct = is_correct.float().sum()
        count = not_padding.float().sum()
        return {'loss': loss, 'count': count, 'nll': nll, 'correct': correct}

    def metrics(self, total):
        """Return means from the sums over a whole split."""
        loss = total['nll'] / total['count']
        perplexity = math.exp(min(loss, 700))                   # exp(710) overflows
        accuracy = total['correct'] / total['count']
        return {'loss': loss, 'perplexity': perplexity, 'accuracy': accuracy}

    @classmethod
    def from_pretrained(cls, folder):
        """Load the model from a folder in Hugging Face's format. Return it in eval mode."""
        fields, weights = pretrained_t5.read(folder)
        model = cls(Config(**fields))
        pretrained_t5.load_weights(model, weights)
        return model.eval()


def check(config):
    """Raise ValueError, with a line per problem, for a configuration that cannot work."""
    problems = []
    widths = 'vocab_size', 'block_size', 'n_layer', 'n_layer_decoder', 'n_head', 'n_embd', 'd_kv', 'd_ff'
    for name in widths:
        value = getattr(config, name)
        if value < 1:
            problems.append(f'{name} must be at least 1, got {value}')
    if not 0 <= config.sentinel < max(config.vocab_size, 1):
        problems.append(f'sentinel must be an id below {config.vocab_size}, got {config.sentinel}')
    for name in ('dropout', 'label_smoothing'):
        rate = getattr(config, name)
        if not 0 <= rate < 1:
            problems.append(f'{name} must be in [0, 1), got {rate}')
    n_bucket = config.n_bucket
    if n_bucket % 4 or not 0 < n_bucket < 2 * config.max_distance:
        problems.append(f'n_bucket must be a multiple of 4 and below 2 max_distance, got {n_bucket}')
    if problems:
        raise ValueError('\n'.join(problems))
