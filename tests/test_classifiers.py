"""models/cnn.py and models/resnet.py against torch's own layers, slow loops, worked examples and numpy.

The second half is for every classifier.
"""
import inspect
import itertools
import math
from importlib import import_module
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import cnn, resnet
from conftest import image_data

SMALL = {       # model -> the fields of a small Config
    'cnn': dict(width=8),
    'mobilenet': dict(width=0.25),
    'mobinet': dict(width=0.25),
    'resnet': dict(arch='resnet20'),
}
PARAMETERS = {      # ten classes, 3 x 3 stem; table 6 of He et al. (2015) has 0.27, 0.46, 0.66, 0.85 million
    'resnet20': 269_722,
    'resnet32': 464_154,
    'resnet44': 658_586,
    'resnet56': 853_018,
    'resnet18': 11_173_962,
    'resnet34': 21_282_122,
    'resnet50': 23_520_842,
}


def randomize(module):
    """Give a module random parameters and running statistics: initial zeros and ones hide mistakes."""
    for p in module.parameters():
        nn.init.normal_(p, std=0.3)
    for name, buffer in module.named_buffers():
        if 'running' in name:
            nn.init.uniform_(buffer, 0.5, 1.5)
    return module


def make(name, **fields):
    """Return a small model with random parameters and statistics, in training mode."""
    torch.manual_seed(0)
    module = import_module(f'models.{name}')
    config = module.Config(**SMALL[name] | fields)
    net = randomize(module.Model(config))
    if name == 'mobilenet':         # has no skips: with random statistics the signal would vanish
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = 1.0
        net.view_logits(torch.randn(8, config.channels, 16, 16))
    return net


def random_images(n, C=3, H=16, W=16, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (n, C, H, W), np.uint8)
    return torch.from_numpy(pixels)


# --- the stem of the small network

@pytest.mark.parametrize('sizes', [(2,), (3,), (5,), (3, 4), (1, 2, 2), (3, 2, 2), (4, 2, 2)])
def test_the_dct_basis_is_its_formula_written_with_loops(sizes):
    basis = cnn.dct_basis(*sizes)
    assert basis.shape == (math.prod(sizes), *sizes)
    positions = list(itertools.product(*map(range, sizes)))
    for row, frequencies in zip(basis, positions, strict=True):     # the last frequency changes fastest
        for position in positions:
            expected = 1.0
            for n, k, i in zip(sizes, frequencies, position):
                scale = math.sqrt(1 / n) if k == 0 else math.sqrt(2 / n)
                expected *= scale * math.cos(math.pi * k * (2 * i + 1) / (2 * n))
            assert row[position].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('sizes', [(2,), (5,), (3, 4), (1, 2, 2), (3, 2, 2), (4, 2, 2)])
def test_the_dct_basis_is_orthonormal_and_its_first_function_is_constant(sizes):
    n = math.prod(sizes)
    rows = cnn.dct_basis(*sizes).flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(n), atol=1e-6)
    assert torch.allclose(rows[0], torch.full((n,), n**-0.5), atol=1e-6)


def test_the_dct_basis_of_three_colours_is_brightness_red_blue_and_green_magenta():
    expected = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
    expected /= expected.norm(dim=1, keepdim=True)
    assert torch.allclose(cnn.dct_basis(3), expected, atol=1e-6)


def test_the_dct_basis_of_a_2_x_2_patch_is_its_mean_and_its_differences():
    mean = [[1, 1], [1, 1]]
    horizontal = [[1, -1], [1, -1]]
    vertical = [[1, 1], [-1, -1]]
    diagonal = [[1, -1], [-1, 1]]
    expected = torch.tensor([mean, horizontal, vertical, diagonal]) / 2
    assert torch.allclose(cnn.dct_basis(2, 2), expected, atol=1e-6)


