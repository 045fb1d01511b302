"""data/imdb/prepare.py and data/texts.py: IMDB's folders, tables of your own, and every mistake in them."""
import io
import tarfile

import numpy as np
import pytest

import data
from core.errors import UserError
from data import tokenizers
from data.texts import Row, find_classes, hold_out, read_table
from mirror import prepare, prepare_real, real


def read(path):
    """{split: [(text, name of its class), ...]} and meta.json of a data set."""
    meta = data.check(str(path), hashes=True)
    tokenizer = tokenizers.load(meta['tokenizer'])
    splits = {}
    for split in meta['splits']:
        reader = data.load_split(str(path), split, ['text', 'label'])
        labels = reader.arrays['label'].tolist()
        rows = []
        for i in range(reader.size):
            rows.append((tokenizer.decode(reader.row('text', i)), meta['info']['classes'][labels[i]]))
        splits[split] = rows
    return splits, meta


@pytest.fixture
def own(launch, tmp_path):
    """own('text,label\\n...', '--val=0', name='own.csv', code=0): the output for a table of one's own."""
    def own(content, *argv, name='own.csv', code=0):
        content = content if isinstance(content, bytes) else content.encode('utf-8')
        (tmp_path / name).write_bytes(content)
        found, text = launch('data/imdb/prepare.py', f'--input={tmp_path}/{name}', f'--out={tmp_path}/out',
                             '--vocab_size=300', '--lowercase=False', *argv)
        assert found == code and 'Traceback' not in text, text
        assert code == 0 or not (tmp_path / 'out').exists()
        return text
    return own


def table(n=20, delimiter=',', head=('text', 'label')):
    """A table of n rows of two classes."""
    lines = [delimiter.join(head)] if head else []
    for i in range(n):
        lines.append(delimiter.join([f'film number {i}', ('good', 'bad')[i % 2]]))
    return '\n'.join(lines) + '\n'


# --- IMDB

def archive(reviews):
    """The archive of {'train/pos/0_9.txt': text}; review i is of film i. It has files not to be read, too."""
    pages = ''.join(f'http://film/{i}\n' for i in range(20))
    reviews = {**reviews, 'train/urls_neg.txt': pages, 'train/urls_pos.txt': pages}
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode='w:gz') as tar:
        for name, text in {**reviews, 'train/unsup/0_0.txt': 'no label', 'README': 'about'}.items():
            member = tarfile.TarInfo(f'aclImdb/{name}')
            member.size = len(text.encode('utf-8'))
            tar.addfile(member, io.BytesIO(text.encode('utf-8')))
    return {'imdb/aclImdb_v1.tar.gz': content.getvalue()}


REVIEWS = {}
for i in range(20):
    REVIEWS[f'train/pos/{i}_9.txt'] = f'Film {i}: très <br /><br />good.'
    REVIEWS[f'train/neg/{i}_1.txt'] = f'Film {i}: bad.'
    REVIEWS[f'test/pos/{i}_9.txt'] = f'Another film, {i}: good.'
REVIEWS['test/neg/0_1.txt'] = 'Film 3: bad.'


def test_reviews_have_the_class_of_their_folder_and_val_is_drawn_from_train(prepare, tmp_path):
    text = prepare('imdb', archive(REVIEWS), '--vocab_size=300', '--lowercase=False', '--val=0.25')
    splits, meta = read(tmp_path / 'out')
    assert {split: len(rows) for split, rows in splits.items()} == {'train': 30, 'val': 10, 'test': 21}
    assert meta['info']['classes'] == ['neg', 'pos'] and meta['info']['n_class'] == 2
    train = {('Film 4: bad.', 'neg'), ('Film 7: très \n\ngood.', 'pos')}
    assert train <= {*splits['train'], *splits['val']}
    assert not {*splits['train']} & {*splits['val']}
    assert ('Film 3: bad.', 'neg') in splits['test'] and ('Another film, 5: good.', 'pos') in splits['test']
    repeated = int(('Film 3: bad.', 'neg') in splits['train'])
    assert f'{repeated} texts of test are in train as well' in text


