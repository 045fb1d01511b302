"""Curves: numbers of log.jsonl over steps, seconds or epochs, of one run or of many."""
import numpy as np
from matplotlib import colormaps

from core.errors import UserError
from core.record import group_seeds, numbers
from core.table import LABELS
from plots.figure import COLORS, new_figure, open_axes, save_figure

N_SMOOTH = 50       # a train curve is averaged over windows of 1 / 50 of its length


def draw(runs, names=('loss',), x='step', log='none', line=0.0, out='plot.png'):
    """Draw each of `names` over `x`: on val with train faint behind it, or on train if val has none.

    Of several seeds, draw the mean and a band of one standard deviation. The axis shows all of val, and train
    from the first evaluation on. `line` is a horizontal line in the first plot, 0 none. Raises UserError,
    with nothing written, if a run has not logged these numbers.
    """
    splits_of = {name: splits_with(runs, name, x) for name in names}
    figure = new_figure(8 if len(names) == 1 else 5.5 * len(names), 4.8)
    subjects = {f'{run["keys"]["model"]} on {run["keys"]["dataset"]}' for run in runs}
    figure.suptitle(' and '.join(sorted(subjects)), x=0.01, ha='left', fontsize='medium')
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names):
        draw_number(axes, runs, splits_of[name], name, x, log, line if name == names[0] else 0)
        if len(runs) > 1 and name == names[0]:
            axes.legend(frameon=False, fontsize='small')
    save_figure(figure, out)


def draw_number(axes, runs, splits, what, x, log, line):
    """Draw one number of all runs, and a horizontal line."""
    if 'x' in log:
        axes.set_xscale('log')
        axes.xaxis.set(major_formatter=log_tick, minor_formatter=log_tick)
    if 'y' in log:
        axes.set_yscale('log')
        axes.yaxis.set(major_formatter=log_tick, minor_formatter=log_tick)
    if line:
        axes.axhline(line, color='gray', linestyle='--', linewidth=0.8)
        axes.annotate(f'{line:g}', (0, line), xycoords=('axes fraction', 'data'), va='bottom',
                      fontsize='small', color='gray')
    groups = group_seeds(runs)
    colors = COLORS
    if len(groups) > len(COLORS):
        colors = colormaps['viridis'](np.linspace(0, 0.9, len(groups)))
    first = np.inf              # where the first evaluation is
    for color, (varying, seeds) in zip(colors, groups):
        position, mean, std = mean_and_std(seeds, splits[0], what, x)
        first = min(first, position[0])
        marker = '.' if len(position) < 30 else ''
        axes.plot(position, mean, color=color, label=curve_name(varying, seeds), marker=marker)
        axes.fill_between(position, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)
    if len(splits) > 1:
        low, high = axes.get_ylim()
        for color, (varying, seeds) in zip(colors, groups):
            position, mean, _ = mean_and_std(seeds, splits[1], what, x)
            position = smooth(position)
            mean = smooth(mean)
            axes.plot(position, mean, color=color, alpha=0.4, linewidth=0.8, zorder=1)
            shown = mean[(position >= first) & np.isfinite(mean)]       # before, train may be far away
            low = min(low, shown.min(initial=low))
            high = max(high, shown.max(initial=high))
        axes.set_ylim(low, high)
    faint = ', train faint' if len(splits) > 1 else ''
    axes.set(xlabel=x, ylabel=f'{splits[0]} {LABELS.get(what, what)}{faint}')
    if 'x' not in log:
        axes.locator_params('x', integer=x == 'step')
    open_axes(axes, which='both')


def smooth(values):
    """Return moving averages of values (n,): each over n / N_SMOOTH of them."""
    width = max(1, len(values) // N_SMOOTH)
    return np.convolve(values, np.full(width, 1 / width), mode='valid')


def splits_with(runs, what, x):
    """Return which of val and train have both numbers in every run. Raises UserError if neither has."""
    splits = []
    for split in 'val', 'train':
        if all({what, x} <= numbers(run[split]).keys() for run in runs):
            splits.append(split)
    if splits:
        return splits
    logged = [set(numbers(run['val'] + run['train'])) for run in runs]
    lacking = [run['run'] for run, names in zip(runs, logged) if not {what, x} <= names]
    in_all = sorted(set.intersection(*logged))
    raise UserError(f'no {what} over {x} in {", ".join(lacking) or "all runs"}; there is '
                    f'{", ".join(in_all) or "nothing"}', code=3)


def curve_name(varying, seeds):
    """Return the name of a curve: the options that vary, or the run's folder if these are too many."""
    name = ', '.join(f'{option} {value}' for option, value in varying.items())
    if len(name) > 80:              # it would leave no room for the curves
        name = seeds[0]['run']
    parts = [name] if name else []
    if len(seeds) > 1:
        different = {run['seed'] for run in seeds}
        unit = 'seeds' if len(different) == len(seeds) else 'runs'          # a seed may have run twice
        parts.append(f'{len(seeds)} {unit} ± std')
    return ', '.join(parts)


def mean_and_std(seeds, split, what, x):
    """Return (x, mean of `what`, its standard deviation), each (n,), at the n steps that all `seeds` have.

    x is a mean as well: no two seeds take the same seconds. One seed has a deviation of 0. Raises UserError
    if there is no such step.
    """
    points = []         # {step: (x, what)} of each seed
    for run in seeds:
        lines = [line for line in run[split] if what in line and x in line]
        points.append({line['step']: (line[x], line[what]) for line in lines})
    steps = set(points[0])
    for points_of_seed in points:
        steps &= points_of_seed.keys()
    if not steps:
        folders = ', '.join(run['run'] for run in seeds)
        raise UserError(f'no step of {split} {what} in common: {folders}', code=3)
    values = []
    for points_of_seed in points:
        values.append([points_of_seed[step] for step in sorted(steps)])
    values = np.array(values, float)        # (seeds, n, 2); null in a log becomes NaN, a gap in the curve
    mean_x, mean = values.mean(0).T
    std = values[:, :, 1].std(0, ddof=1 if len(seeds) > 1 else 0)
    return mean_x, mean, std


def log_tick(value, position):
    """Return the label of a tick of a logarithmic axis: 0.02, not 2 x 10^-2; none where they would crowd."""
    first_digit = f'{value:e}'[0]
    return f'{value:g}' if first_digit in '1235' else ''
