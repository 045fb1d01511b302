"""models/t5.py and data/pretrained_t5.py against the package transformers (a stored fixture, and live where
it is installed), slow loops and worked examples. make_t5_fixture.py says how the fixture was made."""
import functools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conftest import ROOT
from core import search
from core.errors import UserError
from data import pretrained, pretrained_t5
from models.t5 import Config, Layer, Model, RMSNorm, relative_bucket
from plots.attention import attention_maps

SMALL = dict(vocab_size=11, block_size=12, n_layer=2, n_layer_decoder=3, n_head=3, n_embd=16, d_kv=4, d_ff=24,
             dropout=0.0)
VERSIONS = [dict(gated=False, tie=True, scale_head=True), dict(gated=True, tie=False, scale_head=False)]
FLASH = [True, False]
CASES = ['v1_0_tied', 'v1_0_untied', 'v1_1_tied', 'v1_1_untied']
SIZES = {'t5-small': 60_506_624, 't5-base': 222_903_552, 't5-v1_1-small': 76_961_152,
         't5-v1_1-base': 247_577_856}      # parameters with a vocabulary of 32,128


def make(std=0.3, **fields):
    """Return a small random model in evaluation mode: an initialisation with ones hides mistakes."""
    torch.manual_seed(0)
    model = Model(Config(**SMALL | fields))
    for p in model.parameters():
        nn.init.normal_(p, std=std)
    return model.eval()


def batch():
    """Return src (3, 7) of 7, 4 and 1 tokens and tgt (3, 6) of 2, 5 and 6 tokens, ends included, padded."""
    torch.manual_seed(1)
    src = torch.randint(2, 11, (3, 7))
    tgt = torch.randint(2, 11, (3, 6))
    for tokens, lengths in ((src, (7, 4, 1)), (tgt, (2, 5, 6))):
        for row, n in zip(tokens, lengths):
            row[n - 1] = 1
            row[n:] = 0
    return src, tgt


def logits(model, src, tgt):
    return model.logits(src, F.pad(tgt[:, :-1], (1, 0)))


def close(a, b, tolerance=1e-5):
    return a.shape == b.shape and (a - b).abs().max() <= tolerance * (1 + b.abs().max())


# --- relative positions

def slow_bucket(offset, is_causal, n_bucket=32, max_distance=128):
    """Return the bucket of one offset: search the ranges instead of taking logarithms."""
    n = n_bucket if is_causal else n_bucket // 2
    first = n if offset > 0 and not is_causal else 0
    distance = max(-offset, 0) if is_causal else abs(offset)
    n_exact = n // 2
    if distance < n_exact:
        return first + distance
    bucket = n_exact
    # The first distance of bucket n_exact + k is n_exact (max_distance / n_exact)^(k / (n - n_exact)).
    while bucket + 1 < n:
        k = bucket + 1 - n_exact
        if distance ** (n - n_exact) < n_exact ** (n - n_exact - k) * max_distance ** k:    # exact integers
            break
        bucket += 1
    return first + bucket


@pytest.mark.parametrize('is_causal, expected', [
    (False, [15, 15, 15, 15, 14, 12, 12, 10, 10, 9, 8, 8, 7, 1, 0, 17, 23, 24, 24, 25, 26, 26, 28, 28, 30, 31,
             31, 31, 31]),
    (True, [31, 31, 31, 30, 26, 21, 21, 16, 16, 15, 9, 8, 7, 1] + 15 * [0])])
def test_the_buckets_are_those_of_transformers(is_causal, expected):
    offset = torch.tensor([-200, -128, -127, -100, -64, -33, -32, -17, -16, -15, -9, -8, -7, -1, 0,
                           1, 7, 8, 9, 15, 16, 17, 32, 33, 64, 100, 127, 128, 200])
    assert relative_bucket(offset, is_causal, 32, 128).tolist() == expected


