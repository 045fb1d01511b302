"""Translation data sets from archives made here: what is kept, held out, left out and refused."""
import gzip, hashlib, io, os, re, tarfile, zipfile
from collections import Counter

import numpy as np
import pytest

import data
from configurator import Refused
from data import bpe, pairs, tokenizer

NASTY = ['', ' two  blanks ', 'tab\tand\u2028line\u0085separators\x0c', '\ufeffmark',
         'l’été\u202f! naïve', '😀 日本語', '<|endoftext|>', "it's 12,345 &amp; \x00"]
real = pytest.mark.skipif('DATA_MIRROR' not in os.environ,
                          reason='DATA_MIRROR is not set: no real data to test on')


@pytest.fixture
def prepare(launch, tmp_path):
    """prepare('multi30k', {'multi30k/train.en.gz': bytes}, ...): what the script says with such a mirror."""
    def prepare(name, files, *argv, code=0, out='out'):
        sums = ''
        for file, body in files.items():
            (tmp_path / 'mirror' / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / 'mirror' / file).write_bytes(body)
            sums += f'{hashlib.sha256(body).hexdigest()}  {file}\n'
        (tmp_path / 'mirror').mkdir(exist_ok=True)
        (tmp_path / 'mirror/SHA256SUMS').write_text(sums, encoding='utf-8')
        found, text = launch(f'data/{name}/prepare.py', f'--out={tmp_path}/{out}', '--vocab_size=300', *argv,
                             env={'DATA_MIRROR': f'{tmp_path}/mirror', 'PATCH': 'test_pictures.elsewhere',
                                  'ELSEWHERE': str(tmp_path)})
        assert found == code and 'Traceback' not in text, text
        assert code == 0 or not (tmp_path / out / 'meta.json').exists()
        return text
    return prepare


def rows(path, split):
    """[(ids of src, ids of tgt), ...] of a split, its hashes verified, and its tokenizer."""
    meta, sides = data.check(str(path), hashes=True), []
    for field in 'src', 'tgt':
        flat = np.fromfile(f'{path}/{split}.{field}.bin', meta['splits'][split][field]['dtype'])
        offsets = np.fromfile(f'{path}/{split}.{field}.offsets.bin', '<i8')
        sides.append([row.tolist() for row in np.split(flat, offsets[1:-1])])
    return list(zip(*sides)), tokenizer.load(meta['tokenizer'])


def texts(path, split):
    """[(src, tgt), ...] of a split, decoded after a proof that each row has a 1, at its end, and no 0."""
    found, bpe = rows(path, split)
    assert all(ids[-1] == 1 and min(ids[:-1], default=2) > 1 for pair in found for ids in pair)
    return [tuple(map(bpe.decode, pair)) for pair in found]


def body(lines):
    return ''.join(line + '\n' for line in lines).encode()


def both(path, pairs):
    """Write two files of lines."""
    for side, lines in zip(('en', 'fr'), zip(*pairs)):
        path.with_suffix(f'.{side}').write_bytes(body(lines))
    return path.with_suffix('.en'), path.with_suffix('.fr')


# --- files

@pytest.mark.parametrize('blob, expected', [
    (b'a\nb\n', ['a', 'b']), (b'a\r\n\r\nb', ['a', '', 'b']), (b'', []), (b'\xef\xbb\xbfa\n', ['a']),
    (body(NASTY), NASTY), (b' a \rb\n', [' a \rb'])])
@pytest.mark.parametrize('name', ['x.en', 'x.en.gz'])
def test_lines_are_as_they_are_but_for_their_ends(tmp_path, name, blob, expected):
    (tmp_path / name).write_bytes(gzip.compress(blob) if name.endswith('gz') else blob)
    assert list(pairs.lines(tmp_path / name)) == expected


@pytest.mark.parametrize('name, blob, words', [
    ('x.en', b'a\nb\n\xff\n', 'x.en: line 3: expected UTF-8 text, found byte 0xff'),
    ('x.en', b'\xef\xbb\xbfab\xe9', 'x.en: line 1: .*0xe9'), ('x.en', None, 'x.en: No such file'),
    ('x.gz', b'a\n', 'x.gz: Not a gzipped file'),
    ('x.gz', gzip.compress(bytes(99))[:-9], 'x.gz: .*ended before'),
    ('x.gz', gzip.compress(bytes(99))[:10] + b'\xff' * 20, 'x.gz: Error')])
