"""models/unet.py against a recursive U-Net, and its losses and metrics against worked examples."""
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import configurator
from conftest import ROOT
from models import unet

VARIANTS = list(itertools.product(['maxpool', 'stride'], ['transpose', 'upsample']))        # (down, up)
CONFIGS = {         # config/train_pets_NAME.py: (down, up, objective)
    'mp_tr_bce': ('maxpool', 'transpose', 'bce'),
    'mp_tr_dice': ('maxpool', 'transpose', 'dice'),
    'sc_tr_bce': ('stride', 'transpose', 'bce'),
    'sc_up_dice': ('stride', 'upsample', 'dice'),
}


def make(width=4, depth=2, **fields):
    """Return a model in evaluation mode, all of it random: an initialisation with 0 and 1 hides mistakes."""
    torch.manual_seed(0)
    net = unet.Model(unet.Config(width=width, depth=depth, **fields)).eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)       # around 1, so that activations do not vanish
            nn.init.uniform_(module.running_mean, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


def random_images(n, C=3, H=16, W=16, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (n, C, H, W), np.uint8)
    return torch.from_numpy(pixels)


# --- the architecture

def conv_transpose(x, weight, bias, size):
    """A transposed convolution, 2 x 2 with stride 2, in loops. Pixels that it does not reach get the bias."""
    y = bias.view(1, -1, 1, 1).repeat(len(x), 1, *size)
    H, W = x.shape[2:]
    for i, j, a, b in itertools.product(range(H), range(W), range(2), range(2)):
        y[:, :, 2 * i + a, 2 * j + b] += x[:, :, i, j] @ weight[:, :, a, b]
    return y


def reference_block(block, x):
    for conv, norm in ((block.conv1, block.norm1), (block.conv2, block.norm2)):
        x = F.conv2d(x, conv.weight, None, padding=1)
        scale = norm.weight / (norm.running_var + 1e-5).sqrt()
        shift = norm.bias - norm.running_mean * scale
        x = (x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)).clamp(min=0)
    return x


def reference_unet(net, x, level=0):
    """Return the features (B, width * 2**level, H, W) of the decoder at `level`, by recursion."""
    config = net.config
    skip = reference_block(net.encoder[level], x)
    if level == config.depth:
        return skip
    H = skip.shape[2] // 2
    W = skip.shape[3] // 2
    patches = skip[:, :, :2 * H, :2 * W].unflatten(3, (W, 2)).unflatten(2, (H, 2))      # (B, C, H, 2, W, 2)
    if config.down == 'maxpool':
        x = patches.amax((3, 5))
    else:
        down = net.down[level]
        x = torch.einsum('bchiwj,ocij->bohw', patches, down.weight) + down.bias.view(-1, 1, 1)
    x = reference_unet(net, x, level + 1)
    from_below = config.depth - 1 - level
    up = net.up[from_below]
    if config.up == 'transpose':
        x = conv_transpose(x, up.weight, up.bias, skip.shape[2:])
    else:
        x = F.interpolate(x, skip.shape[2:], mode='bilinear')       # first interpolate, then convolve
        x = F.conv2d(x, up.conv.weight, up.conv.bias)
    return reference_block(net.decoder[from_below], torch.cat([skip, x], 1))


@pytest.mark.parametrize('H, W', [(16, 16), (11, 6), (4, 7)])
@pytest.mark.parametrize('down, up', VARIANTS)
@torch.no_grad()
def test_logits_are_those_of_a_recursive_unet(down, up, H, W):
    net = make(down=down, up=up, mean=(0.5, 0.25, 0.75), std=(0.1, 0.2, 0.3))
    image = random_images(2, 3, H, W)
    mean = torch.tensor([0.5, 0.25, 0.75]).view(3, 1, 1)
    std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    features = reference_unet(net, (image / 255 - mean) / std)
    expected = torch.einsum('bchw,c->bhw', features, net.head.weight.view(-1)) + net.head.bias
    error = net.logits(image)[:, 0] - expected
    assert expected.std() > 0.1
    assert error.abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize('down, up', VARIANTS)
def test_down_and_up_choose_the_layers_they_name(down, up):
    net = make(depth=3, down=down, up=up)
    down_type = {'maxpool': nn.MaxPool2d, 'stride': nn.Conv2d}[down]
    up_type = {'transpose': nn.ConvTranspose2d, 'upsample': unet.Upsample}[up]
    assert [type(module) for module in net.down] == [down_type] * 3
    assert [type(module) for module in net.up] == [up_type] * 3
    assert len(net.encoder) == 4
    assert len(net.decoder) == 3
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    blocks, head = 2 * 7, 1
    assert len(convolutions) == blocks + head + 3 * (down == 'stride') + 3 * (up == 'upsample')


