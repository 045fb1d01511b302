"""models/mobinet.py: all its blocks compute is binary, its gradients are their formulas, its skips skip."""
from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

from conftest import image_data
from core import optim
from core.checkpoint import load
from models import mobilenet, mobinet
from test_classifiers import random_images, randomize


def make_block(in_channels=8, out_channels=8, stride=1, **fields):
    torch.manual_seed(0)
    return randomize(mobinet.Block(in_channels, out_channels, stride, mobinet.Config(**fields)))


def make(**fields):
    torch.manual_seed(0)
    return randomize(mobinet.Model(mobinet.Config(width=0.25, **fields)))


# --- signs and their gradients

def test_the_sign_of_zero_is_one():
    x = torch.tensor([-2.0, -1e-30, -0.0, 0.0, 1e-30, 2.0])
    assert mobinet.Sign.apply(x).tolist() == [-1, -1, 1, 1, 1, 1]
    weight = torch.tensor([0.0, -3.0]).view(1, 2, 1, 1)
    assert mobinet.binarize(weight).flatten().tolist() == [1.5, -1.5]


def test_the_gradient_of_a_sign_is_piecewise_linear():
    x = torch.tensor([-1.5, -1.0, -0.75, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0], requires_grad=True)
    factor = torch.arange(1.0, 10.0)
    (mobinet.Sign.apply(x) * factor).sum().backward()
    slope = torch.tensor([0.0, 0.0, 0.5, 1.5, 2.0, 1.5, 1.0, 0.0, 0.0])         # 2 - 2 |x| in [-1, 1]
    assert torch.equal(x.grad, slope * factor)


def test_the_gradient_of_a_sign_is_that_of_a_function_close_to_it():
    x = torch.linspace(-0.99, 0.99, 100, requires_grad=True)
    smooth = x * (2 - x.abs())
    expected, = torch.autograd.grad(smooth.sum(), x)
    found, = torch.autograd.grad(mobinet.Sign.apply(x).sum(), x)
    assert torch.allclose(found, expected, atol=1e-6)
    assert (smooth - mobinet.Sign.apply(x)).abs().mean() < (x - mobinet.Sign.apply(x)).abs().mean()


def test_a_binary_weight_is_the_mean_size_of_its_output_channel_times_its_sign():
    torch.manual_seed(0)
    weight = torch.randn(5, 4, 3, 3)
    binary = mobinet.binarize(weight)
    for o in range(5):
        size = weight[o].abs().mean()
        assert torch.equal(binary[o], torch.where(weight[o] >= 0, size, -size))


def test_the_gradient_of_a_binary_weight_passes_where_the_weight_is_at_most_one():
    weight = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 3.0]).view(2, 4, 1, 1).requires_grad_()
    factor = torch.arange(1.0, 9.0).view(2, 4, 1, 1)
    (mobinet.binarize(weight) * factor).sum().backward()
    assert weight.grad.flatten().tolist() == [0, 2, 3, 4, 5, 6, 0, 0]


# --- all that the blocks multiply is binary

@pytest.fixture
def convolutions(monkeypatch):
    """A list to which every convolution adds its (input, weight)."""
    calls = []
    convolve = F.conv2d

    def recorded(x, weight, *arguments, **keywords):
        calls.append((x, weight))
        return convolve(x, weight, *arguments, **keywords)

    monkeypatch.setattr(F, 'conv2d', recorded)
    return calls


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('weights', ['binary', 'real'])
@torch.no_grad()
def test_blocks_multiply_signs_with_weights_of_two_values_per_output_channel(
        convolutions, weights, training, dtype):
    net = make(weights=weights).train(training)
    with torch.autocast('cpu', dtype) if dtype == torch.bfloat16 else nullcontext():
        net.logits(random_images(2))
    of_blocks = convolutions[1:]                # the first one is the stem
    assert len(of_blocks) == 2 * len(net.blocks)
    for x, weight in of_blocks:
        assert x.unique().tolist() == [-1, 1]
        for channel in weight.to(dtype):
            values = channel.unique().tolist()
            if weights == 'binary':
                assert len(values) <= 2
                assert values[0] == -values[-1] or len(values) == 1
            else:
                assert len(values) > 2


