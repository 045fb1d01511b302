"""samples/text.py: continuations of scripted models, and sample.py with a tiny trained model."""
import io
import os
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import one_hot

import data
import samples
from conftest import ROOT, TINY
from core import search
from core.checkpoint import load, load_checkpoint
from data import tokenizers
from models import gpt
from samples import text
from sampling import save_run

RULE = '\n' + '-' * 80 + '\n'


# --- continuations

class Scripted:
    """A model whose likeliest tokens are given ones, one for every row at a time."""
    config = gpt.Config(block_size=32)

    def __init__(self, *rows):
        self.rows = rows
        self.n_generated = 0

    def empty_kv_cache(self, batch_size):
        return torch.zeros(1, 32, 1)

    def logits(self, tokens, kv_cache):
        column = [row[self.n_generated] for row in self.rows]
        self.n_generated += 1
        return one_hot(torch.tensor(column), 256)[:, None]          # (B, 1, 256)


def continuations(net, max_new_tokens, stop=''):
    tokens = torch.zeros(len(net.rows), 1, dtype=torch.int64)
    decode = tokenizers.Bytes().decode
    return list(text.continuations(net, tokens, max_new_tokens, search.greedy, decode, stop))


def test_texts_grow_by_a_token_and_end_before_the_stop():
    rows = b'say STOP and more', b'never a stop here'
    net = Scripted(*rows)
    steps = continuations(net, 17, 'STOP')
    assert steps[2] == ['say', 'nev']
    assert steps[-1] == ['say ', 'never a stop here']
    assert net.n_generated == 17
    assert continuations(Scripted(*rows), 5)[-1] == ['say S', 'never']
    assert continuations(Scripted(rows[0]), 0) == []
    assert continuations(Scripted(b'STOP'), 4, 'STOP')[-1] == ['']


def test_no_token_is_generated_once_all_texts_have_ended():
    net = Scripted(b'say STOP and more', b'a STOP ' + 10 * b'x')
    assert continuations(net, 17, 'STOP')[-1] == ['say ', 'a ']
    assert net.n_generated == 8


def test_a_stop_and_a_character_may_be_several_tokens():
    assert continuations(Scripted('naïve €5 or so'.encode()), 99, '€5')[-1] == ['naïve ']
    steps = [step[0] for step in continuations(Scripted('a€'.encode()), 4)]
    assert steps[0] == 'a'
    assert steps[-1] == 'a€'
    assert set(steps) <= {'a', 'a\ufffd', 'a€'}


def printed(steps, stop, capsys):
    text.print_growing(([step] for step in steps), stop)
    return capsys.readouterr().out


def test_a_growing_text_is_printed_as_soon_as_it_cannot_change(capsys):
    assert printed(['a', 'ab', 'abc'], '', capsys) == 'abc\n'
    assert printed([], '', capsys) == '\n'
    assert printed(['a', 'a\ufffd', 'a€'], '', capsys) == 'a€\n'            # no half character
    assert printed(['aS', 'aST', 'aSTO', 'a'], 'STOP', capsys) == 'a\n'     # no part of the stop


# --- sample.py

