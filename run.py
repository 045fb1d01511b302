"""The run folder: its lock, log.jsonl, the line that tells how far it is, checkpoints, signals.

    log.jsonl   the record: config, train, eval     last.pt     to resume from; last.pt.previous: one before
    step_N.pt   kept every keep_interval steps      best.pt     the best of the monitored metric on val

A checkpoint is one file of plain tensors, numbers, strings, lists and dicts. It is written beside its place,
forced to the disk, read back, and only then takes its name: whatever is killed or full, a whole one stands.
"""
import contextlib, fcntl, functools, json, math, os, platform, resource, shlex, shutil, signal, subprocess
import sys, time, zipfile
from pathlib import Path

import numpy as np
import torch

import configurator
from configurator import ROOT, Refused

FORMAT = 1
SCHEMA = {'model': dict, 'keys': dict, 'config': dict, 'step': int}     # what every checkpoint has
MODES = 'auto', 'scratch', 'resume'                                             # of init_from; else a path
FIXED = 'model dataset prepare seed batch_size pad_to optimizer'.split()        # decide on shapes and rows
MACHINE = 'device dtype compile threads'.split()        # where another machine may have to differ
LENGTH = 'max_iters epochs max_minutes'.split()         # decide on the number of steps
COMMAND = 'out_dir init_from eval_only eval_split export target verify'.split()  # a command's, never a run's


# --- checkpoints

def inspect(path):
    """Raise ValueError unless a checkpoint's bytes are those that were written."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()             # every member's checksum
            for member in archive.infolist():
                if damaged or member.external_attr & 0x10:  # a member turned folder reads as empty, unnoticed
                    raise ValueError(f'{damaged or member.filename} is damaged')
    except (zipfile.BadZipFile, EOFError) as error:         # what is cut
        raise ValueError(str(error))


def read(path):
    """The checkpoint in a file, its tensors on the CPU. Raises Refused if it is damaged, foreign or more than
    plain data."""
    try:
        inspect(path)
        state = torch.load(path, map_location='cpu', weights_only=True)
        if state['format'] == FORMAT:
            for key, kind in SCHEMA.items():
                if not isinstance(state[key], kind):
                    raise ValueError(f'{key}: expected {kind.__name__}, found {type(state[key]).__name__}')
            state['keys']['model'], state['tokenizer']
    except Exception as error:                      # damage may show itself in any way
        reason = str(error).strip().split('\n')[0]
        raise Refused(f'{path} is not a whole checkpoint of nanozoo ({type(error).__name__}: {reason})')
    if state['format'] != FORMAT:
        raise Refused(f'{path} is of format {state["format"]}, this code reads {FORMAT}')
    return state


def write(path, state):
    """Put `state` into a file, all of it or nothing. Raises OSError, RuntimeError or ValueError, the old file
    intact."""
    path = Path(path)
    temporary, previous = path.with_name(f'{path.name}.tmp'), path.with_name(f'{path.name}.previous')
    try:
        with open(temporary, 'wb') as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        inspect(temporary)
        if path.name == 'last.pt' and path.exists():
            previous.unlink(missing_ok=True)
            try:
                os.link(path, previous)             # a second name: last.pt itself is never missing
            except OSError:                         # a file system without; `latest` then finds the previous
                os.replace(path, previous)
        os.replace(temporary, path)
        with contextlib.suppress(OSError):          # the file is whole; not every system syncs folders
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def find(path):
    """The file that `path` means: itself, or a run folder's best.pt, else its last.pt. Raises Refused."""
    path = Path(path)
    for file in (path / 'best.pt', path / 'last.pt') if path.is_dir() else (path,):
        if file.exists():
            return file
    runs = ', '.join(sorted(str(file.parent) for file in Path('out').glob('*/last.pt')))
    raise Refused(f'there is no checkpoint {path}; trained here: {runs or "nothing yet: python train.py"}')


