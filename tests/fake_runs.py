"""Run folders with a log that a test writes: nothing is trained."""
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from core import table
from core.record import read_run

OPTIONS = {'init_from': 'auto', 'dataset': 'toy', 'model': 'gpt', 'optimizer': 'muon', 'learning_rate': 0.005}


def write_log(folder, losses, seed=1, test=None, more=(), **options):
    """Write the log of a run and return what read_run makes of it.

    losses: a train and an eval line for each, at steps 10, 20, ... test: the loss of an evaluation on test.
    more: further lines. options: those that differ from OPTIONS; n_layer and dropout are Config fields.
    """
    folder = Path(folder)
    keys = OPTIONS | {'out_dir': str(folder), 'seed': seed} | options
    config = {'n_layer': keys.pop('n_layer', 2), 'dropout': keys.pop('dropout', 0.0)}
    lines = [{'event': 'config', 'step': 0, 'keys': keys, 'config': config, 'parameters': 1234,
              'machine': 'a lathe', 'processes': 1, 'versions': {'torch': '2.13', 'git': 'abc'}}]
    for i, loss in enumerate(losses, 1):
        position = {'step': 10 * i, 'epoch': i / 2, 'loss': loss, 'seconds': seed + i}
        lines.append({'event': 'train', **position, 'lr': 0.1 / i})
        lines.append({'event': 'eval', **position, 'split': 'val'})
    if test is not None:
        lines.append({'event': 'eval', 'step': 10, 'split': 'test', 'loss': test, 'seconds': 99.0})
    folder.mkdir(parents=True, exist_ok=True)
    text = ''.join(json.dumps(line) + '\n' for line in [*lines, *more])
    (folder / 'log.jsonl').write_text(text, encoding='utf-8')
    return read_run(folder)


def classifier_evaluation(step, split, matrix):
    """Return the line that a classifier's evaluation logs. matrix (n, n): true class, predicted class."""
    matrix = np.asarray(matrix, float)
    class_accuracy = matrix.diagonal() / np.maximum(matrix.sum(1), 1)
    return {'event': 'eval', 'step': step, 'split': split, 'loss': 1.0, 'seconds': 50.0,
            'accuracy': matrix.trace() / matrix.sum(), 'class_accuracy': class_accuracy.tolist(),
            'confusion': matrix.tolist()}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The folder that takes the place of results/."""
    monkeypatch.setattr(table, 'ROOT', tmp_path)
    monkeypatch.setattr(sys, 'argv', ['/somewhere/plot.py', '--name=x', 'out/a b'])
    (tmp_path / 'results').mkdir()
    return tmp_path / 'results'
