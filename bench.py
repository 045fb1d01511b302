"""The speed of a config on this machine: milliseconds per step and of its parts, fraction of the peak.

    python bench.py config/train_shakespeare.py --steps=30
    python bench.py config/train_shakespeare.py --against=dtype=float32     # two settings in turns
    python bench.py config/train_shakespeare.py --profile=trace.json        # for https://ui.perfetto.dev
    python bench.py config/train_shakespeare.py --generate=100              # milliseconds per token
    python bench.py --check                                                 # is it as fast as it was?

This runs train.py itself in a temporary folder, with clocks around the parts of a step, and ends it after
`steps` steps. The device finishes its work before a clock starts or stops. The peak is what one large matrix
product reaches here, now, in the same dtype.
"""
import os
os.environ.setdefault('GOMP_SPINCOUNT', '3000')         # as train.py does

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

import configurator
import data
from configurator import ROOT
from core import machine, search
from core.checkpoint import model_config
from core.clocks import WARMUP, Clocks, run_train
from core.errors import UserError
from core.facts import peak_memory

# --- options of bench.py; all others are train.py's
steps = 20          # steps that are timed, after three that are not
record = ''         # a file like results/speed.json, to which this config's fraction of the peak is added
against = ''        # an option with another value, dtype=float32: both settings are timed in turns
rounds = 5          # of against: each times both settings once, each in a process of its own
profile = ''        # a file to which a trace of the last three steps is written
generate = 0        # tokens that a GPT writes, whose times are measured instead of a step's; 0: none
check = False       # time the configs of results/speed.json and print whose fraction of the peak has fallen
json_file = ''      # a file for all that was measured

FALLEN = 0.9        # of the fraction in results/speed.json: machines and moments differ by less


def write_record(path, config_file, config, limit, found):
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
    entry[found['dtype']] = {
        'fraction_of_peak': round(found['fraction_of_peak'], 4), 'peak': round(found['peak']),
        'step_seconds': round(found['seconds'], 5), 'threads': found['threads'],
        'memory': found['memory']}
    path.write_text(json.dumps(records, indent=1) + '\n', encoding='utf-8')


def measure(argv, steps, profile=''):
    """Return what was measured of a config: {name: number or text}; and the log of its run."""
    settings = configurator.read_train(argv)
    names = 'device', 'dtype', 'compile'
    device, dtype, _, reasons = machine.resolve(*[settings.options[name] for name in names])
    clocks = Clocks(steps, device)
    if profile:
        clocks.profiler = torch.profiler.profile()
    lines = run_train(argv, clocks, settings.options['model'])
    if profile:
        clocks.profiler.export_chrome_trace(profile)
    config = next(line for line in lines if line['event'] == 'config')
    keys = config['keys']
    seconds = statistics.median(clocks.whole[WARMUP:])
    peak = machine.peak_flops(device, getattr(torch, dtype))
    micro_batches = keys['batch_size'] // (keys['micro_batch_size'] or keys['batch_size'])
    parts = {part: statistics.median(times[WARMUP:-1]) for part, times in clocks.parts.items()}
    return {
        'seconds': seconds,
        'parts': parts,
        'first_seconds': clocks.whole[0],
        'rows_per_second': keys['batch_size'] / seconds,
        'tokens_per_second': clocks.tokens / clocks.batches * micro_batches / seconds,
        'flops': config['flops'],
        'peak': peak,
        'fraction_of_peak': config['flops'] / seconds / peak,
        'memory': peak_memory(device),
        'threads': torch.get_num_threads(),
        'dtype': dtype,
        'settings': reasons,
        'machine': config['machine'],
        'torch': torch.__version__,
    }, lines


def print_measured(found, steps):
    """Print what `measure` has returned."""
    tokens = f', {found["tokens_per_second"]:,.0f} tokens/s' if found['tokens_per_second'] else ''
    print(f'{found["seconds"] * 1e3:.1f} ms per step (median of {steps}), '
          f'{found["rows_per_second"]:,.0f} rows/s{tokens}')
    print(f'{found["threads"]} threads; {found["settings"]}')
    for part, seconds in found['parts'].items():
        print(f'  {part}: {seconds * 1e3:.2f} ms, {seconds / found["seconds"]:.1%}')
    print(f'{found["flops"] / 1e9:.1f} GFLOP per step, {found["fraction_of_peak"]:.0%} of the '
          f'{found["peak"] / 1e9:,.0f} GFLOP/s of a matrix product in {found["dtype"]}')
    print(f'first step {found["first_seconds"]:.2f} s, with compilation if there is any; peak memory '
          f'{found["memory"] / 1e9:.2f} GB')


