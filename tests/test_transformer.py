"""models/transformer.py against torch's own transformer layers, slow loops and worked examples."""
import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import configurator
import data
from conftest import ROOT, TINY
from core import search
from data import bpe
from models.transformer import AddNorm, Attention, Config, DecoderLayer, EncoderLayer, Model, sinusoids
from plots.attention import attention_maps

SMALL = dict(vocab_size=11, block_size=12, n_layer=2, n_head=2, n_embd=16, n_hidden=24, dropout=0.0)
NORMS = ['pre', 'post']
FLASH = [True, False]


def small_config(**fields):
    return Config(**SMALL | fields)


def randomise(module, std=0.3):
    """Return the module with random parameters: an initialisation with 0 and 1 hides mistakes."""
    torch.manual_seed(0)
    for p in module.parameters():
        nn.init.normal_(p, std=std)
    return module


def make(std=0.3, **fields):
    """Return a small random model in evaluation mode."""
    return randomise(Model(small_config(**fields)), std).eval()


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


def close(a, b, tolerance=1e-5):
    return a.shape == b.shape and (a - b).abs().max() <= tolerance * (1 + b.abs().max())


def causal_mask(T):
    return torch.full((T, T), -torch.inf).triu(1)


def padding_mask(src):
    return torch.where(src == 0, -torch.inf, 0.0)[:, None, None]


# --- against torch's own layers

@torch.no_grad()
def copy_attention(ours, theirs):
    theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.kv.weight]))
    theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.kv.bias]))
    theirs.out_proj.load_state_dict(ours.proj.state_dict())


def copy_layer(ours, theirs):
    """Copy the weights of our layer, of the encoder or of the decoder, into torch's."""
    copy_attention(ours.attention, theirs.self_attn)
    theirs.linear1.load_state_dict(ours.mlp.fc.state_dict())
    theirs.linear2.load_state_dict(ours.mlp.proj.state_dict())
    theirs.norm1.load_state_dict(ours.add1.norm.state_dict())
    theirs.norm2.load_state_dict(ours.add2.norm.state_dict())
    if isinstance(theirs, nn.TransformerDecoderLayer):
        copy_attention(ours.cross, theirs.multihead_attn)
        theirs.norm3.load_state_dict(ours.add3.norm.state_dict())


@pytest.mark.parametrize('flash', FLASH)
@pytest.mark.parametrize('n_head', [1, 2, 4])
def test_attention_equals_torchs_multihead_attention(n_head, flash):
    ours = randomise(Attention(small_config(n_head=n_head, flash=flash)))
    theirs = nn.MultiheadAttention(16, n_head, batch_first=True)
    copy_attention(ours, theirs)
    x = torch.randn(3, 5, 16)
    source = torch.randn(3, 7, 16)
    src = batch()[0]

    kv = ours.keys_values(source)
    expected, weights = theirs(x, source, source, key_padding_mask=src == 0, average_attn_weights=False)
    assert close(ours(x, kv, padding_mask(src)), expected)
    assert close(ours.attention_weights(x, kv, padding_mask(src)), weights)

    expected, _ = theirs(x, x, x, attn_mask=causal_mask(5), need_weights=False)
    assert close(ours(x, ours.keys_values(x), causal_mask(5)), expected)


@pytest.mark.parametrize('flash', FLASH)
@pytest.mark.parametrize('norm', NORMS)
def test_a_layer_of_the_encoder_equals_torchs_with_its_gradients(norm, flash):
    ours = randomise(EncoderLayer(small_config(norm=norm, flash=flash)))
    theirs = nn.TransformerEncoderLayer(16, 2, 24, 0.0, batch_first=True, norm_first=norm == 'pre')
    copy_layer(ours, theirs)
    src = batch()[0]
    x = torch.randn(3, 7, 16)
    found = ours(x, padding_mask(src))[src != 0]
    expected = theirs(x, src_key_padding_mask=src == 0)[src != 0]
    assert close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    assert close(ours.mlp.fc.weight.grad, theirs.linear1.weight.grad, 1e-4)
    assert close(ours.attention.kv.weight.grad, theirs.self_attn.in_proj_weight.grad[16:], 1e-4)
    assert close(ours.add1.norm.weight.grad, theirs.norm1.weight.grad, 1e-4)


