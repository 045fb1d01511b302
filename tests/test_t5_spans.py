"""data/spans.py, from the draw of the spans to a run that is resumed, and the tasks of data/t5_tasks.py."""
import gzip
import io
import os
import signal
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch

import data
from conftest import losses
from core import search
from core.checkpoint import load, load_checkpoint
from data import bpe, t5_tasks, tokenizers
from data.spans import corrupt, random_lengths
from mirror import prepare
from models.t5 import Config, Model
from test_faults import argv, forwards      # noqa: F401 (a fixture)

END, SENTINEL = 1, 999


def rebuild(src, tgt):
    """Put the spans of the target where their sentinels stand in the source; return the tokens."""
    spans = {}
    for i in tgt[:-1]:
        if i > 900:
            spans[i] = []
            span = spans[i]
        else:
            span.append(i)
    tokens = []
    for i in src[:-1]:
        tokens += spans.pop(i) if i > 900 else [i]
    assert not spans
    return tokens


@pytest.mark.parametrize('T', [2, 3, 10, 64, 256, 1000])
def test_source_and_target_rebuild_the_text(T):
    torch.manual_seed(T)
    tokens = torch.randint(2, 900, (20, T))
    src, tgt = corrupt(tokens, SENTINEL)
    n_cut = max(1, round(0.15 * T))
    n_span = max(1, round(n_cut / 3))
    assert src.shape == (20, T - n_cut + n_span + 1) and tgt.shape == (20, n_cut + n_span + 1)
    for row, source, target in zip(tokens.tolist(), src.tolist(), tgt.tolist()):
        assert source[-1] == target[-1] == END
        assert rebuild(source, target) == row
        sentinels = [SENTINEL - i for i in range(n_span)]               # in this order, in both
        assert [i for i in source if i > 900] == sentinels == [i for i in target if i > 900]
        assert source[0] < 900 and target[0] == SENTINEL                # the text begins with what is kept
        assert source[-2] == sentinels[-1]                              # and ends with a span


def test_a_window_of_one_token_and_a_thousand_spans_work():
    src, tgt = corrupt(torch.tensor([[5], [6]]), SENTINEL)
    assert src.tolist() == [[SENTINEL, END]] * 2 and tgt.tolist() == [[5, END], [6, END]]
    src, tgt = corrupt(torch.full((1, 4000), 5), SENTINEL)
    assert (src >= 900).sum() == (tgt >= 900).sum() == 100              # no more sentinels than there are


def test_all_divisions_are_equally_likely():
    torch.manual_seed(0)
    rows = random_lengths(30_000, 6, 3, 'cpu')
    assert rows.min() == 1 and (rows.sum(1) == 6).all()
    counts = Counter(map(tuple, rows.tolist()))
    assert len(counts) == 10                            # 5 choose 2
    for count in counts.values():
        assert abs(count - 3000) < 5 * 3000 ** 0.5      # five standard deviations


def test_the_corruption_is_that_of_the_seed_and_rows_differ():
    tokens = torch.arange(2, 66).repeat(3, 1)
    torch.manual_seed(1)
    first = corrupt(tokens, SENTINEL)[0]
    torch.manual_seed(1)
    assert torch.equal(corrupt(tokens, SENTINEL)[0], first)
    assert not torch.equal(corrupt(tokens, SENTINEL)[0], first)
    assert not torch.equal(first[0], first[1])


def tiny(**fields):
    torch.manual_seed(0)
    common = dict(vocab_size=400, sentinel=399, block_size=20, n_layer=1, n_head=2, n_embd=16, d_kv=8,
                  d_ff=32, dropout=0.0)
    return Model(Config(**common | fields))


def test_the_loss_of_text_is_that_of_its_source_and_target():
    net = tiny()
    tokens = torch.randint(2, 300, (4, 21))
    torch.manual_seed(2)
    found = net(tokens=tokens)
    torch.manual_seed(2)
    src, tgt = corrupt(tokens[:, 1:], 399)
    expected = net(src, tgt)
    assert found['loss'] == expected['loss'] and found['count'] == tgt.numel()


def test_data_without_sentinels_are_an_error(launch, argv, tmp_path):
    code, text = launch('train.py', *argv('a'), '--model=t5', '--n_layer=1', '--d_kv=8', '--d_ff=32')
    assert code == 2 and 'T5 needs sentinels' in text and 'Traceback' not in text, text
    assert not (tmp_path / 'a').exists()
    with pytest.raises(ValueError, match='sentinel must be an id below 400, got 400'):
        tiny(sentinel=400)


# --- the loop

def killed():
    """Patched into a child: kill -9 in step 15."""
    def happen(net, call, sums):
        if call == 15:
            os.kill(os.getpid(), signal.SIGKILL)
        return sums
    forwards(happen, 't5')


@pytest.fixture
def spans(tmp_path):
    """A stream of a sentence in a loop, with 100 sentinels."""
    text = 'the quick brown fox jumps over the lazy dog and sees another fox. ' * 60
    tokenizer = bpe.train([text], 400, 100)
    ids = np.array(tokenizer.encode(text))
    info = {'vocab_size': tokenizer.vocab_size, 'sentinel': tokenizer.vocab_size - 1}
    data.save(f'{tmp_path}/spans', {'train': {'tokens': ids}, 'val': {'tokens': ids[:200]}},
              {'tokens': 'stream'}, info, tokenizer.json())
    return ['--model=t5', f'--dataset={tmp_path}/spans', '--block_size=32', '--n_layer=1', '--n_head=2',
            '--n_embd=16', '--d_kv=8', '--d_ff=32']


