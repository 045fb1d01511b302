"""models/cnn.py and models/resnet.py against torch's own layers, worked examples and numpy."""
import math
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import cnn, resnet
from test_augment import pictures

SMALL = {'cnn': dict(width=8), 'resnet': dict(arch='resnet20')}
COUNTS = {'resnet18': 11_173_962, 'resnet34': 21_282_122, 'resnet50': 23_520_842, 'resnet20': 269_722,
          'resnet32': 464_154, 'resnet44': 658_586, 'resnet56': 853_018}


def shake(module):
    """Weights and running statistics away from their initialisation, where zeros and ones hide much."""
    for p in module.parameters():
        nn.init.normal_(p, std=0.3)
    for name, buffer in module.named_buffers():
        if 'running' in name:
            nn.init.uniform_(buffer, 0.5, 1.5)
    return module


def make(name, **fields):
    """A model away from its initialisation."""
    torch.manual_seed(0)
    module = import_module(f'models.{name}')
    return shake(module.Model(module.Config(**SMALL[name] | fields)))


def images(n, C=3, H=16, W=16, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, C, H, W), np.uint8))


def test_images_that_three_halvings_leave_nothing_of_are_refused():
    cnn.Config(size=(9, 9))
    with pytest.raises(ValueError, match='images of 8 x 28 pixels are too small: expected 9'):
        cnn.Config(size=(8, 28))


@pytest.mark.parametrize('training', [True, False])
@torch.no_grad()
def test_the_small_network_is_torchs_layers(training):
    net = make('cnn').train(training)

    def conv(weight, padding):
        layer = nn.Conv2d(weight.size(1), weight.size(0), weight.size(2), padding=padding, bias=False)
        layer.weight.copy_(weight)
        return layer
    layers = [conv(net.patch, 0), net.norm, nn.GELU()]
    for group in net.groups:
        layers += [conv(group.conv1.weight, 1), nn.MaxPool2d(2), group.norm1, nn.GELU(),
                   conv(group.conv2.weight, 1), group.norm2, nn.GELU()]
    theirs, x = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), net.head), images(5, 3, 33, 17)
    expected = theirs(x / 255)
    assert (net.look(x / 255) - expected).abs().max() < 1e-4 * expected.abs().max()


# --- residual networks

@pytest.mark.parametrize('arch', COUNTS)
@torch.no_grad()
def test_each_stage_but_the_first_halves_the_image_in_its_first_block(arch):
    torch.manual_seed(0)
    net, seen = resnet.Model(resnet.Config(arch=arch)).eval(), []
    nn.init.normal_(net.head.weight)
    for block in net.blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(out))
    logits, (kind, stages) = net.look(torch.randn(1, 3, 32, 32)), resnet.ARCHITECTURES[arch]
    assert [tuple(out.shape) for out in seen] == [
        (1, kind.expansion * width, 32 >> i, 32 >> i)
        for i, (width, depth) in enumerate(stages.items()) for _ in range(depth)]
    assert torch.allclose(logits, net.head(seen[-1].mean((2, 3))), rtol=1e-4, atol=1e-4)


