"""A transformer encoder that classifies texts: every token attends to every other, before and after it.

As in BERT (Devlin et al. 2019, arXiv:1810.04805) a class token stands before the text, and LayerNorm follows
the embedding. What differs: LayerNorm before each sub-layer, no pretraining, sinusoidal positions, by default
the mean over all tokens where BERT takes the class token alone, and, with n_pairs, embeddings of pairs of
adjacent tokens beside those of tokens: 'not good' is seen at once.

    text (B, T) -> class token and text (B, 1 + T) -> x (B, 1 + T, C) -> n_layer x Block
    -> pooling (B, C) -> logits (B, n_class)

T counts tokens, C is n_embd, nh is n_head, hs is C / nh. Token 0 is padding: no token attends to it, and
pooling leaves it out. Token 1 is the class token, which no text contains. So an empty text has a token, too.
"""
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

CLASS_TOKEN = 1


@dataclass
class Config:
    vocab_size: int = 16_000        # filled from the data set
    n_class: int = 2                # filled from the data set
    block_size: int = 512           # tokens of the longest text; what is longer is cut
    n_layer: int = 2                # number of blocks
    n_head: int = 4                 # attention heads, each n_embd / n_head wide
    n_embd: int = 128               # C, width of the residual stream
    n_hidden: int = 512             # hidden width of the feed-forward network
    pos: Literal['sinusoidal', 'learned', 'rope', 'none'] = 'sinusoidal'    # positional encoding
    flash: Literal['auto', True, False] = 'auto'    # use scaled_dot_product_attention; auto: only on CUDA
    pool: Literal['mean', 'first', 'max'] = 'mean'      # first: the class token alone
    dropout: float = 0.1            # rate, on the embeddings and on what each sub-layer adds
    token_dropout: float = 0.0      # fraction of the tokens that a training step leaves out; see Model.parts
    n_pairs: int = 0                # rows of the table that embeds pairs of adjacent tokens; 0: no pairs
    label_smoothing: float = 0.0    # epsilon of label smoothing; the reported loss is not smoothed

    def __post_init__(self):
        check(self)


def hash_pairs(previous, tokens, n_pairs):
    """Return the row of each pair in a table of n_pairs: (B, T) and (B, T) ids -> (B, T).

    Pairs of tokens are too many for a row each. Those with the same hash share a row, as in fastText (Joulin
    et al. 2017, arXiv:1607.01759). By the large factor, which is Knuth's, pairs of near ids seldom share one.
    """
    return (2_654_435_761 * previous + tokens) % n_pairs


def rotary_angles(position, width):
    """Return position * 10000^(-2i / width) radians for i < width / 2: (T,) -> (T, width / 2)."""
    frequency = 10000.0 ** (-torch.arange(0, width, 2, device=position.device) / width)
    return torch.outer(position, frequency)


def apply_rotary_emb(x, cos, sin):
    """Rotate each pair (x_i, x_{i + hs / 2}) by its position's angle: q . k then depends on distance only."""
    cos = cos.to(x.dtype)                                       # (T, hs / 2)
    sin = sin.to(x.dtype)                                       # (T, hs / 2)
    x1, x2 = x.chunk(2, dim=-1)                                 # (B, nh, T, hs / 2)
    return torch.cat([x1 * cos - x2 * sin, x1 * sin + x2 * cos], dim=-1)


def sinusoids(position, width):
    """Return the positional encoding of Vaswani et al. (2017), section 3.5: (T,) -> (T, width)."""
    angle = rotary_angles(position, width)                      # (T, width / 2)
    pairs = torch.stack([angle.sin(), angle.cos()], dim=-1)     # (T, width / 2, 2)
    return pairs.flatten(1)                                     # (T, width)


