"""The time limit of a run: max_minutes becomes a number of steps, once, by the speed of the first ones.

The checkpoint keeps that number, so a resumed run ends at the same step, and so does its learning rate.
"""
import math

import torch
import torch.distributed as dist

import run

CHECKS = 1, 5, 21       # steps of a process after which to look at the clock; the first may compile
ENOUGH_STEPS = 200      # with fewer a smaller model learns more
MARGIN = 0.97           # of the time is planned for: not every step takes as long as the first ones


def steps_that_fit(seconds, step, max_iters, eval_interval, step_seconds, eval_seconds):
    """Return the largest max_iters whose run ends within `seconds` after `step`: from `step` to `max_iters`.

    There is an evaluation every `eval_interval` steps and one at the end.
    """
    def cost(last):
        evaluations = math.ceil(last / eval_interval) - step // eval_interval
        return (last - step) * step_seconds + evaluations * eval_seconds

    while max_iters > step and cost(max_iters) > seconds:
        max_iters -= 1
    return max_iters


class TimeLimit:
    """The limit of `minutes` on the clock of `run`, which keeps what is decided; 0 minutes is no limit."""

    def __init__(self, minutes, run, device):
        self.minutes = minutes
        self.run = run
        self.device = device
        self.times = [run.seconds]      # when the first step of this process began, and when each one ended

    def due(self):
        """Return whether to decide now, after a step: after 20 beyond the first, or after fewer slow ones."""
        steps = len(self.times)
        if self.minutes == 0 or self.run.limit['max_iters'] or steps > CHECKS[-1]:
            return False
        self.times.append(self.run.seconds)
        quarter = self.run.limit['start'] + 15 * self.minutes       # seconds
        slow = self.run.seconds > quarter
        return steps == CHECKS[-1] or steps in CHECKS and bool(self.from_first_process(slow))

    def decide(self, step, max_iters, eval_interval, eval_seconds, end_seconds, config):
        """Decide, print and return max_iters.

        `eval_seconds`: of an evaluation and its saves; `end_seconds`: of what follows the last one.
        """
        end = self.run.limit['start'] + 60 * self.minutes
        seconds = MARGIN * (end - self.run.seconds) - end_seconds
        most = steps_that_fit(seconds, step, max_iters, eval_interval, self.step_seconds(), eval_seconds)
        most = int(self.from_first_process(most))           # one decides for all
        self.run.limit['max_iters'] = most
        self.run.log('limit', step=step, max_iters=most, step_seconds=self.step_seconds())
        if most < max_iters:
            self.run.say(f'max_minutes = {self.minutes:g}: {most:,} of {max_iters:,} steps fit, expect a '
                         f'higher loss than after all; for all: {run.command(max_minutes=0)}')
            command = smaller(config, self.run.path)
            if most < ENOUGH_STEPS and command:
                self.run.say(f'so few steps teach a smaller model more: {command}')
        return most

    def step_seconds(self):
        """Return the seconds of a step, without the first one if there are others."""
        times = self.times[1:] if len(self.times) > 2 else self.times
        return (times[-1] - times[0]) / (len(times) - 1)

    def from_first_process(self, number):
        """Return the first process's number, on every process."""
        if not dist.is_initialized():
            return number
        tensor = torch.tensor(float(number), device=self.device)
        dist.broadcast(tensor, 0)
        return tensor.item()


def smaller(config, out_dir):
    """Return the command for a model of half the depth or width; '' if its Config has no such field."""
    halves = {}
    for name in ('n_layer', 'width'):
        if getattr(config, name, 1) > 1:
            halves[name] = getattr(config, name) // 2
    return run.command(**halves, out_dir=f'{out_dir}_small') if halves else ''
