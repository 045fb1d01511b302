"""data/preparation.py: a missing data set is prepared once, with the options that are asked for."""
import os
import sys
from pathlib import Path

import pytest

import data
from conftest import ROOT, TINY
from core.errors import UserError

PREPARE = '''
import os, sys, time
from pathlib import Path
import numpy as np
import configurator, data

size = 64       # of something
flip = False    # something else

if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)
    with open(Path(__file__).with_name('prepared'), 'a') as file:
        file.write('once ')
    time.sleep(float(os.environ.get('SLOWLY', 0)))
    ids = np.arange(2000) % 11
    data.save(str(Path(__file__).parent), {'train': {'tokens': ids}, 'val': {'tokens': ids[:99]}},
              kinds={'tokens': 'stream'}, info={'vocab_size': 11}, options={'size': size, 'flip': flip},
              tokenizer={'kind': 'characters', 'characters': '\\nabcdefghij'})
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return the path of a data set that is not prepared yet."""
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)      # which prepare.py sets
    (tmp_path / 'own').mkdir()
    (tmp_path / 'own/prepare.py').write_text(PREPARE, encoding='utf-8')
    return str(tmp_path / 'own')


def times_prepared(own):
    return Path(own, 'prepared').read_text(encoding='utf-8')


def test_a_missing_data_set_is_prepared_and_other_options_are_an_error_with_both(own):
    argv = list(sys.argv)
    assert data.prepare_if_missing(own, '--size=32')['options']['size'] == 32
    assert data.prepare_if_missing(own, '--size=32') == data.prepare_if_missing(own) and sys.argv == argv
    with pytest.raises(UserError, match='(?s)prepared with.*32.*128.*requested') as error:
        data.prepare_if_missing(own, '--size=128 --flip=False')
    assert error.value.code == 3 and 'prepare.py --size=128' in str(error.value)
    assert times_prepared(own) == 'once '


@pytest.mark.parametrize('options', ['--flip', '--size=32 --flip=True', '--size=3.2e1'])
def test_options_mean_what_they_mean_to_the_script(own, options):
    meta = data.prepare_if_missing(own, options)
    assert data.prepare_if_missing(own, options) == meta


@pytest.mark.parametrize('options', ['--size', '--sise=3', "--size='3", 'size=3', '--size=x'])
def test_wrong_options_are_an_error_without_a_traceback(launch, own, tmp_path, options):
    argv = [*TINY, f'--dataset={own}', f'--prepare={options}', f'--out_dir={tmp_path}/run']
    for state in 'not prepared', 'prepared':
        code, text = launch('train.py', *argv)
        assert code in (2, 3) and 'Traceback' not in text, text
        data.prepare_if_missing(own)


def test_options_for_a_data_set_without_a_script_are_an_error(toy):
    with pytest.raises(UserError, match='has no prepare.py'):
        data.prepare_if_missing(toy, '--size=32')


def test_verify_compares_the_hashes(own):
    data.prepare_if_missing(own, verify=True)
    file = Path(own, 'train.tokens.bin')
    raw = bytearray(file.read_bytes())
    raw[2] ^= 1
    file.write_bytes(raw)
    data.prepare_if_missing(own)
    with pytest.raises(UserError, match='train.tokens.bin: expected sha256'):
        data.prepare_if_missing(own, verify=True)


def test_two_runs_that_need_the_same_data_prepare_it_once(start, own, tmp_path):
    runs = [start('train.py', *TINY, f'--dataset={own}', f'--out_dir={tmp_path}/{i}', '--max_iters=2',
                  env={'SLOWLY': '0.5'}) for i in range(2)]
    assert [process.wait() for process in runs] == [0, 0], runs[0].text + runs[1].text
    assert times_prepared(own) == 'once '


def test_without_data_and_network_the_three_ways_out_are_printed(launch, tmp_path):
    (tmp_path / 'far').mkdir(), (tmp_path / 'mirror').mkdir()
    (tmp_path / 'far/prepare.py').write_text(
        'from data.download import fetch\n'
        f"fetch('{tmp_path}/far', 'a.txt', ['http://127.0.0.1:9/a.txt'], '{'ab' * 32}')\n", encoding='utf-8')
    code, text = launch('train.py', *TINY, f'--dataset={tmp_path}/far', f'--out_dir={tmp_path}/run',
                        env={'DATA_MIRROR': str(tmp_path / 'mirror')})
    assert code == 3 and 'Traceback' not in text, text
    for fact in 'DATA_MIRROR', 'a.txt', 'ab' * 32, f'{tmp_path}/far/raw', 'python train.py':
        assert fact in text, fact
    assert not (tmp_path / 'run').exists()


def test_an_unknown_data_set_is_an_error_that_lists_the_known_ones(launch, tmp_path):
    code, text = launch('train.py', '--dataset=nowhere', f'--out_dir={tmp_path}/run')
    assert code == 3 and 'nowhere' in text and 'shakespeare' in text and 'stdlib' in text, text
    assert not (tmp_path / 'run').exists() and not (ROOT / 'data/nowhere').exists()


def test_a_mistyped_data_set_is_answered_with_the_nearest_own_ones_too(launch, toy, tmp_path, monkeypatch):
    for name in f'{tmp_path}/toi', 'shakespear':
        code, text = launch('train.py', f'--dataset={name}', f'--out_dir={tmp_path}/run')
        nearest = {'toi': 'toy', 'shakespear': 'shakespeare'}[Path(name).name]
        assert code == 3 and f'; did you mean {nearest}?' in text, text
    code, text = launch('train.py', '--dataset=toy2', f'--out_dir={tmp_path}/run', cwd=tmp_path)
    assert 'did you mean ./' not in text
    os.rename(toy, tmp_path / 'toy2')
    code, text = launch('train.py', '--dataset=toy2', f'--out_dir={tmp_path}/run', cwd=tmp_path)
    assert code == 3 and '; did you mean ./toy2?' in text, text
    monkeypatch.setattr(data.store, 'ROOT', tmp_path)
    data.save('diary', {'train': {'label': [1, 2]}})
    with pytest.raises(UserError, match='there are diary; did you mean diary?'):
        data.prepare_if_missing('dairy')


def test_a_data_set_that_cannot_be_prepared_where_it_is_names_the_way_out(launch, own, tmp_path):
    code, text = launch('train.py', *TINY, f'--dataset={own}', f'--out_dir={tmp_path}/run',
                        env={'PATCH': 'test_faults.read_only', 'READ_ONLY': own})
    assert code == 4 and f'python {own}/prepare.py --out=FOLDER' in text, text
