"""Tables of runs: what each group of seeds reached, when, and in what time, as mean ± standard deviation.

A table is printed. If it has a name it is also kept: results/NAME.json holds the numbers, results/NAME.md the
table and the command that made it, between two marks. All other text in NAME.md stays as it is.
"""
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np

from configurator import ROOT
from core.errors import UserError
from core.record import distinct, summarize

FACTS = 'metric', 'seed', 'steps', 'parameters', 'machine', 'commit', 'torch'   # columns if they vary
LABELS = {'loss': 'loss (nats)', 'objective': 'objective (nats)', 'lr': 'learning rate',
          'grad_norm': 'gradient norm', 'rows_per_second': 'rows per second', 'memory': 'memory (bytes)'}
BEGIN = '<!-- plot.py writes from here -->'
END = '<!-- to here; the rest is yours -->'


def tabulate(rows, name='', compare=False, columns=''):
    """Print a table of rows [(cells, runs)], the best one first. With a name, keep it in results/ as well.

    cells: {column: value} at the beginning of the row. runs: those it is about; without any it has dashes.
    compare: add a column of differences to the first of `rows`. columns: names of further columns, separated
    by commas: test.X or train.Y for any numbers X and Y in the log.

    Raises UserError, with nothing written, if a run was never evaluated, if no run has logged one of
    `columns`, or if results/NAME.md has no place for the table.
    """
    before, after = split_page(name) if name else ('', '')
    columns = [column for column in columns.split(',') if column]
    rows = [(cells, [summarize(run) for run in runs]) for cells, runs in rows]
    goals = metric_goals(rows)
    baseline = rows[0][1] if compare else []
    rows.sort(key=rank)
    header, body, notes = collect(rows, baseline, goals, columns)
    print(format_text(header, body), '', *notes, sep='\n')
    if name:
        command = shlex.join(['python', Path(sys.argv[0]).name, *sys.argv[1:]])
        page = before + format_markdown(header, body, notes, command) + after
        write_results(name, page, command, rows)


def metric_goals(rows):
    """Return {metric: 'min' or 'max'} of the metrics by which the runs of a table were chosen."""
    goals = {}
    for _, runs in rows:
        for run in runs:
            goals[run['metric']] = run['goal']
    return goals


def rank(row):
    """Return the sort key of a row: the best runs come first, rows without runs last."""
    _, runs = row
    if not runs:
        return (1,)
    sign = 1 if runs[0]['goal'] == 'min' else -1
    return (0, runs[0]['metric'], sign * mean_best(runs))


# --- collect: numbers become text

def collect(rows, baseline, goals, columns):
    """Return a table as text: its header (a list), its body (a list for each row), and the notes beneath it.

    A column without a value is left out. A fact that is the same for all runs is a note, not a column.
    """
    names = {}          # of all columns, in their order: first those of `cells`
    for cells, _ in rows:
        names.update(cells)
    row_texts = []      # {column: text} of each row
    for cells, runs in rows:
        texts = {column: str(value) for column, value in cells.items()}
        if runs:
            texts.update(describe(runs, baseline, ' or '.join(goals), columns))
        row_texts.append(texts)
        names.update(texts)
    filled = [name for name in names if any(texts.get(name, '-') != '-' for texts in row_texts)]
    missing = [column for column in columns if column not in filled]
    if missing:
        raise UserError(f'no run has logged {", ".join(missing)}')
    shared = {}
    for fact in FACTS:
        values = {texts[fact] for texts in row_texts if fact in texts}
        if len(values) == 1:
            shared[fact] = values.pop()
    header = [name for name in filled if name not in shared]
    body = []
    for texts in row_texts:
        body.append([texts.get(name, '-') for name in header])
    return header, body, footnotes(goals, shared)