def torchs(inner, width, stride, kind):
    """The branch of a block in torch's own layers."""
    def layer(inner, outer, size, stride=1):
        conv = nn.Conv2d(inner, outer, size, stride, padding=size // 2, bias=False)
        return [conv, nn.BatchNorm2d(outer), nn.ReLU()]
    layers = (layer(inner, width, 3, stride) + layer(width, width, 3) if kind is resnet.Basic else
              layer(inner, width, 1) + layer(width, width, 3, stride) + layer(width, 4 * width, 1))
    return nn.Sequential(*layers[:-1])


def padded(x, more):
    """The shortcut without parameters, pixel by pixel."""
    B, C, H, W = x.shape
    out = torch.zeros(B, C + more, (H + 1) // 2, (W + 1) // 2)
    for b in range(B):
        for c in range(C):
            for y in range(0, H, 2):
                for z in range(0, W, 2):
                    out[b, c, y // 2, z // 2] = x[b, c, y, z]
    return out


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('kind, stride, shortcut', [
    (resnet.Basic, 1, 'identity'), (resnet.Basic, 2, 'pad'), (resnet.Basic, 2, 'project'),
    (resnet.Bottleneck, 1, 'project'), (resnet.Bottleneck, 2, 'project')])
def test_a_block_is_torchs_layers(kind, stride, shortcut, training):
    torch.manual_seed(0)
    inner, width = 6, 6 if shortcut == 'identity' else 8
    outer = kind.expansion * width
    ours = {'identity': nn.Identity, 'pad': lambda: resnet.Pad(outer - inner),
            'project': lambda: resnet.project(inner, outer, stride)}[shortcut]()
    block = shake(kind(inner, width, stride, ours)).train(training)
    branch = torchs(inner, width, stride, kind).train(training)
    own = [value for name, value in block.state_dict().items() if not name.startswith('shortcut')]
    branch.load_state_dict(dict(zip(branch.state_dict(), own, strict=True)))
    other = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))
    other.train(training)
    if shortcut == 'project':
        other.load_state_dict(block.shortcut.state_dict())
    x = torch.randn(3, inner, 7, 5)
    theirs = {'identity': lambda: x, 'pad': lambda: padded(x, outer - inner), 'project': lambda: other(x)}
    found, expected = block(x), F.relu(branch(x) + theirs[shortcut]())
    assert found.shape == (3, outer, -(-7 // stride), -(-5 // stride))
    assert (found - expected).abs().max() < 1e-5 and (expected > 0).any()
    direction = torch.randn_like(found)
    (found * direction).sum().backward(), (expected * direction).sum().backward()
    own = [p for name, p in block.named_parameters() if not name.startswith('shortcut')]
    for p, q in zip(own, branch.parameters(), strict=True):
        assert (p.grad - q.grad).abs().max() < 1e-4 * (1 + q.grad.abs().max())


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('arch', ['resnet20', 'resnet18', 'resnet50'])
@torch.no_grad()
def test_every_block_begins_as_its_shortcut(arch, training):
    torch.manual_seed(0)
    net, plain = resnet.Model(resnet.Config(arch=arch)).train(training), 0
    x = torch.rand(2, net.conv.out_channels, 8, 8)              # what a ReLU leaves is not negative
    for block in net.blocks:
        y = block(x)
        plain += torch.equal(y, x)
        assert torch.equal(y, F.relu(block.shortcut(x)))
        x = y
    assert plain == sum(isinstance(block.shortcut, nn.Identity) for block in net.blocks) > 0


@pytest.mark.parametrize('arch', COUNTS)
def test_parameters_are_as_many_as_published(arch):
    with torch.device('meta'):
        net = resnet.Model(resnet.Config(arch=arch))
    assert sum(p.numel() for p in net.parameters()) == COUNTS[arch]
    layers = [m for name, m in net.named_modules() if 'shortcut' not in name]
    depth = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in layers)
    assert depth == int(arch.removeprefix('resnet')) and COUNTS.keys() == resnet.ARCHITECTURES.keys()


def test_an_arch_that_does_not_exist_is_refused_with_the_list(launch, tmp_path):
    with pytest.raises(ValueError, match='resnet19') as refused:
        resnet.Config(arch='resnet19')
    pictures(tmp_path / 'x')
    code, text = launch('train.py', '--model=resnet', '--arch=resnet19', f'--dataset={tmp_path}/x',
                        f'--out_dir={tmp_path}/run')
    assert code == 2 and 'Traceback' not in text and not (tmp_path / 'run').exists(), text
    for arch in COUNTS:
        assert arch in str(refused.value) and arch in text


# --- the stem of the small network

@pytest.mark.parametrize('sizes', [(2,), (5,), (3, 4), (1, 2, 2), (3, 2, 2), (4, 2, 2)])
def test_cosines_are_orthogonal_and_the_first_is_constant(sizes):
    basis, n = cnn.cosines(*sizes), math.prod(sizes)
    assert basis.shape == (n, *sizes)
    rows = basis.flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(n), atol=1e-6)
    assert torch.allclose(rows[0], torch.full((n,), n**-0.5), atol=1e-6)


def test_cosines_are_the_worked_examples():
    two, three = torch.tensor([[1, 1], [1, -1]]) / 2**0.5, torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]])
    three /= three.norm(dim=1, keepdim=True)            # brightness, red - blue, green - magenta
    assert torch.allclose(cnn.cosines(2), two, atol=1e-6) and torch.allclose(cnn.cosines(3), three, atol=1e-6)
    square = torch.tensor([[[1, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]]) / 2
    assert torch.allclose(cnn.cosines(2, 2), square, atol=1e-6)
    for k, (c, y, x) in enumerate((c, y, x) for c in range(3) for y in range(2) for x in range(2)):
        product = three[c][:, None, None] * two[y][None, :, None] * two[x][None, None, :]
        assert torch.allclose(cnn.cosines(3, 2, 2)[k], product, atol=1e-6)


def test_the_stem_sees_each_pattern_and_its_negative_and_learns_nothing():
    net = make('cnn')
    assert torch.equal(net.patch[:12], cnn.cosines(3, 2, 2)) and torch.equal(net.patch[12:], -net.patch[:12])
    learned = {id(p) for p in net.parameters()}
    assert not any(id(t) in learned for t in (net.patch, *net.norm.parameters()))
    names = net.state_dict().keys()
    assert 'norm.running_var' in names and not {'patch', 'mean', 'std'} & names


def test_filters_begin_as_the_identity():
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(cnn.Conv(4, 6)(x)[:, :4], x) and torch.equal(cnn.Conv(4, 3)(x), x[:, :3])


def test_a_narrow_one_learns_64_pictures_by_heart():
    torch.manual_seed(0)
    net = cnn.Model(cnn.Config(width=16))
    assert sum(p.numel() for p in net.parameters()) < 200_000
    batch = {'image': images(64), 'label': torch.randint(0, 10, (64,))}
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(60):
        sums = net(**batch)
        optimizer.zero_grad()
        (sums['loss'] / sums['count']).backward()
        optimizer.step()
    with torch.no_grad():
        metrics = net.metrics(net(**batch))
    assert metrics['accuracy'] == 1 and metrics['loss'] < 0.1


# --- what both do

@pytest.mark.parametrize('C', [1, 3, 4])
@pytest.mark.parametrize('name, H, W', [
    ('resnet', 8, 8), ('resnet', 28, 28), ('resnet', 33, 17),
    ('cnn', 9, 9), ('cnn', 28, 28), ('cnn', 33, 17)])       # the least that three halvings leave a pixel of
def test_images_of_any_size_and_number_of_channels(name, H, W, C):
    net = make(name, channels=C, mean=(0.5,) * C, std=(0.25,) * C, n_class=7)
    batch = {'image': images(4, C, H, W), 'label': torch.arange(4)}
    assert net.logits(batch['image']).shape == (4, 7)
    net(**batch)['loss'].backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())
    assert torch.isfinite(net.eval().logits(batch['image'][:1])).all()


