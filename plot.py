"""Pictures and tables of runs, from their log.jsonl alone.

    python plot.py out/a out/b                                      # loss on val, that on train faint behind it
    python plot.py out/a out/b --what=grad_norm --x=seconds --log=y # whatever else was logged
    python plot.py --table out/a out/b                              # what each reached, when and at what cost
    python plot.py --name=shakespeare out/a out/b                   # the same, and kept in results/

Runs whose keys are equal but for the seed are one configuration: one line of a picture with a band, one row of a table. It is
named by the keys that differ and by no others. Every file in results/ is made by `tabulate`, and says by which command.
"""
import json, re, shlex, sys
from importlib import import_module
from pathlib import Path
from typing import Literal

import numpy as np

import configurator, run
from configurator import ROOT, Refused

# --- a picture
what = 'loss'           # the quantity: any number in the train or eval lines of log.jsonl
x: Literal['step', 'seconds', 'epoch'] = 'step'         # over what
log: Literal['none', 'x', 'y', 'xy'] = 'none'           # the logarithmic axes
out = 'plot.png'        # where it is written
# --- or a table
table = False           # print one
name = ''               # print one and keep it as results/NAME.md and results/NAME.json

LABELS = {'loss': 'loss (nats)', 'objective': 'objective (nats)', 'lr': 'learning rate', 'grad_norm': 'gradient norm',
          'rows_per_second': 'rows per second', 'memory': 'memory (bytes)'}
COLOURS = '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000'   # every eye tells them: Okabe & Ito
FACTS = 'metric', 'seed', 'steps', 'parameters', 'machine', 'commit', 'torch'           # columns, where they differ
BEGIN, END = '<!-- plot.py writes between these two lines -->', '<!-- the rest is yours -->'


def read(path):
    """The run in a folder: its keys and other facts, and the lines of its log as `train`, `val` and `test`. Raises Refused if
    there is no run or its log is not whole."""
    file, lines = Path(path) / 'log.jsonl', []
    try:
        for line in file.read_bytes().splitlines():
            lines.append({**json.loads(line)})
    except OSError as error:
        there = ', '.join(sorted(str(p.parent) for p in Path('out').glob('*/log.jsonl')))
        raise Refused(f'{path} is no run: {file}: {error.strerror}; runs here: {there or "none"}', code=3)
    except (ValueError, TypeError):
        raise Refused(f'{file}:{len(lines) + 1} is cut or damaged; the command that trained the run goes on with it', code=3)
    begun = [line for line in lines if line.get('event') in ('config', 'resume')]
    if not begun:
        raise Refused(f'{file} is empty: no run began there', code=3)
    now = begun[-1]             # a resumed run is what it was resumed as, but made by every machine and revision
    keys = {key: value for key, value in (now['keys'] | now['config']).items()
            if key not in run.COMMAND or key == 'init_from' and value not in run.MODES}
    train, val, test = ([line for line in lines if (line.get('event'), line.get('split')) == kind]
                        for kind in (('train', None), ('eval', 'val'), ('eval', 'test')))
    for line in val if train else ():
        line.setdefault('epoch', line['step'] * train[0]['epoch'] / train[0]['step'])
    return {'run': str(path), 'seed': keys.pop('seed'), 'keys': keys, 'parameters': now['parameters'],
            'steps': max(line.get('step', 0) for line in lines), 'seconds': max(line.get('seconds', 0) for line in lines),
            'machine': ', '.join(dict.fromkeys(f'{line["processes"]} x ' * (line["processes"] > 1) + line['machine']
                                               for line in begun)),
            'commit': ', '.join(dict.fromkeys(line['versions']['git'] or 'unknown' for line in begun)),
            'torch': now['versions']['torch'], 'train': train, 'val': val, 'test': test}


