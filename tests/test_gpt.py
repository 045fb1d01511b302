"""models/gpt.py against references, and what must not change what."""
import functools, math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import search
from models.gpt import Attention, Config, Model, angles, norm, rotate

SMALL = dict(vocab_size=13, block_size=16, n_layer=2, n_head=2, n_embd=16)
POSITIONS = ['rope', 'sinusoidal', 'learned', 'none']


def make(std=0.3, **fields):
    """A model in eval mode away from its initialisation, where zeros hide much."""
    torch.manual_seed(0)
    model = Model(Config(**SMALL | fields)).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=std)
    return model


@pytest.mark.parametrize('flash', [True, False])
@pytest.mark.parametrize('n_head', [1, 2, 3, 4])
def test_attention_is_the_naive_loop(flash, n_head):
    torch.manual_seed(0)
    T, attention = 7, Attention(Config(**SMALL | dict(n_head=n_head, flash=flash)))
    x = torch.randn(2, T, 16)
    q, k, v = attention.qkv(x).view(2, T, 3, n_head, -1).unbind(2)                  # (B, T, nh, hs)
    size, out = q.size(-1), torch.zeros(2, T, n_head, q.size(-1))
    for b in range(2):
        for h in range(n_head):
            for t in range(T):
                query = norm(q[b, t, h])
                score = torch.stack([query @ norm(k[b, s, h]) / math.sqrt(size) for s in range(t + 1)])
                out[b, t, h] = sum(w * v[b, s, h] for s, w in enumerate(score.softmax(0)))
    expected = attention.proj(out.flatten(2))
    assert (attention(x, None, None) - expected).abs().max() < 1e-5


@pytest.mark.parametrize('pos', POSITIONS)
@pytest.mark.parametrize('n_head', [1, 2, 3, 4])
def test_both_attentions_agree(pos, n_head):
    fields = dict(pos=pos, n_head=n_head)
    a, b = make(flash=True, **fields), make(flash=False, **fields)
    tokens = torch.randint(0, 13, (3, 17))
    assert (a.logits(tokens[:, :-1]) - b.logits(tokens[:, :-1])).abs().max() < 1e-5
    for model in a, b:
        model(tokens)['loss'].backward()
    for p, q in zip(a.parameters(), b.parameters()):
        assert (p.grad - q.grad).abs().max() < 1e-5 * (1 + p.grad.abs().max())


def test_rope_scores_depend_on_distance_alone():
    torch.manual_seed(0)
    q, k = torch.randn(8), torch.randn(8)

    def turned(x, position):
        angle = angles(torch.tensor(position), 8)
        angle = torch.cat([-angle, angle])
        return rotate(x, angle.cos(), angle.sin())

    def score(i, j):
        return (turned(q, i) @ turned(k, j)).item()
    assert score(5, 3) == pytest.approx(score(105, 103), abs=1e-4)
    assert score(0, 0) == pytest.approx((q @ k).item(), abs=1e-5)
    assert abs(score(5, 3) - score(5, 4)) > 1e-3
    (a, b), angle = q.chunk(2), angles(torch.tensor(3), 8)
    pairs = torch.complex(a, b) * torch.polar(torch.ones(4), angle)    # turning is multiplying by e^(i angle)
    assert torch.allclose(turned(q, 3), torch.cat([pairs.real, pairs.imag]), atol=1e-6)


