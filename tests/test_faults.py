"""Fault injection into runs of train.py: kills, signals, full disks, damaged files, NaN, dying processes.

Tests of other files inject faults too. tests/reliability.py lists all of them, runs them and counts.
"""
import errno, fcntl, functools, itertools, math, os, random, resource, shutil, signal, socket, subprocess, sys
import time
from importlib import import_module

import pytest
import tiktoken
import torch
from torch import nn

import configurator
import data
from conftest import ROOT, TINY, events, losses, until
from core import checkpoint, errors, machine, record
from core import run as run_module
from core.checkpoint import FORMAT, find_checkpoint, latest_checkpoint, load, load_checkpoint, save_checkpoint
from core.errors import UserError
from core.facts import command
from data import bpe, tokenizers
from conftest import image_data

PREPARE = '''
import sys; sys.path.insert(0, __file__.rsplit('/', 3)[0])
from pathlib import Path
import configurator, data

if __name__ == '__main__':
    configurator.read(__file__, sys.argv[1:])
    ids = [i * i % 11 for i in range(3000)]
    data.save(str(Path(__file__).parent), {'train': {'tokens': ids}, 'val': {'tokens': ids[:500]}},
              {'tokens': 'stream'}, {'vocab_size': 11}, {'kind': 'characters', 'characters': 'abcdefghijä'})
'''


@pytest.fixture
def argv(toy, tmp_path):
    """Return argv(name): the arguments of a tiny run of 20 steps into tmp_path / name."""
    return lambda name: [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path / name}']


@pytest.fixture
def whole(launch, argv, tmp_path):
    """{step: loss} of such a run to which nothing happened."""
    code, text = launch('train.py', *argv('whole'))
    assert code == 0, text
    return losses(tmp_path / 'whole')


def forwards(happen, model='gpt'):
    """For patches: from now on happen(net, call, sums) gives what a forward pass returns. `call` is its
    number in training, from 1 on (the step, if that has one micro-batch), 0 in evaluation, -1 where FLOPs are
    counted, before the first step."""
    Model, calls = import_module(f'models.{model}').Model, itertools.chain([-1], itertools.count(1))
    forward = Model.forward

    @functools.wraps(forward)           # train.py reads the names of its arguments
    def patched(self, **batch):
        return happen(self, next(calls) if self.training else 0, forward(self, **batch))
    Model.forward = patched