def grouped(runs):
    """The configurations among `runs`: [({key: value} that tells it from the others, its runs)]. A field that another model
    does not have tells nothing."""
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
    """Draw `what` over `x` into the file `out`: on val with train faint behind it, or on train where val has none; of several
    seeds the mean and a band of one standard deviation. Raises Refused, nothing written, if a run has not logged it."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure        # pyplot would open windows and keep state

    def logged(r, *splits):
        return {key for split in splits for line in r[split] for key, value in line.items() if isinstance(value, (int, float))}

    splits = [split for split in ('val', 'train') if all({what, x} <= logged(r, split) for r in runs)]
    if not splits:
        without = [r['run'] for r in runs if not {what, x} <= logged(r, 'val', 'train')]
        known = set.intersection(*(logged(r, 'val', 'train') for r in runs))
        raise Refused(f'no {what} over {x} in {", ".join(without) or "all of them"}; there is {", ".join(sorted(known))}', code=3)
    if not out.endswith(('.png', '.pdf', '.svg')):
        raise Refused(f'--out={out}: expected a file name that ends in .png, .pdf or .svg')
    figure, groups = Figure((8, 4.8), dpi=150, layout='constrained'), grouped(runs)
    axes = figure.subplots()
    colours = COLOURS if len(groups) <= len(COLOURS) else colormaps['viridis'](np.linspace(0, 0.9, len(groups)))
    for colour, (cells, seeds) in zip(colours, groups):
        label = [f'{key} {value}' for key, value in cells.items()] + [f'{len(seeds)} seeds ± std'] * (len(seeds) > 1)
        where, mean, std = series(seeds, splits[0], what, x)
        axes.plot(where, mean, color=colour, label=', '.join(label), marker='.' if len(where) < 30 else '')
        axes.fill_between(where, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)
        for split in splits[1:]:
            where, mean, std = series(seeds, split, what, x)
            axes.plot(where, mean, color=colour, alpha=0.3, linewidth=0.8, zorder=1)
    subjects = {f'{r["keys"]["model"]} on {r["keys"]["dataset"]}' for r in runs}
    axes.set_title(' and '.join(sorted(subjects)), loc='left', fontsize='medium')
    axes.set_xlabel(x)
    axes.set_ylabel(f'{splits[0]} {LABELS.get(what, what)}' + ', train faint' * (len(splits) > 1))
    for name, axis in ('x', axes.xaxis), ('y', axes.yaxis):
        if name in log:
            axes.set(**{f'{name}scale': 'log'})
            axis.set_major_formatter(plain)
            axis.set_minor_formatter(plain)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.2, which='both')
    if len(runs) > 1:
        axes.legend(frameon=False, fontsize='small')
    try:
        figure.savefig(out)
    except OSError as error:
        raise Refused(f'--out={out} cannot be written ({error.strerror})', code=4)
    print(f'wrote {out}')


def plain(value, position):
    """A number on a logarithmic axis as it is, 0.02 and not 2 x 10^-2; those that would crowd it are left out."""
    return f'{value:g}' if f'{value:e}'[0] in '1235' else ''


def series(seeds, split, what, x):
    """(x, mean of `what`, its standard deviation) over the steps that all `seeds` have, each (n,). x is a mean as well, for no
    two seeds take the same seconds; a single seed deviates by 0. Raises Refused if there is no such step."""
    points = [{line['step']: (line[x], line[what]) for line in r[split] if what in line} for r in seeds]
    steps = sorted(set.intersection(*map(set, points)))
    if not steps:
        raise Refused(f'no step of {split} {what} in common: {", ".join(r["run"] for r in seeds)}', code=3)
    values = np.array([[of[step] for step in steps] for of in points], float)       # (seeds, n, 2); a null becomes nan
    where, mean = values.mean(0).T
    return where, mean, values[..., 1].std(0, ddof=1) if len(seeds) > 1 else np.zeros(len(steps))


# --- tables

def summary(r):
    """What a table and results/NAME.json say of a run: its facts, what its model monitors, the best of that on val, and the
    log's lines for that evaluation and for test. Raises Refused if there is none."""
    model = r['keys']['model']
    try:
        metric, goal = import_module(f'models.{model}').Model.monitor
    except ModuleNotFoundError:
        raise Refused(f'{r["run"]} is a {model}; without models/{model}.py there is no knowing what is best')
    evaluated = [line for line in r['val'] if line.get(metric) is not None]
    if not evaluated:
        raise Refused(f'{r["run"]} has no evaluation on val yet', code=3)
    best = (min if goal == 'min' else max)(evaluated, key=lambda line: line[metric])
    facts = {key: value for key, value in r.items() if key not in ('train', 'val', 'test')}
    return facts | {'metric': metric, 'goal': goal, 'best': best[metric], 'step': best['step'], 'val': best,
                    'test': r['test'][-1] if r['test'] else {}}


def spread(values, digits):
    """'mean ± std' as text; the standard deviation is the sample's (n - 1), and one number has none."""
    return f'{np.mean(values):,.{digits}f}' + (f' ± {np.std(values, ddof=1):,.{digits}f}' if len(values) > 1 else '')


def mean(runs):
    """What seeds of one configuration reached on val."""
    return float(np.mean([r['best'] for r in runs]))


def rank(row):
    """What sorts the rows of a table: the best first, those of no runs last."""
    _, runs = row
    return (0, runs[0]['metric'], mean(runs) * (1 if runs[0]['goal'] == 'min' else -1)) if runs else (1,)


