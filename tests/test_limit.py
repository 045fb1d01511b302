"""max_minutes: how many steps fit, the same for all processes and after a resume; no number changes."""
import shutil
import signal

import pytest

import configurator
from conftest import TINY, events, losses
from core import limit
from core.checkpoint import load_checkpoint


@pytest.mark.parametrize('seconds, expected', [(1000, 100), (0, 20), (-5, 20), (10, 25), (11, 25), (12, 26)])
def test_steps_that_fit(seconds, expected):
    # a step takes 2 s; there is no evaluation before the one at the end, which takes nothing
    assert limit.steps_that_fit(seconds, 20, 100, 1000, 2.0, 0.0) == expected


def test_steps_that_fit_leave_time_for_the_evaluations():
    for seconds in range(0, 400, 7):
        most = limit.steps_that_fit(seconds, 10, 300, 50, 1.0, 5.0)
        evaluations = [step for step in range(11, most + 1) if step % 50 == 0 or step == most]
        assert most == 10 or (most - 10) * 1.0 + len(evaluations) * 5.0 <= seconds
        if most < 300:      # one step more would take too long
            more = [step for step in range(11, most + 2) if step % 50 == 0 or step == most + 1]
            assert (most - 9) * 1.0 + len(more) * 5.0 > seconds


def test_enough_time_changes_nothing(launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', '--dropout=0.1', '--max_iters=40', '--warmup_fraction=0.2']
    for name, minutes in ('without', 0), ('with', 100):
        code, text = launch('train.py', *argv, f'--max_minutes={minutes}', f'--out_dir={tmp_path}/{name}')
        assert code == 0 and 'steps fit' not in text, text
    assert losses(tmp_path / 'with') == losses(tmp_path / 'without')
    assert [line['max_iters'] for line in events(tmp_path / 'with', 'limit')] == [40]
    assert not events(tmp_path / 'without', 'limit')


def slow_steps():
    """Patched into a child: every step seems to take two seconds, to the second process four."""
    limit.TimeLimit.step_seconds = lambda self: 2.0 + 2.0 * (not self.run.is_first)


SLOW = {'env': {'PATCH': 'test_limit.slow_steps'}}


def test_a_slow_machine_takes_fewer_steps_and_its_schedule_ends(launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a', '--schedule=linear', '--keep_interval=5',
            '--dropout=0.1', '--max_iters=500', '--max_minutes=1.5', '--warmup_fraction=0.1']
    code, text = launch('train.py', *argv, **SLOW)
    decided, = events(tmp_path / 'a', 'limit')
    last = decided['max_iters']
    assert code == 0 and decided['step'] == 21 and 21 < last <= 21 + 45, text
    assert f'max_minutes = 1.5: {last} of 500 steps fit' in text and '--max_minutes=0' in text, text
    assert 'so few steps teach a smaller model more: python' in text and '--n_layer=1' in text, text
    lines = events(tmp_path / 'a')
    assert lines[-1]['step'] == last == load_checkpoint(tmp_path / 'a/last.pt')['step']
    assert lines[-1]['lr'] < 0.1 * max(line['lr'] for line in lines)        # the schedule is at its end
    assert events(tmp_path / 'a', 'eval')[-1]['step'] == last

    # A run that is killed after step 25 ends at the same step with the same losses, however fast it is now.
    (tmp_path / 'b').mkdir()
    shutil.copy(tmp_path / 'a/step_25.pt', tmp_path / 'b/last.pt')
    argv[argv.index(f'--out_dir={tmp_path}/a')] = f'--out_dir={tmp_path}/b'
    code, text = launch('train.py', *argv)
    assert code == 0 and not events(tmp_path / 'b', 'limit'), text
    after_25 = {step: loss for step, loss in losses(tmp_path / 'a').items() if step > 25}
    assert losses(tmp_path / 'b') == after_25

    # The run is finished then. With more time it continues; the time counts from its step.
    code, text = launch('train.py', *argv, '--init_from=resume')
    assert code == 0 and 'left alone' in text, text
    argv.remove('--max_minutes=1.5')
    code, text = launch('train.py', *argv, '--init_from=resume', '--max_minutes=2', **SLOW)
    assert code == 0 and 'max_minutes: 1.5 there, 2.0 given' in text, text
    assert f'max_minutes count from step {last}' in text, text
    assert last + 21 < max(losses(tmp_path / 'b')) <= last + 21 + 60


def test_processes_agree_on_the_last_step(start, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a', '--max_iters=500', '--max_minutes=1.5']
    both = start('train.py', *argv, ranks=2, **SLOW)
    assert [process.wait() for process in both] == [0, 0], both[0].text + both[1].text
    decided, = events(tmp_path / 'a', 'limit')
    assert load_checkpoint(tmp_path / 'a/last.pt')['step'] == decided['max_iters'] > 21


@pytest.mark.parametrize('more', [[], ['--epochs=3']])
def test_one_step_is_taken_if_none_fits(launch, toy, tmp_path, more):
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a', '--max_minutes=1e-9']
    code, text = launch('train.py', *argv, *more)
    assert code == 0 and f'1 of {57 if more else 20} steps fit' in text, text
    saved = load_checkpoint(tmp_path / 'a/last.pt')
    assert saved['step'] == 1 and saved['done'] and (tmp_path / 'a/best.pt').exists()


def test_a_negative_time_is_an_error(launch, toy, tmp_path):
    code, text = launch('train.py', *TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a', '--max_minutes=-1')
    assert code == 2 and 'max_minutes must be at least 0, got -1' in text, text
    assert not (tmp_path / 'a').exists()


@pytest.mark.parametrize('given', ['max_iters=7', 'epochs=2'])
def test_a_length_on_the_command_line_replaces_the_time_limit_of_a_config(tmp_path, given):
    path = tmp_path / 'config.py'
    path.write_text('max_minutes = 3\n', encoding='utf-8')
    read = lambda *argv: configurator.read_train([str(path), *argv]).options
    assert read()['max_minutes'] == 3 and read(f'--{given}')['max_minutes'] == 0
    assert read(f'--{given}', '--max_minutes=2')['max_minutes'] == 2


def signal_while_timing():
    """Patched into a child: a signal arrives while the evaluation is timed, whose time then means nothing."""
    evaluate = limit.TimeLimit.time_evaluation

    def interrupted(self):
        self.run.signal = signal.SIGTERM
        return evaluate(self)

    limit.TimeLimit.time_evaluation = interrupted


def test_a_signal_while_the_evaluation_is_timed_leaves_the_decision_to_the_resumed_run(launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a', '--max_iters=60', '--max_minutes=100']
    code, text = launch('train.py', *argv, env={'PATCH': 'test_limit.signal_while_timing'})
    assert code == 143 and not events(tmp_path / 'a', 'limit'), text
    assert load_checkpoint(tmp_path / 'a/last.pt')['limit']['max_iters'] == 0
    code, text = launch('train.py', *argv)
    assert code == 0 and [line['max_iters'] for line in events(tmp_path / 'a', 'limit')] == [60], text