def test_what_is_no_text_is_refused_by_name(tmp_path, name, blob, words):
    if blob is not None:
        (tmp_path / name).write_bytes(blob)
    with pytest.raises(Refused, match=words) as refused:
        list(pairs.lines(tmp_path / name))
    assert refused.value.code == 3


@pytest.mark.parametrize('n, m', [(3, 5), (5, 3), (0, 1)])
def test_files_of_unequal_length_are_refused_with_both_counts(tmp_path, n, m):
    (tmp_path / 'x.en').write_bytes(b'a\n' * n), (tmp_path / 'x.fr').write_bytes(b'b\n' * m)
    with pytest.raises(Refused, match=f'x.en has {n} lines, .*x.fr has {m} lines') as refused:
        list(pairs.parallel(tmp_path / 'x.en', tmp_path / 'x.fr'))
    assert refused.value.code == 3


# --- what is held out, what is left out

@pytest.mark.parametrize('pair, reason', [
    (('a cat', 'un chat'), 'kept'), ((' a dog\u202f', '\tun chien'), 'kept'), (('', 'un'), 'empty'),
    (('a', ' \u00a0 '), 'empty'), (('x' * 20, 'y' * 20), 'kept'), (('x' * 20, 'y' * 21), 'too long'),
    (('x' * 21, 'y' * 20), 'too long'), (('abc', 'd' * 9), 'kept'), (('abc', 'd' * 10), 'unlike in length'),
    (('abcdefghij', 'def'), 'unlike in length'), (('a fox ', 'le renard'), 'in val or test'),
    (('A fox', 'un renard'), 'kept'), (('the hen', 'la poule '), 'duplicate'),
    (('the hen', 'une poule'), 'kept')])
def test_each_reason_to_leave_a_pair_out(pair, reason):
    count, seen = Counter(), {pairs.hashed('the hen\nla poule')}
    kept = list(pairs.clean([pair], {pairs.hashed('a fox')}, seen, 20, 3, count))
    assert kept == [(pair[0].strip(), pair[1].strip())] * (reason == 'kept') and count == {reason: 1}


def test_of_a_pair_that_stands_twice_one_is_kept():
    count = Counter()
    assert list(pairs.clean([('a', 'b'), ('a', 'b '), ('a', 'c'), ('a', 'b')], set(), set(), 9, 9, count)) \
        == [('a', 'b'), ('a', 'c')]
    assert count == {'kept': 2, 'duplicate': 2}


SENTENCES = [(f'sentence {i // 3 * 7919 % 1000}', f'phrase {i}') for i in range(900)]    # 300 different ones


@pytest.mark.parametrize('val, test, n', [
    (0.1, 0.2, (30, 60)), (5, 10, (5, 10)), (1, 0, (1, 0)), (0, 0, (0, 0)), (1e-9, 298, (1, 298))])
def test_a_source_sentence_stands_on_one_side_only(tmp_path, val, test, n):
    files = [both(tmp_path / 'a', SENTENCES[:400]),
             both(tmp_path / 'b', [*SENTENCES[400:], ('', 'x'), ('y', ' ')])]
    splits = pairs.draw(files, val, test)
    assert list(splits) == [split for split, of in zip(('val', 'test'), n) if of]
    drawn = [{src for src, _ in splits.get(split, [])} for split in ('val', 'test')]
    assert tuple(map(len, drawn)) == n and not drawn[0] & drawn[1]
    for split, sources in zip(('val', 'test'), drawn):      # all pairs of a sentence, in their order
        assert splits.get(split, []) == [pair for pair in SENTENCES if pair[0] in sources]
    backwards = pairs.draw([both(tmp_path / 'c', SENTENCES[::-1])], val, test)
    assert backwards == {split: of[::-1] for split, of in splits.items()}


