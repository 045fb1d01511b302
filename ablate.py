"""What each choice is worth: a config with something changed, over several seeds, as one table.

    python ablate.py config/train_shakespeare.py 'optimizer=adamw learning_rate=1e-3' 'dropout=0,0.2'
    python ablate.py config/train_shakespeare.py 'pos=none' --max_iters=500 --name=positions

Each argument after the config is a variant: the keys to change; values with commas make a grid. The config as
it stands is the baseline. Any other --key=value is for all runs. They are checked before the first one starts
and run one after another, each in its own folder, with train.py's words in output.txt. The same command goes
on where it was stopped.
"""
import itertools, re, signal, subprocess, sys
from importlib import import_module
from pathlib import Path

import configurator, plot, run
from configurator import ROOT, Refused

seeds = 3       # runs of each variant, with the seeds 1, 2, 3, ...
out_dir = ''    # the folder of the runs' folders; empty: out/ablate_NAME for config/train_NAME.py
name = ''       # keep the table as results/NAME.md and results/NAME.json
columns = ''    # further ones of the table: test.accuracy,train.rows_per_second; of train, medians

TRAIN, DEFAULT = ROOT / 'train.py', ROOT / 'config' / 'train_stdlib.py'


def expand(variant):
    """The variants of a grid: 'dropout=0,0.1 tie' is 'dropout=0 tie' and 'dropout=0.1 tie'."""
    words = [word.partition('=') for word in variant.split()]
    grid = ([key + equals + value for value in values.split(',')] for key, equals, values in words)
    return [' '.join(chosen) for chosen in itertools.product(*grid)]


def plan(files, common, seeds=3, out_dir=''):
    """The runs: [(variant, seed, folder, arguments of train.py, whether it is finished)], the baseline first.

    files: the config and the variants; common: the arguments for all. Raises Refused with the problems of
    every run that train.py would not take or whose folder holds another one."""
    configs = [file for file in files if file.endswith('.py')]
    stem = Path(configs[-1] if configs else DEFAULT).stem.removeprefix('train_')
    variants = dict.fromkeys(['', *(one for file in files if file not in configs for one in expand(file))])
    runs, problems = [], [f'seeds must be at least 1, got {seeds}'] * (seeds < 1)
    for variant, seed in itertools.product(variants, range(1, seeds + 1)):
        changes = [*common, *(f'--{word}' for word in variant.split())]
        problems += [f'{change}: every run has its own seed and folder; there are --seeds and --out_dir'
                     for change in changes if re.match('--(seed|out_dir|eval_only)(=|$)', change)]
        folder = re.sub(r'[^\w.=+-]', '_', variant or 'baseline') + f'_seed{seed}'
        folder = Path(out_dir or f'out/ablate_{stem}') / folder
        arguments = [*configs, *changes, f'--seed={seed}', f'--out_dir={folder}']
        try:
            settings = configurator.read(TRAIN, arguments, DEFAULT)
            config = import_module(f'models.{settings.knobs["model"]}').Config(**settings.fields)
            done = finished(folder, settings.knobs | vars(config) | settings.fields)
            runs.append((variant or 'baseline', seed, folder, arguments, done))
        except (Refused, ValueError) as error:
            problems += str(error).split('\n')
    if problems:
        raise Refused(*dict.fromkeys(problems))
    return runs


def finished(folder, asked):
    """Whether the run of the keys `asked` is in its folder, whole. Raises Refused if another one is: train.py
    would leave that alone if finished, else go on with it, and the table would call it what it is not."""
    checkpoint, path = run.latest(folder)
    if not checkpoint:
        return False
    there = checkpoint['keys'] | checkpoint['config']
    idle = {*run.COMMAND, 'threads', *checkpoint.get('info', ())}       # or filled from the data set
    changed = [f'{key} {there[key]!r} there, {value!r} asked' for key, value in asked.items()
               if there.get(key, value) != value and value != 'auto' and key not in idle]
    if changed:
        raise Refused(f'{path} is of another run: {", ".join(changed)}; delete it or give another --out_dir')
    return checkpoint['done']


def launch(arguments, folder):
    """The exit code of train.py, its words appended to output.txt. A signal is handed on to it, so that it
    saves and ends, and is then raised as Refused."""
    caught = []

    def hand_on(number, frame):
        caught.append(number)
        process.send_signal(number)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        output = open(folder / 'output.txt', 'a', encoding='utf-8')
    except OSError as error:
        raise Refused(f'{folder} cannot be written ({error.strerror}); give another --out_dir', code=4)
    with output:    # in a session of its own, or Ctrl-C would reach it twice and not let it save
        process = subprocess.Popen([sys.executable, TRAIN, *arguments], start_new_session=True,
                                   stdout=output, stderr=subprocess.STDOUT)
        before = [(number, signal.signal(number, hand_on)) for number in (signal.SIGINT, signal.SIGTERM)]
        code = process.wait()
    for number, handler in before:
        signal.signal(number, handler)
    if caught:
        raise Refused('stopped; the same command goes on', code=128 + caught[0])
    return code


def ablate(runs, name='', columns=''):
    """Make the planned `runs` that are not finished, then a table of all, those that failed included."""
    if name:
        plot.frame(name)        # if results/NAME.md cannot take the table, say so now rather than in hours
    rows = {}
    for number, (variant, seed, folder, arguments, done) in enumerate(runs, 1):
        cells, made = rows.setdefault(variant, ({'variant': variant}, []))
        print(f'[{number}/{len(runs)}] {variant}, seed {seed}: ', end='', flush=True)
        code = 0 if done else launch(arguments, folder)
        try:
            if code not in (0, 7):      # 7: finished, but short of its target
                raise Refused(f'failed, exit {code}')
            one = plot.read(folder)
            best = plot.summary(one)
            made.append(one)
            print(f'val {best["metric"]} {best["best"]:.4f} at step {best["step"]}, '
                  f'{run.duration(best["seconds"])}' + ', already there' * done)
        except Refused as error:
            print(f'{error}; see {folder / "output.txt"}')
            cells['failed'] = ', '.join(filter(None, [cells.get('failed'), f'seed {seed}: exit {code}']))
    print()
    plot.tabulate(list(rows.values()), name, compare=True, columns=columns)


if __name__ == '__main__':
    keys = {'help', *configurator.declared(__file__)}
    own = [a for a in sys.argv[1:] if a[:2] != '--' or a[2:].partition('=')[0] in keys]
    settings = configurator.read(__file__, own, words=True)
    globals().update(settings.knobs)
    ablate(plan(settings.files, [a for a in sys.argv[1:] if a not in own], seeds, out_dir), name, columns)