TEXT = 'abcdefg hijk\n'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The run folder of a tiny GPT that has learned TEXT a little. Its data set does not exist."""
    torch.manual_seed(0)
    net = gpt.Model(gpt.Config(vocab_size=13, block_size=16, n_layer=2, n_head=2, n_embd=16))
    tokenizer = tokenizers.Characters(''.join(sorted(set(TEXT))))
    ids = torch.tensor(tokenizer.encode(TEXT * 3))
    windows = torch.stack([ids[i:i + 17] for i in range(len(TEXT))])
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(20):
        sums = net(windows)
        optimizer.zero_grad()
        (sums['loss'] / sums['count']).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp('text') / 'run'
    save_run(folder, 'gpt', net, tokenizer=tokenizer.json())
    return folder


@pytest.fixture
def sampled(launch, run):
    """sampled('--start=a', ...): what sample.py prints, 24 tokens of it."""
    def sampled(*argv, **options):
        code, output = launch('sample.py', f'--out_dir={run}', '--max_new_tokens=24', '--device=cpu', *argv,
                              **options)
        assert code == 0, output
        return output
    return sampled


def test_temperature_0_gives_the_likeliest_tokens(sampled, run):
    greedy = sampled('--start=abc', '--temperature=0', '--seed=1')
    assert greedy == sampled('--start=abc', '--temperature=0', '--seed=2')
    assert len(greedy) == 3 + 24 + 1
    net = load(run)
    tokenizer = tokenizers.load(load_checkpoint(run / 'best.pt')['tokenizer'])
    ids = tokenizer.encode('abc')
    with torch.no_grad():
        while len(ids) < 17:                    # the definition, without a cache
            logits = net.logits(torch.tensor([ids]))
            ids.append(logits[0, -1].argmax().item())
    assert greedy.startswith(tokenizer.decode(ids))


def test_the_seed_decides_the_sample(sampled):
    one = sampled('--start=abc', '--seed=1')
    assert one == sampled('--start=abc', '--seed=1')
    assert one != sampled('--start=abc', '--seed=2')


def test_truncation_to_one_token_is_greedy_and_to_all_changes_nothing(sampled):
    greedy = sampled('--start=abc', '--temperature=0')
    free = sampled('--start=abc')
    for argument in '--top_k=1', '--top_p=0', '--min_p=1', '--temperature=1e-40':
        assert sampled('--start=abc', argument) == greedy, argument
    assert sampled('--start=abc', '--top_k=1000000', '--top_p=1', '--min_p=0') == free
    assert free != greedy


def test_the_cache_changes_nothing(sampled):
    assert sampled('--start=abc', '--cache=False') == sampled('--start=abc')


def test_the_number_of_samples_is_one_unless_given(sampled):
    one = sampled('--start=abc')
    assert sampled('--start=abc', '--num_samples=0') == one
    assert sampled('--start=abc', '--num_samples=1') == one
    texts = sampled('--start=abc', '--num_samples=4', '--temperature=2')[:-1].split(RULE)
    assert len(set(texts)) == 4
    for sample in texts:
        assert sample.startswith('abc')
        assert len(sample) == 27


def stdin_is_a_file():
    """Called first in a child process: the standard input is the file $STDIN."""
    sys.stdin = io.TextIOWrapper(open(os.environ['STDIN'], 'rb'), encoding='utf-8')


@pytest.mark.parametrize('raw', [b'abc\nd\n', b'\xef\xbb\xbfabc\r\nd\r'])     # as prepare.py reads text
def test_a_prompt_from_a_file_or_the_standard_input_is_the_same_prompt(sampled, tmp_path, raw):
    file = tmp_path / 'a prompt.txt'
    file.write_bytes(raw)
    expected = sampled('--start=abc\nd\n')
    assert sampled(f'--start=FILE:{file}') == expected
    env = {'PATCH': 'test_samples_text.stdin_is_a_file', 'STDIN': str(file)}
    assert sampled('--start=-', env=env) == expected


def test_a_sample_ends_before_its_stop(sampled):
    whole = sampled('--start=abc', '--temperature=0')
    stop = whole[10:12]
    expected = whole[:whole.index(stop, 3)] + '\n'
    assert sampled('--start=abc', '--temperature=0', f'--stop={stop}') == expected
    for sample in sampled('--start=abc', '--num_samples=3', '--stop=a')[:-1].split(RULE):
        assert 'a' not in sample[3:]


def stdout_is_a_terminal():
    """Called first in a child process, which then prints a text while it grows."""
    sys.stdout.isatty = lambda: True


@pytest.mark.parametrize('argv', [[], ['--stop=fg'], ['--max_new_tokens=0']])
def test_a_terminal_shows_the_same_text(sampled, argv):
    env = {'PATCH': 'test_samples_text.stdout_is_a_terminal'}
    assert sampled('--start=abc', *argv, env=env) == sampled('--start=abc', *argv)


def stdout_is_closed():
    """Called first in a child process: close the reading end of the pipe into which it prints."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    sys.stdout = open(1, 'w', buffering=1, encoding='utf-8', closefd=False)


def test_a_closed_pipe_is_not_an_error(sampled):
    assert sampled('--start=abc', env={'PATCH': 'test_samples_text.stdout_is_closed'}) == ''


def test_no_new_tokens_give_the_prompt(sampled):
    assert sampled('--start=abc', '--max_new_tokens=0') == 'abc\n'
    assert sampled('--start=abc', '--max_new_tokens=0', '--num_samples=2') == f'abc{RULE}abc\n'


def test_an_empty_prompt_begins_a_line(sampled):
    output = sampled('--start=')
    assert output.startswith(sampled('--start=\n')[1:])
    assert 'empty' in output.splitlines()[-1]


def test_a_prompt_beyond_the_context_is_cut_and_its_length_printed(sampled):
    long = TEXT * 3
    short = sampled(f'--start={long[-16:]}', '--temperature=0')
    output = sampled(f'--start={long}', '--temperature=0')
    expected = long + short[16:]
    assert output.startswith(expected)
    message = output[len(expected):]
    assert '39 tokens' in message
    assert 'last 16' in message