def test_dct_coefficients_of_correlated_pixels_are_uncorrelated():
    pair = torch.tensor([[1.0, 0.9], [0.9, 1.0]])           # covariance of two neighbours
    covariance = torch.kron(pair, pair)                     # of a 2 x 2 patch
    basis = cnn.dct_basis(2, 2).flatten(1)
    coefficients = basis @ covariance @ basis.T
    assert torch.allclose(coefficients, coefficients.diagonal().diag(), atol=1e-6)


def test_the_stem_has_every_basis_function_with_both_signs_and_does_not_learn():
    net = make('cnn')
    assert torch.equal(net.stem[:12], cnn.dct_basis(3, 2, 2))
    assert torch.equal(net.stem[12:], -net.stem[:12])
    assert not net.stem.requires_grad
    assert not list(net.norm.parameters())


def test_constants_of_the_config_are_not_in_the_state_dict():
    names = make('cnn').state_dict().keys()
    assert 'norm.running_var' in names
    assert not {'stem', 'mean', 'std'} & names


# --- the small network

def test_new_filters_pass_their_input_on():
    x = torch.randn(2, 4, 5, 5)
    wider = cnn.Group(4, 6)
    assert torch.equal(wider.conv1(x)[:, :4], x)
    assert wider.conv1.weight[4:].std() > 0.05              # the others are random
    narrower = cnn.Group(4, 3)
    assert torch.equal(narrower.conv1(x), x[:, :3])
    same = torch.randn(2, 6, 5, 5)
    assert torch.equal(wider.conv2(same), same)


def as_layer(weight, padding):
    """Return a new Conv2d with this weight."""
    out_channels, in_channels, size, _ = weight.shape
    layer = nn.Conv2d(in_channels, out_channels, size, padding=padding, bias=False)
    layer.weight.copy_(weight)
    return layer


@pytest.mark.parametrize('training', [True, False])
@torch.no_grad()
def test_the_small_network_is_a_sequence_of_torchs_layers(training):
    net = make('cnn').train(training)
    layers = [as_layer(net.stem, padding=0), net.norm, nn.GELU()]
    for group in net.groups:
        layers += [as_layer(group.conv1.weight, padding=1), nn.MaxPool2d(2), group.norm1, nn.GELU()]
        layers += [as_layer(group.conv2.weight, padding=1), group.norm2, nn.GELU()]
    layers += [nn.AdaptiveMaxPool2d(1), nn.Flatten(), net.head]
    x = random_images(5, 3, 33, 17) / 255
    expected = nn.Sequential(*layers)(x)
    assert (net.view_logits(x) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_narrow_network_overfits_64_images():
    torch.manual_seed(0)
    net = cnn.Model(cnn.Config(width=16))
    assert sum(p.numel() for p in net.parameters()) < 200_000
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


# --- residual networks

def test_every_choice_of_arch_is_a_row_of_the_table():
    choices = get_args(resnet.Config.__annotations__['arch'])
    assert set(choices) == set(resnet.ARCHITECTURES) == set(PARAMETERS)


@pytest.mark.parametrize('arch', PARAMETERS)
def test_the_numbers_of_parameters_and_layers_are_those_published(arch):
    with torch.device('meta'):
        net = resnet.Model(resnet.Config(arch=arch))
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[arch]
    layers = [m for name, m in net.named_modules() if 'shortcut' not in name]
    depth = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in layers)
    assert arch == f'resnet{depth}'


