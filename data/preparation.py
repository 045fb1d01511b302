"""Preparation: a data set that is not there is made by its prepare.py, once, when a run first needs it.

Options that a config gives to prepare.py (`prepare = '--size=256'`) are compared with those in meta.json, so
that a run never uses a data set that was prepared in another way.
"""
import runpy
import shlex
import sys
from pathlib import Path

import configurator
from core.errors import UserError
from core.lock import lock
from core.names import nearest
from data import store


def prepare_if_missing(name, prepare='', verify=False):
    """Return a data set's meta.json; one process prepares a missing data set while the others wait.

    `prepare` holds options for its prepare.py, as on a command line; `verify` computes every sha256. Raises
    UserError if the data set cannot be prepared, or if it was prepared with other options than `prepare`.
    """
    path = store.folder(name)
    script = path / 'prepare.py'
    requested = prepare_options(script, prepare)
    if not (path / 'meta.json').exists():
        run_prepare(script, shlex.split(prepare))
    meta = store.check(name, verify)
    found = {option: meta['options'].get(option) for option in requested}
    if found != requested:
        raise UserError(f'{path} was prepared with {found}, but {requested} is requested',
                        f'to prepare it again: python {script} {prepare}', code=3)
    return meta


def prepare_options(script, prepare):
    """Return the options that the text `prepare` gives to a prepare.py, with their types: {name: value}."""
    try:
        argv = shlex.split(prepare)
    except ValueError as error:
        raise UserError(f'prepare={prepare!r}: {error}')
    if not argv:
        return {}
    if not script.exists():
        raise UserError(f'{script.parent} has no prepare.py that could take prepare={prepare!r}')
    settings = configurator.read(script, argv)
    return {option: settings.options[option] for option in settings.given}


def known_data_sets(folder):
    """Return the names of the data sets that can be prepared, and of those that are in `folder`, sorted."""
    files = [*(store.ROOT / 'data').glob('*/prepare.py'), *folder.glob('*/meta.json')]
    return sorted({file.parent.name for file in files})


def run_prepare(script, argv):
    """Run a prepare.py, unless another process has done so meanwhile."""
    path = script.parent
    if not script.exists():
        known = known_data_sets(path.parent)
        advice = nearest(path.name, known)
        if Path(path.name, 'meta.json').exists():       # a path without a slash is a name
            advice = f'; did you mean ./{path.name}?'
        raise UserError(f'there is no data set {path}; there are {", ".join(known)}{advice}',
                        'your own text: python data/shakespeare/prepare.py --input=FILE --out=NAME',
                        'your own pairs: python data/wmt_enfr/prepare.py --pairs=SOURCE,TARGET --out=NAME',
                        code=3)
    try:
        lock_file = lock(path, wait=True)
    except OSError as error:
        raise UserError(f'{path} is not prepared and cannot be written: {error.strerror}',
                        f'prepare it elsewhere: python {script} --out=FOLDER', 'then give --dataset=FOLDER',
                        code=4)
    with lock_file:
        if not (path / 'meta.json').exists():
            own_argv = sys.argv
            sys.argv = [str(script), *argv]
            runpy.run_path(str(script), run_name='__main__')
            sys.argv = own_argv
