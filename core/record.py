"""Runs, read back from their log.jsonl: what they were, what they reached, which differ only in the seed.

A run is a dict:
    run, seed                   its folder and its seed
    keys                        {name: value} of its options and of its model's Config fields
    parameters, flops, machine, commit, torch       as the log says; commit is the revision of this code
    steps, seconds              how far it came, and in what time
    train, val, test            lines of its log, each a dict: {'step': 10, 'loss': 1.5, ...}
"""
import json
import math
import os
import sys
from importlib import import_module
from pathlib import Path
from statistics import median

from core.migration import migrate
from core.errors import UserError
from core.resume import COMMAND, MODES, train_options
from data.store import write_atomically


# --- a run

def read_run(folder):
    """Return the run in a folder. Raises UserError if there is none."""
    lines = read_log(folder)
    starts = [line for line in lines if line.get('event') in ('config', 'resume')]
    if not starts:
        raise UserError(f'{folder}/log.jsonl has no first line: no run has started there', code=3)
    machines = []
    commits = []
    for line in starts:
        several = f'{line["processes"]} x ' if line['processes'] > 1 else ''
        machines.append(several + line['machine'])
        commits.append(line['versions']['git'] or 'unknown')
    last = migrate(starts[-1])      # a resumed run has the options with which it was last resumed
    keys = default_options() | last['keys'] | last['config']
    return {
        'run': str(folder),
        'seed': keys.pop('seed'),
        'keys': {name: value for name, value in keys.items() if belongs_to_run(name, value)},
        'parameters': last['parameters'],
        'flops': last.get('flops'),
        'machine': distinct(machines),
        'commit': distinct(commits),
        'torch': last['versions']['torch'],
        'steps': max(line.get('step', 0) for line in lines),
        'seconds': max(line.get('seconds', 0) for line in lines),
        'train': [line for line in lines if line.get('event') == 'train'],
        'val': [line for line in lines if line.get('split') == 'val'],
        'test': [line for line in lines if line.get('split') == 'test'],
    }


def read_log(folder):
    """Return the lines of a folder's log.jsonl as dicts; warn of those that are damaged.

    Raises UserError if there is no log.
    """
    file = Path(folder) / 'log.jsonl'
    try:
        texts = file.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f'{folder} is not a run: {file}: {error.strerror}', code=3)
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):        # it is not JSON, or not even UTF-8
            line = None
        if isinstance(line, dict):
            lines.append(line)
        else:
            print(f'WARNING: {file}:{number} is damaged and left out', file=sys.stderr)
    return lines


def default_options():
    """Return {name: default} of all options of train.py: the log of an older run lacks the newer ones."""
    return {name: option.default for name, option in train_options().items()}


def belongs_to_run(name, value):
    """Return whether an option says something about the run, not only about the command that started it."""
    if name == 'init_from':
        return value not in MODES           # a path: the run was fine-tuned from there
    return name not in COMMAND and name != 'export'     # export: an option of earlier revisions


def distinct(values):
    """Return 'a, b' of the values a, b, a."""
    return ', '.join(dict.fromkeys(str(value) for value in values))


def summarize(run):
    """Return what results/NAME.json holds of a run: the run, and how good it is.

    Adds the metric that its model monitors, the goal ('min' or 'max'), the best value on val, and its step.
    Of the log's lines only numbers remain: {name: number} of the best evaluation on val, of the last one on
    test, and of train the medians. Raises UserError if the run was never evaluated.
    """
    model = run['keys']['model']
    try:
        metric, goal = import_module(f'models.{model}').Model.monitor
    except ModuleNotFoundError:
        raise UserError(f'{run["run"]} has the model {model}; without models/{model}.py it is not known '
                        'which of its values is the best')
    evaluations = [line for line in run['val'] if line.get(metric) is not None]     # null: it was not finite
    if not evaluations:
        raise UserError(f'{run["run"]} has no evaluation on val yet', code=3)
    choose = min if goal == 'min' else max
    best = choose(evaluations, key=lambda line: line[metric])
    return run | {
        'train': medians(run['train']),
        'val': medians([best]),
        'test': medians(run['test'][-1:]),
        'metric': metric,
        'goal': goal,
        'best': best[metric],
        'step': best['step'],
    }


def medians(lines):
    """Return {name: median} of the numbers in lines of a log."""
    return {name: median(values) for name, values in numbers(lines).items()}


def numbers(lines):
    """Return {name: [values]} of the numbers in lines of a log; lists and texts are left out."""
    found = {}
    for line in lines:
        for name, value in line.items():
            if isinstance(value, (int, float)):
                found.setdefault(name, []).append(value)
    return found


# --- groups of runs

def group_seeds(runs):
    """Return the groups of runs that differ only in the seed: [(varying, runs)].

    varying: {name: value} of the options in which the groups differ.
    """
    names = varying_names(runs)
    groups = {}
    for run in runs:
        varying = {name: run['keys'][name] for name in names if name in run['keys']}
        _, members = groups.setdefault(json.dumps(varying), (varying, []))
        members.append(run)
    return list(groups.values())


def varying_names(runs):
    """Return the names of the options in which runs differ. A Config field of other models does not count."""
    known = {}          # model -> the options that any of its runs has
    for run in runs:
        known.setdefault(run['keys']['model'], {}).update(run['keys'])
    names = {}          # a dict keeps their order
    for options in known.values():
        names.update(options)
    varying = []
    for name in names:
        concerned = [run for run in runs if name in known[run['keys']['model']]]
        values = {json.dumps(run['keys'].get(name)) for run in concerned}
        if len(values) > 1:
            varying.append(name)
    return varying


# --- the files of a run

def append_line(log, line):
    """Append a line to a log.jsonl. If the last write was cut off, by a full disk, start a new line first."""
    with open(log, 'ab+') as file:
        end = b''
        if file.tell():                 # the file is not empty
            file.seek(-1, os.SEEK_END)
            end = file.read()
        start = b'' if end in (b'', b'\n') else b'\n'
        file.write(start + line.encode() + b'\n')


def holds_run(folder, even_without_checkpoint):
    """Return whether a folder has a checkpoint of ours; if `even_without_checkpoint`, a log is enough."""
    patterns = ['last.pt', 'last.pt.previous', 'best.pt', 'step_*.pt']
    if even_without_checkpoint:
        patterns.append('log.jsonl')
    return any(any(folder.glob(pattern)) for pattern in patterns)


def tidy(folder, resumed):
    """Remove what a killed process left in a run folder; `resumed`: the checkpoint that was taken, or ''.

    If the run resumes from last.pt.previous, that becomes last.pt. Else the next save would keep the damaged
    last.pt in its place, and a kill then would leave no whole file.
    """
    folder = Path(folder)
    if Path(resumed).name == 'last.pt.previous':
        os.replace(resumed, folder / 'last.pt')
    for pattern in 'last.pt.tmp', 'best.pt.tmp', 'step_*.pt.tmp', 'log.jsonl.tmp':
        for leftover in folder.glob(pattern):
            leftover.unlink()


def cut_log(log, step):
    """Drop the lines of a log.jsonl beyond `step`; a damaged line is dropped too. -1: all lines."""
    lines = []
    if log.exists():
        lines = log.read_text(encoding='utf-8', errors='replace').splitlines(True)
    kept = [line for line in lines if logged_step(line) <= step]
    write_atomically(log, ''.join(kept).encode('utf-8'))


def logged_step(line):
    """Return the step of a line of log.jsonl; infinity if the line is damaged."""
    try:
        return float(json.loads(line).get('step', 0)) if line.endswith('\n') else math.inf
    except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
        return math.inf
