"""The confusion matrix of a classifier."""
import numpy as np
import pytest

from core.checkpoint import FORMAT, save_checkpoint
from fake_runs import classifier_evaluation, write_log
from plots import confusion


@pytest.fixture
def figures(monkeypatch):
    """The figures that would have been written to files."""
    figures = []
    monkeypatch.setattr(confusion, 'save_figure', lambda figure, out: figures.append(figure))
    return figures


def texts(labels):
    return [label.get_text() for label in labels]


def test_a_confusion_matrix_shows_counts_and_fractions_of_the_true_class_of_the_last_test(tmp_path, figures):
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 200)              # no row is of class 3
    predicted = rng.integers(0, 4, 200)
    matrix = np.histogram2d(true, predicted, bins=4, range=[(-0.5, 3.5)] * 2)[0]
    more = [classifier_evaluation(20, 'val', np.eye(4)), classifier_evaluation(20, 'test', matrix),
            classifier_evaluation(30, 'val', 2 * np.eye(4))]
    confusion.draw(write_log(tmp_path / 'a', [3, 2], more=more))
    axes, = figures[0].axes
    counts = {text.get_position(): text.get_text() for text in axes.texts}
    for i in range(4):
        for j in range(4):
            assert counts.pop((j, i)) == str(sum((true == i) & (predicted == j)))
    assert not counts
    fractions = np.asarray(axes.images[0].get_array())
    assert fractions[:3].sum(1) == pytest.approx(np.ones(3)) and fractions[3].tolist() == [0, 0, 0, 0]
    assert fractions[1, 2] == pytest.approx(np.mean(predicted[true == 1] == 2))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('predicted', 'true')
    assert axes.get_title('left') == f'gpt on toy, test at step 20\n{sum(true == predicted)} of 200 correct'


def test_a_run_without_a_test_shows_the_last_evaluation_on_val(tmp_path, figures):
    more = [classifier_evaluation(20, 'val', np.eye(4)), classifier_evaluation(30, 'val', 5 * np.eye(4))]
    confusion.draw(write_log(tmp_path / 'a', [3, 2], more=more))
    axes, = figures[0].axes
    assert axes.get_title('left') == 'gpt on toy, val at step 30\n20 of 20 correct'


@pytest.mark.parametrize('info, names', [
    (None, ['0', '1', '2']),                                        # no checkpoint
    ({'classes': ['ox', r'$\x$', 'c']}, ['ox', r'$\x$', 'c']),      # a name that is no formula
    ({'classes': ['two', 'only']}, ['0', '1', '2']),
    ({}, ['0', '1', '2']),
])
def test_class_names_come_from_the_checkpoint_and_are_numbers_without_one(tmp_path, figures, info, names):
    run = write_log(tmp_path / 'a', [3], more=[classifier_evaluation(10, 'val', np.eye(3))])
    if info is not None:
        state = {'format': FORMAT, 'model': {}, 'keys': {'model': 'gpt'}, 'config': {}, 'step': 1,
                 'tokenizer': None, 'info': info}
        save_checkpoint(tmp_path / 'a' / 'best.pt', state)
    confusion.draw(run)
    figures[0].savefig(tmp_path / 'x.png')
    axes, = figures[0].axes
    assert texts(axes.get_xticklabels()) == texts(axes.get_yticklabels()) == names


@pytest.mark.parametrize('n', [1, 2, 10, 37])
def test_a_confusion_matrix_of_any_size_is_written(tmp_path, n):
    matrix = 90 * np.eye(n) + np.eye(n)[::-1]
    run = write_log(tmp_path / 'a', [3], more=[classifier_evaluation(10, 'val', matrix)])
    confusion.draw(run, tmp_path / 'x.png')
    assert (tmp_path / 'x.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('n, shown', [(50, 50), (51, 26), (300, 50)])
def test_of_many_classes_the_figure_is_of_bounded_size_and_has_fewer_names(tmp_path, figures, n, shown):
    run = write_log(tmp_path / 'a', [3], more=[classifier_evaluation(10, 'val', np.eye(n))])
    confusion.draw(run)
    axes, = figures[0].axes
    names = texts(axes.get_xticklabels())
    assert len(names) == shown == len(axes.get_yticks()) and names[1] == str(axes.get_xticks()[1])
    assert len(axes.texts) == (n if n <= 50 else 0)
    assert max(figures[0].get_size_inches()) <= 22 and axes.images[0].get_array().shape == (n, n)


def test_the_script_draws_a_confusion_matrix(launch, tmp_path):
    write_log(tmp_path / 'a', [3], more=[classifier_evaluation(10, 'val', np.eye(3))])
    code, text = launch('plot.py', '--what=confusion', 'a', '--out=x.png', cwd=tmp_path)
    assert code == 0 and text == 'wrote x.png\n'
    assert (tmp_path / 'x.png').stat().st_size > 10_000