@pytest.mark.parametrize('flash', FLASH)
@pytest.mark.parametrize('norm', NORMS)
def test_a_layer_of_the_decoder_equals_torchs_with_its_gradients(norm, flash):
    ours = randomise(DecoderLayer(small_config(norm=norm, flash=flash)))
    theirs = nn.TransformerDecoderLayer(16, 2, 24, 0.0, batch_first=True, norm_first=norm == 'pre')
    copy_layer(ours, theirs)
    src = batch()[0]
    x = torch.randn(3, 6, 16)
    encoded = torch.randn(3, 7, 16)
    found = ours(x, causal_mask(6), ours.cross.keys_values(encoded), padding_mask(src))
    expected = theirs(x, encoded, tgt_mask=causal_mask(6), memory_key_padding_mask=src == 0)
    assert close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    assert close(ours.cross.q.weight.grad, theirs.multihead_attn.in_proj_weight.grad[:16], 1e-4)
    assert close(ours.attention.kv.bias.grad, theirs.self_attn.in_proj_bias.grad[16:], 1e-4)
    assert close(ours.add3.norm.weight.grad, theirs.norm3.weight.grad, 1e-4)


def positional_encoding(T, width):
    """The formula of section 3.5, entry by entry: (T, width)."""
    table = torch.zeros(T, width)
    for position in range(T):
        for i in range(0, width, 2):
            angle = position / 10000 ** (i / width)
            table[position, i] = math.sin(angle)
            table[position, i + 1] = math.cos(angle)
    return table


def embed(embedding, tokens):
    """Sections 3.4 and 3.5 for a width of 16, whose square root is 4."""
    return 4 * embedding.weight[tokens] + positional_encoding(tokens.size(1), 16)


@pytest.mark.filterwarnings('ignore:enable_nested_tensor')
@pytest.mark.parametrize('tie', [True, False])
@pytest.mark.parametrize('norm', NORMS)
def test_the_logits_equal_those_of_torchs_transformer(norm, tie):
    ours = make(norm=norm, tie=tie)
    theirs = nn.Transformer(16, 2, 2, 2, 24, 0.0, batch_first=True, norm_first=norm == 'pre').eval()
    for stack, torchs in ((ours.encoder, theirs.encoder), (ours.decoder, theirs.decoder)):
        for our_layer, layer in zip(stack, torchs.layers):
            copy_layer(our_layer, layer)
    if norm == 'pre':
        theirs.encoder.norm.load_state_dict(ours.norm_src.state_dict())
        theirs.decoder.norm.load_state_dict(ours.norm_tgt.state_dict())
    else:
        theirs.encoder.norm = None          # as in the paper: each layer ends with a norm already
        theirs.decoder.norm = None
    src, tgt = batch()
    shifted = torch.cat([torch.zeros(3, 1, dtype=torch.long), tgt[:, :-1]], 1)
    y = theirs(embed(ours.embed_src, src), embed(ours.embed_tgt, shifted), tgt_mask=causal_mask(6),
               src_key_padding_mask=src == 0, memory_key_padding_mask=src == 0)
    assert close(ours.logits(src, tgt), y @ ours.head.weight.T, 1e-4)


@pytest.mark.parametrize('width', [2, 8, 16])
def test_the_positional_encoding_is_the_papers_from_any_position_on(width):
    expected = positional_encoding(9, width)
    assert close(sinusoids(torch.arange(9), width), expected)
    assert close(sinusoids(torch.arange(3, 9), width), expected[3:])


@torch.no_grad()
@pytest.mark.parametrize('pos', ['sinusoidal', 'learned', 'none'])
def test_without_positions_the_order_of_the_source_does_not_matter(pos):
    model = make(pos=pos)
    src, tgt = batch()
    turned = src.clone()
    turned[0] = turned[0].flip(0)               # a row without padding
    assert close(model.logits(turned, tgt), model.logits(src, tgt)) == (pos == 'none')


@torch.no_grad()
def test_learned_positions_are_those_of_the_tokens_also_with_a_cache():
    model = make(pos='learned')
    tokens = torch.tensor([[3, 4]])
    expected = 4 * model.embed_src.weight[[3, 4]] + model.embed_pos.weight[[5, 6]]      # 4: sqrt(n_embd)
    assert torch.allclose(model.embed(model.embed_src, tokens, start=5)[0], expected)


