"""Tables of runs: their numbers against numpy's, and what is kept in results/."""
import json
import re

import numpy as np
import pytest

from core.errors import UserError
from core.record import group_seeds
from core.table import BEGIN, END, tabulate
from fake_runs import classifier_evaluation, results, write_log       # results: a fixture
from models import gpt


def printed(capsys):
    """Return the printed lines, each as a list of its cells."""
    return [re.split('  +', line) for line in capsys.readouterr().out.split('\n')]


# --- what is printed

def test_a_row_has_the_mean_and_the_sample_deviation_over_seeds(tmp_path, capsys):
    bests = [1.5, 2.5, 1.7]
    runs = [write_log(tmp_path / 'worse', [4, 5], optimizer='sgd')]
    for i, best in enumerate(bests):
        runs.append(write_log(tmp_path / str(i), [3, best], seed=i, test=best + 1))
    tabulate(group_seeds(runs))
    header, first, second, _, metric, _, shared, *_ = printed(capsys)
    assert header == ['optimizer', 'val loss', 'at step', 'test loss', 'seconds', 'seed']
    std = f'{np.std(bests, ddof=1):.4f}'
    assert first == ['muon', f'{np.mean(bests):.4f} ± {std} (3)', '20', f'{np.mean(bests) + 1:.4f} ± {std}',
                     '99 ± 0', '0, 1, 2']
    assert second == ['sgd', '4.0000 (1)', '10', '-', '3', '1']
    assert metric[0].startswith('val loss: loss (nats) over the whole split, the minimum')
    assert shared == ['steps 20; parameters 1,234; machine a lathe; commit abc; torch 2.13']


def test_the_best_row_comes_first_in_the_direction_of_the_metric(tmp_path, capsys, monkeypatch):
    rows = []
    for name, value, n in ('b', 2, 1), ('c', 3, 2), ('none', 0, 0), ('a', 1, 2):
        runs = [write_log(tmp_path / f'{name}{seed}', [value], seed=seed) for seed in range(n)]
        rows.append(({'row': name}, runs))
    tabulate(rows, compare=True)
    assert [row[0] for row in printed(capsys)[1:5]] == ['a', 'b', 'c', 'none']
    monkeypatch.setattr(gpt.Model, 'monitor', ('loss', 'max'))
    tabulate(rows, compare=True)
    assert [row[0] for row in printed(capsys)[1:5]] == ['c', 'b', 'a', 'none']


def test_differences_are_to_the_first_row_given(tmp_path, capsys):
    rows = [({'row': name}, [write_log(tmp_path / name, [loss])]) for name, loss in (('a', 2), ('b', 1.5))]
    tabulate(rows, compare=True)
    header, first, second, *_ = printed(capsys)
    assert header[:3] == ['row', 'val loss', 'difference']
    assert first[:3] == ['b', '1.5000 (1)', '-0.5000'] and second[:3] == ['a', '2.0000 (1)', '-']


def test_further_columns_are_numbers_of_the_log(tmp_path, capsys, results):
    runs = [write_log(tmp_path / str(seed), [3, 2], seed=seed, test=seed) for seed in (1, 3)]
    columns = 'train.loss,test.seconds'
    tabulate([({'row': 'a'}, runs)], columns=columns)
    header, row, *_ = printed(capsys)
    cells = dict(zip(header, row))
    medians = [np.median([line['loss'] for line in run['train']]) for run in runs]
    assert cells['train.loss'] == f'{np.mean(medians):.4f} ± {np.std(medians, ddof=1):.4f}'
    assert cells['test.seconds'] == '99.0000 ± 0.0000'
    for wrong in 'train.lost', 'val.event', 'keys.seed', 'lost':
        with pytest.raises(UserError, match=f'logged {wrong}$'):
            tabulate([({'row': 'a'}, runs)], 'x', columns=f'{columns},{wrong}')
    assert not list(results.glob('x*'))
    tabulate([({'row': 'a'}, runs)], columns='seconds')         # a column that is there anyway
    assert printed(capsys)[0].count('seconds') == 1


# --- what is kept

def test_results_keep_the_numbers_and_the_command_and_all_other_text(tmp_path, results):
    tabulate([({'row': 'a'}, [write_log(tmp_path / 'a', [2, 1], test=1.25)])], 'x')
    text = (results / 'x.md').read_text(encoding='utf-8')
    assert text.startswith(f'# x\n\n{BEGIN}\n\n| row | val loss | at step | test loss | seconds |\n|')
    assert '\n| a | 1.0000 (1) | 20 | 1.2500 | 99 |\n' in text
    assert "\n`python plot.py --name=x 'out/a b'`\n" in text
    kept = json.loads((results / 'x.json').read_text(encoding='utf-8'))
    assert kept['command'] == "python plot.py --name=x 'out/a b'"
    run = kept['rows'][0]['runs'][0]
    assert (run['best'], run['step'], run['test']['loss'], run['machine']) == (1, 20, 1.25, 'a lathe')
    assert (run['seed'], run['keys']['optimizer'], run['keys']['n_layer']) == (1, 'muon', 2)

    mine = text.replace('# x', '# Mine\n\nBefore.') + 'After.\n'
    (results / 'x.md').write_text(mine, encoding='utf-8')
    tabulate([({'row': 'b'}, [write_log(tmp_path / 'a', [2, 0.5])])], 'x')
    text = (results / 'x.md').read_text(encoding='utf-8')
    assert text.startswith(f'# Mine\n\nBefore.\n\n{BEGIN}\n\n|')
    assert text.endswith(f'\n\n{END}\nAfter.\n')
    assert '| b | 0.5000 (1) |' in text and '| a |' not in text and text.count(BEGIN) == 1


@pytest.mark.parametrize('text', ['mine', BEGIN, END + BEGIN, 2 * (BEGIN + END)])
def test_a_page_without_one_place_for_the_table_is_left_alone(tmp_path, results, text):
    (results / 'x.md').write_text(text, encoding='utf-8')
    with pytest.raises(UserError, match='no place for the table'):
        tabulate([({}, [write_log(tmp_path / 'a', [1])])], 'x')
    assert (results / 'x.md').read_text(encoding='utf-8') == text and not (results / 'x.json').exists()


def test_metrics_that_are_lists_are_left_out(tmp_path, results):
    val = classifier_evaluation(20, 'val', np.eye(3))
    test = classifier_evaluation(20, 'test', 7 * np.eye(3))
    tabulate([({'row': 'a'}, [write_log(tmp_path / 'a', [3], more=[val, test])])], 'x')
    run = json.loads((results / 'x.json').read_text(encoding='utf-8'))['rows'][0]['runs'][0]
    assert run['val']['accuracy'] == run['test']['accuracy'] == 1
    values = [*run['val'].values(), *run['test'].values()]
    assert not any(isinstance(value, list) for value in values)
