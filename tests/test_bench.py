"""bench.py: that it times every part of train.py's own step and records what an estimate needs."""
import json
import re
import time

import pytest

import bench
from conftest import TINY, image_data
from core import clocks, doctor
from core.errors import UserError

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


def test_all_that_is_measured_is_in_a_file(launch, toy, tmp_path):
    file = tmp_path / 'measured.json'
    trace = tmp_path / 'trace.json'
    code, text = launch('bench.py', *TINY, f'--dataset={toy}', '--max_iters=100', '--batch_size=6',
                        '--micro_batch_size=3', f'--json_file={file}', f'--profile={trace}')
    assert code == 0, text
    found = json.loads(file.read_text(encoding='utf-8'))
    assert found['rows_per_second'] == pytest.approx(6 / found['seconds'])
    assert found['tokens_per_second'] == pytest.approx(6 * 16 / found['seconds'])       # block_size 16
    assert found['fraction_of_peak'] == pytest.approx(found['flops'] / found['seconds'] / found['peak'])
    assert found['memory'] > 1e8 and found['dtype'] == 'float32'
    assert any('addmm' in event.get('name', '') or 'linear' in event.get('name', '')
               for event in json.loads(trace.read_text(encoding='utf-8'))['traceEvents'])


def test_two_settings_are_timed_in_turns(launch, toy):
    argv = ['bench.py', *TINY, f'--dataset={toy}', '--steps=2', '--rounds=1']
    code, text = launch(*argv, '--against=n_layer=3')
    assert code == 0 and re.search(r'ratio: [\d.]+, from [\d.]+ to [\d.]+', text), text
    code, text = launch(*argv, '--against=n_leyer=3')
    assert code == 2 and 'n_leyer' in text and 'Traceback' not in text, text
    code, text = launch(*argv, '--against=n_layer=3', '--profile=x.json')
    assert code == 2 and 'for one measurement' in text, text


def test_of_two_settings_the_second_has_the_change(monkeypatch, capsys):
    def measured(argv, steps):
        return {'seconds': 0.3 if '--n_layer=3' in argv else 0.2}

    monkeypatch.setattr(bench, 'measure_elsewhere', measured)
    bench.compare(['a.py'], 'n_layer=3', 5, 3)
    assert capsys.readouterr().out.endswith('ratio: 1.500, from 1.500 to 1.500\n')


def test_the_time_of_a_call_within_a_call_counts_once():
    class Split:
        def batch(self, rows):
            time.sleep(0.05)
            return self.batch(rows - 1) if rows else 0

    counter = clocks.Clocks(1, 'cpu')
    counter.measure(Split, 'batch', 'data')
    start = time.perf_counter()
    Split().batch(2)
    assert 0.15 <= counter.parts['data'][0] <= time.perf_counter() - start


def test_the_tokens_of_a_gpt_are_timed(launch, toy, tmp_path):
    code, text = launch('bench.py', *TINY, f'--dataset={toy}', '--generate=5')
    assert code == 0, text
    for rows in 1, 32:
        for name in 'cached', 'not cached':
            assert re.search(rf'^{rows} x 5 tokens after 8, {name}: [\d,]+ tokens/s; first [\d.]+ ms, '
                             r'later [\d.]+ ms \(median\), [\d.]+ ms', text, re.M), text
    image_data(tmp_path / 'x')
    code, text = launch('bench.py', *CNN, f'--dataset={tmp_path}/x', '--generate=5')
    assert code == 2 and 'generate is for models that write text' in text, text


def test_a_fraction_of_the_peak_that_has_fallen_is_named(tmp_path, monkeypatch, capsys):
    entry = {'float32': {'fraction_of_peak': 0.5}}
    file = tmp_path / 'speed.json'
    file.write_text(json.dumps({'a.py': entry, 'b.py': entry, 'c.py': {}, 'd.py': entry}), encoding='utf-8')

    def measured(argv, steps):
        if argv[0] == 'd.py':
            raise UserError('no data')
        return {'fraction_of_peak': 0.48 if argv[0] == 'a.py' else 0.4}

    monkeypatch.setattr(bench, 'measure_elsewhere', measured)
    monkeypatch.setattr(bench.machine, 'native_dtypes', lambda kind: ['float32'])
    assert bench.check_record(file, 3) == 1
    assert capsys.readouterr().out.split('\n') == [
        'a.py: 0.480 of the peak in float32, 0.500 recorded: as before',
        'b.py: 0.400 of the peak in float32, 0.500 recorded: FALLEN', 'd.py: not measured: no data', '']


@pytest.mark.parametrize('argv, words', [
    (['--steps=0'], 'must be at least 1'), (['--batch_size=41'], 'batch_size is 41'),
    (['--micro_batch_size=3'], 'is no multiple of 3, micro_batch_size x processes'),
    (['--steps=20', '--max_iters=9'], 'give a smaller --steps'), (['--width=0'], 'width must be at least 1')])
def test_what_cannot_be_timed_is_an_error(launch, tmp_path, argv, words):
    image_data(tmp_path / 'x')
    code, text = launch('bench.py', *CNN, f'--dataset={tmp_path}/x', *argv)
    assert code == 2 and words in text and 'Traceback' not in text, text
