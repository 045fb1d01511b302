"""The unigram tokenizer of T5: of all ways to cut a word into pieces, take the most probable one.

Kudo (2018), "Subword Regularization", https://arxiv.org/abs/1804.10959: every piece has a log-probability,
and a word is cut where their sum is largest, which Viterbi's algorithm finds. SentencePiece trains such
models, and Raffel et al. (2020), "Exploring the Limits of Transfer Learning", made T5's with it.

    added tokens are cut out        'Ｔhe  cats <extra_id_0>' -> 'Ｔhe  cats ', <extra_id_0>
    the text is normalised          'The  cats '
    words, with ▁ for the space     '▁The', '▁cats'
    pieces                          '▁The', '▁cat', 's'

The description of a tokenizer is the tokenizer.json of a Hugging Face folder, and the ids are those that the
`tokenizers` library gives (tested), except that no </s> is appended: here as everywhere, whoever stores a row
does that.
"""
import functools
import json
import math
import re

import regex        # for Unicode's white space; comes with tiktoken

from data import normalization
from data.bpe import to_utf8

SPACE = '▁'                             # U+2581 stands for the space before a word
WORD = re.compile(f'{SPACE}[^{SPACE}]*')
NOT_SPACES = regex.compile(r'\S+')
SPACES = regex.compile(r'\s*')
UNKNOWN_PENALTY = 10                    # an unknown character scores this much less than the rarest piece
PAD, END = '<pad>', '</s>'              # ids 0 and 1


class Unigram:
    """The tokenizer. `spec` is the content of a tokenizer.json.

    Raises ValueError for what T5's tokenizers do not have, and LookupError, TypeError or AttributeError for
    what is not a tokenizer.json.
    """

    def __init__(self, spec):
        check_parts(spec)
        self.added_tokens = spec['added_tokens']
        self.normalizer = spec['normalizer']
        self.splits_at_spaces = splits_at_spaces(spec['pre_tokenizer'])
        self.pieces = [(str(piece), float(score)) for piece, score in spec['model']['vocab']]
        self.unk_id = spec['model']['unk_id']

        self.normalize = normalization.to_function(self.normalizer)
        self.scores = [score for _, score in self.pieces]               # log-probabilities
        self.unk_score = min(self.scores) - UNKNOWN_PENALTY
        self.tokens = [piece for piece, _ in self.pieces]               # id -> its text
        self.id = {piece: i for i, piece in enumerate(self.tokens)}
        self.longest = max(map(len, self.tokens))                       # characters
        self.added = {token['content']: token for token in self.added_tokens}
        for token in sorted(self.added_tokens, key=lambda token: token['id']):
            i = token['id']                                             # of a piece, or the next one
            self.tokens[i:i + 1] = [token['content']]
        self.vocab_size = len(self.tokens)
        check_ids(self)
        longest_first = sorted(self.added, key=len, reverse=True)
        self.added_pattern = re.compile('|'.join(map(re.escape, longest_first)) or '(?!)')
        self.segment = functools.lru_cache(2**18)(self.segment)         # a text repeats most of its words

    def encode(self, text):
        """Return `text` as a list of ids, without an end.

        An added token in the text, '</s>' and '<extra_id_0>' too, becomes its id, as in the library. Raises
        UserError if the text comes from bytes that are not UTF-8.
        """
        to_utf8(text)
        ids = []
        start = 0                                   # of what is not encoded yet
        for match in self.added_pattern.finditer(text):
            token = self.added[match[0]]
            before = text[start:match.start()]
            start = match.end()
            if token['lstrip']:                     # the token takes the white space to its left
                before = before.rstrip()
            if token['rstrip']:
                start = SPACES.match(text, start).end()
            ids += self.encode_words(before)
            ids.append(token['id'])
        return ids + self.encode_words(text[start:])

    def encode_all(self, texts):
        """Return a list of ids for each of `texts`."""
        return [self.encode(text) for text in texts]

    def encode_words(self, text):
        """Return the ids of a text without added tokens."""
        text = self.normalize(text)
        if self.splits_at_spaces:
            words = NOT_SPACES.findall(text)        # a run of white space of any kind is one space
        else:
            words = [text.replace(' ', SPACE)] if text else []
        marked = [word if word.startswith(SPACE) else SPACE + word for word in words]
        ids = []
        for word in WORD.findall(''.join(marked)):
            ids += self.segment(word)
        return ids

    def segment(self, word):
        """Return the ids of the most probable pieces of a word, by Viterbi's algorithm.

        A character that is no piece is unknown; unknown neighbours are one <unk>.
        """
        n = len(word)
        best = [0.0] + [-math.inf] * n      # best[j]: the score of the best pieces of word[:j]
        last = [(0, 0)] * (n + 1)           # last[j]: where the last of them starts, and its id
        for i in range(n):
            for j in range(i + 1, min(i + self.longest, n) + 1):
                piece = self.id.get(word[i:j])
                if piece is not None:
                    score = best[i] + self.scores[piece]
                elif j == i + 1:
                    piece = self.unk_id
                    score = best[i] + self.unk_score
                else:
                    continue
                if score > best[j]:
                    best[j] = score
                    last[j] = i, piece
        ids = []
        end = n
        while end > 0:                      # from the last piece back to the first
            end, piece = last[end]
            if piece != self.unk_id or ids[-1:] != [piece]:
                ids.append(piece)
        return tuple(reversed(ids))

    def decode(self, ids):
        """Return the text of `ids`, nothing for padding, end and ids beyond the vocabulary."""
        tokens = [self.tokens[i] for i in ids if 1 < i < self.vocab_size]
        first = ''.join(tokens[:1]).replace(SPACE, '')          # a text begins without a space
        return first + ''.join(tokens[1:]).replace(SPACE, ' ')

    def begin(self):
        """Return the ids that stand for the beginning of a text: the end of the one before it."""
        return [1]

    def json(self):
        """Return what `load` makes the tokenizer from: the text of its tokenizer.json."""
        return {'kind': 'unigram', 'tokenizer_json': self.tokenizer_json()}

    def tokenizer_json(self):
        """Return the text of a tokenizer.json for the libraries, which appends </s> to every text there."""
        metaspace = {'type': 'Metaspace', 'replacement': SPACE, 'prepend_scheme': 'always', 'split': True}
        steps = [{'type': 'WhitespaceSplit'}] if self.splits_at_spaces else []
        text = {'Sequence': {'id': 'A', 'type_id': 0}}
        second = {'Sequence': {'id': 'B', 'type_id': 0}}
        end = {'SpecialToken': {'id': END, 'type_id': 0}}
        template = {'type': 'TemplateProcessing', 'single': [text, end], 'pair': [text, end, second, end],
                    'special_tokens': {END: {'id': END, 'ids': [1], 'tokens': [END]}}}
        model = {'type': 'Unigram', 'unk_id': self.unk_id, 'vocab': self.pieces, 'byte_fallback': False}
        spec = {'version': '1.0', 'truncation': None, 'padding': None, 'added_tokens': self.added_tokens,
                'normalizer': self.normalizer,
                'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': [*steps, metaspace]},
                'post_processor': template, 'decoder': metaspace, 'model': model}
        return json.dumps(spec, ensure_ascii=False, separators=(',', ':'))