@pytest.mark.parametrize('norm', NORMS)
def test_both_ways_to_compute_attention_give_the_same_logits_and_gradients(norm):
    a = make(norm=norm, flash=True)
    b = make(norm=norm, flash=False)
    assert close(a.logits(*batch()), b.logits(*batch()))
    a(*batch())['loss'].backward()
    b(*batch())['loss'].backward()
    for p, q in zip(a.parameters(), b.parameters()):
        assert close(p.grad, q.grad, 1e-4)


def test_flash_auto_means_no_scaled_dot_product_attention_on_a_cpu(monkeypatch):
    def called(*args):
        raise RuntimeError('called')

    monkeypatch.setattr(F, 'scaled_dot_product_attention', called)
    make(flash='auto').logits(*batch())
    with pytest.raises(RuntimeError, match='called'):
        make(flash=True).logits(*batch())


# --- what must not change what

@pytest.mark.parametrize('flash', FLASH)
@pytest.mark.parametrize('norm', NORMS)
def test_more_padding_changes_neither_sums_nor_gradients(norm, flash):
    model = make(norm=norm, flash=flash)
    src, tgt = batch()
    longer = F.pad(src, (0, 3)), F.pad(tgt, (0, 3))
    assert close(model.logits(*longer)[:, :6], model.logits(src, tgt))
    a = model(src, tgt)
    b = model(*longer)
    assert b.pop('n_padded') == a.pop('n_padded') + 3 * (3 + 3)
    for name in a:
        assert close(b[name], a[name]), name
    parameters = list(model.parameters())
    for p, q in zip(torch.autograd.grad(a['loss'], parameters), torch.autograd.grad(b['loss'], parameters)):
        assert close(q, p, 1e-4)


def other_tokens(tokens):
    """Return ids that differ from `tokens` everywhere and are neither padding nor the end."""
    return (tokens + 1) % 9 + 2


@pytest.mark.parametrize('flash', FLASH)
@pytest.mark.parametrize('norm', NORMS)
def test_the_decoder_does_not_see_later_tokens_even_with_large_weights(norm, flash):
    model = make(std=3.0, norm=norm, flash=flash)
    src, tgt = batch()
    src = src[:1]                                               # 7 tokens
    tgt = tgt[2:]                                               # 6 tokens
    before = model.logits(src, tgt)
    for t in range(6):
        changed = tgt.clone()
        changed[:, t:] = other_tokens(tgt[:, t:])
        after = model.logits(src, changed)
        assert torch.equal(after[:, :t + 1], before[:, :t + 1])         # logits t predict token t
        if t < 5:
            assert not torch.equal(after[:, t + 1:], before[:, t + 1:])


@pytest.mark.parametrize('flash', FLASH)
@pytest.mark.parametrize('norm', NORMS)
def test_every_source_token_changes_every_logit(norm, flash):
    model = make(norm=norm, flash=flash)
    src, tgt = batch()
    src = src[:1]
    tgt = tgt[2:]
    before = model.logits(src, tgt)
    for s in range(7):
        changed = src.clone()
        changed[:, s] = other_tokens(src[:, s])
        difference = (model.logits(changed, tgt) - before).abs()
        assert (difference.amax(-1) > 1e-4).all()


def test_the_decoder_reads_the_target_shifted_right():
    model = make()
    read = []

    def decode(tokens, *rest):
        read.append(tokens.tolist())
        return Model.decode(model, tokens, *rest)

    model.decode = decode
    model(torch.tensor([[5, 1], [6, 1]]), torch.tensor([[7, 8, 9, 1], [4, 1, 0, 0]]))
    assert read == [[[0, 7, 8, 9], [0, 4, 1, 0]]]


@torch.no_grad()
@pytest.mark.parametrize('lengths', [[1, 1, 1, 1, 1, 1], [2, 1, 3]])
@pytest.mark.parametrize('flash', FLASH)
@pytest.mark.parametrize('norm', NORMS)
def test_decoding_part_by_part_with_a_cache_gives_the_same_logits(norm, flash, lengths):
    model = make(norm=norm, flash=flash)
    src, tgt = batch()
    expected = model.logits(src, tgt)
    tokens = F.pad(tgt[:, :-1], (1, 0))
    cross_kv, mask = model.encode(src)
    cache = [kv[:, :, :, :0] for kv in cross_kv]                # no tokens so far
    P = 0
    for T in lengths:
        cache = [F.pad(kv, (0, 0, 0, T)) for kv in cache]       # (2, B, nh, P + T, hs)
        found = model.decode(tokens[:, P:P + T], cross_kv, mask, cache)
        assert close(found, expected[:, P:P + T])
        P += T


