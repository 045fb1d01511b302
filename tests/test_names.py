"""core/names.py: what a mistyped option meant, ~ in paths, and the folder that a run gets without one."""
import os
from pathlib import Path

import pytest

from configurator import ROOT, parse_options, read_train
from core.errors import UserError
from core.names import NANOGPT, expand_home, run_name


@pytest.mark.parametrize('name, value, expected', [
    ('out_dir', '~/runs/a', 'HOME/runs/a'), ('out', '~', 'HOME'), ('init_from', 'hf:~/gpt2', 'hf:HOME/gpt2'),
    ('pairs', '~/a.en,~/a.de', 'HOME/a.en,HOME/a.de'), ('start', 'FILE:~/poem', 'FILE:HOME/poem'),
    ('start', '~/photo.jpg', 'HOME/photo.jpg'), ('start', '~/*.jpg', 'HOME/*.jpg'),    # there are such files
    ('start', '~', '~'), ('start', 'cp a,~/photo.jpg', 'cp a,~/photo.jpg'),
    ('start', '~/nothing', '~/nothing'),                # a text that a model shall continue
    ('dataset', 'a/~/b', 'a/~/b'), ('out_dir', '~tilde', '~tilde'), ('columns', '~/a', '~/a')])
def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch, name, value, expected):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'photo.jpg').touch()
    assert expand_home(name, value) == expected.replace('HOME', str(tmp_path))


def test_the_home_folder_is_found_on_the_command_line_and_in_a_config(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', '/somewhere')
    config = tmp_path / 'train_x.py'
    config.write_text("dataset = '~/mine'\n", encoding='utf-8')
    options = read_train([str(config), '--out_dir=~/run']).options
    assert options['dataset'] == '/somewhere/mine' and options['out_dir'] == '/somewhere/run'


@pytest.mark.parametrize('name', NANOGPT)
def test_an_option_of_nanogpt_is_answered_with_what_takes_its_place(name):
    with pytest.raises(UserError, match=f'{name} is not an option here: ') as error:
        read_train([f'--{name}=1'])
    assert 'did you mean' not in str(error.value)


def test_what_takes_the_place_of_an_option_is_an_option():
    known = parse_options(ROOT / 'train.py')
    for word in 'batch_size micro_batch_size max_iters schedule eval_interval model device'.split():
        assert word in known and any(word in advice for advice in NANOGPT.values())
    assert not NANOGPT.keys() & known.keys()


@pytest.mark.parametrize('configs, given, expected', [
    ([], {}, 'stdlib'), (['config/train_mnist_cnn.py'], {'dataset': 'mine'}, 'mnist_cnn'),
    ([], {'dataset': 'mine'}, 'mine'), ([], {'dataset': '/data/mine/'}, 'mine'),
    ([], {'model': 'cnn'}, 'cnn'), ([], {'dataset': './mine', 'model': 'cnn'}, 'mine_cnn'),
    ([], {'dataset': '.'}, Path.cwd().name)])
def test_without_a_config_a_run_is_named_by_its_data_set_and_model(configs, given, expected):
    options = {'dataset': 'stdlib', 'model': 'gpt'} | given
    assert run_name(configs, options, given) == expected


def test_a_run_without_out_dir_does_not_take_the_folder_of_another_data_set(launch, toy, tmp_path):
    argv = ['train.py', f'--dataset={toy}', '--n_layer=1', '--n_head=1', '--n_embd=8', '--block_size=8',
            '--batch_size=4', '--max_iters=2', '--device=cpu', '--dtype=float32']
    os.rename(toy, tmp_path / 'tales')
    code, text = launch(*argv, f'--dataset={tmp_path}/tales', cwd=tmp_path)
    assert code == 0 and os.listdir(tmp_path / 'out') == ['tales'], text
