"""The run folder: its lock, log.jsonl, the line that tells how far it is, checkpoints, signals. Nothing here computes.

    last.pt     to resume from; last.pt.previous is the one before     log.jsonl   the record: config, train, eval
    best.pt     the best of the monitored metric on val                step_N.pt   kept every keep_interval steps

A checkpoint is one file of plain tensors, numbers, strings, lists and dicts. It is written beside its place, forced to the
disk, read back, and only then takes the name: whatever is killed or full, a whole one stands.
"""
import fcntl, functools, json, math, os, platform, resource, shlex, shutil, signal, subprocess, sys, time, zipfile
from pathlib import Path

import numpy as np
import torch

from configurator import ROOT, Refused

FORMAT = 1
SCHEMA = {'format': int, 'model': dict, 'keys': dict, 'config': dict, 'step': int}     # what every checkpoint has


# --- checkpoints

def inspect(path):
    """Raise an exception if a checkpoint's bytes are not those that were written: a zip's own sums see nearly every bit."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
        damaged = damaged or next((m.filename for m in archive.infolist() if m.external_attr & 0x10), None)
        if damaged:     # a member turned into a folder reads as empty, and no sum is wrong
            raise ValueError(f'{damaged} is damaged')


def read(path):
    """The checkpoint in a file, tensors on the CPU. Raises Refused if it is damaged, foreign, or not plain data."""
    try:
        inspect(path)
        state = torch.load(path, map_location='cpu', weights_only=True)
        for key, kind in SCHEMA.items():
            if not isinstance(state[key], kind):
                raise ValueError(f'{key} is {type(state[key]).__name__}, expected {kind.__name__}')
    except Exception as error:      # damage shows itself in any way at all
        reason = str(error).strip().split('\n')[0][:200]
        raise Refused(f'{path} is not a whole checkpoint of nanozoo: {type(error).__name__}: {reason}')
    if state['format'] != FORMAT:
        raise Refused(f'{path} is of format {state["format"]}, this code reads {FORMAT}')
    return state


def write(path, state):
    """Put `state` into a file, whole or not at all. Raises OSError or RuntimeError if it cannot, the old file intact."""
    path = Path(path)
    temporary = path.with_name(path.name + '.tmp')
    try:
        with open(temporary, 'wb') as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        inspect(temporary)
        if path.name == 'last.pt' and path.exists():
            previous = path.with_name('last.pt.previous')
            previous.unlink(missing_ok=True)
            os.link(path, previous)             # a second name: last.pt itself never goes missing
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def find(path):
    """The file that `path` means: itself, or a run folder's best.pt, else its last.pt. Raises Refused if there is none."""
    path = Path(path)
    if path.is_dir():
        path = path / ('best.pt' if (path / 'best.pt').exists() else 'last.pt')
    if not path.exists():
        runs = sorted(str(p.parent) for p in Path('out').glob('*/last.pt'))
        raise Refused(f'there is no checkpoint {path}', f'trained here: {", ".join(runs) or "nothing yet; python train.py"}')
    return path


def latest(out_dir):
    """(checkpoint, its name) to resume from, (None, '') if there is none. A damaged last.pt gives way to the one before."""
    if Path(out_dir).exists() and not Path(out_dir).is_dir():
        raise Refused(f'out_dir {out_dir} is a file; give another --out_dir', code=4)
    damage = None
    for name in 'last.pt', 'last.pt.previous':
        path = Path(out_dir) / name
        if path.exists():
            try:
                state = read(path)
            except Refused as error:
                print(f'WARNING: {error}', file=sys.stderr)
                damage = error
                continue
            if damage:
                print(f'WARNING: going on from {path}, step {state["step"]}', file=sys.stderr)
            return state, path
    if damage:
        raise Refused(str(damage), f'to begin anew, with {out_dir} moved aside: --init_from=scratch')
    return None, ''


# --- the folder of one run

MODES = 'auto', 'scratch', 'resume'                                             # of init_from; all else is a path
FIXED = 'model', 'dataset', 'prepare', 'seed', 'batch_size', 'pad_to', 'optimizer'      # a run's shapes and rows
COMMAND = 'out_dir', 'init_from', 'eval_only', 'eval_split', 'export', 'target'         # a command's, never a run's


