"""core/lock.py: one process at a time, also where the file system knows no locks."""
import errno
import fcntl
import os

import pytest

from conftest import TINY
from core.lock import lock


def test_a_second_lock_is_an_error_until_the_first_file_is_closed(tmp_path):
    first = lock(tmp_path, wait=False)
    with pytest.raises(BlockingIOError):
        lock(tmp_path, wait=False)
    first.close()
    lock(tmp_path, wait=False).close()


def test_a_folder_that_is_renamed_before_its_lock_is_taken_is_another_processs(tmp_path, monkeypatch):
    folder = tmp_path / 'run'
    folder.mkdir()
    flock = fcntl.flock

    def rename_first(file, operation):              # as Run.move_aside of another process
        folder.rename(tmp_path / 'run.1')
        folder.mkdir()
        flock(file, operation)

    monkeypatch.setattr(fcntl, 'flock', rename_first)
    with pytest.raises(BlockingIOError, match='moved it aside'):
        lock(folder, wait=False)


def no_locks():
    """Patched into a child: what flock does on NFS without a lock daemon, Lustre without -o flock."""
    def flock(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    fcntl.flock = flock


def test_without_locks_there_is_a_warning_and_no_lock(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fcntl, 'flock', fcntl.flock)
    no_locks()
    lock(tmp_path, wait=True).close()
    assert capsys.readouterr().err == (f'WARNING: no lock on {tmp_path} (No locks available): let no other '
                                       'process write there\n')


def test_a_folder_that_cannot_be_written_is_no_matter_of_locks(tmp_path):
    with pytest.raises(NotADirectoryError):
        (tmp_path / 'file').touch()
        lock(tmp_path / 'file', wait=False)


def test_a_run_and_a_preparation_go_on_without_locks(launch, tmp_path):
    from test_preparation import PREPARE
    (tmp_path / 'own').mkdir()
    (tmp_path / 'own/prepare.py').write_text(PREPARE, encoding='utf-8')
    code, text = launch('train.py', *TINY, '--max_iters=2', f'--dataset={tmp_path}/own',
                        f'--out_dir={tmp_path}/run', env={'PATCH': 'test_lock.no_locks'})
    assert code == 0 and text.count('WARNING: no lock on') == 3, text
    assert (tmp_path / 'run/last.pt').exists()
