"""models/transformer.py against torch's own layers and by hand; sample.py on a tiny run that translates."""
import dataclasses, math, re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import configurator, data, run, sample, score, search
from conftest import ROOT, TINY, Process
from data import bpe
from models import gpt
from models.transformer import Attention, Config, DecoderLayer, Dropout, EncoderLayer, Model, sinusoids

SMALL = dict(vocab_size=11, block_size=12, n_layer=2, n_head=2, n_embd=16, n_hidden=24, dropout=0.0)
NORMS = ['pre', 'post']


def make(std=0.3, **fields):
    """A model in eval mode away from its initialisation, where zeros hide much."""
    torch.manual_seed(0)
    return shake(Model(Config(**SMALL | fields)), std).eval()


def shake(module, std=0.3):
    for p in module.parameters():
        nn.init.normal_(p, std=std)
    return module


def batch():
    """Rows of 7, 4 and 1 tokens and targets of 2, 5 and 6, each with its end, padded."""
    torch.manual_seed(1)
    src, tgt = torch.randint(2, 11, (3, 7)), torch.randint(2, 11, (3, 6))
    for rows, lengths in (src, (7, 4, 1)), (tgt, (2, 5, 6)):
        for row, n in zip(rows, lengths):
            row[n - 1], row[n:] = 1, 0
    return src, tgt


def padded(src, tgt, more=3):
    return F.pad(src, (0, more)), F.pad(tgt, (0, more))


def near(a, b, tolerance=1e-5):
    return a.shape == b.shape and (a - b).abs().max() <= tolerance * (1 + b.abs().max())


# --- against torch's own layers

@torch.no_grad()
def copy(ours, theirs):
    """The weights of our Attention, EncoderLayer or DecoderLayer into torch's."""
    if isinstance(ours, Attention):
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.kv.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.kv.bias]))
        theirs.out_proj.load_state_dict(ours.proj.state_dict())
        return theirs
    copy(ours.attention, theirs.self_attn)
    theirs.linear1.load_state_dict(ours.mlp.fc.state_dict())
    theirs.linear2.load_state_dict(ours.mlp.proj.state_dict())
    for i in range(1, 4 if isinstance(ours, DecoderLayer) else 3):
        getattr(theirs, f'norm{i}').load_state_dict(getattr(ours, f'add{i}').norm.state_dict())
    if isinstance(ours, DecoderLayer):
        copy(ours.cross, theirs.multihead_attn)
    return theirs


def places(src):
    """Of (B, S) ids: which are padding, as torch wants it, and the bias that our layers add."""
    return src == 0, torch.where(src == 0, -torch.inf, 0.0)[:, None, None]


@pytest.mark.parametrize('flash', [True, False])
@pytest.mark.parametrize('n_head', [1, 2, 4])
def test_attention_is_torchs(n_head, flash):
    torch.manual_seed(0)
    ours = shake(Attention(Config(**SMALL | dict(n_head=n_head, flash=flash))))
    theirs = copy(ours, nn.MultiheadAttention(16, n_head, batch_first=True))
    x, memory = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    padding, seen = places(batch()[0])
    expected, weights = theirs(x, memory, memory, key_padding_mask=padding, average_attn_weights=False)
    kv = ours.keys_values(memory)
    assert near(ours(x, kv, seen), expected) and near(ours.weights(x, kv, seen), weights)
    future = torch.full((5, 5), -torch.inf).triu(1)
    expected = theirs(x, x, x, attn_mask=future, need_weights=False)[0]
    assert near(ours(x, ours.keys_values(x), future), expected)


