"""data/tokenizers.py: text comes back as it was, and what cannot be encoded is named."""
import json
import os
from pathlib import Path

import pytest

from core.errors import UserError
from data import gpt2_bpe, store, tokenizers
from mirror import real


def test_characters_come_back_and_begin_with_a_new_line():
    tokenizer = tokenizers.load({'kind': 'characters', 'characters': '\nabc'})
    assert tokenizer.encode('cab\n') == [3, 1, 2, 0] and tokenizer.decode([3, 1, 2, 0]) == 'cab\n'
    assert tokenizer.vocab_size == 4 and tokenizer.begin() == [0]
    assert tokenizers.load(tokenizer.json()).characters == '\nabc'
    assert tokenizers.Characters('abc').begin() == [0]


def test_characters_outside_the_alphabet_are_named():
    with pytest.raises(UserError, match="lacks 'x', 'é'"):
        tokenizers.Characters('abc').encode('axéx')


def test_an_alphabet_of_thousands_is_not_printed_whole():
    tokenizer = tokenizers.Characters(''.join(map(chr, range(0x4e00, 0x6e00))))
    with pytest.raises(UserError) as error:
        tokenizer.encode(''.join(map(chr, range(32, 127))))
    first, second = str(error.value).split('\n')
    assert first.endswith("and 87 others")
    assert second.startswith('it has 8,192 characters: ') and second.endswith(' ...') and len(second) < 150


@pytest.mark.parametrize('text', ['', 'abc\r\n', 'Ünïcödé 😀', '\0\x7f'])
def test_bytes_come_back(text):
    tokenizer = tokenizers.load({'kind': 'bytes'})
    assert tokenizer.encode(text) == list(text.encode()) and tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.begin() == tokenizer.encode('\n') and tokenizer.json() == {'kind': 'bytes'}


def test_bytes_that_are_not_utf_8_are_an_error_in_a_text_and_replaced_in_ids():
    with pytest.raises(UserError, match='expected UTF-8 text'):
        tokenizers.Bytes().encode('abc \udce9')
    assert tokenizers.Bytes().decode([97, 0xe9, 98]) == 'a\ufffdb'


def words():
    return tokenizers.load({'kind': 'words', 'words': '<eos> the <unk> cat sat'})


def test_words_end_their_lines_and_unknown_ones_become_unk():
    tokenizer = words()
    assert tokenizer.encode(' the cat sat \n the  dog') == [1, 3, 4, 0, 1, 2]
    assert tokenizer.encode('') == [] and tokenizer.encode('\n\n') == [0, 0]
    assert tokenizer.encode_all(['cat', 'cat\n']) == [[3], [3, 0]]
    assert tokenizer.vocab_size == 5 and tokenizer.begin() == [0]
    assert tokenizers.load(tokenizer.json()).words == tokenizer.words


def test_words_come_back_as_the_lines_of_wikitext():
    text = ' the cat \n \n sat <unk> \n'
    assert words().decode(words().encode(text)) == text
    assert words().decode([1, 3]) == ' the cat'         # what follows a prompt begins with a space


# GPT-2's vocabulary begins with these merges; the ids are OpenAI's.
VOCAB_BPE = '#version: 0.2\nĠ t\nĠ a\nh e\ni n\nr e\no n\nĠt he\n'


def test_the_first_ids_of_gpt2_are_those_of_its_vocabulary():
    tokenizer = tokenizers.load({'kind': 'gpt2', 'vocab_bpe': VOCAB_BPE})
    assert tokenizer.encode('!~\u00a1\n ') == [0, 93, 126, 94, 198, 220]     # ¡ is the bytes 0xc2 0xa1
    assert tokenizer.encode(' the') == [262] and tokenizer.encode('the') == [83, 258]
    assert tokenizer.begin() == [263] and tokenizer.vocab_size == 264
    assert tokenizer.decode([262, 263, 258]) == ' the<|endoftext|>he'
    assert tokenizers.load(tokenizer.json()).tokens == tokenizer.tokens


@pytest.mark.parametrize('text', ['', 'abc\r\n', 'Ünïcödé 😀', '\0\x7f', "it's <|endoftext|>",
                                  ' ' * 300 + 'x'])
def test_texts_come_back_from_gpt2(text):
    tokenizer = tokenizers.load({'kind': 'gpt2', 'vocab_bpe': VOCAB_BPE})
    assert tokenizer.decode(tokenizer.encode(text)) == text


@real
def test_gpt2_of_the_real_file_gives_openais_ids(monkeypatch, tmp_path):
    monkeypatch.setattr(store, 'ROOT', tmp_path)
    tokenizer = gpt2_bpe.load(gpt2_bpe.fetch_vocabulary())
    assert tokenizer.vocab_size == 50_257
    assert tokenizer.encode('Hello world') == [15496, 995] and tokenizer.encode(' Hello') == [18435]
    encoder = json.loads(Path(os.environ['DATA_MIRROR'], 'gpt2/encoder.json').read_text(encoding='utf-8'))
    byte_of = gpt2_bpe.byte_order()
    for name, i in encoder.items():
        if i != tokenizer.end:
            assert tokenizer.tokens[i] == bytes(byte_of[character] for character in name)


def test_no_tokenizer_is_none():
    assert tokenizers.load(None) is None


@pytest.mark.parametrize('json', [{}, {'kind': 'words'}, {'kind': 'gpt2'}, {'kind': 'characters'}, [],
                                  'bytes', {'kind': 'characters', 'characters': 7}])
def test_an_unknown_tokenizer_is_an_error(json):
    with pytest.raises(UserError, match='no such tokenizer') as error:
        tokenizers.load(json)
    assert error.value.code == 3
