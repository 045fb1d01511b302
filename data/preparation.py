"""Preparation: a data set that is not there is made by its prepare.py, once, when a run first needs it.

Options that a config gives to prepare.py (`prepare = '--size=256'`) are compared with those in meta.json, so
that a run never uses a data set that was prepared in another way.
"""
import fcntl
import runpy
import shlex
import sys

import configurator
from core.errors import UserError
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


def run_prepare(script, argv):
    """Run a prepare.py, unless another process has done so meanwhile."""
    path = script.parent
    if not script.exists():
        known = sorted(file.parent.name for file in (store.ROOT / 'data').glob('*/prepare.py'))
        raise UserError(f'there is no data set {path}; there are {", ".join(known)}',
                        'your own text: python data/shakespeare/prepare.py --input=FILE --out=NAME',
                        'your own pairs: python data/wmt_enfr/prepare.py --pairs=SOURCE,TARGET --out=NAME',
                        code=3)
    try:
        lock = open(path / '.lock', 'wb')
    except OSError as error:
        raise UserError(f'{path} is not prepared and cannot be written: {error.strerror}', code=4)
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)        # the kernel releases it, however this process ends
        if not (path / 'meta.json').exists():
            own_argv = sys.argv
            sys.argv = [str(script), *argv]
            runpy.run_path(str(script), run_name='__main__')
            sys.argv = own_argv