@pytest.mark.parametrize('down, up, count', [
    ('maxpool', 'transpose', 31_037_633),
    ('stride', 'transpose', 32_431_233),
    ('maxpool', 'upsample', 28_948_673),
    ('stride', 'upsample', 30_342_273)])
def test_a_model_of_the_papers_size_has_the_published_number_of_parameters(down, up, count):
    with torch.device('meta'):
        net = unet.Model(unet.Config(width=64, depth=4, down=down, up=up))
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize('H, W', [(17, 17), (16, 31), (33, 18), (64, 64), (65, 97), (97, 65)])
@pytest.mark.parametrize('down, up', VARIANTS)
def test_logits_are_as_large_as_the_image_odd_or_even(down, up, H, W):
    net = make(depth=4, down=down, up=up).train()
    image = random_images(2, 3, H, W)
    mask = torch.randint(1, 4, (2, 1, H, W))
    assert net.logits(image).shape == (2, 1, H, W)
    net(image, mask)['loss'].backward()
    for p in net.parameters():
        assert torch.isfinite(p.grad).all()


@pytest.mark.parametrize('down, up', VARIANTS)
def test_the_smallest_image_that_a_config_allows_works_and_a_smaller_one_does_not(down, up):
    net = make(depth=3, down=down, up=up)
    unet.Config(depth=3, size=(8, 9))
    assert net.logits(random_images(1, 3, 8, 9)).shape == (1, 1, 8, 9)
    with pytest.raises(RuntimeError, match='too small|greater than actual input size'):
        net.logits(random_images(1, 3, 7, 9))


@torch.no_grad()
def test_flip_averages_with_the_mirrored_image_in_evaluation_only():
    image = random_images(3)
    plain = make()
    flip = make(tta='flip')
    expected = (plain.logits(image) + plain.logits(image.flip(3)).flip(3)) / 2
    assert torch.allclose(flip.logits(image), expected, atol=1e-5)
    assert not torch.allclose(flip.logits(image), plain.logits(image), atol=1e-2)
    assert torch.equal(flip.train().logits(image), plain.train().logits(image))


@torch.no_grad()
def test_predict_returns_probabilities():
    net = make()
    image = random_images(2)
    p = net.predict(image)
    assert p.shape == (2, 1, 16, 16)
    assert torch.equal(p, net.logits(image).sigmoid())
    assert 0 <= p.min() < 0.5 < p.max() <= 1


# --- losses

def certain_logits(rows):
    """Return logits (1, 1, H, W) of +200 where `rows` has a 1 and -200 where it has a 0."""
    return torch.tensor(rows).view(1, 1, len(rows), -1).float() * 400 - 200


@pytest.mark.parametrize('predicted, true, loss', [
    ([1, 1, 0, 0], [1, 1, 0, 0], 0),                                # perfect
    ([1, 1, 1, 1], [1, 1, 1, 1], 0),
    ([0, 0, 0, 0], [0, 0, 0, 0], 0),                                # no foreground, and none predicted
    ([1, 1, 0], [0, 1, 1], 1 - (2 * 1 + 1) / (2 + 2 + 1)),
    ([0, 0], [1, 1], 1 - 1 / 3),
    ([1, 1, 1, 1], [0, 0, 0, 0], 1 - 1 / 5),
    ([1, 1, 1, 1], [0, 0, 0, 1], 1 - 3 / 6)])
def test_dice_loss_equals_worked_examples(predicted, true, loss):
    logits = certain_logits([predicted]).flatten(1).requires_grad_()
    found = unet.dice_loss(logits, torch.tensor([true]).float())
    assert found.tolist() == pytest.approx([loss], abs=1e-7)
    found.sum().backward()
    assert torch.isfinite(logits.grad).all()


def with_logits(net, logits):
    """Make `net` answer `logits` (n, 1, H, W); the first pixel of an image says which of the n it is."""
    net.logits = lambda image: logits[image[:, 0, 0, 0].long()]
    image = torch.arange(len(logits), dtype=torch.uint8).view(-1, 1, 1, 1)
    return net, image