@pytest.mark.parametrize('flash', [True, False])
@pytest.mark.parametrize('norm', NORMS)
def test_an_encoder_layer_is_torchs_with_its_gradients(norm, flash):
    torch.manual_seed(0)
    ours = shake(EncoderLayer(Config(**SMALL | dict(norm=norm, flash=flash))))
    theirs = nn.TransformerEncoderLayer(16, 2, 24, 0.0, batch_first=True, norm_first=norm == 'pre')
    copy(ours, theirs)
    (padding, seen), x = places(batch()[0]), torch.randn(3, 7, 16)
    found, expected = ours(x, seen), theirs(x, src_key_padding_mask=padding)
    assert near(found[~padding], expected[~padding])
    for y in found, expected:
        y[~padding].square().sum().backward()
    assert near(ours.mlp.fc.weight.grad, theirs.linear1.weight.grad, 1e-4)
    assert near(ours.attention.kv.weight.grad, theirs.self_attn.in_proj_weight.grad[16:], 1e-4)
    assert near(ours.add1.norm.weight.grad, theirs.norm1.weight.grad, 1e-4)


@pytest.mark.parametrize('flash', [True, False])
@pytest.mark.parametrize('norm', NORMS)
def test_a_decoder_layer_is_torchs_with_its_gradients(norm, flash):
    torch.manual_seed(0)
    ours = shake(DecoderLayer(Config(**SMALL | dict(norm=norm, flash=flash))))
    theirs = nn.TransformerDecoderLayer(16, 2, 24, 0.0, batch_first=True, norm_first=norm == 'pre')
    copy(ours, theirs)
    (padding, seen), x, memory = places(batch()[0]), torch.randn(3, 6, 16), torch.randn(3, 7, 16)
    ahead = torch.full((6, 6), -torch.inf).triu(1)
    found = ours(x, ahead, ours.cross.keys_values(memory), seen)
    expected = theirs(x, memory, tgt_mask=ahead, memory_key_padding_mask=padding)
    assert near(found, expected)
    for y in found, expected:
        y.square().sum().backward()
    assert near(ours.cross.q.weight.grad, theirs.multihead_attn.in_proj_weight.grad[:16], 1e-4)
    assert near(ours.attention.kv.bias.grad, theirs.self_attn.in_proj_bias.grad[16:], 1e-4)
    assert near(ours.add3.norm.weight.grad, theirs.norm3.weight.grad, 1e-4)


