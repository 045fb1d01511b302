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

import numpy as np

import data
from core.errors import UserError
from data import loading
from results.against import UNTIMED, Ours, timed

# --- options of this script; all others are train.py's
steps = 40          # steps of each that are timed, after three that are not
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
        seconds = []            # (mapped, resident) of each step
        for step in range(UNTIMED + ours.options['steps']):
            pair = []
            for ours.split in mapped, resident:
                time_of_step, _ = timed(ours.device, ours.step, step)
                pair.append(time_of_step)
            seconds.append(pair)
    mapped_time, resident_time = [statistics.median(column) for column in zip(*seconds[UNTIMED:])]
    print(f'{ours.options["gigabytes"]:g} GB: memory map {mapped_time * 1e3:.2f} ms per step, in memory '
          f'{resident_time * 1e3:.2f} ms (medians of {ours.options["steps"]} in turns), ratio '
          f'{mapped_time / resident_time:.3f}')
