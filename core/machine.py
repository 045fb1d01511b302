"""The speed of this machine in FLOP/s, how long a config takes on it, and the doctor that prints both.

A FLOP is one floating-point multiplication or addition. A training run takes its number of FLOPs divided by
the FLOP/s that it reaches, which are a fraction of those of one large matrix product on the same machine.
results/speed.json holds that fraction for each config, as bench.py measured it.
"""
import contextlib
import copy
import json
import math
import os
import platform
import shutil
import socket
import threading
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

import configurator
import data
import run
from configurator import ROOT, Refused

SPEED = ROOT / 'results' / 'speed.json'


def synchronize(device):
    """Wait until `device` has finished the work in its queue. A CPU has none."""
    kind = torch.device(device).type
    if kind == 'cuda':
        torch.cuda.synchronize(device)
    elif kind == 'mps':
        torch.mps.synchronize()


def peak_flops(device, dtype, seconds=0.5):
    """Return the FLOP/s of one large matrix product: the fastest of those that fit into `seconds`."""
    size = 2048 if device == 'cpu' else 8192
    a = torch.randn(size, size, device=device).to(dtype)
    fastest = math.inf
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or fastest == math.inf:
        synchronize(device)
        start = time.perf_counter()
        a @ a
        synchronize(device)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * size**3 / fastest


def count_flops(net, split, micro_batches, progress):
    """Return the FLOPs of the forward and backward pass over `micro_batches`, arrays of rows of `split`.

    Two rows of each are enough: all rows are padded to the longest. They go through a copy of `net`, whose
    gradients and BatchNorm statistics stay as they are.
    """
    if not split.ragged:
        one = count_rows(net, split, micro_batches[0], progress)
        return one * len(micro_batches)
    return sum(count_rows(net, split, rows, progress) for rows in micro_batches)


def count_rows(net, split, rows, progress):
    """Return the FLOPs of the forward and backward pass over the rows of one micro-batch."""
    some = rows[-2:]                    # of rows sorted by length the longest
    counter = FlopCounterMode(display=False)
    with counter:
        sums = copy.deepcopy(net)(**split.batch(some), **progress)
        sums['loss'].backward()
    return counter.get_total_flops() * len(rows) / len(some)


def native_dtypes(kind):
    """Return the names of the dtypes that a device of this kind multiplies in hardware, the fastest first."""
    if kind == 'cuda':
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif kind == 'cpu':
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        native = False
    return ['bfloat16', 'float32'] if native else ['float32']


def estimate(record, peak, dtype):
    """Return the seconds of a training run on a machine whose matrix product reaches `peak` FLOP/s.

    `record` is the config's entry in results/speed.json, where `evaluation_steps` is the time of all
    evaluations as a number of training steps. The start of the process and the sample are left out.
    """
    steps = record['steps'] + record['evaluation_steps']
    return steps * record['flops'] / (record[dtype]['fraction_of_peak'] * peak)


def doctor(root, threads=0, verify=False):
    """Print what this machine offers, how long each config takes on it, and what to run next.

    `root` is the repository's folder. `verify` also compares the hashes of the prepared data sets.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    reached = []

    def connect():      # in a thread, because looking up a name has no time limit of its own
        with contextlib.suppress(OSError), socket.create_connection(('raw.githubusercontent.com', 443), 1):
            reached.append(True)

    probe = threading.Thread(target=connect, daemon=True)
    probe.start()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f'python    {platform.python_version()}, {platform.system()} {platform.machine()}')
    print(f'torch     {torch.__version__}, {torch.get_num_threads()} threads', *gpus, sep=', ')
    print(f'settings  {configurator.resolve()[-1]}')
    print(f'compiler  {shutil.which("c++") or "none, so no --compile=True on a CPU"}')
    free = data.free_memory(torch.device('cpu')) / 2**30
    print(f'memory    {free:.1f} GiB free' if math.isfinite(free) else 'memory    unknown')
    print(f'disk      {shutil.disk_usage(root).free / 2**30:.1f} GiB free')
    print_data_sets(root, verify)
    probe.join(1.2)
    print(f'mirror    {os.environ.get("DATA_MIRROR", "DATA_MIRROR is not set")}')
    print(f'network   {"reached" if reached else "not reached; python train.py needs none"}')
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
        except Refused as error:
            state = f'damaged: {error}'
        print(f'data      {folder.name}: {state}')


def print_speed():
    """Print the speed of a matrix product here, and an estimate of how long the configs take."""
    device = configurator.devices()[-1]
    dtypes = native_dtypes(device)
    peaks = {dtype: peak_flops(device, getattr(torch, dtype)) for dtype in dtypes}
    speeds = [f'{dtype} {peak / 1e9:,.0f} GFLOP/s' for dtype, peak in peaks.items()]
    print(f'speed     {", ".join(speeds)} (a product of two large matrices on the {device})')
    if not SPEED.exists():
        return
    records = json.loads(SPEED.read_text(encoding='utf-8'))
    print(f'configs   how long they take here, estimated, with {dtypes[0]}:')
    for config, record in records.items():
        seconds = estimate(record, peaks[dtypes[0]], dtypes[0])
        print(f'          {run.duration(seconds):>10}  python train.py {config}')