@pytest.mark.parametrize('n_bucket, max_distance', [(32, 128), (16, 40), (4, 3)])
@pytest.mark.parametrize('is_causal', [False, True])
def test_the_buckets_of_all_offsets_equal_a_slow_loop(is_causal, n_bucket, max_distance):
    offset = torch.arange(-200, 201)
    expected = [slow_bucket(i, is_causal, n_bucket, max_distance) for i in offset.tolist()]
    found = relative_bucket(offset, is_causal, n_bucket, max_distance)
    assert found.tolist() == expected
    assert 0 <= found.min() and found.max() == n_bucket - 1


@torch.no_grad()
def test_the_bias_of_a_head_is_the_table_at_the_bucket_of_key_minus_query():
    model = make()
    for table, is_causal in ((model.bias_src, False), (model.bias_tgt, True)):
        bias = model.relative_bias(table, 3, 20, is_causal)     # queries at positions 17, 18 and 19
        assert bias.shape == (1, 3, 3, 20)
        for head in range(3):
            for i in range(3):
                for key in range(20):
                    bucket = slow_bucket(key - (17 + i), is_causal)
                    assert bias[0, head, i, key] == table.weight[bucket, head]


def test_later_keys_have_buckets_of_their_own_in_the_encoder_alone():
    offset = torch.arange(1, 30)
    earlier = relative_bucket(-offset, False, 32, 128)
    assert torch.equal(relative_bucket(offset, False, 32, 128), earlier + 16)
    assert not relative_bucket(offset, True, 32, 128).any()


# --- parts

def test_the_norm_is_torchs_rms_norm_and_a_slow_formula():
    torch.manual_seed(0)
    x = 5 + 3 * torch.randn(4, 6, 16)
    norm = RMSNorm(16)
    nn.init.normal_(norm.weight)
    rows = []
    for row in x.view(-1, 16):
        mean_square = sum(value**2 for value in row) / 16
        rows.append(row / math.sqrt(mean_square + 1e-6) * norm.weight)
    assert close(norm(x), torch.stack(rows).view(4, 6, 16))
    assert close(norm(x), F.rms_norm(x, (16,), norm.weight, 1e-6))
    assert list(dict(norm.named_parameters())) == ['weight']


def test_under_autocast_the_residual_stream_and_the_norms_are_float32():
    model = make(std=0.1)
    dtypes = []
    for module in model.modules():
        if isinstance(module, (nn.RMSNorm, Layer)):
            module.register_forward_hook(lambda module, args, y: dtypes.append((args[0].dtype, y.dtype)))
    with torch.autocast('cpu', torch.bfloat16):
        found = logits(model, *batch())
    assert set(dtypes) == {(torch.float32, torch.float32)}
    assert found.dtype == torch.float32
    assert close(found, logits(model, *batch()), 0.03)


def test_nothing_but_the_scale_of_norms_is_one_dimensional():
    for version in VERSIONS:
        names = [name for name, p in make(**version).named_parameters() if p.dim() < 2]
        assert len(names) == 2 * 2 + 3 * 3 + 2 and all('norm' in name for name in names)


@pytest.mark.parametrize('version', VERSIONS)
def test_attention_by_hand_and_by_torch_agree_in_value_and_gradient(version):
    src, tgt = batch()
    gradients = []
    values = []
    for flash in FLASH:
        model = make(flash=flash, **version)
        sums = model(src, tgt)
        sums['loss'].backward()
        values.append(logits(model, src, tgt).detach())
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert close(*values)
    for name in gradients[0]:
        assert close(gradients[0][name], gradients[1][name], 1e-4), name


@torch.no_grad()
def test_the_gated_network_is_gelu_times_linear_and_the_other_relu():
    x = torch.randn(2, 3, 16)
    mlp = make(gated=True).encoder[0].mlp
    gate = mlp.gate(x)
    gelu = 0.5 * gate * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    assert close(mlp(x), mlp.proj(gelu * mlp.fc(x)))
    mlp = make(gated=False).encoder[0].mlp
    assert close(mlp(x), mlp.proj(mlp.fc(x).clamp(min=0)))


