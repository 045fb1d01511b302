"""Sampling: choosing against naive references, and sample.py on a tiny trained run whose data set is gone."""
import dataclasses, io, math, os, shutil, sys

import pytest
import torch

import configurator, data, run, sample, search
from conftest import ROOT, TINY, Process
from data.tokenizer import Bytes
from models import gpt

RULE = '\n' + '-' * 80 + '\n'


# --- choosing

def kept(logits, top_k=0, top_p=1.0, min_p=0.0):
    """The tokens of a row that may be chosen, slowly: first top_k, of its rest top_p, of its rest min_p."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    order = order[:top_k] if top_k else order

    def probabilities():
        weights = [math.exp(logits[i] - logits[order[0]]) for i in order]
        return [w / sum(weights) for w in weights]
    if top_p < 1:
        share, nucleus = 0.0, []
        for i, p in zip(order, probabilities()):
            if not nucleus or share < top_p:
                nucleus.append(i)
            share += p
        order = nucleus
    return {i for i, p in zip(order, probabilities()) if p >= min_p * probabilities()[0]}


@pytest.mark.parametrize('sets', [
    {'top_k': 1}, {'top_k': 3}, {'top_p': 0.5}, {'top_p': 0.9}, {'min_p': 0.1}, {'min_p': 0.5},
    {'top_k': 4, 'top_p': 0.7}, {'top_p': 0.95, 'min_p': 0.2}, {'top_k': 5, 'min_p': 0.05}])
def test_truncation_keeps_the_set_that_a_slow_loop_finds(sets):
    logits = 2 * torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    found = search.truncate(logits, **sets)
    assert torch.equal(logits, before)
    for row, left in zip(logits.tolist(), found):
        assert set(left.isfinite().nonzero().flatten().tolist()) == kept(row, **sets)
    stays = found.isfinite()
    assert torch.equal(found[stays], logits[stays])


@pytest.mark.parametrize('sets, left', [
    ({}, 6), ({'top_k': 6}, 6), ({'top_k': 7}, 6), ({'top_k': 10**9}, 6), ({'top_p': 1.0}, 6),
    ({'top_p': 0.0}, 1), ({'top_p': 1e-9}, 1), ({'min_p': 1.0}, 1), ({'min_p': 0.0}, 6),
    ({'top_k': 1, 'top_p': 0.0, 'min_p': 1.0}, 1)])
def test_truncation_at_its_ends(sets, left):
    logits = torch.tensor([[1.0, 5.0, 2.0, 0.0, 4.0, 3.0], [9.0, 8.0, 7.0, 6.0, 5.0, 4.0]])
    found = search.truncate(logits, **sets)
    assert found.isfinite().sum(1).tolist() == [left, left]
    assert torch.equal(found.argmax(1), logits.argmax(1))


def test_ties_leave_nobody_without_a_token():
    ties = torch.tensor([[1.0, 3.0, 3.0, 3.0, 0.0]])
    assert search.truncate(ties, top_p=0.0).isfinite().sum() == 1
    assert search.truncate(ties, top_p=0.5).isfinite().sum() == 2       # the smallest set that reaches a half
    assert search.truncate(ties, min_p=1.0).isfinite().tolist() == [[False, True, True, True, False]]
    assert search.truncate(ties, top_k=2).isfinite().sum() in (2, 3)    # the k likeliest, or all that tie
    assert not search.truncate(ties, top_k=2).isfinite()[0, [0, 4]].any()
    equal = torch.zeros(3, 4)
    assert search.truncate(equal, top_p=0.0).isfinite().sum(1).tolist() == [1, 1, 1]
    assert search.greedy(ties).item() in (1, 2, 3)


@pytest.mark.parametrize('temperature', [0, 1e-6, 1e-30, 1e-40, 1e-300])
def test_no_temperature_is_greedy(temperature):
    logits = 3 * torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    for tokens in logits, -logits, 100 * logits, logits - 1e4:
        assert search.greedy(tokens).tolist() == [row.index(max(row)) for row in tokens.tolist()]
        assert torch.equal(search.sample(tokens, temperature), search.greedy(tokens))


@pytest.mark.parametrize('options', [
    {}, {'temperature': 0.5}, {'temperature': 2.0}, {'temperature': 0.7, 'top_k': 3}, {'top_p': 0.8},
    {'temperature': 1e30}])
def test_draws_follow_the_softmax_of_what_is_left(options):
    row, count = torch.tensor([0.3, -1.0, 2.0, 1.0, 0.0]), 40_000
    sets = {key: value for key, value in options.items() if key != 'temperature'}
    scaled = (row.double() / options.get('temperature', 1)).tolist()
    weights = [math.exp(value) if i in kept(scaled, **sets) else 0 for i, value in enumerate(scaled)]
    generator = torch.Generator().manual_seed(0)
    drawn = search.sample(row.expand(count, -1), **options, generator=generator).bincount(minlength=5) / count
    for found, weight in zip(drawn.tolist(), weights):
        p = weight / sum(weights)
        assert abs(found - p) <= 5 * math.sqrt(p * (1 - p) / count), options        # five standard deviations


def test_a_generator_decides_and_half_precision_will_do():
    logits = torch.randn(64, 9, generator=torch.Generator().manual_seed(0))
    draws = [search.sample(logits, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    drawn = search.sample(logits.bfloat16(), 0.5, 3, 0.9, 0.1)
    assert drawn.shape == (64,) and drawn.dtype == torch.int64


# --- continuations

class Scripted:
    """A model that says what it was told, a token for every row at a time."""

    def __init__(self, *rows):
        self.rows, self.asked = rows, 0

    def generate(self, prompts, max_new_tokens, choose, cache=True):
        for column in list(zip(*self.rows))[:max_new_tokens]:
            self.asked += 1
            yield torch.tensor(column)


def continued(net, number, stop=''):
    return list(sample.continuations(net, [[0]] * len(net.rows), number, None, Bytes().decode, stop))


def test_texts_grow_by_a_token_and_end_before_the_stop():
    one, other = b'say STOP and more', b'never a stop here'
    net = Scripted(one, other)
    texts = continued(net, 17, 'STOP')
    assert texts[2] == ['say', 'nev'] and texts[-1] == ['say ', 'never a stop here'] and net.asked == 17
    assert continued(Scripted(one, other), 5)[-1] == ['say S', 'never']
    net = Scripted(one, b'a STOP ' + 10 * b'x')
    assert continued(net, 17, 'STOP')[-1] == ['say ', 'a ']
    assert net.asked == 8                       # all have ended: no more is made
    assert continued(Scripted(one), 0) == []
    assert continued(Scripted(b'STOP'), 4, 'STOP')[-1] == ['']


def test_a_stop_of_many_bytes_and_a_character_in_parts():
    assert continued(Scripted('naïve €5 or so'.encode()), 99, '€5')[-1] == ['naïve ']
    texts = [text for text, in continued(Scripted('a€'.encode()), 4)]
    assert texts[0] == 'a' and texts[-1] == 'a€' and all(text in ('a', 'a\ufffd') for text in texts[:-1])


# --- sample.py

TEXT = 'abcdefg hijk\n'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A run folder, in a folder with nothing else that is needed."""
    folder = tmp_path_factory.mktemp('trained')
    ids = [sorted(set(TEXT)).index(c) for c in TEXT * 150]
    data.save(f'{folder}/words', {'train': {'tokens': ids}, 'val': {'tokens': ids[:100]}},
              kinds={'tokens': 'stream'}, info={'vocab_size': 13},
              tokenizer={'kind': 'characters', 'characters': ''.join(sorted(set(TEXT)))})
    argv = [*TINY, '--warmup_iters=0', f'--dataset={folder}/words', f'--out_dir={folder}/run']
    process = Process('train.py', argv, {}, ROOT, folder / 'output')
    assert process.wait() == 0, process.text
    shutil.rmtree(folder / 'words')
    return folder / 'run'


