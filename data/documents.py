"""Documents: the texts in .txt, .jsonl and .jsonl.gz files, read piece by piece, for data/text/prepare.py.

A .txt file is a document, or several with a line <|endoftext|> between them. Of a .jsonl file a field of each
line is one.
"""
import codecs
import gzip
import json
import re
from pathlib import Path

from core.errors import UserError
from data.folders import files_below
from data.gpt2_bpe import END       # '<|endoftext|>'
from data.lines import name_errors

SUFFIXES = '.txt', '.jsonl', '.jsonl.gz'
CUT = re.compile(r'[ \n](?=\S)')    # before these a text can be cut without changing its tokens


def find_files(path):
    """Return the files of a folder that hold text, sorted. Raises UserError if there are none."""
    path = Path(path)
    if not path.exists():
        raise UserError(f'{path}: no such file or folder', code=3)
    files = [path] if path.is_file() else files_below(path)
    found = [file for file in files if file.name.lower().endswith(SUFFIXES)]
    endings = ', '.join(SUFFIXES)
    if not found:
        raise UserError(f'{path}: expected files that end in {endings}, found {len(files)} others', code=3)
    if len(found) < len(files):
        print(f'{len(files) - len(found):,} files do not end in {endings}: left out')
    return found


def read_texts(file, field, size):
    """Yield (text, whether it ends a document): the documents of a file, a large one in several texts.

    Their texts have about `size` characters each, and together the tokens of the document. Raises UserError,
    with the place, for what cannot be read.
    """
    try:
        with name_errors(file), opener(file)(file, 'rt', encoding='utf-8-sig') as lines:
            if file.name.lower().endswith('.txt'):
                yield from read_txt(lines, size)
                return
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield text_of(line, field, f'{file}, line {number}'), True
    except UnicodeDecodeError:
        raise UserError(f'{file}: expected UTF-8, found {first_bad_byte(file)}', code=3)


def opener(file):
    """Return the function that opens a file: gzip's for .gz."""
    return gzip.open if file.name.lower().endswith('.gz') else open


def read_txt(stream, size):
    """Yield (text, whether it ends a document) of the stream of a .txt file. A word begins at every cut."""
    rest = ''
    while chunk := stream.read(size):
        if '\0' in chunk:
            raise UserError(f'{stream.name}: expected text, found a NUL byte; if this is UTF-16, save it as '
                            'UTF-8', code=3)
        *documents, rest = (rest + chunk).split(f'\n{END}\n')
        for text in documents:
            yield text, True
        cuts = [match.start() for match in CUT.finditer(rest, max(0, len(rest) - size // 8))]
        if cuts:
            yield rest[:cuts[-1]], False
            rest = rest[cuts[-1]:]
    yield re.sub(rf'(\n|^){re.escape(END)}\n?$', '', rest), True        # the last document may be ended, too


def text_of(line, field, where):
    """Return the text of a line of .jsonl."""
    try:
        text = json.loads(line)[field]
        if isinstance(text, str):
            text.encode('utf-8')                        # half of a surrogate pair is legal JSON, but no text
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        reason = f'{type(error).__name__}: {error}'
        raise UserError(f'{where}: expected an object with a field {field!r}: {reason}', code=3)
    if not isinstance(text, str):
        raise UserError(f'{where}: expected {field!r} to be a string, found {type(text).__name__}', code=3)
    return text.replace('\r\n', '\n')


def first_bad_byte(file):
    """Return where a file stops being UTF-8, 'byte 0xff at 1,234'."""
    decoder = codecs.getincrementaldecoder('utf-8')()
    position = 0                                        # of the chunk in the file
    with opener(file)(file, 'rb') as stream:
        while chunk := stream.read(2**20):
            pending = len(decoder.getstate()[0])        # bytes of a character that the last chunk began
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                at = position - pending + error.start
                return f'byte 0x{error.object[error.start]:02x} at {at:,}'
            position += len(chunk)
    return f'its end within a character, at {position:,}'
