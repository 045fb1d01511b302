"""models/gpt.py: compared with independent references, and what must not depend on what."""
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core import search
from models.gpt import Attention, Config, Model, apply_rotary_emb, norm, rotary_angles

SMALL = dict(vocab_size=13, block_size=16, n_layer=2, n_head=2, n_embd=16)
POSITIONS = ['rope', 'sinusoidal', 'learned', 'none']
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], 2 * list(range(13))]   # the last is longer than block_size


def make(std=0.3, **fields):
    """Return a model in eval mode with large random weights: at initialisation zeros hide much."""
    torch.manual_seed(0)
    model = Model(Config(**SMALL | fields)).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=std)
    return model


# --- the architecture

def normalized(x):
    """LayerNorm by its formula."""
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def rotated(x):
    """RoPE of (B, T, nh, hs) as complex numbers: x_i + i x_{i + hs / 2}, multiplied by e^(i angle)."""
    T = x.size(1)
    hs = x.size(3)
    real, imaginary = x.chunk(2, -1)
    angle = torch.tensor([[t / 10000 ** (2 * i / hs) for i in range(hs // 2)] for t in range(T)])
    turned = torch.complex(real, imaginary) * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat([turned.real, turned.imag], -1)


def reference_logits(model, tokens):
    """The default architecture, from the weights alone, in einsums: (B, T) -> (B, T, vocab_size)."""
    weights = model.state_dict()
    T = tokens.size(1)
    nh = model.config.n_head
    future = torch.ones(T, T).triu(1).bool()
    x = normalized(weights['embed.weight'][tokens])
    for i in range(model.config.n_layer):
        qkv, out, fc, proj = (weights[f'blocks.{i}.{name}.weight']
                              for name in ('attention.qkv', 'attention.proj', 'mlp.fc', 'mlp.proj'))
        q, k, v = (normalized(x) @ qkv.T).unflatten(-1, (3, nh, -1)).unbind(2)          # (B, T, nh, hs)
        q = rotated(normalized(q))
        k = rotated(normalized(k))
        scores = torch.einsum('bthd,bshd->bhts', q, k) / math.sqrt(q.size(-1))
        attention = scores.masked_fill(future, -math.inf).softmax(-1)
        x = x + torch.einsum('bhts,bshd->bthd', attention, v).flatten(2) @ out.T
        hidden = normalized(x) @ fc.T
        x = x + (hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2) @ proj.T          # GELU, exact
    return normalized(x) @ weights['head.weight'].T


@torch.no_grad()
@pytest.mark.parametrize('flash', [True, False])
@pytest.mark.parametrize('n_head', [1, 2, 3, 4])
def test_logits_equal_an_independent_implementation(flash, n_head):
    model = make(flash=flash, n_head=n_head)
    tokens = torch.randint(0, 13, (3, 16))
    assert (model.logits(tokens) - reference_logits(model, tokens)).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize('flash', [True, False])
@pytest.mark.parametrize('n_head', [1, 2, 3, 4])
def test_attention_equals_a_loop_over_rows_heads_and_positions(flash, n_head):
    torch.manual_seed(0)
    T = 7
    attention = Attention(Config(**SMALL | dict(n_head=n_head, flash=flash)))
    x = torch.randn(2, T, 16)
    q, k, v = attention.qkv(x).view(2, T, 3, n_head, -1).unbind(2)                  # (B, T, nh, hs)
    out = torch.zeros_like(q)
    for b in range(2):
        for h in range(n_head):
            for t in range(T):
                query = norm(q[b, t, h]) / math.sqrt(q.size(-1))
                scores = torch.stack([query @ norm(k[b, s, h]) for s in range(t + 1)])
                out[b, t, h] = sum(weight * v[b, s, h] for s, weight in enumerate(scores.softmax(0)))
    expected = attention.proj(out.flatten(2))
    assert (attention(x, None, None) - expected).abs().max() < 1e-5


@pytest.mark.parametrize('pos', POSITIONS)
@pytest.mark.parametrize('n_head', [1, 2, 3, 4])
def test_both_forms_of_attention_have_the_same_logits_and_gradients(pos, n_head):
    a = make(flash=True, pos=pos, n_head=n_head)
    b = make(flash=False, pos=pos, n_head=n_head)
    tokens = torch.randint(0, 13, (3, 17))
    assert (a.logits(tokens[:, :-1]) - b.logits(tokens[:, :-1])).abs().max() < 1e-5
    for model in (a, b):
        model(tokens)['loss'].backward()
    for p, q in zip(a.parameters(), b.parameters()):
        assert (p.grad - q.grad).abs().max() < 1e-5 * (1 + p.grad.abs().max())


def test_rope_scores_depend_on_distance_only():
    torch.manual_seed(0)
    q, k = torch.randn(8), torch.randn(8)

    def score(i, j):
        angle = rotary_angles(torch.tensor([i, j]), 8)
        rotated_q, rotated_k = apply_rotary_emb(torch.stack([q, k]), angle.cos(), angle.sin())
        return (rotated_q @ rotated_k).item()

    assert score(5, 3) == pytest.approx(score(105, 103), abs=1e-4)
    assert score(0, 0) == pytest.approx((q @ k).item(), abs=1e-5)
    assert abs(score(5, 3) - score(5, 4)) > 1e-3


@pytest.mark.parametrize('width', [16, 17])
def test_sinusoids_are_added_as_in_the_paper(width):
    model = make(pos='sinusoidal', n_layer=1, n_embd=width)
    nn.init.zeros_(model.embed.weight)
    seen = {}
    model.drop.register_forward_hook(lambda module, args, out: seen.update(x=args[0]))
    model.logits(torch.zeros(1, 12, dtype=torch.long))

    def entry(p, i):                                                # Vaswani et al. 2017, section 3.5
        wave = math.sin if i % 2 == 0 else math.cos
        return wave(p / 10000 ** (i // 2 * 2 / width))

    table = torch.tensor([[entry(p, i) for i in range(width)] for p in range(12)])
    assert (seen['x'][0] - norm(0.02 * table)).abs().max() < 1e-5


@torch.no_grad()
def test_learned_positions_are_added_to_the_embedding():
    model = make(pos='learned')
    other = make(pos='none')
    other.load_state_dict(model.state_dict(), strict=False)
    nn.init.zeros_(model.embed_pos.weight)
    tokens = torch.randint(0, 13, (2, 16))
    assert torch.equal(model.logits(tokens), other.logits(tokens))
    model.embed_pos.weight[5:] = 1.0
    changed = (model.logits(tokens) != other.logits(tokens)).any(-1).any(0)
    assert changed.tolist() == [False] * 5 + [True] * 11


@pytest.mark.parametrize('flash', [True, False])
@pytest.mark.parametrize('pos', POSITIONS)
def test_no_position_sees_the_future_even_with_large_weights(pos, flash):
    model = make(std=30.0, pos=pos, flash=flash)
    tokens = torch.randint(0, 13, (1, 16))
    before = model.logits(tokens)
    for t in range(1, 16):
        changed = tokens.clone()
        changed[:, t:] = (changed[:, t:] + 1) % 13
        assert torch.equal(model.logits(changed)[:, :t], before[:, :t])
        assert not torch.equal(model.logits(changed)[:, t:], before[:, t:])


# --- initialisation, loss, configuration

def test_weights_are_initialised_as_in_gpt2():
    torch.manual_seed(0)
    model = Model(Config(vocab_size=256, n_embd=128, n_head=2, n_layer=8))
    for name, weight in model.named_parameters():
        expected = 0.02 / 4 if name.endswith('proj.weight') else 0.02           # sqrt(2 n_layer) is 4
        assert weight.std().item() == pytest.approx(expected, rel=0.05), name
        assert weight.mean().abs().item() < expected / 20, name


@pytest.mark.parametrize('pos', POSITIONS)
@torch.no_grad()
def test_the_first_loss_is_ln_v_and_the_residual_stream_does_not_grow_with_depth(pos):
    torch.manual_seed(0)
    model = Model(Config(**SMALL | dict(pos=pos, n_layer=24, n_embd=64)))
    sizes = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, out: sizes.append(out.std().item()))
    sums = model(torch.randint(0, 13, (2, 17)))
    assert model.metrics(sums)['loss'] == pytest.approx(math.log(13), abs=0.1)
    assert len(sizes) == 24 and max(sizes) < 1.2 * min(sizes)


def test_perplexity_of_an_enormous_loss_is_a_number():
    metrics = make().metrics({'loss': 1e6, 'count': 1.0})
    assert metrics['loss'] == 1e6 and math.isfinite(metrics['perplexity'])


def test_tied_weights_are_one_before_and_after_loading():
    model = make(tie=True)
    again = Model(model.config)
    again.load_state_dict(model.state_dict())
    assert again.head.weight is again.embed.weight and torch.equal(again.head.weight, model.embed.weight)


# --- adaptive softmax

def make_adaptive():
    """A model of 40 ids in clusters of 3, 24 and 13."""
    return make(vocab_size=40, n_frequent=3)


@torch.no_grad()
def test_adaptive_softmax_is_the_probability_of_a_cluster_times_that_of_an_id_in_it():
    model = make_adaptive()
    tokens = torch.randint(0, 40, (2, 16))
    x = model.features(tokens)
    head = (x @ model.head.head.weight.T).softmax(-1)                       # 3 ids and 2 clusters
    parts = [head[..., :3]]
    for i, tail in enumerate(model.head.tail):
        narrow = x @ tail[0].weight.T
        parts.append(head[..., 3 + i, None] * (narrow @ tail[1].weight.T).softmax(-1))
    p = torch.cat(parts, -1)
    assert [part.size(-1) for part in parts] == [3, 24, 13]
    assert torch.allclose(p.sum(-1), torch.ones(2, 16))
    assert torch.allclose(model.logits(tokens).exp(), p, atol=1e-6)


@pytest.mark.parametrize('autocast', [False, True])
def test_the_loss_of_an_adaptive_softmax_is_the_cross_entropy_of_its_logits(autocast):
    model = make_adaptive()
    tokens = torch.randint(0, 40, (4, 17))
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        loss = model(tokens)['loss']
        logits = model.logits(tokens[:, :-1])
    assert logits.dtype == loss.dtype == torch.float32
    expected = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction='sum')
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2 if autocast else 1e-5)
    of_loss = torch.autograd.grad(loss, list(model.parameters()))
    of_logits = torch.autograd.grad(expected, list(model.parameters()))
    if not autocast:
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(of_loss, of_logits))


def test_a_model_with_an_adaptive_softmax_generates():
    model = make_adaptive()
    prompt = torch.tensor([[1, 2, 3]])
    plain = [token.item() for token in search.generate(model, prompt, 20, greedy)]
    cached = [token.item() for token in search.generate_cached(model, prompt, 20, greedy)]
    assert len(plain) == 20 and plain == cached


def test_every_weight_has_a_gradient_although_no_target_is_rare():
    model = make_adaptive()
    model(torch.zeros(2, 9, dtype=torch.long))['loss'].backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('changes', [dict(n_frequent=-1), dict(n_frequent=5), dict(n_frequent=1, tie=True),
                                     dict(n_frequent=1, n_embd=12, n_head=1)])
def test_an_adaptive_softmax_that_cannot_work_is_an_error(changes):
    with pytest.raises(ValueError, match='n_frequent'):
        Config(vocab_size=40, **changes)


@pytest.mark.parametrize('n_embd, n_head, head_size', [(192, 3, 64), (16, 3, 4), (100, 7, 14)])
def test_the_size_of_a_head_is_even(n_embd, n_head, head_size):
    assert Config(n_embd=n_embd, n_head=n_head).head_size == head_size


@pytest.mark.parametrize('field, value', [
    ('vocab_size', 0), ('block_size', 0), ('n_layer', 0), ('n_head', 0), ('n_embd', 7), ('dropout', 1.0),
    ('dropout', -0.1), ('output_dropout', 1.0)])
def test_an_impossible_field_raises_an_error_that_names_it_and_its_value(field, value):
    with pytest.raises(ValueError, match=rf'\b{field}\b.* {value}'):
        Config(**SMALL | {field: value})


def test_all_problems_are_reported_at_once_a_line_each():
    with pytest.raises(ValueError) as error:
        Config(n_layer=0, dropout=2.0, n_embd=4)
    assert [line.split()[0] for line in str(error.value).split('\n')] == ['n_layer', 'dropout', 'n_embd']


@torch.no_grad()
def test_output_dropout_leaves_out_features_of_the_head_in_training_only():
    model = make(output_dropout=0.5)
    tokens = torch.randint(13, (8, 16))
    whole = model.features(tokens)
    assert torch.equal(whole, make().features(tokens))
    dropped = model.train().features(tokens)
    kept = dropped != 0
    assert torch.allclose(dropped[kept], 2 * whole[kept])
    assert 0.4 < kept.float().mean() < 0.6


# --- generation

def greedy(logits):
    return logits.argmax(-1)


def generated(model, prompts, n, cache=True):
    """Return the ids that follow each prompt, greedily: (B, n)."""
    generate = search.generate_cached if cache else search.generate
    return torch.stack(list(generate(model, torch.tensor(prompts), n, greedy)), 1)


@pytest.mark.parametrize('block_size', [1, 2, 7, 16])
@pytest.mark.parametrize('pos', POSITIONS)
@torch.no_grad()
def test_each_token_is_the_arg_max_after_its_context(pos, block_size):
    model = make(pos=pos, block_size=block_size)
    for prompt in PROMPTS:
        context = list(prompt)
        for token in generated(model, [prompt], 50)[0].tolist():
            if len(context) > block_size:
                context = context[-((block_size + 1) // 2):]        # the newer half
            assert model.logits(torch.tensor([context]))[0, -1].argmax() == token
            context.append(token)


@pytest.mark.parametrize('block_size', [1, 7, 16])
@pytest.mark.parametrize('flash', [True, False])
@pytest.mark.parametrize('pos', POSITIONS)
def test_generating_with_and_without_the_cache_yields_the_same_tokens(pos, flash, block_size):
    model = make(pos=pos, flash=flash, block_size=block_size)
    prompts = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert torch.equal(generated(model, prompts, 50), generated(model, prompts, 50, cache=False))


@pytest.mark.parametrize('pos', POSITIONS)
def test_other_prompts_in_the_batch_change_no_token(pos):
    model = make(pos=pos)
    prompts = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    together = generated(model, prompts, 50)
    for row, prompt in zip(together, prompts):
        assert torch.equal(row, generated(model, [prompt], 50, cache=False)[0])


@torch.no_grad()
@pytest.mark.parametrize('pos', POSITIONS)
def test_logits_do_not_depend_on_how_many_tokens_are_read_at_a_time(pos):
    model = make(pos=pos)
    tokens = torch.randint(0, 13, (2, 16))
    kv_cache = torch.zeros(2, 2, 2, 2, 16, 8)                       # (n_layer, 2, B, nh, S, hs)
    pieces = []
    for i, j in [(0, 5), (5, 6), (6, 13), (13, 16)]:
        pieces.append(model.logits(tokens[:, i:j], kv_cache[..., :j, :]))
    assert (torch.cat(pieces, 1) - model.logits(tokens)).abs().max() < 1e-5


def test_sampling_draws_the_same_for_the_same_generator_with_and_without_the_cache():
    model = make()

    def sampled(cache):
        generator = torch.Generator().manual_seed(3)

        def sample(logits):
            return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)

        generate = search.generate_cached if cache else search.generate
        return torch.stack(list(generate(model, torch.tensor([[1, 2], [2, 3]]), 40, sample)))

    assert torch.equal(sampled(True), sampled(True))
    assert torch.equal(sampled(True), sampled(False))


@pytest.mark.parametrize('cache', [True, False])
def test_generation_stops_when_the_reader_does(cache):
    model = make()
    asked = []

    def choose(logits):
        asked.append(logits.shape)
        return greedy(logits)

    generate = search.generate_cached if cache else search.generate
    tokens = generate(model, torch.tensor([[1, 2], [3, 4]]), 10, choose)
    assert next(tokens).shape == (2,)
    next(tokens)
    assert asked == [(2, 13), (2, 13)]
    assert list(generate(model, torch.tensor([[1]]), 0, choose)) == []


@pytest.mark.parametrize('flash', [True, False])
def test_generation_works_under_autocast(flash):
    with torch.autocast('cpu', torch.bfloat16):
        assert generated(make(flash=flash), [[1, 2], [3, 4]], 40).shape == (2, 40)
