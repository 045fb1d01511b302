"""data/tokenizers.py: text comes back as it was, and what cannot be encoded is named."""
import pytest

from core.errors import UserError
from data import tokenizers


def test_characters_come_back_and_begin_with_a_new_line():
    tokenizer = tokenizers.load({'kind': 'characters', 'characters': '\nabc'})
    assert tokenizer.encode('cab\n') == [3, 1, 2, 0] and tokenizer.decode([3, 1, 2, 0]) == 'cab\n'
    assert tokenizer.vocab_size == 4 and tokenizer.begin() == [0]
    assert tokenizers.load(tokenizer.json()).characters == '\nabc'
    assert tokenizers.Characters('abc').begin() == [0]


def test_characters_outside_the_alphabet_are_named():
    with pytest.raises(UserError, match="lacks 'x', 'é'"):
        tokenizers.Characters('abc').encode('axéx')


@pytest.mark.parametrize('text', ['', 'abc\r\n', 'Ünïcödé 😀', '\0\x7f'])
def test_bytes_come_back(text):
    tokenizer = tokenizers.load({'kind': 'bytes'})
    assert tokenizer.encode(text) == list(text.encode()) and tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.begin() == tokenizer.encode('\n') and tokenizer.json() == {'kind': 'bytes'}


def test_bytes_that_are_not_utf_8_are_an_error_in_a_text_and_replaced_in_ids():
    with pytest.raises(UserError, match='expected UTF-8 text'):
        tokenizers.Bytes().encode('abc \udce9')
    assert tokenizers.Bytes().decode([97, 0xe9, 98]) == 'a\ufffdb'


def test_no_tokenizer_is_none():
    assert tokenizers.load(None) is None


@pytest.mark.parametrize('json', [{}, {'kind': 'words'}, {'kind': 'characters'}, [], 'bytes',
                                  {'kind': 'characters', 'characters': 7}])
def test_an_unknown_tokenizer_is_an_error(json):
    with pytest.raises(UserError, match='no such tokenizer') as error:
        tokenizers.load(json)
    assert error.value.code == 3
