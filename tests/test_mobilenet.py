"""models/mobilenet.py: its convolutions against loops, its shapes, its size; it overfits a batch."""
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from core import optim
from models import mobilenet
from test_classifiers import random_images, randomize


def normalized(norm, x):
    """Return F.relu of batch normalisation in training, from its formula."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = x.var((0, 2, 3), correction=0, keepdim=True)
    scaled = (x - mean) / (variance + norm.eps).sqrt()
    return F.relu(norm.weight[:, None, None] * scaled + norm.bias[:, None, None])


@pytest.mark.parametrize('stride', [1, 2])
@torch.no_grad()
def test_a_separable_convolution_is_one_filter_per_channel_and_then_a_matrix_for_each_pixel(stride):
    torch.manual_seed(0)
    block = randomize(mobilenet.SeparableConv(6, 10, stride))
    x = torch.randn(3, 6, 9, 7)
    channels = []
    for c in range(6):
        filtered = F.conv2d(x[:, c:c + 1], block.depthwise.weight[c:c + 1], stride=stride, padding=1)
        channels.append(filtered)
    y = normalized(block.norm1, torch.cat(channels, 1))
    matrix = block.pointwise.weight.view(10, 6)
    expected = normalized(block.norm2, torch.einsum('oc,bchw->bohw', matrix, y))
    assert (block(x) - expected).abs().max() < 1e-4


def test_it_has_the_known_number_of_parameters():
    with torch.device('meta'):
        net = mobilenet.Model(mobilenet.Config())
    assert sum(p.numel() for p in net.parameters()) == 3_217_226


@pytest.mark.parametrize('width', [1.0, 0.5])
@torch.no_grad()
def test_four_blocks_halve_the_image_and_the_channels_are_those_of_table_1_times_the_width(width):
    net = mobilenet.Model(mobilenet.Config(width=width)).eval()
    outputs = []
    for block in net.blocks:
        block.register_forward_hook(lambda module, args, output: outputs.append(output.shape[1:]))
    net.view_logits(torch.randn(1, 3, 32, 32))
    channels = [64, 128, 128, 256, 256] + 6 * [512] + 2 * [1024]
    sizes = [32, 16, 16, 8, 8] + 6 * [4] + 2 * [2]
    expected = [(int(width * n), size, size) for n, size in zip(channels, sizes)]
    assert [tuple(shape) for shape in outputs] == expected


@torch.no_grad()
def test_it_costs_the_fraction_of_multiply_adds_that_the_docstring_says():
    n = 64
    x = torch.randn(1, 32, 8, 8)
    counts = []
    for module in mobilenet.SeparableConv(32, n, 1).eval(), nn.Conv2d(32, n, 3, padding=1):
        with FlopCounterMode(display=False) as counter:
            module(x)
        counts.append(counter.get_total_flops())
    assert counts[0] / counts[1] == pytest.approx(1 / n + 1 / 9)


def test_every_filter_starts_with_the_standard_deviation_of_he_initialisation():
    torch.manual_seed(0)
    for name, module in mobilenet.Model(mobilenet.Config()).named_modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()       # 9 for a depthwise convolution
            assert module.weight.std().item() == pytest.approx((2 / fan_in)**0.5, rel=0.15), name


def test_muon_takes_the_pointwise_convolutions():
    net = mobilenet.Model(mobilenet.Config(width=0.25))
    _, muon = optim.make_optimizers(net, 'muon', 1e-2, 0.1, (0.9, 0.99), 0.6, 'float32')
    taken = {id(p) for p in muon.param_groups[0]['params']}
    assert taken == {id(block.pointwise.weight) for block in net.blocks}


def test_a_narrow_network_overfits_64_images():
    torch.manual_seed(0)
    net = mobilenet.Model(mobilenet.Config(width=0.25))
    batch = {'image': random_images(64), 'label': torch.randint(0, 10, (64,))}
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(60):
        sums = net(**batch)
        optimizer.zero_grad()
        (sums['loss'] / sums['count']).backward()
        optimizer.step()
    with torch.no_grad():
        metrics = net.metrics(net(**batch))
    assert metrics['accuracy'] == 1
    assert metrics['loss'] < 0.1
