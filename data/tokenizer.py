"""Text to ids and back. A tokenizer is small and plain: `meta.json` and every checkpoint carry one as JSON.

    tokenizer = load({'kind': 'characters', 'characters': 'abc'})
    tokenizer.decode(tokenizer.encode('cab'))
"""
from configurator import Refused


class Characters:
    """One id per character of a fixed alphabet."""

    def __init__(self, characters):
        self.characters, self.vocab_size = characters, len(characters)
        self.id = {c: i for i, c in enumerate(characters)}

    def encode(self, text):
        """`text` as a list of ids. Raises Refused for characters outside the alphabet, naming them."""
        strange = sorted(set(text) - set(self.id))
        if strange:
            raise Refused(f'the tokenizer lacks {", ".join(map(repr, strange[:8]))}',
                          f'it has {self.characters!r}')
        return [self.id[c] for c in text]

    def decode(self, ids):
        return ''.join(self.characters[i] for i in ids)

    def begin(self):
        """What stands for the beginning of a text: a new line where there is one."""
        return [self.id.get('\n', 0)]

    def json(self):
        return {'kind': 'characters', 'characters': self.characters}


class Bytes:
    """One id per byte of UTF-8: it knows every text, and a loss per token is one per byte."""
    vocab_size = 256

    def encode(self, text):
        """`text` as a list of ids. Raises Refused if it came from bytes that are no UTF-8."""
        return list(utf8(text))

    def decode(self, ids):
        return bytes(ids).decode('utf-8', errors='replace')

    def begin(self):
        return [ord('\n')]

    def json(self):
        return {'kind': 'bytes'}


def utf8(text):
    """`text` as bytes. Raises Refused if it came from bytes that are no UTF-8."""
    try:
        return text.encode('utf-8')
    except UnicodeEncodeError as error:
        raise Refused(f'expected UTF-8 text, found {text[error.start]!r} at {error.start:,}')


def load(json):
    """The tokenizer that `json` describes; None for None. Raises Refused for a kind not known here."""
    match json:
        case None:
            return None
        case {'kind': 'characters', 'characters': str(characters)}:
            return Characters(characters)
        case {'kind': 'bytes'}:
            return Bytes()
        case {'kind': 'bpe', 'merges': str(merges), 'n_sentinel': int(n_sentinel)}:
            from data import bpe        # here, or it and this file would import each other
            return bpe.load(merges, n_sentinel)
    raise Refused(f'no such tokenizer is known here: {str(json)[:80]}', code=3)
