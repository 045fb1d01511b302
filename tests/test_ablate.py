"""ablate.py: grids, the plan of runs, which runs are made, and the table of all. Nothing is trained."""
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ablate
import configurator
from conftest import ROOT, until
from core.checkpoint import FORMAT, save_checkpoint
from core.errors import UserError
from fake_runs import results, write_log       # results: a fixture

STDLIB = str(ROOT / 'config' / 'train_stdlib.py')


@pytest.fixture
def launched(monkeypatch):
    """The arguments of the runs that were launched.

    In place of train.py a function writes a log and a last.pt, or fails above a learning rate of 1.
    """
    launched = []

    def launch(arguments, folder):
        launched.append(arguments)
        settings = configurator.read(ablate.TRAIN, arguments, also=[ablate.AUGMENT])
        learning_rate = settings.options['learning_rate']
        seed = settings.options['seed']
        if learning_rate > 1:
            return 6
        write_log(folder, [4, learning_rate + seed], seed=seed)
        state = {'format': FORMAT, 'model': {}, 'step': 20, 'done': True, 'info': {}, 'data': {}, 'best': {},
                 'seconds': 1.0, 'tokenizer': None,
                 'keys': settings.options | {'device': 'cpu'}, 'config': settings.fields}
        save_checkpoint(folder / 'last.pt', state)
        return 0

    monkeypatch.setattr(ablate, 'launch', launch)
    return launched


# --- the plan

def test_a_grid_expands_to_its_product():
    assert ablate.expand('pos=none') == ['pos=none']
    assert ablate.expand('dropout=0,0.1 tie lr=1,2') == [
        'dropout=0 tie lr=1', 'dropout=0 tie lr=2', 'dropout=0.1 tie lr=1', 'dropout=0.1 tie lr=2']


def test_the_plan_has_every_variant_with_every_seed_and_the_baseline_first(tmp_path):
    planned = ablate.plan([STDLIB, 'dropout=0,0.2', 'prepare=a/b'], ['--max_iters=5'], 2, str(tmp_path))
    expected = []
    for variant in 'baseline', 'dropout=0', 'dropout=0.2', 'prepare=a/b':
        expected += [(variant, 1), (variant, 2)]
    assert [(run.variant, run.seed) for run in planned] == expected
    folder = tmp_path / 'baseline_seed1'
    assert planned[0].folder == folder and not planned[0].done
    assert planned[0].arguments == [STDLIB, '--max_iters=5', '--seed=1', f'--out_dir={folder}']
    assert planned[-1].folder == tmp_path / 'prepare=a_b_seed2'
    assert ablate.plan([STDLIB], [], 1)[0].folder == Path('out/ablate_stdlib/baseline_seed1')
    assert ablate.plan([], ['--dataset=mine'], 1)[0].folder == Path('out/ablate_mine/baseline_seed1')


def test_all_mistakes_are_reported_at_once_before_anything_runs(tmp_path):
    with pytest.raises(UserError) as caught:
        ablate.plan([STDLIB, 'optimzer=sgd', 'dropout=much', 'seed=3'], ['--maxiters=5'], 2, str(tmp_path))
    message = str(caught.value)
    for problem in 'did you mean max_iters?', 'did you mean optimizer?', "got 'much'", '--seed=3: ':
        assert message.count(problem) == 1
    with pytest.raises(UserError, match='seeds must be at least 1, got 0'):
        ablate.plan([STDLIB], [], 0, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_config_that_the_model_does_not_accept_is_an_error_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match=r'dropout must be in \[0, 1\), got 1.5'):
        ablate.plan([STDLIB, 'dropout=0,1.5'], [], 1, str(tmp_path))


def test_the_script_knows_its_own_options_from_those_of_the_runs(launch, tmp_path):
    folder = tmp_path / 'runs'
    code, text = launch('ablate.py', STDLIB, 'pos=nope', '--seeds=2', '--mode=x', f'--out_dir={folder}')
    assert code == 2 and 'did you mean rope?' in text and 'did you mean model?' in text
    assert 'seeds' not in text and not folder.exists()


# --- runs that are there already

