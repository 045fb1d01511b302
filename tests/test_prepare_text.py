"""data/shakespeare and data/stdlib: a text of your own becomes a stream, and the advice of errors helps."""
import importlib.util
import inspect
import os
import random
import textwrap

import numpy as np
import pytest

import data
from conftest import ROOT, TINY
from data import loading, store, tokenizers
from mirror import prepare_real, real

LINE = 'Ünïcödé, “quoted”: one line of a text.'


def prepare(launch, tmp_path, raw):
    (tmp_path / 'own text.txt').write_bytes(raw)
    return launch('data/shakespeare/prepare.py', f'--input={tmp_path}/own text.txt', f'--out={tmp_path}/mine')


@pytest.mark.parametrize('raw, text', [(f'{LINE}\n', f'{LINE}\n'), (f'\ufeff{LINE}', LINE),
                                       (f'{LINE}\r\n{LINE}\r{LINE}\n\r{LINE}',
                                        f'{LINE}\n{LINE}\n{LINE}\n\n{LINE}'),
                                       (f'\ufeff{LINE}\n\ufeff{LINE}', f'{LINE}\n{LINE}'),
                                       (f'{LINE}\u2028\x0b\ufeff{LINE}', f'{LINE}\u2028\x0b\ufeff{LINE}')])
def test_the_ends_of_lines_and_the_byte_order_mark_make_no_difference(launch, tmp_path, raw, text):
    code, output = prepare(launch, tmp_path, raw.encode('utf-8'))
    assert code == 0, output
    meta = data.check(str(tmp_path / 'mine'), hashes=True)
    ids = [np.fromfile(tmp_path / f'mine/{split}.tokens.bin', '<u2') for split in ('train', 'val')]
    characters = meta['tokenizer']['characters']
    assert ''.join(characters[i] for part in ids for i in part) == text
    assert len(ids[0]) == int(0.9 * len(text))
    assert characters == ''.join(sorted(set(text))) and meta['info']['vocab_size'] == len(characters)


@pytest.mark.parametrize('raw, message', [
    (b'', 'found 0 characters'), (b'\xef\xbb\xbf', 'found 0 characters'), (b'tiny', '4 characters'),
    (b'abc' * 99 + b'\xe9' + b'abc' * 99, '0xe9 at 297'), (LINE.encode('utf-16'), '0xff at 0'),
    ('Plain English.\n'.encode('utf-16-be') * 9, 'NUL byte; if this is UTF-16, save it as UTF-8'),
    (b'a line\n' * 9 + b'a\0b', 'line 10: expected text, found a NUL byte')])
def test_what_is_not_text_is_an_error(launch, tmp_path, raw, message):
    code, output = prepare(launch, tmp_path, raw)
    assert code == 3 and message in output and 'own text.txt' in output and output.count('\n') == 1, output
    assert not (tmp_path / 'mine').exists()