def measure_elsewhere(argv, steps):
    """Return what `measure` returns, of a process of its own. Raises UserError if that fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'measured.json'
        command = [sys.executable, __file__, *argv, f'--steps={steps}', f'--json_file={file}']
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(*done.stderr.strip().split('\n')[-5:], code=done.returncode)
        return json.loads(file.read_text(encoding='utf-8'))


def compare(argv, change, steps, rounds):
    """Time a config and the same with one option changed, in turns; print both and the ratio of the times."""
    first, second = [], []
    for _ in range(rounds):
        first.append(measure_elsewhere(argv, steps)['seconds'])
        second.append(measure_elsewhere([*argv, f'--{change}'], steps)['seconds'])
    ratios = sorted(b / a for a, b in zip(first, second))
    print(f'as given:      {statistics.median(first) * 1e3:.1f} ms per step, median of {rounds} rounds')
    print(f'with {change}: {statistics.median(second) * 1e3:.1f} ms per step')
    print(f'ratio: {statistics.median(ratios):.3f}, from {ratios[0]:.3f} to {ratios[-1]:.3f}')


def check_record(path, steps):
    """Time the configs of a record, which is of a CPU; print their fractions of the peak, recorded and now.

    Return how many have fallen.
    """
    dtype = machine.native_dtypes('cpu')[0]
    n_fallen = 0
    for config, entry in json.loads(path.read_text(encoding='utf-8')).items():
        if dtype not in entry:
            continue
        try:
            found = measure_elsewhere([config, '--device=cpu', f'--dtype={dtype}'], steps)['fraction_of_peak']
        except UserError as error:
            print(f'{config}: not measured: {error}')
            continue
        recorded = entry[dtype]['fraction_of_peak']
        fallen = found < FALLEN * recorded
        n_fallen += fallen
        verdict = 'FALLEN' if fallen else 'as before'
        print(f'{config}: {found:.3f} of the peak in {dtype}, {recorded:.3f} recorded: {verdict}', flush=True)
    return n_fallen


def time_generation(argv, n_tokens):
    """Print the times of a token that a GPT, its weights random, writes: cached or not, one row or 32."""
    settings = configurator.read_train(argv)
    options = settings.options
    device, dtype, _, reasons = machine.resolve(options['device'], options['dtype'], False)
    machine.set_torch_flags(device, dtype, options['threads'])
    meta = data.prepare_if_missing(options['dataset'], options['prepare'])
    config = model_config(options['model'], settings.fields, meta['info'], options['dataset'])
    net = import_module(f'models.{options["model"]}').Model(config).to(device).eval()
    if net.makes != 'text':
        raise UserError(f'generate is for models that write text; {options["model"]} makes {net.makes}')
    autocast = torch.autocast(torch.device(device).type, getattr(torch, dtype), enabled=dtype != 'float32')
    print(f'{torch.get_num_threads()} threads; {reasons}')
    prompt = config.block_size // 2
    n_tokens = min(n_tokens, config.block_size - prompt)        # so that the cache is never refilled
    for batch_size in 1, 32:
        tokens = torch.randint(config.vocab_size, (batch_size, prompt), device=device)
        for write, name in (search.generate_cached, 'cached'), (search.generate, 'not cached'):
            seconds = []
            with autocast:
                steps = write(net, tokens, n_tokens, search.greedy)
                for _ in range(n_tokens):
                    machine.synchronize(device)
                    start = time.perf_counter()
                    next(steps)
                    machine.synchronize(device)
                    seconds.append(time.perf_counter() - start)
            p50, p95 = np.percentile(seconds[1:], [50, 95]) * 1e3
            print(f'{batch_size} x {n_tokens} tokens after {prompt}, {name}: '
                  f'{batch_size * n_tokens / sum(seconds):,.0f} tokens/s; first {1e3 * seconds[0]:.1f} ms, '
                  f'later {p50:.2f} ms (median), {p95:.2f} ms (95 %)')


if __name__ == '__main__':
    own_names = [*configurator.parse_options(__file__), 'help', 'h']
    own = [argument for argument in sys.argv[1:] if argument.lstrip('-').partition('=')[0] in own_names]
    rest = [argument for argument in sys.argv[1:] if argument not in own]
    globals().update(configurator.read(__file__, own).options)      # the options above, as given
    if steps < 1 or rounds < 1 or generate < 0:
        raise UserError('steps and rounds must be at least 1 and generate at least 0, got '
                        f'{steps}, {rounds}, {generate}')
    if (check or against or generate) and (record or profile or json_file):
        raise UserError('record, profile and json_file are for one measurement, not for check, against and '
                        'generate')
    if check:
        if check_record(ROOT / 'results' / 'speed.json', steps):
            raise SystemExit(7)             # a target was missed
    elif against:
        compare(rest, against, steps, rounds)
    elif generate:
        time_generation(rest, max(2, generate))
    else:
        if record:
            steps = max(steps, 20)          # the evaluation is timed after the 21st step
        found, lines = measure(rest, steps, profile)
        print_measured(found, steps)
        if json_file:
            Path(json_file).write_text(json.dumps(found), encoding='utf-8')
        if record:
            limit = next(line for line in lines if line['event'] == 'limit')
            config_file = next((argument for argument in rest if argument.endswith('.py')),
                               'config/train_stdlib.py')
            config = next(line for line in lines if line['event'] == 'config')
            write_record(record, config_file, config, limit, found)