def test_the_reviews_of_a_film_and_the_copies_of_a_text_are_drawn_together(prepare, tmp_path):
    reviews = {**REVIEWS, 'train/neg/3_1.txt': 'Film 5: bad.'}          # a copy, under another film
    for seed in range(5):
        prepare('imdb', archive(reviews), '--vocab_size=300', '--lowercase=False', '--val=5',
                f'--seed={seed}')
        splits, _ = read(tmp_path / 'out')
        films = {split: {text.split(':')[0] for text, _ in splits[split]} - {'Film 5'} for split in splits}
        assert not films['train'] & films['val']
        assert not {*splits['train']} & {*splits['val']}
        assert len(splits['train']) + len(splits['val']) == 40


def test_a_review_is_encoded_in_lower_case(prepare, tmp_path):
    prepare('imdb', archive(REVIEWS), '--vocab_size=300')
    splits, meta = read(tmp_path / 'out')
    assert ('another film, 5: good.', 'pos') in splits['test']
    tokenizer = tokenizers.load(meta['tokenizer'])
    assert tokenizer.encode('GOOD') == tokenizer.encode('good')


def test_another_seed_draws_other_rows_and_the_same_seed_the_same(prepare, tmp_path):
    drawn = []
    for seed in 0, 0, 1:
        prepare('imdb', archive(REVIEWS), '--vocab_size=300', f'--seed={seed}')
        drawn.append(read(tmp_path / 'out')[0]['val'])
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize('argv, message', [
    (['--label=3'], 'label: without effect on IMDB'), (['--test=0.2', '--header=True'], 'header and test'),
    (['--val=50'], 'val=50 and test=0: expected numbers that leave train some of 20')])
def test_options_that_have_no_effect_or_cannot_be_are_an_error(prepare, argv, message):
    assert message in prepare('imdb', archive(REVIEWS), *argv, code=2)


# --- tables of one's own

@pytest.mark.parametrize('name, content, argv', [
    ('own.csv', table(), []),
    ('own.tsv', table(delimiter='\t'), []),
    ('own.txt', table(delimiter=';'), []),
    ('own', table(delimiter='|'), ['--delimiter=bar']),
    ('own.csv', '\ufeff' + table().replace('\n', '\r\n'), []),
    ('own.csv', table(head=('label', 'text')), ['--text=label', '--label=text']),
    ('own.csv', table(head=()), ['--text=1', '--label=2']),
    ('own.csv', table(), ['--text=1', '--label=2', '--header=True']),
    ('own.csv', table(), ['--text=text', '--label=2']),
    ('own.csv', table().replace('\n', '\n\n'), [])])
def test_a_table_may_have_any_delimiter_and_names_or_numbers(own, tmp_path, name, content, argv):
    text = own(content, *argv, name=name)
    splits, meta = read(tmp_path / 'out')
    found = [row for rows in splits.values() for row in rows]
    assert sorted(found) == sorted((f'film number {i}', ('good', 'bad')[i % 2]) for i in range(20))
    assert {split: len(rows) for split, rows in splits.items()} == {'train': 16, 'val': 2, 'test': 2}
    assert meta['info']['classes'] == ['bad', 'good']
    assert '16 train + 2 val + 2 test texts of 2 classes' in text
    assert meta['options']['input'] == f'{tmp_path}/{name}'


def test_tabs_delimiters_quotes_and_new_lines_inside_quotes_are_text(tmp_path):
    file = tmp_path / 'own.tsv'
    content = 'text\tlabel\n"one\ttwo\nthree ""four"", five"\tpos\nsix "seven"\t"neg"\n'
    file.write_text(content, encoding='utf-8')
    rows = read_table(file)
    assert [row[:2] for row in rows] == [('one\ttwo\nthree "four", five', 'pos'), ('six "seven"', 'neg')]
    assert [row.where for row in rows] == [f'{file}: line 2', f'{file}: line 4']


@pytest.mark.parametrize('content, texts', [
    ('text,label\nA dog\r sleeps,x\n"two\rlines",y\n', ['A dog  sleeps', 'two lines']),
    ('text,label\r\none,x\r\n"two\r\nlines",y\r\n', ['one', 'two\r\nlines']),
    ('text,label\rone,x\rtwo,y\r', ['one', 'two'])])
