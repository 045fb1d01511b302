"""core/search.py: choosing a token, and a target for a source, against brute force and slow loops."""
import functools
import itertools
import math

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from core import search
from models.transformer import Config, Model

END = search.END
V = 4


# --- choosing one token

def allowed(logits, top_k=0, top_p=1.0, min_p=0.0):
    """Return the set of tokens that may be chosen from a row of logits, in a slow loop."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    if top_k:
        order = order[:top_k]

    def probabilities():
        weights = [math.exp(logits[i] - logits[order[0]]) for i in order]
        return [weight / sum(weights) for weight in weights]

    if top_p < 1:
        total = 0.0
        nucleus = []
        for i, p in zip(order, probabilities()):
            if not nucleus or total < top_p:
                nucleus.append(i)
            total += p
        order = nucleus
    least = min_p * probabilities()[0]
    return {i for i, p in zip(order, probabilities()) if p >= least}


@pytest.mark.parametrize('sets', [
    {'top_k': 1}, {'top_k': 3}, {'top_p': 0.5}, {'top_p': 0.9}, {'min_p': 0.1}, {'min_p': 0.5},
    {'top_k': 4, 'top_p': 0.7}, {'top_p': 0.95, 'min_p': 0.2}, {'top_k': 5, 'min_p': 0.05}])
def test_truncation_keeps_the_set_that_a_slow_loop_finds(sets):
    logits = 2 * torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    truncated = search.truncate(logits, **sets)
    assert torch.equal(logits, before)
    is_kept = truncated.isfinite()
    for row, kept in zip(logits.tolist(), is_kept):
        assert set(kept.nonzero().flatten().tolist()) == allowed(row, **sets)
    assert torch.equal(truncated[is_kept], logits[is_kept])


@pytest.mark.parametrize('sets, n', [
    ({}, 6), ({'top_k': 6}, 6), ({'top_k': 7}, 6), ({'top_k': 10**9}, 6), ({'top_p': 1.0}, 6),
    ({'top_p': 0.0}, 1), ({'top_p': 1e-9}, 1), ({'min_p': 1.0}, 1), ({'min_p': 0.0}, 6),
    ({'top_k': 1, 'top_p': 0.0, 'min_p': 1.0}, 1)])
def test_extreme_truncation_keeps_all_tokens_or_the_likeliest(sets, n):
    logits = torch.tensor([[1.0, 5.0, 2.0, 0.0, 4.0, 3.0], [9.0, 8.0, 7.0, 6.0, 5.0, 4.0]])
    truncated = search.truncate(logits, **sets)
    assert truncated.isfinite().sum(1).tolist() == [n, n]
    assert torch.equal(truncated.argmax(1), logits.argmax(1))


def test_equal_logits_always_leave_a_token():
    ties = torch.tensor([[1.0, 3.0, 3.0, 3.0, 0.0]])
    assert search.truncate(ties, top_p=0.0).isfinite().sum() == 1
    assert search.truncate(ties, top_p=0.5).isfinite().sum() == 2       # the smallest set that reaches a half
    assert search.truncate(ties, min_p=1.0).isfinite().tolist() == [[False, True, True, True, False]]
    assert search.truncate(ties, top_k=2).isfinite().sum() in (2, 3)    # two, or all that tie
    assert not search.truncate(ties, top_k=2).isfinite()[0, [0, 4]].any()
    equal = torch.zeros(3, 4)
    assert search.truncate(equal, top_p=0.0).isfinite().sum(1).tolist() == [1, 1, 1]
    assert search.greedy(ties).item() in (1, 2, 3)


@pytest.mark.parametrize('temperature', [0, 1e-6, 1e-30, 1e-40, 1e-300])
def test_a_temperature_of_zero_or_nearly_zero_is_greedy(temperature):
    random = 3 * torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    for logits in random, -random, 100 * random, random - 1e4:
        assert search.greedy(logits).tolist() == [row.index(max(row)) for row in logits.tolist()]
        assert torch.equal(search.sample(logits, temperature), search.greedy(logits))


@pytest.mark.parametrize('options', [
    {}, {'temperature': 0.5}, {'temperature': 2.0}, {'temperature': 0.7, 'top_k': 3}, {'top_p': 0.8},
    {'temperature': 1e30}])
def test_samples_follow_the_softmax_of_what_is_kept(options):
    logits = torch.tensor([0.3, -1.0, 2.0, 1.0, 0.0])
    n = 40_000
    sets = {name: value for name, value in options.items() if name != 'temperature'}
    scaled = (logits.double() / options.get('temperature', 1)).tolist()
    weights = [0.0] * 5
    for i in allowed(scaled, **sets):
        weights[i] = math.exp(scaled[i])
    generator = torch.Generator().manual_seed(0)
    tokens = search.sample(logits.expand(n, -1), **options, generator=generator)
    frequencies = tokens.bincount(minlength=5) / n
    for frequency, weight in zip(frequencies.tolist(), weights):
        p = weight / sum(weights)
        assert abs(frequency - p) <= 5 * math.sqrt(p * (1 - p) / n)     # five standard deviations


def test_the_generator_decides_which_token_is_sampled():
    logits = torch.randn(64, 9, generator=torch.Generator().manual_seed(0))
    tokens = [search.sample(logits, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(tokens[0], tokens[1])
    assert not torch.equal(tokens[0], tokens[2])


def test_half_precision_logits_can_be_sampled():
    logits = torch.randn(64, 9).bfloat16()
    tokens = search.sample(logits, 0.5, 3, 0.9, 0.1)
    assert tokens.shape == (64,)
    assert tokens.dtype == torch.int64


# --- toys to search: a target for each source

class Toy:
    """A `step` whose logits (V,) are a function of (source, beginning of the target): random or given."""

    def __init__(self, seed=0, logits=None):
        self.seed = seed
        self.logits = logits or self.random
        self.previous = None        # tokens and sources of the previous call
        self.n_calls = 0

    def random(self, source, beginning):
        generator = torch.Generator().manual_seed(hash((self.seed, source, beginning)))
        return 1.5 * torch.randn(V, generator=generator)

    def __call__(self, tokens, parents, sources):
        if self.previous:           # a cache relies on this
            previous_tokens, previous_sources = self.previous
            assert torch.equal(tokens[:, :-1], previous_tokens[parents])
            assert torch.equal(sources, previous_sources[parents])
        self.previous = tokens, sources
        self.n_calls += 1
        assert not tokens[:, 0].any()
        rows = zip(sources.tolist(), tokens.tolist())
        return torch.stack([self.logits(source, tuple(row[1:])) for source, row in rows])

    def log_p(self, source, beginning):
        """Return the log probability of every next token, in double precision."""
        return self.logits(source, beginning).double().log_softmax(-1).tolist()

    def score(self, source, ids, length_penalty):
        """Return the score of a target, its end added: Wu et al. 2016, equation 14, without coverage."""
        ids = *ids, END
        log_p = sum(self.log_p(source, ids[:t])[token] for t, token in enumerate(ids))
        return log_p / ((5 + len(ids)) / 6) ** length_penalty


def logits_from(probabilities):
    """Return `logits` for a Toy from {beginning: {token: probability}}. Any other beginning ends for sure."""
    def logits(source, beginning):
        p = probabilities.get(beginning, {END: 1.0})
        return torch.tensor([p.get(token, 1e-9) for token in range(V)]).log()
    return logits


def best_of_all(toy, source, max_length, length_penalty):
    """Return (score, target) of the best target there is."""
    other = [token for token in range(V) if token != END]
    scored = []
    for n in range(max_length):
        for ids in itertools.product(other, repeat=n):
            scored.append((toy.score(source, ids, length_penalty), ids))
    score, ids = max(scored)
    return score, list(ids)


def slow_beam_search(toy, source, max_length, beam, length_penalty):
    """Return what beam_search finds for one source, with lists, and without stopping early."""
    unfinished = [(0.0, ())]
    finished = [(-math.inf, ())]
    for T in range(1, max_length + 1):
        extended = []
        for log_p, ids in unfinished:
            for token, more in enumerate(toy.log_p(source, ids)):
                if T < max_length or token == END:
                    extended.append((log_p + more, (*ids, token)))
        kept = sorted(extended, reverse=True)[:beam]
        unfinished = [(log_p, ids) for log_p, ids in kept if ids[-1] != END]
        for _, ids in kept:
            if ids[-1] == END:
                finished.append((toy.score(source, ids[:-1], length_penalty), ids[:-1]))
        beam -= len(kept) - len(unfinished)
    score, ids = max(finished)
    return score, list(ids)


def assert_same(found, expected):
    """Compare lists of (score, target)."""
    assert [ids for _, ids in found] == [ids for _, ids in expected]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], rel=1e-4)


# --- beam search

@pytest.mark.parametrize('length_penalty', [0, 0.6, 1, 3])
@pytest.mark.parametrize('seed', range(3))
def test_a_wide_beam_finds_the_best_of_all_targets(seed, length_penalty):
    toy = Toy(seed)
    max_length = [4, 1, 3, 5]
    found = search.beam_search(toy, torch.tensor(max_length), 3**5, length_penalty)
    assert_same(found, [best_of_all(toy, source, n, length_penalty) for source, n in enumerate(max_length)])


@pytest.mark.parametrize('length_penalty', [0, 0.6, 1, 3])
@pytest.mark.parametrize('beam', [1, 2, 3, 5, 9])
def test_any_beam_finds_what_a_slow_loop_does_that_never_stops_early(beam, length_penalty):
    toy = Toy(beam)
    max_length = [6, 2, 9, 1, 7, 12]
    found = search.beam_search(toy, torch.tensor(max_length), beam, length_penalty)
    expected = []
    for source, n in enumerate(max_length):
        expected.append(slow_beam_search(toy, source, n, beam, length_penalty))
    assert_same(found, expected)
    assert len({len(ids) for _, ids in found}) > 1


def test_the_search_goes_on_while_a_longer_target_can_win_and_no_longer():
    logits = logits_from({
        (): {END: 0.4, 2: 0.35, 3: 0.25}, (3,): {3: 1.0}, (3, 3): {3: 1.0}, (3, 3, 3): {3: 1.0}})
    toy = Toy(logits=logits)
    # ln 0.4 = -0.92 after a token, ln 0.35 / (7/6) = -0.90 after two, ln 0.25 / (10/6) = -0.83 after five
    (score, ids), = search.beam_search(toy, torch.tensor([10]), 3, length_penalty=1)
    assert ids == [3, 3, 3, 3]
    assert score == pytest.approx(math.log(0.25) / (10 / 6), abs=1e-3)
    assert toy.n_calls == 5
    toy = Toy(logits=logits)
    (score, ids), = search.beam_search(toy, torch.tensor([10]), 3, length_penalty=0)
    assert ids == []
    assert toy.n_calls == 1


def test_a_source_that_is_done_takes_part_in_no_further_step():
    def logits(source, beginning):
        token = END if len(beginning) == source else 2
        return 9.0 * torch.eye(V)[token]

    toy = Toy(logits=logits)
    sources_of_steps = []

    def step(tokens, parents, sources):
        sources_of_steps.append(sorted(set(sources.tolist())))
        return toy(tokens, parents, sources)

    found = search.beam_search(step, torch.tensor([9, 9, 9]), 2, 0)
    assert [ids for _, ids in found] == [[], [2], [2, 2]]
    assert sources_of_steps == [[0, 1, 2], [1, 2], [2]]


@pytest.mark.parametrize('options, message', [({'length_penalty': -0.1}, '-0.1'), ({'beam': 0}, 'beam 0')])
def test_a_negative_penalty_or_no_beam_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        search.beam_search(Toy(), torch.tensor([3]), **options)


# --- token by token

@pytest.mark.parametrize('max_length', [[7, 1, 2, 12, 5], [3] * 8])
def test_greedy_decoding_takes_the_likeliest_token_and_so_does_a_beam_of_1(max_length):
    toy = Toy(5)
    expected = []
    for source, n in enumerate(max_length):
        ids = []
        token = toy.logits(source, ()).argmax().item()
        while token != END and len(ids) + 1 < n:
            ids.append(token)
            token = toy.logits(source, tuple(ids)).argmax().item()
        expected.append(ids)
    assert search.decode(toy, torch.tensor(max_length), search.greedy) == expected
    assert any(len(ids) + 1 == n for ids, n in zip(expected, max_length))
    assert len({len(ids) for ids in expected}) > 1
    for penalty in 0, 1:
        scored = [(toy.score(source, ids, penalty), ids) for source, ids in enumerate(expected)]
        assert_same(search.beam_search(Toy(5), torch.tensor(max_length), 1, penalty), scored)


def test_targets_are_sampled_as_often_as_they_are_likely():
    n = 4000
    one_source = functools.cache(functools.partial(Toy(2).random, 0))
    toy = Toy(logits=lambda source, beginning: one_source(beginning))
    choose = functools.partial(search.sample, generator=torch.Generator().manual_seed(0))
    targets = search.decode(toy, torch.full((n,), 3), choose)
    for ids in [], [0], [2], [3], [2, 3], [3, 3], [3, 0]:
        p = math.exp(toy.score(0, ids, 0))
        if len(ids) == 2:                       # then max_length makes it end
            p /= math.exp(toy.log_p(0, tuple(ids))[END])
        assert abs(targets.count(ids) / n - p) <= 5 * math.sqrt(p * (1 - p) / n), ids


def test_the_generator_decides_which_targets_are_sampled():
    def targets(seed):
        choose = functools.partial(search.sample, generator=torch.Generator().manual_seed(seed))
        return search.decode(Toy(), torch.full((9,), 8), choose)

    assert targets(1) == targets(1)
    assert targets(1) != targets(2)


# --- with a model

def random_source(n):
    """Return n random ids and the end."""
    return [*torch.randint(2, 9, (n,), generator=torch.Generator().manual_seed(n)).tolist(), END]


SOURCES = [random_source(n) for n in (5, 1, 3, 7, 2, 9, 4, 6, 11, 13)]


@pytest.fixture(scope='module')
def net():
    """A model that has begun to learn to reverse its source: it still errs, and its targets differ."""
    torch.manual_seed(0)
    net = Model(Config(vocab_size=9, block_size=16, n_layer=2, n_head=2, n_embd=16, n_hidden=32, dropout=0.0))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(120):
        rows = [torch.randint(2, 9, (n,)) for n in torch.randint(1, 9, (16,))]
        src = pad_sequence([F.pad(row, (0, 1), value=END) for row in rows], batch_first=True)
        tgt = pad_sequence([F.pad(row.flip(0), (0, 1), value=END) for row in rows], batch_first=True)
        sums = net(src, tgt)
        optimizer.zero_grad()
        (sums['loss'] / sums['count']).backward()
        optimizer.step()
    return net.eval()


@pytest.mark.parametrize('flash', [True, False])
@pytest.mark.parametrize('beam', [0, 1, 4, 30])
def test_neither_the_cache_nor_the_batch_changes_a_translation(net, beam, flash, monkeypatch):
    monkeypatch.setattr(net.config, 'flash', flash)
    found = search.translate(net, SOURCES, beam)
    for options in dict(cache=False), dict(batch_size=1), dict(batch_size=3, cache=False), dict(batch_size=4):
        assert search.translate(net, SOURCES, beam, **options) == found, options
    assert search.translate(net, SOURCES[::-1], beam) == found[::-1]
    assert len({tuple(ids) for ids in found}) > 5
    assert len({len(ids) for ids in found}) > 3


def test_a_greedy_translation_is_the_argmax_of_the_logits(net):
    greedy = search.translate(net, SOURCES, beam=0)
    for src, ids in zip(SOURCES, greedy):
        logits = net.logits(torch.tensor([src]), torch.tensor([[*ids, END]]))
        likeliest = logits[0].argmax(-1).tolist()
        assert likeliest[:-1] == ids
        assert likeliest[-1] == END or len(ids) + 1 == min(2 * len(src) + 10, 16)
    assert search.translate(net, SOURCES, beam=1) == greedy
    assert search.translate(net, SOURCES, beam=4) != greedy


def test_a_beam_finds_likelier_translations(net):
    def log_p(src, ids):
        logits = net.logits(torch.tensor([src]), torch.tensor([[*ids, END]]))
        return logits.log_softmax(-1)[0, range(len(ids) + 1), [*ids, END]].sum().item()

    greedy = search.translate(net, SOURCES, beam=1, length_penalty=0)
    wide = search.translate(net, SOURCES, beam=8, length_penalty=0)
    gains = [log_p(src, b) - log_p(src, a) for src, a, b in zip(SOURCES, greedy, wide)]
    assert sum(gains) > 0.01


def test_no_sources_give_no_translations(net):
    assert search.translate(net, []) == []
    assert search.translate(net, [], beam=0) == []


@pytest.mark.parametrize('beam', [0, 4])
@pytest.mark.parametrize('cache', [True, False])
def test_the_encoder_runs_once_and_the_cached_decoder_reads_one_token_a_step(net, monkeypatch, beam, cache):
    encode = net.encode
    decode = net.decode
    encoded = []
    lengths = []

    def spy_encode(src):
        encoded.append(len(src))
        return encode(src)

    def spy_decode(tokens, *rest):
        lengths.append(tokens.size(1))
        return decode(tokens, *rest)

    monkeypatch.setattr(net, 'encode', spy_encode)
    monkeypatch.setattr(net, 'decode', spy_decode)
    search.translate(net, SOURCES, beam, cache=cache)
    assert encoded == [len(SOURCES)]
    n = len(lengths)
    assert n > 3
    assert lengths == ([1] * n if cache else list(range(1, n + 1)))