def latest(out_dir):
    """The checkpoint to resume from and its name; (None, '') if there is none. A damaged last.pt gives way to
    the one before it, loudly. Raises Refused if both are, or if out_dir is a file."""
    out_dir, damage = Path(out_dir), []
    if out_dir.exists() and not out_dir.is_dir():
        raise Refused(f'out_dir {out_dir} is a file; give another --out_dir', code=4)
    for path in filter(Path.exists, (out_dir / 'last.pt', out_dir / 'last.pt.previous')):
        try:
            state = read(path)
        except Refused as error:
            damage.append(str(error))
            continue
        for line in damage:
            print(f'WARNING: {line}; going on from {path}, step {state["step"]}', file=sys.stderr)
        return state, path
    if damage:
        raise Refused(*damage, 'to begin anew, this run moved aside: --init_from=scratch')
    return None, ''


# --- the folder of one run

class Run:
    """The run in `settings`' out_dir, where rank 0 (`master`) alone writes. `start` is its time.monotonic().

    checkpoint: what to resume, or None; its keys fill those of `settings` that were not given. weights: a
    checkpoint whose weights alone are wanted, or None. Raises Refused if the keys given would make it another
    run, and SystemExit(0) if the run is finished.
    """

    def __init__(self, settings, start):
        knobs = settings.knobs
        named = Path([*settings.files, 'stdlib'][0]).stem.removeprefix('train_')
        knobs['out_dir'] = knobs['out_dir'] or f'out/{named}'
        self.path, self.start, self.master = Path(knobs['out_dir']), start, os.environ.get('RANK', '0') == '0'
        self.mode, self.terminal, self.complained = knobs['init_from'], sys.stdout.isatty(), False
        self.signal, self.saved = 0, time.monotonic()   # what asked to stop; when a checkpoint was written
        self.told, self.spoken = False, 0.0             # if the time left was told; when the last line was
        self.first, self.last = None, (0, start)        # (step, time) of the first and the last train line
        self.checkpoint, self.weights, name = None, None, ''
        self.limit = {'start': 0.0, 'max_iters': 0}     # from when max_minutes count; what fits, once known
        if knobs['eval_only']:
            name = find(self.path if self.mode in MODES else self.mode)
            self.checkpoint = read(name)
        elif self.mode != 'scratch':
            self.seen = self._written()
            self.checkpoint, name = latest(self.path)
            if not self.checkpoint and self.mode == 'resume':
                raise Refused(f'there is no checkpoint in {self.path} to resume')
            if not self.checkpoint and self.mode != 'auto':
                self.weights = read(find(self.mode))
        if self.checkpoint:
            changes = self._merge(settings, name)
            if not knobs['eval_only']:
                self._announce(knobs, name, changes)

    def _merge(self, settings, name):
        """Let the checkpoint's keys fill those not given; the lines about those given otherwise."""
        knobs, fields = settings.knobs, settings.fields
        now, was = knobs | fields, self.checkpoint['keys'] | self.checkpoint['config']
        given = {key: where for key, where in settings.given.items()
                 if key not in COMMAND and now[key] != 'auto'}
        changes = {key: f'{key}: {was.get(key)!r} there, {now[key]!r} given in {where}'
                   for key, where in given.items() if now[key] != was.get(key)}
        foreign = [line for key, line in changes.items()    # dropout and other floats change no shape
                   if key in FIXED or key in fields and not isinstance(fields[key], float)
                   and not knobs['eval_only']]              # where nothing is lost if what is given fits not
        if self.mode not in MODES and not knobs['eval_only'] and self.mode != was['init_from']:
            foreign.append(f'init_from: {was["init_from"]!r} there, {self.mode!r} given')
        if foreign:
            raise Refused(f'{name} is of another run:', *sorted(foreign),
                          f'to begin anew, that run moved aside: {command(init_from="scratch")}',
                          f'to keep both: {command(out_dir=f"{self.path}_2")}')
        elsewhere = was.get('device', 'cpu').split(':')[0] not in configurator.devices()
        anew = {key for key in MACHINE if elsewhere or key in settings.given}           # a given 'auto', too
        knobs |= {key: value for key, value in self.checkpoint['keys'].items()
                  if key in knobs and key not in {*given, *COMMAND, *anew}}
        settings.fields = self.checkpoint['config'] | {key: fields[key] for key in fields if key in given}
        knobs['init_from'] = was['init_from']               # how the run began; self.mode is this command's
        if all(knobs[key] == was.get(key) for key in LENGTH):
            self.limit = self.checkpoint.get('limit', self.limit)
        else:                                               # another length: its minutes count from here
            self.limit['start'] = self.checkpoint['seconds']
        lines = [*changes.values(), *[f'{was["device"]} is not here'] * elsewhere]
        if knobs['max_minutes'] and self.limit['start']:
            lines.append(f'max_minutes count from step {self.checkpoint["step"]}')
        return lines

    def _announce(self, knobs, name, changes):
        """Say what is resumed, or that there is nothing to do."""
        step, was = self.checkpoint['step'], self.checkpoint['keys']
        early = 0 < was['patience'] <= self.checkpoint['stale']
        longer = (knobs['epochs'] > was['epochs'] or early) if knobs['epochs'] else knobs['max_iters'] > step
        if self.limit['max_iters']:             # the same time limit ends it at the same step again
            longer = False
        if self.checkpoint['done'] and not (self.mode == 'resume' and longer):
            self.say(f'{self.path} is a finished run and is left alone; to train on: --init_from=resume and '
                     'a larger --max_iters or --max_minutes; to begin anew: --init_from=scratch')
            self.say(self.verdict(self.checkpoint['best'], step, self.checkpoint['seconds']))
            self.export(knobs['export'])
            raise SystemExit(0)
        self.say('; '.join([f'resuming {name} at step {step}', *changes]))

    def open(self, step, **facts):
        """Take the folder: lock it, move an old run aside if asked, cut the log back to `step`, log `facts`,
        listen to signals. Raises Refused if another process has it or it cannot be written."""
        for number in signal.SIGINT, signal.SIGTERM:
            signal.signal(number, self._signalled)
        self.last = step, time.monotonic()
        if self.checkpoint:
            self.start -= self.checkpoint['seconds']
        if not self.master:
            return
        log = self.path / 'log.jsonl'
        try:
            self._lock()
            if self.mode != 'scratch' and self.seen != self._written():
                raise Refused(f'{self.path} was written to by another process; give the command again')
            old = any(self.path.glob('*.pt')) or self.mode == 'scratch' and log.exists()
            if old and not self.checkpoint:
                aside = next(path for n in range(1, 10**6) if not (path := Path(f'{self.path}.{n}')).exists())
                os.rename(self.path, aside)
                self.say(f'the run that was in {self.path} is now in {aside}')
                self._lock()
            for leftover in self.path.glob('*.tmp'):
                leftover.unlink()
            kept, temporary = '', self.path / 'log.jsonl.tmp'
            if self.checkpoint and log.exists():
                lines = log.read_text(encoding='utf-8', errors='replace').splitlines(True)
                kept = ''.join(line for line in lines if recorded(line) <= step)
            temporary.write_text(kept, encoding='utf-8')
            os.replace(temporary, log)
        except OSError as error:
            raise Refused(f'out_dir {self.path} cannot be written: {error.strerror}; give another', code=4)
        self.log('resume' if self.checkpoint else 'config', step=step, **facts)

    def _written(self):
        """When last.pt was written: what tells whether it still is the one that was read."""
        path = self.path / 'last.pt'
        return path.stat().st_mtime_ns if path.exists() else 0

    def _lock(self):
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock = open(self.path / '.lock', 'wb')
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f'another process trains in {self.path}; wait for it or give another --out_dir')

    def _signalled(self, number, frame):
        if self.signal:
            os._exit(128 + number)
        self.signal = number

    @property
    def seconds(self):
        """Wall clock of the run so far, its parts before a resume included."""
        return time.monotonic() - self.start

    def log(self, event, **values):
        """Append a line to log.jsonl. A log that cannot be written is said once and stops nothing."""
        if not self.master:
            return
        try:
            with open(self.path / 'log.jsonl', 'a', encoding='utf-8') as file:
                file.write(strict({'event': event, **values}) + '\n')
        except OSError as error:
            if not self.complained:
                self.say(f'WARNING: {self.path}/log.jsonl cannot be written ({error.strerror}); going on')
            self.complained = True

    def progress(self, step, max_iters, batch_size, **values):
        """Log a train step; show it, live on a terminal, else every ten seconds; once tell the time left."""
        now, (last, before) = time.monotonic(), self.last
        self.last = step, now
        self.first = begun, since = self.first or self.last     # what came before it was slow: compilation
        rate = (step - last) * batch_size / max(now - before, 1e-9)
        self.log('train', step=step, **values, seconds=self.seconds, rows_per_second=rate)
        left = max(now - since, 0) / max(step - begun, 1) * (max_iters - step)
        if step - begun >= 20 and not self.told:
            self.told = True
            shorter = command(max_minutes=5) if left > 900 else ''
            self.say(f'about {duration(left)} to go' + f'; for five minutes: {shorter}' * bool(shorter))
        if self.terminal or now - self.spoken > 10:
            self.spoken = now
            self.say(f'step {step}/{max_iters}  loss {values["loss"]:.4f}  lr {values["lr"]:.2e}  '
                     f'{rate:,.0f} rows/s' + f'  {duration(left)} left' * (step > begun), live=self.terminal)

    def save(self, name, state):
        """Write a checkpoint; False, said aloud, if it could not be done. Ranks but the first do nothing."""
        self.saved = time.monotonic()
        try:
            if self.master:
                write(self.path / name, state)
            return True
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).split('\n')[0]
            self.say(f'WARNING: {self.path / name} could not be saved ({reason}); the old one is intact')
            return False

    def export(self, file):
        """Write the best weights, with config and tokenizer, into `file`, if that is not ''."""
        if file and self.master:
            try:
                write(file, read(find(self.path)) | {'optimizers': [], 'ema': []})
            except (OSError, RuntimeError, ValueError) as error:
                raise Refused(f'{file} could not be written: {error}', code=4)

    def verdict(self, best, step, seconds=None):
        """The last line of a run: its best value, when, the time, and what to do next."""
        reached = (f'best val {best["name"]} {best["value"]:.4f} at step {best["step"]}, '
                   if best and best['value'] is not None else '')
        return (f'{reached}{step} steps in {duration(seconds or self.seconds)}; '
                f'next: python sample.py --out_dir={shlex.quote(str(self.path))}')

    def say(self, line, live=False):
        """Print a line; a live one gives way to whatever is said next."""
        if not self.master or not line:
            return
        line = line[:shutil.get_terminal_size().columns - 1] if live else line
        clear = '\r\x1b[K' if self.terminal else ''
        try:
            print(clear + line, end='' if live else '\n', flush=True)
        except (OSError, ValueError):               # nobody reads on (`| head`), or the disk is full
            sys.stdout = open(os.devnull, 'w', encoding='utf-8')


