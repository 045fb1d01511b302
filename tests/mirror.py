"""What the tests of data/*/prepare.py share: a mirror of files made here, and a place for the data."""
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import data
from data import store

real = pytest.mark.skipif('DATA_MIRROR' not in os.environ,
                          reason='DATA_MIRROR is not set: no real data to test on')


def elsewhere():
    """Patched into a child: the data sets and their downloads are in another folder than the repository."""
    store.ROOT = Path(os.environ['ELSEWHERE'])


@pytest.fixture
def prepare(launch, tmp_path):
    """Return prepare('mnist', {'mnist/file': bytes}, ...): the output, with these files mirrored."""
    def prepare(name, files, *argv, code=0, out='out'):
        mirror = tmp_path / 'mirror'
        mirror.mkdir(exist_ok=True)
        sums = ''
        for file, content in files.items():
            (mirror / file).parent.mkdir(parents=True, exist_ok=True)
            (mirror / file).write_bytes(content)
            sums += f'{hashlib.sha256(content).hexdigest()}  {file}\n'
        (mirror / 'SHA256SUMS').write_text(sums, encoding='utf-8')
        environment = {'DATA_MIRROR': str(mirror), 'PATCH': 'mirror.elsewhere', 'ELSEWHERE': str(tmp_path)}
        found, text = launch(f'data/{name}/prepare.py', f'--out={tmp_path}/{out}', *argv, env=environment)
        assert found == code and 'Traceback' not in text, text
        assert code == 0 or not (tmp_path / out / 'meta.json').exists()
        return text
    yield prepare
    for large in 'mirror', 'data', 'out':
        shutil.rmtree(tmp_path / large, ignore_errors=True)


@pytest.fixture
def prepare_real(launch, tmp_path):
    """Return prepare_real('mnist', '--val=0'), which returns the output, with the real mirror."""
    def prepare_real(name, *argv):
        code, text = launch(f'data/{name}/prepare.py', f'--out={tmp_path}/out', *argv,
                            env={'PATCH': 'mirror.elsewhere', 'ELSEWHERE': str(tmp_path)})
        assert code == 0, text
        return text
    yield prepare_real
    for large in 'data', 'out':
        shutil.rmtree(tmp_path / large, ignore_errors=True)


def read_arrays(path):
    """Return ({split: {field: array}}, meta) of a data set of fixed fields, its hashes verified."""
    meta = data.check(str(path), hashes=True)
    splits = {}
    for split, fields in meta['splits'].items():
        splits[split] = {}
        for field, spec in fields.items():
            array = np.fromfile(f'{path}/{split}.{field}.bin', spec['dtype'])
            splits[split][field] = array.reshape(spec['shape'])
    return splits, meta


def shapes(splits, field='image'):
    """Return {split: shape} of a field."""
    return {split: fields[field].shape for split, fields in splits.items()}
