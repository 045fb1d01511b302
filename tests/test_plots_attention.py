"""Attention maps of a model that translates."""
import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import data
from core import search
from core.checkpoint import FORMAT, build_model, load_checkpoint, save_checkpoint
from core.errors import UserError
from data import bpe, tokenizers
from models import classifier, cnn, gpt, gpt2, transformer
from plots import attention, heads


@pytest.fixture
def figures(monkeypatch):
    """The figures that would have been written to files."""
    figures = []
    monkeypatch.setattr(attention, 'save_figure', lambda figure, out: figures.append(figure))
    return figures


def texts(labels):
    return [label.get_text() for label in labels]


@pytest.fixture
def translator(tmp_path):
    """The run folder of an untrained transformer with a vocabulary for 'a dog runs'."""
    tokenizer = bpe.train(['a dog runs', 'un chien court'], 300)
    torch.manual_seed(0)
    config = transformer.Config(vocab_size=tokenizer.vocab_size, block_size=12, n_layer=2, n_head=2,
                                n_embd=16, n_hidden=16)
    state = {'format': FORMAT, 'step': 0, 'keys': {'model': 'transformer'}, 'tokenizer': tokenizer.json(),
             'model': transformer.Model(config).state_dict(), 'config': dataclasses.asdict(config)}
    (tmp_path / 'run').mkdir()
    save_checkpoint(tmp_path / 'run' / 'best.pt', state)
    return tmp_path / 'run'


@pytest.mark.parametrize('layer', [0, -1])
def test_attention_maps_are_the_models_with_tokens_on_their_axes(translator, figures, layer):
    attention.draw(translator, 'a dog runs', layer)
    checkpoint = load_checkpoint(translator / 'best.pt')
    net = build_model(checkpoint)
    tokenizer = tokenizers.load(checkpoint['tokenizer'])
    src = [*tokenizer.encode('a dog runs'), 1]
    tgt = [*search.translate(net, [src], beam=1)[0], 1]
    maps = attention.attention_maps(net, torch.tensor([src]), torch.tensor([tgt]))
    mean, color_bar, *heads = figures[0].axes
    assert color_bar.get_ylabel() == 'attention weight'
    assert np.allclose(mean.images[0].get_array(), maps['cross'][layer, 0].mean(0), atol=1e-6)
    expected = [maps[kind][layer, 0, head] for kind in ('cross', 'encoder', 'decoder') for head in (0, 1)]
    for axes, weights in zip(heads, expected, strict=True):
        assert np.allclose(axes.images[0].get_array(), weights, atol=1e-6)

    sentence = texts(mean.get_xticklabels())
    translation = texts(mean.get_yticklabels())
    assert ''.join(sentence[:-1]) == 'a·dog·runs' and sentence[-1] == translation[-1] == 'end'
    assert len(translation) == len(tgt)
    assert texts(heads[-1].get_yticklabels()) == translation
    assert texts(heads[-1].get_xticklabels()) == ['start', *translation[:-1]]


def test_the_script_draws_attention(launch, translator, tmp_path):
    code, text = launch('plot.py', '--what=attention', translator, '--start=a dog runs', '--out=x.png',
                        cwd=tmp_path)
    assert code == 0 and text.endswith('wrote x.png\n'), text
    assert (tmp_path / 'x.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('start, layer, message', [
    ('', 0, 'which text'), ('a dog', 2, 'a layer below 2'), ('a dog', -3, 'a layer below 2')])
def test_attention_needs_a_text_and_a_layer_that_exists(translator, start, layer, message):
    with pytest.raises(UserError, match=message):
        attention.draw(translator, start, layer)


TOKENIZER = bpe.train(['a dog runs to a dog and runs'], 270)
READERS = {
    'gpt': (gpt, dict(n_layer=2, n_head=2, n_embd=16)),
    'gpt2': (gpt2, dict(size='custom', n_layer=2, n_head=2, n_embd=16)),
    'classifier': (classifier, dict(n_class=3, n_layer=2, n_head=2, n_embd=16, n_hidden=16)),
}


def make_reader(folder, name):
    """Return the untrained model of a new run folder; its weights are large, so that no map is uniform."""
    module, fields = READERS[name]
    torch.manual_seed(0)
    net = module.Model(module.Config(vocab_size=TOKENIZER.vocab_size, block_size=24, **fields)).eval()
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    state = {'format': FORMAT, 'step': 0, 'keys': {'model': name}, 'tokenizer': TOKENIZER.json(),
             'model': net.state_dict(), 'config': dataclasses.asdict(net.config)}
    folder.mkdir()
    save_checkpoint(folder / 'best.pt', state)
    return net