# --- what must not matter

@torch.no_grad()
@pytest.mark.parametrize('flash', FLASH)
def test_padding_changes_nothing(flash):
    model = make(flash=flash)
    src, tgt = batch()
    expected = logits(model, src, tgt)
    for i, (s, t) in enumerate(zip(src, tgt)):
        s = s[s != 0]
        t = t[t != 0]
        assert close(logits(model, s[None], t[None])[0], expected[i, :len(t)])
    wider = F.pad(src, (0, 5)), F.pad(tgt, (0, 4))
    assert close(logits(model, *wider)[:, :6], expected)


@torch.no_grad()
@pytest.mark.parametrize('flash', FLASH)
def test_a_token_depends_on_the_tokens_before_it_and_on_no_later_one(flash):
    model = make(flash=flash)
    src, _ = batch()
    tokens = torch.randint(2, 11, (3, 6))
    expected = model.logits(src, tokens)
    for t in range(6):
        changed = tokens.clone()
        changed[:, t:] = 2 + (changed[:, t:] - 1) % 9           # another token, not padding
        found = model.logits(src, changed)
        assert torch.equal(found[:, :t], expected[:, :t])
        assert not close(found[:, t], expected[:, t])


@pytest.mark.parametrize('flash', FLASH)
def test_a_row_of_padding_gives_no_nan_and_leaves_the_other_rows_alone(flash):
    model = make(flash=flash)
    src, tgt = batch()
    expected = logits(model, src, tgt).detach()
    src[1] = 0
    found = logits(model, src, tgt)
    found.sum().backward()
    assert found.isfinite().all()
    assert close(found[::2], expected[::2])
    assert all(p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize('lengths', [[6], [1] * 6, [3, 1, 2]])
def test_decoding_with_a_cache_gives_the_same_logits(lengths):
    model = make()
    src, tgt = batch()
    tokens = F.pad(tgt[:, :-1], (1, 0))
    expected = model.logits(src, tokens)
    cross_kv, mask = model.encode(src)
    cache = [kv[:, :, :, :0] for kv in cross_kv]
    P = 0
    for T in lengths:
        cache = [F.pad(kv, (0, 0, 0, T)) for kv in cache]
        found = model.decode(tokens[:, P:P + T], cross_kv, mask, cache)
        assert close(found, expected[:, P:P + T])
        P += T


@pytest.mark.parametrize('version', VERSIONS)
@pytest.mark.parametrize('beam', [0, 3])
def test_search_with_a_cache_finds_the_same_targets(version, beam):
    model = make(**version)
    src, _ = batch()
    sources = [row[row != 0].tolist() for row in src]
    translate = functools.partial(search.translate, model, sources, beam=beam)
    assert translate(cache=True) == translate(cache=False)


# --- the objective

@pytest.mark.parametrize('version', VERSIONS)
def test_every_parameter_gets_a_gradient(version):
    model = make(**version)
    model(*batch())['loss'].backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


@torch.no_grad()
def test_the_sums_of_a_padded_batch_equal_a_loop_over_rows_without_padding():
    model = make()
    src, tgt = batch()
    nll = 0.0
    correct = 0
    for s, t in zip(src, tgt):
        s = s[s != 0]
        t = t[t != 0]
        log_p = logits(model, s[None], t[None])[0].log_softmax(-1)
        for row, token in zip(log_p, t):
            nll -= row[token].item()
            correct += int(row.argmax() == token)
    sums = model(src, tgt)
    assert sums['loss'].item() == sums['nll'].item() == pytest.approx(nll, rel=1e-5)
    assert sums['count'] == 2 + 5 + 6
    assert sums['correct'] == correct
    metrics = model.metrics({name: value.double() for name, value in sums.items()})
    assert metrics['loss'] == pytest.approx(nll / 13, rel=1e-5)
    assert metrics['perplexity'] == pytest.approx(math.exp(nll / 13), rel=1e-4)
    assert metrics['accuracy'] == pytest.approx(correct / 13)


@torch.no_grad()
def test_label_smoothing_changes_what_is_minimised_and_not_what_is_reported():
    src, tgt = batch()
    plain = make()(src, tgt)
    model = make(label_smoothing=0.1)
    smoothed = model(src, tgt)
    log_p = logits(model, src, tgt)[tgt != 0].log_softmax(-1)                   # (13, 11)
    targets = 0.9 * F.one_hot(tgt[tgt != 0], 11) + 0.1 / 11
    assert close(smoothed['loss'], -(targets * log_p).sum())
    assert torch.equal(smoothed['nll'], plain['nll'])


@pytest.mark.parametrize('version', VERSIONS)
def test_it_learns_one_batch_by_heart(version):
    torch.manual_seed(0)
    model = Model(Config(**SMALL | version))
    src, tgt = batch()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        sums = model(src, tgt)
        loss = sums['loss'] / sums['count']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    sources = [row[row != 0].tolist() for row in src]
    expected = [row[row > 1].tolist() for row in tgt]
    assert search.translate(model.eval(), sources, beam=1) == expected


def test_dropout_acts_at_the_places_of_the_paper_and_in_training_only(monkeypatch):
    model = make(dropout=0.25, flash=False)
    rates = []

    def record(x, p=0.5, training=True, inplace=False):
        rates.append(p if training else 0.0)
        return x

    monkeypatch.setattr(F, 'dropout', record)
    model(*batch())
    assert not any(rates)
    rates.clear()
    model.train()(*batch())
    # Per stack its embedding and its end; per layer the attention weights, the hidden units, the sub-layers.
    assert rates == [0.25] * (2 * 2 + 2 * (1 + 1 + 2) + 3 * (2 + 1 + 3))


def test_torchs_attention_drops_weights_in_training_too():
    model = make(dropout=0.5, flash=True)
    attention = model.encoder[0].attention
    x = torch.randn(1, 5, 16)
    kv = attention.keys_values(x)
    bias = torch.zeros(1, 1, 5, 5)
    assert torch.equal(attention(x, kv, bias), attention(x, kv, bias))
    attention.train()
    assert not torch.equal(attention(x, kv, bias), attention(x, kv, bias))


# --- attention weights

@torch.no_grad()
@pytest.mark.parametrize('flash', FLASH)
def test_attention_weights_sum_to_one_and_are_zero_exactly_where_a_mask_hides_the_key(flash):
    model = make(flash=flash)
    src, tgt = batch()
    expected = logits(model, src, tgt)
    maps = attention_maps(model, src, tgt)
    shapes = {name: tuple(weights.shape) for name, weights in maps.items()}
    assert shapes == {'encoder': (2, 3, 3, 7, 7), 'decoder': (3, 3, 3, 6, 6), 'cross': (3, 3, 3, 6, 7)}
    padding = (src == 0)[:, None, None]                         # (B, 1, 1, S)
    later = torch.ones(6, 6, dtype=torch.bool).triu(1)
    for name, hidden in (('encoder', padding), ('decoder', later), ('cross', padding)):
        assert close(maps[name].sum(-1), torch.ones(maps[name].shape[:-1]))
        assert torch.equal(maps[name] == 0, hidden.expand_as(maps[name]))
    assert torch.equal(logits(model, src, tgt), expected)
    assert not any(module._forward_hooks for module in model.modules())


# --- initialisation and sizes

@pytest.mark.parametrize('version', VERSIONS)
def test_the_initialisation_is_that_of_the_paper(version):
    torch.manual_seed(0)
    config = Config(**SMALL | version | dict(vocab_size=300, n_embd=128, d_kv=32, d_ff=256, n_head=6))
    model = Model(config)
    inner = config.n_head * config.d_kv
    expected = {'embed': 1.0, 'head': 128**-0.5, 'bias_src': 128**-0.5, 'bias_tgt': 128**-0.5,
                'q': (128 * 32)**-0.5, 'k': 128**-0.5, 'v': 128**-0.5, 'o': inner**-0.5,
                'fc': 128**-0.5, 'gate': 128**-0.5, 'proj': 256**-0.5}
    for name, p in model.named_parameters():
        kind = name.split('.')[-2]
        if kind.startswith('norm'):
            assert (p == 1).all()
        else:
            assert p.std().item() == pytest.approx(expected[kind], rel=0.15), name


@torch.no_grad()
def test_the_first_loss_of_version_1_1_is_that_of_logits_of_variance_1():
    torch.manual_seed(0)
    model = Model(Config(vocab_size=500, size='t5-v1_1-small', n_layer=2)).eval()
    src, tgt = torch.randint(2, 500, (2, 8, 20))
    assert logits(model, src, tgt).std().item() == pytest.approx(1, abs=0.1)
    assert model.metrics(model(src, tgt))['loss'] == pytest.approx(math.log(500) + 0.5, abs=0.3)


def n_parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize('size', SIZES)
def test_the_named_sizes_have_as_many_parameters_as_the_published_models(size):
    with torch.device('meta'):
        model = Model(Config(size=size, vocab_size=32_128))
    assert n_parameters(model) == SIZES[size]


def test_a_given_field_wins_over_the_size_even_if_it_is_false():
    config = Config(size='t5-v1_1-small', n_layer=2, gated=False)
    assert (config.n_layer, config.n_layer_decoder, config.gated) == (2, 2, False)
    assert (config.n_head, config.d_ff, config.tie) == (6, 1024, False)
    assert Config(size='t5-small', n_layer_decoder=3).n_layer == 6
    assert Config(**vars(config)) == config                     # as a checkpoint does


@pytest.mark.parametrize('tie, n_matrices', [(True, 1), (False, 2)])
def test_tied_embedding_and_head_are_one_matrix_also_after_loading(tie, n_matrices):
    model = make(tie=tie)
    loaded = Model(model.config).eval()
    loaded.load_state_dict(model.state_dict())
    for net in (model, loaded):
        assert len({id(net.embed.weight), id(net.head.weight)}) == n_matrices
    assert close(logits(loaded, *batch()), logits(model, *batch()))


@pytest.mark.parametrize('fields, problems', [
    (dict(vocab_size=0), ['vocab_size must be at least 1, got 0']),
    (dict(n_layer=-1), ['n_layer must be at least 1, got -1']),
    (dict(n_layer_decoder=-2), ['n_layer_decoder must be at least 1, got -2']),
    (dict(d_kv=-1, dropout=1.0), ['d_kv must be at least 1, got -1', 'dropout must be in [0, 1), got 1.0']),
    (dict(label_smoothing=-0.1), ['label_smoothing must be in [0, 1), got -0.1']),
    (dict(n_bucket=6), ['n_bucket must be a multiple of 4 and below 2 max_distance, got 6']),
    (dict(max_distance=16), ['n_bucket must be a multiple of 4 and below 2 max_distance, got 32']),
    (dict(size='t5-huge'), ["size 't5-huge' does not exist; there are custom, tiny, " + ', '.join(SIZES)]),
])
def test_an_impossible_config_raises_an_error_with_a_line_per_problem(fields, problems):
    with pytest.raises(ValueError) as error:
        Config(**SMALL | fields)
    assert str(error.value).split('\n') == problems


# --- against transformers

@functools.cache
def fixture(name):
    """Return {what: array} of a case, its weights {name: tensor} and its config.json."""
    weights = {}
    arrays = {}
    with np.load(ROOT / 'tests/fixtures/t5.npz') as file:
        for key in file.files:
            if key.startswith(f'{name}/weights/'):
                weights[key.removeprefix(f'{name}/weights/')] = torch.from_numpy(file[key])
            elif key.startswith(f'{name}/'):
                arrays[key.removeprefix(f'{name}/')] = file[key]
    config = json.loads(str(arrays.pop('config')))
    arrays = {key: torch.from_numpy(array) for key, array in arrays.items()}
    return arrays, weights, config


def load(name, folder, **changes):
    """Return the model of a case through a folder: {tensor: another one, or None to leave it out}."""
    _, weights, config = fixture(name)
    weights = {key: changes.get(key, tensor) for key, tensor in (weights | changes).items()}
    weights = {key: tensor for key, tensor in weights.items() if tensor is not None}
    pretrained.write(folder, config, weights)
    return Model.from_pretrained(folder)


@torch.no_grad()
@pytest.mark.parametrize('flash', FLASH)
@pytest.mark.parametrize('name', CASES)
def test_the_logits_equal_those_of_transformers(name, flash, tmp_path):
    arrays, _, _ = fixture(name)
    model = load(name, tmp_path)
    assert not model.training
    config = model.config
    assert (config.gated, config.scale_head) == (('v1_1' in name), ('v1_0' in name))
    assert config.tie == ('untied' not in name)
    assert config.n_embd != config.n_head * config.d_kv
    model.config.flash = flash
    found = model.logits(arrays['src'], arrays['decoder_input'])
    assert close(found, arrays['logits'], 1e-4)
    assert (found.argmax(-1) == arrays['logits'].argmax(-1)).all()


def without_end(targets):
    return [row[:row.index(1)] for row in targets.tolist()]


@pytest.mark.parametrize('name', CASES)
def test_greedy_and_beam_search_find_the_targets_of_transformers(name, tmp_path):
    arrays, _, _ = fixture(name)
    model = load(name, tmp_path)
    max_length = torch.tensor([12, 12, 12])
    step = search.Decoder(model, arrays['src'])
    assert search.decode(step, max_length, search.greedy) == without_end(arrays['greedy'])
    step = search.Decoder(model, arrays['src'])
    found = search.beam_search(step, max_length, beam=8, length_penalty=0.0)
    assert [ids for _, ids in found] == without_end(arrays['beam'])
    assert [log_p for log_p, _ in found] == pytest.approx(arrays['log_p'].tolist(), rel=1e-4)


def test_unequal_numbers_of_layers_are_in_the_fixture():
    layers = [(len(model.encoder), len(model.decoder)) for model in map(fixture_model, CASES)]
    assert {n > m for n, m in layers} == {True, False} and (1, 2) in layers


def fixture_model(name):
    _, _, config = fixture(name)
    return Model(Config(**pretrained_t5.config_from_hf(config)))


@pytest.mark.parametrize('name', CASES)
def test_names_and_config_come_back_as_they_were(name, tmp_path):
    _, weights, config = fixture(name)
    model = load(name, tmp_path)
    pretrained_t5.write(tmp_path / 'copy', model)
    again = pretrained.read_weights(tmp_path / 'copy')
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[key], weights[key]) for key in weights)
    assert Model.from_pretrained(tmp_path / 'copy').config == model.config
    written = pretrained.read_config(tmp_path / 'copy')
    for key in written.keys() - {'tie_word_embeddings', 'n_positions', 'architectures'}:
        assert written[key] == config[key], key


