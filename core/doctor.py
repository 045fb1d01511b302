"""The doctor: what this machine offers, which data are prepared, how long each config takes here.

    python configurator.py --verify

A training run takes its number of FLOPs divided by the FLOP/s that it reaches, which are a fraction of those
of one large matrix product on the same machine. results/speed.json holds that fraction for each config, as
bench.py measured it.
"""
import json
import math
import os
import platform
import shutil
import sys

import torch

import configurator
import data
from configurator import ROOT
from core.errors import UserError
from core.machine import devices, native_dtypes, peak_flops, resolve
from core.facts import duration

# --- options
verify = False      # also compute the sha256 of every prepared data set
threads = 0         # threads of the CPU whose speed is measured; 0: as many as torch chooses

SPEED = ROOT / 'results' / 'speed.json'


def doctor(root, threads=0, verify=False):
    """Print what this machine offers, how long each config takes on it, and what to run next.

    `root` is the repository's folder. `verify` also compares the hashes of the prepared data sets.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f'python    {platform.python_version()}, {platform.system()} {platform.machine()}')
    print(f'torch     {torch.__version__}, {torch.get_num_threads()} threads', *gpus, sep=', ')
    print(f'settings  {resolve()[-1]}')
    print(f'compiler  {shutil.which("c++") or "none, so no --compile=True on a CPU"}')
    free = data.free_memory(torch.device('cpu')) / 2**30
    print(f'memory    {free:.1f} GiB free' if math.isfinite(free) else 'memory    unknown')
    print(f'disk      {shutil.disk_usage(root).free / 2**30:.1f} GiB free')
    print_data_sets(root, verify)
    print(f'mirror    {os.environ.get("DATA_MIRROR", "DATA_MIRROR is not set")}')
    print_speed()
    print('next      python train.py')


def print_data_sets(root, verify):
    """Print which data sets are prepared; `verify` also compares their hashes."""
    files = [*root.glob('data/*/prepare.py'), *root.glob('data/*/meta.json')]
    for folder in sorted({file.parent for file in files}):
        try:
            state = 'not prepared yet'
            if folder / 'meta.json' in files:
                data.check(folder, hashes=verify)
                state = 'ready' + ', hashes verified' * verify
        except UserError as error:
            state = f'damaged: {error}'
        print(f'data      {folder.name}: {state}')


def print_speed():
    """Print the speed of a matrix product here, and an estimate of how long the configs take."""
    device = devices()[-1]
    dtypes = native_dtypes(device)
    peaks = {dtype: peak_flops(device, getattr(torch, dtype)) for dtype in dtypes}
    speeds = [f'{dtype} {peak / 1e9:,.0f} GFLOP/s' for dtype, peak in peaks.items()]
    print(f'speed     {", ".join(speeds)} (a product of two large matrices on the {device})')
    if not SPEED.exists():
        return
    records = json.loads(SPEED.read_text(encoding='utf-8'))
    print(f'configs   how long they take here, estimated, with {dtypes[0]}:')
    for config, record in records.items():
        if dtypes[0] not in record:         # not measured in this dtype
            continue
        seconds = estimate(record, peaks[dtypes[0]], dtypes[0])
        print(f'          {duration(seconds):>10}  python train.py {config}')


def estimate(record, peak, dtype):
    """Return the seconds of a training run on a machine whose matrix product reaches `peak` FLOP/s.

    `record` is the config's entry in results/speed.json, where `evaluation_steps` is the time of all
    evaluations as a number of training steps. The start of the process and the sample are left out.
    """
    steps = record['steps'] + record['evaluation_steps']
    return steps * record['flops'] / (record[dtype]['fraction_of_peak'] * peak)


if __name__ == '__main__':
    settings = configurator.read(__file__, sys.argv[1:])
    doctor(ROOT, settings.options['threads'], settings.options['verify'])
