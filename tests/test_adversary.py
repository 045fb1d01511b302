"""Faults of an adversary, or of bad luck twice: a stranger's run folder, a second fault during recovery."""
import json, os, signal, sys, threading, time, zipfile
from pathlib import Path

import pytest
import torch

import data
from conftest import losses, until
from core import errors, state
from core.checkpoint import load_checkpoint, save_checkpoint
from core.errors import UserError
from core.lock import lock
from core.optim import make_optimizers
from core.record import append_line, read_log
from models import gpt
from test_faults import argv, forwards      # noqa: F401 (a fixture)


def edit(path, change):
    """Save a checkpoint again after change(state)."""
    checkpoint = load_checkpoint(path)
    change(checkpoint)
    save_checkpoint(path, checkpoint)


def flip(path):
    """Flip a bit of each of 200 bytes of a checkpoint: more than the padding that nobody reads."""
    raw = bytearray(path.read_bytes())
    for position in range(5000, 5200):
        raw[position] ^= 1
    path.write_bytes(raw)


def killed():
    """Patched into a child: kill -9 in step STEP."""
    def happen(net, call, sums):
        if call == int(os.environ['STEP']):
            os.kill(os.getpid(), signal.SIGKILL)
        return sums
    forwards(happen)


@pytest.fixture
def half(launch, argv, tmp_path):
    """half(name, *more, step=15): a run that was killed in that step, saved at 10."""
    def half(name, *more, step=15):
        env = {'PATCH': 'test_adversary.killed', 'STEP': str(step)}
        code, text = launch('train.py', *argv(name), *more, env=env)
        assert code == -signal.SIGKILL, text
        return tmp_path / name
    return half


# --- a checkpoint from elsewhere

def payload(folder):
    """Make a data set that is not prepared; its prepare.py writes a file `touched` beside it."""
    folder.mkdir()
    touched = folder.parent / 'touched'
    (folder / 'prepare.py').write_text(f'open({str(touched)!r}, "w")\n', encoding='utf-8')
    return touched


@pytest.mark.parametrize('more', [['--eval_only'], ['--init_from=resume', '--max_iters=30']])
def test_a_checkpoint_does_not_decide_that_a_preparation_runs(launch, argv, tmp_path, more):
    assert launch('train.py', *argv('a'))[0] == 0
    touched = payload(tmp_path / 'theirs')
    for name in 'last.pt', 'best.pt':
        edit(tmp_path / 'a' / name, lambda state: state['keys'].update(dataset=str(tmp_path / 'theirs')))
    code, text = launch('train.py', f'--out_dir={tmp_path}/a', *more)
    assert code == 3 and 'which is not there' in text and 'prepare.py' in text, text
    assert not touched.exists()
    code, text = launch('train.py', f'--out_dir={tmp_path}/a', *more, f'--dataset={tmp_path}/theirs')
    assert code == 3 and touched.exists(), text             # the user has named it


@pytest.mark.parametrize('change', [
    {'step': -5}, {'seconds': float('nan')}, {'best': None}, {'model': {'w': 1}},
    {'keys': {'model': 'nope'}}])
def test_a_checkpoint_with_odd_values_gives_way_to_the_one_before_or_is_an_error(launch, half, change):
    folder = half('a')
    checkpoint = load_checkpoint(folder / 'last.pt')
    save_checkpoint(folder / 'last.pt', checkpoint | change)
    code, text = launch('train.py', f'--out_dir={folder}')
    assert 'Traceback' not in text, text
    assert code == 0 and 'last.pt.previous at step 10' in text or code == 2 and "model 'nope'" in text, text


@pytest.mark.parametrize('line', ['{"step": ' + '9' * 400 + '}', '[' * 100_000])
def test_an_odd_line_of_the_log_does_not_stop_a_resume(launch, argv, half, line):
    folder = half('a')
    append_line(folder / 'log.jsonl', line)
    code, text = launch('train.py', *argv('a'))
    assert code == 0 and len(losses(folder)) == 20, text


def test_a_run_that_is_shortened_below_its_step_is_evaluated():
    assert state.State(step=15).evaluation_due(eval_interval=100, max_iters=12)
    assert not state.State(step=15, evaluated=15).evaluation_due(eval_interval=100, max_iters=12)


@pytest.mark.parametrize('option', ['--max_iters=1e308', '--epochs=1e308', '--n_embd=10**30'])
def test_a_number_that_is_too_large_is_an_error_in_words(launch, argv, option):
    code, text = launch('train.py', *argv('a'), option)
    assert code == 2 and 'expected' in text and 'Traceback' not in text, text