def texts(cells, runs, of, baseline):
    """A row of a table as {column: text}: of `runs`, whose metric is called `of`, compared with the runs of `baseline`."""
    line = {key: str(value) for key, value in cells.items()}
    if not runs:
        return line
    for column, fact in ('at step', 'step'), *zip(FACTS, FACTS):
        line[column] = ', '.join(dict.fromkeys(str(r[fact]) for r in runs))
    line['parameters'] = f'{runs[0]["parameters"]:,}'
    line['seconds'] = spread([r['seconds'] for r in runs], 0)
    line[f'val {of}'] = f'{spread([r["best"] for r in runs], 4)} ({len(runs)})'
    if all(r['test'] for r in runs):
        line[f'test {of}'] = spread([r['test'][r['metric']] for r in runs], 4)
    if baseline and runs[0]['metric'] == baseline[0]['metric']:
        line['difference'] = f'{mean(runs) - mean(baseline):+.4f}'
    return line


def tabulate(rows, name='', compare=False):
    """Print a table, the best first, of rows: [({column: value} to begin with, runs)]; with a name, keep it in results/, too.

    compare: a column of differences to the first row. A row of no runs is of dashes. Facts that all runs share are said once,
    beneath. Raises Refused, nothing written, if a run has not been evaluated or results/NAME.md has no place for a table.
    """
    around = frame(name) if name else ()
    rows = [(cells, [summary(r) for r in runs]) for cells, runs in rows]
    goals = {r['metric']: r['goal'] for _, runs in rows for r in runs}
    of, baseline = ' or '.join(goals), rows[0][1] if compare else []
    rows.sort(key=rank)
    lines = [texts(*row, of, baseline) for row in rows]
    header = [*dict.fromkeys(key for cells, _ in rows for key in cells),
              f'val {of}', 'difference', 'at step', f'test {of}', 'seconds', *FACTS]
    held = {key: list(dict.fromkeys(line[key] for line in lines if key in line)) for key in header}
    common = [key for key in FACTS if len(held[key]) == 1]
    header = [key for key in header if held[key] and key not in common]
    cells = [[line.get(key, '-') for key in header] for line in lines]
    notes = [f'val {metric}: the {"lowest" if goal == "min" else "highest"} {LABELS.get(metric, metric)} of a run\'s evaluations, '
             'each over the whole split; mean ± standard deviation (runs)' for metric, goal in goals.items()]
    notes += ['seconds: wall clock from the start of the process, evaluation included',
              '; '.join(f'{key} {held[key][0]}' for key in common if key != 'metric')]

    widths = [max(map(len, column)) for column in zip(header, *cells)]
    for row in header, *cells:
        print('  '.join(map(str.ljust, row, widths)).rstrip())
    print('', *notes, sep='\n')
    if name:
        command = shlex.join(['python', Path(sys.argv[0]).name, *sys.argv[1:]])
        made = '\n'.join([*(f'| {" | ".join(row)} |' for row in (header, ['---'] * len(header), *cells)),
                          '', *(f'- {note}' for note in notes), '', f'`{command}`'])
        file = ROOT / 'results' / f'{name}.json'
        facts = {'command': command, 'rows': [{'cells': cells, 'runs': runs} for cells, runs in rows]}
        file.write_text(json.dumps(facts, indent=1) + '\n', encoding='utf-8')
        file.with_suffix('.md').write_text(made.join(around), encoding='utf-8')
        print(f'wrote {file} and {file.with_suffix(".md")}')


def frame(name):
    """What stands before and after the made part of results/NAME.md. Raises Refused where that part is not marked."""
    if not re.fullmatch(r'[\w.-]+', name):
        raise Refused(f'--name={name}: expected letters, digits, _ . and -, for results/NAME.md')
    file = ROOT / 'results' / f'{name}.md'
    text = file.read_text(encoding='utf-8') if file.exists() else f'# {name}\n\n{BEGIN}\n{END}\n'
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise Refused(f'{file} has no place for the table: the lines {BEGIN} and {END}, once each')
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f'{before}{BEGIN}\n\n', f'\n\n{END}{after}'


if __name__ == '__main__':
    settings = configurator.read(__file__, sys.argv[1:])
    globals().update(settings.knobs)
    if not settings.files:
        raise Refused('of which runs? as in: python plot.py out/a out/b')
    runs = [read(path) for path in dict.fromkeys(map(Path, settings.files))]
    if table or name:
        tabulate([({'run': seeds[0]['run'] + f' +{len(seeds) - 1}' * (len(seeds) > 1), **cells}, seeds)
                  for cells, seeds in grouped(runs)], name)
    else:
        curves(runs, what, x, log, out)
