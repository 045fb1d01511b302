"""The confusion matrix of a classifier: how many rows of each true class are predicted as each class."""
import math

import numpy as np

from core.checkpoint import find_checkpoint, load_checkpoint
from core.errors import UserError
from plots.figure import heatmap, new_figure, save_figure

MOST = 50       # classes whose names and numbers of rows are all drawn; of more classes only colors


def draw(run, out='plot.png'):
    """Draw the confusion matrix of a run's last evaluation on the test set, else on the validation set.

    The text of a cell is a number of rows; its color is the fraction of the rows of the true class. Of many
    classes, cells have no text and only some have names. Raises UserError if no evaluation logged a matrix.
    """
    evaluations = [line for line in run['val'] + run['test'] if 'confusion' in line]
    if not evaluations:
        raise UserError(f'no confusion in {run["run"]}: only the evaluation of a classifier logs one', code=3)
    line = evaluations[-1]
    count = np.array(line['confusion'])                                 # (n, n): true class, predicted class
    fraction = count / np.maximum(count.sum(1, keepdims=True), 1)       # 0 for a class without rows
    n = len(count)
    names = class_names(run['run'], n)

    side = max(5, 2 + 0.4 * min(n, MOST))       # inches
    figure = new_figure(side, side)
    axes = figure.subplots()
    keys = run['keys']
    title = (f'{keys["model"]} on {keys["dataset"]}, {line["split"]} at step {line["step"]:,}\n'
             f'{count.trace():,.0f} of {count.sum():,.0f} correct')
    heatmap(axes, fraction, names, names, title, size=8, every=math.ceil(n / MOST))
    axes.set(xlabel='predicted', ylabel='true')
    cells = np.ndenumerate(count) if n <= MOST else []
    for (i, j), rows in cells:
        if rows == 0 and n > 12:        # zeros would clutter a plot of many classes
            continue
        if fraction[i, j] > 0.5:
            color = 'white'
        else:
            color = 'black' if rows else 'silver'
        axes.text(j, i, f'{rows:.0f}', size=8, color=color, ha='center', va='center')
    save_figure(figure, out)


def class_names(folder, n):
    """Return the names of the n classes from the run's checkpoint; their numbers if it has none."""
    try:
        checkpoint = load_checkpoint(find_checkpoint(folder))
    except UserError:
        return range(n)
    names = checkpoint.get('info', {}).get('classes', [])
    return names if len(names) == n else range(n)