# --- words and facts

def command(**changes):
    """The command that was given, with some keys otherwise; without the epochs where max_iters is one."""
    gone = {*changes, 'epochs'} if 'max_iters' in changes else changes
    kept = [a for a in sys.argv if a.lstrip('-').split('=')[0] not in gone]
    return shlex.join(['python', *kept, *(f'--{key}={value}' for key, value in changes.items())])


def recorded(line):
    """The step of a line of the log; infinity if the line is damaged."""
    try:
        return float(json.loads(line).get('step', 0)) if line.endswith('\n') else math.inf
    except (ValueError, AttributeError, TypeError):
        return math.inf


def strict(value):
    """`value` as JSON, with null for every number in it that is not finite: JSON has none for those."""
    return json.dumps(json.loads(json.dumps(value), parse_constant=lambda name: None))


def listed(metrics):
    """Metrics as words: 'loss 1.4697, perplexity 4.3479'; what is not one number is left to the log."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
    return ', '.join(f'{name} {value}' if isinstance(value, int) else f'{name} {value:.4f}'
                     for name, value in numbers.items())


def duration(seconds):
    """4 s, 1:15 min, 2:05 h."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    if minutes >= 60:
        return f'{minutes // 60}:{minutes % 60:02} h'
    return f'{minutes}:{seconds:02} min' if minutes else f'{seconds} s'


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
    """What the numbers depend on besides the keys. git: the revision of this code, + if changed since."""
    try:
        git = subprocess.run(['git', 'describe', '--always', '--exclude=*', '--dirty=+'], cwd=ROOT, timeout=5,
                             capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        git = ''
    return {'python': platform.python_version(), 'torch': str(torch.__version__), 'numpy': np.__version__,
            'git': git}