@pytest.mark.parametrize('k', [1, 2, 4])
@torch.no_grad()
def test_a_binary_3_x_3_convolution_with_k_inputs_has_9_k_plus_1_values(k):
    conv = make_block(64, 64, k=k).conv1
    y = conv(torch.randn(8, 64, 16, 16))
    scale = conv.weight.abs().mean((1, 2, 3))[:, None, None]
    values = (y / scale).round().unique().int().tolist()        # y / scale is a sum of 9 k signs
    assert set(values) <= set(range(-9 * k, 9 * k + 1, 2))
    assert 9 * k / 2 < len(values) <= 9 * k + 1


@pytest.mark.parametrize('k', [1, 2, 4])
@torch.no_grad()
def test_an_output_channel_of_a_3_x_3_convolution_sees_k_inputs(k):
    conv = make_block(8, 8, k=k).conv1
    x = torch.randn(2, 8, 6, 6)
    for c in range(8):
        changed = x.clone()
        changed[:, c] = -changed[:, c] - 2 * conv.b[c]          # the sign of x + b changes
        difference = (conv(changed) - conv(x)).abs().amax((0, 2, 3))
        first = c // k * k
        assert difference.nonzero().flatten().tolist() == list(range(first, first + k))


# --- blocks

def reference_block(block, x, before, after):
    """Return a block in the order of ReActNet, with a bias `before` and one `after` each PReLU, in floats."""
    def part(x, conv, norm):
        signs = torch.where(x + conv.b >= 0, 1.0, -1.0)
        if conv.kernel_size == (3, 3):
            signs = F.pad(signs, (1, 1, 1, 1), value=1.0)
        size = conv.weight.abs().mean((1, 2, 3), keepdim=True)
        weight = torch.where(conv.weight >= 0, size, -size)
        return norm(F.conv2d(signs, weight, stride=conv.stride, groups=conv.groups))

    pooled = F.avg_pool2d(x, 2) if block.conv1.stride == (2, 2) else x
    y = part(x, block.conv1, block.norm1)
    if block.block in ('pre', 'both'):
        y = y + pooled
    y = F.prelu(y + before, block.prelu1.weight) + after
    z = part(y, block.conv2, block.norm2)
    skipped = {'post': y, 'both': y, 'mid': pooled}.get(block.block)
    if skipped is not None:
        z = z + (skipped if z.shape == skipped.shape else torch.cat([skipped, skipped], 1))
    return F.prelu(z + before, block.prelu2.weight) + after


