"""plot.py: curves of several seeds, and what the script answers to wrong arguments."""
import os

import numpy as np
import pytest
from matplotlib.axes import Axes

from core.errors import UserError
from fake_runs import classifier_evaluation, write_log
from plots import curves


def test_mean_and_band_are_numpys_over_the_steps_that_all_seeds_have(tmp_path):
    seeds = [write_log(tmp_path / '1', [5, 3, 2.5], seed=1),
             write_log(tmp_path / '2', [4, 2], seed=2),
             write_log(tmp_path / '3', [6, 1.5], seed=3)]
    x, mean, std = curves.mean_and_std(seeds, 'val', 'loss', 'step')
    assert x.tolist() == [10, 20]
    assert mean == pytest.approx([np.mean([5, 4, 6]), np.mean([3, 2, 1.5])])
    assert std == pytest.approx([np.std([5, 4, 6], ddof=1), np.std([3, 2, 1.5], ddof=1)])
    x, _, _ = curves.mean_and_std(seeds, 'val', 'loss', 'seconds')
    assert x.tolist() == [3, 4]                                 # of seconds the mean
    x, _, std = curves.mean_and_std(seeds[:1], 'val', 'loss', 'epoch')
    assert x.tolist() == [0.5, 1, 1.5] and std.tolist() == [0, 0, 0]


def test_a_loss_that_is_not_finite_is_a_gap(tmp_path):
    _, mean, _ = curves.mean_and_std([write_log(tmp_path / 'a', [5, None, 2])], 'val', 'loss', 'step')
    assert np.isnan(mean).tolist() == [False, True, False]


def test_seeds_without_a_step_in_common_are_an_error(tmp_path):
    later = [{'event': 'eval', 'split': 'val', 'step': 15, 'loss': 1.0, 'seconds': 1.0}]
    seeds = [write_log(tmp_path / '1', [5, 3]), write_log(tmp_path / '2', [], seed=2, more=later)]
    with pytest.raises(UserError, match='no step of val loss in common'):
        curves.mean_and_std(seeds, 'val', 'loss', 'step')


def test_a_curve_is_named_by_what_varies_or_by_its_folder_if_that_is_too_much(tmp_path, monkeypatch):
    labels = []
    original = Axes.plot

    def record(*args, **options):
        labels.append(options.get('label'))
        return original(*args, **options)

    monkeypatch.setattr(Axes, 'plot', record)
    few = write_log(tmp_path / 'few', [3, 2])
    many = write_log(tmp_path / 'many', [3, 2], **{f'an_option_of_some_length_{i}': i for i in range(5)})
    curves.draw([few, many], out=str(tmp_path / 'x.png'))
    assert str(tmp_path / 'many') in labels
    labels.clear()
    runs = [write_log(tmp_path / str(seed), [3, 2], seed=seed, dropout=0.5) for seed in (1, 2)]
    curves.draw([few, *runs], out=str(tmp_path / 'x.png'))
    assert 'dropout 0.0' in labels and 'dropout 0.5, 2 seeds ± std' in labels


@pytest.mark.parametrize('options', [{}, {'x': 'seconds'}, {'x': 'epoch', 'log': 'y'},
                                     {'names': ['lr', 'loss'], 'log': 'xy', 'line': 2.5}])
def test_curves_are_written_to_a_file(tmp_path, options, capsys):
    runs = []
    for seed in 1, 2:
        for n_layer in range(1, 10):        # more groups than COLORS
            folder = tmp_path / f'{seed}{n_layer}'
            runs.append(write_log(folder, [5, 3 / seed, 2], seed=seed, n_layer=n_layer))
    curves.draw(runs, **options, out=str(tmp_path / 'x.png'))
    image = (tmp_path / 'x.png').read_bytes()
    assert image.startswith(b'\x89PNG') and len(image) > 10_000
    assert capsys.readouterr().out == f'wrote {tmp_path / "x.png"}\n'


@pytest.mark.parametrize('log', ['none', 'y'])
def test_the_axis_shows_all_of_val_and_the_line_but_not_where_train_begins(tmp_path, monkeypatch, log):
    figures = []
    monkeypatch.setattr(curves, 'save_figure', lambda figure, out: figures.append(figure))
    more = [{'event': 'train', 'step': 1, 'epoch': 0.1, 'loss': 100.0, 'seconds': 0.5}]
    run = write_log(tmp_path / 'a', [3.0, 0.05], more=more)
    curves.draw([run], ['loss', 'lr'], log=log, line=0.02)
    loss_axes, lr_axes = figures[0].axes
    low, high = loss_axes.get_ylim()
    assert low <= 0.02 and 3 <= high < 100
    assert low > 0 or log == 'none'
    assert loss_axes.get_yscale() == ('log' if log == 'y' else 'linear')
    assert any(list(curve.get_ydata()) == [0.02, 0.02] for curve in loss_axes.lines)
    assert not any(list(curve.get_ydata()) == [0.02, 0.02] for curve in lr_axes.lines)