@torch.no_grad()
@pytest.mark.parametrize('norm', NORMS)
def test_bfloat16_autocast_gives_float32_logits_that_are_nearly_the_same(norm):
    model = make(std=0.1, norm=norm)
    expected = model.logits(*batch())
    with torch.autocast('cpu', torch.bfloat16):
        found = model.logits(*batch())
    assert found.dtype == torch.float32
    assert close(found, expected, 0.03)
    assert not torch.equal(found, expected)


def test_under_autocast_the_residual_stream_is_bfloat16():
    layer = EncoderLayer(small_config())
    with torch.autocast('cpu', torch.bfloat16):
        assert layer(torch.randn(3, 6, 16), causal_mask(6)).dtype == torch.bfloat16


# --- the sums and what is reported

@torch.no_grad()
def test_the_sums_of_a_padded_batch_equal_a_loop_over_rows_without_padding():
    model = make(label_smoothing=0.0)
    src, tgt = batch()
    nll = 0.0
    correct = 0
    for s, t in zip(src, tgt):
        s = s[s != 0]
        t = t[t != 0]
        log_p = model.logits(s[None], t[None])[0].log_softmax(-1)
        for row, token in zip(log_p, t):
            nll -= row[token].item()
            correct += int(row.argmax() == token)
    sums = model(src, tgt)
    assert sums['loss'].item() == sums['nll'].item() == pytest.approx(nll, rel=1e-5)
    assert sums['count'] == 2 + 5 + 6
    assert sums['correct'] == correct
    assert sums['n_tokens'] == (7 + 4 + 1) + (2 + 5 + 6)
    assert sums['n_padded'] == 3 * (7 + 6)
    total = {name: value.double() for name, value in sums.items()}
    expected = {'loss': nll / 13, 'perplexity': math.exp(nll / 13), 'accuracy': correct / 13,
                'real_tokens': 25 / 39}
    assert model.metrics(total) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_padding_is_never_counted_as_correct():
    model = make(tie=False)
    nn.init.zeros_(model.head.weight)           # all logits are equal: the arg max is 0, padding
    assert model(*batch())['correct'] == 0


@torch.no_grad()
def test_the_loss_is_the_cross_entropy_to_smoothed_targets():
    model = make(label_smoothing=0.1)
    src, tgt = batch()
    log_p = model.logits(src, tgt)[tgt != 0].log_softmax(-1)                    # (13, 11)
    targets = 0.9 * F.one_hot(tgt[tgt != 0], 11) + 0.1 / 11
    sums = model(src, tgt)
    assert close(sums['loss'], -(targets * log_p).sum())
    assert not close(sums['loss'], sums['nll'], 1e-3)


@torch.no_grad()
def test_label_smoothing_does_not_change_what_is_reported():
    smoothed = make(label_smoothing=0.1)
    plain = make(label_smoothing=0.0)
    assert smoothed.metrics(smoothed(*batch())) == plain.metrics(plain(*batch()))


def test_the_perplexity_of_a_huge_loss_is_finite():
    total = dict(nll=1e9, count=1.0, correct=0.0, n_tokens=1.0, n_padded=1.0)
    assert math.isfinite(make().metrics(total)['perplexity'])


# --- attention weights

@pytest.mark.parametrize('flash', FLASH)
def test_attention_weights_sum_to_one_and_are_zero_exactly_where_a_mask_hides_the_key(flash):
    src, tgt = batch()
    maps = attention_maps(make(flash=flash), src, tgt)
    shapes = {name: tuple(weights.shape) for name, weights in maps.items()}
    assert shapes == {'encoder': (2, 3, 2, 7, 7), 'decoder': (2, 3, 2, 6, 6), 'cross': (2, 3, 2, 6, 7)}
    padding = (src == 0)[:, None, None]                         # (B, 1, 1, S)
    later = torch.ones(6, 6, dtype=torch.bool).triu(1)
    for name, hidden in (('encoder', padding), ('decoder', later), ('cross', padding)):
        assert close(maps[name].sum(-1), torch.ones(maps[name].shape[:-1]))
        assert torch.equal(maps[name] == 0, hidden.expand_as(maps[name]))


