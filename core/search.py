"""Choose tokens from a model's logits: greedily, by sampling, by beam search.

The first functions choose one next token, for any model that predicts tokens. `generate` continues a text
with them. `decode`, and beam_search in core/beam.py, write a whole target for each source. All they know of
the model is a function `step`; `Decoder` is that of an encoder-decoder:

    step(tokens, parents, sources) -> logits (N, V) of the next token of N unfinished targets
        tokens (N, T): what they have so far; the first token of each is 0
        parents (N,): which row of the previous call each of them extends by one token
        sources (N,): which source each of them is a target for

A token 1 ends a sentence, a token 0 stands before a target and pads a source.
"""
import math

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from core.beam import END, beam_search


def greedy(logits):
    """Return the likeliest token of each row: (B, V) -> (B,)."""
    return logits.argmax(-1)


def truncate(logits, top_k=0, top_p=1.0, min_p=0.0):
    """Return logits (B, V) with -inf for all tokens outside any of three sets. The likeliest is in all three.

    top_k: the k likeliest tokens; 0: all. top_p: the smallest set with a total probability of at least p
    (nucleus sampling, Holtzman et al. 2020); 1: all. min_p: the tokens of at least min_p times the highest
    probability (Nguyen et al. 2024); 0: all.
    """
    V = logits.size(-1)
    if 0 < top_k < V:
        smallest = logits.topk(top_k).values[:, -1:]                    # (B, 1)
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if top_p < 1:
        probability, order = logits.softmax(-1).sort(descending=True)
        likelier = probability.cumsum(-1) - probability                 # total of the tokens before this one
        outside = likelier >= top_p                                     # they are enough without it
        outside[:, 0] = False
        outside = outside.scatter(-1, order, outside)                   # back from sorted order to token ids
        logits = logits.masked_fill(outside, -torch.inf)
    if min_p > 0:
        probability = logits.softmax(-1)
        smallest = min_p * probability.amax(-1, keepdim=True)
        logits = logits.masked_fill(probability < smallest, -torch.inf)
    return logits


def sample(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, generator=None):
    """Draw a token of each row from softmax(logits / temperature), truncated: (B, V) -> (B,).

    Temperature 0 is greedy.
    """
    if temperature == 0:
        return greedy(logits)
    logits = logits - logits.amax(-1, keepdim=True)         # so that no small temperature gives inf - inf
    logits = logits.float() / max(temperature, 1e-30)
    probability = truncate(logits, top_k, top_p, min_p).softmax(-1)
    return torch.multinomial(probability, 1, generator=generator).squeeze(1)


# --- continuing a text

@torch.inference_mode()
def generate(net, tokens, max_new_tokens, choose):
    """Yield the next token of each row of tokens (B, S): ids (B,), max_new_tokens times.

    choose: a function from logits (B, vocab_size) to ids (B,). A context that grows longer than block_size is
    cut to its newer half. This is the plain loop, against which generate_cached is tested.
    """
    block_size = net.config.block_size
    half = math.ceil(block_size / 2)
    for _ in range(max_new_tokens):
        if tokens.size(1) > block_size:
            tokens = tokens[:, -half:]
        logits = net.logits(tokens)                                     # (B, S, vocab_size)
        next_token = choose(logits[:, -1])                              # (B,)
        yield next_token
        tokens = torch.cat([tokens, next_token[:, None]], dim=1)        # (B, S + 1)


@torch.inference_mode()
def generate_cached(net, tokens, max_new_tokens, choose):
    """Yield what `generate` yields, but keep the keys and values of tokens instead of reading them again.

    Cutting half of a context refills the cache, so that happens every block_size / 2 tokens.
    """
    block_size = net.config.block_size
    half = math.ceil(block_size / 2)
    kv_cache = net.empty_kv_cache(len(tokens))
    n_cached = 0                                # how many of `tokens` have their keys and values in the cache
    for _ in range(max_new_tokens):
        if tokens.size(1) > block_size:
            tokens = tokens[:, -half:]
            n_cached = 0                        # positions have changed, and with them keys and values
        S = tokens.size(1)
        logits = net.logits(tokens[:, n_cached:], kv_cache[..., :S, :])
        next_token = choose(logits[:, -1])                              # (B,)
        yield next_token
        tokens = torch.cat([tokens, next_token[:, None]], dim=1)        # (B, S + 1)
        n_cached = S


