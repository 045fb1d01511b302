"""data/multi30k and data/wmt_enfr: what is kept, held out and left out, from archives made here."""
import gzip
import io
import re
import tarfile
import zipfile

import pytest

import data
from data import bpe
from mirror import prepare, prepare_real, real
from models import transformer
from sampling import save_run
from test_pairs import NASTY, SENTENCES, body, read_ids, read_texts, write_both


# --- Multi30k

SMALL = '--vocab_size=300'
NAMES = {'train': 'train', 'val': 'val', 'test': 'test_2016_flickr', 'test2017': 'test_2017_flickr'}
CAPTIONS = {'train': [(f'A man holds {i} apples. ', f'Un homme tient {i} pommes.') for i in range(50)],
            'val': [('A zzyzzx dog', 'Un chien\u202f!')] * 30, 'test': list(zip(NASTY, NASTY[::-1])),
            'test2017': [('Two cats', 'Deux chats'), ('A man holds 7 apples. ', 'Un homme tient 7 pommes.')]}


def multi30k(captions):
    return {f'multi30k/{NAMES[split]}.{side}.gz': gzip.compress(body(lines), mtime=0)
            for split, of in captions.items() for side, lines in zip(('en', 'fr'), zip(*of))}


def test_multi30k_is_kept_as_published(prepare, tmp_path):
    text = prepare('multi30k', multi30k(CAPTIONS), SMALL)
    assert {split: read_texts(tmp_path / 'out', split) for split in CAPTIONS} == CAPTIONS
    assert '50 train + 30 val + 8 test + 2 test2017 pairs' in text
    assert '0 of val, 0 of test, 1 of test2017 are in train as well' in text
    meta, found = data.check(str(tmp_path / 'out')), read_ids(tmp_path / 'out', 'train')[0]
    mean = [sum(map(len, side)) / 50 for side in zip(*found)]
    entries = len({i for pair in found for ids in pair for i in ids} - {1})
    assert f'has {mean[0]:.1f} en + {mean[1]:.1f} fr tokens' in text
    assert f'{entries} of {meta["info"]["vocab_size"]} vocabulary entries' in text
    assert meta['options'] == {'vocab_size': 300, 'tokenizer': '', 'prefix': ''}
    assert len(meta['source']) == 8
    assert meta['source'][0]['url'].endswith('/task1/raw/train.en.gz')
    prepare('multi30k', multi30k(CAPTIONS), SMALL, out='again')
    assert (tmp_path / 'out/meta.json').read_bytes() == (tmp_path / 'again/meta.json').read_bytes()


def test_the_bpe_is_learned_on_train_alone(prepare, tmp_path):
    prepare('multi30k', multi30k(CAPTIONS), SMALL)
    learned = data.check(str(tmp_path / 'out'))['tokenizer']
    assert learned == bpe.train([side for pair in CAPTIONS['train'] for side in pair], 300).json()
    assert 'apples' in learned['merges'] and 'pommes' in learned['merges'] and 'zzy' not in learned['merges']


def test_files_of_unequal_length_are_an_error(prepare):
    files = multi30k(CAPTIONS) | {'multi30k/val.fr.gz': gzip.compress(b'Un chien\n')}
    text = prepare('multi30k', files, SMALL, code=3)
    assert re.search('val.en.gz has 30 lines, .*val.fr.gz has 1 lines', text)


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
    text = prepare('wmt_enfr', wmt(), SMALL, '--corpora=europarl,newstest,tatoeba', '--val=7', '--test=0.1')
    out = tmp_path / 'out'
    assert read_texts(out, 'val') == VAL
    assert read_texts(out, 'test') == [('AT&T <3 "x"', "l'été é"), *TEST[1:]]
    held = read_texts(out, 'tatoeba_val') + read_texts(out, 'tatoeba_test')
    for split, n in ('tatoeba_val', 7), ('tatoeba_test', 10):
        assert len({en for en, _ in read_texts(out, split)}) == n
    train = read_texts(out, 'train')
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
                               'vocab_size': 300, 'max_length': 500, 'max_ratio': 3.0, 'tokenizer': ''}
    assert [source['url'].rsplit('/', 1)[1] for source in meta['source']] == [
        'training-parallel-europarl-v7.tgz', 'dev.tgz', 'fra-eng.zip', 'test-full.tgz']


def test_tatoeba_alone_is_its_own_val_and_test(prepare, tmp_path):
    for out in 'out', 'again':
        prepare('wmt_enfr', wmt(), SMALL, '--corpora=tatoeba', '--val=0.1', '--test=0.1', out=out)
    splits = {split: read_texts(tmp_path / 'out', split) for split in data.check(f'{tmp_path}/out')['splits']}
    assert {split: len(of) for split, of in splits.items()} == {'train': 160, 'val': 20, 'test': 20}
    assert sorted(sum(splits.values(), [])) == sorted(TATOEBA)
    assert (tmp_path / 'out/meta.json').read_bytes() == (tmp_path / 'again/meta.json').read_bytes()


