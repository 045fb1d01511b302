"""Attention maps: which tokens each token attends to, in every head of a model."""
import contextlib

import torch
from torch.nn import functional as F

from core import search
from core.checkpoint import build_model, find_checkpoint, load_checkpoint
from core.errors import UserError
from data import tokenizers
from plots.figure import heatmap, new_figure, save_figure


def draw(path, start, layer=-1, out='plot.png'):
    """Draw the attention weights of the model in `path` as it reads the text `start`.

    A row of a map is a query, a column is a key, and a row adds up to 1. `layer` is for translation alone.
    Raises UserError if the model has no attention, if there is no text, or no such layer.
    """
    checkpoint = load_checkpoint(find_checkpoint(path))
    net = build_model(checkpoint)
    tokenizer = tokenizers.load(checkpoint['tokenizer'])
    if net.makes not in ('text', 'labels', 'translation') or tokenizer is None:
        raise UserError(f'{path} does not read text, so there is no attention to draw')
    if not start:
        raise UserError('which text? For example: --start="A dog runs."')
    if net.makes == 'translation':
        figure = draw_translation(net, tokenizer, start, layer)
    else:
        figure = draw_layers(net, tokenizer, start)
    save_figure(figure, out)


def draw_layers(net, tokenizer, start):
    """Return a page with a row for each layer of a GPT or classifier, and a map for each head."""
    config = net.config
    ids = tokenizer.encode(start)[:config.block_size]
    maps = self_attention_maps(net, torch.tensor([ids]))[:, 0].numpy()      # (n_layer, nh, T, T)
    names = token_names(tokenizer, ids)
    if maps.shape[-1] > len(names):
        names = ['class', *names]               # the classifier reads a token of its own before the text
    figure = new_figure(max(2.2 * config.n_head, 5), 2.4 * config.n_layer + 0.8)
    title = tokenizer.decode(ids)
    figure.suptitle(f'{title[:77]}...' if len(title) > 80 else title, parse_math=False)
    grid = figure.subplots(config.n_layer, config.n_head, squeeze=False)
    size = 5 if len(names) <= 40 else 3
    for layer in range(config.n_layer):
        for head in range(config.n_head):
            title = f'layer {layer + 1}, head {head + 1}'
            image = heatmap(grid[layer, head], maps[layer, head], names, names, title, size)
    figure.colorbar(image, ax=grid, label='attention weight', shrink=0.5, fraction=0.02)
    return figure


def draw_translation(net, tokenizer, start, layer):
    """Return a page for the translation of `start`. Raises UserError if there is no such layer.

    Above: the mean over heads of the cross-attention, from each token of the translation to those of the
    sentence. Below: each head of the cross-attention, of the encoder and of the decoder.
    """
    n_layer = min(len(net.encoder), len(net.decoder))
    n_head = net.config.n_head
    if not -n_layer <= layer < n_layer:
        raise UserError(f'--layer={layer}: expected a layer below {n_layer}')
    ids = tokenizer.encode(start)
    src = ids[:net.config.block_size - 1] + [search.END]        # S ids
    targets = search.translate(net, [src], beam=1)              # greedily
    tgt = targets[0] + [search.END]                             # T ids
    maps = attention_maps(net, torch.tensor([src]), torch.tensor([tgt]))
    sentence = token_names(tokenizer, src)
    translation = token_names(tokenizer, tgt)
    decoder_input = ['start', *translation[:-1]]        # the target, shifted right by one

    figure = new_figure(max(2.4 * n_head, 5), 12)
    figure.suptitle(f'{start}\n{tokenizer.decode(tgt)}', parse_math=False)
    above, below = figure.subfigures(2, height_ratios=(4, 7))
    mean = maps['cross'][layer, 0].mean(0).numpy()      # (T, S)
    title = f'layer {layer % n_layer + 1}: cross, the mean of all heads'
    axes = above.subplots()
    image = heatmap(axes, mean, translation, sentence, title, size=9)
    above.colorbar(image, ax=axes, label='attention weight')
    names = {
        'cross': (translation, sentence),
        'encoder': (sentence, sentence),
        'decoder': (translation, decoder_input),
    }
    grid = below.subplots(3, n_head, squeeze=False)
    for axes, kind in zip(grid, names):
        queries, keys = names[kind]
        for head in range(n_head):
            weights = maps[kind][layer, 0, head].numpy()        # (queries, keys)
            title = f'{kind}, head {head + 1}'
            heatmap(axes[head], weights, queries, keys, title, size=5)
    return figure


@torch.no_grad()
def attention_maps(net, src, tgt):
    """Return the attention weights of a translation model in eval mode, for src (B, S) and tgt (B, T).

    encoder (n_layer, B, nh, S, S), decoder (n_layer, B, nh, T, T), cross (n_layer, B, nh, T, S): a row for
    each query, a column for each key. Row t of decoder and cross predicts tgt[:, t].
    """
    modules = {
        'encoder': [layer.attention for layer in net.encoder],
        'decoder': [layer.attention for layer in net.decoder],
        'cross': [layer.cross for layer in net.decoder],
    }
    weights = {}

    def record(module, arguments, output):
        weights[module] = module.attention_weights(*arguments)  # again: flash attention returns none

    hooks = []
    for kind in modules:
        hooks += [module.register_forward_hook(record) for module in modules[kind]]
    net(src, tgt)
    for hook in hooks:
        hook.remove()
    maps = {}
    for kind in modules:
        maps[kind] = torch.stack([weights[module] for module in modules[kind]])
    return maps


@contextlib.contextmanager
def recorded_weights():
    """Yield a list to which each scaled_dot_product_attention in the `with` block adds its (B, nh, T, S)."""
    fused = F.scaled_dot_product_attention
    recorded = []

    def attend(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False):
        scores = q @ k.mT / q.size(-1) ** 0.5
        if is_causal:
            attn_mask = torch.full(scores.shape[-2:], -torch.inf).triu(1)
        if attn_mask is not None:
            scores = scores + attn_mask
        weights = scores.softmax(-1)
        recorded.append(weights)
        return weights @ v

    F.scaled_dot_product_attention = attend
    try:
        yield recorded
    finally:
        F.scaled_dot_product_attention = fused


@torch.no_grad()
def self_attention_maps(net, tokens):
    """Return the weights of a GPT or classifier that reads tokens (B, T): (n_layer, B, nh, T, T).

    A classifier reads 1 + T tokens, its class token first, here all in one part.
    """
    for module in net.modules():            # the fused attention of these models can be replaced
        if hasattr(module, 'flash'):
            module.flash = True
    net.config.flash = True
    with recorded_weights() as recorded:
        if net.makes == 'labels':
            text = F.pad(tokens, (1, 0), value=1)           # the class token of models/classifier.py
            net.part_logits(text, torch.arange(text.size(1)))
        else:
            net.logits(tokens)
    return torch.stack(recorded)


def token_names(tokenizer, ids):
    """Return the text of each token, with dots for spaces, and 'end' for the token that ends a sentence."""
    return [tokenizer.decode([i]).replace(' ', '·') or 'end' for i in ids]
