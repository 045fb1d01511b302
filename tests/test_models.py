"""What every model of models/ must do: an entry in CASES runs all these tests on a model."""
import ast
import dataclasses
import importlib
import math

import pytest
import torch
from torch import nn

import configurator
from conftest import ROOT
from core.checkpoint import FORMAT, build_model, load, load_checkpoint, load_weights, save_checkpoint


def images():
    image = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    return {'image': image, 'label': torch.randint(0, 5, (4,))}


def texts():
    return {'text': torch.randint(2, 17, (4, 9)), 'label': torch.randint(0, 5, (4,))}


def scenes():
    """Images whose red is the mask."""
    image, mask = images()['image'], torch.randint(1, 3, (4, 1, 16, 16), dtype=torch.uint8)
    image[:, :1] = (mask == 1) * 255
    return {'image': image, 'mask': mask}


def blots():
    """Pictures of a few large squares, black or white in each channel."""
    image = (255 * torch.randint(0, 2, (4, 3, 2, 2), dtype=torch.uint8)).repeat_interleave(8, 2)
    return {'image': image.repeat_interleave(8, 3), 'label': torch.randint(0, 5, (4,))}


# model -> (a small Config's fields, a batch of 4 rows, the loss of the uniform guess in nats)
CASES = {
    'classifier': (dict(vocab_size=17, n_class=5, block_size=12, n_layer=2, n_head=2, n_embd=32, n_hidden=64,
                        dropout=0.0), texts, math.log(5)),
    'cnn': (dict(n_class=5, width=8), images, math.log(5)),
    'cvae': (dict(n_class=5, channels=3, size=(16, 16), width=8, latent=8), blots, 768 * math.log(2)),
    'cvae_prior': (dict(n_class=5, channels=3, size=(16, 16), width=8, latent=8), blots, 768 * math.log(2)),
    'gpt': (dict(vocab_size=17, block_size=12, n_layer=2, n_head=2, n_embd=32),
            lambda: {'tokens': torch.randint(0, 17, (4, 13))}, math.log(17)),
    'gpt2': (dict(size='custom', vocab_size=17, block_size=12, n_layer=2, n_head=2, n_embd=32),
             lambda: {'tokens': torch.randint(0, 17, (4, 13))}, math.log(17)),
    'mobilenet': (dict(n_class=5, width=0.25), images, math.log(5)),
    'mobinet': (dict(n_class=5, width=0.25), images, math.log(5)),
    'resnet': (dict(n_class=5, arch='resnet20'), images, math.log(5)),
    # Version 1.1 starts with logits of variance 1: half a nat more than a guess.
    't5': (dict(vocab_size=17, block_size=12, size='t5-v1_1-small', n_layer=2, n_head=2, n_embd=32, d_kv=16,
                d_ff=64, dropout=0.0),
           lambda: {field: torch.randint(2, 17, (4, n)) for field, n in (('src', 9), ('tgt', 7))},
           math.log(17) + 0.5),
    'transformer': (dict(vocab_size=17, block_size=12, n_layer=2, n_head=2, n_embd=32, n_hidden=64,
                         dropout=0.0, label_smoothing=0.0),
                    lambda: {field: torch.randint(2, 17, (4, n)) for field, n in (('src', 9), ('tgt', 7))},
                    math.log(17)),
    'unet': (dict(width=8, depth=2), scenes, math.log(2)),
}
NAMES = sorted(path.stem for path in (ROOT / 'models').glob('[a-z]*.py'))


@pytest.fixture(autouse=True)
def no_noise(monkeypatch):
    """Replace the noise of a VAE by zeros: z is the mean of the posterior, and two runs are equal."""
    monkeypatch.setattr(torch, 'randn_like', lambda x: torch.zeros_like(x))


def make(name, seed=0, **changes):
    """Return (model, batch, loss of a uniform prediction)."""
    torch.manual_seed(seed)
    fields, batch, guess = CASES[name]
    module = importlib.import_module(f'models.{name}')
    return module.Model(module.Config(**fields | changes)), batch(), guess


def shake(model):
    """Leave the initialisation, where zeros hide much."""
    for p in model.parameters():
        nn.init.normal_(p, std=0.2)
    return model