@pytest.mark.parametrize('corpora', ['europarl,commentary', 'crawl', ''])
def test_a_corpus_that_cannot_be_had_is_an_error(prepare, corpora):
    text = prepare('wmt_enfr', wmt(), SMALL, *[f'--corpora={corpora}'] * bool(corpora), code=3)
    name = 'training-parallel-commoncrawl.tgz' if corpora == 'crawl' else 'training-parallel-nc-v9.tgz'
    assert f'wmt_enfr/{name} could not be obtained' in text and 'Three ways out' in text


@pytest.mark.parametrize('corpora', ['', 'europarl,', 'europal', 'newstest2013', 'europarl tatoeba',
                                     'tatoeba,tatoeba'])
def test_an_unknown_corpus_is_an_error(prepare, corpora):
    text = prepare('wmt_enfr', {}, SMALL, f'--corpora={corpora}', code=2)
    assert f'--corpora={corpora}: expected some of europarl,commentary' in text


@pytest.mark.parametrize('argv, words', [
    (['--pairs=a.en,b.fr', '--corpora=tatoeba'], 'corpora: without effect beside --pairs=a.en,b.fr'),
    (['--tokenizer=multi30k'], 'vocab_size: without effect beside --tokenizer=multi30k'),
    (['--corpora=newstest', '--val=0.5'], 'val: without effect beside --corpora=newstest')])
def test_options_without_effect_are_an_error(prepare, argv, words):
    assert words in prepare('wmt_enfr', {}, SMALL, *argv, code=2)


@pytest.mark.parametrize('changed, words', [
    ({'val': VAL[1:]}, 'val: expected 3,000 pairs, found 2,999'),
    ({'test': TEST + TEST[:1]}, 'test: expected 3,003 pairs, found 3,004'),
    ({'tatoeba': b'Go.\tVa !\nRun\n'}, 'fra.txt: line 2: expected SOURCE TAB TARGET, found 1 column'),
    ({'tatoeba': b'Go.\tVa !\nRun\tCours\xe9\n'}, 'fra.txt: line 2: expected UTF-8 text, found byte 0xe9'),
    ({'europarl': [('\x85', 'x'), ('a', '')]}, 'no pair is left for train')])
def test_other_archives_than_the_published_ones_are_an_error(prepare, changed, words):
    corpora = 'europarl' if 'europarl' in changed else 'newstest,tatoeba'
    assert words in prepare('wmt_enfr', wmt(**changed), SMALL, f'--corpora={corpora}', code=3)


# --- one's own

def test_own_pairs_in_any_two_languages(prepare, tmp_path):
    own = [('', 'leer'), *((f'sentence {i}', f'Satz {i}') for i in range(200))]
    en, de = (body(lines) for lines in zip(*own))
    (tmp_path / 'my.en').write_bytes(en.replace(b'\n', b'\r\n'))
    (tmp_path / 'my.de.gz').write_bytes(gzip.compress(de))
    files = f'{tmp_path}/my.en,{tmp_path}/my.de.gz'
    text = prepare('wmt_enfr', {}, SMALL, f'--pairs={files}', '--val=10', '--test=0')
    meta = data.check(f'{tmp_path}/out')
    assert meta['info']['languages'] == ['en', 'de'] and list(meta['splits']) == ['train', 'val']
    found = read_texts(tmp_path / 'out', 'train') + read_texts(tmp_path / 'out', 'val')
    assert sorted(found) == sorted(own[1:])
    assert 'pairs: 201 pairs; 190 kept, 10 in val or test, 1 empty' in text
    assert [source['sha256'] for source in meta['source']] == [
        data.file_hash(tmp_path / 'my.en'), data.file_hash(tmp_path / 'my.de.gz')]


def test_mistakes_with_own_pairs_are_errors(prepare, tmp_path):
    en, fr = write_both(tmp_path / 'my', SENTENCES)
    (tmp_path / 'data/multi30k').mkdir(parents=True)
    (tmp_path / 'data/multi30k/prepare.py').touch()         # the name of a data set that is not one's own
    for argv, code, message in [
            ([f'--pairs={en}'], 3, 'my.en: line 1: expected SOURCE TAB TARGET, found 1 column'),
            ([f'--pairs={en},{fr},{fr}'], 2, 'expected two files, SOURCE,TARGET'),
            (['--pairs=none.tsv'], 3, 'none.tsv: No such file'),
            ([f'--pairs={en},{fr}', '--out=wmt_enfr'], 2, 'a new name'),
            ([f'--pairs={en},{fr}', '--out=multi30k'], 2, 'a new name'),
            ([f'--pairs={en},{fr}', '--val=300'], 2, 'of 300 source sentences'),
            ([f'--pairs={en},{fr}', '--vocab_size=200'], 2, 'vocab_size=200: expected at least 258'),
            ([f'--pairs={en},{fr}', '--max_length=3'], 3, 'no pair is left for train'),
            ([f'--pairs={en},{tmp_path}/none.fr'], 3, 'none.fr: No such file')]:
        assert message in prepare('wmt_enfr', {}, SMALL, *argv, code=code)


