r"""Text and its lines, for all that reads them from files: text is UTF-8, and LF ends a line.

    read_text(Path('diary.txt'))            # the whole text of a file
    split_lines('one\r\ntwo\n')             # ['one', 'two']
    list(read_lines(Path('my.en.gz')))      # those of a file, one by one: it may be larger than memory

A CR before LF belongs to the end of the line; CR elsewhere, a form feed or U+2028 are characters like any
other. A byte order mark at the beginning of a file is dropped.
"""
import contextlib
import gzip
import zlib

from core.errors import UserError


def read_text(file, name=''):
    """Return the text of a file or of a .gz; `name` is what errors call it. Raises UserError, code 3."""
    name = name or file
    with name_errors(name), open_bytes(file) as stream:
        content = stream.read()
    return to_text(content, name)


def read_lines(file):
    """Yield the lines of a file or of a .gz, without their ends. Raises UserError, code 3, with the line."""
    with name_errors(file), open_bytes(file) as stream:
        for n, line in enumerate(stream, 1):                # as bytes: text would also be cut at U+2028
            line = decode(line.removesuffix(b'\n').removesuffix(b'\r'), file, n)
            if n == 2 and '\0' in (line[:1], line[-1:]):    # in UTF-16 a LF has a NUL beside it
                raise nul_error(file, n)
            yield line


def split_lines(text):
    """Return the lines of a text, without their ends; an empty text has none."""
    lines = text.split('\n')
    if lines[-1] == '':                                     # what follows the last LF is no line
        lines.pop()
    return [line.removesuffix('\r') for line in lines]


def unify_newlines(text):
    """Return a text as models read it character by character: CRLF and CR become LF."""
    return text.replace('\r\n', '\n').replace('\r', '\n')


def to_text(content, name):
    """Return the text of a file's bytes. Raises UserError, code 3, with the line, if they are no text."""
    text = decode(content, name)
    if '\0' in text:
        raise nul_error(name, text.count('\n', 0, text.index('\0')) + 1)
    return text


# --- errors

def decode(content, name, line=1):
    """Return the text of bytes that begin in this line of a file. Raises UserError if they are not UTF-8."""
    try:
        return content.decode('utf-8-sig' if line == 1 else 'utf-8')
    except UnicodeDecodeError as error:
        at = error.start
        begin = error.object.rfind(b'\n', 0, at) + 1        # of the line
        line += error.object.count(b'\n', 0, at)
        raise UserError(f'{name}: line {line:,}: expected UTF-8 text, found byte 0x{error.object[at]:02x} at '
                        f'{at - begin:,}', code=3)


def nul_error(name, line):
    """Return the error for a NUL byte. UTF-16 has many, so it may decode as UTF-8 though it is not."""
    return UserError(f'{name}: line {line:,}: expected text, found a NUL byte; if this is UTF-16, save it as '
                     'UTF-8', code=3)


def open_bytes(file):
    """Open a file to read its bytes, unpacked if its name ends in .gz."""
    return gzip.open(file) if file.suffix == '.gz' else open(file, 'rb')


@contextlib.contextmanager
def name_errors(name):
    """Make an error of reading a file a UserError, code 3, that names it."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f'{name}: {getattr(error, "strerror", None) or error}', code=3)
