"""From logits to tokens: greedy and sampling. What a model assigns to each next token is its own business; choosing is ours."""
import torch


def greedy(logits):
    """The likeliest token: (B, V) -> (B,)."""
    return logits.argmax(-1)


def truncate(logits, top_k=0, top_p=1.0, min_p=0.0):
    """(B, V) logits with -inf for every token outside all the given sets; the likeliest token always stays.

    top_k: the k likeliest (0, or k >= V: all). top_p: the smallest set whose probability reaches p (Holtzman et al. 2020;
    1: all, 0: the likeliest alone). min_p: those of at least min_p times the likeliest's probability (Nguyen et al. 2024).
    """
    if 0 < top_k < logits.size(-1):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    if top_p < 1:
        ranked, order = logits.sort(descending=True)
        before = ranked.softmax(-1).cumsum(-1) - ranked.softmax(-1)         # probability of all likelier tokens
        outside = before >= top_p
        outside[:, 0] = False
        logits = logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
    if min_p > 0:
        probability = logits.softmax(-1)
        logits = logits.masked_fill(probability < min_p * probability.amax(-1, keepdim=True), -torch.inf)
    return logits


def sample(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, generator=None):
    """A token drawn from softmax(logits / temperature) within the given sets: (B, V) -> (B,). Temperature 0 is greedy."""
    if temperature == 0:
        return greedy(logits)
    probability = truncate(logits.float() / temperature, top_k, top_p, min_p).softmax(-1)
    return torch.multinomial(probability, 1, generator=generator).squeeze(1)