@pytest.mark.parametrize('val, test', [(300, 0), (150, 150), (-1, 0), (0.1, -0.1), (0.5, 0.5)])
def test_a_draw_that_leaves_no_train_is_refused(tmp_path, val, test):
    with pytest.raises(Refused, match=f'val={val:g} and test={test:g}: .* of 300 source sentences'):
        pairs.draw([both(tmp_path / 'a', SENTENCES)], val, test)


# --- saving

def test_ids_decode_to_the_very_text(tmp_path):
    easy, nasty = [('the cat', 'the hat')] * 2, list(zip(NASTY, NASTY[::-1]))
    tok = bpe.train(['the cat', 'the hat'] * 3, 262)
    pairs.save(str(tmp_path / 'x'), {'train': iter(easy), 'val': nasty}, tok, ['en', 'fr'])
    assert texts(tmp_path / 'x', 'train') == easy and texts(tmp_path / 'x', 'val') == nasty
    assert rows(tmp_path / 'x', 'train')[0][0][0] == [*tok.encode('the cat'), 1]
    info = data.check(str(tmp_path / 'x'))['info']
    assert info == {'vocab_size': 262, 'languages': ['en', 'fr'], 'too_long': 'drop'}
    batch = data.Split(str(tmp_path / 'x'), 'val', ['src', 'tgt'], 64).batch(np.array([0, 5]))
    assert batch['src'].tolist()[0] == [1] + [0] * (batch['src'].shape[1] - 1)


def test_millions_of_ids_are_arrays_not_objects():
    small, large = pairs.Rows(2**16), pairs.Rows(2**16 + 1)
    for made in small, large:
        made.append([2, 65535, 1]), made.append([1])
        assert [row.tolist() for row in made] == [[2, 65535, 1], [1]] and len(made) == 2
    assert (small.flat.itemsize, large.flat.itemsize) == (2, 4)


# --- Multi30k

NAMES = {'train': 'train', 'val': 'val', 'test': 'test_2016_flickr', 'test2017': 'test_2017_flickr'}
CAPTIONS = {'train': [(f'A man holds {i} apples. ', f'Un homme tient {i} pommes.') for i in range(50)],
            'val': [('A zzyzzx dog', 'Un chien\u202f!')] * 30, 'test': list(zip(NASTY, NASTY[::-1])),
            'test2017': [('Two cats', 'Deux chats'), ('A man holds 7 apples. ', 'Un homme tient 7 pommes.')]}


def multi30k(captions):
    return {f'multi30k/{NAMES[split]}.{side}.gz': gzip.compress(body(lines), mtime=0)
            for split, of in captions.items() for side, lines in zip(('en', 'fr'), zip(*of))}


def test_multi30k_is_kept_as_published(prepare, tmp_path):
    text = prepare('multi30k', multi30k(CAPTIONS))
    assert {split: texts(tmp_path / 'out', split) for split in CAPTIONS} == CAPTIONS
    assert '50 train + 30 val + 8 test + 2 test2017 pairs' in text
    assert '0 of val, 0 of test, 1 of test2017 are in train as well' in text
    meta, found = data.check(str(tmp_path / 'out')), rows(tmp_path / 'out', 'train')[0]
    mean = [sum(map(len, side)) / 50 for side in zip(*found)]
    types = len({i for pair in found for ids in pair for i in ids} - {1})
    assert f'has {mean[0]:.1f} en + {mean[1]:.1f} fr tokens' in text
    assert f'{types} of {meta["info"]["vocab_size"]} types' in text
    assert meta['options'] == {'vocab_size': 300} and len(meta['source']) == 8
    assert meta['source'][0]['url'].endswith('/task1/raw/train.en.gz')
    prepare('multi30k', multi30k(CAPTIONS), out='again')
    assert (tmp_path / 'out/meta.json').read_bytes() == (tmp_path / 'again/meta.json').read_bytes()


def test_byte_pairs_are_learnt_on_train_alone(prepare, tmp_path):
    prepare('multi30k', multi30k(CAPTIONS))
    learnt = data.check(str(tmp_path / 'out'))['tokenizer']
    assert learnt == bpe.train([side for pair in CAPTIONS['train'] for side in pair], 300).json()
    assert 'apples' in learnt['merges'] and 'pommes' in learnt['merges'] and 'zzy' not in learnt['merges']


