"""The lock of a folder, which keeps a second process out. The kernel frees it, however its process ends."""
import fcntl
import sys


def lock(folder, wait):
    """Lock `folder` by its file .lock; return that file, which holds the lock until it is closed.

    wait: wait for a process that has the lock, else raise BlockingIOError. Raises another OSError if the file
    cannot be written. Some network file systems have no locks: there, print a warning and go on without.
    """
    file = open(folder / '.lock', 'wb')
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        print(f'WARNING: no lock on {folder} ({error.strerror}): let no other process write there',
              file=sys.stderr)
    return file