class Run:
    """The run in `settings`' out_dir, whose folder only rank 0 (`master`) writes. `start` is the time.monotonic() of its begin.

    checkpoint: what to resume, or None; weights: a checkpoint whose weights alone are wanted, or None. The keys of the
    checkpoint fill those of `settings` that were not given. Raises Refused where the two cannot be one run, and ends the
    process, exit code 0, if there is nothing left to do.
    """

    def __init__(self, settings, start):
        knobs = settings.knobs
        config = [Path(f).stem.removeprefix('train_') for f in settings.files if f.endswith('.py')]
        knobs['out_dir'] = knobs['out_dir'] or os.path.join('out', config[-1] if config else 'stdlib')
        self.path, self.start, self.master = Path(knobs['out_dir']), start, os.environ.get('RANK', '0') == '0'
        self.mode, self.terminal, self.complained = knobs['init_from'], sys.stdout.isatty(), False
        self.signal, self.saved = 0, time.monotonic()       # the signal that asked to stop; when last.pt was written
        self.told, self.spoken = False, 0.0                 # whether the time left was told; when the last line was
        self.checkpoint, self.weights, name = None, None, self.path
        if knobs['eval_only']:
            name = find(self.path if self.mode in MODES else self.mode)
            self.checkpoint = read(name)
        elif self.mode != 'scratch':
            self.checkpoint, name = latest(self.path)
            if not self.checkpoint and self.mode == 'resume':
                raise Refused(f'there is no checkpoint in {self.path} to resume')
            if not self.checkpoint and self.mode != 'auto':
                self.weights = read(find(self.mode))
        if self.checkpoint:
            self._merge(settings, name)

    def _merge(self, settings, name):
        """Let the checkpoint's keys fill those not given; refuse those given otherwise that make it another run."""
        knobs, saved = settings.knobs, self.checkpoint['keys'] | self.checkpoint['config']
        given = {key: knobs[key] if key in knobs else settings.fields[key] for key in settings.given if key not in COMMAND}
        changed = {key: f'{key}: {saved.get(key)!r} there, {value!r} given in {settings.given[key]}'
                   for key, value in given.items() if value != saved.get(key) and value != 'auto'}
        foreign = [line for key, line in changed.items()        # a float, such as dropout, never changes a shape
                   if key in FIXED or key in settings.fields and not isinstance(settings.fields[key], float)]
        if self.mode not in MODES and not knobs['eval_only'] and self.checkpoint['keys']['init_from'] != self.mode:
            foreign.append(f'init_from: {self.checkpoint["keys"]["init_from"]!r} there, {self.mode!r} given')
        if foreign:
            raise Refused(f'{name} is of another run:', *(f'  {line}' for line in foreign),
                          f'begin anew, that run moved aside: {command(init_from="scratch")}',
                          f'or keep both: {command(out_dir=str(self.path) + "_2")}')
        for key, value in saved.items():
            if key in knobs and key not in COMMAND and (key not in given or knobs[key] == 'auto'):
                knobs[key] = value
            elif key not in knobs and key not in given:
                settings.fields[key] = value
        if knobs['eval_only']:
            return
        step, more = self.checkpoint['step'], knobs['max_iters'] > self.checkpoint['step']
        if self.checkpoint['done'] and not (self.mode == 'resume' and more):
            self.say(f'{self.path} is a finished run of {step} steps; nothing was done. '
                     + self.verdict(self.checkpoint['best'], step, self.checkpoint['seconds']))
            self.say('to train on: --init_from=resume with a larger --max_iters; to begin anew: --init_from=scratch')
            raise SystemExit(0)
        self.say(f'resuming {name} at step {step}' + ''.join(f'; {line}' for line in changed.values()))

    def open(self, step, **facts):
        """Take the folder: lock it, move an old run aside if asked, cut the log back to `step`, listen to signals. `facts`
        describe the run in the log. Raises Refused if another process has the folder or it cannot be written."""
        for number in signal.SIGINT, signal.SIGTERM:
            signal.signal(number, self._signalled)
        self.first = self.last = step, time.monotonic()
        if self.checkpoint:
            self.start -= self.checkpoint['seconds']
        if not self.master:
            return
        try:
            self._lock()
            if self.mode == 'scratch' and (self.path / 'log.jsonl').exists():
                number = next(n for n in range(1, 10**6) if not Path(f'{self.path}.{n}').exists())
                os.rename(self.path, f'{self.path}.{number}')
                self.say(f'the run that was in {self.path} is now in {self.path}.{number}')
                self._lock()
            for leftover in self.path.glob('*.tmp'):
                leftover.unlink()
            log = self.path / 'log.jsonl'
            old = log.read_text(encoding='utf-8').splitlines(True) if self.checkpoint and log.exists() else []
            kept = [line for line in old if line.endswith('}\n') and json.loads(line).get('step', 0) <= step]
            (self.path / 'log.jsonl.tmp').write_text(''.join(kept), encoding='utf-8')
            os.replace(self.path / 'log.jsonl.tmp', log)
        except OSError as error:
            raise Refused(f'out_dir {self.path} cannot be written ({error.strerror}); give another --out_dir', code=4)
        self.log('resume' if self.checkpoint else 'config', step=step, **facts)

    def _lock(self):
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock = open(self.path / '.lock', 'wb')
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f'another process is training in {self.path}; wait for it or give another --out_dir')

    def _signalled(self, number, frame):
        if self.signal:
            os._exit(128 + number)
        self.signal = number

    @property
    def seconds(self):
        """Wall clock of the run so far, its parts before a resume included."""
        return time.monotonic() - self.start

    @property
    def unsaved(self):
        """Seconds since a checkpoint was last written."""
        return time.monotonic() - self.saved

    def log(self, event, **values):
        """Append a line to log.jsonl. A log that cannot be written is said once and stops nothing."""
        if not self.master:
            return
        values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        try:
            with open(self.path / 'log.jsonl', 'a', encoding='utf-8') as file:
                file.write(json.dumps({'event': event, **values}) + '\n')
        except OSError as error:
            if not self.complained:
                self.say(f'WARNING: {self.path}/log.jsonl cannot be written ({error.strerror}); training goes on')
            self.complained = True

    def progress(self, step, max_iters, batch_size, **values):
        """Log a train step; tell how far the run is, live on a terminal, else every ten seconds; once, how long it takes."""
        now, (begun, since) = time.monotonic(), self.first
        rate = (step - self.last[0]) * batch_size / max(now - self.last[1], 1e-9)
        self.last = step, now
        self.log('train', step=step, **values, seconds=self.seconds, rows_per_second=rate)
        if values['skipped']:
            self.say(f'WARNING: step {step} skipped: loss {values["objective"]:.4g}, gradient norm {values["grad_norm"]:.4g}')
        left = max(now - since, 0) / max(step - begun, 1) * (max_iters - step)
        if step - begun >= 20 and not self.told:
            self.told = True
            shorter = max(int(max_iters * 300 / left), 1) if left > 900 else 0
            self.say(f'about {duration(left)} to go' + f'; for five minutes: {command(max_iters=shorter)}' * bool(shorter))
        line = (f'step {step}/{max_iters}  loss {values["loss"]:.4f}  lr {values["lr"]:.2e}  {rate:,.0f} rows/s'
                f'  {duration(left)} left')
        if self.terminal or now - self.spoken > 10:
            self.spoken = now
            self.say(line, live=self.terminal)

    def save(self, name, state):
        """Write a checkpoint; False, said aloud, if it could not be done. Ranks but the first have nothing to do."""
        self.saved = time.monotonic()
        if not self.master:
            return True
        try:
            write(self.path / name, state)
            return True
        except (OSError, RuntimeError, ValueError) as error:
            self.say(f'WARNING: {self.path / name} could not be saved ({str(error).splitlines()[0]}); the one before is intact')
            return False

    def verdict(self, best, step, seconds=None):
        """The last line of a run: its best value, when, the time, and what to do next."""
        value = f'best val {best["name"]} {best["value"]:.4f} at step {best["step"]} of {step}' if best else f'{step} steps'
        return f'{value}, {duration(seconds or self.seconds)}; next: python sample.py --out_dir={shlex.quote(str(self.path))}'

    def say(self, line, live=False):
        """Print a line; a live one gives way to whatever is said next."""
        if not self.master or not line:
            return
        try:
            width = shutil.get_terminal_size().columns - 1
            print(f'\r\x1b[K{line[:width] if live else line}' if self.terminal else line, end='' if live else '\n', flush=True)
        except (BrokenPipeError, ValueError):           # nobody reads on: `| head`
            sys.stdout = open(os.devnull, 'w', encoding='utf-8')