def test_every_model_is_tested_here():
    assert sorted(CASES) == NAMES


@pytest.mark.parametrize('name', NAMES)
def test_forward_returns_small_float32_sums_and_metrics_numbers(name):
    model, batch, _ = make(name)
    for enabled in False, True:
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            sums = model(**batch)
        assert {'loss', 'count'} <= sums.keys()
        assert all(value.dtype == torch.float32 for value in sums.values())
    metrics = model.metrics({key: value.detach().double() for key, value in sums.items()})
    metric, goal = model.monitor
    assert goal in ('min', 'max') and math.isfinite(metrics[metric]) and 'loss' in metrics


@pytest.mark.parametrize('name', NAMES)
def test_the_first_loss_is_that_of_a_guess(name):
    model, batch, guess = make(name)
    sums = model.eval()(**batch)
    assert (sums['loss'] / sums['count']).item() == pytest.approx(guess, rel=0.1)


@pytest.mark.parametrize('name', NAMES)
def test_every_parameter_gets_a_gradient(name):
    model, batch, _ = make(name)
    shake(model)(**batch)['loss'].backward()
    for label, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0, label


@pytest.mark.parametrize('name', NAMES)
def test_the_sums_of_a_batch_are_those_of_its_parts(name):
    model, batch, _ = make(name)
    shake(model).eval()
    whole = model(**batch)
    for cut in 1, 3:
        slices = slice(None, cut), slice(cut, None)
        parts = [model(**{k: v[rows] for k, v in batch.items()}) for rows in slices]
        for key in whole:
            assert torch.allclose(whole[key], parts[0][key] + parts[1][key], rtol=1e-4, atol=1e-4), key


@pytest.mark.parametrize('name', NAMES)
def test_without_dropout_training_equals_evaluation_and_with_it_not(name):
    config = importlib.import_module(f'models.{name}').Config
    if 'dropout' not in CASES[name][0] and 'dropout' not in vars(config):
        pytest.skip('has no dropout')
    model, batch, _ = make(name, dropout=0.0)
    shake(model)
    assert torch.equal(model.train()(**batch)['loss'], model.eval()(**batch)['loss'])
    model, batch, _ = make(name, dropout=0.5)
    shake(model)
    assert not torch.equal(model.train()(**batch)['loss'], model.eval()(**batch)['loss'])


@pytest.mark.parametrize('name', NAMES)
def test_it_compiles_without_a_break(name):
    model, batch, _ = make(name)
    shake(model)
    expected = model(**batch)
    torch._dynamo.reset()
    found = torch.compile(model, fullgraph=True, backend='eager')(**batch)
    assert all(torch.allclose(found[key], expected[key], rtol=1e-5) for key in expected)


@pytest.mark.parametrize('name', NAMES)
def test_it_learns_one_batch_by_heart(name):
    model, batch, guess = make(name)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, 80)
    for _ in range(80):
        sums = model(**batch)
        loss = sums['loss'] / sums['count']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert loss.item() < 0.2 * guess


@pytest.mark.parametrize('name', NAMES)
def test_a_checkpoint_gives_the_same_model(name, tmp_path):
    model, batch, _ = make(name)
    state = {'format': FORMAT, 'keys': {'model': name}, 'step': 0, 'tokenizer': None,
             'config': dataclasses.asdict(model.config),
             'model': shake(model).state_dict()}
    save_checkpoint(tmp_path / 'x.pt', state)
    again = load(tmp_path / 'x.pt')
    assert not again.training
    assert torch.equal(again(**batch)['loss'], model.eval()(**batch)['loss'])


@pytest.mark.parametrize('name', NAMES)
def test_the_file_keeps_the_order_and_its_docstrings(name):
    body = ast.parse((ROOT / f'models/{name}.py').read_text(encoding='utf-8')).body
    classes = [node.name for node in body if isinstance(node, ast.ClassDef)]
    assert ast.get_docstring(ast.Module(body, [])) and classes[0] == 'Config' and classes[-1] == 'Model'
    model = next(n for n in body if isinstance(n, ast.ClassDef) and n.name == 'Model')
    forward = next(n for n in model.body if isinstance(n, ast.FunctionDef) and n.name == 'forward')
    assert ast.get_docstring(forward)