def test_a_command_from_a_checkpoint_is_quoted(launch, argv, tmp_path):
    assert launch('train.py', *argv('a'))[0] == 0
    name = str(tmp_path / 'x; echo owned #')
    payload(tmp_path / 'x; echo owned #')
    edit(tmp_path / 'a/best.pt', lambda state: state['keys'].update(dataset=name))
    code, text = launch('train.py', f'--out_dir={tmp_path}/a', '--eval_only')
    assert code == 3 and f"python '{name}/prepare.py'" in text, text


@pytest.mark.parametrize('name, value', [('batch_size', '8'), ('schedule', 'x'), ('dtype', 'load')])
def test_an_option_of_a_checkpoint_is_checked_like_one_that_is_given(launch, half, name, value):
    folder = half('a')
    edit(folder / 'last.pt', lambda state: state['keys'].update({name: value}))
    code, text = launch('train.py', f'--out_dir={folder}')
    assert code == 2 and f'{name}: expected' in text and 'Traceback' not in text, text


def test_a_compressed_checkpoint_which_may_be_huge_is_an_error(tmp_path):
    plain = tmp_path / 'plain.pt'
    save_checkpoint(plain, {'format': 1, 'zeros': torch.zeros(10**6)})
    packed = tmp_path / 'x.pt'
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, 'w', zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(UserError, match='is compressed'):
        load_checkpoint(packed)


def test_files_of_a_run_folder_that_are_links_are_not_followed(launch, argv, half, tmp_path):
    folder = half('a')
    thesis = tmp_path / 'thesis'
    thesis.write_text('my thesis')
    for name in 'last.pt.tmp', 'log.jsonl.tmp':
        os.symlink(thesis, folder / name)
    code, text = launch('train.py', *argv('a'))
    assert code == 0 and thesis.read_text() == 'my thesis', text
    (folder / '.lock').unlink()
    os.symlink(thesis, folder / '.lock')
    with pytest.raises(OSError):
        lock(folder, wait=False)
    assert thesis.read_text() == 'my thesis'


# --- states by name

def trained_gpt(order):
    """A small GPT whose parts were made in this order, and its optimizer after a step."""
    torch.manual_seed(0)
    net = gpt.Model(gpt.Config(vocab_size=16, block_size=16, n_layer=1, n_head=2, n_embd=16, pos='learned'))
    for name in order:                      # a module made later comes later in net.parameters()
        net._modules[name] = net._modules.pop(name)
    adamw, = make_optimizers(net, 'adamw', 1e-3, 0.1, (0.9, 0.99), 0.9, 'float32')
    net(torch.randint(16, (2, 9)))['loss'].backward()
    adamw.step()
    return net, adamw


def test_states_find_their_weights_by_name_in_a_model_whose_lines_have_moved():
    net, adamw = trained_gpt([])
    states = state.optimizer_states(net, [adamw])
    other, others_adamw = trained_gpt(['embed', 'embed_pos', 'blocks'])
    assert [*dict(other.named_parameters())] != [*dict(net.named_parameters())]
    others_adamw.state.clear()
    state.load_optimizer_states(other, [others_adamw], states, {})
    restored = state.optimizer_states(other, [others_adamw])
    assert restored.keys() == states.keys()
    for name in states:
        assert all(torch.equal(restored[name][key], states[name][key]) for key in states[name])


def test_a_state_of_another_shape_or_name_is_an_error():
    net, adamw = trained_gpt([])
    states = state.optimizer_states(net, [adamw])
    states['head.weight'] = states['head.weight'] | {'exp_avg': torch.zeros(3)}
    with pytest.raises(UserError, match=r'exp_avg of head.weight: .* \(16, 16\), the checkpoint \(3,\)'):
        state.load_optimizer_states(net, [adamw], states, {})
    states['nose.weight'] = states.pop('head.weight')
    with pytest.raises(UserError, match='head.weight: missing in') as caught:
        state.load_optimizer_states(net, [adamw], states, {})
    assert 'nose.weight: only in the checkpoint' in str(caught.value)


@pytest.mark.parametrize('more', [[], ['--optimizer=muon', '--relative_lr=True']])
def test_states_of_an_earlier_revision_which_have_no_names_are_resumed_exactly(
        launch, argv, half, tmp_path, more):
    assert launch('train.py', *argv('whole'), *more)[0] == 0
    folder = half('a', *more)

    def without_names(checkpoint):
        net = gpt.Model(gpt.Config(**checkpoint['config']))
        made = make_optimizers(net, checkpoint['keys']['optimizer'], 1e-3, 0.1, (0.9, 0.99), 0.9, 'float32',
                               relative=bool(more))
        state.load_optimizer_states(net, made, checkpoint['optimizers'], checkpoint.pop('lr_scales'))
        checkpoint['optimizers'] = [optimizer.state_dict() for optimizer in made]
    edit(folder / 'last.pt', without_names)
    code, text = launch('train.py', *argv('a'), *more)
    assert code == 0, text
    assert losses(folder) == losses(tmp_path / 'whole')


