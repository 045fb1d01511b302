"""Pictures and tables of runs, from their log.jsonl.

    python plot.py out/a out/b                                       # loss on val, on train faint behind it
    python plot.py out/a out/b --what=grad_norm --x=seconds --log=y  # whatever else was logged
    python plot.py --what=confusion out/a                            # which class is taken for which
    python plot.py --what=reliability out/a/test.jsonl               # is it right as often as it believes?
    python plot.py --what=attention out/multi30k --start='A dog runs.'   # which word looked at which
    python plot.py --table out/a out/b                               # what each reached, when, at what cost
    python plot.py --name=shakespeare out/a out/b                    # the same, kept in results/ as well

Runs whose keys are equal but for the seed are one configuration: one line of a picture, with a band; one row
of a table. It is named by the keys that differ and by no others. Every file in results/ is made by `tabulate`
and holds the command that made it.
"""
import json, re, shlex, sys
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import torch

import configurator, run, search
from configurator import ROOT, Refused
from data.tokenizer import load

# --- a picture
what = 'loss'           # any number in the lines of log.jsonl; or confusion, reliability, attention
x: Literal['step', 'seconds', 'epoch'] = 'step'         # over what
log: Literal['none', 'x', 'y', 'xy'] = 'none'           # the logarithmic axes
start = ''              # of attention: a sentence to translate
layer = -1              # of attention: the block, 0 the first, -1 the last
out = 'plot.png'        # where it is written
# --- or a table
table = False           # print one
name = ''               # print one and keep it as results/NAME.md and results/NAME.json
columns = ''            # with further columns: test.accuracy,train.rows_per_second; of train, medians

LABELS = {'loss': 'loss (nats)', 'objective': 'objective (nats)', 'lr': 'learning rate',
          'grad_norm': 'gradient norm', 'rows_per_second': 'rows per second', 'memory': 'memory (bytes)'}
COLOURS = '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000'   # Okabe & Ito 2008
SPLITS = 'train', 'val', 'test'
FACTS = 'metric', 'seed', 'steps', 'parameters', 'machine', 'commit', 'torch'   # columns where they differ
BEGIN, END = '<!-- plot.py writes from here -->', '<!-- to here; the rest is yours -->'


def read(path):
    """The run in a folder: its keys and other facts, and the lines of its log as `train`, `val` and `test`.
    Raises Refused if there is no run or its log is not whole."""
    file, lines = Path(path) / 'log.jsonl', []
    try:
        for line in file.read_bytes().splitlines():
            lines.append({**json.loads(line)})
    except OSError as error:
        raise Refused(f'{path} is no run: {file}: {error.strerror}', code=3)
    except (ValueError, TypeError):     # no JSON, no object
        raise Refused(f'{file}:{len(lines) + 1} is cut or damaged; resuming the run mends a cut log', code=3)
    begun = [line for line in lines if line.get('event') in ('config', 'resume')]
    if not begun:
        raise Refused(f'{file} is empty: no run began there', code=3)
    now = begun[-1]     # a run is what it was last resumed as, of all machines and revisions on the way
    knobs = configurator.declared(configurator.ROOT / 'train.py')       # some did not exist yet
    keys = {name: knob.default for name, knob in knobs.items()} | now['keys'] | now['config']
    keys = {key: value for key, value in keys.items()
            if key not in run.COMMAND or key == 'init_from' and value not in run.MODES}
    machines = (f'{line["processes"]} x ' * (line['processes'] > 1) + line['machine'] for line in begun)
    commits = (line['versions']['git'] or 'unknown' for line in begun)
    splits = {name: [line for line in lines if line.get('split', line.get('event')) == name]
              for name in SPLITS}
    return {'run': str(path), 'seed': keys.pop('seed'), 'keys': keys, 'parameters': now['parameters'],
            'flops': now.get('flops'), 'machine': distinct(machines), 'commit': distinct(commits),
            'torch': now['versions']['torch'],
            'steps': max(line.get('step', 0) for line in lines),
            'seconds': max(line.get('seconds', 0) for line in lines)} | splits