class Attention(nn.Module):
    """Multi-head self-attention. mask (B, 1, 1, T): -inf at padding, else 0. rope: cos and sin, or None."""

    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.flash = config.flash
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.proj = nn.Linear(config.n_embd, config.n_embd)

    def queries_keys_values(self, x, rope):
        """Return q, k and v of x (B, T, C), each (B, nh, T, hs)."""
        qkv = self.qkv(x).unflatten(2, (3, self.n_head, -1))    # (B, T, 3, nh, hs)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                    # (B, nh, T, hs)
        if rope is not None:
            q = apply_rotary_emb(q, *rope)
            k = apply_rotary_emb(k, *rope)
        return q, k, v

    def attention_weights(self, q, k, mask):
        """Return softmax(q k^T / sqrt(hs) + mask): (B, nh, T, T), a row for each query."""
        scores = q / math.sqrt(q.size(-1)) @ k.mT               # (B, nh, T, T)
        return (scores + mask).softmax(-1)

    def forward(self, x, mask, rope):
        q, k, v = self.queries_keys_values(x, rope)
        mask = mask.to(q.dtype)
        flash = x.is_cuda if self.flash == 'auto' else self.flash
        if flash:
            y = F.scaled_dot_product_attention(q, k, v, mask)   # the same without T x T scores in memory
        else:
            y = self.attention_weights(q, k, mask) @ v          # (B, nh, T, hs)
        y = y.transpose(1, 2).flatten(2)                        # (B, T, C)
        return self.proj(y)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = Attention(config)
        self.norm1 = nn.LayerNorm(config.n_embd)
        self.norm2 = nn.LayerNorm(config.n_embd)
        self.fc = nn.Linear(config.n_embd, config.n_hidden)
        self.proj = nn.Linear(config.n_hidden, config.n_embd)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x, mask, rope):
        y = self.attention(self.norm1(x), mask, rope)           # (B, T, C)
        x = x.to(y.dtype) + self.drop(y)    # bfloat16 under autocast: less memory traffic
        y = F.gelu(self.fc(self.norm2(x)))                      # (B, T, n_hidden)
        return x + self.drop(self.proj(y))


