"""Time a training step that reads from a memory map and one that reads from memory, in turns.

    python results/memory_mapped.py config/train_shakespeare_minute.py --gigabytes=2

The data set is made for it: random tokens of 2 bytes each. Before the steps its file is dropped from the
system's cache, where the user may do so.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 2)[0])          # the root of the repository

import os
os.environ.setdefault('GOMP_SPINCOUNT', '3000')         # as train.py does

import statistics
import tempfile
import time

import numpy as np

import data
from core import machine
from core.errors import UserError
from data import loading
from results.against import Ours

# --- options of this script; all others are train.py's
steps = 10          # steps of each that are timed in turns
rounds = 10         # turns; the first one is not counted
gigabytes = 2.0     # the size of the data set


def make_data(folder, gigabytes, vocab_size):
    """Write a data set of random tokens and drop it from the system's cache; return its name."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(vocab_size, size=int(gigabytes * 5e8), dtype=np.uint16)
    data.save(f'{folder}/random', {'train': {'tokens': tokens}}, {'tokens': 'stream'},
              {'vocab_size': vocab_size})
    os.sync()
    try:
        with open('/proc/sys/vm/drop_caches', 'w', encoding='utf-8') as file:
            file.write('1')
    except OSError as error:
        print(f'the data set stays in the cache of the system: {error.strerror}')
    return f'{folder}/random'


def load(ours, name, limit):
    """Return the train split of a data set, on the device if it has at most `limit` bytes, else mapped."""
    loading.RESIDENT = limit
    return data.load_split(name, 'train', ['tokens'], ours.config.block_size, ours.device)


def time_steps(ours, split, steps):
    """Return the mean seconds of the steps that read from `split`."""
    ours.split = split
    start = time.perf_counter()
    for step in steps:
        ours.step(step)
    machine.synchronize(ours.device)
    return (time.perf_counter() - start) / len(steps)


if __name__ == '__main__':
    ours = Ours(__file__, sys.argv[1:])
    if ours.options['gigabytes'] <= 0:
        raise UserError(f'gigabytes must be above 0, got {ours.options["gigabytes"]}')
    with tempfile.TemporaryDirectory() as folder:
        name = make_data(folder, ours.options['gigabytes'], ours.config.vocab_size)
        mapped = load(ours, name, limit=0)
        resident = load(ours, name, limit=1e12)
        if not resident.resident:
            raise UserError('there is too little memory for the data set', code=5)
        steps, rounds = ours.options['steps'], ours.options['rounds']
        mapped_seconds = []     # of each round
        resident_seconds = []
        for i in range(rounds + 1):
            mapped_seconds.append(time_steps(ours, mapped, range(i * steps, (i + 1) * steps)))
            resident_seconds.append(time_steps(ours, resident, range(i * steps, (i + 1) * steps)))
    ratios = [a / b for a, b in zip(mapped_seconds[1:], resident_seconds[1:])]
    mapped_time = statistics.median(mapped_seconds[1:])
    resident_time = statistics.median(resident_seconds[1:])
    print(f'{ours.options["gigabytes"]:g} GB: memory map {mapped_time * 1e3:.2f} ms per step, in memory '
          f'{resident_time * 1e3:.2f} ms')
    print(f'ratio: {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f} in {rounds} '
          f'rounds of {steps} steps')
