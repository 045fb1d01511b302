"""data/unigram.py: pieces against all ways to cut a word, ids and texts against the `tokenizers` library."""
import io, itertools, json, math, os, random, re
from pathlib import Path

import pytest

from conftest import ROOT
from core.errors import UserError
from data import pairs, tokenizers, unigram

SPECIAL = ['<pad>', '</s>', '<unk>']
METASPACE = {'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'always', 'split': True}
SPLIT = {'type': 'Sequence', 'pretokenizers': [{'type': 'WhitespaceSplit'}, METASPACE]}
ODD = ['', ' ', '\t\r\n', 'a\tb\u00a0c\u200bd', 'e\u0301 n\u0303 e\u0301\u0302', 'ﬁne ﬂow ﬃ', 'Ｆｕｌｌ　ｗｉｄｔｈ',
       '🙂🙂 a 🙂', '👩‍👩‍👧‍👦 🇫🇷', '▁a▁▁b ▁', 'the<extra_id_0>cat', 'the <extra_id_1>  cat',
       '</s><pad><unk> <extra_id_0>', '日本語 x 中', 'a\0b\x7f\x85\ufeff', '½ ² ㌀ ﷺ',
       '가각 \u1100\u1161\u11a8', 'a' * 1000, 'the  cat   sat', 'शक्ति', '\u0301\u0301a']


def token(i, content, **flags):
    """Return an entry of added_tokens."""
    return {'id': i, 'content': content, 'single_word': False, 'lstrip': False, 'rstrip': False,
            'normalized': False, 'special': True, **flags}


def spec(pieces, added=(), normalizer=None, pre_tokenizer=SPLIT):
    """Return a tokenizer.json with {piece: score} after the three special tokens."""
    vocab = [[name, 0.0] for name in SPECIAL] + [[piece, score] for piece, score in pieces.items()]
    return {'version': '1.0', 'truncation': None, 'padding': None,
            'added_tokens': [*(token(i, name) for i, name in enumerate(SPECIAL)), *added],
            'normalizer': normalizer, 'pre_tokenizer': pre_tokenizer, 'post_processor': None,
            'decoder': METASPACE,
            'model': {'type': 'Unigram', 'unk_id': 2, 'vocab': vocab, 'byte_fallback': False}}


def best_score(word, score, unk_score):
    """Return the largest sum of scores of all ways to cut a word; unk_score is that of unknown characters."""
    best = -math.inf
    for cuts in itertools.product([False, True], repeat=len(word) - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(word)]
        pieces = [word[i:j] for i, j in itertools.pairwise(edges)]
        if all(piece in score or len(piece) == 1 for piece in pieces):
            best = max(best, sum(score.get(piece, unk_score) for piece in pieces))
    return best


# --- pieces

def test_the_pieces_are_the_best_of_all_ways_to_cut_a_word():
    rng = random.Random(0)
    unknown = 0
    for _ in range(60):
        pieces = ['▁' + ''.join(rng.choices('abc', k=rng.randint(0, 3))) for _ in range(9)]
        pieces += [''.join(rng.choices('abc', k=rng.randint(1, 4))) for _ in range(25)]
        pieces = {piece: rng.uniform(-9, -1) for piece in pieces}
        tokenizer = unigram.Unigram(spec(pieces))
        unk_score = min(pieces.values()) - 10
        for _ in range(20):
            word = '▁' + ''.join(rng.choices('aabbcx', k=rng.randint(1, 9)))
            found = [tokenizer.tokens[i] for i in tokenizer.segment(word)]
            pattern = ''.join('.+' if piece == '<unk>' else piece for piece in found)
            assert re.fullmatch(pattern, word) and '.+.+' not in pattern        # unknown neighbours are one
            known = [piece for piece in found if piece != '<unk>']
            n_unknown = len(word) - len(''.join(known))
            score = sum(pieces[piece] for piece in known) + n_unknown * unk_score
            assert score == pytest.approx(best_score(word, pieces, unk_score)), (word, found)
            unknown += n_unknown > 0
    assert 0 < unknown < 1200


def test_worked_examples():
    tokenizer = unigram.Unigram(spec({'▁': -2.0, '▁the': -3.0, '▁c': -3.0, 'at': -3.0, 'a': -5.0, 't': -5.0,
                                      '▁cats': -20.0, 's': -4.0}, [token(11, '<extra_id_0>')]))
    ids = {piece: i for i, piece in enumerate(tokenizer.tokens)}
    assert tokenizer.encode('the cats') == [ids['▁the'], ids['▁c'], ids['at'], ids['s']]     # -10 beats -20
    assert tokenizer.encode('xyz a') == [ids['▁'], 2, ids['▁'], ids['a']]               # one <unk> for three
    assert tokenizer.encode('xay') == [ids['▁'], 2, ids['a'], 2]
    assert tokenizer.encode('the<extra_id_0>the') == [ids['▁the'], 11, ids['▁the']]
    assert tokenizer.vocab_size == 12 and tokenizer.begin() == [1]
    assert tokenizer.encode_all(['the', '']) == [[ids['▁the']], []]


def test_decoding_leaves_out_padding_and_end_and_keeps_sentinels_and_unknowns():
    tokenizer = unigram.Unigram(spec({'▁the': -3.0, '▁cat': -3.0, 's': -4.0}, [token(6, '<extra_id_0>')]))
    assert tokenizer.decode([3, 4, 5, 6, 2, 3, 1, 0, 0]) == 'the cats<extra_id_0><unk> the'
    assert tokenizer.decode([]) == tokenizer.decode([0, 1]) == ''
    assert tokenizer.decode([5, 3, 7, 99]) == 's the'        # a model may have more rows than there are ids


def test_white_space_of_every_kind_and_length_is_one_space():
    tokenizer = unigram.Unigram(spec({'▁a': -1.0, '▁': -2.0}))
    assert tokenizer.encode(' a \t\u00a0\u3000\n a\r\n') == [3, 3]
    assert tokenizer.encode(' \n ') == []


def test_added_tokens_are_found_longest_first_and_may_take_the_white_space_beside_them():
    pieces = {'▁a': -1.0, '▁': -2.0}
    added = [token(5, '<x>', lstrip=True, rstrip=True), token(6, '<x>y')]
    tokenizer = unigram.Unigram(spec(pieces, added, pre_tokenizer=METASPACE))
    assert tokenizer.encode('a  <x>  a') == [3, 5, 3]
    assert tokenizer.encode('a <x>y a') == [3, 4, 6, 3]


def test_a_cached_word_is_not_changed_by_what_a_caller_does_with_its_ids():
    tokenizer = unigram.Unigram(spec({'▁a': -1.0}))
    tokenizer.encode('a').append(7)
    assert tokenizer.encode('a') == [3]


def test_text_that_is_not_utf_8_is_an_error():
    with pytest.raises(UserError, match='expected UTF-8'):
        unigram.Unigram(spec({'▁a': -1.0})).encode('abc \udce9')


# --- as JSON

def test_json_keeps_all_of_it():
    replace = {'type': 'Replace', 'pattern': {'Regex': ' {2,}'}, 'content': '▁'}
    normalizer = {'type': 'Sequence', 'normalizers': [{'type': 'NFKC'}, replace]}
    pieces = {'▁a': -1.0, '"\\ \u2028é': -1 / 3, 'a\n': -1e-300}
    whole = unigram.Unigram(spec(pieces, [token(6, '<x>', lstrip=True)], normalizer, METASPACE))
    back = tokenizers.load(json.loads(json.dumps(whole.json())))
    assert back.json() == whole.json() and back.tokens == whole.tokens and back.scores == whole.scores
    assert not back.splits_at_spaces and back.added['<x>']['lstrip']
    assert back.encode('ａ  a') == whole.encode('ａ  a')


def test_an_older_file_says_add_prefix_space():
    older = spec({'▁a': -1.0})
    old = {'type': 'Metaspace', 'replacement': '▁', 'str_rep': '▁', 'add_prefix_space': True}
    older['pre_tokenizer'] = {'type': 'Sequence', 'pretokenizers': [{'type': 'WhitespaceSplit'}, old]}
    older['decoder'] = old
    assert unigram.Unigram(older).json() == unigram.Unigram(spec({'▁a': -1.0})).json()


@pytest.mark.parametrize('where, key, value, message', [
    ('model', 'type', 'BPE', 'found BPE'), ('model', 'byte_fallback', True, 'byte_fallback'),
    ('model', 'unk_id', None, 'unk_id'), ('model', 'unk_id', 9, 'unk_id'), ('model', 'unk_id', 0, 'unk_id'),
    ('model', 'vocab', [['<s>', 0.0], ['</s>', 0.0], ['<unk>', 0.0]], '<pad> and </s> as ids 0 and 1'),
    ('model', 'vocab', [[name, math.nan] for name in SPECIAL], 'finite'),
    ('decoder', 'prepend_scheme', 'first', 'decoder'), ('pre_tokenizer', 'type', 'ByteLevel', 'ByteLevel')])
def test_what_is_not_like_t5_is_an_error(where, key, value, message):
    other = json.loads(json.dumps(spec({})))
    other[where][key] = value
    if key == 'vocab' and 'ids' in message:
        other['added_tokens'] = []
    with pytest.raises(ValueError, match=message):
        unigram.Unigram(other)


@pytest.mark.parametrize('added', [token(9, '<x>'), token(-1, '<x>'), token(3, ''),
                                   token(3, 'x', single_word=True)])
def test_added_tokens_that_cannot_be_are_an_error(added):
    with pytest.raises(ValueError, match='added token'):
        unigram.Unigram(spec({}, [added]))


# --- against the library

def compare(library, tokenizer, texts):
    """Assert that ids and decoded texts are equal."""
    for text in texts:
        ids = library.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text) == ids, ascii(text)
        kept = [i for i in ids if i > 1]
        assert tokenizer.decode(ids) == library.decode(kept, skip_special_tokens=False), ascii(text)


