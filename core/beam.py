"""Beam search: the likeliest target of each source, of those that a beam of unfinished targets leads to.

`step` is the function that core/search.py describes: it returns the logits of the next token of each target.
"""
import torch

END = 1         # the token that ends a sentence


@torch.inference_mode()
def beam_search(step, max_length, beam=4, length_penalty=0.6):
    """Search for the likeliest target of each of n sources: a list of n pairs (score, ids without the end).

    Extend the `beam` likeliest unfinished targets of a source by every token, keep the likeliest, and so on.
    One that ends is not replaced, so a beam of 1 is greedy. A target of T tokens, its end included, has the
    score log p / ((5 + T) / 6)^length_penalty (Wu et al. 2016, equation 14). A source is done when none of
    its unfinished targets can beat its best one: log p only falls, and T is at most max_length (n,). Raises
    ValueError for a negative length_penalty, for which that does not hold, and for a beam below 1.
    """
    if length_penalty < 0 or beam < 1:
        raise ValueError(f'beam {beam} and length_penalty {length_penalty}: expected at least 1 and 0')

    def penalty(length):
        return ((5 + length) / 6) ** length_penalty

    # n sources, m of them unfinished, W beams of each of those, T tokens in each beam. A beam that has ended
    # keeps its place: its log_p is -inf, so that nothing extends it.
    n = len(max_length)
    device = max_length.device
    best_score = torch.full((n,), -torch.inf, device=device)
    best_target = [[] for _ in range(n)]
    unfinished = torch.arange(n, device=device)             # (m,), sources
    n_open = torch.full((n,), beam, device=device)          # (m,), beams that have not ended
    tokens = max_length.new_zeros(n, 1)                     # (m W, T); at first W = 1 and T = 1
    log_p = torch.zeros(n, 1, device=device)                # (m, W)
    parents = unfinished                                    # (m W,)
    while len(unfinished):
        m, W = log_p.shape
        T = tokens.size(1)
        logits = step(tokens, parents, unfinished.repeat_interleave(W))
        next_log_p = logits.log_softmax(-1)                                             # (m W, V)
        V = next_log_p.size(1)
        must_end = max_length[unfinished] <= T                                          # (m,)
        must_end = must_end.repeat_interleave(W)                                        # (m W,)
        is_other = torch.arange(V, device=device) != END                                # (V,)
        impossible = must_end[:, None] & is_other
        next_log_p = next_log_p.masked_fill(impossible, -torch.inf)

        # Of all W V extensions of a source, take the likeliest, as many as it has open beams.
        extended = log_p.view(m * W, 1) + next_log_p
        extended = extended.view(m, W * V)
        W_new = min(beam, W * V)
        log_p, index = extended.topk(W_new)         # (m, W_new); an index is its beam times V, plus the token
        rank = torch.arange(W_new, device=device)
        log_p = log_p.masked_fill(rank >= n_open[:, None], -torch.inf)
        first_row = W * torch.arange(m, device=device)[:, None]     # of each source
        parents = first_row + index // V
        next_token = index % V
        tokens = torch.cat([tokens[parents], next_token[..., None]], 2)                 # (m, W_new, T + 1)

        # Some of them end here: they are candidates for the best target.
        ended = (next_token == END) & log_p.isfinite()                                  # (m, W_new)
        for i, j in ended.nonzero().tolist():
            source = unfinished[i]
            score = log_p[i, j] / penalty(T)
            if score > best_score[source]:
                best_score[source] = score
                best_target[source] = tokens[i, j, 1:-1].tolist()
        n_open = n_open - ended.sum(1)
        log_p = log_p.masked_fill(ended, -torch.inf)

        # Go on with the sources whose likeliest beam could still win, were its log p to fall no further.
        highest_possible = log_p.amax(1) / penalty(max_length[unfinished])
        can_win = highest_possible > best_score[unfinished]                             # (m,)
        unfinished = unfinished[can_win]
        n_open = n_open[can_win]
        log_p = log_p[can_win]
        tokens = tokens[can_win].flatten(0, 1)
        parents = parents[can_win].flatten()
    return list(zip(best_score.tolist(), best_target))
