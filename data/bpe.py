r"""Byte-level byte pair encoding (BPE): words from pieces that the text itself suggests.

Sennrich, Haddow and Birch (2016), https://arxiv.org/abs/1508.07909: begin with single symbols; again and
again, make the most frequent pair of neighbours a symbol of its own. Radford et al. (2019), "Language Models
are Unsupervised Multitask Learners": let the first symbols be the 256 bytes, and every text can be encoded.
Training is ours and a page long; encoding is tiktoken's, which needs only the tokens in their order.

    tokenizer = train(open('text.txt', encoding='utf-8'), vocab_size=16_000)
    tokenizer.decode(tokenizer.encode('naïve'))         # 'naïve'; meta.json keeps tokenizer.json()

    id    0         1     2 ... 257   258 ...                           ... vocab_size - 1
          padding   end   the bytes   the merges, most frequent first   sentinels (T5's), the last first
"""
import heapq
from collections import Counter, defaultdict
from urllib.parse import quote, unquote_to_bytes

import regex        # for \p{L}; comes with tiktoken, which needs it too
import tiktoken

from core.errors import UserError

# A merge never crosses from one word to the next. A word is GPT-2's: an English ending, letters, digits or
# signs, each with the space before it, or other white space. The 100 is ours: tiktoken's stack overflows
# on a million blanks. Letters newer than either module's Unicode count as signs: other cuts, the same text.
WORD = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s{1,100}(?!\S)|\s"
SPECIAL = 2                                     # padding and end: no text is encoded as one of them
BYTES = [bytes([i]) for i in range(256)]


class BPE:
    """The tokenizer. `merges` are the tokens longer than a byte, as bytes, in the order they were learned.

    lowercase: whether texts are encoded in lower case, so that 'Good' and 'good' are one word.
    """

    def __init__(self, merges, n_sentinel=0, lowercase=False):
        self.merges = merges
        self.n_sentinel = n_sentinel
        self.lowercase = lowercase
        self.tokens = [b''] * SPECIAL + BYTES + merges          # id -> its bytes
        ranks = {token: i for i, token in enumerate(self.tokens) if token}      # a rank may begin at 2
        self.vocab_size = len(self.tokens) + n_sentinel
        sentinels = {f'<extra_id_{i}>': self.vocab_size - 1 - i for i in reversed(range(n_sentinel))}
        self.tokens += [name.encode() for name in sentinels]
        self.encoding = tiktoken.Encoding('bpe', pat_str=WORD, mergeable_ranks=ranks,
                                          special_tokens=sentinels)

    def encode(self, text):
        """Return `text` as a list of ids, without an end.

        A sentinel such as '<extra_id_0>' becomes its id; other text is encoded as it is, '<|endoftext|>' too.
        Raises UserError if it comes from bytes that are not UTF-8.
        """
        to_utf8(text)                           # tiktoken would put U+FFFD there without a word
        if self.lowercase:
            text = text.lower()
        return self.encoding.encode(text, allowed_special='all')

    def encode_all(self, texts):
        """Return a list of ids for each of `texts`.

        In one thread: tiktoken's encode_ordinary_batch hands every text to a pool of threads, which takes
        longer than to encode a line.
        """
        return [self.encode(text) for text in texts]

    def decode(self, ids):
        """Return the text of `ids`, nothing for padding and end, U+FFFD for what is not UTF-8."""
        return b''.join(self.tokens[i] for i in ids).decode('utf-8', errors='replace')

    def begin(self):
        """Return the ids that stand for the beginning of a text: a new line."""
        return self.encode('\n')

    def json(self):
        """Return what `load` makes the tokenizer from; the merges as in a URL: '%20t he %20the'."""
        merges = ' '.join(quote(token) for token in self.merges)
        return {'kind': 'bpe', 'merges': merges, 'n_sentinel': self.n_sentinel, 'lowercase': self.lowercase}


