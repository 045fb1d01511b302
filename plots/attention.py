"""Attention maps of a translation model: which tokens each token attends to."""
import torch

from core import search
from core.checkpoint import build_model, find_checkpoint, load_checkpoint
from core.errors import UserError
from data import tokenizers
from plots.figure import heatmap, new_figure, save_figure


def draw(path, start, layer=-1, out='plot.png'):
    """Translate the sentence `start` and draw the attention weights of one layer of the model in `path`.

    Above: the mean over heads of the cross-attention, from each token of the translation to those of the
    sentence. Below: each head of the cross-attention, of the encoder and of the decoder. A row of a map is a
    query, a column is a key, and a row adds up to 1. Raises UserError if the model does not translate, if
    there is no sentence, or no such layer.
    """
    checkpoint = load_checkpoint(find_checkpoint(path))
    net = build_model(checkpoint)
    tokenizer = tokenizers.load(checkpoint['tokenizer'])
    if net.makes != 'translation' or tokenizer is None:
        raise UserError(f'{path} does not translate, so there is no attention to draw')
    n_layer = min(len(net.encoder), len(net.decoder))
    n_head = net.config.n_head
    if not start or not -n_layer <= layer < n_layer:
        raise UserError(f'--start={start} --layer={layer}: expected a sentence, and a layer below {n_layer}')

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
    heatmap(above.subplots(), mean, translation, sentence, 'cross, the mean of all heads', size=9)
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
    save_figure(figure, out)


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


def token_names(tokenizer, ids):
    """Return the text of each token, with dots for spaces, and 'end' for the token that ends a sentence."""
    return [tokenizer.decode([i]).replace(' ', '·') or 'end' for i in ids]
