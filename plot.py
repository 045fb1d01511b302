"""Pictures and tables of runs, from their log.jsonl alone.

    python plot.py out/a out/b                                      # loss on val, that on train faint behind it
    python plot.py out/seed* --what=grad_norm --x=seconds --log=y   # anything that was logged; seeds as mean and band
    python plot.py --table out/a out/b                              # what each reached, where, at what cost
    python plot.py --name=shakespeare out/a out/b                   # the same, also kept in results/

Runs whose keys are equal but for the seed are one configuration: one line of a picture, one row of a table. A line is named by
the keys that differ, and by no others. Every file in results/ is made by `tabulate`, with the command that made it.
"""
import json, os, re, shlex, sys
from importlib import import_module
from pathlib import Path
from typing import Literal

import numpy as np

import configurator, run
from configurator import ROOT, Refused

# --- a picture
what = 'loss'           # the quantity: any number in the train or eval lines of log.jsonl
x: Literal['step', 'seconds', 'epoch'] = 'step'         # the horizontal axis
log: Literal['none', 'x', 'y', 'xy'] = 'none'           # which axes are logarithmic
out = 'plot.png'        # where it is written
# --- or a table
table = False           # print one
name = ''               # keep it, too, as results/NAME.md and results/NAME.json

LABELS = {'loss': 'loss (nats)', 'objective': 'objective (nats)', 'lr': 'learning rate', 'grad_norm': 'norm of the gradient',
          'seconds': 'seconds', 'rows_per_second': 'rows per second', 'memory': 'memory (bytes)'}
COLOURS = '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000'   # told apart by all: Okabe & Ito 2008
BEGIN, END = '<!-- made by the command below; a rewrite replaces what stands between these two lines -->', '<!-- end -->'


def read(path):
    """The run in a folder, as its log tells: facts, and its lines as train, val and test. Raises Refused if it is not whole."""
    file, lines = Path(path) / 'log.jsonl', []
    try:
        for line in file.read_bytes().splitlines():
            lines.append({**json.loads(line)})
    except OSError as error:
        there = sorted(str(p.parent) for p in Path('out').glob('*/log.jsonl'))
        raise Refused(f'{path} is no run: {file}: {error.strerror}', f'runs here: {", ".join(there) or "none"}', code=3)
    except (ValueError, TypeError):
        raise Refused(f'{file}:{len(lines) + 1} is cut or damaged; going on with the run, by the same command, mends it', code=3)
    begun = [line for line in lines if line.get('event') in ('config', 'resume')]
    if not begun:
        raise Refused(f'{file} is empty: the run never began', code=3)
    facts = begun[-1]
    keys = {key: value for key, value in (facts['keys'] | facts['config']).items()
            if key not in run.COMMAND or key == 'init_from' and value not in run.MODES}
    train, val, test = ([line for line in lines if (line.get('event'), line.get('split')) == kind]
                        for kind in (('train', None), ('eval', 'val'), ('eval', 'test')))
    for line in val if train else ():
        line.setdefault('epoch', line['step'] * train[0]['epoch'] / train[0]['step'])
    machines = (f'{line["processes"]} x '.removeprefix('1 x ') + line['machine'] for line in begun)
    return {'run': str(path), 'seed': keys.pop('seed'), 'keys': keys, 'parameters': facts['parameters'],
            'machine': ', '.join(dict.fromkeys(machines)), 'torch': facts['versions']['torch'],
            'commit': ', '.join(dict.fromkeys(line['versions']['git'] or 'unknown' for line in begun)),
            'steps': max(line.get('step', 0) for line in lines), 'seconds': max(line.get('seconds', 0) for line in lines),
            'train': train, 'val': val, 'test': test}


def grouped(runs):
    """[(the keys and values that tell it from the others, its runs)], one for each configuration; its runs are its seeds."""
    fields = {}
    for one in runs:
        fields.setdefault(one['keys']['model'], set()).update(one['keys'])
    differ = [key for key in dict.fromkeys(key for one in runs for key in one['keys'])      # a model's lack is no difference
              if len({json.dumps(one['keys'].get(key)) for one in runs if key in fields[one['keys']['model']]}) > 1]
    groups = {}
    for one in runs:
        cells = {key: one['keys'][key] for key in differ if key in one['keys']}
        groups.setdefault(json.dumps(cells), (cells, []))[1].append(one)
    return list(groups.values())


# --- pictures

