"""The speed of a machine: FLOPs counted, peaks measured, times of configs estimated, the doctor's report."""
import copy
import json
import math

import pytest
import torch

import data
from conftest import TINY, events
from core import doctor, machine
from models import cnn, gpt, mobilenet
from conftest import image_data


@pytest.fixture
def tokens(toy):
    return data.load_split(toy, 'train', ['tokens'], block_size=16)


def test_the_flops_of_linear_layers_are_those_of_their_products(tokens):
    net = gpt.Model(gpt.Config(vocab_size=11, block_size=16, n_layer=2, n_head=2, n_embd=16, flash=False))
    rows = tokens.rows(0, 6, 1)
    B, T, C, V = 6, 16, 16, 11
    weights = 2 * 12 * C * C + C * V                    # of both blocks, and the head
    attention = 2 * 2 * T * T * C                       # a row's scores and weighted sums, without factor 2
    expected = 3 * 2 * B * (T * weights + attention)    # backward costs twice as much as forward
    assert machine.count_flops(net, tokens, rows) == pytest.approx(expected, rel=0.01)
    parts = lambda step: tokens.rows(step, 6, 1).reshape(2, 3)
    assert machine.step_flops(net, tokens, parts, 0) == pytest.approx(expected, rel=0.01)


def test_the_flops_of_a_depthwise_convolution_are_not_those_of_a_full_one(tmp_path):
    image_data(tmp_path / 'images')                             # 12 x 12
    split = data.load_split(str(tmp_path / 'images'), 'train', ['image', 'label'])
    net = mobilenet.Model(mobilenet.Config(width=0.25, n_class=3))
    expected = 3 * 8 * 12 * 12 * 9                              # the first convolution, multiply-adds
    channels, size = 8, 12
    for out_channels, stride in mobilenet.LAYERS:
        size = math.ceil(size / stride)
        expected += size * size * (9 * channels + channels * out_channels // 4)
        channels = out_channels // 4
    expected += channels * 3
    assert machine.count_flops(net, split, split.rows(0, 8, 1)) == 3 * 2 * 8 * expected


def test_counting_changes_neither_gradients_nor_statistics(tmp_path):
    image_data(tmp_path / 'images')
    split = data.load_split(str(tmp_path / 'images'), 'train', ['image', 'label'])
    net = cnn.Model(cnn.Config(width=4, n_class=3))
    before = copy.deepcopy(net.state_dict())
    assert machine.count_flops(net, split, split.rows(0, 8, 1)) > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_a_peak_is_a_speed():
    assert machine.peak_flops('cpu', torch.float32, seconds=0.0) > 1e8


def test_half_the_speed_is_twice_the_time():
    record = {'steps': 100, 'evaluation_steps': 20, 'flops': 1e9, 'float32': {'fraction_of_peak': 0.5}}
    assert doctor.estimate(record, 1e10, 'float32') == pytest.approx(120 * 1e9 / 0.5 / 1e10)
    seconds = doctor.estimate(record, 1e10, 'float32')
    assert doctor.estimate(record, 5e9, 'float32') == pytest.approx(2 * seconds)


def test_the_doctor_estimates_the_time_of_each_config(monkeypatch, capsys, tmp_path):
    record = {'steps': 100, 'evaluation_steps': 20, 'flops': 1e9}
    record |= {dtype: {'fraction_of_peak': 0.5} for dtype in ('float32', 'bfloat16')}
    (tmp_path / 'speed.json').write_text(json.dumps({'config/train_x.py': record}), encoding='utf-8')
    monkeypatch.setattr(doctor, 'SPEED', tmp_path / 'speed.json')
    monkeypatch.setattr(doctor, 'peak_flops', lambda device, dtype: 2e9)
    doctor.print_speed()
    text = capsys.readouterr().out
    assert 'float32 2 GFLOP/s' in text and 'estimated' in text
    assert '2:00 min  python train.py config/train_x.py' in text


def test_a_run_logs_the_flops_of_a_step(launch, toy, tmp_path):
    code, text = launch('train.py', *TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a', '--max_iters=1')
    assert code == 0 and events(tmp_path / 'a', 'config')[0]['flops'] > 0, text