def load(merges, n_sentinel, lowercase):
    """Return the tokenizer that another one's `json` describes."""
    return BPE([unquote_to_bytes(token) for token in merges.split()], n_sentinel, lowercase)


def to_utf8(text):
    """Return `text` as bytes. Raises UserError if it comes from bytes that are not UTF-8."""
    try:
        return text.encode('utf-8')
    except UnicodeEncodeError as error:
        raise UserError(f'expected UTF-8 text, found {text[error.start]!r} at {error.start:,}')


def train(texts, vocab_size, n_sentinel=0, lowercase=False):
    """Return a BPE of `vocab_size` ids in total, learned from an iterable of strings such as lines.

    lowercase: whether texts are taken in lower case, here and by the tokenizer. Only the words and their
    counts are kept, not the strings. If no pair is left that occurs twice, the vocabulary is smaller, which
    is printed. Raises UserError if there is no room for the bytes, and for text that is not UTF-8.
    """
    n_merge = vocab_size - SPECIAL - len(BYTES) - n_sentinel
    if n_merge < 0:
        raise UserError(f'vocab_size={vocab_size}: expected at least {vocab_size - n_merge}, which are '
                        f'{SPECIAL} for padding and end, 256 bytes and {n_sentinel} sentinels')
    pattern = regex.compile(WORD)
    words = Counter()
    for text in texts:
        words.update(pattern.findall(text.lower() if lowercase else text))
    merges = learn({to_utf8(word): count for word, count in words.items()}, n_merge)
    if len(merges) < n_merge:
        found = vocab_size - n_merge + len(merges)
        print(f'no pair is left that occurs twice: {len(merges):,} merges instead of {n_merge:,}, and '
              f'{found:,} ids')
    return BPE(merges, n_sentinel, lowercase)


def learn(words, n_merge):
    """Return `n_merge` merges, as bytes, of {word: count}, words as bytes; fewer if no pair occurs twice.

    Each is the pair of neighbours with the highest count. Ties go to the pair whose left token is older, then
    to the one whose right token is (bytes, by value, come before merges), so that nothing matters but the
    counts. 'aaa' counts as two of 'aa'. A word is a str with one character per token, chr(its index in
    `tokens`). So a merge is str.replace, from left to right as in encoding, and the rule for ties is the
    order of strings.
    """
    tokens = list(BYTES)
    counts = list(words.values())
    words = [word.decode('latin-1') for word in words]
    count = Counter()               # of each pair
    where = defaultdict(list)       # of each pair: indices of the words that it is or was in
    for i, word in enumerate(words):
        for pair in pairs(word):
            count[pair] += counts[i]
            where[pair].append(i)
    # Once the younger of its tokens is made, a pair only becomes rarer: what the heap holds is at least its
    # count. So it is looked at only when it comes to the top, and put back if it was too high.
    heap = [(-n, pair) for pair, n in count.items()]
    heapq.heapify(heap)
    while len(tokens) < len(BYTES) + n_merge and heap and heap[0][0] <= -2:
        n, pair = heap[0]
        if -n > count[pair]:
            heapq.heapreplace(heap, (-count[pair], pair))
            continue
        heapq.heappop(heap)
        new = chr(len(tokens))
        tokens.append(tokens[ord(pair[0])] + tokens[ord(pair[1])])
        made = set()                                # pairs with the new token
        for i in set(where.pop(pair)):              # of 16,000 merges a word is touched by a handful
            old = words[i]
            words[i] = old.replace(pair, new)
            if old == words[i]:
                continue                            # another merge took the pair
            for lost in pairs(old):
                count[lost] -= counts[i]
            for kept in pairs(words[i]):
                count[kept] += counts[i]
                if new in kept:
                    where[kept].append(i)
                    made.add(kept)
        for pair in made:
            heapq.heappush(heap, (-count[pair], pair))
    return tokens[len(BYTES):]


def pairs(word):
    """Return the pairs of neighbours, 'abc' -> ['ab', 'bc']."""
    return [left + right for left, right in zip(word, word[1:])]
