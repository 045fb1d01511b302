"""Searching a target for a source, by token and by beam: toys, against brute force and slow loops."""
import functools, itertools, math

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import search
from models.transformer import Config, Model

END, V = search.END, 4


class Toy:
    """A `step` that says `logits(source, beginning)`, (V,): at random, and always the same, unless given."""

    def __init__(self, seed=0, logits=None):
        self.seed, self.logits, self.before, self.asked = seed, logits or self.random, None, 0

    def random(self, source, beginning):
        generator = torch.Generator().manual_seed(hash((self.seed, source, beginning)))
        return 1.5 * torch.randn(V, generator=generator)

    def __call__(self, tokens, parents, sources):
        if self.before:                 # what a cache relies on
            old, whose = self.before
            assert torch.equal(tokens[:, :-1], old[parents]) and torch.equal(sources, whose[parents])
        self.before, self.asked = (tokens, sources), self.asked + 1
        assert not tokens[:, 0].any()
        return torch.stack([self.logits(s, tuple(t[1:])) for s, t in zip(sources.tolist(), tokens.tolist())])

    def following(self, source, beginning):
        """log p of every token, in double precision."""
        return self.logits(source, beginning).double().log_softmax(-1).tolist()

    def score(self, source, ids, length_penalty):
        """Of a whole target, its end included: Wu et al. 2016, equation 14, without the coverage."""
        ids = *ids, END
        log_p = sum(self.following(source, ids[:t])[token] for t, token in enumerate(ids))
        return log_p / ((5 + len(ids)) / 6) ** length_penalty


def likely(probabilities):
    """`logits` of a Toy that has these {beginning: {token: probability}}; what is not told ends for sure."""
    def logits(source, beginning):
        p = probabilities.get(beginning, {END: 1.0})
        return torch.tensor([p.get(token, 1e-9) for token in range(V)]).log()
    return logits


def best(toy, source, most, length_penalty):
    """The highest score of all targets there are."""
    other = [token for token in range(V) if token != END]
    targets = itertools.chain(*(itertools.product(other, repeat=n) for n in range(most)))
    score, ids = max((toy.score(source, ids, length_penalty), ids) for ids in targets)
    return score, [*ids]


def slow(toy, source, most, width, length_penalty):
    """The beam search of search.py for one source, to the very last step, in lists."""
    going, ended = [(0.0, ())], [(-math.inf, ())]
    for T in range(1, most + 1):
        options = [(log_p + following, (*ids, token)) for log_p, ids in going
                   for token, following in enumerate(toy.following(source, ids)) if T < most or token == END]
        kept = sorted(options, reverse=True)[:width]
        going = [(log_p, ids) for log_p, ids in kept if ids[-1] != END]
        ended += [(toy.score(source, ids[:-1], length_penalty), ids[:-1])
                  for _, ids in kept if ids[-1] == END]
        width -= len(kept) - len(going)
    score, ids = max(ended)
    return score, [*ids]


def same(found, expected):
    assert [ids for _, ids in found] == [ids for _, ids in expected]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], rel=1e-4)


# --- by beam

@pytest.mark.parametrize('length_penalty', [0, 0.6, 1, 3])
@pytest.mark.parametrize('seed', range(3))
def test_a_wide_beam_finds_the_best_of_all_targets(seed, length_penalty):
    toy, most = Toy(seed), [4, 1, 3, 5]
    found = search.beam_search(toy, torch.tensor(most), 3**5, length_penalty)
    same(found, [best(toy, source, n, length_penalty) for source, n in enumerate(most)])


@pytest.mark.parametrize('length_penalty', [0, 0.6, 1, 3])
@pytest.mark.parametrize('width', [1, 2, 3, 5, 9])
def test_any_beam_is_that_of_a_slow_loop_which_never_stops_early(width, length_penalty):
    toy, most = Toy(width), [6, 2, 9, 1, 7, 12]
    found = search.beam_search(toy, torch.tensor(most), width, length_penalty)
    same(found, [slow(toy, source, n, width, length_penalty) for source, n in enumerate(most)])
    assert len({len(ids) for _, ids in found}) > 1


def test_the_best_may_end_after_others_and_no_step_is_made_in_vain():
    late = {(): {END: 0.4, 2: 0.35, 3: 0.25}, (3,): {3: 1.0}, (3, 3): {3: 1.0}, (3, 3, 3): {3: 1.0}}
    toy = Toy(logits=likely(late))
    # ln 0.4 = -0.92 after a token, ln 0.35 / (7/6) = -0.90 after two, ln 0.25 / (10/6) = -0.83 after five
    (score, ids), = search.beam_search(toy, torch.tensor([10]), 3, length_penalty=1)
    assert ids == [3, 3, 3, 3] and score == pytest.approx(math.log(0.25) / (10 / 6), abs=1e-3)
    assert toy.asked == 5
    toy = Toy(logits=likely(late))
    assert search.beam_search(toy, torch.tensor([10]), 3, length_penalty=0)[0][1] == [] and toy.asked == 1


def test_sources_that_are_done_are_not_asked_about():
    def logits(source, beginning):
        return 9.0 * torch.eye(V)[END if len(beginning) == source else 2]
    toy = Toy(logits=logits)
    asked = []

    def step(tokens, parents, sources):
        asked.append(sorted({*sources.tolist()}))
        return toy(tokens, parents, sources)
    found = search.beam_search(step, torch.tensor([9, 9, 9]), 2, 0)
    assert [ids for _, ids in found] == [[], [2], [2, 2]] and asked == [[0, 1, 2], [1, 2], [2]]


