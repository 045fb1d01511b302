"""data/text/prepare.py: the tokens are those of the documents, and an interruption changes nothing."""
import gzip
import importlib.util
import json
import random
import subprocess
import sys

import numpy as np
import pytest

import data
from conftest import ROOT
from core.errors import UserError
from data import gpt2_bpe, tokenizers

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

    documents = [text() for _ in range(12)]
    (path / 'b').mkdir(parents=True)
    (path / 'a.txt').write_text(documents[0], encoding='utf-8', newline='')
    lines = [json.dumps({'id': i, 'text': document}) for i, document in enumerate(documents[1:])]
    (path / 'b/one.jsonl').write_text('\n'.join([*lines[:5], '', '{"text": ""}']), encoding='utf-8')
    with gzip.open(path / 'b/two.jsonl.gz', 'wt', encoding='utf-8') as file:
        file.write('\n'.join(lines[5:]) + '\n')
    (path / 'b/image.png').write_bytes(b'\x89')
    return documents


def read(path, split):
    meta = data.check(str(path), hashes=True)
    return np.fromfile(path / f'{split}.tokens.bin', meta['splits'][split]['tokens']['dtype'])


def run(prepare, tokenizer, source, target, batch, n_process=1):
    """Prepare a folder in this process, with batches of `batch` characters."""
    prepare.BATCH = batch
    prepare.val_every = 4
    prepare.start_process(tokenizer.json())
    writer = prepare.Writer(target, {'source': str(source)})
    prepare.write_all(prepare.find_files(source), writer, n_process)
    writer.finish({'vocab_size': tokenizer.vocab_size}, tokenizer.json(), {}, [])


def expected(documents, tokenizer, end):
    """Return {split: tokens} by the definition."""
    tokens = {'train': [], 'val': []}
    for i, document in enumerate(documents):
        tokens['val' if i % 4 == 3 else 'train'] += tokenizer.encode(document) + [end]
    return tokens


@pytest.mark.parametrize('batch', [40, 1000, 10**6])
def test_the_tokens_are_those_of_whole_documents_whatever_the_batches(prepare, tmp_path, batch):
    tokenizer = gpt2_bpe.load('#version: 0.2\nĠ t\nh e\nĠt he\nĠ Ġ\nĊ Ċ\n')
    documents = make_folder(tmp_path / 'in')
    run(prepare, tokenizer, tmp_path / 'in', tmp_path / 'out', batch)
    for split, tokens in expected(documents, tokenizer, tokenizer.end).items():
        assert read(tmp_path / 'out', split).tolist() == tokens


def test_the_script_prepares_a_folder_with_several_processes(tmp_path):
    documents = make_folder(tmp_path / 'in')
    out = tmp_path / 'out'
    argv = [f'--input={tmp_path}/in', f'--out={out}', '--tokenizer=bytes', '--val_every=4', '--processes=2']
    subprocess.run([sys.executable, ROOT / 'data/text/prepare.py', *argv], check=True)
    for split, tokens in expected(documents, tokenizers.Bytes(), 0).items():
        assert read(out, split).tolist() == tokens
    assert sorted(path.name for path in out.iterdir()) == ['meta.json', 'train.tokens.bin', 'val.tokens.bin']


def test_after_an_interruption_the_same_command_goes_on(prepare, tmp_path, monkeypatch):
    tokenizer = tokenizers.Bytes()
    documents = make_folder(tmp_path / 'in')
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
    for split, tokens in expected(documents, tokenizer, 0).items():
        assert read(tmp_path / 'out', split).tolist() == tokens
    n_batch = len(list(prepare.make_batches(prepare.find_files(tmp_path / 'in'))))
    assert len(encoded) == n_batch - 8              # a group of 8 batches was whole


def test_another_job_begins_again(prepare, tmp_path):
    first = prepare.Writer(tmp_path, {'source': 1})
    first.write({'train': np.arange(5)})
    first.save()
    assert prepare.Writer(tmp_path, {'source': 1}).n_batch == 1
    assert prepare.Writer(tmp_path, {'source': 2}).sizes == {'train': 0, 'val': 0}


def test_ends_of_lines_and_a_byte_order_mark_are_as_everywhere(prepare, tmp_path):
    (tmp_path / 'a.txt').write_bytes(b'\xef\xbb\xbfone\r\ntwo\rthree\n')
    documents = [''.join(parts) for parts in prepare.read_documents(tmp_path / 'a.txt')]
    assert documents == ['one\ntwo\nthree\n']


@pytest.mark.parametrize('name, content, expected', [
    ('a.txt', b'abc\xff', 'a.txt: expected UTF-8, found byte 0xff at 3'),
    ('a.txt', 'é'.encode() * 2**20 + b'\xc3(', 'found byte 0xc3 at 2,097,152'),
    ('a.txt', b'abc\xc3', 'found its end within a character, at 4'),
    ('a.jsonl', b'{"text": "a"}\n{"text": ', 'a.jsonl, line 2: expected an object with a field'),
    ('a.jsonl', b'{"content": "a"}\n', "line 1: expected an object with a field 'text': KeyError"),
    ('a.jsonl', b'["a"]\n', 'line 1: expected an object'),
    ('a.jsonl', b'{"text": 7}\n', 'expected .text. to be a string, found int'),
    ('a.jsonl.gz', b'no gzip', 'a.jsonl.gz: Not a gzipped file'),
    ('a.jsonl.gz', gzip.compress(b'{"text": "a"}\n' * 1000)[:40], 'a.jsonl.gz: ')])
def test_a_file_that_cannot_be_read_is_named_with_the_place(prepare, tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=expected):
        list(prepare.make_batches([tmp_path / name]))


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
