"""Labelled texts: read from a TSV or CSV file, held out, and saved.

    rows = read_table(Path('mail.tsv'), text='body', label='folder')    # [Row('Hi ...', 'spam', ...), ...]
    splits = hold_out(rows, val=0.1, test=0.1, seed=0)                  # {'train': rows, ...}
    save('mail', splits, vocab_size=8000)

A row of the data set is `text`, ragged ids of byte pair encoding, and `label`, the number of a class. The BPE
is learned on train alone. Texts are stored whole; the reader cuts what is longer than block_size.
"""
import csv
import io
import re
from collections import Counter
from typing import NamedTuple

import numpy as np

import data
from core.errors import UserError
from data import bpe
from data.lines import read_text
from data.pairs import TokenRows, number_of

DELIMITERS = {'tab': '\t', 'comma': ',', 'semicolon': ';', 'bar': '|'}
SUFFIXES = {'.tsv': '\t', '.tab': '\t', '.csv': ','}
SAMPLE = 100_000        # characters in which the delimiter is looked for
MAX_LINES = 50          # classes that are printed


class Row(NamedTuple):
    text: str
    label: str          # name of the class
    where: str          # file and line, for messages
    group: str = ''     # rows of one group are held out together; by default the copies of a text


# --- files

def read_table(file, text='text', label='label', header=False, delimiter='auto', quotes=True):
    """Return the Rows of a TSV or CSV file, as Python's csv module reads it.

    `text` and `label` are columns: names in the first line, or numbers from 1 on. `header`: the first line
    has names although the columns are numbers. `delimiter`: a key of DELIMITERS, or auto. `quotes`: whether
    quotes enclose a column, which may then hold tabs, commas and new lines. Raises UserError, with file and
    line, for rows that differ in their number of columns, an empty text or label, NUL, and bytes that are not
    UTF-8.
    """
    content = read_text(file)
    if '\n' in content:         # then a CR on its own ends no line, and spreadsheets leave some within a text
        content = re.sub(r'\r(?!\n)', ' ', content)
    if delimiter == 'auto':
        delimiter = find_delimiter(file, content)
    else:
        delimiter = DELIMITERS[delimiter]
    table = list(read_columns(file, content, delimiter, quotes))
    if not table:
        raise UserError(f'{file}: expected rows, found none', code=3)
    _, first = table[0]
    text_column = find_column('text', text, first, file)
    label_column = find_column('label', label, first, file)
    if text_column == label_column:
        raise UserError(f'--text={text} --label={label}: expected two columns')
    if header or not (text.isdigit() and label.isdigit()):
        table = table[1:]
    rows = []
    for line, columns in table:
        where = f'{file}: line {line:,}'
        row = Row(columns[text_column].strip(), columns[label_column].strip(), where)
        if not row.text or not row.label:
            raise UserError(f'{where}: expected a text and a label, found an empty one', code=3)
        rows.append(row)
    return rows


def find_delimiter(file, content):
    """Return the delimiter that the name of a file implies or, for other names, that its text suggests."""
    delimiter = SUFFIXES.get(file.suffix.lower())
    if delimiter:
        return delimiter
    try:
        return csv.Sniffer().sniff(content[:SAMPLE], ''.join(DELIMITERS.values())).delimiter
    except csv.Error:
        raise UserError(f'{file}: no delimiter is found: give --delimiter={"|".join(DELIMITERS)}', code=3)


def read_columns(file, content, delimiter, quotes):
    """Yield (number of its first line, list of its columns) of each row; blank lines are none."""
    csv.field_size_limit(2**31 - 1)         # characters in a column; by default 131,072
    quoting = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    lines = io.StringIO(content, newline='')            # newline='': those inside quotes stay as they are
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    width = 0
    line = 1
    try:
        for columns in reader:
            width = width or len(columns)
            if columns and len(columns) != width:
                raise UserError(f'{file}: line {line:,}: expected {width} columns, as in the first line, '
                                f'found {len(columns)}', code=3)
            if columns:
                yield line, columns
            line = reader.line_num + 1
    except csv.Error as error:              # strict: a quote that is not closed would swallow the rows below
        advice = '; if quotes are text like any other: --quotes=False' if quotes else ''
        raise UserError(f'{file}: line {line:,}: {error}{advice}', code=3)


def find_column(option, name, first, file):
    """Return the index of the column `name`, a name in the first row or a number from 1 on."""
    if name in first:
        return first.index(name)
    if name.isdigit() and 1 <= int(name) <= len(first):
        return int(name) - 1
    found = ', '.join(repr(column[:40]) for column in first[:20])
    raise UserError(f'{file}: line 1: expected a column {name!r}, found {found}',
                    f'give its name, or its number if the first line has no names: --{option}=1', code=3)