def test_unequal_files_end_multi30k(prepare):
    files = multi30k(CAPTIONS) | {'multi30k/val.fr.gz': gzip.compress(b'Un chien\n')}
    assert re.search('val.en.gz has 30 lines, .*val.fr.gz has 1 lines', prepare('multi30k', files, code=3))


# --- WMT

def tgz(members):
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode='w:gz', compresslevel=1) as tar:
        for name, text in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return blob.getvalue()


def sgm(kind, segments):
    lines = [f'<seg id="{i}">{segment}</seg>' for i, segment in enumerate(segments)]
    return body([f'<{kind} setid="x">', '<doc docid="1">', '<hl>', *lines, '</hl>', '</doc>', f'</{kind}>'])


NEWS = ['news-test2008', 'newssyscomb2009', *(f'newstest{year}' for year in range(2009, 2014))]
VAL = [(f'val {i}', f'valide {i}') for i in range(3000)]
TEST = [('AT&amp;T &lt;3 &quot;x&quot;', 'l&apos;été &#233;'),
        *((f'test {i} ', f' teste {i}') for i in range(3002))]
EUROPARL = [('Resumption', 'Reprise'), ('', 'vide'), ('val 17', 'leak'), ('test 5', 'leak'), ('a', 'b' * 400),
            ('Resumption', 'Reprise'), ('c' * 501, 'd' * 501),
            *((f'debate {i}', f'débat {i}') for i in range(40))]
TATOEBA = [(f'Go {i // 2}.', f'Va {i} !') for i in range(200)]
COLUMNS = ''.join(f'{en}\t{fr}' + '\tCC-BY 2.0' * (i % 2) + '\n' for i, (en, fr) in enumerate(TATOEBA))


def wmt(val=VAL, test=TEST, tatoeba=COLUMNS.encode(), europarl=EUROPARL):
    """A mirror: each newstest but that of 2013 has one pair, 'newstest2009', 'NEWSTEST2009'."""
    news = {name: [(name, name.upper())] for name in NEWS} | {'newstest2013': val}
    dev = {f'dev/{name}.{side}': body(lines) for name, of in news.items()
           for side, lines in zip(('fr', 'en'), [*zip(*of)][::-1])}
    en, fr = zip(*test)
    sgms = {'ref.en': sgm('refset', ['no'] * 3003), 'ref.fr': sgm('refset', fr), 'src.en': sgm('srcset', en),
            'src.fr': sgm('srcset', ['non'] * 3003)}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, 'w') as archive:
        archive.writestr('_about.txt', 'no'), archive.writestr('fra.txt', tatoeba)
    sgms = {f'test-full/newstest2014-fren-{name}.sgm': text for name, text in sgms.items()}
    sides = zip(('en', 'fr'), zip(*europarl))
    return {'wmt_enfr/dev.tgz': tgz(dev), 'tatoeba/fra-eng.zip': packed.getvalue(),
            'wmt_enfr/test-full.tgz': tgz(sgms),
            'wmt_enfr/training-parallel-europarl-v7.tgz': tgz(
                {f'training/europarl-v7.fr-en.{side}': body(lines) for side, lines in sides})}