def test_sinusoids_are_the_papers_table():
    model = make(pos='sinusoidal', n_layer=1)
    nn.init.zeros_(model.embed.weight)
    seen = {}
    model.drop.register_forward_hook(lambda module, args, out: seen.update(x=args[0]))
    model.logits(torch.zeros(1, 12, dtype=torch.long))

    def entry(p, i):                                                # Vaswani et al. 2017, section 3.5
        return (math.sin if i % 2 == 0 else math.cos)(p / 10000 ** (i // 2 * 2 / 16))
    table = torch.tensor([[entry(p, i) for i in range(16)] for p in range(12)])
    assert (seen['x'][0] - norm(0.02 * table)).abs().max() < 1e-5


@torch.no_grad()
def test_label_smoothing_is_cross_entropys_and_never_reported():
    model, tokens = make(label_smoothing=0.1), torch.randint(0, 13, (2, 17))
    sums, logits = model(tokens), model.logits(tokens[:, :-1]).flatten(0, 1)
    target = tokens[:, 1:].flatten()
    logp = logits.log_softmax(-1)
    smooth = 0.9 * F.nll_loss(logp, target, reduction='sum') - 0.1 * logp.mean(-1).sum()
    assert sums['loss'].item() == pytest.approx(smooth.item(), rel=1e-5)
    assert model.metrics(sums)['loss'] == pytest.approx(F.cross_entropy(logits, target).item(), rel=1e-5)


@pytest.mark.parametrize('flash', [True, False])
@pytest.mark.parametrize('pos', POSITIONS)
def test_the_future_is_not_seen_even_at_large_weights(pos, flash):
    model, tokens = make(std=30.0, pos=pos, flash=flash), torch.randint(0, 13, (1, 16))
    before = model.logits(tokens)
    for t in range(1, 16):
        changed = tokens.clone()
        changed[:, t:] = (changed[:, t:] + 1) % 13
        assert torch.equal(model.logits(changed)[:, :t], before[:, :t])
        assert not torch.equal(model.logits(changed)[:, t:], before[:, t:])


@pytest.mark.parametrize('pos', POSITIONS)
@torch.no_grad()
def test_the_loss_begins_at_ln_v_and_the_stream_does_not_swell_with_depth(pos):
    torch.manual_seed(0)
    model, sizes = Model(Config(**SMALL | dict(pos=pos, n_layer=24, n_embd=64))), []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, out: sizes.append(out.std().item()))
    sums = model(torch.randint(0, 13, (2, 17)))
    assert model.metrics(sums)['loss'] == pytest.approx(math.log(13), abs=0.1)
    assert len(sizes) == 24 and max(sizes) < 1.2 * min(sizes)


def test_tied_weights_are_one_before_and_after_loading():
    model = make(tie=True)
    again = Model(model.config)
    again.load_state_dict(model.state_dict())
    assert again.head.weight is again.embed.weight and torch.equal(again.head.weight, model.embed.weight)


@pytest.mark.parametrize('fields, words', [
    (dict(n_embd=4, n_head=3), '3 heads'), (dict(dropout=1.0), 'dropout'), (dict(n_layer=0), 'n_layer'),
    (dict(block_size=0), 'block_size')])
def test_impossible_configs_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        Config(**SMALL | fields)


# --- generation

def generated(model, prompts, n, **options):
    return torch.stack(list(model.generate(prompts, n, search.greedy, **options)), 1)


@pytest.mark.parametrize('flash', [True, False])
@pytest.mark.parametrize('pos', POSITIONS)
def test_the_cache_changes_no_token(pos, flash):
    model = make(pos=pos, flash=flash)
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10]]
    n = 50                                                          # three times the context
    assert torch.equal(generated(model, prompts, n), generated(model, prompts, n, cache=False))


@pytest.mark.parametrize('pos', POSITIONS)
def test_prompts_of_other_lengths_beside_it_change_no_token(pos):
    model = make(pos=pos)
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10]]
    together = generated(model, prompts, 9)     # within the context: beyond it, all drop their past at once
    for row, prompt in enumerate(prompts):
        assert torch.equal(generated(model, [prompt], 9)[0], together[row])


def test_generation_is_the_arg_max_of_the_logits():
    model, tokens = make(), [3, 1]
    for chosen in model.generate([tokens], 10, search.greedy):
        tokens.append(chosen.item())
    for t in range(2, 12):
        assert model.logits(torch.tensor([tokens[:t]]))[0, -1].argmax() == tokens[t]


def test_sampling_is_the_same_for_the_same_generator():
    model = make()
    def draw():
        choose = functools.partial(search.sample, generator=torch.Generator().manual_seed(3))
        return torch.stack(list(model.generate([[1], [2, 3]], 20, choose)))
    assert torch.equal(draw(), draw())
