"""data/text/prepare.py: the tokens are those of the documents, and an interruption changes nothing."""
import gzip
import importlib.util
import io
import json
import random
import subprocess
import sys

import numpy as np
import pytest

import data
from conftest import ROOT
from core.errors import UserError
from data import documents, gpt2_bpe, tokenizers

DAMAGED = bytearray(gzip.compress(b'{"text": "abc def"}\n' * 1000))
DAMAGED[10] ^= 0xff
WORDS = ['the', 'cat', ' ', '  ', '\n', '\n\n', ' \n', '\t', 'été', '12', "don't", '☕', '.', ' sat']


@pytest.fixture
def prepare():
    """A fresh copy of the script as a module, with its options at their defaults."""
    spec = importlib.util.spec_from_file_location('own_text', ROOT / 'data/text/prepare.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_folder(path, seed=0):
    """Write a folder of all kinds of files; return the documents in the order of their paths."""
    rng = random.Random(seed)

    def text():
        return ''.join(rng.choices(WORDS, k=300)) + 'x'

    texts = [text() for _ in range(12)]
    (path / 'b').mkdir(parents=True)
    (path / 'a.txt').write_text(texts[0], encoding='utf-8', newline='')
    lines = [json.dumps({'id': i, 'text': text}) for i, text in enumerate(texts[1:])]
    (path / 'b/one.jsonl').write_text('\n'.join([*lines[:5], '', '{"text": ""}']), encoding='utf-8')
    with gzip.open(path / 'b/two.jsonl.gz', 'wt', encoding='utf-8') as file:
        file.write('\n'.join(lines[5:]) + '\n')
    (path / 'b/image.png').write_bytes(b'\x89')
    return texts


def read(path, split):
    meta = data.check(str(path), hashes=True)
    return np.fromfile(path / f'{split}.tokens.bin', meta['splits'][split]['tokens']['dtype'])


def run(prepare, tokenizer, source, target, batch, n_process=1):
    """Prepare a folder in this process, with batches of `batch` characters."""
    prepare.BATCH = batch
    prepare.val_every = 4
    prepare.set_tokenizer(tokenizer.json())
    writer = prepare.Writer(target, {'source': str(source)})
    prepare.write_all(documents.find_files(source), writer, n_process)
    writer.finish({'vocab_size': tokenizer.vocab_size}, tokenizer.json(), {}, [])


def expected(texts, tokenizer, end):
    """Return {split: tokens} by the definition."""
    tokens = {'train': [], 'val': []}
    for i, text in enumerate(texts):
        tokens['val' if i % 4 == 3 else 'train'] += tokenizer.encode(text) + [end]
    return tokens


@pytest.mark.parametrize('batch', [40, 1000, 10**6])
def test_the_tokens_are_those_of_whole_documents_whatever_the_batches(prepare, tmp_path, batch):
    tokenizer = gpt2_bpe.load('#version: 0.2\nĠ t\nh e\nĠt he\nĠ Ġ\nĊ Ċ\n')
    texts = make_folder(tmp_path / 'in')
    run(prepare, tokenizer, tmp_path / 'in', tmp_path / 'out', batch)
    for split, tokens in expected(texts, tokenizer, tokenizer.end).items():
        assert read(tmp_path / 'out', split).tolist() == tokens


def test_the_script_prepares_a_folder_with_several_processes(tmp_path):
    texts = make_folder(tmp_path / 'in')
    out = tmp_path / 'out'
    argv = [f'--input={tmp_path}/in', f'--out={out}', '--tokenizer=bytes', '--val_every=4', '--processes=2']
    subprocess.run([sys.executable, ROOT / 'data/text/prepare.py', *argv], check=True)
    for split, tokens in expected(texts, tokenizers.Bytes(), 0).items():
        assert read(out, split).tolist() == tokens
    assert sorted(path.name for path in out.iterdir()) == ['meta.json', 'train.tokens.bin', 'val.tokens.bin']


def test_after_an_interruption_the_same_command_goes_on(prepare, tmp_path, monkeypatch):
    tokenizer = tokenizers.Bytes()
    texts = make_folder(tmp_path / 'in')
    write = prepare.Writer.write
    encoded = []

    def full_disk(self, tokens):
        if self.n_batch == 10:
            self.files['train'].write(b'half of a batch')
            raise OSError(28, 'No space left on device')
        write(self, tokens)

    def counting(self, tokens):
        encoded.append(tokens)
        write(self, tokens)

    monkeypatch.setattr(prepare.Writer, 'write', full_disk)
    with pytest.raises(OSError):
        run(prepare, tokenizer, tmp_path / 'in', tmp_path / 'out', 100)
    assert not (tmp_path / 'out/meta.json').exists()
    monkeypatch.setattr(prepare.Writer, 'write', counting)
    run(prepare, tokenizer, tmp_path / 'in', tmp_path / 'out', 100)
    for split, tokens in expected(texts, tokenizer, 0).items():
        assert read(tmp_path / 'out', split).tolist() == tokens
    n_batch = len(list(prepare.make_batches(documents.find_files(tmp_path / 'in'))))
    assert len(encoded) == n_batch - 8              # a group of 8 batches was whole


def test_another_job_begins_again(prepare, tmp_path):
    first = prepare.Writer(tmp_path, {'source': 1})
    first.write({'train': np.arange(5)})
    first.save()
    assert prepare.Writer(tmp_path, {'source': 1}).n_batch == 1
    assert prepare.Writer(tmp_path, {'source': 2}).sizes == {'train': 0, 'val': 0}


def test_an_interruption_while_hashing_loses_nothing(prepare, tmp_path, monkeypatch):
    texts = make_folder(tmp_path / 'in')
    with monkeypatch.context() as patch:
        patch.setattr(prepare.store, 'file_hash', lambda file: {}[file])
        with pytest.raises(KeyError):
            run(prepare, tokenizers.Bytes(), tmp_path / 'in', tmp_path / 'out', 100)
    run(prepare, tokenizers.Bytes(), tmp_path / 'in', tmp_path / 'out', 100)
    for split, tokens in expected(texts, tokenizers.Bytes(), 0).items():
        assert read(tmp_path / 'out', split).tolist() == tokens


def test_a_torn_record_of_the_progress_means_to_begin_again(prepare, tmp_path):
    (tmp_path / 'progress.json').write_text('{"job"')
    assert prepare.Writer(tmp_path, {'source': 1}).n_batch == 0


@pytest.mark.parametrize('space', [' ', '\n', '\n\n', ' \n ', '\n \n'])
def test_a_long_text_is_read_in_bounded_parts_that_have_the_tokens_of_the_whole(space):
    tokenizer = gpt2_bpe.load('#version: 0.2\nĠ t\nh e\nĠt he\nĠ Ġ\nĊ Ċ\n')
    rng = random.Random(1)
    text = ''.join(rng.choice(WORDS) + space + 'x' for _ in range(2000))
    pairs = list(documents.read_txt(io.StringIO(text), 100))
    assert [is_end for _, is_end in pairs] == [False] * (len(pairs) - 1) + [True]
    assert max(len(part) for part, _ in pairs) < 300
    assert sum((tokenizer.encode(part) for part, _ in pairs), []) == tokenizer.encode(text)


@pytest.mark.parametrize('size', [3, 20, 1000])
def test_a_line_with_the_mark_ends_a_document_of_a_txt(size):
    for end in '', '\n', '\n<|endoftext|>', '\n<|endoftext|>\n':
        text = 'one two\n<|endoftext|>\nthree <|endoftext|> four\n\n<|endoftext|>\nfive' + end
        found = ['']
        for part, is_end in documents.read_txt(io.StringIO(text), size):
            found[-1] += part
            found += [''] * is_end
        last = 'five\n' if end == '\n' else 'five'
        assert list(filter(None, found)) == ['one two', 'three <|endoftext|> four\n', last]


def test_ends_of_lines_and_a_byte_order_mark_are_as_everywhere(tmp_path):
    (tmp_path / 'a.txt').write_bytes(b'\xef\xbb\xbfone\r\ntwo\rthree\n')
    parts = list(documents.read_texts(tmp_path / 'a.txt', 'text', 100))
    assert ''.join(text for text, _ in parts) == 'one\ntwo\nthree\n'
    (tmp_path / 'a.jsonl').write_text('{"text": "one\\r\\ntwo"}')
    assert list(documents.read_texts(tmp_path / 'a.jsonl', 'text', 100)) == [('one\ntwo', True)]


@pytest.mark.parametrize('name, content, expected', [
    ('a.txt', 'abc'.encode('utf-16-le'), 'a.txt: expected text, found a NUL byte'),
    ('a.txt', b'abc\xff', 'a.txt: expected UTF-8, found byte 0xff at 3'),
    ('a.txt', 'é'.encode() * 2**20 + b'\xc3(', 'found byte 0xc3 at 2,097,152'),
    ('a.txt', b'abc\xc3', 'found its end within a character, at 4'),
    ('a.jsonl', b'{"text": "a"}\n{"text": ', 'a.jsonl, line 2: expected an object with a field'),
    ('a.jsonl', b'{"content": "a"}\n', "line 1: expected an object with a field 'text': KeyError"),
    ('a.jsonl', b'["a"]\n', 'line 1: expected an object'),
    ('a.jsonl', b'{"text": 7}\n', 'expected .text. to be a string, found int'),
    ('a.jsonl', b'{"text": "a \\ud83d"}\n', 'line 1: expected an object .*: UnicodeEncodeError'),
    ('a.jsonl.gz', DAMAGED, 'a.jsonl.gz: Error -3'),
    ('a.jsonl.gz', b'no gzip', 'a.jsonl.gz: Not a gzipped file'),
    ('a.jsonl.gz', gzip.compress(b'{"text": "a"}\n' * 1000)[:40], 'a.jsonl.gz: ')])
def test_a_file_that_cannot_be_read_is_named_with_the_place(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=expected):
        list(documents.read_texts(tmp_path / name, 'text', 100))


def test_what_cannot_be_prepared_is_an_error(launch, tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'one').mkdir()
    (tmp_path / 'one/a.txt').write_text('a single document')
    for argv, exit_code, expected in [([], 2, '--input=FOLDER --out=NAME'),
                                      ([f'--input={tmp_path}/none'], 3, 'no such file or folder'),
                                      ([f'--input={tmp_path}/empty'], 3, 'expected files that end in .txt'),
                                      ([f'--input={tmp_path}/one'], 3, 'no document for val'),
                                      ([f'--input={tmp_path}/one', '--val_every=1'], 2, 'val_every')]:
        code, text = launch('data/text/prepare.py', '--tokenizer=bytes', '--processes=1',
                            f'--out={tmp_path}/out', *argv)
        assert code == exit_code and expected in text and 'Traceback' not in text, text
    assert not (tmp_path / 'out' / 'meta.json').exists()
