"""Checkpoints of earlier revisions load, under the names of this one."""
import dataclasses

import pytest
import torch

from core import checkpoint
from core.migration import CVAE_PREFIXES, migrate, name_averages
from models import cvae_prior


def test_a_checkpoint_of_the_vae_with_its_earlier_names_loads(tmp_path):
    config = cvae_prior.Config(n_class=3, channels=3, size=(8, 8), likelihood='logistic', width=4, latent=6,
                               waves=8)
    net = cvae_prior.Model(config)
    for p in net.parameters():
        torch.nn.init.normal_(p)
    old = {}
    for name, tensor in net.state_dict().items():
        for before, now in CVAE_PREFIXES.items():
            if name == now or name.startswith(f'{now}.'):
                name = before + name.removeprefix(now)
                break
        old[name] = tensor
    prefixes = tuple(CVAE_PREFIXES.values())
    assert not set(old) & {name for name in net.state_dict() if name.startswith(prefixes)}
    state = {'format': 1, 'model': old, 'keys': {'model': 'cvae'}, 'step': 3, 'tokenizer': None}
    state['config'] = dataclasses.asdict(config) | {'n_layer': 1}         # a field that is gone
    checkpoint.save_checkpoint(tmp_path / 'best.pt', state)
    loaded = checkpoint.load(tmp_path)
    assert type(loaded) is cvae_prior.Model
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name]), name


@pytest.mark.parametrize('old, steps, fraction', [(0.1, 0, 0.1), (40.0, 40, 0.0), (0.0, 0, 0.0)])
def test_a_warmup_below_1_was_a_fraction(old, steps, fraction):
    keys = migrate({'keys': {'warmup_iters': old}})['keys']
    assert (keys['warmup_iters'], keys['warmup_fraction']) == (steps, fraction)


@pytest.mark.parametrize('streak, good, bad', [(5, 5, 0), (-3, 0, 3), (0, 0, 0)])
def test_a_signed_counter_became_two(streak, good, bad):
    state = migrate({'keys': {}, 'streak': streak, 'stale': 2})
    assert (state['good_steps'], state['bad_steps'], state['evals_since_best']) == (good, bad, 2)


def test_averages_of_earlier_revisions_were_a_list_in_the_order_of_the_weights():
    live = {'a': torch.zeros(1), 'b': torch.zeros(2)}
    named = name_averages([torch.ones(1), torch.ones(2)], live)
    assert list(named) == ['a', 'b'] and named['b'].shape == (2,)
    assert name_averages(named, live) is named
    assert name_averages([], live) == {}