def same(a, b):
    """Return whether two checkpoints, or parts of them, are equal to the last bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return [*a] == [*b] and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a.dtype == b.dtype and torch.equal(a, b) if torch.is_tensor(a) else a == b


def outcome(folder):
    """Return what no interruption may change: all losses of steps and evaluations, the last checkpoint."""
    state = load_checkpoint(folder / 'last.pt')
    evaluated = [(line['step'], line['loss']) for line in events(folder, 'eval')]
    return {'train': losses(folder), 'eval': evaluated,
            **{key: state[key] for key in ('model', 'ema', 'optimizers', 'best', 'step', 'done')}}


# --- kills

def test_killed_20_times_at_random_steps_the_run_is_the_same(start, launch, argv, tmp_path, record_property):
    record_property('injected', 20)
    more = ['--max_iters=900', '--eval_interval=7', '--dropout=0.2', '--ema=0.9', '--optimizer=muon']
    log, rng = tmp_path / 'killed/log.jsonl', random.Random(1)
    for _ in range(20):
        process = start('train.py', *argv('killed'), *more)
        until(lambda: 'parameters' in process.text)     # the log has been cut back to the checkpoint
        target = log.read_text().count('"train"') + rng.randint(0, 25)
        until(lambda: log.read_text().count('"train"') >= target)
        process.kill()
        assert process.wait() == -9
    for name in 'killed', 'straight':
        code, text = launch('train.py', *argv(name), *more)
        assert code == 0, text
    assert same(outcome(tmp_path / 'killed'), outcome(tmp_path / 'straight'))


def test_killed_20_times_while_saving_there_is_a_whole_checkpoint(start, launch, argv, tmp_path,
                                                                  record_property):
    record_property('injected', 20)
    out, more = tmp_path / 'killed', ['--max_iters=200', '--eval_interval=3', '--n_embd=128']
    midway, rng = 0, random.Random(2)
    for i in range(20):
        process = start('train.py', *argv('killed'), *more)
        until(lambda: not i or 'resuming' in process.text)
        until(lambda: [*out.glob('*.pt.tmp')] and (i or (out / 'last.pt').exists()))
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        assert process.wait() == -9
        midway += bool([*out.glob('*.pt.tmp')])
        assert latest_checkpoint(out)[0]['step'] > 0
        assert load_checkpoint(out / 'best.pt')['step'] > 0
    assert midway > 2                           # the kills did come while files were written
    for name in 'killed', 'straight':
        code, text = launch('train.py', *argv(name), *more)
        assert code == 0, text
    assert same(outcome(out), outcome(tmp_path / 'straight'))
    assert sorted(path.name for path in out.iterdir()) == ['.lock', 'best.pt', 'last.pt', 'last.pt.previous',
                                                           'log.jsonl']


# --- signals

def signalled():
    """Patched into a child: in the forward pass CALL this process, of several the second, gets SIGNALS."""
    numbers = list(map(int, os.environ['SIGNALS'].split()))

    def happen(net, call, sums):
        while call == int(os.environ['CALL']) and os.environ.get('RANK') != '0' and numbers:
            os.kill(os.getpid(), numbers.pop())
        return sums
    forwards(happen)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('call, ranks, after', [
    pytest.param(1, 0, 0, id='first step'), pytest.param(0, 0, 0, id='evaluation'),
    pytest.param(0, 2, 2, id='evaluation of one rank'),
    pytest.param(12, 2, 0, id='one rank, then one process'),
    pytest.param(12, 0, 2, id='one process, then two ranks')])
def test_a_signal_saves_within_two_steps_and_the_same_command_resumes(start, launch, argv, tmp_path, whole,
                                                                      number, call, ranks, after):
    env = {'PATCH': 'test_faults.signalled', 'CALL': str(call), 'SIGNALS': str(int(number))}
    started = start('train.py', *argv('a'), ranks=ranks, env=env)
    started = started if ranks else [started]
    codes, text = {process.wait() for process in started}, started[0].text
    assert codes <= {130, 143} and 128 + number in codes and 'to go on: python' in text, text
    step = load_checkpoint(tmp_path / 'a/last.pt')['step']
    assert (call or 10) <= step <= (call or 10) + 2 and max(losses(tmp_path / 'a')) == step
    code, text = launch('train.py', *argv('a'), ranks=after)
    assert code == 0 and f'at step {step}' in text, text
    assert losses(tmp_path / 'a') == (pytest.approx(whole, abs=1e-5) if ranks or after else whole)
    assert [line['step'] for line in events(tmp_path / 'a', 'eval')] == [10, 20]


@pytest.mark.parametrize('call', [0, 5])
def test_a_second_signal_exits_at_once(launch, argv, tmp_path, call):
    env = {'PATCH': 'test_faults.signalled', 'CALL': str(call), 'SIGNALS': '15 2'}
    code, text = launch('train.py', *argv('a'), env=env)
    assert code == 143 and 'saved' not in text and 'Traceback' not in text, text
    assert not [*(tmp_path / 'a').glob('*.pt*')]
    assert max(losses(tmp_path / 'a')) == (call - 1 if call else 10)


# --- preparation

def cut_short():
    """Patched into a child: while files of a data set are put in place it gets a SIGNAL before the AT-th."""
    replace, calls = os.replace, itertools.count(1)

    def replaced(*paths):
        if next(calls) == int(os.environ['AT']):
            os.kill(os.getpid(), int(os.environ['SIGNAL']))
        replace(*paths)
    os.replace = replaced


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('at', [1, 2, 3])
def test_a_preparation_cut_short_leaves_no_data_set_and_a_second_completes_it(launch, tmp_path, number, at):
    own = tmp_path / 'own'
    own.mkdir()
    (own / 'prepare.py').write_text(PREPARE, encoding='utf-8')
    argv = [*TINY, f'--dataset={own}', f'--out_dir={tmp_path}/a', '--max_iters=1']
    env = {'PATCH': 'test_faults.cut_short', 'AT': str(at), 'SIGNAL': str(int(number))}
    for script in (['train.py', *argv], [own / 'prepare.py']):      # the second time over a whole data set
        code, text = launch(*script, env=env)
        assert code == (130 if number == signal.SIGINT else -number) and 'Traceback' not in text, text
        assert not (own / 'meta.json').exists()
        code, text = launch('train.py', *argv, '--init_from=scratch')
        assert code == 0, text
        data.check(str(own), hashes=True)
        assert not [*own.glob('*.tmp')]


# --- disks

def disk_full():
    """Patched into a child: no file may grow beyond 4 KB while a checkpoint of FULL is written."""
    write, hard = run_module.save_checkpoint, resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def limited(path, state):
        old = path.read_bytes() if path.exists() else None
        full = state['done'] if os.environ['FULL'] == 'the end' else 10 <= state['step'] <= 20
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096 if full else hard, hard))
        try:
            write(path, state)
            assert not full
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            assert not full or (path.read_bytes() if path.exists() else None) == old
            assert not [*path.parent.glob('*.tmp')]
    run_module.save_checkpoint = limited


def test_a_full_disk_costs_nothing_but_the_checkpoints_of_its_time(launch, argv, tmp_path, record_property):
    code, text = launch('train.py', *argv('a'), '--eval_interval=5', '--max_iters=30',
                        env={'PATCH': 'test_faults.disk_full', 'FULL': 'the middle'})
    failed = text.count('could not be saved')
    record_property('injected', failed)
    assert code == 0 and failed >= 3 and len(losses(tmp_path / 'a')) == 30, text
    assert load_checkpoint(tmp_path / 'a/last.pt')['done']
    assert load_checkpoint(tmp_path / 'a/best.pt')['step'] > 20


def test_only_a_failing_final_save_is_a_failure(launch, argv, tmp_path, whole):
    code, text = launch('train.py', *argv('a'), env={'PATCH': 'test_faults.disk_full', 'FULL': 'the end'})
    assert code == 4 and 'could not be saved' in text and 'Traceback' not in text, text
    state = load_checkpoint(tmp_path / 'a/last.pt')
    assert state['step'] == 20 and not state['done']
    code, text = launch('train.py', *argv('a'))
    assert code == 0 and load_checkpoint(tmp_path / 'a/last.pt')['done'], text
    assert losses(tmp_path / 'a') == whole


def log_full():
    """Patched into a child: the disk is full for the log alone."""
    opened = run_module.Run.open

    def open_and_fill(self, *args, **facts):
        opened(self, *args, **facts)
        (self.path / 'log.jsonl').unlink()
        (self.path / 'log.jsonl').symlink_to('/dev/full')
    run_module.Run.open = open_and_fill


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='this system has no /dev/full')
def test_a_log_that_cannot_be_written_is_reported_once(launch, argv, tmp_path):
    code, text = launch('train.py', *argv('a'), env={'PATCH': 'test_faults.log_full'})
    assert code == 0 and text.count('cannot be written') == 1, text
    assert load_checkpoint(tmp_path / 'a/last.pt')['done']


@pytest.mark.parametrize('place', ['/dev/null/a', '/proc/a'])
def test_a_place_that_cannot_be_written_is_an_error(launch, argv, place):
    code, text = launch('train.py', *argv('a'), f'--out_dir={place}')
    assert code == 4 and place in text and 'Traceback' not in text, text


def test_a_preparation_on_a_full_disk_ends_with_an_error_message(launch, tmp_path):
    (tmp_path / 'own').mkdir()
    (tmp_path / 'own/prepare.py').write_text(PREPARE, encoding='utf-8')
    argv = [*TINY, f'--dataset={tmp_path}/own', f'--out_dir={tmp_path}/a']
    code, text = launch('train.py', *argv, env={'PATCH': 'test_faults.tiny_files'})
    assert code == 4 and str(tmp_path / 'own') in text and 'Traceback' not in text, text
    assert not (tmp_path / 'own/meta.json').exists() and not (tmp_path / 'a').exists()
    code, text = launch('train.py', *argv)
    assert code == 0, text


def tiny_files():
    """Patched into a child: no file may grow beyond 2 KB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EROFS, errno.EFBIG])
