"""Attention maps of a model that translates."""
import dataclasses

import numpy as np
import pytest
import torch

from core import search
from core.checkpoint import FORMAT, build_model, load_checkpoint, save_checkpoint
from core.errors import UserError
from data import bpe, tokenizers
from models import gpt, transformer
from plots import attention


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
    mean, *heads = figures[0].axes
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


@pytest.mark.parametrize('start, layer', [('', 0), ('a dog', 2), ('a dog', -3)])
def test_attention_needs_a_sentence_and_a_layer_that_exists(translator, start, layer):
    with pytest.raises(UserError, match='expected a sentence, and a layer below 2'):
        attention.draw(translator, start, layer)


def test_a_model_that_does_not_translate_has_no_attention_to_draw(tmp_path):
    net = gpt.Model(gpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=8))
    state = {'format': FORMAT, 'step': 0, 'keys': {'model': 'gpt'}, 'tokenizer': None,
             'model': net.state_dict(), 'config': dataclasses.asdict(net.config)}
    save_checkpoint(tmp_path / 'x.pt', state)
    with pytest.raises(UserError, match='does not translate'):
        attention.draw(tmp_path / 'x.pt', 'a dog')
