"""models/unet.py against a U written out with loops, and its losses and metrics against worked examples."""
import dataclasses, itertools, math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import configurator, data, run, sample
from conftest import ROOT
from models import unet
from test_classifiers import images, shake

VARIANTS = [*itertools.product(('maxpool', 'stride'), ('transpose', 'upsample'))]
OURS = [('maxpool', 'transpose', 'bce'), ('maxpool', 'transpose', 'dice'), ('stride', 'transpose', 'bce'),
        ('stride', 'upsample', 'dice')]         # those of config/
CONFIGS = 'mp_tr_bce', 'mp_tr_dice', 'sc_tr_bce', 'sc_up_dice'


def make(width=4, depth=2, **fields):
    """A model away from its initialisation, in evaluation; what its norms pass on does not fade."""
    torch.manual_seed(0)
    net = shake(unet.Model(unet.Config(width=width, depth=depth, **fields))).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return net


# --- the U

def transposed(x, weight, bias, size):
    """A transposed convolution of 2 x 2 by steps of two, pixel by pixel; what is beyond is bias alone."""
    y = bias.view(1, -1, 1, 1).repeat(len(x), 1, *size)
    for i, j, a, b in itertools.product(*map(range, (*x.shape[2:], 2, 2))):
        y[:, :, 2 * i + a, 2 * j + b] += x[:, :, i, j] @ weight[:, :, a, b]
    return y


def reference(net, x, level=0):
    """The features (B, width 2^level, H, W) that the U has at a level, of what it gets there."""
    def block(of, x):
        for conv, norm in (of.conv1, of.norm1), (of.conv2, of.norm2):
            x = F.conv2d(x, conv.weight, None, padding=1)
            mean, var, weight, bias = (t.view(-1, 1, 1) for t in (
                norm.running_mean, norm.running_var, norm.weight, norm.bias))
            x = ((x - mean) / (var + 1e-5).sqrt() * weight + bias).clamp(min=0)
        return x

    x, config = block(net.encoder[level], x), net.config
    if level == config.depth:
        return x
    H, W = x.shape[2] // 2, x.shape[3] // 2
    patches = x[:, :, :2 * H, :2 * W].unflatten(3, (W, 2)).unflatten(2, (H, 2))         # (B, C, H, 2, W, 2)
    if config.down == 'maxpool':
        smaller = patches.amax((3, 5))
    else:
        down = net.down[level]
        smaller = torch.einsum('bchiwj,ocij->bohw', patches, down.weight) + down.bias.view(-1, 1, 1)
    y, up = reference(net, smaller, level + 1), net.up[config.depth - 1 - level]
    if config.up == 'transpose':
        y = transposed(y, up.weight, up.bias, x.shape[2:])
    else:
        y = F.interpolate(y, x.shape[2:], mode='bilinear')
        y = F.conv2d(y, up.conv.weight, up.conv.bias)
    return block(net.decoder[config.depth - 1 - level], torch.cat([x, y], 1))