@pytest.mark.parametrize('arch', PARAMETERS)
@torch.no_grad()
def test_each_stage_but_the_first_halves_the_image_and_doubles_the_width_in_its_first_block(arch):
    torch.manual_seed(0)
    net = resnet.Model(resnet.Config(arch=arch)).eval()
    nn.init.normal_(net.head.weight)
    outputs = []
    for block in net.blocks:
        block.register_forward_hook(lambda module, args, output: outputs.append(output))
    logits = net.view_logits(torch.randn(1, 3, 32, 32))
    expected = []
    first = {'resnet18': 64, 'resnet34': 64, 'resnet50': 256}.get(arch, 16)     # channels of the first stage
    depths = resnet.ARCHITECTURES[arch][2]
    for stage, depth in enumerate(depths):
        expected += depth * [(1, first * 2**stage, 32 // 2**stage, 32 // 2**stage)]
    assert [output.shape for output in outputs] == expected
    assert torch.allclose(logits, net.head(outputs[-1].mean((2, 3))), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('arch, kind', [('resnet20', resnet.ZeroPadShortcut), ('resnet18', nn.Sequential),
                                        ('resnet50', nn.Sequential)])
def test_a_shortcut_is_the_identity_unless_the_shape_changes(arch, kind):
    with torch.device('meta'):
        net = resnet.Model(resnet.Config(arch=arch))
    changes = 0
    for block in net.blocks:
        x = torch.empty(1, block.conv1.in_channels, 8, 8, device='meta')
        shape_changes = block(x).shape != x.shape
        assert type(block.shortcut) is (kind if shape_changes else nn.Identity)
        changes += shape_changes
    assert changes == {'resnet20': 2, 'resnet18': 3, 'resnet50': 4}[arch]


def reference_branch(block, in_channels, width, stride):
    """Return the convolutions of a block as a sequence of torch's own layers."""
    def layer(in_channels, out_channels, size, stride=1):
        conv = nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)
        return [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]

    if block is resnet.BasicBlock:
        layers = layer(in_channels, width, 3, stride) + layer(width, width, 3)
    else:
        layers = layer(in_channels, width, 1) + layer(width, width, 3, stride) + layer(width, 4 * width, 1)
    return nn.Sequential(*layers[:-1])          # the last ReLU comes after the sum


def zero_pad(x):
    """Return the shortcut without parameters, pixel by pixel."""
    B, C, H, W = x.shape
    out = torch.zeros(B, 2 * C, math.ceil(H / 2), math.ceil(W / 2))
    for b, c, i, j in itertools.product(range(B), range(C), range(0, H, 2), range(0, W, 2)):
        out[b, c, i // 2, j // 2] = x[b, c, i, j]
    return out


def reference_shortcut(shortcut, training):
    """Return what computes the same as a block's shortcut."""
    if isinstance(shortcut, nn.Identity):
        return lambda x: x
    if isinstance(shortcut, resnet.ZeroPadShortcut):
        return zero_pad
    conv = shortcut[0]
    theirs = nn.Conv2d(conv.in_channels, conv.out_channels, 1, conv.stride, bias=False)
    theirs = nn.Sequential(theirs, nn.BatchNorm2d(conv.out_channels)).train(training)
    theirs.load_state_dict(shortcut.state_dict())
    return theirs


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('kind, width, stride, shortcut', [
    (resnet.BasicBlock, 6, 1, nn.Identity),
    (resnet.BasicBlock, 12, 2, resnet.ZeroPadShortcut),
    (resnet.BasicBlock, 8, 2, nn.Sequential),
    (resnet.Bottleneck, 8, 1, nn.Sequential),
    (resnet.Bottleneck, 8, 2, nn.Sequential)])
def test_a_block_and_its_gradient_are_those_of_torchs_layers(kind, width, stride, shortcut, training):
    torch.manual_seed(0)
    in_channels = 6
    out_channels = kind.expansion * width
    name = 'zero-pad' if shortcut is resnet.ZeroPadShortcut else 'projection'
    block = randomize(kind(in_channels, width, stride, name)).train(training)
    assert type(block.shortcut) is shortcut

    branch = reference_branch(kind, in_channels, width, stride).train(training)
    weights = [value for name, value in block.state_dict().items() if 'shortcut' not in name]
    branch.load_state_dict(dict(zip(branch.state_dict(), weights, strict=True)))
    other = reference_shortcut(block.shortcut, training)

    x = torch.randn(3, in_channels, 7, 5)
    y = block(x)
    expected = F.relu(branch(x) + other(x))
    assert y.shape == (3, out_channels, math.ceil(7 / stride), math.ceil(5 / stride))
    assert (y - expected).abs().max() < 1e-5
    assert (expected > 0).any()

    direction = torch.randn_like(y)
    (y * direction).sum().backward()
    (expected * direction).sum().backward()
    ours = [p for name, p in block.named_parameters() if 'shortcut' not in name]
    for p, q in zip(ours, branch.parameters(), strict=True):
        assert (p.grad - q.grad).abs().max() < 1e-4 * (1 + q.grad.abs().max())


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('arch', ['resnet20', 'resnet18', 'resnet50'])
@torch.no_grad()
def test_every_block_starts_as_its_shortcut(arch, training):
    torch.manual_seed(0)
    net = resnet.Model(resnet.Config(arch=arch)).train(training)
    x = torch.rand(2, net.conv.out_channels, 8, 8)          # not negative, like the output of a ReLU
    for block in net.blocks:
        y = block(x)
        assert torch.equal(y, F.relu(block.shortcut(x)))
        if isinstance(block.shortcut, nn.Identity):
            assert torch.equal(y, x)
        x = y


def test_filters_have_the_standard_deviation_of_he_initialisation():
    torch.manual_seed(0)
    net = resnet.Model(resnet.Config(arch='resnet18'))
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.1)
            assert abs(module.weight.mean().item()) < 0.1 * math.sqrt(2 / fan_out)


def test_an_unknown_arch_raises_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match='resnet19') as error:
        resnet.Config(arch='resnet19')
    for arch in PARAMETERS:
        assert arch in str(error.value)


def test_train_with_an_unknown_arch_ends_with_code_2_and_the_list(launch, tmp_path):
    image_data(tmp_path / 'x')
    code, text = launch('train.py', '--model=resnet', '--arch=resnet19', f'--dataset={tmp_path}/x',
                        f'--out_dir={tmp_path}/run')
    assert code == 2, text
    assert 'Traceback' not in text
    assert not (tmp_path / 'run').exists()
    for arch in PARAMETERS:
        assert arch in text


# --- all classifiers

@pytest.mark.parametrize('method', ['logits', 'forward', 'metrics'])
def test_what_the_classifiers_repeat_is_the_same_line_by_line(method):
    sources = set()
    for name in SMALL:
        Model = import_module(f'models.{name}').Model
        sources.add(inspect.getsource(getattr(Model, method)))
    assert len(sources) == 1


@pytest.mark.parametrize('C', [1, 3, 4])
@pytest.mark.parametrize('name, H, W', [
    ('resnet', 8, 8), ('resnet', 28, 28), ('resnet', 33, 17),
    ('mobilenet', 8, 8), ('mobilenet', 33, 17), ('mobinet', 8, 8), ('mobinet', 33, 17),
    ('cnn', 9, 9), ('cnn', 28, 28), ('cnn', 33, 17)])
def test_images_may_have_any_size_and_number_of_channels(name, H, W, C):
    net = make(name, channels=C, mean=(0.5,) * C, std=(0.25,) * C, n_class=7)
    image = random_images(4, C, H, W)
    assert net.logits(image).shape == (4, 7)
    net(image, torch.arange(4))['loss'].backward()
    for p in net.parameters():
        assert torch.isfinite(p.grad).all()
    assert torch.isfinite(net.eval().logits(image[:1])).all()


@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
def test_images_are_normalised_with_the_mean_and_std_of_each_channel(name, monkeypatch):
    means = (0.5, 0.25, 0.75)
    stds = (0.1, 0.2, 0.3)
    net = make(name, mean=means, std=stds)
    monkeypatch.setattr(net, 'view_logits', lambda x: x)
    image = random_images(2)
    normalised = net.logits(image)
    for c in range(3):
        expected = (image[:, c].double() / 255 - means[c]) / stds[c]
        assert torch.allclose(normalised[:, c].double(), expected, atol=1e-5)


@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
def test_flip_averages_the_logits_of_the_image_and_its_mirror_image(name):
    plain = make(name).eval()
    flip = make(name, tta='flip').eval()
    image = random_images(5)
    expected = (plain.logits(image) + plain.logits(image.flip(3))) / 2
    assert torch.allclose(flip.logits(image), expected, atol=1e-5)
    assert not torch.allclose(flip.logits(image), plain.logits(image), atol=1e-2)


@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
def test_crop_averages_the_logits_of_the_image_and_two_shifts_each_with_its_mirror_image(name):
    plain = make(name).eval()
    crop = make(name, tta='crop').eval()
    image = random_images(5)
    n = image.size(3)
    padded = [1, *range(n), n - 2]                          # pixels of an axis, reflected at the border
    total = 0
    for start in (0, 1, 2):                                 # down and right, unmoved, up and left
        pixels = padded[start:start + n]
        view = image[:, :, pixels][:, :, :, pixels]
        total = total + plain.logits(view) + plain.logits(view.flip(3))
    assert torch.allclose(crop.logits(image), total / 6, atol=1e-5)
    assert not torch.allclose(crop.logits(image), plain.logits(image), atol=1e-2)


@pytest.mark.parametrize('tta', ['flip', 'crop'])
@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
def test_training_sees_one_view(name, tta):
    image = random_images(5)
    assert torch.equal(make(name, tta=tta).logits(image), make(name).logits(image))


@pytest.mark.parametrize('tta, n', [('none', 1), ('flip', 2), ('crop', 6)])
@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
def test_the_metrics_of_an_evaluation_have_the_number_of_views(name, tta, n, monkeypatch):
    net = make(name, tta=tta, n_class=3)
    views = []

    def view_logits(x):
        views.append(x)
        return x.mean((2, 3))                               # three channels instead of three logits

    monkeypatch.setattr(net, 'view_logits', view_logits)
    image = random_images(2)
    label = torch.tensor([1, 2])
    assert 'views' not in net.metrics(net(image, label))    # training
    views.clear()
    net.eval()
    assert net.metrics(net(image, label))['views'] == len(views) == n


TRUE = [0, 0, 1, 1, 1, 3, 3]                                # no image has class 2
PREDICTED = [0, 3, 1, 1, 0, 3, 3]


@pytest.mark.parametrize('cut', [0, 1, 3])
@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
def test_metrics_are_those_of_numpy_however_the_rows_are_split(name, cut, monkeypatch):
    net = make(name, n_class=4, label_smoothing=0.2).eval()
    logits = torch.randn(7, 4) + 9 * F.one_hot(torch.tensor(PREDICTED), 4)
    monkeypatch.setattr(net, 'logits', lambda image: logits[image.flatten().long()])
    image = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1)     # an image is the number of its row
    label = torch.tensor(TRUE)
    parts = [slice(0, cut), slice(cut, 7)] if cut else [slice(0, 7)]
    sums = [net(image[part], label[part]) for part in parts]
    total = {key: sum(part[key].double() for part in sums) for key in sums[0]}
    metrics = net.metrics(total)

    confusion = np.zeros((4, 4))
    np.add.at(confusion, (TRUE, PREDICTED), 1)
    assert np.array_equal(metrics['confusion'], confusion)
    assert confusion[1].tolist() == [1, 2, 0, 0]
    assert metrics['accuracy'].item() == pytest.approx(5 / 7)
    assert metrics['class_accuracy'].tolist() == pytest.approx([1 / 2, 2 / 3, 0, 1])
    scores = logits.double().numpy()
    log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    assert metrics['loss'].item() == pytest.approx(-log_p[np.arange(7), TRUE].mean(), rel=1e-5)