def distinct(values):
    """'a, b' of a, b, a."""
    return ', '.join(dict.fromkeys(map(str, values)))


def numbers(lines):
    """{name: its values} of whatever `lines` of a log hold as single numbers."""
    names = dict.fromkeys(name for line in lines for name in line if isinstance(line[name], (int, float)))
    return {name: [line[name] for line in lines if line.get(name) is not None] for name in names}


def grouped(runs):
    """The configurations among `runs`: [({key: value} that tells it from the others, its runs)]. A field that
    another model does not have tells nothing."""
    fields = {}
    for r in runs:
        fields.setdefault(r['keys']['model'], {}).update(r['keys'])
    differ = [key for key in dict.fromkeys(key for of in fields.values() for key in of)
              if len({json.dumps(r['keys'].get(key)) for r in runs if key in fields[r['keys']['model']]}) > 1]
    groups = {}
    for r in runs:
        cells = {key: r['keys'][key] for key in differ if key in r['keys']}
        groups.setdefault(json.dumps(cells), (cells, []))[1].append(r)
    return list(groups.values())


# --- pictures

def curves(runs, what='loss', x='step', log='none', out='plot.png'):
    """Draw `what` over `x` into the file `out`: on val with train faint behind it, or on train if val has
    none; of seeds the mean in a band of one standard deviation. Raises Refused, nothing written, if a run has
    not logged it."""
    from matplotlib import colormaps
    splits = [split for split in ('val', 'train') if all({what, x} <= {*numbers(r[split])} for r in runs)]
    if not splits:
        logged = {r['run']: {*numbers(r['val'] + r['train'])} for r in runs}
        lacking = ', '.join(name for name, known in logged.items() if not {what, x} <= known)
        known = ', '.join(sorted(set.intersection(*logged.values())))
        raise Refused(f'no {what} over {x} in {lacking or "all runs"}; there is {known or "nothing"}', code=3)
    figure, groups = sheet(8, 4.8), grouped(runs)
    axes = figure.subplots()
    many = colormaps['viridis'](np.linspace(0, 0.9, len(groups)))
    for colour, (cells, seeds) in zip(COLOURS if len(groups) <= len(COLOURS) else many, groups):
        label = [f'{key} {value}' for key, value in cells.items()]
        if len(', '.join(label)) > 80:          # there would be no room for the curves
            label = [seeds[0]['run']]
        label += [f'{len(seeds)} seeds ± std'] * (len(seeds) > 1)
        where, mean, std = series(seeds, splits[0], what, x)
        axes.plot(where, mean, color=colour, label=', '.join(label), marker='.' if len(where) < 30 else '')
        axes.fill_between(where, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)
        for split in splits[1:]:
            where, mean, std = series(seeds, split, what, x)
            axes.plot(where, mean, color=colour, alpha=0.3, linewidth=0.8, zorder=1)
    subjects = {f'{r["keys"]["model"]} on {r["keys"]["dataset"]}' for r in runs}
    axes.set_title(' and '.join(sorted(subjects)), loc='left', fontsize='medium')
    axes.set(xlabel=x, ylabel=f'{splits[0]} {LABELS.get(what, what)}' + ', train faint' * (len(splits) > 1))
    axes.locator_params('x', integer=x == 'step')
    for letter, axis in ('x', axes.xaxis), ('y', axes.yaxis):
        if letter in log:
            axes.set(**{f'{letter}scale': 'log'})
            axis.set(major_formatter=plain, minor_formatter=plain)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.2, which='both')
    if len(runs) > 1:
        axes.legend(frameon=False, fontsize='small')
    keep(figure, out)


def sheet(width, height):
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure        # pyplot would open windows and keep state
    return Figure((width, height), dpi=150, layout='constrained')