def test_own_pairs_may_be_one_file_of_two_columns_and_names_may_have_commas(prepare, tmp_path):
    own = [(f'word {i}', f'mot {i}') for i in range(90)]
    en, fr = write_both(tmp_path / 'a, b', own)
    (tmp_path / 'c, d.tsv').write_bytes(body([f'{src}\t{tgt}' for src, tgt in own]))
    for files in f'{en},{fr}', f'{tmp_path}/c, d.tsv':
        text = prepare('wmt_enfr', {}, SMALL, f'--pairs={files}', '--val=10')
        assert "the first pair: 'word 0', 'mot 0'\n" in text
        found = [read_texts(tmp_path / 'out', split) for split in ('train', 'val', 'test')]
        assert sorted(sum(found, [])) == sorted(own)


def test_own_pairs_take_the_byte_pairs_of_a_data_set_or_of_a_run(prepare, tmp_path):
    write_both(tmp_path / 'a', [(f'the hare {i}', f'le lièvre {i}') for i in range(90)])
    en, fr = write_both(tmp_path / 'b', [(f'a tortoise {i}', f'une tortue {i}') for i in range(50)])
    prepare('wmt_enfr', {}, '--vocab_size=270', f'--pairs={tmp_path}/a.en,{tmp_path}/a.fr', out='first')
    first = data.check(f'{tmp_path}/first')
    config = transformer.Config(vocab_size=first['info']['vocab_size'], block_size=8, n_layer=1, n_head=1,
                                n_embd=4, n_hidden=4)
    save_run(tmp_path / 'run', 'transformer', transformer.Model(config), tmp_path / 'first')
    for source in 'first', 'run', 'run/best.pt':
        prepare('wmt_enfr', {}, f'--pairs={en},{fr}', f'--tokenizer={tmp_path}/{source}', '--val=5')
        found = data.check(f'{tmp_path}/out')
        assert found['tokenizer'] == first['tokenizer']
        assert found['info']['vocab_size'] == first['info']['vocab_size']
        assert found['info']['cleaning']['pairs']['kept'] == len(read_texts(tmp_path / 'out', 'train'))
        assert ('a tortoise 7', 'une tortue 7') in sum(
            [read_texts(tmp_path / 'out', split) for split in ('train', 'val', 'test')], [])
    prepare('shakespeare', {'shakespeare/input.txt': b'To be, or not to be.\n' * 9}, out='text')
    argv = f'--pairs={en},{fr}', f'--tokenizer={tmp_path}/text', '--vocab_size=16_000'
    assert 'expected a BPE' in prepare('wmt_enfr', {}, *argv[:2], code=2, out='x')
    text = prepare('wmt_enfr', {}, argv[0], '--tokenizer=mine', code=2, out='x')
    assert 'mine: there is no such data set, run' in text
    assert 'vocab_size: without effect' in prepare('wmt_enfr', {}, *argv, code=2, out='x')


def test_a_filter_that_drops_much_is_named_with_an_option_that_helps(prepare, tmp_path):
    own = [(f'the number is {i}, and nothing but this {i}', f'{i}') for i in range(100, 190)]
    en, fr = write_both(tmp_path / 'my', own)
    argv = [f'--pairs={en},{fr}', '--val=5', '--test=5']
    text = prepare('wmt_enfr', {}, SMALL, *argv, code=3)
    assert 'no pair is left for train' in text and 'occurs twice' not in text
    assert '100% are unlike in length, by max_ratio 3; to keep more of them: --max_ratio=9' in text
    text = prepare('wmt_enfr', {}, SMALL, *argv, '--max_ratio=27', '--max_length=40', code=3)
    assert '--max_length=120' in text
    text = prepare('wmt_enfr', {}, SMALL, *argv, '--max_ratio=27')
    assert '80 kept' in text and 'to keep more' not in text


# --- the real ones

@real
def test_the_real_multi30k(prepare_real, tmp_path):
    text = prepare_real('multi30k')
    assert '29,000 train + 1,014 val + 1,000 test + 1,000 test2017 pairs' in text
    assert '1 of val, 0 of test, 0 of test2017 are in train as well' in text
    for split, name in NAMES.items():
        for side, lines in zip(('en', 'fr'), zip(*read_texts(tmp_path / 'out', split))):
            raw = tmp_path / f'data/multi30k/raw/{name}.{side}.gz'
            assert body(lines) == gzip.decompress(raw.read_bytes())


@real
def test_the_real_newstest2014(prepare_real, tmp_path):
    text = prepare_real('wmt_enfr', '--corpora=newstest', '--vocab_size=2000')
    assert '+ 3,000 val + 3,003 test pairs' in text and 'newstest: 13,573 pairs' in text
    assert read_texts(tmp_path / 'out', 'test')[0] == (
        'Spectacular Wingsuit Jump Over Bogota', 'Spectaculaire saut en "wingsuit" au-dessus de Bogota')
    sources = {src for src, _ in read_texts(tmp_path / 'out', 'val') + read_texts(tmp_path / 'out', 'test')}
    assert not sources & {src for src, _ in read_texts(tmp_path / 'out', 'train')}