def curves(runs, what='loss', x='step', log='none', out='plot.png'):
    """Write a picture of `what` over `x`: on val, train faint behind it, or what only train lines have. A line for each
    configuration, with a band of one standard deviation over its seeds. Raises Refused if a run has not logged it."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure        # without pyplot there is no window and no state
    for key in what, x:
        for one in runs:
            known = {k for line in one['train'] + one['val'] for k, v in line.items() if isinstance(v, (int, float))}
            if key not in known:
                raise Refused(f'{one["run"]} has logged no {key}; it has {", ".join(sorted(known)) or "nothing yet"}')
    if Path(out).suffix not in ('.png', '.pdf', '.svg'):
        raise Refused(f'--out={out}: expected a name that ends in .png, .pdf or .svg')

    logged = [split for split in ('val', 'train') if all(any(what in line for line in one[split]) for one in runs)]
    figure, groups, labels = Figure((8, 4.8), dpi=150, layout='constrained'), grouped(runs), []
    axes = figure.subplots()
    colours = COLOURS if len(groups) <= len(COLOURS) else colormaps['viridis'](np.linspace(0, 0.9, len(groups)))
    for colour, (cells, seeds) in zip(colours, groups):
        where, mean, std = series(seeds, logged[0], what, x)
        labels.append(', '.join(f'{key} {value}' for key, value in cells.items()) + f' ({len(seeds)} seeds)' * (len(seeds) > 1))
        axes.plot(where, mean, color=colour, label=labels[-1].strip(), marker='.' if len(where) < 30 else '', zorder=3)
        axes.fill_between(where, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0, zorder=2)
        for split in logged[1:]:
            where, mean, _ = series(seeds, split, what, x)
            axes.plot(where, mean, color=colour, alpha=0.25, linewidth=0.8, zorder=1)
    axes.set(xlabel=LABELS.get(x, x), xscale='log' if 'x' in log else 'linear', yscale='log' if 'y' in log else 'linear',
             ylabel=f'{logged[0]} {LABELS.get(what, what)}' + '; faint: train' * (len(logged) > 1))
    subject = {f'{one["keys"]["model"]} on {one["keys"]["dataset"]}' for one in runs}
    axes.set_title(subject.pop() if len(subject) == 1 else '', loc='left', fontsize='medium')
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.2)
    if any(labels):
        axes.legend(frameon=False, fontsize='small')
    try:
        figure.savefig(out)
    except OSError as error:
        raise Refused(f'{out} cannot be written ({error.strerror})', code=4)
    print(f'wrote {out}')


def series(seeds, split, what, x):
    """(place, mean, standard deviation), each (n,): of `what` over the steps that all of `seeds` have. A place is a mean too,
    as no two seeds take the same seconds; the deviation of a single seed is 0."""
    points = [{line['step']: (line[x], line[what]) for line in one[split] if what in line} for one in seeds]
    steps = sorted(set.intersection(*map(set, points)))
    if not steps:
        raise Refused(f'{", ".join(one["run"] for one in seeds)} have no step of {split} {what} in common')
    values = np.array([[of[step] for step in steps] for of in points], float)               # (seeds, n, 2); null is nan
    place, mean = values.mean(0).T
    return place, mean, values[..., 1].std(0, ddof=1) if len(seeds) > 1 else np.zeros_like(mean)


# --- tables

def summary(one):
    """What a run reached, and its circumstances: the lines of its log with its best on val and with test, and the facts."""
    model = one['keys']['model']
    try:
        metric, goal = import_module(f'models.{model}').Model.monitor
    except ModuleNotFoundError:
        raise Refused(f'{one["run"]} is a {model!r}, and there is no models/{model}.py to say what it is judged by')
    evaluated = [line for line in one['val'] if line.get(metric) is not None]
    if not evaluated:
        raise Refused(f'{one["run"]} has no evaluation on val yet')
    best = (min if goal == 'min' else max)(evaluated, key=lambda line: line[metric])
    return {key: value for key, value in one.items() if key not in ('train', 'val', 'test')} | {
        'metric': metric, 'goal': goal, 'best': best[metric], 'step': best['step'], 'val': best,
        'test': one['test'][-1] if one['test'] else {}}


def spread(values, digits):
    """'mean ± std' of some numbers; the standard deviation is the sample's (n - 1), and a single number has none."""
    deviation = f' ± {np.std(values, ddof=1):,.{digits}f}' if len(values) > 1 else ''
    return f'{np.mean(values):,.{digits}f}{deviation}'