# --- a second fault

def test_a_run_whose_best_is_damaged_can_end(launch, argv, half):
    more = ['--max_iters=30']
    folder = half('a', *more, step=25)
    best = {'name': 'loss', 'value': 0.0, 'step': 20}       # nothing better comes later
    edit(folder / 'last.pt', lambda state: state.update(best=best))
    for damage in flip, os.remove:
        damage(folder / 'best.pt')
        code, text = launch('train.py', *argv('a'), *more)
        assert code == 0 and 'the last weights take its place' in text, text
        assert load_checkpoint(folder / 'best.pt')['step'] == 30
        edit(folder / 'last.pt', lambda state: state.update(best=best, done=False))


def killed_while_keeping():
    """Patched into a child: kill -9 before a last.pt is kept as last.pt.previous."""
    os.link = lambda *names: os.kill(os.getpid(), signal.SIGKILL)


def test_after_damage_a_kill_during_the_next_save_leaves_a_whole_checkpoint(launch, argv, half, tmp_path):
    assert launch('train.py', *argv('whole'), '--max_iters=40')[0] == 0
    folder = half('a', '--max_iters=40', step=25)           # saved at 10 and 20
    flip(folder / 'last.pt')
    code, text = launch('train.py', *argv('a'), '--max_iters=40',
                        env={'PATCH': 'test_adversary.killed_while_keeping'})
    assert code == -signal.SIGKILL and 'last.pt.previous at step 10' in text, text
    code, text = launch('train.py', *argv('a'), '--max_iters=40')
    assert code == 0 and 'at step 10' in text, text
    assert losses(folder) == losses(tmp_path / 'whole')


def test_if_both_last_checkpoints_are_damaged_the_others_are_named(launch, argv, half):
    folder = half('a', '--max_iters=40', '--keep_interval=10', step=25)
    for name in 'last.pt', 'last.pt.previous':
        flip(folder / name)
    code, text = launch('train.py', *argv('a'), '--max_iters=40')
    assert code == 2 and f'--out_dir={folder}_2' in text, text
    newest = text.split('--init_from=')[1].split(' ')[0]
    assert newest in (f'{folder}/best.pt', f'{folder}/step_20.pt')
    code, text = launch('train.py', *argv('a_2'), f'--init_from={newest}')
    assert code == 0, text


def test_a_line_that_was_cut_costs_one_line_of_the_log(tmp_path, capsys):
    log = tmp_path / 'log.jsonl'
    append_line(log, '{"step": 1}')
    with open(log, 'a', encoding='utf-8') as file:
        file.write('{"step": 2, "lo')                       # the disk was full
    append_line(log, '{"step": 3}')
    append_line(log, '{"step": 4}')
    assert read_log(tmp_path) == [{'step': 1}, {'step': 3}, {'step': 4}]
    assert f'{log}:2 is damaged' in capsys.readouterr().err


def test_out_of_memory_or_a_file_that_cannot_be_read_is_not_damage(tmp_path, monkeypatch):
    path = tmp_path / 'last.pt'
    path.write_bytes(b'')
    for error in RuntimeError("can't allocate memory: you tried to"), PermissionError(13, 'EACCES'):
        def fail(path, error=error):
            raise error
        monkeypatch.setattr('core.checkpoint.verify_zip', fail)
        with pytest.raises(type(error)):
            load_checkpoint(path)


# --- what is asked, and what is there

def test_a_missed_target_stays_missed(launch, argv):
    for _ in range(2):
        code, text = launch('train.py', *argv('a'), '--target=0.001')
        assert code == 7, text
    assert launch('train.py', *argv('a'), '--target=100.0')[0] == 0


def test_other_characters_of_equal_number_are_other_data(launch, argv, half, toy):
    half('a')
    meta = json.loads(Path(toy, 'meta.json').read_text(encoding='utf-8'))
    meta['tokenizer']['characters'] = meta['tokenizer']['characters'][::-1]
    Path(toy, 'meta.json').write_text(json.dumps(meta), encoding='utf-8')
    code, text = launch('train.py', *argv('a'))
    assert code == 3 and 'the tokens differ' in text, text