def test_wmt_is_cleaned_counted_and_held_out(prepare, tmp_path):
    text = prepare('wmt_enfr', wmt(), '--corpora=europarl,newstest,tatoeba', '--val=7', '--test=0.1')
    out = tmp_path / 'out'
    assert texts(out, 'val') == VAL
    assert texts(out, 'test') == [('AT&T <3 "x"', "l'été é"), *TEST[1:]]
    held = texts(out, 'tatoeba_val') + texts(out, 'tatoeba_test')
    assert [len({en for en, _ in texts(out, f'tatoeba_{split}')}) for split in ('val', 'test')] == [7, 10]
    train = texts(out, 'train')
    assert len(held) == 34 and sorted(held + [pair for pair in train if pair in TATOEBA]) == sorted(TATOEBA)
    assert train == [EUROPARL[0], *EUROPARL[7:], *((name, name.upper()) for name in sorted(NEWS[:-1])),
                     *(pair for pair in TATOEBA if pair not in held)]
    cleaning = data.check(str(out))['info']['cleaning']
    assert cleaning == {'europarl': {'kept': 41, 'empty': 1, 'in val or test': 2, 'unlike in length': 1,
                                     'duplicate': 1, 'too long': 1},
                        'newstest': {'kept': 6}, 'tatoeba': {'kept': 166, 'in val or test': 34}}
    assert 'europarl: 47 pairs; 41 kept, 2 in val or test, 1 empty, 1 unlike in length, 1 dup' in text
    assert '213 train + 3,000 val + 3,003 test + 14 tatoeba_val + 20 tatoeba_test pairs' in text
    meta = data.check(str(out))
    assert meta['tokenizer'] == bpe.train([side for pair in train for side in pair], 300).json()
    assert meta['options'] == {'corpora': 'europarl,newstest,tatoeba', 'pairs': '', 'val': 7, 'test': 0.1,
                               'vocab_size': 300, 'max_length': 500, 'max_ratio': 3.0}
    assert [source['url'].rsplit('/', 1)[1] for source in meta['source']] == [
        'training-parallel-europarl-v7.tgz', 'dev.tgz', 'fra-eng.zip', 'test-full.tgz']


def test_tatoeba_alone_is_its_own_val_and_test(prepare, tmp_path):
    for out in 'out', 'again':
        prepare('wmt_enfr', wmt(), '--corpora=tatoeba', '--val=0.1', '--test=0.1', out=out)
    splits = {split: texts(tmp_path / 'out', split) for split in data.check(f'{tmp_path}/out')['splits']}
    assert {split: len(of) for split, of in splits.items()} == {'train': 160, 'val': 20, 'test': 20}
    assert sorted(sum(splits.values(), [])) == sorted(TATOEBA)
    assert (tmp_path / 'out/meta.json').read_bytes() == (tmp_path / 'again/meta.json').read_bytes()


@pytest.mark.parametrize('corpora', ['europarl,commentary', 'crawl', ''])
def test_a_corpus_that_cannot_be_had_is_an_error(prepare, corpora):
    text = prepare('wmt_enfr', wmt(), *[f'--corpora={corpora}'] * bool(corpora), code=3)
    name = 'training-parallel-commoncrawl.tgz' if corpora == 'crawl' else 'training-parallel-nc-v9.tgz'
    assert f'wmt_enfr/{name} could not be obtained' in text and 'Three ways out' in text


@pytest.mark.parametrize('corpora', ['', 'europarl,', 'europal', 'newstest2013', 'europarl tatoeba',
                                     'tatoeba,tatoeba'])
def test_a_corpus_that_is_none_is_refused(prepare, corpora):
    text = prepare('wmt_enfr', {}, f'--corpora={corpora}', code=2)
    assert f'--corpora={corpora}: expected some of europarl,commentary' in text


@pytest.mark.parametrize('argv, words', [
    (['--pairs=a.en,b.fr', '--corpora=tatoeba'], 'corpora: of no use with --pairs=a.en,b.fr'),
    (['--corpora=newstest', '--val=0.5'], 'val: of no use with --corpora=newstest')])
def test_options_of_no_use_are_refused(prepare, argv, words):
    assert words in prepare('wmt_enfr', {}, *argv, code=2)


@pytest.mark.parametrize('changed, words', [
    ({'val': VAL[1:]}, 'val: expected 3,000 pairs, found 2,999'),
    ({'test': TEST + TEST[:1]}, 'test: expected 3,003 pairs, found 3,004'),
    ({'tatoeba': b'Go.\tVa !\nRun\n'}, 'fra.txt: line 2: expected English TAB French'),
    ({'tatoeba': b'Go.\tVa !\nRun\tCours\xe9\n'}, 'tatoeba.fr: line 2: expected UTF-8 text, found byte 0xe9'),
    ({'europarl': [('\x85', 'x'), ('a', '')]}, 'no pair is left for train')])