def keep(figure, out):
    """Write a figure and say so. Raises Refused if that cannot be."""
    try:
        figure.savefig(out)
    except (OSError, ValueError) as error:      # no such folder, no such format
        raise Refused(f'--out={out} cannot be written: {error}', code=4)
    print(f'wrote {out}')


def plain(value, position):
    """A label of a logarithmic axis: 0.02 rather than 2 x 10^-2, and none where they would crowd."""
    return f'{value:g}' if f'{value:e}'[0] in '1235' else ''


def series(seeds, split, what, x):
    """(x, mean of `what`, its standard deviation), each (n,), over the steps that all `seeds` have. x is a
    mean as well: no two seeds take the same seconds. A single seed deviates by 0. Raises Refused if there is
    no such step."""
    points = [{line['step']: (line[x], line[what]) for line in r[split] if {what, x} <= line.keys()}
              for r in seeds]
    steps = sorted(set.intersection(*map(set, points)))
    if not steps:
        raise Refused(f'no step of {split} {what} in common: {", ".join(r["run"] for r in seeds)}', code=3)
    values = np.array([[of[step] for step in steps] for of in points], float)   # (seeds, n, 2); null is nan
    return *values.mean(0).T, values[..., 1].std(0, ddof=len(seeds) > 1)


def heatmap(axes, shares, rows, columns, title, size):
    """Draw a matrix of shares, 0 white and 1 blue, with the names of its `rows` and `columns`, of a font of
    `size` points, beneath a title."""
    axes.imshow(shares, 'Blues', vmin=0, vmax=1)
    axes.set_xticks(range(len(columns)), columns, rotation=90, size=size, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, size=size, parse_math=False)
    axes.set_title(title, loc='left', size=size + 2)


def confusion(r, out='plot.png'):
    """Draw the confusion matrix of a run's last evaluation on test, else on val: the number of rows of each
    true class that are taken for each class, coloured by its share of the true class. Raises Refused if no
    evaluation logged one."""
    found = [line for line in r['val'] + r['test'] if 'confusion' in line]
    if not found:
        raise Refused(f'no confusion in {r["run"]}: only a classifier\'s evaluation logs one', code=3)
    line = found[-1]
    count = np.array(line['confusion'])                 # (n, n), rows true, columns predicted
    share, n = count / np.maximum(count.sum(1, keepdims=True), 1), len(count)
    try:
        names = run.read(run.find(r['run'])).get('info', {}).get('classes', [])
    except Refused:                                     # the log is enough, but for the names
        names = []
    names = names if len(names) == n else range(n)
    side = max(5, 2 + 0.4 * n)
    figure = sheet(side, side)
    axes = figure.subplots()
    title = f'{r["keys"]["model"]} on {r["keys"]["dataset"]}, {line["split"]} at step {line["step"]:,}'
    title += f'\n{count.trace():,.0f} of {count.sum():,.0f} right'
    heatmap(axes, share, names, names, title, 8)
    axes.set(xlabel='predicted', ylabel='true')
    for (i, j), rows in np.ndenumerate(count):
        if rows or n <= 12:                             # zeros of many classes would only crowd
            colour = 'white' if share[i, j] > 0.5 else 'black' if rows else 'silver'
            axes.text(j, i, f'{rows:.0f}', size=8, color=colour, ha='center', va='center')
    keep(figure, out)


def calibration(correct, confidence, bins=15):
    """What a classifier's confidence, its probability for the class that it predicts, is worth: which bins
    have rows, how many, their accuracies and mean confidences, (k,) each; and the expected calibration error,
    the mean over all rows of |accuracy - mean confidence| of their bin (Guo et al. 2017, equation 3). The
    inputs are (n,); of bins of equal width the m-th is (m / bins, (m + 1) / bins]."""
    place = np.ceil(np.multiply(confidence, bins)).astype(int) - 1
    n, right, sure = (np.bincount(place, weights, bins) for weights in (None, correct, confidence))
    kept = n.nonzero()[0]
    return kept, n[kept], right[kept] / n[kept], sure[kept] / n[kept], abs(right - sure).sum() / len(place)


