"""Clocks around the parts of train.py's step, for bench.py."""
import functools
import json
import runpy
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import torch

from configurator import ROOT
from core import machine, optim
from core.errors import UserError
from data.readers import Split

WARMUP = 3          # steps before the clocks count


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
        self.tokens = 0             # that are no padding, in all batches so far
        self.batches = 0
        self.profiler = None
        self.open = set()           # the parts that are being measured

    def measure(self, owner, name, part):
        """Replace a function of `owner` by one that adds the time of its calls to `part`."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*arguments, **keywords):
            if part in self.open:                       # a call within a call, as of Split.batch
                return function(*arguments, **keywords)
            self.open.add(part)
            start = self.now()
            result = function(*arguments, **keywords)
            self.open.remove(part)
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
                if self.profiler:
                    self.profiler.stop()
                raise Finished
            if self.profiler and self.step == max(0, self.steps + WARMUP - 3):
                self.profiler.start()
            self.last = now
            return function(*arguments)

        return counted

    def count_tokens(self, function):
        """Return Split.batch, which also counts the tokens of a step's batch that are no padding."""
        @functools.wraps(function)
        def counted(split, *arguments):
            batch = function(split, *arguments)
            if self.last is None or not torch.is_grad_enabled():        # before the first step; an evaluation
                return batch
            for values in batch.values():
                if values.dtype == torch.int64 and values.dim() == 2:       # tokens; of a stream T + 1
                    self.tokens += values.count_nonzero().item() if split.ragged else values[:, 1:].numel()
            self.batches += 1
            return batch

        return counted


def run_train(argv, clocks, model):
    """Run train.py until the clocks have counted enough steps; return the lines of its log."""
    Model = import_module(f'models.{model}').Model
    clocks.measure(Split, 'batch', 'data')
    Split.batch = clocks.count_tokens(Split.batch)
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
        except SystemExit as stop:
            if stop.code:
                raise
            raise UserError(f'the run has fewer than {clocks.steps + WARMUP} steps; give a smaller --steps')
    return [json.loads(line) for line in lines]