@torch.no_grad()
@pytest.mark.parametrize('name', READERS)
def test_the_maps_of_a_reader_are_the_weights_that_its_output_is_made_of(tmp_path, name):
    net = make_reader(tmp_path / 'run', name)
    tokens = torch.tensor(TOKENIZER.encode('a dog runs to a dog'))
    tokens = torch.stack([tokens, tokens.flip(0)])
    expected = net.logits(tokens)
    fused = F.scaled_dot_product_attention
    maps = attention.self_attention_maps(net, tokens)
    assert F.scaled_dot_product_attention is fused
    with attention.recorded_weights():                  # its weights times v take the place of the original
        assert torch.allclose(net.logits(tokens), expected, atol=1e-4)
    T = tokens.size(1) + (name == 'classifier')
    assert maps.shape == (2, 2, 2, T, T) and torch.allclose(maps.sum(-1), torch.ones(2, 2, 2, T))
    assert (maps.triu(1) == 0).all() == (name != 'classifier')


@pytest.mark.parametrize('name', READERS)
def test_a_page_has_a_map_for_each_layer_and_head(tmp_path, figures, name):
    net = make_reader(tmp_path / 'run', name)
    attention.draw(tmp_path / 'run', 'a dog runs')
    *maps, color_bar = figures[0].axes
    assert [axes.get_title('left') for axes in maps] == [
        'layer 1, head 1', 'layer 1, head 2', 'layer 2, head 1', 'layer 2, head 2']
    names = texts(maps[0].get_xticklabels())
    assert ''.join(names) == ('class' if name == 'classifier' else '') + 'a·dog·runs'
    ids = torch.tensor([TOKENIZER.encode('a dog runs')])
    expected = attention.self_attention_maps(net, ids)[1, 0, 0]
    assert np.allclose(maps[2].images[0].get_array(), expected, atol=1e-5)


def test_a_model_that_reads_no_text_has_no_attention_to_draw(tmp_path):
    net = cnn.Model(cnn.Config(width=4))
    state = {'format': FORMAT, 'step': 0, 'keys': {'model': 'cnn'}, 'tokenizer': None,
             'model': net.state_dict(), 'config': dataclasses.asdict(net.config)}
    save_checkpoint(tmp_path / 'x.pt', state)
    with pytest.raises(UserError, match='does not read text'):
        attention.draw(tmp_path / 'x.pt', 'a dog')


# --- heads whose work has a name

def test_a_head_that_does_one_thing_has_a_score_of_1_there():
    n = 8
    T = 2 * n
    query = torch.arange(T)[:, None]
    key = torch.arange(T)
    kinds = [key == (query - 1).clamp(min=0), key == 0 * query, key == (query - n + 1).clamp(min=0)]
    maps = torch.stack(kinds).float()[None, None].transpose(0, 2).transpose(1, 2)       # (3, 1, 1, T, T)
    maps = maps.repeat(1, 2, 1, 1, 1)                                                   # two windows
    scores = [measure(maps)[:, 0].tolist() for measure in (heads.previous_token, heads.first_token,
                                                            heads.induction)]
    assert [scores[i][i] for i in range(3)] == pytest.approx([1, 1, 1])
    for i in range(3):
        assert all(scores[i][j] < 0.2 for j in range(3) if j != i)


def test_the_script_prints_the_best_heads(launch, tmp_path):
    make_reader(tmp_path / 'run', 'gpt')
    ids = np.array(TOKENIZER.encode('a dog runs to a dog and runs ' * 20))
    data.save(f'{tmp_path}/data', {'val': {'tokens': ids}}, {'tokens': 'stream'},
              {'vocab_size': TOKENIZER.vocab_size}, TOKENIZER.json())
    checkpoint = load_checkpoint(tmp_path / 'run/best.pt')
    checkpoint['keys']['dataset'] = f'{tmp_path}/data'
    checkpoint['data'] = data.hashes(data.check(f'{tmp_path}/data'))
    save_checkpoint(tmp_path / 'run/best.pt', checkpoint)
    code, text = launch('plot.py', '--what=heads', tmp_path / 'run', '--out=x.png', cwd=tmp_path)
    assert code == 0, text
    for name in 'previous token', 'first token', 'induction':
        assert f'{name} head: ' in text
    assert (tmp_path / 'x.png').read_bytes().startswith(b'\x89PNG')
