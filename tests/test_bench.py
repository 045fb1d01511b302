"""bench.py: that it times every part of train.py's own step and records what an estimate needs."""
import json
import re

import pytest

from conftest import TINY, image_data
from core import doctor

CNN = '--model=cnn', '--width=4', '--batch_size=8', '--device=cpu', '--dtype=float32', '--steps=2'


def test_the_parts_of_a_step_are_its_time(launch, toy):
    code, text = launch('bench.py', *TINY, f'--dataset={toy}', '--steps=3', '--ema=0.9')
    assert code == 0, text
    whole, *parts = [float(n) for n in re.findall(r'([\d.]+) ms', text)]
    assert len(parts) == 5 and 0 < sum(parts) < 1.5 * whole         # medians do not add up
    assert re.search(r'[\d.]+ GFLOP per step, \d+% of the', text)


def test_a_record_estimates_the_time_of_the_run(launch, toy, tmp_path):
    file = tmp_path / 'speed.json'
    code, text = launch('bench.py', *TINY, f'--dataset={toy}', '--max_iters=200', f'--record={file}')
    assert code == 0, text
    record = json.loads(file.read_text(encoding='utf-8'))['config/train_stdlib.py']
    assert record['steps'] == 200 and record['evaluation_steps'] > 0 and record['flops'] > 0
    measured = record['float32']
    seconds = doctor.estimate(record, measured['peak'], 'float32')
    steps = record['steps'] + record['evaluation_steps']
    assert seconds == pytest.approx(steps * measured['step_seconds'], rel=0.1)      # the fraction is rounded


@pytest.mark.parametrize('argv, words', [
    (['--steps=0'], 'steps must be at least 1, got 0'), (['--batch_size=41'], 'batch_size is 41'),
    (['--micro_batch_size=3'], 'is no multiple of 3, micro_batch_size x processes'),
    (['--steps=20', '--max_iters=9'], 'give a smaller --steps'), (['--width=0'], 'width must be at least 1')])
def test_what_cannot_be_timed_is_an_error(launch, tmp_path, argv, words):
    image_data(tmp_path / 'x')
    code, text = launch('bench.py', *CNN, f'--dataset={tmp_path}/x', *argv)
    assert code == 2 and words in text and 'Traceback' not in text, text
