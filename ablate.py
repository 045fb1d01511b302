"""What each choice is worth: a config with something changed, over several seeds, as one table.

    python ablate.py config/train_shakespeare.py 'optimizer=adamw learning_rate=1e-3' 'dropout=0,0.2'
    python ablate.py config/train_shakespeare.py 'pos=none' --max_iters=500 --name=positions

Each argument after the config is a variant: the options to change. Values with commas make a grid. The config
without changes is the baseline. All other options are for every run. All runs are checked before the first
one starts. They run one after another, each in its own folder, with the output of train.py in output.txt.
The same command goes on where it was stopped.
"""
import itertools
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import configurator
from configurator import ROOT
from core.checkpoint import latest_checkpoint
from core.errors import UserError
from core.facts import duration
from core.names import run_name
from core.record import read_run, summarize
from core.resume import COMMAND
from core.stop import handle_signals
from core.table import split_page, tabulate

# --- options
seeds = 3       # runs of each variant, with the seeds 1, 2, 3, ...
out_dir = ''    # the folder for the folders of the runs; empty: out/ablate_NAME for config/train_NAME.py or
                # --dataset=NAME
name = ''       # keep the table as results/NAME.md and results/NAME.json
columns = ''    # further columns of the table: test.accuracy,train.rows_per_second; of train, medians

TRAIN = ROOT / 'train.py'
DEFAULT = ROOT / 'config' / 'train_stdlib.py'
AUGMENT = (ROOT / 'data' / 'augment.py', 'Augment')     # its fields are options of train.py, too


@dataclass
class Planned:
    variant: str
    seed: int
    folder: Path
    arguments: list     # of train.py
    done: bool          # whether the finished run is in its folder already


def expand(variant):
    """Return the variants of a grid: ['dropout=0 tie', 'dropout=0.1 tie'] of 'dropout=0,0.1 tie'."""
    choices = []
    for word in variant.split():
        option, equals, values = word.partition('=')
        choices.append([option + equals + value for value in values.split(',')])
    return [' '.join(chosen) for chosen in itertools.product(*choices)]


def plan(files, common, seeds=3, out_dir=''):
    """Return the runs as a list of Planned, the baseline first.

    files: the config and the variants. common: the arguments for all runs. Raises UserError with the problems
    of all runs that train.py would not accept, or whose folder holds another run.
    """
    if seeds < 1:
        raise UserError(f'seeds must be at least 1, got {seeds}')
    configs = [file for file in files if file.endswith('.py')]
    given = {}
    for argument in common:
        option, _, value = argument.removeprefix('--').partition('=')
        given[option] = value
    out_dir = Path(out_dir or f'out/ablate_{run_name(configs[-1:], given, given)}')
    variants = ['']         # the baseline
    for file in files:
        if file not in configs:
            variants += expand(file)

    runs = []
    problems = []
    for variant, seed in itertools.product(dict.fromkeys(variants), range(1, seeds + 1)):
        changes = [*common, *(f'--{word}' for word in variant.split())]
        for change in changes:
            if re.match('--(seed|out_dir|eval_only)(=|$)', change):
                problems.append(f'{change}: every run has its own seed and folder; there are --seeds and '
                                '--out_dir')
        variant = variant or 'baseline'
        folder = out_dir / re.sub(r'[^\w.=+-]', '_', f'{variant}_seed{seed}')
        arguments = [*configs, *changes, f'--seed={seed}', f'--out_dir={folder}']
        try:
            done = finished(folder, all_options(arguments))
            runs.append(Planned(variant, seed, folder, arguments, done))
        except UserError as error:
            problems += str(error).split('\n')
    if problems:
        raise UserError(*dict.fromkeys(problems))       # each once
    return runs