@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
def test_only_an_evaluation_counts_confusions(name):
    net = make(name)
    image = random_images(2)
    label = torch.tensor([1, 2])
    assert 'confusion' not in net(image, label)
    assert net.eval()(image, label)['confusion'].sum() == 2


@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
def test_label_smoothing_is_in_the_loss_that_is_minimised_and_not_in_the_reported_one(name):
    net = make(name, label_smoothing=0.2)
    image = random_images(5)
    label = torch.tensor([1, 7, 3, 0, 9])
    sums = net(image, label)
    log_p = net.logits(image).log_softmax(1)
    nll = F.nll_loss(log_p, label, reduction='sum')
    smoothed = 0.8 * nll - 0.2 * log_p.mean(1).sum()        # the target is 0.8 one-hot + 0.2 uniform
    assert sums['loss'].item() == pytest.approx(smoothed.item(), rel=1e-5)
    assert sums['loss'].item() != pytest.approx(nll.item(), rel=1e-3)
    assert net.metrics(sums)['loss'].item() == pytest.approx(nll.item() / 5, rel=1e-5)


@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
def test_without_label_smoothing_the_loss_is_the_negative_log_likelihood(name):
    sums = make(name)(random_images(5), torch.tensor([1, 7, 3, 0, 9]))
    assert torch.equal(sums['loss'], sums['nll'])


