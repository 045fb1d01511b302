"""The learned biases of a T5: what its heads add to a score, by how far the key is from the query."""
import torch

from core import checkpoint
from core.errors import UserError
from plots.figure import COLORS, new_figure, open_axes, save_figure

REACH = 64      # tokens to each side that are drawn


def draw(path, out='plot.png'):
    """Draw the relative-position biases of the model in `path`, a curve for each head.

    Left the encoder, right the decoder, whose heads see only what is before. Raises UserError for a model
    that has no such biases.
    """
    net = checkpoint.load(path)
    if not hasattr(net, 'relative_bias'):
        raise UserError(f'{path} has no relative-position biases; a t5 has')
    with torch.no_grad():
        length = 2 * REACH + 1
        encoder = net.relative_bias(net.bias_src, length, length, is_causal=False)      # (1, nh, T, T)
        decoder = net.relative_bias(net.bias_tgt, 1, REACH + 1, is_causal=True)         # (1, nh, 1, S)
    curves = {
        'encoder': (range(-REACH, REACH + 1), encoder[0, :, REACH]),        # of the query in the middle
        'decoder': (range(-REACH, 1), decoder[0, :, 0]),
    }
    figure = new_figure(9, 4)
    figure.suptitle(f'{path}: relative-position biases')
    for axes, stack in zip(figure.subplots(1, 2, sharey=True), curves):
        distance, biases = curves[stack]
        for head, bias in enumerate(biases):
            color = COLORS[head % len(COLORS)]
            axes.plot(distance, bias, color=color, drawstyle='steps-mid', label=f'head {head + 1}')
        axes.set(title=stack, xlabel='position of the key minus that of the query, in tokens')
        open_axes(axes)
    figure.axes[0].set_ylabel('added to the score')
    figure.axes[0].legend(frameon=False, fontsize='small')
    save_figure(figure, out)
