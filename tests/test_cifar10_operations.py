"""results/cifar10_operations.py: its counts against sums over layers and against what is published."""
import importlib.util

import pytest
import torch

from conftest import ROOT
from models import cnn, mobilenet, mobinet, resnet
from sampling import save_run

spec = importlib.util.spec_from_file_location('cifar10_operations', ROOT / 'results/cifar10_operations.py')
SCRIPT = importlib.util.module_from_spec(spec)
spec.loader.exec_module(SCRIPT)


def sizes_of_blocks(net):
    """Return [(in_channels, out_channels, height of the output)] of each block, for images of 32 x 32."""
    sizes = []
    size = 32
    for block in net.blocks:
        size //= block.conv1.stride[0]
        sizes.append((block.norm1.num_features, block.norm2.num_features, size))
    return sizes


@pytest.mark.parametrize('k', [1, 4])
def test_the_counts_of_a_binary_network_are_sums_over_its_blocks(k):
    net = mobinet.Model(mobinet.Config(width=0.25, k=k))
    counts = SCRIPT.count(net, 32)
    weights = 0
    operations = 0
    for in_channels, out_channels, size in sizes_of_blocks(net):
        of_block = 9 * k * in_channels + in_channels * out_channels
        weights += of_block
        operations += of_block * size**2
    assert counts['binary weights'] == weights
    assert counts['binary operations'] == operations
    stem = 27 * 8 * 32**2
    head = 256 * 10
    assert counts['multiply-adds'] == operations + stem + head
    assert counts['operations'] == stem + head + operations // 64
    real = sum(p.numel() for p in net.parameters()) - weights
    assert counts['size in bits'] == 32 * real + weights


def test_the_first_stage_has_no_binary_weights():
    counts = SCRIPT.count(mobinet.Model(mobinet.Config(width=0.25, weights='real')), 32)
    assert counts['binary weights'] == counts['binary operations'] == 0
    assert counts['operations'] == counts['multiply-adds']


@pytest.mark.parametrize('net, multiply_adds', [
    (resnet.Model(resnet.Config(arch='resnet20')), 40_551_040),     # published: 41 million
    (cnn.Model(cnn.Config()), None)])
def test_a_real_network_has_no_binary_operations(net, multiply_adds):
    counts = SCRIPT.count(net, 32)
    assert counts['size in bits'] == 32 * counts['parameters']
    assert counts['binary operations'] == 0
    assert counts['operations'] == counts['multiply-adds']
    if multiply_adds:
        assert counts['multiply-adds'] == multiply_adds


def test_the_multiply_adds_of_mobilenet_are_the_sum_over_its_layers():
    channels = [32, 64, 128, 128, 256, 256] + 6 * [512] + 2 * [1024]
    sizes = [32, 16, 16, 8, 8] + 6 * [4] + 2 * [2]
    expected = 27 * 32 * 32**2 + 1024 * 10                          # stem and head
    for in_channels, out_channels, size in zip(channels, channels[1:], sizes):
        expected += (9 * in_channels + in_channels * out_channels) * size**2
    assert SCRIPT.count(mobilenet.Model(mobilenet.Config()), 32)['multiply-adds'] == expected


def test_the_table_has_a_row_for_each_run_folder_and_config_file(launch, tmp_path):
    torch.manual_seed(0)
    save_run(tmp_path / 'run', 'mobinet', mobinet.Model(mobinet.Config(width=0.125, n_class=5)))
    config = ROOT / 'config/train_cifar10_mobinet.py'
    code, text = launch('results/cifar10_operations.py', str(tmp_path / 'run'), str(config),
                        f'{config} --k=1 --width=0.5')
    assert code == 0, text
    header, line, *rows = text.strip().split('\n')
    assert header.startswith('| model | parameters | binary weights | size in bits | multiply-adds |')
    assert len(rows) == 3
    names = [row.split(' | ')[0].removeprefix('| ') for row in rows]
    assert names == [str(tmp_path / 'run'), str(config), f'{config} --k=1 --width=0.5']
    parameters = [int(row.split(' | ')[1].replace(',', '')) for row in rows]
    for n, fields in zip(parameters, (dict(width=0.125, n_class=5), {}, dict(k=1, width=0.5))):
        net = mobinet.Model(mobinet.Config(**fields))
        assert n == sum(p.numel() for p in net.parameters())


def test_without_a_model_it_says_what_to_give(launch):
    code, text = launch('results/cifar10_operations.py')
    assert code == 2
    assert 'of which models?' in text
