"""samples/__init__.py: what the kinds share; and that every model names a kind."""
import importlib
import types

import numpy as np
import pytest
from torch import nn

import configurator
import samples
from core.errors import UserError


def test_every_model_names_its_kind():
    for name in configurator.model_names():
        assert importlib.import_module(f'models.{name}').Model.makes in samples.KINDS


@pytest.mark.parametrize('kind', samples.KINDS)
def test_every_kind_has_options_limits_and_what_sample_calls(kind):
    module = importlib.import_module(f'samples.{kind}')
    options = configurator.parse_options(module.__file__)
    assert options
    assert set(module.LIMITS) <= set(options)
    for name, option in options.items():
        assert getattr(module, name) == option.default
    assert module.problems({}) == []                    # the defaults are legal
    assert samples.out_of_range(vars(module), module.LIMITS) == []
    assert callable(module.show)
    assert hasattr(module, 'preview') == (kind in ('text', 'translation'))


def test_kinds_without_text_have_no_preview_and_stay_in_training():
    net = nn.Linear(1, 1)
    for kind in 'classes', 'masks', 'images':
        net.makes = kind
        assert samples.preview(net, {'tokenizer': {'kind': 'bytes'}}, None) == ''
        assert net.training


def test_random_rows_are_different_ascending_and_those_of_the_seed():
    split = types.SimpleNamespace(size=50)
    rows = samples.random_rows(split, 20, seed=1)
    assert len(set(rows.tolist())) == 20
    assert rows.tolist() == sorted(rows.tolist())
    assert rows.max() < 50
    assert np.array_equal(rows, samples.random_rows(split, 20, seed=1))
    assert not np.array_equal(rows, samples.random_rows(split, 20, seed=2))
    assert np.array_equal(samples.random_rows(split, 60, seed=1), np.arange(50))


def test_writing_names_the_file_only_once_it_is_written(tmp_path, capsys):
    with samples.writing('x.txt'):
        assert capsys.readouterr().out == ''
    assert capsys.readouterr().out == 'wrote x.txt\n'
    with pytest.raises(UserError, match='--out=x.txt cannot be written: Is a directory') as error:
        with samples.writing('x.txt'):
            open(tmp_path, 'w')
    assert error.value.code == 4
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('out, n_problems', [
    ('', 0), ('x.png', 0), ('x.txt', 0), ('x.bmp', 1), ('no/x.png', 1), ('no/x', 2)])
def test_out_needs_a_known_ending_and_an_existing_folder(out, n_problems, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(samples.out_problems(out, '.png', '.txt')) == n_problems


@pytest.mark.parametrize('out, n_problems', [
    ('', 0), ('x.fr', 0), ('hyp', 0), ('no/x.de', 1), ('folder', 1), ('folder/', 1), ('folder/x', 0)])
def test_without_endings_any_file_will_do_but_no_folder(out, n_problems, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'folder').mkdir()
    assert len(samples.out_problems(out)) == n_problems