def test_any_other_write_that_fails_is_reported_in_one_line(number, capsys):
    with pytest.raises(SystemExit) as end:
        errors.excepthook(OSError, OSError(number, os.strerror(number), 'raw/a.jpg'), None)
    assert end.value.code == 4
    assert capsys.readouterr().err == f'raw/a.jpg cannot be read or written: {os.strerror(number)}\n'


# --- bad checkpoints

def small(path, **changes):
    """Save a checkpoint of two kilobytes."""
    state = {'format': FORMAT, 'model': {'w': torch.tensor([1.0, -2.5])}, 'ema': {'w': torch.ones(1)},
             'optimizers': {'w': {'step': torch.tensor(7.0), 'exp_avg': torch.zeros(2)}}, 'lr_scales': {},
             'step': 7, 'keys': {'model': 'gpt'}, 'config': {'n_layer': 1}, 'tokenizer': None, 'done': False,
             'info': {}, 'data': {}, 'best': {}, 'seconds': 1.0}
    save_checkpoint(path, state | changes)
    return state | changes


def test_every_single_bit_that_flips_is_found_or_changes_no_value(tmp_path, record_property):
    path = tmp_path / 'small.pt'
    state, raw = small(path), path.read_bytes()
    found = 0
    with open(path, 'rb+', buffering=0) as file:
        for i, byte in itertools.product(range(8), range(len(raw))):
            os.pwrite(file.fileno(), bytes([raw[byte] ^ 1 << i]), byte)
            try:
                assert same(load_checkpoint(path), state), f'bit {i} of byte {byte}'
            except UserError as error:
                assert str(path) in str(error)
                found += 1
            os.pwrite(file.fileno(), raw[byte:byte + 1], byte)
    record_property('injected', 8 * len(raw))
    assert same(load_checkpoint(path), state) and found > 4 * len(raw)


def test_every_cut_is_found_in_a_checkpoint(tmp_path, record_property):
    path = tmp_path / 'small.pt'
    small(path)
    raw = path.read_bytes()
    record_property('injected', len(raw))
    for size in range(len(raw)):
        path.write_bytes(raw[:size])
        with pytest.raises(UserError, match='small.pt is not a whole checkpoint'):
            load_checkpoint(path)


@pytest.mark.parametrize('size', [0, 999])
def test_what_the_disk_lost_is_found_on_reading_back(tmp_path, monkeypatch, size):
    state = small(tmp_path / 'last.pt')
    monkeypatch.setattr(os, 'fsync', lambda file: os.ftruncate(file, size))
    with pytest.raises(ValueError):             # of which a run says that it could not save, and goes on
        small(tmp_path / 'last.pt', step=8)
    assert same(load_checkpoint(tmp_path / 'last.pt'), state) and os.listdir(tmp_path) == ['last.pt']


@pytest.mark.parametrize('line', ['7', '{"step": "x"}', '{"step": null}', '{"step": 3', '[]', '\ufffd'])
def test_a_line_of_the_log_that_is_damaged_is_of_no_step(line):
    assert record.logged_step(f'{line}\n') == math.inf
    assert record.logged_step('{"step": 3}') == math.inf
    assert record.logged_step('{"step": 3}\n') == 3 and record.logged_step('{"event": "done"}\n') == 0


