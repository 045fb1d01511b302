"""From logits to tokens: greedy, sampling, beam. A model says what is likely; here is how one chooses.

A model that writes a target for a source is asked through `writer(net, src)`: a function of the tokens so far
that says what is likely next. Whatever is such a function, a toy of a test too, can be searched.
"""
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

END = 1         # the id that ends a target; 0 stands before it and, as padding, after it


def greedy(logits):
    """The likeliest token: (B, V) -> (B,)."""
    return logits.argmax(-1)


def truncate(logits, top_k=0, top_p=1.0, min_p=0.0):
    """(B, V) logits with -inf for the tokens outside any of the given sets; the likeliest always stays.

    top_k: the k likeliest (0, or k >= V: all). top_p: the smallest set of probability p (Holtzman et al.
    2020; 1: all, 0: the likeliest). min_p: those of at least min_p x the highest probability (Nguyen et al.
    2024).
    """
    if 0 < top_k < logits.size(-1):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    if top_p < 1:
        ranked, order = logits.softmax(-1).sort(descending=True)
        outside = ranked.cumsum(-1) - ranked >= top_p       # the likelier ones are enough without it
        outside[:, 0] = False
        logits = logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
    if min_p > 0:
        probability = logits.softmax(-1)
        logits = logits.masked_fill(probability < min_p * probability.amax(-1, keepdim=True), -torch.inf)
    return logits


def sample(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, generator=None):
    """A token from softmax(logits / temperature) in the given sets: (B, V) -> (B,); temperature 0: greedy."""
    if temperature == 0:
        return greedy(logits)
    logits = (logits - logits.amax(-1, keepdim=True)).float() / max(temperature, 1e-30)
    probability = truncate(logits, top_k, top_p, min_p).softmax(-1)
    return torch.multinomial(probability, 1, generator=generator).squeeze(1)


# --- targets for sources

def writer(net, src, cache=True):
    """(B, S) ids of sources -> step(tokens, parents, sources), a function that gives the logits (N, V) of the
    next token of N partial targets. tokens (N, T): their ids so far, the first 0; sources (N,): the row of
    `src` of each; parents (N,): the row of the previous call that each extends by one token.

    The encoder runs once; with the cache, the decoder reads the newest token alone."""
    memory, padding = net.encode(src)
    past = now = mine = mask = None

    def step(tokens, parents, sources):
        nonlocal past, now, mine, mask
        if now is None or not torch.equal(now, sources):        # gathered anew only where sources have ended
            now, mine, mask = sources, [kv[:, sources] for kv in memory], padding[sources]
        if not cache:
            return net.decode(tokens, mine, mask)[:, -1]
        past = [kv[:, parents] for kv in past] if past else [kv[:, :, :, :0] for kv in mine]
        past = [F.pad(kv, (0, 0, 0, 1)) for kv in past]         # room for one token more
        return net.decode(tokens[:, -1:], mine, mask, past)[:, -1]

    return step


@torch.inference_mode()
def write(step, max_length, choose):
    """A target for each source, token by token: [lists of ids, without the end]. max_length (n,): the tokens
    it may have, the end among them; choose: (N, V) logits -> (N,) ids."""
    targets, tokens = [[] for _ in max_length], max_length.new_zeros(len(max_length), 1)
    sources = parents = torch.arange(len(max_length), device=max_length.device)
    while len(sources):
        chosen = choose(step(tokens, parents, sources))
        chosen = chosen.masked_fill(tokens.size(1) >= max_length[sources], END)       # no room: it has to end
        for i, token in zip(sources.tolist(), chosen.tolist()):
            targets[i] += [token] * (token != END)
        parents = (chosen != END).nonzero().squeeze(1)
        tokens, sources = torch.cat([tokens, chosen[:, None]], 1)[parents], sources[parents]
    return targets


@torch.inference_mode()
def beam_search(step, max_length, width=4, length_penalty=0.6):
    """The likeliest targets that a search finds: for each source (score, ids without the end).

    Of every source the `width` likeliest beginnings go on. One that ends leaves its place empty, so that a
    width of 1 is greedy. The score is log p / ((5 + T) / 6)^length_penalty of T tokens, the end among them
    (Wu et al. 2016, equation 14). The search is over when all have ended, or none that goes on could still
    win: log p only falls, and a target has at most `max_length` (n,) tokens, the end among them. Raises
    ValueError for a negative penalty, under which that is not so.
    """
    if length_penalty < 0 or width < 1:
        raise ValueError(f'width {width} and length_penalty {length_penalty}: expected at least 1 and 0')

    def divisor(length):
        return ((5 + length) / 6) ** length_penalty

    n, device = len(max_length), max_length.device
    best, targets = torch.full((n,), -torch.inf, device=device), [[] for _ in range(n)]
    going = sources = parents = torch.arange(n, device=device)          # sources that are not done
    tokens, log_p = max_length.new_zeros(n, 1), torch.zeros(n, 1, device=device)
    places = torch.full((n,), width, device=device)                     # of each source: beams not ended
    while len(going):
        T, (m, w) = tokens.size(1), log_p.shape
        following = step(tokens, parents, sources).log_softmax(-1)                      # (m w, V)
        V = following.size(1)
        if (must_end := max_length[going] <= T).any():
            other = torch.arange(V, device=device) != END
            following = following.masked_fill(must_end.repeat_interleave(w)[:, None] & other, -torch.inf)
        total = (log_p.view(-1, 1) + following).view(m, w * V)
        log_p, index = total.topk(min(width, w * V))                                    # (m, W)
        rank = torch.arange(log_p.size(1), device=device)
        log_p = log_p.masked_fill(rank >= places[:, None], -torch.inf)
        parents = torch.arange(m, device=device)[:, None] * w + index // V
        tokens = torch.cat([tokens[parents], (index % V)[..., None]], 2)                # (m, W, T + 1)
        over = (tokens[..., -1] == END) & log_p.isfinite()
        for i, j in over.nonzero().tolist():
            if (score := log_p[i, j] / divisor(T)) > best[going[i]]:
                best[going[i]], targets[going[i]] = score, tokens[i, j, 1:-1].tolist()
        places, log_p = places - over.sum(1), log_p.masked_fill(over, -torch.inf)
        hopeful = log_p.amax(1) / divisor(max_length[going]) > best[going]
        going, places, log_p = going[hopeful], places[hopeful], log_p[hopeful]
        tokens, parents = tokens[hopeful].flatten(0, 1), parents[hopeful].flatten()
        sources = going.repeat_interleave(log_p.size(1))
    return list(zip(best.tolist(), targets))


@torch.inference_mode()
def translate(net, sources, beam=4, length_penalty=0.6, choose=greedy, batch_size=64, cache=True):
    """A target for each of `sources`, lists of S ids with their end: lists of ids, without, of at most 2 S +
    10 tokens. beam 0: token by token, by `choose`: (N, V) logits -> (N,) ids. Unless it draws, each is as if
    it were the only one."""
    device, targets = next(net.parameters()).device, [None] * len(sources)
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    for some in (order[i:i + batch_size] for i in range(0, len(order), batch_size)):
        src = [torch.tensor(sources[i], device=device) for i in some]
        length = torch.tensor([2 * len(ids) + 10 for ids in src], device=device)
        max_length = length.clamp(max=net.config.block_size)
        step = writer(net, pad_sequence(src, batch_first=True), cache)
        found = ([ids for _, ids in beam_search(step, max_length, beam, length_penalty)]
                 if beam else write(step, max_length, choose))
        for i, ids in zip(some, found):
            targets[i] = ids
    return targets
