"""Runs read back from their logs: which runs are one configuration, and what each one reached."""
import json

import pytest

from core.errors import UserError
from core.record import group_seeds, numbers, read_run, summarize
from fake_runs import classifier_evaluation, write_log


def varying(runs):
    """Return the options that name each group."""
    return [options for options, _ in group_seeds(runs)]


# --- groups of seeds

def test_runs_that_differ_only_in_the_seed_are_one_group_and_groups_are_named_by_what_varies(tmp_path):
    a = write_log(tmp_path / 'a', [1])
    b = write_log(tmp_path / 'b', [1], seed=2, init_from='scratch')
    c = write_log(tmp_path / 'c', [1], optimizer='sgd')
    d = write_log(tmp_path / 'd', [1], n_layer=3)
    assert group_seeds([a, b]) == [({}, [a, b])]
    assert group_seeds([a, c, b, d]) == [({'optimizer': 'muon', 'n_layer': 2}, [a, b]),
                                         ({'optimizer': 'sgd', 'n_layer': 2}, [c]),
                                         ({'optimizer': 'muon', 'n_layer': 3}, [d])]


def test_a_fine_tuned_run_is_another_configuration(tmp_path):
    a = write_log(tmp_path / 'a', [1])
    b = write_log(tmp_path / 'b', [1], seed=2, init_from='out/other')
    assert varying([a, b]) == [{}, {'init_from': 'out/other'}]


def test_a_field_that_the_other_model_does_not_have_is_no_difference(tmp_path):
    a = write_log(tmp_path / 'a', [1], tie=True)
    b = write_log(tmp_path / 'b', [1], model='cnn')
    assert varying([a, b]) == [{'model': 'gpt'}, {'model': 'cnn'}]


def test_a_field_that_an_older_run_of_the_same_model_does_not_have_is_a_difference(tmp_path):
    a = write_log(tmp_path / 'a', [1], tie=True)
    b = write_log(tmp_path / 'b', [1])
    assert varying([a, b]) == [{'tie': True}, {}]


def test_an_option_that_an_older_run_does_not_have_had_its_default(tmp_path):
    a = write_log(tmp_path / 'a', [1])
    b = write_log(tmp_path / 'b', [1], seed=2, cutout=0, beta1=0.9)
    c = write_log(tmp_path / 'c', [1], seed=3, cutout=4, beta1=0.9)
    assert [len(runs) for _, runs in group_seeds([a, b, c])] == [2, 1]


def test_options_of_an_earlier_revision_are_read_under_their_present_names(tmp_path):
    a = write_log(tmp_path / 'a', [1], warmup_iters=0.05, export='x.pt')
    b = write_log(tmp_path / 'b', [1], seed=2, warmup_iters=0, warmup_fraction=0.05)
    assert varying([a, b]) == [{}]


# --- a run

def test_a_resumed_run_has_the_options_with_which_it_was_last_resumed(tmp_path):
    write_log(tmp_path / 'a', [3, 2])
    first = json.loads((tmp_path / 'a' / 'log.jsonl').read_text(encoding='utf-8').split('\n')[0])
    first['keys']['learning_rate'] = 0.5
    resumed = first | {'event': 'resume', 'step': 20, 'machine': 'a mill', 'processes': 2}
    later = {'event': 'eval', 'step': 30, 'split': 'val', 'loss': 1.5, 'seconds': 50.0}
    run = write_log(tmp_path / 'a', [3, 2], more=[resumed, later])
    assert run['keys']['learning_rate'] == 0.5
    assert (run['machine'], run['commit']) == ('a lathe, 2 x a mill', 'abc')
    assert (run['steps'], run['seconds'], summarize(run)['best']) == (30, 50.0, 1.5)


@pytest.mark.parametrize('line', [b'{"event": "tra', b'7', b'[]', b'{"\xff": 1}'])
def test_a_damaged_line_of_a_log_is_left_out_and_named(tmp_path, capsys, line):
    whole = write_log(tmp_path / 'a', [2, 1])
    log = tmp_path / 'a' / 'log.jsonl'
    first, *others = log.read_bytes().splitlines(True)
    log.write_bytes(b''.join([first, line + b'\n', *others]))
    assert read_run(tmp_path / 'a') == whole
    assert capsys.readouterr().err == f'WARNING: {log}:2 is damaged and left out\n'


def test_an_empty_log_is_an_error(tmp_path):
    write_log(tmp_path / 'a', [2, 1])
    (tmp_path / 'a' / 'log.jsonl').write_bytes(b'')
    with pytest.raises(UserError, match='no run has started') as caught:
        read_run(tmp_path / 'a')
    assert caught.value.code == 3


def test_a_folder_without_a_log_is_not_a_run(tmp_path):
    with pytest.raises(UserError, match='is not a run'):
        read_run(tmp_path)


# --- what it reached

def test_numbers_leave_out_lists_texts_and_null():
    lines = [{'loss': 1.0, 'split': 'val', 'confusion': [[1]]}, {'loss': None}, {'loss': 3.0, 'step': 2}]
    assert numbers(lines) == {'loss': [1.0, 3.0], 'step': [2]}


def test_an_evaluation_that_was_not_finite_is_never_the_best(tmp_path):
    assert summarize(write_log(tmp_path / 'a', [5, None, 2]))['best'] == 2


def test_a_summary_has_the_best_evaluation_the_last_test_and_the_medians_of_train(tmp_path):
    first = classifier_evaluation(20, 'test', [[3, 1], [0, 4]])
    last = classifier_evaluation(20, 'test', [[4, 0], [0, 4]])
    summary = summarize(write_log(tmp_path / 'a', [5, 2, 3, 4], more=[first, last]))
    assert (summary['metric'], summary['goal'], summary['best'], summary['step']) == ('loss', 'min', 2, 20)
    assert summary['val'] == {'step': 20, 'epoch': 1, 'loss': 2, 'seconds': 3}
    assert summary['test'] == {'step': 20, 'loss': 1.0, 'seconds': 50.0, 'accuracy': 1.0}
    assert summary['train']['loss'] == 3.5


def test_a_run_whose_model_file_is_gone_is_an_error(tmp_path):
    with pytest.raises(UserError, match='models/lost.py'):
        summarize(write_log(tmp_path / 'a', [1], model='lost'))
