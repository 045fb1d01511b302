"""plots/relative_bias.py: the curves are the biases of the model, and a model without them is an error."""
import numpy as np
import pytest
import torch

from core import checkpoint
from core.errors import UserError
from models import gpt, t5
from plots import relative_bias


@pytest.mark.parametrize('causal', [False, True])
def test_the_curves_are_what_the_heads_add_to_the_scores(monkeypatch, causal):
    config = t5.Config(vocab_size=9, n_layer=1, n_head=3, n_embd=8, d_kv=4, d_ff=8)
    torch.manual_seed(0)
    model = t5.Model(config)
    figures = []
    monkeypatch.setattr(checkpoint, 'load', lambda path: model)
    monkeypatch.setattr(relative_bias, 'save_figure', lambda figure, out: figures.append(figure))
    relative_bias.draw('a run')
    axes = figures[0].axes[causal]
    table = model.bias_tgt if causal else model.bias_src
    assert len(axes.lines) == 3
    for head, line in enumerate(axes.lines):
        for distance, bias in zip(*line.get_data(), strict=True):
            offset = torch.tensor(int(distance))
            bucket = t5.relative_bucket(offset, causal, config.n_bucket, config.max_distance)
            assert np.isclose(bias, table.weight[bucket, head].item())


def test_a_model_without_relative_biases_is_an_error(monkeypatch):
    model = gpt.Model(gpt.Config(n_layer=1, n_head=1, n_embd=8))
    monkeypatch.setattr(checkpoint, 'load', lambda path: model)
    with pytest.raises(UserError, match='a run has no relative-position biases'):
        relative_bias.draw('a run')
