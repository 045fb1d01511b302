"""Pictures and tables of runs, and ablations: on logs that the tests write; nothing is trained."""
import dataclasses, json, os, re, signal, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

import ablate, configurator, plot, run, search
from configurator import Refused
from conftest import ROOT, until
from data import bpe
from data.tokenizer import load
from models import gpt, transformer

KEYS = {'init_from': 'auto', 'dataset': 'toy', 'model': 'gpt', 'optimizer': 'muon', 'learning_rate': 0.005}
STDLIB = str(ROOT / 'config' / 'train_stdlib.py')


def write_log(folder, losses, seed=1, test=None, more=(), **keys):
    """The run of a log with a train and an eval line for each loss, at steps 10, 20, ..., and `more`."""
    keys = KEYS | {'out_dir': str(folder), 'seed': seed} | keys
    config = {key: keys.pop(key, value) for key, value in {'n_layer': 2, 'dropout': 0.0}.items()}
    lines = [{'event': 'config', 'step': 0, 'keys': keys, 'config': config, 'parameters': 1234,
              'machine': 'a lathe', 'processes': 1, 'versions': {'torch': '2.13', 'git': 'abc'}}]
    for i, loss in enumerate(losses, 1):
        at = {'step': 10 * i, 'epoch': i / 2, 'loss': loss, 'seconds': seed + i}
        lines += [{'event': 'train', **at, 'lr': 0.1 / i},
                  {'event': 'eval', **at, 'split': 'val'}]
    if test is not None:
        lines.append({'event': 'eval', 'step': 10, 'split': 'test', 'loss': test, 'seconds': 99.0})
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = ''.join(json.dumps(line) + '\n' for line in [*lines, *more])
    (Path(folder) / 'log.jsonl').write_text(text, encoding='utf-8')
    return plot.read(folder)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The folder that takes the place of results/."""
    monkeypatch.setattr(plot, 'ROOT', tmp_path)
    monkeypatch.setattr(sys, 'argv', ['/somewhere/plot.py', '--name=x', 'out/a b'])
    (tmp_path / 'results').mkdir()
    return tmp_path / 'results'


# --- which runs are one configuration

def test_seeds_are_one_configuration_and_only_differing_keys_name_it(tmp_path):
    a, b = write_log(tmp_path / 'a', [1]), write_log(tmp_path / 'b', [1], seed=2, init_from='scratch')
    c, d = write_log(tmp_path / 'c', [1], optimizer='sgd'), write_log(tmp_path / 'd', [1], n_layer=3)
    assert plot.grouped([a, b]) == [({}, [a, b])]
    assert plot.grouped([a, c, b, d]) == [({'optimizer': 'muon', 'n_layer': 2}, [a, b]),
                                          ({'optimizer': 'sgd', 'n_layer': 2}, [c]),
                                          ({'optimizer': 'muon', 'n_layer': 3}, [d])]


def test_fine_tuning_is_another_configuration(tmp_path):
    a, b = write_log(tmp_path / 'a', [1]), write_log(tmp_path / 'b', [1], seed=2, init_from='out/other')
    assert [cells for cells, _ in plot.grouped([a, b])] == [{}, {'init_from': 'out/other'}]


def test_a_field_that_another_model_lacks_tells_nothing_but_one_that_its_own_lacks_does(tmp_path):
    a, b = write_log(tmp_path / 'a', [1], tie=True), write_log(tmp_path / 'b', [1], model='cnn')
    assert [cells for cells, _ in plot.grouped([a, b])] == [{'model': 'gpt'}, {'model': 'cnn'}]
    b['keys']['model'] = 'gpt'
    assert [cells for cells, _ in plot.grouped([a, b])] == [{'tie': True}, {}]


def test_a_resumed_run_is_what_it_was_last_resumed_as(tmp_path):
    write_log(tmp_path / 'a', [3, 2])
    first = json.loads((tmp_path / 'a' / 'log.jsonl').read_text(encoding='utf-8').split('\n')[0])
    first['keys']['learning_rate'] = 0.5
    resumed = first | {'event': 'resume', 'step': 20, 'machine': 'a mill', 'processes': 2}
    later = {'event': 'eval', 'step': 30, 'split': 'val', 'loss': 1.5, 'seconds': 50.0}
    one = write_log(tmp_path / 'a', [3, 2], more=[resumed, later])
    assert one['keys']['learning_rate'] == 0.5
    assert (one['machine'], one['commit']) == ('a lathe, 2 x a mill', 'abc')
    assert (one['steps'], one['seconds'], plot.summary(one)['best']) == (30, 50.0, 1.5)


# --- bad input: one line, nothing written

@pytest.mark.parametrize('change, message', [
    (lambda log: None, 'no run'), (lambda log: b'', 'is empty'), (lambda log: log[:-9], 'log.jsonl:5 is cut'),
    (lambda log: b'7\n', ':1 is cut or damaged'), (lambda log: b'{"\xff": 1}\n', ':1 is cut or damaged')])
def test_a_log_that_is_not_whole_is_refused(tmp_path, change, message):
    write_log(tmp_path / 'a', [2, 1])
    log = tmp_path / 'a' / 'log.jsonl'
    content = change(log.read_bytes())
    log.unlink() if content is None else log.write_bytes(content)
    with pytest.raises(Refused, match=message) as caught:
        plot.read(tmp_path / 'a')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('argv, message', [
    ([], 'of which runs'),
    (['b'], 'b is no run'),
    (['a', '--x=steps'], "expected one of 'step'"),
    (['a', '--what=accuracy'], 'no accuracy over step in a; there is epoch, loss, lr'),
    (['a', 'none', '--what=lr'], 'no lr over step in none; there is nothing'),
    (['a', '--out=x.bmp'], 'x.bmp cannot be written'),
    (['a', '--what=confusion'], 'no confusion in a: only a classifier'),
    (['a', 'none', '--what=confusion'], '--what=confusion is of one run at a time, got 2'),
    (['b', '--what=confusion'], 'b is no run'),
    (['a', '--what=reliability'], 'python sample.py --out_dir=a --out=a/test.jsonl'),
    (['a/log.jsonl', '--what=reliability'], 'a/log.jsonl:1 is no line of probabilities'),
    (['a', '--out=no/x.png'], 'no/x.png cannot be written'),
    (['a', 'none', '--table'], 'none has no evaluation on val'),
    (['a', '--name=a/b'], '--name=a/b: expected')])
def test_the_script_refuses_in_one_line_and_writes_nothing(launch, tmp_path, argv, message):
    for folder, losses in ('a', [2, 1]), ('none', []):
        write_log(tmp_path / 'here' / folder, losses)
    code, text = launch('plot.py', *argv, cwd=tmp_path / 'here')
    assert code in (2, 3, 4) and message in text and 'Traceback' not in text
    assert sorted(os.listdir(tmp_path / 'here')) == ['a', 'none']


# --- pictures

def test_mean_and_band_are_numpys_over_the_steps_in_common(tmp_path):
    seeds = [write_log(tmp_path / str(seed), losses, seed=seed)
             for seed, losses in ((1, [5, 3, 2.5]), (2, [4, 2]), (3, [6, 1.5]))]
    where, mean, std = plot.series(seeds, 'val', 'loss', 'step')
    assert where.tolist() == [10, 20] and mean.tolist() == [5, pytest.approx(6.5 / 3)]
    assert std == pytest.approx([np.std([5, 4, 6], ddof=1), np.std([3, 2, 1.5], ddof=1)])
    assert plot.series(seeds, 'val', 'loss', 'seconds')[0].tolist() == [3, 4]       # the mean of theirs
    where, mean, std = plot.series(seeds[:1], 'val', 'loss', 'epoch')
    assert where.tolist() == [0.5, 1, 1.5] and std.tolist() == [0, 0, 0]


def test_what_is_not_finite_is_a_gap(tmp_path):
    one = write_log(tmp_path / 'a', [5, None, 2])
    assert np.isnan(plot.series([one], 'val', 'loss', 'step')[1]).tolist() == [False, True, False]
    assert plot.summary(one)['best'] == 2


def test_a_configuration_of_many_differences_is_called_by_its_folder(tmp_path, monkeypatch):
    labels, plotted = [], Axes.plot
    monkeypatch.setattr(Axes, 'plot', lambda *a, **k: labels.append(k.get('label')) or plotted(*a, **k))
    many = {f'a_key_of_some_length_{i}': i for i in range(5)}
    runs = [write_log(tmp_path / 'few', [3, 2]), write_log(tmp_path / 'many', [3, 2])]
    runs[1]['keys'] |= many
    plot.curves(runs, out=str(tmp_path / 'x.png'))
    assert str(tmp_path / 'many') in labels


@pytest.mark.parametrize('options', [{}, {'x': 'seconds'}, {'x': 'epoch', 'log': 'y'},
                                     {'what': 'lr', 'log': 'xy'}])
def test_a_picture_is_written(tmp_path, options, capsys):
    runs = [write_log(tmp_path / f'{seed}{layers}', [5, 3 / seed, 2], seed=seed, n_layer=layers)
            for seed in (1, 2) for layers in range(1, 10)]
    plot.curves(runs, **options, out=str(tmp_path / 'x.png'))
    picture = (tmp_path / 'x.png').read_bytes()
    assert picture.startswith(b'\x89PNG') and len(picture) > 10_000
    assert capsys.readouterr().out == f'wrote {tmp_path / "x.png"}\n'


@pytest.fixture
def kept(monkeypatch):
    """The figures that plot.py would have written."""
    figures = []
    monkeypatch.setattr(plot, 'keep', lambda figure, out: figures.append(figure))
    return figures


# --- what a classifier confuses

def evaluated(step, split, matrix):
    """The log's line of a classifier's evaluation."""
    matrix = np.asarray(matrix, float)
    return {'event': 'eval', 'step': step, 'split': split, 'loss': 1.0,
            'accuracy': matrix.trace() / matrix.sum(),
            'class_accuracy': (matrix.diagonal() / np.maximum(matrix.sum(1), 1)).tolist(),
            'confusion': matrix.tolist(), 'seconds': 50.0}


def test_a_confusion_matrix_is_that_of_the_last_test_in_counts_and_shares_of_the_true_class(tmp_path, kept):
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 3, 200), rng.integers(0, 4, 200)          # nothing is of class 3
    matrix = np.histogram2d(true, predicted, bins=4, range=[(-0.5, 3.5)] * 2)[0]
    lines = [evaluated(20, 'val', np.eye(4)), evaluated(20, 'test', matrix)]
    plot.confusion(write_log(tmp_path / 'a', [3, 2], more=[*lines, evaluated(30, 'val', 2 * np.eye(4))]))
    plot.confusion(write_log(tmp_path / 'b', [3, 2], more=[lines[0], evaluated(30, 'val', 5 * np.eye(4))]))
    axes, = kept[0].axes
    counts = {text.get_position(): text.get_text() for text in axes.texts}
    assert counts == {(p, t): str(sum((true == t) & (predicted == p))) for t in range(4) for p in range(4)}
    shares = np.asarray(axes.images[0].get_array())
    assert shares[:3].sum(1) == pytest.approx(np.ones(3)) and shares[3].tolist() == [0, 0, 0, 0]
    assert shares[1, 2] == pytest.approx(np.mean(predicted[true == 1] == 2))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('predicted', 'true')
    assert axes.get_title('left') == (f'gpt on toy, test at step 20\n{sum(true == predicted)} of 200 right')
    axes, = kept[1].axes                                                        # no test: the last of val
    assert axes.get_title('left') == 'gpt on toy, val at step 30\n20 of 20 right'


def test_class_names_are_the_checkpoints_and_numbers_without_one(tmp_path, kept):
    one = write_log(tmp_path / 'a', [3], more=[evaluated(10, 'val', np.eye(3))])
    plot.confusion(one)
    state = {'format': run.FORMAT, 'model': {}, 'keys': {'model': 'gpt'}, 'config': {}, 'step': 1,
             'tokenizer': None}
    for info in {'classes': ['ox', r'$\x$', 'c']}, {'classes': ['two', 'only']}, {}:
        run.write(tmp_path / 'a' / 'best.pt', state | {'info': info})
        plot.confusion(one)
    for figure, names in zip(kept, (['0', '1', '2'], ['ox', r'$\x$', 'c'], ['0', '1', '2'], ['0', '1', '2'])):
        figure.savefig(tmp_path / 'x.png')          # a name is no formula
        axes, = figure.axes
        assert [label.get_text() for label in axes.get_xticklabels()] == names
        assert [label.get_text() for label in axes.get_yticklabels()] == names


@pytest.mark.parametrize('n', [1, 2, 10, 37])
def test_a_confusion_matrix_of_any_size_is_written(tmp_path, monkeypatch, n):
    write_log(tmp_path / 'a', [3], more=[evaluated(10, 'val', 90 * np.eye(n) + np.eye(n)[::-1])])
    monkeypatch.chdir(tmp_path)
    plot.confusion(plot.read('a'))
    assert (tmp_path / 'plot.png').read_bytes().startswith(b'\x89PNG')


def test_metrics_that_are_lists_trouble_neither_tables_nor_curves_nor_the_console(tmp_path, results, capsys):
    lines = [evaluated(20, 'val', np.eye(3)), evaluated(20, 'test', 7 * np.eye(3))]
    one = write_log(tmp_path / 'a', [3], more=lines)
    plot.tabulate([({'row': 'a'}, [one])], 'x')
    facts = json.loads((results / 'x.json').read_text(encoding='utf-8'))['rows'][0]['runs'][0]
    assert facts['val']['accuracy'] == facts['test']['accuracy'] == 1
    assert not any(isinstance(value, list) for value in [*facts['val'].values(), *facts['test'].values()])
    for what in 'confusion', 'class_accuracy':
        with pytest.raises(Refused, match='there is accuracy, epoch, loss, lr'):
            plot.curves([one], what)
    assert run.listed({key: lines[0][key]
                       for key in ('loss', 'accuracy', 'class_accuracy', 'confusion')}) == (
        'loss 1.0000, accuracy 1.0000')


# --- whether a classifier is as often right as it is sure

def test_a_worked_example_of_the_expected_calibration_error():
    # two bins: (0, 1/2] has 2 rows, 1 right, mean confidence 0.4; (1/2, 1] has 3 rows, 2 right, mean 0.8
    correct, confidence = [True, False, True, True, False], [0.5, 0.3, 0.7, 0.9, 0.8]
    kept, n, accuracy, sure, gap = plot.calibration(correct, confidence, bins=2)
    assert kept.tolist() == [0, 1] and n.tolist() == [2, 3]
    assert accuracy == pytest.approx([1 / 2, 2 / 3]) and sure == pytest.approx([0.4, 0.8])
    assert gap == pytest.approx(2 / 5 * abs(0.5 - 0.4) + 3 / 5 * abs(2 / 3 - 0.8))
    kept, n, accuracy, sure, gap = plot.calibration([True] * 3, [1.0] * 3)      # certain and right
    assert (kept.tolist(), n.tolist(), accuracy.tolist(), gap) == ([14], [3], [1], 0)
    assert plot.calibration([False], [1.0])[-1] == 1


def test_calibration_is_that_of_a_slow_loop():
    rng = np.random.default_rng(0)
    confidence = 1 - rng.random(500) * 0.9
    correct, expected, bins = rng.random(500) < confidence**2, 0, []
    for m in range(15):
        rows = [i for i in range(500) if m / 15 < confidence[i] <= (m + 1) / 15]
        if rows:
            accuracy, sure = sum(correct[rows]) / len(rows), sum(confidence[rows]) / len(rows)
            expected += len(rows) / 500 * abs(accuracy - sure)
            bins.append((m, len(rows), accuracy, sure))
    *found, gap = plot.calibration(correct, confidence)
    assert np.transpose(found) == pytest.approx(np.array(bins)) and gap == pytest.approx(expected)
    assert 13 <= len(bins) <= 14 and gap > 0.05


def lines(rows):
    """What sample.py writes of (true, predicted, probabilities)."""
    return ''.join(json.dumps({'row': i, 'true': t, 'predicted': p, 'probabilities': shares}) + '\n'
                   for i, (t, p, shares) in enumerate(rows))


def test_a_reliability_diagram_is_of_the_predicted_class(tmp_path, kept):
    (tmp_path / 'test.jsonl').write_text(lines([(0, 0, [0.9, 0.1]), (1, 1, [0.06, 0.94]),
                                                (0, 1, [0.3, 0.7])]),
                                         encoding='utf-8')
    for path in tmp_path / 'test.jsonl', tmp_path:              # the file, or the run's folder
        plot.reliability(path)
        above, below = kept[-1].axes
        gap = (abs(1 - 0.9) + abs(1 - 0.94) + abs(0 - 0.7)) / 3
        assert above.get_title('left') == (f'test.jsonl: expected calibration error {gap:.4f}\n'
                                           '3 rows, accuracy 0.6667, mean confidence 0.8467')
        points = above.lines[1]
        assert (points.get_xdata() == pytest.approx([0.7, 0.9, 0.94])
                and points.get_ydata().tolist() == [0, 1, 1])
        assert [bar.get_height() for bar in below.patches] == pytest.approx([1 / 3] * 3)
        assert [bar.get_x() for bar in below.patches] == pytest.approx([10 / 15, 13 / 15, 14 / 15])


@pytest.mark.parametrize('text, message', [
    ('', 'is empty'), ('7\n', ':1 is no line'), ('{"row": 0}\n', ':1 is no line'),
    (lines([(0, 0, [0.9, 0.1])]) + '{"row": 1, "tru', ':2 is no line'),
    (lines([(0, 2, [0.9, 0.1])]), ':1 is no line'), (lines([(0, 0, [float('nan')] * 2)]), ':1 is no line'),
    (lines([(0, 0, [90, 10])]), ':1 is no line'), (lines([(0, 0, ['0.9', '0.1'])]), ':1 is no line')])
def test_lines_that_are_not_whole_are_refused(tmp_path, text, message):
    (tmp_path / 'x.jsonl').write_text(text, encoding='utf-8')
    with pytest.raises(Refused, match=message) as caught:
        plot.reliability(tmp_path / 'x.jsonl', str(tmp_path / 'x.png'))
    assert caught.value.code == 3 and not (tmp_path / 'x.png').exists()


def test_the_script_draws_both(launch, tmp_path):
    write_log(tmp_path / 'a', [3], more=[evaluated(10, 'val', np.eye(3))])
    (tmp_path / 'a' / 'test.jsonl').write_text(lines([(0, 0, [0.9, 0.1])]), encoding='utf-8')
    for what in 'confusion', 'reliability':
        code, text = launch('plot.py', f'--what={what}', 'a', f'--out={what}.png', cwd=tmp_path)
        assert code == 0 and text == f'wrote {what}.png\n', text
        assert (tmp_path / f'{what}.png').stat().st_size > 10_000


# --- tables

def test_a_row_is_mean_and_sample_deviation_over_seeds(tmp_path, capsys):
    bests = [1.5, 2.5, 1.7]
    runs = [write_log(tmp_path / 'worse', [4, 5], optimizer='sgd')]
    runs += [write_log(tmp_path / str(i), [3, best], seed=i, test=best + 1) for i, best in enumerate(bests)]
    plot.tabulate(plot.grouped(runs))
    header, first, second, *notes = capsys.readouterr().out.split('\n')
    assert re.split('  +', header) == ['optimizer', 'val loss', 'at step', 'test loss', 'seconds', 'seed']
    std = f'{np.std(bests, ddof=1):.4f}'
    assert re.split('  +', first) == ['muon', f'{np.mean(bests):.4f} ± {std} (3)', '20',
                                      f'{np.mean(bests) + 1:.4f} ± {std}', '99 ± 0', '0, 1, 2']
    assert re.split('  +', second) == ['sgd', '4.0000 (1)', '10', '-', '3', '1']
    assert notes[1].startswith('val loss: loss (nats) over the whole split, the minimum')
    assert notes[3] == 'steps 20; parameters 1,234; machine a lathe; commit abc; torch 2.13'


def test_the_best_comes_first_in_the_direction_of_the_metric(tmp_path, capsys, monkeypatch):
    rows = [({'row': name}, [write_log(tmp_path / f'{name}{seed}', [value], seed=seed) for seed in range(n)])
            for name, value, n in (('b', 2, 1), ('c', 3, 2), ('none', 0, 0), ('a', 1, 2))]

    def order():
        plot.tabulate(rows, compare=True)
        return [line.split()[0] for line in capsys.readouterr().out.split('\n')[1:5]]
    assert order() == ['a', 'b', 'c', 'none']
    monkeypatch.setattr(gpt.Model, 'monitor', ('loss', 'max'))
    assert order() == ['c', 'b', 'a', 'none']


def test_seeds_of_before_and_after_a_new_knob_are_one_row(tmp_path):
    a, b = write_log(tmp_path / 'a', [1]), write_log(tmp_path / 'b', [1], seed=2, cutout=0)
    c = write_log(tmp_path / 'c', [1], seed=3, cutout=4)
    assert [len(seeds) for _, seeds in plot.grouped([a, b, c])] == [2, 1]


def test_further_columns_are_numbers_of_the_log(tmp_path, capsys, results):
    runs = [write_log(tmp_path / str(seed), [3, 2], seed=seed, test=seed) for seed in (1, 3)]
    columns = 'train.loss,test.seconds'
    plot.tabulate([({'row': 'a'}, runs)], columns=columns)
    header, row, *_ = (re.split('  +', line) for line in capsys.readouterr().out.split('\n'))
    cells = dict(zip(header, row))
    medians = [np.median([line['loss'] for line in r['train']]) for r in runs]
    assert cells['train.loss'] == f'{np.mean(medians):.4f} ± {np.std(medians, ddof=1):.4f}'
    assert cells['test.seconds'] == '99.0000 ± 0.0000'
    for wrong in 'train.lost', 'val.event', 'keys.seed', 'lost':
        with pytest.raises(Refused, match=f'logged {wrong}$'):
            plot.tabulate([({'row': 'a'}, runs)], 'x', columns=f'{columns},{wrong}')
    assert not list(results.glob('x*'))
    plot.tabulate([({'row': 'a'}, runs)], columns='seconds')        # which is there anyway
    assert capsys.readouterr().out.split('\n')[0].count('seconds') == 1


def test_a_model_that_is_gone_is_refused(tmp_path):
    with pytest.raises(Refused, match='models/lost.py'):
        plot.summary(write_log(tmp_path / 'a', [1], model='lost'))


def test_results_hold_facts_and_command_and_what_others_wrote_stays(tmp_path, results):
    plot.tabulate([({'row': 'a'}, [write_log(tmp_path / 'a', [2, 1], test=1.25)])], 'x')
    text = (results / 'x.md').read_text(encoding='utf-8')
    assert text.startswith(f'# x\n\n{plot.BEGIN}\n\n| row | val loss | at step | test loss | seconds |\n|')
    assert '\n| a | 1.0000 (1) | 20 | 1.2500 | 99 |\n' in text
    assert "\n`python plot.py --name=x 'out/a b'`\n" in text
    facts = json.loads((results / 'x.json').read_text(encoding='utf-8'))
    assert facts['command'] == "python plot.py --name=x 'out/a b'"
    one = facts['rows'][0]['runs'][0]
    assert (one['best'], one['step'], one['test']['loss'], one['machine']) == (1, 20, 1.25, 'a lathe')
    assert (one['seed'], one['keys']['optimizer'], one['keys']['n_layer']) == (1, 'muon', 2)

    (results / 'x.md').write_text(text.replace('# x', '# Mine\n\nBefore.') + 'After.\n', encoding='utf-8')
    plot.tabulate([({'row': 'b'}, [write_log(tmp_path / 'a', [2, 0.5])])], 'x')
    again = (results / 'x.md').read_text(encoding='utf-8')
    assert again.startswith(f'# Mine\n\nBefore.\n\n{plot.BEGIN}\n\n|')
    assert again.endswith(f'\n\n{plot.END}\nAfter.\n')
    assert '| b | 0.5000 (1) |' in again and '| a |' not in again and again.count(plot.BEGIN) == 1


@pytest.mark.parametrize('text', ['mine', plot.BEGIN, plot.END + plot.BEGIN, 2 * (plot.BEGIN + plot.END)])
def test_results_with_no_place_for_the_table_are_left_alone(tmp_path, results, text):
    (results / 'x.md').write_text(text, encoding='utf-8')
    with pytest.raises(Refused, match='no place for the table'):
        plot.tabulate([({}, [write_log(tmp_path / 'a', [1])])], 'x')
    assert (results / 'x.md').read_text(encoding='utf-8') == text and not (results / 'x.json').exists()


# --- ablations

@pytest.fixture
def fake(monkeypatch):
    """In train.py's place: leaves a log and a last.pt, or diverges above a learning rate of 1. The value
    is the list of arguments that it was given."""
    launched = []

    def launch(arguments, folder):
        launched.append(arguments)
        settings = configurator.read(ablate.TRAIN, arguments)
        rate, seed = settings.knobs['learning_rate'], settings.knobs['seed']
        if rate > 1:
            return 6
        write_log(folder, [4, rate + seed], seed=seed)
        run.write(folder / 'last.pt', {'format': run.FORMAT, 'model': {}, 'step': 20, 'done': True,
                                        'tokenizer': None,
                                       'keys': settings.knobs | {'device': 'cpu'}, 'config': settings.fields})
        return 0
    monkeypatch.setattr(ablate, 'launch', launch)
    return launched


def test_a_grid_expands_to_its_product():
    assert ablate.expand('pos=none') == ['pos=none']
    assert ablate.expand('dropout=0,0.1 tie lr=1,2') == [
        'dropout=0 tie lr=1', 'dropout=0 tie lr=2', 'dropout=0.1 tie lr=1', 'dropout=0.1 tie lr=2']


def test_the_plan_is_every_variant_and_seed_the_baseline_first(tmp_path):
    planned = ablate.plan([STDLIB, 'dropout=0,0.2', 'prepare=a/b'], ['--max_iters=5'], 2, str(tmp_path))
    variants = 'baseline', 'dropout=0', 'dropout=0.2', 'prepare=a/b'
    assert [each[:2] for each in planned] == [(variant, seed) for variant in variants for seed in (1, 2)]
    folder = tmp_path / 'baseline_seed1'
    assert planned[0][2:] == (folder, [STDLIB, '--max_iters=5', '--seed=1', f'--out_dir={folder}'], False)
    assert planned[-1][2] == tmp_path / 'prepare=a_b_seed2'
    assert ablate.plan([STDLIB], [], 1)[0][2] == Path('out/ablate_stdlib/baseline_seed1')


def test_typos_are_refused_all_at_once_before_anything_runs(tmp_path):
    with pytest.raises(Refused) as caught:
        ablate.plan([STDLIB, 'optimzer=sgd', 'dropout=much', 'seed=3'], ['--maxiters=5'], 2, str(tmp_path))
    told = str(caught.value)
    for words in 'did you mean max_iters?', 'did you mean optimizer?', "got 'much'", '--seed=3: ':
        assert told.count(words) == 1
    with pytest.raises(Refused, match='seeds must be at least 1, got 0'):
        ablate.plan([STDLIB], [], 0, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_script_tells_its_own_keys_from_those_of_the_runs(launch, tmp_path):
    folder = tmp_path / 'runs'
    code, text = launch('ablate.py', STDLIB, 'pos=nope', '--seeds=2', '--mode=x', f'--out_dir={folder}')
    assert code == 2 and "did you mean rope?" in text and 'mode is no key; did you mean model?' in text
    assert 'seeds' not in text and not folder.exists()


def test_finished_runs_are_not_repeated_and_the_table_is_of_all(tmp_path, fake, results, capsys):
    def runs(seeds):
        return ablate.plan([STDLIB, 'learning_rate=0.5,2', 'learning_rate=0.1'], ['--warmup_iters=0'], seeds,
                           str(tmp_path / 'runs'))
    ablate.ablate(runs(2), 'x')
    assert len(fake) == 8
    told = capsys.readouterr().out
    assert '\n[5/8] learning_rate=2, seed 1: failed, exit 6; see ' in told
    table = [re.split('  +', line) for line in told[told.index('\nvariant') + 1:].split('\n')[:5]]
    failures = 'seed 1: exit 6, seed 2: exit 6'
    assert table == [['variant', 'failed', 'val loss', 'difference', 'at step', 'seconds'],
                     ['baseline', '-', '1.5050 ± 0.7071 (2)', '-', '20', '4 ± 1'],
                     ['learning_rate=0.1', '-', '1.6000 ± 0.7071 (2)', '+0.0950', '20', '4 ± 1'],
                     ['learning_rate=0.5', '-', '2.0000 ± 0.7071 (2)', '+0.4950', '20', '4 ± 1'],
                     ['learning_rate=2', failures, '-', '-', '-', '-']]
    facts = json.loads((results / 'x.json').read_text(encoding='utf-8'))
    assert facts['rows'][3] == {'cells': {'variant': 'learning_rate=2', 'failed': failures}, 'runs': []}

    fake.clear()
    ablate.ablate(runs(3))
    told = capsys.readouterr().out
    assert len(fake) == 6 and told.count('already there') == 6      # made: what failed and the new seed's
    assert told.count('(3)') == 3


def test_max_iters_on_the_command_line_sets_the_epochs_of_a_config_aside_here_too(tmp_path, fake):
    def plan(*same):
        return ablate.plan([str(ROOT / 'config' / 'train_cifar10_cnn.py')], same, 1, str(tmp_path))
    ablate.ablate(plan('--max_iters=20'))
    assert plan('--max_iters=20')[0][-1] is True
    with pytest.raises(Refused, match='epochs 0.0 there'):
        plan()


def test_what_the_model_refuses_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(Refused, match=r'dropout must be in \[0, 1\), got 1.5'):
        ablate.plan([STDLIB, 'dropout=0,1.5'], [], 1, str(tmp_path))


def test_a_folder_with_another_run_is_refused(tmp_path, fake):
    same = ['--max_iters=20']
    ablate.ablate(ablate.plan([STDLIB], same, 1, str(tmp_path)))
    assert ablate.plan([STDLIB], [*same, '--target=1', '--threads=1'], 1, str(tmp_path))[0][-1] is True
    with pytest.raises(Refused, match='max_iters 20 there, 30 asked; delete it or give another'):
        ablate.plan([STDLIB], ['--max_iters=30'], 1, str(tmp_path))


def test_results_that_cannot_take_the_table_are_refused_before_anything_runs(tmp_path, fake, results):
    (results / 'x.md').write_text('mine', encoding='utf-8')
    with pytest.raises(Refused, match='no place for the table'):
        ablate.ablate(ablate.plan([STDLIB], [], 1, str(tmp_path)), 'x')
    assert not fake


def test_a_signal_is_handed_on_once_and_the_run_saves(tmp_path):
    train = tmp_path / 'train.py'
    train.write_text('import signal, sys, time\n'
                     'signal.signal(signal.SIGINT, lambda *_: (print("saved"), sys.exit(130)))\n'
                     'print("ready", flush=True)\n'
                     'time.sleep(600)\n', encoding='utf-8')
    program = ('import sys, ablate, pathlib\n'
               'ablate.TRAIN = sys.argv[1]\n'
               'try:\n'
               '    ablate.launch([], pathlib.Path(sys.argv[2]))\n'
               'except ablate.Refused as error:\n'
               '    print(error, error.code)\n')
    process = subprocess.Popen([sys.executable, '-c', program, train, tmp_path / 'a'], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, start_new_session=True)
    output = tmp_path / 'a' / 'output.txt'
    until(lambda: output.exists() and 'ready' in output.read_text(encoding='utf-8'))
    os.killpg(process.pid, signal.SIGINT)       # what Ctrl-C in a terminal does
    assert process.communicate(timeout=600)[0] == 'stopped; the same command goes on 130\n'
    assert output.read_text(encoding='utf-8') == 'ready\nsaved\n'


# --- attention

@pytest.fixture
def translator(tmp_path):
    """The run folder of an untrained transformer that knows how to spell."""
    tokenizer = bpe.train(['a dog runs', 'un chien court'], 300)
    torch.manual_seed(0)
    net = transformer.Model(transformer.Config(vocab_size=tokenizer.vocab_size, block_size=12, n_layer=2,
                                               n_head=2, n_embd=16, n_hidden=16))
    state = {'format': run.FORMAT, 'step': 0, 'keys': {'model': 'transformer'}, 'model': net.state_dict(),
             'config': dataclasses.asdict(net.config), 'tokenizer': tokenizer.json()}
    (tmp_path / 'run').mkdir()
    run.write(tmp_path / 'run/best.pt', state)
    return tmp_path / 'run'


@pytest.mark.parametrize('layer', [0, -1])
def test_attention_is_the_models_with_tokens_on_the_axes(translator, monkeypatch, layer):
    kept = []
    monkeypatch.setattr(plot, 'keep', lambda figure, out: kept.append(figure))
    plot.attention(translator, 'a dog runs', layer)
    net, tokenizer = configurator.load(translator), load(run.read(translator / 'best.pt')['tokenizer'])
    src = [*tokenizer.encode('a dog runs'), 1]
    tgt = [*search.translate(net, [src], beam=1)[0], 1]
    maps = net.attention(torch.tensor([src]), torch.tensor([tgt]))
    cross, *heads = kept[0].axes
    assert np.allclose(cross.images[0].get_array(), maps['cross'][layer, 0].mean(0), atol=1e-6)
    assert [label.get_text() for label in cross.get_xticklabels()][-1] == 'end'
    assert ''.join(label.get_text() for label in cross.get_xticklabels()[:-1]) == 'a·dog·runs'
    expected = [maps[kind][layer, 0, head] for kind in ('cross', 'encoder', 'decoder') for head in (0, 1)]
    assert all(np.allclose(axes.images[0].get_array(), weights, atol=1e-6)
               for axes, weights in zip(heads, expected, strict=True))
    names = [[label.get_text() for label in labels] for labels in (
        cross.get_yticklabels(), heads[-1].get_yticklabels(), heads[-1].get_xticklabels())]
    assert names[0] == names[1] == [*names[2][1:], 'end'] and len(names[0]) == len(tgt)
    assert names[2][0] == 'start'


def test_attention_is_written(translator, tmp_path, capsys):
    plot.attention(translator, 'a dog runs', out=str(tmp_path / 'x.png'))
    assert (tmp_path / 'x.png').read_bytes()[:4] == b'\x89PNG'


@pytest.mark.parametrize('start, layer', [('', 0), ('a dog', 2), ('a dog', -3)])
def test_attention_of_nothing_or_of_no_layer_is_refused(translator, start, layer):
    with pytest.raises(Refused, match='expected a sentence, and a layer below 2'):
        plot.attention(translator, start, layer)


def test_attention_of_what_does_not_translate_is_refused(tmp_path):
    net = gpt.Model(gpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=8))
    state = {'format': run.FORMAT, 'step': 0, 'keys': {'model': 'gpt'}, 'tokenizer': None,
             'model': net.state_dict(), 'config': dataclasses.asdict(net.config)}
    run.write(tmp_path / 'x.pt', state)
    with pytest.raises(Refused, match='does not translate'):
        plot.attention(tmp_path / 'x.pt', 'a dog')
