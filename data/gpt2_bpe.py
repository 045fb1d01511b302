"""GPT-2's byte pair encoding, with its 50,257 ids (Radford et al. 2019): the file vocab.bpe is all it takes.

    tokenizer = load(fetch_vocabulary())
    tokenizer.encode('Hello world')         # [15496, 995]; meta.json keeps tokenizer.json()

A Hugging Face folder has the same merges in tokenizer.json or merges.txt, and the ids beside them.

    id    0 ... 255   256 ... 50255                  50256
          the bytes   the merges, in their order     <|endoftext|>

bpe.py explains the method. tiktoken does the encoding, from a file whose hash is checked first.
"""
import json

import tiktoken

from data import bpe
from data.download import fetch

URL = 'https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe'
END = '<|endoftext|>'
BYTE_LEVEL = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': True}
TOKENIZER_JSON = {          # what is the same in every tokenizer.json of this kind
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'normalizer': None,
    'pre_tokenizer': BYTE_LEVEL,
    'post_processor': BYTE_LEVEL,
    'decoder': BYTE_LEVEL,
    'model': {
        'type': 'BPE',
        'dropout': None,
        'unk_token': None,
        'continuing_subword_prefix': '',
        'end_of_word_suffix': '',
        'fuse_unk': False,
        'byte_fallback': False,
    },
}
END_TOKEN = {
    'content': END,
    'single_word': False,
    'lstrip': False,
    'rstrip': False,
    'normalized': False,
    'special': True,
}
SHA256 = '1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5'


def byte_order():
    """Return {character in vocab.bpe: byte}, in the order of the ids 0 ... 255.

    In vocab.bpe a byte is a printable character: its own in Latin-1, or the next one from U+0100 on.
    """
    printable = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != ' ']
    others = [byte for byte in range(256) if byte not in printable]
    characters = {chr(byte): byte for byte in printable}
    characters |= {chr(256 + i): byte for i, byte in enumerate(others)}
    return characters


class GPT2:
    """The tokenizer. vocab_bpe: the text of vocab.bpe, a version and then a merge per line, 'Ġt he'."""

    def __init__(self, vocab_bpe):
        self.vocab_bpe = vocab_bpe
        byte_of = byte_order()
        self.tokens = [bytes([byte]) for byte in byte_of.values()]      # id -> its bytes
        for merge in vocab_bpe.strip().split('\n')[1:]:
            characters = merge.replace(' ', '')
            self.tokens.append(bytes(byte_of[character] for character in characters))
        ranks = {token: i for i, token in enumerate(self.tokens)}
        self.encoding = tiktoken.Encoding('gpt2', pat_str=bpe.WORD, mergeable_ranks=ranks, special_tokens={})
        self.end = len(self.tokens)                                     # the id of <|endoftext|>
        self.tokens.append(END.encode())
        self.vocab_size = len(self.tokens)

    def encode(self, text):
        """Return `text` as a list of ids; '<|endoftext|>' is text like any other.

        The ids are GPT-2's unless more than 100 blanks follow each other. Raises UserError if the text comes
        from bytes that are not UTF-8.
        """
        bpe.to_utf8(text)
        return self.encoding.encode_ordinary(text)

    def encode_all(self, texts):
        """Return a list of ids for each of `texts`."""
        return [self.encode(text) for text in texts]

    def decode(self, ids):
        """Return the text of `ids`, U+FFFD for what is not UTF-8, nothing for ids from vocab_size on."""
        tokens = [self.tokens[i] for i in ids if i < self.vocab_size]
        return b''.join(tokens).decode('utf-8', errors='replace')

    def begin(self):
        """Return the ids that stand for the beginning of a text: the end of the one before it."""
        return [self.end]

    def json(self):
        """Return what `tokenizers.load` makes the tokenizer from."""
        return {'kind': 'gpt2', 'vocab_bpe': self.vocab_bpe}

    def vocabulary(self):
        """Return {token: id} of all ids. A byte of a token is the character that vocab.bpe has for it."""
        character_of = {byte[0]: character for byte, character in zip(self.tokens, byte_order())}
        vocabulary = {}
        for i, token in enumerate(self.tokens[:self.end]):
            vocabulary[''.join(character_of[byte] for byte in token)] = i
        return vocabulary | {END: self.end}

    def tokenizer_json(self):
        """Return the text of a tokenizer.json for the libraries."""
        merges = self.vocab_bpe.strip().split('\n')[1:]
        model = dict(TOKENIZER_JSON['model'])
        model['vocab'] = self.vocabulary()
        model['merges'] = [merge.split(' ') for merge in merges]
        spec = dict(TOKENIZER_JSON)
        spec['model'] = model
        spec['added_tokens'] = [END_TOKEN | {'id': self.end}]
        return json.dumps(spec, ensure_ascii=False, separators=(',', ':'))


def load(vocab_bpe):
    """Return the tokenizer that the text of a vocab.bpe describes."""
    return GPT2(vocab_bpe)


def from_tokenizer_json(spec):
    """Return the tokenizer of a tokenizer.json. Raises ValueError if it is not one like GPT-2's."""
    steps = spec['pre_tokenizer']
    is_gpt2 = steps['type'] == 'ByteLevel' and not steps['add_prefix_space'] and steps.get('use_regex', True)
    if spec['normalizer'] or not is_gpt2:
        raise ValueError('expected a ByteLevel pre_tokenizer without add_prefix_space and no normalizer')
    merges = [merge if isinstance(merge, str) else ' '.join(merge) for merge in spec['model']['merges']]
    added = {token['content']: token['id'] for token in spec['added_tokens']}
    return from_merges(merges, spec['model']['vocab'] | added)


def from_merges(merges, vocabulary):
    """Return the tokenizer of merges, ['Ġ t', ...], whose ids are {token: id} in another file.

    Raises ValueError if the two do not match, with the first token for which they do not.
    """
    tokenizer = GPT2('\n'.join(['#version: 0.2', *merges]) + '\n')
    expected = tokenizer.vocabulary()
    for token in [*expected, *vocabulary]:
        if vocabulary.get(token) != expected.get(token):
            raise ValueError(f'the merges and the ids do not match: expected {token!r} to be '
                             f'{expected.get(token)}, found {vocabulary.get(token)}')
    return tokenizer


def fetch_vocabulary():
    """Return the text of GPT-2's vocab.bpe, from data/gpt2/raw/, DATA_MIRROR or its official host."""
    return fetch('gpt2', 'vocab.bpe', [URL], SHA256).read_text(encoding='utf-8')