def random_texts(n):
    """Yield strings of letters, accents, spaces, symbols of many scripts and added tokens."""
    ranges = [range(0x20, 0x250), range(0x300, 0x340), range(0x900, 0x960), range(0x1100, 0x1200),
              range(0x2000, 0x2070), range(0x3040, 0x3100), range(0xfb00, 0xfb10), range(0xff00, 0xffa0),
              range(0x1f1e6, 0x1f1f6), range(0x1f600, 0x1f650)]
    pool = [chr(c) for c in itertools.chain(*ranges)] + ['▁', '\0', '\t', '\r', '\n', '\ufeff', '\U0001f3fb']
    pool += ['the ', ' a', '<extra_id_0>', '<extra_id_1>', '</s>', '<pad>', '<unk>'] * 9
    rng = random.Random(0)
    for _ in range(n):
        yield ''.join(rng.choices(pool, k=rng.randint(1, 12)))


def multi30k(n):
    """Return `n` lines of Multi30k's train, half of them English, half French; skip without the data."""
    folders = [ROOT / 'data/multi30k/raw', Path(os.environ.get('DATA_MIRROR', 'none')) / 'multi30k']
    files = [[folder / f'train.{language}.gz' for language in ('en', 'fr')] for folder in folders]
    for english, french in files:
        if english.exists() and french.exists():
            halves = [itertools.islice(pairs.read_lines(file), n // 2) for file in (english, french)]
            return list(itertools.chain(*halves))
    pytest.skip('Multi30k is not here')


@pytest.mark.parametrize('split', [True, False])
@pytest.mark.parametrize('normalized', [True, False])
def test_ids_and_text_are_those_of_a_unigram_that_the_library_trained(split, normalized):
    library = pytest.importorskip('tokenizers')
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
    own = library.Tokenizer(models.Unigram())
    if normalized:
        replace = normalizers.Replace(library.Regex(' {2,}'), '▁')
        own.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(left=False), replace])
    metaspace = pre_tokenizers.Metaspace(prepend_scheme='always')
    own.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit()] * split + [metaspace])
    own.decoder = decoders.Metaspace(prepend_scheme='always')
    own.post_processor = processors.TemplateProcessing(single='$A </s>', pair='$A </s> $B </s>',
                                                       special_tokens=[('</s>', 1)])
    rng = random.Random(0)
    stems = [''.join(rng.choices('etaoinshr', k=rng.randint(2, 5))) for _ in range(99)]
    text = [' '.join(rng.choice(stems) + rng.choice(['', 's', 'ing']) for _ in range(9)) for _ in range(999)]
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=SPECIAL, unk_token='<unk>',
                                      show_progress=False)
    own.train_from_iterator(text, trainer)
    own.add_special_tokens(['<extra_id_1>', library.AddedToken('<extra_id_0>', lstrip=True, rstrip=True)])
    tokenizer = unigram.load(own.to_str())
    compare(own, tokenizer, [*text, *ODD, *random_texts(3000)])
    assert len(tokenizer.encode(text[0])) < len(text[0]) / 2
    # and the other way round: the library reads what we write, and puts the end there
    back = library.Tokenizer.from_str(tokenizer.tokenizer_json())
    compare(back, tokenizer, [*text[:99], *ODD])
    assert back.encode(text[0]).ids == tokenizer.encode(text[0]) + [1]