@pytest.fixture
def script():
    """A fresh copy of the script as a module, with its options at their defaults."""
    spec = importlib.util.spec_from_file_location('shakespeare', ROOT / 'data/shakespeare/prepare.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PARTS = ['the', ' cat', '  ', '\n', '\n\n', "'s", ' 12', '\t', '\x1c', '!', 'été', '\u2028', ' ' * 130]


MERGES = '#version: 0.2\nĠ t\nh e\nĠt he\nĊ Ċ\nĠ Ġ\n! Ĝ\n'     # Ĝ: byte 0x1c, white space for Python alone


@pytest.mark.parametrize('kind, reader', [
    ('characters', tokenizers.Characters(''.join(sorted(set(''.join(PARTS)))))),
    ('gpt2', tokenizers.load({'kind': 'gpt2', 'vocab_bpe': MERGES}))])
@pytest.mark.parametrize('piece', [1, 7, 50, 10**6])
def test_ids_made_piece_by_piece_are_those_of_the_whole_text(script, kind, reader, piece):
    script.tokenizer = kind
    script.PIECE = piece
    text = ''.join(random.Random(0).choices(PARTS, k=800))
    for begin, end in (0, len(text)), (100, 1000), (len(text) - 1, len(text)):
        ids = script.encode(reader, text, begin, end)
        assert ids.tolist() == reader.encode(text[begin:end]) and ids.dtype == np.uint16


def no_memory():
    """Called first in a child process, in which hardly any memory is free."""
    loading.MEMORY_INFO = os.environ['MEMORY_INFO']


def test_a_text_too_large_for_memory_is_an_error_that_names_the_script_for_such_texts(launch, tmp_path):
    (tmp_path / 'meminfo').write_text('MemAvailable: 10 kB\n', encoding='utf-8')
    (tmp_path / 'large.txt').write_text(LINE * 99, encoding='utf-8')
    env = {'PATCH': 'test_prepare_text.no_memory', 'MEMORY_INFO': f'{tmp_path}/meminfo'}
    code, output = launch('data/shakespeare/prepare.py', f'--input={tmp_path}/large.txt',
                          f'--out={tmp_path}/x', env=env)
    assert code == 5 and f'data/text/prepare.py --input={tmp_path}/large.txt' in output, output
    assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize('input', ['missing.txt', ''])
def test_an_input_that_is_not_a_file_is_an_error(launch, tmp_path, input):
    code, output = launch('data/shakespeare/prepare.py', f'--input={tmp_path}/{input}',
                          f'--out={tmp_path}/mine')
    assert code == 3 and str(tmp_path) in output and 'Traceback' not in output, output


@pytest.mark.parametrize('more', [[], ['--out=']])
def test_a_text_of_your_own_needs_a_name(launch, tmp_path, more):
    (tmp_path / 'own.txt').write_text(LINE * 9, encoding='utf-8')
    code, output = launch('data/shakespeare/prepare.py', f'--input={tmp_path}/own.txt', *more,
                          env={'PATCH': 'mirror.elsewhere', 'ELSEWHERE': str(tmp_path / 'repository')})
    assert code == 2 and '--out=NAME' in output, output
    assert not (tmp_path / 'repository').exists()


def test_a_named_text_lands_in_data_and_is_trained_on_by_that_name(launch, tmp_path):
    (tmp_path / 'own.txt').write_text(f'{LINE}\n' * 99, encoding='utf-8')
    environment = {'PATCH': 'mirror.elsewhere', 'ELSEWHERE': str(tmp_path)}
    code, output = launch('data/shakespeare/prepare.py', f'--input={tmp_path}/own.txt', '--out=diary',
                          env=environment)
    assert code == 0 and (tmp_path / 'data/diary/meta.json').exists(), output
    code, output = launch('train.py', *TINY, '--dataset=diary', f'--out_dir={tmp_path}/run', env=environment)
    assert code == 0, output


def test_text_shorter_than_a_window_is_an_error_with_advice_that_helps(launch, tmp_path):
    code, output = prepare(launch, tmp_path, f'{LINE}\n'.encode() * 5)
    assert code == 0, output
    argv = ['--n_layer=1', '--n_head=1', '--n_embd=8', '--max_iters=2', '--device=cpu',
            f'--dataset={tmp_path}/mine', f'--out_dir={tmp_path}/run', '--block_size=256']
    code, output = launch('train.py', *argv)
    assert code == 3 and output.count('\n') == 1 and '256' in output, output
    assert not (tmp_path / 'run').exists()
    for _ in range(3):      # follow the advice until there is none
        words = [word.rstrip('.,;') for word in output.split()]
        argv += [word for word in words if word.startswith('--') and '=' in word]
        code, output = launch('train.py', *argv)
        if code == 0:
            break
    assert code == 0, output


def test_the_standard_library_is_a_stream_of_its_bytes(launch, tmp_path):
    code, output = launch('data/stdlib/prepare.py', f'--out={tmp_path}/lib')
    assert code == 0, output
    meta = data.check(str(tmp_path / 'lib'), hashes=True)
    assert meta['info']['vocab_size'] == 256 and meta['tokenizer'] == {'kind': 'bytes'}
    train = (tmp_path / 'lib/train.tokens.bin').read_bytes()
    assert inspect.getsource(textwrap).encode() in train + (tmp_path / 'lib/val.tokens.bin').read_bytes()
    assert b'\r' not in train and len(train) > 10**6


@real
def test_tiny_shakespeare_is_split_as_in_nanogpt(prepare_real, tmp_path):
    prepare_real('shakespeare')
    meta = data.check(tmp_path / 'out', hashes=True)
    assert meta['info']['vocab_size'] == 65
    assert [meta['splits'][name]['tokens']['shape'] for name in ('train', 'val')] == [[1003854], [111540]]