def test_damage_of_both_last_checkpoints_is_reported_and_nothing_is_touched(launch, argv, tmp_path):
    assert launch('train.py', *argv('a'))[0] == 0
    for name in 'last.pt', 'last.pt.previous':
        os.truncate(tmp_path / 'a' / name, 999)
    before = {path: path.read_bytes() for path in (tmp_path / 'a').iterdir()}
    code, text = launch('train.py', *argv('a'))
    assert code == 2 and 'last.pt ' in text and 'last.pt.previous ' in text and '=scratch' in text, text
    assert {path: path.read_bytes() for path in (tmp_path / 'a').iterdir()} == before


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


@pytest.mark.parametrize('modern', [True, False])
def test_a_hostile_checkpoint_is_an_error_and_executes_nothing(launch, argv, tmp_path, modern):
    (tmp_path / 'a').mkdir()
    path, touched = tmp_path / 'a/last.pt', tmp_path / 'touched'
    torch.save({'format': FORMAT, 'model': Hostile(touched)}, path,
               _use_new_zipfile_serialization=modern)
    for command in (['train.py', *argv('a')], ['train.py', *argv('b'), f'--init_from={path}'],
                    ['sample.py', f'--out_dir={path}']):
        code, text = launch(*command)
        assert code == 2 and 'last.pt is not a whole checkpoint' in text and 'Traceback' not in text, text
    assert not touched.exists()
    torch.load(path, weights_only=False)
    assert touched.exists()             # it was a danger


def test_moved_data_are_recognised_by_their_hashes(launch, toy, argv, tmp_path):
    assert launch('train.py', *argv('a'))[0] == 0
    (tmp_path / 'elsewhere').mkdir()
    os.rename(toy, tmp_path / 'elsewhere/renamed')
    more = [f'--out_dir={tmp_path}/a', '--init_from=resume', '--max_iters=30']
    code, text = launch('train.py', *more)
    assert code == 3 and 'which is not there\nif it was moved: python ' in text, text
    assert text.endswith(' --dataset=FOLDER\n') and 'Traceback' not in text
    code, text = launch('train.py', *more, f'--dataset={tmp_path}/elsewhere/renamed')
    assert code == 0 and max(losses(tmp_path / 'a')) == 30 and 'renamed' in text, text
    assert load_checkpoint(tmp_path / 'a/last.pt')['keys']['dataset'].endswith('renamed')
    other = {'train': {'tokens': [3, 4] * 500}, 'val': {'tokens': [3, 4] * 50}}
    data.save(f'{tmp_path}/other', other, {'tokens': 'stream'}, {'vocab_size': 11})
    code, text = launch('train.py', *more, f'--dataset={tmp_path}/other')
    assert code == 2 and 'is of another run' in text, text


def test_a_checkpoint_of_other_data_or_shapes_is_an_error_with_what_differs(launch, toy, argv, tmp_path):
    assert launch('train.py', *argv('a'))[0] == 0
    other = {'train': {'tokens': [3, 12] * 500}, 'val': {'tokens': [3, 12] * 50}}
    data.save(toy, other, {'tokens': 'stream'}, {'vocab_size': 13})
    code, text = launch('train.py', *argv('a'), '--init_from=resume', '--max_iters=30')
    assert code == 3 and 'is not what' in text and text.endswith('--init_from=scratch\n'), text
    state = load_checkpoint(tmp_path / 'a/best.pt')
    state['config']['n_embd'] = 32
    save_checkpoint(tmp_path / 'x.pt', state)
    code, text = launch('sample.py', f'--out_dir={tmp_path}/x.pt')
    assert code == 2 and 'embed.weight: the model has (11, 32), the checkpoint (11, 16)' in text, text


def test_weights_of_another_model_are_an_error_with_both_lists(launch, argv, tmp_path):
    image_data(tmp_path / 'images')
    assert launch('train.py', *argv('a'))[0] == 0
    code, text = launch('train.py', '--model=cnn', '--width=4', '--batch_size=8', '--device=cpu',
                        f'--dataset={tmp_path}/images', f'--init_from={tmp_path}/a',
                        f'--out_dir={tmp_path}/b')
    assert code == 2 and 'embed.weight: the model has none, the checkpoint (11, 16)' in text, text
    assert 'groups.0.conv1.weight: the model has (4, 24, 3, 3), the checkpoint none' in text, text
    assert not (tmp_path / 'b').exists()


def test_a_checkpoint_of_every_format_is_read_or_ends_with_an_error_message(launch, tmp_path):
    path = ROOT / 'tests/format_1.pt'           # what this format was; a new one needs a file of its own
    code, text = launch('sample.py', f'--out_dir={path}', '--start=ab', '--max_new_tokens=10')
    assert code == 0 and FORMAT == 1 or code == 2 and 'format 1' in text, text
    small(tmp_path / 'x.pt', format=0)
    code, text = launch('sample.py', f'--out_dir={tmp_path}/x.pt')
    assert code == 2 and 'has format 0, this code reads' in text, text


