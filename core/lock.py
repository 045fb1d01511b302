"""The lock of a folder, which keeps a second process out. The kernel frees it, however its process ends."""
import errno
import fcntl
import os
import sys


def lock(folder, wait, name='.lock'):
    """Lock `folder` by a file in it; return that file, which holds the lock until it is closed.

    wait: wait for a process that has the lock, else raise BlockingIOError. Raises another OSError if the file
    cannot be written. Some network file systems have no locks: there, print a warning and go on without.
    """
    path = folder / name
    # A folder from elsewhere may hold a link by this name: it is not followed, and no file is emptied.
    file = open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), 'r+b')
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        print(f'WARNING: no lock on {folder} ({error.strerror}): let no other process write there',
              file=sys.stderr)
    # Between open and flock another process may have renamed the folder (Run.move_aside).
    if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
        raise BlockingIOError(errno.EAGAIN, 'another process has moved it aside', str(folder))
    return file
