"""models/classifier.py: padding makes no difference, logits are a naive loop's, metrics come from sums."""
import math

import pytest
import torch
from torch import nn

from models import classifier
from models.classifier import Config, Model, hash_pairs

POSITIONS = ['sinusoidal', 'learned', 'rope', 'none']
POOLS = ['mean', 'first', 'max']


def make(seed=0, **changes):
    """A small model in eval mode, far from its initialisation."""
    torch.manual_seed(seed)
    fields = dict(vocab_size=19, n_class=3, block_size=12, n_layer=2, n_head=2, n_embd=16, n_hidden=24)
    model = Model(Config(**fields | changes)).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model


def padded(*rows, width=0):
    """Rows of ids as one tensor, padded with 0."""
    width = max(width, *map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])


def metrics_of(true, predicted, n_class):
    """The metrics of a model that predicts `predicted`, through its forward and evaluation's sums."""
    model = make(n_class=n_class)
    model.logits = lambda text: 50 * nn.functional.one_hot(torch.tensor(predicted), n_class).float()
    sums = model(torch.zeros(len(true), 1, dtype=torch.long), torch.tensor(true))
    return model.metrics({name: value.double() for name, value in sums.items()})


# --- the encoder

def naive_logits(model, ids):
    """The logits of one text without padding, in loops over heads and tokens, by the formulas."""
    config = model.config
    hs = config.n_embd // config.n_head
    rows = []
    before = 1
    for position, token in enumerate([1, *ids]):
        x = model.embed.weight[token]
        if config.n_pairs:
            x = x + model.embed_pair.weight[(2654435761 * before + token) % config.n_pairs]
        before = token
        angles = [position / 10000 ** (2 * i / config.n_embd) for i in range(config.n_embd // 2)]
        if config.pos == 'learned':
            x = x + model.embed_pos.weight[position]
        if config.pos == 'sinusoidal':
            x = x + 0.02 * torch.tensor([f(angle) for angle in angles for f in (math.sin, math.cos)])
        rows.append(model.norm_embed(x))
    x = torch.stack(rows)
    for block in model.blocks:
        q, k, v = block.attention.qkv(block.norm1(x)).chunk(3, dim=1)
        heads = []
        for head in range(config.n_head):
            part = slice(head * hs, (head + 1) * hs)
            scores = torch.empty(len(x), len(x))
            for i in range(len(x)):
                for j in range(len(x)):
                    key = k[j, part]
                    if config.pos == 'rope':
                        key = turned(key, j - i)        # only the distance counts
                    scores[i, j] = q[i, part] @ key / math.sqrt(hs)
            heads.append(scores.softmax(1) @ v[:, part])
        x = x + block.attention.proj(torch.cat(heads, dim=1))
        x = x + block.proj(nn.functional.gelu(block.fc(block.norm2(x))))
    x = model.norm(x)
    pooled = {'mean': x.mean(0), 'max': x.max(0).values, 'first': x[0]}
    return model.head(pooled[config.pool])


def turned(x, distance):
    """Complex numbers x1 + i x2, each times e^(i angle)."""
    half = len(x) // 2
    angle = torch.tensor([distance / 10000 ** (i / half) for i in range(half)])
    y = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones(half), angle)
    return torch.cat([y.real, y.imag])


@pytest.mark.parametrize('n_pairs', [0, 23])
@pytest.mark.parametrize('pos', POSITIONS)
@pytest.mark.parametrize('pool', POOLS)
@torch.no_grad()
def test_the_logits_are_those_of_a_naive_loop(pos, pool, n_pairs):
    model = make(pos=pos, pool=pool, n_pairs=n_pairs)
    ids = [4, 9, 2, 2, 17]
    assert torch.allclose(model.logits(torch.tensor([ids]))[0], naive_logits(model, ids), atol=1e-5)


@pytest.mark.parametrize('changes', [{}, {'n_pairs': 23}, {'token_dropout': 0.85}])
@pytest.mark.parametrize('pos', POSITIONS)
@pytest.mark.parametrize('pool', POOLS)
@torch.no_grad()
def test_padding_makes_no_difference(pos, pool, changes):
    model = make(pos=pos, pool=pool, **changes)
    short = [3, 8, 5]
    alone = model.logits(padded(short))[0]
    beside = model.logits(padded([7] * 12, short))[1]
    assert torch.allclose(alone, beside, atol=1e-5)
    assert not torch.allclose(alone, model.logits(padded([3, 8, 6]))[0], atol=1e-3)


@pytest.mark.parametrize('pool', POOLS)
def test_a_text_without_tokens_has_logits_and_gradients(pool):
    model = make(pool=pool)
    text = padded([], [5, 6])
    sums = model(text, torch.tensor([0, 1]))
    sums['loss'].backward()
    assert sums['loss'].isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert torch.equal(model.logits(text[:1]), model.logits(text[:1, :1]))


@torch.no_grad()
def test_without_positions_the_order_does_not_matter_and_with_them_it_does():
    one, other = padded([3, 8, 5, 9]), padded([9, 5, 3, 8])
    for pos in POSITIONS:
        model = make(pos=pos)
        assert torch.allclose(model.logits(one), model.logits(other), atol=1e-5) == (pos == 'none')


def test_a_new_model_with_pairs_has_the_embeddings_of_one_without():
    text = padded([3, 8, 5, 9])
    fields = dict(vocab_size=19, n_embd=16, n_hidden=24)
    embeddings = []
    for n_pairs in 0, 23:
        torch.manual_seed(0)
        model = Model(Config(**fields, n_pairs=n_pairs)).eval()
        embeddings.append(model.embed_text(text, torch.arange(4))[0])
    assert torch.equal(*embeddings)


def test_few_pairs_of_imdbs_size_share_a_row():
    n_pairs = 200_000
    ids = torch.randperm(32_000)[:320]
    previous, tokens = torch.meshgrid(ids, ids, indexing='ij')  # 102,400 pairs
    rows = hash_pairs(previous, tokens, n_pairs)
    assert 0 <= rows.min() and rows.max() < n_pairs
    expected = n_pairs * (1 - (1 - 1 / n_pairs) ** rows.numel())    # different rows, if they were random
    assert rows.unique().numel() > 0.98 * expected


def test_token_dropout_leaves_out_the_same_positions_of_all_texts_in_training():
    model = make(token_dropout=0.25).train()
    part, = model.parts(12, 'cpu')
    assert part[0] == 0 and len(part) == 10                     # the class token and 9 of 12
    assert torch.equal(part, part.unique())                     # in order, none twice
    assert part.max() <= 12
    assert not torch.equal(part, model.parts(12, 'cpu')[0])


@pytest.mark.parametrize('rate, n_parts', [(0.0, 1), (0.25, 1), (0.5, 2), (0.7, 3), (0.85, 7)])
def test_evaluation_reads_every_token_in_one_part(rate, n_parts):
    parts = make(token_dropout=rate).parts(12, 'cpu')
    assert len(parts) == n_parts
    assert all(part[0] == 0 for part in parts)                  # each has the class token
    assert torch.cat([part[1:] for part in parts]).sort().values.tolist() == list(range(1, 13))


@pytest.mark.parametrize('pos', POSITIONS)
@pytest.mark.parametrize('n_pairs', [0, 23])
@torch.no_grad()
def test_a_token_of_a_part_is_embedded_as_in_the_whole_text(n_pairs, pos):
    model = make(n_pairs=n_pairs, pos=pos)
    text = torch.randint(2, 19, (50, 13))
    whole, _, _, _ = model.embed_text(text, torch.arange(13))
    position = torch.tensor([0, 3, 4, 9])
    part, mask, _, is_token = model.embed_text(text, position)
    assert torch.equal(part, whole[:, position])
    assert is_token.shape == (50, 4) and mask.size(-1) == 4


@torch.no_grad()
def test_logits_are_the_mean_over_parts_weighted_by_their_tokens():
    model = make(token_dropout=0.5)
    text = torch.randint(2, 19, (5, 7))
    whole = nn.functional.pad(text, (1, 0), value=1)
    odd, even = [model.part_logits(whole, torch.tensor(part)) for part in ([0, 1, 3, 5, 7], [0, 2, 4, 6])]
    assert torch.allclose(model.logits(text), (4 * odd + 3 * even) / 7, atol=1e-5)


@torch.no_grad()
def test_empty_parts_of_a_short_text_do_not_count():
    model = make(token_dropout=0.85)                            # 7 parts
    word = model.part_logits(torch.tensor([[1, 9]]), torch.tensor([0, 1]))
    nothing = model.part_logits(torch.tensor([[1]]), torch.tensor([0]))
    assert torch.allclose(model.logits(torch.tensor([[9]])), word, atol=1e-4)
    assert torch.allclose(model.logits(torch.tensor([[0]])), nothing, atol=1e-4)


@torch.no_grad()
def test_both_forms_of_attention_have_the_same_logits():
    text = padded([3, 8, 5, 9], [4], [])
    assert torch.allclose(make(flash=True).logits(text), make(flash=False).logits(text), atol=1e-5)


def test_label_smoothing_changes_the_loss_but_not_what_is_reported():
    text, label = torch.randint(2, 19, (5, 7)), torch.tensor([0, 1, 2, 0, 1])
    plain, smoothed = [make(label_smoothing=epsilon)(text, label) for epsilon in (0.0, 0.2)]
    assert torch.equal(plain['loss'], plain['nll']) and torch.equal(plain['nll'], smoothed['nll'])
    assert not torch.allclose(smoothed['loss'], smoothed['nll'])


@pytest.mark.parametrize('changes, named', [
    ({'n_embd': 18}, 'n_embd 18'), ({'n_embd': 6, 'n_head': 2}, 'n_embd 6'), ({'n_layer': 0}, 'n_layer'),
    ({'n_class': 0}, 'n_class'), ({'dropout': 1.0}, 'dropout'), ({'token_dropout': -0.1}, 'token_dropout'),
    ({'label_smoothing': 1.0}, 'label_smoothing'), ({'n_pairs': -1}, 'n_pairs'),
    ({'vocab_size': 0}, 'vocab_size')])
def test_a_configuration_that_cannot_work_is_an_error(changes, named):
    with pytest.raises(ValueError, match=named):
        Config(**changes)


def test_all_problems_are_named_at_once():
    with pytest.raises(ValueError) as error:
        Config(n_head=0, n_layer=0, dropout=2.0)
    assert len(str(error.value).splitlines()) == 3


# --- metrics

def test_metrics_are_those_of_a_worked_example():
    metrics = metrics_of([0, 0, 1, 1], [0, 0, 1, 0], 2)
    assert metrics['macro_f1'].item() == pytest.approx((4 / 5 + 2 / 3) / 2)          # 0.7333
    assert metrics['accuracy'].item() == 0.75
    assert metrics['precision'].tolist() == pytest.approx([2 / 3, 1])
    assert metrics['recall'].tolist() == [1, 0.5]
    assert metrics['confusion'].tolist() == [[2, 0], [1, 1]]                        # true in rows


def test_a_class_that_is_neither_true_nor_predicted_counts_0_in_macro_f1():
    metrics = metrics_of([0, 0, 1, 1], [0, 0, 1, 0], 3)
    assert metrics['macro_f1'].item() == pytest.approx((4 / 5 + 2 / 3) / 3)          # 0.4889
    assert metrics['precision'][2] == metrics['recall'][2] == 0


def test_metrics_are_those_of_scikit_learn():
    sklearn = pytest.importorskip('sklearn.metrics')
    generator = torch.Generator().manual_seed(0)
    for n_class, n_true, n_predicted in (4, 4, 4), (5, 3, 5), (5, 5, 2), (6, 3, 3):     # some are absent
        true = torch.randint(n_true, (40,), generator=generator).tolist()
        predicted = torch.randint(n_predicted, (40,), generator=generator).tolist()
        metrics = metrics_of(true, predicted, n_class)
        labels = list(range(n_class))
        confusion = sklearn.confusion_matrix(true, predicted, labels=labels)
        assert metrics['confusion'].tolist() == confusion.tolist()
        precision, recall, f1, _ = sklearn.precision_recall_fscore_support(
            true, predicted, labels=labels, zero_division=0)
        assert metrics['precision'].tolist() == pytest.approx(precision.tolist())
        assert metrics['recall'].tolist() == pytest.approx(recall.tolist())
        assert metrics['macro_f1'].item() == pytest.approx(f1.mean())
        assert metrics['macro_f1'].item() == pytest.approx(
            sklearn.f1_score(true, predicted, labels=labels, average='macro', zero_division=0))


def test_macro_f1_of_two_batches_is_that_of_their_sum_and_training_counts_no_pairs():
    model = make()
    text, label = torch.randint(2, 19, (9, 7)), torch.randint(3, (9,))
    whole = model.metrics(model(text, label))
    parts = [model(text[rows], label[rows]) for rows in (slice(4), slice(4, 9))]
    added = model.metrics({name: parts[0][name] + parts[1][name] for name in parts[0]})
    assert added['macro_f1'] == pytest.approx(whole['macro_f1'].item())
    assert 'confusion' not in model.train()(text, label)
    assert classifier.Model.monitor == ('accuracy', 'max')
