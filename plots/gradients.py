"""The norm of the gradient in each layer over a training: where it vanishes, where it explodes."""
from matplotlib import colormaps

from core.errors import UserError
from plots.figure import new_figure, open_axes, save_figure


def draw(run, out='plot.png'):
    """Draw the gradient norms of the layers of a run that `core.record.read_run` returned.

    They are of the mean loss of a batch, before clipping. Layers are coloured in their order, from dark to
    light. Raises UserError if the run has none in its log.
    """
    lines = [line for line in run['train'] if line.get('layer_norms')]
    if not lines:
        raise UserError(f'{run["run"]}/log.jsonl has no layer_norms: it was written by an earlier revision',
                        code=3)
    layers = list(lines[0]['layer_norms'])
    figure = new_figure(8, 4.8)
    axes = figure.subplots()
    for i, layer in enumerate(layers):
        steps = [line['step'] for line in lines if layer in line['layer_norms']]
        norms = [line['layer_norms'][layer] for line in lines if layer in line['layer_norms']]
        color = colormaps['viridis'](0.9 * i / max(1, len(layers) - 1))
        axes.plot(steps, norms, color=color, linewidth=0.8, label=layer)
    axes.set(xlabel='step', ylabel='norm of the gradient', yscale='log')
    axes.set_title(f'{run["keys"]["model"]} on {run["keys"]["dataset"]}', loc='left', fontsize='medium')
    axes.legend(frameon=False, fontsize='small', ncols=1 + len(layers) // 16, loc='upper left',
                bbox_to_anchor=(1, 1))
    open_axes(axes)
    save_figure(figure, out)