def test_what_old_files_repeat_is_ignored(tmp_path):
    _, weights, _ = fixture('v1_0_tied')
    noise = torch.randn(32, 3)
    extra = {'encoder.embed_tokens.weight': weights['shared.weight'],
             'decoder.embed_tokens.weight': weights['shared.weight'],
             'lm_head.weight': weights['shared.weight'],
             'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight': noise}
    assert load('v1_0_tied', tmp_path, **extra).config.tie


WO = 'encoder.block.0.layer.1.DenseReluDense.wo.weight'


@pytest.mark.parametrize('key, tensor, problem', [
    (WO, None, 'found no such tensor'),
    ('shared.weight', None, 'found no such tensor'),
    (WO, torch.zeros(12, 21), 'found torch.float32 (12, 21)'),
    (WO, torch.zeros(12, 20, dtype=torch.int32), 'found torch.int32 (12, 20)'),
    (WO, torch.zeros(12, 20, dtype=torch.float16), 'found torch.float16 (12, 20)'),
])
@pytest.mark.parametrize('name', ['v1_0_tied', 'v1_0_untied'])
def test_a_tensor_that_does_not_fit_is_named(name, key, tensor, problem, tmp_path):
    with pytest.raises(UserError) as error:
        load(name, tmp_path, **{key: tensor})
    assert str(error.value).startswith(f'{key}: expected torch.float32 (')
    assert str(error.value).endswith(problem)