class Model(nn.Module):
    monitor = 'accuracy', 'max'     # the metric that chooses best.pt
    makes = 'labels'                # samples/labels.py shows what it can do

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        if config.pos == 'learned':
            self.embed_pos = nn.Embedding(1 + config.block_size, config.n_embd)
        self.norm_embed = nn.LayerNorm(config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.n_class)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
        if config.n_pairs:
            self.embed_pair = nn.Embedding(config.n_pairs, config.n_embd)
            nn.init.zeros_(self.embed_pair.weight)      # a pair that was never seen adds nothing
        nn.init.zeros_(self.head.weight)    # start at the uniform distribution: the loss is ln n_class
        nn.init.zeros_(self.head.bias)

    def parts(self, T, device):
        """Return the parts in which a text of T tokens is read, each as the positions of its tokens.

        Position 0, the class token, is in every part. In training there is one part: a random 1 - rate of the
        tokens, the same positions for all texts of the batch, so with half of the tokens attention has a
        quarter of the scores. In evaluation about 1 / (1 - rate) interleaved parts have all tokens: the whole
        text at once would be longer than any that the model has learned from (results/imdb.md).
        """
        rate = self.config.token_dropout
        position = torch.arange(1, 1 + T, device=device)
        if self.training and rate:
            n_kept = round((1 - rate) * T)
            kept = torch.randperm(T, device=device)[:n_kept]
            parts = [position[kept.sort().values]]
        else:
            n_parts = round(1 / (1 - rate))
            parts = [position[i::n_parts] for i in range(n_parts)]
        return [F.pad(part, (1, 0)) for part in parts]          # with the class token

    def embed_text(self, text, position):
        """Return (x, mask, rope, is_token) of the tokens of texts (B, 1 + T) at `position` (n,).

        x (B, n, C), mask and rope are what the blocks read. is_token (B, n) is False at padding. The texts
        begin with the class token.
        """
        config = self.config
        tokens = text[:, position]                              # (B, n)
        is_token = tokens != 0
        mask = torch.where(is_token, 0.0, -torch.inf)[:, None, None]            # (B, 1, 1, n)
        x = self.embed(tokens)                                  # (B, n, C)
        if config.n_pairs:
            previous = text[:, (position - 1).clamp(min=0)]     # in the text: it may be in another part
            x = x + self.embed_pair(hash_pairs(previous, tokens, config.n_pairs))
        rope = None
        if config.pos == 'rope':
            angle = rotary_angles(position, config.n_embd // config.n_head)     # (n, hs / 2)
            rope = angle.cos(), angle.sin()
        elif config.pos == 'learned':
            x = x + self.embed_pos(position)
        elif config.pos == 'sinusoidal':
            x = x + 0.02 * sinusoids(position, config.n_embd)   # as small as the embeddings are at first
        return self.drop(self.norm_embed(x)), mask, rope, is_token

    def part_logits(self, text, position):
        """Return the logits of a part of texts (B, 1 + T): those of its positions (n,) -> (B, n_class)."""
        x, mask, rope, is_token = self.embed_text(text, position)
        for block in self.blocks:
            x = block(x, mask, rope)
        x = self.norm(x).float()
        is_token = is_token[:, :, None]                         # (B, n, 1)
        if self.config.pool == 'mean':
            x = (x * is_token).sum(1) / is_token.sum(1)         # (B, C)
        elif self.config.pool == 'max':
            x = x.masked_fill(~is_token, -torch.inf).amax(1)    # (B, C)
        else:
            x = x[:, 0]                                         # (B, C), of the class token
        return self.head(x).float()                             # (B, n_class)

    def logits(self, text):
        """Return the logits of texts, padded with 0: (B, T) ids -> (B, n_class) float32.

        They are the mean over the parts of a text, weighted by the tokens of each part: of a text of three
        words most parts are empty.
        """
        text = F.pad(text, (1, 0), value=CLASS_TOKEN)           # (B, 1 + T)
        logits = 0
        total = 0
        for position in self.parts(text.size(1) - 1, text.device):
            is_token = text[:, position[1:]] != 0               # (B, n - 1), without the class token
            count = is_token.sum(1, keepdim=True)               # (B, 1)
            weight = count + 1e-6                               # a text without tokens is not 0 / 0
            logits = logits + weight * self.part_logits(text, position)
            total = total + weight
        return logits / total

    def forward(self, text, label):
        """Return sums over texts (B, T) and labels (B,): `loss` is minimised, `nll` is the same without
        label smoothing; `confusion`, in evaluation only, counts (true, predicted) classes."""
        logits = self.logits(text)
        epsilon = self.config.label_smoothing
        loss = F.cross_entropy(logits, label, reduction='sum', label_smoothing=epsilon)
        nll = F.cross_entropy(logits.detach(), label, reduction='sum')     # reported, never minimised
        count = torch.full_like(nll, len(label))
        predicted = logits.argmax(1)                            # (B,)
        correct = (predicted == label).float().sum()
        sums = {'loss': loss, 'count': count, 'nll': nll, 'correct': correct}
        if not self.training:
            n = self.config.n_class
            pairs = torch.bincount(n * label + predicted, minlength=n * n)      # (n * n,)
            sums['confusion'] = pairs.float().view(n, n)
        return sums

    def metrics(self, total):
        """Return means from the sums over a whole split; in evaluation also those of each class.

        macro_f1 is the mean of F1 over all classes of the data set; one that is neither true nor predicted
        counts 0, as in scikit-learn where `labels` names all classes.
        """
        loss = total['nll'] / total['count']
        accuracy = total['correct'] / total['count']
        metrics = {'loss': loss, 'accuracy': accuracy}
        if 'confusion' in total:
            confusion = total['confusion']                      # (n_class, n_class)
            correct = confusion.diagonal()                      # true positives of each class
            n_true = confusion.sum(1)
            n_predicted = confusion.sum(0)
            f1 = 2 * correct / (n_true + n_predicted).clamp(min=1)
            metrics['macro_f1'] = f1.mean()
            metrics['precision'] = correct / n_predicted.clamp(min=1)   # 0 for a class never predicted
            metrics['recall'] = correct / n_true.clamp(min=1)           # 0 for a class without texts
            metrics['confusion'] = confusion
        return metrics


def check(config):
    """Raise ValueError, with a line per problem, for a configuration that cannot work."""
    problems = []
    for name in ('vocab_size', 'n_class', 'block_size', 'n_layer', 'n_head', 'n_embd', 'n_hidden'):
        if getattr(config, name) < 1:
            problems.append(f'{name} must be at least 1, got {getattr(config, name)}')
    if config.n_pairs < 0:
        problems.append(f'n_pairs must be at least 0, got {config.n_pairs}')
    for name in ('dropout', 'token_dropout', 'label_smoothing'):
        if not 0 <= getattr(config, name) < 1:
            problems.append(f'{name} must be in [0, 1), got {getattr(config, name)}')
    if not problems and config.n_embd % (2 * config.n_head):
        problems.append(f'n_embd {config.n_embd} must be divisible by 2 n_head, {2 * config.n_head}')
    if problems:
        raise ValueError('\n'.join(problems))