def load(text):
    """Return the tokenizer that the text of a tokenizer.json describes."""
    return Unigram(json.loads(text))


# --- what T5's tokenizers are

def splits_at_spaces(spec):
    """Return whether a `pre_tokenizer` of tokenizer.json has WhitespaceSplit before its Metaspace."""
    steps = spec['pretokenizers'] if spec['type'] == 'Sequence' else [spec]
    kinds = [step['type'] for step in steps]
    if kinds not in (['WhitespaceSplit', 'Metaspace'], ['Metaspace']):
        raise ValueError(f'pre_tokenizer: expected WhitespaceSplit and Metaspace, found {", ".join(kinds)}')
    check_metaspace('pre_tokenizer', steps[-1])
    return len(steps) == 2


def check_metaspace(name, spec):
    """Raise ValueError unless a Metaspace puts ▁ before every text and divides text at each ▁."""
    prepend = spec.get('prepend_scheme')
    if prepend is None and spec.get('add_prefix_space'):        # in older files
        prepend = 'always'
    found = spec['type'], spec['replacement'], prepend, spec.get('split', True)
    expected = 'Metaspace', SPACE, 'always', True
    if found != expected:
        raise ValueError(f'{name}: expected type, replacement, prepend_scheme and split {expected}, '
                         f'found {found}')


def check_parts(spec):
    """Raise ValueError for a model, a decoder or added tokens that T5's tokenizers do not have."""
    model = spec['model']
    if model['type'] != 'Unigram' or model.get('byte_fallback'):
        raise ValueError(f'model: expected Unigram without byte_fallback, found {model["type"]}')
    check_metaspace('decoder', spec['decoder'])
    for token in spec['added_tokens']:
        normalized = token['normalized'] and spec['normalizer'] is not None
        if token['single_word'] or normalized or not token['content']:
            raise ValueError(f'added token {token["content"]!r}: expected text that is neither normalized '
                             'nor a single_word')


def check_ids(tokenizer):
    """Raise ValueError unless ids and scores are what encoding, decoding and the readers of rows expect."""
    n = len(tokenizer.pieces)
    if tokenizer.tokens[:2] != [PAD, END]:
        raise ValueError(f'expected {PAD} and {END} as ids 0 and 1, found {tokenizer.tokens[:2]}')
    if type(tokenizer.unk_id) is not int or not 1 < tokenizer.unk_id < n:
        raise ValueError(f'unk_id: expected an id from 2 to {n - 1}, found {tokenizer.unk_id!r}')
    if not all(map(math.isfinite, tokenizer.scores)):
        raise ValueError('vocab: expected finite scores')
    for token in tokenizer.added_tokens:
        i = token['id']
        if tokenizer.tokens[i:i + 1] != [token['content']]:
            raise ValueError(f'added token {token["content"]!r}: expected an id of its own, found {i}')