# --- mistakes

@pytest.mark.parametrize('prompt, named', [
    ('naïve Zen', ["'Z'", "'ï'", "'v'"]), ('\udcff', ['udcff']), ('a\tb', [r"'\t'"])])
def test_characters_that_the_tokenizer_lacks_are_named(launch, run, prompt, named):
    code, output = launch('sample.py', f'--out_dir={run}', f'--start={prompt}')
    assert code == 2
    assert all(name in output for name in named)
    assert 'Traceback' not in output


@pytest.mark.parametrize('prompt', ['FILE:missing.txt', 'FILE:', 'FILE:latin.txt', '-'])
def test_a_prompt_that_cannot_be_read_is_an_error_of_one_line(launch, run, tmp_path, prompt):
    (tmp_path / 'latin.txt').write_bytes(b'caf\xe9')
    env = {'PATCH': 'test_samples_text.stdin_is_a_file', 'STDIN': f'{tmp_path}/latin.txt'}
    code, output = launch('sample.py', f'--out_dir={run}', f'--start={prompt}', cwd=tmp_path, env=env)
    assert code == 3
    assert f'--start={prompt}: ' in output
    assert len(output.splitlines()) == 1
    if prompt in ('FILE:latin.txt', '-'):
        assert 'line 1: expected UTF-8 text, found byte 0xe9 at 3' in output


def test_a_prompt_that_is_not_utf_8_is_an_error(launch, tmp_path):
    net = gpt.Model(gpt.Config(vocab_size=256, block_size=8, n_layer=1, n_head=1, n_embd=4))
    save_run(tmp_path / 'run', 'gpt', net, tokenizer={'kind': 'bytes'})
    code, output = launch('sample.py', f'--out_dir={tmp_path}/run', '--max_new_tokens=3', '--start=caf\udce9')
    assert code in (2, 3)
    assert 'Traceback' not in output


def test_a_model_without_a_tokenizer_makes_no_text(launch, tmp_path):
    net = gpt.Model(gpt.Config(vocab_size=256, block_size=8, n_layer=1, n_head=1, n_embd=4))
    save_run(tmp_path / 'run', 'gpt', net)
    code, output = launch('sample.py', f'--out_dir={tmp_path}/run')
    assert code == 2
    assert 'tokenizer' in output
    assert 'Traceback' not in output


# --- previews

def test_a_preview_is_400_tokens_and_leaves_the_model_in_training(run):
    tokenizer = load_checkpoint(run / 'best.pt')['tokenizer']
    net = load(run).train()
    preview = samples.preview(net, {'tokenizer': tokenizer}, None)
    rule = '-' * 80
    assert preview.startswith(f'{rule}\n')
    assert preview.endswith(f'\n{rule}')
    body = preview[81:-81]
    assert 390 < len(body) <= 400               # white space at its ends is stripped
    assert net.training
    assert samples.preview(net, {'tokenizer': tokenizer}, None) == preview      # always the same seed


def test_a_model_without_a_tokenizer_has_no_preview(run):
    assert samples.preview(load(run), {'tokenizer': None}, None) == ''


def test_text_needs_neither_pil_nor_matplotlib():
    code = 'import sys, samples.text, samples.translation; print({"PIL", "matplotlib"} & set(sys.modules))'
    process = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, encoding='utf-8',
                             timeout=600)
    assert process.stdout == 'set()\n', process.stderr


@pytest.mark.parametrize('tokenizer', [None, {'kind': 'characters', 'characters': 'abcdefghijk'}])
def test_training_on_tokens_without_lines_or_without_a_tokenizer_ends_well(launch, tmp_path, tokenizer):
    tokens = {'train': {'tokens': [*range(11)] * 50}, 'val': {'tokens': [*range(11)] * 5}}
    data.save(f'{tmp_path}/x', tokens, {'tokens': 'stream'}, {'vocab_size': 11}, tokenizer)
    argv = [f'--dataset={tmp_path}/x', f'--out_dir={tmp_path}/run', '--max_iters=6', '--sample_interval=3']
    code, output = launch('train.py', *TINY, *argv, '--eval_interval=3')
    assert code == 0, output
    assert load_checkpoint(tmp_path / 'run/last.pt')['done']
    if tokenizer:
        code, output = launch('sample.py', f'--out_dir={tmp_path}/run')
        assert code == 0, output