def test_a_cr_on_its_own_ends_a_line_only_where_no_lf_does(tmp_path, content, texts):
    (tmp_path / 'own.csv').write_bytes(content.encode())
    assert [row.text for row in read_table(tmp_path / 'own.csv')] == texts


def test_without_quotes_a_quote_is_text_like_any_other(tmp_path):
    file = tmp_path / 'own.tsv'
    file.write_text('text\tlabel\n"Great" film\tpos\n"never closed\tneg\n', encoding='utf-8')
    assert [row.text for row in read_table(file, quotes=False)] == ['"Great" film', '"never closed']


HEAD = 'text,label\nfine,pos\n'


@pytest.mark.parametrize('content, code, message', [
    ('', 3, 'own.csv: expected rows, found none'),
    (HEAD + 'one,two,pos\n', 3, 'own.csv: line 3: expected 2 columns, as in the first line, found 3'),
    (HEAD + '"a\nb",neg\nshort\n', 3, 'own.csv: line 5: expected 2 columns, as in the first line, found 1'),
    (HEAD + ',neg\n', 3, 'own.csv: line 3: expected a text and a label, found an empty one'),
    (HEAD + '"  \n ",neg\n', 3, 'own.csv: line 3: expected a text'),
    (HEAD + 'text, \n', 3, 'own.csv: line 3: expected a text and a label'),
    (HEAD + 'a\0b,neg\n', 3, 'own.csv: line 3: expected text, found a NUL byte'),
    (HEAD.encode() + b'caf\xe9,neg\n', 3, 'own.csv: line 3: expected UTF-8 text, found byte 0xe9'),
    (HEAD + '"never closed,neg\nmore,pos\n', 3, 'own.csv: line 3: unexpected end of data; if quotes are'),
    (HEAD + 'good,pos\nbad,pos\n', 3, "class 'pos', as every other row: expected two classes or more"),
    (HEAD, 2, 'expected numbers that leave train some of 1 texts or groups'),
    ('body,folder\na,b\n', 3, "own.csv: line 1: expected a column 'text', found 'body', 'folder'"),
    ('a,b\nc,d\n', 3, '--text=1')])
def test_a_bad_table_is_an_error_with_its_file_and_line(own, tmp_path, content, code, message):
    text = own(content, '--test=0', '--val=0' if 'every other' in message else '--val=1', code=code)
    assert message in text and len(text.splitlines()) <= 2, text


@pytest.mark.parametrize('argv, message', [
    (['--text=2', '--label=2'], 'expected two columns'), (['--label=3'], "expected a column '3'"),
    (['--val=-1'], 'val=-1'), (['--val=0.6', '--test=0.6'], 'leave train'),
    (['--delimiter=space'], 'delimiter')])
def test_options_that_do_not_fit_a_table_are_an_error(own, argv, message):
    code = 3 if argv == ['--label=3'] else 2
    assert message in own(table(), *argv, code=code)


def test_a_file_that_is_not_there_or_whose_delimiter_is_unclear_is_an_error(launch, tmp_path):
    def message(name):
        code, text = launch('data/imdb/prepare.py', f'--input={tmp_path}/{name}', f'--out={tmp_path}/out')
        assert code == 3, text
        return text
    assert 'No such file' in message('missing.csv')
    (tmp_path / 'own.txt').write_text('one\ntwo\n', encoding='utf-8')
    assert '--delimiter=tab|comma|semicolon|bar' in message('own.txt')


@pytest.mark.parametrize('argv', [[], ['--out='], ['--out=shakespeare']])
def test_texts_of_your_own_need_a_new_name(launch, tmp_path, argv):
    (tmp_path / 'own.csv').write_text(table(), encoding='utf-8')
    code, text = launch('data/imdb/prepare.py', f'--input={tmp_path}/own.csv', *argv)
    assert code == 2 and '--out=NAME' in text