def test_a_killed_run_on_text_alone_resumes_exactly(launch, argv, spans, tmp_path):
    assert launch('train.py', *argv('whole'), *spans)[0] == 0
    code, text = launch('train.py', *argv('a'), *spans, env={'PATCH': 'test_t5_spans.killed'})
    assert code == -signal.SIGKILL, text
    folder = tmp_path / 'a'
    code, text = launch('train.py', *argv('a'), *spans)
    assert code == 0 and losses(folder) == losses(tmp_path / 'whole'), text
    assert '<extra_id_0>' in text                       # the sample at the end
    assert load(folder).config.sentinel == 399


def test_sample_fills_in_what_is_left_out(launch, argv, spans, tmp_path):
    assert launch('train.py', *argv('a'), *spans)[0] == 0
    code, text = launch('sample.py', f'--out_dir={tmp_path}/a', '--start=the quick <extra_id_0> jumps',
                        '--beam=1')
    net = load(tmp_path / 'a')
    tokenizer = tokenizers.load(load_checkpoint(tmp_path / 'a/best.pt')['tokenizer'])
    source = [*tokenizer.encode('the quick <extra_id_0> jumps'), END]
    assert 399 in source
    expected, = search.translate(net, [source], beam=1)
    assert (code, text) == (0, f'{tokenizer.decode(expected)}\n'), text
    for more in [], ['--bleu'], ['--out=x.txt']:
        code, text = launch('sample.py', f'--out_dir={tmp_path}/a', *more)
        assert code == 2 and 'text alone' in text, text


# --- the tasks

WIKI = ''' 
 = The cat = 

 The cat is a small animal . 

 It has four legs . 

 = = <unk> = = 

 Nobody knows this . 

 = = Diet = = 

 = = = Mice and <unk> = = = 

 A cat eats mice . 

'''


def archives():
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as packed:
        for name in 'train', 'valid', 'test':
            packed.writestr(f'wikitext-2/wiki.{name}.tokens', WIKI)
    files = {'wikitext2/wikitext-2-v1.zip': content.getvalue()}
    for name in 'train', 'val', 'test_2016_flickr', 'test_2017_flickr':
        for language, line in ('en', 'A cat .\n'), ('fr', 'Un chat .\n'):
            files[f'multi30k/{name}.{language}.gz'] = gzip.compress(line.encode() * 6, mtime=0)
    return files


SUMMARIES = [('summarize: The cat is a', 'The cat'), ('summarize: A cat eats mice', 'Mice and <unk>')]


def test_a_heading_is_the_summary_of_the_paragraph_below_it():
    assert list(t5_tasks.find_summaries(WIKI, 4)) == SUMMARIES


def rows(path, split):
    """Return the pairs of a split as texts."""
    tokenizer = tokenizers.load(data.check(str(path), hashes=True)['tokenizer'])
    reader = data.load_split(str(path), split, ['src', 'tgt'])
    texts = []
    for i in range(reader.size):
        texts.append(tuple(tokenizer.decode(reader.row(field, i)[:-1]) for field in ('src', 'tgt')))
    return texts


def test_the_tasks_share_a_tokenizer(prepare, tmp_path):
    found = []
    for name, options in (('t5_spans', []), ('t5_translate', []), ('t5_summarize', ['--max_words=4']),
                          ('t5_mixture', ['--max_words=4', '--translate=0.75'])):
        prepare(name, archives(), *options, out=name)
        meta = data.check(f'{tmp_path}/{name}')
        found.append((meta['tokenizer'], meta['info']['vocab_size'], meta['info']['sentinel']))
        assert meta['info']['sentinel'] == meta['info']['vocab_size'] - 1
    assert found == found[:1] * 4
    tokenizer = tokenizers.load(found[0][0])
    stream = np.fromfile(tmp_path / 't5_spans/val.tokens.bin', '<u2')
    assert tokenizer.decode(stream) == WIKI and tokenizer.encode('<extra_id_0>') == [found[0][2]]
    translation = ('translate English to French: A cat .', 'Un chat .')
    assert rows(tmp_path / 't5_translate', 'val') == 6 * [translation]
    assert rows(tmp_path / 't5_summarize', 'test') == SUMMARIES
    train = Counter(rows(tmp_path / 't5_mixture', 'train'))
    assert train == {translation: 6, SUMMARIES[0]: 1, SUMMARIES[1]: 1}      # 3 : 1
    assert rows(tmp_path / 't5_mixture', 'test_summarize') == SUMMARIES
    assert len(rows(tmp_path / 't5_mixture', 'test')) == 8


@pytest.mark.parametrize('name, option', [('t5_summarize', '--max_words=0'), ('t5_mixture', '--translate=1'),
                                          ('t5_mixture', '--translate=0'), ('t5_mixture', '--max_words=0')])
def test_illegal_options_are_an_error(prepare, name, option):
    assert 'max_words' in prepare(name, archives(), option, code=2)
