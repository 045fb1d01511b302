"""The speed of a config on this machine: milliseconds per step and part of it, rows per second, fraction of
peak.

    python bench.py config/train_shakespeare.py --steps=30
    python bench.py config/train_shakespeare.py --dtype=float32 --record=results/speed.json

This runs train.py itself in a temporary folder, with clocks around the parts of a step, and ends it after
`steps` steps. The device finishes its work before a clock starts or stops. The peak is what one large matrix
product reaches here, now, in the same dtype.
"""
import os
os.environ.setdefault('GOMP_SPINCOUNT', '3000')         # as train.py does

import functools
import json
import math
import runpy
import statistics
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import torch

import configurator
from configurator import ROOT
from core import machine, optim
from core.errors import UserError
from data.readers import Split

# --- options of bench.py; all others are train.py's
steps = 20          # steps that are timed, after three that are not
record = ''         # a file like results/speed.json, to which this config's fraction of the peak is added

# steps before the clocks count
WARMUP = 3


class Finished(Exception):
    """Ends train.py after enough steps."""


class Clocks:
    """The seconds of each part of each step."""

    def __init__(self, steps, device):
        self.steps = steps
        self.device = device
        self.step = 0
        self.last = None            # when the present step began
        self.parts = {}             # {part: [seconds of each step]}
        self.whole = []             # seconds of each step

    def measure(self, owner, name, part):
        """Replace a function of `owner` by one that adds the time of its calls to `part`."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*arguments, **keywords):
            start = self.now()
            result = function(*arguments, **keywords)
            times = self.parts.setdefault(part, [0.0] * (self.steps + WARMUP + 1))
            times[self.step] += self.now() - start
            return result

        setattr(owner, name, timed)

    def now(self):
        machine.synchronize(self.device)
        return time.perf_counter()

    def begin_step(self, function):
        """Return `function`, which train.py calls once at the start of each step, with a clock in it."""
        @functools.wraps(function)
        def counted(*arguments):
            now = self.now()
            if self.last is not None:
                self.whole.append(now - self.last)
                self.step += 1
            if self.step == self.steps + WARMUP:
                raise Finished
            self.last = now
            return function(*arguments)

        return counted


def run_train(argv, clocks, model):
    """Run train.py until the clocks have counted enough steps; return the lines of its log."""
    Model = import_module(f'models.{model}').Model
    clocks.measure(Split, 'batch', 'data')
    clocks.measure(Model, '__call__', 'forward')
    clocks.measure(torch.Tensor, 'backward', 'backward')
    clocks.measure(torch.nn.utils, 'clip_grad_norm_', 'clipping')
    for optimizer in torch.optim.AdamW, torch.optim.SGD, optim.Muon:
        clocks.measure(optimizer, 'step', 'optimizer')
    optim.lr_factor = clocks.begin_step(optim.lr_factor)
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = [str(ROOT / 'train.py'), *argv, f'--out_dir={folder}/bench', '--max_minutes=1e6']
        try:
            runpy.run_path(sys.argv[0], run_name='__main__')
        except Finished:
            lines = (Path(folder) / 'bench' / 'log.jsonl').read_text(encoding='utf-8').splitlines()
        except SystemExit:
            raise UserError(f'the run has fewer than {clocks.steps + WARMUP} steps; give a smaller --steps')
    return [json.loads(line) for line in lines]


def write_record(path, config_file, config, limit, dtype, seconds, peak):
    """Add to a JSON file what core/doctor.py needs to estimate the time of a config on another machine."""
    path = Path(path)
    records = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
    steps = config['keys']['max_iters']
    evaluations = math.ceil(steps / config['keys']['eval_interval'])
    evaluation_seconds = evaluations * limit['eval_seconds'] + limit['end_seconds']
    entry = records.setdefault(config_file, {})
    entry['steps'] = steps
    entry['evaluation_steps'] = round(evaluation_seconds / limit['step_seconds'], 1)
    entry['flops'] = config['flops']
    entry[dtype] = {'fraction_of_peak': round(config['flops'] / seconds / peak, 4), 'peak': round(peak),
                    'step_seconds': round(seconds, 5), 'threads': torch.get_num_threads()}
    path.write_text(json.dumps(records, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
    own_names = 'steps', 'record', 'help', 'h'
    own = [argument for argument in sys.argv[1:] if argument.lstrip('-').partition('=')[0] in own_names]
    rest = [argument for argument in sys.argv[1:] if argument not in own]
    options = configurator.read(__file__, own).options
    if options['steps'] < 1:
        raise UserError(f'steps must be at least 1, got {options["steps"]}')
    if options['record']:
        options['steps'] = max(options['steps'], 20)        # the evaluation is timed after the 21st step
    settings = configurator.read_train(rest)
    names = 'device', 'dtype', 'compile'
    device, dtype, _, reasons = machine.resolve(*[settings.options[name] for name in names])
    clocks = Clocks(options['steps'], device)
    lines = run_train(rest, clocks, settings.options['model'])

    config = next(line for line in lines if line['event'] == 'config')
    peak = machine.peak_flops(device, getattr(torch, dtype))
    seconds = statistics.median(clocks.whole[WARMUP:])
    rows = config['keys']['batch_size']
    print(f'{seconds * 1e3:.1f} ms per step (median of {clocks.steps}), {rows / seconds:,.0f} rows/s')
    print(f'{torch.get_num_threads()} threads; {reasons}')
    for part, times in clocks.parts.items():
        part_seconds = statistics.median(times[WARMUP:-1])
        print(f'  {part}: {part_seconds * 1e3:.2f} ms, {part_seconds / seconds:.1%}')
    flops = config['flops']
    print(f'{flops / 1e9:.1f} GFLOP per step, {flops / seconds / peak:.0%} of the {peak / 1e9:,.0f} GFLOP/s '
          f'of a matrix product in {dtype}')
    if options['record']:
        limit = next(line for line in lines if line['event'] == 'limit')
        config_file = settings.files[0] if settings.files else 'config/train_stdlib.py'
        write_record(options['record'], config_file, config, limit, dtype, seconds, peak)
