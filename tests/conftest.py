"""What the tests share: a toy data set, and train.py run in forks of a server that has imported torch."""
import importlib, json, multiprocessing, os, runpy, signal, socket, sys, time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]
os.environ['OMP_NUM_THREADS'] = '1'         # tiny models: more threads are slower, and ranks share two cores

import data  # noqa: E402

MEAN = [0.2, 0.4, 0.8]        # of the channels of image_data: whole numbers times 255
SERVER = multiprocessing.get_context('forkserver')
SERVER.set_forkserver_preload(['train', 'torch._dynamo', 'torch.distributed'])
TINY = ('--n_layer=2', '--n_head=2', '--n_embd=16', '--block_size=16', '--batch_size=8', '--dtype=float32',
        '--device=cpu', '--dropout=0', '--optimizer=adamw', '--learning_rate=1e-2', '--log_interval=1',
        '--eval_interval=10', '--max_iters=20')


def child(script, argv, environment, folder, output):
    """In the child: run as `python script argv`, with the output in a file."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1), os.dup2(file, 2)
    sys.stdout, sys.stderr = (open(fd, 'w', encoding='utf-8', closefd=False) for fd in (1, 2))
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [script, *argv]
    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    code = 1
    try:
        if 'PATCH' in environment:          # 'module.function': called here first, to inject a fault
            module, function = environment['PATCH'].rsplit('.', 1)
            getattr(importlib.import_module(module), function)()
        runpy.run_path(script, run_name='__main__')
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else bool(stop.code)
    except BaseException:
        try:
            sys.excepthook(*sys.exc_info())
        except SystemExit as stop:
            code = stop.code
    try:
        sys.stdout.flush(), sys.stderr.flush()
    finally:
        os._exit(code)


class Process:
    """A started script: `wait()` gives its exit code, `text` its output, `kill(number)` sends a signal."""

    def __init__(self, script, argv, environment, folder, output):
        self.output = Path(output)
        args = str(ROOT / script), list(map(str, argv)), environment, str(folder), str(output)
        self.process = SERVER.Process(target=child, args=args, daemon=True)
        self.process.start()

    def wait(self, timeout=600):
        self.process.join(timeout)
        assert self.process.exitcode is not None, f'still running after {timeout} s: {self.text}'
        return self.process.exitcode

    def kill(self, number=signal.SIGKILL):
        os.kill(self.process.pid, number)

    @property
    def text(self):
        return self.output.read_text(encoding='utf-8', errors='replace') if self.output.exists() else ''


@pytest.fixture
def start(tmp_path):
    """Return start('train.py', '--option=value', ..., ranks=2), which returns a Process, or one per rank."""
    count = iter(range(10**6))

    def start(script, *argv, ranks=0, env={}, cwd=ROOT):
        if not ranks:
            return Process(script, argv, env, cwd, tmp_path / f'output{next(count)}')
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            port = str(probe.getsockname()[1])
        shared = {**env, 'WORLD_SIZE': str(ranks), 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}
        return [Process(script, argv, {**shared, 'RANK': str(rank), 'LOCAL_RANK': str(rank)}, cwd,
                        tmp_path / f'output{next(count)}') for rank in range(ranks)]
    return start


@pytest.fixture
def launch(start):
    """Return launch('train.py', ...), which runs to the end; returns (exit code, text) of the first rank."""
    def launch(*argv, **options):
        started = start(*argv, **options)
        started = started if isinstance(started, list) else [started]
        codes = [process.wait() for process in started]
        return codes[0], ''.join(process.text for process in started)
    return launch


@pytest.fixture
def toy(tmp_path):
    """Return the path of a data set: a stream of 11 characters, each close after the one before it."""
    rng = np.random.default_rng(0)
    ids = np.cumsum(rng.integers(1, 4, 3000)) % 11
    characters = {'kind': 'characters', 'characters': '\nabcdefghij'}
    data.save(str(tmp_path / 'toy'), {'train': {'tokens': ids[:2500]}, 'val': {'tokens': ids[2500:]}},
              kinds={'tokens': 'stream'}, info={'vocab_size': 11}, tokenizer=characters)
    return str(tmp_path / 'toy')


def image_data(path, splits={'train': 40, 'val': 10, 'test': 11}, H=12, W=12, dtype=np.uint8):
    """Save a data set of noise whose masks are the first of 3 channels; return {split: {field: rows}}."""
    rng = np.random.default_rng(0)
    made = {}
    for split, n in splits.items():
        image = rng.integers(0, 256, (n, 3, H, W)).astype(dtype)
        made[split] = {'image': image, 'mask': image[:, :1], 'label': np.arange(n) % 4}
    info = {'n_class': 4, 'channels': 3, 'size': [H, W], 'mean': MEAN, 'std': [0.25] * 3}
    data.save(str(path), made, info=info)
    return made


def events(folder, event='train'):
    """Return the lines of a run's log.jsonl that record `event`."""
    text = (Path(folder) / 'log.jsonl').read_text(encoding='utf-8')
    lines = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if line['event'] == event]


def losses(folder):
    """{step: loss} of a run."""
    return {line['step']: line['loss'] for line in events(folder)}


def until(condition, timeout=600):
    """Wait for a condition to hold."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, 'waited in vain'
        time.sleep(0.005)