def dynamo_alone():
    """Patched into a child: torch.compile traces, and has nothing to wait for."""
    compiled = nn.Module.compile
    nn.Module.compile = lambda net, **options: compiled(net, **options, backend='eager')


def test_a_checkpoint_saved_under_compile_resumes_without_and_back(launch, argv, tmp_path):
    found, env = {}, {'PATCH': 'test_faults.dynamo_alone'}
    for name, first in ('a', True), ('b', False):
        more = ['--schedule=constant', '--warmup_fraction=0']
        code, text = launch('train.py', *argv(name), *more, '--max_iters=10', f'--compile={first}', env=env)
        assert code == 0 and 'failed' not in text, text
        keys = [*load_checkpoint(tmp_path / name / 'last.pt')['model']]
        code, text = launch('train.py', *argv(name), f'--compile={not first}', '--init_from=resume', env=env)
        assert code == 0 and 'failed' not in text, text
        assert [*load_checkpoint(tmp_path / name / 'last.pt')['model']] == keys
        assert keys[0].startswith('embed')
        found[name] = losses(tmp_path / name)
    assert len(found['a']) == 20 and found['a'] == pytest.approx(found['b'], abs=1e-4)


# --- bad numbers

def not_finite():
    """Patched into a child: PLACE, the loss or one gradient, is VALUE in step 3 or from there on."""
    value = float(os.environ['VALUE'])

    def happen(net, call, sums):
        bad = call == 3 or call > 3 and os.environ['LASTS'] == 'True'
        if bad and os.environ['PLACE'] == 'loss':
            return sums | {'loss': sums['loss'] * value}
        if bad:
            bias = net.head.weight
            hook = bias.register_hook(lambda gradient: hook.remove() or gradient + value)
        return sums
    forwards(happen, os.environ['MODEL'])


def trained(state):
    """Return what a step changes: weights and buffers, their moving average, the optimizer states."""
    return state['model'], state['ema'], state['optimizers']


@pytest.mark.parametrize('place, value', [('loss', math.nan), ('gradient', math.inf)])
@pytest.mark.parametrize('model, dtype', [('gpt', 'float32'), ('cnn', 'float32'), ('gpt', 'float16')])
def test_a_step_that_is_not_finite_leaves_no_trace(launch, argv, tmp_path, place, value, model, dtype):
    more = [f'--dtype={dtype}', '--optimizer=muon', '--keep_interval=1', '--ema=0.9', '--max_iters=5']
    if model == 'cnn':
        image_data(tmp_path / 'images')
        more += ['--model=cnn', '--width=4', f'--dataset={tmp_path}/images']
    command = [a for a in argv('a') if model == 'gpt' or not a.startswith(('--n_', '--block', '--dropout'))]
    env = {'PATCH': 'test_faults.not_finite', 'MODEL': model, 'PLACE': place, 'VALUE': str(value),
           'LASTS': 'False'}
    code, text = launch('train.py', *command, *more, env=env)
    assert code == 0, text
    assert [line['step'] for line in events(tmp_path / 'a') if line['skipped']] == [3]
    two, three, four = (load_checkpoint(tmp_path / f'a/step_{n}.pt') for n in (2, 3, 4))
    assert same(trained(two), trained(three)) and not same(trained(three), trained(four))
    assert two['optimizers'] and three['step'] == 3
    assert three['scale'] == two['scale'] * (0.5 if dtype == 'float16' else 1)


def test_an_average_of_weights_has_batch_norms_of_its_own(launch, argv, tmp_path):
    image_data(tmp_path / 'images')
    command = [a for a in argv('a') if not a.startswith(('--n_', '--block', '--dropout'))]
    more = ['--model=cnn', '--width=4', f'--dataset={tmp_path}/images', '--ema=0.9', '--max_iters=5']
    code, text = launch('train.py', *command, *more)
    assert code == 0, text
    best, last = (load_checkpoint(tmp_path / f'a/{name}.pt') for name in ('best', 'last'))
    for name in 'head.weight', 'norm.running_mean', 'groups.1.norm2.running_var':
        average, now = best['model'][name], last['model'][name]
        assert not torch.equal(average, now)
        assert torch.equal(average, last['ema'][name])


def test_without_an_end_it_is_exit_6_and_the_last_good_checkpoint_stays(launch, argv, tmp_path):
    for dtype, last in ('float32', 12), ('float16', 21):        # a scale of 512 is halved 19 times to 1e-3
        env = {'PATCH': 'test_faults.not_finite', 'MODEL': 'gpt', 'PLACE': 'gradient', 'VALUE': 'inf',
               'LASTS': 'True'}
        code, text = launch('train.py', *argv(dtype), f'--dtype={dtype}', '--eval_interval=2',
                            '--max_iters=30', env=env)
        assert code == 6 and 'diverged' in text and '--learning_rate' in text, text
        assert max(losses(tmp_path / dtype)) == last
        state, path = latest_checkpoint(tmp_path / dtype)
        assert all(weights.isfinite().all() for weights in state['model'].values())
        assert load_checkpoint(tmp_path / dtype / 'best.pt')['step'] == 2
    launch('train.py', *argv('two'), '--eval_interval=2', '--max_iters=30', '--keep_interval=2')
    saved, expected = (load_checkpoint(tmp_path / name) for name in ('float32/last.pt', 'two/step_2.pt'))
    assert same(trained(saved), trained(expected))