def test_other_archives_than_the_published_are_refused(prepare, changed, words):
    corpora = 'europarl' if 'europarl' in changed else 'newstest,tatoeba'
    assert words in prepare('wmt_enfr', wmt(**changed), f'--corpora={corpora}', code=3)


# --- one's own

def test_own_pairs_in_any_two_languages(prepare, tmp_path):
    own = [('', 'leer'), *((f'sentence {i}', f'Satz {i}') for i in range(200))]
    en, de = (body(lines) for lines in zip(*own))
    (tmp_path / 'my.en').write_bytes(en.replace(b'\n', b'\r\n'))
    (tmp_path / 'my.de.gz').write_bytes(gzip.compress(de))
    text = prepare('wmt_enfr', {}, f'--pairs={tmp_path}/my.en,{tmp_path}/my.de.gz', '--val=10', '--test=0')
    meta = data.check(f'{tmp_path}/out')
    assert meta['info']['languages'] == ['en', 'de'] and list(meta['splits']) == ['train', 'val']
    assert sorted(texts(tmp_path / 'out', 'train') + texts(tmp_path / 'out', 'val')) == sorted(own[1:])
    assert 'pairs: 201 pairs; 190 kept, 10 in val or test, 1 empty' in text
    assert [source['sha256'] for source in meta['source']] == [
        data.digest(tmp_path / 'my.en'), data.digest(tmp_path / 'my.de.gz')]


def test_mistakes_with_own_pairs_are_told(prepare, tmp_path):
    en, fr = both(tmp_path / 'my', SENTENCES)
    for argv, code, words in [
            ([f'--pairs={en}'], 2, 'expected two files, SOURCE,TARGET'),
            ([f'--pairs={en},{fr}', '--out=wmt_enfr'], 2, 'a new name'),
            ([f'--pairs={en},{fr}', '--out=multi30k'], 2, 'a new name'),
            ([f'--pairs={en},{fr}', '--val=300'], 2, 'of 300 source sentences'),
            ([f'--pairs={en},{fr}', '--vocab_size=200'], 2, 'vocab_size=200: expected at least 258'),
            ([f'--pairs={en},{fr}', '--max_length=3'], 3, 'no pair is left for train'),
            ([f'--pairs={en},{tmp_path}/none.fr'], 3, 'none.fr: No such file')]:
        assert words in prepare('wmt_enfr', {}, *argv, code=code)


# --- the real ones

@real
def test_the_real_multi30k(tmp_path, launch):
    code, text = launch('data/multi30k/prepare.py', f'--out={tmp_path}/out',
                        env={'PATCH': 'test_pictures.elsewhere', 'ELSEWHERE': str(tmp_path)})
    assert code == 0 and '29,000 train + 1,014 val + 1,000 test + 1,000 test2017 pairs' in text, text
    assert '1 of val, 0 of test, 0 of test2017 are in train as well' in text
    for split, name in NAMES.items():
        for side, lines in zip(('en', 'fr'), zip(*texts(tmp_path / 'out', split))):
            raw = tmp_path / f'data/multi30k/raw/{name}.{side}.gz'
            assert body(lines) == gzip.decompress(raw.read_bytes())


@real
def test_the_real_newstest2014(tmp_path, launch):
    argv = f'--out={tmp_path}/out', '--corpora=newstest', '--vocab_size=2000'
    code, text = launch('data/wmt_enfr/prepare.py', *argv,
                        env={'PATCH': 'test_pictures.elsewhere', 'ELSEWHERE': str(tmp_path)})
    assert code == 0 and '+ 3,000 val + 3,003 test pairs' in text and 'newstest: 13,573 pairs' in text, text
    assert texts(tmp_path / 'out', 'test')[0] == ('Spectacular Wingsuit Jump Over Bogota',
                                                  'Spectaculaire saut en "wingsuit" au-dessus de Bogota')
    sources = {src for src, _ in texts(tmp_path / 'out', 'val') + texts(tmp_path / 'out', 'test')}
    assert not sources & {src for src, _ in texts(tmp_path / 'out', 'train')}
