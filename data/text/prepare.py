"""Texts of your own, larger than memory, as a stream of tokens: all .txt, .jsonl and .jsonl.gz of a folder.

    python data/text/prepare.py --input=FOLDER --out=mytext         # then train.py --dataset=mytext
    python data/text/prepare.py --input=FOLDER --out=mytext --tokenizer=bytes

A .txt file is a document, and so is the field `text` of each line of a .jsonl file. A document ends with
<|endoftext|> (with bytes: a zero byte). Every `val_every`-th document is val. Several processes read, one
writes: if it is stopped, the same command goes on where it was. Texts must be UTF-8; CRLF becomes LF.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository
import codecs
import contextlib
import gzip
import itertools
import json
import os
import re
import time
from multiprocessing import Pool
from pathlib import Path
from typing import Literal

import numpy as np

import configurator
import data
from core.errors import UserError
from data import gpt2_bpe, store, tokenizers

# --- options
input = ''              # a folder, with all folders in it, or a file
field = 'text'          # the field of a line of .jsonl
tokenizer: Literal['gpt2', 'bytes'] = 'gpt2'    # GPT-2's byte pairs, or one token per byte
val_every = 1000        # one of this many documents is val
processes = 0           # processes that tokenize; 0: one for each core
out = ''                # name of the data set

SUFFIXES = '.txt', '.jsonl', '.jsonl.gz'
BATCH = 2**20           # characters that a process tokenizes at a time
BREAK = re.compile(r'\S\n(?=\S)')       # between these a text can be cut without changing its tokens


# --- reading

def find_files(path):
    """Return the files of a folder that hold text, sorted. Raises UserError if there are none."""
    path = Path(path)
    if not path.exists():
        raise UserError(f'{path}: no such file or folder', code=3)
    files = [path] if path.is_file() else sorted(file for file in path.rglob('*') if file.is_file())
    found = [file for file in files if file.name.endswith(SUFFIXES)]
    if not found:
        endings = ', '.join(SUFFIXES)
        raise UserError(f'{path}: expected files that end in {endings}, found {len(files)} others', code=3)
    return found


def opener(file):
    """Return the function that opens a file: gzip's for .gz."""
    return gzip.open if file.name.endswith('.gz') else open


def read_documents(file):
    """Yield the documents of a file, each as an iterator over its parts."""
    with opener(file)(file, 'rt', encoding='utf-8-sig') as lines:
        if file.name.endswith('.txt'):
            yield read_parts(lines)
            return
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield [text_of(line, f'{file}, line {number}')]


@contextlib.contextmanager
def name_file(file):
    """Make an error of reading a file a UserError that names it."""
    try:
        yield
    except UnicodeDecodeError:
        raise UserError(f'{file}: expected UTF-8, found {first_bad_byte(file)}', code=3)
    except (OSError, EOFError) as error:                # EOFError: a .gz that was cut
        raise UserError(f'{file}: {getattr(error, "strerror", None) or error}', code=3)