def spike():
    """Patched into a child: the loss of step 3 is a million times as large."""
    forwards(lambda net, call, sums: sums | {'loss': sums['loss'] * (1e6 if call == 3 else 1)})


def test_a_gradient_a_million_times_as_large_moves_the_weights_no_further(launch, argv, tmp_path):
    more = ['--optimizer=sgd', '--momentum=0', '--weight_decay=0', '--grad_clip=0.01', '--learning_rate=0.5',
            '--schedule=constant', '--warmup_fraction=0', '--keep_interval=1', '--max_iters=4']
    code, text = launch('train.py', *argv('a'), *more, env={'PATCH': 'test_faults.spike'})
    assert code == 0, text
    before, during, after = (load_checkpoint(tmp_path / f'a/step_{n}.pt')['model'] for n in (2, 3, 4))
    moved = [math.sqrt(sum((b[name] - a[name]).square().sum() for name in a).item())
             for a, b in ((before, during), (during, after))]
    assert moved == pytest.approx([0.5 * 0.01] * 2, rel=1e-2)       # the rate times the clip
    norms = [line['grad_norm'] for line in events(tmp_path / 'a')]
    assert norms[2] > 1e5 * max(norms[0], norms[1], norms[3])


# --- memory

def memory_full():
    """Patched into a child: step 15 does not fit, as a GPU, torch's allocator or Python itself says it."""
    error = {'cuda': torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.'),
             'cpu': RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
             'python': MemoryError()}[os.environ['WHOSE']]

    def happen(net, call, sums):
        if call == 15:
            raise error
        return sums
    forwards(happen)


@pytest.mark.parametrize('whose', ['cuda', 'cpu', 'python'])
def test_out_of_memory_names_an_option_that_lets_the_run_go_on(launch, argv, tmp_path, whole, whose):
    code, text = launch('train.py', *argv('a'), env={'PATCH': 'test_faults.memory_full', 'WHOSE': whose})
    assert code == 5 and 'out of memory with 8 rows' in text and 'Traceback' not in text, text
    assert load_checkpoint(tmp_path / 'a/last.pt')['step'] == 10, text
    advice = text.split()[-1]
    assert advice == '--micro_batch_size=4'
    code, text = launch('train.py', *argv('a'), advice)
    assert code == 0 and losses(tmp_path / 'a') == pytest.approx(whole, abs=1e-5), text


def test_out_of_memory_outside_of_training_names_no_option(capsys):
    with pytest.raises(SystemExit) as end:
        try:
            raise MemoryError('Unable to allocate 9 TiB')
        except MemoryError as error:
            errors.excepthook(MemoryError, error, error.__traceback__)
    said = capsys.readouterr().err
    assert end.value.code == 5 and 'out of memory: Unable' in said and '--' not in said


# --- several processes

def test_of_two_runs_in_one_folder_one_is_an_error_and_a_killed_one_leaves_no_lock(start, argv, tmp_path):
    both = [start('train.py', *argv('a'), '--max_iters=100000') for _ in range(2)]
    until(lambda: any(one.process.exitcode is not None for one in both))
    second, first = sorted(both, key=lambda one: one.process.exitcode is None)
    assert second.wait() == 2 and 'another process trains in' in second.text, second.text
    until(lambda: 'to go' in first.text and (tmp_path / 'a/last.pt').exists())
    first.kill()
    assert first.wait() == -9
    third = start('train.py', *argv('a'), '--max_iters=100000')
    until(lambda: 'to go' in third.text)
    third.kill(signal.SIGTERM)
    assert third.wait() == 143 and 'resuming' in third.text, third.text
    assert not (tmp_path / 'a.1').exists()


def too_late():
    """Patched into a child: it opens its run only when another has finished there."""
    opened = run_module.Run.open

    def patient(self, *args, **facts):
        until(lambda: (self.path / 'last.pt').exists() and load_checkpoint(self.path / 'last.pt')['done'])
        with open(self.path / '.lock', 'rb') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)    # wait until the other process has ended
        opened(self, *args, **facts)
    run_module.Run.open = patient


def test_a_run_that_finishes_meanwhile_is_left_alone(start, launch, argv, tmp_path):
    late = start('train.py', *argv('a'), env={'PATCH': 'test_faults.too_late'})
    code, text = launch('train.py', *argv('a'))
    assert code == 0, text
    assert late.wait() == 2 and 'give the command again' in late.text, late.text
    assert not (tmp_path / 'a.1').exists() and load_checkpoint(tmp_path / 'a/last.pt')['done']


@pytest.mark.parametrize('victim', [0, 1])
def test_if_a_rank_dies_the_other_ends_soon_and_the_checkpoint_is_whole(start, argv, tmp_path, victim):
    both = start('train.py', *argv('a'), '--max_iters=100000', ranks=2)
    until(lambda: 'to go' in both[0].text and (tmp_path / 'a/last.pt').exists())
    both[victim].kill()
    assert both[victim].wait() == -9
    assert both[1 - victim].wait() not in (0, None)
    assert latest_checkpoint(tmp_path / 'a')[0]['step'] >= 10
    assert latest_checkpoint(tmp_path / 'a')[1].name == 'last.pt'