def tabulate(rows, name='', compare=False):
    """Print a table of `rows`, [(its first cells, the runs it is of)], best first; with a name, keep it in results/, too.

    compare: a column with the difference to the first row. A row of no runs is of dashes. What is the same for all rows is
    said once, beneath. Returns what results/NAME.json holds of each row. Raises Refused, with nothing written, if a run has no
    evaluation or results/NAME.md has no place for the table."""
    around = frame(name) if name else None
    made = [{'cells': cells, 'runs': [summary(one) for one in runs]} for cells, runs in rows]
    everything = [one for row in made for one in row['runs']]
    metrics = dict.fromkeys((one['metric'], one['goal']) for one in everything)
    of = f' {everything[0]["metric"]}' if len(metrics) == 1 else ''
    facts = 'metric', 'seed', 'steps', 'parameters', 'machine', 'commit', 'torch'
    for row in made:
        def column(key):
            return [one[key] for one in row['runs']]
        row['mean'] = float(np.mean(column('best'))) if row['runs'] else None
        row['line'] = {**row['cells'], f'best val{of}': '-'}
        if not row['runs']:
            continue
        row['line'][f'best val{of}'] = f'{spread(column("best"), 4)} ({len(row["runs"])})'
        if compare and made[0]['runs'] and made[0]['runs'][0]['metric'] == row['runs'][0]['metric']:
            row['difference'] = row['mean'] - made[0]['mean']
            row['line']['difference'] = f'{row["difference"]:+.4f}'
        tested = [one['test'][one['metric']] for one in row['runs'] if one['test']]
        row['line'] |= {'at step': spread(column('step'), 0), f'test{of}': spread(tested, 4) if tested else '',
                        'seconds': spread(column('seconds'), 0)}
        row['line'] |= {key: ', '.join(dict.fromkeys(f'{v:,}' if key in ('steps', 'parameters') else str(v) for v in column(key)))
                        for key in facts}
    made.sort(key=lambda row: (not row['runs'], *[(one['metric'], row['mean'] * (1 if one['goal'] == 'min' else -1))
                                                  for one in row['runs'][:1]]))

    filled = {key: dict.fromkeys(row['line'][key] for row in made if row['line'].get(key))
              for key in dict.fromkeys(key for row in made for key in row['line'])}
    common = {key: ''.join(filled.pop(key)) for key in facts if len(filled.get(key, ())) == 1}
    header = [key for key in filled if filled[key]]
    cells = [[str(row['line'].get(key, '')) or '-' for key in header] for row in made]
    notes = [f'best val {metric}: the {"lowest" if goal == "min" else "highest"} {LABELS.get(metric, metric)} among a run\'s '
             'evaluations, each over the whole split; mean ± standard deviation (runs)' for metric, goal in metrics]
    notes.append('seconds: wall clock from the start of the process, evaluation included')
    notes.append('; '.join(f'{key} {value}' for key, value in common.items() if key != 'metric'))
    widths = [max(map(len, column)) for column in zip(header, *cells)]
    for line in header, *cells:
        print('  '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    print('\n' + '\n'.join(notes))
    if name:
        command = shlex.join(['python', Path(sys.argv[0]).name, *sys.argv[1:]])
        lines = [f'| {" | ".join(line)} |' for line in (header, ['---'] * len(header), *cells)]
        lines += ['', *(f'- {note}' for note in notes), '', '```', command, '```']
        keep(name, around, '\n'.join(lines), {'command': command, 'rows': made})
    return made


def frame(name):
    """What stands before and after the generated part of results/NAME.md. Raises Refused if that part is not to be found."""
    if not re.fullmatch(r'[\w.-]+', name):
        raise Refused(f'--name={name}: expected a name of letters, digits, _ - and ., for results/NAME.md')
    path = ROOT / 'results' / f'{name}.md'
    text = path.read_text(encoding='utf-8') if path.exists() else f'# {name}\n\n{BEGIN}\n{END}\n'
    parts = re.fullmatch(f'(.*{re.escape(BEGIN)}\n).*({re.escape(END)}.*)', text, re.DOTALL)
    if not parts or text.count(BEGIN) + text.count(END) != 2:
        raise Refused(f'{path} has no place for the table: these two lines, once each', BEGIN, END)
    return parts.groups()