@pytest.fixture
def made(launch, trained):
    """made('--start=a', ...): what sample.py prints of the trained run, 24 tokens of it."""
    def made(*argv, out_dir=trained, **options):
        common = f'--out_dir={out_dir}', '--max_new_tokens=24', '--device=cpu'
        code, text = launch('sample.py', *common, *argv, **options)
        assert code == 0, text
        return text
    return made


def test_temperature_0_is_greedy_and_a_seed_decides_otherwise(made, trained):
    greedy = made('--start=abc', '--temperature=0', '--seed=1')
    assert greedy == made('--start=abc', '--temperature=0', '--seed=2')
    net = configurator.load(trained)
    tokenizer = data.tokenizer.load(run.read(trained / 'best.pt')['tokenizer'])
    ids = tokenizer.encode('abc')
    with torch.no_grad():
        while len(ids) < 17:                    # the definition: no cache, and no code of ours but the model
            ids.append(net.logits(torch.tensor([ids]))[0, -1].argmax().item())
    assert greedy.startswith(tokenizer.decode(ids)) and len(greedy) == 3 + 24 + 1
    one = made('--start=abc', '--seed=1')
    assert one == made('--start=abc', '--seed=1') != made('--start=abc', '--seed=2')


def test_what_leaves_one_token_is_greedy_and_what_leaves_all_changes_nothing(made):
    greedy, free = made('--start=abc', '--temperature=0'), made('--start=abc')
    for argument in '--top_k=1', '--top_p=0', '--min_p=1', '--temperature=1e-40':
        assert made('--start=abc', argument) == greedy, argument
    assert made('--start=abc', '--top_k=1000000', '--top_p=1', '--min_p=0') == free != greedy