def record_inputs(modules):
    """Return a list that is going to hold the first argument of each call of `modules`."""
    inputs = []
    for module in modules:
        module.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    return inputs


@torch.no_grad()
@pytest.mark.parametrize('flash', FLASH)
def test_attention_weights_equal_a_slow_computation_in_every_layer(flash):
    model = make(flash=flash)
    src, tgt = batch()
    maps = attention_maps(model, src, tgt)
    modules = {'encoder': [layer.attention for layer in model.encoder],
               'decoder': [layer.attention for layer in model.decoder],
               'cross': [layer.cross for layer in model.decoder]}
    masks = {'encoder': padding_mask(src), 'decoder': causal_mask(6), 'cross': padding_mask(src)}
    inputs = {name: record_inputs(modules[name]) for name in modules}
    model.logits(src, tgt)
    cross_kv, _ = model.encode(src)
    for name in modules:
        for i, module in enumerate(modules[name]):
            x = inputs[name][i]
            keys = cross_kv[i][0] if name == 'cross' else module.keys_values(x)[0]      # (B, nh, S, hs)
            q = module.q(x).view(3, -1, 2, 8)                                           # (B, T, nh, hs)
            scores = torch.einsum('bthd,bhsd->bhts', q, keys) / math.sqrt(8) + masks[name]
            assert close(maps[name][i], scores.softmax(-1)), (name, i)


def test_after_attention_maps_the_model_is_as_before():
    model = make()
    expected = model.logits(*batch())
    attention_maps(model, *batch())
    assert torch.equal(model.logits(*batch()), expected)
    assert not any(module._forward_hooks for module in model.modules())


# --- parameters and dropout

@pytest.mark.parametrize('tie, n_matrices', [(True, 1), (False, 3)])
def test_tied_embeddings_and_head_are_one_matrix_also_after_loading(tie, n_matrices):
    model = make(tie=tie)
    loaded = Model(model.config).eval()
    loaded.load_state_dict(model.state_dict())
    for net in (model, loaded):
        assert len({id(net.embed_src.weight), id(net.embed_tgt.weight), id(net.head.weight)}) == n_matrices
    assert close(loaded.logits(*batch()), model.logits(*batch()))


def n_parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_untied_weights_are_two_more_matrices():
    assert n_parameters(make(tie=False)) - n_parameters(make(tie=True)) == 2 * 11 * 16


def test_the_model_of_train_enfr_has_as_many_parameters_as_counted_by_hand():
    settings = configurator.read(ROOT / 'train.py', [str(ROOT / 'config/train_enfr.py')])
    vocab_size = int(re.search(r'--vocab_size=(\d+)', settings.options['prepare'])[1])
    assert vocab_size == 8_000
    with torch.device('meta'):
        model = Model(Config(vocab_size=vocab_size, **settings.fields))
    attention = 4 * (512 * 512 + 512)                           # queries, keys, values, projection: 1,050,624
    feed_forward = 512 * 128 + 128 + 128 * 512 + 512            # 131,712
    norm = 2 * 512
    encoder_layer = attention + feed_forward + 2 * norm         # 1,184,384
    decoder_layer = 2 * attention + feed_forward + 3 * norm     # 2,236,032
    expected = 6 * (encoder_layer + decoder_layer) + 2 * norm + 8_000 * 512
    assert n_parameters(model) == expected == 24_620_544


@pytest.mark.parametrize('tie', [True, False])
def test_the_initialisation_is_glorots_with_zero_biases_and_small_embeddings(tie):
    torch.manual_seed(0)
    model = Model(small_config(vocab_size=500, n_embd=64, n_hidden=192, tie=tie))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != 'head':
            bound = math.sqrt(6 / (module.in_features + module.out_features))
            assert 0.9 * bound < module.weight.abs().max() <= bound, name
            assert not module.bias.any(), name
    for embedding in (model.embed_src, model.embed_tgt):
        assert embedding.weight.std().item() == pytest.approx(0.5 / math.sqrt(64), rel=0.05)