def reliability(path, out='plot.png', bins=15):
    """Draw accuracy over confidence, in bins, from the lines that sample.py wrote into a file (of a run's
    folder: into test.jsonl); beneath, how many rows are so confident. Raises Refused if there are no such."""
    file, rows = path / 'test.jsonl' if path.is_dir() else path, []
    try:
        for line in file.read_text(encoding='utf-8').splitlines():
            row = json.loads(line)
            share = row['probabilities'][row['predicted']]
            if not 0 < share <= 1:
                raise ValueError
            rows.append((row['true'] == row['predicted'], share))
    except OSError as error:
        raise Refused(f'{file}: {error.strerror}',
                      f'to make it: python sample.py --out_dir={file.parent} --out={file}', code=3)
    except (ValueError, LookupError, TypeError):
        raise Refused(f'{file}:{len(rows) + 1} is no line of probabilities from sample.py', code=3)
    if not rows:
        raise Refused(f'{file} is empty', code=3)
    correct, confidence = np.transpose(rows)
    kept, n, accuracy, sure, gap = calibration(correct, confidence, bins)
    figure = sheet(5.5, 6.5)
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], '--', color='grey', label='perfectly calibrated')
    above.vlines(sure, sure, accuracy, color=COLOURS[1], linewidth=3, alpha=0.5, label='gap', zorder=1)
    above.plot(sure, accuracy, 'o-', color=COLOURS[0], clip_on=False, label=f'one of {bins} bins')
    below.bar(kept / bins, n / len(rows), 1 / bins, align='edge', color=COLOURS[0], edgecolor='white')
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel='accuracy')
    below.set(xlabel='confidence', ylabel='share of rows')
    means = f'accuracy {correct.mean():.4f}, mean confidence {confidence.mean():.4f}'
    above.set_title(f'{file.name}: expected calibration error {gap:.4f}\n{len(rows):,} rows, {means}',
                    loc='left', size='medium')
    above.legend(frameon=False, fontsize='small')
    for axes in above, below:
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(alpha=0.2)
    keep(figure, out)


def attention(path, start, layer=-1, out='plot.png'):
    """Translate `start` greedily and draw who looked at whom in one layer: where its heads together took each
    token of the translation from, then every head of the three attentions. Raises Refused if the run's model
    does not translate."""
    checkpoint = run.read(run.find(path))
    net, tokenizer = configurator.build(checkpoint), load(checkpoint['tokenizer'])
    if not (tokenizer and hasattr(net, 'attention') and hasattr(net, 'encode')):
        raise Refused(f'{path} does not translate, so there is no attention to draw')
    if not start or not -net.config.n_layer <= layer < net.config.n_layer:
        raise Refused(f'--start={start} --layer={layer}: expected a sentence, and a layer below '
                      f'{net.config.n_layer}')
    src = [*tokenizer.encode(start)[:net.config.block_size - 1], search.END]
    tgt = [*search.translate(net, [src], beam=1)[0], search.END]
    maps = net.attention(torch.tensor([src]), torch.tensor([tgt]))
    read, made = ([tokenizer.decode([i]).replace(' ', '·') or 'end' for i in ids] for ids in (src, tgt))
    given = ['start', *made[:-1]]           # what the decoder has read where it makes each token
    heads = net.config.n_head
    figure = sheet(max(2.4 * heads, 5), 12)
    above, below = figure.subfigures(2, height_ratios=(4, 7))
    heatmap(above.subplots(), maps['cross'][layer, 0].mean(0), made, read, 'cross, the mean of all heads', 9)
    kinds = ('cross', made, read), ('encoder', read, read), ('decoder', made, given)
    for row, (kind, queries, keys) in zip(below.subplots(3, heads, squeeze=False), kinds):
        for i, axes in enumerate(row):
            heatmap(axes, maps[kind][layer, 0, i], queries, keys, f'{kind}, head {i + 1}', 5)
    figure.suptitle(f'{start}\n{tokenizer.decode(tgt)}', parse_math=False)
    keep(figure, out)