def test_no_number_is_one_sample(made):
    assert (made('--start=abc', '--num_samples=0') == made('--start=abc')
            == made('--start=abc', '--num_samples=1'))


def test_samples_are_told_apart_and_begin_with_the_prompt(made):
    samples = made('--start=abc', '--num_samples=4', '--temperature=2')[:-1].split(RULE)
    assert len(samples) == len(set(samples)) == 4
    assert all(text.startswith('abc') and len(text) == 27 for text in samples)


def from_file():
    """Patched into a child: the standard input is a file."""
    sys.stdin = io.TextIOWrapper(open(os.environ['STDIN'], 'rb'), encoding='utf-8')


def test_a_prompt_from_a_file_or_the_standard_input_is_the_same_prompt(made, tmp_path):
    expected, file = made('--start=abc\nd\n'), tmp_path / 'a prompt.txt'
    for raw in b'abc\nd\n', b'\xef\xbb\xbfabc\r\nd\r':  # as in prepare.py
        file.write_bytes(raw)
        assert made(f'--start=FILE:{file}') == expected
        assert made('--start=-', env={'PATCH': 'test_sample.from_file', 'STDIN': str(file)}) == expected


def test_a_sample_ends_before_its_stop(made):
    whole = made('--start=abc', '--temperature=0')
    stop = whole[10:12]
    assert made('--start=abc', '--temperature=0', f'--stop={stop}') == whole[:whole.index(stop, 3)] + '\n'
    for text in made('--start=abc', '--num_samples=3', '--stop=a')[:-1].split(RULE):
        assert 'a' not in text[3:]


def terminal():
    """Patched into a child: it believes that it writes to a terminal, and so streams."""
    sys.stdout.isatty = lambda: True


@pytest.mark.parametrize('argv', [[], ['--stop=fg'], ['--max_new_tokens=0']])
def test_a_terminal_shows_the_same_text(made, argv):
    assert made('--start=abc', *argv, env={'PATCH': 'test_sample.terminal'}) == made('--start=abc', *argv)


def test_text_that_nobody_reads_to_its_end_is_no_bug(made):
    assert made('--start=abc', env={'PATCH': 'test_configurator.nobody_reads'}) == ''


