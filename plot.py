"""Plots and tables of runs.

    python plot.py out/a out/b                                       # loss on val, on train faint behind it
    python plot.py out/a out/b --what=grad_norm --x=seconds --log=y  # any other number in log.jsonl
    python plot.py --what=confusion out/a                            # which class is taken for which
    python plot.py --what=reliability out/a/test.jsonl               # is it right as often as it is sure?
    python plot.py --what=attention out/multi30k --start='A dog runs.'   # which token attended to which
    python plot.py --what=relative_bias out/t5_multi30k              # how T5's heads weigh distances
    python plot.py --table out/a out/b                               # what each run reached, and when
    python plot.py --name=shakespeare out/a out/b                    # the same, kept in results/ as well

Runs that differ only in the seed are one curve with a band, and one row of a table. They are named by the
options in which they differ from the other runs.
"""
import sys
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib import colormaps

import configurator
from core.errors import UserError
from core.record import group_seeds, numbers, read_run, summarize
from core.table import LABELS, tabulate
from plots import attention, confusion, relative_bias, reliability
from plots.figure import COLORS, new_figure, open_axes, save_figure

# --- a plot
what = 'loss'           # any number in the lines of log.jsonl; or confusion, reliability, attention,
                        # relative_bias
x: Literal['step', 'seconds', 'epoch'] = 'step'         # the horizontal axis
log: Literal['none', 'x', 'y', 'xy'] = 'none'           # the logarithmic axes
start = ''              # the sentence to translate for attention
layer = -1              # the layer for attention: 0 the first, -1 the last
out = 'plot.png'        # the file to write
# --- or a table
table = False           # print one
name = ''               # print one and keep it as results/NAME.md and results/NAME.json
columns = ''            # further columns: test.accuracy,train.rows_per_second; of train, medians


def read_runs(paths, check):
    """Return the runs in `paths`, without those for which check(run) raises UserError.

    Print a line for each path that is left out: `python plot.py out/*` does not stop at a folder of something
    else. Raises UserError if no run is left.
    """
    runs = []
    problems = []
    for path in paths:
        try:
            run = read_run(path)
            check(run)
            runs.append(run)
        except UserError as error:
            problems.append(error)
    if not runs:
        raise UserError(*map(str, problems), code=problems[0].code)
    for error in problems:
        print(f'left out: {error}')
    return runs


def draw_curves(runs, what='loss', x='step', log='none', out='plot.png'):
    """Draw `what` over `x`: on val with train faint behind it, or on train if val has none.

    Of several seeds, draw the mean and a band of one standard deviation. Raises UserError, with nothing
    written, if a run has not logged these numbers.
    """
    splits = splits_with(runs, what, x)
    groups = group_seeds(runs)
    colors = COLORS
    if len(groups) > len(COLORS):
        colors = colormaps['viridis'](np.linspace(0, 0.9, len(groups)))
    figure = new_figure(8, 4.8)
    axes = figure.subplots()
    for color, (varying, seeds) in zip(colors, groups):
        position, mean, std = mean_and_std(seeds, splits[0], what, x)
        marker = '.' if len(position) < 30 else ''
        axes.plot(position, mean, color=color, label=curve_name(varying, seeds), marker=marker)
        axes.fill_between(position, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)
        if len(splits) > 1:
            position, mean, _ = mean_and_std(seeds, splits[1], what, x)
            axes.plot(position, mean, color=color, alpha=0.3, linewidth=0.8, zorder=1)

    subjects = {f'{run["keys"]["model"]} on {run["keys"]["dataset"]}' for run in runs}
    axes.set_title(' and '.join(sorted(subjects)), loc='left', fontsize='medium')
    faint = ', train faint' if len(splits) > 1 else ''
    axes.set(xlabel=x, ylabel=f'{splits[0]} {LABELS.get(what, what)}{faint}')
    axes.locator_params('x', integer=x == 'step')
    if 'x' in log:
        axes.set_xscale('log')
        axes.xaxis.set(major_formatter=log_tick, minor_formatter=log_tick)
    if 'y' in log:
        axes.set_yscale('log')
        axes.yaxis.set(major_formatter=log_tick, minor_formatter=log_tick)
    open_axes(axes, which='both')
    if len(runs) > 1:
        axes.legend(frameon=False, fontsize='small')
    save_figure(figure, out)


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
        parts.append(f'{len(seeds)} seeds ± std')
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


def print_table(runs, name, columns):
    """Print a table with a row for each group of seeds, named by its first run."""
    rows = []
    for varying, seeds in group_seeds(runs):
        more = f' +{len(seeds) - 1}' if len(seeds) > 1 else ''
        rows.append(({'run': seeds[0]['run'] + more, **varying}, seeds))
    tabulate(rows, name, columns=columns)


if __name__ == '__main__':
    settings = configurator.read(__file__, sys.argv[1:], words=True)
    globals().update(settings.options)      # the options above, as they were given
    paths = list(dict.fromkeys(Path(file) for file in settings.files))      # each once
    if not paths:
        raise UserError('of which runs? For example: python plot.py out/a out/b')
    one_run = what in ('confusion', 'reliability', 'attention', 'relative_bias')
    if table or name:
        print_table(read_runs(paths, summarize), name, columns)
    elif not one_run:
        runs = read_runs(paths, lambda run: splits_with([run], what, x))
        draw_curves(runs, what, x, log, out)
    elif len(paths) > 1:
        raise UserError(f'--what={what} is of one run at a time, got {len(paths)}')
    elif what == 'confusion':
        confusion.draw(read_run(paths[0]), out)
    elif what == 'reliability':
        reliability.draw(paths[0], out)
    elif what == 'relative_bias':
        relative_bias.draw(paths[0], out)
    else:
        attention.draw(paths[0], start, layer, out)