# --- tables

def summary(r):
    """What a table and results/NAME.json say of a run: its facts, the metric that its model monitors, the
    best of it on val, and the numbers of that evaluation and of test, of train their medians. Raises Refused
    if it was never evaluated."""
    model = r['keys']['model']
    try:
        metric, goal = import_module(f'models.{model}').Model.monitor
    except ModuleNotFoundError:
        raise Refused(f'{r["run"]} is a {model}; without models/{model}.py nobody knows which value is best')
    evaluated = [line for line in r['val'] if line.get(metric) is not None]
    if not evaluated:
        raise Refused(f'{r["run"]} has no evaluation on val yet', code=3)
    best = (min if goal == 'min' else max)(evaluated, key=lambda line: line[metric])
    lines = ('train', r['train']), ('val', [best]), ('test', r['test'][-1:])
    medians = {split: {name: median(of) for name, of in numbers(some).items()} for split, some in lines}
    return r | {'metric': metric, 'goal': goal, 'best': best[metric], 'step': best['step']} | medians


def spread(values, digits):
    """'mean ± std' as text; the standard deviation is the sample's (n - 1), and one number has none."""
    deviation = f' ± {np.std(values, ddof=1):,.{digits}f}' if len(values) > 1 else ''
    return f'{np.mean(values):,.{digits}f}{deviation}'


def mean(runs):
    """What the seeds of one configuration reached on val."""
    return float(np.mean([r['best'] for r in runs]))


def rank(row):
    """The place of a row in its table: the best first, those of no runs last."""
    _, runs = row
    return (0, runs[0]['metric'], mean(runs) * (1 if runs[0]['goal'] == 'min' else -1)) if runs else (1,)


def measured(runs, column):
    """'mean ± std' of a column such as test.accuracy; '-' unless all `runs` have logged it."""
    split, _, number = column.partition('.')
    values = [r[split].get(number) if split in SPLITS else None for r in runs]
    return '-' if None in values else spread(values, 4 if abs(values[0]) < 100 else 0)