def test_no_tokens_are_just_the_prompt(made):
    assert made('--start=abc', '--max_new_tokens=0') == 'abc\n'
    assert made('--start=abc', '--max_new_tokens=0', '--num_samples=2') == f'abc{RULE}abc\n'


def test_an_empty_prompt_is_said_and_begins_a_line(made):
    text = made('--start=')
    assert text.startswith(made('--start=\n')[1:]) and 'empty' in text.splitlines()[-1]


def test_a_prompt_beyond_the_context_is_cut_and_said(made):
    start = TEXT * 3
    text, short = (made(f'--start={prompt}', '--temperature=0') for prompt in (start, start[-16:]))
    assert text.startswith(start + short[16:]) and 'tokens' not in short
    note = text[len(start + short[16:]):]
    assert '39' in note and '16' in note


@pytest.mark.parametrize('prompt, named', [
    ('naïve Zen', ["'Z'", "'ï'", "'v'"]), ('\udcff', ['udcff']), ('a\tb', [r"'\t'"])])
def test_characters_that_the_tokenizer_lacks_are_named(launch, trained, prompt, named):
    code, text = launch('sample.py', f'--out_dir={trained}', f'--start={prompt}')
    assert code == 2 and all(name in text for name in named) and 'Traceback' not in text, text


@pytest.mark.parametrize('prompt', ['FILE:missing.txt', 'FILE:', 'FILE:latin.txt', '-'])
def test_a_prompt_that_cannot_be_read_is_refused(launch, trained, tmp_path, prompt):
    (tmp_path / 'latin.txt').write_bytes(b'caf\xe9')
    code, text = launch('sample.py', f'--out_dir={trained}', f'--start={prompt}', cwd=tmp_path,
                        env={'PATCH': 'test_sample.from_file', 'STDIN': f'{tmp_path}/latin.txt'})
    assert code == 3 and '--start' in text and len(text.splitlines()) == 1, text


def test_a_checkpoint_is_all_that_is_needed_wherever_it_is(made, trained, tmp_path):
    expected, place = made('--start=abc'), tmp_path / 'a plâce of its own'
    place.mkdir()
    shutil.copy(trained / 'best.pt', place / 'mine.pt')
    assert made('--start=abc', out_dir=place / 'mine.pt') == expected
    assert made('--start=abc', out_dir='mine.pt', cwd=place) == expected
    shutil.copytree(trained, place / 'out' / 'x')
    assert made('--start=abc', out_dir='out/x', cwd=place, env={'LC_ALL': 'C'}) == expected
    assert sorted(path.name for path in place.iterdir()) == ['mine.pt', 'out']


def test_a_run_that_is_not_there_is_refused_with_those_that_are(launch, trained, tmp_path):
    (tmp_path / 'out').mkdir()
    for name in 'first', 'second':
        shutil.copytree(trained, tmp_path / 'out' / name)
    code, text = launch('sample.py', '--out_dir=out/third', cwd=tmp_path)
    assert code == 2 and 'out/third' in text and 'out/first' in text and 'out/second' in text, text


@pytest.mark.parametrize('damage', [lambda raw: raw[:0], lambda raw: raw[:-1], lambda raw: b'no checkpoint',
                                    lambda raw: raw[:3000] + bytes([raw[3000] ^ 1]) + raw[3001:]])
def test_a_damaged_checkpoint_is_refused_by_name_and_gives_way_to_no_other(launch, trained, tmp_path, damage):
    shutil.copytree(trained, tmp_path / 'run')
    (tmp_path / 'run/best.pt').write_bytes(damage((trained / 'best.pt').read_bytes()))
    code, text = launch('sample.py', f'--out_dir={tmp_path}/run')
    assert code == 2 and 'run/best.pt' in text and len(text.splitlines()) == 1, text


def checkpoint(path, **changes):
    """A small untrained model's file."""
    config = gpt.Config(vocab_size=256, block_size=8, n_layer=1, n_head=1, n_embd=4)
    state = {'format': run.FORMAT, 'step': 0, 'keys': {'model': 'gpt'}, 'config': dataclasses.asdict(config),
             'tokenizer': {'kind': 'bytes'}, 'model': gpt.Model(config).state_dict()}
    run.write(path, state | changes)
    return path