@pytest.mark.parametrize('change', [{'characters': '\nabcd'}, {'kind': 'mine'}])
def test_a_tokenizer_that_does_not_fit_is_found_before_training(launch, argv, toy, tmp_path, change):
    meta = json.loads(Path(toy, 'meta.json').read_text(encoding='utf-8'))
    meta['tokenizer'].update(change)
    Path(toy, 'meta.json').write_text(json.dumps(meta), encoding='utf-8')
    code, text = launch('train.py', *argv('a'))
    assert code == 3 and 'tokenizer' in text and 'Traceback' not in text, text
    assert not (tmp_path / 'a').exists()


def test_files_of_others_in_the_run_folder_stay(launch, argv, tmp_path):
    folder = tmp_path / 'a'
    folder.mkdir()
    for name in 'notes.tmp', 'other.pt':
        (folder / name).write_text('mine')
    for more in [], ['--init_from=resume', '--max_iters=30']:
        code, text = launch('train.py', *argv('a'), *more)
        assert code == 0, text
        assert (folder / 'notes.tmp').read_text() == (folder / 'other.pt').read_text() == 'mine'


def test_a_folder_that_holds_other_runs_is_not_moved_aside(launch, argv, tmp_path):
    assert launch('train.py', *argv('a'))[0] == 0
    assert launch('train.py', *argv('a/b'))[0] == 0
    code, text = launch('train.py', *argv('a'), '--init_from=scratch')
    assert code == 2 and 'holds other runs' in text, text


# --- the environment

@pytest.mark.parametrize('environment, expected', [
    ({'WORLD_SIZE': '2'}, 0), ({'RANK': '0'}, 2), ({'RANK': 'abc', 'WORLD_SIZE': '2'}, 2),
    ({'RANK': '', 'WORLD_SIZE': '1'}, 2), ({'RANK': '0', 'WORLD_SIZE': '0'}, 2),
    ({'RANK': '5', 'WORLD_SIZE': '2'}, 2)])
def test_left_over_variables_of_torchrun_are_ignored_or_an_error(
        launch, argv, tmp_path, environment, expected):
    code, text = launch('train.py', *argv('a'), env=environment)
    assert code == expected and 'Traceback' not in text, text
    if expected == 0:
        assert launch('train.py', *argv('b'))[0] == 0
        assert losses(tmp_path / 'a') == losses(tmp_path / 'b')


def other_code():
    """Patched into a child: the second process has other code."""
    from core import facts
    facts.code_hash = lambda: os.environ['RANK']


def test_processes_of_different_code_are_an_error(start, argv):
    env = {'PATCH': 'test_adversary.other_code'}
    processes = start('train.py', *argv('a'), ranks=2, env=env)
    assert [process.wait() for process in processes] == [2, 2]
    assert 'the processes disagree on code' in processes[0].text


def test_a_second_signal_ends_a_process_that_waits_for_another(start, argv, tmp_path):
    processes = start('train.py', *argv('a'), '--max_iters=1000000', ranks=2)
    until(lambda: (tmp_path / 'a/last.pt').exists())
    waiting, silent = processes
    silent.kill(signal.SIGSTOP)
    time.sleep(0.5)
    waiting.kill(signal.SIGTERM)
    time.sleep(1.5)                             # sooner it might be the same signal, sent twice
    waiting.kill(signal.SIGTERM)
    assert waiting.wait() == 143
    silent.kill(signal.SIGKILL)


def test_a_closed_standard_output_is_no_crash(monkeypatch):
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
    monkeypatch.setattr(sys, 'stdout', None)
    errors.set_up()
    print('nobody reads this')
    sys.stdout.close()


@pytest.mark.parametrize('out_dir', ['a' * 300, 'a\0b'])
def test_a_path_that_cannot_be_is_an_error_in_words(launch, argv, out_dir):
    code, text = launch('train.py', *argv('a')[:-1], f'--out_dir={out_dir}')
    assert code in (2, 4) and 'Traceback' not in text, text


def test_a_data_set_is_written_under_the_lock_of_a_data_set(tmp_path):
    """One that writes a data set has its lock, so that two never mix their files."""
    path = tmp_path / 'toy'
    path.mkdir()
    with lock(path, wait=False, name='.saving'):
        thread = threading.Thread(target=data.save, args=[str(path), {'train': {'tokens': [1, 2, 3]}}])
        thread.start()
        thread.join(0.5)
        assert thread.is_alive() and not (path / 'meta.json').exists()
    thread.join()
    assert (path / 'meta.json').exists()