def tabulate(rows, name='', compare=False, columns=''):
    """Print a table, best first, of rows: [({column: value} to begin with, runs)]; with a name, keep it too.

    compare: a column of differences to the first row. columns: further ones, such as 'test.X,train.Y' for
    any numbers X and Y in the log, of train their medians. A row of no runs is of dashes. What all runs
    share is told once, beneath. Raises Refused, nothing written, if a run was never evaluated, if
    results/NAME.md has no place for the table, or if a column is of nothing that was logged."""
    before, after = frame(name) if name else ('', '')
    columns = [column for column in columns.split(',') if column]
    rows = [(cells, [summary(r) for r in runs]) for cells, runs in rows]
    goals = {r['metric']: r['goal'] for _, runs in rows for r in runs}
    of, baseline = ' or '.join(goals), rows[0][1] if compare else []
    rows.sort(key=rank)
    groups = [runs for _, runs in rows if runs]         # the rows without runs are the last
    texts = {key: [str(cells.get(key, '-')) for cells, _ in rows] for cells, _ in rows for key in cells}
    texts |= {f'val {of}': [f'{spread([r["best"] for r in runs], 4)} ({len(runs)})' for runs in groups],
              'difference': [f'{mean(runs) - mean(baseline):+.4f}'
                             if runs is not baseline and runs[0]['metric'] in {r['metric'] for r in baseline}
                             else '-' for runs in groups],
              'at step': [distinct(r['step'] for r in runs) for runs in groups],
              f'test {of}': [measured(runs, f'test.{runs[0]["metric"]}') for runs in groups],
              **{column: [measured(runs, column) for runs in groups] for column in columns},
              'seconds': [spread([r['seconds'] for r in runs], 0) for runs in groups],
              **{fact: [distinct(r[fact] for r in runs) for runs in groups] for fact in FACTS},
              'parameters': [f'{runs[0]["parameters"]:,}' for runs in groups]}
    empty = [column for column in texts if {*texts[column]} <= {'-'}]
    if nowhere := [column for column in columns if column in empty]:
        raise Refused(f'no run has logged {", ".join(nowhere)}')
    shared = {fact: texts[fact][0] for fact in FACTS if len({*texts[fact]}) == 1}
    header = [column for column in texts if column not in empty and column not in shared]
    grid = [header, *zip_longest(*(texts[column] for column in header), fillvalue='-')]
    notes = [f'val {metric}: {LABELS.get(metric, metric)} over the whole split, the {goal}imum of a run\'s '
             'evaluations; mean ± standard deviation (runs)' for metric, goal in goals.items()]
    notes += ['seconds: wall clock from the start of the process, evaluation included',
              '; '.join(f'{fact} {text}' for fact, text in shared.items() if fact != 'metric')]

    widths = [max(map(len, column)) for column in zip(*grid)]
    print(*('  '.join(map(str.ljust, row, widths)).rstrip() for row in grid), '', *notes, sep='\n')
    if name:
        command = shlex.join(['python', Path(sys.argv[0]).name, *sys.argv[1:]])
        ruled = [f'| {" | ".join(row)} |' for row in (header, ['---'] * len(header), *grid[1:])]
        made = '\n'.join([*ruled, '', *(f'- {note}' for note in notes), '', f'`{command}`'])
        facts = {'command': command, 'rows': [{'cells': cells, 'runs': runs} for cells, runs in rows]}
        file = ROOT / 'results' / f'{name}.json'
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(facts, indent=1) + '\n', encoding='utf-8')
        file.with_suffix('.md').write_text(before + made + after, encoding='utf-8')
        print(f'wrote {file} and {file.with_suffix(".md").name}')


def frame(name):
    """What stands before and after the made part of results/NAME.md. Raises Refused where that part is not
    marked."""
    if not re.fullmatch(r'\w[\w-]*', name):
        raise Refused(f'--name={name}: expected letters, digits, _ and -, for results/NAME.md')
    file = ROOT / 'results' / f'{name}.md'
    text = file.read_text(encoding='utf-8') if file.exists() else f'# {name}\n\n{BEGIN}\n{END}\n'
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise Refused(f'{file} has no place for the table; give it these two lines, once: {BEGIN} and {END}')
    return f'{text.split(BEGIN)[0]}{BEGIN}\n\n', f'\n\n{END}{text.split(END)[1]}'


if __name__ == '__main__':
    settings = configurator.read(__file__, sys.argv[1:], words=True)
    globals().update(settings.knobs)
    if not settings.files:
        raise Refused('of which runs? as in: python plot.py out/a out/b')
    paths = list(dict.fromkeys(map(Path, settings.files)))
    if table or name:
        tabulate([({'run': seeds[0]['run'] + f' +{len(seeds) - 1}' * (len(seeds) > 1), **cells}, seeds)
                  for cells, seeds in grouped([*map(read, paths)])], name, columns=columns)
    elif what not in ('confusion', 'reliability', 'attention'):
        curves([*map(read, paths)], what, x, log, out)
    elif len(paths) > 1:
        raise Refused(f'--what={what} is of one run at a time, got {len(paths)}')
    elif what == 'attention':
        attention(paths[0], start, layer, out)
    elif what == 'confusion':
        confusion(read(paths[0]), out)
    else:
        reliability(paths[0], out)