@pytest.mark.parametrize('change, problem', [
    ({'model_type': 'umt5'}, "model_type of config.json: expected 't5', found 'umt5'"),
    ({'decoder_start_token_id': 5}, 'decoder_start_token_id of config.json: expected 0, found 5'),
    ({'feed_forward_proj': 'gated-silu'},
     "feed_forward_proj of config.json: expected relu or gated-gelu, found 'gated-silu'"),
    ({'d_model': None}, 'd_model of config.json: expected int from 0 on, found None'),
    ({'num_heads': '8'}, "num_heads of config.json: expected int from 0 on, found '8'"),
])
def test_a_config_that_is_not_ours_is_an_error(change, problem):
    _, _, config = fixture('v1_0_tied')
    with pytest.raises(UserError) as error:
        pretrained_t5.config_from_hf(config | change)
    assert str(error.value) == problem


def test_the_scale_of_the_head_is_read_from_old_and_new_configs():
    _, _, config = fixture('v1_1_untied')
    assert config['tie_word_embeddings'] and not config['scale_decoder_outputs']       # transformers 5
    old = {key: value for key, value in config.items() if key != 'scale_decoder_outputs'}
    for fields, expected in ((config, False), (old | {'tie_word_embeddings': False}, False),
                             (old | {'tie_word_embeddings': True}, True), (old, True)):
        assert pretrained_t5.config_from_hf(fields)['scale_head'] is expected
    del old['tie_word_embeddings']
    assert pretrained_t5.config_from_hf(old)['scale_head'] is True


