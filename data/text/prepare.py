"""Texts of your own, larger than memory, as a stream of tokens: all .txt, .jsonl and .jsonl.gz of a folder.

    python data/text/prepare.py --input=FOLDER --out=mytext         # then train.py --dataset=mytext
    python data/text/prepare.py --input=FOLDER --out=mytext --tokenizer=bytes

A .txt file is a document, or several with a line <|endoftext|> between them; of a .jsonl file the field
`text` of each line is one. A document ends with the token <|endoftext|> (with bytes: a zero byte). Every
`val_every`-th document is val. Several processes tokenize; if it is stopped, the same command goes on where
it was. Texts must be UTF-8; CRLF becomes LF.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 3)[0])      # the root of the repository
import contextlib
import hashlib
import itertools
import json
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Literal

import numpy as np

import configurator
import data
from core.errors import UserError
from data import documents, gpt2_bpe, store, tokenizers

# --- options
input = ''              # a folder, with all folders in it, or a file
field = 'text'          # the field of a line of .jsonl
tokenizer: Literal['gpt2', 'bytes'] = 'gpt2'    # GPT-2's byte pairs, or one token per byte
val_every = 1000        # one of this many documents is val
processes = 0           # processes that tokenize; 0: one for each core
out = ''                # name of the data set

BATCH = 2**20           # characters that a process tokenizes at a time


def n_cores():
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


# --- reading

def read_pieces(files):
    """Yield (text, split, whether it ends a document) of all files, without empty documents.

    Raises UserError, with the place.
    """
    number = 0                                          # of the document
    is_empty = True
    for file in files:
        for text, is_end in documents.read_texts(file, field, BATCH):
            split = 'val' if number % val_every == val_every - 1 else 'train'
            is_empty = is_empty and not text
            if not is_empty:
                yield text, split, is_end
            if is_end and not is_empty:
                number += 1
                is_empty = True


def make_batches(files):
    """Yield batches of about BATCH characters: lists of what read_pieces yields."""
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

def start_worker(tokenizer_json):
    """Prepare a process that tokenizes; Ctrl-C is for the one that writes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_tokenizer(tokenizer_json)


def set_tokenizer(tokenizer_json):
    """Set the tokenizer, the end of a document and the dtype of tokens, in each process."""
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
        with contextlib.suppress(FileNotFoundError, ValueError):            # ValueError: a torn file
            saved = json.loads(self.progress.read_text(encoding='utf-8'))
            if saved['job'] == job:
                self.n_batch = saved['n_batch']
                self.sizes = saved['sizes']
            else:
                print('begins again: the files or the options have changed')
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
            n = self.sizes[split] // dtype.itemsize
            splits[split] = {'tokens': {'kind': 'stream', 'dtype': dtype.name, 'shape': [n],
                                        'sha256': store.file_hash(self.part(split))}}
        self.progress.unlink()                          # from here on an interruption means to begin again
        for split in splits:
            os.replace(self.part(split), self.path / f'{split}.tokens.bin')
        store.write_meta(self.path, splits, info, tokenizer, options, source)


def write_all(files, writer, n_process):
    """Tokenize all files into the writer's, in order, and print how far it is about every ten seconds."""
    begin = time.monotonic()
    printed = begin
    n_new = 0                                           # bytes of tokens of this command
    batches = itertools.islice(make_batches(files), writer.n_batch, None)   # what is done is only read
    pool = contextlib.nullcontext()
    encode_all = map
    if n_process > 1:
        pool = ProcessPoolExecutor(n_process, initializer=start_worker, initargs=[reader.json()])
        encode_all = pool.map
    with pool:
        while group := list(itertools.islice(batches, 8 * n_process)):      # bounds the memory
            for tokens in encode_all(encode, group):
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
    files = documents.find_files(input)
    made = tokenizers.Bytes() if tokenizer == 'bytes' else gpt2_bpe.load(gpt2_bpe.fetch_vocabulary())
    set_tokenizer(made.json())
    options = {name: settings.options[name] for name in ('input', 'field', 'tokenizer', 'val_every')}
    source = [{'file': str(file), 'bytes': file.stat().st_size} for file in files]
    times = [file.stat().st_mtime_ns for file in files]
    job = hashlib.sha256(json.dumps([options, source, times]).encode()).hexdigest()
    path = data.folder(out)
    try:
        writer = Writer(path, job)
        if writer.n_batch:
            print(f'goes on after {sum(writer.sizes.values()) // dtype.itemsize:,} tokens')
        write_all(files, writer, processes or n_cores())
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