@pytest.mark.parametrize('objective', ['bce', 'dice', 'bce+dice'])
def test_losses_equal_numpys_in_float64(objective):
    torch.manual_seed(0)
    logits = torch.randn(5, 1, 6, 7) * 3
    mask = torch.randint(1, 4, (5, 1, 6, 7))
    net, image = with_logits(make(objective=objective), logits)
    sums = net(image, mask)
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    t = (mask == 1).numpy()
    nll = -np.where(t, np.log(p), np.log(1 - p)).mean((1, 2, 3))
    dice_loss = 1 - (2 * (p * t).sum((1, 2, 3)) + 1) / (p.sum((1, 2, 3)) + t.sum((1, 2, 3)) + 1)
    expected = {'bce': nll, 'dice': dice_loss, 'bce+dice': nll + dice_loss}[objective]
    assert sums['loss'].item() == pytest.approx(expected.sum(), rel=1e-5)
    assert sums['nll'].item() == pytest.approx(nll.sum(), rel=1e-5)
    assert net.metrics(sums)['loss'].item() == pytest.approx(nll.mean(), rel=1e-5)      # bce is reported


@pytest.mark.parametrize('objective', ['bce', 'dice', 'bce+dice'])
@torch.no_grad()
def test_under_autocast_only_the_network_is_in_bfloat16(objective):
    net = make(objective=objective)
    image = random_images(1, 3, 300, 300)       # 90,000 pixels: bfloat16 and float16 cannot count them
    mask = torch.ones(1, 1, 300, 300, dtype=torch.uint8)
    with torch.autocast('cpu', torch.bfloat16):
        logits = net.logits(image)
        sums = net(image, mask)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, net.logits(image))
    net.logits = lambda image: logits
    expected = net(image, mask)
    for name, value in sums.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name]), name


# --- metrics

