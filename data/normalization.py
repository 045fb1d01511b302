"""Normalisation: how text is made uniform before it is cut into pieces, as a tokenizer.json describes it.

    normalize = to_function({'type': 'NFKC'})
    normalize('ﬁn')             # 'fin'

T5's is a table that SentencePiece made of the forms that Unicode calls compatible (NFKC) and of rules for
white space and control characters (nmt_nfkc); the file holds the table itself.
"""
import base64
import functools
import unicodedata

import regex        # for grapheme clusters; comes with tiktoken

CLUSTERS = regex.compile(r'\X')                 # a character with its accents
SEVERAL_SPACES = regex.compile(' {2,}')         # the one expression of T5's files


def to_function(spec):
    """Return the function text -> text that a `normalizer` of tokenizer.json describes."""
    match spec:
        case None:
            return str
        case {'type': 'Sequence', 'normalizers': list(parts)}:
            steps = [to_function(part) for part in parts]
            return functools.partial(in_turn, steps)
        case {'type': 'Precompiled', 'precompiled_charsmap': str(encoded)}:
            return CharacterMap(base64.b64decode(encoded, validate=True))
        case {'type': 'Strip', 'strip_left': bool(left), 'strip_right': bool(right)}:
            strip = {(0, 0): str, (0, 1): str.rstrip, (1, 0): str.lstrip, (1, 1): str.strip}
            return strip[left, right]
        case {'type': 'Replace', 'pattern': {'String': str(old)}, 'content': str(new)}:
            return lambda text: text.replace(old, new)
        case {'type': 'Replace', 'pattern': {'Regex': ' {2,}'}, 'content': str(new)}:
            return functools.partial(SEVERAL_SPACES.sub, lambda match: new)
        case {'type': 'NFC' | 'NFD' | 'NFKC' | 'NFKD' as form}:
            return functools.partial(unicodedata.normalize, form)
    raise ValueError('normalizer: expected Precompiled, Strip, Replace, NFKC or a Sequence of them, found '
                     f'{str(spec)[:80]}')


def in_turn(steps, text):
    """Return what functions text -> text make of `text`, one after another."""
    for step in steps:
        text = step(text)
    return text


class CharacterMap:
    """SentencePiece's table of replacements, such as 'ﬁ' -> 'fi', 'Ａ' -> 'A' and a tab -> ' '.

    `raw` is a number n (uint32), then a trie of n bytes, then the replacements, each with a 0 at
    its end. The trie is a double array (https://github.com/s-yata/darts-clone) of uint32 units. From a node,
    the byte b leads to the node `offset ^ b`, if the label there is b:

        bit     31        30 ... 10     9                   8                    7 ... 0
                a value   offset        offset is 256 x     a value at offset    label

    The `tokenizers` library applies it as here, not quite as SentencePiece does: a grapheme cluster of at
    most 5 bytes becomes what its shortest beginning in the table becomes, others go character by character.
    """

    def __init__(self, raw):
        size = int.from_bytes(raw[:4], 'little')
        if size == 0 or size % 4 or 4 + size > len(raw):
            raise ValueError(f'precompiled_charsmap: expected a trie of {size} bytes, found {len(raw) - 4}')
        self.units = memoryview(raw)[4:4 + size].cast('I')
        self.replacements = raw[4 + size:]
        self.replace_cluster = functools.lru_cache(2**16)(self.replace_cluster)

    def __call__(self, text):
        return ''.join(map(self.replace_cluster, CLUSTERS.findall(text)))

    def replace_cluster(self, cluster):
        """Return what replaces a grapheme cluster."""
        if len(cluster.encode()) < 6:
            new = self.find(cluster)
            if new is not None:
                return new
        parts = []
        for character in cluster:
            new = self.find(character)
            parts.append(character if new is None else new)
        return ''.join(parts)

    def find(self, text):
        """Return the replacement of the shortest beginning of `text` that has one, else None."""
        node = offset(self.unit(0))
        for byte in text.encode():
            node ^= byte
            unit = self.unit(node)
            if byte == 0 or unit & 0x800000ff != byte:
                return None
            node ^= offset(unit)
            if unit & 0x100:
                start = self.unit(node) & 0x7fffffff
                end = self.replacements.find(b'\0', start)
                return self.replacements[start:end].decode(errors='replace')
        return None

    def unit(self, node):
        """Return the unit of a node; 0, which leads nowhere, outside the array."""
        return self.units[node] if node < len(self.units) else 0


def offset(unit):
    """Return the offset in a unit of the double array."""
    return unit >> 10 << 8 if unit & 0x200 else unit >> 10