def test_finished_runs_are_not_repeated_and_the_table_has_all_runs(tmp_path, launched, results, capsys):
    def plan(seeds):
        variants = [STDLIB, 'learning_rate=0.5,2', 'learning_rate=0.1']
        return ablate.plan(variants, ['--warmup_fraction=0'], seeds, str(tmp_path / 'runs'))

    ablate.ablate(plan(2), 'x')
    assert len(launched) == 8
    text = capsys.readouterr().out
    assert '\n[5/8] learning_rate=2, seed 1: failed, exit 6; see ' in text
    lines = text[text.index('\nvariant') + 1:].split('\n')
    failures = 'seed 1: exit 6, seed 2: exit 6'
    assert [re.split('  +', line) for line in lines[:5]] == [
        ['variant', 'failed', 'val loss', 'difference', 'at step', 'seconds'],
        ['baseline', '-', '1.5050 ± 0.7071 (2)', '-', '20', '4 ± 1'],
        ['learning_rate=0.1', '-', '1.6000 ± 0.7071 (2)', '+0.0950', '20', '4 ± 1'],
        ['learning_rate=0.5', '-', '2.0000 ± 0.7071 (2)', '+0.4950', '20', '4 ± 1'],
        ['learning_rate=2', failures, '-', '-', '-', '-']]
    kept = json.loads((results / 'x.json').read_text(encoding='utf-8'))
    assert kept['rows'][3] == {'cells': {'variant': 'learning_rate=2', 'failed': failures}, 'runs': []}

    launched.clear()
    ablate.ablate(plan(3))
    text = capsys.readouterr().out
    assert len(launched) == 6 and text.count('already there') == 6      # what failed, and the new seed, ran
    assert text.count('(3)') == 3


def test_max_iters_on_the_command_line_replaces_the_epochs_of_the_config(tmp_path, launched):
    def plan(*common):
        return ablate.plan([str(ROOT / 'config' / 'train_cifar10_cnn.py')], common, 1, str(tmp_path))

    ablate.ablate(plan('--max_iters=20'))
    assert plan('--max_iters=20')[0].done
    with pytest.raises(UserError, match='epochs 0.0 there'):
        plan()


def test_a_folder_with_another_run_is_an_error(tmp_path, launched):
    ablate.ablate(ablate.plan([STDLIB], ['--max_iters=20'], 1, str(tmp_path)))
    same = ['--max_iters=20', '--target=1', '--threads=1']      # a command's options, the machine's
    assert ablate.plan([STDLIB], same, 1, str(tmp_path))[0].done
    with pytest.raises(UserError, match='max_iters 20 there, 30 asked; delete it or give another'):
        ablate.plan([STDLIB], ['--max_iters=30'], 1, str(tmp_path))


def test_a_page_that_cannot_take_the_table_is_an_error_before_anything_runs(tmp_path, launched, results):
    (results / 'x.md').write_text('mine', encoding='utf-8')
    with pytest.raises(UserError, match='no place for the table'):
        ablate.ablate(ablate.plan([STDLIB], [], 1, str(tmp_path)), 'x')
    assert not launched


# --- signals

def test_a_signal_is_forwarded_once_and_the_run_saves(tmp_path):
    train = tmp_path / 'train.py'
    train.write_text('import signal, sys, time\n'
                     'signal.signal(signal.SIGINT, lambda *_: (print("saved"), sys.exit(130)))\n'
                     'print("ready", flush=True)\n'
                     'time.sleep(600)\n', encoding='utf-8')
    program = ('import sys, ablate, pathlib\n'
               'ablate.TRAIN = sys.argv[1]\n'
               'try:\n'
               '    ablate.launch([], pathlib.Path(sys.argv[2]))\n'
               'except ablate.UserError as error:\n'
               '    print(error, error.code)\n')
    process = subprocess.Popen([sys.executable, '-c', program, train, tmp_path / 'a'], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, start_new_session=True)
    output = tmp_path / 'a' / 'output.txt'
    until(lambda: output.exists() and 'ready' in output.read_text(encoding='utf-8'))
    os.killpg(process.pid, signal.SIGINT)       # what Ctrl-C in a terminal does
    assert process.communicate(timeout=600)[0] == 'stopped; the same command goes on 130\n'
    assert output.read_text(encoding='utf-8') == 'ready\nsaved\n'
