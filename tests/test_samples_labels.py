"""samples/labels.py: the classes of texts, and the words that attention weighs most."""
import json

import numpy as np
import pytest
import torch
from torch import nn

from data import bpe, texts, tokenizers
from data.texts import Row
from models.classifier import Config, Model
from samples import labels
from sampling import save_run

LINES = ['a good film, très bien', 'a bad film', 'never again!', 'fine']
CLASSES = ['bad', 'good', 'so-so']


@pytest.fixture
def trained(tmp_path):
    """(model, tokenizer) of the checkpoint in run/, and the data set texts/."""
    rows = [Row(f'{LINES[i % 4]} {i}', CLASSES[i % 3], '') for i in range(30)]
    texts.save(f'{tmp_path}/texts', {'train': rows, 'val': rows[:9], 'test': rows[3:25]}, 280)
    torch.manual_seed(0)
    net = Model(Config(vocab_size=280, n_class=3, block_size=12, n_layer=2, n_head=2, n_embd=16, n_hidden=16))
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    save_run(tmp_path / 'run', 'classifier', net.eval(), f'{tmp_path}/texts')
    meta = json.loads((tmp_path / 'texts/meta.json').read_text(encoding='utf-8'))
    return net, tokenizers.load(meta['tokenizer'])


@pytest.fixture
def sampled(launch, tmp_path):
    """sampled('--name=value', ...): (exit code, text) of sample.py in tmp_path."""
    def sampled(*argv):
        return launch('sample.py', '--out_dir=run', '--device=cpu', *argv, cwd=tmp_path)
    return sampled


@torch.no_grad()
def probabilities_of(net, tokenizer, line):
    ids = tokenizer.encode(line)[:12]
    return net.logits(torch.tensor([ids]))[0].softmax(0).tolist()


def parse(line):
    """'good 0.9000, bad 0.1000: text' -> ({'good': 0.9, 'bad': 0.1}, 'text')."""
    classes, text = line.split(': ', 1)
    pairs = [part.rsplit(' ', 1) for part in classes.split(', ')]
    return {name: float(value) for name, value in pairs}, text


# --- texts of one's own

def test_each_line_gets_its_classes_with_the_likeliest_first(trained, sampled, tmp_path):
    net, tokenizer = trained
    (tmp_path / 'own.txt').write_text('\n'.join(LINES) + '\n', encoding='utf-8')
    code, text = sampled('--start=FILE:own.txt')
    assert code == 0, text
    found = text.splitlines()
    assert len(found) == len(LINES)
    for line, printed in zip(LINES, found):
        classes, shown = parse(printed)
        assert shown == line
        assert list(classes.values()) == sorted(classes.values(), reverse=True)
        expected = dict(zip(CLASSES, probabilities_of(net, tokenizer, line)))
        assert classes == pytest.approx(expected, abs=1e-4)
    assert sampled(f'--start={LINES[2]}') == (0, found[2] + '\n')


def test_a_long_line_is_cut_and_an_empty_one_left_out_and_both_are_said(trained, sampled):
    net, tokenizer = trained
    line = 'many words ' * 30
    n_tokens = len(tokenizer.encode(line.strip()))
    code, text = sampled(f'--start={line}\n \nfine')
    assert code == 0, text
    assert f'line 1 has {n_tokens} tokens, the model reads the first 12 of them\n' in text
    assert 'line 2 is empty\n' in text
    first, last = [parse(printed) for printed in text.splitlines() if not printed.startswith('line ')]
    assert first[0] == pytest.approx(dict(zip(CLASSES, probabilities_of(net, tokenizer, line))), abs=1e-4)
    assert first[1].endswith('…') and len(first[1]) == 70
    assert last[1] == 'fine'


def test_a_line_ends_with_lf_alone(trained, sampled, tmp_path):
    (tmp_path / 'own.txt').write_bytes('a good\rfilm\u2028once\r\nfine\n'.encode('utf-8'))
    code, text = sampled('--start=FILE:own.txt')
    found = [parse(printed)[1] for printed in text.splitlines() if not printed.startswith('line ')]
    assert code == 0 and found == ['a good film once', 'fine'], text


def test_words_are_those_whose_tokens_get_most_attention(trained, sampled, monkeypatch):
    net, tokenizer = trained
    line = LINES[0]
    text = torch.tensor([tokenizer.encode(line)])
    with torch.no_grad():
        weights = labels.attention_to_tokens(net, text)
    monkeypatch.setattr(labels, 'words', 9)
    found = dict(labels.heaviest_words(line, tokenizer, weights))
    assert list(found) == sorted(found, key=lambda word: -found[word])
    assert set(found) == {'a', 'good', 'film,', 'très', 'bien'}
    assert sum(found.values()) == pytest.approx(sum(weights)) and sum(weights) < 1
    code, output = sampled(f'--start={line}', '--words=2')
    assert code == 0, output
    expected = ', '.join(f'{word} {found[word]:.3f}' for word in list(found)[:2])
    assert output.splitlines()[1] == f'    {expected}'


