"""data/normalization.py: a table of replacements that the test makes, against a dictionary."""
import base64, random, struct

import pytest

from data.normalization import CharacterMap, to_function


def character_map(rules):
    """Return {text: replacement} in SentencePiece's format; each node has 256 units of its own."""
    trie = {}
    replacements = b''
    for text, new in rules.items():
        node = trie
        for byte in text.encode():
            node = node.setdefault(byte, {})
        node[0] = len(replacements)                 # the value of a key stands where its byte 0 would lead
        replacements += new.encode() + b'\0'
    units = [0] * 256

    def place(index, node):
        base = len(units)
        units.extend([0] * 256)
        shift = index ^ base
        wide = shift >= 2**21                       # offsets with bit 9 are multiples of 256
        units[index] |= (shift >> 8 if wide else shift) << 10 | wide << 9 | (0 in node) << 8
        for byte, child in node.items():
            units[base ^ byte] = byte
            if byte:
                place(base ^ byte, child)
            else:
                units[base] = 1 << 31 | child
    place(0, trie)
    return struct.pack(f'<I{len(units)}I', 4 * len(units), *units) + replacements


RULES = {'ﬁ': 'fi', 'Ａ': 'A', '\t': ' ', '\x7f': '', 'e\u0301': 'é', 'e\u0301\u0302': 'never', 'ab': 'never',
         'x': 'y', '😀': ':)'}


def test_what_is_in_the_table_is_replaced_and_all_else_stays():
    table = CharacterMap(character_map(RULES))
    assert table('ﬁn\tＡab\x7fx z😀\0') == 'fin Aaby z:)\0'      # 'ab' is no grapheme cluster
    assert table('') == ''


def test_a_cluster_of_at_most_five_bytes_becomes_what_its_shortest_beginning_becomes():
    table = CharacterMap(character_map(RULES))
    assert table('e\u0301') == 'é'
    assert table('e\u0301\u0302') == 'é'                    # five bytes: an accent is lost, as there
    assert table('e\u0301\u0302\u0303') == 'e\u0301\u0302\u0303'        # seven: character by character
    assert table('x\u0301\u0302\u0303') == 'y\u0301\u0302\u0303'


def test_random_characters_become_what_the_dictionary_says():
    rng = random.Random(0)
    letters = [chr(c) for c in [*range(0x41, 0x5b), *range(0x3041, 0x3091), *range(0x1f600, 0x1f640)]]
    rules = {letter: ''.join(rng.choices(letters, k=rng.randint(0, 3))) for letter in rng.sample(letters, 60)}
    table = CharacterMap(character_map(rules))
    for _ in range(200):
        text = rng.choices(letters, k=20)
        assert table(''.join(text)) == ''.join(rules.get(letter, letter) for letter in text)


def test_a_table_of_noise_is_an_error_or_gives_some_text():
    rng = random.Random(0)
    raw = bytearray(character_map(RULES))
    for _ in range(300):
        changed = bytearray(raw)
        for _ in range(200):
            changed[rng.randrange(4, len(raw))] = rng.randrange(256)
        assert isinstance(CharacterMap(bytes(changed))('ﬁn\tＡab\x7fx z😀e\u0301'), str)


@pytest.mark.parametrize('raw', [b'', b'\1', struct.pack('<I', 0), struct.pack('<I', 3) + b'abc',
                                 struct.pack('<I', 8) + b'abcd', b'\xff' * 9])
def test_a_table_that_is_cut_is_an_error(raw):
    with pytest.raises(ValueError, match='precompiled_charsmap'):
        CharacterMap(raw)


ENCODED = base64.b64encode(character_map(RULES)).decode()


def replace(old, new):
    return {'type': 'Replace', 'pattern': {'String': old}, 'content': new}


@pytest.mark.parametrize('spec, text, expected', [
    (None, ' Ａ\t ', ' Ａ\t '),
    ({'type': 'NFKC'}, 'ﬁ Ａ', 'fi A'),
    ({'type': 'Strip', 'strip_left': False, 'strip_right': True}, ' a \n', ' a'),
    ({'type': 'Strip', 'strip_left': True, 'strip_right': False}, ' a ', 'a '),
    ({'type': 'Replace', 'pattern': {'Regex': ' {2,}'}, 'content': '▁\\1'}, 'a  b c   ', 'a▁\\1b c▁\\1'),
    (replace('.', '!'), 'a.b', 'a!b'),
    ({'type': 'Sequence', 'normalizers': []}, 'a', 'a'),
    ({'type': 'Sequence', 'normalizers': [replace('a', 'b'), replace('b', 'c')]}, 'a', 'c'),
    ({'type': 'Precompiled', 'precompiled_charsmap': ENCODED}, 'ﬁ', 'fi')])
def test_each_kind_of_normalizer(spec, text, expected):
    assert to_function(spec)(text) == expected


@pytest.mark.parametrize('spec', [{}, [], 'NFKC', {'type': 'BertNormalizer'}, {'type': 'Sequence'},
                                  {'type': 'Replace', 'pattern': {'Regex': '('}, 'content': ''},
                                  {'type': 'Sequence', 'normalizers': [{'type': 'x'}]},
                                  {'type': 'Precompiled', 'precompiled_charsmap': '*'}])
def test_other_normalizers_are_an_error(spec):
    with pytest.raises(ValueError):
        to_function(spec)
