"""sample.py: it finds the checkpoint, takes the options of what its model makes, and names every mistake."""
import shutil

import pytest

from models import gpt
from sampling import save_run

KINDS = ['text', 'translation', 'labels', 'classes', 'masks', 'images']


def tiny_gpt():
    return gpt.Model(gpt.Config(vocab_size=256, block_size=8, n_layer=1, n_head=1, n_embd=4))


@pytest.fixture
def run(tmp_path):
    """A run folder whose model makes text, with a tokenizer for every byte."""
    save_run(tmp_path / 'run', 'gpt', tiny_gpt(), tokenizer={'kind': 'bytes'})
    return tmp_path / 'run'


# --- options

def test_help_prints_the_common_options_and_the_file_of_each_kind(launch, tmp_path):
    code, text = launch('sample.py', '--help', cwd=tmp_path)
    assert code == 0
    for name in 'out_dir', 'seed', 'device':
        assert f'--{name}=' in text
    for kind in KINDS:
        assert f'samples/{kind}.py' in text
    assert '--temperature=0.8' not in text


def test_help_for_a_run_prints_the_options_of_what_it_makes(launch, run, tmp_path):
    code, text = launch('sample.py', '--out_dir=run', '--help', cwd=tmp_path)
    assert code == 0
    for option in '--out_dir=run', '--seed=1337', '--temperature=0.8', '--max_new_tokens=500':
        assert option in text
    assert '--length_penalty=' not in text
    assert '--grid=prior' not in text


@pytest.mark.parametrize('argument', ['--split=val', '--out=x.png', '--beam=4', '--grid=prior', '--tmp=1'])
def test_an_option_of_another_kind_or_of_none_is_unknown(launch, run, tmp_path, argument):
    code, text = launch('sample.py', '--out_dir=run', argument, cwd=tmp_path)
    assert code == 2
    assert f'{argument[2:].split("=")[0]} is not an option' in text
    assert not list(tmp_path.glob('x.*'))


def test_all_impossible_options_are_named_at_once(launch, run):
    wrong = {'num_samples': -1, 'max_new_tokens': -1, 'temperature': -0.5, 'top_k': -1, 'top_p': 1.5,
             'min_p': -0.1, 'seed': -3}
    argv = [f'--{name}={value}' for name, value in wrong.items()]
    code, text = launch('sample.py', f'--out_dir={run}', *argv)
    assert code == 2
    lines = text.splitlines()
    assert len(lines) == len(wrong)
    for line, (name, value) in zip(sorted(lines), sorted(wrong.items())):
        assert line.startswith(f'{name} must be from 0 to ')
        assert line.endswith(f', got {value}')


@pytest.mark.parametrize('argument', ['--seed=1e30', f'--seed={2**64}', '--device=tpu', '--temperature=nan'])
def test_an_option_that_no_machine_can_follow_is_an_error(launch, run, argument):
    code, text = launch('sample.py', f'--out_dir={run}', '--max_new_tokens=3', argument)
    assert code == 2
    assert argument[2:].split('=')[0] in text
    assert 'Traceback' not in text


# --- checkpoints

def test_a_checkpoint_is_all_that_is_needed_wherever_it_is(launch, run, tmp_path):
    def sampled(out_dir, cwd=tmp_path, **options):
        argv = f'--out_dir={out_dir}', '--start=abc', '--max_new_tokens=24'
        code, text = launch('sample.py', *argv, cwd=cwd, **options)
        assert code == 0, text
        return text

    expected = sampled('run')
    folder = tmp_path / 'a plâce of its own'
    folder.mkdir()
    shutil.copy(run / 'best.pt', folder / 'mine.pt')
    assert sampled(folder / 'mine.pt') == expected
    assert sampled('mine.pt', cwd=folder) == expected
    shutil.copytree(run, folder / 'out' / 'x')
    assert sampled('out/x', cwd=folder, env={'LC_ALL': 'C'}) == expected
    assert sorted(path.name for path in folder.iterdir()) == ['mine.pt', 'out']


def test_the_error_for_a_run_that_is_missing_names_those_that_are_there(launch, run, tmp_path):
    for name in 'first', 'second':
        (tmp_path / 'out' / name).mkdir(parents=True)
        shutil.copy(run / 'best.pt', tmp_path / 'out' / name / 'last.pt')
    code, text = launch('sample.py', '--out_dir=out/third', cwd=tmp_path)
    assert code == 2
    for name in 'out/third', 'out/first', 'out/second':
        assert name in text


@pytest.mark.parametrize('damage', [
    lambda raw: raw[:0],
    lambda raw: raw[:-1],
    lambda raw: b'no checkpoint',
    lambda raw: raw[:3000] + bytes([raw[3000] ^ 1]) + raw[3001:]])
def test_a_damaged_checkpoint_is_named_and_gives_way_to_no_other(launch, run, damage):
    shutil.copy(run / 'best.pt', run / 'last.pt')
    (run / 'best.pt').write_bytes(damage((run / 'last.pt').read_bytes()))
    code, text = launch('sample.py', f'--out_dir={run}')
    assert code == 2
    assert 'run/best.pt' in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize('changes, named', [
    ({'tokenizer': {'kind': 'runes'}}, 'runes'),
    ({'keys': {'model': 'gtp'}}, 'gtp'),
    ({'keys': {}}, 'model'),
    ({'keys': {'model': '../train'}}, 'train'),
    ({'config': {'n_leyer': 3}}, 'n_leyer'),
    ({'config': {'vocab_size': 256, 'n_layer': 1, 'n_head': 1, 'n_embd': 8}}, 'embed.weight'),
    ({'config': {'n_head': 0}}, 'n_head'),
    ({'format': 99}, '99')])
def test_a_checkpoint_that_cannot_be_used_is_an_error(launch, tmp_path, changes, named):
    save_run(tmp_path / 'run', 'gpt', tiny_gpt(), **{'tokenizer': {'kind': 'bytes'}} | changes)
    code, text = launch('sample.py', f'--out_dir={tmp_path}/run', '--max_new_tokens=3')
    assert code in (2, 3)
    assert named in text
    assert 'Traceback' not in text


def makes_poems():
    """Called first in a child process: gpt makes something for which there is no file in samples/."""
    gpt.Model.makes = 'poems'


def test_a_model_that_makes_something_unknown_is_an_error(launch, run):
    code, text = launch('sample.py', f'--out_dir={run}', env={'PATCH': 'test_sample.makes_poems'})
    assert code == 2
    assert 'makes poems: expected' in text
    assert ', '.join(KINDS) in text
