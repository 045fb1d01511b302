"""From logits to tokens: greedy and sampling. A model says what is likely; here is how one chooses."""
import torch


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