def test_ids_and_text_are_those_of_transformers_with_a_model_that_sentencepiece_trained():
    """The vocabulary, the table of replacements (nmt_nfkc) and the sentinels are as in T5's tokenizers."""
    sentencepiece = pytest.importorskip('sentencepiece')
    transformers = pytest.importorskip('transformers')
    proto = pytest.importorskip('sentencepiece.sentencepiece_model_pb2').ModelProto()
    lines = multi30k(10_000)
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=trained, model_type='unigram', vocab_size=2000, pad_id=0,
        eos_id=1, unk_id=2, bos_id=-1, normalization_rule_name='nmt_nfkc', minloglevel=2)
    proto.ParseFromString(trained.getvalue())
    vocab = [(piece.piece, piece.score) for piece in proto.pieces]
    vocab += [(f'<extra_id_{i}>', 0.0) for i in reversed(range(100))]
    charsmap = proto.normalizer_spec.precompiled_charsmap
    whole = transformers.T5Tokenizer(vocab=vocab, _spm_precompiled_charsmap=charsmap)
    tokenizer = unigram.load(whole.backend_tokenizer.to_str())
    compare(whole.backend_tokenizer, tokenizer, [*lines, *ODD, *random_texts(5000)])
    assert tokenizer.encode('<extra_id_0>') == [2099] and tokenizer.vocab_size == 2100
    assert tokenizer.encode(lines[0]) + [1] == whole(lines[0]).input_ids
    assert json.loads(tokenizer.tokenizer_json()) == json.loads(whole.backend_tokenizer.to_str())
    # Other converters leave WhitespaceSplit out and make up for it with two more steps of the normalizer.
    steps = [{'type': 'Strip', 'strip_left': False, 'strip_right': True},
             {'type': 'Replace', 'pattern': {'Regex': ' {2,}'}, 'content': '▁'}]
    described = json.loads(whole.backend_tokenizer.to_str())
    described['normalizer'] = {'type': 'Sequence', 'normalizers': [described['normalizer'], *steps]}
    described['pre_tokenizer'] = METASPACE
    library = pytest.importorskip('tokenizers').Tokenizer.from_str(json.dumps(described))
    compare(library, unigram.Unigram(described), [*lines[::10], *ODD, *random_texts(5000)])
    # On plain sentences SentencePiece itself gives these ids, too.
    original = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    assert [original.encode(line) for line in lines[:1000]] == tokenizer.encode_all(lines[:1000])