def test_copies_of_a_text_are_held_out_together_and_the_order_does_not_matter():
    rows = [Row(f'text {i % 10}', 'ab'[i % 2], '') for i in range(30)]
    splits = hold_out(rows, 0.2, 3, seed=0)
    assert {split: len(found) for split, found in splits.items()} == {'train': 15, 'val': 6, 'test': 9}
    assert len({row.text for found in splits.values() for row in found}) == 10
    turned = hold_out(rows[::-1], 0.2, 3, seed=0)
    assert {split: sorted(found) for split, found in turned.items()} == {
        split: sorted(found) for split, found in splits.items()}
    assert 'val' not in hold_out(rows, 0, 1, seed=0)


@pytest.mark.parametrize('seed', range(20))
def test_train_keeps_a_text_of_each_class(seed):
    rows = []
    for label, n in ('a', 30), ('b', 2), ('c', 1):
        rows += [Row(f'{label} {i % n}', label, '') for i in range(40)]
    splits = hold_out(rows, 0.3, 0.3, seed)
    assert {row.label for row in splits['train']} == {'a', 'b', 'c'}
    assert {split: len({row.text for row in found}) for split, found in splits.items()} == {
        'train': 13, 'val': 10, 'test': 10}
    assert sorted(sum(splits.values(), [])) == sorted(rows)


def test_where_each_class_is_in_train_anyway_the_plain_permutation_decides():
    rows = [Row(f'text {i:02}', 'ab'[i % 2], '') for i in range(60)]
    order = np.random.default_rng(5).permutation(60)
    splits = hold_out(rows, 7, 0, seed=5)
    assert {row.text for row in splits['val']} == {rows[i].text for i in order[:7]}


def test_classes_that_leave_nothing_to_hold_out_are_an_error():
    rows = [Row(f'text {i}', f'class {i}', '') for i in range(9)]
    with pytest.raises(UserError, match='9 texts or groups, one or more of each of 9 classes'):
        hold_out(rows, 1, 0, seed=0)
    assert len(hold_out(rows, 0, 0, seed=0)['train']) == 9


def test_the_classes_are_printed_with_their_counts_but_no_more_than_50(own):
    text = own(table(20) + 'a rarity,ugly\n', '--val=3', '--test=0')
    assert '  ugly: 1 train + 0 val\n' in text
    text = own('text,label\n' + ''.join(f'film {i},class {i % 60:02}\n' for i in range(180)), '--test=0')
    assert '  class 49: ' in text and '  and 10 other classes\n' in text and 'class 50' not in text


def test_a_class_that_train_does_not_have_is_an_error_with_the_line():
    splits = {'train': [Row('x', 'a', ''), Row('y', 'b', '')], 'val': [Row('z', 'c', 'own.csv: line 7')]}
    with pytest.raises(UserError, match="^own.csv: line 7: this row of val is of class 'c'"):
        find_classes(splits)


def test_a_long_column_is_read_whole(tmp_path):
    (tmp_path / 'own.csv').write_text(f'text,label\n{"x" * 200_000},pos\n', encoding='utf-8')
    assert len(read_table(tmp_path / 'own.csv')[0].text) == 200_000


def test_a_model_trains_on_a_table_and_cuts_what_is_too_long(own, launch, tmp_path):
    own(table(40) + 'long ' * 99 + ',good\n')
    code, text = launch('train.py', '--model=classifier', f'--dataset={tmp_path}/out', '--block_size=16',
                        f'--out_dir={tmp_path}/run', '--n_layer=1', '--n_embd=16', '--n_hidden=16',
                        '--n_head=2', '--batch_size=4', '--max_iters=3', '--device=cpu')
    assert code == 0, text
    assert ', longer than block_size 16, are cut' in text


# --- the real reviews

@real
def test_the_real_reviews_are_25_000_and_25_000(prepare_real, tmp_path):
    text = prepare_real('imdb')
    meta = data.check(tmp_path / 'out')
    counts = {split: fields['label']['shape'][0] for split, fields in meta['splits'].items()}
    assert counts == {'train': 22_729, 'val': 2_271, 'test': 25_000}
    label = np.fromfile(tmp_path / 'out/test.label.bin', '<u2')
    assert np.bincount(label).tolist() == [12_500, 12_500]
    assert meta['info']['classes'] == ['neg', 'pos'] and meta['info']['vocab_size'] == 32_000
    assert '116 texts of test are in train as well' in text
