"""Errors that a user can mend end a script with a message and an exit code; all others with a traceback."""
import contextlib
import errno
import os
import sys
import textwrap

FILE_ERRORS = {     # their words, such as 'No space left on device', say enough
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO,
    errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.ENOTDIR}


class UserError(Exception):
    """Something that the user can mend: `lines` say what was given, what was expected and what to do.

    Exit codes of every script:
        0 done                          5 out of memory
        1 a bug, with a traceback       6 the loss diverged
        2 configuration                 7 the target was missed
        3 data or network               128 + n stopped by signal n: 130 SIGINT, 143 SIGTERM
        4 something cannot be saved, or a file not opened
    """

    def __init__(self, *lines, code=2):
        super().__init__('\n'.join(lines))
        self.code = code


@contextlib.contextmanager
def collect(problems):
    """Add what a ValueError or UserError raised in the `with` block says to the list `problems`, by line."""
    try:
        yield
    except (ValueError, UserError) as error:
        problems += str(error).split('\n')


def out_of_memory(error):
    """Return whether an exception means that memory ran out, on whatever device."""
    text = str(error)
    return isinstance(error, MemoryError) or 'out of memory' in text or 'allocate memory' in text


def with_advice(error, n_rows):
    """Return the UserError for a training step that failed for want of memory, of a compiler or of rows.

    Return any other `error` as it is. `n_rows` went through the model at once.
    """
    first_line = str(error).strip().split('\n')[0][:200]
    if 'more than 1 value per channel' in first_line:
        return UserError('BatchNorm needs two values per channel or more, and 1 row has 1 x 1 pixels here: '
                         'give batch_size and micro_batch_size of at least 2, or larger images')
    if out_of_memory(error) and n_rows > 1:
        return UserError(f'out of memory with {n_rows} rows per forward pass: {first_line}',
                         'what is saved is intact; the same run in smaller parts: '
                         f'--micro_batch_size={n_rows // 2}', code=5)
    modules = [kind.__module__ for kind in type(error).__mro__]
    if any(module.startswith(('torch._dynamo', 'torch._inductor', 'triton')) for module in modules):
        return UserError(f'torch.compile failed: {first_line}', 'train without it: --compile=False')
    return error


def set_up():
    """Let the process end with the exit code that fits its error, and print any text on any terminal."""
    sys.excepthook = excepthook
    if sys.stdout is None:                  # closed, as some schedulers do
        sys.stdout = open(os.devnull, 'w', encoding='utf-8')
    if getattr(sys.stdout, 'errors', '') == 'strict':       # in Latin-1 a ☕ is printed as \u2615
        sys.stdout.reconfigure(errors='backslashreplace')


def excepthook(kind, error, trace):
    """End the process with the exit code that fits `error`. Every script sets this as sys.excepthook."""
    if isinstance(error, UserError):
        rank = f'[rank {os.environ["RANK"]}] ' if 'RANK' in os.environ else ''
        print(textwrap.indent(str(error), rank), file=sys.stderr, flush=True)
        raise SystemExit(error.code)
    if issubclass(kind, KeyboardInterrupt):
        raise SystemExit(130)
    if issubclass(kind, BrokenPipeError):       # nobody reads the output any more: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(0)
    if out_of_memory(error):
        first_line = str(error).split('\n')[0][:200]
        print(f'out of memory: {first_line}; what is saved is intact', file=sys.stderr)
        raise SystemExit(5)
    if isinstance(error, OSError) and error.errno in FILE_ERRORS:
        print(f'{error.filename or "a file"} cannot be read or written: {error.strerror}', file=sys.stderr)
        raise SystemExit(4)
    sys.__excepthook__(kind, error, trace)