# --- writing a target for each source

class Decoder:
    """The `step` described above, of a model with `encode` and `decode`, for the n sources in src (n, S).

    The encoder runs once. With the cache, the decoder computes only the newest token of each target. Without,
    it computes all of them again at every step: the same logits, more slowly.
    """

    def __init__(self, net, src, use_cache=True):
        self.net = net
        self.use_cache = use_cache
        self.memory, self.padding_mask = net.encode(src)
        self.kv_cache = None            # of the previous call's targets: for each layer (2, N, nh, T, hs)
        self.sources = None             # of the previous call (N,)
        self.memory_of_targets = None   # the rows `sources` of memory and padding_mask
        self.mask_of_targets = None

    def __call__(self, tokens, parents, sources):
        if self.sources is None or not torch.equal(self.sources, sources):
            self.sources = sources
            self.memory_of_targets = [kv[:, sources] for kv in self.memory]
            self.mask_of_targets = self.padding_mask[sources]
        if self.use_cache:
            self.extend_cache(parents)
            tokens = tokens[:, -1:]
        logits = self.net.decode(tokens, self.memory_of_targets, self.mask_of_targets, self.kv_cache)
        return logits[:, -1]

    def extend_cache(self, parents):
        """Give each target its parent's keys and values, and room for those of one more token."""
        if self.kv_cache is None:
            self.kv_cache = [kv[:, :, :, :0] for kv in self.memory_of_targets]      # T = 0
        else:
            self.kv_cache = [kv[:, parents] for kv in self.kv_cache]
        self.kv_cache = [F.pad(kv, (0, 0, 0, 1)) for kv in self.kv_cache]           # (2, N, nh, T + 1, hs)


@torch.inference_mode()
def decode(step, max_length, choose):
    """Write a target for each of n sources, token by token: a list of n lists of ids, without the end.

    max_length (n,): how many tokens a target may have, its end included.
    choose: a function from logits (N, V) to tokens (N,), for example `greedy`.
    """
    n = len(max_length)
    targets = [[] for _ in range(n)]
    tokens = max_length.new_zeros(n, 1)                             # of the unfinished targets: (N, T)
    sources = torch.arange(n, device=max_length.device)             # (N,)
    parents = sources
    while len(sources):
        next_token = choose(step(tokens, parents, sources))         # (N,)
        is_last = tokens.size(1) >= max_length[sources]
        next_token = next_token.masked_fill(is_last, END)
        unfinished = next_token != END
        tokens = torch.cat([tokens, next_token[:, None]], 1)        # (N, T + 1)
        parents = unfinished.nonzero().squeeze(1)                   # the rows that go on
        tokens = tokens[parents]
        sources = sources[parents]
        for source, token in zip(sources.tolist(), tokens[:, -1].tolist()):
            targets[source].append(token)
    return targets


@torch.inference_mode()
def translate(net, sources, beam=4, length_penalty=0.6, choose=greedy, batch_size=64, cache=True):
    """Translate `sources`, lists of S ids that end with END, into lists of at most 2 S + 10 ids without it.

    beam 0 writes token by token with `choose`: logits (N, V) -> tokens (N,). Unless that draws at random, a
    translation does not depend on what else is in its batch.
    """
    device = next(net.parameters()).device
    targets = [None] * len(sources)
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))      # little padding in a batch
    for start in range(0, len(order), batch_size):
        batch = order[start:start + batch_size]
        src = [torch.tensor(sources[i], device=device) for i in batch]
        max_length = torch.tensor([2 * len(ids) + 10 for ids in src], device=device)
        max_length = max_length.clamp(max=net.config.block_size)
        step = Decoder(net, pad_sequence(src, batch_first=True), cache)
        if beam:
            found = beam_search(step, max_length, beam, length_penalty)
            translations = [ids for score, ids in found]
        else:
            translations = decode(step, max_length, choose)
        for i, ids in zip(batch, translations):
            targets[i] = ids
    return targets