def all_options(arguments):
    """Return {name: value} of the options and Config fields that train.py would have. Raises UserError."""
    settings = configurator.read(TRAIN, arguments, DEFAULT, also=[AUGMENT])
    model = import_module(f'models.{settings.options["model"]}')
    try:
        config = model.Config(**settings.fields)
    except ValueError as error:
        raise UserError(str(error))
    return settings.options | vars(config)


def finished(folder, options):
    """Return whether the run with these options is in its folder and finished.

    Raises UserError if the folder holds another run: train.py would leave it alone if it is finished, else
    go on with it, and the table would show it under the wrong name.
    """
    checkpoint, path = latest_checkpoint(folder)
    if not checkpoint:
        return False
    saved = checkpoint['keys'] | checkpoint['config']
    ignored = {*COMMAND, 'threads', *checkpoint.get('info', {})}    # info: what the data set fills in
    changes = []
    for name, value in options.items():
        if name in ignored or value == 'auto' or name not in saved:
            continue
        if saved[name] != value:
            changes.append(f'{name} {saved[name]!r} there, {value!r} asked')
    if changes:
        raise UserError(f'{path} is of another run: {", ".join(changes)}; delete it or give another '
                        '--out_dir')
    return checkpoint['done']


def launch(arguments, folder):
    """Run train.py with its output appended to output.txt; return its exit code.

    A signal is forwarded to train.py, which saves and ends. UserError is raised after that.
    """
    received = []

    def forward_signal(number, frame):
        received.append(number)
        process.send_signal(number)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        output = open(folder / 'output.txt', 'a', encoding='utf-8')
    except OSError as error:
        raise UserError(f'{folder} cannot be written ({error.strerror}); give another --out_dir', code=4)
    with output:
        # In a session of its own: else Ctrl-C would reach train.py twice, and the second ends it unsaved.
        process = subprocess.Popen([sys.executable, TRAIN, *arguments], start_new_session=True,
                                   stdout=output, stderr=subprocess.STDOUT)
        before = handle_signals(forward_signal)
        code = process.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    if received:
        raise UserError('stopped; the same command goes on', code=128 + received[0])
    return code


def ablate(runs, name='', columns=''):
    """Make the planned runs that are not done, then a table of all of them, those that failed included."""
    if name:
        split_page(name)        # if results/NAME.md cannot take the table, fail now rather than after hours
    rows = {}                   # variant -> (the cells that its row begins with, its runs)
    for number, planned in enumerate(runs, 1):
        cells, made = rows.setdefault(planned.variant, ({'variant': planned.variant}, []))
        print(f'[{number}/{len(runs)}] {planned.variant}, seed {planned.seed}: ', end='', flush=True)
        code = 0
        if not planned.done:
            code = launch(planned.arguments, planned.folder)
        try:
            if code not in (0, 7):      # 7: finished, but the target was missed
                raise UserError(f'failed, exit {code}')
            run = read_run(planned.folder)
            best = summarize(run)
        except UserError as error:
            print(f'{error}; see {planned.folder / "output.txt"}')
            failure = f'seed {planned.seed}: exit {code}'
            cells['failed'] = f'{cells["failed"]}, {failure}' if 'failed' in cells else failure
            continue
        made.append(run)
        already = ', already there' if planned.done else ''
        print(f'val {best["metric"]} {best["best"]:.4f} at step {best["step"]}, '
              f'{duration(best["seconds"])}{already}')
    print()
    tabulate(list(rows.values()), name, compare=True, columns=columns)


if __name__ == '__main__':
    own_options = ['help', *configurator.parse_options(__file__)]
    own = []            # arguments of this script
    common = []         # arguments of all runs
    for argument in sys.argv[1:]:
        option = argument.removeprefix('--').partition('=')[0]
        if argument.startswith('--') and option not in own_options:
            common.append(argument)
        else:
            own.append(argument)
    settings = configurator.read(__file__, own, words=True)
    globals().update(settings.options)      # the options above, as they were given
    ablate(plan(settings.files, common, seeds, out_dir), name, columns)
