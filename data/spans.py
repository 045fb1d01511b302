"""Span corruption: how T5 learns from text alone (Raffel et al. 2020, arXiv:1910.10683, section 3.1.4).

models/t5.py corrupts each batch when it reads it, so the same text has other spans in every epoch.

    tokens   Thank you for inviting me to your party last week
    src      Thank you <0> me to your party <1> END
    tgt      <0> for inviting <1> last week END

<0> and <1> are sentinels. In the source each stands for a span that was cut out; in the target each is
followed by its span. (Of so short a text fewer tokens would be cut out.)
"""
import torch
from torch.nn import functional as F

from core.errors import UserError

CORRUPTION_RATE = 0.15      # fraction of the tokens that are cut out
MEAN_SPAN_LENGTH = 3        # tokens
N_SENTINEL = 100            # the largest number of spans: each needs one
END = 1                     # the token that ends a source or a target


def random_lengths(B, total, n, device):
    """Return n random positive lengths with the sum `total`, (B, n): all divisions are equally likely.

    Of total 0, which only a text of one token has, the length is 0.
    """
    # A row of items is cut at n - 1 of the total - 1 gaps between them. To draw these without replacement,
    # sort random numbers: argsort is then a random permutation.
    n_gaps = max(0, total - 1)
    gaps = torch.rand(B, n_gaps, device=device).argsort(1)
    ends = gaps[:, :n - 1].sort(1).values + 1   # (B, n - 1)
    begin = F.pad(ends, (1, 0))                 # (B, n)
    end = F.pad(ends, (0, 1), value=total)      # (B, n)
    return end - begin


def count_spans(T):
    """Return how many of T tokens are cut out, and in how many spans."""
    n_cut = max(1, round(CORRUPTION_RATE * T))
    n_span = max(1, round(n_cut / MEAN_SPAN_LENGTH))
    return n_cut, min(n_span, N_SENTINEL)


def segments(B, T, device):
    """Return the number of the segment that each token is in, (B, T). Those with odd numbers are cut out.

    A text begins with a segment that is kept and ends with one that is cut out, as in T5.
    """
    n_cut, n_span = count_spans(T)
    kept = random_lengths(B, T - n_cut, n_span, device)         # (B, n_span)
    cut = random_lengths(B, n_cut, n_span, device)              # (B, n_span)
    lengths = torch.stack([kept, cut], 2)                       # (B, n_span, 2)
    ends = lengths.flatten(1).cumsum(1)                         # (B, 2 n_span)
    position = torch.arange(T, device=device).repeat(B, 1)      # (B, T)
    return torch.searchsorted(ends, position, right=True)


def replace_spans(tokens, segment, hidden, sentinel, n_shown):
    """Return tokens (B, T) with a sentinel in place of each hidden segment, and an end: (B, n_shown + 1).

    segment (B, T): the number of each token's segment. hidden (B, T): whether it is hidden.
    """
    before = F.pad(segment[:, :-1], (1, 0), value=-1)
    begins = segment != before                                  # the first token of a segment
    with_sentinels = torch.where(hidden, sentinel - segment // 2, tokens)
    shown = ~hidden | begins
    order = shown.int().argsort(dim=1, descending=True, stable=True)    # those shown first, in their order
    row = with_sentinels.gather(1, order[:, :n_shown])
    return F.pad(row, (0, 1), value=END)


def corrupt(tokens, sentinel):
    """Return a random source and target of tokens (B, T): (B, S), (B, U). Raises UserError without sentinels.

    sentinel: the id of the first one; the next ones have the ids below it. 0: the data set has none.
    """
    if sentinel == 0:
        raise UserError('to learn from text alone T5 needs sentinels: expected a data set such as t5_spans')
    B, T = tokens.shape
    n_cut, n_span = count_spans(T)
    segment = segments(B, T, tokens.device)
    is_cut = segment % 2 == 1
    src = replace_spans(tokens, segment, is_cut, sentinel, T - n_cut + n_span)
    tgt = replace_spans(tokens, segment, ~is_cut, sentinel, n_cut + n_span)
    return src, tgt