@pytest.mark.parametrize('options', [{'length_penalty': -0.1}, {'width': 0}])
def test_what_beam_search_cannot_do_is_refused(options):
    with pytest.raises(ValueError, match=str(*options.values())):
        search.beam_search(Toy(), torch.tensor([3]), **options)


# --- by token

@pytest.mark.parametrize('most', [[7, 1, 2, 12, 5], [3] * 8])
def test_greedy_takes_the_likeliest_and_a_beam_of_1_does_too(most):
    toy, expected = Toy(5), []
    for source, n in enumerate(most):
        ids = []
        while len(ids) + 1 < n and (token := toy.logits(source, tuple(ids)).argmax().item()) != END:
            ids.append(token)
        expected.append(ids)
    assert search.write(toy, torch.tensor(most), search.greedy) == expected
    assert any(len(ids) + 1 == n for ids, n in zip(expected, most)) and len({*map(len, expected)}) > 1
    for penalty in 0, 1:
        scored = [(toy.score(source, ids, penalty), ids) for source, ids in enumerate(expected)]
        same(search.beam_search(Toy(5), torch.tensor(most), 1, penalty), scored)


def test_targets_are_drawn_as_often_as_they_are_likely():
    toy, n = Toy(logits=lambda source, beginning: table(beginning)), 4000
    table = functools.cache(functools.partial(Toy(2).random, 0))        # whatever the source
    choose = functools.partial(search.sample, generator=torch.Generator().manual_seed(0))
    drawn = search.write(toy, torch.full((n,), 3), choose)
    for ids in [], [0], [2], [3], [2, 3], [3, 3], [3, 0]:
        p = math.exp(toy.score(0, ids, 0))
        if len(ids) == 2:               # then it had to end
            p /= math.exp(toy.following(0, tuple(ids))[END])
        assert abs(drawn.count(ids) / n - p) <= 5 * math.sqrt(p * (1 - p) / n), ids


def test_a_generator_decides_what_is_drawn():
    def draw(seed):
        choose = functools.partial(search.sample, generator=torch.Generator().manual_seed(seed))
        return search.write(Toy(), torch.full((9,), 8), choose)
    assert draw(1) == draw(1) != draw(2)


# --- of a model

SOURCES = [[*torch.randint(2, 9, (n,), generator=torch.Generator().manual_seed(n)).tolist(), END]
           for n in (5, 1, 3, 7, 2, 9, 4, 6, 11, 13)]


@pytest.fixture(scope='module')
def net():
    """A model that has begun to learn to turn its source around: it still errs, and its targets differ."""
    torch.manual_seed(0)
    net = Model(Config(vocab_size=9, block_size=16, n_layer=2, n_head=2, n_embd=16, n_hidden=32, dropout=0.0))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(120):
        rows = [torch.randint(2, 9, (n,)) for n in torch.randint(1, 9, (16,))]
        src, tgt = (pad_sequence([F.pad(ids, (0, 1), value=END) for ids in side], batch_first=True)
                    for side in (rows, [row.flip(0) for row in rows]))
        sums = net(src, tgt)
        optimizer.zero_grad()
        (sums['loss'] / sums['count']).backward()
        optimizer.step()
    return net.eval()


@pytest.mark.parametrize('flash', [True, False])
@pytest.mark.parametrize('beam', [0, 1, 4, 30])
def test_neither_the_cache_nor_what_stands_beside_it_changes_a_translation(net, beam, flash, monkeypatch):
    monkeypatch.setattr(net.config, 'flash', flash)
    found = search.translate(net, SOURCES, beam)
    for options in dict(cache=False), dict(batch_size=1), dict(batch_size=3, cache=False), dict(batch_size=4):
        assert search.translate(net, SOURCES, beam, **options) == found, options
    assert search.translate(net, SOURCES[::-1], beam) == found[::-1]
    assert len({*map(tuple, found)}) > 5 and len({*map(len, found)}) > 3


def test_a_translation_by_token_is_the_arg_max_of_the_logits(net):
    greedy = search.translate(net, SOURCES, beam=0)
    for src, ids in zip(SOURCES, greedy):
        best = net.logits(torch.tensor([src]), torch.tensor([[*ids, END]]))[0].argmax(-1).tolist()
        assert best[:-1] == ids and (best[-1] == END or len(ids) + 1 == min(2 * len(src) + 10, 16))
    assert search.translate(net, SOURCES, beam=1) == greedy != search.translate(net, SOURCES, beam=4)


def test_a_beam_finds_what_is_likelier(net):
    def score(src, ids):
        logits = net.logits(torch.tensor([src]), torch.tensor([[*ids, END]])).log_softmax(-1)
        return logits[0, range(len(ids) + 1), [*ids, END]].sum().item()
    greedy, wide = (search.translate(net, SOURCES, beam, length_penalty=0) for beam in (1, 8))
    gains = [score(src, b) - score(src, a) for src, a, b in zip(SOURCES, greedy, wide)]
    assert sum(gains) > 0.01


def test_no_sources_are_no_targets(net):
    assert search.translate(net, []) == search.translate(net, [], beam=0) == []


def test_the_encoder_runs_once_and_with_the_cache_the_decoder_reads_one_token(net, monkeypatch):
    encoded, read, encode, decode = [], [], net.encode, net.decode
    monkeypatch.setattr(net, 'encode', lambda src: encoded.append(len(src)) or encode(src))
    monkeypatch.setattr(net, 'decode', lambda tokens, *rest: read.append(tokens.size(1))
                        or decode(tokens, *rest))
    for beam in 0, 4:
        for cache in True, False:
            encoded.clear(), read.clear()
            search.translate(net, SOURCES, beam, cache=cache)
            n = len(read)
            assert encoded == [len(SOURCES)] and n > 3
            assert read == ([1] * n if cache else [*range(1, n + 1)])