# Five images of four pixels each.
PREDICTED = [[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
TRUE = [[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]
DICE = [2 * 1 / (2 + 2), 1, 1, 0, 0]


def metrics_of(predicted, true, batches=(slice(None),)):
    """Return the metrics of rows of pixels, each row an image, with sums added over batches of images."""
    logits = certain_logits(predicted).view(len(predicted), 1, 1, -1)
    mask = 2 - torch.tensor(true).view(len(true), 1, 1, -1)         # 1 is foreground, 2 background
    net, image = with_logits(make(), logits)
    sums = [net(image[batch], mask[batch]) for batch in batches]
    total = {name: sum(part[name].double() for part in sums) for name in sums[0]}
    return {name: float(value) for name, value in net.metrics(total).items()}


@pytest.mark.parametrize('batches', [
    [slice(0, 5)],
    [slice(0, 1), slice(1, 5)],
    [slice(0, 3), slice(3, 5)]])
def test_metrics_equal_worked_examples_for_any_batches(batches):
    metrics = metrics_of(PREDICTED, TRUE, batches)
    assert metrics['dice'] == pytest.approx(sum(DICE) / 5)                      # the mean over images
    assert metrics['iou'] == pytest.approx((1 + 4) / (3 + 4 + 0 + 1 + 2))       # of the whole set
    assert metrics['accuracy'] == pytest.approx((2 + 4 + 4 + 3 + 2) / 20)
    assert metrics['foreground_fraction'] == pytest.approx((2 + 4 + 2) / 20)
    assert metrics['loss'] == pytest.approx(200 * 5 / 20)                       # 200 nats per mistake
    assert metrics['all_foreground_dice'] == pytest.approx((4 / 6 + 1 + 0 + 0 + 4 / 6) / 5)


def test_the_all_foreground_baseline_has_the_metrics_that_are_reported_for_it():
    metrics = metrics_of([[1, 1, 1, 1]] * 5, TRUE)
    assert metrics['accuracy'] == metrics['iou'] == metrics['foreground_fraction'] == 8 / 20
    assert metrics['dice'] == pytest.approx(metrics['all_foreground_dice'])


def test_without_foreground_and_without_false_positives_dice_and_iou_are_1():
    metrics = metrics_of([[0, 0, 0, 0]] * 3, [[0, 0, 0, 0]] * 3)
    assert metrics['dice'] == 1
    assert metrics['iou'] == 1


def test_without_foreground_one_false_positive_makes_iou_0():
    metrics = metrics_of([[0, 0, 0, 0], [0, 1, 0, 0]], [[0, 0, 0, 0]] * 2)
    assert metrics['dice'] == 0.5
    assert metrics['iou'] == 0


def test_dice_and_iou_of_one_image_are_functions_of_each_other():
    rng = np.random.default_rng(0)
    for _ in range(10):
        predicted, true = rng.integers(0, 2, (2, 1, 20)).tolist()
        metrics = metrics_of(predicted, true)
        assert metrics['dice'] == pytest.approx(2 * metrics['iou'] / (1 + metrics['iou']))


# --- masks

@pytest.mark.parametrize('codes, foreground, expected, name', [
    ((1, 2, 3), 'pet', {1}, 'pet'),
    ((1, 2), 'pet', {1}, 'pet'),
    ((1, 2, 3), 'pet+border', {1, 3}, 'pet+border'),
    ((0, 1), 'pet', {1}, 'nonzero'),
    ((0, 255), 'pet', {255}, 'nonzero'),
    ((0, 1, 2, 7), 'pet', {1, 2, 7}, 'nonzero')])
def test_these_mask_values_are_foreground(codes, foreground, expected, name):
    net = make(codes=codes, foreground=foreground)
    mask = torch.tensor(codes, dtype=torch.uint8).view(1, 1, 1, -1)
    target = net.target(mask)
    assert target.dtype == torch.bool
    assert set(mask[target].tolist()) == expected
    assert net.foreground == name


@pytest.mark.parametrize('codes, foreground, fraction', [
    ((1, 2, 3), 'pet', 1 / 3),
    ((1, 2, 3), 'pet+border', 2 / 3),
    ((0, 1, 2, 7), 'pet', 3 / 4)])
@torch.no_grad()
def test_metrics_are_of_the_foreground_that_the_config_names(codes, foreground, fraction):
    net = make(codes=codes, foreground=foreground)
    mask = torch.tensor(codes, dtype=torch.uint8).repeat(1, 1, 8, 4)      # (1, 1, 8, 4 n)
    metrics = net.metrics(net(random_images(1, 3, *mask.shape[2:]), mask))
    assert metrics['foreground_fraction'].item() == pytest.approx(fraction)


# --- check

@pytest.mark.parametrize('fields, message', [
    (dict(channels=0, mean=(), std=()), 'channels must be at least 1, got 0'),
    (dict(width=0), 'width must be at least 1, got 0'),
    (dict(depth=0), 'depth must be at least 1, got 0'),
    (dict(channels=1), 'channels is 1, mean has 3, std 3'),
    (dict(std=(0.5,)), 'channels is 3, mean has 3, std 1'),
    (dict(size=(15, 40)), '15 x 40 pixels are too small for depth 4: expected 16 '),
    (dict(size=(128, 128), depth=8), '128 x 128 pixels are too small for depth 8: expected 256 '),
    (dict(codes=(1, 255)), '1, 255.*0 for background'),
    (dict(codes=(3, 4)), '3, 4.*1, 2, 3 of a trimap'),
    (dict(codes=(0, 255), foreground='pet+border'), r"'pet\+border' needs trimaps")])
def test_check_raises_an_error_with_the_reason(fields, message):
    with pytest.raises(ValueError, match=message):
        unet.Config(**fields)


def test_check_reports_every_problem_on_a_line_of_its_own():
    with pytest.raises(ValueError) as error:
        unet.Config(width=0, channels=1, size=(4, 4), codes=(7,))
    assert len(str(error.value).split('\n')) == 4


# --- training

@pytest.mark.parametrize('down, up, objective', CONFIGS.values())
def test_each_of_the_four_variants_overfits_one_batch(down, up, objective):
    torch.manual_seed(0)
    net = unet.Model(unet.Config(width=8, depth=2, down=down, up=up, objective=objective))
    image = random_images(4, 3, 24, 24)                         # noise: the masks have to be learned by heart
    mask = torch.ones(4, 1, 24, 24, dtype=torch.uint8)
    for i in range(4):
        top = 6 + 3 * i
        mask[i, 0, :top] = 2                                    # background above a border above the pet
        mask[i, 0, top] = 3
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(100):
        sums = net(image, mask)
        optimizer.zero_grad()
        (sums['loss'] / sums['count']).backward()
        optimizer.step()
    with torch.no_grad():
        metrics = net.metrics(net(image, mask))
    assert metrics['dice'] > 0.95
    assert metrics['iou'] > 0.9
    assert math.isfinite(metrics['loss'])


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_trains_the_variant_in_its_name(name):
    fields = configurator.read_train([str(ROOT / f'config/train_pets_{name}.py')]).fields
    assert (fields['down'], fields['up'], fields['objective']) == CONFIGS[name]
