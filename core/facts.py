"""Facts about a run and how they are printed: durations, metrics, commands, versions, memory."""
import functools
import hashlib
import json
import os
import platform
import resource
import shlex
import subprocess
import sys

import numpy as np
import torch

from configurator import ROOT


TAKEN = {}      # options of a resumed run that are in its checkpoint and not on the command line


def command(**changes):
    """Return the command that was given, with some options changed. A new max_iters replaces the epochs.

    A command that begins another run also gives what this one has from its checkpoint. Under torchrun it is a
    torchrun command: one process alone would have another micro-batch.
    """
    begins_another = 'out_dir' in changes or changes.get('init_from') == 'scratch'
    if begins_another:
        changes = TAKEN | changes
    dropped = set(changes)
    if 'max_iters' in changes:
        dropped.add('epochs')
    kept = []
    for argument in sys.argv:
        resumes = begins_another and argument == '--init_from=resume'
        if argument.lstrip('-').split('=')[0] not in dropped and not resumes:
            kept.append(argument)
    changed = [f'--{name}={value}' for name, value in changes.items()]
    launcher = ['python']
    if 'LOCAL_WORLD_SIZE' in os.environ:
        launcher = ['torchrun', f'--nproc_per_node={os.environ["LOCAL_WORLD_SIZE"]}']
    return shlex.join([*launcher, *kept, *changed])


def quote(path):
    """Return a path as it has to be typed in a shell."""
    return shlex.quote(str(path))


def to_json(value):
    """Return `value` as JSON, with null for every number that is not finite: JSON has none for those."""
    return json.dumps(json.loads(json.dumps(value), parse_constant=lambda name: None))


def metrics_of(net, total):
    """Return net.metrics(total) as plain numbers and lists."""
    metrics = {}
    for name, value in net.metrics(total).items():
        metrics[name] = value.tolist() if isinstance(value, torch.Tensor) else value
    return metrics


def format_metrics(metrics):
    """Return 'loss 1.4697, perplexity 4.3479'. What is not one number is left to the log."""
    parts = []
    for name, value in metrics.items():
        if isinstance(value, int):
            parts.append(f'{name} {value}')
        elif isinstance(value, float):
            parts.append(f'{name} {value:.4f}')
    return ', '.join(parts)


def duration(seconds):
    """Return '4 s', '1:15 min' or '2:05 h'."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    if minutes >= 60:
        return f'{minutes // 60}:{minutes % 60:02} h'
    return f'{minutes}:{seconds:02} min' if minutes else f'{seconds} s'


def peak_memory(device):
    """Return the most bytes that were in use: of the GPU, else of this process."""
    if device.startswith('cuda'):
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine_name(device):
    """Return the name of the GPU, else the processor's architecture and the number of threads."""
    if device.startswith('cuda'):
        return torch.cuda.get_device_name(device)
    return f'{platform.machine()} {device}, {torch.get_num_threads()} threads'


def code_hash():
    """Return a hash of the code that trains, which has to be the same in all processes."""
    digest = hashlib.sha256()
    digest.update((ROOT / 'train.py').read_bytes())
    for folder in 'core', 'data', 'models':
        for file in sorted((ROOT / folder).glob('*.py')):
            digest.update(file.read_bytes())
    return digest.hexdigest()


@functools.cache
def versions():
    """Return what the numbers depend on besides the options; git: the revision, + if files were changed."""
    try:
        arguments = ['git', 'describe', '--always', '--exclude=*', '--dirty=+']
        git = subprocess.run(arguments, cwd=ROOT, timeout=5, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        git = ''
    return {'python': platform.python_version(), 'torch': str(torch.__version__), 'numpy': np.__version__,
            'git': git}