def describe(runs, baseline, metrics, columns):
    """Return {column: text} of the runs of one row. metrics: the names of all metrics of the table."""
    metric = runs[0]['metric']
    texts = {f'val {metrics}': f'{mean_std([run["best"] for run in runs], 4)} ({len(runs)})'}
    comparable = runs is not baseline and any(run['metric'] == metric for run in baseline)
    texts['difference'] = f'{mean_best(runs) - mean_best(baseline):+.4f}' if comparable else '-'
    texts['at step'] = distinct(run['step'] for run in runs)
    texts[f'test {metrics}'] = column_text(runs, f'test.{metric}')
    for column in columns:
        texts[column] = column_text(runs, column)
    texts['seconds'] = mean_std([run['seconds'] for run in runs], 0)
    for fact in FACTS:
        texts[fact] = distinct(run[fact] for run in runs)
    texts['parameters'] = f'{runs[0]["parameters"]:,}'
    return texts


def column_text(runs, column):
    """Return 'mean ± std' of a column such as test.accuracy; '-' unless all runs have logged it."""
    split, _, number = column.partition('.')
    if split not in ('train', 'val', 'test') or any(number not in run[split] for run in runs):
        return '-'
    values = [run[split][number] for run in runs]
    return mean_std(values, 4 if abs(values[0]) < 100 else 0)


def mean_std(values, digits):
    """Return 'mean ± std', with the standard deviation of a sample (n - 1); one value has none."""
    text = f'{np.mean(values):,.{digits}f}'
    if len(values) > 1:
        text += f' ± {np.std(values, ddof=1):,.{digits}f}'
    return text


def mean_best(runs):
    """Return the mean over seeds of the best values on val."""
    return float(np.mean([run['best'] for run in runs]))


def footnotes(goals, shared):
    """Return the lines beneath a table: what its columns mean, and {fact: text} that all rows share."""
    notes = []
    for metric, goal in goals.items():
        notes.append(f'val {metric}: {LABELS.get(metric, metric)} over the whole split, the {goal}imum of a '
                     "run's evaluations; mean ± standard deviation (runs)")
    notes.append('seconds: wall clock from the start of the process, evaluation included')
    facts = [f'{fact} {text}' for fact, text in shared.items() if fact != 'metric']     # the header names it
    if facts:
        notes.append('; '.join(facts))
    return notes


# --- format and write

def format_text(header, body):
    """Return a table as lines of aligned columns."""
    widths = [max(len(text) for text in column) for column in zip(header, *body)]
    lines = []
    for row in [header, *body]:
        padded = [text.ljust(width) for text, width in zip(row, widths)]
        lines.append('  '.join(padded).rstrip())
    return '\n'.join(lines)


def format_markdown(header, body, notes, command):
    """Return a table in Markdown, with the notes and the command beneath it."""
    rule = ['---'] * len(header)
    lines = [f'| {" | ".join(row)} |' for row in [header, rule, *body]]
    bullets = [f'- {note}' for note in notes]
    return '\n'.join([*lines, '', *bullets, '', f'`{command}`'])


def split_page(name):
    """Return what stands before and after the table in results/NAME.md. Raises UserError without a place."""
    if not re.fullmatch(r'\w[\w-]*', name):
        raise UserError(f'--name={name}: expected letters, digits, _ and -, for results/NAME.md')
    file = ROOT / 'results' / f'{name}.md'
    text = f'# {name}\n\n{BEGIN}\n{END}\n'
    if file.exists():
        text = file.read_text(encoding='utf-8')
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f'{file} has no place for the table; give it these two lines, each once: '
                        f'{BEGIN} and {END}')
    before = text.split(BEGIN)[0]
    after = text.split(END)[1]
    return f'{before}{BEGIN}\n\n', f'\n\n{END}{after}'


def write_results(name, page, command, rows):
    """Write results/NAME.md, which is `page`, and results/NAME.json, all that is known of the runs."""
    file = ROOT / 'results' / f'{name}.json'
    file.parent.mkdir(exist_ok=True)
    numbers = {'command': command, 'rows': [{'cells': cells, 'runs': runs} for cells, runs in rows]}
    file.write_text(json.dumps(numbers, indent=1) + '\n', encoding='utf-8')
    file.with_suffix('.md').write_text(page, encoding='utf-8')
    print(f'wrote {file} and {name}.md')
