"""The run folder: its lock, log.jsonl, the progress line, saving and signals."""
import contextlib
import json
import math
import os
import shutil
import sys
import time
from pathlib import Path

from core import transfer
from core.checkpoint import RUN_NEEDS, find_checkpoint, latest_checkpoint, load_checkpoint, save_checkpoint
from core.errors import UserError
from core.facts import command, duration, quote, to_json
from core.lock import lock
from core.names import run_name
from core.record import append_line, cut_log, holds_run, tidy
from core.resume import MODES, finished_code, has_steps_left, initial_weights, merge
from core.stop import exit_at_second_signal, handle_signals

SAVE_SECONDS = 600      # a run that is killed loses at most this much work


class Run:
    """The run in the `out_dir` of `settings`. Only the first process writes; the others read and keep silent.
    start: time.monotonic() at which the process began. checkpoint: what to resume, or None. Its options fill
    those of `settings` that were not given. weights: a checkpoint of which only the weights are wanted, or
    None. limit: {'start': the second of the run at which max_minutes begin to count, 'max_iters': the number
    of steps that fits, 0 until that is decided}.

    Raises UserError if the options given would make it another run, SystemExit if the run is finished.
    """

    def __init__(self, settings, start):
        options = settings.options
        if not options['out_dir']:
            options['out_dir'] = f'out/{run_name(settings.files, options, settings.given)}'
        self.path = Path(options['out_dir'])
        self.start = start
        self.is_first = os.environ.get('RANK', '0') == '0'
        self.mode = options['init_from']
        self.eval_only = options['eval_only']
        if self.mode == 'scratch' and int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)):
            self.mode = 'auto'                  # torchrun has started the processes again: go on
        self.signal = 0                         # the number of the signal that asked the run to stop
        self.last_save = time.monotonic()
        self.on_terminal = sys.stdout.isatty()
        self.last_print = 0.0
        self.warned = False                     # that log.jsonl cannot be written
        self.eta_printed = False
        self.first_log = None                   # (step, time) of the first train line: after compilation
        self.last_log = (0, start)
        self.checkpoint = None
        self.weights = None
        self.limit = {'start': 0.0, 'max_iters': 0}
        path = ''
        if self.eval_only and self.mode.startswith('hf:'):
            self.weights = initial_weights(self.mode, settings)
        elif self.eval_only:
            path = find_checkpoint(self.path if self.mode in MODES else self.mode)
            self.checkpoint = load_checkpoint(path, RUN_NEEDS)
        elif self.mode != 'scratch':
            self.mtime = self.last_mtime()
            self.checkpoint, path = latest_checkpoint(self.path)
            if self.checkpoint is None and self.mode == 'resume':
                raise UserError(f'there is no checkpoint in {self.path} to resume')
            if self.checkpoint is None and self.mode != 'auto':
                self.weights = initial_weights(self.mode, settings)
        self.resumed = path
        if self.checkpoint:
            changes, self.limit = merge(settings, self.checkpoint, path, self.mode)
            if not self.eval_only:
                self.announce(options, path, changes)

    def announce(self, options, path, changes):
        """Print what is resumed. Raises SystemExit if the run is finished."""
        step = self.checkpoint['step']
        goes_on = self.mode == 'resume' and has_steps_left(options, self.checkpoint, self.limit)
        if self.checkpoint['done'] and not goes_on:
            self.print(f'{self.path} is a finished run and is left alone; to train on: --init_from=resume '
                       'and a larger --max_iters or --max_minutes; to start again: --init_from=scratch')
            self.print(self.final_line(self.checkpoint['best'], step, self.checkpoint['seconds']))
            raise SystemExit(finished_code(options, self.checkpoint))
        self.print('; '.join([f'resuming {path} at step {step}', *changes]))

    @property
    def first_step(self):
        """The step from which this process goes on; 0 for a new run."""
        return self.checkpoint['step'] if self.checkpoint else 0

    @contextlib.contextmanager
    def clock_stopped(self):
        """Let the run's clock stand still in a `with` block."""
        before = time.monotonic()
        yield
        self.start += time.monotonic() - before

    def load_initial_weights(self, net, options, meta):
        """Load the weights that init_from names, if it names any; print what of them is not taken."""
        if self.weights:
            for line in transfer.load(net, self.weights, options, meta):
                self.print(line)
        self.weights = None             # they may be large

    # --- the folder

    def open(self, step, steps_per_epoch, facts):
        """Take the folder: lock it, move an old run aside if asked, cut the log back to `step`, log `facts`.

        From here on signals are handled. Raises UserError if another process has the folder or it cannot be
        written.
        """
        handle_signals(self.on_signal)
        exit_at_second_signal()
        self.restart_rate(step)
        self.steps_per_epoch = steps_per_epoch
        if self.checkpoint:
            self.start -= self.checkpoint['seconds']
        if not self.is_first:
            return
        try:
            self.lock()
            # The checkpoint was read before the folder was locked: has another process written since?
            if self.mode != 'scratch' and self.mtime != self.last_mtime():
                raise UserError(f'another process has written to {self.path}; give the command again')
            if not self.checkpoint and holds_run(self.path, even_without_checkpoint=self.mode == 'scratch'):
                self.move_aside()
            tidy(self.path, self.resumed)
            cut_log(self.path / 'log.jsonl', step if self.checkpoint else -1)
        except OSError as error:
            raise UserError(f'out_dir {self.path} cannot be written: {error.strerror}; give another', code=4)
        self.log('resume' if self.checkpoint else 'config', step, **facts)

    def lock(self):
        """Make the folder and lock it."""
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self.lock_file = lock(self.path, wait=False)
        except BlockingIOError:
            raise UserError(f'another process trains in {self.path}; wait for it or give another --out_dir')

    def last_mtime(self):
        """Return when last.pt was written: it tells whether it still is the one that was read."""
        path = self.path / 'last.pt'
        return path.stat().st_mtime_ns if path.exists() else 0

    def move_aside(self):
        """Rename the folder to the first free name out_dir.1, out_dir.2, ..."""
        if any(self.path.glob('*/log.jsonl')):
            raise UserError(f'{self.path} holds other runs, which would move with it; give another --out_dir')
        number = 1
        while Path(f'{self.path}.{number}').exists():
            number += 1
        os.rename(self.path, f'{self.path}.{number}')
        self.print(f'the run that was in {self.path} is now in {self.path}.{number}')
        self.lock()

    def on_signal(self, number, frame):
        """Ask the run to stop. A second signal ends the process at once."""
        if self.signal:
            os._exit(128 + number)
        self.signal = number

    # --- records

    @property
    def seconds(self):
        """The wall clock of the run so far, its parts before a resume included."""
        return time.monotonic() - self.start

    def save_due(self):
        """Return whether the last checkpoint is so old that a run that is killed would lose too much."""
        return time.monotonic() - self.last_save > SAVE_SECONDS

    def log(self, event, step, **values):
        """Append a line to log.jsonl, with epoch and seconds. Warn once if it cannot be written; go on."""
        if not self.is_first:
            return
        values = {'event': event, 'step': step, 'epoch': step / self.steps_per_epoch, **values,
                  'seconds': self.seconds}
        try:
            append_line(self.path / 'log.jsonl', to_json(values))
        except OSError as error:
            if not self.warned:
                self.print(f'WARNING: {self.path}/log.jsonl cannot be written ({error.strerror}); going on')
            self.warned = True

    def restart_rate(self, step):
        """Measure rows per second from here: what came before, an evaluation, does not count."""
        self.last_log = (step, time.monotonic())
        self.evaluation_end = self.seconds

    def log_step(self, step, max_iters, batch_size, **values):
        """Log a train step. Print it live on a terminal, else every ten seconds, and once the time left."""
        now = time.monotonic()
        last_step, last_time = self.last_log
        self.last_log = (step, now)
        if self.first_log is None:
            self.first_log = self.last_log
        first_step, first_time = self.first_log
        rate = (step - last_step) * batch_size / max(now - last_time, 1e-9)
        self.log('train', step, **values, rows_per_second=rate)
        left = (now - first_time) / max(step - first_step, 1) * (max_iters - step)
        if step - first_step >= 20 and not self.eta_printed:
            self.eta_printed = True
            shorter = f'; for five minutes: {command(max_minutes=5)}' if left > 900 else ''
            self.print(f'about {duration(left)} to go{shorter}')
        if self.on_terminal or now - self.last_print > 10:
            self.last_print = now
            eta = f'  {duration(left)} left' if step > first_step else ''
            self.print(f'step {step}/{max_iters}  loss {values["loss"]:.4f}  lr {values["lr"]:.2e}  '
                       f'{rate:,.0f} rows/s{eta}', live=self.on_terminal)

    def save(self, name, state):
        """Write a checkpoint on the first process. Print a warning and return False if that fails."""
        if name == 'last.pt':
            self.last_save = time.monotonic()
        if not self.is_first:
            return True
        try:
            save_checkpoint(self.path / name, state)
            return True
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).split('\n')[0]
            kept = '; the old one is intact' if (self.path / name).exists() else ''
            self.print(f'WARNING: {self.path / name} could not be saved ({reason}){kept}')
            return False

    def final_line(self, best, step, seconds=None):
        """Return the last line of a run: its best value, at which step, the time, and the next command."""
        reached = ''
        if best and best['value'] is not None:
            reached = f'best val {best["name"]} {best["value"]:.4f} at step {best["step"]}, '
        return (f'{reached}{step} steps in {duration(seconds or self.seconds)}; '
                f'next: python sample.py --out_dir={quote(self.path)}')

    def print(self, line, live=False):
        """Print a line, on the first process. A live one is overwritten by the next."""
        if not self.is_first or not line:
            return
        if live:
            line = line[:shutil.get_terminal_size().columns - 1]
        clear = '\r\x1b[K' if self.on_terminal else ''
        try:
            print(clear + line, end='' if live else '\n', flush=True)
        except (OSError, ValueError):           # nobody reads the output (`| head`), or the disk is full
            sys.stdout = open(os.devnull, 'w', encoding='utf-8')