@pytest.mark.parametrize('changes, named', [
    ({'tokenizer': None}, 'tokenizer'), ({'tokenizer': {'kind': 'runes'}}, 'runes'),
    ({'keys': {'model': 'gtp'}}, 'gtp'), ({'keys': {}}, 'model'), ({'keys': {'model': '../train'}}, 'train'),
    ({'config': {'n_leyer': 3}}, 'n_leyer'),
    ({'config': {'vocab_size': 256, 'n_layer': 1, 'n_head': 1, 'n_embd': 8}}, 'embed.weight'),
    ({'config': {'n_head': 0}}, 'n_head'), ({'format': 99}, '99')])
def test_a_checkpoint_that_cannot_be_used_is_refused_in_words(launch, tmp_path, changes, named):
    path = checkpoint(tmp_path / 'x.pt', **changes)
    code, text = launch('sample.py', f'--out_dir={path}', '--max_new_tokens=3')
    assert code in (2, 3) and named in text and 'Traceback' not in text, text


def test_text_that_is_no_text_is_refused(launch, tmp_path):
    path = checkpoint(tmp_path / 'x.pt')        # its tokenizer knows every byte
    code, text = launch('sample.py', f'--out_dir={path}', '--max_new_tokens=3', '--start=caf\udce9')
    assert code in (2, 3) and 'Traceback' not in text, text


def test_all_impossible_knobs_are_told_at_once(launch):
    wrong = {'num_samples': -1, 'max_new_tokens': -1, 'temperature': -0.5, 'top_k': -1, 'top_p': 1.5,
             'min_p': -0.1}
    code, text = launch('sample.py', *(f'--{key}={value}' for key, value in wrong.items()))
    assert code == 2 and len(text.splitlines()) == len(wrong), text
    for line, (key, value) in zip(sorted(text.splitlines()), sorted(wrong.items())):
        assert line.startswith(key) and str(value) in line


@pytest.mark.parametrize('argument', ['--split=val', '--out=x.png', '--out=x.jsonl'])
def test_what_is_for_classifiers_is_refused_rather_than_ignored(launch, trained, tmp_path, argument):
    code, text = launch('sample.py', f'--out_dir={trained}', argument, cwd=tmp_path)
    assert code == 2 and f'{argument[2:].split("=")[0]}: of no use' in text and 'text' in text
    assert not [*tmp_path.glob('x.*')]


@pytest.mark.parametrize('argument', ['--seed=1e30', f'--seed={2**64}', '--device=tpu', '--temperature=nan'])
def test_what_no_machine_can_do_is_refused_in_words(launch, trained, argument):
    code, text = launch('sample.py', f'--out_dir={trained}', '--max_new_tokens=3', argument)
    assert code == 2 and argument[2:].split('=')[0] in text and 'Traceback' not in text, text


@pytest.mark.parametrize('tokenizer', [None, {'kind': 'characters', 'characters': 'abcdefghijk'}])
def test_a_run_on_text_without_lines_or_on_no_text_ends_well(launch, toy, tmp_path, tokenizer):
    data.save(f'{tmp_path}/x', {'train': {'tokens': [*range(11)] * 50}, 'val': {'tokens': [*range(11)] * 5}},
              kinds={'tokens': 'stream'}, info={'vocab_size': 11}, tokenizer=tokenizer)
    argv = [f'--dataset={tmp_path}/x', f'--out_dir={tmp_path}/run', '--max_iters=6', '--sample_interval=3']
    code, text = launch('train.py', *TINY, *argv, '--eval_interval=3')
    assert code == 0 and run.read(tmp_path / 'run/last.pt')['done'], text
    if tokenizer:
        code, text = launch('sample.py', f'--out_dir={tmp_path}/run')       # the command it was told to try
        assert code == 0, text