@torch.no_grad()
@pytest.mark.parametrize('tie', [True, False])
@pytest.mark.parametrize('version', VERSIONS)
def test_transformers_reads_a_folder_of_ours(version, tie, tmp_path):
    transformers = pytest.importorskip('transformers')
    model = make(**version | dict(tie=tie))
    pretrained_t5.write(tmp_path, model)
    reference = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    src, tgt = batch()
    expected = reference(input_ids=src, attention_mask=(src != 0).long(), labels=tgt).logits
    assert close(logits(model, src, tgt), expected)
    reference.save_pretrained(tmp_path / 'again')
    again = Model.from_pretrained(tmp_path / 'again')
    assert close(logits(again, src, tgt), expected)
    assert again.config.tie == tie


@torch.no_grad()
@pytest.mark.parametrize('is_causal', [False, True])
def test_the_buckets_equal_those_of_the_installed_transformers(is_causal):
    modeling_t5 = pytest.importorskip('transformers.models.t5.modeling_t5')
    offset = torch.arange(-1000, 1001)
    for n_bucket, max_distance in ((32, 128), (16, 64), (64, 500)):
        reference = modeling_t5.T5Attention._relative_position_bucket
        expected = reference(offset, not is_causal, n_bucket, max_distance)
        assert torch.equal(relative_bucket(offset, is_causal, n_bucket, max_distance), expected)