@pytest.mark.parametrize('token_dropout', [0.0, 0.7])
@pytest.mark.parametrize('pool', ['mean', 'first', 'max'])
@torch.no_grad()
def test_attention_to_tokens_is_the_mean_over_heads_and_over_those_that_attend(
        trained, monkeypatch, pool, token_dropout):
    net, tokenizer = trained
    monkeypatch.setattr(net.config, 'pool', pool)
    monkeypatch.setattr(net.config, 'token_dropout', token_dropout)
    text = torch.tensor([tokenizer.encode(LINES[1])])
    whole = torch.nn.functional.pad(text, (1, 0), value=1)
    parts = net.parts(text.size(1), 'cpu')
    expected = torch.zeros(whole.size(1))
    for position in parts:
        x, mask, rope, _ = net.embed_text(whole, position)
        x = net.blocks[0](x, mask, rope)
        attention = net.blocks[1].attention
        q, k, _ = attention.queries_keys_values(net.blocks[1].norm1(x), rope)
        weights = attention.attention_weights(q, k, mask)[0]
        assert torch.allclose(weights.sum(2), torch.ones(weights.shape[:2]))
        rows = weights.mean(0)
        expected[position] = (rows[0] if pool == 'first' else rows.mean(0)) / len(parts)
    assert labels.attention_to_tokens(net, text) == pytest.approx(expected[1:].tolist())


@torch.no_grad()
def test_attention_weights_times_values_are_what_attention_adds(trained):
    net, _ = trained
    attention = net.blocks[0].attention
    x = torch.randn(2, 5, 16)
    mask = torch.tensor([[0.0] * 5, [0.0] * 3 + [-torch.inf] * 2])[:, None, None]
    q, k, v = attention.queries_keys_values(x, None)
    y = attention.attention_weights(q, k, mask) @ v
    assert torch.allclose(attention(x, mask, None), attention.proj(y.transpose(1, 2).flatten(2)), atol=1e-5)


@pytest.mark.parametrize('line', ["it's  a film\tI'd see", 'été—done. 3.5/10!!', ' a'])
def test_the_tokens_of_the_words_are_those_of_the_text(line):
    tokenizer = bpe.train([*LINES, line] * 9, 300)
    pieces = labels.WORD.findall(line.strip())
    assert sum((tokenizer.encode(piece) for piece in pieces), []) == tokenizer.encode(line.strip())


# --- rows of the data set

def test_every_row_of_a_split_is_written_with_its_probabilities(trained, sampled, tmp_path):
    net, tokenizer = trained
    code, text = sampled('--out=x.jsonl')
    assert code == 0, text
    lines = [json.loads(line) for line in (tmp_path / 'x.jsonl').read_text(encoding='utf-8').splitlines()]
    assert [line['row'] for line in lines] == list(range(22))
    for line in lines:
        i = line['row'] + 3
        expected = probabilities_of(net, tokenizer, f'{LINES[i % 4]} {i}')
        assert line['true'] == i % 3 and line['predicted'] == np.argmax(expected)
        assert line['probabilities'] == pytest.approx(expected, abs=1e-4)
    right = sum(line['true'] == line['predicted'] for line in lines)
    assert text.splitlines()[-1] == f'{right} of 22 right in test, accuracy {right / 22:.4f}'


def test_without_a_file_some_rows_are_printed_and_mistakes_are_marked(trained, sampled):
    code, text = sampled('--split=val', '--num_samples=6')
    assert code == 0, text
    *rows, summary = text.splitlines()
    assert len(rows) == 6
    n_wrong = sum(row.startswith('✗ is ') for row in rows)
    assert summary == f'{6 - n_wrong} of 6 right in val, accuracy {(6 - n_wrong) / 6:.4f}'
    assert all('0.' in row and row.split(': ')[-1] for row in rows)


# --- mistakes

@pytest.mark.parametrize('argv, message', [
    (['--start=x', '--split=val'], 'split: only for rows of the data set'),
    (['--start=x', '--out=y.jsonl', '--num_samples=3'], 'num_samples, out: only for rows'),
    (['--words=3'], 'words: only for text of your own'),
    (['--start=x', '--words=-1'], 'words must be from 0 to 1000, got -1'),
    (['--out=x.txt'], 'out must end in .jsonl'), (['--split=tets'], "split 'tets'"),
    (['--temperature=1'], 'temperature is not an option')])
def test_a_mistake_is_an_error(trained, sampled, argv, message):
    code, text = sampled(*argv)
    assert code == 2 and message in text and 'Traceback' not in text


def test_a_file_that_cannot_be_read_or_a_model_without_a_tokenizer_is_an_error(trained, sampled, tmp_path):
    code, text = sampled('--start=FILE:missing.txt')
    assert code == 3 and 'missing.txt' in text
    save_run(tmp_path / 'run', 'classifier', trained[0])
    code, text = sampled('--start=fine')
    assert code == 2 and 'no tokenizer' in text