def read_parts(stream):
    """Yield a text in parts of BATCH characters or more. Together they have the tokens of the whole."""
    rest = ''
    while chunk := stream.read(BATCH):
        rest += chunk
        breaks = [match.end() for match in BREAK.finditer(rest, max(0, len(rest) - BATCH // 8))]
        if breaks:
            yield rest[:breaks[-1]]
            rest = rest[breaks[-1]:]
    yield rest


def text_of(line, where):
    """Return the text of a line of .jsonl."""
    try:
        text = json.loads(line)[field]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        reason = f'{type(error).__name__}: {error}'
        raise UserError(f'{where}: expected an object with a field {field!r}: {reason}', code=3)
    if not isinstance(text, str):
        raise UserError(f'{where}: expected {field!r} to be a string, found {type(text).__name__}', code=3)
    return text


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


def read_pieces(files):
    """Yield (text, split, whether it ends its document) of all files. Raises UserError, with the place."""
    number = 0                                          # of the document
    for file in files:
        with name_file(file):
            for parts in read_documents(file):
                split = 'val' if number % val_every == val_every - 1 else 'train'
                is_empty = True
                for text in filter(None, parts):
                    yield text, split, False
                    is_empty = False
                if not is_empty:
                    yield '', split, True
                    number += 1


def make_batches(files):
    """Yield batches of about BATCH characters: lists of pieces."""
    batch = []
    size = 0
    for piece in read_pieces(files):
        batch.append(piece)
        size += len(piece[0])
        if size >= BATCH:
            yield batch
            batch = []
            size = 0
    if batch:
        yield batch


# --- tokenizing, in the processes

def start_process(tokenizer_json):
    """Set what `encode` needs, in this process."""
    global reader, end, dtype
    reader = tokenizers.load(tokenizer_json)
    end = getattr(reader, 'end', 0)                     # <|endoftext|>; bytes have none
    dtype = np.dtype('<u2' if reader.vocab_size <= 2**16 else '<u4')


def encode(batch):
    """Return {split: tokens} of a batch, as arrays."""
    tokens = {'train': [], 'val': []}
    for text, split, is_end in batch:
        tokens[split].append(np.array(reader.encode(text), dtype))
        if is_end:
            tokens[split].append(np.array([end], dtype))
    return {split: np.concatenate(arrays) for split, arrays in tokens.items() if arrays}


# --- writing

class Writer:
    """The files train.tokens.bin.part and val.tokens.bin.part, and progress.json, which says how much of them
    is whole: after an interruption the rest is cut off."""

    def __init__(self, path, job):
        self.path = path
        self.job = job                                  # what has to be equal to go on
        self.progress = path / 'progress.json'
        self.n_batch = 0
        self.sizes = {'train': 0, 'val': 0}             # in bytes
        path.mkdir(parents=True, exist_ok=True)
        (path / 'meta.json').unlink(missing_ok=True)    # until all is written this is no data set
        if self.progress.exists():
            saved = json.loads(self.progress.read_text(encoding='utf-8'))
            if saved['job'] == job:
                self.n_batch = saved['n_batch']
                self.sizes = saved['sizes']
        self.files = {}
        for split, size in self.sizes.items():
            self.files[split] = open(self.part(split), 'r+b' if size else 'wb')
            self.files[split].truncate(size)
            self.files[split].seek(size)

    def part(self, split):
        """Return the unfinished file of a split."""
        return self.path / f'{split}.tokens.bin.part'

    def write(self, tokens):
        """Append the tokens of a batch, {split: array}."""
        for split, array in tokens.items():
            self.files[split].write(array)
            self.sizes[split] += array.nbytes
        self.n_batch += 1

    def save(self):
        """Write down that all so far is whole."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        saved = {'job': self.job, 'n_batch': self.n_batch, 'sizes': self.sizes}
        store.write_atomically(self.progress, json.dumps(saved).encode('utf-8'))

    def finish(self, info, tokenizer, options, source):
        """Give the files their names and write meta.json."""
        splits = {}
        for split, file in self.files.items():
            file.close()
            final = self.path / f'{split}.tokens.bin'
            os.replace(self.part(split), final)
            n = self.sizes[split] // dtype.itemsize
            splits[split] = {'tokens': {'kind': 'stream', 'dtype': dtype.name, 'shape': [n],
                                        'sha256': store.file_hash(final)}}
        store.write_meta(self.path, splits, info, tokenizer, options, source)
        self.progress.unlink()


def write_all(files, writer, n_process):
    """Tokenize all files into the writer's, in order, and print how far it is about every ten seconds."""
    begin = time.monotonic()
    printed = begin
    n_new = 0                                           # bytes of tokens of this command
    batches = itertools.islice(make_batches(files), writer.n_batch, None)   # what is done is only read
    pool = Pool(n_process, start_process, [reader.json()]) if n_process > 1 else contextlib.nullcontext()
    with pool:
        encoded = pool.imap if n_process > 1 else map
        while group := list(itertools.islice(batches, 8 * n_process)):      # so many are in memory at a time
            for tokens in encoded(encode, group):
                writer.write(tokens)
                n_new += sum(array.nbytes for array in tokens.values())
            writer.save()
            if time.monotonic() - printed > 10:
                printed = time.monotonic()
                n = sum(writer.sizes.values()) // dtype.itemsize
                rate = n_new / dtype.itemsize / (printed - begin)
                print(f'{n:,} tokens, {rate:,.0f} a second', flush=True)


if __name__ == '__main__':
    settings = configurator.read(__file__, sys.argv[1:])
    globals().update(settings.options)          # the options above, as given
    if not input or not out or (data.folder(out) / 'prepare.py').exists():
        raise UserError('give your texts and a name of their own: --input=FOLDER --out=NAME')
    if val_every < 2 or processes < 0:
        raise UserError('val_every must be at least 2 and processes at least 0, got '
                        f'{val_every} and {processes}')
    files = find_files(input)
    made = tokenizers.Bytes() if tokenizer == 'bytes' else gpt2_bpe.load(gpt2_bpe.fetch_vocabulary())
    start_process(made.json())
    options = {name: settings.options[name] for name in ('input', 'field', 'tokenizer', 'val_every')}
    source = [{'file': str(file), 'bytes': file.stat().st_size} for file in files]
    path = data.folder(out)
    try:
        writer = Writer(path, {'options': options, 'source': source})
        if writer.n_batch:
            print(f'goes on after {sum(writer.sizes.values()) // dtype.itemsize:,} tokens')
        write_all(files, writer, processes or os.cpu_count())
        empty = [split for split, size in writer.sizes.items() if not size]
        if empty:
            raise UserError(f'{input}: no document for {" and ".join(empty)}: val is one document of '
                            f'{val_every}, --val_every', code=3)
        writer.finish({'vocab_size': reader.vocab_size}, reader.json(), options, source)
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror or error}',
                        'what is whole stays there: give the same command again', code=4)
    counts = ' + '.join(f'{size // dtype.itemsize:,}' for size in writer.sizes.values())
    print(f'{path}: {counts} tokens of {len(files):,} files')
