"""data/lines.py: what is text, what is a line, and that whoever reads them agrees."""
import gzip

import pytest

from core.errors import UserError
from data import lines
from test_pairs import NASTY, body


@pytest.mark.parametrize('blob, expected', [
    (b'a\nb\n', ['a', 'b']), (b'a\r\n\r\nb', ['a', '', 'b']), (b'', []), (b'\xef\xbb\xbfa\n', ['a']),
    (body(NASTY), NASTY), (b' a \rb\n', [' a \rb'])])
@pytest.mark.parametrize('name', ['x.en', 'x.en.gz'])
def test_lines_are_as_they_are_without_their_ends(tmp_path, name, blob, expected):
    (tmp_path / name).write_bytes(gzip.compress(blob, mtime=0) if name.endswith('gz') else blob)
    assert list(lines.read_lines(tmp_path / name)) == expected


@pytest.mark.parametrize('name, blob, words', [
    ('x.en', b'a\nb\n\xff\n', 'x.en: line 3: expected UTF-8 text, found byte 0xff'),
    ('x.en', b'\xef\xbb\xbfab\xe9', 'x.en: line 1: .*0xe9'), ('x.en', None, 'x.en: No such file'),
    ('x.gz', b'a\n', 'x.gz: Not a gzipped file'),
    ('x.gz', gzip.compress(bytes(99), mtime=0)[:-9], 'x.gz: .*ended before'),
    ('x.gz', gzip.compress(bytes(99), mtime=0)[:10] + b'\xff' * 20, 'x.gz: Error')])
def test_what_is_not_text_is_an_error_with_its_line(tmp_path, name, blob, words):
    if blob is not None:
        (tmp_path / name).write_bytes(blob)
    with pytest.raises(UserError, match=words) as error:
        list(lines.read_lines(tmp_path / name))
    assert error.value.code == 3


TEXTS = ['', 'a', 'a\n', 'a\n\n', '\n', 'a\r\n\r\nb\r\n', 'a\rb\r\nc\r',
         'one\u2028two\x0c\x85\n', '\n\ufeffa']


@pytest.mark.parametrize('text', TEXTS)
def test_the_lines_of_a_text_are_those_of_its_file(tmp_path, text):
    (tmp_path / 'x').write_bytes(text.encode('utf-8'))
    assert lines.split_lines(text) == list(lines.read_lines(tmp_path / 'x'))
    assert len(lines.split_lines(text)) == text.count('\n') + (not text.endswith('\n') and text != '')
    assert lines.read_text(tmp_path / 'x') == text


@pytest.mark.parametrize('encoding', ['utf-16-le', 'utf-16-be', 'utf-32-le', 'utf-32-be', 'utf-16', 'utf-32'])
@pytest.mark.parametrize('text', ['Every word.\nAnother line.\n', 'Щука\nрыба\n', 'one\r\ntwo\r\n'])
def test_utf_16_and_32_are_no_text_with_or_without_a_mark(tmp_path, encoding, text):
    (tmp_path / 'x.txt').write_bytes(text.encode(encoding))
    for read in lines.read_text, lambda file: list(lines.read_lines(file)):
        with pytest.raises(UserError, match='x.txt: line .: expected .*text, found .*byte') as error:
            read(tmp_path / 'x.txt')
        assert error.value.code == 3


def test_the_place_of_a_wrong_byte_is_that_in_its_line(tmp_path):
    (tmp_path / 'x.txt').write_bytes(b'one\ntwo\nthe caf\xe9\n')
    for read in lines.read_text, lambda file: list(lines.read_lines(file)):
        with pytest.raises(UserError, match='x.txt: line 3: expected UTF-8 text, found byte 0xe9 at 7'):
            read(tmp_path / 'x.txt')


def test_a_stream_of_characters_has_one_end_of_line():
    assert lines.unify_newlines('a\r\nb\rc\n\rd\r\n') == 'a\nb\nc\n\nd\n'