@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
def test_images_are_normalised_as_the_data_set_says(name):
    net, seen = make(name, mean=(0.5, 0.25, 0.75), std=(0.1, 0.2, 0.3)), []
    net.look = lambda x: seen.append(x) or x.mean((2, 3))
    image = images(2)
    net.logits(image)
    for c, (mean, std) in enumerate(zip((0.5, 0.25, 0.75), (0.1, 0.2, 0.3))):
        expected = (image[:, c].double() / 255 - mean) / std
        assert torch.allclose(seen[0][:, c].double(), expected, atol=1e-5)


@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
def test_the_mirrored_image_counts_in_evaluation_alone(name):
    plain, both, image = make(name), make(name, tta='flip'), images(5)
    assert torch.equal(both.train().logits(image), plain.train().logits(image))
    plain.eval(), both.eval()
    expected = (plain.logits(image) + plain.logits(image.flip(3))) / 2
    assert torch.allclose(both.logits(image), expected, atol=1e-5)
    assert not torch.allclose(both.logits(image), plain.logits(image), atol=1e-2)


@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
def test_an_evaluation_says_how_many_views_it_averaged(name):
    for tta, n in ('none', 1), ('flip', 2), ('crop', 6):
        net = make(name, tta=tta).eval()
        assert net.metrics(net(images(2), torch.tensor([1, 2])))['views'] == n
        assert 'views' not in net.metrics(net.train()(images(2), torch.tensor([1, 2])))


