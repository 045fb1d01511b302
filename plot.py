"""Plots and tables of runs.

    python plot.py out/a out/b                                       # loss on val, on train faint behind it
    python plot.py out/a out/b --what=grad_norm --x=seconds --log=y  # any other number in log.jsonl
    python plot.py --what=confusion out/a                            # which class is taken for which
    python plot.py --what=reliability out/a/test.jsonl               # is it right as often as it is sure?
    python plot.py --what=loss,accuracy --x=epoch out/a              # several beside each other
    python plot.py --what=gradients out/a                            # the gradient's norm in each layer
    python plot.py --what=attention out/multi30k --start='A dog runs.'   # which token attended to which
    python plot.py --what=heads out/shakespeare                      # previous-token and induction heads
    python plot.py --what=tsne out/cifar10_cnn                       # t-SNE of features or of embeddings
    python plot.py --what=relative_bias out/t5_multi30k              # how T5's heads weigh distances
    python plot.py --table out/a out/b                               # what each run reached, and when
    python plot.py --name=shakespeare out/a out/b                    # the same, kept in results/ as well

Runs that differ only in the seed are one curve with a band, and one row of a table. They are named by the
options in which they differ from the other runs.
"""
import sys
from pathlib import Path
from typing import Literal

import configurator
from core.errors import UserError
from core.record import group_seeds, read_run, summarize
from core.table import tabulate
from plots import attention, confusion, curves, gradients, heads, relative_bias, reliability, tsne

# --- a plot
what = 'loss'           # any numbers in the lines of log.jsonl, separated by commas; or confusion, gradients,
                        # reliability, attention, heads, relative_bias, tsne
x: Literal['step', 'seconds', 'epoch'] = 'step'         # the horizontal axis
log: Literal['none', 'x', 'y', 'xy'] = 'none'           # the logarithmic axes
line = 0.0              # draw a horizontal line there, such as another program's result; 0: none
start = ''              # the text to read or to translate for attention
layer = -1              # the layer for attention of a translation: 0 the first, -1 the last
points = 1000           # for tsne: rows of test, or tokens, the first of the vocabulary
perplexity = 30.0       # for tsne: how many neighbours a point has, about
seed = 0                # which rows are drawn for tsne and heads
out = 'plot.png'        # the file to write
# --- or a table
table = False           # print one
name = ''               # print one and keep it as results/NAME.md and results/NAME.json
columns = ''            # further columns: test.accuracy,train.rows_per_second; of train, medians


ONE_RUN = {     # plots of one run at a time
    'attention': lambda path: attention.draw(path, start, layer, out),
    'confusion': lambda path: confusion.draw(read_run(path), out),
    'gradients': lambda path: gradients.draw(read_run(path), out),
    'heads': lambda path: heads.draw(path, seed, out),
    'relative_bias': lambda path: relative_bias.draw(path, out),
    'reliability': lambda path: reliability.draw(path, out),
    'tsne': lambda path: tsne.draw(path, points, perplexity, seed, out),
}


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
    if table or name:
        print_table(read_runs(paths, summarize), name, columns)
    elif what in ONE_RUN:
        if len(paths) > 1:
            raise UserError(f'--what={what} is of one run at a time, got {len(paths)}')
        ONE_RUN[what](paths[0])
    else:
        names = what.split(',')
        runs = read_runs(paths, lambda run: [curves.splits_with([run], name, x) for name in names])
        curves.draw(runs, names, x, log, line, out)