# --- words and facts

def command(**changes):
    """The command that was given, with some keys otherwise."""
    kept = [a for a in sys.argv if a.lstrip('-').split('=')[0] not in changes]
    return shlex.join(['python', *kept, *(f'--{key}={value}' for key, value in changes.items())])


def listed(metrics):
    """Metrics as words: 'loss 1.4697, perplexity 4.3479'; those that are not one number are left to the log."""
    return ', '.join(f'{name} {value:.4f}' for name, value in metrics.items() if isinstance(value, (int, float)))


def duration(seconds):
    """4 s, 1:15 min, 2:05 h."""
    seconds = max(0, round(seconds))
    minutes, hours = seconds // 60, seconds // 3600
    return f'{hours}:{minutes % 60:02} h' if hours else f'{minutes}:{seconds % 60:02} min' if minutes else f'{seconds} s'


def memory(device):
    """The most bytes that were in use: of the GPU, else of the process."""
    if device.startswith('cuda'):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def machine(device):
    """The device in words."""
    if device.startswith('cuda'):
        return torch.cuda.get_device_name(device)
    return f'{platform.machine()} {device}, {torch.get_num_threads()} threads'


@functools.cache
def versions():
    """What the numbers depend on besides the keys: versions, and the revision of this code ('+': changed since)."""
    def git(*words):
        try:
            return subprocess.run(['git', *words], cwd=ROOT, capture_output=True, text=True, timeout=5).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            return ''
    return {'python': platform.python_version(), 'torch': str(torch.__version__), 'numpy': np.__version__,
            'git': git('rev-parse', '--short', 'HEAD') + '+' * bool(git('status', '--porcelain', '-uno'))}
