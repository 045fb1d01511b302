"""Previous-token heads, first-token heads and induction heads of a GPT, found by where they attend.

    previous token      to the token before
    first token         to the first token of the window, where a head looks that has nothing to do: an
                        attention sink (Xiao et al. 2023, arXiv:2309.17453)
    induction           in a sequence that repeats, to the token that followed this one the first time, so
                        that the model can continue it (Olsson et al. 2022, arXiv:2209.11895)

The first two are measured on text of the data set. Induction is measured on random tokens, twice the same, of
which nothing else can be known.
"""
import torch

from core.checkpoint import build_model, find_checkpoint, load_checkpoint
from core.errors import UserError
from data import tokenizers
from plots.attention import self_attention_maps, token_names
from plots.figure import heatmap, new_figure, save_figure
from samples import load_split, random_rows

FOUND = 0.5         # a head is found if this fraction of its attention goes there


def previous_token(maps):
    """Return the mean weight at the token before: (n_layer, B, nh, T, T) -> (n_layer, nh)."""
    return maps.diagonal(-1, 3, 4).mean((1, 3))


def first_token(maps):
    """Return the mean weight at the first token, of the second half of the queries."""
    T = maps.size(3)
    return maps[..., T // 2:, 0].mean((1, 3))


def induction(maps):
    """Return the mean weight of the second half of a sequence r r at the token after the same one in r.

    With r of n tokens, query t attends to key t - n + 1.
    """
    n = maps.size(3) // 2
    return maps[..., n:, :].diagonal(1, 3, 4).mean((1, 3))


def measure(net, text, seed=0):
    """Return [(name, scores (n_layer, nh), tokens (T,), maps (n_layer, nh, T, T)), ...] of a GPT.

    text (B, T): of the data set. tokens: a sequence of those that were measured, with its maps.
    """
    n = min(64, net.config.block_size // 2)
    generator = torch.Generator().manual_seed(seed)
    repeated = torch.randint(net.config.vocab_size, (len(text), n), generator=generator).repeat(1, 2)
    text_maps = self_attention_maps(net, text)
    repeated_maps = self_attention_maps(net, repeated)
    return [('previous token', previous_token(text_maps), text[0], text_maps[:, 0]),
            ('first token', first_token(text_maps), text[0], text_maps[:, 0]),
            ('induction', induction(repeated_maps), repeated[0], repeated_maps[:, 0])]


def draw(path, seed=0, out='plot.png'):
    """Draw the scores of all heads of the GPT in `path`, and the map of the best head for each; print these.

    Raises UserError if the model is no GPT.
    """
    checkpoint = load_checkpoint(find_checkpoint(path))
    net = build_model(checkpoint)
    if net.makes != 'text':
        raise UserError(f'{path} has no heads to search: expected a model that writes text')
    split = load_split(checkpoint, '', ['tokens'], block_size=min(128, net.config.block_size))
    T = min(split.block_size, split.size - 1)
    rows = random_rows(split, 16, seed).clip(max=split.size - T - 1)    # where windows begin
    text = split.batch(rows)['tokens'][:, :T]
    tokenizer = tokenizers.load(checkpoint['tokenizer'])
    figure = new_figure(11, 7.5)
    figure.suptitle(f'{path}: where the attention of its heads goes', parse_math=False)
    above, below = figure.subplots(2, 3, height_ratios=(1, 2))
    layers = [f'layer {i + 1}' for i in range(net.config.n_layer)]
    heads = [f'head {i + 1}' for i in range(net.config.n_head)]
    for column, (name, scores, tokens, maps) in enumerate(measure(net, text, seed)):
        heatmap(above[column], scores.numpy(), layers, heads, f'{name}: weight of attention', size=7)
        layer, head = divmod(scores.argmax().item(), net.config.n_head)
        score = scores[layer, head].item()
        which = f'layer {layer + 1}, head {head + 1}'
        found = '' if score > FOUND else 'none; the nearest is '
        print(f'{name} head: {found}{which}, with {score:.2f} of its attention')
        # Of a repeated sequence the second half attends to the first. The maps are cut to 32 tokens.
        first = len(tokens) // 2 if name == 'induction' else 0
        weights = maps[layer, head][first:first + 32, :32]
        queries = token_names(tokenizer, tokens[first:first + 32].tolist())
        keys = token_names(tokenizer, tokens[:32].tolist())
        image = heatmap(below[column], weights.numpy(), queries, keys, which, size=5)
    figure.colorbar(image, ax=[*above, *below], label='attention weight', shrink=0.5, fraction=0.02)
    save_figure(figure, out)
