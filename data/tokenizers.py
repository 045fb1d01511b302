"""Tokenizers: from text to ids and back. They are small: meta.json and every checkpoint hold one as JSON.

    tokenizer = load({'kind': 'characters', 'characters': 'abc'})
    tokenizer.decode(tokenizer.encode('cab'))       # 'cab'

Characters, Bytes and Words are here, byte pair encoding is in bpe.py, GPT-2's in gpt2_bpe.py, T5's in
unigram.py.
"""
from core.errors import UserError
from data import bpe, gpt2_bpe, unigram

UNKNOWN, END_OF_LINE = '<unk>', '<eos>'


class Characters:
    """One id per character of a fixed alphabet."""

    def __init__(self, characters):
        self.characters = characters
        self.vocab_size = len(characters)
        self.id = {character: i for i, character in enumerate(characters)}

    def encode(self, text):
        """Return `text` as a list of ids. Raises UserError that names characters outside the alphabet."""
        unknown = sorted(set(text) - set(self.id))
        if unknown:
            names = ', '.join(repr(character) for character in unknown[:8])
            others = f' and {len(unknown) - 8:,} others' if len(unknown) > 8 else ''
            rest = ' ...' if self.vocab_size > 100 else ''          # there may be thousands
            raise UserError(f'the tokenizer lacks {names}{others}',
                            f'it has {self.vocab_size:,} characters: {self.characters[:100]!r}{rest}')
        return [self.id[character] for character in text]

    def decode(self, ids):
        """Return the text of `ids`."""
        return ''.join(self.characters[i] for i in ids)

    def begin(self):
        """Return the ids that stand for the beginning of a text: a new line where there is one."""
        return [self.id.get('\n', 0)]

    def json(self):
        """Return what `load` makes the tokenizer from."""
        return {'kind': 'characters', 'characters': self.characters}


class Bytes:
    """One id per byte of UTF-8: every text can be encoded, and a loss per token is one per byte."""
    vocab_size = 256

    def encode(self, text):
        """Return `text` as a list of ids. Raises UserError if it comes from bytes that are not UTF-8."""
        return list(bpe.to_utf8(text))

    def decode(self, ids):
        """Return the text of `ids`; U+FFFD stands for bytes that are not UTF-8."""
        return bytes(ids).decode('utf-8', errors='replace')

    def begin(self):
        """Return the ids that stand for the beginning of a text: a new line."""
        return [ord('\n')]

    def json(self):
        """Return what `load` makes the tokenizer from."""
        return {'kind': 'bytes'}


class Words:
    """One id per word, as in WikiText-2: words are separated by spaces, and the end of a line is '<eos>'.

    words: the vocabulary, with '<unk>', which stands for every other word, and '<eos>'.
    """

    def __init__(self, words):
        self.words = words
        self.vocab_size = len(words)
        self.id = {word: i for i, word in enumerate(words)}

    def encode(self, text):
        """Return `text` as a list of ids: its words, and '<eos>' for each new line."""
        unknown = self.id[UNKNOWN]
        ids = []
        for line in text.split('\n'):
            ids += [self.id.get(word, unknown) for word in line.split()]
            ids.append(self.id[END_OF_LINE])
        return ids[:-1]                             # what follows the last new line is not ended

    def encode_all(self, texts):
        """Return a list of ids for each of `texts`."""
        return [self.encode(text) for text in texts]

    def decode(self, ids):
        """Return the text of `ids` as WikiText-2 has it: a space before each word and each new line."""
        words = [self.words[i] for i in ids]
        return ''.join(' \n' if word == END_OF_LINE else f' {word}' for word in words)

    def begin(self):
        """Return the ids that stand for the beginning of a text: the end of a line."""
        return [self.id[END_OF_LINE]]

    def json(self):
        """Return what `load` makes the tokenizer from."""
        return {'kind': 'words', 'words': ' '.join(self.words)}


def load(json):
    """Return the tokenizer that `json` describes; None for None. Raises UserError for an unknown kind."""
    match json:
        case None:
            return None
        case {'kind': 'characters', 'characters': str(characters)}:
            return Characters(characters)
        case {'kind': 'bytes'}:
            return Bytes()
        case {'kind': 'words', 'words': str(words)}:
            return Words(words.split(' '))
        case {'kind': 'gpt2', 'vocab_bpe': str(text)}:
            return gpt2_bpe.load(text)
        case {'kind': 'bpe', 'merges': str(merges), 'n_sentinel': int(n_sentinel)}:
            lowercase = json.get('lowercase', False)        # older data sets do not have it
            return bpe.load(merges, n_sentinel, lowercase)
        case {'kind': 'unigram', 'tokenizer_json': str(text)}:
            return unigram.load(text)
    raise UserError(f'no such tokenizer is known here: {str(json)[:80]}', code=3)