# --- check(config)

@pytest.mark.parametrize('name, fields, message', [
    ('cnn', dict(n_class=0), 'n_class'),
    ('cnn', dict(channels=0, mean=(), std=()), 'channels'),
    ('cnn', dict(width=0), 'width must be at least 1, got 0'),
    ('cnn', dict(label_smoothing=1.0), r'label_smoothing must be in \[0, 1\), got 1.0'),
    ('cnn', dict(label_smoothing=-0.1), 'label_smoothing'),
    ('cnn', dict(channels=1), 'channels is 1, mean has 3, std 3'),
    ('cnn', dict(mean=(0.5,)), 'channels is 3, mean has 1, std 3'),
    ('cnn', dict(std=(0.5,)), 'channels is 3, mean has 3, std 1'),
    ('cnn', dict(size=(8, 28)), r'\(8, 28\) pixels are too small: expected at least 9 x 9'),
    ('mobilenet', dict(width=0.03), 'width must be at least 1/32, got 0.03'),
    ('mobilenet', dict(label_smoothing=1.0), 'label_smoothing'),
    ('mobinet', dict(k=3), '32 . width must be a multiple of k, got width 1.0 and k 3'),
    ('mobinet', dict(k=0), 'multiple of k, got width 1.0 and k 0'),
    ('mobinet', dict(width=0.0625), 'multiple of k, got width 0.0625 and k 4'),
    ('mobinet', dict(width=0.3, k=1), 'multiple of k, got width 0.3 and k 1'),
    ('mobinet', dict(label_smoothing=1.0), 'label_smoothing'),
    ('resnet', dict(n_class=0), 'n_class'),
    ('resnet', dict(channels=0, mean=(), std=()), 'channels'),
    ('resnet', dict(label_smoothing=1.0), 'label_smoothing'),
    ('resnet', dict(label_smoothing=-0.1), 'label_smoothing'),
    ('resnet', dict(channels=1), 'channels is 1, mean has 3, std 3'),
    ('resnet', dict(std=(0.5,)), 'channels is 3, mean has 3, std 1')])
def test_an_impossible_config_raises_an_error(name, fields, message):
    with pytest.raises(ValueError, match=message):
        import_module(f'models.{name}').Config(**fields)


@pytest.mark.parametrize('name', SMALL)
def test_an_error_has_a_line_for_every_problem(name):
    with pytest.raises(ValueError) as error:
        import_module(f'models.{name}').Config(n_class=0, label_smoothing=1.0, std=(0.5,))
    lines = str(error.value).split('\n')
    assert len(lines) == 3
    for line, field in zip(lines, ('n_class', 'label_smoothing', 'std')):
        assert field in line


def test_the_smallest_image_of_the_small_network_is_9_x_9():
    cnn.Config(size=(9, 9))
