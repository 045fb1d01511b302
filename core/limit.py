"""The time limit of a run: max_minutes becomes a number of steps, once, by the speed of the first ones.

The checkpoint keeps that number, so a resumed run ends at the same step, and so does its learning rate.
"""
import math
import time
from bisect import bisect_right

from core import processes
from core.facts import command

MEASURED_STEPS = 21     # a process knows its speed after this many steps; the first one may compile
FEW_STEPS = 200         # in a run with fewer steps a smaller model learns more
MARGIN = 0.97           # of the time is planned for: not every step takes as long as the first ones


def steps_that_fit(seconds, step, max_iters, eval_interval, step_seconds, eval_seconds):
    """Return the largest max_iters whose run ends within `seconds` after `step`: from `step` to `max_iters`.

    There is an evaluation every `eval_interval` steps, that of `step` included, and one at the end. Samples
    and checkpoints that options ask for in between are not planned for.
    """
    def cost(last):
        evaluations = math.ceil(last / eval_interval) - (step - 1) // eval_interval
        return (last - step) * step_seconds + evaluations * eval_seconds

    # The cost rises with `last`, so bisection counts the values of `last` that stay within the limit.
    return step + bisect_right(range(step + 1, max_iters + 1), seconds, key=cost)


class TimeLimit:
    """The limit of `minutes` on the clock of `run`, which keeps what is decided; 0 minutes: no limit.

    To know how long they take, it calls `evaluate(name, every)`, which evaluates each `every`-th batch of a
    split, `save()`, which saves a checkpoint, and `preview()`, which makes a sample.
    """

    def __init__(self, minutes, run, splits, batch_size, device, evaluate, save, preview):
        self.minutes = minutes
        self.run = run
        self.splits = splits
        self.batch_size = batch_size
        self.device = device
        self.evaluate = evaluate
        self.save = save
        self.preview = preview
        self.last_end = run.seconds     # when the last step ended
        self.durations = []             # of the steps of this process, in seconds

    def count_step(self):
        """Note that a step has ended. What evaluations took since the step before does not count."""
        now = self.run.seconds
        self.durations.append(now - max(self.last_end, self.run.evaluation_end))
        self.last_end = now

    def due(self):
        """Return whether to decide now: after the 21st step of this process, or sooner if it is slow."""
        steps = len(self.durations)
        if self.minutes == 0 or self.run.limit['max_iters'] or steps > MEASURED_STEPS:
            return False
        quarter = self.run.limit['start'] + 0.25 * 60 * self.minutes        # in seconds
        slow = processes.from_first(self.run.seconds > quarter, self.device)
        return steps == MEASURED_STEPS or bool(slow)

    def decide(self, step, max_iters, eval_interval, config):
        """Decide, print and return max_iters. If a signal comes meanwhile, leave that to the resumed run."""
        run = self.run
        step_seconds = self.step_seconds()
        eval_seconds, end_seconds = self.time_evaluation()
        if processes.largest(run.signal, self.device):
            return max_iters
        end = run.limit['start'] + 60 * self.minutes
        seconds = MARGIN * (end - run.seconds) - end_seconds
        most = steps_that_fit(seconds, step, max_iters, eval_interval, step_seconds, eval_seconds)
        most = int(processes.from_first(most, self.device))         # one process decides for all
        run.limit['max_iters'] = most
        run.log('limit', step, max_iters=most, step_seconds=step_seconds, eval_seconds=eval_seconds,
                end_seconds=end_seconds)
        if most < max_iters:
            run.print(f'max_minutes = {self.minutes:g}: {most:,} of {max_iters:,} steps fit, so the loss is '
                      f'higher; for all steps: {command(max_minutes=0)}')
            smaller = smaller_model(config, run.path)
            if most < FEW_STEPS and smaller:
                run.print(f'so few steps teach a smaller model more: {smaller}')
        return most

    def time_evaluation(self):
        """Return the seconds of an evaluation with its saves, and of what follows the last evaluation."""
        batches = {}
        for name, split in self.splits.items():
            batches[name] = len(split.evaluation_batches(self.batch_size))
        _, world = processes.rank_and_world()
        evaluation = 0.0
        test = 0.0
        if 'val' in batches:
            every = max(1, batches['val'] // (2 * world))           # a few batches stand for all
            evaluation = every * seconds_of(self.evaluate, 'val', every)
            test = evaluation * batches.get('test', 0) / batches['val']
        saving = seconds_of(self.save)
        return evaluation + 2 * saving, test + saving + seconds_of(self.preview)

    def step_seconds(self):
        """Return the seconds of a step, without the first one if there are others."""
        durations = self.durations[1:] or self.durations
        return sum(durations) / len(durations)


def seconds_of(function, *arguments):
    """Return how long a call takes."""
    start = time.monotonic()
    function(*arguments)
    return time.monotonic() - start


def smaller_model(config, out_dir):
    """Return the command for a model of half the depth or width; '' if its Config has no such field."""
    halves = {}
    for name in ('n_layer', 'width'):
        if getattr(config, name, 1) > 1:
            halves[name] = getattr(config, name) // 2
    return command(**halves, out_dir=f'{out_dir}_small') if halves else ''