@pytest.mark.parametrize('kind', ['none', 'pre', 'mid', 'post', 'both'])
@pytest.mark.parametrize('out_channels, stride', [(8, 1), (16, 1), (8, 2), (16, 2)])
@torch.no_grad()
def test_a_block_is_its_steps_one_by_one(kind, out_channels, stride):
    block = make_block(8, out_channels, stride, block=kind)
    x = torch.randn(4, 8, 6, 6)
    y = block(x)
    assert y.shape == (4, out_channels, 6 // stride, 6 // stride)
    assert torch.allclose(y, reference_block(block, x, 0.0, 0.0), atol=1e-5)


@pytest.mark.parametrize('kind', ['none', 'pre', 'mid', 'post', 'both'])
@torch.no_grad()
def test_the_two_further_biases_of_reactnet_add_nothing(kind):
    block = make_block(block=kind)
    x = torch.randn(4, 8, 6, 6)
    before = 0.3
    after = -0.2
    expected = reference_block(block, x, before, after)
    block.norm1.bias += before                  # what a block without these biases learns instead
    block.norm2.bias += before
    block.conv2.b += after
    if kind in ('post', 'both'):
        block.norm2.bias += after               # the skip of y has lost it
    assert torch.allclose(block(x) + after, expected, atol=1e-5)     # the last: of the next block


@pytest.mark.parametrize('kind', ['pre', 'mid', 'post', 'both'])
@torch.no_grad()
def test_a_skip_carries_its_input_unchanged_when_the_branch_is_zero(kind):
    block = mobinet.Block(8, 8, 1, mobinet.Config(block=kind))      # new: what is skipped starts as zero
    between = []
    block.conv2.register_forward_hook(lambda module, args, output: between.append(args[0]))
    x = torch.randn(4, 8, 6, 6)
    y = block(x)
    assert torch.equal(between[0], x) == (kind in ('pre', 'both'))
    assert torch.equal(y, between[0]) == (kind in ('post', 'both'))
    assert torch.equal(y, x) == (kind in ('mid', 'both'))


@torch.no_grad()
def test_a_skip_past_a_stride_is_the_mean_of_four_pixels_and_past_more_channels_a_copy_of_each():
    block = mobinet.Block(8, 16, 2, mobinet.Config(block='mid'))
    x = torch.randn(4, 8, 6, 6)
    mean = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    assert torch.allclose(block(x), torch.cat([mean, mean], 1), atol=1e-6)


# --- the network

@pytest.mark.parametrize('k', [1, 2, 4])
def test_the_number_of_parameters_follows_from_that_of_mobilenet(k):
    with torch.device('meta'):
        net = mobinet.Model(mobinet.Config(k=k))
        ordinary = mobilenet.Model(mobilenet.Config())
    expected = sum(p.numel() for p in ordinary.parameters())
    for block in net.blocks:
        in_channels = block.norm1.num_features
        out_channels = block.norm2.num_features
        expected += (k - 1) * 9 * in_channels               # more inputs of the 3 x 3 convolution
        expected += 2 * in_channels                         # b of both signs
        expected += in_channels + out_channels              # slopes of PReLU
    assert sum(p.numel() for p in net.parameters()) == expected


def test_the_second_stage_starts_from_the_weights_of_the_first(launch, tmp_path):
    image_data(tmp_path / 'images')
    small = (f'--dataset={tmp_path}/images', '--width=0.125', '--batch_size=8', '--max_iters=1',
             '--eval_interval=1', '--device=cpu')
    config = 'config/train_cifar10_mobinet.py'
    code, text = launch('train.py', config, *small, '--weights=real', f'--out_dir={tmp_path}/real')
    assert code == 0, text
    code, text = launch('train.py', config, *small, f'--init_from={tmp_path}/real', '--learning_rate=1e-9',
                        f'--out_dir={tmp_path}/binary')
    assert code == 0, text
    assert 'not taken' not in text
    first = load(tmp_path / 'real')
    second = load(tmp_path / 'binary')
    assert (first.config.weights, second.config.weights) == ('real', 'binary')
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


@torch.no_grad()
def test_without_bias_and_slope_neither_is_learned_and_neither_does_anything():
    net = mobinet.Model(mobinet.Config(width=0.25, sign_bias=False, prelu=False))
    for block in net.blocks:
        for conv in block.conv1, block.conv2:
            assert conv.weight.requires_grad
            assert not conv.b.requires_grad
            assert not conv.b.any()
        for prelu in block.prelu1, block.prelu2:
            assert not prelu.weight.requires_grad
            x = torch.randn(2, prelu.num_parameters, 3, 3)
            assert torch.equal(prelu(x), x)


def test_latent_weights_of_all_convolutions_are_decayed_and_biases_and_slopes_are_not():
    net = make()
    adamw, = optim.make_optimizers(net, 'adamw', 1e-2, 0.1, (0.9, 0.99), 0.6, 'float32')
    decayed = {id(p) for group in adamw.param_groups if group['weight_decay'] for p in group['params']}
    assert decayed == {id(p) for p in net.parameters() if p.dim() in (2, 4)}


def test_a_narrow_binary_network_overfits_64_images():
    torch.manual_seed(0)
    net = mobinet.Model(mobinet.Config(width=0.25))
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
    assert metrics['loss'] < 0.2