@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
def test_crops_are_the_image_and_its_two_shifts_each_mirrored(name):
    plain, crops, image = make(name).eval(), make(name, tta='crop').eval(), images(5)
    n = image.size(3)
    pixels = [1, *range(n), n - 2]                      # reflected at the border
    views = [image[:, :, pixels[i:i + n]][:, :, :, pixels[i:i + n]] for i in (1, 2, 0)]
    expected = sum(plain.logits(view) + plain.logits(view.flip(3)) for view in views) / 6
    assert torch.allclose(crops.logits(image), expected, atol=1e-5)
    assert torch.equal(crops.train().logits(image), plain.train().logits(image))


TRUE, PREDICTED = [0, 0, 1, 1, 1, 3, 3], [0, 3, 1, 1, 0, 3, 3]         # nothing is of class 2


@pytest.mark.parametrize('cut', [0, 1, 3])
@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
def test_metrics_are_numpys_however_the_rows_are_shared(name, cut):
    net = make(name, n_class=4, label_smoothing=0.2).eval()
    logits = torch.randn(7, 4) + 9 * F.one_hot(torch.tensor(PREDICTED), 4)
    net.logits = lambda image: logits[image[:, 0, 0, 0].long()]
    image, label = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1), torch.tensor(TRUE)
    shares = [slice(None, cut), slice(cut, None)] if cut else [slice(None)]
    sums = [net(image[share], label[share]) for share in shares]
    metrics = net.metrics({key: sum(part[key].double() for part in sums) for key in sums[0]})
    confusion = np.zeros((4, 4))
    np.add.at(confusion, (TRUE, PREDICTED), 1)
    assert np.array_equal(metrics['confusion'], confusion) and confusion[1].tolist() == [1, 2, 0, 0]
    assert metrics['accuracy'].item() == pytest.approx(5 / 7)
    assert metrics['class_accuracy'].tolist() == pytest.approx([1 / 2, 2 / 3, 0, 1])
    shifted = logits.double().numpy() - logits.double().numpy().max(1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    assert metrics['loss'].item() == pytest.approx(-logp[np.arange(7), TRUE].mean(), rel=1e-5)
    assert 'confusion' not in net.train()(image, label)


@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
def test_label_smoothing_is_minimised_and_never_reported(name):
    net, label = make(name, label_smoothing=0.2), torch.tensor([1, 7, 3, 0, 9])
    sums, logp = net(images(5), label), net.logits(images(5)).log_softmax(1)
    nll = F.nll_loss(logp, label, reduction='sum')
    assert sums['loss'].item() == pytest.approx((0.8 * nll - 0.2 * logp.mean(1).sum()).item(), rel=1e-5)
    assert net.metrics(sums)['loss'].item() == pytest.approx(nll.item() / 5, rel=1e-5)
    assert sums['loss'].item() != pytest.approx(nll.item(), rel=1e-3)
    plain = make(name)(images(5), label)
    assert torch.equal(plain['loss'], plain['nll'])


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('fields, words', [
    (dict(n_class=0), 'n_class'), (dict(channels=0, mean=(), std=()), 'channels'),
    (dict(label_smoothing=1.0), 'label_smoothing'), (dict(channels=1), 'std of 3, channels is 1'),
    (dict(mean=(0.5,)), 'mean is of 1 .*channels is 3'),
    (dict(std=(0.5,)), 'std of 1, channels is 3')])
def test_impossible_configs_are_refused(name, fields, words):
    with pytest.raises(ValueError, match=words):
        import_module(f'models.{name}').Config(**fields)
