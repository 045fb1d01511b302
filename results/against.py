"""Time the step of train.py and that of another loop in turns; for against_nanogpt.py and against_plain.py.

    ours = Ours(__file__, sys.argv[1:])         # the options: those of the script at __file__ and of train.py
    compare(ours, 'nanoGPT', their_step)        # their_step(step) updates other weights and returns the loss
"""
import contextlib
import dataclasses
import math
import statistics
import time
from importlib import import_module

import torch
from torch import nn

import configurator
import data
from configurator import ROOT
from core import machine
from core.checkpoint import model_config
from core.errors import UserError
from core.optim import make_optimizers
from data.augment import Augment
from train import seed_noise

UNTIMED = 3             # the first steps are slower


class Ours:
    """The data, the model and the optimizers of a config, as train.py makes them, and their step.

    The learning rate stays at its peak. The options ema and micro_batch_size have no effect.
    """

    def __init__(self, script, argv):
        sources = [ROOT / 'train.py', (ROOT / 'data' / 'augment.py', 'Augment')]
        settings = configurator.read(script, argv, ROOT / 'config' / 'train_stdlib.py', also=sources)
        self.options = options = settings.options
        if options['steps'] < 1:
            raise UserError(f'steps must be at least 1, got {options["steps"]}')
        asked = options['device'], options['dtype'], options['compile']
        self.device, dtype, self.compile, reasons = machine.resolve(*asked)
        machine.set_torch_flags(self.device, dtype, options['threads'])
        print(f'{reasons}, {torch.get_num_threads()} threads')
        self.autocast = torch.autocast(torch.device(self.device).type, getattr(torch, dtype),
                                       enabled=dtype != 'float32')

        meta = data.prepare_if_missing(options['dataset'], options['prepare'])
        self.config = model_config(options['model'], settings.fields, meta['info'], options['dataset'])
        self.Model = import_module(f'models.{options["model"]}').Model
        self.fields = data.fields_of(self.Model.forward, meta)
        augment = Augment(**{field.name: options[field.name] for field in dataclasses.fields(Augment)})
        self.split = data.load_split(options['dataset'], 'train', self.fields,
                                     getattr(self.config, 'block_size', 0), self.device, augment=augment)
        if not 1 <= options['batch_size'] <= len(self.split):
            raise UserError(f'batch_size must be from 1 to {len(self.split)}, the rows of train, '
                            f'got {options["batch_size"]}')

        seed_noise(options['seed'], *b'init')           # the initial weights of train.py
        self.net = self.Model(self.config).to(self.device)
        if options['channels_last']:
            self.net.to(memory_format=torch.channels_last)
        betas = options['beta1'], options['beta2']
        self.optimizers = make_optimizers(self.net, options['optimizer'], options['learning_rate'],
                                          options['weight_decay'], betas, options['momentum'], dtype,
                                          epsilon=options['epsilon'])
        if self.compile:
            self.net.compile(fullgraph=True)

    def batch(self, step):
        """Return {field: tensor} of the rows of train.py's step; a memory map reads the next ones ahead."""
        rows = self.split.rows(step, self.options['batch_size'], self.options['seed'])
        next_rows = self.split.rows(step + 1, self.options['batch_size'], self.options['seed'])
        return self.split.batch(rows, next_rows)

    def step(self, step):
        """Read the batch of a step and update the weights; return the loss."""
        batch = self.batch(step)
        with self.autocast:
            sums = self.net(**batch)
        loss = sums['loss'] / sums['count']
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.options['grad_clip'] or math.inf)
        for optimizer in self.optimizers:
            optimizer.step()
        self.net.zero_grad()
        return loss


def timed(device, step, *arguments):
    """Call `step`; return (seconds, loss). The device has no other work before and after."""
    machine.synchronize(device)
    start = time.perf_counter()
    loss = step(*arguments)
    machine.synchronize(device)
    return time.perf_counter() - start, loss.item()


def compare(ours, name, their_step, average=statistics.median, pause=contextlib.nullcontext):
    """Time ours.step and their_step in turns; print the average time of both and the losses at the end.

    pause: a context in which they do nothing in the background.
    """
    steps = ours.options['steps']
    seconds = []        # (ours, theirs) of each step
    losses = []
    for step in range(UNTIMED + steps):
        machine.tune_malloc()
        with pause():
            our_seconds, our_loss = timed(ours.device, ours.step, step)
        machine.tune_malloc(False)                      # they do without it
        their_seconds, their_loss = timed(ours.device, their_step, step)
        seconds.append((our_seconds, their_seconds))
        losses.append((our_loss, their_loss))

    our_time, their_time = [average(column) for column in zip(*seconds[UNTIMED:])]
    our_loss, their_loss = [statistics.fmean(column) for column in zip(*losses[-10:])]
    batch_size = ours.options['batch_size']
    for label, time_of_step in ('ours', our_time), (name, their_time):
        rate = batch_size / time_of_step
        print(f'{label}: {time_of_step * 1e3:.1f} ms per step ({average.__name__} of {steps}), '
              f'{rate:,.0f} rows per second')
    print(f'ratio: {their_time / our_time:.2f}')
    print(f'loss, mean of the last ten of {len(losses)} steps: ours {our_loss:.4f}, {name} {their_loss:.4f}')