@pytest.mark.parametrize('H, W', [(16, 16), (11, 6), (4, 7)])
@pytest.mark.parametrize('down, up', VARIANTS)
@torch.no_grad()
def test_it_is_the_u_of_the_docstring(down, up, H, W):
    net = make(down=down, up=up, mean=(0.5, 0.25, 0.75), std=(0.1, 0.2, 0.3))
    x = images(2, 3, H, W)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.5, 0.25, 0.75), (0.1, 0.2, 0.3)))
    features = reference(net, (x / 255 - mean) / std)
    expected = torch.einsum('bchw,c->bhw', features, net.head.weight.view(-1)) + net.head.bias
    assert expected.std() > 0.1
    assert torch.allclose(net.logits(x)[:, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('down, up', VARIANTS)
def test_each_switch_puts_in_what_it_names(down, up):
    net = make(depth=3, down=down, up=up)
    assert {type(m) for m in net.down} == {{'maxpool': nn.MaxPool2d, 'stride': nn.Conv2d}[down]}
    assert {type(m) for m in net.up} == {{'transpose': nn.ConvTranspose2d, 'upsample': unet.Upsample}[up]}
    assert len(net.down) == len(net.up) == len(net.decoder) == len(net.encoder) - 1 == 3
    count = {kind: sum(isinstance(m, kind) for m in net.modules())
             for kind in (nn.MaxPool2d, nn.ConvTranspose2d, nn.Conv2d)}
    assert count == {nn.MaxPool2d: 3 * (down == 'maxpool'), nn.ConvTranspose2d: 3 * (up == 'transpose'),
                     nn.Conv2d: 15 + 3 * (down == 'stride') + 3 * (up == 'upsample')}


@pytest.mark.parametrize('down, up, count', [
    ('maxpool', 'transpose', 31_037_633), ('stride', 'transpose', 32_431_233),
    ('maxpool', 'upsample', 28_948_673), ('stride', 'upsample', 30_342_273)])
def test_the_parameters_of_the_papers_size(down, up, count):
    with torch.device('meta'):
        net = unet.Model(unet.Config(width=64, depth=4, down=down, up=up))
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize('H, W', [(17, 17), (16, 31), (33, 18), (64, 64), (65, 97), (97, 65)])
@pytest.mark.parametrize('down, up', VARIANTS)
def test_the_answer_is_as_large_as_the_image(down, up, H, W):
    net = make(depth=4, down=down, up=up).train()
    mask = torch.randint(1, 4, (2, 1, H, W))
    assert net.logits(images(2, 3, H, W)).shape == (2, 1, H, W)
    net(images(2, 3, H, W), mask)['loss'].backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize('H, W, depth', [(15, 40, 4), (40, 15, 4), (1, 1, 1), (7, 7, 3)])
def test_an_image_too_small_for_the_depth_is_refused_with_what_would_do(H, W, depth):
    words = f'{H} x {W} .*depth {depth}.* {2**depth} '
    with pytest.raises(ValueError, match=words):
        make(depth=depth).logits(images(1, 3, H, W))
    with pytest.raises(ValueError, match=words):
        unet.Config(depth=depth, size=(H, W))


@torch.no_grad()
def test_the_mirrored_image_counts_in_evaluation_alone():
    plain, both, image = make(), make(tta='flip'), images(3)
    expected = (plain.logits(image) + plain.logits(image.flip(3)).flip(3)) / 2
    assert torch.allclose(both.logits(image), expected, atol=1e-5)
    assert not torch.allclose(both.logits(image), plain.logits(image), atol=1e-2)
    assert torch.equal(both.train().logits(image), plain.train().logits(image))


@torch.no_grad()
def test_what_is_predicted_are_probabilities():
    net = make()
    p = net.predict(images(2))
    assert torch.equal(p, net.logits(images(2)).sigmoid()) and p.shape == (2, 1, 16, 16)
    assert 0 <= p.min() < 0.5 < p.max() <= 1


# --- losses

def sure(pixels):
    """Logits that say so without doubt, of a list of rows."""
    return torch.tensor(pixels).view(1, 1, len(pixels), -1).float() * 400 - 200


def truth(pixels):
    return torch.tensor(pixels).view(1, 1, len(pixels), -1) > 0


@pytest.mark.parametrize('found, true, loss', [
    ([[1, 1], [0, 0]], [[1, 1], [0, 0]], 0), ([[1, 1], [1, 1]], [[1, 1], [1, 1]], 0),   # perfect
    ([[0, 0], [0, 0]], [[0, 0], [0, 0]], 0),                                            # empty on empty
    ([[1, 1, 0]], [[0, 1, 1]], 1 - (2 * 1 + 1) / (2 + 2 + 1)), ([[0, 0]], [[1, 1]], 1 - 1 / 3),
    ([[1, 1, 1, 1]], [[0, 0, 0, 0]], 1 - 1 / 5), ([[1, 1, 1, 1]], [[0, 0, 0, 1]], 1 - 3 / 6)])
def test_dice_is_the_worked_examples(found, true, loss):
    logits = sure(found).requires_grad_()
    value = unet.dice(logits, truth(true))
    assert value.tolist() == pytest.approx([loss], abs=1e-7)
    value.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_losses_are_of_each_image_and_of_numpys_probabilities():
    logits, target = torch.randn(5, 1, 6, 7) * 3, torch.rand(5, 1, 6, 7) < 0.3
    p, t = 1 / (1 + np.exp(-logits.double().numpy())), target.numpy()
    nll = -np.where(t, np.log(p), np.log(1 - p)).mean((1, 2, 3))
    overlap = 1 - (2 * (p * t).sum((1, 2, 3)) + 1) / (p.sum((1, 2, 3)) + t.sum((1, 2, 3)) + 1)
    assert np.allclose(unet.bce(logits, target), nll, rtol=1e-5)
    assert np.allclose(unet.dice(logits, target), overlap, rtol=1e-5)


@pytest.mark.parametrize('loss', [unet.bce, unet.dice])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_losses_are_in_float32_whatever_comes(loss, dtype):
    logits, target = (torch.randn(2, 1, 300, 300) + 3).to(dtype), torch.ones(2, 1, 300, 300) > 0
    with torch.autocast('cpu', torch.bfloat16):
        found = loss(logits, target)                    # of 90,000 pixels, more than float16 counts
    assert found.dtype == torch.float32 and torch.allclose(found, loss(logits.float(), target), rtol=1e-6)


@pytest.mark.parametrize('loss', [unet.bce, unet.dice])
@pytest.mark.parametrize('target', [torch.tensor(255, dtype=torch.uint8), torch.tensor(2), torch.tensor(-1.0),
                                    torch.tensor(1.5), torch.tensor(1, dtype=torch.uint8), torch.tensor(0.5)])
def test_losses_refuse_whatever_could_be_outside_of_0_and_1(loss, target):
    with pytest.raises(TypeError, match=f'boolean target.*{target.dtype}'):
        loss(torch.zeros(2, 1, 4, 4), target.expand(2, 1, 4, 4))


# --- metrics

FOUND = [[[1, 1, 0, 0]], [[1, 1, 1, 1]], [[0, 0, 0, 0]], [[1, 0, 0, 0]], [[0, 0, 0, 0]]]
TRUE = [[[0, 1, 1, 0]], [[1, 1, 1, 1]], [[0, 0, 0, 0]], [[0, 0, 0, 0]], [[0, 0, 1, 1]]]
DICE = [2 * 1 / (2 + 2), 1, 1, 0, 0]        # nothing found where nothing is: right; elsewhere wrong


def measured(net, found, true, shares=(slice(None),)):
    """The metrics of such masks, summed over shares of the images; codes 1 and 2."""
    logits, mask = torch.cat([*map(sure, found)]), 2 - torch.cat([*map(truth, true)]).byte()
    net.logits = lambda image: logits[image[:, 0, 0, 0].long()]
    image = torch.arange(len(found), dtype=torch.uint8).view(-1, 1, 1, 1)
    sums = [net(image[share], mask[share]) for share in shares]
    return net.metrics({key: sum(part[key].double() for part in sums) for key in sums[0]})


@pytest.mark.parametrize('cut', [0, 1, 3])
def test_metrics_are_the_worked_examples_however_the_images_are_shared(cut):
    metrics = measured(make(), FOUND, TRUE, [slice(None, cut), slice(cut, None)] if cut else [slice(None)])
    assert metrics['dice'].item() == pytest.approx(sum(DICE) / 5)
    assert metrics['iou'].item() == pytest.approx((1 + 4) / (3 + 4 + 1 + 2))            # of the whole set
    assert metrics['accuracy'].item() == pytest.approx((2 + 4 + 4 + 3 + 2) / 20)
    assert metrics['pet_share'].item() == pytest.approx((2 + 4 + 2) / 20)
    assert metrics['loss'].item() == pytest.approx(200 * 5 / 20)        # 200 nats a wrong pixel


def test_a_constant_answer_has_the_share_as_its_accuracy_and_iou():
    metrics = measured(make(), [[[1, 1, 1, 1]]] * 5, TRUE)
    assert metrics['accuracy'] == metrics['iou'] == metrics['pet_share'] == 8 / 20
    assert metrics['dice'].item() == pytest.approx(metrics['constant_dice'].item())
    other = measured(make(), FOUND, TRUE, [slice(None, 2), slice(2, None)])
    assert other['constant_dice'].item() == pytest.approx(metrics['constant_dice'].item())


@pytest.mark.parametrize('objective', ['bce', 'dice', 'bce+dice'])
@torch.no_grad()
def test_the_objective_is_minimised_and_bce_reported(objective):
    net, image, mask = make(objective=objective), images(3), torch.randint(1, 4, (3, 1, 16, 16))
    sums, logits = net(image, mask), net.logits(image)
    parts = {'bce': unet.bce(logits, mask == 1).sum(), 'dice': unet.dice(logits, mask == 1).sum()}
    assert sums['loss'].item() == pytest.approx(sum(parts[name].item() for name in objective.split('+')))
    assert net.metrics(sums)['loss'].item() == pytest.approx(parts['bce'].item() / 3)


# --- masks

@pytest.mark.parametrize('codes, foreground, expected, name', [
    ((1, 2, 3), 'pet', {1}, 'pet'), ((1, 2), 'pet', {1}, 'pet'),
    ((1, 2, 3), 'pet+border', {1, 3}, 'pet+border'), ((0, 1), 'pet', {1}, 'foreground'),
    ((0, 255), 'pet', {255}, 'foreground'),
    ((0, 1, 2, 7), 'pet', {1, 2, 7}, 'foreground')])
def test_which_codes_are_foreground(codes, foreground, expected, name):
    net = make(codes=codes, foreground=foreground)
    mask = torch.tensor(codes, dtype=torch.uint8).view(1, 1, 1, -1)
    target = net.target(mask)
    assert target.dtype == torch.bool and {c for c, yes in zip(codes, target[0, 0, 0]) if yes} == expected
    mask = mask.expand(1, 1, 4, -1).repeat(1, 1, 1, 4)
    metrics = net.metrics(net(images(1, 3, *mask.shape[2:]), mask))
    assert metrics[f'{name}_share'].item() == pytest.approx(len(expected) / len(codes))


@pytest.mark.parametrize('fields, words', [
    (dict(width=0), 'width'), (dict(depth=0), 'depth'), (dict(channels=1), 'std of 3, channels is 1'),
    (dict(codes=(1, 255)), '1, 255.*0 for the background'), (dict(codes=(3, 4)), '3, 4: expected'),
    (dict(codes=(0, 255), foreground='pet+border'), r"'pet\+border' is of trimaps"),
    (dict(size=(128, 128), depth=8), '128 x 128 .* depth 8.* 256 ')])
def test_impossible_configs_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        unet.Config(**fields)


# --- training

@pytest.mark.parametrize('down, up, objective', OURS)
def test_all_four_learn_one_batch_by_heart(down, up, objective):
    torch.manual_seed(0)
    net = unet.Model(unet.Config(width=8, depth=2, down=down, up=up, objective=objective))
    mask = torch.ones(4, 1, 24, 24, dtype=torch.uint8)
    for i in range(4):                      # background, then a border, of which the images tell nothing
        mask[i, 0, :6 + 3 * i], mask[i, 0, 6 + 3 * i] = 2, 3
    batch = {'image': images(4, 3, 24, 24), 'mask': mask}
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(100):
        sums = net(**batch)
        optimizer.zero_grad()
        (sums['loss'] / sums['count']).backward()
        optimizer.step()
    with torch.no_grad():
        metrics = net.metrics(net(**batch))
    assert metrics['dice'] > 0.95 and metrics['iou'] > 0.9 and math.isfinite(metrics['loss'])


# --- what sample.py draws

@pytest.fixture
def trained(tmp_path):
    """A folder with a data set `pets` of 16 x 12 pixels and an untrained, decided model's run on it."""
    rng, splits = np.random.default_rng(0), {}
    for split, n in (('train', 4), ('val', 5), ('test', 7)):
        splits[split] = {'image': rng.integers(0, 256, (n, 3, 12, 16), np.uint8),
                         'mask': rng.integers(1, 4, (n, 1, 12, 16), np.uint8)}
    info = {'codes': [1, 2, 3], 'size': [12, 16], 'mean': [0.5] * 3, 'std': [0.25] * 3, 'channels': 3}
    data.save(str(tmp_path / 'pets'), splits, info=info)
    net = make(size=(12, 16)).eval()
    state = {'format': run.FORMAT, 'step': 0, 'tokenizer': None, 'model': net.state_dict(), 'info': info,
             'keys': {'model': 'unet', 'dataset': str(tmp_path / 'pets')},
             'config': dataclasses.asdict(net.config), 'data': data.hashes(data.check(tmp_path / 'pets'))}
    (tmp_path / 'run').mkdir()
    run.write(tmp_path / 'run/best.pt', state)
    return net, splits


def panels(file, n, H, W):
    """The pictures (n, 4, H, W, 3) of a grid of n rows, one of each enlarged pixel."""
    from PIL import Image
    canvas, k = np.asarray(Image.open(file).convert('RGB')), -(-160 // min(H, W))
    starts = [[(44 + i * (H * k + 52), 20 + j * (W * k + 20)) for j in range(4)] for i in range(n)]
    return np.array([[canvas[y:y + H * k:k, x:x + W * k:k] for y, x in row] for row in starts])


@pytest.mark.parametrize('split, n', [('val', 5), ('test', 7)])
def test_a_grid_shows_picture_truth_answer_and_error(trained, launch, tmp_path, split, n):
    net, splits = trained
    code, text = launch('sample.py', '--out_dir=run', '--out=x.png', f'--split={split}',
                        f'--num_samples={n}', cwd=tmp_path)
    assert code == 0 and text == 'wrote x.png\n', text
    image, mask = splits[split]['image'], splits[split]['mask'][:, 0]
    found = net.predict(torch.from_numpy(image)).detach().numpy()[:, 0] > 0.5
    assert 0.1 < found.mean() < 0.9
    shown = panels(tmp_path / 'x.png', n, 12, 16)
    for j, (where, colour) in enumerate([(mask < 0, (0, 0, 0)), (mask == 1, sample.FOUND),
                                         (found, sample.FOUND), (found != (mask == 1), sample.MISTAKE)]):
        plain = image.transpose(0, 2, 3, 1)
        expected = np.where(where[..., None], (plain.astype(float) + colour) / 2, plain).astype(np.uint8)
        assert np.array_equal(shown[:, j], expected), j


@pytest.mark.parametrize('foreground', ['pet', 'pet+border'])
def test_a_grid_says_of_what_its_dice_is(trained, monkeypatch, tmp_path, foreground):
    told, net = [], make(size=(12, 16), foreground=foreground)
    monkeypatch.setattr(sample, 'show', lambda state, images, captions, title, columns: told.append(title))
    for name, value in dict(out_dir=str(tmp_path / 'run'), device='cpu', start='').items():
        monkeypatch.setattr(sample, name, value)
    sample.segment(net, run.read(tmp_path / 'run/best.pt'))
    assert told[0].startswith(f'foreground {foreground}, mean Dice ')


def test_what_is_shown_on_ones_own_picture_is_what_is_found_there(trained, launch, tmp_path):
    from PIL import Image
    net, splits = trained
    plain = splits['test']['image'][0].transpose(1, 2, 0)
    Image.fromarray(plain).save(tmp_path / 'own.png')
    code, text = launch('sample.py', '--out_dir=run', '--start=own.png', '--out=x.png', '--device=cpu',
                        cwd=tmp_path)
    found = net.predict(torch.from_numpy(splits['test']['image'][:1])).detach().numpy()[0, 0] > 0.5
    assert code == 0 and f'{found.mean():.1%} of it found' in text and 0 < found.mean() < 1, text
    blue, kept = np.add(plain.astype(float), sample.FOUND) / 2, plain.astype(float)
    halves = np.where(found[..., None], blue, kept), np.where(found[..., None], kept, kept / 2)
    with Image.open(tmp_path / 'x.png') as image:
        assert np.array_equal(np.asarray(image), np.concatenate(halves, 1).astype(np.uint8))


@pytest.mark.parametrize('name, switches', [*zip(CONFIGS, OURS)])
def test_a_config_has_the_switches_it_is_called_by(name, switches):
    fields = configurator.read(ROOT / 'train.py', [str(ROOT / f'config/train_pets_{name}.py')]).fields
    assert tuple(fields[key] for key in ('down', 'up', 'objective')) == switches


def test_a_picture_of_ones_own_keeps_its_size(trained, launch, tmp_path):
    from PIL import Image
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (60, 41, 3), np.uint8)).save(tmp_path / 'own.png')
    code, text = launch('sample.py', '--out_dir=run', '--start=own.png', '--out=x.png', cwd=tmp_path)
    assert code == 0 and 'own.png: 41 x 60, read as 12 x 18; ' in text, text
    with Image.open(tmp_path / 'x.png') as image:
        assert image.size == (82, 60)


@pytest.mark.parametrize('argv, code, words', [
    (['--num_samples=101'], 2, 'from 0 to 100'), (['--start=none.png'], 3, 'none.png'),
    (['--out=x.jsonl'], 2, 'must end in .png'), (['--beam=2'], 2, 'of no use to run, which makes masks')])
def test_what_cannot_be_drawn_is_refused(trained, launch, tmp_path, argv, code, words):
    found, text = launch('sample.py', '--out_dir=run', *argv, cwd=tmp_path)
    assert found == code and words in text and 'Traceback' not in text, text