@pytest.mark.filterwarnings('ignore:enable_nested_tensor')
@pytest.mark.parametrize('norm', NORMS)
def test_the_whole_model_is_torchs(norm):
    ours, (src, tgt) = make(norm=norm), batch()
    theirs = nn.Transformer(16, 2, 2, 2, 24, 0.0, batch_first=True, norm_first=norm == 'pre').eval()
    for stack, blocks, last in ((theirs.encoder, ours.encoder, ours.norm_src),
                                (theirs.decoder, ours.decoder, ours.norm_tgt)):
        for layer, block in zip(stack.layers, blocks):
            copy(block, layer)
        if norm == 'pre':
            stack.norm.load_state_dict(last.state_dict())
        else:
            stack.norm = None                   # as in the paper: each layer has normed its own already
    padding, matrix = src == 0, ours.head.weight

    def enter(ids):                             # (3.4) and the table of (3.5)
        def entry(p, i):
            return (math.sin if i % 2 == 0 else math.cos)(p / 10000 ** (i // 2 * 2 / 16))
        table = torch.tensor([[entry(p, i) for i in range(16)] for p in range(ids.size(1))])
        return 4 * matrix[ids] + table
    before = torch.cat([torch.zeros(3, 1, dtype=torch.long), tgt[:, :-1]], 1)
    y = theirs(enter(src), enter(before), tgt_mask=torch.full((6, 6), -torch.inf).triu(1),
               src_key_padding_mask=padding, memory_key_padding_mask=padding)
    assert near(ours.logits(src, tgt), y @ matrix.T, 1e-4)


def test_waves_are_the_papers_and_go_on_where_they_were():
    assert near(sinusoids(torch.arange(3, 9), 8), sinusoids(torch.arange(9), 8)[3:])
    assert sinusoids(torch.arange(2), 4)[1].tolist() == pytest.approx(
        [math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)])


@pytest.mark.parametrize('norm', NORMS)
def test_both_attentions_agree(norm):
    a, b = make(norm=norm, flash=True), make(norm=norm, flash=False)
    assert near(a.logits(*batch()), b.logits(*batch()))
    for model in a, b:
        model(*batch())['loss'].backward()
    for p, q in zip(a.parameters(), b.parameters()):
        assert near(p.grad, q.grad, 1e-4)


# --- what must not change what

@pytest.mark.parametrize('flash', [True, False])
@pytest.mark.parametrize('norm', NORMS)
def test_padding_changes_nothing(norm, flash):
    model, (src, tgt) = make(norm=norm, flash=flash), batch()
    a, b = model(src, tgt), model(*padded(src, tgt))
    assert near(model.logits(*padded(src, tgt))[:, :6], model.logits(src, tgt))
    assert all(near(b[key], a[key]) for key in a if key != 'room') and b['room'] == a['room'] + 18
    gradients = [torch.autograd.grad(sums['loss'], list(model.parameters())) for sums in (a, b)]
    assert all(near(p, q, 1e-4) for p, q in zip(*gradients))


@pytest.mark.parametrize('flash', [True, False])
@pytest.mark.parametrize('norm', NORMS)
def test_the_future_is_not_seen_even_at_large_weights_but_all_of_the_source_is(norm, flash):
    model, (src, tgt) = make(std=3.0, norm=norm, flash=flash), batch()
    src, tgt = src[:1], tgt[2:]                             # of 7 and 6 tokens
    before = model.logits(src, tgt)
    for t in range(6):
        changed = tgt.clone()
        changed[:, t:] = (changed[:, t:] + 1) % 9 + 2
        after = model.logits(src, changed)
        assert torch.equal(after[:, :t + 1], before[:, :t + 1])     # what follows t tokens is said without it
        assert not torch.equal(after[:, t + 1:], before[:, t + 1:]) or t == 5
    model = make(norm=norm, flash=flash)
    before = model.logits(src, tgt)
    for s in range(7):
        changed = src.clone()
        changed[:, s] = (changed[:, s] + 1) % 9 + 2
        assert ((model.logits(changed, tgt) - before).abs().amax(-1) > 1e-4).all()


def test_the_decoder_reads_the_target_moved_to_the_right():
    model, read = make(), []
    decode = model.decode
    model.decode = lambda tokens, *rest: read.append(tokens.tolist()) or decode(tokens, *rest)
    model(torch.tensor([[5, 1], [6, 1]]), torch.tensor([[7, 8, 9, 1], [4, 1, 0, 0]]))
    assert read == [[[0, 7, 8, 9], [0, 4, 1, 0]]]


@torch.no_grad()
@pytest.mark.parametrize('flash', [True, False])
@pytest.mark.parametrize('norm', NORMS)
def test_decoding_with_a_cache_gives_the_same_logits(norm, flash):
    model, (src, tgt) = make(norm=norm, flash=flash), batch()
    expected, tokens = model.logits(src, tgt), F.pad(tgt[:, :-1], (1, 0))
    memory, seen = model.encode(src)
    for steps in [1] * 6, [2, 1, 3]:                # tokens that are new at a time
        past, P = [kv[:, :, :, :0] for kv in memory], 0
        for n in steps:
            past = [F.pad(kv, (0, 0, 0, n)) for kv in past]
            found = model.decode(tokens[:, P:P + n], memory, seen, past)
            assert near(found, expected[:, P:P + n])
            P += n


# --- the objective

@torch.no_grad()
def test_the_loss_of_a_padded_batch_is_a_sum_by_hand():
    model, (src, tgt) = make(label_smoothing=0.0), batch()
    sums, nll, correct = model(src, tgt), 0.0, 0
    for s, t in zip(src, tgt):                      # a row alone has no padding
        s, t = s[s != 0], t[t != 0]
        for log_p, token in zip(model.logits(s[None], t[None])[0].log_softmax(-1), t):
            nll -= log_p[token].item()
            correct += log_p.argmax().item() == token.item()
    assert sums['loss'].item() == sums['nll'].item() == pytest.approx(nll, rel=1e-5)
    assert sums['count'] == 13 and sums['correct'] == correct and sums['real'] == 12 + 13
    assert sums['room'] == 3 * (7 + 6)
    metrics = model.metrics({key: value.double() for key, value in sums.items()})
    assert metrics == pytest.approx({'loss': nll / 13, 'perplexity': math.exp(nll / 13),
                                     'accuracy': correct / 13, 'real_tokens': 25 / 39}, rel=1e-5)


def test_a_loss_beyond_all_floats_has_a_perplexity():
    total = dict(nll=1e9, count=1.0, correct=0.0, real=1.0, room=1.0)
    assert math.isfinite(make().metrics(total)['perplexity'])


@torch.no_grad()
def test_label_smoothing_is_cross_entropys_and_never_reported():
    model, plain, (src, tgt) = make(label_smoothing=0.1), make(label_smoothing=0.0), batch()
    sums, logits = model(src, tgt), model.logits(src, tgt)[tgt != 0]
    smooth = F.cross_entropy(logits, tgt[tgt != 0], reduction='sum', label_smoothing=0.1)
    assert near(sums['loss'], smooth) and not near(sums['loss'], sums['nll'], 1e-3)
    assert model.metrics(sums) == plain.metrics(plain(src, tgt))


@torch.no_grad()
@pytest.mark.parametrize('tie', [True, False])
@pytest.mark.parametrize('norm', NORMS)
def test_the_loss_begins_near_ln_v(norm, tie):
    torch.manual_seed(0)
    model = Model(Config(**SMALL | dict(vocab_size=500, n_embd=64, n_layer=6, norm=norm, tie=tie)))
    src, tgt = torch.randint(2, 500, (2, 8, 12))
    assert model.metrics(model(src, tgt))['loss'] == pytest.approx(math.log(500), abs=0.5)


# --- who looks at whom

@pytest.mark.parametrize('flash', [True, False])
def test_attention_is_of_shares_that_no_mask_lets_through(flash):
    model, (src, tgt) = make(flash=flash), batch()
    found, expected = model.attention(src, tgt), model.logits(src, tgt)
    shapes = {'encoder': (2, 3, 2, 7, 7), 'decoder': (2, 3, 2, 6, 6), 'cross': (2, 3, 2, 6, 7)}
    assert {name: weights.shape for name, weights in found.items()} == shapes
    for name, weights in found.items():
        assert near(weights.sum(-1), torch.ones(weights.shape[:-1]))
        hidden = torch.ones(6, 6).triu(1) if name == 'decoder' else (src == 0).float()[:, None, None]
        assert not (weights * hidden).any() and ((weights > 0) | (hidden > 0)).all()
    kv, seen = model.encode(src)                # the first cross-attention, once more by hand
    seen_first = {}
    model.decoder[0].cross.register_forward_pre_hook(lambda module, args: seen_first.update(x=args[0]))
    assert torch.equal(model.logits(src, tgt), expected)        # no hook stays
    q = model.decoder[0].cross.q(seen_first['x']).view(3, 6, 2, 8)
    scores = torch.einsum('bthd,bhsd->bhts', q, kv[0][0]) / math.sqrt(8) + seen
    assert near(found['cross'][0], scores.softmax(-1))


# --- parts

def test_tied_weights_are_one_matrix_before_and_after_loading_and_untied_three():
    for tie, n in (True, 1), (False, 3):
        model = make(tie=tie)
        again = Model(model.config)
        again.load_state_dict(model.state_dict())
        for net in model, again:
            assert len({id(m.weight) for m in (net.embed_src, net.embed_tgt, net.head)}) == n
        assert near(again.eval().logits(*batch()), model.logits(*batch()))
    count = {tie: sum(p.numel() for p in make(tie=tie).parameters()) for tie in (True, False)}
    assert count[False] - count[True] == 2 * 11 * 16


def test_the_config_for_en_fr_has_the_parameters_counted_by_hand():
    settings = configurator.read(ROOT / 'train.py', [str(ROOT / 'config/train_enfr.py')])
    vocab_size = int(re.search(r'--vocab_size=(\d+)', settings.knobs['prepare'])[1])
    with torch.device('meta'):
        model = Model(Config(vocab_size=vocab_size, **settings.fields))
    attention = 4 * (512 * 512 + 512)                       # q, k, v and the way back: 1,050,624
    feed_forward = 512 * 128 + 128 + 128 * 512 + 512        # 131,712
    encode = attention + feed_forward + 2 * 2 * 512         # with two LayerNorms: 1,184,384
    decode = 2 * attention + feed_forward + 3 * 2 * 512     # with three: 2,236,032
    expected = 6 * (encode + decode) + 2 * 2 * 512 + 8_000 * 512       # one matrix for all ids: 4,096,000
    assert sum(p.numel() for p in model.parameters()) == expected == 24_620_544


def test_dropout_keeps_its_share_and_the_mean_and_rests_in_evaluation():
    torch.manual_seed(0)
    dropout, x = Dropout(Config(dropout=0.2)), torch.ones(1000, 100, requires_grad=True)
    y = dropout(x)
    assert {*y.unique().tolist()} == {0.0, 1.25}
    assert (y > 0).float().mean().item() == pytest.approx(0.8, abs=0.007)       # five standard deviations
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], y) and not torch.equal(dropout(x), y)
    assert dropout(x.bfloat16()).dtype == torch.bfloat16 and torch.equal(dropout.eval()(x), x)