DYING = '''
import os, runpy, sys
sys.path[:0] = [{root!r}, {tests!r}]
import test_faults

def happen(net, call, sums):
    if call == 15 and os.environ['RANK'] == '1' and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':
        os.kill(os.getpid(), 9)
    return sums

test_faults.forwards(happen)
sys.argv[0] = {script!r}
runpy.run_path(sys.argv[0], run_name='__main__')
'''


def test_torchrun_starts_it_again_and_it_ends_at_the_same_loss(start, argv, tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as probe:
        port = probe.getsockname()[1]
    (tmp_path / 'dying.py').write_text(DYING.format(root=str(ROOT), tests=str(ROOT / 'tests'),
                                                    script=str(ROOT / 'train.py')), encoding='utf-8')
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', f'--master_port={port}']
    done = subprocess.run([*torchrun, '--max-restarts=1', tmp_path / 'dying.py', *argv('a')], timeout=600,
                          capture_output=True, text=True)
    assert done.returncode == 0 and 'at step 10' in done.stdout, done.stderr
    straight = start('train.py', *argv('straight'), ranks=2)
    assert [process.wait() for process in straight] == [0, 0]
    assert same(outcome(tmp_path / 'a'), outcome(tmp_path / 'straight'))


def dissenting():
    """Patched into a child: the second of two processes was given something else."""
    if os.environ['RANK'] == '1':
        sys.argv.append(os.environ['GIVEN'])


def test_ranks_that_disagree_are_an_error_before_anything_is_written(start, toy, argv, tmp_path):
    shutil.copytree(toy, tmp_path / 'theirs/toy')
    data.save(str(tmp_path / 'theirs/toy'), {name: {'tokens': [1, 2] * 500} for name in ('train', 'val')},
              {'tokens': 'stream'}, {'vocab_size': 11})
    for given, named in (('--learning_rate=1e-3', 'learning_rate'), ('--n_layer=3', 'n_layer'),
                         (f'--dataset={tmp_path}/theirs/toy', 'train.tokens'),
                         ('--batch_size=9', 'no multiple')):
        env = {'PATCH': 'test_faults.dissenting', 'GIVEN': given}
        more = [given] * (named == 'no multiple')
        both = start('train.py', *argv('a'), *more, ranks=2, env=env)
        assert [process.wait() for process in both] == [2, 2], both[0].text
        for process in both:
            assert named in process.text and 'Traceback' not in process.text, process.text
        assert not (tmp_path / 'a').exists()


# --- the compiler

def compiler_fails():
    """Patched into a child: torch.compile fails in the forward pass CALL, with much already done."""
    def compile(net, **options):
        calls = itertools.count(1)

        def compiled(**batch):
            sums = net._call_impl(**batch)
            if next(calls) == int(os.environ['CALL']) and os.environ.get('RANK') != '1':
                if 'RANK' not in os.environ:
                    sums['loss'].backward()
                raise torch._dynamo.exc.InternalTorchDynamoError('no kernel for you')
            return sums
        net._compiled_call_impl = compiled
    nn.Module.compile = compile


@pytest.mark.parametrize('call, ranks', [(1, 0), (13, 0), (13, 2)])
def test_a_compiler_that_fails_ends_the_run_with_its_message(launch, argv, tmp_path, call, ranks):
    code, text = launch('train.py', *argv('a'), '--compile=True', ranks=ranks,
                        env={'PATCH': 'test_faults.compiler_fails', 'CALL': str(call)})
    assert code == 2 and 'torch.compile failed: no kernel for you' in text, text
    assert 'train without it: --compile=False' in text, text


def no_compiler():
    """Patched into a child: there is no C++ compiler."""
    import torch._inductor.config
    torch._inductor.config.cpp.cxx = ('/no/such/compiler',)


def test_without_a_compiler_the_run_names_the_way_out(launch, argv, tmp_path, whole):
    code, text = launch('train.py', *argv('a'), '--compile=True',
                        env={'PATCH': 'test_faults.no_compiler', 'TORCHINDUCTOR_CACHE_DIR': f'{tmp_path}/no'})
    assert code == 2 and '--compile=False' in text and 'Traceback' not in text, text
    code, text = launch('train.py', *argv('a'), '--compile=False')
    assert code == 0 and losses(tmp_path / 'a') == whole, text


# --- places, pipes and clocks

def test_output_that_nobody_reads_does_not_stop_a_run(argv, tmp_path):
    """python train.py ... | head -1, and into a full disk; with an interpreter's own start and end."""
    command = [sys.executable, ROOT / 'train.py']
    pipe = subprocess.PIPE
    process = subprocess.Popen([*command, *argv('a')], stdout=pipe, stderr=pipe, text=True)
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait() == 0 and process.stderr.read() == ''
    assert load_checkpoint(tmp_path / 'a/last.pt')['done']
    if os.path.exists('/dev/full'):
        with open('/dev/full', 'w') as full:
            done = subprocess.run([*command, *argv('b')], stdout=full, stderr=pipe, text=True, timeout=600)
        assert done.returncode == 0 and done.stderr == '' and load_checkpoint(tmp_path / 'b/last.pt')['done']


def test_another_place_a_path_with_spaces_and_accents_and_no_locale(tmp_path):
    """A copy of the repository elsewhere prepares the same data and trains the same model."""
    there, plain = tmp_path / 'là bas/mes données', tmp_path / 'plain'
    for root in there, plain:
        for name in '*.py', 'config/*.py', 'core/*.py', 'data/*.py', 'models/*.py', 'samples/*.py':
            for path in ROOT.glob(name):
                copy = root / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)
        (root / 'data/own').mkdir()
        (root / 'data/own/prepare.py').write_text(PREPARE, encoding='utf-8')
    argv = [*TINY, '--dataset=own', '--max_iters=5']
    done = subprocess.run([sys.executable, there / 'train.py', *argv, '--out_dir=été 1'],
                          cwd=tmp_path / 'là bas', env={**os.environ, 'LC_ALL': 'C'}, capture_output=True,
                          encoding='utf-8')
    assert done.returncode == 0 and "--out_dir='été 1'" in done.stdout, done.stderr
    done = subprocess.run([sys.executable, 'train.py', *argv, '--out_dir=out'], cwd=plain,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / 'là bas/été 1') == losses(plain / 'out')
    assert data.check(there / 'data/own', hashes=True) == data.check(plain / 'data/own')


