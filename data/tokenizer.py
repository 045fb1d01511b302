"""Text to ids and back. A tokenizer is small and plain: `meta.json` and every checkpoint carry one as JSON.

    tokenizer = load({'kind': 'characters', 'characters': 'abc'})
    tokenizer.decode(tokenizer.encode('cab'))
"""
from configurator import Refused


class Characters:
    """One id per character of a fixed alphabet."""

    def __init__(self, characters):
        self.characters = characters
        self.id = {c: i for i, c in enumerate(characters)}
        self.vocab_size = len(characters)

    def encode(self, text):
        """`text` as a list of ids. Raises Refused for characters outside the alphabet, naming them."""
        strange = sorted(set(text) - set(self.id))
        if strange:
            raise Refused(f'the tokenizer lacks {", ".join(map(repr, strange[:8]))}; it has {self.characters!r}')
        return [self.id[c] for c in text]

    def decode(self, ids):
        return ''.join(self.characters[i] for i in ids)

    def json(self):
        return {'kind': 'characters', 'characters': self.characters}


class Bytes:
    """One id per byte of UTF-8: knows every text, and a loss in bits per token is one in bits per byte."""
    vocab_size = 256

    def encode(self, text):
        return list(text.encode('utf-8'))

    def decode(self, ids):
        return bytes(ids).decode('utf-8', errors='replace')

    def json(self):
        return {'kind': 'bytes'}


def load(json):
    """The tokenizer that `json` describes; None where there is none."""
    if json is None:
        return None
    if json.get('kind') == 'characters':
        return Characters(json['characters'])
    if json.get('kind') == 'bytes':
        return Bytes()
    raise Refused(f'a tokenizer of kind {json.get("kind")!r} is not known here: characters, bytes', code=3)