# --- splits

def hold_out(rows, val, test, seed):
    """Return {'train': rows, 'val': rows, 'test': rows} of a list of Rows.

    A group is held out whole. `val` and `test` are fractions of the groups or, from 1 on, numbers of them; 0
    is no such split. Train keeps a group of each class. Raises UserError if that leaves too few.
    """
    group_of = [row.group or row.text for row in rows]
    groups = sorted(set(group_of))
    order = [groups[i] for i in np.random.default_rng(seed).permutation(len(groups))]
    position = {group: i for i, group in enumerate(order)}
    last = {}               # of each class, where its last group is in this order: train keeps it
    for row, group in zip(rows, group_of):
        last[row.label] = max(last.get(row.label, 0), position[group])
    keep = set(last.values())
    free = [group for i, group in enumerate(order) if i not in keep]
    n_val = number_of(val, len(groups))
    n_test = number_of(test, len(groups))
    if min(val, test) < 0 or n_val + n_test > len(free):
        raise UserError(f'val={val:g} and test={test:g}: expected numbers that leave train some of '
                        f'{len(groups):,} texts or groups, one or more of each of {len(last):,} classes')
    split_of = dict.fromkeys(free[:n_val], 'val')
    split_of |= dict.fromkeys(free[n_val:n_val + n_test], 'test')
    splits = {'train': [], 'val': [], 'test': []}
    for row, group in zip(rows, group_of):
        split = split_of.get(group, 'train')
        splits[split].append(row)
    return {split: rows for split, rows in splits.items() if rows}


def find_classes(splits):
    """Return the sorted names of the classes of train.

    Raises UserError if there is only one, or if another split has a class that train has not.
    """
    known = {row.label for row in splits['train']}
    classes = sorted(known)
    for split, rows in splits.items():
        for row in rows:
            if row.label not in known:
                raise UserError(f'{row.where}: this row of {split} is of class {row.label!r}, of which train '
                                'has no row; another --seed draws other rows', code=3)
    if len(classes) < 2:
        where = splits['train'][0].where
        raise UserError(f'{where}: class {classes[0]!r}, as every other row: expected two classes or more',
                        code=3)
    return classes


# --- data sets

def save(out, splits, vocab_size, lowercase=False, options={}, source=[]):
    """Save {split: Rows} as ragged `text` and `label`, with a BPE of `vocab_size` ids in total.

    lowercase: whether the BPE takes texts in lower case.
    Prints numbers of rows and of classes, lengths, and how many held-out texts are in train as well. Raises
    UserError as `find_classes` does.
    """
    classes = find_classes(splits)
    number = {name: i for i, name in enumerate(classes)}
    tokenizer = bpe.train((row.text for row in splits['train']), vocab_size, lowercase=lowercase)
    arrays = {}
    for split, rows in splits.items():
        tokens = TokenRows(tokenizer.vocab_size)
        for row in rows:
            tokens.append(tokenizer.encode(row.text))
        arrays[split] = {'text': tokens, 'label': np.array([number[row.label] for row in rows])}
    info = {'vocab_size': tokenizer.vocab_size, 'n_class': len(classes), 'classes': classes}
    data.save(out, arrays, {'text': 'ragged'}, info, tokenizer.json(), options, source)
    print_summary(out, splits, arrays, classes)


def print_summary(out, splits, arrays, classes):
    """Print how many texts there are, of which class, how long, and how many of the held-out in train."""
    counts = ' + '.join(f'{len(rows):,} {split}' for split, rows in splits.items())
    print(f'{data.folder(out)}: {counts} texts of {len(classes)} classes')
    count = {split: Counter(row.label for row in rows) for split, rows in splits.items()}
    for name in classes[:MAX_LINES]:
        counts = ' + '.join(f'{count[split][name]:,} {split}' for split in splits)
        print(f'  {name}: {counts}')
    if len(classes) > MAX_LINES:
        print(f'  and {len(classes) - MAX_LINES:,} other classes')
    lengths = np.diff(arrays['train']['text'].offsets)
    print(f'a text of train has {lengths.mean():.1f} tokens on average, {np.percentile(lengths, 95):.0f} or '
          f'fewer in 95%, {lengths.max():,} at most')
    train = {row.text for row in splits['train']}
    for split, rows in splits.items():
        if split != 'train':
            repeated = sum(row.text in train for row in rows)
            print(f'{repeated:,} texts of {split} are in train as well')