def read_only():
    """Patched into a child: nothing in the folder READ_ONLY may be written, not even by root."""
    def hook(event, args):
        if event == 'open' and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) \
                or event in ('os.mkdir', 'os.rename', 'os.remove', 'os.truncate'):
            if str(args[0]).startswith(os.environ['READ_ONLY']):
                raise PermissionError(13, 'Permission denied', str(args[0]))
    sys.addaudithook(hook)


def test_a_read_only_data_folder_will_do_if_it_is_prepared(launch, toy, argv, tmp_path):
    (tmp_path / 'own').mkdir()
    (tmp_path / 'own/prepare.py').write_text(PREPARE, encoding='utf-8')
    for folder, expected in (toy, 0), (str(tmp_path / 'own'), 4):
        code, text = launch('train.py', *argv('a'), f'--dataset={folder}', '--verify',
                            env={'PATCH': 'test_faults.read_only', 'READ_ONLY': folder})
        assert code == expected and 'Traceback' not in text and (not code or folder in text), text
        shutil.rmtree(tmp_path / 'a', ignore_errors=True)


def test_text_that_the_terminal_cannot_show_is_printed_as_escapes(argv, toy, tmp_path):
    """Latin-1, as old images set it: what it lacks takes nothing from the output that follows."""
    meta = data.check(toy)
    meta['tokenizer']['characters'] = '\n☕„ßéô日本🙂–x'
    data.store.write_meta(tmp_path / 'toy', meta['splits'], meta['info'], meta['tokenizer'])
    environment = {**os.environ, 'PYTHONIOENCODING': 'latin-1'}
    for script, *more in (['train.py', *argv('a'), '--target=0.1'],
                          ['sample.py', f'--out_dir={tmp_path}/a', '--max_new_tokens=50']):
        done = subprocess.run([sys.executable, ROOT / script, *more], env=environment, capture_output=True)
        text = done.stdout.decode('latin-1')
        assert done.returncode == (7 if script == 'train.py' else 0), done.stderr
        assert '\\u2615' in text and 'ß' in text and b'Traceback' not in done.stderr
        assert script == 'sample.py' or 'target missed' in text.splitlines()[-1]


def strange_clock():
    """Patched into a child: the clock stands still, or jumps back and forth by an hour."""
    rng = random.Random(0)
    jump = 3600 if os.environ['CLOCK'] == 'jumps' else 0
    time.monotonic = time.time = time.perf_counter = lambda: 1e6 + jump * rng.uniform(-1, 1)


@pytest.mark.parametrize('clock', ['stands', 'jumps'])
def test_a_clock_that_stands_still_or_jumps_back_is_no_trouble(launch, argv, tmp_path, whole, clock):
    code, text = launch('train.py', *argv('a'), '--max_iters=40', '--schedule=constant',
                        env={'PATCH': 'test_faults.strange_clock', 'CLOCK': clock})
    assert code == 0 and 'Traceback' not in text and ' -' not in text.replace(' --', ''), text
    lines = events(tmp_path / 'a')
    assert len(lines) == 40 and all(line['rows_per_second'] >= 0 for line in lines)


# --- what others put in our way

def test_a_poisoned_tiktoken_cache_is_neither_read_nor_touched(tmp_path, monkeypatch):
    """Our encodings are made of their own merges: no name is looked up, no cache and no network asked."""
    poison = tmp_path / '9b5ad71b2ce5302211f9c61530b329a4922fc6a4'     # where it keeps cl100k_base
    poison.write_bytes(b'poison')
    monkeypatch.setenv('TIKTOKEN_CACHE_DIR', str(tmp_path))
    monkeypatch.setattr(tiktoken, 'get_encoding', None)
    encoding = tokenizers.load(bpe.train(['the theme of the thesis'] * 3, 264).json())
    assert encoding.decode(encoding.encode('theme')) == 'theme'
    assert poison.read_bytes() == b'poison' and len([*tmp_path.iterdir()]) == 1