def test_dropout_is_at_the_embeddings_and_at_every_sublayer():
    model, dropped = make(dropout=0.5).train(), []
    for module in model.modules():
        if isinstance(module, Dropout):
            module.register_forward_hook(lambda module, args, out: dropped.append((out == 0).float().mean()))
    model(*batch())
    assert len(dropped) == 2 + 2 * 2 + 2 * 3 and all(0.3 < share < 0.7 for share in dropped)


@pytest.mark.parametrize('fields, words', [
    (dict(n_embd=18, n_head=4), ['n_embd 18 .*divisible by n_head 4']),
    (dict(n_embd=3, n_head=3), ['n_embd 3 must be even']),
    (dict(n_layer=0, n_hidden=-1), ['n_layer .*got 0', 'n_hidden .*got -1']),
    (dict(dropout=1.0, label_smoothing=-0.1, vocab_size=0),
     ['vocab_size .*got 0', 'dropout .*got 1.0', 'label_smoothing .*got -0.1'])])
def test_impossible_configs_are_refused_with_a_line_per_problem(fields, words):
    with pytest.raises(ValueError) as refused:
        Config(**SMALL | fields)
    lines = str(refused.value).split('\n')
    assert len(lines) == len(words) and all(map(re.match, words, lines)), lines


# --- a run that translates, and sample.py

