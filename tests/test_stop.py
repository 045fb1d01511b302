"""core/stop.py: the signals that ask a run to stop and to save."""
import signal

import pytest

from conftest import TINY, events, until
from core import stop
from core.checkpoint import load_checkpoint


@pytest.fixture
def handlers():
    """The handlers of this process are put back after a test."""
    before = {number: signal.getsignal(number) for number in stop.SIGNALS}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def test_all_these_signals_reach_the_handler_and_come_back(handlers):
    received = []
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    before = stop.handle_signals(lambda number, frame: received.append(number))
    for number in stop.SIGNALS:
        signal.raise_signal(number)
    assert received == list(stop.SIGNALS) == list(before)
    assert before[signal.SIGUSR1] == handlers[signal.SIGUSR1]


def test_under_nohup_the_end_of_the_terminal_is_still_ignored(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    before = stop.handle_signals(lambda number, frame: None)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN and signal.SIGHUP not in before


@pytest.mark.parametrize('number', [signal.SIGHUP, signal.SIGUSR1])
def test_the_end_of_a_terminal_or_a_job_saves_and_a_second_run_goes_on(start, launch, toy, tmp_path, handlers,
                                                                       number):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)        # the tests themselves may run under nohup
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a', '--eval_interval=100000']
    process = start('train.py', *argv, '--max_iters=100000')
    until(lambda: 'to go' in process.text)
    process.kill(number)
    assert process.wait() == 128 + number and 'saved' in process.text, process.text
    step = load_checkpoint(tmp_path / 'a/last.pt')['step']
    code, text = launch('train.py', *argv, f'--max_iters={step + 2}')
    assert code == 0 and events(tmp_path / 'a')[-1]['step'] == step + 2, text
