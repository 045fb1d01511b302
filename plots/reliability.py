"""The reliability diagram of a classifier: is it right as often as it is confident?

Confidence is the probability that the model gives to the class it predicts. A model is calibrated if, for
example, 90 % of its predictions with a confidence of 0.9 are right (Guo et al. 2017, On Calibration of Modern
Neural Networks).
"""
import json

import numpy as np

from core.errors import UserError
from plots.figure import COLORS, new_figure, open_axes, save_figure


def draw(path, out='plot.png', bins=15):
    """Draw the accuracy in each bin of confidence, and below it the fraction of the rows in each bin.

    path: a file that sample.py wrote, or a run folder with such a file test.jsonl.
    """
    file = path / 'test.jsonl' if path.is_dir() else path
    correct, confidence = read_predictions(file)
    filled, count, accuracy, mean_confidence = calibration(correct, confidence, bins)
    error = calibration_error(count, accuracy, mean_confidence)

    figure = new_figure(5.5, 6.5)
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], '--', color='grey', label='perfectly calibrated')
    above.vlines(mean_confidence, mean_confidence, accuracy, color=COLORS[1], linewidth=3, alpha=0.5,
                 label='gap', zorder=1)
    above.plot(mean_confidence, accuracy, 'o-', color=COLORS[0], clip_on=False, label=f'one of {bins} bins')
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel='accuracy')
    above.legend(frameon=False, fontsize='small')
    title = (f'{file.name}: expected calibration error {error:.4f}\n{len(correct):,} rows, '
             f'accuracy {correct.mean():.4f}, mean confidence {confidence.mean():.4f}')
    above.set_title(title, loc='left', size='medium')
    below.bar(filled / bins, count / len(correct), 1 / bins, align='edge', color=COLORS[0], edgecolor='white')
    below.set(xlabel='confidence', ylabel='fraction of rows')
    for axes in above, below:
        open_axes(axes)
    save_figure(figure, out)


def read_predictions(file):
    """Return (correct, confidence), each (n,), of the n predictions in a file that sample.py wrote.

    Raises UserError if there is no such file, or one of its lines is not of this kind.
    """
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f'{file}: {error.strerror}',
                        f'to make it: python sample.py --out_dir={file.parent} --out={file}', code=3)
    if not lines:
        raise UserError(f'{file} is empty', code=3)
    correct = []
    confidence = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            probability = row['probabilities'][row['predicted']]
            is_probability = 0 < probability <= 1       # false for NaN, too
            correct.append(row['true'] == row['predicted'])
        except (ValueError, LookupError, TypeError):    # not JSON; a name, an index is missing; not numbers
            is_probability = False
        if not is_probability:
            raise UserError(f'{file}:{number} is not a line of probabilities from sample.py', code=3)
        confidence.append(probability)
    return np.array(correct), np.array(confidence)


def calibration(correct, confidence, bins=15):
    """Sort predictions into bins of equal width by their confidence; the m-th is (m / bins, (m + 1) / bins].

    correct, confidence: (n,). Returns (filled, count, accuracy, mean_confidence), each (k,): the numbers m of
    the k bins that have rows, and for each of these bins the number of rows, accuracy and mean confidence.
    """
    m = np.ceil(np.multiply(confidence, bins)).astype(int) - 1      # (n,): the bin of each row
    count = np.bincount(m, minlength=bins)
    filled = count.nonzero()[0]
    count = count[filled]
    accuracy = np.bincount(m, weights=correct, minlength=bins)[filled] / count
    mean_confidence = np.bincount(m, weights=confidence, minlength=bins)[filled] / count
    return filled, count, accuracy, mean_confidence


def calibration_error(count, accuracy, mean_confidence):
    """Return the expected calibration error: the mean over all rows of their bin's gap (equation 3)."""
    gap = np.abs(accuracy - mean_confidence)
    return (count * gap).sum() / count.sum()