def test_two_runs_of_one_seed_are_not_called_seeds(tmp_path):
    runs = [write_log(tmp_path / name, [3, 2], seed=seed) for name, seed in (('a', 1), ('b', 1), ('c', 2))]
    assert curves.curve_name({}, runs) == '3 runs ± std'
    assert curves.curve_name({}, runs[1:]) == '2 seeds ± std'


@pytest.mark.parametrize('what', ['confusion', 'class_accuracy'])
def test_there_is_no_curve_of_a_metric_that_is_a_list(tmp_path, what):
    run = write_log(tmp_path / 'a', [3], more=[classifier_evaluation(20, 'val', np.eye(3))])
    with pytest.raises(UserError, match='there is accuracy, epoch, loss, lr'):
        curves.draw([run], [what])


def test_ticks_of_a_logarithmic_axis_are_plain_numbers():
    labels = [curves.log_tick(value, 0) for value in (0.02, 0.04, 1, 300, 700)]
    assert labels == ['0.02', '', '1', '300', '']


@pytest.mark.parametrize('argv, message', [
    ([], 'of which runs'),
    (['b'], 'b is not a run'),
    (['a', '--x=steps'], "expected one of 'step'"),
    (['a', '--what=accuracy'], 'no accuracy over step in a; there is epoch, loss, lr'),
    (['none', '--what=lr'], 'no lr over step in none; there is nothing'),
    (['a', '--out=x.bmp'], 'x.bmp cannot be written'),
    (['a', '--out=no/x.png'], 'no/x.png cannot be written'),
    (['a', '--what=confusion'], 'no confusion in a'),
    (['a', 'none', '--what=confusion'], '--what=confusion is of one run at a time, got 2'),
    (['b', '--what=confusion'], 'b is not a run'),
    (['a', '--what=reliability'], 'python sample.py --out_dir=a --out=a/test.jsonl'),
    (['a/log.jsonl', '--what=reliability'], 'a/log.jsonl:1 is not a line of probabilities'),
    (['none', 'b', '--table'], 'none has no evaluation on val'),
    (['a', '--what=loss,accuracy'], 'no accuracy over step in a'),
    (['a', '--what=gradients'], 'a/log.jsonl has no layer_norms'),
    (['a', '--what=tsne'], 'there is no checkpoint a'),
    (['a', '--what=heads'], 'there is no checkpoint a'),
    (['a', '--name=a/b'], '--name=a/b: expected')])
def test_wrong_arguments_end_the_script_with_a_message_and_write_nothing(launch, tmp_path, argv, message):
    here = tmp_path / 'here'
    write_log(here / 'a', [2, 1])
    write_log(here / 'none', [])
    code, text = launch('plot.py', *argv, cwd=here)
    assert code in (2, 3, 4) and message in text and 'Traceback' not in text
    assert sorted(os.listdir(here)) == ['a', 'none']


def test_the_script_prints_a_table_of_groups_named_by_their_first_run(launch, tmp_path):
    for seed in 1, 2:
        write_log(tmp_path / f'a{seed}', [2, 1], seed=seed)
    write_log(tmp_path / 'b', [2], n_layer=3)
    code, text = launch('plot.py', '--table', 'a1', 'a2', 'b', cwd=tmp_path)
    assert code == 0
    assert text.split('\n')[1].startswith('a1 +1  2        1.0000 ± 0.0000 (2)')
    assert text.split('\n')[2].startswith('b      3        2.0000 (1)')


@pytest.mark.parametrize('argv', [['--table'], ['--out=x.png']])
def test_what_is_no_run_is_left_out_with_a_line_and_the_others_are_shown(launch, tmp_path, argv):
    for seed in 1, 2:
        write_log(tmp_path / f'run{seed}', [2, 1], seed=seed)
    write_log(tmp_path / 'stopped_at_once', [])
    write_log(tmp_path / 'group/a', [2])
    (tmp_path / 'picture.png').write_bytes(b'a picture')
    (tmp_path / 'damaged').mkdir()
    (tmp_path / 'damaged/log.jsonl').write_text('{"event": "con', encoding='utf-8')
    code, text = launch('plot.py', *argv, *sorted(os.listdir(tmp_path)), cwd=tmp_path)
    assert code == 0 and text.count('left out: ') == 4, text
    for name in 'stopped_at_once', 'group', 'picture.png', 'damaged/log.jsonl has no first line':
        assert any(line.startswith('left out: ') and name in line for line in text.split('\n')), name
    assert 'run1 +1' in text or (tmp_path / 'x.png').exists()