KNOWN = [('a cat sleeps.', 'un chat dort.'), ('the dog runs in the snow.', 'le chien court dans la neige.'),
         ('two men eat.', 'deux hommes mangent.'), ('a bird!', 'un oiseau !')]
TEST = [*KNOWN, ('the cat runs in the snow.', 'le chat court dans la neige.'), ('', 'rien'),
        ('a cat and ' * 9 + 'a dog.', 'un chat et ' * 9 + 'un chien.')]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with a data set `pairs` and a `run` that has learnt four sentences by heart."""
    folder = tmp_path_factory.mktemp('translation')
    tokenizer = bpe.train([text for pair in KNOWN for text in pair], 290)
    rows = {split: {field: [[*tokenizer.encode(text), search.END] for text in side]
                    for field, side in zip(('src', 'tgt'), zip(*pairs))}
            for split, pairs in (('train', KNOWN), ('val', KNOWN), ('test', TEST))}
    data.save(f'{folder}/pairs', rows, {'src': 'ragged', 'tgt': 'ragged'},
              {'vocab_size': tokenizer.vocab_size, 'too_long': 'drop'}, tokenizer.json())
    argv = [*TINY, '--model=transformer', '--n_layer=1', '--n_embd=32', '--n_hidden=64', '--block_size=40',
            '--batch_size=4', '--max_iters=80', '--warmup_iters=0', '--eval_interval=40',
            f'--dataset={folder}/pairs', f'--out_dir={folder}/run']
    process = Process('train.py', argv, {}, ROOT, folder / 'output')
    assert process.wait() == 0, process.text
    assert all(f'{src}\n{tgt}\n{tgt}' in process.text for src, tgt in KNOWN[:3])    # the preview
    return folder


@pytest.fixture
def sampled(launch, trained, tmp_path):
    """sampled('--key=value', ...): what sample.py says of the run, in an empty folder."""
    def sampled(*argv, code=0, out_dir=trained / 'run'):
        found, text = launch('sample.py', f'--out_dir={out_dir}', '--device=cpu', *argv, cwd=tmp_path)
        assert found == code and 'Traceback' not in text, text
        return text
    return sampled


@pytest.mark.parametrize('options', [dict(beam=0), dict(beam=1), dict(beam=4), dict(beam=4, cache=False),
                                     dict(beam=4, length_penalty=0.0), dict(beam=300, batch_size=3)])
def test_what_was_learnt_by_heart_is_translated_to_the_letter(trained, options):
    net = configurator.load(trained / 'run')
    tokenizer = data.tokenizer.load(run.read(trained / 'run/best.pt')['tokenizer'])
    sources = [[*tokenizer.encode(src), search.END] for src, _ in KNOWN]
    found = search.translate(net, sources, **options)
    assert [tokenizer.decode(ids) for ids in found] == [tgt for _, tgt in KNOWN]


def test_lines_are_translated_line_by_line_and_empty_ones_stay(sampled, tmp_path):
    (src, tgt), (src2, tgt2) = KNOWN[:2]
    assert sampled(f'--start={src}') == f'{tgt}\n'
    for raw in f'{src}\n\n{src2}\n\n', f'\ufeff{src}\r\n\r\n{src2}\r\n\r\n':
        (tmp_path / 'some lines.txt').write_bytes(raw.encode())
        assert sampled('--start=FILE:some lines.txt', '--beam=1') == f'{tgt}\n\n{tgt2}\n\n'


def test_a_line_beyond_the_model_is_cut_and_named_and_harms_no_other(sampled, tmp_path):
    (tmp_path / 'lines.txt').write_text(f'{KNOWN[0][0]}\n{"a cat and " * 20}\n{KNOWN[3][0]}\n')
    text = sampled('--start=FILE:lines.txt', '--out=x.txt')
    lines = (tmp_path / 'x.txt').read_text(encoding='utf-8').split('\n')
    assert len(lines) == 4 and (lines[0], lines[2], lines[3]) == (KNOWN[0][1], KNOWN[3][1], '')
    assert re.fullmatch(r'wrote x.txt\nline 2 has \d+ tokens, .* first 40\n', text)


def test_a_split_is_translated_and_its_bleu_is_that_of_the_lines(sampled, trained, tmp_path):
    text = sampled('--split=test', '--beam=4', '--bleu', '--out=x.txt')
    lines = (tmp_path / 'x.txt').read_text(encoding='utf-8').splitlines()
    expected = score.bleu(lines, [tgt for _, tgt in TEST])
    assert lines[:4] == [tgt for _, tgt in KNOWN] and lines[5] == '' and 0 < expected < 100
    told = re.search(r'BLEU (\S+) of 7 lines of test, cased, 13a; beam 4, length_penalty 0.6', text)
    assert told[1] == f'{expected:.2f}' and 'line 7 has' in text
    assert sampled().startswith(''.join(f'{line}\n' for line in lines) + 'line 7 has')
    assert 'BLEU 100.00 of 4 lines of val, cased, 13a; greedy' in sampled('--split=val', '--beam=1', '--bleu')


def test_a_seed_decides_what_is_drawn(sampled):
    first, again, other = (sampled('--split=val', '--beam=0', '--temperature=3', f'--seed={seed}')
                           for seed in (1, 1, 2))
    assert first == again != other
    greedy = ''.join(f'{tgt}\n' for _, tgt in KNOWN)
    assert sampled('--split=val', '--beam=0', '--temperature=0') == greedy != first


@pytest.mark.parametrize('argv, words', [
    (['--stop=x', '--max_new_tokens=9'], 'stop, max_new_tokens: of no use to .*, which makes translations'),
    (['--num_samples=2'], 'num_samples: of no use to .*, which makes translations'),
    (['--start=a', '--bleu'], 'start .*bleu'), (['--start=a', '--split=val'], 'start .*split'),
    (['--split=tset'], "'tset'.*train, val, test"), (['--out=x.png'], r"\.txt.*'x.png'"),
    (['--beam=-1', '--length_penalty=-1'], 'beam .*got -1\nlength_penalty .*got -1'),
    (['--start=caf\udce9'], 'expected UTF-8')])
def test_what_makes_no_sense_for_translations_is_refused(sampled, tmp_path, argv, words):
    assert re.search(words, sampled(*argv, code=2)) and not [*tmp_path.glob('x.*')]


@pytest.mark.parametrize('raw', [b'caf\xe9\n', None])
def test_a_file_that_is_no_text_is_refused(sampled, tmp_path, raw):
    if raw:
        (tmp_path / 'latin.txt').write_bytes(raw)
    assert len(sampled('--start=FILE:latin.txt', code=3).splitlines()) == 1


def test_checkpoints_that_cannot_translate_are_refused(sampled, trained, tmp_path):
    state = run.read(trained / 'run/best.pt')
    run.write(tmp_path / 'mute.pt', state | {'tokenizer': None})
    assert 'neither text, translations,' in sampled('--start=a', out_dir='mute.pt', code=2)
    net = gpt.Model(gpt.Config(vocab_size=256, block_size=8, n_layer=1, n_head=1, n_embd=4))
    run.write(tmp_path / 'gpt.pt', state | {
        'keys': {'model': 'gpt'}, 'config': dataclasses.asdict(net.config), 'tokenizer': {'kind': 'bytes'},
        'model': net.state_dict()})
    text = sampled('--start=a', '--beam=4', '--length_penalty=1', out_dir='gpt.pt', code=2)
    assert text.startswith('beam, length_penalty: of no use to gpt.pt, which makes text')


def test_lines_of_ones_own_need_no_data_set_but_rows_do(sampled, trained, tmp_path):
    state = run.read(trained / 'run/best.pt')
    run.write(tmp_path / 'x.pt', state | {'keys': state['keys'] | {'dataset': f'{tmp_path}/gone'}})
    assert sampled(f'--start={KNOWN[0][0]}', out_dir='x.pt') == f'{KNOWN[0][1]}\n'
    assert f'{tmp_path}/gone' in sampled('--bleu', out_dir='x.pt', code=3)


def test_a_preview_is_of_as_many_rows_as_there_are(trained):
    net = configurator.load(trained / 'run')
    meta = data.check(f'{trained}/pairs')
    data.save(f'{trained}/one', {'val': {field: [[5, search.END]] for field in ('src', 'tgt')}},
              {'src': 'ragged', 'tgt': 'ragged'}, meta['info'], meta['tokenizer'])
    for name, n in ('pairs', 3), ('one', 1):
        text = sample.preview(net, meta, data.Split(f'{trained}/{name}', 'val', ['src', 'tgt']))
        assert text.count('\n\n') == n - 1


def test_what_notebooks_need_can_be_imported_from_sample():
    assert sample.bleu(['a b c d e'], ['a b c d e']) == pytest.approx(100)
    assert sample.beam_search is search.beam_search