@torch.no_grad()
@pytest.mark.parametrize('tie', [True, False])
@pytest.mark.parametrize('norm', NORMS)
def test_the_first_loss_is_close_to_ln_vocab_size(norm, tie):
    torch.manual_seed(0)
    model = Model(small_config(vocab_size=500, n_embd=64, n_layer=6, norm=norm, tie=tie))
    src, tgt = torch.randint(2, 500, (2, 8, 12))
    assert model.metrics(model(src, tgt))['loss'] == pytest.approx(math.log(500), abs=0.5)


def test_dropout_acts_on_both_embeddings_and_on_every_sub_layer_in_training_only():
    model = make(dropout=0.5)
    zeros = []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda module, args, y: zeros.append((y == 0).float().mean().item()))
    model(*batch())
    assert zeros == [0.0] * (2 + 2 * 2 + 2 * 3)
    zeros.clear()
    model.train()(*batch())
    assert len(zeros) == 2 + 2 * 2 + 2 * 3
    assert all(0.3 < rate < 0.7 for rate in zeros)


def test_dropout_removes_what_a_sub_layer_adds_but_not_the_residual_connection():
    add_norm = AddNorm(small_config(dropout=0.5))
    torch.manual_seed(0)
    x = torch.randn(4, 8, 16)
    y = add_norm.after(x, torch.full_like(x, 3.0))
    dropped = y == x
    kept = y == x + 3.0 / (1 - 0.5)
    assert (dropped | kept).all()
    assert 0.3 < dropped.float().mean() < 0.7


# --- Config

@pytest.mark.parametrize('fields, problems', [
    (dict(vocab_size=0), ['vocab_size must be at least 1, got 0']),
    (dict(block_size=0), ['block_size must be at least 1, got 0']),
    (dict(n_layer=0), ['n_layer must be at least 1, got 0']),
    (dict(n_head=0), ['n_head must be at least 1, got 0']),
    (dict(n_embd=0), ['n_embd must be at least 1, got 0']),
    (dict(n_hidden=-1), ['n_hidden must be at least 1, got -1']),
    (dict(dropout=1.0), ['dropout must be in [0, 1), got 1.0']),
    (dict(label_smoothing=-0.1), ['label_smoothing must be in [0, 1), got -0.1']),
    (dict(n_embd=18, n_head=4), ['n_embd 18 must be even and divisible by n_head 4']),
    (dict(n_embd=3, n_head=3), ['n_embd 3 must be even and divisible by n_head 3']),
    (dict(n_layer=0, dropout=1.5),
     ['n_layer must be at least 1, got 0', 'dropout must be in [0, 1), got 1.5']),
])
def test_an_impossible_config_raises_an_error_with_a_line_per_problem(fields, problems):
    with pytest.raises(ValueError) as error:
        small_config(**fields)
    assert str(error.value).split('\n') == problems


# --- from sentences to translations

SENTENCES = [('a cat sleeps.', 'un chat dort.'),
             ('the dog runs in the snow.', 'le chien court dans la neige.'),
             ('two men eat.', 'deux hommes mangent.'),
             ('a bird!', 'un oiseau !')]


def test_train_py_learns_four_sentences_shows_three_of_them_and_sample_py_translates_them(launch, tmp_path):
    src, tgt = zip(*SENTENCES)
    tokenizer = bpe.train([*src, *tgt], 290)
    rows = {'src': [[*tokenizer.encode(text), search.END] for text in src],
            'tgt': [[*tokenizer.encode(text), search.END] for text in tgt]}
    info = {'vocab_size': tokenizer.vocab_size, 'too_long': 'drop'}
    data.save(f'{tmp_path}/pairs', {'train': rows, 'val': rows}, {'src': 'ragged', 'tgt': 'ragged'}, info,
              tokenizer.json())
    code, text = launch('train.py', *TINY, '--model=transformer', '--n_layer=1', '--n_embd=32',
                        '--n_hidden=64', '--block_size=40', '--batch_size=4', '--max_iters=80',
                        '--warmup_iters=0', '--eval_interval=40', f'--dataset={tmp_path}/pairs',
                        f'--out_dir={tmp_path}/run')
    assert code == 0, text
    for source, target in SENTENCES[:3]:
        assert f'{source}\n{target}\n{target}' in text          # source, translation, reference
    code, text = launch('sample.py', f'--out_dir={tmp_path}/run', '--device=cpu')
    assert code == 0, text
    assert text == ''.join(f'{target}\n' for target in tgt)
