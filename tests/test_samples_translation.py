"""samples/translation.py: sample.py with a tiny transformer that knows four sentences by heart."""
import re

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

import data
import samples
from core import score, search
from core.checkpoint import load, load_checkpoint, save_checkpoint
from data import bpe, tokenizers
from models import transformer
from samples import translation
from sampling import save_run

KNOWN = [
    ('a cat sleeps.', 'un chat dort.'),
    ('the dog runs in the snow.', 'le chien court dans la neige.'),
    ('two men eat.', 'deux hommes mangent.'),
    ('a bird!', 'un oiseau !')]
TEST = [
    *KNOWN,
    ('the cat runs in the snow.', 'le chat court dans la neige.'),
    ('', 'rien'),
    ('a cat and ' * 9 + 'a dog.', 'un chat et ' * 9 + 'un chien.')]


def encode(tokenizer, text):
    return [*tokenizer.encode(text), search.END]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with a data set `pairs` and a `run` that has learned KNOWN by heart."""
    folder = tmp_path_factory.mktemp('translation')
    tokenizer = bpe.train([text for pair in KNOWN for text in pair], 290)
    splits = {}
    for split, pairs in ('train', KNOWN), ('val', KNOWN), ('test', TEST):
        splits[split] = {'src': [encode(tokenizer, src) for src, _ in pairs],
                         'tgt': [encode(tokenizer, tgt) for _, tgt in pairs]}
    data.save(f'{folder}/pairs', splits, {'src': 'ragged', 'tgt': 'ragged'},
              {'vocab_size': tokenizer.vocab_size, 'too_long': 'drop'}, tokenizer.json())
    torch.manual_seed(0)
    config = transformer.Config(vocab_size=tokenizer.vocab_size, block_size=40, n_layer=1, n_head=2,
                                n_embd=32, n_hidden=64, dropout=0.0)
    net = transformer.Model(config)
    src = pad_sequence([torch.tensor(ids) for ids in splits['train']['src']], batch_first=True)
    tgt = pad_sequence([torch.tensor(ids) for ids in splits['train']['tgt']], batch_first=True)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(80):
        sums = net(src, tgt)
        optimizer.zero_grad()
        (sums['loss'] / sums['count']).backward()
        optimizer.step()
    save_run(folder / 'run', 'transformer', net, folder / 'pairs')
    return folder


@pytest.fixture
def sampled(launch, trained, tmp_path):
    """sampled('--name=value', ...): what sample.py prints, run in an empty folder."""
    def sampled(*argv, code=0, out_dir=trained / 'run'):
        found, text = launch('sample.py', f'--out_dir={out_dir}', '--device=cpu', *argv, cwd=tmp_path)
        assert found == code, text
        assert 'Traceback' not in text
        return text
    return sampled


def greedy_lines():
    return ''.join(f'{tgt}\n' for _, tgt in KNOWN)


# --- translations

@pytest.mark.parametrize('options', [
    dict(beam=0), dict(beam=1), dict(beam=4), dict(beam=4, cache=False), dict(beam=4, length_penalty=0.0),
    dict(beam=300, batch_size=3)])
def test_sentences_known_by_heart_are_translated_to_the_letter(trained, options):
    tokenizer = tokenizers.load(load_checkpoint(trained / 'run/best.pt')['tokenizer'])
    sources = [encode(tokenizer, src) for src, _ in KNOWN]
    translations = search.translate(load(trained / 'run'), sources, **options)
    assert [tokenizer.decode(ids) for ids in translations] == [tgt for _, tgt in KNOWN]


def test_lines_are_translated_one_by_one_and_empty_ones_stay(sampled, tmp_path):
    (src, tgt), (src2, tgt2) = KNOWN[:2]
    assert sampled(f'--start={src}') == f'{tgt}\n'
    for text in f'{src}\n\n{src2}\n\n', f'\ufeff{src}\r\n\r\n{src2}\r\n\r\n':
        (tmp_path / 'some lines.txt').write_bytes(text.encode())
        assert sampled('--start=FILE:some lines.txt', '--beam=1') == f'{tgt}\n\n{tgt2}\n\n'


@pytest.mark.parametrize('raw, n', [
    (b'a cat\r sleeps.\na bird!\n', 2), (b'a bird!\x0b\x0c\xe2\x80\xa8\r\ntwo men eat.', 2), (b'\n\n', 2),
    (b'', 0)])
def test_as_many_lines_are_written_as_are_read(launch, trained, tmp_path, raw, n):
    (tmp_path / 'own.en').write_bytes(raw)
    env = {'PATCH': 'test_samples_text.stdin_is_a_file', 'STDIN': f'{tmp_path}/own.en'}
    for start in 'FILE:own.en', '-':
        for argv in ['--out=own.fr'], []:
            options = f'--out_dir={trained}/run', f'--start={start}', '--beam=1', *argv
            code, text = launch('sample.py', *options, cwd=tmp_path, env=env)
            assert code == 0, text
            written = (tmp_path / 'own.fr').read_bytes() if argv else text.encode('utf-8')
            assert written.count(b'\n') == n


def test_a_new_line_within_a_translation_is_written_as_a_blank(trained, tmp_path, monkeypatch):
    state = load_checkpoint(trained / 'run/best.pt')
    tokenizer = tokenizers.load(state['tokenizer'])
    monkeypatch.setattr(translation, 'translate_ids', lambda *_: [tokenizer.encode('un\nchat')] * 3)
    monkeypatch.setattr(translation, 'start', 'a\nb\nc')
    monkeypatch.setattr(translation, 'out', f'{tmp_path}/x.fr')
    translation.show(load(trained / 'run'), state, tmp_path, 0)
    assert (tmp_path / 'x.fr').read_text(encoding='utf-8') == 'un chat\n' * 3


def test_bleu_of_text_without_spaces_counts_characters(trained, monkeypatch, capsys):
    lines = ['猫在睡觉。', '狗在雪地里跑。', '两个男人在吃饭。', '一只鸟!']
    tokenizer = bpe.train(lines, 270)
    ids = [encode(tokenizer, line) for line in lines]
    data.save(f'{trained}/zh', {'test': {'src': ids, 'tgt': ids}}, {'src': 'ragged', 'tgt': 'ragged'},
              {'vocab_size': 270}, tokenizer.json())
    meta = data.check(f'{trained}/zh')
    state = {'tokenizer': meta['tokenizer'], 'data': data.hashes(meta), 'keys': {'dataset': f'{trained}/zh'}}
    monkeypatch.setattr(translation, 'translate_ids', lambda net, sources, seed: [x[:-1] for x in sources])
    monkeypatch.setattr(translation, 'bleu', True)
    translation.show(load(trained / 'run'), state, trained, 0)
    text = capsys.readouterr().out
    assert 'BLEU 100.00 of 4 lines of test, cased, char; ' in text
    assert 'each character counts as a word' in text


def test_a_line_that_is_too_long_is_cut_and_the_others_are_not_affected(sampled, tmp_path):
    (tmp_path / 'lines.txt').write_text(f'{KNOWN[0][0]}\n{"a cat and " * 20}\n{KNOWN[3][0]}\n')
    text = sampled('--start=FILE:lines.txt', '--out=x.txt')
    lines = (tmp_path / 'x.txt').read_text(encoding='utf-8').split('\n')
    assert len(lines) == 4
    assert (lines[0], lines[2], lines[3]) == (KNOWN[0][1], KNOWN[3][1], '')
    assert re.fullmatch(r'wrote x.txt\nline 2 has \d+ tokens, it is cut to 40\n', text)


def test_a_split_is_translated_and_its_bleu_is_that_of_the_lines(sampled, tmp_path):
    text = sampled('--split=test', '--beam=4', '--bleu', '--out=x.txt')
    lines = (tmp_path / 'x.txt').read_text(encoding='utf-8').splitlines()
    assert lines[:4] == [tgt for _, tgt in KNOWN]
    assert lines[5] == ''
    expected = score.bleu(lines, [tgt for _, tgt in TEST])
    assert 0 < expected < 100
    assert f'BLEU {expected:.2f} of 7 lines of test, cased, 13a; beam 4, length_penalty 0.6' in text
    assert 'line 7 has' in text
    printed = ''.join(f'{line}\n' for line in lines)
    assert sampled().startswith(printed + 'line 7 has')         # test is the split unless another is given


def test_bleu_is_printed_with_the_kind_of_search(sampled):
    greedy = sampled('--split=val', '--beam=1', '--bleu')
    assert 'BLEU 100.00 of 4 lines of val, cased, 13a; greedy' in greedy
    drawn = sampled('--split=val', '--beam=0', '--temperature=0', '--seed=3', '--bleu')
    assert 'BLEU 100.00 of 4 lines of val, cased, 13a; sampled at temperature 0' in drawn
    assert 'seed 3' in drawn


def test_rouge_is_printed_with_the_words_that_it_counts(sampled):
    greedy = sampled('--split=val', '--beam=1', '--rouge')
    assert greedy.startswith('ROUGE-1 100.00, ROUGE-2 ') and ' of 4 lines of val, F1, words as ' in greedy
    assert 'BLEU' not in greedy


def test_summaries_are_scored_beside_the_first_words(launch, trained, tmp_path):
    code, text = launch('results/summaries.py', f'--out_dir={trained}/run', '--shown=30', cwd=tmp_path)
    assert code == 0, text
    lines = [line for line in text.split('\n') if line.startswith('|')]
    assert [line.split(' | ')[0].strip('| ') for line in lines[2:6]] == [
        lines[2].split(' | ')[0].strip('| '), 'greedy', 'beam of 4', 'sampled, top_k 40, seed 1337']
    assert lines[2].startswith('| the first ') and len(lines) == 6 + 2 + 7      # test has seven rows


def test_without_a_beam_the_seed_decides_the_sample(sampled):
    argv = '--split=val', '--beam=0', '--temperature=3'
    one = sampled(*argv, '--seed=1')
    assert one == sampled(*argv, '--seed=1')
    assert one != sampled(*argv, '--seed=2')
    assert one != greedy_lines()
    assert sampled('--split=val', '--beam=0', '--temperature=0') == greedy_lines()


def test_lines_of_your_own_need_no_data_set_but_rows_do(sampled, trained, tmp_path):
    state = load_checkpoint(trained / 'run/best.pt')
    state['keys']['dataset'] = f'{tmp_path}/gone'
    save_checkpoint(tmp_path / 'x.pt', state)
    assert sampled(f'--start={KNOWN[0][0]}', out_dir='x.pt') == f'{KNOWN[0][1]}\n'
    assert f'{tmp_path}/gone' in sampled('--bleu', out_dir='x.pt', code=3)


# --- mistakes

@pytest.mark.parametrize('argv, message', [
    (['--start=a', '--bleu'], 'start .*bleu'),
    (['--start=a', '--split=val'], 'start .*split'),
    (['--split=tset'], "'tset'.*train, val, test"),
    (['--out=.'], 'out . is a folder'),
    (['--out=no/x.txt'], 'no/x.txt: there is no such folder'),
    (['--top_k=3', '--min_p=0.1'], 'top_k, min_p: .*--beam=0'),
    (['--beam=-1', '--length_penalty=-1'], 'beam .*got -1\nlength_penalty .*got -1'),
    (['--start=caf\udce9'], 'expected UTF-8'),
    (['--max_new_tokens=9'], 'max_new_tokens is not an option')])
def test_an_option_that_makes_no_sense_is_an_error(sampled, tmp_path, argv, message):
    text = sampled(*argv, code=2)
    assert re.search(message, text), text
    assert not list(tmp_path.glob('x.*'))


@pytest.mark.parametrize('raw, message', [
    (b'a bird!\ncaf\xe9\n', 'latin.txt: line 2: expected UTF-8 text, found byte 0xe9 at 3'),
    ('a bird!'.encode('utf-16-le'), 'latin.txt: line 1: expected text, found a NUL byte'),
    (None, 'latin.txt: No such file or directory')])
def test_a_file_that_cannot_be_read_is_an_error_of_one_line(sampled, tmp_path, raw, message):
    if raw:
        (tmp_path / 'latin.txt').write_bytes(raw)
    text = sampled('--start=FILE:latin.txt', code=3)
    assert message in text and len(text.splitlines()) == 1


def test_a_model_without_a_tokenizer_cannot_translate(sampled, trained, tmp_path):
    state = load_checkpoint(trained / 'run/best.pt')
    save_checkpoint(tmp_path / 'x.pt', state | {'tokenizer': None})
    assert 'no tokenizer' in sampled('--start=a', out_dir='x.pt', code=2)


# --- previews

def test_a_preview_shows_source_translation_and_reference_of_up_to_three_rows(trained):
    net = load(trained / 'run').train()
    meta = data.check(f'{trained}/pairs')
    val = data.load_split(f'{trained}/pairs', 'val', ['src', 'tgt'])
    preview = samples.preview(net, meta, val)
    assert net.training
    paragraphs = preview.strip('-\n').split('\n\n')
    assert paragraphs == [f'{src}\n{tgt}\n{tgt}' for src, tgt in KNOWN[:3]]


def test_a_preview_of_a_split_of_one_row_shows_one(trained):
    meta = data.check(f'{trained}/pairs')
    rows = {'src': [[5, search.END]], 'tgt': [[5, search.END]]}
    data.save(f'{trained}/one', {'val': rows}, {'src': 'ragged', 'tgt': 'ragged'}, meta['info'],
              meta['tokenizer'])
    val = data.load_split(f'{trained}/one', 'val', ['src', 'tgt'])
    assert '\n\n' not in samples.preview(load(trained / 'run'), meta, val)


def test_references_have_no_end_in_them_whatever_the_tokenizer():
    assert translation.text_of(tokenizers.Bytes(), [97, 98, 1]) == 'ab'
